"""A log in one file that anybody can check: its entries, the heads that were signed, and proofs of single entries.

The file is JSON Lines: a first line that says what it is, one line an entry (the leaves of the tree, with their line
feeds), and a last line with the signatures. Everybody may keep one, as a replica, and only lets it grow.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from privae.custody.heads import (
    STRICT,
    Equivocation,
    Evidence,
    Hash,
    Head,
    SignedHead,
    canonical,
    compare,
    joined,
    today,
)
from privae.errors import ArtifactError, UsageError
from privae.log.tree import Tree, verify_consistency, verify_inclusion

Kind = Literal["ledger", "study"]
FORMAT = "privae-log/1"
MOST = 2**28
"""Bytes of a log's file."""
_GONE = "entries were changed, taken out or cut off; restore a copy"


class _First(BaseModel):
    model_config = STRICT

    format: Literal["privae-log/1"] = "privae-log/1"
    kind: Kind
    log: Hash
    size: int = Field(ge=1)
    root: Hash


class _Last(BaseModel):
    model_config = STRICT

    heads: tuple[SignedHead, ...]
    marks: dict[str, Any]


class Proof(BaseModel):
    """That an entry is in a log, or that a log goes on from an earlier one; about `size` entries with `root`.

    since: index and entry of "inclusion", or size and root of the earlier log of "consistency". heads: signed heads
    with these roots; without one, a proof is about a root that nobody stands by.
    """

    model_config = STRICT

    format: Literal["privae-proof/1"] = "privae-proof/1"
    kind: Literal["inclusion", "consistency"]
    log: Hash
    size: int = Field(ge=1, le=2**53)
    root: Hash
    first: int = Field(ge=0, le=2**53)
    what: str
    path: tuple[Hash, ...] = Field(max_length=128)
    heads: tuple[SignedHead, ...] = ()

    def held(self, heads: Iterable[SignedHead] = ()) -> tuple[SignedHead, ...]:
        """The signed heads that it is about, once it was checked. Errors: ArtifactError; Equivocation."""
        path, root = [bytes.fromhex(one) for one in self.path], bytes.fromhex(self.root)
        if self.kind == "inclusion":
            holds = verify_inclusion(self.what.encode(), (self.first, self.size), path, root)
        else:
            holds = verify_consistency((self.first, self.size), path, (_hash(self.what), root))
        if not holds:
            raise ArtifactError(
                f"the proof of {self.kind} does not hold; ask for another, and for signed heads"
            )
        return self._about(joined([*self.heads, *heads]), path)

    def _about(self, heads: Sequence[SignedHead], path: Sequence[bytes]) -> tuple[SignedHead, ...]:
        roots = {self.size: self.root}
        if self.kind == "consistency":
            roots[self.first] = self.what
        found = [one.held() for one in heads if one.head.log == self.log and one.head.size in roots]
        wrong = [one for one in found if one.head.root != roots[one.head.size]]
        for bad in wrong:
            for good in (one for one in found if one not in wrong):
                _accuse(bad, good, path if good.head.size > bad.head.size else ())
        if wrong:
            raise ArtifactError(
                "a signed head has another root than the proof; ask its signers for their log"
            )
        if any(one.head.log != self.log for one in heads):
            raise ArtifactError("a head was signed for another log than the proof is about")
        return tuple(found)


@dataclass(frozen=True)
class Log:
    """What there is of a log. kind: of what; leaves: its entries, each a line; marks: other signatures of a study."""

    kind: Kind
    leaves: tuple[bytes, ...]
    heads: tuple[SignedHead, ...] = ()
    marks: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def tree(self) -> Tree:
        """The tree over its entries."""
        return Tree(self.leaves)

    @cached_property
    def name(self) -> str:
        """The hash of its first entry, or of its study; which names the log. Errors: ArtifactError."""
        try:
            found = json.loads(self.leaves[0])["hash"]
        except (IndexError, ValueError, KeyError, TypeError, RecursionError):
            raise ArtifactError(f"the first entry of a log does not read: {_GONE}") from None
        return _said(found)

    @property
    def size(self) -> int:
        """How many entries there are."""
        return len(self.leaves)

    def root(self, size: int | None = None) -> str:
        """The Merkle root of the first `size` entries (of all by default), hexadecimal."""
        return self.tree.root(size).hex()

    def head(self, day: str | None = None) -> Head:
        """The present head, of today."""
        return Head(log=self.name, size=self.size, root=self.root(), date=day or today())

    def with_heads(self, heads: Iterable[SignedHead]) -> "Log":
        """The same log with more signed heads, once they were held against its entries.

        Errors: ArtifactError for a head of another log, or of entries that are not here; Equivocation where two heads
            of one signer exclude each other.
        """
        every = joined([*self.heads, *(one.held() for one in heads)])
        for one in every:
            if one.head.log != self.name:
                raise ArtifactError("a head was signed for another log; do not mix their files")
        wrong = [one for one in every if not self._fits(one.head)]
        for bad in wrong:
            for good in (one for one in every if one not in wrong and one.head.size >= bad.head.size):
                _accuse(bad, good, self.tree)
            for other in (one for one in wrong if one.head.size == bad.head.size):
                _accuse(bad, other, ())
        if wrong:
            raise ArtifactError(_unfit(wrong[0].head, self.size))
        return replace(self, heads=every)

    def _fits(self, head: Head) -> bool:
        return head.size <= self.size and head.root == self.root(head.size)

    def dumps(self) -> bytes:
        """The file."""
        first = _First(kind=self.kind, log=self.name, size=self.size, root=self.root())
        last = _Last(heads=self.heads, marks=dict(self.marks))
        return b"".join([canonical(first), *self.leaves, canonical(last)])

    def inclusion(self, index: int, size: int | None = None) -> Proof:
        """That entry `index` is among the first `size`. Errors: UsageError for one that is not there."""
        size = self.size if size is None else size
        if not 0 <= index < size <= self.size:
            raise UsageError(f"the log has {self.size} entries, counted from 0: name one of the first {size}")
        path, what = self.tree.inclusion(index, size), self.leaves[index].decode()
        return self._proof("inclusion", size, (index, what), path)

    def consistency(self, first: int, size: int | None = None) -> Proof:
        """That the first `size` entries go on from the first `first`. Errors: UsageError."""
        size = self.size if size is None else size
        if not 0 < first <= size <= self.size:
            raise UsageError(f"the log has {self.size} entries; a proof is since 1 to --size of them")
        return self._proof("consistency", size, (first, self.root(first)), self.tree.consistency(first, size))

    def _proof(
        self,
        kind: Literal["inclusion", "consistency"],
        size: int,
        of: tuple[int, str],
        path: Sequence[bytes],
    ) -> Proof:
        sizes = {size, of[0]} if kind == "consistency" else {size}
        return Proof(
            kind=kind,
            log=self.name,
            size=size,
            root=self.root(size),
            first=of[0],
            what=of[1],
            path=tuple(one.hex() for one in path),
            heads=tuple(one for one in self.heads if one.head.size in sizes),
        )


