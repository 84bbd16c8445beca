"""The header of an age file: who may open it. Read, checked and written anew, so that keys change and no payload does.

An age file (age-encryption.org/v1; C2SP, github.com/C2SP/C2SP, age.md) is a text header and a binary payload. The
payload is encrypted under a file key of 128 bits, drawn for this file. The header holds the file key once for each
recipient, each time encrypted to that recipient (a stanza), and a MAC over all of this under the file key.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

MAGIC = b"age-encryption.org/v1\n"
"""The first bytes of a sealed file."""

_STANZA, _END = b"-> ", b"---"
_X25519, _SCRYPT = "X25519", "scrypt"
_INFO, _SALT_INFO = b"age-encryption.org/v1/X25519", b"age-encryption.org/v1/scrypt"
_NONCE = bytes(12)  # a wrapping key encrypts one message in its life
_FILE_KEY, _SALT, _WRAPPED, _SHARE = 16, 16, 32, 32  # bytes
_COLUMNS = 64  # of a line of a stanza's body
_MOST_LINES, _LONGEST_LINE = 10_000, 4096
_WORK, _MOST_WORK = 17, 20  # log2 of scrypt's N: written (128 MiB), and read at most (1 GiB)


@dataclass(frozen=True)
class Stanza:
    """The file key for one recipient: its kind, public arguments, and the encrypted key."""

    kind: str
    arguments: tuple[str, ...]
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Header:
    """A header as it was read. raw: all of its bytes; signed: those that the MAC is over."""

    stanzas: tuple[Stanza, ...]
    signed: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    raw: bytes = field(repr=False)

    @property
    def by_passphrase(self) -> bool:
        """Whether a passphrase opens it, and no key."""
        return [stanza.kind for stanza in self.stanzas] == [_SCRYPT]


def read(file: BinaryIO) -> Header:
    """The header at the beginning of a file, which is then at its payload. Errors: ValueError for none."""
    lines = _lines(file)
    raw = [next(lines)]
    if raw[0] != MAGIC:
        raise ValueError("no header of age")
    stanzas: list[Stanza] = []
    for line in lines:
        raw.append(line)
        if line.startswith(_END):
            signed = b"".join(raw)[: -len(line)] + _END
            mac = _decoded(line[len(_END) :].decode("ascii").removeprefix(" ").removesuffix("\n"))
            return Header(tuple(stanzas), signed, mac, b"".join(raw))
        stanzas.append(_stanza(line, lines, raw))
    raise ValueError("no end of the header")


def file_key(header: Header, keys: Sequence[bytes], passphrase: str | None = None) -> bytes | None:
    """The file key [16 bytes] that one of these X25519 secrets [32 bytes each], or a passphrase, opens; None for none.

    Guarantee: the header is the one that was written by somebody who knew the file key.
    """
    for stanza in header.stanzas:
        for found in _tried(stanza, keys, passphrase if header.by_passphrase else None):
            if hmac.compare_digest(_mac(found, header.signed), header.mac):
                return found
    return None


def for_keys(key: bytes, recipients: Sequence[bytes]) -> bytes:
    """A header under which each of these X25519 public keys [32 bytes] gives the file key."""
    return _made(key, [_to_public(key, public) for public in recipients])


def for_passphrase(key: bytes, passphrase: str) -> bytes:
    """A header under which a passphrase gives the file key."""
    salt = secrets.token_bytes(_SALT)
    body = _wrapped(_by_scrypt(passphrase, salt, _WORK), key)
    return _made(key, [Stanza(_SCRYPT, (_encoded(salt), str(_WORK)), body)])


def _made(key: bytes, stanzas: Sequence[Stanza]) -> bytes:
    signed = MAGIC + b"".join(map(_text, stanzas)) + _END
    return signed + b" " + _encoded(_mac(key, signed)).encode() + b"\n"


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(_derived(key, b"", b"header"), signed, hashlib.sha256)


def _text(stanza: Stanza) -> bytes:
    """A stanza as the file has it: a body ends with a line of fewer than 64 characters."""
    body = _encoded(stanza.body)
    lines = [body[start : start + _COLUMNS] for start in range(0, len(body) + 1, _COLUMNS)]
    return "\n".join([" ".join(["->", stanza.kind, *stanza.arguments]), *lines, ""]).encode()


def _stanza(first: bytes, lines: Iterator[bytes], raw: list[bytes]) -> Stanza:
    if not first.startswith(_STANZA):
        raise ValueError("no stanza")
    kind, *arguments = first[len(_STANZA) :].decode("ascii").removesuffix("\n").split(" ")
    body = ""
    for line in lines:
        raw.append(line)
        body += line.decode("ascii").removesuffix("\n")
        if len(line) <= _COLUMNS:
            break
    return Stanza(kind, tuple(arguments), _decoded(body))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    for _ in range(_MOST_LINES):
        line = file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise ValueError("no whole line")
        yield line
    raise ValueError("too many lines")


def _tried(stanza: Stanza, keys: Sequence[bytes], passphrase: str | None) -> Iterator[bytes]:
    """File keys that a stanza gives to these keys, or to a passphrase."""
    if stanza.kind == _X25519 and len(stanza.arguments) == 1:
        share = _decoded(stanza.arguments[0])
        for key in keys if len(share) == _SHARE else ():
            yield from _unwrapped(_by_share(key, share), stanza.body)
    if stanza.kind == _SCRYPT and passphrase is not None and len(stanza.arguments) == 2:
        salt, work = _decoded(stanza.arguments[0]), stanza.arguments[1]
        # a file of somebody else's must not take all memory
        if work.isdecimal() and len(work) <= 2 and 1 <= int(work) <= _MOST_WORK and len(salt) == _SALT:
            yield from _unwrapped(_by_scrypt(passphrase, salt, int(work)), stanza.body)


def _to_public(key: bytes, public: bytes) -> Stanza:
    once = X25519PrivateKey.generate()
    share = once.public_key().public_bytes_raw()
    shared = once.exchange(X25519PublicKey.from_public_bytes(public))
    return Stanza(_X25519, (_encoded(share),), _wrapped(_derived(shared, share + public, _INFO), key))


def _by_share(key: bytes, share: bytes) -> bytes:
    """The wrapping key of a stanza. Errors: ValueError for a share of low order, which gives a known secret."""
    own = X25519PrivateKey.from_private_bytes(key)
    shared = own.exchange(X25519PublicKey.from_public_bytes(share))
    return _derived(shared, share + own.public_key().public_bytes_raw(), _INFO)


def _by_scrypt(passphrase: str, salt: bytes, work: int) -> bytes:
    return Scrypt(salt=_SALT_INFO + salt, length=32, n=2**work, r=8, p=1).derive(passphrase.encode())


def _derived(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), 256 bits."""
    return HKDF(SHA256(), 32, salt, info).derive(secret)


def _wrapped(wrapping: bytes, key: bytes) -> bytes:
    return ChaCha20Poly1305(wrapping).encrypt(_NONCE, key, None)


def _unwrapped(wrapping: bytes, body: bytes) -> Iterator[bytes]:
    if len(body) == _WRAPPED:  # the length is checked first, says age: else a body could be of several keys
        try:
            yield ChaCha20Poly1305(wrapping).decrypt(_NONCE, body, None)
        except InvalidTag:
            return


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    """Canonical base64 without padding. Errors: ValueError for anything else."""
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("no base64") from None
    if _encoded(found) != text:
        raise ValueError("no canonical base64")
    return found
