"""Shares of a cap that are set aside in advance, and what is closed."""

import hashlib
import math

import pytest

from privae.custody import budgets
from privae.errors import ArtifactError, PrivacyRefused, ResourceError, UsageError
from privae.log.entry import text_of
from privae.privacy import accountant
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event
from privae.training.group import ALONE

DELTA = 1e-5


def charge(epsilon, plan="p", added=0.0):
    """What a Gaussian plan of this epsilon costs."""
    return [
        Charge(
            plan, "schema", "moments", Event(1 / accountant.gaussian_mu(epsilon, DELTA)), added_delta=added
        )
    ]


def used(ledger):
    return ledger.cap.used(ledger.events, ledger.relation)


@pytest.fixture(params=["renyi", "gaussian"])
def cap(request, tmp_path):
    return Ledger.open(tmp_path / "h.jsonl", 3.0, DELTA, request.param)


def under(cap, name):
    return Ledger.load(cap.place, name)


def test_a_grant_is_there_whatever_the_pool_spends_and_the_other_way_round(cap):
    made = budgets.grant(cap, "cardiology", 1.5)
    assert (made.epsilon, made.delta, made.closed) == (1.5, DELTA, False)
    assert made.share == pytest.approx(accountant.gaussian_mu(1.5, DELTA) ** 2 / cap.cap.gaussians)
    assert made.added_delta == pytest.approx(made.share * 0.1 * DELTA)
    pool = Ledger.load(cap.place)
    pool.spend(charge(0.999 * pool.remaining))
    with pytest.raises(PrivacyRefused, match=r"0\.\d+ of 3 is left"):
        pool.spend(charge(1.0))
    mine = under(cap, "cardiology")
    assert mine.remaining == pytest.approx(1.5, rel=1e-3)
    mine.spend(charge(1.499))
    assert used(mine) <= 1
    assert mine.epsilon <= 3.0
    assert [entry.event.get("grant") for entry in mine.entries] == [None, None, None, "cardiology"]


def test_a_refusal_says_what_is_left_of_the_grant_and_what_would_fit(cap):
    budgets.grant(cap, "cardiology", 1.2)
    mine = under(cap, "cardiology")
    with pytest.raises(PrivacyRefused) as refused:
        mine.spend(charge(1.5))
    said = str(refused.value)
    assert said.startswith("this run needs epsilon 1.5; 1.")
    assert "of grant 'cardiology' is left. Plan with --epsilon 1." in said
    advice = float(said.split("--epsilon ")[1].rstrip("."))
    mine.spend(charge(advice))
    with pytest.raises(PrivacyRefused, match="of grant 'cardiology' is left"):
        mine.spend(charge(1.0))


def test_more_than_is_left_is_not_granted_and_the_advice_is(cap):
    with pytest.raises(PrivacyRefused) as refused:
        budgets.grant(cap, "all", 3.0)  # the filter keeps a tenth of delta for what plans add
    advice = float(str(refused.value).split("--epsilon ")[1].rstrip("."))
    assert 2.5 < advice < 3.0
    assert len(Ledger.load(cap.place).entries) == 1
    budgets.grant(cap, "all", advice)
    with pytest.raises(
        PrivacyRefused, match=r"epsilon 2; 0\.0\d+ of 3 can be set aside\. Grant --epsilon 0\.0"
    ):
        budgets.grant(cap, "more", 2.0)


def test_the_whole_cap_is_for_a_first_plan_only_where_nothing_is_granted(cap):
    made = budgets.grant(cap, "small", 0.1)
    with pytest.raises(PrivacyRefused, match=r"of 3 is left"):
        cap.spend(charge(3.0))
    budgets.close(cap, made.name)
    cap.spend(charge(3.0))  # by its own figure: the filter is over-full now, and admits no grant
    assert used(cap) > 1
    with pytest.raises(PrivacyRefused, match="Nothing more may be set aside"):
        budgets.grant(cap, "later", 0.01)
    with pytest.raises(PrivacyRefused):
        cap.spend(charge(0.01))


def test_a_grant_that_is_closed_gives_back_what_it_did_not_spend(cap):
    budgets.grant(cap, "a", 2.0)
    mine = under(cap, "a")
    mine.spend(charge(1.0, added=1e-7))
    before = Ledger.load(cap.place).remaining
    budgets.close(cap, "a")
    after = Ledger.load(cap.place)
    assert before < after.remaining < 3.0
    assert after.room().limit == pytest.approx(1 - used(after))
    assert after.room().most == pytest.approx(0.1 * DELTA - 1e-7)
    for closed in (lambda: mine.spend(charge(0.1)), lambda: under(cap, "a"), lambda: budgets.close(cap, "a")):
        with pytest.raises(PrivacyRefused, match="grant 'a' was closed"):
            closed()
    after.spend(charge(0.999 * after.remaining))
    assert used(after) <= 1
    with pytest.raises(UsageError, match="had a grant 'a' before"):
        budgets.grant(cap, "a", 0.1)


