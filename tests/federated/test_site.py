"""What a site lets happen: its policy and its ledger come first, and it answers every sum once."""

import contextlib
import math
from types import SimpleNamespace

import numpy as np
import pytest

from privae import VAE, files
from privae.custody.keys import signing_key
from privae.errors import ArtifactError, DataError, PrivacyRefused, UsageError
from privae.federated import chain, messages
from privae.federated.fit import Sum, Wire, noised
from privae.federated.messages import COORDINATOR, REFUSED, Message
from privae.federated.policy import SitePolicy, records_of
from privae.federated.site import Own, Site
from privae.plan import MOST_NUMBERS
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event
from privae.privacy.noise import NoiseSource
from privae.recipes.gradients import Training
from privae.training.loop import Local
from privae.transport.simulate import assemble, parted, run, simulate


@pytest.fixture
def made(room, digits):
    """A function of a study's terms: all its places, on images."""

    def assembled(epsilon=5.0, **terms):
        named = room(epsilon=epsilon, images=True, **terms)
        schema = named.study({n: n for n in named.sites}, "b").schema_of
        return assemble(named, parted(digits(600), tuple(named.sites), "label", schema))

    return assembled


def publics_of(study):
    return {**study.sites, COORDINATOR: study.coordinator}


def answers(made, box=None):
    return {n: made.sites[n].answer(m) for n, m in (box or made.coordinator.outbox()).items()}


def said(made, answer):
    return messages.read(answer, made.study.sites).fields


def with_policy(made, name, ledger=None, **policy):
    own = made.sites[name].own
    changed = own.policy.model_copy(update=policy)
    made.sites[name] = Site(Own(own.study, changed, own.key, own.records, own.shelf, ledger))


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"max_epsilon": 4.9}, "max_epsilon"),
        ({"min_sites": 4}, "min_sites"),
        ({"delta": 1e-6}, "delta"),
    ],
)
def test_a_site_refuses_what_its_policy_does_not_allow_and_says_why(made, policy, reason) -> None:
    study = made(min_sites=3, count=3)
    with_policy(study, "bion", **policy)
    with pytest.raises(PrivacyRefused, match=f"bion refuses: .*{reason}"):
        run(study.coordinator, lambda name, message: study.sites[name].answer(message))
    assert not study.coordinator.steps
    assert study.sites["bion"].own.shelf.get("root") is None


def test_sums_without_masks_and_training_of_everything_are_refused_unless_allowed(made) -> None:
    study = made(masking=False, count=3)
    with_policy(study, "ares", require_masking=True)
    assert "masks" in said(study, answers(study)["ares"])["why"]
    assert SitePolicy(data="x", max_epsilon=1).allow_share == ("decoder",)


def test_the_whole_plan_is_spent_from_the_sites_own_ledger_once_a_study(made, tmp_path) -> None:
    study, path = made(count=3), tmp_path / "own"
    with_policy(study, "bion", ledger=path, max_epsilon=7.0, delta=1e-4)
    run(study.coordinator, lambda name, message: study.sites[name].answer(message))
    spent = Ledger.load(path)
    (bound,) = {entry.plan_hash for entry in spent.entries[1:]}
    assert bound == files.digest([study.study.plan, study.study.hash, "bion"])
    assert len(spent.entries) == 1 + len(study.coordinator.plan.phases)
    again = study.sites["bion"].own
    killed = Site(again)
    assert REFUSED not in said(study, killed.answer(study_opening(study)))
    assert len(Ledger.load(path).entries) == len(spent.entries)
    # who lost its secrets has other noise, which nobody was charged for
    lost = Site(Own(again.study, again.policy, again.key, again.records, files.Shelf(), path))
    assert "has left" in said(study, lost.answer(study_opening(study)))["why"]
    other = made(count=3, attempt=2)
    with_policy(other, "bion", ledger=path, max_epsilon=7.0, delta=1e-4)
    assert "has left" in said(other, answers(other)["bion"])["why"]


def study_opening(study):
    """The first message of a study, again."""
    coordinator = study.coordinator
    fields = {"plan": coordinator.plan.dumps(), "position": 0, "steps": [], "sizes": []}
    more = {"ledger": "", "due": ["sum", coordinator.plan.phases[0].name, 0]}
    message = Message(COORDINATOR, study.study.hash, 5, "open", {**fields, **more})
    return message.sealed(coordinator._key.sign)


