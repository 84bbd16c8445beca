"""What every recipe shares: phases become releases through one mechanism, one noise source and one set of books."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privae.errors import PrivacyRefused, UsageError
from privae.plan import (
    MOST_NUMBERS,
    THRESHOLD_SHARE,
    Phase,
    Plan,
    Recipe,
    Setting,
    calibrated,
    check_budget,
    sampler_delta,
    unit_of,
)
from privae.privacy.clipping import Quantile
from privae.privacy.mechanism import Event, Mechanism
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import plural
from privae.training.group import ALONE, Group
from privae.training.loop import Hands
from privae.training.state import FORGETFUL, Keeper, uninterrupted
from privae.training.watch import Watch

Array = NDArray[np.float64]
Released = list[NDArray[Any]]
CATEGORIES = "categories"
_QUANTILE_RATE = 0.2  # how fast the clip norm follows its quantile
_GRADIENT_SHARE = 0.3  # of the budget, where gradients refine what statistics began


@dataclass(frozen=True)
class Budget:
    """What a person decides before a fit: the promise, the rough number of rows, and how to spend it."""

    epsilon: float
    delta: float
    rows: int | None = None
    strict: bool = False
    fidelity: bool | None = None

    @property
    def accountant_delta(self) -> float:
        """Delta without the sampler's share; a recipe that buys categories takes its threshold's share too."""
        return self.delta - sampler_delta(self.epsilon)


@dataclass(frozen=True)
class Draft:
    """A recipe's part of a plan: phases with shares but no noise yet, and what it expects."""

    recipe: Recipe
    phases: tuple[Phase, ...]
    settings: dict[str, Setting]
    rows_needed: Callable[[Sequence[Phase]], float]
    seconds: float
    megabytes: float
    notes: tuple[str, ...] = ()


def plan_of(draft: Draft, budget: Budget, schema_hash: str, code_version: str) -> Plan:
    """The finished plan: noise for every phase, fixed before anything is released (rule 16)."""
    check_budget(budget.epsilon, budget.delta, budget.rows)
    threshold = threshold_delta(budget.epsilon, budget.delta, draft.phases)
    phases = calibrated(draft.phases, budget.epsilon, budget.accountant_delta - threshold)
    needed = math.ceil(draft.rows_needed(phases)) if math.isfinite(budget.epsilon) else 1
    return Plan(
        recipe=draft.recipe,
        epsilon=budget.epsilon,
        delta=budget.delta,
        rows=budget.rows,
        strict=budget.strict,
        phases=phases,
        settings=draft.settings,
        schema_hash=schema_hash,
        rows_needed=needed,
        seconds=round(draft.seconds, 1),
        megabytes=round(draft.megabytes),
        delta_threshold=threshold,
        notes=(*draft.notes, *_verdict(budget.rows, needed, unit_of(draft.settings))),
        code_version=code_version,
    )


def budget_of(plan: Plan) -> Budget:
    """What a person decided who made this plan."""
    fidelity = plan.settings.get("fidelity")
    return Budget(
        plan.epsilon, plan.delta, plan.rows, plan.strict, bool(fidelity) if fidelity is not None else None
    )


def check_plan(plan: Plan, draft: Draft) -> None:
    """Refuse a plan whose bounds are not those of this recipe and schema, or that costs more than it says."""
    if [p.name for p in plan.phases] != [p.name for p in draft.phases] or plan.settings != draft.settings:
        raise UsageError(
            "the plan has other phases or settings than this fit; plan again with the same options"
        )
    for phase, own in zip(plan.phases, draft.phases, strict=True):
        bounds = (phase.kind, phase.size, phase.replace_ratio) == (own.kind, own.size, own.replace_ratio)
        if not bounds or (phase.kind == "statistics" and phase.sensitivity != own.sensitivity):
            raise PrivacyRefused(
                f"phase '{phase.name}' of the plan states bounds that do not hold; plan again"
            )
    if plan.delta_threshold != threshold_delta(plan.epsilon, plan.delta, plan.phases):
        raise PrivacyRefused("the plan's delta_threshold is not that of its phases; plan again")
    if math.isinf(plan.epsilon) and any(phase.noise_multiplier for phase in plan.phases):
        raise UsageError("a plan with epsilon = inf has no noise; plan again")
    if plan.guarantee().epsilon > plan.epsilon:
        raise PrivacyRefused("the plan's phases cost more than its epsilon; plan again")


def threshold_delta(epsilon: float, delta: float, phases: Sequence[Phase]) -> float:
    """The share of delta that buying categories takes; 0 where nothing is bought, or without noise."""
    buys = any(phase.name == CATEGORIES for phase in phases) and math.isfinite(epsilon)
    return THRESHOLD_SHARE * delta if buys else 0.0


def joined(first: Draft, trained: Draft) -> Draft:
    """A draft of statistics followed by a gradient phase that takes GRADIENT_SHARE of the budget."""
    if trained.settings.get("unit"):
        raise UsageError('local steps are for recipe="gradients": statistics are of records, not of sites')
    kept = tuple(p.model_copy(update={"share": p.share * (1 - _GRADIENT_SHARE)}) for p in first.phases)
    last = trained.phases[-1].model_copy(update={"share": _GRADIENT_SHARE})
    return replace(
        first,
        phases=(*kept, last),
        settings=first.settings | trained.settings | {"fidelity": True},
        rows_needed=lambda noisy: first.rows_needed(noisy[:-1]),
        seconds=first.seconds + trained.seconds,
    )


