"""Windows as few numbers: low frequencies of every lane, the detail that is left, gaps, and what they are given.

A public transform of one window: it costs no privacy. A lane x of t steps in -1/2 to 1/2 becomes its mean, the first
coefficients of its orthonormal DCT over sqrt(t), and the root mean square of what these leave. A gap within a lane is
the straight line between the readings around it; a lane without readings has no numbers, which is a gap of each.
Frequencies of sensors fall as one over the frequency, and so do the public bounds that they are counted within.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from privae.series.clock import DAY, MONDAY
from privae.series.schema import Condition, SeriesSchema
from privae.series.windows import Lanes, Windows, lanes_of
from privae.sums import moments
from privae.sums.quantiles import Layout, grid

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST, FEWEST = 12, 2  # frequencies a lane
_DETAIL = 0.25  # the most that detail is counted up to
_USUAL = 0.15  # spread of means, as a share of the bounds' width, where nothing is known
_FINE = 2**14  # steps of a reading
_SHIFT = 10
_HOURS = np.arange(24) * (math.tau / 24)
_DAYS = np.arange(7) * (math.tau / 7)
_TABLES = {  # looked up, so that a number never depends on its neighbors in a vectorized sine
    "hour": np.round(np.stack([np.sin(_HOURS), np.cos(_HOURS)], 1), 12),
    "weekday": np.round(np.stack([np.sin(_DAYS), np.cos(_DAYS), np.arange(7) >= 5], 1), 12),
}


@dataclass(frozen=True)
class Waves:
    """How windows of a schema become numbers, with so many frequencies a lane: public.

    unit: a meaningful difference of a number, as a share of its bounds' width; counts go down to a quarter of it.
    The numbers are those of the lanes, lane by lane (mean, frequencies, detail), then of channels that may be missing
    the share of their steps without a reading, then the conditions.
    """

    schema: SeriesSchema
    frequencies: int
    unit: float = 0.02

    @property
    def lanes(self) -> Lanes:
        """The lanes of the channels."""
        return lanes_of(self.schema)

    @property
    def missing(self) -> Integers:
        """Places of the channels whose gaps are numbers, too."""
        return np.array([i for i, column in enumerate(self.schema.channels) if column.missing], np.int64)

    @property
    def each(self) -> int:
        """Numbers of a lane."""
        return self.frequencies + 1

    @property
    def size(self) -> int:
        """Numbers of a window."""
        return len(self.lanes) * self.each + len(self.missing) + self.given

    @property
    def given(self) -> int:
        """How many of them, the last ones, are conditions."""
        return conditions(self.schema)

    @property
    def names(self) -> tuple[str, ...]:
        """What each number is, in words."""
        channels = [self.schema.channels[place].name for place in self.lanes.channel]
        waves = ["mean", *(f"frequency {k}" for k in range(1, self.frequencies)), "detail"]
        gaps = [f"{self.schema.channels[place].name} gaps" for place in self.missing]
        given = [f"given {i}" for i in range(self.given)]
        return (*(f"{name} {wave}" for name in channels for wave in waves), *gaps, *given)

    @property
    def layout(self) -> Layout:
        """Where the numbers are counted."""
        wave = 0.5 / (np.arange(self.frequencies) + 1.0)
        lanes = np.tile(np.append(-wave, 0.0), len(self.lanes))
        low = np.concatenate([lanes, np.zeros(len(self.missing)), self._lowest])
        rest = np.ones(len(low) - self.each * len(self.lanes))
        high = np.concatenate([np.tile(np.append(wave, _DETAIL), len(self.lanes)), rest])
        return Layout(grid(low, high, self.unit * (high - low)), np.zeros(0, np.int64))

    @property
    def usual(self) -> tuple[Array, Array]:
        """Where the numbers of sensors are usually found, and how widely: public constants, [size] each."""
        wave = _USUAL / (np.arange(self.frequencies) + 1.0)
        center = np.tile(np.append(np.zeros(self.frequencies), _USUAL / 3), len(self.lanes))
        spread = np.tile(np.append(wave, _USUAL / 3), len(self.lanes))
        rest = self.size - len(center)
        return np.append(center, self._lowest_of_rest(rest)), np.append(spread, np.full(rest, 0.5))

    def _lowest_of_rest(self, rest: int) -> Array:
        """The middle of what the numbers beside those of lanes may be."""
        low = np.append(np.zeros(rest - self.given), self._lowest)
        return np.asarray((low + 1.0) / 2)

    @property
    def _lowest(self) -> Array:
        """The least values of conditions."""
        known = {
            "hour": [-1.0, -1.0],
            "weekday": [-1.0, -1.0, 0.0],
            "kind": [0.0] * (len(self.schema.kinds) - 1),
        }
        return np.array([low for name in self.schema.conditions for low in known[name]])

    def numbers(self, found: Windows) -> Array:
        """The numbers of windows: [w] -> [w, size], NaN for a gap.

        Guarantee: each row is a function of that window alone, bit for bit: integer sums, then roots and divisions,
            which are rounded alike wherever they are done (guarantees.md rule 1).
        """
        values = found.values
        gaps = np.isnan(values)
        told = self._coded(filled(values), np.asarray(gaps.all(1)))
        channel = np.eye(len(self.schema.channels))[self.lanes.channel] > 0
        absent = [gaps[:, :, channel[:, place]].all(2).mean(1) for place in self.missing]
        parts = [
            told.reshape(len(values), len(self.lanes) * self.each),
            np.reshape(absent, (len(self.missing), len(values))).T,
        ]
        return np.concatenate([*parts, self.conditions(found.start, found.kind)], 1)

    def conditions(self, start: Integers, kind: Integers) -> Array:
        """What windows are modeled given: their start and kind, [w], [w] -> [w, given]; NaN for no kind."""
        seconds = start - MONDAY
        parts = {
            "hour": _TABLES["hour"][seconds % DAY // 3600],
            "weekday": _TABLES["weekday"][seconds // DAY % 7],
            "kind": np.where(
                kind[:, None] < 0, np.nan, np.eye(max(len(self.schema.kinds), 1))[np.maximum(kind, 0)][:, 1:]
            ),
        }
        return np.concatenate(
            [np.zeros((len(start), 0)), *(parts[name] for name in self.schema.conditions)], 1
        )

    def _coded(self, values: Array, absent: NDArray[np.bool_]) -> Array:
        """Coefficients and detail of every lane: [w, t, l] in 0 to 1, [w, l] -> [w, l, each]."""
        count, steps, lanes = values.shape
        fine = np.rint((values - 0.5) * _FINE).astype(np.int64).transpose(0, 2, 1).reshape(-1, steps)
        coded = moments.project(fine, self._basis, _SHIFT).astype(np.float64)
        scale = float(_FINE) * 2.0 ** (20 - _SHIFT) * math.sqrt(steps)
        waves = coded / scale
        energy = np.einsum("ij,ij->i", fine, fine).astype(np.float64) / (float(_FINE) ** 2 * steps)
        rest = energy
        for wave in waves.T:  # one after the other: the order of a sum is not left to a library
            rest = rest - wave * wave
        found = np.concatenate([waves, np.sqrt(np.maximum(rest, 0.0))[:, None]], 1)
        return np.where(absent[:, :, None], np.nan, found.reshape(count, lanes, self.each))

    @property
    def _basis(self) -> Integers:
        """The first frequencies of the orthonormal DCT, times 2^20: [t, frequencies]."""
        return moments.as_map(basis(self.schema.steps, self.frequencies))


def conditions(schema: SeriesSchema, before: Condition | None = None) -> int:
    """How many numbers the conditions of a schema are; those before one of them, where it is named."""
    sizes = {"hour": 2, "weekday": 3, "kind": max(len(schema.kinds) - 1, 0)}
    names = schema.conditions if before is None else schema.conditions[: schema.conditions.index(before)]
    return sum(sizes[name] for name in names)


def basis(steps: int, frequencies: int) -> Array:
    """The first frequencies of the orthonormal DCT: [t, frequencies]."""
    found: Array = dct(np.eye(steps), norm="ortho", axis=0)[:frequencies].T
    return found


def filled(values: Array) -> Array:
    """Gaps by the line between the readings around them, the ends held: [w, t, l]; lanes without any are 1/2.

    Guarantee: each lane of a window is a function of that lane alone, bit for bit: products and quotients only.
    """
    steps = np.arange(values.shape[1])[None, :, None]
    gaps = np.isnan(values)
    if not gaps.any():
        return values
    before = np.maximum.accumulate(np.where(gaps, -1, steps), axis=1)
    after = np.flip(np.minimum.accumulate(np.flip(np.where(gaps, len(steps[0]), steps), 1), axis=1), 1)
    left, right = np.where(before < 0, after, before), np.where(after == len(steps[0]), before, after)
    left, right = np.clip(left, 0, len(steps[0]) - 1), np.clip(right, 0, len(steps[0]) - 1)
    low, high = np.take_along_axis(values, left, 1), np.take_along_axis(values, right, 1)
    share = np.where(right > left, (steps - left) / np.maximum(right - left, 1), 0.0)
    found = low + share * (high - low)
    return np.where(gaps.all(1, keepdims=True), 0.5, np.where(gaps, found, values))
