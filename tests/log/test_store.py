"""Places of ledgers, entries in a row, notes, and rooms."""

import contextlib
import re

import pytest

from privae.errors import ArtifactError, UsageError
from privae.log import grants, rooms, store
from privae.log.database import Database
from privae.log.entry import GENESIS, Entry, following, parsed, text_of
from privae.log.grants import Grant
from privae.log.store import Lines
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event

FIELDS = {
    "plan_hash": "p",
    "schema_hash": "s",
    "unit": "record",
    "relation": "add_or_remove",
    "phase": "moments",
}
FIELDS |= {"event": {"added_delta": 0.0}, "epsilon": 1.0, "delta": 1e-5, "attempt": 1}


def test_a_file_is_what_it_is_and_a_new_one_goes_by_its_name(tmp_path):
    assert store.at(tmp_path / "a.jsonl") == Lines(tmp_path / "a.jsonl")
    assert store.at(str(tmp_path / "a.ledger")) == Database.of_file(tmp_path / "a.ledger")
    (tmp_path / "old.ledger").write_text("a line\n")
    assert isinstance(store.at(tmp_path / "old.ledger"), Lines)
    store.at(tmp_path / "new").begin("a line\n")
    (tmp_path / "new").rename(tmp_path / "new.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "new.jsonl")
    for name in ("new.jsonl", "link"):
        found = store.at(tmp_path / name)
        assert isinstance(found, Database)
        assert (found.place, found.read()) == (str(tmp_path / "new.jsonl"), "a line\n")
    assert repr(found) == f"Database({found.place!r})"


def test_a_url_is_called_without_its_password():
    url = "postgres://me:hunter2@db.example:5433/privacy?ledger=hospital&sslmode=require&sslpassword=hunter2"
    plain = "postgresql://me@db.example:5433/privacy?ledger=hospital&sslmode=require"
    assert store.at(url).place == store.shown(url) == plain
    assert store.at(plain).place == plain
    assert store.at("postgresql://db.example/privacy").place == "postgresql://db.example/privacy?ledger=main"
    assert (store.file_of(url), store.file_of(None)) == (None, None)
    assert store.file_of("h.ledger").name == store.shown("h.ledger") == "h.ledger"


@pytest.mark.parametrize("place", ["mysql://me@host/db", "sqlite:///h.ledger", "http://host/ledger"])
def test_other_urls_are_no_ledgers(place):
    with pytest.raises(UsageError, match="a ledger is a file, or postgresql"):
        store.at(place)


def test_entries_follow_one_another_by_hash():
    first = following(None, **FIELDS)
    second = following(first, **FIELDS)
    assert (first.index, first.previous_hash, second.index, second.previous_hash) == (
        0,
        GENESIS,
        1,
        first.hash,
    )
    text = text_of([first, second])
    assert parsed(text) == [first, second]
    for broken in ("", text[:-1], text_of([second]), text_of([second, first]), text.replace("1.0", "2.0", 1)):
        with pytest.raises(ArtifactError):
            parsed(broken)


def test_only_notes_are_notes():
    notes = (grants.OPEN, grants.CLOSED, grants.granted("a"), grants.closed("a"), grants.released("ab" * 32))
    assert all(map(grants.is_note, notes))
    assert not any(map(grants.is_note, ("moments", "opened", "grants", grants.resumed("ab" * 32) + "token")))
    assert all(map(grants.is_reserved, (*notes, grants.resumed("ab" * 32) + "token")))


def test_the_pool_has_what_no_grant_has_and_no_closed_one_spent():
    made = {name: Grant(name, 1.0, 1e-5, share, 1e-7 * share) for name, share in (("a", 0.25), ("b", 0.5))}
    free = rooms.room("", {}, {}, 1e-6)
    assert (free.limit, free.most, free.alone) == (1.0, 1e-6, True)
    taken = {"a": (0.125, 1e-9), "": (0.0625, 2e-9)}
    pool = rooms.room("", made, taken, 1e-6)
    assert not pool.alone
    assert pool.limit == pytest.approx(0.25)
    assert pool.left == pytest.approx(0.1875)
    assert pool.most == pytest.approx(1e-6 - 0.75e-7)
    assert pool.holds(0.18, 0.0)
    assert not pool.holds(0.19, 0.0)
    assert not pool.holds(0.1, 1e-6)
    closed = rooms.room("", made | {"a": Grant("a", 1.0, 1e-5, 0.25, 1e-7, closed=True)}, taken, 1e-6)
    assert closed.limit == pytest.approx(0.375)
    mine = rooms.room("a", made, taken, 1e-6)
    assert (mine.used, mine.limit, mine.left) == (0.125, 0.25, 0.125)
    over = rooms.room("", {}, {"": (1.5, 0.0)}, 1e-6)
    assert (over.left, over.alone, over.holds(0.0, 0.0)) == (0.0, False, False)


def test_the_smallest_factor_is_found_from_both_sides():
    for least in (1e-4, 0.3, 1.0, 700.0):
        assert least <= rooms.smallest(lambda factor, least=least: factor >= least) <= 1.001 * least
    assert rooms.smallest(lambda _: False) == float("inf")


@pytest.mark.parametrize("name", ["h.jsonl", "h.ledger"])
def test_a_ledger_of_two_names_is_not_charged_for_each_would_have_a_log_of_its_own(tmp_path, name):
    Ledger.open(tmp_path / name, 1.0, 1e-5)
    (tmp_path / "other").hardlink_to(tmp_path / name)
    for one in (name, "other"):
        with pytest.raises(UsageError, match="second name"):
            Ledger.load(tmp_path / one).spend([Charge("p", "s", "m", Event(50.0))])
    (tmp_path / "other").unlink()
    Ledger.load(tmp_path / name).spend([Charge("p", "s", "m", Event(50.0))])


@pytest.mark.parametrize("end", ["-wal", "-journal"])
def test_what_is_left_of_an_older_ledger_is_not_read_into_a_new_one(tmp_path, end):
    (tmp_path / f"h.ledger{end}").write_bytes(b"left")
    with pytest.raises(UsageError, match="left of an older ledger"):
        Ledger.open(tmp_path / "h.ledger", 1.0, 1e-5)
    assert not (tmp_path / "h.ledger").exists()


NO_NUMBERS = [
    *(("noise_multiplier", number) for number in ("NaN", "Infinity", "1e999", "9" * 400)),
    *(("steps", number) for number in ("NaN", "9" * 400)),
    *(("delta", number) for number in ("NaN", "-1.0", "0.0", "1.0")),
    ("epsilon", "NaN"),
]


@pytest.mark.parametrize(("field", "number"), NO_NUMBERS)
def test_a_number_that_is_none_is_one_line_of_ours(field, number):
    own = Ledger.fresh(1e-5)
    own.spend([Charge("p", "s", "m", Event(3.0))])
    line = re.sub(rf'"{field}":[^,}}]+', f'"{field}":{number}', own.dumps())
    with pytest.raises(ArtifactError):
        Ledger.parse(line)
    with contextlib.suppress(ValueError):  # with a hash of its own, where one can be computed
        made = Entry.model_validate_json(line).sealed()
        with pytest.raises(ArtifactError):
            Ledger.parse(text_of([made]))


@pytest.mark.parametrize(
    "terms",
    [
        ("epsilon", -1.0),
        ("epsilon", "inf"),
        ("epsilon", "nan"),
        ("epsilon", 10**400),
        ("order", 0.5),
        ("order", "x"),
    ],
)
def test_a_cap_that_caps_nothing_is_refused(tmp_path, terms):
    first = Ledger.open(tmp_path / "h.jsonl", 1.0, 1e-5).entries[0]
    made = first.model_copy(update={"event": {**first.event, terms[0]: terms[1]}}).sealed()
    with pytest.raises(ArtifactError):
        Ledger.parse(text_of([made]))


def test_what_a_run_became_is_not_noted_where_a_note_has_no_place(tmp_path):
    own = Ledger.fresh(1e-5)
    own.spend([Charge("p", "s", "m", Event(3.0))])
    (tmp_path / "own.jsonl").write_text(own.dumps())
    found = Ledger.load(tmp_path / "own.jsonl")
    found.spend([Charge("p", "s", "n", Event(3.0))])
    with pytest.raises(UsageError, match="no cap"):
        found.released("0" * 64)
    Ledger.load(tmp_path / "own.jsonl")