def test_what_is_wrong_with_records_is_not_told(made) -> None:
    study = made(count=3)
    own = study.sites["ceto"].own

    def broken():
        raise DataError("row 17 holds 'Miller'")

    study.sites["ceto"] = Site(Own(own.study, own.policy, own.key, broken, own.shelf))
    assert "Miller" not in str(said(study, answers(study)["ceto"]))
    assert own.shelf.get("root") is None


def test_messages_that_do_not_hold_are_refused_and_change_nothing(made) -> None:
    study, stranger = made(count=3), made(count=3)
    box = study.coordinator.outbox()
    good = box["ares"]
    bad = {
        "foreign version": b"flower1" + good[9:],
        "cut off": good[:-5],
        "flipped": good[:200] + bytes([good[200] ^ 1]) + good[201:],
        "another study": stranger.coordinator.outbox()["ares"],
        "signed by a site": messages.read(good, publics_of(study.study))
        .reply("bion", {})
        .sealed(study.sites["bion"].own.key.sign),
        "of another query": study_opening(study),
    }
    for what, message in bad.items():
        fields = said(study, study.sites["ares"].answer(message))
        assert REFUSED in fields or "behind" in fields, what
    assert study.sites["ares"].own.shelf.get("sum") is None
    assert REFUSED not in said(study, study.sites["ares"].answer(good))


def test_a_site_opens_one_set_of_sites_only_and_contributes_once(made) -> None:
    study = made(count=4, dropouts=1)
    coordinator = study.coordinator
    for _ in range(2):
        coordinator.take(answers(study))
    shares = coordinator.outbox()
    coordinator.take(answers(study, shares))
    agree = coordinator.outbox()
    first = said(study, study.sites["ares"].answer(agree["ares"]))
    assert "signature" in first
    message = messages.read(agree["ares"], publics_of(study.study))
    fewer = {**message.fields, "members": ["ares", "bion", "ceto"]}
    forged = Message(COORDINATOR, message.context, message.query, "agree", fewer).sealed(
        coordinator._key.sign
    )
    assert "once" in said(study, study.sites["ares"].answer(forged))["why"]
    request = messages.read(shares["ares"], publics_of(study.study))
    book = {name: keys for name, keys in request.fields["book"].items() if name != "doris"}
    sealed = {name: share for name, share in request.fields["sealed"].items() if name != "doris"}
    other = {"book": book, "sealed": sealed}
    forged = Message(COORDINATOR, request.context, request.query, "shares", other).sealed(
        coordinator._key.sign
    )
    assert "once" in said(study, study.sites["ares"].answer(forged))["why"]
    assert study.sites["ares"].answer(shares["ares"]) == study.sites["ares"].answer(shares["ares"])


@pytest.mark.parametrize("stage", ["open", "keys", "shares", "agree", "unmask"])
def test_a_site_that_vanishes_at_any_stage_leaves_an_exact_sum_of_the_others(made, stage) -> None:
    study = made(count=4, dropouts=1, epsilon=math.inf)
    gone = []

    def post(name, message):
        if name == "doris" and (gone or messages.read(message, publics_of(study.study)).stage == stage):
            gone.append(name)
            return None
        return study.sites[name].answer(message)

    run(study.coordinator, post)
    sums = [step.sites for step in study.coordinator.steps if step.kind == "sum"]
    assert sums[-1] == ("ares", "bion", "ceto")
    assert len(sums[0]) == (4 if stage in ("agree", "unmask") else 3)


def test_late_duplicate_and_reordered_answers_change_nothing(made) -> None:
    study, again = made(count=3, epsilon=math.inf), made(count=3, epsilon=math.inf)
    old = []
    while not study.coordinator.done:
        box = study.coordinator.outbox()
        now = dict(reversed(list(answers(study, box).items())))
        for late in old[-2:]:
            with contextlib.suppress(messages.ProtocolError):
                study.coordinator.take({**late, **dict.fromkeys(now, b"")})
        study.coordinator.take(now)
        old.append(now)
    run(again.coordinator, lambda name, message: again.sites[name].answer(message))
    assert [s.content for s in study.coordinator.steps] == [s.content for s in again.coordinator.steps]


