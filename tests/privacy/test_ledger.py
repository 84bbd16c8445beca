"""What was spent."""

import json
import math
from datetime import UTC, datetime

import pytest

from privae import files
from privae.errors import ArtifactError, PrivacyRefused, ResourceError, UsageError
from privae.privacy import accountant
from privae.privacy.ledger import Charge, Entry, Ledger
from privae.privacy.mechanism import Event

GAUSSIAN = Event(8.0, replace_ratio=math.sqrt(2))
SGD = Event(2.0, 0.01, 100)


def charge(event, plan="p1", phase="moments", **more):
    return Charge(plan, "schema", phase, event, **more)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_an_entry_has_exactly_the_fields_of_the_design():
    assert list(Entry.model_fields) == [
        *("index", "time", "plan_hash", "schema_hash", "unit", "relation", "phase", "event", "epsilon"),
        *("delta", "attempt", "code_version", "previous_hash", "hash", "signatures"),
    ]


def test_a_fresh_ledger_records_what_was_charged():
    own = Ledger.fresh(1e-5)
    assert (own.epsilon, own.remaining, own.events, own.cap, own.head) == (0.0, math.inf, (), None, "0" * 64)
    own.spend([charge(GAUSSIAN), charge(SGD, phase="gradients", attempt=2)])
    own.spend([charge(SGD, phase="gradients", attempt=2)])
    assert own.events == (GAUSSIAN, SGD, SGD)
    assert own.epsilon == accountant.epsilon(own.events, 1e-5)
    assert [entry.attempt for entry in own.entries] == [1, 2, 2]
    assert own.entries[-1].epsilon == own.epsilon
    assert own.entries[0].epsilon == own.entries[1].epsilon == accountant.epsilon([GAUSSIAN, SGD], 1e-5)
    assert own.head == own.entries[-1].hash
    own.check([Event(0.0)])


def test_spending_nothing_writes_nothing():
    own = Ledger.fresh(1e-5)
    own.spend([])
    assert own.entries == ()


def test_what_phases_add_to_delta_is_taken_off_the_accountant():
    own = Ledger.fresh(1e-5)
    own.spend([charge(GAUSSIAN, added_delta=4e-6)])
    assert own.epsilon == accountant.epsilon([GAUSSIAN], 6e-6)
    own.spend([charge(GAUSSIAN, added_delta=7e-6)])
    assert own.epsilon == math.inf


def test_a_ledger_survives_its_text(tmp_path):
    own = Ledger.fresh(1e-5, "person", "replace_one")
    own.spend([charge(GAUSSIAN, unit="person", added_delta=1e-9), charge(Event(0.0), unit="person")])
    again = Ledger.parse(own.dumps())
    assert again.entries == own.entries
    assert (again.delta, again.unit, again.relation) == (1e-5, "person", "replace_one")
    assert again.epsilon == math.inf
    assert lines(own.dumps())[1]["epsilon"] == "inf"


def test_a_repr_shows_no_more_than_the_terms():
    assert repr(Ledger.fresh(1e-5)) == "Ledger(entries=0, delta=1e-05, unit='record')"


def test_the_time_of_an_entry_is_a_date_for_durations_tell_how_many_records_there_are():
    own = Ledger.fresh(1e-5)
    own.spend([charge(GAUSSIAN)])
    assert datetime.fromisoformat(own.entries[0].time).strftime("%H:%M:%S.%f") == "00:00:00.000000"
    assert abs((datetime.now(UTC).date() - datetime.fromisoformat(own.entries[0].time).date()).days) <= 1


@pytest.mark.parametrize("version", ["9.9", "source"])
def test_an_entry_names_the_version_of_the_code(monkeypatch, version):
    monkeypatch.setattr(files, "code_version", lambda: version)
    own = Ledger.fresh(1e-5)
    own.spend([charge(GAUSSIAN)])
    assert own.entries[0].code_version == version


