"""Sealed files: the one door to pyrage, which encrypts streams in the age format (age-encryption.org/v1).

The payload is ChaCha20-Poly1305 in chunks of 64 KiB, each with its number, the last one marked (STREAM, Hoang et al.
2015, ePrint 2015/189): chunks that are changed, moved, left out or added do not open.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyrage

from privae.errors import ArtifactError, UsageError
from privae.sealing import header
from privae.sealing.header import MAGIC, Header

Told = Callable[[int], object]
"""Is told how many bytes more were read."""

_ARMOR = b"-----BEGIN AGE ENCRYPTED FILE-----"
_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"  # of Bech32 (BIP 173)
_CHECKSUM = 6  # letters
_BLOCK = 2**20
_DAMAGED = "was changed or cut off after it was sealed; restore a copy"


@dataclass(frozen=True)
class Keys:
    """What opens sealed files: secret keys of age ("AGE-SECRET-KEY-1..."), and perhaps a passphrase. Never shown."""

    secrets: tuple[str, ...] = field(default=(), repr=False)
    passphrase: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return bool(self.secrets) or self.passphrase is not None

    @property
    def publics(self) -> tuple[str, ...]:
        """The public keys of the secret ones."""
        return tuple(map(public_of, self.secrets))


def fresh() -> str:
    """A new secret key: X25519, in age's text."""
    return str(pyrage.x25519.Identity.generate())


def public_of(secret: str) -> str:
    """The public key of a secret one. Errors: ArtifactError for a text that is none."""
    return str(_identity(secret).to_public())


def public(text: str) -> str:
    """A public key as a person gives it ("age1..."). Errors: UsageError for anything else."""
    _recipient(text)
    return text


def is_sealed(path: str | Path) -> bool:
    """Whether a file is sealed, by its first bytes. Errors: OSError."""
    with Path(path).open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def seal(
    reader: BinaryIO,
    writer: BinaryIO,
    recipients: Sequence[str],
    passphrase: str | None = None,
    told: Told | None = None,
) -> None:
    """Seal a stream to public keys, each of which opens it, or else under a passphrase; in constant memory.

    Guarantee: whoever has the file and none of the keys learns its length, and how many keys open it. Who sealed it is
        not told, and anybody who has a public key can seal.
    Errors: UsageError for no recipient, or for a passphrase beside recipients; what reading and writing raise.
    """
    if bool(recipients) == (passphrase is not None):
        raise UsageError("a file is sealed to public keys, or else under a passphrase; name one of the two")
    source, target = _Ear(reader, told), _Ear(writer)
    if passphrase is None:
        _piped(lambda: pyrage.encrypt_io(source, target, list(map(_recipient, recipients))), source, target)
        return
    # pyrage knows passphrases for whole files in memory only: a key made for this once, then another header
    once = fresh()
    kept = _Beheaded(target, lambda key: header.for_passphrase(key, passphrase), _raw(once))
    _piped(lambda: pyrage.encrypt_io(source, kept, [_recipient(public_of(once))]), source, target)


def unseal(
    reader: BinaryIO, writer: BinaryIO, keys: Keys, name: str = "the file", told: Told | None = None
) -> None:
    """Open a sealed stream into `writer`, in constant memory; name: what errors call it.

    What was written before an error is to be thrown away: its end is missing.
    Errors: ArtifactError for no key, another key, and whatever was changed or cut; what reading and writing raise.
    """
    head = _read(reader, keys, name)
    secrets = keys.secrets
    if head.by_passphrase:
        found, once = _opened(head, keys, name), fresh()
        front, secrets = header.for_keys(found, [_raw(public_of(once))]), (once,)
    else:
        front = head.raw
    source, target = _Ear(_Joined(front, reader), told), _Ear(writer)
    try:
        _piped(lambda: pyrage.decrypt_io(source, target, list(map(_identity, secrets))), source, target)
    except pyrage.DecryptError as error:
        raise ArtifactError(f"{name} {_refusal(str(error))}") from None
    except OSError as error:
        if error in (source.failed, target.failed):
            raise
        raise ArtifactError(f"{name} {_DAMAGED}") from None


def reseal(
    reader: BinaryIO,
    writer: BinaryIO,
    keys: Keys,
    recipients: Sequence[str],
    name: str = "the file",
    told: Told | None = None,
) -> None:
    """Seal an open-able stream to other public keys: a new header, and the payload byte for byte as it is.

    Not covered: who could open the file before may have kept its file key, or a copy. After a theft, unseal, and seal
        again. The payload is not looked at.
    Errors: as `unseal`, but for damage of the payload.
    """
    if not recipients:
        raise UsageError("name at least one public key to seal to")
    found = _opened(_read(reader, keys, name), keys, name)
    writer.write(header.for_keys(found, [_raw(public(text)) for text in recipients]))
    while block := reader.read(_BLOCK):
        writer.write(block)
        if told is not None:
            told(len(block))