def test_a_closed_ledger_is_charged_nothing_more_but_runs_go_on(cap):
    budgets.grant(cap, "a", 1.0)
    cap.spend(charge(0.5))
    reserved = cap.head
    budgets.close(cap)
    mine = under(cap, "a")
    for late in (
        lambda: cap.spend(charge(0.1)),
        lambda: mine.spend(charge(0.1)),
        lambda: mine.check([charge(0.1)[0].event]),
        lambda: budgets.grant(cap, "b", 0.1),
        lambda: budgets.close(cap, "a"),
        lambda: budgets.close(cap),
    ):
        with pytest.raises(PrivacyRefused, match=r"was closed on \d{4}-\d\d-\d\d: nothing may be charged"):
            late()
    cap.resume(reserved, "", "token")
    cap.released("ab" * 32)
    read = Ledger.load(cap.place)
    assert (read.remaining, read.holder(reserved)) == (0.0, "token")
    assert [account.left for account in budgets.accounts(read)] == [0.0]


def test_accounts_say_what_every_grant_spent_and_has(cap):
    assert budgets.accounts(cap) == []
    budgets.grant(cap, "a", 1.0)
    budgets.grant(cap, "b", 1.5, delta=1e-7, added_delta=2e-7)
    under(cap, "a").spend(charge(0.6))
    a, b = budgets.accounts(Ledger.load(cap.place))
    assert a.spent == pytest.approx(0.6)
    mu = [accountant.gaussian_mu(epsilon, DELTA) for epsilon in (1.0, 0.6)]
    assert accountant.gaussian_mu(a.left, DELTA) == pytest.approx(math.sqrt(mu[0] ** 2 - mu[1] ** 2))
    assert (b.spent, b.grant.added_delta, b.grant.delta) == (0.0, 2e-7, 1e-7)
    assert b.left < 1.5  # the same noise, at a larger delta


def test_added_deltas_of_a_grant_have_a_share_of_their_own(cap):
    made = budgets.grant(cap, "a", 1.0)
    mine = under(cap, "a")
    mine.spend(charge(0.1, added=0.9 * made.added_delta))
    with pytest.raises(PrivacyRefused, match="adds more to delta"):
        mine.spend(charge(0.1, "q", added=0.2 * made.added_delta))
    cap.spend(charge(0.1, "r", added=0.1 * DELTA - 1.1 * made.added_delta))
    with pytest.raises(PrivacyRefused, match="adds more to delta"):
        cap.spend(charge(0.1, "s", added=0.2 * made.added_delta))
    with pytest.raises(PrivacyRefused, match="adds more to delta"):
        budgets.grant(cap, "b", 0.1, added_delta=0.9 * 0.1 * DELTA)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "\u2028", "a" * 65])
def test_names_that_are_none_are_refused(cap, name):
    with pytest.raises(UsageError, match="name of a grant"):
        budgets.grant(cap, name, 1.0)


@pytest.mark.parametrize(
    ("epsilon", "delta", "added"),
    [
        (0.0, None, None),
        (math.inf, None, None),
        (1.0, 0.0, None),
        (1.0, None, -1e-9),
        (1.0, None, 1e-3),
        (math.nan, None, None),
    ],
)
def test_numbers_that_make_no_grant_are_refused(cap, epsilon, delta, added):
    with pytest.raises(UsageError):
        budgets.grant(cap, "a", epsilon, delta, added)
    assert len(Ledger.load(cap.place).entries) == 1


def test_only_a_capped_ledger_is_administered_and_only_what_is_there(cap):
    own = Ledger.fresh(DELTA)
    for change in (lambda: budgets.grant(own, "a", 1.0), lambda: budgets.close(own)):
        with pytest.raises(UsageError, match="has no cap"):
            change()
    assert own.grants == {}
    for missing in (lambda: budgets.close(cap, "absent"), lambda: under(cap, "absent")):
        with pytest.raises(UsageError, match="no grant 'absent'"):
            missing()


def test_a_ledger_of_lines_that_was_there_before_can_be_granted(tmp_path):
    """A ledger of an earlier version: its lines, and their hashes, are what they were."""
    old = Ledger.open(tmp_path / "a.jsonl", 3.0, DELTA)
    (tmp_path / "old.ledger").write_text(old.dumps())
    read = Ledger.load(tmp_path / "old.ledger")
    budgets.grant(read, "a", 1.0)
    under(read, "a").spend(charge(0.5))
    assert (tmp_path / "old.ledger").read_text().startswith(old.dumps())
    assert Ledger.load(tmp_path / "old.ledger").events


