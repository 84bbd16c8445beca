"""What a fit is charged: block by block in the model's own ledger, once as a whole in the data set's."""

import math
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from privae import files
from privae.errors import ArtifactError, DataError, PrivacyRefused, UsageError
from privae.plan import Phase, Plan, sampler_delta
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import CLIENT, PARTS
from privae.training.state import FORGETFUL, Checkpoint, Keeper
from privae.training.watch import Watch


@dataclass(frozen=True)
class Places:
    """Where a fit is written down: the capped ledger of its data set, and the checkpoint that it can go on from."""

    ledger: Ledger | str | Path | None = None
    checkpoint: Path | None = None
    resume: bool = False


class Books:
    """What a fit is charged, written down before anything is released.

    The model's own ledger gets a phase's event when the phase begins, and that of gradients in blocks of steps;
    a data set's ledger gets the whole plan once, before everything else, and nothing when a fit is resumed. Where
    there is a checkpoint, the own ledger is in it, and on disk, before `charge` returns.
    Order: the data set's ledger is spent, then the checkpoint is written. A kill in between loses budget: it is
    charged, and no checkpoint can show it. The other way round, releases could be made that no cap had admitted.
    """

    def __init__(self, plan: Plan, noise: NoiseSource, places: Places) -> None:
        self.plan, self.noise, self.places = plan, noise, places
        self.kept: Checkpoint | None = None
        self._own = Ledger.fresh(plan.delta, plan.unit)
        self._shared: Ledger | None = None

    @property
    def own(self) -> Ledger:
        """The model's own ledger."""
        return self._own if self.kept is None else self.kept.ledger

    @property
    def keeper(self) -> Keeper:
        """What the phases keep their releases in."""
        return FORGETFUL if self.kept is None else self.kept

    @property
    def fixed(self) -> bool:
        """Whether any of the noise came of a key that was given by hand."""
        return self.noise.fixed if self.kept is None else self.kept.fixed

    @property
    def drawn_before(self) -> int:
        """Noise numbers drawn by the lives before this one."""
        return 0 if self.kept is None else self.kept.drawn_before

    def tell(self, watch: Watch) -> None:
        """Say what the kills before this life cost."""
        lost = 0 if self.kept is None else self.kept.lost()
        if lost:
            watch.note(
                f"{lost} steps were killed before they were kept; they stay charged, and are not run again"
            )

    @contextmanager
    def open(self) -> Iterator[None]:
        """Begin or resume the fit; in the first process only. A checkpoint has one user at a time.

        A fit that ends because of what it released (DataError) would end so again: its checkpoint is removed.
        """
        places, path = self.places, self.places.checkpoint
        if places.ledger is not None:
            found = places.ledger
            self._shared = found if isinstance(found, Ledger) else Ledger.load(found)
        if path is None:
            if places.resume:
                raise UsageError("name the checkpoint to resume from: checkpoint=PATH")
            self._reserve()
            yield
            return
        files.check_writable(path)
        with files.owned(path):
            check_checkpoint(path, resume=places.resume)
            files.remove_remains(path)
            self._resume(path) if places.resume else self._begin(path)
            try:
                yield
            except DataError:
                path.unlink(missing_ok=True)
                raise

    def charge(self, phase: str, event: Event) -> float:
        """Write down a phase, or a block of steps of one, and return the epsilon so far.

        Errors: PrivacyRefused for another event than planned, more steps, or another order; or if another
            process took the fit over.
        """
        following = next_charge(self.own, self.plan, phase, event)
        if self.kept and self._shared and self._shared.holder(self.kept.reservation) != self.kept.tokens[-1]:
            raise PrivacyRefused("this fit was resumed elsewhere from a copy of its checkpoint; it ends here")
        self.own.spend([following], fine=ends(self.own, self.plan, phase, event))
        if self.kept:
            self.kept.write()
        return self.own.entries[-1].epsilon

    def _begin(self, path: Path) -> None:
        kept = Checkpoint(path, self.plan, self.noise)
        kept.reservation = self._reserve()
        if kept.reservation:
            kept.write()
        self.kept = kept

    def _reserve(self) -> str:
        """Spend the whole plan from the data set's ledger; the hash of the last entry, or "" without a ledger."""
        if self._shared is None:
            return ""
        cap = self._shared.cap
        if cap is None:
            raise UsageError("this ledger has no cap; open one for the data set with: privae ledger open")
        self._shared.spend(whole_plan(self.plan, cap.epsilon, self._shared.unit))
        return self._shared.head

    def _resume(self, path: Path) -> None:
        if self.noise.fixed:
            # privacy: the killed life drew the same coins
            raise UsageError(
                "a noise key given by hand would draw the same noise again; leave it out to resume"
            )
        kept = Checkpoint.load(path, self.noise)
        _check_same(kept, self.plan)
        if bool(kept.reservation) != (self._shared is not None):
            was = "was" if kept.reservation else "was not"
            raise UsageError(
                f"the interrupted fit {was} charged to a ledger; resume it with the same --ledger"
            )
        if self._shared is not None:
            _take_over(kept, self._shared)
        self.kept = kept


def check_checkpoint(path: Path, *, resume: bool) -> None:
    """Raise UsageError where a fit is to begin and there is a checkpoint, or to be resumed and there is none."""
    if resume and not path.exists():
        raise UsageError(f"there is no fit to resume: {path} does not exist; leave out --resume to begin one")
    if path.exists() and not resume:
        raise UsageError(
            f"{path} holds a fit that was interrupted: resume it (--resume), or remove the file to fit again, "
            "which is charged again"
        )


