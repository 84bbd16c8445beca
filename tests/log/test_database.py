"""Ledgers in files of lines, in SQLite and in PostgreSQL: eight writers at once, kills, edits, faults."""

import contextlib
import importlib.util
import itertools
import os
import signal
import sqlite3
import sys
import time
import warnings
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.engine import RootTransaction

from privae.errors import ArtifactError, PrivacyRefused, PrivaeError, ResourceError, UsageError
from privae.log import database, store
from privae.log.database import Database
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event

_SPEC = importlib.util.spec_from_file_location("servers", Path(__file__).with_name("servers.py"))
servers = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(servers)
NAMES = itertools.count()
CHARGE = Charge("plan", "schema", "moments", Event(8.0))


@pytest.fixture(scope="module")
def started():
    """A server of PostgreSQL, once."""
    binaries = servers.programs()
    if binaries is None:
        pytest.skip("no program of a PostgreSQL server is here (Debian's package is called postgresql)")
    with servers.server(binaries) as url:
        yield url


@pytest.fixture(params=["lines", "sqlite", "postgres"])
def place(request, tmp_path):
    """A place for a new ledger, of every kind."""
    if request.param == "postgres":
        return f"{request.getfixturevalue('started')}&ledger=n{next(NAMES)}"
    return str(tmp_path / {"lines": "h.jsonl", "sqlite": "h.ledger"}[request.param])


