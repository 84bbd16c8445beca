"""The secret of pseudonyms: 32 random bytes in one file that nobody else may read, made when first needed.

Who has it can tell whose a token is, and turn enciphered values back; who loses it can make neither the same tokens
again nor turn anything back.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from privae.errors import ArtifactError, UsageError
from privae.sealing.secrets import SecretFile, settings_file

PLACE = "PRIVAE_PSEUDONYM_KEY_FILE"
"""The environment variable that names another file."""
_BYTES = 32
_TEXT = re.compile(rb"[0-9a-f]{64}\n?")


@dataclass(frozen=True)
class PseudonymKey:
    """The secret, and where it is kept. created: by this call."""

    path: Path
    created: bool
    secret: bytes = field(repr=False, compare=False)


def pseudonym_key(path: Path | None = None, *, make: bool = True) -> PseudonymKey:
    """The secret in a file: by default $PRIVAE_PSEUDONYM_KEY_FILE, or privae/pseudonyms.key in the settings' folder.

    make: where no file is there; else that is an error, for what is to be turned back needs the old one.
    Errors: UsageError for a link, or a file or folder that others may read or write; ArtifactError for no such key.
    """
    where = settings_file(PLACE, "pseudonyms.key") if path is None else path
    if not make and not os.path.lexists(where):
        raise UsageError(f"the key {where} does not exist; name the one that was used with --key")
    content, created = SecretFile(where, PLACE).content(lambda: os.urandom(_BYTES).hex().encode() + b"\n")
    if not _TEXT.fullmatch(content):
        raise ArtifactError(
            f"{where} holds no key of pseudonyms, or a part of one: 64 hexadecimal digits; restore a copy"
        )
    return PseudonymKey(where, created, bytes.fromhex(content.decode().strip()))
