"""How alike two sets of records are: shares of cells, of pairs of cells, associations, Frechet distance.

Cells are those of the schema, and -1 (a value that the schema has no cell for) is a cell of its own.

privacy: every figure is computed on real records without noise: for the data holder only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from privae.errors import UsageError
from privae.evaluate.learners import Codes, onehot

Floats = NDArray[np.float64]

LOW_PASS = 64
"""Lowest frequencies of the 2-D DCT, the feature space of images."""
TABLE_FEATURES = 256
"""Dimensions of the feature space of tables; where they have fewer cells, each cell is a dimension."""
LEVELS = 16
"""Gray levels whose shares are compared, pixel by pixel."""

_DENSE = 1 << 16  # cells of a pair that are counted in an array; beyond, only those that occur
_BANDS = 16
_CONSTANT = 1e-12  # a variance below it is rounding


def column_variation(left: Codes, right: Codes, sizes: Codes) -> Floats:
    """Total variation between the cell shares of each column: 0 is alike, 1 has nothing in common.

    Shapes: [n, m], [k, m], sizes [m] -> [m].
    Errors: UsageError where either has no rows.

    >>> column_variation(np.array([[0], [1]]), np.array([[0], [-1]]), np.array([2]))
    array([0.5])
    """
    _some_rows(left, right)
    columns = zip(left.T, right.T, sizes, strict=True)
    return np.array([_variation(shares(a, int(size)), shares(b, int(size))) for a, b, size in columns])


def shares(codes: Codes, size: int) -> Floats:
    """Share of each cell of a column, that of -1 first. Shapes: [n] -> [size + 1]."""
    counted: Floats = np.bincount(codes.astype(np.int64) + 1, minlength=size + 1) / max(len(codes), 1)
    return counted


def pair_variation(left: Codes, right: Codes, sizes: Codes) -> Floats:
    """Total variation between the two-way tables of each two columns; of one column on the diagonal.

    Shapes: [n, m], [k, m], sizes [m] -> [m, m], symmetric.
    Errors: UsageError where either has no rows.
    """
    result = np.diag(column_variation(left, right, sizes))
    for i in range(len(sizes)):
        for j in range(i):
            wide = int(sizes[j]) + 1
            tables = _counted(
                [_paired(codes, i, j, wide) for codes in (left, right)], (int(sizes[i]) + 1) * wide
            )
            result[i, j] = result[j, i] = _variation(tables[0] / len(left), tables[1] / len(right))
    return result


def associations(codes: Codes, sizes: Codes) -> Floats:
    """Cramer's V of each two columns over their cells, corrected for its bias: 0 independent, 1 one tells the other.

    Shapes: [n, m], sizes [m] -> [m, m], symmetric, 1 on the diagonal.
    Edges: a column with one cell only is associated with nothing: 0.
    Errors: UsageError where there are no rows.
    Source: Bergsma 2013, "A bias-correction for Cramer's V and Tschuprow's T".
    """
    _some_rows(codes)
    result = np.eye(len(sizes))
    for i in range(len(sizes)):
        for j in range(i):
            wide = int(sizes[j]) + 1
            keys = _paired(codes, i, j, wide)
            cells, counts = _occurring(keys, (int(sizes[i]) + 1) * wide)
            result[i, j] = result[j, i] = _cramer((cells // wide, cells % wide), counts, len(keys))
    return result


def correlations(features: Floats) -> Floats:
    """Pearson's r of each two features; 0 with one that is constant. Shapes: [n, d] -> [d, d]."""
    centered = features - features.mean(0)
    norms = np.sqrt((centered**2).sum(0))
    scaled = centered / np.where(norms > 0, norms, 1.0)
    return np.asarray(scaled.T @ scaled)


def pair_sums(features: Floats) -> Floats:
    """Sums over the rows where both x and y of two features are known: of 1, x, y, x^2, y^2, x y; NaN is a gap.

    Shapes: [..., n, d] -> [6, ..., d, d].
    """
    known = (~np.isnan(features)).astype(np.float64)
    x = np.nan_to_num(features)
    turned, counted = np.swapaxes(x, -1, -2), np.swapaxes(known, -1, -2)
    parts = [counted @ known, turned @ known, counted @ x, turned**2 @ known, counted @ x**2, turned @ x]
    return np.stack(parts)


def pearson(sums: Floats) -> Floats:
    """Pearson's r from `pair_sums`, of values of about 1; 0 with a constant, NaN without rows.

    Shapes: [6, ...] -> [...].

    >>> pearson(pair_sums(np.array([[0.0, 1.0], [1.0, 0.0], [np.nan, 7.0]])))[0, 1]
    np.float64(-1.0)
    """
    count = np.where(sums[0] > 0, sums[0], np.nan)
    x, y, xx, yy, xy = sums[1:] / count
    spread = np.minimum(xx - x**2, yy - y**2)
    scale = np.sqrt(np.maximum((xx - x**2) * (yy - y**2), _CONSTANT**2))
    found = np.clip((xy - x * y) / scale, -1, 1)
    return np.asarray(np.where(np.isnan(count), np.nan, np.where(spread > _CONSTANT, found, 0.0)))


def of_pairs(matrix: Floats) -> Floats:
    """The values of a symmetric matrix below its diagonal, one a pair."""
    return np.asarray(matrix[np.tril_indices(len(matrix), -1)], dtype=np.float64)


