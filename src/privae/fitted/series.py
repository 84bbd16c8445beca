"""Fitted time series: tables of readings in; scores of windows and of readings, and made-up units out."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.data.column import Column, nullable, palette
from privae.errors import UsageError
from privae.fitted.anomalies import Anomalies, shown
from privae.fitted.tensors import Floats
from privae.models.scores import DetectionModel
from privae.plan import Plan
from privae.series.clock import DAY
from privae.series.schema import OF_AN_ID, SeriesSchema
from privae.series.waves import Waves, basis, conditions
from privae.series.windows import Windows, blocks, lanes_of
from privae.sums.quantiles import Layout

Integers = NDArray[np.int64]

UNIT = "fineness"
"""The setting of a plan that says how finely numbers were counted."""
FIRST = 11_323 * DAY  # 2001-01-01, a Monday: when made-up readings begin
WEEK = 7 * DAY


@dataclass(frozen=True)
class FittedSeries(Anomalies):
    """A model of windows: tables of readings in. A record is a window, in order of ids and time."""

    schema: SeriesSchema
    model: DetectionModel
    kind: str = "series"
    score_name: ClassVar[str] = "mahalanobis"

    @property
    def waves(self) -> Waves:
        """How windows become the model's numbers."""
        rest = len(self.model.mean) - conditions(self.schema) - sum(c.missing for c in self.schema.channels)
        return Waves(self.schema, rest // len(lanes_of(self.schema)) - 1)

    @staticmethod
    def read(waves: Waves, data: Any) -> tuple[Floats, Integers]:  # noqa: ANN401
        """Numbers [w, d] and units [w] of a table's windows."""
        if not isinstance(data, pd.DataFrame):
            raise UsageError("series must be a pandas DataFrame, one row a time (or a reading)")
        found = [(waves.numbers(part), part.unit) for part in blocks(data, waves.schema)[0]]
        values = np.concatenate([np.zeros((0, waves.size)), *(part[0] for part in found)])
        return values, np.concatenate([np.zeros(0, np.int64), *(part[1] for part in found)])

    def records(self, data: Any) -> tuple[Floats, Integers]:  # noqa: ANN401
        """Numbers [w, d] of windows, and no category codes [w, 0]."""
        return self.grouped(data)[:2]

    def grouped(self, data: Any) -> tuple[Floats, Integers, Integers]:  # noqa: ANN401
        """`records`, and the unit of each window, [w]."""
        values, unit = self.read(self.waves, data)
        return values, np.zeros((len(values), 0), np.int64), unit

    def names(self, data: pd.DataFrame) -> pd.DataFrame:
        """Which window is which: its id, if there are any, and when it starts."""
        parts, names = blocks(data, self.schema)
        found = [(part.who, part.start) for part in parts]
        empty = np.zeros(0, np.int64)
        who, start = (np.concatenate([empty, *(part[i] for part in found)]) for i in range(2))
        return self.named(who, names, start)

    def named(self, who: Integers, names: list[str], start: Integers) -> pd.DataFrame:
        """Columns that say whose and when: the schema's id, if it has one, and its time."""
        own = {} if self.schema.id is None else {self.schema.id: np.array(names, dtype=object)[who]}
        return pd.DataFrame({**own, self.schema.time: start.astype("datetime64[s]")})

    def sample(self, count: int, seed: int) -> pd.DataFrame:
        """The readings of `count` new units, in the form of the schema's table; from Monday 2001-01-01 on.

        A household or device has the schema's `windows` (by default those of a week, or one); its windows hang
        together by its kind and their conditions alone.
        """
        rng = np.random.default_rng(seed)
        found = self.drawn(count, rng)
        return self._table(found, rng)

    def drawn(self, count: int, rng: np.random.Generator) -> Windows:
        """The windows of `count` new units, which do not overlap; gaps are NaN."""
        who, start, unit = self._places(count)
        kind = self._kinds(int(who.max(initial=-1)) + 1, rng)[who]
        given = self.waves.conditions(start, kind)
        values, _ = self.model.sample(len(start), rng, given)
        return Windows(self._lanes(values, rng), who, start, unit, kind)

    def sampled_scores(self, count: int, data: pd.DataFrame) -> Floats:  # noqa: ARG002
        """Scores of the model's own windows."""
        rng = np.random.default_rng(0)
        found = self.drawn(max(count // self._each, 1), rng)
        values = self.waves.numbers(found)
        return -self.model.scores(values, np.zeros((len(values), 0), np.int64))[self.score_name]

    def heat(self, data: Any) -> Floats:  # noqa: ANN401
        """Where each window is strange, by step and channel: [w, t, c].

        The sum over a window is the part of its Mahalanobis score that low frequencies have; detail has no place.
        Errors: UsageError where the scores read the bounds alone.
        """
        waves, steps = self.waves, self.schema.steps
        parts = self.model.leaning(np.nan_to_num(self._centered(self.records(data)[0])))
        size = len(waves.lanes) * waves.each
        wave = basis(steps, waves.frequencies).T
        fields = (
            part[:, :size].reshape(len(part), len(waves.lanes), waves.each)[:, :, :-1] @ wave for part in parts
        )
        lanes = np.multiply(*fields).transpose(0, 2, 1)
        return np.asarray(lanes @ np.eye(len(self.schema.channels))[waves.lanes.channel])

    @property
    def layout(self) -> Layout:
        """Where windows were counted."""
        return self.waves.layout

    def counted_in(self, plan: Plan) -> Layout:
        """Where windows were counted: as finely as the plan says."""
        return replace(self.waves, unit=float(plan.settings[UNIT] or 0)).layout

    def belongs(self) -> bool:
        """Whether the model takes the windows of its schema."""
        try:
            self.schema.check()
        except UsageError:
            return False
        waves = self.waves
        inside = 1 <= waves.frequencies < self.schema.steps and waves.size == len(self.model.mean)
        return inside and waves.given == self.model.given and super().belongs()

    def _centered(self, values: Floats) -> Floats:
        """Numbers with gaps at the model's center."""
        return np.where(np.isnan(values), self.model.standard.center, values)

    @property
    def _each(self) -> int:
        """Windows of a made-up unit."""
        _, window, _ = self.schema.seconds
        if self.schema.unit == "window":
            return 1
        if self.schema.unit == "day":
            return (DAY - window) // self._apart + 1
        return self.schema.windows or max(WEEK // self._apart, 1)

    @property
    def _apart(self) -> int:
        """Seconds between the starts of made-up windows: whole strides, so that none overlap."""
        _, window, stride = self.schema.seconds
        return -(-window // stride) * stride

    def _places(self, count: int) -> tuple[Integers, Integers, Integers]:
        """Whose every window is, when it starts, and its unit: [w] each."""
        unit, place = np.divmod(np.arange(count * self._each), self._each)
        if self.schema.unit in OF_AN_ID:
            return unit, FIRST + place * self._apart, unit
        each = DAY if self.schema.unit == "day" else self._apart
        return np.zeros(len(unit), np.int64), FIRST + unit * each + place * self._apart, unit

    def _kinds(self, count: int, rng: np.random.Generator) -> Integers:
        """Kinds of new ids, by their shares in the model: [count]; -1 where there are none."""
        if "kind" not in self.schema.conditions:
            return np.full(count, -1)
        return rng.choice(len(self.schema.kinds), count, p=self.kind_shares)

    @property
    def kind_shares(self) -> Floats:
        """Shares of the kinds of device among windows."""
        first = len(self.model.mean) - self.model.given + conditions(self.schema, "kind")
        mean = self.model.mean * self.model.standard.spread + self.model.standard.center
        rest = np.clip(mean[first : first + len(self.schema.kinds) - 1], 0.0, 1.0)
        found = np.append(max(1.0 - rest.sum(), 1e-3), rest)
        return np.asarray(found / found.sum())

    def _lanes(self, values: Floats, rng: np.random.Generator) -> Floats:
        """Readings of numbers, with detail of the drawn size: [w, d] -> [w, t, l] in 0 to 1, NaN for gaps."""
        waves, steps = self.waves, self.schema.steps
        lanes, wave = len(waves.lanes), basis(steps, waves.frequencies)
        parts = values[:, : lanes * waves.each].reshape(len(values), lanes, waves.each)
        rough = rng.standard_normal((len(values), lanes, steps))
        rough -= rough @ wave @ wave.T
        size = np.sqrt((rough**2).mean(2, keepdims=True))
        numeric = np.array([self.schema.channels[c].kind == "numeric" for c in waves.lanes.channel])
        detail = np.where(numeric, parts[:, :, -1], 0.0)[:, :, None]
        found = 0.5 + parts[:, :, :-1] @ wave.T * math.sqrt(steps) + detail * rough / np.maximum(size, 1e-12)
        found = np.clip(found, 0.0, 1.0).transpose(0, 2, 1)
        for place, channel in enumerate(waves.missing):
            share = np.nan_to_num(values[:, lanes * waves.each + place], nan=0.0)
            gone = rng.random((len(values), steps)) < share[:, None]
            found[gone[:, :, None] & (waves.lanes.channel == channel)] = np.nan
        return found

    def _table(self, found: Windows, rng: np.random.Generator) -> pd.DataFrame:
        """Windows as the schema's table; steps without any reading are left out."""
        count, steps, _ = found.values.shape
        schema = self.schema
        flat = found.values.reshape(count * steps, -1)
        level = np.repeat(rng.random(count), steps)
        told = {
            column.name: _cells(column, flat[:, self.waves.lanes.channel == place], level)
            for place, column in enumerate(schema.channels)
        }
        time = (found.start[:, None] + np.arange(steps) * schema.seconds[0]).ravel()
        names = [str(i + 1) for i in range(int(found.who.max(initial=-1)) + 1)]
        own = self.named(np.repeat(found.who, steps), names, time)
        if schema.kind is not None:
            own.insert(len(own.columns) - 1, schema.kind, np.array(schema.kinds, dtype=object)[np.repeat(found.kind, steps)])
        table = pd.DataFrame({**own, **told})[~np.isnan(flat).all(1)].reset_index(drop=True)
        if not schema.long:
            return table
        assert schema.channel is not None and schema.value is not None
        wide = table.astype({name: object for name in told})
        melted = wide.melt(list(own.columns), var_name=schema.channel, value_name=schema.value)
        return melted[melted[schema.value].notna()].reset_index(drop=True)


def _cells(column: Column, lanes: Floats, level: Floats) -> Any:  # noqa: ANN401  a pandas array of whichever kind
    """A channel's cells: [n, lanes] in 0 to 1 -> [n]. A category holds where its share passes the window's level."""
    if column.kind == "numeric":
        edges = column.numeric_bins.edges
        low, high = column.bounds or (float(edges[0]), float(edges[-1]))
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
