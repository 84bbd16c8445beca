"""Means and totals of released steps, and how exact they are, which follows from the filter and no data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import lfilter

from privae.privacy.correlated import SCALE

Floats = NDArray[np.float64]

_TOO_FEW = 3.0  # standard errors that a count lies above none, for a mean to be told


def spread(weights: Sequence[int], steps: int, last: int) -> Floats:
    """Std of the sum of the noise of the last steps, over that of the stream, after each of `steps` steps: [steps].

    The noise of the steps is w = C^-1 z. With B_m the sum of the first m + 1 coefficients of C^-1, the sum of
    w over the last k steps has the coefficient B_m - B_(m-k) on the z of m steps ago, so its variance is the sum of
    their squares. The rounding of w to integers is left out: a twelfth of a grid step squared.

    >>> spread((SCALE,), 3, 2)
    array([1.        , 1.41421356, 1.41421356])
    """
    prefix = lfilter([1.0], np.array(weights, dtype=np.float64) / SCALE, np.ones(steps))
    prefix[last:] -= prefix[:-last].copy() if last < steps else 0.0
    return np.asarray(np.sqrt(np.cumsum(prefix**2)), dtype=np.float64)


@dataclass(frozen=True)
class Scales:
    """What turns released integers into numbers, and the std of the noise, all public.

    middle, half: of the bounds [d]. std: of the stream, in grid steps. level, mark, counted: what a number at its
    upper bound adds to its sum, one that is there to its count (without gaps: its unit to that of units), and a unit.
    """

    names: tuple[str, ...]
    middle: Floats
    half: Floats
    weights: tuple[int, ...]
    std: float
    level: int
    mark: int
    counted: int
    gaps: bool

    def parts(self, released: Floats) -> tuple[Floats, Floats, Floats]:
        """Released integers [t, p] as scaled sums [t, d], counts of each number [t, d], and counts of units [t]."""
        size = len(self.names)
        units = released[:, -1] / self.counted
        marks = released[:, size:-1] / self.mark if self.gaps else np.repeat(units[:, None], size, axis=1)
        return released[:, :size] / self.level, marks, units


def table(scales: Scales, released: Floats, days: Sequence[str]) -> pd.DataFrame:
    """Released steps as everybody may read them: sums in the units of the numbers, and counts."""
    sums, marks, units = scales.parts(released)
    found = {"step": range(1, len(released) + 1), "day": list(days), "units": units}
    for place, name in enumerate(scales.names):
        found[f"{name}:sum"] = scales.half[place] * sums[:, place] + scales.middle[place] * marks[:, place]
        found[f"{name}:count"] = marks[:, place]
    return pd.DataFrame(found)


def means(scales: Scales, released: Floats, days: Sequence[str], last: int) -> pd.DataFrame:
    """The mean of every number over the `last` steps up to each step, with its standard error.

    Returns: one row a step and number: step, day, name, mean, standard_error, count (of a step, on average).
    Edges: nan where the noisy count is not three of its own standard errors above none; at the beginning, the steps
        that there are. A mean lies within its bounds.
    Source: the error of a quotient S / N to first order, sqrt(var S + (S / N)^2 var N) / N.
    """
    sums, marks, _ = (_windowed(part, last) for part in scales.parts(released))
    noise = (scales.std * spread(scales.weights, len(released), last))[:, None] if len(released) else sums
    with np.errstate(all="ignore"):
        told = marks > _TOO_FEW * noise / scales.mark
        ratio = np.where(told, np.clip(sums / marks, -1, 1), np.nan)
        error = np.hypot(noise / scales.level, ratio * noise / scales.mark) / marks
    steps = np.minimum(np.arange(1, len(released) + 1), last)[:, None]
    return _long(
        scales,
        days,
        {
            "mean": scales.middle + scales.half * ratio,
            "standard_error": scales.half * error,
            "count": marks / steps,
        },
    )


def totals(scales: Scales, released: Floats, days: Sequence[str]) -> pd.DataFrame:
    """The running total of every number since the first step, with its standard error, one row a step and number."""
    sums, marks, _ = (np.cumsum(part, axis=0) for part in scales.parts(released))
    noise = (
        scales.std * spread(scales.weights, len(released), len(released))[:, None] if len(released) else sums
    )
    error = np.hypot(scales.half * noise / scales.level, scales.middle * noise / scales.mark)
    return _long(scales, days, {"total": scales.half * sums + scales.middle * marks, "standard_error": error})


def _windowed(values: Floats, last: int) -> Floats:
    summed = np.cumsum(values, axis=0)
    late = summed.copy()
    late[last:] -= summed[:-last]
    return late


def _long(scales: Scales, days: Sequence[str], columns: dict[str, Floats]) -> pd.DataFrame:
    size, steps = len(scales.names), len(days)
    keys = {
        "step": np.repeat(np.arange(1, steps + 1), size),
        "day": np.repeat(np.array(list(days), dtype=object), size),
        "name": list(scales.names) * steps,
    }
    return pd.DataFrame({**keys, **{name: values.ravel() for name, values in columns.items()}})