@pytest.mark.parametrize("composition", ["renyi", "gaussian"])
def test_a_cap_is_kept_in_its_file(tmp_path, composition):
    path = tmp_path / "hospital.ledger"
    opened = Ledger.open(path, 3.0, 1e-5, composition)
    assert opened.remaining == 3.0
    loaded = Ledger.load(path)
    assert loaded.entries == opened.entries
    assert loaded.cap.epsilon == 3.0
    assert loaded.cap.composition == composition
    loaded.spend([charge(Event(4.0))])
    assert Ledger.load(path).events == (Event(4.0),)
    assert loaded.epsilon == accountant.epsilon([Event(4.0)], 1e-5)
    assert 0 < loaded.remaining < 3.0


def test_a_ledger_is_never_overwritten(tmp_path):
    Ledger.open(tmp_path / "a", 3.0, 1e-5)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        Ledger.open(tmp_path / "a", 9.0, 1e-5)
    assert (tmp_path / "a").read_bytes() == before


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (1.0, 0.0)])
def test_numbers_that_make_no_cap_are_refused(tmp_path, epsilon, delta):
    with pytest.raises(UsageError):
        Ledger.open(tmp_path / "a", epsilon, delta)
    with pytest.raises(UsageError):
        Ledger.fresh(0.0)
    assert list(tmp_path.iterdir()) == []


def test_the_first_plan_may_use_the_whole_cap_and_then_nothing_more(tmp_path):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5)
    full = Event(1 / accountant.gaussian_mu(3.0, 1e-5))
    cap.spend([charge(full)])
    assert cap.epsilon == pytest.approx(3.0)
    assert cap.remaining == 0.0
    with pytest.raises(PrivacyRefused, match="Nothing more may be released"):
        cap.spend([charge(Event(1000.0), plan="p2")])


def test_a_first_plan_with_gradients_is_admitted_by_its_own_accountant(tmp_path):
    s = accountant.calibrate(1.0, 1e-5, lambda s: [Event(s, 0.1, 10)])
    for composition in ("renyi", "gaussian"):
        cap = Ledger.open(tmp_path / composition, 1.0, 1e-5, composition)
        cap.check([Event(s, 0.1, 10)])
        cap.spend([charge(Event(s, 0.1, 10))])
        assert cap.epsilon <= 1.0
        with pytest.raises(PrivacyRefused):
            cap.check([Event(s, 0.1, 10)])


@pytest.mark.parametrize("composition", ["renyi", "gaussian"])
def test_later_plans_fit_exactly_up_to_the_advice_of_a_refusal(tmp_path, composition):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5, composition)
    cap.spend([charge(Event(3.0))])
    with pytest.raises(
        PrivacyRefused, match=r"^this run needs epsilon [23]\.\d+; (\S+) of 3 is left\."
    ) as refused:
        cap.spend([charge(Event(1.5), plan="p2")])
    advice = float(str(refused.value).split("--epsilon ")[1].rstrip("."))
    assert advice <= cap.remaining
    cap.spend([charge(Event(1 / accountant.gaussian_mu(advice, 1e-5)), plan="p2")])
    assert cap.epsilon <= 3.0
    assert cap.remaining < 0.1


def test_small_plans_before_a_large_one_leave_the_advice_below_the_cap(tmp_path):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5)
    cap.spend([charge(Event(1000.0))])
    assert 2.0 < cap.remaining <= 3.0


def test_a_plan_dearer_than_the_cap_is_refused_at_once(tmp_path):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5)
    with pytest.raises(PrivacyRefused, match=r"3 of 3 is left\. Plan with --epsilon 3\."):
        cap.spend([charge(Event(0.5))])
    with pytest.raises(PrivacyRefused, match="epsilon inf"):
        cap.spend([charge(Event(0.0))])


def test_a_gaussian_cap_admits_no_later_plan_that_is_subsampled(tmp_path):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5, "gaussian")
    cap.spend([charge(Event(8.0))])
    with pytest.raises(PrivacyRefused, match="Nothing more"):
        cap.spend([charge(SGD, plan="p2")])


