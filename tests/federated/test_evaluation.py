"""Several sites evaluate a released model: the counts of a central evaluation, and nothing else."""

import json

import numpy as np
import pytest

from privae import VAE
from privae.cli import main
from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.evaluate import released
from privae.federated import EVALUATED, chain
from privae.federated.study import Terms
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event
from privae.privacy.noise import NoiseSource
from privae.recipes.phases import Run
from privae.training.watch import Silent
from privae.transport import folders, kits
from privae.transport.simulate import assemble, parted, run, simulate


@pytest.fixture
def terms(tmp_path, facts, people, tiny):
    """A function of (epsilon, more): the terms of four sites that evaluate a model of people."""
    VAE(8.0, 1e-5, 600, schema=facts).fit(people(900)).save(tmp_path / "m.privae")

    def made(epsilon=2.0, **more):
        released.planned(tmp_path / "m.privae", epsilon, 1e-5, 600).save(tmp_path / "plan.toml")
        fields = {"name": "t", "plan": "plan.toml", "model": "m.privae", "colluders": 0, "min_sites": 2}
        read = Terms.model_validate({**fields, "sites": dict.fromkeys("abcd", ""), **more})
        return read.model_copy(update={"folder": tmp_path})

    return made


def test_the_counts_are_those_of_a_central_evaluation(terms, people) -> None:
    agreed, frame = terms(float("inf")), people(300, seed=3)
    made = simulate(agreed, parted((frame, None), tuple("abcd"), "ill", agreed.schema_of()))
    plan, content = agreed.plan_of(), agreed.evaluated()
    central = released.Evaluation.of(agreed.schema_of(), plan, content).fit(
        Run(plan, lambda phase, event: None, NoiseSource(), Silent()), frame
    )
    np.testing.assert_array_equal(made.coordinator.fitted.counts, central.counts)
    assert made.coordinator.fitted.counts.sum() == 300


def test_the_noise_is_planned_charged_signed_and_in_the_document(terms, people, tmp_path) -> None:
    agreed = terms(2.0, dropouts=1, colluders=1)
    made = simulate(
        agreed, parted((people(400), None), tuple("abcd"), "even", agreed.schema_of()), tmp_path / "out"
    )
    assert not (tmp_path / "out" / "model.privae").exists()
    said = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    plan = agreed.plan_of()
    assert said["noise_std"] == pytest.approx(plan.phase("scores").mechanism().std * np.sqrt(2))
    assert said["guarantee"]["epsilon"] <= 2.0
    assert said["federation"]["sites"] == list("abcd")
    verified = chain.verify(tmp_path / "out" / "ledger")
    assert [entry.phase for entry in verified.ledger.entries] == ["scores"]
    assert set(verified.ended) == set("abcd")
    for site in made.sites.values():
        assert site.own.shelf.get("evaluation.json") == made.coordinator.model


def test_a_site_scores_with_no_other_model_than_the_plan_names(terms, people, tmp_path, facts) -> None:
    agreed = terms()
    made = assemble(agreed, parted((people(200), None), tuple("abcd"), "even", agreed.schema_of()))
    VAE(8.0, 1e-5, 600, schema=facts).fit(people(100)).save(tmp_path / "other")
    lie = released.Evaluation(agreed.schema_of(), "", (tmp_path / "other").read_bytes())._model()
    coordinator = made.coordinator
    coordinator._told_first = coordinator._keep

    def keep(raw, sites, word):
        if coordinator._ask.phase == "model":
            raw = chain.encoded(coordinator._ask, lie, 0)
        return coordinator._told_first(raw, sites, word)

    coordinator._keep = keep
    with pytest.raises((ArtifactError, PrivacyRefused), match=r"by its hash|too few"):
        run(coordinator, lambda name, message: made.sites[name].answer(message))
    assert all(site.own.shelf.get("evaluation.json") is None for site in made.sites.values())


def changed(field, value):
    def change(said):
        where = said
        for name in field[:-1]:
            where = where[name]
        where[field[-1]] = value

    return change


def cheaper(said):
    """Another ledger, whole in itself."""
    other = Ledger.fresh(1e-5)
    other.spend([Charge("0" * 64, "0" * 64, "scores", Event(50.0))])
    said["ledger"] = other.dumps()


@pytest.mark.parametrize(
    "change",
    [
        changed(["figures", "auc", "True"], {"value": 0.99, "low": 0.98, "high": 1.0}),
        changed(["counts", 0, 5], 1e6),
        changed(["edges", 3], -1e6),
        changed(["model"], "0" * 64),
        changed(["noise_std"], 0.1),
        changed(["guarantee", "epsilon"], 0.1),
        changed(["federation", "sites_a_person"], 4),
        changed(["counts"], [[1.0]]),
        cheaper,
        changed(["counts"], "many"),
        lambda said: said.pop("figures"),
    ],
)
def test_nobody_signs_or_verifies_an_evaluation_that_does_not_follow_from_the_rounds(
    terms, people, tmp_path, change
) -> None:
    agreed = terms()
    parts = parted((people(200), None), tuple("abcd"), "even", agreed.schema_of())
    made = assemble(agreed, parts, tmp_path / "out")
    coordinator = made.coordinator
    finish = coordinator._finish

    def lied(fitted) -> None:
        finish(fitted)
        said = json.loads(coordinator.model)
        change(said)
        coordinator.model = json.dumps(said).encode()
        coordinator._results.put("evaluation.json", coordinator.model)
        coordinator._write_ledger({})

    coordinator._finish = lied
    run(coordinator, lambda name, message: made.sites[name].answer(message))
    assert coordinator._marks.get("end", {}) == {}
    assert all(site.own.shelf.get("evaluation.json") is None for site in made.sites.values())
    with pytest.raises(ArtifactError, match="evaluation"):
        chain.verify(tmp_path / "out" / "ledger")


