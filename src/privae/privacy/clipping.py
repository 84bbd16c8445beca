"""Clipping: what bounds the influence of one unit on a sum, in real numbers and exactly in integers."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from privae.errors import UsageError
from privae.privacy.mechanism import Mechanism, for_sums

Kind = Literal["flat", "automatic", "per layer"]

# privacy: |code| * |code| * width stays below this, so that an integer norm never overflows int64.
_SQUARED_NORM_CAP = 2**62
# privacy: the correctly rounded square root, quotient and product lose at most 5 units of 2^-53 together; 8
# are shaved.
_SHAVE = 1.0 - 2.0**-50
# privacy: squares of norms near a clip norm in this range neither underflow nor overflow in float64.
_SMALLEST, _LARGEST = 2.0**-500, 2.0**500
_WANDER = 2.0**20  # how far a clip norm may move from its start, up or down


@dataclass(frozen=True)
class Clipping:
    """How much of a record's gradient goes into a sum: norms -> factors, so that its L2 norm is <= clip_norm.

    With g the gradient, g_j its part for parameter j = 1..k, C the clip norm:
    "flat"       one factor min(1, C / |g|): short gradients stay as they are;
    "automatic"  one factor C / (|g| + gamma): all gradients get nearly the same length, so that C only scales
                 the learning rate and need not be tuned;
    "per layer"  a factor min(1, C / (sqrt(k) |g_j|)) for each parameter.

    Guarantee: sum_j (factor_j |g_j|)^2 <= C^2 in real numbers, for the squared norms as they are given, and
    automatic stays below C. So adding or removing one record moves the sum by at most C; what rounding of the
    norms and of the sum adds to it is charged elsewhere (`gradients.slack`).
    Proof: |g| min(1, C / |g|) <= C; |g| C / (|g| + gamma) < C; k squares of at most (C / sqrt(k))^2 add up to
    C^2. In float64 a sum of k squares loses at most k - 1 units of 2^-53 relatively, and root, product,
    addition, division and sqrt(k) one each; k + 8 units are shaved off C first.
    Edges: a record with nan, inf or a negative squared norm in any column, or whose sum of squares overflows,
    gets factor 0 in every column, which callers must apply as "leave the record out" (0 * nan is nan);
    clip_norm = inf -> 1 for every other record; norm 0 -> 1 (automatic: C / gamma). Each record's factors
    depend on its own row only.
    Errors: UsageError for a clip norm that is neither infinite nor within 2^-500 and 2^500, or a gamma that is
    not a positive number.
    Source: flat: Abadi et al. 2016, arXiv:1607.00133; automatic: Bu et al. 2022, arXiv:2206.07136; per layer:
    McMahan et al. 2017, arXiv:1710.06963, He et al. 2022, arXiv:2212.01539.

    >>> Clipping(2.0).factors(torch.tensor([[9.0, 7.0], [1.0, torch.nan]], dtype=torch.float64))
    tensor([[0.5000, 0.5000],
            [0.0000, 0.0000]], dtype=torch.float64)
    """

    clip_norm: float
    kind: Kind = "flat"
    gamma: float = 0.01

    def __post_init__(self) -> None:
        check_clip_norm(self.clip_norm)
        if self.kind not in ("flat", "automatic", "per layer"):
            raise UsageError("a kind of clipping is 'flat', 'automatic' or 'per layer'")
        if not 2.0**-500 <= self.gamma < math.inf:
            raise UsageError("gamma of automatic clipping must be at least 2^-500; 0.01 is usual")

    def factors(self, squared: Float64[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
        """Factors by parameter for squared norms by parameter; flat and automatic: the same in each column."""
        total = squared.sum(1, keepdim=True)
        bounded = (squared >= 0).all(1, keepdim=True) & (total < math.inf)
        return torch.where(bounded, self._bounding(squared, total), 0.0).expand_as(squared)

    def _bounding(self, squared: Float64[Tensor, "n k"], total: Float64[Tensor, "n 1"]) -> Tensor:
        columns = squared.shape[1]
        if math.isinf(self.clip_norm):
            return torch.ones_like(total)
        # privacy: -0.0 passes as a square, and its reciprocal is -inf
        norms = (squared if self.kind == "per layer" else total).abs().sqrt_()
        limit = self.clip_norm * (1.0 - (columns + 8) * 2.0**-53)
        if self.kind == "automatic":
            return limit / (norms + self.gamma)
        share = limit / math.sqrt(max(columns, 1)) if self.kind == "per layer" else limit
        return (share / norms).clamp_(max=1.0)


def clipping_of(clipping: "float | Clipping") -> Clipping:
    """The clipping itself, or flat clipping at that norm."""
    return clipping if isinstance(clipping, Clipping) else Clipping(float(clipping))


@dataclass(frozen=True)
class Quantile:
    """A clip norm that follows a quantile of the gradients' norms, found by votes that are released with noise.

    At every step each record of the batch votes +1 if its gradient's norm is at most the present clip norm C,
    else -1. The sum of the votes is released, and C <- C exp(-rate (share - target)), where share estimates
    which part of the batch voted +1.

    target: share of the records whose gradients shall stay whole. rate: how fast C moves (0.2 is usual).
    multiplier: std of the noise on the sum of votes, whose sensitivity is 1 (an expected batch size / 10 is
    usual; the paper's sigma_b, on a count of zeros and ones, is half of it). start: the first clip norm.

    Guarantee: gradients released with noise multiplier `gradients(z)` and votes with `multiplier`, over the
    *same* batch of a sampler, are together that sampler's event with noise multiplier z: the one Gaussian
    mechanism that is charged. It holds with or without subsampling and for either relation.
    Proof: let s be the sensitivity of the gradient sum G at the present clip norm, z_g and z_v the two
    multipliers. Neighbors differ in one unit; if its coins leave it out, nothing moves, else G moves by at most
    s and the votes V by at most 1, for a vote is -1 or +1 whatever the gradient holds. So
    (G / (s z_g), V / z_v) moves by at most sqrt(z_g^-2 + z_v^-2) = 1 / z, and what is released is this vector
    plus standard normals, rescaled by public numbers: a Gaussian mechanism of multiplier z on the drawn batch.
    Replacing a unit moves G by at most 2 s and V by at most 2: the ratio 2 that subsampled events are charged
    with. C is a function of earlier releases, so queries adapt, and the multipliers and rates stay those that
    were planned (guarantees.md rule 16). Votes are integers on grid 1: rounding costs nothing (rule 1).
    The share is V / 2 over a *declared* batch size, so it tells nothing more.
    Assumed, as for gradients: a record's norm has the same bits whoever else is in the batch. Here it carries
    more: a norm within a rounding of C turns a whole vote.
    Errors: UsageError for numbers outside their ranges.
    Source: Andrew et al. 2019, arXiv:1905.03871, Algorithm 1 and Theorem 1.
    """

    target: float
    rate: float
    multiplier: float
    start: float

    def __post_init__(self) -> None:
        check_clip_norm(self.start)
        if not (0 < self.target < 1 and 0 < self.rate <= 1):
            raise UsageError("the target share lies between 0 and 1, and the rate is above 0 and at most 1")
        if not (0 < self.multiplier < math.inf and _WANDER * _SMALLEST <= self.start <= _LARGEST / _WANDER):
            raise UsageError("the noise multiplier of votes and the first clip norm are positive numbers")

    def gradients(self, multiplier: float) -> float:
        """The noise multiplier of the gradients that, with the votes, costs as much as `multiplier` alone.

        It is (multiplier^-2 - votes^-2)^(-1/2), rounded up: the difference is exact, and the root and quotient
        of its nearest float64 lose less than the relative 2^-50 that is added. Edges: 0 -> 0, no noise.
        Errors: UsageError where the votes alone cost as much.

        >>> round(Quantile(target=0.5, rate=0.2, multiplier=5.0, start=1.0).gradients(3.0), 6)
        3.75
        """
        if multiplier == 0:
            return 0.0
        left = 1 / Fraction(multiplier) ** 2 - 1 / Fraction(self.multiplier) ** 2
        if left <= 0:
            raise UsageError("the votes cost all of the budget; give them a larger noise multiplier")
        return 1.0 / math.sqrt(float(left)) * (1.0 + 2.0**-50)

    def mechanism(self) -> Mechanism:
        """What releases the sum of votes: sensitivity 1, on grid 1. It is charged with the gradients."""
        return for_sums(1.0, self.multiplier, 2.0)

    def votes(self, squared: Float64[Tensor, "n k"], clip_norm: float) -> Int64[Tensor, "1"]:
        """Sum of the votes of n records, from their squared norms by parameter; a record not finite votes -1.

        Sums of parts of a batch add up. Rows that are no records (padding) must be left out.
        """
        whole = (squared >= 0).all(1) & (squared.sum(1).sqrt() <= clip_norm)
        return (2 * whole.to(torch.int64) - 1).sum().view(1)

    def updated(self, clip_norm: float, released: float, expected_batch_size: float) -> float:
        """The next clip norm, from the released sum of votes and a declared batch size: post-processing.

        The share is kept within 0 and 1, and the clip norm within a factor of 2^20 of its start.

        >>> Quantile(target=0.5, rate=0.2, multiplier=5.0, start=1.0).updated(1.0, 0.0, 100.0)
        1.0
        """
        share = min(max(0.5 + released / (2.0 * expected_batch_size), 0.0), 1.0)
        moved = clip_norm * math.exp(-self.rate * (share - self.target))
        return min(max(moved, self.start / _WANDER), self.start * _WANDER)


def clip_factors(norms: Float[Tensor, "n"], clip_norm: float) -> Float[Tensor, "n"]:
    """The factor that brings each norm to at most clip_norm: min(1, clip_norm / norm).

    Shapes: norms [n] -> [n], in the dtype of the norms.
    Edges: norm 0 -> 1; norm nan or inf -> 0, which callers must apply as "leave the row out" (0 * nan is
    nan); clip_norm = inf -> 1 for every finite norm.
    Errors: UsageError for a clip_norm that is not positive.

    >>> clip_factors(torch.tensor([0.5, 4.0, torch.nan]), clip_norm=2.0)
    tensor([1.0000, 0.5000, 0.0000])
    """
    check_clip_norm(clip_norm)
    factors = (clip_norm / norms).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(norms))


def clipped_sum(contributions: Float[Tensor, "n p"], clip_norm: float) -> Float64[Tensor, "p"]:
    """Sum of rows, each first scaled to L2 norm <= clip_norm; norms and sum are formed in float64.

    Shapes: contributions [n, p] -> [p].
    Guarantee: adding or removing one row changes the result by at most clip_norm (L2), up to float64 rounding
    (a relative 2^-53 for each addition: `gradients.slack` is the charged bound).
    Edges: no rows -> zeros; a row with nan or inf, or whose norm overflows, counts as zeros;
    clip_norm = inf -> plain sum of the finite rows.
    Source: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1.

    >>> clipped_sum(torch.tensor([[3.0, 4.0]]), clip_norm=1.0)
    tensor([0.6000, 0.8000], dtype=torch.float64)
    """
    rows = contributions.double()
    factors = clip_factors(torch.linalg.vector_norm(rows, dim=1), clip_norm)
    return factors @ torch.where((factors > 0)[:, None], rows, 0.0)


def clip_to_grid(
    codes: NDArray[np.int64] | NDArray[np.float64], bound: int
) -> NDArray[np.int64] | NDArray[np.float64]:
    """Rows of integers, each scaled to L2 norm <= bound and truncated towards zero to integers again.

    Shapes: codes [n, p] (int64, or integers held in float64) -> [n, p] of the same dtype.
    Guarantee: the norm bound holds exactly, in integers, and every row depends on that row alone, bit for
    bit; sums of the result are therefore the same in any order or chunking, and rounding adds nothing to the
    sensitivity.
    Proof: a row's squared norm is an exact int64. If it is at most bound^2 the row stays. Otherwise the
    factor bound / norm and its products are correctly rounded operations whose relative errors sum to less
    than the 2^-50 that is shaved off, so each product has at most its exact magnitude, and truncation only
    shortens it.
    Edges: a float row with nan or inf -> zeros; a fraction is truncated towards zero; an entry beyond
    +-sqrt(2^62 / p), which no declared code reaches, is moved to it first.
    Errors: UsageError for a bound that is not a positive integer.

    >>> clip_to_grid(np.array([[30, 40], [3, 4]]), bound=10)
    array([[5, 7],
           [3, 4]])
    """
    if not isinstance(bound, int) or bound < 1:
        raise UsageError("the bound of a clipped integer row must be a positive integer")
    limit = math.isqrt((_SQUARED_NORM_CAP - 1) // max(codes.shape[1], 1))
    whole = _finite_rows(codes).clip(-limit, limit).astype(np.int64)
    squared = (whole * whole).sum(axis=1)
    outside = squared > min(bound * bound, _SQUARED_NORM_CAP)
    factor = float(bound) / np.sqrt(squared[outside].astype(np.float64)) * _SHAVE
    whole[outside] = np.trunc(whole[outside] * factor[:, None]).astype(np.int64)
    return whole.astype(np.float64) if codes.dtype.kind == "f" else whole


def check_clip_norm(clip_norm: float) -> None:
    """Raise UsageError unless clip_norm is a positive number (within 2^-500 and 2^500) or infinity."""
    if not (_SMALLEST <= clip_norm <= _LARGEST or clip_norm == math.inf):
        raise UsageError("clip_norm must be a positive number near 1, or infinity for a plain sum")


def _finite_rows(codes: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.int64] | NDArray[np.float64]:
    if codes.dtype.kind != "f":
        return codes
    return np.where(np.isfinite(codes).all(axis=1, keepdims=True), codes, 0.0)