def test_under_a_cap_added_deltas_have_a_share_of_their_own(tmp_path):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5)
    cap.spend([charge(Event(8.0), added_delta=9e-7)])
    with pytest.raises(PrivacyRefused, match="adds more to delta"):
        cap.spend([charge(Event(8.0), plan="p2", added_delta=2e-7)])
    cap.spend([charge(Event(8.0), plan="p2", added_delta=1e-8)])
    fresh = Ledger.open(tmp_path / "b", 3.0, 1e-5)
    with pytest.raises(PrivacyRefused, match="adds more to delta"):
        fresh.check([Event(100.0)], added_delta=2e-5)
    fresh.check([Event(8.0)], added_delta=5e-6)


def test_the_same_plan_again_is_a_new_attempt(tmp_path):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5)
    for _ in range(2):
        cap.spend([charge(Event(9.0)), charge(Event(9.0), phase="prior")])
    assert [entry.attempt for entry in cap.entries] == [0, 1, 1, 2, 2]


# --- runs that go on --------------------------------------------------------------------------------------


def test_steps_charged_add_up_over_blocks_of_a_phase():
    own = Ledger.fresh(1e-5)
    own.spend([charge(GAUSSIAN), charge(Event(2.0, 0.01, 30), phase="gradients")])
    own.spend([charge(Event(2.0, 0.01, 70), phase="gradients")])
    assert (own.charged("moments"), own.charged("gradients"), own.charged("another")) == (1, 100, 0)
    assert own.epsilon == accountant.epsilon([GAUSSIAN, SGD], 1e-5)


def test_a_figure_that_is_found_sooner_is_a_bound_too():
    rough, fine = Ledger.fresh(1e-5), Ledger.fresh(1e-5)
    rough.spend([charge(SGD)], fine=False)
    fine.spend([charge(SGD)])
    assert fine.entries[0].epsilon <= rough.entries[0].epsilon <= 1.01 * fine.entries[0].epsilon
    assert rough.epsilon == fine.epsilon


def test_a_run_that_goes_on_costs_nothing_and_changes_hands(tmp_path):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5)
    cap.spend([charge(Event(9.0), added_delta=1e-9), charge(SGD, phase="gradients")])
    reserved, before = cap.head, (cap.epsilon, cap.remaining)
    assert cap.holder(reserved) == ""
    cap.resume(reserved, "", "first")
    assert cap.holder(reserved) == "first"
    cap.resume(reserved, "first", "second")
    again = Ledger.load(tmp_path / "a")
    assert again.holder(reserved) == "second"
    assert (again.epsilon, again.remaining) == before
    assert [entry.phase.split()[0] for entry in again.entries[3:]] == ["resumed", "resumed"]
    assert {(entry.attempt, entry.plan_hash) for entry in again.entries[1:]} == {(1, "p1")}
    assert cap.charged("gradients") == 100


def test_a_run_goes_on_under_the_token_it_has_and_in_the_ledger_that_charged_it(tmp_path):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5)
    cap.spend([charge(Event(9.0))])
    reserved = cap.head
    cap.resume(reserved, "", "first")
    content = (tmp_path / "a").read_bytes()
    with pytest.raises(PrivacyRefused, match="resumed before"):
        cap.resume(reserved, "", "second")
    for ask in (lambda: cap.holder("f" * 64), lambda: cap.resume("f" * 64, "", "second")):
        with pytest.raises(PrivacyRefused, match="another ledger"):
            ask()
    assert (tmp_path / "a").read_bytes() == content


def test_two_attempts_of_one_plan_go_on_apart(tmp_path):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5)
    heads = []
    for _ in range(2):
        cap.spend([charge(Event(9.0))])
        heads.append(cap.head)
    cap.resume(heads[0], "", "one")
    assert [cap.holder(head) for head in heads] == ["one", ""]
    cap.spend([charge(Event(9.0))])
    assert cap.entries[-1].attempt == 3


