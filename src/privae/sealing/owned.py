"""Files of secrets: each its owner's alone at every moment, whole or absent, and read only if nobody else may."""

import errno
import os
import stat
import tempfile
from pathlib import Path

from privae.errors import ResourceError, UsageError

_MOST = 2**14  # bytes of a key file
_FULL = {errno.ENOSPC, errno.EDQUOT}


def read(path: Path, variable: str) -> bytes:
    """The content of a key file. variable: that of the environment which names another file.

    Errors: UsageError for a link, for what is no regular file, and for a file that others may read or write.
    """
    try:
        # a link may lead to a file of somebody else's choice; a pipe would be waited for
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(
                f"the key {path} is a symbolic link; name the file itself in {variable}"
            ) from None
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"the key {path} cannot be read: {reason}") from None
    try:
        _check_own(os.fstat(handle), path, variable)
        return os.read(handle, _MOST)
    finally:
        os.close(handle)


def create(secret: bytes, path: Path, variable: str) -> bool:
    """Make a key file, mode 0600, whole or not at all; False where there is one, which stays as it is."""
    try:
        return _placed(secret, path)
    except OSError as error:
        raise refused(error, path, variable) from None


def refused(error: OSError, path: Path, variable: str) -> ResourceError | UsageError:
    """Why a key file cannot be made, as an error of ours."""
    if error.errno in _FULL:
        return ResourceError(f"the disk is full: no key was written to {path.parent}")
    reason = (error.strerror or type(error).__name__).lower()
    return UsageError(f"no key can be written to {path}: {reason}; name another in {variable}")


def _placed(secret: bytes, path: Path) -> bool:
    # privacy: mkstemp's file is its owner's alone from the start; a link puts it in place whole, and never over another
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path, follow_symlinks=False)
    except FileExistsError:
        return False
    finally:
        Path(name).unlink(missing_ok=True)
    return True


def _check_own(found: os.stat_result, path: Path, variable: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a regular file, so it holds no key; name another in {variable}")
    if found.st_uid != os.geteuid():
        raise UsageError(f"the key {path} belongs to another user; name your own in {variable}")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"others may read the key {path}: if one of them did, make a new key; else run: chmod 600 {path}"
        )
