"""The instant table model: clean margins and a Chow-Liu tree read off the released pair tables.

Everything here is post-processing: it reads released numbers and the *known* standard deviation of their noise,
never a record.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_PAIR_CELLS = 4_000_000  # padded cells of pair tables held at once
_IPF_ROUNDS = 10
_THRESHOLD = 0.5  # of the universal soft threshold sqrt(2 log cells)


@dataclass(frozen=True)
class Margins:
    """One-way margins and class counts, cleaned of part of the noise.

    Shapes: counts [c]; one [c, cells], each column's block on the probability simplex.
    """

    counts: Array
    one: Array


@dataclass(frozen=True)
class Tree:
    """A Chow-Liu tree a class: the order of columns, each one's parent, and its table given the parent.

    Shapes: order [m], parent [m] (-1 for the root), conditional[j] [size of parent, size of j] (root: [1, size]).
    """

    order: Index
    parent: Index
    conditional: tuple[Array, ...]


def offsets_of(sizes: Index) -> Index:
    """Start of every column's block of cells, and the end of the last: [m] -> [m + 1]."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def clean_margins(tables: Array, sizes: Index) -> Margins:
    """Margins from symmetric released tables [c, cells, cells], whose diagonal blocks are zero.

    Each column's margin is the average over the m - 1 tables it is in, weighted by the inverse number of cells
    summed (the inverse noise variance); the class count is averaged over columns the same way.
    Edges: a column of one cell in a table of one column cannot occur: at least two columns are needed.
    """
    one, totals = _margins(tables, sizes)
    counts = np.maximum(totals @ (1.0 / sizes) / (1.0 / sizes).sum(), 1.0)
    return Margins(counts, _on_simplex(one / counts[:, None], sizes))


def column_totals(tables: Array, sizes: Index) -> tuple[Array, Array]:
    """Released number of records a class, and of values in every column: [c], [c, m]."""
    _, totals = _margins(tables, sizes)
    return totals @ (1.0 / sizes) / (1.0 / sizes).sum(), totals


