"""The audit: which attacks run at which level, on what, and the verdict over all of their findings."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from privae.attacks import copies, inversion, linkage, membership, reference, transcripts
from privae.attacks.bounds import CONFIDENCE
from privae.attacks.finding import Attack, Channel, Finding, Language, Skipped
from privae.attacks.world import World
from privae.audit import canaries, game, persons, units
from privae.audit.case import REHEARSAL, Case, Own, images_of, joined_to, odd_one_out
from privae.audit.case import case_of as of_records
from privae.audit.coins import Coins
from privae.errors import DataError, UsageError
from privae.fitted.ratings import FittedRatings
from privae.fitted.units import Units
from privae.privacy.noise import NoiseSource
from privae.training.watch import Silent, Watch

Level = Literal["quick", "standard", "deep"]
LEVELS: tuple[Level, ...] = ("quick", "standard", "deep")
FORMAT = "privae-audit/1"
_ENGINE_CANARIES = 1000
_OF_A_BOUND = 6.0
_PLAYED = 2000  # generated records of a pair of fits
_SILENT = Silent()

Result = Finding | Skipped | Sequence[Finding | Skipped]


class Attacker(Protocol):
    """One attack of a suite."""

    def __call__(self, case: Case, confidence: float, watch: Watch) -> Result:
        """Findings, each at this confidence, or why there are none."""
        ...


@dataclass(frozen=True)
class Entry:
    """An attack in the suite: from which level on, what it needs, and how many findings it may give.

    weight: its part of the audit's error, against that of others. Bounds of epsilon need most: next to delta, hardly
    any error is left to them otherwise, and they could show nothing.
    """

    attack: str
    channel: Channel
    run: Attacker
    level: Level = "quick"
    needs: frozenset[str] = frozenset()
    findings: int = 1
    weight: float = 1.0


@dataclass(frozen=True, repr=False)
class Audit:
    """Findings of one audit, which hold together at `confidence`; and the attacks that did not run, and why.

    generated: records that were drawn for it. fit: the identity of the model that was audited, if it is one of ours.
    """

    level: Level
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    holdout: Literal["given", "split"] | None
    seconds: float
    epsilon: float | None = None
    generated: int = 0
    plan_hash: str | None = None
    fit: str | None = None

    def __repr__(self) -> str:
        # privacy: findings on real records, and the verdict, are not for logs
        return f"Audit(level={self.level!r}, findings={len(self.findings)})"

    @property
    def passed(self) -> bool:
        """Whether no finding contradicts the guarantee or shows copies."""
        return not any(finding.failed for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. privacy: findings on real records are in it, so it is for the data holder only."""
        return {
            "format": FORMAT,
            "level": self.level,
            "confidence": CONFIDENCE,
            "passed": self.passed,
            "seconds": round(self.seconds, 1),
            "holdout": self.holdout,
            "generated": self.generated,
            "plan_hash": self.plan_hash,
            "fit": self.fit,
            "epsilon": "inf" if self.epsilon == float("inf") else self.epsilon,
            "created": datetime.now(UTC).date().isoformat(),
            "findings": [finding.to_dict() for finding in self.findings],
            "skipped": [skipped.to_dict() for skipped in self.skipped],
        }


def case_of(own: Own, data: tuple[Any, Any], holdout: Any, coins: Coins | None, seed: int) -> Case:  # noqa: ANN401
    """The case of a model of ours: of a table or images record by record, of ratings and series unit by unit."""
    if isinstance(own.fitted, FittedRatings):
        return persons.case_of(own, data[0], holdout, coins, seed)
    if isinstance(own.fitted, Units):
        return units.case_of(own, data[0], holdout, coins, seed)
    return of_records(own, data, holdout, coins, seed)