def _read(reader: BinaryIO, keys: Keys, name: str) -> Header:
    """The header, if there is a key for its kind."""
    try:
        found = header.read(reader)
    except ValueError:
        raise ArtifactError(_unread(reader, name)) from None
    if found.by_passphrase and keys.passphrase is None:
        raise ArtifactError(f"{name} is sealed under a passphrase; give it in PRIVAE_PASSPHRASE")
    if not found.by_passphrase and not keys.secrets:
        raise ArtifactError(
            f"{name} is sealed; name the key that opens it with --identity, or in PRIVAE_IDENTITY_FILE"
        )
    return found


def _unread(reader: BinaryIO, name: str) -> str:
    reader.seek(0)
    first = reader.read(len(_ARMOR))
    if first == _ARMOR:
        return f"{name} is armored text, which is not read; seal it anew, or open it with: age --decrypt"
    known = MAGIC.startswith(first[: len(MAGIC)])
    return f"{name} {_DAMAGED}" if known else f"{name} is not a sealed file"


def _opened(head: Header, keys: Keys, name: str) -> bytes:
    try:
        found = header.file_key(head, [_raw(secret) for secret in keys.secrets], keys.passphrase)
    except ValueError:
        found = None
    if found is None:
        raise ArtifactError(f"{name} {_refusal('')}")
    return found


def _refusal(said: str) -> str:
    """What an error of pyrage means, for one whose key does not open the header, or whose file does not read."""
    if said and "matching" not in said:
        return _DAMAGED
    return "does not open: it is sealed to other keys, or its header was changed; name the right key"


def _recipient(text: str) -> Any:  # noqa: ANN401  of pyrage
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        # not shown: it may be the secret key, given in the place of the public one
        raise UsageError(
            "this is no public key of age (age1...); print one with: privae keys public k.key"
        ) from None


def _identity(secret: str) -> Any:  # noqa: ANN401  of pyrage
    try:
        return pyrage.x25519.Identity.from_str(secret)
    except pyrage.IdentityError:
        raise ArtifactError(
            "a secret key does not read; it is one line that begins with AGE-SECRET-KEY-1"
        ) from None


def _raw(text: str) -> bytes:
    """The 32 bytes of a key that pyrage has read, so that its checksum holds."""
    number = 0
    for letter in text.lower().rpartition("1")[2][:-_CHECKSUM]:
        number = number << 5 | _LETTERS.index(letter)
    return (number >> 4).to_bytes(32, "big")


def _piped(work: Callable[[], None], source: "_Ear", target: "_Ear") -> None:
    """Let pyrage work, and raise what went wrong at its files: it swallows, or renames, what these raise."""
    try:
        work()
    finally:
        for ear in (source, target):
            if ear.failed is not None:
                raise ear.failed


class _Ear:
    """A file that pyrage reads or writes: it keeps what goes wrong there, an interrupt too, and tells of progress."""

    def __init__(self, file: Any, told: Told | None = None) -> None:  # noqa: ANN401  one that reads, or writes
        self.failed: BaseException | None = None
        self._file, self._told, self._untold = file, told, 0

    def read(self, size: int = -1) -> bytes:
        found = cast("bytes", self._heard(self._file.read, size))
        self._untold += len(found)
        if self._told is not None and (self._untold >= _BLOCK or not found):
            self._heard(self._told, self._untold)
            self._untold = 0
        return found

    def write(self, content: bytes) -> int:
        self._heard(self._file.write, content)
        return len(content)

    def flush(self) -> None:
        self._heard(self._file.flush)

    def _heard(self, call: Callable[..., object], *given: object) -> object:
        if self.failed is not None:
            raise OSError("failed before")
        try:
            return call(*given)
        except BaseException as error:
            self.failed = error
            raise


class _Joined:
    """A header, and after it the rest of a file."""

    def __init__(self, front: bytes, rest: BinaryIO) -> None:
        self._front, self._rest = BytesIO(front), rest

    def read(self, size: int = -1) -> bytes:
        return self._front.read(size) or self._rest.read(size)


class _Beheaded:
    """Writes what comes after another header than the one that it is given, which a secret key opens."""

    def __init__(self, file: Any, anew: Callable[[bytes], bytes], secret: bytes) -> None:  # noqa: ANN401
        self._file, self._anew, self._secret = file, anew, secret
        self._begun: bytes | None = b""

    def write(self, content: bytes) -> int:
        if self._begun is None:
            return int(self._file.write(content))
        self._begun += content
        start = BytesIO(self._begun)
        try:
            key = header.file_key(header.read(start), [self._secret])
        except ValueError:
            return len(content)  # not all of it is here yet
        assert key is not None
        self._begun = None
        self._file.write(self._anew(key) + start.read())
        return len(content)

    def flush(self) -> None:
        self._file.flush()