def _check_same(kept: Checkpoint, plan: Plan) -> None:
    if kept.plan.schema_hash != plan.schema_hash:
        raise UsageError("the schema, or the order of the columns, is not that of the interrupted fit")
    if kept.code_version != files.code_version():
        raise UsageError(f"the interrupted fit was begun by privae {kept.code_version}; resume it with that")
    if kept.plan.hash != plan.hash:
        raise UsageError("the options or the plan are not those of the interrupted fit; repeat its command")
    if not follows(charges_of(kept.ledger), plan):
        raise ArtifactError(f"{kept.path}: its ledger does not follow its plan; do not trust it")


def _take_over(kept: Checkpoint, shared: Ledger) -> None:
    """Become the one life of a fit that its data set's ledger knows.

    The new token is in the checkpoint before it is in the ledger: killed at any point, the file knows the holder.
    """
    known = shared.holder(kept.reservation)
    if known not in kept.tokens:
        raise PrivacyRefused(
            "this fit was resumed before, from this checkpoint or a copy, and went on elsewhere; "
            f"remove {kept.path} and fit again, which is charged again"
        )
    token = secrets.token_hex(8)
    kept.tokens = (known, token)
    kept.write()
    shared.resume(kept.reservation, known, token)
    kept.tokens = (token,)


def next_charge(own: Ledger, plan: Plan, phase: str, event: Event) -> Charge:
    """The next charge of a plan, for its model's own ledger; the first one bears what the plan adds to delta.

    Errors: PrivacyRefused for another event than planned, more steps, or another order.
    """
    before = charges_of(own)
    if not follows([*before, (phase, event)], plan):
        raise PrivacyRefused(f"phase '{phase}' is about to do something else than was planned")
    added = 0.0 if before else plan.delta_threshold + plan.delta_sampler
    return Charge(plan.hash, plan.schema_hash, phase, event, unit=plan.unit, added_delta=added)


def ends(own: Ledger, plan: Plan, phase: str, event: Event) -> bool:
    """Whether a phase is whole with this event."""
    planned = plan.phase(phase)
    return planned is not None and own.charged(phase) + event.steps == planned.steps


def whole_plan(plan: Plan, cap: float, unit: str = "record") -> list[Charge]:
    """All charges of a plan, for the ledger of a data set that protects each `unit`, with an epsilon of `cap`.

    Errors: PrivacyRefused, by the ledger, for a plan that protects less than its unit.
    """
    if unit in PARTS:
        # privacy: a window, or a day by another clock, is a part of another plan's, or of several, and moves these by
        # more than was charged
        raise PrivacyRefused(f"{unit}s of two plans need not be the same: open the ledger for records")
    # the sampler's share of delta at the cap's epsilon, which is what the ledger promises
    added = plan.delta_threshold + sampler_delta(max(plan.epsilon, cap))
    charged = plan.unit if plan.unit == unit else "record"
    return [
        Charge(plan.hash, plan.schema_hash, phase.name, event, unit=charged, added_delta=0.0 if i else added)
        for i, phase in enumerate(plan.phases)
        for event in [_counted(plan, phase, charged)]
    ]


def _counted(plan: Plan, phase: Phase, unit: str) -> Event:
    """What a phase costs in a ledger of this unit, which may be smaller than the plan's.

    privacy: a record that comes or goes replaces the part of the client, person, household or the like that it belongs
    to: a client's, bounded by C, moves by at most 2C, and any other's by the phase's replace-one ratio; the first or
    last reading of a unit makes that come or go, which is no more. A record that is replaced can leave one unit and
    come to another: twice as much.
    """
    event = phase.event()
    if plan.unit == unit:
        return event
    if plan.unit == CLIENT:
        return replace(event, noise_multiplier=event.noise_multiplier * 0.5)
    counts = event.noise_multiplier / phase.replace_ratio
    return replace(event, noise_multiplier=counts, replace_ratio=2.0)


def charges_of(ledger: Ledger) -> list[tuple[str, Event]]:
    """Phases and events of a model's own ledger, in order."""
    return list(zip((entry.phase for entry in ledger.entries), ledger.events, strict=True))


def follows(charges: Sequence[tuple[str, Event]], plan: Plan, *, whole: bool = False) -> bool:
    """Whether charges are those of the plan: its phases in order, each in blocks of at most its steps together.

    whole: no phase is missing. A statistics phase has one step, so it has one entry.
    """
    names = [name for name, _ in groupby(charges, key=lambda charge: charge[0])]
    planned = [phase.name for phase in plan.phases]
    if names != (planned if whole else planned[: len(names)]):
        return False
    for name in names:
        phase, blocks = plan.phase(name), [event for charged, event in charges if charged == name]
        assert phase is not None
        same = all(replace(block, steps=phase.steps) == phase.event() and block.steps for block in blocks)
        if not same or sum(block.steps for block in blocks) > phase.steps:
            return False
    return True


def holds(ledger: Ledger, plan: Plan) -> bool:
    """Whether a ledger holds the plan, whole and alone, and what it adds to delta."""
    added = math.fsum(float(entry.event.get("added_delta", 0.0)) for entry in ledger.entries)
    return (
        ledger.cap is None
        and {(entry.plan_hash, entry.delta) for entry in ledger.entries} == {(plan.hash, plan.delta)}
        and follows(charges_of(ledger), plan, whole=True)
        and added == plan.delta_threshold + plan.delta_sampler
    )