def audit(case: Case, level: Level = "quick", known: Sequence[Finding] = (), watch: Watch = _SILENT) -> Audit:
    """Run every attack of a level; `known` are findings about the canaries that the fit planted.

    Guarantee: what its findings state holds for all of them together with probability CONFIDENCE. So, if what is
    claimed holds, a lower bound of epsilon is above it with probability at most 1 - CONFIDENCE: canaries have
    three quarters of that, all others the rest, by their weights (Bonferroni); where there are no canaries, the
    others have all of it. Beyond lower bounds an audit fails by rules of thumb, which the docstrings of the attacks
    state: copies, values of single records, risks. They need not contradict a claim.
    """
    if level not in LEVELS:
        raise UsageError(f"an audit's level is one of {', '.join(LEVELS)}")
    start = time.monotonic()
    # whether several sites fitted a model is public, and so is which attacks run
    joint = bool(case.own and case.own.federation)
    suite = [
        entry
        for entry in (*_SUITE, *(_JOINT if joint else ()))
        if LEVELS.index(entry.level) <= LEVELS.index(level)
    ]
    rehearsed = level != "quick" and not known and case.rehearse is not None
    # which attacks run at a level is public, and so is whether there are canaries
    part = 1 - canaries.SHARE if known or rehearsed else 1.0
    error = part * (1 - CONFIDENCE) / sum(entry.findings * entry.weight for entry in suite)
    found: list[Finding | Skipped] = list(known)
    watch.phase(f"audit: {level}", len(suite) + rehearsed)
    if rehearsed and case.rehearse is not None:
        found += _rehearsal(case.rehearse)
        watch.advance(1)
    for entry in suite:
        found += _results(entry, case, 1 - error * entry.weight, watch)
        watch.advance(1)
    return Audit(
        level,
        tuple(one for one in found if isinstance(one, Finding)),
        tuple(one for one in found if isinstance(one, Skipped)),
        case.origin,
        time.monotonic() - start,
        case.world.epsilon,
        len(case.world.synthetic_records),
        *((case.own.plan.hash, case.own.fit) if case.own else ()),
    )


_NEEDS: dict[str, tuple[Callable[[Case], bool], dict[Language, str]]] = {
    "holdout": (
        lambda case: (
            case.world.holdout_records is not None
            and min(map(len, (case.world.holdout_records, case.world.member_records))) >= membership.FEWEST
        ),
        {
            "en": f"needs {membership.FEWEST} records or more that were kept out of the fit: --holdout FILE",
            "zh": f"需要至少 {membership.FEWEST} 条未参与训练的记录：使用 --holdout FILE",
        },
    ),
    "model": (
        lambda case: case.world.model is not None,
        {
            "en": "needs the model, and only its samples are at hand",
            "zh": "需要模型本身，而此处只有其生成的样本",
        },
    ),
    "table": (
        lambda case: case.world.schema is not None,
        {"en": "is for tables with a row a record", "zh": "仅适用于每行一条记录的表格数据"},
    ),
    "refit": (
        lambda case: case.world.refit is not None,
        {
            "en": "needs to fit the same plan again, which this model does not allow",
            "zh": "需要以同一方案重新训练，该模型不支持",
        },
    ),
    "rows": (
        lambda case: case.own is not None and not isinstance(case.own.fitted, FittedRatings | Units),
        {"en": "is for tables and images alone", "zh": "仅适用于表格和图像"},
    ),
    "plan": (
        lambda case: (
            case.own is not None and any(phase.kind == "gradients" for phase in case.own.plan.phases)
        ),
        {"en": "the plan trains nothing by gradients", "zh": "该方案不包含梯度训练"},
    ),
}


_HIDDEN: dict[Language, str] = {
    "en": "the noise of this plan hides so few records that nothing can be fitted to them",
    "zh": "相对于所用的记录数，该方案的噪声过大，无法据此再次训练",
}


def _results(entry: Entry, case: Case, confidence: float, watch: Watch) -> Iterator[Finding | Skipped]:
    for need in sorted(entry.needs):
        holds, reason = _NEEDS[need]
        if not holds(case):
            yield Skipped(entry.attack, entry.channel, dict(reason))
            return
    try:
        found = entry.run(case, confidence, watch)
    except DataError:
        if "refit" not in entry.needs:
            raise
        found = Skipped(entry.attack, entry.channel, dict(_HIDDEN))
    yield from [found] if isinstance(found, Finding | Skipped) else found


def _rehearsal(run: Callable[[], list[Finding]]) -> list[Finding | Skipped]:
    try:
        return [*run()]
    except DataError:
        return [Skipped("rehearsal", "data", dict(_HIDDEN))]


def _seen(attack: Callable[[World, float], Result]) -> Attacker:
    """An attack that needs the world alone."""
    return lambda case, confidence, _: attack(case.world, confidence)


def _drawing(attack: Callable[[World, float, np.random.Generator], Result]) -> Attacker:
    """An attack that draws lots, too."""
    return lambda case, confidence, _: attack(case.world, confidence, case.world.rng)


def _inverted(case: Case, confidence: float, watch: Watch) -> Result:  # noqa: ARG001
    assert case.own is not None
    assert not isinstance(case.own.fitted, FittedRatings | Units)
    data, seed = case.world.members, case.world.seed
    records = data if isinstance(data, pd.DataFrame) else images_of(data)
    return inversion.of_model(
        case.own.fitted, records, case.own.plan, confidence, labels=case.labels, seed=seed
    )


