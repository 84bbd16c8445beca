"""Readings one after the other: how much each surprises, given those before it in its window.

The Gaussian of a window's frequencies is one of its steps; its Cholesky factor turns a window into surprises, each the
distance of a reading from what the earlier ones let one expect, over what it varies by. So a stream is scored reading
by reading, in time proportional to what the window holds so far, and exactly as a whole table is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.data.values import canonical
from privae.errors import UsageError
from privae.fitted.series import FittedSeries
from privae.fitted.tensors import Floats
from privae.series.clock import MONDAY, NEVER
from privae.series.lines import Lines
from privae.series.waves import basis
from privae.series.windows import Sources, Windows, blocks, fine, held, joined, of_totals, resampled, windows

Integers = NDArray[np.int64]

MOST = 2048  # numbers of a window, steps times lanes
_LEAST = 1e-3  # of the bounds' width, that a reading varies by at least
_MOST_HELD = 2**26  # numbers of windows under way that are remembered
_OWN = 2000  # windows of the model, that say how often a score is as high


@dataclass(frozen=True)
class Course:
    """The Gaussian of the steps of a window, lane after lane within a step: factor [d, d], d = steps times lanes."""

    fitted: FittedSeries = field(repr=False)

    def __post_init__(self) -> None:
        if self.fitted.schema.steps * len(self.fitted.waves.lanes) > MOST:
            raise UsageError(f"readings are scored in windows of at most {MOST} steps times channels")
        self.fitted.model.check_told()

    def mean(self, start: Integers, kind: Integers) -> Floats:
        """What is expected of windows before any reading: [w], [w] -> [w, d], in 0 to 1."""
        given = self.fitted.waves.conditions(start, kind)
        center = self.fitted.model.normal_given(given)[0]
        return np.asarray(0.5 + center[:, self._places[0]] @ self._map.T)

    @cached_property
    def covariance(self) -> Floats:
        """Of the steps: [d, d]."""
        waves, steps = self.fitted.waves, self.fitted.schema.steps
        center, own = self.fitted.model.normal_given(np.zeros((1, waves.given)))
        first, last = self._places
        detail = center[0, last] ** 2 + np.diagonal(own)[last]
        wave = basis(steps, waves.frequencies)
        rest = np.eye(steps) - wave @ wave.T
        size = detail * steps / max(steps - waves.frequencies, 1) + _LEAST**2
        rough = np.einsum("st,l,lm->sltm", rest, size, np.eye(len(size))).reshape(2 * [steps * len(size)])
        found = self._map @ own[np.ix_(first, first)] @ self._map.T + rough
        return np.asarray(found + _LEAST**2 * np.eye(len(found)))

    @cached_property
    def factor(self) -> Floats:
        """The Cholesky factor of the covariance: [d, d]."""
        return np.asarray(np.linalg.cholesky(self.covariance))

    def surprises(self, values: Floats, mean: Floats) -> Floats:
        """Standardized surprises of windows: [w, d], [w, d] -> [w, d]; NaN for a gap, which tells nothing of others."""
        found = np.zeros_like(values)
        for place in range(values.shape[1]):  # steps, each of all windows at once
            found[:, place] = self.surprise(values[:, place], mean[:, place], found, place)
        return np.where(np.isnan(values), np.nan, found)

    def surprise(self, value: Floats, mean: Floats, before: Floats, place: int) -> Floats:
        """One number's, given those before it: [w], [w], [w, d] -> [w]; 0 for a gap."""
        rest = value - mean - before[:, :place] @ self.factor[place, :place]
        return np.asarray(np.where(np.isnan(rest), 0.0, rest / self.factor[place, place]))

    @cached_property
    def _places(self) -> tuple[Integers, Integers]:
        """Places of the lanes' frequencies, and of their details, among the numbers."""
        waves = self.fitted.waves
        first = np.arange(len(waves.lanes))[:, None] * waves.each + np.arange(waves.frequencies)
        return first.ravel(), np.arange(len(waves.lanes)) * waves.each + waves.frequencies

    @cached_property
    def _map(self) -> Floats:
        """From frequencies to steps: [d, lanes times frequencies]."""
        steps, lanes = self.fitted.schema.steps, len(self.fitted.waves.lanes)
        wave = basis(steps, self.fitted.waves.frequencies) * np.sqrt(steps)
        return np.asarray(np.einsum("tk,lm->tlmk", wave, np.eye(lanes)).reshape(steps * lanes, -1))


