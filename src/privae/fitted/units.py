"""Units of time series as tables: which windows are whose, and made-up ones as the schema's rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.data.column import Column, nullable, palette
from privae.fitted.anomalies import shown
from privae.fitted.tensors import Floats
from privae.series.clock import DAY, MONDAY
from privae.series.schema import OF_AN_ID, SeriesSchema
from privae.series.windows import Sources, Windows, blocks, lanes_of

Integers = NDArray[np.int64]

_FIRST = 11_323 * DAY  # 2001-01-01, a Monday: when made-up readings begin, or with the first window after
WEEK = 7 * DAY


def beginning(schema: SeriesSchema) -> int:
    """When the first made-up window starts: on the clock that windows are cut by."""
    _, _, stride = schema.seconds
    return MONDAY - (MONDAY - _FIRST) // stride * stride


@dataclass(frozen=True)
class Units:
    """The tables of a schema: who has which windows, and windows back to readings."""

    schema: SeriesSchema

    def names(self, data: pd.DataFrame) -> pd.DataFrame:
        """Which window is which: its id, if there are any, and when it starts."""
        parts, sources = blocks(data, self.schema)
        found = [(part.who, part.start) for part in parts]
        empty = np.zeros(0, np.int64)
        who, start = (np.concatenate([empty, *(part[i] for part in found)]) for i in range(2))
        return self.named(who, sources, start)

    def named(self, who: Integers, sources: Sources, start: Integers) -> pd.DataFrame:
        """Columns that say whose and when: the schema's id and series, if it has these, and its time."""
        parts = (self.schema.id, sources.ids, sources.owner[who]), (self.schema.series, sources.series, who)
        own = {
            name: np.array(texts, dtype=object)[places] for name, texts, places in parts if name is not None
        }
        return pd.DataFrame({**own, self.schema.time: start.astype("datetime64[s]")})

    @property
    def each(self) -> int:
        """Windows of a made-up unit."""
        _, window, _ = self.schema.seconds
        if self.schema.unit == "window":
            return 1
        if self.schema.unit == "day":
            return (DAY - window) // self.apart + 1
        return self.schema.windows or max(WEEK // self.apart, 1)

    @property
    def apart(self) -> int:
        """Seconds between the starts of made-up windows: whole strides, so that none overlap."""
        _, window, stride = self.schema.seconds
        return -(-window // stride) * stride

    def places(self, count: int) -> tuple[Integers, Integers, Integers]:
        """Whose every window is, when it starts, and its unit: [w] each."""
        unit, place = np.divmod(np.arange(count * self.each), self.each)
        start = beginning(self.schema) + place * self.apart
        if self.schema.unit in OF_AN_ID:
            return unit, start, unit
        each = max(DAY, self.schema.seconds[2]) if self.schema.unit == "day" else self.apart
        return np.zeros(len(unit), np.int64), start + unit * each, unit

    def table(self, found: Windows, rng: np.random.Generator) -> pd.DataFrame:
        """Windows as the schema's table; steps without any reading are left out."""
        (count, steps, _), schema = found.values.shape, self.schema
        flat = found.values.reshape(count * steps, found.values.shape[2])
        level, lanes = np.repeat(rng.random(count), steps), lanes_of(schema)
        told = {
            column.name: _cells(column, flat[:, lanes.channel == place], level)
            for place, column in enumerate(schema.channels)
        }
        time = (found.start[:, None] + np.arange(steps) * schema.seconds[0]).ravel()
        names = [str(i + 1) for i in range(int(found.who.max(initial=-1)) + 1)]
        sources = Sources(names, np.arange(len(names)), ["1"] * len(names))
        own = self.named(np.repeat(found.who, steps), sources, time)
        if schema.kind is not None:
            kinds = np.array(schema.kinds, dtype=object)[np.repeat(found.kind, steps)]
            own.insert(len(own.columns) - 1, schema.kind, kinds)
        known = np.flatnonzero(~np.isnan(flat).all(1))
        table = pd.DataFrame({**own, **told}).iloc[known].reset_index(drop=True)
        return _long(table, list(own.columns), schema) if schema.long else table


def _long(table: pd.DataFrame, own: list[str], schema: SeriesSchema) -> pd.DataFrame:
    """One row a reading."""
    named: dict[str, Any] = {"var_name": schema.channel, "value_name": str(schema.value)}
    wide = table.assign(**{column.name: table[column.name].astype(object) for column in schema.channels})
    melted = wide.melt(own, **named)
    return melted.loc[melted[str(schema.value)].notna()].reset_index(drop=True)


def _cells(column: Column, lanes: Floats, level: Floats) -> Any:  # noqa: ANN401  a pandas array of whichever kind
    """A channel's cells: [n, lanes] in 0 to 1 -> [n]. A category holds where its share passes the window's level."""
    if column.kind == "numeric":
        low, high = column.ends
        return shown(column, low + lanes[:, 0] * (high - low))
    gaps = np.isnan(lanes).any(1)
    shares = np.nan_to_num(lanes)[:, : max(len(column.texts) - 1, 0)]
    total = np.maximum(shares.sum(1), 1.0)
    rest = np.maximum(1.0 - shares.sum(1), 0.0)
    reached = np.cumsum(np.concatenate([rest[:, None], shares / total[:, None]], 1), 1)
    codes = np.minimum((reached <= level[:, None]).sum(1), reached.shape[1] - 1)
    dtype: Any = nullable(column.returned) if gaps.any() else column.returned
    known = pd.Series(palette(column), dtype=dtype).array
    return known.take(np.where(gaps, -1, codes), allow_fill=True)
