"""What units contribute to a step: bounded numbers as integers, marks of those that are there, and a one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.continual.plan import ContinualPlan
from privae.data.values import column_of, distinct, numbers
from privae.errors import DataError, UsageError
from privae.sums.units import divided

Floats = NDArray[np.float64]


def total(
    plan: ContinualPlan, values: Floats, units: Sequence[Any] | NDArray[Any] | pd.Series
) -> NDArray[np.int64]:
    """The sum of what units contribute to a step, without noise.

    Shapes: values [n, d] in the plan's order, units [n], texts or numbers -> [p].
    Several rows of a unit count as their mean, number by number. A number is scaled from its bounds to [-1, 1],
    clipped, rounded towards zero to the grid; nan and infinite ones are gaps.
    Guarantee: a unit that comes, goes or changes leaves the contributions of all others alone, and its own has a
        norm of at most plan.norm (proof at `ContinualPlan`). The sum is one of integers, the same in any order: a
        row is rounded first, then summed, then divided by the number of its unit's rows, towards zero again.
    Edges: no rows -> zeros; rows without a unit (empty, None, nan) are left out, and so are, of a plan without gaps,
        units that lack a number.
    Errors: UsageError for another shape.
    """
    if values.ndim != 2 or values.shape != (len(units), len(plan.names)):
        raise UsageError(f"a step has one row a unit and {len(plan.names)} numbers: values [n, d], units [n]")
    # privacy: whether two rows are of one unit is a matter of their two names alone
    codes, known = distinct(column_of(units))
    codes = np.where(
        np.isin(codes, [place for place, name in enumerate(known) if not name.strip()]), -1, codes
    )
    values, codes = values[codes >= 0], np.unique(codes[codes >= 0], return_inverse=True)[1]
    if not len(codes):
        return np.zeros(plan.size, dtype=np.int64)
    count = int(codes.max()) + 1
    whole, there = _rounded(plan, values)
    rows, sums = there.astype(np.int64), whole
    if count < len(codes):
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(count))
        rows, sums = (np.add.reduceat(part[order], starts, axis=0) for part in (rows, sums))
    means = divided(sums, np.maximum(rows, 1))
    present = rows > 0
    if plan.gaps:
        marks = plan.mark * present.sum(axis=0)
        return np.concatenate([means.sum(axis=0), marks, [plan.counted * count]])
    complete = present.all(axis=1)
    return np.append(means[complete].sum(axis=0), plan.counted * int(complete.sum()))


def _rounded(plan: ContinualPlan, values: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    low, high = np.array(list(plan.bounds.values())).T
    there = np.isfinite(values)
    scaled = (np.where(there, np.clip(values, low, high), low) - low) / (high - low) * 2 - 1
    # privacy: clipped once more, for the quotient may round past its bounds
    whole = np.trunc(np.clip(scaled, -1, 1) * plan.levels).astype(np.int64)
    return np.where(there, whole, 0), there


def from_table(plan: ContinualPlan, frame: pd.DataFrame, unit: str) -> tuple[Floats, pd.Series]:
    """Values [n, d] and units [n] of a table with a column for each number, and one that names the unit.

    A cell that does not read as a number is a gap, and a row whose unit is empty has none; other columns are not read.
    Errors: DataError for a column that is not there.
    """
    missing = [name for name in (*plan.names, unit) if name not in frame.columns]
    if missing:
        raise DataError(
            f"there is no column '{missing[0]}'; the plan names the numbers, and --unit who it is"
        )
    columns = [numbers(column_of(frame[name]))[0] for name in plan.names]
    return np.stack(columns, axis=1), frame[unit]
