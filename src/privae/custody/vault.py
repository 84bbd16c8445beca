"""Secrets at rest: bytes encrypted under a passphrase, so that a lost disk or a copied file gives nothing away.

scrypt (RFC 7914) makes a key of 256 bits of the passphrase, AES-256-GCM (NIST SP 800-38D) encrypts and authenticates
under a nonce that is drawn for each file.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from privae.errors import ArtifactError
from privae.sealing.identities import check_passphrase

_SALT, _NONCE, _KEY, _TAG = 16, 12, 32, 16  # bytes
_WORK, _BLOCKS = 2**17, 8  # 128 MiB, about half a second


def closed(content: bytes, passphrase: str, bound: bytes) -> bytes:
    """Content, encrypted and bound to public bytes that must be the same when it is opened.

    Errors: UsageError for a passphrase of less than 12 characters.
    """
    check_passphrase(passphrase)
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    return salt + nonce + AESGCM(_derived(passphrase, salt)).encrypt(nonce, content, bound)


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


def _derived(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=_KEY, n=_WORK, r=_BLOCKS, p=1).derive(passphrase.encode())
