"""Signed heads of a log: who stands by which state of it, and proof of whoever stood by two that exclude each other.

A head names a log up to some size by its Merkle root (`log.tree`). Participants sign heads and exchange them. A log
that only grows has one root a size, and each root fixes those of all smaller sizes; so whoever shows different people
different logs gets two heads signed that do not go together, and a few hashes prove it to anybody.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from privae import files
from privae.custody import keys
from privae.custody.keys import SigningKey
from privae.errors import ArtifactError, UsageError
from privae.log.tree import Tree, roots_along, verify_consistency

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
MOST = 2**26
"""Bytes of a file of heads, of a proof, or of evidence."""
_STATEMENT = "privae-head/1"
_Model = TypeVar("_Model", bound=BaseModel)


class Head(BaseModel):
    """A log up to some size. log: its name, the hash of its first entry or of its study; date: a day (UTC)."""

    model_config = STRICT

    log: Hash
    size: int = Field(ge=1, le=2**53)
    root: Hash
    date: str = Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")

    @field_validator("date")
    @classmethod
    def _a_day(cls, value: str) -> str:
        date.fromisoformat(value)
        return value

    @property
    def statement(self) -> bytes:
        """What is signed: canonical JSON that says what it is, so that it is no statement of another kind."""
        return files.canonical_json({"format": _STATEMENT, **self.model_dump()})


class Signature(BaseModel):
    """One signature, Ed25519 (RFC 8032), and the public key that it holds under; both base64."""

    model_config = STRICT

    public_key: str
    signature: str


class SignedHead(BaseModel):
    """A head, and who signed it, in the order of their keys. That the signatures hold is checked by `held`."""

    model_config = STRICT

    head: Head
    signatures: tuple[Signature, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        named = [one.public_key for one in self.signatures]
        if named != sorted({*named}):
            raise ValueError("each key signs once, in the order of the keys")
        return self

    @property
    def signers(self) -> tuple[str, ...]:
        """The public keys."""
        return tuple(one.public_key for one in self.signatures)

    def held(self) -> "SignedHead":
        """The same, once every signature was checked. Errors: ArtifactError."""
        for one in self.signatures:
            if not keys.check(one.public_key, one.signature, self.head.statement):
                raise ArtifactError(
                    f"a signature on the head of {self.head.size} entries does not hold; do not trust it"
                )
        return self


class Heads(BaseModel):
    """A file of signed heads."""

    model_config = STRICT

    format: Literal["privae-heads/1"] = "privae-heads/1"
    heads: tuple[SignedHead, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _joined(self) -> Self:
        if self.heads != joined(self.heads):
            raise ValueError("each head is there once, the smallest first")
        return self


class Evidence(BaseModel):
    """Two signed heads that are not of one log, and why; it convinces who trusts SHA-256 and Ed25519, and no one else.

    path: where the sizes differ, the hashes of `Tree.beginning`: from them follows the second root, and a first root
    that is not the one that was signed. signers: the keys that signed both, whose holders stood by two versions.
    """

    model_config = STRICT

    format: Literal["privae-equivocation/1"] = "privae-equivocation/1"
    first: SignedHead
    second: SignedHead
    path: tuple[Hash, ...] = ()

    @property
    def signers(self) -> tuple[str, ...]:
        """The public keys under both heads; none where each version has signers of its own."""
        return tuple(sorted({*self.first.signers} & {*self.second.signers}))

    def held(self) -> "Evidence":
        """The same, once it was checked that the heads exclude each other. Errors: ArtifactError."""
        first, second = self.first.held().head, self.second.held().head
        if first.log == second.log and self._excludes(first, second):
            return self
        raise ArtifactError("the two heads may be of one log, so this is evidence of nothing")

    def _excludes(self, first: Head, second: Head) -> bool:
        if first.size == second.size:
            return not self.path and first.root != second.root
        found = roots_along((first.size, second.size), [bytes.fromhex(one) for one in self.path])
        return found is not None and found[1].hex() == second.root and found[0].hex() != first.root

    def sentence(self) -> str:
        """What it shows, in one line."""
        first, second = self.first.head, self.second.head
        two = f"{first.size} entries with root {first.root[:16]}, {second.size} with {second.root[:16]}"
        if self.signers:
            return f"{_named(self.signers)} signed two versions of log {first.log[:16]}: {two}"
        sides = f"{_named(self.first.signers)} signed one, {_named(self.second.signers)} the other"
        return f"log {first.log[:16]} was shown in two versions: {two}; {sides}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what `dumps` writes, and the fingerprints of who signed both."""
        return {**self.model_dump(mode="json"), "signers": [keys.fingerprint(key) for key in self.signers]}


