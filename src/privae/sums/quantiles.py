"""Distribution functions from a dyadic tree of counts: exact sums, their sensitivity, and what is read off a release.

A record counts once in every level of each column's tree, so its contribution is a vector of ones: L2 norm at most
sqrt(sum of levels) (guarantees.md rule 8). Two records share no more than all of it: the replace-one ratio is
sqrt(2) (rule 10). Counts are integers: sums are exact in any order. Levels are two bits apart, for a noisy count
costs as much whatever its width; in a column of gaps the record counts once, in the gap's own cell.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privae.models.scores import Quantiles

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

BRANCHES = 4
_MOST_LEVELS = 8
_BITS = 2
_FINER = 4  # cells a unit
CERTAIN = 2.0  # standard deviations that set a cell's count apart from none


@dataclass(frozen=True)
class Grid:
    """Cells of d numeric columns: public. Shapes: low [d], width [d], levels [d]; unit [d], a meaningful difference."""

    low: Array
    width: Array
    levels: Integers
    unit: Array

    def __len__(self) -> int:
        """How many columns."""
        return len(self.low)

    @property
    def squared(self) -> int:
        """Squared L2 norm of what a record counts at most."""
        return int(self.levels.sum())

    @property
    def blocks(self) -> list[tuple[Integers, int]]:
        """The columns of every level, and its cells a column; the first has a cell for gaps besides."""
        depth = int(self.levels.max(initial=0))
        return [(np.flatnonzero(self.levels >= level), BRANCHES**level) for level in range(1, depth + 1)]

    @property
    def size(self) -> int:
        """How many numbers are released."""
        return sum(len(columns) * cells for columns, cells in self.blocks) + len(self)

    def places(self, values: Array) -> Integers:
        """Cell of each value on its column's last level, [n, d] -> [n, d]; clipped to the bounds, -1 for NaN."""
        cells = float(BRANCHES) ** self.levels
        inside = np.clip(values, self.low, self.low + self.width)
        found = np.clip(np.floor((inside - self.low) / self.width * cells), 0, cells - 1)
        return np.where(np.isnan(found), -1, found).astype(np.int64)


def grid(low: Any, high: Any, unit: Any) -> Grid:  # noqa: ANN401  any sequences of numbers
    """The grid of columns with these bounds, down to a quarter of their units; within 4^8 cells.

    Shapes: [d], [d], [d]; all public, so the number of levels is, too.
    """
    lows, units = np.array(low, np.float64), np.array(unit, np.float64)
    width = np.array(high, np.float64) - lows
    wanted = np.ceil(np.log2(width / units * _FINER) / _BITS - 1e-9)
    return Grid(lows, width, np.clip(wanted, 1, _MOST_LEVELS).astype(np.int64), units)


@dataclass(frozen=True)
class Layout:
    """What a record counts in: the trees of its numbers and the cells of its categories. All of it is public.

    sizes: cells of every category column [c]; the last of a column holds what the schema has no cell for.
    """

    grid: Grid
    sizes: Integers

    @property
    def sensitivity(self) -> float:
        """L2 norm of what a record counts: once a level of each tree, and once a category column."""
        return math.sqrt(self.grid.squared + len(self.sizes))

    @property
    def size(self) -> int:
        """How many counts are released."""
        return self.grid.size + int(self.sizes.sum())

    def counts(self, values: Array, codes: Integers, weights: Integers | None = None) -> Integers:
        """Counts of records: numbers [n, d], NaN for a gap, and codes [n, c], -1 for the last cell -> [size].

        weights: what each record counts, whole numbers [n] whose sum is below 2^53; 1 without them.
        """
        inside = counts(self.grid.places(values), self.grid, weights)
        return np.concatenate([inside, cell_counts(codes, self.sizes, weights)])


def cell_counts(codes: Integers, sizes: Integers, weights: Integers | None = None) -> Integers:
    """How many records each cell of the category columns has: [n, c] -> [sum of sizes]; -1 is the last cell."""
    starts = np.cumsum(sizes) - sizes
    cells = np.where(codes < 0, sizes - 1, codes) + starts
    return _counted(cells, np.ones(cells.shape, bool), int(sizes.sum()), weights)


def counts(places: Integers, of: Grid, weights: Integers | None = None) -> Integers:
    """How many records each cell of every level has, and the gaps of every column: [n, d] -> [of.size].

    Exact in any order or chunks. Guarantee: a record adds 1, or its weight, to at most `of.squared` numbers, and
    nothing else.
    """
    parts = []
    for level, (columns, cells) in enumerate(of.blocks, 1):
        inside = places[:, columns]
        cell = (inside >> (_BITS * (of.levels[columns] - level))) + cells * np.arange(len(columns))
        parts.append(_counted(cell, inside >= 0, cells * len(columns), weights))
    gaps = _counted(np.broadcast_to(np.arange(len(of)), places.shape), places < 0, len(of), weights)
    return np.concatenate([*parts, gaps])


