"""What a fit keeps, so that one that was killed goes on instead of being charged again: its charges and its releases.

A `Keeper` is asked by every phase: what was released already, from which step to go on, and with what weights.
`FORGETFUL` keeps nothing; a `Checkpoint` keeps all of it in one file that is replaced as a whole.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
import safetensors.torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from privae import files
from privae.errors import ArtifactError, PrivacyRefused, PrivaeError
from privae.plan import Plan
from privae.privacy.ledger import Ledger
from privae.privacy.noise import NoiseSource

Array = NDArray[Any]

_BLOCKS, _LEAST = 16, 5
_NOTES = "checkpoint.json"
_RELEASED, _STATE = "released/", "state/"
_LATEST: dict[Path, tuple[str, tuple[int, int]]] = {}
"""Of every checkpoint that this process wrote: its ledger's head, and what tells the file from others."""


def block_of(steps: int) -> int:
    """Steps that are charged at a time, before they run: a sixteenth of the planned ones, at least 5.

    A kill loses at most one block, and an epsilon is composed for each, so blocks are neither long nor many.

    >>> block_of(3), block_of(80), block_of(300), block_of(10_000)
    (5, 5, 19, 625)
    """
    return max(_LEAST, -(-steps // _BLOCKS))


@dataclass(frozen=True)
class State:
    """Where a gradient phase stands: the step to go on with, and all that this step needs.

    tensors: weights, optimizer and average, functions of releases alone; none: those that the phase begins with.
    """

    step: int
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)


class Keeper(Protocol):
    """Remembers what a fit released, phase by phase."""

    def restore(self, phase: str) -> State | None:
        """Where a gradient phase goes on; None: at its beginning."""
        ...

    def save(self, phase: str, state: State) -> None:
        """Keep where a gradient phase stands; called when a block of its steps is done."""
        ...

    def recall(self, phase: str) -> list[Array] | None:
        """What a statistics phase released already; None: nothing was charged for it.

        Errors: PrivacyRefused if it was charged, and what it released was lost.
        """
        ...

    def remember(self, phase: str, released: list[Array]) -> None:
        """Keep what a statistics phase released."""
        ...


class _Forgetful:
    """Keeps nothing."""

    def restore(self, phase: str) -> State | None:  # noqa: ARG002
        """Begin."""
        return None

    def save(self, phase: str, state: State) -> None:
        """Keep nothing."""

    def recall(self, phase: str) -> list[Array] | None:  # noqa: ARG002
        """Know nothing."""
        return None

    def remember(self, phase: str, released: list[Array]) -> None:
        """Keep nothing."""


FORGETFUL: Keeper = _Forgetful()
"""For a fit that begins anew, and whose work is lost if it is killed."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: one that was charged and not kept yet would be lost.

    In another thread than the main one, which no Ctrl-C reaches, and where it is ignored, it does nothing.
    """
    pressed: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    # else it is ignored, as in a job of the background, or not Python's to defer
    heard = before not in (None, signal.SIG_IGN)
    if heard:
        signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        if heard:
            signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


class _Notes(BaseModel):
    """The checkpoint's own facts. updates: steps done a phase; numbers: drawn from noise sources so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code_version: str
    fixed: bool
    numbers: int
    reservation: str
    tokens: tuple[str, ...]
    updates: dict[str, int]


class Checkpoint:
    """A fit under way, in a file: its plan, its own ledger, what it released, and where its gradients stand.

    Every charge is written, synced and renamed into place before the noise it pays for is drawn; a block's
    weights are written together with the charge of the next block, the last block's at once.
    Guarantee: the ledger in the file is never behind the releases. A release follows a charge that the disk
        holds, so at any kill the file shows at least all that was ever released, by this and all earlier lives
        of the fit. A resumed life runs only what no life was charged for: a statistics phase whose release is
        kept is replayed byte for byte, one whose release was lost is refused (rule 19 wants another charge, the
        plan has none), and gradients go on at the step up to which they were charged, so steps of a lost block
        are never run again. Hence all lives together release each planned query at most once, in the plan's
        order, with noise of the planned multiplier under a fresh key each: a part of the composition that the
        plan accounts for, cut where kills fell. At an end without kills, updates equal charged steps.
        The file holds plan, hashes, and functions of releases: no record, no count of records, no key, counter
        or coin of a noise source.
    Edges: the numbers of a lost block are not counted, for they are in no release.
    Not covered: copies. Two copies that both go on run steps twice for one charge. With a data set's ledger
        (`Ledger.resume`) the second one is refused, and a life that another one took over ends at its next
        charge; but a copy older than the file, resumed in its place, repeats the steps between, unnoticed.
        Without such a ledger nothing of this can be told, as with any two fits that share none. Who can write
        the file can forge it: its hashes show damage, not malice. Data changed between two lives are not
        noticed, either: each release is private for the data that it was made of.
    Errors: ArtifactError for a file that is damaged or no checkpoint.
    """

    def __init__(self, path: Path, plan: Plan, noise: NoiseSource) -> None:
        self.path, self.plan = path, plan
        self.ledger = Ledger.fresh(plan.delta, plan.unit)
        self.code_version = files.code_version()
        self.fixed = noise.fixed
        self.drawn_before = 0  # numbers, by the lives before this one
        self.reservation = ""
        self.tokens: tuple[str, ...] = ("",)
        self.updates: dict[str, int] = {}
        self._noise = noise
        self._released: dict[str, bytes] = {}
        self._states: dict[str, bytes] = {}
        self._begun: dict[str, int] = {}  # first step of this life, a phase

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {self.ledger!r})"

    @classmethod
    def load(cls, path: Path, noise: NoiseSource) -> "Checkpoint":
        """The checkpoint in a file, for a life that draws from `noise`."""
        files.check_opens(path, "remove it and fit again, which is charged again")
        try:
            members = files.read_archive(path)
        except ArtifactError:
            # privacy: an older copy would run steps again that are charged once, so none is asked for
            raise ArtifactError(
                f"the checkpoint {path} is damaged and cannot be resumed; remove it and fit again, which is "
                "charged again"
            ) from None
        try:
            notes = _Notes.model_validate_json(members.pop(_NOTES))
            kept = cls(path, Plan.loads(members.pop("plan.toml").decode()), noise)
            text = members.pop("ledger.jsonl").decode()
        except (KeyError, ValueError):
            raise ArtifactError(
                f"{path} is not the checkpoint of a fit; remove it and fit again, which is charged again"
            ) from None
        kept.ledger = Ledger.parse(text) if text else kept.ledger
        kept.code_version, kept.fixed = notes.code_version, notes.fixed or noise.fixed
        kept.reservation, kept.tokens, kept.drawn_before = notes.reservation, notes.tokens, notes.numbers
        kept.updates = dict(notes.updates)
        for stem, into in ((_RELEASED, kept._released), (_STATE, kept._states)):
            into.update({n.removeprefix(stem): body for n, body in members.items() if n.startswith(stem)})
        return kept

    def write(self) -> None:
        """Replace the file, and sync it to disk."""
        notes = _Notes(
            code_version=self.code_version,
            fixed=self.fixed,
            numbers=self.drawn_before + self._noise.numbers_told,
            reservation=self.reservation,
            tokens=self.tokens,
            updates=self.updates,
        )
        members = {
            "plan.toml": self.plan.dumps().encode(),
            "ledger.jsonl": self.ledger.dumps().encode(),
            _NOTES: notes.model_dump_json().encode(),
        }
        members |= {_RELEASED + phase: body for phase, body in self._released.items()}
        members |= {_STATE + phase: body for phase, body in self._states.items()}
        files.write_archive(self.path, members, packed=False)
        _LATEST[self.path.absolute()] = (self.ledger.head, _mark(self.path))

    def recall(self, phase: str) -> list[Array] | None:
        """What a statistics phase released, byte for byte."""
        if phase in self._released:
            arrays = _read(safetensors.numpy.load, self._released[phase], self.path)
            return [arrays[str(place)] for place in range(len(arrays))]
        if self.ledger.charged(phase):
            raise PrivacyRefused(
                f"phase '{phase}' was charged and then killed before its release was kept, and may not run again; "
                f"remove {self.path} and fit again, which is charged again"
            )
        return None

    def remember(self, phase: str, released: list[Array]) -> None:
        """Keep what a statistics phase released, at once."""
        arrays = {str(place): np.ascontiguousarray(array) for place, array in enumerate(released)}
        self._released[phase] = safetensors.numpy.save(arrays)
        self.write()

    def restore(self, phase: str) -> State | None:
        """The weights that were kept last, and the step up to which steps were charged."""
        charged = self.ledger.charged(phase)
        self._begun[phase] = charged - self.updates.get(phase, 0)
        if not charged:
            return None
        body = self._states.get(phase)
        return State(charged, {} if body is None else _read(safetensors.torch.load, body, self.path))

    def save(self, phase: str, state: State) -> None:
        """Keep where a gradient phase stands: with the next charge, or at once where none follows."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        self._states[phase] = safetensors.torch.save(tensors)
        self.updates[phase] = state.step - self._begun.get(phase, 0)
        planned = self.plan.phase(phase)
        if planned is None or state.step >= planned.steps:
            self.write()

    def lost(self) -> int:
        """Steps of gradients that were charged and then killed before their weights were kept."""
        names = [phase.name for phase in self.plan.phases if phase.kind == "gradients"]
        return sum(self.ledger.charged(name) - self.updates.get(name, 0) for name in names)


def discard(path: Path, head: str) -> None:
    """Remove a checkpoint if it is that of the fit whose ledger has this head; another's, or one in use, stays.

    One that this process wrote is known without being read, for it may be sealed to a key that is elsewhere.
    """
    with contextlib.suppress(PrivaeError, KeyError, OSError), files.owned(path):
        mine = _LATEST.get(path.absolute()) == (head, _mark(path))
        if mine or Ledger.parse(files.read_archive(path)["ledger.jsonl"].decode()).head == head:
            path.unlink()
            _LATEST.pop(path.absolute(), None)


def _mark(path: Path) -> tuple[int, int]:
    """What tells a file from any that is written in its place later."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _read(load: Any, body: bytes, path: Path) -> dict[str, Any]:  # noqa: ANN401  of arrays or of tensors
    try:
        found: dict[str, Any] = load(body)
    except (safetensors.SafetensorError, ValueError, KeyError):
        raise ArtifactError(
            f"{path} holds a part that does not read; remove it and fit again, which is charged again"
        ) from None
    return found