def points(fitted: FittedSeries, data: pd.DataFrame) -> pd.DataFrame:
    """The score of every step that has a reading: id, time, score, and what was expected of every numeric channel.

    score: mean squared surprise of the step's channels, 1 where all is as the model has it; given the steps before it,
    in the window that started last. Errors: UsageError where the scores read the bounds alone.
    """
    course = Course(fitted)
    parts, sources = blocks(data, fitted.schema)
    return _points(course, joined(list(parts), fitted.schema), sources)


def _points(course: Course, part: Windows, sources: Sources) -> pd.DataFrame:
    schema, (count, steps, lanes) = course.fitted.schema, part.values.shape
    mean = course.mean(part.start, part.kind)
    flat = part.values.reshape(count, steps * lanes)
    surprise = course.surprises(flat, mean)
    known = np.nan_to_num(surprise)
    before = mean + known @ np.tril(course.factor, -1).T
    squared = surprise.reshape(count, steps, lanes) ** 2
    told = ~np.isnan(squared).all(2)
    told &= np.arange(steps) < schema.seconds[2] // schema.seconds[0]
    score = np.nansum(squared, 2) / np.maximum((~np.isnan(squared)).sum(2), 1)
    time = part.start[:, None] + np.arange(steps) * schema.seconds[0]
    frame = course.fitted.named(np.repeat(part.who, steps)[told.ravel()], sources, time[told])
    expected = before.reshape(count, steps, lanes)[told]
    columns = {"score": score[told], **_in_units(course.fitted, expected)}
    return frame.assign(**columns)


def _in_units(fitted: FittedSeries, values: Floats) -> dict[str, Floats]:
    """Lanes of numeric channels in their own units: [n, l] in 0 to 1 -> "NAME expected"."""
    lanes = fitted.waves.lanes
    return {
        f"{column.name} expected": lanes.low[at] + lanes.width[at] * values[:, at]
        for place, column in enumerate(fitted.schema.channels)
        if column.kind == "numeric"
        for at in np.flatnonzero(lanes.channel == place)
    }


@dataclass(frozen=True)
class Track:
    """One lane of a window: readings [t], what is expected [t] and by how much it varies [t], and heat [t]."""

    name: str
    values: Floats = field(repr=False)
    expected: Floats = field(repr=False)
    deviation: Floats = field(repr=False)
    heat: Floats = field(repr=False)


def explained(
    fitted: FittedSeries, data: pd.DataFrame, what: tuple[Integers, Floats]
) -> list[tuple[str, NDArray[np.datetime64], list[Track]]]:
    """Why windows are strange: their titles, times, and tracks. what: places of windows, and all windows' scores.

    expected: of such a window before any of its readings. heat: see `FittedSeries.heat`; of a category's lanes, their
    channel's. Errors: UsageError where the scores read the bounds alone.
    """
    course, schema, (chosen, scores) = Course(fitted), fitted.schema, what
    found, sources = windows(data, schema)
    part = found.at(chosen)
    mean, heat = course.mean(part.start, part.kind).reshape(part.values.shape), fitted.heat_of(part)
    spread = np.sqrt(np.diagonal(course.covariance)).reshape(part.values.shape[1:])
    lanes, result = fitted.waves.lanes, []
    for place, (who, start) in enumerate(zip(part.who, part.start, strict=True)):
        tracks = [
            Track(
                schema.channels[channel].name,
                low + width * part.values[place, :, lane],
                low + width * mean[place, :, lane],
                width * spread[:, lane],
                heat[place, :, channel],
            )
            for lane, (channel, low, width) in enumerate(
                zip(lanes.channel, lanes.low, lanes.width, strict=True)
            )
        ]
        time = start.astype("datetime64[s]") + np.arange(schema.steps) * np.timedelta64(
            schema.seconds[0], "s"
        )
        when = str(time[0]).replace("T", " ")
        title = f"{sources.title(who)} {when}: {scores[chosen[place]]:.3g}".strip()
        result.append((title, time, tracks))
    return result


@dataclass
class _State:
    """A window under way: values [t, l], mean [d] and surprises [d], its last step's place, and what that holds so far.

    step: totals and numbers of its readings, [2, l], where these are added up; else the one that counts, [l].
    """

    window: int
    values: Floats
    mean: Floats
    surprise: Floats
    place: int = -1
    step: NDArray[Any] | None = None