def frechet(left: Floats, right: Floats) -> float:
    """Squared Frechet distance of the Gaussians with the means and the covariances of two sets of features.

    Shapes: [n, d], [k, d].
    Errors: UsageError where either has fewer than two rows.
    Source: Dowson and Landau 1982; used on other features, those of a network, by Heusel et al., arXiv:1706.08500.
    """
    if min(len(left), len(right)) < 2:
        raise UsageError("a Frechet distance needs at least two rows on either side; give more rows")
    means = left.mean(0) - right.mean(0)
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (left, right))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return max(0.0, float(means @ means + np.trace(first) + np.trace(second) - 2 * shared))


def table_features(codes: Codes, sizes: Codes) -> Floats:
    """Cells one-hot over sqrt(2 m), so that rows with no cell in common are at distance 1; at most 256 dimensions.

    Tables with more cells are hashed: each cell goes to a dimension and a sign that the schema alone decides.

    Shapes: [n, m], sizes [m] -> [n, at most 256].
    Source: Weinberger et al. 2009, arXiv:0902.2206.
    """
    cells = onehot(codes + 1, sizes + 1) / np.sqrt(2 * max(len(sizes), 1))
    if cells.shape[1] <= TABLE_FEATURES:
        return np.asarray(cells.toarray())
    rng = np.random.default_rng(0)
    places, signs = rng.integers(0, TABLE_FEATURES, cells.shape[1]), rng.choice([-1.0, 1.0], cells.shape[1])
    chosen = onehot(places[:, None], np.array([TABLE_FEATURES])).multiply(signs[:, None])
    return np.asarray((cells @ chosen.tocsr()).toarray())


def low_pass(images: NDArray[np.uint8]) -> Floats:
    """Up to 64 lowest frequencies of the orthonormal 2-D DCT of pixels in [0, 1]: a public space, not Inception's.

    Shapes: [n, h, w] -> [n, min(64, h w)].
    """
    spectrum, order = _spectrum(images)
    return spectrum[:, order[:LOW_PASS]]


def low_pass_and_bands(images: NDArray[np.uint8]) -> Floats:
    """`low_pass`, and the log energy of up to 16 bands of all frequencies, which tells blurred from sharp.

    Shapes: [n, h, w] -> [n, d].
    """
    spectrum, order = _spectrum(images)
    bands = np.array_split(order, min(_BANDS, len(order)))
    energy = [np.log((spectrum[:, band] ** 2).mean(1) + 1e-8) for band in bands]
    return np.concatenate([spectrum[:, order[:LOW_PASS]], np.stack(energy, 1)], 1)


def pixel_variation(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> Floats:
    """Total variation between the shares of 16 gray levels of each pixel. Shapes: [n, h, w], [k, h, w] -> [h w]."""
    _some_rows(left, right)
    codes = [
        (images.reshape(len(images), -1) // (256 // LEVELS)).astype(np.int64) for images in (left, right)
    ]
    size = codes[0].shape[1]
    tables = [_levels(part, size) for part in codes]
    return np.asarray(0.5 * np.abs(tables[0] - tables[1]).sum(1))


def _levels(codes: NDArray[np.int64], size: int) -> Floats:
    counted = np.bincount((codes + LEVELS * np.arange(size)).ravel(), minlength=LEVELS * size)
    return np.asarray(counted.reshape(size, LEVELS) / len(codes))


def _spectrum(images: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.int64]]:
    """DCT coefficients [n, h w], and the order of their frequencies from the lowest."""
    height, width = images.shape[1:]
    u, v = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    order = np.argsort((u / height) ** 2 + (v / width) ** 2, axis=None, kind="stable")
    spectrum = dctn(images / 255.0, axes=(1, 2), norm="ortho").reshape(len(images), -1)
    return np.asarray(spectrum, dtype=np.float64), order


def _some_rows(*sets: NDArray[Any]) -> None:
    if not all(len(rows) for rows in sets):
        raise UsageError("there are no rows to compare; give at least one on either side")


def _variation(left: Floats, right: Floats) -> float:
    return float(0.5 * np.abs(left - right).sum())


def _paired(codes: Codes, i: int, j: int, wide: int) -> NDArray[np.int64]:
    return (codes[:, i].astype(np.int64) + 1) * wide + codes[:, j] + 1


def _counted(keys: Sequence[NDArray[np.int64]], cells: int) -> list[NDArray[np.int64]]:
    """How often each cell occurs in each set, over the same cells."""
    if cells > _DENSE:
        known, places = np.unique(np.concatenate(keys), return_inverse=True)
        cells, keys = len(known), np.split(places, np.cumsum([len(part) for part in keys])[:-1])
    return [np.bincount(part, minlength=cells) for part in keys]


def _occurring(keys: NDArray[np.int64], cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cells that occur, and how often."""
    if cells > _DENSE:
        return np.unique(keys, return_counts=True)
    counts = np.bincount(keys, minlength=cells)
    known = np.flatnonzero(counts)
    return known, counts[known]


def _cramer(
    pair: tuple[NDArray[np.int64], NDArray[np.int64]], counts: NDArray[np.int64], total: int
) -> float:
    """V of a two-way table of `total` records: `counts` at the cells (row, column) of `pair`."""
    across, down = (np.bincount(part, counts) for part in pair)
    degrees = np.array([np.count_nonzero(across), np.count_nonzero(down)]) - 1.0
    spare = max(total - 1, 1)
    squared = (counts**2.0 / (across[pair[0]] * down[pair[1]])).sum() - 1
    room = (degrees - degrees**2 / spare).min()
    return float(np.sqrt(min(1.0, max(0.0, squared - degrees.prod() / spare) / room))) if room > 1e-9 else 0.0