def parse(content: bytes, where: str) -> Log:
    """The log in a file, every signed head checked; what its entries say is not. Errors: ArtifactError."""
    if len(content) > MOST:
        raise ArtifactError(f"{where} is larger than any log; do not trust it")
    lines = content.splitlines(keepends=True) if content.count(b"\r") == 0 else []
    if len(lines) < 3 or not content.endswith(b"\n"):
        raise ArtifactError(f"{where} is no log, or its end is missing; restore a copy")
    first, last = _line(_First, lines[0], where), _line(_Last, lines[-1], where)
    made = Log(first.kind, tuple(lines[1:-1]), marks=last.marks)
    if (first.size, first.log, first.root) != (made.size, made.name, made.root()):
        raise ArtifactError(f"{where}: {_GONE}")
    if last.heads != joined(last.heads):
        raise ArtifactError(f"{where}: its heads were put into another order; restore a copy")
    return made.with_heads(last.heads)


def extended(mine: Log, theirs: Log) -> Log:
    """The longer of two versions of a log, with the signatures of both, where one is the beginning of the other.

    Errors: Equivocation where they are not, and signed heads prove who stood by both; else ArtifactError.
    """
    if mine.name != theirs.name or mine.kind != theirs.kind:
        raise ArtifactError("the file is of another log than the replica; keep each log in a file of its own")
    short, long = sorted((mine, theirs), key=lambda log: log.size)
    if long.root(short.size) != short.root():
        _accuse_all(mine, theirs)
        at = next(
            i for i, pair in enumerate(zip(mine.leaves, theirs.leaves, strict=False)) if pair[0] != pair[1]
        )
        raise ArtifactError(
            f"the file does not go on from the replica: they differ from entry {at} on, and no key signed both; "
            "keep both, and ask the others for theirs"
        )
    return replace(long, marks=_both(mine.marks, theirs.marks)).with_heads([*mine.heads, *theirs.heads])


def _accuse_all(mine: Log, theirs: Log) -> None:
    """Raise the evidence that signed heads of two versions give, if there is any; first that which names a signer."""
    found: list[Evidence] = []
    for one in mine.heads:
        for other in theirs.heads:
            larger = mine if one.head.size > other.head.size else theirs
            evidence = compare(one, other, larger.tree)
            found += [] if evidence is None else [evidence]
    for evidence in sorted(found, key=lambda each: not each.signers):
        raise Equivocation(evidence)


def _accuse(bad: SignedHead, good: SignedHead, between: Tree | Sequence[bytes]) -> None:
    """Raise the evidence that a key signed two heads that exclude each other, if one did."""
    try:
        evidence = compare(bad, good, between)
    except ArtifactError:
        return
    if evidence is not None and evidence.signers:
        raise Equivocation(evidence)


def _unfit(head: Head, size: int) -> str:
    if head.size > size:
        return f"a head of {head.size} entries was signed, and {size} are here: the end was cut off; restore a copy"
    return (
        f"the first {head.size} entries are not those whose head was signed: they were changed, or the head is of "
        "another version; ask its signers for theirs"
    )


def _both(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The signatures of both."""
    found = dict(theirs)
    for name, one in mine.items():
        other = theirs.get(name)
        found[name] = _both(one, other) if isinstance(one, dict) and isinstance(other, dict) else one
    return found


def _line(model: type[Any], line: bytes, where: str) -> Any:  # noqa: ANN401  of that model
    try:
        found = model.model_validate_json(line)
    except (ValidationError, ValueError, RecursionError):
        found = None
    if found is None or canonical(found) != line:
        raise ArtifactError(
            f"{where}: its first or last line was changed, or lines are missing; restore a copy"
        )
    return found


def _hash(text: str) -> bytes:
    return bytes.fromhex(_said(text))


def _said(found: Any) -> str:  # noqa: ANN401  whatever a file says
    if isinstance(found, str) and len(found) == 64 and not {*found} - {*"0123456789abcdef"}:
        return found
    raise ArtifactError("a hash of the log does not read; restore a copy")