def fit_tree(table: Array, margin: Array, sizes: Index, deviation: float) -> Tree:
    """Maximum-information spanning tree of one class (Chow and Liu 1968).

    Shapes: table [cells, cells] and margin [cells] as shares of the class; deviation is the noise of a share.
    """
    first, second = np.triu_indices(len(sizes), 1)
    information = np.zeros((len(sizes), len(sizes)))
    step = max(1, _PAIR_CELLS // int(sizes.max()) ** 2)
    for start in range(0, len(first), step):
        i, j = first[start : start + step], second[start : start + step]
        information[i, j] = _information(*_pairs(table, margin, sizes, i, j, deviation))
    # ties and zeros: the sparse tree drops zero weights, so all are shifted below zero
    spanning = minimum_spanning_tree(-(information + np.triu(np.ones_like(information), 1)))
    order, found = breadth_first_order(spanning, 0, directed=False)
    parent: Index = np.where(found < 0, -1, found).astype(np.int64)
    tails = np.array([j for j in range(len(sizes)) if parent[j] >= 0], dtype=np.int64)
    joint, _, _ = _pairs(table, margin, sizes, parent[tails], tails, deviation)
    blocks = {int(j): q[: sizes[parent[j]], : sizes[j]] for j, q in zip(tails, joint, strict=True)}
    bounds = offsets_of(sizes)
    root = margin[bounds[order[0]] : bounds[order[0] + 1]][None]
    conditional = tuple(_rows(blocks.get(j, root)) for j in range(len(sizes)))
    return Tree(order.astype(np.int64), parent, conditional)


def sample_tree(tree: Tree, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Ancestral samples of one class: codes [count, m]. Columns follow each other, rows are drawn at once."""
    codes = np.zeros((count, len(tree.order)), np.int32)
    for j in tree.order:
        given = codes[:, tree.parent[j]] if tree.parent[j] >= 0 else np.zeros(count, np.int32)
        steps = np.cumsum(tree.conditional[j], axis=1)[given]
        codes[:, j] = (steps[:, :-1] < rng.random((count, 1))).sum(1)
    return codes


def _margins(tables: Array, sizes: Index) -> tuple[Array, Array]:
    offsets, owner = offsets_of(sizes), np.repeat(np.arange(len(sizes)), sizes)
    by_column = np.add.reduceat(tables, offsets[:-1], axis=2)  # [c, cells, m]
    weight = np.where(owner[:, None] == np.arange(len(sizes))[None], 0.0, 1.0 / sizes[None])
    one = np.einsum("cam,am->ca", by_column, weight / weight.sum(1, keepdims=True))
    return one, np.add.reduceat(one, offsets[:-1], axis=1)


def _pairs(
    table: Array, margin: Array, sizes: Index, i: Index, j: Index, deviation: float
) -> tuple[Array, Array, Array]:
    """Shrunken joint tables of column pairs, padded to one shape, and their margins.

    The residual from independence is soft-thresholded at a share of the universal threshold of the known noise,
    then fitted to both margins by iterative proportional fitting. Shapes: [pairs, s, s], [pairs, s], [pairs, s].
    """
    width, cells = int(sizes.max()), len(margin)
    padded = np.minimum(offsets_of(sizes)[:-1, None] + np.arange(width)[None], cells)
    padded = np.where(np.arange(width)[None] < sizes[:, None], padded, cells)  # `cells` is an empty cell
    wide = np.zeros((cells + 1, cells + 1))
    wide[:cells, :cells] = table
    long = np.append(margin, 0.0)
    p, q = long[padded[i]], long[padded[j]]
    independent = p[:, :, None] * q[:, None, :]
    residual = wide[padded[i][:, :, None], padded[j][:, None, :]] - independent
    threshold = (
        _THRESHOLD * deviation * np.sqrt(2 * np.log(np.maximum(sizes[i] * sizes[j], 2)))[:, None, None]
    )
    joint = independent + np.sign(residual) * np.maximum(np.abs(residual) - threshold, 0.0)
    present = (padded[i] < cells)[:, :, None] & (padded[j] < cells)[:, None, :]
    joint = np.where(present, np.maximum(joint, 1e-9), 0.0)
    for _ in range(_IPF_ROUNDS):
        joint *= (p / np.maximum(joint.sum(2), 1e-12))[:, :, None]
        joint *= (q / np.maximum(joint.sum(1), 1e-12))[:, None, :]
    return joint / np.maximum(joint.sum((1, 2), keepdims=True), 1e-12), p, q


def _information(joint: Array, p: Array, q: Array) -> Array:
    ratio = (joint + 1e-12) / (p[:, :, None] * q[:, None, :] + 1e-12)
    information: Array = (joint * np.log(ratio)).sum((1, 2))
    return np.maximum(information, 0.0)


def _rows(table: Array) -> Array:
    """Rows as distributions; an impossible parent value (all zeros) gives the column's own margin."""
    total = table.sum(1, keepdims=True)
    overall = np.broadcast_to(table.sum(0) / max(table.sum(), 1e-300), table.shape)
    return np.where(total > 0, table / np.where(total > 0, total, 1.0), overall)


def _on_simplex(shares: Array, sizes: Index) -> Array:
    """Euclidean projection of every block on the probability simplex: [c, cells] -> [c, cells]."""
    width, offsets = int(sizes.max()), offsets_of(sizes)
    inside = np.arange(width)[None] < sizes[:, None]
    padded = np.full((len(shares), len(sizes), width), -np.inf)
    padded[:, inside] = shares
    ordered = -np.sort(-padded, axis=2)
    excess = np.cumsum(np.where(np.isfinite(ordered), ordered, 0.0), axis=2) - 1.0
    rank = np.arange(1, width + 1)
    support = np.isfinite(ordered) & (ordered - excess / rank > 0)
    last = support.shape[2] - 1 - np.argmax(support[:, :, ::-1], axis=2)
    shift = np.take_along_axis(excess, last[:, :, None], 2)[:, :, 0] / (last + 1)
    projected: Array = np.maximum(shares - np.repeat(shift, np.diff(offsets), axis=1), 0.0)
    return projected
