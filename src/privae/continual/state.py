"""The secret state of a stream: how far it is, the noise that later steps take back, and what was released.

One file, mode 0600, replaced as a whole. Whoever reads it can take the noise away from what was released.
"""

import hashlib
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from privae import files
from privae.errors import ArtifactError

Floats = NDArray[np.float64]

_NOTES, _ARRAYS = "notes.json", "arrays.safetensors"


class _Notes(BaseModel):
    """The facts of a state that are no arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code_version: str
    plan_hash: str
    days: tuple[str, ...]
    seen: tuple[str, ...]
    salt: str
    ledger: str | None
    reservation: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class State:
    """Where a stream stands after its released steps.

    past: the vectors of noise that later steps need (see `Correlated.past`), [bands - 1, p]. released: [t, p].
    days: the names of the released steps. seen: salted hashes of their sums, to know the same data again.
    ledger, reservation, tokens: the data set's ledger, the stream's charge in it, and who may go on (`Ledger.resume`).
    """

    plan_hash: str
    past: Floats = field(repr=False)
    released: Floats = field(repr=False)
    days: tuple[str, ...] = ()
    seen: tuple[str, ...] = field(default=(), repr=False)
    salt: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    ledger: str | None = None
    reservation: str = ""
    tokens: tuple[str, ...] = ("",)

    @property
    def step(self) -> int:
        """How many steps were released."""
        return len(self.released)

    def mark(self, total: NDArray[np.int64]) -> str:
        """What the sums of a step are known again by, to whoever has this state."""
        return hashlib.sha256(bytes.fromhex(self.salt) + total.astype("<i8").tobytes()).hexdigest()

    def after(self, day: str, mark: str, released: Floats, past: Floats) -> "State":
        """The state once a step more is released."""
        rows = np.concatenate([self.released, released[None]])
        return replace(self, past=past, released=rows, days=(*self.days, day), seen=(*self.seen, mark))

    def write(self, path: Path) -> None:
        """Replace the file; when this returns, it is on the disk, for its owner alone."""
        notes = _Notes(
            code_version=files.code_version(),
            plan_hash=self.plan_hash,
            days=self.days,
            seen=self.seen,
            salt=self.salt,
            ledger=self.ledger,
            reservation=self.reservation,
            tokens=self.tokens,
        )
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ("past", "released")}
        members = {_NOTES: notes.model_dump_json().encode(), _ARRAYS: safetensors.numpy.save(arrays)}
        files.write_secretly(path, files.archive(members))

    @classmethod
    def read(cls, path: Path, plan_hash: str, shape: tuple[int, int]) -> "State":
        """The state in a file; shape: of its past. Errors: ArtifactError unless it is whole, and of this plan."""
        if not path.is_file():
            raise ArtifactError(
                f"{path} is not there: the stream cannot go on; open a new one, charged again"
            )
        files.check_opens(path, "the stream cannot go on: open a new one, charged again")
        try:
            members = files.read_archive(path)
            notes = _Notes.model_validate_json(members[_NOTES])
            arrays = safetensors.numpy.load(members[_ARRAYS])
            past, released = arrays["past"], arrays["released"]
        except (KeyError, ValidationError, safetensors.SafetensorError, ArtifactError):
            # privacy: an older copy would release steps again that are charged once, so none is asked for
            raise ArtifactError(
                f"{path} is damaged, or not the state of a stream: it cannot go on; open a new one, charged again"
            ) from None
        fits = past.shape == shape and released.ndim == 2 and released.shape[1] == shape[1]
        if (
            not fits
            or notes.plan_hash != plan_hash
            or not len(released) == len(notes.days) == len(notes.seen)
        ):
            raise ArtifactError(f"{path} is of another plan than the one beside it; do not mix two streams")
        fields = notes.model_dump(exclude={"code_version"})
        return cls(past=past, released=released, **fields)
