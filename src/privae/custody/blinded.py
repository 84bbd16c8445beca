"""What of a ledger is shown to a blockchain: its name and roots under a salt, which one file beside the ledger keeps.

privacy: whoever holds a copy of a ledger could recognize its name on the chain, and the name of an old ledger, whose
first entry is terms and a date alone, can be guessed, as can a root of few entries. So neither leaves as it is: the
chain gets HMACs of both under 32 random bytes. Whoever has the ledger and the salt can check them; to all others they
are noise. How many entries there are, and when they were anchored, is not hidden.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from privae import files
from privae.errors import ArtifactError, UsageError

_NAME, _ROOT = b"privae anchor name\0", b"privae anchor root\0"
_WORD = 32  # bytes of a hash, and of a word of a contract

Roots = Callable[[int], bytes]
"""The Merkle root (RFC 6962, section 2.1) of the first so many entries of a ledger, 32 bytes."""


@dataclass(frozen=True)
class Head:
    """What is sent. log: the blinded name of the ledger; size: how many entries; root: theirs, blinded."""

    log: bytes
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if len(self.log) != _WORD or len(self.root) != _WORD or self.size < 1:
            raise UsageError("a head is a name and a root of 32 bytes each, of one entry or more")


class Kept(Protocol):
    """A head as a chain tells it."""

    @property
    def size(self) -> int:
        """How many entries."""
        ...

    @property
    def root(self) -> bytes:
        """Their root, blinded."""
        ...


class Place(BaseModel):
    """Where heads of a ledger stand: on which chain, in which contract, by which account."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    chain: int
    contract: str
    writer: str


class Anchors(BaseModel):
    """The salt of a ledger, and where its heads were anchored; for those who check the ledger, and nobody else."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    format: Literal["privae-anchors/1"] = "privae-anchors/1"
    salt: Annotated[str, Field(pattern="^[0-9a-f]{64}$", repr=False)]
    places: tuple[Place, ...] = ()

    @classmethod
    def fresh(cls) -> "Anchors":
        """A new salt, and no place."""
        return cls(salt=secrets.token_hex(_WORD))

    @classmethod
    def load(cls, path: Path) -> "Anchors":
        """The salt and places in a file. Errors: UsageError if it cannot be read, ArtifactError if it is another."""
        try:
            return cls.model_validate_json(files.content(path))
        except ValidationError:
            raise ArtifactError(
                f"{path} does not hold the salt of a ledger's anchors; restore a copy"
            ) from None
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise UsageError(
                f"{path} cannot be read: {reason}; it has the salt of the ledger's anchors"
            ) from None

    def save(self, path: Path) -> None:
        """Write the file, for its owner alone."""
        files.write_secretly(path, files.canonical_json(self.model_dump(mode="json")) + b"\n")

    def at(self, place: Place) -> "Anchors":
        """The same salt, with one place more, unless it is known."""
        return self if place in self.places else self.model_copy(update={"places": (*self.places, place)})

    def log(self, first: bytes) -> bytes:
        """The name of a ledger on a chain, from the hash of its first entry, 32 bytes."""
        return self._blinded(_NAME + first)

    def root(self, size: int, root: bytes) -> bytes:
        """What a chain is shown of a root, 32 bytes: HMAC-SHA256 (RFC 2104) of a tag, the size in 8 bytes, the root."""
        return self._blinded(_ROOT + size.to_bytes(8, "big") + root)

    def head(self, first: bytes, size: int, roots: Roots) -> Head:
        """What is sent of a ledger. first: the hash of its first entry; size: its number of entries."""
        return Head(self.log(first), size, self.root(size, roots(size)))

    def _blinded(self, content: bytes) -> bytes:
        return hmac.new(bytes.fromhex(self.salt), content, hashlib.sha256).digest()


def check(heads: Sequence[Kept], anchors: Anchors, entries: int, roots: Roots) -> tuple[bool, ...]:
    """Of each anchored head, whether the ledger still begins with the entries that it was made of.

    entries: how many the ledger has now. A head of more entries does not hold: the ledger lost some.
    Guarantee: False for every change of one of the first `size` entries, short of a collision of SHA-256.
    """
    return tuple(
        0 < head.size <= entries and hmac.compare_digest(anchors.root(head.size, roots(head.size)), head.root)
        for head in heads
    )
