"""Groups, bought categories, sums without masks, and what a coordinator can read off a message."""

import numpy as np
import pytest
import torch

from privae import VAE, Training
from privae.attacks import inversion, transcripts
from privae.attacks.inversion import inversion_of
from privae.ckks.summation import Party
from privae.cli.telling import federation_text
from privae.data.images import ImageSchema
from privae.errors import PrivacyRefused, ProtocolError, UsageError
from privae.federated import messages
from privae.federated.chain import check_texts
from privae.federated.fit import Texts, wired
from privae.models.likelihoods import Bernoulli
from privae.privacy.guarantee import rounded_up
from privae.privacy.mechanism import for_gradients
from privae.privacy.noise import NoiseSource
from privae.recipes import gradients, image
from privae.recipes.target import target_of
from privae.training.loop import Local
from privae.transport.simulate import assemble, parted, run, simulate


def fitted(terms, records, split="even"):
    schema = terms.study({n: n for n in terms.sites}, "the coordinator").schema_of
    return simulate(terms, parted(records, tuple(terms.sites), split, schema))


def test_a_median_of_groups_shrugs_off_a_site_that_sends_nonsense(room, digits, monkeypatch) -> None:
    """Of three groups of two, one site sends a million times what it should; masked sums of groups, then a median."""
    from privae.federated import site

    records, own = digits(3000), site.noised
    made = {}
    for bad in (False, True):
        terms = room(epsilon=float("inf"), images=True, count=5, min_sites=2, groups=2)
        six = terms.model_copy(update={"sites": {**terms.sites, "fuchs": ""}, "groups": 3})
        schema = six.study({n: n for n in six.sites}, "b").schema_of
        study = assemble(six, parted(records, tuple(six.sites), "even", schema))

        def answered(name, message, study=study, bad=bad):
            factor = 1000 if bad and name == "bion" else 1
            monkeypatch.setattr(site, "noised", lambda ask, share, coins: factor * own(ask, share, coins))
            return study.sites[name].answer(message)

        run(study.coordinator, answered)
        assert all(len(step.sites) == 6 for step in study.coordinator.steps if step.kind == "sum")
        made[bad] = study.coordinator.fitted.model.state()
    assert all(tensor.isfinite().all() for tensor in made[True].values())
    shares = made[True]["prior.weights"], made[False]["prior.weights"]
    assert torch.allclose(*shares, atol=0.05)


def test_categories_are_bought_together_and_rare_ones_stay_unknown(agreed, tiny, people, facts) -> None:
    frame = people(3000)
    frame["job"] = frame["job"].astype(object)
    frame.loc[0, "job"] = "astronaut"
    text = facts.dumps().replace('categories = ["nurse", "cook"]', 'categories = "bought"')
    terms = agreed(VAE(5.0, 1e-5, 3000, schema=type(facts).loads(text)), "abc")
    found = fitted(terms, (frame, None))
    assert found.coordinator.steps[0].kind == "texts"
    (job,) = [column for column in found.coordinator.fitted.schema.columns if column.name == "job"]
    assert set(job.categories) == {"nurse", "cook"}


def test_without_masks_every_sum_has_all_of_the_noise_of_every_site(room, digits) -> None:
    found = fitted(room(images=True, count=3, masking=False), digits(3000))
    assert found.coordinator.done
    assert found.study.facts(found.coordinator.plan, "")["noise_over_central"] == pytest.approx(np.sqrt(3))


def test_words_of_four_bytes_hold_the_sums_that_declared_rows_make_likely() -> None:
    planned = for_gradients(1.0, 1.2, 650_000, 0.001)
    mechanism, word = wired(planned, 650_000, 600.0)
    assert word == 4
    assert mechanism.event() == planned.event()
    assert mechanism.rounding <= 0.011
    assert (600 * 4 + 12) * mechanism.clip_norm < 2**31 * mechanism.grid
    assert wired(for_gradients(1.0, 1.2, 650_000, 0.001), 650_000, 1e9)[1] == 8
    exact, word = wired(for_gradients(1.0, 0.0, 10, 0.0), 10, 600.0)
    assert (exact.noise_multiplier, word) == (0.0, 8)


