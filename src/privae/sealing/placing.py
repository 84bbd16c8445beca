"""Files that appear whole: written without a name, and named when all of it is on the disk."""

import errno
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_NO_UNNAMED = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
_PROC = "/proc/self/fd"


def place(path: Path, write: Callable[[BinaryIO], object], mode: int) -> None:
    """Write a file of these permissions so that readers see the old content or the new one, never a part.

    Guarantee: until all of it is on the disk, the content is in a file that has no name (O_TMPFILE), which the system
        takes away when the process ends, by whatever death. Where the file system has no such files, it is in a hidden
        one of mode 0600 in the same folder, which is removed on every failure, but not on kill -9.
    Errors: OSError, and what `write` raises.
    """
    handle, name = _begun(path)
    try:
        with os.fdopen(handle, "w+b") as file:
            write(file)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
            name = name or _named(handle, path)
        if name:
            Path(name).replace(path)
    except BaseException:
        if name:
            Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _begun(path: Path) -> tuple[int, str]:
    """An open file, and its name; "" for one without."""
    if hasattr(os, "O_TMPFILE") and Path(_PROC).is_dir():
        try:
            return os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), ""
        except OSError as error:
            if error.errno not in _NO_UNNAMED:
                raise
    return tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)


def _named(handle: int, path: Path) -> str:
    """Give a file its place, if that is free: ""; else a name beside it, from where it takes the place."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    for name in (path, beside):
        try:
            # follow_symlinks is heeded where a folder is given, too; the link's target is the file without a name
            os.link(f"{_PROC}/{handle}", name, src_dir_fd=handle, follow_symlinks=True)
        except FileExistsError:
            continue
        return "" if name == path else str(name)
    raise FileExistsError(errno.EEXIST, "the name is taken", str(path))