def quantile_of(phase: Phase, expected: float) -> Quantile | None:
    """The quantile that the clip norm of a phase follows, for the expected records a step; None keeps it."""
    if phase.quantile is None:
        return None
    # votes noisier than three times the gradients cost these at most 6 % more noise
    votes = max(expected / 10, 3 * phase.noise_multiplier, 1.0)
    return Quantile(phase.quantile, _QUANTILE_RATE, votes, phase.sensitivity)


@dataclass(frozen=True)
class Run:
    """One fit under way: the only thing that turns private sums into released numbers.

    charge writes an event of a phase into every ledger, or raises PrivacyRefused; it returns epsilon so far.
    group: the processes that fit together; the first one charges, draws noise, releases and keeps.
    drawn_before: noise numbers drawn by the killed lives of a fit that was resumed.
    transcript: where releases of statistics are kept for an audit, if there is one.
    """

    plan: Plan
    charge: Callable[[str, Event], float | None] = field(repr=False)
    noise: NoiseSource = field(repr=False)
    watch: Watch = field(repr=False)
    keeper: Keeper = field(default=FORGETFUL, repr=False)
    group: Group = ALONE
    device: torch.device = torch.device("cpu")  # noqa: RUF009  immutable
    drawn_before: int = 0
    transcript: dict[str, Released] | None = field(default=None, repr=False)

    def release(
        self,
        name: str,
        totals: Sequence[tuple[NDArray[np.int64], float]],
        leaves: Callable[[Released], Released] | None = None,
    ) -> Released:
        """Noisy integer sums of one phase, charged first; or, in a resumed fit, those that it released before.

        totals: blocks of integer sums, each with the public weight that the phase's sensitivity is stated in
        (sensitivity = L2 norm of all weighted blocks). Noise of std s on a weighted block is noise of s / weight
        on its integers, so every block is released on its own grid of integers (guarantees.md rules 1 and 3).
        leaves: what of the noisy sums is released at all, where their form is itself a secret (counts of texts
        that are not declared); it alone is kept.
        """
        phase = self._phase(name)
        if phase.sampling_rate != 1 or phase.steps != 1:
            raise PrivacyRefused(f"phase '{name}' sums over every record once, and was not charged so")

        def made() -> Released:
            earlier = self.keeper.recall(name)
            if earlier is not None:
                return earlier  # rule 19: byte for byte the same, so free
            with uninterrupted():
                epsilon, before = self.charge(name, phase.event()), self.noise.numbers_drawn
                noisy = [
                    self._mechanism(phase, weight).release(total, self.noise) for total, weight in totals
                ]
                released = noisy if leaves is None else leaves(noisy)
                if leaves is not None:  # privacy: a checkpoint tells how much noise was drawn
                    self.noise.hidden += self.noise.numbers_drawn - before
                # privacy: noisy counts of texts tell how many different ones there are, below the threshold, too
                if leaves is not None or name != CATEGORIES:
                    self.keeper.remember(name, released)
            self.watch.advance(0, epsilon)
            return released

        released = self.group.same(made)
        if self.transcript is not None:
            self.transcript[name] = released
        return released

    def agreed(self, name: str, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """What follows from releases alone and the next phase rests on: made once, where several places fit together.

        Processors differ in the last bits of eigenvectors and trainings, so places do not make it each on their own.
        """
        return self.group.same(make)

    def mechanism(self, name: str) -> Mechanism:
        """What releases the sums of a gradient phase."""
        return self._phase(name).mechanism()

    def hands(self, name: str) -> Hands:
        """Who trains the gradient phase of that name, and what keeps its state."""
        return Hands(self.group, self.keeper, name, self.device)

    def deviation(self, name: str) -> float:
        """Standard deviation of the noise of a phase, in its weighted units; 0 without noise."""
        return self._phase(name).mechanism().std

    def check_size(self, name: str, numbers: int) -> None:
        """Refuse a network with another number of parameters than the rounding of its sums was charged for."""
        if self._phase(name).size != numbers:
            raise PrivacyRefused(f"phase '{name}' was planned for a network of another size; plan again")

    def finish(self) -> None:
        """Refuse if more noise was drawn than the sampler's share of delta was charged for."""
        if self.drawn_before + self.noise.numbers_drawn > MOST_NUMBERS:
            raise PrivacyRefused(
                "more noise was drawn than was charged for; plan fewer steps or fewer parameters"
            )

    def _phase(self, name: str) -> Phase:
        phase = self.plan.phase(name)
        if phase is None:
            raise PrivacyRefused(f"the plan has no phase '{name}': nothing may be released for it")
        return phase

    @staticmethod
    def _mechanism(phase: Phase, weight: float) -> Mechanism:
        return phase.model_copy(update={"sensitivity": phase.sensitivity / weight}).mechanism()


def statistics(name: str, share: float, sensitivity: float, replace_ratio: float, **more: Any) -> Phase:  # noqa: ANN401
    """A phase that releases one sum of integer contributions."""
    return Phase(name=name, share=share, sensitivity=sensitivity, replace_ratio=replace_ratio, **more)


def _verdict(rows: int | None, needed: int, unit: str) -> tuple[str, ...]:
    if rows is not None and rows < needed:
        what = plural(unit)
        return (
            f"weak: with about {rows} {what} the noise will dominate; this epsilon is expected to work "
            f"from about {needed} {what}",
        )
    return ()
