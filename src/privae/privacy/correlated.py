"""Noise correlated between steps (banded Toeplitz matrices), for streams of sums without sampling amplification.

Noise that later steps partly take back leaves the sum of many steps, hence the model, with less of it than
independent noise does at the same epsilon. It pays where units are not drawn at random: see `Turns`.
Source: Denisov et al. 2022, arXiv:2202.08312; Choquette-Choo et al. 2023, arXiv:2306.08153 (banded).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from privae.errors import PrivacyRefused, UsageError
from privae.privacy.mechanism import Event, Mechanism, Noise
from privae.privacy.noise import Drawn, NoiseSource
from privae.privacy.sampling import MAX_BATCH

SCALE = 2**8
"""Coefficients of a filter are integers over this."""


def square_root(bands: int) -> tuple[int, ...]:
    """The first coefficients of 1 / sqrt(1 - x), times SCALE, rounded: [bands], the first one SCALE.

    The square root of the matrix of prefix sums is the optimal Toeplitz filter up to a constant; cut to `bands`
    coefficients it needs the last bands - 1 noise vectors only.
    Source: Fichtenberger, Henzinger, Upadhyay 2022, arXiv:2202.11205.

    >>> square_root(5)
    (256, 128, 96, 80, 70)
    """
    if not 1 <= bands <= 2**14:
        raise UsageError("a filter has between 1 and 16384 bands")
    exact = np.cumprod([1.0, *((2 * k - 1) / (2 * k) for k in range(1, bands))])
    return tuple(int(value) for value in np.rint(SCALE * exact))


@dataclass(frozen=True)
class Stream(Mechanism):
    """The Gaussian mechanism on a filtered stream of `steps` sums: noise is correlated from step to step.

    steps: how many sums are released. period: a unit takes part in steps that lie at least so far apart, each time
    with a contribution of L2 norm at most clip_norm. filter: coefficients a_0 = SCALE >= a_1 >= ... >= 0 of
    C = Toeplitz(a / SCALE). noise_multiplier: that of the whole stream, over `sensitivity()`.

    Guarantee: what `release` gives out over all steps, with the noise of `Correlated`, is a post-processing of one
        ideal Gaussian mechanism for the stream C R, R the sums rounded to the grid: one Event of noise_multiplier,
        without sampling and of one step (`cost`). The sums may depend on all that was released before: C is lower
        triangular (arXiv:2202.08312, Theorem 2.1). Proof of the sensitivity: a unit that comes or goes moves R at
        steps t_1 < t_2 < ... by vectors g_i of norm at most s (`Mechanism.sensitivity`), and leaves the other
        sums alone, so C R moves by sum_ij <C_ti, C_tj> <g_i, g_j> <= s^2 sum_ij <C_ti, C_tj> (squared), for C
        has no negative entry. Its column products do not increase with the distance of the columns, nor with the
        place of the later one, since a does not increase; so the worst pattern is 0, period, 2 period, ... If
        period >= len(filter) these columns do not overlap, and the bound is at most s |a / SCALE| sqrt(participations).
        Replacing a unit moves each g_i by replace_ratio s instead.
    Errors: UsageError for a filter that is not of this form; PrivacyRefused where the event would be another.
    """

    steps: int = 1
    period: int = 1
    filter: tuple[int, ...] = (SCALE,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.period < 1:
            raise UsageError("a stream has at least one step, and a period of at least one")
        if not self.filter or self.filter[0] != SCALE or min(self.filter) < 0:
            raise UsageError(f"a filter is {SCALE} followed by whole numbers that are not negative")
        if list(self.filter) != sorted(self.filter, reverse=True):
            raise UsageError("the coefficients of a filter do not increase; its sensitivity rests on that")

    def sensitivity(self) -> float:
        """How far one unit, added or removed, can move the whole filtered stream (L2)."""
        return super().sensitivity() * _movement(self.filter, self.steps, self.period)

    def event(self, steps: int = 1, sampling_rate: float = 1.0) -> Event:
        """The event of the whole stream, if every unit may take part in every step."""
        if sampling_rate != 1:
            # privacy: the noise of a step is not independent of the others', so drawing batches amplifies nothing
            raise PrivacyRefused("correlated noise has no amplification by sampling; let units take turns")
        return self.cost(1, steps)

    def cost(self, period: int, steps: int) -> Event:
        """The event of the whole stream, where a unit takes part at most once in any `period` steps."""
        if period < self.period:
            raise PrivacyRefused(
                "units take part more often than the stream was planned for; plan a shorter period"
            )
        if steps != self.steps:
            raise PrivacyRefused("a stream is charged at once; let the schedule's block hold all its steps")
        return Event(self.noise_multiplier, replace_ratio=self.replace_ratio)


class Correlated:
    """The Noise of a `Stream` of vectors of `size` numbers: C^-1 z, z of a Noise such as `NoiseSource` or `ahead`.

    `fill` gives out the numbers of the first step in order, in as many calls as wanted, then those of the next.
    It keeps the last len(filter) - 1 vectors of noise, 8 bytes a number, which are as secret as a key.
    source: asked for the std of the stream times SCALE (in grid steps, below 2^46 together).

    Guarantee: adding what `fill` gives to sums on the grid is a post-processing of the Gaussian mechanism for the
        filtered stream; no rounding is left over. Proof, in grid steps: let R_t be the integers of step t,
        y_t = sum_j a_j R_(t-j), z_t an ideal Gaussian of SCALE std rounded half up, w_t the noise, and H rounding
        half up, so that H(n + x) = n + H(x) for integers n. y + z is the Gaussian mechanism for SCALE C R, rounded
        half up. `fill` gives w_t = H((z_t - sum_(j>=1) a_j w_(t-j)) / SCALE), all exact in float64, as checked.
        Released is q_t = R_t + w_t = H((y_t + z_t - sum_(j>=1) a_j q_(t-j)) / SCALE), for what R brings into the
        bracket is SCALE R_t. So each q_t is a function of y_t + z_t and of what was released before.
    Errors: UsageError for another std than the stream's, or a fill across the end of a step; PrivacyRefused
        beyond the last step.
    """

    def __init__(self, source: Noise, stream: Stream, size: int) -> None:
        if not stream.noise_multiplier:
            raise UsageError("a stream without noise has none to correlate")
        self._source, self._stream, self._size = source, stream, size
        self._std = stream.std / stream.grid
        self._past = torch.zeros(len(stream.filter) - 1, size, dtype=torch.float64, device="cpu")
        self._step, self._place = 0, 0

    @property
    def fixed(self) -> bool:
        """Whether the key of the source was given by hand."""
        return self._source.fixed

    @property
    def numbers_drawn(self) -> int:
        """How many numbers the source drew."""
        return self._source.numbers_drawn

    @property
    def past(self) -> torch.Tensor:
        """A copy of the vectors of noise that later steps need, [len(filter) - 1, size]: as secret as a key."""
        return self._past.clone()

    def resume(self, step: int, past: torch.Tensor) -> None:
        """Go on after `step` whole steps of the same stream, whose `past` was kept, with a source of fresh coins.

        Guarantee: that of the class, for the z_t of different steps are independent whatever source draws them;
            if no step is drawn twice, which is the caller's to see to.
        Errors: UsageError for another shape, or a step that is not of this stream.
        """
        if past.shape != self._past.shape or not 0 <= step <= self._stream.steps:
            raise UsageError("what was kept is not of this stream; go on with its own plan")
        self._step, self._place, self._past = step, 0, past.to(torch.float64).clone()

    def fill(self, out: Drawn, std: float) -> None:
        """Fill `out` with the next numbers of this step's noise, integers in grid steps."""
        if std != self._std:
            # privacy: another mechanism's event does not pay for this noise
            raise UsageError(
                "correlated noise serves the stream that it was made for, and no other mechanism"
            )
        if self._step == self._stream.steps:
            raise PrivacyRefused("the stream was charged for fewer steps; plan it with all of them")
        end = self._place + out.numel()
        if end > self._size:
            raise UsageError("a vector of another size was released; make correlated noise of its size")
        values = torch.empty(out.numel(), dtype=torch.float64, device="cpu")
        self._source.fill(values, std * SCALE)
        self._correlate(values, self._past[:, self._place : end])
        self._step, self._place = (self._step + 1, 0) if end == self._size else (self._step, end)
        out.detach().copy_(values.view(out.shape))

    def _correlate(self, values: torch.Tensor, past: torch.Tensor) -> None:
        """Turn numbers z_t into w_t in place, and remember them."""
        later = self._stream.filter[1:]
        for lag, weight in enumerate(later, 1):
            values.sub_(past[(self._step - lag) % len(later)], alpha=weight)
        values.mul_(1 / SCALE).add_(0.5).floor_()
        if later:
            # privacy: with z_t below 2^52, this keeps the next sums below 2^53, hence exact
            if not bool((values.abs() * sum(later) < 2.0**52).all()):
                raise UsageError("correlated noise does not fit its integers; choose a coarser grid")
            past[self._step % len(later)] = values


