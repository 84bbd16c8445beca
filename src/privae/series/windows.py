"""Readings to windows: every unit's rows on a declared clock, cut into windows of equal length, and back to rows.

What becomes of a unit's rows is a function of the schema and of these rows alone; neither other units nor the order
of the rows of different ids matter. Values are held in 2^-30 of their bounds' widths, so that sums are exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.data.codec import Codec
from privae.data.column import Column
from privae.data.ratings import persons_in
from privae.data.schema import Schema
from privae.data.values import category_codes, distinct, numbers
from privae.errors import DataError
from privae.series.clock import DAY, MONDAY, NEVER, seconds_of, wall_clock
from privae.series.schema import OF_AN_ID, SeriesSchema

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_FINE = 2.0**30
_ROWS = 2**21  # of a block of ids
_UNREADABLE = "no value of column '{name}' reads as a time; write 2026-11-30 14:05:00, or seconds since 1970"


@dataclass(frozen=True)
class Windows:
    """Windows of readings, unit by unit, then by id and start.

    Shapes: values [w, t, l] in 0 to 1 over the lanes' bounds, NaN for a gap; who [w], its place in `Sources`;
    start [w], seconds on the wall clock; unit [w], whose windows these are, not decreasing; kind [w], -1 for none.
    """

    values: Array = field(repr=False)
    who: Integers = field(repr=False)
    start: Integers = field(repr=False)
    unit: Integers = field(repr=False)
    kind: Integers = field(repr=False)

    def __len__(self) -> int:
        """How many windows."""
        return len(self.start)

    def at(self, rows: Any) -> "Windows":  # noqa: ANN401  whatever numpy takes as rows
        """Some of the windows."""
        return Windows(*(getattr(self, name)[rows] for name in ("values", "who", "start", "unit", "kind")))


@dataclass(frozen=True)
class Lanes:
    """The numeric tracks of the channels: one a number or a boolean, and one a category but the first.

    Shapes: channel [l], the place of a lane's channel; low [l] and width [l] of its bounds.
    """

    channel: Integers
    low: Array
    width: Array

    def __len__(self) -> int:
        """How many lanes."""
        return len(self.low)


def lanes_of(schema: SeriesSchema) -> Lanes:
    """The lanes of a schema's channels: public."""
    each = [_lanes(column) for column in schema.channels]
    channel = np.repeat(np.arange(len(each)), [len(bounds) for bounds in each])
    bounds = np.concatenate(each)
    return Lanes(channel, bounds[:, 0], bounds[:, 1] - bounds[:, 0])


def _lanes(column: Column) -> Array:
    """Bounds of a channel's lanes: [lanes, 2]."""
    if column.kind != "numeric":
        return np.tile([0.0, 1.0], (max(len(column.texts) - 1, 1), 1))
    return np.array([column.ends])


@dataclass(frozen=True)
class Sources:
    """Where readings come from: one series after the other, those of an id together. who: a place among them.

    ids: names of the ids; owner [k]: the place of each series' id among these; series: its name, "" without any.
    """

    ids: list[str] = field(repr=False)
    owner: Integers = field(repr=False)
    series: list[str] = field(repr=False)

    def title(self, who: int) -> str:
        """The id and the series, in words."""
        return f"{self.ids[self.owner[who]]} {self.series[who]}".strip()


def owners_in(frame: pd.DataFrame, schema: SeriesSchema) -> tuple[Integers, list[str]]:
    """Of which id each row is, -1 for none, and the names, in order of appearance; all are one's without an id."""
    if schema.id is None:
        return np.zeros(len(frame), np.int64), [""]
    return persons_in(frame[schema.id])


