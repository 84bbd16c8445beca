"""Files of secret keys: made whole when first needed, their owner's alone at every moment, and read with suspicion."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privae.errors import ResourceError, UsageError

_MOST = 2**14  # bytes of a key file
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class SecretFile:
    """Where one kind of key is kept. place: the environment variable, or option, that names another file."""

    path: Path
    place: str

    def content(self, make: Callable[[], bytes]) -> tuple[bytes, bool]:
        """What the file holds, and whether this call made it, as it does where no file is there.

        Guarantee: of processes that make it at once, all get one key; no moment shows a part of it, or shows it to
            others.
        Errors: UsageError for a link, or a file or folder that others may read or write; ResourceError.
        """
        created = not os.path.lexists(self.path) and self._make(make())
        _check_folder(self.path.parent)
        return self.read(), created

    def create(self, secret: bytes) -> bool:
        """Make the file, mode 0600, whole or not at all; False where there is one, which stays as it is.

        Errors: UsageError, ResourceError.
        """
        try:
            return _placed(secret, self.path)
        except OSError as error:
            raise self._refused(error) from None

    def read(self) -> bytes:
        """What the file holds.

        Errors: UsageError for a link, for what is no regular file, and for a file that others may read or write.
        """
        try:
            # a link may lead to a file of somebody else's choice; a pipe would be waited for
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UsageError(
                    f"the key {self.path} is a symbolic link; name the file itself in {self.place}"
                ) from None
            raise UsageError(f"the key {self.path} cannot be read: {_reason(error)}") from None
        try:
            self._check_own(os.fstat(handle))
            return os.read(handle, _MOST)
        finally:
            os.close(handle)

    def _make(self, secret: bytes) -> bool:
        """Make the file, and its folder; False where another process came first."""
        try:
            _make_folder(self.path.parent)
        except OSError as error:
            raise self._refused(error) from None
        _check_folder(self.path.parent)
        return self.create(secret)

    def _refused(self, error: OSError) -> ResourceError | UsageError:
        if error.errno in _FULL:
            return ResourceError(f"the disk is full: no key was written to {self.path.parent}")
        return UsageError(
            f"no key can be written to {self.path}: {_reason(error)}; name another in {self.place}"
        )

    def _check_own(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(
                f"{self.path} is not a regular file, so it holds no key; name another in {self.place}"
            )
        if found.st_uid != os.geteuid():
            raise UsageError(f"the key {self.path} belongs to another user; name your own in {self.place}")
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(
                f"others may read the key {self.path}: if one of them did, make a new key; else run: "
                f"chmod 600 {self.path}"
            )


def settings_file(place: str, name: str) -> Path:
    """Where this user's key is kept: what the variable `place` names, or privae/`name` in the folder of settings.

    Errors: UsageError for a path that is not absolute, or where no home folder is known.
    """
    named = os.environ.get(place)
    if named:
        if not Path(named).is_absolute():
            raise UsageError(f"{place} must be an absolute path, so that the key is the same in every folder")
        return Path(named)
    settings = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not settings.is_absolute():
        try:
            settings = Path.home() / ".config"
        except RuntimeError:
            raise UsageError(f"no home folder is known; name the key's file in {place}") from None
    return settings / "privae" / name


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


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each its owner's alone; what is there stays as it is."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(0o700, exist_ok=True)


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which somebody else could put another file in the key's place."""
    try:
        found = folder.stat()
    except OSError as error:
        raise UsageError(f"the folder {folder} of a key cannot be read: {_reason(error)}") from None
    open_to_all = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    if open_to_all or found.st_uid not in (0, os.geteuid()):
        raise UsageError(
            f"others may replace files in {folder}, so no key is kept there; run: chmod go-w {folder}"
        )


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
