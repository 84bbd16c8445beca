"""Likes as released sums: popularity, and an item-item Gram matrix; and what recommends, from these alone.

A person who likes r items is the vector x of zeros and r ones over sqrt(r), of norm 1. Popularity is the sum of x over
persons; the Gram matrix that of x x', whose diagonal and upper triangle, times sqrt(2), have norm 1 as well
(guarantees.md rule 8). Both are held in integers over UNIT and rounded down for each person, so sums are exact in any
order, and a contribution is never longer than 1: floor(UNIT^2 / r)^(1/2) in each of r places, floor(UNIT / r) in each
of r^2. Numbers are not negative, so two persons are never further apart than sqrt(2): the replace-one figure (rule 10).
Source: the linear autoencoder with a ridge, EASE, Steck 2019, arXiv:1905.03375.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from privae.errors import ResourceError
from privae.models.preferences import BINS

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

UNIT = 2**24
MOST_PERSONS = 2**38  # times UNIT = 2^62
_PERSONS = 65_536  # of a block of a Gram matrix
_LEAST_RIDGE = 5.0  # persons, where there is no noise
_LEAST_LEFT = 0.25  # of the noise, that a ridge counts with where it was shrunk
_FITTED = 30  # rounds of proportional fitting


@dataclass(frozen=True)
class Gram:
    """A released Gram matrix [k, k] in persons, and the standard deviation of the noise on its diagonal.

    Elsewhere the noise has that deviation over sqrt(2).
    """

    matrix: Array
    deviation: float

    @property
    def edge(self) -> float:
        """Where the spectrum of the noise alone ends (Wigner's semicircle)."""
        return math.sqrt(2.0 * len(self.matrix)) * self.deviation

    @property
    def persons(self) -> float:
        """How many persons like at least one of the items: each adds 1 to the trace."""
        return float(np.trace(self.matrix))

    @cached_property
    def independent(self) -> Array:
        """What the matrix would be off its diagonal if items were liked independently: a rank of one, row sums kept."""
        off = self.matrix - np.diag(np.diag(self.matrix))
        rows = np.maximum(off.sum(1), 1e-9)
        share = rows / rows.sum()
        for _ in range(_FITTED):
            model = _pairs(share)
            share = share * np.sqrt(rows / np.maximum(model.sum(1) * rows.sum() / model.sum(), 1e-300))
            share = share / share.sum()
        found: Array = _pairs(share)
        found *= rows.sum() / found.sum()
        return found

    @cached_property
    def signal(self) -> float:
        """Share of what independent likes do not explain that is not noise: 0 (nothing can be seen) to 1.

        One minus the known energy of the noise over the energy of the rest (guarantees.md rule 20). Noise alone gives
        0 up to a deviation of 2 / k.
        """
        size, noise = len(self.matrix), self.deviation**2 / 2
        return max(0.0, 1.0 - noise * size * (size - 1) / max(float((self._rest**2).sum()), 1e-300))

    @property
    def shrunk(self) -> Array:
        """The matrix, what is not explained by independent likes scaled by `signal`."""
        found: Array = np.diag(np.diag(self.matrix)) + self.independent + self.signal * self._rest
        return found

    @cached_property
    def _rest(self) -> Array:
        found: Array = self.matrix - np.diag(np.diag(self.matrix)) - self.independent
        return found


def popularity(likes: csr_array) -> Integers:
    """Integer sums of every item: [m]. likes: [n, m] of ones."""
    weights = np.floor(np.sqrt((UNIT**2 // _lengths(likes)).astype(np.float64))).astype(np.int64)
    total: Integers = likes.T @ weights
    return total


def gram(likes: csr_array) -> tuple[Integers, Integers]:
    """Integer sums of the Gram matrix: its diagonal [k], and what lies above it [k (k - 1) / 2].

    Memory: two matrices [k, k], whatever the number of persons.
    """
    size = likes.shape[1]
    total = np.zeros((size, size), np.int64)
    for start in range(0, likes.shape[0], _PERSONS):
        rows = likes[start : start + _PERSONS]
        total += (rows.T @ diags_array(UNIT // _lengths(rows), dtype=np.int64) @ rows).toarray()
    return np.diag(total).copy(), total[np.triu_indices(size, 1)]


def lengths(likes: csr_array) -> Integers:
    """How many persons like 1, 2 to 3, 4 to 7, ... items: [bins]; who likes none is not counted."""
    counts = np.diff(likes.indptr)
    return np.bincount(np.log2(counts[counts > 0]).astype(np.int64), minlength=BINS)[:BINS].astype(np.int64)


def unpacked(diagonal: Array, above: Array, deviation: float) -> Gram:
    """A Gram matrix from its released sums. deviation: of the noise in the weighted units of the release."""
    size = len(diagonal)
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size, 1)] = above / UNIT
    return Gram(matrix + matrix.T + np.diag(diagonal / UNIT), deviation)


def autoencoder(released: Gram, ridge: float, *, shrink: bool) -> Array:
    """Weights [k, k] with a zero diagonal, by which liked items speak for others. ridge: times the noise's edge.

    B = I - P diag(P)^-1 with P the inverse of the Gram matrix plus the ridge; no eigenvalue is cut off. The ridge keeps
    the matrix away from singular: noise alone seldom reaches beyond its edge. shrink: towards independent likes, by the
    signal, so that what noise drowns recommends what is popular; then the ridge falls with the noise that is left.
    """
    size = len(released.matrix)
    matrix, left = (released.shrunk, max(released.signal, _LEAST_LEFT)) if shrink else (released.matrix, 1.0)
    raised = matrix + max(ridge * left * released.edge, _LEAST_RIDGE) * np.eye(size)
    inverse = np.linalg.inv(raised)
    weights: Array = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def factors(released: Gram, most: int) -> tuple[Array, Array]:
    """Log-shares [k] and loadings [k, l] of the decoder softmax(log-shares + loadings z), l at most `most`.

    Persons draw their r items from shares of their own. Then the diagonal is n times the mean share, and above it
    stands the mean product of shares, times the sum of r - 1 over persons; both factors are sums of the matrix itself.
    Loadings are the leading axes of the products over those of independent items (correspondence analysis), as far
    as they pass what noise alone would be.
    """
    matrix, noise = released.matrix, released.deviation
    # what noise cannot tell from none counts as one deviation
    shares = np.maximum(np.diag(matrix), max(noise, 1e-12))
    persons = float(shares.sum())
    shares = shares / persons
    pairs = max(float(matrix.sum() - np.trace(matrix)), max(noise, 1e-12) * len(matrix))
    # rare items would set the edge for all: their noise is held down by the mean share
    scale = 1.0 / np.sqrt(shares + shares.mean())
    together = matrix / pairs - np.outer(shares, shares)
    np.fill_diagonal(together, 0.0)
    whitened = scale[:, None] * together * scale
    deviations = scale[:, None] * scale * (noise / math.sqrt(2.0) / pairs)
    edge = 2.0 * math.sqrt(float((deviations**2).sum(1).max()))
    values, axes = np.linalg.eigh(whitened)
    chosen = [i for i in np.argsort(-values)[:most] if values[i] > max(edge, 1e-9)]
    whole = 1.0 / scale / np.maximum(shares, shares.mean() / 4)
    return np.log(shares), whole[:, None] * axes[:, chosen] * np.sqrt(values[chosen])


def check_persons(likes: csr_array) -> None:
    """Raise ResourceError for more persons than sums of 64 bits can hold."""
    if likes.shape[0] > MOST_PERSONS:
        raise ResourceError("more persons than integer sums of 64 bits can hold; fit a part of them")


def _pairs(share: Array) -> Array:
    """Products of shares [k, k], without the diagonal."""
    found: Array = np.outer(share, share)
    np.fill_diagonal(found, 0.0)
    return found


def _lengths(likes: csr_array) -> Integers:
    """How many items each person likes, at least 1 so that it divides: [n]."""
    found: Integers = np.maximum(np.diff(likes.indptr).astype(np.int64), 1)
    return found
