"""Standardized values: the map that released quantiles give, clipped integer codes, and what their moments say.

The second release of anomaly detection is that of `sums.moments`, of the codes made here (guarantees.md rules 1, 7).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from privae.errors import PrivacyRefused
from privae.models.scores import Quantiles, Standard
from privae.privacy.clipping import clip_to_grid
from privae.sums.moments import BOUND, Moments
from privae.sums.quantiles import Grid

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_RADIUS = 1.2  # clip norm of standardized values over sqrt(d)
_TAIL = 0.15  # share of values below the lower quantile, and above the upper, that the spread is read from
_APART = -2.0 * float(ndtri(_TAIL))  # standard deviations between them, for normal values


def standard_of(found: Quantiles, grid: Grid) -> Standard:
    """Center and spread of every column, from its released quantiles; a spread is at least a quarter of a unit."""
    shares = np.repeat([[_TAIL], [0.5], [1 - _TAIL]], len(grid), axis=1)
    lower, center, upper = found.at(shares)
    spread = np.maximum((upper - lower) / _APART, grid.unit / 4)
    return Standard(center, spread, grid.low, grid.width)


def agreed_standard(agreed: Mapping[str, Tensor], grid: Grid) -> Standard:
    """What `standard_of` gives, from whoever made it. Errors: PrivacyRefused for numbers that it never gives.

    privacy: a center of another shape could be another one for each record.
    """
    parts = [agreed.get(name) for name in ("center", "spread")]
    if any(part is None or (part.shape, part.dtype) != ((len(grid),), torch.float64) for part in parts):
        raise PrivacyRefused(
            "the agreed center and spread of the columns are none; do not trust the coordinator"
        )
    center, spread = (part.numpy() for part in parts if part is not None)
    inside = (center >= grid.low) & (center <= grid.low + grid.width)
    if not (inside.all() and np.isfinite(spread).all() and (spread >= grid.unit / 4).all()):
        raise PrivacyRefused("the agreed center and spread are out of range; do not trust the coordinator")
    return Standard(center, spread, grid.low, grid.width)


def clipped_codes(values: Array, standard: Standard) -> Integers:
    """Standardized soft-limited values whose clip norm, 1.2 sqrt(d), is BOUND: integers [n, d], |row| <= BOUND.

    Guarantee: each row is a function of that row alone, bit for bit, and its norm is at most BOUND, whatever the
    values and whatever was released before (guarantees.md rule 1).
    """
    codes = standard.codes(values)
    return clip_to_grid(np.trunc(codes * (BOUND / _radius(codes.shape[1]))), BOUND).astype(np.int64)


def _radius(size: int) -> float:
    return _RADIUS * math.sqrt(size)


@dataclass(frozen=True)
class Spread:
    """Mean [d] and covariance [d, d] of standardized values; floor: the least eigenvalue that noise lets one tell.

    known: the share of the covariances between columns that stood out from the known noise.
    """

    mean: Array
    covariance: Array
    known: float
    floor: float


def shrunk(found: Moments, records: float, deviation: float, least: float = 1.0) -> Spread:
    """Released moments of `clipped_codes` in standardized units, covariances shrunk to none by the known noise.

    deviation: of the noise in the weighted units of `sums.moments`. The share kept is 1 - noise energy / energy, a rule
    on releases and the ledger's sigma only (guarantees.md rule 20). The floor is half of the noise's own largest
    eigenvalue, 2 noise sqrt(d), times `least`, and at least 1/20 of a typical variance.
    Edges: one column has no covariances, and keeps all of them.
    """
    size = len(found.first)
    unit = _radius(size) / BOUND
    mean = found.first / records * unit
    raw = found.second / records * unit**2 - np.outer(mean, mean)
    noise = deviation / math.sqrt(2) * _radius(size) ** 2 / records
    own = np.diagonal(raw)
    energy = noise**2 * size * (size - 1)
    known = 1.0 - energy / max(float((raw**2).sum() - (own**2).sum()), energy, 1e-300)
    floor = max(least * noise * math.sqrt(size), 0.05 * float(np.median(np.maximum(own, 0.05))), 0.01)
    return Spread(mean, known * raw + (1 - known) * np.diag(own), known, floor)
