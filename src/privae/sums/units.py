"""Units with several records: each contributes the mean of its records' contributions, in integers.

Records are sorted by unit, and `unit` [n] says whose each is: 0, 0, 0, 1, 1, ... A mean of vectors of norm at most s
has norm at most s, so the sensitivity is that of one record, whatever the number of records of a unit. Two units'
means can lie further apart than two records' moments: see REPLACE_RATIO.
"""

import math

import numpy as np
from numpy.typing import NDArray

from privae.sums import moments
from privae.sums.moments import SENSITIVITY
from privae.sums.quantiles import Layout

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

WHOLE = 2**20
"""What a unit counts, in integer units of `counts`."""
REPLACE_RATIO = math.sqrt(3.0) / SENSITIVITY
"""Of means of moments: two positive semidefinite matrices of norm 1 lie at most sqrt(2) apart, first moments 2 / 2."""


def counts(values: Array, codes: Integers, unit: Integers, layout: Layout) -> Integers:
    """Counts of records, each a whole share of its unit: -> [layout.size], in units of 1 / WHOLE.

    Guarantee: a unit with w records adds floor(WHOLE / w) to a cell of every tree, and of every category column, for
        each of them: at most WHOLE in all, and so at most WHOLE * layout.sensitivity in L2.
    """
    return layout.counts(values, codes, WHOLE // _sizes(unit)[unit])


def sums(codes: Integers, unit: Integers) -> Integers:
    """`moments.sums` with the mean of each unit's records: [n, d] -> [d (d + 1) / 2 + d + 1], exact in any order.

    Guarantee: a unit adds [Z / R^2, b / (2 R), 1 / 10] in the weights of `moments`, with Z a sum of z z' over its w
        records z, each scaled by floor(2^20 / sqrt(w)) / 2^20 and cut to integers, so that Z is positive semidefinite
        with norm at most its trace, at most R^2; and b the mean, cut to integers, of norm at most R. So its norm is at
        most SENSITIVITY. Integer arithmetic throughout (guarantees.md rule 1).
    """
    size = _sizes(unit)
    scale = np.array([math.isqrt(2**40 // w) for w in range(1, int(size.max(initial=0)) + 1)], np.int64)
    second = moments.sums(divided(codes * scale[size[unit] - 1][:, None], 2**20))
    first = np.flatnonzero(np.diff(unit, prepend=-1))
    total = np.add.reduceat(codes, first, axis=0) if len(codes) else codes
    width = codes.shape[1]
    mean = divided(total, size[:, None]).sum(0)
    return np.concatenate([second[: -(width + 1)], mean, [len(size)]])


def _sizes(unit: Integers) -> Integers:
    """Records of each unit, at least one: [units]."""
    return np.bincount(unit).astype(np.int64)


def divided(values: Integers, by: Integers | int) -> Integers:
    """Whole quotients, cut towards zero, so that no magnitude grows."""
    return (np.sign(values) * (np.abs(values) // by)).astype(np.int64)
