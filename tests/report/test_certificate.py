"""Certificates: recomputed by whoever reads them; any change of one, or of its model, is seen, signed anew or not."""

import copy
import json
import math
import re
from dataclasses import replace
from functools import lru_cache

import pytest

from privae import files
from privae.audit import canaries
from privae.custody.keys import signing_key
from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.privacy import accountant
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Entry, Ledger
from privae.privacy.noise import NoiseSource
from privae.recipes.modality import TableRecipe
from privae.recipes.phases import Budget, plan_of
from privae.report import certificate
from privae.report.certificate import Facts, dumps, issue, verify
from privae.training.books import Books, Places

SIGNERS_WORD = (("issued",), ("versions",))  # what only the signer knows


def charged(plan) -> Ledger:
    """The ledger of a fit by a plan, gradients in blocks, as a fit charges it."""
    books = Books(plan, NoiseSource(bytes(32)), Places())
    for phase in plan.phases:
        event = phase.event()
        block = max(1, -(-event.steps // 3))
        for start in range(0, event.steps, block):
            books.charge(phase.name, replace(event, steps=min(block, event.steps - start)))
    return books.own


def facts_of(schema, epsilon=3.0, recipe="auto", findings=()) -> Facts:
    budget = Budget(epsilon, 1e-5, 3000, False, None)
    drafted = TableRecipe(schema, by_gradients=recipe == "gradients").draft(budget)
    plan = plan_of(drafted, budget, schema.hash, files.code_version())
    return Facts(plan, plan.guarantee(), charged(plan), "table", schema.hash, "ab" * 32, tuple(findings))


@pytest.fixture(scope="module", autouse=True)
def remembered():
    """The accountant is a function: what it gave once it gives again. Its lattice is coarser, so that it is quick."""
    real = lru_cache(None)(accountant._evaluated)
    counts: dict[tuple, object] = {}
    count = canaries.counted

    def counted(attack, right, number, plan):
        named = (attack.name, right, number, plan.epsilon, plan.delta)
        return (
            counts[named] if named in counts else counts.setdefault(named, count(attack, right, number, plan))
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canaries, "counted", counted)
        patch.setattr(accountant, "_FINE", accountant._COARSE / 2)
        patch.setattr(accountant, "_evaluated", lambda events, *rest: real(tuple(events), *rest))
        yield


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return signing_key(tmp_path_factory.mktemp("mine") / "signing.key")


@pytest.fixture(scope="module")
def forger(tmp_path_factory):
    return signing_key(tmp_path_factory.mktemp("theirs") / "signing.key")


@pytest.fixture(scope="module")
def table(facts):
    bare = facts_of(facts)
    return replace(bare, findings=(canaries.counted(canaries.LOSS, 45, 100, bare.plan),))


@pytest.fixture(scope="module")
def trained(facts):
    return facts_of(facts, recipe="gradients")


@pytest.fixture(scope="module")
def made(table, key):
    return issue(table, key)


def resigned(content, key) -> str:
    """The same certificate with the signature and the public key of another."""
    body = {name: value for name, value in content.items() if name != "signature"} | {
        "public_key": key.public
    }
    return dumps({**body, "signature": key.sign(files.canonical_json(body))})


def failed(verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.ok]


def places(value, path=()):
    """Every place of a JSON value, containers included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from places(item, (*path, name))


def at(value, path):
    for name in path:
        value = value[name]
    return value


def put(content, path, value):
    """A copy with another value at a place."""
    if not path:
        return value
    changed = copy.deepcopy(content)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def others(value):
    """Other values that a place could hold: near ones, other types, and changes of what it contains."""
    if isinstance(value, dict):
        return [{**value, "extra": 1}, *dropped(value), *renamed(value)]
    if isinstance(value, list):
        return [[*value, value[-1] if value else 1], value[:-1], value[::-1]]
    if isinstance(value, str):
        return [value + "x", (value[:-1] + chr(ord(value[-1]) ^ 1)) if value else "y", None]
    if isinstance(value, bool):
        return [not value, int(value)]
    if isinstance(value, int | float):
        return [value + 1, math.nextafter(value, math.inf), str(value), True, -value if value else 1e-300]
    return [0, "inf"]


def dropped(value):
    return [{k: v for k, v in value.items() if k != name} for name in value]


def renamed(value):
    return [{(k + "_" if k == name else k): v for k, v in value.items()} for name in value]


def mutations(content):
    for path in places(content):
        for value in others(at(content, path)):
            changed = put(content, path, value)
            if json.dumps(changed, sort_keys=True) != json.dumps(content, sort_keys=True):
                yield path, changed


def test_a_certificate_is_recomputed_by_whoever_reads_it(made, table, key):
    verdict = verify(dumps(made), table, key.fingerprint)
    assert failed(verdict) == []
    assert verdict.holds
    assert verdict.claims == table.guarantee
    assert verdict.fingerprint == key.fingerprint
    names = (
        "form signature signer contents plan schema events epsilon epsilon_if guarantee canaries model_file"
    )
    assert len(verdict.checks) == len(names.split()) + 1
    assert made["claims"]["epsilon"] == pytest.approx(3.0)
    assert made["claims"]["sentence"] == table.guarantee.sentence()
    assert made["plan_hash"] == table.plan.hash
    assert made["ledger_head"] == table.ledger.head
    assert made["canaries"]["findings"][0]["power"] == table.findings[0].power > 1.4
    assert len(made["issued"]) == len("2026-01-31")


def test_events_are_those_of_the_ledger_and_cost_what_is_claimed(trained, key):
    made = issue(trained, key)
    events = [entry["event"] for entry in made["events"]]
    assert len(events) == 3
    assert set(events[0]) == {"noise_multiplier", "sampling_rate", "steps", "replace_ratio", "added_delta"}
    left = made["claims"]["delta"] - math.fsum(event["added_delta"] for event in events)
    assert accountant.epsilon(trained.ledger.events, left) == pytest.approx(
        made["claims"]["epsilon"], rel=1e-9
    )
    verdict = verify(dumps(made), trained)
    assert verdict.holds
    assert "PLD" in next(check.explanation for check in verdict.checks if check.name == "epsilon")


def test_what_no_certificate_can_show_is_said(made, table, key):
    alone = "; ".join(verify(dumps(made)).unchecked)
    for said in (
        f"whose key {key.fingerprint}",
        "another channel",
        "no file was given",
        "the code that ran was privae's",
        "were declared, and not read from the data",
        "declared number of rows is public",
        "no other fit",
        "the date, the versions",
        "canaries were planted",
    ):
        assert said in alone
    with_it = "; ".join(verify(dumps(made), table, key.public).unchecked)
    assert "no file was given" not in with_it
    assert "you named it" in with_it


def test_any_changed_byte_is_seen(made, table):
    # one flip in each byte, the bit by its place; a flip that leaves no JSON is refused as surely
    content = dumps(made).encode()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        assert not verify(bytes(changed), table).holds, place


def test_any_cut_or_added_byte_is_seen(made):
    content = dumps(made).encode()
    for place in range(0, len(content), 7):
        assert not verify(content[:place]).holds
        assert not verify(content[:place] + b" " + content[place:]).holds
    for more in (b"\n", b" ", b"{}", b"\x00"):
        assert not verify(content + more).holds
        assert not verify(more + content).holds
    for odd in (b"", b"null", b"[]", b"1", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000):
        assert failed(verify(odd)) == ["form"]


def test_any_changed_field_is_seen(made, table):
    count = 0
    for path, changed in mutations(made):
        count += 1
        try:
            text = dumps(changed)
        except ValueError:
            continue
        assert not verify(text, table).holds, path
    assert count > 500


def test_a_changed_field_is_seen_though_it_is_signed_anew(made, table, forger):
    """With the model at hand, a forger can choose the date, the versions and the key, and nothing else."""
    same = resigned(made, forger)
    for path, changed in mutations(made):
        text = resigned(changed, forger) if isinstance(changed, dict) else same
        if text != same:  # what was changed is not the signature alone
            passed = verify(text, table).holds
            assert not passed or path[:1] in SIGNERS_WORD, path
            assert not passed or failed(verify(text, table, made["public_key"])) == ["signer"]


def test_keys_that_are_there_twice_are_refused(made, key):
    text = dumps(made)
    lines = re.findall(r'^ +"\w+": (?:[^\[{\n]|\[\])*$', text, re.MULTILINE)
    assert len(lines) > 50
    for line in lines:
        twice = text.replace(line + "\n", line.rstrip(",") + ",\n" + line + "\n", 1)
        assert failed(verify(twice)) == ["form"]


def test_another_text_of_the_same_content_is_refused(made):
    spaced = json.dumps(made)
    assert failed(verify(spaced)) == ["form"]
    assert failed(verify(files.canonical_json(made))) == ["form"]
    text = dumps(made)
    assert failed(verify(text.replace("1e-05", "0.00001", 1))) == ["form"]
    assert failed(verify(text.replace("1e-05", "1E-05", 1))) == ["form"]
    assert failed(verify(text.replace("3000", "3_000", 1))) == ["form"]
    assert failed(verify(text.replace("3000", "NaN", 1))) == ["form"]
    assert failed(verify(text.replace("3000", "Infinity", 1))) == ["form"]
    assert failed(verify(text.replace("虚", "\\u865a"))) == ["form"]
    assert failed(verify(text.replace("canary loss", "\\ud800"))) == ["form"]
    assert failed(verify("\ufeff" + text)) == ["form"]


def test_another_format_version_is_named(made, key):
    verdict = verify(resigned({**made, "format": "privae-certificate/2"}, key))
    assert "another format version" in verdict.checks[0].explanation


def test_a_model_that_changed_or_another_one_fails(made, table, facts, key):
    assert failed(verify(dumps(made), replace(table, sha256="cd" * 32))) == ["model file"]
    other = facts_of(facts, epsilon=2.0)
    assert failed(verify(dumps(made), other)) == ["model's contents"]
    assert failed(verify(dumps(made), replace(other, sha256="cd" * 32))) == ["model file", "model's contents"]
    for changed in (
        replace(table, kind="image"),
        replace(table, schema_hash="cd" * 32),
        replace(table, findings=()),
        replace(table, guarantee=replace(table.guarantee, delta=2e-5)),
    ):
        assert failed(verify(dumps(made), changed)) == ["model's contents"]


def test_a_named_signer_must_have_signed(made, table, key, forger):
    assert verify(dumps(made), table, key.public).holds
    forged = resigned(made, forger)
    assert verify(forged, table).holds  # the same claims, by somebody else: true, and not the signer's word
    assert failed(verify(forged, table, key.fingerprint)) == ["signer"]
    assert failed(verify(forged, table, key.public)) == ["signer"]
    with pytest.raises(UsageError, match="--key"):
        verify(dumps(made), table, "my key")


def sealed(entries) -> list[dict]:
    """Entries with their chain computed anew, as a forger would."""
    chained, previous = [], "0" * 64
    for index, fields in enumerate(entries):
        entry = Entry.model_validate({**fields, "index": index, "previous_hash": previous}).sealed()
        chained.append(json.loads(entry.line()))
        previous = entry.hash
    return chained


def with_events(content, entries):
    chained = sealed(entries)
    return {**content, "events": chained, "ledger_head": chained[-1]["hash"]}


def claiming(content, **claims):
    guarantee = Guarantee.from_dict(
        {k: v for k, v in {**content["claims"], **claims}.items() if k != "sentence"}
    )
    return {**content, "claims": {"sentence": guarantee.sentence(), **guarantee.to_dict()}}


@pytest.fixture(scope="module")
def honest(trained, key):
    return issue(trained, key)


def test_a_smaller_epsilon_is_recomputed_though_signed_anew(honest, forger):
    claims = honest["claims"]
    smaller = resigned(claiming(honest, epsilon=claims["epsilon"] / 2), forger)
    assert failed(verify(smaller)) == ["epsilon", "guarantee"]
    replaced = resigned(claiming(honest, epsilon_replace_one=claims["epsilon_replace_one"] * 0.999), forger)
    assert failed(verify(replaced)) == ["epsilon if one is replaced", "guarantee"]
    larger = resigned(claiming(honest, epsilon=claims["epsilon"] * (1 + 1e-6)), forger)
    assert failed(verify(larger)) == ["epsilon", "guarantee"]


def test_a_dropped_or_moved_event_is_seen_though_signed_anew(honest, forger):
    events = honest["events"]
    for entries in (events[:-1], events[1:], [events[0], events[2]]):
        forged = resigned(with_events(honest, entries), forger)
        assert failed(verify(forged)) == ["events"]
    doubled = resigned(with_events(honest, [*events, events[-1]]), forger)
    assert failed(verify(doubled)) == ["events"]
    moved = resigned(with_events(honest, [events[2], events[0], events[1]]), forger)
    assert failed(verify(moved)) == [
        "epsilon"
    ]  # the last block is shorter, so the notes are not those of this order
    unchained = resigned({**honest, "events": events[1:]}, forger)
    assert failed(verify(unchained)) == ["contents"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", 9.0),
        ("sampling_rate", 1e-4),
        ("steps", 1),
        ("replace_ratio", 1.0),
        ("added_delta", 0.0),
    ],
)
def test_a_milder_event_is_seen_though_signed_anew(honest, forger, name, value):
    first, *rest = copy.deepcopy(honest["events"])
    first["event"][name] = value
    assert failed(verify(resigned(with_events(honest, [first, *rest]), forger))) == ["events"]


def test_a_note_of_another_epsilon_so_far_is_seen_though_signed_anew(honest, forger):
    events = copy.deepcopy(honest["events"])
    events[1]["epsilon"] *= 0.9
    assert failed(verify(resigned(with_events(honest, events), forger))) == ["epsilon"]


def test_a_plan_that_was_not_charged_is_seen_though_signed_anew(honest, facts, forger):
    milder = facts_of(facts, epsilon=1.0, recipe="gradients").plan
    forged = {**honest, "plan": json.loads(milder.model_dump_json()), "plan_hash": milder.hash}
    assert failed(verify(resigned(forged, forger))) == ["plan", "events"]
    same = {**honest, "plan_hash": milder.hash}
    assert failed(verify(resigned(same, forger))) == ["plan"]
    events = [{**entry, "plan_hash": milder.hash} for entry in honest["events"]]
    renamed = with_events(forged, events)
    assert failed(verify(resigned(renamed, forger))) == ["events"]


def test_a_consistent_invention_fails_only_by_the_model_and_the_key(honest, trained, facts, key, forger):
    """What nobody can see from the certificate alone: `verify` says so, and the pinned key or the model shows it."""
    invented = issue(facts_of(facts, epsilon=1.0, recipe="gradients"), forger)
    assert verify(dumps(invented)).holds
    assert failed(verify(dumps(invented), trained)) == ["model's contents"]
    assert failed(verify(dumps(invented), signer=key.fingerprint)) == ["signer"]


@pytest.mark.parametrize(
    "claims",
    [
        {"delta": 1e-7},
        {"delta_sampler": 0.0},
        {"delta_threshold": 1e-9},
        {"unit": "person"},
        {"relation": "replace_one"},
        {"accountant": "GDP"},
        {"not_covered": ["nothing"]},
        {"not_covered": []},
    ],
)
def test_fine_print_that_is_not_the_plans_is_seen_though_signed_anew(made, forger, claims):
    assert failed(verify(resigned(claiming(made, **claims), forger)))


def test_further_assumptions_are_said_and_somebody_elses_text_is_harmless(made, forger):
    listed = ["a noise key was given by hand\x1b[2J\u202e", *made["claims"]["not_covered"]]
    verdict = verify(resigned(claiming(made, not_covered=listed), forger))
    assert verdict.holds
    told = next(check.explanation for check in verdict.checks if check.name == "guarantee")
    assert told.endswith("it excludes, too: a noise key was given by hand?[2J?")


def test_a_schema_of_another_table_is_seen_though_signed_anew(made, forger):
    other = {**made, "schema_hash": "cd" * 32}
    assert failed(verify(resigned(other, forger))) == ["schema"]
    model = {**made, "model": {**made["model"], "schema_hash": "cd" * 32}}
    assert failed(verify(resigned(model, forger))) == ["schema"]


def test_a_schema_may_be_completed_by_bought_categories_alone(facts, key):
    columns = [c.model_copy(update={"categories": "bought"}) if c.name == "job" else c for c in facts.columns]
    bought = facts.model_copy(update={"columns": tuple(columns)})
    released = replace(facts_of(bought), schema_hash="cd" * 32)
    verdict = verify(dumps(issue(released, key)), released)
    assert verdict.holds
    assert released.guarantee.delta_threshold > 0
    assert "bought" in next(check.explanation for check in verdict.checks if check.name == "schema")


def test_a_model_without_noise_is_certified_as_not_private(facts, key):
    for recipe in ("auto", "gradients"):
        open_book = facts_of(facts, epsilon=math.inf, recipe=recipe)
        made = issue(open_book, key)
        assert made["claims"]["sentence"].startswith("NOT PRIVATE")
        assert made["claims"]["epsilon"] == made["claims"]["epsilon_replace_one"] == "inf"
        verdict = verify(dumps(made), open_book)
        assert verdict.holds
        assert not verdict.claims.holds
        assert not verify(resigned(claiming(made, epsilon=1.0), key)).holds


def test_a_finding_on_real_records_is_never_certified(table, key, forger, made):
    private = replace(table.findings[0], public=False)
    with pytest.raises(PrivacyRefused, match="data holder only"):
        issue(replace(table, findings=(*table.findings, private)), key)
    forged = copy.deepcopy(made)
    forged["canaries"]["findings"][0]["public"] = False
    assert failed(verify(resigned(forged, forger))) == ["canaries"]
    forged["canaries"]["findings"][0]["public"] = 1
    assert failed(verify(resigned(forged, forger))) == ["contents"]


def test_a_model_that_its_canaries_contradict_is_never_certified(table, key, forger, made):
    for finding in (replace(table.findings[0], failed=True), replace(table.findings[0], low=3.5)):
        with pytest.raises(PrivacyRefused, match="contradicts the guarantee"):
            issue(replace(table, findings=(finding,)), key)
    forged = copy.deepcopy(made)
    forged["canaries"]["findings"][0]["low"] = 3.5
    assert failed(verify(resigned(forged, forger))) == ["canaries"]


def test_without_canaries_the_certificate_says_so(table, key, forger):
    bare = replace(table, findings=())
    made = issue(bare, key)
    assert "no canaries were planted" in made["canaries"]["sentence"]
    assert verify(dumps(made), bare).holds
    claimed = {**made, "canaries": {"findings": [], "sentence": "attacked by everyone"}}
    assert failed(verify(resigned(claimed, forger))) == ["canaries"]


def test_facts_that_do_not_belong_together_get_no_certificate(table, trained, key):
    with pytest.raises(ArtifactError, match="gets no certificate"):
        issue(replace(table, ledger=trained.ledger), key)
    with pytest.raises(ArtifactError, match="gets no certificate"):
        issue(replace(table, guarantee=replace(table.guarantee, epsilon=1.0)), key)
    with pytest.raises(ArtifactError, match="gets no certificate"):
        issue(replace(table, kind="video"), key)
    with pytest.raises(ArtifactError, match="gets no certificate"):
        issue(replace(table, schema_hash="cd" * 32), key)


def test_a_capped_ledger_is_no_models_ledger(table, key, tmp_path):
    capped = Ledger.open(tmp_path / "a.ledger", 5.0, 1e-5)
    with pytest.raises(ArtifactError, match="gets no certificate"):
        issue(replace(table, ledger=capped), key)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 10**18},
        {"steps": 2**21},
        {"size": 2**60},
        {"noise_multiplier": 1e-300},
        {"noise_multiplier": 1e300},
        {"sensitivity": 1e-300},
        {"sampling_rate": 1e-300},
        {"name": "open"},
    ],
)
def test_an_absurd_plan_is_a_no_and_not_a_crash(honest, trained, forger, changes):
    phase = trained.plan.phases[0].model_copy(update=changes)
    plan = trained.plan.model_copy(update={"phases": (phase,)})
    events = [{**entry, "plan_hash": plan.hash, "phase": phase.name} for entry in honest["events"]]
    forged = with_events(
        {**honest, "plan": json.loads(plan.model_dump_json()), "plan_hash": plan.hash}, events
    )
    assert not verify(resigned(forged, forger)).holds


def test_what_a_forgery_sets_off_in_a_library_is_a_no(made, monkeypatch):
    monkeypatch.setitem(certificate._TESTS, "plan", lambda given: 1 / 0)
    verdict = verify(dumps(made))
    assert failed(verdict) == ["plan"]
    assert "it does not compute (ZeroDivisionError)" in [check.explanation for check in verdict.checks]


def test_a_certificate_holds_no_time_but_a_date(made):
    text = dumps(made)
    assert "T" not in made["issued"]
    assert all(len(entry["time"]) == len(made["issued"]) for entry in made["events"])
    assert "/" not in "".join(made["versions"].values())
    assert str(certificate.__file__) not in text


def test_a_file_that_is_not_there_has_no_hash(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        certificate.sha256(tmp_path / "none")
