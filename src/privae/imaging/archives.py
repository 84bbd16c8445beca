"""Many files as one input, read one by one in memory: a file, a folder, a zip; and a folder that appears whole."""

import contextlib
import errno
import io
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from privae import files
from privae.errors import DataError, ResourceError, UsageError
from privae.sealing import is_sealed
from privae.sealing.placing import sync_folder

MOST_FILES = 100_000
"""In a folder or a zip."""

MOST_BYTES = 2**29
"""Of one file, unpacked."""

_ROOM, _EXPANDED = 2**26, 100  # bytes that any zip may unpack to, and times its own size beyond
_CHUNK = 2**20
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_DRIVE = re.compile(r"^[A-Za-z]:")
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


@dataclass(frozen=True)
class Source:
    """Files that wait to be read. names: their paths, sorted. skipped: links and hidden files, which are not read."""

    names: tuple[str, ...]
    skipped: int
    read: Callable[[int], bytes]
    """The content of a file by its place among the names. Errors: DataError."""

    def __iter__(self) -> Iterator[bytes]:
        return map(self.read, range(len(self.names)))


def source_of(path: Path) -> Source:
    """What is to be read: a file, all files of a folder and those below it, or the members of a zip.

    Guarantee: nothing is written anywhere; links are not followed; no more than `MOST_BYTES` of a file are read.
    Errors: UsageError for what cannot be opened; DataError, in one line, for a zip with anything odd in it.
    """
    if path.is_dir():
        return _folder(path)
    content = _read(path, f"{path}")
    if content.startswith(_ZIP):
        return _zip(content, path.name)
    return Source((path.name,), 0, lambda _: content)


def is_zip(content: bytes) -> bool:
    """Whether bytes are a zip, by their first bytes."""
    return content.startswith(_ZIP)


def _folder(folder: Path) -> Source:
    found: list[str] = []
    skipped = 0
    for place, folders, names in os.walk(folder, followlinks=False, onerror=_unreadable):
        inside = Path(place)
        hidden = [name for name in folders if _is_hidden(name) or (inside / name).is_symlink()]
        folders[:] = sorted(set(folders) - set(hidden))
        plain = [name for name in names if not _is_hidden(name) and not (inside / name).is_symlink()]
        skipped += len(hidden) + len(names) - len(plain)
        found += [(inside / name).relative_to(folder).as_posix() for name in plain]
        if len(found) > MOST_FILES:
            raise DataError(f"{folder} holds more than {MOST_FILES:,} files; take them in parts")
    names_found = tuple(sorted(found))
    return Source(
        names_found, skipped, lambda at: _read(folder / names_found[at], f"file {at + 1} of {folder.name}")
    )


def _unreadable(error: OSError) -> None:
    raise UsageError(f"a folder cannot be read: {_reason(error)}; check its permissions") from None


def _read(path: Path, where: str) -> bytes:
    """The whole content of a regular file."""
    try:
        # a pipe would be waited for; what became a link since the folder was listed is not followed
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UsageError(f"{where} is not a regular file; take it out")
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{where} does not exist; check the path") from None
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {_reason(error)}") from None
    if is_sealed(path):
        content = files.content(path)
    if len(content) > MOST_BYTES:
        raise DataError(f"{where} has more than {MOST_BYTES:,} bytes; no image here is so large")
    return content


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a symbolic link; name the file itself"
    return (error.strerror or type(error).__name__).lower()


def _zip(content: bytes, name: str) -> Source:
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        infos = archive.infolist()
    except _BROKEN:
        raise DataError(f"{name} is a damaged or truncated zip; restore a copy") from None
    _check_whole(infos, len(content), name)
    for at, info in enumerate(infos, start=1):
        _check_member(info, f"{name}: member {at}")
    if len({info.filename for info in infos}) < len(infos):
        raise DataError(f"{name} holds two members of one name; zip the files again")
    inside = [info for info in infos if not info.is_dir()]
    plain = sorted(
        (info for info in inside if not any(_is_hidden(part) for part in info.filename.split("/"))),
        key=lambda info: info.filename,
    )
    return Source(
        tuple(info.filename for info in plain),
        len(inside) - len(plain),
        lambda at: _unpacked(archive, plain[at], f"file {at + 1} of {name}"),
    )


def _check_whole(infos: Sequence[zipfile.ZipInfo], size: int, name: str) -> None:
    if len(infos) > MOST_FILES:
        raise DataError(f"{name} holds more than {MOST_FILES:,} members; take them in parts")
    said, packed = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    if said > max(_ROOM, _EXPANDED * size) or packed > size:
        raise DataError(f"{name} says that it holds far more than it can (a zip bomb); do not trust it")


def _check_member(info: zipfile.ZipInfo, where: str) -> None:
    """Refuse what no zip of images needs. privacy: the name is not said, for it may be a patient's."""
    given = info.orig_filename
    parts = info.filename.split("/")
    if info.filename.startswith("/") or ".." in parts or "\\" in given or _DRIVE.match(given):
        raise DataError(f"{where} has a name that leads out of the zip; do not trust it")
    if any(ord(letter) < 32 for letter in given):
        raise DataError(f"{where} has a name with control characters; do not trust it")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"{where} is a link or a device; zip the files themselves")
    if info.flag_bits & 0x1:
        raise DataError(f"{where} is encrypted; unpack it first, and name the folder")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{where} is packed by a rare method; zip the files anew with deflate")
    if info.file_size > MOST_BYTES:
        raise DataError(f"{where} has more than {MOST_BYTES:,} bytes; no image here is so large")


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> bytes:
    """A member, unpacked no further than the size that it states, against its checksum."""
    try:
        with archive.open(info) as file:
            content = b"".join(iter(lambda: file.read(min(_CHUNK, info.file_size + 1)), b""))
    except _BROKEN:
        raise DataError(f"{where} is damaged, or larger than the zip says; restore a copy") from None
    if len(content) != info.file_size:
        raise DataError(f"{where} is shorter than the zip says; restore a copy")
    if is_zip(content):
        raise DataError(f"{where} is a zip in a zip; unpack it first")
    return content


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def check_new(folder: Path) -> None:
    """Raise UsageError for a folder that is there already, or could not be made."""
    if os.path.lexists(folder):
        raise UsageError(f"{folder} exists; name a new folder, for nothing is mixed or replaced")
    files.check_writable(folder)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new folder that appears under its name whole, when the block ends without an error, or not at all.

    It is filled under a hidden name beside; a process that is killed may leave that one behind.
    Errors: UsageError where something has the name already, or it cannot be written; ResourceError for a full disk.
    """
    check_new(folder)
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield made
            mask = os.umask(0)
            os.umask(mask)
            made.chmod(0o777 & ~mask)
            sync_folder(made)
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        sync_folder(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(f"the disk is full: {folder} was not written; free some space") from None
        raise UsageError(f"{folder} cannot be written: {_reason(error)}") from None
