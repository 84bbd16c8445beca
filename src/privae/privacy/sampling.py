"""Who takes part in a step, by secret coins; the sampler itself says what its steps cost."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from privae.errors import PrivacyRefused, UsageError
from privae.privacy.mechanism import Event, Mechanism
from privae.privacy.noise import NoiseSource

MAX_BATCH = 2**20
"""Public cap on a drawn batch, on which the slack of floating-point sums rests (guarantees.md rule 2)."""


@runtime_checkable
class Sampling(Protocol):
    """Draws batches and names the event that they are."""

    def batches(self, n: int, steps: int, noise: NoiseSource) -> Iterator[NDArray[np.int64]]:
        """Indices of the units that take part, once a step."""
        ...

    def event(self, mechanism: Mechanism, steps: int) -> Event:
        """What `steps` releases of sums over such batches cost."""
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
        if not 0 < self.rate <= 1:
            raise UsageError("the sampling rate must be above 0 and at most 1")

    def batches(self, n: int, steps: int, noise: NoiseSource) -> Iterator[NDArray[np.int64]]:
        """Indices [b] in increasing order, once a step; b is Binomial(n, rate), also 0."""
        for _ in range(steps):
            # privacy: amplification by sampling needs coins that nobody can predict, so they come from the
            # keystream
            yield _capped(np.flatnonzero(noise.bernoulli(n, self.rate)).astype(np.int64))

    def event(self, mechanism: Mechanism, steps: int) -> Event:
        """What `steps` releases of sums over Poisson batches of this rate cost."""
        return mechanism.event(steps, self.rate)


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


def _capped(batch: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(batch) > MAX_BATCH:
        # privacy: the charged slack assumes the cap; the message names only the public cap
        raise PrivacyRefused(
            f"a batch would exceed the public cap of {MAX_BATCH} units; plan a lower sampling rate"
        )
    return batch
