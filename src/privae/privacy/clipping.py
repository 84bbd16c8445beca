"""Clipping: what bounds the influence of one unit on a sum, in real numbers and exactly in integers."""

import math

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from privae.errors import UsageError

# privacy: |code| * |code| * width stays below this, so that an integer norm never overflows int64.
_SQUARED_NORM_CAP = 2**62
# privacy: the correctly rounded square root, quotient and product lose at most 5 units of 2^-53 together; 8
# are shaved.
_SHAVE = 1.0 - 2.0**-50


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
    """Raise UsageError unless clip_norm is a positive number or infinity."""
    if not clip_norm > 0:
        raise UsageError("clip_norm must be a positive number, or infinity for a plain sum")


def _finite_rows(codes: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.int64] | NDArray[np.float64]:
    if codes.dtype.kind != "f":
        return codes
    return np.where(np.isfinite(codes).all(axis=1, keepdims=True), codes, 0.0)
