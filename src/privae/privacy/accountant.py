"""What events cost: the only door to dp_accounting.

Every figure is an upper bound on epsilon. The central-limit ("GDP") approximation, which under-reports, is
not offered. `relation` is "add_or_remove" (a unit is there or not) or "replace_one" (its data are exchanged).
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from scipy.special import log_ndtr

from privae.errors import PrivacyRefused, UsageError
from privae.privacy.mechanism import Event, Relation

Method = Literal["exact Gaussian", "PLD", "RDP"]
Composition = Literal["renyi", "gaussian"]

ADDED_SHARE = 0.1
"""Share of a filter's delta left to what thresholds and samplers add to it."""

_FINE, _COARSE = 1e-4, 1e-3  # spacing of the discretized privacy loss
_RANGE = 50.0  # losses beyond it get a proportionally coarser spacing, to bound time and memory
_ORDERS = (*(float(k) for k in range(2, 65)), *(2.0**k for k in range(7, 13)))
_TOLERANCE = 1.002  # calibrated noise is at most this factor above the smallest


def epsilon(
    events: Sequence[Event], delta: float, relation: Relation = "add_or_remove", *, fine: bool = True
) -> float:
    """Smallest epsilon that we can prove for `events` together at `delta`.

    Guarantee: valid if the parameters of all events were fixed before the first release; the queries may
        adapt (guarantees.md rule 16). Events that are not subsampled compose exactly: Gaussians with
        multipliers s_i are one Gaussian with mu^2 = sum 1 / s_i^2. Otherwise the privacy loss distribution,
        its losses rounded up to a lattice; where that fails, Renyi divergences. fine=False is up to ten times
        faster, on a coarser lattice, and still an upper bound.
        "replace_one": a Gaussian has mu = replace_ratio / s (rule 10). A subsampled one is charged with ratio
        2 whatever its ratio: its neighbors are three points 0, a, b, and no proof shrinks |a| with |a - b|.
    Edges: no events, no steps or sampling rate 0 -> 0; a release without noise -> inf.
    Errors: UsageError for a delta outside (0, 1).
    Source: Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380; Mironov et al.
        2019, arXiv:1908.10530; Balle & Wang 2018, arXiv:1805.06530.

    >>> round(epsilon([Event(3.7306)], 1e-5), 3), epsilon([Event(0.0)], 1e-5), epsilon([], 1e-5)
    (1.0, inf, 0.0)
    """
    return _evaluated(events, delta, relation, fine)[0]


def group_epsilon(events: Sequence[Event], delta: float, size: int) -> float:
    """Epsilon if `size` records come or go together, each of which is drawn by itself: a person at so many places.

    Guarantee: as `epsilon`. Gaussians have size times the mu. A Poisson-subsampled Gaussian of which a batch holds
        j of the records with binomial probability is dominated by the mixture of Gaussians with means 0 to size.
    Edges: as `epsilon`; where the privacy loss distribution fails, as if nothing were subsampled.
    Source: Ganesh 2024, arXiv:2401.10294, Theorem 3.1.

    >>> group_epsilon([Event(3.7306)], 1e-5, 2) > 2
    True
    """
    return _evaluated(events, delta, "add_or_remove", fine=False, size=size)[0]


