"""The private key of an account on a blockchain: from a file of its owner's alone, or from the environment."""

import os
import re
from pathlib import Path

from privae.errors import UsageError
from privae.sealing.secrets import SecretFile

PLACE = "PRIVAE_EVM_KEY"
"""The environment variable that holds the key itself, where no file is named."""

_DIGITS = re.compile("(0x)?([0-9a-fA-F]{64})")
_ORDER = (
    0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141  # of secp256k1 (SEC 2, 2.4.1)
)


def private_key(path: Path | None) -> bytes:
    """The 32 bytes of a private key: 64 hexadecimal digits in a file, or in $PRIVAE_EVM_KEY where path is None.

    Errors: UsageError for no key at all, no digits, a link, a file of somebody else's, or one that others may read.
    Guarantee: no message holds anything of what was read.
    """
    where = f"the environment variable {PLACE}" if path is None else str(path)
    text = (
        os.environ.get(PLACE, "")
        if path is None
        else SecretFile(path, "--key-file").read().decode(errors="replace")
    )
    if path is None and not text:
        raise UsageError(
            f"an account signs: name the file of its private key with --key-file, or set {PLACE}"
        )
    found = _DIGITS.fullmatch(text.strip())
    if found is None or not 0 < int(found[2], 16) < _ORDER:
        raise UsageError(f"{where} holds no private key of an account; it is 64 hexadecimal digits")
    return bytes.fromhex(found[2])