def _counted(cells: Integers, chosen: NDArray[np.bool_], size: int, weights: Integers | None) -> Integers:
    """What falls into each cell: [n, k], [n, k] -> [size]. Whole numbers below 2^53, so float64 adds them exactly."""
    if weights is None:
        return np.bincount(cells[chosen], minlength=size).astype(np.int64)
    each = np.broadcast_to(weights[:, None], cells.shape)[chosen].astype(np.float64)
    return np.bincount(cells[chosen], each, size).astype(np.int64)


def totals(released: Array, of: Grid) -> Array:
    """The released number of records by each column, gaps included: [d]. Its noise is that of 5 cells."""
    first = released[: BRANCHES * len(of)].reshape(len(of), BRANCHES)
    return np.asarray(first.sum(1) + released[of.size - len(of) : of.size])


def quantiles(released: Array, of: Grid, records: float, deviation: float) -> Quantiles:
    """Distribution functions by descent, from the released counts, the number of records and the known noise.

    A node's records are divided among those of its children that stand out from the noise, in proportion to their
    counts; where none does, they are spread evenly over the node. So a tree is fine where the records are, and coarse
    where noise would rule. Post-processing: it reads releases and the ledger's sigma only (guarantees.md rule 20).
    """
    least = CERTAIN * deviation
    gaps = released[of.size - len(of) : of.size]
    nodes = _Nodes(np.arange(len(of)), np.zeros(len(of), np.int64), np.ones(len(of)))
    leaves, start = [], 0
    for level, (columns, cells) in enumerate(of.blocks, 1):
        block = released[start : start + len(columns) * cells].reshape(len(columns), -1, BRANCHES)
        start += len(columns) * cells
        ended = of.levels[nodes.column] < level
        leaves.append((nodes.at(ended), level - 1))
        rest = nodes.at(~ended)
        nodes, alone = _descended(rest, block[np.searchsorted(columns, rest.column), rest.index], least)
        leaves.append((alone, level - 1))
    leaves.append((nodes, len(of.blocks)))
    place, share = _knots(leaves, len(of))
    told = np.clip(np.where(gaps > max(least, 0.0), gaps, 0.0) / max(records, 1.0), 0.0, 1.0)
    return Quantiles(of.low, of.width, place, share, told)


@dataclass(frozen=True)
class _Nodes:
    """Nodes of one level: their columns, their places on it, and their shares of the column's records; [k] each."""

    column: Integers
    index: Integers
    share: Array

    def at(self, chosen: NDArray[np.bool_]) -> "_Nodes":
        return _Nodes(self.column[chosen], self.index[chosen], self.share[chosen])


def _descended(nodes: _Nodes, children: Array, least: float) -> tuple[_Nodes, _Nodes]:
    """The children that stand out, and the nodes of which none does. Shapes: children [k, 4]."""
    kept = np.where(children > least, children, 0.0)
    total = kept.sum(1)
    split = total > 0
    share = nodes.share[:, None] * kept / np.where(split, total, 1.0)[:, None]
    index = nodes.index[:, None] * BRANCHES + np.arange(BRANCHES)
    column = np.broadcast_to(nodes.column[:, None], index.shape)
    return _Nodes(column.ravel(), index.ravel(), share.ravel()).at(kept.ravel() > 0), nodes.at(~split)


def _knots(leaves: list[tuple[_Nodes, int]], columns: int) -> tuple[Array, Array]:
    """Both ends of every leaf and the shares below them, padded to one length: [d, k], [d, k]."""
    column = np.concatenate([nodes.column for nodes, _ in leaves])
    width = np.concatenate([np.full(len(nodes.index), float(BRANCHES) ** -level) for nodes, level in leaves])
    start = np.concatenate([nodes.index for nodes, _ in leaves]) * width
    share = np.concatenate([nodes.share for nodes, _ in leaves])
    order = np.lexsort((start, column))
    number = np.bincount(column, minlength=columns)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(number) - number, number)
    place, below = np.ones((2, columns, 2 * int(number.max()) + 2))
    added = np.zeros((columns, int(number.max())))
    added[column[order], rank] = share[order]
    reached = np.minimum(np.cumsum(added, 1), 1.0)
    ends = np.stack([start[order], start[order] + width[order]], 1)
    place[:, 0] = below[:, 0] = 0.0
    place[column[order][:, None], 2 * rank[:, None] + [1, 2]] = ends
    below[:, 1:-1] = np.stack([np.pad(reached, ((0, 0), (1, 0)))[:, :-1], reached], 2).reshape(columns, -1)
    below[:, -1] = 1.0
    return place, below


def deviation_of_total(of: Grid, deviation: float, more: Integers) -> float:
    """Standard deviation of `pooled`; more: cells of the other histograms that it pools."""
    return deviation / math.sqrt(float(_inverse(of, more).sum()))


def pooled(per_column: Array, of: Grid, more: Integers) -> float:
    """The number of records, pooled over columns by the inverse of the noise of each: [d + c] -> []."""
    inverse = _inverse(of, more)
    return float(per_column @ inverse / inverse.sum())


def _inverse(of: Grid, more: Integers) -> Array:
    return 1.0 / np.concatenate([np.full(len(of), BRANCHES + 1.0), more])