# --- what a charge became -----------------------------------------------------------------------------------


def test_a_note_names_the_charge_and_the_file_that_it_became(cap, tmp_path):
    (tmp_path / "m.privae").write_bytes(b"a model")
    spending = budgets.to_charge(cap.place, "", ALONE)
    spending.spend(charge(0.5))
    Ledger.load(cap.place).spend(charge(0.5, "another"))
    before = Ledger.load(cap.place)
    said = []
    budgets.note_release(spending, tmp_path / "m.privae", said.append)
    after = Ledger.load(cap.place)
    note = after.entries[-1]
    assert note.event == {
        "reservation": before.entries[1].hash,
        "sha256": hashlib.sha256(b"a model").hexdigest(),
    }
    assert (note.plan_hash, note.epsilon) == ("p", before.entries[-1].epsilon)
    assert (after.epsilon, after.remaining, after.events) == (before.epsilon, before.remaining, before.events)
    assert said == []


def test_a_note_that_fails_is_said_and_the_model_stays(cap, tmp_path, monkeypatch):
    spending, said = budgets.to_charge(cap.place, "", ALONE), []
    spending.spend(charge(0.5))
    budgets.note_release(spending, tmp_path / "absent", said.append)

    def full(*_):
        raise ResourceError("the disk is full")

    (tmp_path / "m.privae").touch()
    monkeypatch.setattr(type(spending._store), "append", full)
    budgets.note_release(spending, tmp_path / "m.privae", said.append)
    budgets.note_release(None, tmp_path / "m.privae", said.append)
    assert [line.rpartition(": ")[2] for line in said] == ["absent cannot be read", "the disk is full"]


def test_a_grant_is_of_a_ledger(cap):
    assert budgets.to_charge(None, "", ALONE) is None
    with pytest.raises(UsageError, match="--ledger"):
        budgets.to_charge(None, "a", ALONE)
    with pytest.raises(UsageError, match="no grant"):
        budgets.to_charge(cap.place, "a", ALONE)


# --- ledgers that were forged -------------------------------------------------------------------------------


def forged(cap, change):
    """The ledger with its last entry changed, and hashed anew."""
    *before, last = Ledger.load(cap.place).entries
    return text_of([*before, last.model_copy(update=change).sealed()])


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "grant a"},
        {"phase": "closed c", "event": {}},
        {"phase": "closed b", "event": {"epsilon": 1.0}},
        {"phase": "closed", "event": {"epsilon": 1.0}},
        {"phase": "open"},
        {"phase": "grant c", "event": {"epsilon": 1.0}},
        {"phase": "released ab", "event": {"reservation": "ab", "sha256": 1.0}},
        {"event": {"epsilon": -1.0, "delta": 1e-5, "share": 0.1, "added_delta": 0.0}},
        {"event": {"epsilon": "1", "delta": 1e-5, "share": 0.1, "added_delta": 0.0}},
        {"event": {}},
        {"phase": "moments", "event": {**Event(1.0).to_dict(), "added_delta": 0.0, "grant": "none"}},
    ],
)
def test_notes_that_do_not_hold_are_found(cap, change):
    budgets.grant(cap, "a", 1.0)
    budgets.grant(cap, "b", 0.5)
    assert Ledger.parse(forged(cap, {})).entries
    with pytest.raises(ArtifactError):
        Ledger.parse(forged(cap, change))


def test_a_grant_that_is_closed_is_not_closed_or_charged_again(cap):
    budgets.grant(cap, "a", 1.0)
    budgets.close(cap, "a")
    last = Ledger.load(cap.place).entries[-1]
    for phase, event in (
        ("closed a", {}),
        ("moments", {**Event(1.0).to_dict(), "added_delta": 0.0, "grant": "a"}),
    ):
        more = last.model_copy(
            update={"index": 3, "previous_hash": last.hash, "phase": phase, "event": event}
        )
        with pytest.raises(ArtifactError, match="not open"):
            Ledger.parse(cap.dumps() + text_of([more.sealed()]))


def test_nothing_stands_after_a_ledger_was_closed(cap):
    budgets.close(cap)
    last = Ledger.load(cap.place).entries[-1]
    more = last.model_copy(update={"index": 2, "previous_hash": last.hash, "phase": "grant a"})
    with pytest.raises(ArtifactError, match="after it was closed"):
        Ledger.parse(cap.dumps() + text_of([more.sealed()]))