def test_a_plan_that_trains_everything_is_refused_where_the_decoder_alone_is_shared(agreed, facts) -> None:
    training = Training(latent=2, hidden=(8,), steps=3)
    terms = agreed(VAE(float("inf"), 1e-5, 600, schema=facts, fidelity=True, training=training), "ab")
    with pytest.raises(PrivacyRefused, match="decoder only"):
        terms.study({"a": "x", "b": "y"}, "z")
    everything = terms.model_copy(update={"share": "all"})
    assert everything.study({"a": "x", "b": "y"}, "z").share == "all"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"min_sites": 5}, "min_sites"),
        ({"dropouts": 3, "min_sites": 2}, "vanish"),
        ({"colluders": 4, "min_sites": 2}, "vanish"),
        ({"groups": 3}, "each group at least 2"),
        ({"sites": {"a": ""}}, "2 to 64 sites"),
    ],
)
def test_terms_that_cannot_hold_are_refused_in_one_line(room, change, reason) -> None:
    terms = room(images=True, count=4).model_copy(update=change)
    with pytest.raises(UsageError, match=reason):
        terms.study({n: n for n in terms.sites}, "b")


def test_plain_gradients_give_records_away_and_masked_or_encrypted_ones_do_not() -> None:
    training = Training(latent=2, hidden=(300,))
    network = gradients.default_network(36, 1, training)
    rows = torch.rand(4, 36, generator=torch.Generator().manual_seed(3))
    target = target_of(network, Bernoulli(36), 2)
    plan = VAE(3.0, 1e-5, 1000, recipe="gradients", training=training).plan(ImageSchema(height=6, width=6))
    phase = plan.phases[-1]
    found = {}
    for mode in ("plain", *transcripts.HIDING):
        whose, view = transcripts.seen(mode, target, phase, NoiseSource(bytes(32)))
        found[mode] = inversion_of(whose, rows, 4, view, 0.95).value
    assert found == {"plain": 1.0, "masked": 0.0, "encrypted": 0.0}


def test_a_ciphertext_is_read_rightly_but_for_its_key(monkeypatch) -> None:
    total = torch.tensor([0.0, 1.5, -2.25, 2.0**-20, 2000.0, -2000.0])
    assert not torch.isclose(transcripts._encrypted(total, bytes(32)), total, atol=1).any()
    monkeypatch.setattr(Party, "_hidden", lambda self, random: np.zeros(6, np.uint64))
    assert transcripts._encrypted(total, bytes(32)).tolist() == total.tolist()


@pytest.mark.parametrize("wild", [{"mean": 1e9}, {"axes": 1e6}, {"spread": 1e-9}, {"mean": float("nan")}])
def test_a_coordinator_that_makes_codes_wrap_round_is_refused(wild) -> None:
    agreed = {"mean": torch.zeros(4), "axes": torch.eye(4), "spread": torch.full((4,), 2000.0)}
    agreed = {name: tensor.double() for name, tensor in agreed.items()}
    image.checked_axes(agreed, 4)
    for name, value in wild.items():
        with pytest.raises(PrivacyRefused, match="do not trust"):
            image.checked_axes({**agreed, name: torch.full_like(agreed[name], value)}, 4)
    with pytest.raises(PrivacyRefused, match="do not trust"):
        image.checked_axes(agreed, 5)


def test_an_audit_of_a_joint_model_tries_what_its_coordinator_could_have_read(
    agreed, tiny, people, facts, monkeypatch
) -> None:
    monkeypatch.setattr(transcripts, "BATCHES", 2)
    for effort in ("_STARTS", "_ROUNDS", "_PARTS"):
        monkeypatch.setattr(inversion, effort, 1)
    training = Training(latent=2, hidden=(8,), steps=2, batch=60, share="decoder")
    terms = agreed(VAE(float("inf"), 1e-5, 600, schema=facts, fidelity=True, training=training), "ab")
    frame = people(120)
    made = fitted(terms, (frame, None))
    found = transcripts.of_model(
        made.coordinator.fitted, frame, terms.plan_of(), made.study.facts(terms.plan_of(), ""), 0.95
    )
    by_mode = {finding.attack.removeprefix("transcript inversion: "): finding for finding in found}
    assert tuple(by_mode) == transcripts.modes_of({}) == ("plain", "decoder only", "masked", "noised")
    assert transcripts.modes_of({"sum": "encrypted"}) == ("plain", "decoder only", "encrypted", "noised")
    assert not by_mode["masked"].failed  # a table of few cells is guessed now and then
    assert not by_mode["decoder only"].failed  # it is no claim


