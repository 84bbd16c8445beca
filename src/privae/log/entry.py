"""One line of a ledger: canonical JSON, bound to the line before it by that line's hash."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from privae import files
from privae.errors import ArtifactError

GENESIS = "0" * 64
"""The hash before the first entry."""


class Entry(BaseModel):
    """One line of a ledger. Public: numbers of the plan and hashes, nothing of the data.

    `event` is an Event's fields plus `added_delta` (and `grant`, the name of the grant that is charged), the terms
    of a cap, or those of a note (`log.grants`). `epsilon` is what everything up to and including the spend that this
    entry belongs to costs at `delta`. `time` is a date (UTC).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    time: str
    plan_hash: str
    schema_hash: str
    unit: str
    relation: Literal["add_or_remove", "replace_one"]
    phase: str
    event: dict[str, float | int | str]
    epsilon: float
    delta: float
    attempt: int
    code_version: str
    previous_hash: str
    hash: str = ""
    signatures: tuple[str, ...] = ()

    def sealed(self) -> "Entry":
        """The same entry with the hash of everything in it but hash and signatures."""
        return self.model_copy(update={"hash": files.digest(self._fields(exclude={"hash", "signatures"}))})

    def line(self) -> bytes:
        """Canonical JSON, one line."""
        return files.canonical_json(self._fields(exclude=set())) + b"\n"

    def _fields(self, exclude: set[str]) -> dict[str, Any]:
        fields = self.model_dump(mode="python", exclude=exclude)
        if math.isinf(self.epsilon):
            fields["epsilon"] = "inf"  # JSON has no number for it
        return fields


def following(last: Entry | None, **said: Any) -> Entry:  # noqa: ANN401  the fields of an entry
    """The entry after the last one, with its place, date, version and hashes; `said` has all its other fields."""
    return Entry(
        index=0 if last is None else last.index + 1,
        # privacy: a finer clock would tell how long a phase took, hence how many records there are.
        time=datetime.now(UTC).date().isoformat(),
        code_version=files.code_version(),
        previous_hash=GENESIS if last is None else last.hash,
        **said,
    ).sealed()


def parsed(text: str) -> list[Entry]:
    """The entries of a ledger's text, at least one: each canonical, hashed, in its place, and under the same terms.

    What the entries mean is not looked at. Errors: ArtifactError.
    """
    if not text.endswith("\n"):
        raise ArtifactError("the ledger is empty or half-written; restore a copy")
    entries = [_parsed(line) for line in text[:-1].split("\n")]
    _check_chain(entries)
    return entries


def text_of(entries: Sequence[Entry]) -> str:
    """Inverse of `parsed`: JSON Lines, one entry a line."""
    return b"".join(entry.line() for entry in entries).decode()


def _parsed(line: str) -> Entry:
    try:
        entry = Entry.model_validate_json(line)
        same = entry.sealed().hash == entry.hash and entry.line().decode() == line + "\n"
    except ValueError:  # of pydantic; and NaN, which is read as a number and has no canonical text
        raise ArtifactError("a line of the ledger does not read; restore a copy") from None
    if not same:
        raise ArtifactError("an entry of the ledger was changed after it was written; restore a copy")
    return entry


def _check_chain(entries: Sequence[Entry]) -> None:
    first, previous = entries[0], GENESIS
    if not 0 < first.delta < 1:
        raise ArtifactError("the ledger has no delta between 0 and 1; do not trust it")
    for index, entry in enumerate(entries):
        if entry.index != index or entry.previous_hash != previous:
            raise ArtifactError("an entry of the ledger is missing or out of order; restore a copy")
        if (entry.delta, entry.unit, entry.relation) != (first.delta, first.unit, first.relation):
            raise ArtifactError("the ledger changes its terms halfway; restore a copy")
        previous = entry.hash
