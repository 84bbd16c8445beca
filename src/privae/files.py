"""Files that are whole or absent: atomic writes, content hashes, and the verified .privae container."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from io import BufferedReader, BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from privae.errors import ArtifactError, PrivaeError, ResourceError, UsageError, first_fault
from privae.sealing import envelope, identities, placing
from privae.sealing.header import MAGIC

FORMAT = "privae/1"
SEALED = ".age"
"""At the end of a name: what is in the file is sealed. The name before it says what it is."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
# the zip's comment is the SHA-256 of all bytes before it: zip fields such as dates have no hash of their own
_SEAL = 64
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK = 2**20
_ROOM, _EXPANDED = 2**26, 100  # bytes that any archive may hold, and times its own size beyond
_Model = TypeVar("_Model", bound=BaseModel)


def canonical_json(value: object) -> bytes:
    """One byte string for one value: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def code_version() -> str:
    """The installed version of privae, as plans, ledgers and checkpoints name who wrote them."""
    try:
        return version("privae")
    except PackageNotFoundError:
        return "source"


def inner(path: Path) -> Path:
    """The path as that of what is in a sealed file: without ".age" at its end; its suffix says what that is.

    >>> inner(Path("patients.csv.age")).suffix, inner(Path("patients.csv")).suffix
    ('.csv', '.csv')
    """
    return path.with_suffix("") if path.suffix.lower() == SEALED else path


def opened(path: Path) -> BufferedReader | BytesIO:
    """A file to be read. A sealed one, whatever its name, is opened in memory, with the keys that are at hand.

    Errors: OSError; ArtifactError for a sealed file that no key at hand opens, or that was changed.
    """
    file = path.open("rb")
    if not file.peek(len(MAGIC)).startswith(MAGIC):
        return file
    with file:
        # privacy: what was sealed is on no disk again
        clear = BytesIO()
        try:
            envelope.unseal(file, clear, identities.at_hand(), str(path))
        except UsageError as error:
            raise ArtifactError(str(error)) from None
    clear.seek(0)
    return clear


def check_opens(path: Path, lost: str) -> None:
    """Raise ArtifactError for a sealed file that does not open, and of which no copy may take the place.

    lost: what to do if it is not the key that lacks. privacy: an older copy would release again what is charged once.
    """
    try:
        with contextlib.suppress(OSError), opened(path):
            pass
    except ArtifactError:
        raise ArtifactError(
            f"{path} is sealed and does not open: name its key with --identity; if it is damaged, {lost}"
        ) from None


def content(path: Path) -> bytes:
    """All of a file. Errors: those of `opened`."""
    with opened(path) as file:
        return file.getvalue() if isinstance(file, BytesIO) else file.read()


def text(path: Path, encoding: str = "utf-8") -> str:
    """All of a file of text, its line ends as newlines. Errors: those of `opened`; UnicodeDecodeError."""
    with TextIOWrapper(opened(path), encoding) as file:
        return file.read()


def text_in(path: Path) -> str:
    """The text of a file. Errors: UsageError; ArtifactError for a sealed one that does not open."""
    try:
        return text(path)
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path} cannot be read; check the path") from None


def validated(model: type[_Model], text: str, where: str) -> _Model:
    """What a TOML text says. Errors: UsageError, naming the key."""
    try:
        return made(model, tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not valid TOML: {error}") from None


def made(model: type[_Model], fields: Mapping[str, Any], where: str) -> _Model:
    """What fields say. Errors: UsageError, naming the key."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        at, said = first_fault(error)
        place = ".".join(map(str, at))
        raise UsageError(f"{where}{f': {place}' if place else ''}: {said}") from None