def sources_in(frame: pd.DataFrame, schema: SeriesSchema) -> tuple[Integers, Sources]:
    """Of which series each row is, -1 for none; a unit may have several."""
    owner, ids = owners_in(frame, schema)
    if schema.series is None:
        return owner, Sources(ids, np.arange(len(ids)), [""] * len(ids))
    which, texts = persons_in(frame[schema.series])
    told = (owner >= 0) & (which >= 0)
    # privacy: by their names, for which of a unit's series comes first must not follow from others' rows
    series = sorted(texts)
    place = {text: rank for rank, text in enumerate(series)}
    ranks = np.array([place[text] for text in texts], np.int64)[which[told]]
    pairs, places = np.unique(owner[told] * len(series) + ranks, return_inverse=True)
    who = np.full(len(frame), -1)
    who[told] = places
    of, name = np.divmod(pairs, max(len(series), 1))
    return who, Sources(ids, of, [series[rank] for rank in name.tolist()])


def windows(frame: pd.DataFrame, schema: SeriesSchema) -> tuple[Windows, Sources]:
    """All windows of a table at once, and where they come from; see `blocks`."""
    parts, sources = blocks(frame, schema)
    return joined(list(parts), schema), sources


def blocks(
    frame: pd.DataFrame, schema: SeriesSchema, *, strict: bool = True
) -> tuple[Iterator[Windows], Sources]:
    """The windows of a table, of some ids after the others, and where they come from.

    strict: refuse a table in which no time reads. Not for fits, which one unit could make fail, or end.
    Guarantee: the windows of a unit are a function of the schema and of its rows alone.
    Edges: rows in any order; several in one step are resampled, rows without an id or a time count for nobody; steps
        without a reading are gaps; a window with too few readings is none, so an id may have none.
    Errors: DataError for an absent column, or, with `strict`, where no time reads.
    """
    header = [str(name) for name in frame.columns]
    schema.ordered(header)
    frame = frame.set_axis(header, axis=1)
    who, sources = sources_in(frame, schema)
    order = np.argsort(who, kind="stable")
    order = order[np.searchsorted(who[order], 0) :]
    return _blocks(frame, schema, (who, order, sources.owner), strict), sources


def _blocks(
    frame: pd.DataFrame,
    schema: SeriesSchema,
    rows: tuple[Integers, Integers, Integers],
    strict: bool,
) -> Iterator[Windows]:
    who, order, owner = rows
    ends = np.cumsum(np.bincount(owner[who[order]]))
    start, units, read = 0, 0, not (strict and len(order))
    while start < len(order):
        # whole ids: as many as fit, and one at least
        first, last = np.searchsorted(ends, [start, start + _ROWS], side="right")
        stop = int(ends[max(last - 1, first)])
        chosen = order[start:stop]
        cut, told = _windows(frame.iloc[chosen], who[chosen], schema)
        found = _of_units(cut, owner, schema)
        read = read or told
        yield Windows(found.values, found.who, found.start, found.unit + units, found.kind)
        start, units = stop, units + int(found.unit[-1] + 1 if len(found) else 0)
    if not read:
        raise DataError(_UNREADABLE.format(name=schema.time))


def joined(parts: list[Windows], schema: SeriesSchema) -> Windows:
    """Windows one after the other."""
    empty = np.zeros(0, np.int64)
    shape = 0, schema.steps, len(lanes_of(schema))
    values = np.concatenate([np.zeros(shape), *(part.values for part in parts)])
    more = (
        np.concatenate([empty, *(getattr(part, name) for part in parts)])
        for name in ("who", "start", "unit", "kind")
    )
    return Windows(values, *more)


