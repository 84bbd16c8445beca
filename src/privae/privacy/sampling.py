"""Who takes part in a step, by secret coins; the sampler itself says what its steps cost."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from privae.errors import DataError, PrivacyRefused, UsageError
from privae.privacy.mechanism import Event, Mechanism
from privae.privacy.noise import NoiseSource

MAX_BATCH = 2**20
"""Public cap on a drawn batch, on which the slack of floating-point sums rests (guarantees.md rule 2)."""
PERSON = "person"
"""The unit of guarantees that protect all rows of a person together."""
CLIENT = "client"
"""The unit of guarantees that protect all records of a site together."""
PARTS = ("day", "window")
"""Units that are parts of a series, cut as each schema says: of no use to a ledger of several plans."""


def plural(unit: str) -> str:
    """What several units are called; those of plain tables are their rows."""
    return "rows" if unit in ("record", CLIENT) else f"{unit}s"


_CERTAIN = 1.001  # covers the float64 roundings of a tail bound


@runtime_checkable
class Sampling(Protocol):
    """Draws batches and names the event that they are."""

    def batches(self, n: int, steps: int, noise: NoiseSource) -> Iterator[NDArray[np.int64]]:
        """Indices of the rows that take part, once a step: [b], or [b, k] for b units of up to k rows each."""
        ...

    def event(self, mechanism: Mechanism, steps: int) -> Event:
        """What `steps` releases of sums over such batches cost."""
        ...

    def added_delta(self, epsilon: float, steps: int) -> float:
        """What `steps` batches add to the delta of a run that costs `epsilon`, beyond their event."""
        ...


@dataclass(frozen=True)
class Poisson:
    """Every unit takes part in every step with probability `rate`, independently.

    The rate is public and never derived from the data; the size of a batch is secret. Empty batches are
    drawn, yielded and charged like any other. Batches above MAX_BATCH are refused before anything of them is
    released.
    """

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def batches(self, n: int, steps: int, noise: NoiseSource) -> Iterator[NDArray[np.int64]]:
        """Indices [b] in increasing order, once a step; b is Binomial(n, rate), also 0."""
        for _ in range(steps):
            yield _capped(_drawn(n, self.rate, noise))

    def event(self, mechanism: Mechanism, steps: int) -> Event:
        """What `steps` releases of sums over Poisson batches of this rate cost."""
        return mechanism.event(steps, self.rate)

    def added_delta(self, epsilon: float, steps: int) -> float:  # noqa: ARG002
        """Nothing: the event says all."""
        return 0.0


@dataclass(frozen=True)
class FullBatch:
    """Every unit takes part in every step."""

    @property
    def rate(self) -> float:
        """Probability that a unit takes part."""
        return 1.0

    def batches(self, n: int, steps: int, noise: NoiseSource) -> Iterator[NDArray[np.int64]]:  # noqa: ARG002
        """All indices [n], once a step."""
        for _ in range(steps):
            yield _capped(np.arange(n, dtype=np.int64))

    def event(self, mechanism: Mechanism, steps: int) -> Event:
        """What `steps` releases of sums over everyone cost."""
        return mechanism.event(steps, self.rate)

    def added_delta(self, epsilon: float, steps: int) -> float:  # noqa: ARG002
        """Nothing: the event says all."""
        return 0.0


@dataclass(frozen=True)
class TruncatedPoisson:
    """Poisson batches, each cut to at most `cap` units: where memory or a compiled graph bounds a batch.

    A batch above the cap is cut to `cap` of its units, chosen uniformly by secret coins. most_rows is a
    *declared* upper bound of the number of units; data that exceed it are refused.

    Guarantee: if the Poisson event (`event`, composed with whatever else is released) is (epsilon,
    delta)-private, the same run with cut batches is (epsilon, delta + added_delta(epsilon, steps))-private for
    neighbors that both have at most most_rows units, under either relation; epsilon is that relation's.
    Proof. Run the cut sampler C and Poisson P on the same data D with the same coins and noise: they release
    the same until a batch exceeds the cap. The sizes of the batches are drawn independently of all releases,
    so for every n <= most_rows this has probability at most
        p = steps * P(Bin(n, rate) > cap) <= steps * P(Bin(most_rows, rate) > cap),
    for more coins only make more heads. Hence |P(C(D) in S) - P(P(D) in S)| <= p for every set S, for D and
    for its neighbor D' alike, whichever has more units, and
        P(C(D) in S) <= P(P(D) in S) + p <= e^epsilon P(P(D') in S) + delta + p
                     <= e^epsilon (P(C(D') in S) + p) + delta + p,
    which adds (1 + e^epsilon) p. How a batch is cut is nowhere used. The tail is Chernoff's bound,
    P(Bin(m, q) >= a) <= exp(-m KL(a / m, q)) for a / m >= q, whose float64 rounding a factor of 1.001 pays.
    Why not the library's TruncatedSubsampledGaussianDpEvent (arXiv:2508.15089): its figure is that of one
    data-set size, ours is secret, and the figure at most_rows is not proved to cover every smaller one: in a
    cut batch one unit takes another's place, so sizes do not simply order (guarantees.md rule 15).
    Errors: UsageError for a cap that cuts the batches of most_rows units more often than not, or numbers that
    make no sense; PrivacyRefused, from `batches`, for data beyond most_rows.
    """

    rate: float
    cap: int
    most_rows: int

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        if not 1 <= self.cap <= MAX_BATCH or self.most_rows < 1:
            raise UsageError(f"the cap lies between 1 and {MAX_BATCH}, and most_rows is at least 1")
        if self.cap < self.rate * self.most_rows:
            raise UsageError(
                "the cap lies below the expected batch of most_rows; raise it, or lower the rate"
            )

    def batches(self, n: int, steps: int, noise: NoiseSource) -> Iterator[NDArray[np.int64]]:
        """Indices [b] in increasing order, once a step; b is min(cap, Binomial(n, rate))."""
        if n > self.most_rows:
            # privacy: what is added to delta holds up to the declared bound only; the message counts nothing
            raise PrivacyRefused("there are more units than the declared most_rows; plan with a larger bound")
        for _ in range(steps):
            batch = _drawn(n, self.rate, noise)
            if len(batch) > self.cap:
                kept = np.argsort(noise.words(len(batch)), kind="stable")[: self.cap]
                batch = batch[np.sort(kept)]
            yield batch

    def event(self, mechanism: Mechanism, steps: int) -> Event:
        """What `steps` releases of sums over Poisson batches cost; `added_delta` pays for cutting them."""
        return mechanism.event(steps, self.rate)

    def added_delta(self, epsilon: float, steps: int) -> float:
        """(1 + e^epsilon) times the probability that one of `steps` batches is cut, bounded from above.

        Edges: epsilon = inf -> 0, for nothing is promised.

        >>> TruncatedPoisson(rate=0.01, cap=200, most_rows=10_000).added_delta(epsilon=1.0, steps=100) < 1e-14
        True
        """
        if epsilon == math.inf:
            return 0.0
        tail = _tail(self.cap + 1, self.most_rows, self.rate)
        return min(1.0, (1.0 + math.exp(min(epsilon, 700.0))) * steps * tail)


@dataclass(frozen=True)
class Persons:
    """Every *person* takes part in every step with probability `rate`, with all of the rows kept of them.

    codes: who each row is about, [rows], one number a person; private, so it is not shown. At most `max_rows`
    rows of a person are kept: the first ones in the order of the data, a function of that person's rows alone.
    A batch is [b, max_rows] indices of rows, one person a row. Where a person has fewer, the place repeats
    that person's own first row, as ~index (negative): `places_of` tells rows and padding apart.

    Guarantee: persons are independent units, so the event is that of Poisson over persons, for sums in which
    each *person's* contribution (not each row's) has norm at most the clip norm (guarantees.md rule 11).
    Padding holds nobody else's row, so no person's loss is a function of another's data.
    Edges: persons without rows do not exist; no rows -> empty batches.
    Errors: DataError for a row that is about nobody (a negative code); UsageError for another number of rows
    than `codes` has; PrivacyRefused for batches of more than MAX_BATCH places.

    >>> next(Persons(1.0, np.array([7, 4, 7, 7]), max_rows=2).batches(4, 1, NoiseSource(bytes(32))))
    array([[ 1, -2],
           [ 0,  2]])
    """

    rate: float
    codes: NDArray[np.int64] = field(repr=False, compare=False)
    max_rows: int

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        if self.max_rows < 1:
            raise UsageError("max_rows must be at least 1: how many rows of a person are used")
        if (self.codes < 0).any():
            raise DataError("a row names no person; fill the person column, or drop such rows")

    def batches(self, n: int, steps: int, noise: NoiseSource) -> Iterator[NDArray[np.int64]]:
        """Rows [b, max_rows] of the persons who take part, once a step; n is the number of rows."""
        if n != len(self.codes):
            raise UsageError("there must be one person code for each row; give the codes of these records")
        for _ in range(steps):
            persons = _drawn(len(self._rows), self.rate, noise)
            yield _capped(self._rows[persons], self.max_rows)

    def event(self, mechanism: Mechanism, steps: int) -> Event:
        """What `steps` releases of sums over persons, each clipped as a whole, cost."""
        return mechanism.event(steps, self.rate)

    def added_delta(self, epsilon: float, steps: int) -> float:  # noqa: ARG002
        """Nothing: the event says all."""
        return 0.0

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """Rows kept of each person, [persons, max_rows], padded by ~ the first."""
        order = np.argsort(self.codes, kind="stable")
        _, first, counts = np.unique(self.codes[order], return_index=True, return_counts=True)
        turn = np.arange(self.max_rows)
        places = first[:, None] + np.minimum(turn, counts[:, None] - 1)
        rows = order[places].astype(np.int64)
        return np.where(turn < counts[:, None], rows, ~rows[:, :1])


def places_of(batch: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which rows to read for a batch, and which of these count: indices and a mask in the batch's shape.

    Padding reads the same person's first row, never another's: weighed with 0 it would still spread its nan.

    >>> places_of(np.array([[1, -2], [0, 2]]))
    (array([[1, 1],
           [0, 2]]), array([[ True, False],
           [ True,  True]]))
    """
    counted = batch >= 0
    return np.where(counted, batch, ~batch), counted


def refuse_rows_of_persons(sampling: Sampling, unit: str) -> None:
    """Raise PrivacyRefused unless persons, and only persons, are drawn where the unit is the person (rule 11).

    Rows drawn and clipped one by one would understate what a person of several rows loses; persons drawn and
    clipped as a whole do not bound by one clip norm what one more row of a person changes.
    """
    if (unit == PERSON) != isinstance(sampling, Persons):
        raise PrivacyRefused(
            f"what is drawn at each step is not what the guarantee protects (each {unit}); "
            f"draw Persons where the unit is '{PERSON}', and rows where it is the record"
        )


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 1:
        raise UsageError("the sampling rate must be above 0 and at most 1")


def _drawn(n: int, rate: float, noise: NoiseSource) -> NDArray[np.int64]:
    # privacy: amplification by sampling needs coins that nobody can predict, so they come from the keystream
    return np.flatnonzero(noise.bernoulli(n, rate)).astype(np.int64)


def _capped(batch: NDArray[np.int64], rows_per_unit: int = 1) -> NDArray[np.int64]:
    if len(batch) * rows_per_unit > MAX_BATCH:
        # privacy: the charged slack assumes the cap; the message names only the public cap
        raise PrivacyRefused(
            f"a batch would exceed the public cap of {MAX_BATCH} units; plan a lower sampling rate"
        )
    return batch


def _tail(least: int, coins: int, rate: float) -> float:
    """Chernoff's bound of P(Bin(coins, rate) >= least), rounded up."""
    if least > coins:
        return 0.0
    mean = coins * rate
    if least <= mean or rate == 1:
        return 1.0
    rest = coins - least
    divergence = least * math.log(least / mean)
    if rest:
        divergence += rest * math.log1p((mean - least) / (coins * (1.0 - rate)))
    return min(1.0, math.exp(-divergence) * _CERTAIN)
