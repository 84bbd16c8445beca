"""The covariance of low frequencies from a noisy release: what the noise hides has the spectrum of natural images.

Post-processing: functions of releases, the shape and the ledger's sigma only (guarantees.md rule 20).
"""

import math

import numpy as np
from numpy.typing import NDArray

from privae.sums.moments import Moments, frequencies

Array = NDArray[np.float64]

_LEAST = 1e-9  # of the largest eigenvalue


def profile(height: int, width: int, size: int) -> Array:
    """The public shares of power of the `size` lowest frequencies, one over their squares; the zeroth as the first.

    Source: Field 1987, doi:10.1364/JOSAA.4.002379.

    >>> profile(8, 8, 4).round(3).tolist()
    [0.286, 0.286, 0.286, 0.143]
    """
    squares = np.sort(frequencies(height, width), kind="stable")[:size]
    power = 1.0 / np.maximum(squares, squares[min(1, size - 1)]) if size > 1 else np.ones(1)
    return np.asarray(power / power.sum())


def principal(released: Moments, deviation: float, shares: Array) -> tuple[Array, Array, Array]:
    """Mean [d], eigenvalues [d], descending and positive, and axes [d, d], in the units of the codes.

    deviation: of the noise of one entry of the second moment off its diagonal. The covariance moves to a diagonal one
    of the same trace with these shares by the share min(1, noise energy / energy of the difference). Of what is left,
    eigenvalues above the edge of the noise, 2 sigma sqrt(d), lose what noise adds to a spike (theta + sigma^2 d /
    theta is seen where theta is); the others share the rest of the trace in their order.
    Edges: without noise, the eigenvalues of the covariance, raised to a billionth of the largest.
    Source: Benaych-Georges and Nadakuditi 2011, arXiv:0910.2120.
    """
    count, size = max(released.count, 1.0), len(shares)
    mean, noise = released.first / count, deviation / count
    covariance = released.second / count - np.outer(mean, mean)
    trace = max(float(np.trace(covariance)), noise, 1e-300)
    rest = covariance - np.diag(trace * shares)
    energy = noise**2 * size * (size + 1)
    known = 1.0 - energy / max(float((rest**2).sum()), energy, 1e-300)
    values, axes = np.linalg.eigh(known * covariance + (1.0 - known) * np.diag(trace * shares))
    values, axes = values[::-1], axes[:, ::-1].copy()
    edge = 2.0 * known * noise * math.sqrt(size)
    spiked = values > edge
    spikes = np.where(spiked, (values + np.sqrt(np.maximum(values**2 - edge**2, 0.0))) / 2, 0.0)
    weight = np.where(spiked, 0.0, np.maximum(values + edge, _LEAST * values[0]))
    left = max(trace - float(spikes.sum()), 0.0)
    found = spikes + left * weight / max(float(weight.sum()), 1e-300)
    return mean, np.maximum(found, max(_LEAST * float(found.max()), 1e-300)), axes