class Equivocation(ArtifactError):
    """Signed heads prove that a log was shown in two versions; `evidence` convinces anybody."""

    def __init__(self, evidence: Evidence) -> None:
        super().__init__(f"{evidence.sentence()}; trust neither, and show the proof (--json) to the others")
        self.evidence = evidence


def signed(head: Head, key: SigningKey) -> SignedHead:
    """A head, signed by one key."""
    return SignedHead(
        head=head, signatures=(Signature(public_key=key.public, signature=key.sign(head.statement)),)
    )


def joined(heads: Iterable[SignedHead]) -> tuple[SignedHead, ...]:
    """The same signatures, each head once, the smallest first."""
    found: dict[Head, dict[str, Signature]] = {}
    for one in heads:
        for mark in one.signatures:
            found.setdefault(one.head, {}).setdefault(mark.public_key, mark)
    ordered = sorted(found, key=lambda head: (head.log, head.size, head.root, head.date))
    return tuple(
        SignedHead(head=head, signatures=tuple(found[head][name] for name in sorted(found[head])))
        for head in ordered
    )


def dumps(heads: Iterable[SignedHead]) -> bytes:
    """The file of signed heads: canonical JSON, one line. `read` gives them back."""
    return canonical(Heads(heads=joined(heads)))


def read(content: bytes, where: str) -> tuple[SignedHead, ...]:
    """The heads in a file, with every signature checked. Errors: ArtifactError for anything else than `dumps` wrote."""
    return tuple(one.held() for one in parsed(Heads, content, where).heads)


def canonical(found: BaseModel) -> bytes:
    """The one text of a file: canonical JSON, one line."""
    return files.canonical_json(found.model_dump(mode="json")) + b"\n"


def parsed(model: type[_Model], content: bytes, where: str) -> _Model:
    """What a file of one line says. Errors: ArtifactError unless it is the one text of what it says."""
    try:
        found = model.model_validate_json(content if len(content) <= MOST else b"")
    except (ValidationError, ValueError, RecursionError):
        raise ArtifactError(f"{where} does not read, or it was changed; restore a copy") from None
    if canonical(found) != content:
        raise ArtifactError(f"{where} was changed after it was written; restore a copy")
    return found


def format_of(content: bytes) -> str:
    """The format that a file's first line names; "" where it names none."""
    line = content[: content.find(b"\n")] if b"\n" in content else content
    try:
        found = json.loads(line) if line[:1] == b"{" and len(line) <= MOST else None
    except (ValueError, RecursionError):
        return ""
    name = found.get("format") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""


def today() -> str:
    """The day (UTC), as heads bear it."""
    # privacy: a finer clock would tell when, and so how long, things ran
    return datetime.now(UTC).date().isoformat()


def compare(one: SignedHead, other: SignedHead, between: Tree | Sequence[bytes] = ()) -> Evidence | None:
    """What two signed heads of a log prove against their signers; None where both may be of one log.

    between: where the sizes differ, a consistency proof (RFC 6962 section 2.1.2, or `Tree.beginning`), or the log
    itself that the larger head is of.
    Guarantee: nobody who signed heads of one growing log alone is ever named, short of a collision of SHA-256.
    Errors: UsageError for heads of two logs; ArtifactError for a signature that does not hold, or where what lies
        between them decides nothing.
    """
    first, second = sorted((one.held(), other.held()), key=lambda found: found.head.size)
    a, b = first.head, second.head
    if a.log != b.log:
        raise UsageError("the heads are of two logs, and say nothing about each other")
    if a.size == b.size:
        return None if a.root == b.root else Evidence(first=first, second=second)
    path = _between(between, b, a.size)
    sizes, roots = (a.size, b.size), (bytes.fromhex(a.root), bytes.fromhex(b.root))
    if roots_along(sizes, path) == roots or verify_consistency(sizes, path, roots):
        return None
    made = Evidence(first=first, second=second, path=tuple(found.hex() for found in path))
    try:
        return made.held()
    except ArtifactError:
        raise ArtifactError(
            "the proof does not tie the two heads together, and proves nothing against anybody; ask for the log"
        ) from None


def _between(given: Tree | Sequence[bytes], head: Head, first: int) -> Sequence[bytes]:
    if not isinstance(given, Tree):
        return given
    if given.size < head.size or given.root(head.size).hex() != head.root:
        raise ArtifactError("the log is not the one that the larger head is of; ask its signers for theirs")
    return given.beginning(first, head.size)


def _named(public: Sequence[str]) -> str:
    names = ", ".join(keys.fingerprint(key) for key in public)
    return f"key {names}" if len(public) == 1 else f"keys {names}"