def method(
    events: Sequence[Event], delta: float = 1e-6, relation: Relation = "add_or_remove", *, fine: bool = True
) -> Method:
    """How `epsilon` gets its figure for these events: "exact Gaussian", "PLD" or "RDP"."""
    return _evaluated(events, delta, relation, fine)[1]


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu = sensitivity / std with which the Gaussian mechanism is exactly (epsilon, delta)-private.

    Rounded down: what it returns satisfies the bound. Edges: epsilon inf -> inf.
    Source: Balle & Wang 2018, arXiv:1805.06530, Theorem 8.

    >>> round(1 / gaussian_mu(1.0, 1e-5), 4)
    3.7306
    """
    check_delta(delta)
    if not epsilon >= 0:
        raise UsageError("epsilon is a number that is not negative")
    if epsilon == math.inf:
        return math.inf
    high = 1.0
    while _gaussian_delta(high, epsilon) <= delta:
        high *= 2
    return _bisected(lambda mu: _gaussian_delta(mu, epsilon) > delta, 0.0, high)[0]


def calibrate(
    target_epsilon: float,
    delta: float,
    events_at: Callable[[float], Sequence[Event]],
    relation: Relation = "add_or_remove",
) -> float:
    """Smallest noise multiplier s, to 0.2 %, at which events_at(s) costs at most target_epsilon.

    Guarantee: epsilon(events_at(s), delta, relation) <= target_epsilon was evaluated on the fine lattice and
        holds; it does not rest on the search. Pure Gaussians are solved to 1e-9.
    Edges: target_epsilon inf -> 0.
    Errors: UsageError for a target that is not positive; PrivacyRefused when no noise reaches it, since the
        other phases already cost more.

    >>> round(calibrate(1.0, 1e-5, lambda s: [Event(s)]), 4)
    3.7306
    """
    check_delta(delta)
    if not target_epsilon > 0:
        raise UsageError("epsilon is a positive number")
    if target_epsilon == math.inf:
        return 0.0

    def cost(multiplier: float, *, fine: bool = False) -> float:
        return epsilon(events_at(multiplier), delta, relation, fine=fine)

    def enough(multiplier: float) -> bool:
        return cost(multiplier) <= target_epsilon

    low, high = _bracket(enough)
    if all(event.sampling_rate in (0, 1) for event in events_at(high)):
        return _bisected(enough, low, high, ratio=1 + 1e-9)[1]
    guess = _secant(lambda multiplier: cost(multiplier) / target_epsilon, low, high)
    if guess is None:
        guess = _bisected(enough, low, high, ratio=1.001)[1]
    return _confirmed(lambda multiplier: cost(multiplier, fine=True) <= target_epsilon, guess)


def renyi(events: Sequence[Event], order: float, relation: Relation = "add_or_remove") -> float:
    """Bound on the Renyi divergence at `order`, in both directions, of `events` together; they simply add up.

    Edges: without noise -> inf; subsampled under "replace_one" -> inf, for no bound is at hand.
    Errors: UsageError for an order that is not above 1.
    Source: Mironov et al. 2019, arXiv:1908.10530.

    >>> renyi([Event(2.0, steps=4)], order=8.0)
    4.0
    """
    if not order > 1:
        raise UsageError("a Renyi order is above 1")
    return math.fsum(_renyi_of(event, order, relation) for event in _real(events))


def renyi_to_epsilon(value: float, order: float, delta: float) -> float:
    """Epsilon at `delta` that follows from a Renyi divergence of `value` at `order`.

    Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, Proposition 12.
    """
    check_delta(delta)
    return max(0.0, value + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1))


def epsilon_to_renyi(epsilon: float, order: float, delta: float) -> float:
    """Inverse of `renyi_to_epsilon` in its first argument; negative where the order cannot prove epsilon."""
    check_delta(delta)
    return epsilon - math.log1p(-1 / order) + (math.log(delta) + math.log(order)) / (order - 1)


def mu_squared(events: Sequence[Event], relation: Relation = "add_or_remove") -> float:
    """mu^2 of the one Gaussian that events compose to; inf if one is subsampled or without noise."""
    return math.fsum(_mu_squared(event, relation) for event in _real(events))


def check_delta(delta: float) -> None:
    """Raise UsageError unless delta lies in (0, 1)."""
    if not 0 < delta < 1:
        raise UsageError("delta lies strictly between 0 and 1")


@dataclass(frozen=True)
class Filter:
    """Bound on releases whose parameters are chosen after seeing earlier ones (guarantees.md rule 17).

    "renyi": Renyi divergences at one order sum to at most the budget that proves epsilon at 0.9 delta.
    "gaussian": no event is subsampled, and the squares mu^2 sum to at most that of the Gaussian that is
    exactly (epsilon, 0.9 delta)-private.
    Guarantee: releases that stop before the sum passes its bound are together (epsilon, 0.9 delta)-private,
        for the order and the bound are fixed at opening from (epsilon, delta) alone.
    Source: Feldman & Zrnic 2021, arXiv:2008.11193 (Renyi filter); Smith & Thakurta 2022, arXiv:2210.17520.
    """

    epsilon: float
    delta: float
    composition: Composition
    order: float

    @classmethod
    def fixed(cls, epsilon: float, delta: float, composition: Composition) -> "Filter":
        """The filter of a cap, at the order that admits most Gaussian noise."""
        order = max(_ORDERS, key=lambda order: epsilon_to_renyi(epsilon, order, delta) / order)
        return cls(float(epsilon), delta, composition, order)

    def used(self, events: Sequence[Event], relation: Relation) -> float:
        """Share of the budget that events take: at most 1 is admitted, inf never fits."""
        whole = self.gaussians
        if self.composition == "gaussian":
            return mu_squared(events, relation) / whole
        return 2 * renyi(events, self.order, relation) / (self.order * whole) if whole > 0 else math.inf

    @property
    def gaussians(self) -> float:
        """mu^2 of the Gaussian that takes the whole budget; others take a share of it as their mu^2; 0 if none fits."""
        if self.composition == "gaussian":
            return gaussian_mu(self.epsilon, self._noised) ** 2
        return max(0.0, 2 * epsilon_to_renyi(self.epsilon, self.order, self._noised) / self.order)

    def so_far(self, events: Sequence[Event], relation: Relation) -> float:
        """The epsilon of the smallest such filter that admits events."""
        if self.composition == "gaussian":
            return epsilon(events, self._noised, relation)
        return renyi_to_epsilon(renyi(events, self.order, relation), self.order, self._noised)

    @property
    def _noised(self) -> float:
        return self.delta * (1 - ADDED_SHARE)  # the part of delta that is for noise


def _evaluated(
    events: Sequence[Event], delta: float, relation: Relation, fine: bool, size: int = 1
) -> tuple[float, Method]:
    check_delta(delta)
    real = tuple(sorted(_real(events), key=lambda event: tuple(event.to_dict().values())))
    if any(event.noise_multiplier == 0 for event in real):
        return math.inf, "exact Gaussian"
    if all(event.sampling_rate == 1 for event in real):
        return _gaussian_epsilon(size * _mu(real, relation), delta), "exact Gaussian"
    with suppress(ArithmeticError, ValueError, MemoryError, RuntimeError):
        return _from_loss(real, delta, relation, _FINE if fine else _COARSE, size), "PLD"
    if size > 1:  # as if every batch held all of them
        whole = [replace(event, sampling_rate=1.0) for event in real]
        return _gaussian_epsilon(size * _mu(whole, relation), delta), "exact Gaussian"
    return min(renyi_to_epsilon(renyi(real, order, relation), order, delta) for order in _ORDERS), "RDP"


def _real(events: Sequence[Event]) -> list[Event]:
    """The events that cost anything, each once: those that differ in steps only are one event of all steps.

    Exact, for an event of steps is defined as that many releases, in whatever blocks they were charged.
    """
    steps: dict[Event, int] = {}
    for event in events:
        if event.steps and event.sampling_rate:
            single = replace(event, steps=1)
            steps[single] = steps.get(single, 0) + event.steps
    return [replace(single, steps=count) for single, count in steps.items()]


def _mu(gaussians: Sequence[Event], relation: Relation) -> float:
    return math.sqrt(mu_squared(gaussians, relation))


def _mu_squared(event: Event, relation: Relation) -> float:
    if event.noise_multiplier == 0 or event.sampling_rate < 1:
        return math.inf
    ratio = event.replace_ratio if relation == "replace_one" else 1.0
    return event.steps * (ratio / event.noise_multiplier) ** 2


def _gaussian_delta(mu: float, epsilon: float) -> float:
    """Smallest delta of the Gaussian mechanism; in logarithms, so that neither tail under- nor overflows."""
    if mu == 0:
        return 0.0
    above, below = float(log_ndtr(mu / 2 - epsilon / mu)), float(log_ndtr(-mu / 2 - epsilon / mu))
    return -math.exp(above) * math.expm1(min(0.0, epsilon + below - above))


def _gaussian_epsilon(mu: float, delta: float) -> float:
    if _gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    # delta <= Phi(mu / 2 - epsilon / mu) <= exp(-(epsilon / mu - mu / 2)^2 / 2) bounds the search.
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    return _bisected(lambda value: _gaussian_delta(mu, value) <= delta, 0.0, high)[1]


@lru_cache(maxsize=4096)
def _from_loss(
    events: tuple[Event, ...], delta: float, relation: Relation, spacing: float, size: int
) -> float:
    """Epsilon by the privacy loss distribution: kept, for it is asked again. Errors, which are not: ArithmeticError."""
    value = float(_loss(events, relation, spacing, size).get_epsilon_for_delta(delta))
    if not 0 <= value < math.inf:
        raise ArithmeticError
    return value


@lru_cache(maxsize=16)
def _loss(events: tuple[Event, ...], relation: Relation, spacing: float, size: int) -> Any:  # noqa: ANN401  untyped
    """Privacy loss distribution of events, at least one of them subsampled, for `size` records."""
    spacing *= 2.0 ** max(0, math.ceil(math.log2(_loss_range(events, relation, size) / _RANGE)))
    gaussians = [event for event in events if event.sampling_rate == 1]
    parts = [
        _step_loss(event.noise_multiplier, event.sampling_rate, relation, spacing, size).self_compose(
            event.steps
        )
        for event in events
        if event.sampling_rate < 1
    ]
    if gaussians:
        # A symmetric pair N(0, 1), N(mu, 1), the same for either relation once mu is known.
        parts.append(_step_loss(1 / (size * _mu(gaussians, relation)), 1.0, "add_or_remove", spacing, 1))
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    return total


@lru_cache(maxsize=16)
def _step_loss(multiplier: float, rate: float, relation: Relation, spacing: float, size: int) -> Any:  # noqa: ANN401
    from dp_accounting import NeighboringRelation as Neighbors
    from dp_accounting.pld import privacy_loss_distribution as losses

    if size > 1:
        drawn = [math.comb(size, k) * rate**k * (1 - rate) ** (size - k) for k in range(size + 1)]
        return losses.from_mixture_gaussian_mechanism(
            multiplier, [*range(size + 1)], drawn, value_discretization_interval=spacing
        )
    kind = Neighbors.REPLACE_ONE if relation == "replace_one" else Neighbors.ADD_OR_REMOVE_ONE
    return losses.from_gaussian_mechanism(
        multiplier, value_discretization_interval=spacing, sampling_prob=rate, neighboring_relation=kind
    )


def _loss_range(events: Sequence[Event], relation: Relation, size: int) -> float:
    """Rough size of the losses: mean of the sum (KL, by convexity) plus the largest single step."""
    far = 2.0 if relation == "replace_one" else float(size)
    shifts = [far / event.noise_multiplier for event in events]
    means = [e.steps * e.sampling_rate * s * s / 2 for e, s in zip(events, shifts, strict=True)]
    return math.fsum(means) + max(s * s / 2 + 12 * s for s in shifts)


@lru_cache(maxsize=4096)
def _renyi_of(event: Event, order: float, relation: Relation) -> float:
    if event.noise_multiplier == 0:
        return math.inf
    if event.sampling_rate == 1:
        return order * _mu_squared(event, relation) / 2
    if relation == "replace_one":
        return math.inf
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    step = PoissonSampledDpEvent(event.sampling_rate, GaussianDpEvent(event.noise_multiplier))
    return float(RdpAccountant([order]).compose(step, event.steps).rdp[0])


def _bracket(enough: Callable[[float], bool]) -> tuple[float, float]:
    """Multipliers (low, high = 2 low): low is not enough, high is."""
    high = 1.0
    while not enough(high):
        high *= 2
        if high > 2.0**40:
            raise PrivacyRefused(
                "no noise reaches this epsilon: the other phases already cost more; raise epsilon"
            )
    while high > 2.0**-40 and enough(high / 2):
        high /= 2
    return high / 2, high


def _bisected(
    holds: Callable[[float], bool], low: float, high: float, ratio: float = 1.0
) -> tuple[float, float]:
    """Neighbors (low, high) around the point where `holds` turns true, given that it does between them."""
    while high > low * ratio:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low, high


def _secant(excess: Callable[[float], float], low: float, high: float) -> float | None:
    """Multiplier inside [low, high] where excess is 1 to 0.03 %, or None if six steps do not find it."""
    places = [math.log(low), math.log(high)]
    values = [math.log(max(excess(place), 1e-9)) for place in (low, high)]
    for _ in range(6):
        if abs(values[-1]) <= 3e-4:
            return math.exp(places[-1])
        slope = (values[-1] - values[-2]) / (places[-1] - places[-2])
        if not -math.inf < slope < 0:
            return None
        place = min(max(places[-1] - values[-1] / slope, math.log(low)), math.log(high))
        if place in places:
            return None
        places.append(place)
        values.append(math.log(max(excess(math.exp(place)), 1e-9)))
    return None


def _confirmed(enough: Callable[[float], bool], multiplier: float) -> float:
    """Smallest multiplier to within the tolerance, near a coarse guess, that the fine lattice confirms."""
    while not enough(multiplier):
        multiplier *= _TOLERANCE
    while enough(multiplier / _TOLERANCE):
        multiplier /= _TOLERANCE
    return multiplier