def forked(work):
    """Run a function in a process of its own that ends without pytest's ending; its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads, which nothing here needs
        child = os.fork()
    if child:
        return child
    try:
        os._exit(work() or 0)
    except BaseException:  # noqa: BLE001
        os._exit(99)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def administer(url, *statements):
    engine = sqlalchemy.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sqlalchemy.NullPool
    )
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_eight_processes_that_spend_at_once_never_overspend(place):
    cap = Ledger.open(place, 1.0, 1e-5)
    most = int(1 / cap.cap.used([CHARGE.event], cap.relation))
    begin, start = os.pipe()

    def spend():
        own, spent = Ledger.load(place), 0
        os.close(start)
        os.read(begin, 1)  # until every writer has closed it: all begin together
        try:
            while True:
                own.spend([CHARGE])
                spent += 1
        except PrivacyRefused:
            return spent

    children = [forked(spend) for _ in range(8)]
    os.close(start)
    spent = [ended(child) for child in children]
    os.close(begin)
    read = Ledger.load(place)
    assert sum(spent) == len(read.events) == most
    assert read.cap.used(read.events, read.relation) <= 1
    assert len({entry.attempt for entry in read.entries}) == most + 1


def test_a_kill_between_charge_and_release_is_charged(place, tmp_path):
    Ledger.open(place, 1.0, 1e-5)
    released = tmp_path / "released"

    def life():
        Ledger.load(place).spend([CHARGE])
        os.kill(os.getpid(), signal.SIGKILL)
        released.touch()

    assert ended(forked(life)) == -signal.SIGKILL
    assert not released.exists()
    assert Ledger.load(place).events == (CHARGE.event,)


def test_a_kill_inside_a_write_charges_nothing_and_holds_nobody_up(place, tmp_path, monkeypatch):
    Ledger.open(place, 1.0, 1e-5)
    released = tmp_path / "released"

    def killed(self, text, real):
        if real is not None:
            real(self, text)
        os.kill(os.getpid(), signal.SIGKILL)

    def life():
        real = database._Rows.append
        monkeypatch.setattr(database._Rows, "append", lambda self, text: killed(self, text, real))
        monkeypatch.setattr(store.Lines, "append", lambda self, text: killed(self, text, None))
        Ledger.load(place).spend([CHARGE])
        released.touch()

    assert ended(forked(life)) == -signal.SIGKILL
    assert not released.exists()
    cap = Ledger.load(place)
    assert cap.events == ()
    cap.spend([CHARGE])
    assert len(Ledger.load(place).events) == 1


@pytest.mark.parametrize("at", [3, 4])
def test_a_kill_at_any_time_never_charges_too_little(tmp_path, at):
    place, released = tmp_path / "h.ledger", tmp_path / "released"
    Ledger.open(place, 9.0, 1e-5)
    released.touch()

    def life():
        own = Ledger.load(place)
        with released.open("ab", buffering=0) as file:
            while True:
                own.spend([CHARGE])
                file.write(b".")

    child = forked(life)
    while released.stat().st_size < at:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    ended(child)
    assert 0 <= len(Ledger.load(place).events) - released.stat().st_size <= 1


def test_what_a_ledger_holds_is_never_overwritten(place):
    cap = Ledger.open(place, 3.0, 1e-5)
    with pytest.raises(UsageError, match="never overwritten"):
        Ledger.open(place, 9.0, 1e-5)
    assert Ledger.load(place).entries == cap.entries
    assert Ledger.load(cap.place).entries == cap.entries


def test_an_error_in_a_write_undoes_it(place):
    cap = Ledger.open(place, 1.0, 1e-5)

    def write():
        with cap._store.writing() as page:
            page.append("a line\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    if not place.endswith(".jsonl"):  # there, a line is written at once, and `Ledger` appends last
        assert Ledger.load(place).entries == cap.entries


# --- SQLite ----------------------------------------------------------------------------------------------


def rows(path, *statements, drop=True):
    """Do to a file of SQLite what somebody with a shell could."""
    connection = sqlite3.connect(path)
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    for name in names if drop else ():
        connection.execute(f"DROP TRIGGER {name}")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.fixture
def spent(tmp_path):
    """A ledger of SQLite with two charges."""
    path = tmp_path / "h.ledger"
    cap = Ledger.open(path, 3.0, 1e-5)
    for _ in range(2):
        cap.spend([CHARGE])
    return path


def test_a_file_of_sqlite_syncs_its_log_and_is_one_file_at_rest(spent):
    assert spent.read_bytes()[:16] == b"SQLite format 3\0"
    connection = database._opened(str(spent))
    said = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    connection.close()
    assert said == ["wal", 2]
    assert [path.name for path in spent.parent.iterdir()] == ["h.ledger"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE privae_ledger SET line = replace(line, '8.0', '90.0')",
        "DELETE FROM privae_ledger WHERE place = 2",
        "INSERT OR REPLACE INTO privae_ledger VALUES ('main', 1, 'a line')",
        "INSERT INTO privae_ledger VALUES ('main', 7, 'a line')",
    ],
)
def test_rows_are_only_added(spent, statement):
    before = Ledger.load(spent).entries
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        rows(spent, statement, drop=False)
    assert Ledger.load(spent).entries == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE privae_ledger SET line = replace(line, '8.0', '90.0')",
        "UPDATE privae_ledger SET line = line || char(10) || '{}' WHERE place = 2",
        "UPDATE privae_ledger SET line = CAST(line AS BLOB) WHERE place = 2",
        "UPDATE privae_ledger SET line = CAST(x'ff' AS TEXT) WHERE place = 2",
        "UPDATE privae_ledger SET place = 3 WHERE place = 2",
        "UPDATE privae_ledger SET ledger = 'another'",
        "DELETE FROM privae_ledger WHERE place = 1",
        "DELETE FROM privae_ledger",
        "DROP TABLE privae_ledger",
        "ALTER TABLE privae_ledger RENAME COLUMN line TO text",
    ],
)
def test_rows_that_were_edited_are_found(spent, statement):
    rows(spent, statement)
    with pytest.raises(ArtifactError):
        Ledger.load(spent)


def test_a_ledger_in_use_may_only_grow(spent):
    cap = Ledger.load(spent)
    rows(spent, "DELETE FROM privae_ledger WHERE place = 2")
    assert len(Ledger.load(spent).entries) == 2  # a chain that was cut off is whole
    with pytest.raises(ArtifactError, match="lost entries"):
        cap.spend([CHARGE])


def test_a_file_with_any_byte_changed_reads_as_it_was_or_not_at_all(spent):
    content, whole = spent.read_bytes(), Ledger.load(spent).entries
    for place in [*range(16, 100, 7), *range(100, len(content), len(content) // 40)]:
        changed = bytearray(content)
        changed[place] ^= 0x15
        spent.write_bytes(changed)
        with contextlib.suppress(ArtifactError, ResourceError, UsageError):
            assert Ledger.load(spent).entries == whole, place
    for length in (16, 100, 5000, len(content) - 4096):
        spent.write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            Ledger.load(spent)


def test_a_full_disk_charges_nothing(spent, monkeypatch):
    real = database._opened

    def small(path):
        connection = real(path)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    cap = Ledger.load(spent)
    database._engine.cache_clear()
    monkeypatch.setattr(database, "_opened", small)
    with pytest.raises(ResourceError, match="disk is full"):
        cap.spend([Charge("plan" * 4000, "schema", "moments", Event(40.0))])
    known = cap.entries
    database._engine.cache_clear()
    monkeypatch.setattr(database, "_opened", real)
    assert Ledger.load(spent).entries == known


def test_a_writer_waits_for_another_and_gives_up_in_one_line(spent, monkeypatch):
    other = sqlite3.connect(spent, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(database, "_PATIENCE", 0.05)
    cap = Ledger.load(spent)  # readers do not wait
    with pytest.raises(ResourceError, match="in use by another process"):
        cap.spend([CHARGE])
    other.close()
    cap.spend([CHARGE])
    assert len(cap.events) == 3


def test_a_commit_whose_outcome_is_unknown_raises_and_can_only_charge_too_much(spent, monkeypatch):
    real = RootTransaction.commit

    def lost(self):
        real(self)
        raise sqlalchemy.exc.OperationalError("COMMIT", {}, sqlite3.OperationalError("lost"))

    cap = Ledger.load(spent)
    monkeypatch.setattr(RootTransaction, "commit", lost)
    with pytest.raises(ResourceError, match="may be there or not"):
        cap.spend([CHARGE])
    monkeypatch.setattr(RootTransaction, "commit", real)
    assert len(Ledger.load(spent).events) == 3
    cap.spend([CHARGE])
    assert len(cap.events) == 4


def test_faults_of_files_are_one_line(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Ledger.load(tmp_path / "absent")
    with pytest.raises(UsageError, match="does not exist"):
        Ledger.open(tmp_path / "no folder" / "h", 1.0, 1e-5)
    with pytest.raises(UsageError, match="a directory"):
        Ledger.open(tmp_path, 1.0, 1e-5)
    sqlite3.connect(tmp_path / "empty").close()
    rows(tmp_path / "foreign", "CREATE TABLE t (a)")
    with pytest.raises(ArtifactError, match="not a ledger"):
        Ledger.load(tmp_path / "foreign")


# --- PostgreSQL ------------------------------------------------------------------------------------------


def test_postgres_only_grows_and_knows_each_ledger_by_name(started):
    one, two = (f"{started}&ledger={name}" for name in ("one", "two"))
    for url, epsilon in ((one, 1.0), (two, 2.0)):
        Ledger.open(url, epsilon, 1e-5)
    Ledger.load(one).spend([CHARGE])
    assert (Ledger.load(two).events, Ledger.load(two).cap.epsilon) == ((), 2.0)
    changes = ("UPDATE privae_ledger SET line = ''", "DELETE FROM privae_ledger", "TRUNCATE privae_ledger")
    for change in changes:
        with pytest.raises(sqlalchemy.exc.DBAPIError, match="only grows"):
            administer(started, change)
    off = "ALTER TABLE privae_ledger DISABLE TRIGGER USER"
    edit = "UPDATE privae_ledger SET line = replace(line, '8.0', '90.0') WHERE ledger = 'one'"
    administer(started, off, edit, off.replace("DISABLE", "ENABLE"))
    with pytest.raises(ArtifactError, match="changed"):
        Ledger.load(one)
    assert Ledger.load(two).cap.epsilon == 2.0


def test_a_connection_that_is_lost_before_the_commit_charges_nothing(started, monkeypatch):
    url = f"{started}&ledger=lost"
    cap, real = Ledger.open(url, 1.0, 1e-5), database._Rows.append

    def lost(self, text):
        real(self, text)
        backend = self.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        administer(started, f"SELECT pg_terminate_backend({backend}, 5000)")

    monkeypatch.setattr(database._Rows, "append", lost)
    with pytest.raises(ResourceError, match="may be there or not"):
        cap.spend([CHARGE])
    monkeypatch.setattr(database._Rows, "append", real)
    assert Ledger.load(url).events == ()
    cap.spend([CHARGE])
    assert Ledger.load(url).events == (CHARGE.event,)


def test_a_strict_default_of_the_server_does_not_let_two_writers_read_the_same(started):
    """Under REPEATABLE READ a writer that waited for the lock would read what was there before it waited."""
    url = f"{started}&ledger=strict"
    strict = "&options=-cdefault_transaction_isolation%3Dserializable%20-csynchronous_commit%3Doff"
    cap = Ledger.open(url + strict, 1.0, 1e-5)
    with Database.of_url(url + strict)._writer() as connection:
        said = [
            connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("transaction_isolation", "synchronous_commit")
        ]
    assert said == ["read committed", "on"]
    assert Ledger.load(url).entries == cap.entries


def test_faults_of_a_server_are_one_line_without_the_password(started, monkeypatch):
    secret = "hunter2%40x"
    faulty = {
        started.replace("me@", f"you:{secret}@"): "does not exist",
        started.replace("/postgres?", "/absent?").replace("me@", f"me:{secret}@"): "does not exist",
        f"postgresql://me:{secret}@127.0.0.1:1/postgres": "cannot be reached",
        f"{started}&password={secret}&ledger=absent": "no such ledger",
        f"{started}&password={secret}&nonsense=1": "cannot be reached",
    }
    for url, said in faulty.items():
        with pytest.raises(PrivaeError, match=said) as refused:
            Ledger.load(url)
        assert "hunter2" not in str(refused.value) + repr(Database.of_url(url)) + Database.of_url(url).place
        assert "\n" not in str(refused.value)
        assert refused.value.__cause__ is None
    monkeypatch.setitem(sys.modules, "psycopg", None)
    database._engine.cache_clear()
    with pytest.raises(UsageError, match=r"privae\[postgres\]"):
        Ledger.load(f"{started}&ledger=extra")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host:port/db",
        "postgresql://me:hunter2@host/db?ledger=a&ledger=b",
        f"postgresql://me:hunter2@host/db?ledger={'a' * 65}",
    ],
)
def test_urls_that_do_not_read_are_not_repeated(url):
    with pytest.raises(UsageError, match="does not read") as refused:
        store.at(url)
    assert "hunter2" not in str(refused.value)