def _overheard(case: Case, confidence: float, watch: Watch) -> Result:  # noqa: ARG001
    """What the coordinator of a study could read off a site's messages."""
    assert case.own is not None
    data, own = case.world.members, case.own
    assert not isinstance(own.fitted, FittedRatings | Units)
    records = data if isinstance(data, pd.DataFrame) else images_of(data)
    facts, seed = own.federation, case.world.seed
    return transcripts.of_model(
        own.fitted, records, own.plan, facts, confidence, labels=case.labels, seed=seed
    )


def _looped(case: Case, confidence: float, watch: Watch) -> Result:  # noqa: ARG001
    """Gradient canaries through the shipped loop, at the settings of the plan's gradient phase."""
    assert case.own is not None
    plan = case.own.plan
    phase = next(phase for phase in plan.phases if phase.kind == "gradients")
    # each pushes a weight of its own, and noise was planned for no more weights than the network has
    count = min(_ENGINE_CANARIES, phase.size)
    return game.gradient_canaries(phase, count, plan.delta, confidence, NoiseSource())


def _referred(case: Case, confidence: float, watch: Watch) -> Result:
    workers = min(os.cpu_count() or 1, reference.MODELS)
    return reference.calibrated(case.world, confidence, case.world.rng, workers=workers, watch=watch)


def _replayed(case: Case, confidence: float, watch: Watch) -> Result:  # noqa: ARG001
    """What the plan writes of generated records, with and without one more that is far from them."""
    assert case.own is not None
    own = case.own
    data, odd = odd_one_out(own, _PLAYED, case.world.rng)
    return game.replayed(
        lambda tape, with_it: own.written(tape, joined_to(data, odd) if with_it else data), confidence
    )


def _of(attack: Attack, run: Attacker, *needs: str, level: Level = "quick") -> Entry:
    return Entry(attack.name, attack.channel, run, level, frozenset(needs))


def _bound(attack: Attack, run: Attacker, *needs: str, level: Level = "quick") -> Entry:
    """An attack that bounds epsilon from below."""
    return replace(_of(attack, run, *needs, level=level), weight=_OF_A_BOUND)


_SUITE: tuple[Entry, ...] = (
    _of(copies.DUPLICATES, _seen(copies.duplicates)),
    _of(copies.EXACT, _seen(copies.exact_copies)),
    _of(copies.NEARLY, _seen(copies.near_copies), "holdout"),
    _of(copies.RARE, _seen(copies.rare_values), "table"),
    _of(copies.EXTREMES, _seen(copies.extremes), "table"),
    _bound(membership.LOSS, _drawing(membership.loss), "model", "holdout"),
    _bound(membership.PARTS, _drawing(membership.parts), "model", "holdout"),
    _bound(membership.RECONSTRUCTION, _drawing(membership.reconstruction), "model", "holdout"),
    _bound(membership.MONTE_CARLO, _drawing(membership.monte_carlo), "holdout"),
    _bound(membership.DOMIAS, _drawing(membership.domias), "holdout"),
    _of(linkage.SINGLING, _seen(linkage.singling_out), "table", "holdout"),
    _of(linkage.JOINTLY, _seen(linkage.singling_out_jointly), "table", "holdout"),
    _of(linkage.LINKING, _seen(linkage.linkability), "table", "holdout"),
    _of(linkage.INFERENCE, _seen(linkage.inference), "table", "holdout"),
    _of(linkage.ATTRIBUTE, _seen(linkage.attribute_inference), "table", "holdout", level="standard"),
    replace(
        _of(inversion.PLAIN, _inverted, "plan", "rows", level="standard"), findings=len(inversion.ATTACKS)
    ),
    _bound(game.GRADIENTS, _looped, "plan", level="standard"),
    _of(game.REPLAYED, _replayed, "refit", level="standard"),
    replace(_bound(reference.LIRA, _referred, "model", "holdout", "refit", level="deep"), findings=2),
)


_JOINT = (
    replace(
        _of(transcripts.attack_of("plain"), _overheard, "plan", level="deep"),
        findings=len(transcripts.modes_of({})),
    ),
)
"""Of models that several sites fitted."""


PUBLIC = frozenset(
    attack.name if head == "" else head + attack.name
    for head, attacks in (
        ("", (canaries.RELEASE, canaries.CATEGORIES, canaries.LOSS, game.GRADIENTS, game.REPLAYED)),
        (REHEARSAL, (canaries.READING, canaries.RELEASE, canaries.CATEGORIES, canaries.LOSS)),
    )
    for attack in attacks
)
"""Names of the attacks whose findings may be published: they are about releases and made-up records alone."""
