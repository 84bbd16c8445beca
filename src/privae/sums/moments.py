"""Integer moments of bounded codes: exact sums in any order, their sensitivity, and what is read off a release.

A record's contribution is [z z' / R^2, z / (2 R), 1 / 10] with |z| <= R, off-diagonals counted once and weighted
by sqrt(2) so that the Frobenius norm of z z' is kept. Its L2 norm is at most sqrt(1 + 1/4 + 1/100), which is the
add-or-remove sensitivity; two records differ by at most sqrt(2 + 2 a^2 + a^4 / 2) with a = 1/2 (replace-one).
Codes are integers and |z| <= R holds in integer arithmetic, so sums are exact whatever the chunks (guarantees.md
rules 1, 7 and 10). The public weights are applied to the sums: noise of standard deviation s on a weighted sum is
noise of s / weight on the integer sum.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

SENSITIVITY = math.sqrt(1 + 1 / 4 + 1 / 100)
REPLACE_RATIO = math.sqrt(2 + 2 / 4 + 1 / 32) / SENSITIVITY
BOUND = 2**20  # R, in integer units: every code vector has L2 norm at most this
CHUNK = 4096  # rows a product: CHUNK * BOUND^2 < 2^53, so float64 products of integers are exact
_MAP = 2**20  # released maps and public bases are held as integers over this


@dataclass(frozen=True)
class Moments:
    """Integer sums of one group of records, or their noisy release. Shapes: second [d, d], first [d], count []."""

    second: Array
    first: Array
    count: float


def weights(size: int) -> tuple[Array, Integers, Integers]:
    """Weight of every released number, and the row and column of the second moments: [p], [q], [q].

    The released vector is [upper triangle of the second moment (q numbers), first moment (size), count].
    """
    row, column = np.triu_indices(size)
    triangle = np.where(row == column, 1.0, math.sqrt(2.0)) / float(BOUND) ** 2
    return np.concatenate([triangle, np.full(size, 0.5 / BOUND), [0.1]]), row, column


def sums(codes: Integers) -> Integers:
    """The integer statistics of codes [n, d], |row| <= BOUND: [d (d + 1) / 2 + d + 1], exact in any order.

    Edges: no rows give zeros. The int64 sum holds for n < 2^23 rows.
    """
    size = codes.shape[1]
    row, column = np.triu_indices(size)
    second, first = np.zeros((size, size), np.int64), codes.sum(0, dtype=np.int64)
    for rows in chunks(codes):
        wide = rows.astype(np.float64)
        second += (wide.T @ wide).astype(np.int64)
    return np.concatenate([second[row, column], first, [len(codes)]])


def chunks(rows: Integers) -> Iterator[Integers]:
    """Consecutive blocks of at most CHUNK rows."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def unpack(released: Array, size: int) -> Moments:
    """Moments from a released vector of `sums`: the inverse of its layout."""
    _, row, column = weights(size)
    second = np.zeros((size, size))
    second[row, column] = second[column, row] = released[: len(row)]
    return Moments(second, released[len(row) : -1], float(released[-1]))


def low_pass_basis(height: int, width: int, size: int) -> Integers:
    """The `size` lowest frequencies of the orthonormal 2-D DCT, times 2^20 and rounded: [height * width, size].

    A public basis: a function of the shape alone, ordered by distance from the zero frequency.
    """
    rows, columns = dct(np.eye(height), norm="ortho", axis=0), dct(np.eye(width), norm="ortho", axis=0)
    down, across = np.divmod(np.argsort(frequencies(height, width), kind="stable")[:size], width)
    chosen = rows[down][:, :, None] * columns[across][:, None, :]
    return as_map(chosen.reshape(len(down), -1).T)


def frequencies(height: int, width: int) -> Array:
    """The square of each frequency of the 2-D DCT, in half cycles a pixel: [height * width], row by row."""
    found: Array = np.add.outer((np.arange(height) / height) ** 2, (np.arange(width) / width) ** 2).ravel()
    return found


def as_map(matrix: Array) -> Integers:
    """A released real matrix as integers over 2^20, so that products with integer codes are exact."""
    return np.rint(matrix * _MAP).astype(np.int64)


def project(rows: Integers, matrix: Integers, shift: int) -> Integers:
    """Rows @ matrix / 2^shift, rounded down: exact integers in any chunking. Shapes: [n, p], [p, d] -> [n, d].

    Each row's product stays below 2^53 in magnitude, so float64 products are exact and so is their order.
    """
    wide = matrix.astype(np.float64)
    parts = [np.floor(chunk.astype(np.float64) @ wide / 2.0**shift) for chunk in chunks(rows)]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros((0, matrix.shape[1]), np.int64)


def covariance(moments: Moments, floor: float) -> tuple[Array, Array]:
    """Mean [d] and covariance [d, d] in code units; eigenvalues below `floor` are raised to it."""
    count = max(moments.count, 1.0)
    mean = moments.first / count
    return mean, _raised(moments.second / count - np.outer(mean, mean), floor)


def shrunk(groups: list[Moments], deviation: float, floor: float) -> tuple[Array, Array]:
    """Means [c, k] and covariances [c, k, k] of groups, shrunk to the pooled one by the known noise.

    `deviation` is the noise of one entry of a second moment. A group's covariance moves to the pooled one by the
    share min(1, noise energy / squared distance), with the noise energy (deviation / count)^2 k (k + 1) / 2: a rule
    on releases and the ledger's sigma only (guarantees.md rule 20). `floor` is a share of the mean eigenvalue.
    A group that cannot be told from an empty one has the mean and covariance of all others; one at least can.
    """
    counts = np.maximum([g.count for g in groups], 1.0)
    known = told_apart(groups, deviation)
    trusted = np.where(known, counts, 0.0) / np.where(known, counts, 0.0).sum()
    means = np.stack([g.first / n for g, n in zip(groups, counts, strict=True)])
    raw = np.stack([g.second / n - np.outer(m, m) for g, n, m in zip(groups, counts, means, strict=True)])
    pooled = np.einsum("c,cij->ij", trusted, raw)
    size = pooled.shape[0]
    energy = (deviation / counts) ** 2 * size * (size + 1) / 2
    distance = ((raw - pooled) ** 2).sum((1, 2))
    share = (energy / np.maximum(np.maximum(distance, energy), 1e-300))[:, None, None]
    raw, means = np.where(known[:, None, None], raw, pooled), np.where(known[:, None], means, trusted @ means)
    least = floor * max(float(np.trace(pooled)) / size, deviation / float(counts.sum()), 1e-12)
    return means, np.stack([_raised(c, least) for c in (1 - share) * raw + share * pooled])


def told_apart(groups: list[Moments], deviation: float) -> NDArray[np.bool_]:
    """Whether the released count of every group is three standard deviations above none: [c]."""
    noise = deviation * math.sqrt(2.0) / (0.1 * float(BOUND) ** 2)
    found: NDArray[np.bool_] = np.array([g.count for g in groups]) > max(3 * noise, 0.5)
    return found


def _raised(matrix: Array, floor: float) -> Array:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    raised: Array = (vectors * np.maximum(values, floor)) @ vectors.T
    return raised