def test_a_note_of_a_run_that_goes_on_leaves_the_cap_as_it_was(tmp_path):
    """The first plan took the whole cap by its own accountant: nothing more is admitted, before and after."""
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5)
    cap.spend([charge(Event(1 / accountant.gaussian_mu(3.0, 1e-5)))])
    cap.resume(cap.head, "", "first")
    assert cap.epsilon == pytest.approx(3.0)
    assert cap.remaining == 0.0
    with pytest.raises(PrivacyRefused):
        cap.check([Event(1000.0)])


def test_charges_that_break_the_terms_are_refused(tmp_path):
    cap = Ledger.open(tmp_path / "a", 3.0, 1e-5, unit="person")
    with pytest.raises(PrivacyRefused, match="protects each person"):
        cap.spend([charge(GAUSSIAN)])
    with pytest.raises(UsageError, match="one whole plan"):
        cap.spend([charge(GAUSSIAN, unit="person"), charge(GAUSSIAN, plan="p2", unit="person")])
    for name in ("open", "resumed 1 2", "grant me", "closed", "closed it", "released ab"):
        with pytest.raises(UsageError, match="may not be named"):
            cap.spend([charge(GAUSSIAN, phase=name, unit="person")])
    with pytest.raises(UsageError, match="added delta"):
        charge(GAUSSIAN, added_delta=-1e-9)
    assert cap.events == ()


def reseal(text, index, change, rest=True):
    """The ledger with one entry changed, its hash (and, with `rest`, all later ones) computed anew."""
    entries = list(Ledger.parse(text).entries)
    entries[index] = entries[index].model_copy(update=change).sealed()
    for later in range(index + 1, len(entries) if rest else 0):
        link = {"previous_hash": entries[later - 1].hash}
        entries[later] = entries[later].model_copy(update=link).sealed()
    return b"".join(entry.line() for entry in entries).decode()


def three():
    own = Ledger.fresh(1e-5)
    own.spend([charge(GAUSSIAN), charge(Event(9.0)), charge(Event(10.0))])
    return own.dumps()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        three()[:-1],
        three()[:-20],
        three() + "{}\n",
        three().replace("8.0", "80.0", 1),
        three().replace('"index":0', '"index": 0'),
        "\n".join(three().split("\n")[1:]),
        "".join(three().splitlines(keepends=True)[i] for i in (0, 2)),
        "".join(three().splitlines(keepends=True)[i] for i in (1, 0, 2)),
        reseal(three(), 1, {"epsilon": 0.1}, rest=False),
        reseal(three(), 1, {"delta": 1e-4}),
        reseal(three(), 1, {"event": {"noise_multiplier": 9.0}}),
        reseal(three(), 1, {"event": {**GAUSSIAN.to_dict(), "added_delta": -1.0}}),
        reseal(three(), 1, {"event": {"added_delta": 0.0}}),
        reseal(three(), 1, {"event": {**GAUSSIAN.to_dict(), "added_delta": 0.0, "grant": "mine"}}),
        reseal(three(), 1, {"phase": "closed", "event": {}}),
        reseal(three(), 0, {"phase": "open"}),
        reseal(three(), 0, {"phase": "open", "event": {"epsilon": 1.0, "composition": "sum", "order": 2.0}}),
    ],
)
def test_a_ledger_that_was_tampered_with_does_not_parse(text):
    with pytest.raises(ArtifactError):
        Ledger.parse(text)


def test_files_that_are_no_ledgers_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Ledger.load(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="not a ledger"):
        Ledger.load(tmp_path / "binary")


def test_a_folder_that_takes_no_lock_is_refused(tmp_path):
    (tmp_path / "a.lock").mkdir()
    with pytest.raises(ResourceError, match="lock"):
        Ledger.open(tmp_path / "a", 1.0, 1e-5)


def test_no_two_ledgers_begin_alike(tmp_path):
    one, two = (Ledger.open(tmp_path / name, 4.0, 1e-6) for name in ("one", "two"))
    assert one.entries[0].hash != two.entries[0].hash
    assert one.remaining == two.remaining == 4.0
