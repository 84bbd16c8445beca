"""The only door to SQLAlchemy: ledgers in a file of SQLite, and in a table of PostgreSQL that teams share."""

import contextlib
import hashlib
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    inspect,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from privae import files
from privae.errors import ArtifactError, PrivaeError, ResourceError, UsageError
from privae.log.store import check_absent, check_one_name

_MAIN = "main"  # the name of a ledger that none was given
_LONGEST = 64  # characters of a ledger's name
_PATIENCE = 600  # seconds that a writer waits for another one, which may be planning
_REACHING = 10  # seconds for a server to answer

_ENTRIES = Table(
    "privae_ledger",
    MetaData(),
    Column("ledger", Text, primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("line", Text, nullable=False),
    sqlite_with_rowid=False,
)
_GROWS = "'a ledger only grows'"
_TRIGGERS = {
    "sqlite": (
        f"CREATE TRIGGER no_update BEFORE UPDATE ON privae_ledger BEGIN SELECT RAISE(ABORT, {_GROWS}); END",
        f"CREATE TRIGGER no_delete BEFORE DELETE ON privae_ledger BEGIN SELECT RAISE(ABORT, {_GROWS}); END",
        # INSERT OR REPLACE deletes rows, and asks no trigger of DELETE
        "CREATE TRIGGER only_next BEFORE INSERT ON privae_ledger WHEN NEW.place <> (SELECT count(*) FROM privae_ledger "  # noqa: S608
        f"WHERE ledger = NEW.ledger) BEGIN SELECT RAISE(ABORT, {_GROWS}); END",
    ),
    "postgresql": (
        "CREATE FUNCTION privae_ledger_grows() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION {_GROWS}; END $$",
        "CREATE TRIGGER only_grows BEFORE UPDATE OR DELETE ON privae_ledger "
        "FOR EACH ROW EXECUTE FUNCTION privae_ledger_grows()",
        "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON privae_ledger "
        "FOR EACH STATEMENT EXECUTE FUNCTION privae_ledger_grows()",
    ),
}
_ANYBODY = "every ledger of this database"  # whose lock is held while the table is made

_UNREADABLE = "{} is not a ledger, or it is damaged; restore a copy"
_FAULTS: dict[
    str, tuple[type[PrivaeError], str]
] = {  # what SQLite and PostgreSQL call it, from its beginning
    "SQLITE_BUSY": (ResourceError, "{} has been in use by another process for too long; try again"),
    "SQLITE_FULL": (
        ResourceError,
        "the disk is full: nothing was written to {}; free some space and run again",
    ),
    "SQLITE_READONLY": (UsageError, "{} cannot be written: permission denied"),
    "SQLITE_CANTOPEN": (
        UsageError,
        "{} cannot be opened; its folder must be writable, and on a disk of this machine, not of a network",
    ),
    "SQLITE_IOERR": (ResourceError, "{}: the disk does not answer; nothing is charged that was not written"),
    "SQLITE_PROTOCOL": (
        ResourceError,
        "{}: its locks do not work on this file system; use a disk of this machine",
    ),
    "SQLITE_CONSTRAINT": (ArtifactError, "{} was written by something else; nothing was charged"),
    "SQLITE_": (ArtifactError, _UNREADABLE),
    "08": (ResourceError, "{}: the server does not answer"),
    "28": (UsageError, "{}: the server does not know this user, or not by this password"),
    "3D": (UsageError, "{}: there is no such database on the server"),
    "3F": (UsageError, "{}: there is no schema to make a table in"),
    "42501": (UsageError, "{}: this user may not do that to the table privae_ledger"),
    "42": (ArtifactError, "{}: the table privae_ledger is not one of ours"),
    "23": (ResourceError, "{}: something else wrote to this ledger; nothing was charged, run again"),
    "53": (ResourceError, "{}: the server has no room or no connection left; try again"),
    "55P03": (ResourceError, "{} has been in use by another process for too long; try again"),
    "57": (ResourceError, "{}: the server ended the connection; try again"),
    "P0001": (ArtifactError, "{} only grows: what is written stays"),
}


@dataclass(frozen=True)
class Database:
    """One ledger, a row a line, in SQLite or PostgreSQL. Rows are added; triggers refuse all else.

    Guarantee: writers come one after another. SQLite: BEGIN IMMEDIATE, a write-ahead log, and a commit that is on the
        disk (synchronous = FULL). PostgreSQL: an advisory lock of the ledger's name that lasts until the transaction
        ends, reads that see everything committed before the lock was had (READ COMMITTED), and synchronous_commit.
        Two writers that a lock did not keep apart would add a row of the same number, which its primary key refuses
        to one of them. A writer that is killed leaves nothing of a transaction that was not committed.
    Not covered: whoever may alter the table can drop its triggers. The chain of hashes shows what is changed then,
        save a new chain from there on, or a missing end (`Ledger`). SQLite on a disk of a network, whose locks and
        shared memory several machines do not share: use PostgreSQL. A server that runs with fsync off.
    """

    url: URL
    name: str = _MAIN

    @classmethod
    def of_file(cls, path: Path) -> "Database":
        """The ledger in a file of SQLite."""
        return cls(URL.create("sqlite", database=str(path)))

    @classmethod
    def of_url(cls, place: str) -> "Database":
        """A ledger in PostgreSQL, by a URL. Errors: UsageError, which does not repeat the URL."""
        try:
            url = make_url(place)
            name = url.query.get("ledger", _MAIN)
        except (ArgumentError, ValueError):
            name = ""
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST or not name.isprintable():
            raise UsageError(
                "the URL of the ledger does not read: postgresql://USER@HOST/DATABASE?ledger=NAME, and in a password "
                "%40 for @, %2F for /, %3A for :"
            )
        return cls(url.set(drivername="postgresql+psycopg").difference_update_query(["ledger"]), name)

    @classmethod
    def lines_in(cls, content: bytes, path: Path) -> str:
        """All lines of a file of SQLite that is in memory, as that of a sealed copy is.

        path: what errors call it. Errors: ArtifactError for one that is damaged.
        """
        read = cls.of_file(path)
        engine = create_engine("sqlite://", creator=lambda: _in_memory(content), poolclass=NullPool)
        with read._told(), engine.connect() as connection:
            return read._text(connection)

    def __repr__(self) -> str:
        return f"Database({self.place!r})"

    @property
    def place(self) -> str:
        """What finds it again: the file; or the URL, without a password, which ~/.pgpass or PGPASSWORD can hold."""
        if self._file:
            return str(self._file)
        secret = [name for name in self.url.query if "password" in name]
        plain = self.url.difference_update_query(secret).set(drivername="postgresql")._replace(password=None)
        return plain.update_query_dict({"ledger": self.name}).render_as_string(hide_password=False)

    def begin(self, text: str) -> None:
        """Make the ledger with its first lines: a file that is whole or absent, or rows of the table."""
        if not self._file:
            with self._writer() as connection:
                self._begin_rows(connection, text)
            return
        files.check_writable(self._file)
        with files.owned(self._file):
            check_absent(self._file)
            _check_no_remains(self._file)
            content = _new_file(text)
            files.write_shared(self._file, content)
            try:
                self.read()  # where it could not be used, somebody should know now
            except PrivaeError:
                self._file.unlink()  # nobody has charged it
                raise

    def read(self) -> str:
        """All lines."""
        if self._file and not self._file.is_file():
            raise UsageError(f"{self._file} cannot be read: no such file or directory")
        with self._told(), self._engine().connect() as connection:
            return self._text(connection)

    @contextlib.contextmanager
    def writing(self) -> Iterator["_Rows"]:
        """Hold the lock in a transaction, which is committed when the block ends well."""
        with self._writer() as connection:
            yield _Rows(self, connection)

    @property
    def _file(self) -> Path | None:
        return Path(self.url.database or "") if self.url.drivername == "sqlite" else None

    @contextlib.contextmanager
    def _writer(self) -> Iterator[Connection]:
        with self._told(), self._engine().connect() as connection:
            transaction = connection.begin()
            self._lock(connection)
            yield connection
            try:
                transaction.commit()
            except DBAPIError:
                raise ResourceError(
                    f"{self.place} was lost while a charge was being written: it may be there or not, and counts if "
                    "it is; see: privae ledger show"
                ) from None

    def _lock(self, connection: Connection) -> None:
        if self._file:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            check_one_name(self._file)
            return
        connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_key(self.name)})")

    def _begin_rows(self, connection: Connection, text: str) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_key(_ANYBODY)})")
        if not inspect(connection).has_table(_ENTRIES.name):
            _make_table(connection)
        if self._rows(connection):
            raise UsageError(f"{self.place} exists, and a ledger is never overwritten; name another one")
        _add(connection, self.name, 0, text)

    def _rows(self, connection: Connection) -> list[Any]:
        chosen = select(_ENTRIES.c.place, _ENTRIES.c.line).where(_ENTRIES.c.ledger == self.name)
        return list(connection.execute(chosen.order_by(_ENTRIES.c.place)))

    def _text(self, connection: Connection) -> str:
        rows = self._rows(connection)
        if not rows and not self._file:
            raise UsageError(f"{self.place}: there is no such ledger; open it with: privae ledger open")
        whole = all(isinstance(line, str) and "\n" not in line for _, line in rows)
        if not whole or [place for place, _ in rows] != list(range(len(rows))):
            raise ArtifactError("an entry of the ledger is missing or was changed; restore a copy")
        return "".join(f"{line}\n" for _, line in rows)

    def _engine(self) -> Engine:
        return _engine(self.url)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the library as ours, in one line, without the URL's password."""
        try:
            yield
        except SQLAlchemyError as error:
            raise self._fault(error) from None

    def _fault(self, error: SQLAlchemyError) -> PrivaeError:
        raised = error.orig if isinstance(error, DBAPIError) else None
        code = str(getattr(raised, "sqlite_errorname", None) or getattr(raised, "sqlstate", None) or "")
        if code == "42P01":
            return UsageError(f"{self.place}: there is no such ledger; open it with: privae ledger open")
        for begins, (kind, text) in _FAULTS.items():
            if code.startswith(begins):
                return kind(text.format(self.place))
        if self._file:
            return ArtifactError(_UNREADABLE.format(self.place))
        return ResourceError(f"{self.place}: the database cannot be reached{self._reason(raised)}")

    def _reason(self, raised: BaseException | None) -> str:
        """What the driver says at the end of its first line, if no part of it is secret."""
        said = str(raised or "").strip().split("\n")[0].rpartition(": ")[2].strip()
        secrets = [
            self.url.password,
            *(value for name, value in self.url.query.items() if "password" in name),
        ]
        return f": {said}" if said and not any(str(secret) in said for secret in secrets if secret) else ""