def check_writable(path: Path, *, sealed: bool = True) -> None:
    """Raise UsageError or ResourceError now if `path` could not be written later; sealed: as `write_atomically` does.

    Called before any budget is spent, so that a mistyped output, or public key to seal it to, costs nothing.
    """
    try:
        _check_place(path)
    except OSError as error:
        raise _as_ours(error, path) from None
    if sealed and not identities.towards() and inner(path) != path:
        raise UsageError(
            f"{path.name} is the name of a sealed file; say to whom it is sealed, with --seal-to"
        )


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file, and would be replaced; name a file")
    nearest = next(filter(Path.exists, path.parents), path.parent)
    if nearest.exists() and not nearest.is_dir():
        raise UsageError(f"{nearest} is not a folder; name a file in one")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"the folder {path.parent} may not be written to")


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], *, secret: bool = False, sealed: bool = True
) -> None:
    """Write a file so that readers see the old content or the new one, never a part; see `placing.place`.

    Where the environment names public keys in PRIVAE_SEAL_TO, the file is sealed to these, and `write` gets a file in
    memory. secret: mode 0600, and never anything else. sealed=False: never sealed, for what others read or add to.
    Raises ResourceError when the disk is full, UsageError when the folder cannot be written.
    """
    check_writable(path, sealed=sealed)
    towards = identities.towards() if sealed else ()
    try:
        content = partial(_write_sealed, write, towards) if towards else write
        placing.place(path, content, 0o600 if secret else 0o666 & ~_umask())
    except OSError as error:
        raise _as_ours(error, path) from None


def _write_sealed(write: Callable[[BinaryIO], object], towards: Sequence[str], file: BinaryIO) -> None:
    # privacy: what is to be sealed is on no disk before it is
    clear = BytesIO()
    write(clear)
    clear.seek(0)
    envelope.seal(clear, file, towards)


def write_secretly(path: Path, content: bytes, *, sealed: bool = True) -> None:
    """Write a file atomically that its owner alone may read: mode 0600, and never anything else.

    privacy: for what tells of single records, like the findings of an audit.
    """
    write_atomically(path, lambda file: file.write(content), secret=True, sealed=sealed)


def write_shared(path: Path, content: bytes) -> None:
    """Replace a file that others add to, too: never sealed, for they may have no key. UsageError for a sealed copy."""
    if path.is_file() and envelope.is_sealed(path):
        raise UsageError(f"{path} is sealed, so it is a copy to be read; name the ledger itself")
    write_atomically(path, lambda file: file.write(content), sealed=False)


