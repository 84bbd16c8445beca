"""How far rows hide in each other: k-anonymity, l-diversity, t-closeness, the share of unique rows; no guarantee.

privacy: all figures here are functions of the private rows, without noise. They are for the data holder's terminal or
a data holder's file; none enters a model, a certificate, a ledger or a public page (guarantees.md, rule 21).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.data.values import distinct, means_missing, parsed
from privae.errors import DataError, UsageError

NOT_A_GUARANTEE = (
    "These figures are not a guarantee, unlike epsilon: they hold for the columns named here and for an attacker who "
    "knows no more. They were computed from the private rows themselves: they are for the data holder only."
)
"""Shown wherever a figure of this module is."""

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Diversity:
    """Of one sensitive column, over all classes of rows that are alike in the quasi-identifiers.

    distinct: fewest different values in a class (l-diversity); entropy: e to the least entropy (entropy l-diversity);
    closeness: the largest distance of a class from the table (t-closeness), earth mover's over ordered numbers, half
    of the absolute differences over categories. ordered: whether its values are numbers.
    """

    distinct: int
    entropy: float
    closeness: float
    ordered: bool


@dataclass(frozen=True)
class Measures:
    """k: the smallest class; classes: how many; unique: the share of rows that are alone in theirs."""

    quasi: tuple[str, ...]
    rows: int
    classes: int
    k: int
    unique: float
    sensitive: Mapping[str, Diversity]

    def to_dict(self) -> dict[str, Any]:
        """The figures for JSON, with the sentence that goes with them."""
        return {**asdict(self), "note": NOT_A_GUARANTEE}

    def lines(self) -> tuple[str, ...]:
        """The figures for a person, and the sentence that goes with them."""
        return (*(f"{name}: {value}" for name, value in self._named()), NOT_A_GUARANTEE)

    def _named(self) -> list[tuple[str, str]]:
        """What is shown: names of figures and their texts, the same names for the same columns."""
        named = [
            ("smallest class (k-anonymity)", str(self.k)),
            ("unique rows", f"{100 * self.unique:.3g} %"),
            ("classes", str(self.classes)),
        ]
        for name, of in self.sensitive.items():
            named += [
                (f"{name}: fewest values in a class (l-diversity)", str(of.distinct)),
                (f"{name}: by entropy", f"{of.entropy:.3g}"),
                (f"{name}: farthest class (t-closeness)", f"{of.closeness:.3g}"),
            ]
        return named


def measured(frame: pd.DataFrame, quasi: Sequence[str], sensitive: Sequence[str] = ()) -> Measures:
    """What a table measures, for declared quasi-identifiers and sensitive columns.

    Guarantee: none; nothing about what an attacker knows from elsewhere.
    Edges: a gap is a value of its own, the last in order; values are told apart as `data.values.distinct` does. Without
        quasi-identifiers all rows are alike.
    Errors: UsageError for a column that lacks, or one that is both; DataError for no rows.
    Source: Sweeney 2002, doi:10.1142/S0218488502001648; Machanavajjhala et al. 2007, doi:10.1145/1217299.1217302;
        Li et al. 2007, doi:10.1109/ICDE.2007.367856.

    >>> table = pd.DataFrame({"zip": ["1", "1", "2"], "ill": ["a", "b", "a"]})
    >>> found = measured(table, ["zip"], ["ill"])
    >>> found.k, round(found.unique, 2), found.sensitive["ill"].distinct
    (1, 0.33, 1)
    """
    _check(frame, quasi, sensitive)
    classes = _classes([np.zeros(len(frame), dtype=np.int64), *(_codes(frame, name)[0] for name in quasi)])
    sizes = np.bincount(classes)
    return Measures(
        quasi=tuple(quasi),
        rows=len(frame),
        classes=len(sizes),
        k=int(sizes.min()),
        unique=float((sizes == 1).sum() / len(frame)),
        sensitive={name: _diversity(frame, name, classes, sizes) for name in sensitive},
    )


def report(before: Measures, after: Measures) -> str:
    """Figures before and after as columns, "-" where a column is gone; and the sentence that goes with them."""
    later = dict(after._named())
    rows = [("", "before", "after"), *((name, old, later.get(name, "-")) for name, old in before._named())]
    wide = [max(len(row[place]) for row in rows) for place in range(3)]
    table = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows
    )
    return "\n".join([*table, "", NOT_A_GUARANTEE])


def _check(frame: pd.DataFrame, quasi: Sequence[str], sensitive: Sequence[str]) -> None:
    for name in (*quasi, *sensitive):
        if list(frame.columns).count(name) != 1:
            found = "no" if name not in frame.columns else "more than one"
            raise UsageError(f"the table has {found} column '{name}' to be measured")
    if both := [name for name in sensitive if name in quasi]:
        raise UsageError(f"column '{both[0]}' is named as a quasi-identifier and as sensitive; name it once")
    if frame.empty:
        raise DataError("the table has no rows, so there is nothing to measure")


def _codes(frame: pd.DataFrame, name: str) -> tuple[Codes, bool]:
    """Each row's value as a whole number from 0 on, in order; the gap last. And whether all values are numbers."""
    places, texts = distinct(frame[name])
    gaps = np.array([means_missing(text) for text in texts], dtype=bool)
    said = parsed(texts)
    ordered = bool(np.isfinite(said[~gaps]).all())
    if ordered:  # "1.0" is "1"
        found, order = np.unique(said, return_inverse=True, equal_nan=True)
        order = np.where(gaps, len(found), order)
    else:
        order = np.where(gaps, len(texts), np.arange(len(texts)))
    told = np.append(order, len(texts) + 1 if not gaps.any() else order[gaps][0])[places]
    return np.unique(told, return_inverse=True)[1].astype(np.int64), ordered