def test_rounds_that_tell_of_no_edges_prove_no_evaluation(terms, people) -> None:
    agreed = terms()
    made = simulate(
        agreed, parted((people(200), None), tuple("abcd"), "even", agreed.schema_of())
    ).coordinator
    rounds = [step for step in made.steps if step.phase != "edges"], made.account.ledger
    for content in (made.model, b"[" * 100_000):
        with pytest.raises(ArtifactError, match="does not read"):
            chain.check_evaluation(made.study, made.plan, rounds, content)


def test_a_result_beside_its_ledger_is_the_one_that_was_signed(terms, people, tmp_path) -> None:
    agreed = terms()
    simulate(agreed, parted((people(200), None), tuple("abcd"), "even", agreed.schema_of()), tmp_path / "out")
    chain.verify(tmp_path / "out" / "ledger")
    path = tmp_path / "out" / "evaluation.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match="not the one that was signed"):
        chain.verify(tmp_path / "out" / "ledger")


def test_a_plan_and_a_model_that_do_not_belong_together_are_told_apart(
    terms, tmp_path, facts, people
) -> None:
    agreed, keys = terms(), ({name: name for name in "abcd"}, "the coordinator")
    assert agreed.study(*keys).schema_of.hash == VAE.load(tmp_path / "m.privae").fitted_.schema.hash
    with pytest.raises(UsageError, match="privae plan MODEL"):
        agreed.model_copy(update={"model": None, "schema_file": "facts"}).study(*keys)
    with pytest.raises(UsageError, match="one of the two"):
        agreed.model_copy(update={"model": None}).schema_of()
    VAE(2.0, 1e-5, 600, schema=facts).plan().save(tmp_path / "plan.toml")
    with pytest.raises(UsageError, match="privae plan MODEL"):
        agreed.study(*keys)


def test_the_model_lies_in_the_coordinators_kit_and_on_its_shelf(terms, tmp_path) -> None:
    pytest.importorskip("nvflare")
    terms()
    text = 'name = "t"\nplan = "plan.toml"\nmodel = "m.privae"\n[sites]\na = ""\nb = ""\nc = ""\nd = ""\n'
    (tmp_path / "study.toml").write_text(text)
    made = kits.provision(tmp_path / "study.toml", tmp_path / "kits")
    folder = folders.prepared(made.coordinator, "ab" * 32, {})
    assert (folder / "state" / EVALUATED).read_bytes() == (tmp_path / "m.privae").read_bytes()
    assert not (made.sites["a"] / "local" / EVALUATED).exists()


def test_an_evaluation_is_typed_from_plan_to_ledger(terms, people, tmp_path, monkeypatch, capsys) -> None:
    terms()
    monkeypatch.chdir(tmp_path)
    people(600).to_csv("held.csv", index=False)
    text = 'name = "t"\nplan = "e.toml"\nmodel = "m.privae"\n[sites]\na = ""\nb = ""\nc = ""\nd = ""\n'
    (tmp_path / "study.toml").write_text(text)
    said = {}

    def typed(*words, code=0):
        assert main([*words]) == code
        said[words[0]] = capsys.readouterr()
        return said[words[0]]

    told = typed("plan", "m.privae", "--epsilon", "4", "--delta", "1e-5", "--rows", "600", "-o", "e.toml").out
    assert "scores" in told
    assert "name it in a study" in told
    typed("federated", "plan", "study.toml")
    told = typed("federated", "simulate", "study.toml", "--data", "held.csv", "-o", "out", "--json").out
    found = json.loads(told)
    truth = people(600)["ill"].sum()
    assert found["figures"]["records"]["True"]["value"] == pytest.approx(truth, abs=60)
    assert found["evaluation"] == "out/evaluation.json"
    told = typed("federated", "simulate", "study.toml", "--data", "held.csv", "-o", "again").out
    assert "AUC of strangeness, True" in told
    assert "signed by 4 of 4" in typed("ledger", "verify", "out/ledger").out
    for words in (("--strict",), ("--classes", "3"), ("--fidelity",), ("--local-steps", "3")):
        told = typed("plan", "m.privae", "--epsilon", "1", *words, code=UsageError.exit_code).err
        assert f"leave out {words[0]}" in told
    assert "--epsilon has no default" in typed("plan", "m.privae", code=UsageError.exit_code).err
    fit = ("fit", "held.csv", "--schema", "m.privae", "--plan", "e.toml")
    assert typed(*fit, code=UsageError.exit_code).err.startswith("privae:")
