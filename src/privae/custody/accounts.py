"""The private key of an account on a blockchain: from a file of its owner's alone, or from the environment."""

import errno
import os
import re
import stat
from pathlib import Path

from privae.errors import UsageError

PLACE = "PRIVAE_EVM_KEY"
"""The environment variable that holds the key itself, where no file is named."""

_DIGITS = re.compile("(0x)?([0-9a-fA-F]{64})")
_MOST = 2**10  # bytes of a key file
_ORDER = (
    0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141  # of secp256k1 (SEC 2, 2.4.1)
)


def private_key(path: Path | None) -> bytes:
    """The 32 bytes of a private key: 64 hexadecimal digits in a file, or in $PRIVAE_EVM_KEY where path is None.

    Errors: UsageError for no key at all, no digits, a link, a file of somebody else's, or one that others may read.
    Guarantee: no message holds anything of what was read.
    """
    where = f"the environment variable {PLACE}" if path is None else str(path)
    text = os.environ.get(PLACE, "") if path is None else _read(path)
    if path is None and not text:
        raise UsageError(
            f"an account signs: name the file of its private key with --key-file, or set {PLACE}"
        )
    found = _DIGITS.fullmatch(text.strip())
    if found is None or not 0 < int(found[2], 16) < _ORDER:
        raise UsageError(f"{where} holds no private key of an account; it is 64 hexadecimal digits")
    return bytes.fromhex(found[2])


def _read(path: Path) -> str:
    try:
        # a link may lead to a file of somebody else's choice; a pipe would be waited for
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(f"the key {path} is a symbolic link; name the file itself") from None
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"the key {path} cannot be read: {reason}") from None
    try:
        _check_own(os.fstat(handle), path)
        return os.read(handle, _MOST).decode(errors="replace")
    finally:
        os.close(handle)


def _check_own(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a regular file, so it holds no key")
    if found.st_uid != os.geteuid():
        raise UsageError(f"the key {path} belongs to another user; use an account of your own")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"others may read the key {path}: if somebody did, use another account; if not, chmod 600 {path}"
        )