def test_a_charge_that_is_not_due_is_not_signed(made) -> None:
    study = made(count=3)
    message = messages.read(study.coordinator.outbox()["ares"], publics_of(study.study))
    entry = Ledger.parse(message.fields["ledger"]).entries[0]
    for change, reason in (
        ({"noise_multiplier": 99.0}, "what is due"),
        ({"added_delta": 0.5}, "something else"),
    ):
        text = entry.model_copy(update={"event": entry.event | change}).sealed().line().decode()
        forged = Message(COORDINATOR, message.context, 0, "open", {**message.fields, "ledger": text})
        reply = study.sites["ares"].answer(forged.sealed(study.coordinator._key.sign))
        assert reason in said(study, reply)["why"]


def test_a_ledger_folder_is_verified_by_anybody_and_no_line_of_it_can_be_changed(
    room, digits, tmp_path
) -> None:
    terms = room(epsilon=5.0, images=True, count=3)
    schema = terms.study({n: n for n in terms.sites}, "b").schema_of
    simulate(terms, parted(digits(600), tuple(terms.sites), "even", schema), tmp_path / "out")
    folder = tmp_path / "out" / "ledger"
    found = chain.verify(folder)
    assert found.ended == ("ares", "bion", "ceto")
    assert all(len(names) == 3 for names in found.signed.values())
    assert found.ledger.epsilon == pytest.approx(5.0, abs=0.01)
    for name, old, new in (
        (chain.ROUNDS, b'"ares",', b""),
        (chain.BOOK, b'"steps":1', b'"steps":2'),
        (chain.SIGNATURES, b'"ended":{"ares":"', b'"ended":{"ares":"A'),
        ("study.toml", b"min_sites = 2", b"min_sites = 3"),
        ("plan.toml", b"epsilon = 5.0", b"epsilon = 4.0"),
    ):
        kept = (folder / name).read_bytes()
        assert old in kept, name
        (folder / name).write_bytes(kept.replace(old, new, 1))
        with pytest.raises((ArtifactError, UsageError)):
            chain.verify(folder)
        (folder / name).write_bytes(kept)
    with pytest.raises(UsageError, match="no ledger"):
        chain.verify(tmp_path)
    cheap = [entry.model_copy(update={"epsilon": 0.01}) for entry in found.ledger.entries[-1:]]
    lines = [entry.line() for entry in (*found.ledger.entries[:-1], cheap[0].sealed())]
    (folder / chain.BOOK).write_bytes(b"".join(lines))
    (folder / chain.SIGNATURES).write_bytes(b'{"charged":{},"ended":{},"model":""}')
    with pytest.raises(ArtifactError, match="does not follow from the plan"):
        chain.verify(folder)


def test_noise_of_all_sites_together_is_the_central_one_and_what_dropouts_cost(room) -> None:
    for terms, cost in (({}, 1.0), ({"dropouts": 1}, math.sqrt(4 / 3)), ({"masking": False}, 2.0)):
        named = room(images=True, count=4, **terms)
        study = named.study({n: n for n in named.sites}, "b")
        assert study.cost == pytest.approx(cost)
        share = study.shared(study.circles(0)[0], 1.0)
        wire = Wire.of(40_000, 0.7, study)
        ask = Sum("p", 0, (wire,), 8, np.zeros(40_000, np.int64))
        total = sum(noised(ask, share, NoiseSource(bytes([k]) * 32)) for k in range(4)) / wire.scale
        assert total.std() == pytest.approx(0.7 * cost, rel=0.02)


def test_coalitions_cost_more_from_the_tolerated_number_on_and_masks_hide_nothing_from_the_threshold_on(
    room,
) -> None:
    named = room(images=True, count=5, colluders=1)
    study, plan = named.study({n: n for n in named.sites}, "b"), named.plan_of()
    against = study.coalitions(plan)
    assert against[0] <= against[1] <= plan.epsilon * 1.001 < against[2] < against[3]
    open_to_all = named.model_copy(update={"masking": False})
    against = open_to_all.study({n: n for n in named.sites}, "b").coalitions(plan)
    assert max(against.values()) <= plan.epsilon * 1.001


def test_records_are_found_under_the_names_that_the_site_gives_them(people, facts, tmp_path) -> None:
    frame = people(20).rename(columns={"job": "Beruf"})
    frame.assign(more=1).to_csv(tmp_path / "own.csv", index=False)
    policy = SitePolicy(data="own.csv", max_epsilon=1.0, columns={"job": "Beruf"})
    found, labels = records_of(policy, facts, tmp_path)
    assert labels is None
    assert list(found.columns) == [column.name for column in facts.kept]
    with pytest.raises(UsageError, match="no column for 'job'; map it"):
        records_of(policy.model_copy(update={"columns": {}}), facts, tmp_path)