class Shelf:
    """Named bytes, each whole or absent, for their owner alone: in a folder (modes 0700 and 0600), or in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._kept: dict[str, bytes] = {}
        if folder is not None:
            identities.check_reopened(f"what is kept in {folder}")
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise _as_ours(error, folder) from None

    def get(self, name: str) -> bytes | None:
        """What was put there last; None if nothing was."""
        if self.folder is None:
            return self._kept.get(name)
        try:
            return content(self.folder / name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{self.folder / name} cannot be read: {_reason(error)}") from None

    def put(self, name: str, content: bytes) -> None:
        """Keep content under a name; when this returns, it is on the disk."""
        if self.folder is None:
            self._kept[name] = content
        else:
            write_secretly(self.folder / name, content)


def write_archive(path: Path, members: Mapping[str, bytes], *, packed: bool = True) -> None:
    """Write a zip of `members` plus a manifest of their SHA-256 hashes, atomically.

    packed: deflated, or stored as they are: sooner done, and hardly larger where members are weights.
    """
    write_atomically(path, lambda file: _write_members(file, members, packed=packed))


def archive(members: Mapping[str, bytes]) -> bytes:
    """What `write_archive` writes, in memory."""
    made = BytesIO()
    _write_members(made, members, packed=True)
    return made.getvalue()


def _write_members(file: BinaryIO, members: Mapping[str, bytes], *, packed: bool) -> None:
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    manifest = canonical_json({"format": FORMAT, "sha256": hashes})
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", method) as made:
        made.comment = bytes(_SEAL)
        for name, content in {"manifest.json": manifest, **members}.items():
            made.writestr(zipfile.ZipInfo(name, _EPOCH), content, method)
    end = file.seek(-_SEAL, os.SEEK_END)
    file.seek(0)
    hashed = hashlib.sha256()
    for start in range(0, end, _CHUNK):
        hashed.update(file.read(min(_CHUNK, end - start)))
    file.seek(end)
    file.write(hashed.hexdigest().encode())


def read_archive(path: Path) -> dict[str, bytes]:
    """Members of an archive made by `write_archive`; see `members_of`."""
    try:
        found = content(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {_reason(error)}") from None
    return members_of(found, str(path))


def members_of(content: bytes, path: str) -> dict[str, bytes]:
    """Members of an archive in memory, after every hash was checked; path: what errors call it.

    Raises ArtifactError for anything else than exactly the listed members with the listed hashes.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            known = {info.compress_type for info in archive.infolist()} <= {
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            }
            said = sum(info.file_size for info in archive.infolist())
            if not known or said > max(_ROOM, _EXPANDED * len(content)):
                raise ArtifactError(f"{path} says that it holds far more than it can; do not trust it")
            members = {info.filename: _unpacked(archive, info) for info in archive.infolist()}
        manifest: dict[str, Any] = json.loads(members.pop("manifest.json"))
        form, hashes = manifest["format"], manifest["sha256"]
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, EOFError, OSError, RuntimeError):
        raise ArtifactError(
            f"{path} is not a privae model file, or it is damaged; fit again or restore a copy"
        ) from None
    except PrivaeError:
        raise
    except Exception as error:  # noqa: BLE001  zlib.error and struct.error have no common parent
        raise ArtifactError(f"{path} is damaged ({type(error).__name__}); restore a copy") from None
    if content[-_SEAL:] != _seal(content[:-_SEAL]):
        raise ArtifactError(f"{path} was changed after it was written; restore a copy")
    if form != FORMAT:
        raise ArtifactError(f"{path} has another format version; this privae reads {FORMAT}")
    if {name: hashlib.sha256(body).hexdigest() for name, body in members.items()} != hashes:
        raise ArtifactError(
            f"{path} was changed after it was written: its hashes do not match; restore a copy"
        )
    return members


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member, unpacked no further than the size that it states."""
    with archive.open(info) as file:
        return b"".join(iter(lambda: file.read(min(_CHUNK, info.file_size + 1)), b""))


def remove_remains(path: Path) -> None:
    """Remove what writes of `path` left behind that were killed; call it where nobody else writes that file."""
    for rest in path.parent.glob(f".{glob.escape(path.name)}.*"):
        rest.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, waiting for it. It is on PATH.lock, for each write replaces the file itself."""
    while True:
        with _lock_file(path) as handle:
            if _taken(handle, _lock_of(path), fcntl.LOCK_EX):
                yield
                return


@contextlib.contextmanager
def owned(path: Path) -> Iterator[None]:
    """Be the only process that works with a file; UsageError at once if another does. Leaves no lock behind.

    A killed owner's lock ends with it.
    """
    lock = _lock_of(path)
    with _lock_file(path) as handle:
        if not _taken(handle, lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise UsageError(f"{path} is in use by another process; wait for its end")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _taken(handle: int, lock: Path, how: int) -> bool:
    try:
        fcntl.flock(handle, how)
        # an owner may have ended and removed it since it was opened here; then others may hold a new one
        return os.path.samestat(os.fstat(handle), lock.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    try:
        handle = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        raise ResourceError(
            f"the lock beside {path} cannot be made; check the folder's permissions"
        ) from None
    try:
        yield handle
    finally:
        os.close(handle)


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _seal(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _as_ours(error: OSError, path: Path) -> ResourceError | UsageError:
    if error.errno in _FULL:
        return ResourceError(f"the disk is full: {path} was not written; free some space and run again")
    return UsageError(f"{path} cannot be written: {_reason(error)}")


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