@dataclass(frozen=True)
class Turns:
    """Units take turns: each draws one place among `period`, and takes part in every period-th step from there.

    The places are independent secret coins that no other unit's data or presence moves, so a unit that comes or
    goes changes the batches by itself alone. Nothing is claimed for their secrecy: there is no amplification.
    Guarantee: a unit takes part at most once in any `period` steps, ceil(steps / period) times in all, and `event`
        says what that costs: one Gaussian for a `Stream`, else as many Gaussians as there are participations.
    Errors: PrivacyRefused for a batch above MAX_BATCH, and from `event` where a stream was planned for another
        period or number of steps.
    """

    period: int

    def __post_init__(self) -> None:
        if self.period < 1:
            raise UsageError("units take turns within a period of at least one step")

    def batches(self, n: int, steps: int, noise: NoiseSource) -> Iterator[NDArray[np.int64]]:
        """Indices [b] in increasing order, once a step."""
        places = noise.words(n) % np.uint64(self.period)
        for step in range(steps):
            batch = np.flatnonzero(places == step % self.period).astype(np.int64)
            if len(batch) > MAX_BATCH:
                raise PrivacyRefused(
                    f"a batch would exceed the public cap of {MAX_BATCH} units; plan a longer period"
                )
            yield batch

    def event(self, mechanism: Mechanism, steps: int) -> Event:
        """What `steps` releases of sums over such batches cost, together."""
        if isinstance(mechanism, Stream):
            return mechanism.cost(self.period, steps)
        return mechanism.event(-(-steps // self.period))

    def added_delta(self, epsilon: float, steps: int) -> float:  # noqa: ARG002
        """Nothing: the event says all."""
        return 0.0


@lru_cache
def _movement(weights: tuple[int, ...], steps: int, period: int) -> float:
    """L2 norm of the filtered stream of a unit that contributes 1 at steps 0, period, 2 period, ..."""
    taken = np.zeros(steps, dtype=np.int64)
    taken[::period] = 1
    moved = np.convolve(taken, np.array(weights[:steps], dtype=np.int64))[:steps]
    return math.sqrt(sum(int(value) ** 2 for value in moved)) / SCALE