def test_a_site_of_a_kit_reads_its_files_and_keeps_its_state_to_itself(room, digits, tmp_path) -> None:
    terms = room(epsilon=5.0, images=True, count=3)
    kit = tmp_path / "kit"
    (kit / "local").mkdir(parents=True)
    keys = {name: signing_key(tmp_path / f"{name}.key") for name in (*terms.sites, "c")}
    publics = {name: key.public for name, key in keys.items()}
    study = terms.study(publics, publics["c"])
    (kit / "local" / "study.toml").write_text(study.dumps())
    (kit / "local" / "site.toml").write_text(
        SitePolicy(data="x.npz", max_epsilon=9.0, delta=1e-4).model_dump_json()
    )
    with pytest.raises(UsageError):
        Site.open(kit)
    (kit / "local" / "site.toml").write_text('data = "x.npz"\nmax_epsilon = 9\nmin_sites = 2\ndelta = 1e-4\n')
    with pytest.raises(UsageError, match="not in the study's roster"):
        Site.open(kit)
    files.write_secretly(kit / "local" / "site.key", (tmp_path / "bion.key").read_bytes())
    site = Site.open(kit)
    assert site.name == "bion"
    x, y = digits(50)
    np.savez(kit / "x.npz", x=x, y=y.astype(np.int64))
    reply = site.answer(opening_of(study, terms.plan_of(), keys["c"]))
    assert messages.read(reply, study.sites).fields == {"behind": 0}
    assert len(Ledger.load(kit / "privae" / "data.ledger").entries) > 1
    modes = {path.name: path.stat().st_mode & 0o777 for path in (kit / "privae").rglob("root")}
    assert modes == {"root": 0o600}


def opening_of(study, plan, key):
    fields = {"plan": plan.dumps(), "position": 0, "steps": [], "sizes": [], "ledger": "", "due": []}
    return Message(COORDINATOR, study.hash, 3, "open", fields).sealed(key.sign)


def test_more_noise_than_the_plans_delta_pays_for_is_refused(made, monkeypatch) -> None:
    study = made(count=3)
    monkeypatch.setattr("privae.federated.site.MOST_NUMBERS", 30)
    assert MOST_NUMBERS > 30
    study.coordinator.take(answers(study))
    study.coordinator.take(answers(study))
    assert "noise" in said(study, answers(study)["ares"])["why"]


def test_a_coordinator_that_shows_each_site_other_companions_is_refused(made) -> None:
    """Masks with sites that are then called lost would leave every site of the sum alone: nobody signs such a sum."""
    study = made(count=5, dropouts=2, min_sites=3)
    coordinator = study.coordinator
    for _ in range(2):
        coordinator.take(answers(study))
    coordinator.outbox()
    (one,) = coordinator._rounds
    kept, lost = one.circle.names[:3], one.circle.names[3:]

    def ask(name, stage, fields):
        message = Message(COORDINATOR, study.study.hash, 0, stage, fields).sealed(coordinator._key.sign)
        return said(study, study.sites[name].answer(message))

    for name in kept:
        request = one._request(name)
        alone = {**request, "sealed": {other: request["sealed"][other] for other in lost}}
        assert REFUSED not in ask(name, "shares", alone)
    one.stage, one.members = "agree", kept
    for name in kept:
        assert "other sites than a request names" in ask(name, "agree", one._request(name))["why"]


@pytest.mark.parametrize("change", [{"sensitivity": 1e-6}, {"replace_ratio": 0.1}])
def test_a_plan_whose_bounds_are_not_the_recipes_is_refused_by_every_place(made, change) -> None:
    study = made(count=3)
    plan = study.coordinator.plan
    phases = (plan.phases[0].model_copy(update=change), *plan.phases[1:])
    crafted = plan.model_copy(update={"phases": phases})
    agreed = study.study.model_copy(update={"plan": crafted.hash})
    agreed.__dict__.pop("hash", None)
    with pytest.raises(PrivacyRefused, match="bounds that do not hold"):
        agreed.check(crafted)
    own = study.sites["ares"].own
    site = Site(Own(agreed, own.policy, own.key, own.records, files.Shelf()))
    reply = site.answer(opening_of(agreed, crafted, study.coordinator._key))
    assert "bounds that do not hold" in said(study, reply)["why"]