def _classes(columns: Sequence[Codes]) -> Codes:
    """The class of each row: rows that are alike in all columns, numbered from 0 on."""
    classes = columns[0]
    for codes in columns[1:]:
        classes = _renumbered(classes * (int(codes.max()) + 1) + codes)
    return _renumbered(classes)


def _renumbered(codes: Codes) -> Codes:
    return pd.factorize(codes)[0].astype(np.int64)


def _diversity(frame: pd.DataFrame, name: str, classes: Codes, sizes: Codes) -> Diversity:
    codes, ordered = _codes(frame, name)
    values = int(codes.max()) + 1
    pairs, counts = np.unique(classes * values + codes, return_counts=True)
    of, value = pairs // values, pairs % values
    share = counts / sizes[of]
    entropy = np.bincount(of, -share * np.log(share))
    whole = np.bincount(codes) / len(codes)
    distance = _earth_movers if ordered else _half_absolute
    return Diversity(
        distinct=int(np.bincount(of).min()),
        entropy=float(np.exp(max(0.0, entropy.min()))),
        closeness=float(np.clip(distance(of, value, share, whole).max(), 0.0, 1.0)),
        ordered=ordered,
    )


def _half_absolute(
    of: Codes, value: Codes, share: NDArray[np.float64], whole: NDArray[np.float64]
) -> NDArray[np.float64]:
    """For each class, half of the sum of |q - p|, over the values that it holds and those that it lacks.

    Shapes: of, value, share [pairs], the pairs of a class one after another; whole [values] -> [classes].
    """
    here = whole[value]
    return np.asarray(0.5 * (np.bincount(of, np.abs(share - here) - here) + 1.0), dtype=np.float64)


def _earth_movers(
    of: Codes, value: Codes, share: NDArray[np.float64], whole: NDArray[np.float64]
) -> NDArray[np.float64]:
    """For each class, the mean over values of |Q - P|, distribution functions of the class and of the table.

    Between two values that a class holds, Q is constant and P rises: the sum of their distances follows from sums of
    P up to where P passes Q. So it takes time in the pairs that occur, not in classes times values.
    Shapes: as of `_half_absolute`.
    """
    if len(whole) == 1:
        return np.zeros(int(of.max()) + 1)
    first = np.append(True, of[1:] != of[:-1])
    summed = np.cumsum(share)
    starts = np.flatnonzero(first)
    level = summed - np.repeat(summed[starts] - share[starts], np.diff(np.append(starts, len(of))))
    # the last value adds |1 - 1|, so sums run over all but it
    ends = np.where(np.append(first[1:], True), len(whole) - 1, np.append(value[1:], 0))
    later = np.bincount(of, _between(level, value, ends, whole))
    before = np.bincount(of[first], _between(np.zeros(len(starts)), 0 * starts, value[first], whole))
    return np.asarray((later + before) / (len(whole) - 1), dtype=np.float64)


def _between(
    level: NDArray[np.float64], start: Codes, end: Codes, whole: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sums of |level - P_i| for i from start to end - 1. Shapes: [m] each, whole [values] -> [m]."""
    up_to = np.cumsum(whole)
    sums = np.append(0.0, np.cumsum(up_to))
    middle = np.clip(np.searchsorted(up_to, level), start, np.maximum(start, end))
    below = level * (middle - start) - (sums[middle] - sums[start])
    return np.where(end > start, below + (sums[end] - sums[middle]) - level * (end - middle), 0.0)
