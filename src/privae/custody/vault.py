"""Secrets at rest: bytes encrypted under a passphrase, so that a lost disk or a copied file gives nothing away.

scrypt (RFC 7914) makes a key of 256 bits of the passphrase, AES-256-GCM (NIST SP 800-38D) encrypts and authenticates
under a nonce that is drawn for each file.
"""

import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from privae.errors import ArtifactError, UsageError

PASSPHRASE = "PRIVAE_PASSPHRASE"  # noqa: S105  a name
"""The environment variable that holds a passphrase, where nobody is there to type one."""

SHORTEST = 12
_SALT, _NONCE, _KEY, _TAG = 16, 12, 32, 16  # bytes
_WORK, _BLOCKS = 2**17, 8  # 128 MiB, about half a second


def closed(content: bytes, passphrase: str, bound: bytes) -> bytes:
    """Content, encrypted and bound to public bytes that must be the same when it is opened.

    Errors: UsageError for a passphrase of less than 12 characters.
    """
    check(passphrase)
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    return salt + nonce + AESGCM(_derived(passphrase, salt)).encrypt(nonce, content, bound)


def check(passphrase: str) -> None:
    """Errors: UsageError for a passphrase of less than 12 characters."""
    if len(passphrase) < SHORTEST:
        raise UsageError(f"a passphrase has at least {SHORTEST} characters; several words do well")


def opened(sealed: bytes, passphrase: str, bound: bytes) -> bytes:
    """Inverse of `closed`. Errors: ArtifactError for another passphrase, or bytes that were changed."""
    salt, nonce, rest = sealed[:_SALT], sealed[_SALT : _SALT + _NONCE], sealed[_SALT + _NONCE :]
    try:
        if len(rest) < _TAG:
            raise InvalidTag
        return AESGCM(_derived(passphrase, salt)).decrypt(nonce, rest, bound)
    except InvalidTag:
        raise ArtifactError(
            "the secret does not open: another passphrase, or the file was changed; restore a copy"
        ) from None


def passphrase_from(file: Path | None) -> str | None:
    """A passphrase from a file that only its owner reads, or from the environment; None where there is neither.

    Errors: UsageError for a file that others may read, or that cannot be read.
    """
    if file is None:
        return os.environ.get(PASSPHRASE)
    try:
        if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(f"others may read the passphrase {file}: chmod 600 {file}")
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"the passphrase {file} cannot be read; it is one line of text") from None


def _derived(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=_KEY, n=_WORK, r=_BLOCKS, p=1).derive(passphrase.encode())