def test_statistics_of_records_are_never_counted_for_whole_clients(agreed, facts) -> None:
    both = Training(local=Local(), share="decoder")
    with pytest.raises(UsageError, match="statistics are of records"):
        VAE(1.0, 1e-5, 3, schema=facts, fidelity=True, training=both).plan()
    training = Training(latent=2, hidden=(8,), steps=2, local=Local())
    terms = agreed(VAE(1.0, 1e-5, 5, "gradients", facts, training=training), "abcd", share="all")
    with pytest.raises(UsageError, match="--rows 4"):
        terms.study({n: n for n in "abcd"}, "z")


def test_where_sites_may_be_missing_two_sets_can_be_opened_by_fewer_than_the_threshold(room) -> None:
    plan = room(images=True, count=5).plan_of()
    found = {}
    for dropouts in (0, 1):
        terms = room(images=True, count=5, dropouts=dropouts, min_sites=3)
        study = terms.study({n: n for n in terms.sites}, "b")
        found[dropouts] = study.coalitions(plan)
    assert found[0][2] < found[0][3] / 1.5  # the threshold is 3
    assert (
        found[1][1] > 1.9 * plan.epsilon / 2
    )  # one colluder opens a site's own numbers, with 1 / 4 of the variance


def test_a_charge_survives_a_kill_and_is_never_taken_for_another_studys(made, tmp_path, monkeypatch) -> None:
    path, sites = tmp_path / "own", {}
    for attempt in (1, 2):
        sites[attempt] = made(count=3, attempt=attempt)
        with_policy(sites[attempt], "bion", ledger=path, max_epsilon=9.0, delta=1e-4)
    kill = SimpleNamespace(spend=Ledger.spend)

    def killed(self, charges, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "spend", killed)
    with pytest.raises(KeyboardInterrupt):
        answers(sites[2])
    monkeypatch.setattr(Ledger, "spend", kill.spend)
    for attempt in (1, 2, 2):
        answers(sites[attempt])
    hashes = {entry.plan_hash for entry in Ledger.load(path).entries[1:]}
    assert len(hashes) == 2


def test_an_end_that_does_not_go_on_from_what_was_seen_is_not_signed(made) -> None:
    study = made(count=3)
    coordinator, owns = study.coordinator, {name: site.own for name, site in study.sites.items()}
    while coordinator.fitted is None:
        coordinator.take(answers(study))
        box = coordinator.outbox()
    ending = messages.read(box["ares"], publics_of(study.study))
    killed = Site(owns["ares"])
    short = "".join(line + "\n" for line in ending.fields["rounds"].splitlines()[:1])
    fresh = Ledger.fresh(1e-5)
    fresh.spend([Charge("plan", "schema", "norms", Event(100.0))])
    for change in ({"rounds": ""}, {"rounds": short}, {"ledger": fresh.dumps()}):
        forged = Message(
            COORDINATOR, ending.context, ending.query, "finish", {**ending.fields, **change}, b"x"
        )
        assert REFUSED in said(study, killed.answer(forged.sealed(coordinator._key.sign)))
    assert "signature" in said(study, killed.answer(box["ares"]))
    site = study.sites["bion"]
    assert "signature" in said(study, site.answer(box["bion"]))
    again = Message(
        COORDINATOR, ending.context, 99, "open", {**ending.fields, "position": 99, "steps": [], "sizes": []}
    )
    assert said(study, site.answer(again.sealed(coordinator._key.sign)))  # an answer, not a wait for ever


def test_one_process_works_with_a_kit_at_a_time(room, tmp_path) -> None:
    terms = room(epsilon=5.0, images=True, count=3)
    kit = tmp_path / "kit"
    (kit / "local").mkdir(parents=True)
    key = signing_key(kit / "local" / "site.key")
    publics = {"ares": key.public, "bion": "b", "ceto": "c"}
    (kit / "local" / "study.toml").write_text(terms.study(publics, "d").dumps())
    (kit / "local" / "site.toml").write_text('data = "x.npz"\nmax_epsilon = 9\n')
    first = Site.open(kit)
    with pytest.raises(UsageError, match="another process"):
        Site.open(kit)
    first.close()
    Site.open(kit).close()


def test_keys_of_two_sites_are_never_the_same(room) -> None:
    terms = room(images=True, count=3)
    for publics, coordinator in (
        ({"ares": "a", "bion": "a", "ceto": "c"}, "d"),
        ({n: n for n in terms.sites}, "ares"),
    ):
        with pytest.raises(UsageError, match="a key of its own"):
            terms.study(publics, coordinator)