@pytest.mark.parametrize("texts", [None, [1], [["a"], ["b"]], [["a", 2]], "ab", [{"a": 1}]])
def test_texts_that_are_no_list_a_column_are_refused(texts) -> None:
    with pytest.raises(ProtocolError, match="do not read"):
        check_texts(texts, Texts("categories", [["a"]]))
    check_texts([["b", "c"]], Texts("categories", [["a"]]))


def test_a_site_that_sends_no_texts_stops_nobody_else(agreed, tiny, people, facts) -> None:
    text = facts.dumps().replace('categories = ["nurse", "cook"]', 'categories = "bought"')
    schema = type(facts).loads(text)
    terms = agreed(VAE(5.0, 1e-5, 3000, schema=schema), "abc", dropouts=1)
    made = assemble(terms, parted((people(3000), None), tuple("abc"), "even", schema))

    def post(name, message):
        reply = messages.read(made.sites[name].answer(message), made.study.sites)
        fields = {**reply.fields, "texts": [7]} if name == "b" and "texts" in reply.fields else reply.fields
        return reply.reply(name, fields, reply.body).sealed(made.sites[name].own.key.sign)

    run(made.coordinator, post)
    assert made.coordinator.steps[0].sites == ("a", "c")


def test_a_person_with_records_at_several_sites_is_told_what_it_costs_them(room, digits, tmp_path) -> None:
    keys = {name: name for name in ("ares", "bion", "ceto", "doris")}, "the coordinator"
    terms = room(epsilon=2.0, images=True, sites_a_person=2)
    study, plan = terms.study(*keys), terms.plan_of()
    facts = study.facts(plan, "")
    assert facts["epsilon_for_a_person"] == pytest.approx(plan.group_epsilon(2))
    assert 2 * plan.guarantee().epsilon < facts["epsilon_for_a_person"] < 3 * plan.guarantee().epsilon
    made = fitted(terms, digits(3000))
    (tmp_path / "m.privae").write_bytes(made.coordinator.model)
    model = VAE.load(tmp_path / "m.privae")
    assert "with records at 2 sites" in str(model.guarantee)
    told = federation_text(model.federation_)
    assert f"a record at each of 2 sites: {rounded_up(facts['epsilon_for_a_person'])}" in told
    alone = room(epsilon=2.0, images=True).study(*keys)
    assert alone.facts(plan, "")["epsilon_for_a_person"] is None
    assert alone.hash != study.hash
    with pytest.raises(UsageError, match="sites_a_person"):
        room(epsilon=2.0, images=True, sites_a_person=5).study(*keys)


def test_no_person_is_counted_where_a_whole_site_is_the_unit(agreed, facts) -> None:
    training = Training(latent=2, hidden=(8,), steps=2, local=Local(steps=3))
    vae = VAE(8.0, 1e-5, 3, recipe="gradients", schema=facts, training=training)
    with pytest.raises(UsageError, match="sites_a_person is 1"):
        agreed(vae, "abc", share="all", sites_a_person=2).study({n: n for n in "abc"}, "the coordinator")


def test_thresholds_and_the_sampler_count_for_each_record_of_a_person(facts) -> None:
    text = facts.dumps().replace('categories = ["nurse", "cook"]', 'categories = "bought"')
    plan = VAE(2.0, 1e-5, 3000, schema=type(facts).loads(text)).plan()
    costs = [plan.group_epsilon(size) for size in (2, 3, 11)]
    assert plan.guarantee().epsilon < costs[0] < costs[1]
    assert costs[2] == float("inf")  # eleven thresholds of a tenth of delta each are more than delta
    assert VAE(float("inf"), 1e-5, 10, schema=facts).plan().group_epsilon(2) == float("inf")