@dataclass(frozen=True)
class _Rows:
    """A ledger in a transaction that holds its lock."""

    database: Database
    connection: Connection

    def read(self) -> str:
        with self.database._told():
            return self.database._text(self.connection)

    def append(self, text: str) -> None:
        with self.database._told():
            _add(self.connection, self.database.name, len(self.database._rows(self.connection)), text)


def _add(connection: Connection, ledger: str, first: int, text: str) -> None:
    rows = [
        {"ledger": ledger, "place": place, "line": line}
        for place, line in enumerate(text.split("\n")[:-1], first)
    ]
    if rows:
        connection.execute(_ENTRIES.insert(), rows)


def _make_table(connection: Connection) -> None:
    _ENTRIES.create(connection)
    for trigger in _TRIGGERS[connection.dialect.name]:
        connection.exec_driver_sql(trigger)


def _check_no_remains(path: Path) -> None:
    """Raise UsageError for what SQLite left of another ledger: it would read that into the new one."""
    for rest in (path.with_name(path.name + end) for end in ("-wal", "-journal")):
        if rest.exists():
            raise UsageError(f"{rest} is left of an older ledger, which it would bring back; remove it first")


def _new_file(text: str) -> bytes:
    """A whole file of SQLite, with a write-ahead log from its first reader on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new"
        path.touch()
        made = Database.of_file(path)
        with made._told(), made._engine().connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.commit()
            with connection.begin():
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                _make_table(connection)
                _add(connection, made.name, 0, text)
        return path.read_bytes()


@lru_cache(maxsize=16)
def _engine(url: URL) -> Engine:
    """How to reach a database; it keeps no connection, so that processes may fork."""
    if url.drivername == "sqlite":
        return create_engine(url, creator=lambda: _opened(str(url.database)), poolclass=NullPool)
    patience = {} if "connect_timeout" in url.query else {"connect_timeout": _REACHING}
    try:
        return create_engine(
            url,
            poolclass=NullPool,
            isolation_level="READ COMMITTED",
            connect_args=patience,
            hide_parameters=True,
        )
    except ImportError:
        raise UsageError("ledgers in PostgreSQL need an extra: pip install 'privae[postgres]'") from None


def _opened(path: str) -> sqlite3.Connection:
    """A connection to a file that is there, in which every transaction is begun by hand."""
    connection = sqlite3.connect(
        f"file:{quote(path)}?mode=rw", uri=True, timeout=_PATIENCE, isolation_level=None
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _in_memory(content: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    # these bytes say that a log is written ahead, which only a file on a disk can have
    connection.deserialize(content[:18] + b"\1\1" + content[20:])
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _key(name: str) -> int:
    """The number by which PostgreSQL locks a ledger."""
    return int.from_bytes(hashlib.sha256(f"privae ledger {name}".encode()).digest()[:8], "big", signed=True)
