"""Signing keys: an Ed25519 key in one file that nobody else may read, made when it is first needed."""

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privae.errors import ArtifactError, UsageError
from privae.sealing.secrets import SecretFile, settings_file

PLACE = "PRIVAE_KEY_FILE"
"""The environment variable that names another key file."""

_SHORT, _LONG = 16, 64  # hexadecimal digits of a fingerprint: as shown, and the whole SHA-256
_PUBLIC, _SIGNATURE = 32, 64  # bytes
_PRIME = 2**255 - 19
_EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826  # y of the points of order 8, or its minus
_SMALL = {0, 1, _PRIME - 1, _EIGHTH, _PRIME - _EIGHTH}  # y of all points whose order divides 8


@dataclass(frozen=True)
class SigningKey:
    """A private key, and where it is kept. created: by this call."""

    path: Path
    created: bool
    _secret: Ed25519PrivateKey = field(repr=False, compare=False)

    @property
    def public(self) -> str:
        """The public key, base64 of its 32 bytes."""
        return base64.b64encode(self._secret.public_key().public_bytes_raw()).decode()

    @property
    def fingerprint(self) -> str:
        """The public key in 16 hexadecimal digits."""
        return fingerprint(self.public)

    def sign(self, message: bytes) -> str:
        """The signature of a message, base64."""
        return base64.b64encode(self._secret.sign(message)).decode()


def key_file() -> Path:
    """Where this user's key is kept: $PRIVAE_KEY_FILE, or privae/signing.key in the folder of settings."""
    return settings_file(PLACE, "signing.key")


def signing_key(path: Path | None = None) -> SigningKey:
    """The key in a file (by default that of `key_file`), which is made if it is not there.

    Guarantee: of processes that make it at once, all get one key; no moment shows a part of it, or shows it to others.
    Errors: UsageError for a link, or a file or folder that others may read or write; ArtifactError for no Ed25519 key.
    """
    where = key_file() if path is None else path
    content, created = SecretFile(where, PLACE).content(_fresh)
    return SigningKey(where, created, _parsed(content, where))


def check(public: str, signature: str, message: bytes) -> bool:
    """Whether a signature is that of a message by a key; False for texts that are neither.

    Base64 has several texts for the same bytes: only the one that encoding gives counts. Under a key of small order
    anybody signs anything (RFC 8032 leaves such keys to who verifies), so no signature holds under one.
    """
    key, signed = _decoded(public, _PUBLIC), _decoded(signature, _SIGNATURE)
    if key is None or signed is None or int.from_bytes(key, "little") % 2**255 % _PRIME in _SMALL:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signed, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a public key; short enough to read out."""
    return _digest(public)[:_SHORT]


def pinned(given: str) -> str:
    """A public key, or 16 to 64 digits of its SHA-256, as a person gives it. UsageError for anything else."""
    text = given.strip()
    digits = text.lower()
    if _SHORT <= len(digits) <= _LONG and not set(digits) - set("0123456789abcdef"):
        return digits
    if _decoded(text, _PUBLIC) is None:
        raise UsageError(
            "--key is a public key (44 characters), or its fingerprint (16 or more hexadecimal digits)"
        )
    return text


def matches(pin: str, public: str) -> bool:
    """Whether a public key is the one that `pinned` names."""
    return pin == public or (pin != "" and _digest(public).startswith(pin))


def _digest(public: str) -> str:
    key = _decoded(public, _PUBLIC)
    if key is None:
        raise ArtifactError("the public key does not read; it is base64 of 32 bytes")
    return hashlib.sha256(key).hexdigest()


def _decoded(text: str, size: int) -> bytes | None:
    """The bytes of canonical base64; None for anything else."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if len(found) == size and base64.b64encode(found).decode() == text else None


def _fresh() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _parsed(content: bytes, path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ArtifactError(f"{path} holds no key, or a part of one; restore a copy, or remove it") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ArtifactError(f"{path} holds a key of another kind; privae signs with Ed25519")
    return key
