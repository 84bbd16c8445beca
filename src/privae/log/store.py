"""Where the lines of a ledger are kept: a file of lines, a file of SQLite, or a table in PostgreSQL."""

import contextlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from privae import files
from privae.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from privae.log.database import Database

_SQLITE = b"SQLite format 3\0"
_POSTGRES = re.compile(r"postgres(ql)?(\+psycopg)?://")
_LINES = ".jsonl"


@runtime_checkable
class Page(Protocol):
    """A ledger while its lock is held: nobody else writes to it."""

    def read(self) -> str:
        """All lines, as they are now."""
        ...

    def append(self, text: str) -> None:
        """Add whole lines at the end; they are there when the block of `Store.writing` has ended well."""
        ...


@runtime_checkable
class Store(Protocol):
    """Where one ledger is kept. It knows lines, and nothing of what they say."""

    @property
    def place(self) -> str:
        """What `at` finds it again by, and errors call it: never with a password."""
        ...

    def begin(self, text: str) -> None:
        """Make it, with its first lines. Errors: UsageError if it is there already."""
        ...

    def read(self) -> str:
        """All lines. Errors: UsageError if there is none; ArtifactError for one that is damaged."""
        ...

    def writing(self) -> AbstractContextManager[Page]:
        """Hold the lock, waiting for it; all that the block appends is kept, or on an error nothing of it.

        Guarantee: when the block has ended well, the lines are on the disk. Errors: ResourceError where they could
        not be kept, or where it is not known whether they were.
        """
        ...


@dataclass(frozen=True)
class Lines:
    """A file of lines (JSON Lines), replaced whole at each write, under a lock on PATH.lock."""

    path: Path

    @property
    def place(self) -> str:
        """Its absolute path."""
        return str(self.path)

    def begin(self, text: str) -> None:
        """Write a new file. Errors: UsageError if there is one."""
        files.check_writable(self.path)
        with files.locked(self.path):
            check_absent(self.path)
            self._write(text.encode())

    def read(self) -> str:
        """All lines; also those of a sealed copy, whatever was sealed."""
        try:
            content = files.content(self.path)
            return _database().lines_in(content, self.path) if content[:16] == _SQLITE else content.decode()
        except UnicodeDecodeError:
            raise ArtifactError(f"{self.path} is not a ledger, or it is damaged; restore a copy") from None
        except OSError as error:
            raise _unreadable(self.path, error) from None

    @contextlib.contextmanager
    def writing(self) -> Iterator["Lines"]:
        """Hold the lock of the file. Errors: UsageError for a file of two names."""
        with files.locked(self.path):
            check_one_name(self.path)
            yield self

    def append(self, text: str) -> None:
        """Add lines, within `writing`."""
        self._write((self.read() + text).encode())

    def _write(self, content: bytes) -> None:
        files.write_shared(self.path, content)


def at(place: str | Path) -> Store:
    """The store at a place, there already or not yet.

    place: a file, or postgresql://USER@HOST/DATABASE?ledger=NAME. A file that is there is what it is; a new one is a
    file of lines if its name ends in .jsonl, and SQLite otherwise.
    Errors: UsageError for a place that is none.
    """
    if is_url(place):
        return _database().of_url(str(place))
    path = Path(place).resolve()  # a link would be replaced, and its target never charged
    if _begins_with(path) == _SQLITE:
        return _database().of_file(path)
    return Lines(path) if path.exists() or path.suffix == _LINES else _database().of_file(path)


def is_url(place: str | Path) -> bool:
    """Whether a place is a database of PostgreSQL. Errors: UsageError for a URL of anything else."""
    if _POSTGRES.match(str(place)):
        return True
    if isinstance(place, str) and "://" in place:
        raise UsageError("a ledger is a file, or postgresql://USER@HOST/DATABASE?ledger=NAME")
    return False


def file_of(place: str | None) -> Path | None:
    """The file of a ledger; None for one in PostgreSQL."""
    return None if place is None or is_url(place) else Path(place)


def shown(place: str) -> str:
    """What a ledger is called: as it was given, without the password of a URL."""
    return at(place).place if is_url(place) else place


def check_absent(path: Path) -> None:
    """Raise UsageError if there is a file."""
    if path.exists():
        raise UsageError(f"{path} exists, and a ledger is never overwritten; name another file")


def check_one_name(path: Path) -> None:
    """Raise UsageError for a file that has a second name, a hard link.

    privacy: locks and the write-ahead log go by the name, so who charges it by the other one is not seen, and the cap
    is spent twice.
    """
    if path.is_file() and path.stat().st_nlink > 1:
        raise UsageError(
            f"{path} has a second name (a hard link), by which it could be charged unseen; remove that one"
        )


def _database() -> "type[Database]":
    from privae.log.database import Database  # a second to import, of no use to files of lines

    return Database


def _begins_with(path: Path) -> bytes:
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(len(_SQLITE))
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read: {(error.strerror or 'unknown').lower()}")
