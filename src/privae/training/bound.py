"""The bound of one training: the clip norm and its mechanism, which a released quantile may move from step to step."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from privae.errors import PrivacyRefused
from privae.privacy.clipping import Clipping, Kind, Quantile
from privae.privacy.correlated import Stream
from privae.privacy.gradients import Summation
from privae.privacy.mechanism import Joint, Mechanism, Noise, for_gradients
from privae.privacy.noise import NoiseSource, ahead
from privae.training.group import Group

_WORTH_A_THREAD = 2**15  # noise numbers a step from which a thread draws them ahead


def _a_core_is_idle(processes: int) -> bool:
    """Whether this machine has a core that no product of a step runs on: else a thread only gets in the way."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > torch.get_num_threads() * processes


@dataclass(frozen=True)
class Rule:
    """How contributions come under the mechanism's clip norm, and whether that norm follows their quantile."""

    kind: Kind = "flat"
    quantile: Quantile | None = None


@dataclass
class Bound:
    """The present clip norm. `observe` sees norms, on the private side; `release` alone lets anything out.

    planned: the mechanism whose event is charged. size: numbers in a gradient. With a quantile, gradients take
    the part of its noise multiplier that the votes leave, at the present clip norm (see `Quantile`).
    """

    planned: Mechanism
    rule: Rule
    size: int
    group: Group
    clip_norm: float = field(init=False)
    unusable: int = field(default=0, init=False)
    _votes: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        quantile = self.rule.quantile
        if quantile and isinstance(self.planned, Stream):
            raise PrivacyRefused(
                "a stream has one sensitivity for all its steps; keep the clip norm fixed in it"
            )
        if quantile and isinstance(self.planned, Joint):
            raise PrivacyRefused(
                "votes on a clip norm are not summed between sites; keep the clip norm fixed"
            )
        self.clip_norm = quantile.start if quantile else self.planned.clip_norm
        self._votes = torch.zeros(1, dtype=torch.int64)

    def check(self, summation: Summation) -> None:
        """Refuse a mechanism whose sensitivity leaves out what this summation or its own grid adds."""
        planned = self.planned
        if planned.noise_multiplier and (
            planned.slack < summation.slack or planned.rounding < planned.grid * math.sqrt(self.size)
        ):
            raise PrivacyRefused(
                "the mechanism was not planned for this sum; make it with "
                "for_gradients(clip_norm, noise_multiplier, size, summation.slack)"
            )

    @property
    def clipping(self) -> Clipping:
        """The clipping of this step."""
        return Clipping(self.clip_norm, self.rule.kind)

    @property
    def mechanism(self) -> Mechanism:
        """What releases this step's gradient."""
        quantile, planned = self.rule.quantile, self.planned
        if quantile is None:
            return planned
        multiplier = quantile.gradients(planned.noise_multiplier)
        return for_gradients(self.clip_norm, multiplier, self.size, planned.slack)

    @contextmanager
    def noise_ahead(self, noise: NoiseSource, steps: int) -> Iterator[Noise]:
        """The mechanism's noise, the next step's drawn by a thread while this one's products run."""
        elsewhere = isinstance(self.planned, Joint) or not self.planned.noise_multiplier
        little = elsewhere or self.size < _WORTH_A_THREAD or steps < 2
        if little or self.rule.quantile or not self.group.first or not _a_core_is_idle(self.group.size):
            yield noise
            return
        with ahead(noise, self.planned.std / self.planned.grid, self.size) as drawn:
            yield drawn

    def observe(self, squared: Tensor) -> None:
        """Take in the squared norms of records, [n, k]: their votes, and how many are not finite."""
        self.unusable += int((~squared.sum(1).isfinite()).sum())
        if self.rule.quantile:
            self._votes += self.rule.quantile.votes(squared, self.clip_norm).cpu()

    def release(self, total: Tensor, noise: tuple[Noise, NoiseSource], divisor: float) -> Tensor:
        """The noisy gradient over a public divisor; the clip norm moves for the next step."""
        total, quantile = self.group.sum(total), self.rule.quantile
        # privacy: the only line that leaves the private side; a public number divides, never len(batch)
        gradient = self.group.same(lambda: self.mechanism.release(total, noise[0], divisor, over=True))
        if quantile:
            votes = self.group.sum(self._votes)
            released = self.group.same(lambda: self._released_votes(quantile, votes, noise[1]))
            self.clip_norm = quantile.updated(self.clip_norm, float(released), divisor)
            self._votes = torch.zeros_like(self._votes)
        return gradient

    def _released_votes(self, quantile: Quantile, votes: Tensor, noise: NoiseSource) -> Tensor:
        if not self.planned.noise_multiplier:
            return votes.double()
        return quantile.mechanism().release(votes, noise)
