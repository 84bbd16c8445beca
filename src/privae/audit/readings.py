"""What the reader who knows all other records reads off released sums: noise and canaries are left.

A reading is (reads [m], overlaps [m, m], noise): each canary's contribution times what is left, its products with the
others' contributions, and the standard deviation of the noise, in the weighted units of the phase.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from privae.fitted.anomalies import Anomalies
from privae.plan import Plan
from privae.recipes.detection import MOMENTS, QUANTILES, Records, totals_of
from privae.recipes.image import unpacked
from privae.recipes.phases import Released
from privae.sums import moments, units
from privae.sums.standard import clipped_codes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Reading = tuple[Floats, Floats, float]


def likely(reads: Floats, overlaps: Floats, noise: float) -> Floats:
    """The best linear guess of every canary's coin, from what each reads and how much of another it would read.

    Shapes: reads [m], overlaps [m, m] -> [m]. The residual is b' C + noise, with b the coins (variance 1/4), C the
    contributions; reads = C residual, overlaps = C C'.
    """
    ridge = 4 * noise**2 + 1e-9 * max(float(np.trace(overlaps)) / max(len(reads), 1), 1.0)
    found: Floats = np.linalg.solve(overlaps + ridge * np.eye(len(reads)), reads - overlaps.sum(1) / 2)
    return found


def joint(parts: Sequence[Reading]) -> Floats:
    """`likely` of several phases at once: each is weighted by its own noise, and the overlaps add up likewise."""
    least = min(noise for _, _, noise in parts)
    weights = [1.0 if noise == least else (least / noise) ** 2 for _, _, noise in parts]
    reads = np.sum([w * read for w, (read, _, _) in zip(weights, parts, strict=True)], 0)
    overlaps = np.sum([w * over for w, (_, over, _) in zip(weights, parts, strict=True)], 0)
    return likely(reads, overlaps, least)


def moment_reading(
    released: list[moments.Moments], codes: list[Integers], classes: list[Integers], noise: float
) -> Reading:
    """What every canary reads of one phase of moments, the overlaps, and the noise, in weighted units."""
    real, mine = codes
    known = [moments.sums(real[classes[0] == c]).astype(np.float64) for c in range(len(released))]
    rest = [moments.unpack(sums, real.shape[1]) for sums in known]
    return _of_moments(released, rest, (mine, classes[1]), noise)


def _of_moments(
    released: list[moments.Moments],
    rest: list[moments.Moments],
    canaries: tuple[Integers, Integers],
    noise: float,
) -> Reading:
    """rest: moments of the real records of each class; canaries: their codes and classes."""
    mine, classes = canaries
    unit = mine / moments.BOUND
    reads = np.zeros(len(mine))
    for c, (group, known) in enumerate(zip(released, rest, strict=True)):
        chosen = classes == c
        z = unit[chosen]
        second = (group.second - known.second) / float(moments.BOUND) ** 2
        first = (group.first - known.first) / moments.BOUND
        reads[chosen] = ((z @ second) * z).sum(1) + z @ first / 4 + (group.count - known.count) / 100
    inner = unit @ unit.T
    same = classes[:, None] == classes
    return reads, np.where(same, inner**2 + inner / 4 + 1 / 100, 0.0), noise


def of_detection(
    plan: Plan, fitted: Anomalies, transcript: Mapping[str, Released], records: tuple[Any, Any]
) -> Floats | None:
    """Both phases of anomaly detection at once. records: the real ones, and the canaries.

    None where a canary is more than one record: a unit whose windows overlap.
    """
    known, mine = (Records(*fitted.grouped(data)) for data in records)
    if mine.unit is not None and len(np.unique(mine.unit)) < len(mine.unit):
        return None
    parts = []
    if QUANTILES in transcript:
        layout = fitted.counted_in(plan)
        total, whole = totals_of(known, layout)
        left = (transcript[QUANTILES][0] - total) / whole
        pairs = zip(mine.values, mine.codes, strict=True)
        rows = (layout.counts(value[None], cell[None]) for value, cell in pairs)
        ones = sparse.vstack([sparse.csr_array(row[None].astype(np.float64)) for row in rows], format="csr")
        parts.append((ones @ left, (ones @ ones.T).toarray(), deviation(plan, QUANTILES)))
    codes = [clipped_codes(part.values, fitted.model.standard) for part in (known, mine)]
    own = moments.sums(codes[0]) if known.unit is None else units.sums(codes[0], known.unit)
    size = codes[0].shape[1]
    released = unpacked(transcript[MOMENTS], size)[0]
    rest = moments.unpack(own.astype(np.float64), size)
    group = np.zeros(len(codes[1]), np.int64)
    noise = deviation(plan, MOMENTS)
    return joint([*parts, _of_moments([released], [rest], (codes[1], group), noise)])


def deviation(plan: Plan, name: str) -> float:
    """Standard deviation of the noise of a phase, in its weighted units; 0 where the plan has none of that name."""
    phase = plan.phase(name)
    return 0.0 if phase is None else phase.mechanism().std