class Follower:
    """Scores a stream of readings, one row in, one score out, for any number of ids.

    Rows come in order of time, each as {column: cell}; an earlier one than the last of its id is not scored. What is
    remembered is the window under way of each id. Nothing is learned from what is scored.
    """

    def __init__(self, fitted: FittedSeries) -> None:
        self.course = Course(fitted)
        self._schema, self._waves = fitted.schema, fitted.waves
        self._lanes, self._lines = len(self._waves.lanes), Lines(fitted.schema)
        self._clock = fitted.schema.seconds
        self._states: dict[tuple[str, ...], _State] = {}
        self._named = [name for name in (fitted.schema.id, fitted.schema.series) if name is not None]
        self._means: dict[bytes, Floats] = {}
        rng = np.random.default_rng(0)
        drawn = fitted.drawn(max(_OWN // fitted.each, 1), rng)
        flat = drawn.values.reshape(len(drawn), -1)
        found = self.course.surprises(flat, self.course.mean(drawn.start, drawn.kind)).reshape(
            drawn.values.shape
        )
        squared = np.nansum(found**2, 2), (~np.isnan(found)).sum(2)
        steps = zip(*(part.T for part in squared), strict=True)
        self._own = [np.sort(total[count > 0] / count[count > 0]) for total, count in steps]

    def push(self, row: Mapping[str, Any]) -> dict[str, float | None]:
        """The scores of one row: "score" of its step so far, "window", the mean of the window's so far, and "share".

        share: of the model's own windows, how many are as strange at that step: the score's tail probability.
        Edges: None where the row says no time, no reading, or comes late.
        Errors: DataError for a row that lacks a column.
        """
        nothing: dict[str, float | None] = {"score": None, "window": None, "share": None}
        time, read = self._lines.read(row)
        names = [canonical(row[column]) for column in self._named]
        if time == NEVER or not all(names):
            return nothing
        step, _, stride = self._clock
        window, place = divmod((time - MONDAY) // step, stride // step)
        if place >= self._schema.steps or np.isnan(read[: self._lanes]).all():
            return nothing
        state = self._state(tuple(map(str, names)), window, read)
        if window < state.window or place < state.place:
            return nothing
        return self._scored(state, place, read)

    def _state(self, name: tuple[str, ...], window: int, read: Floats) -> _State:
        state = self._states.get(name)
        if state is not None and window <= state.window:
            return state
        steps, lanes = self._schema.steps, self._lanes
        kinds = read[lanes:]
        kind = int(np.nanargmax(kinds)) if len(kinds) and not np.isnan(kinds).all() else -1
        mean = self._mean(np.array([MONDAY + window * self._clock[2]]), np.array([kind]))
        fresh = _State(window, np.full((steps, lanes), np.nan), mean, np.zeros(steps * lanes))
        self._states.pop(name, None)
        self._states[name] = fresh
        if len(self._states) * 4 * steps * lanes > _MOST_HELD:
            del self._states[next(iter(self._states))]  # whose window began first
        return fresh

    def _mean(self, start: Integers, kind: Integers) -> Floats:
        """What is expected of one window: a function of its conditions, of which there are few."""
        given = self._waves.conditions(start, kind).tobytes()
        if given not in self._means:
            self._means[given] = self.course.mean(start, kind)[0]
        return self._means[given]

    def _resampled(self, state: _State, read: Floats) -> Floats:
        """The step with one reading more, as `resampled` has it of all of them."""
        if self._schema.resample in ("mean", "sum"):
            own = np.stack([fine(read), ~np.isnan(read)]).astype(np.int64)
            state.step = own if state.step is None else state.step + own
            return np.asarray(of_totals(state.step[:1], state.step[1:], self._schema)[0])
        both = read[None] if state.step is None else np.stack([state.step, read])
        state.step = resampled(both, np.zeros(1, np.int64), self._schema)[0]
        return np.asarray(state.step, np.float64)

    def _scored(self, state: _State, place: int, read: Floats) -> dict[str, float | None]:
        lanes = state.values.shape[1]
        if place > state.place:
            state.step = None
        first = max(state.place + 1, 0) if place > state.place else place
        state.values[place] = self._resampled(state, read)[:lanes]
        state.place = place
        values = held(state.values[None, : place + 1], self._schema)[0].ravel()
        for at in range(first * lanes, (place + 1) * lanes):
            part = values[at : at + 1], state.mean[at : at + 1]
            state.surprise[at] = self.course.surprise(*part, state.surprise[None], at)[0]
        known = ~np.isnan(values)
        squared = np.where(known, state.surprise[: len(values)] ** 2, np.nan)
        score = float(np.nanmean(squared[place * lanes :]))
        own = self._own[place]
        share = 1.0 - float(np.searchsorted(own, score)) / max(len(own), 1)
        return {"score": score, "window": float(np.nanmean(squared)), "share": share}