def _windows(frame: pd.DataFrame, who: Integers, schema: SeriesSchema) -> tuple[Windows, bool]:
    """The windows of some ids, and whether any time read."""
    time = wall_clock(frame[schema.time], schema.timezone)
    known = time != NEVER
    read = readings(frame, schema)[known]
    who, time = who[known], time[known]
    order = np.lexsort((time, who))
    step, _, stride = schema.seconds
    steps = np.floor_divide(time[order] - MONDAY, step)
    starts = np.flatnonzero(_first(who[order], steps))
    values = resampled(read[order], starts, schema)
    places = who[order][starts], steps[starts]
    return _cut(values, places, stride // step, schema), bool(known.any())


def readings(frame: pd.DataFrame, schema: SeriesSchema) -> Array:
    """Every row's readings in 0 to 1, and its kind one-hot besides: [n, l + kinds]; NaN for none."""
    lanes = lanes_of(schema)
    found = np.full((len(frame), len(lanes) + len(schema.kinds)), np.nan)
    if schema.long:
        places, texts = distinct(frame[schema.channel])
        of = np.append(category_codes(texts, [column.name for column in schema.channels]), -1)[places]
    for place, column in enumerate(schema.channels):  # as many as declared, each of its own kind
        mine = np.flatnonzero(of == place) if schema.long else np.arange(len(frame))
        cells = frame[schema.value if schema.long else column.name].iloc[mine]
        found[np.ix_(mine, np.flatnonzero(lanes.channel == place))] = _scaled(column, cells)
    if schema.kind is not None:
        places, texts = distinct(frame[schema.kind])
        code = np.append(category_codes(texts, schema.kinds), -1)[places]
        told = code >= 0
        found[told, len(lanes) :] = np.eye(len(schema.kinds))[code[told]]
    return found


def _scaled(column: Column, cells: "pd.Series[Any]") -> Array:
    """A channel's readings on its lanes, in 0 to 1: [n] -> [n, lanes]; clipped, NaN for none."""
    if column.kind == "numeric":
        low, high = column.ends
        inside = np.clip(numbers(cells)[0], low, high)
        return np.asarray(np.clip((inside - low) / (high - low), 0.0, 1.0)[:, None])
    codes = Codec(Schema(columns=(column,))).encode(pd.DataFrame({column.name: cells}))[:, 0]
    told = (codes >= 0) & (codes < len(column.texts))
    ones = np.eye(max(len(column.texts), 2))[np.where(told, codes, 0)][:, 1:]
    return np.where(told[:, None], ones, np.nan)


def resampled(read: Array, starts: Integers, schema: SeriesSchema) -> Array:
    """One row a step from its readings, in order of time: [n, l] -> [steps, l]; NaN where there is none."""
    if not len(starts):
        return np.zeros((0, read.shape[1]))
    known = ~np.isnan(read)
    counts = np.add.reduceat(known, starts, dtype=np.int64)
    none = counts == 0
    if schema.resample in ("mean", "sum"):
        # privacy: integers, so that the sum does not depend on where in memory a unit's rows lie
        return of_totals(np.add.reduceat(fine(read), starts, axis=0), counts, schema)
    elif schema.resample == "last":
        place = np.where(known, np.arange(len(read))[:, None], -1)
        last = np.maximum.reduceat(place, starts, axis=0)
        found = np.take_along_axis(read, np.maximum(last, 0), 0)
    else:
        least, worst = (np.minimum, np.inf) if schema.resample == "min" else (np.maximum, -np.inf)
        found = least.reduceat(np.where(known, read, worst), starts, axis=0)
    return np.where(none, np.nan, found)


def fine(read: Array) -> Integers:
    """Readings as whole numbers, in 2^-30 of their bounds' widths; 0 for none."""
    return np.rint(np.where(np.isnan(read), 0.0, read) * _FINE).astype(np.int64)


def of_totals(total: Integers, counts: Integers, schema: SeriesSchema) -> Array:
    """Means or sums of steps, from totals of `fine` readings and their numbers: [g, l] each -> [g, l]; NaN for none."""
    wide = total / _FINE
    found = wide / np.maximum(counts, 1) if schema.resample == "mean" else _summed(wide, counts, schema)
    return np.where(counts == 0, np.nan, found)


def _summed(total: Array, counts: Integers, schema: SeriesSchema) -> Array:
    """Sums of numeric channels, clipped to their bounds; of all else the mean."""
    lanes = lanes_of(schema)
    numeric = np.array([schema.channels[place].kind == "numeric" for place in lanes.channel])
    own = counts[:, : len(lanes)]
    summed = np.clip(total[:, : len(lanes)] + (own - 1) * lanes.low / lanes.width, 0.0, 1.0)
    mean = total / np.maximum(counts, 1)
    mean[:, : len(lanes)] = np.where(numeric, summed, mean[:, : len(lanes)])
    return mean


def _cut(values: Array, places: tuple[Integers, Integers], stride: int, schema: SeriesSchema) -> Windows:
    """Steps, sorted by id and time, to windows. Shapes: [g, l + kinds], ([g], [g])."""
    who, step = places
    length, found = schema.steps, []
    for back in range(-(-length // stride)):
        window = np.floor_divide(step, stride) - back
        at = step - window * stride
        found.append((np.arange(len(step))[at < length], window[at < length], at[at < length]))
    which, window, at = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((window, who[which]))
    which, window, at = which[order], window[order], at[order]
    chosen = _enough(values[which], _first(who[which], window), schema)
    which, window, at = which[chosen], window[chosen], at[chosen]
    first = _first(who[which], window)
    filled = np.full((int(first.sum()), length, values.shape[1]), np.nan)
    filled[np.cumsum(first) - 1, at] = values[which]
    start = MONDAY + window[first] * stride * schema.seconds[0]
    return _kept(filled, who[which][first], start, schema)


def _first(*keys: Integers) -> NDArray[np.bool_]:
    """Where sorted keys begin anew: [n] each -> [n]."""
    found = np.ones(len(keys[0]), bool)
    found[1:] = np.any([np.diff(key) != 0 for key in keys], 0)
    return found


def _enough(values: Array, first: NDArray[np.bool_], schema: SeriesSchema) -> NDArray[np.bool_]:
    """Whether each step lies in a window that can be kept, for all that it has readings of: [n, l + kinds], [n] -> [n].

    The others are left out before windows are laid out whole: a unit with a reading here and there takes no memory.
    """
    if not len(first):
        return first
    told = ~np.isnan(values[:, : len(lanes_of(schema))]).all(1)
    starts = np.flatnonzero(first)
    most = np.add.reduceat(told, starts, dtype=np.int64) * (1 + _holding(schema))
    return np.asarray((most / schema.steps >= schema.filled)[np.cumsum(first) - 1])


def _kept(filled: Array, who: Integers, start: Integers, schema: SeriesSchema) -> Windows:
    """The windows that have enough readings, and in a unit of days lie in one, with their units and kinds."""
    size = len(lanes_of(schema))
    values, kinds = filled[:, :, :size], filled[:, :, size:]
    values = held(values, schema)
    chosen = (~np.isnan(values)).mean((1, 2)) >= schema.filled
    if schema.unit == "day":
        chosen &= start % DAY + schema.seconds[1] <= DAY
    told = np.nan_to_num(kinds[chosen]).sum(1)
    kind = np.where(told.sum(1) > 0, told.argmax(1), -1) if size < filled.shape[2] else np.full(len(told), -1)
    who, start = who[chosen], start[chosen]
    return Windows(values[chosen], who, start, np.arange(len(who)), kind)


def _of_units(found: Windows, owner: Integers, schema: SeriesSchema) -> Windows:
    """The windows unit by unit, and whose they are, from 0 on; each is its own where windows are units."""
    if schema.unit == "window" or not len(found):
        return found
    own = owner[found.who]
    day = np.zeros_like(own) if schema.unit in OF_AN_ID else np.floor_divide(found.start, DAY)
    if schema.series is not None:  # days of one id lie apart, a series after the other
        order = np.lexsort((found.start, found.who, day, own))
        found, own, day = found.at(order), own[order], day[order]
    return replace(found, unit=np.cumsum(_first(own, day)) - 1)


def held(values: Array, schema: SeriesSchema) -> Array:
    """Gaps filled by the last reading before them in the window, for as long as the schema says: [w, t, l]."""
    if schema.hold is None:
        return values
    most, steps = _holding(schema), np.arange(values.shape[1])[None, :, None]
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, steps), axis=1)
    found = np.take_along_axis(values, np.maximum(last, 0), 1)
    return np.where((last >= 0) & (steps - last <= most), found, values)


def _holding(schema: SeriesSchema) -> int:
    """Steps that a reading stands for besides its own."""
    return 0 if schema.hold is None else seconds_of(schema.hold, "hold") // schema.seconds[0]
