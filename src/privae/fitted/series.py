"""Fitted time series: tables of readings in; scores of windows and of readings, and made-up units out."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from privae.errors import UsageError
from privae.fitted.anomalies import Anomalies
from privae.fitted.tensors import Floats, array, arrays, no_labels
from privae.fitted.units import Units
from privae.models.latent import LatentModel
from privae.models.likelihoods import Gappy
from privae.models.scores import DetectionModel
from privae.models.windows import WindowNetwork
from privae.plan import Plan
from privae.series.clock import MONDAY
from privae.series.schema import SeriesSchema
from privae.series.waves import Waves, basis, conditions
from privae.series.windows import Windows, blocks, lanes_of
from privae.sums.quantiles import Layout

Integers = NDArray[np.int64]

MOST_PLACES = 16
"""Windows of a unit that gradients read, at most."""
UNIT = "fineness"
"""The setting of a plan that says how finely numbers were counted."""


@dataclass(frozen=True)
class FittedSeries(Anomalies, Units):
    """A model of windows: tables of readings in. A record is a window, in order of ids and time."""

    model: DetectionModel
    kind: str = "series"
    score_name: ClassVar[str] = "mahalanobis"

    @property
    def waves(self) -> Waves:
        """How windows become the model's numbers."""
        rest = len(self.model.mean) - conditions(self.schema) - sum(c.missing for c in self.schema.channels)
        return Waves(self.schema, rest // len(lanes_of(self.schema)) - 1)

    @staticmethod
    def read(waves: Waves, data: Any, *, strict: bool = True) -> tuple[Floats, Integers]:  # noqa: ANN401
        """Numbers [w, d] and units [w] of a table's windows; strict: see `blocks`."""
        if not isinstance(data, pd.DataFrame):
            raise UsageError("series must be a pandas DataFrame, one row a time (or a reading)")
        found = [(waves.numbers(part), part.unit) for part in blocks(data, waves.schema, strict=strict)[0]]
        values = np.concatenate([np.zeros((0, waves.size)), *(part[0] for part in found)])
        return values, np.concatenate([np.zeros(0, np.int64), *(part[1] for part in found)])

    def records(self, data: Any) -> tuple[Floats, Integers]:  # noqa: ANN401
        """Numbers [w, d] of windows, and no category codes [w, 0]."""
        return self.grouped(data)[:2]

    def grouped(self, data: Any) -> tuple[Floats, Integers, Integers]:  # noqa: ANN401
        """`records`, and the unit of each window, [w]."""
        values, unit = self.read(self.waves, data)
        return values, np.zeros((len(values), 0), np.int64), unit

    def sample(self, count: int, seed: int) -> pd.DataFrame:
        """The readings of `count` new units, in the form of the schema's table; from Monday 2001-01-01 on.

        A household or device has the schema's `windows` (by default those of a week, or one); its windows hang
        together by its kind and their conditions alone; of several series a unit has one.
        """
        rng = np.random.default_rng(seed)
        found = self.drawn(count, rng)
        return self.table(found, rng)

    def drawn(self, count: int, rng: np.random.Generator) -> Windows:
        """The windows of `count` new units, which do not overlap; gaps are NaN."""
        who, start, unit = self.places(count)
        kind = self._kinds(int(who.max(initial=-1)) + 1, rng)[who]
        given = self.waves.conditions(start, kind)
        values, _ = self._told.sample(len(start), rng, given)
        return Windows(self._lanes(values, rng), who, start, unit, kind)

    @property
    def _told(self) -> DetectionModel:
        """The model as windows are drawn: lanes are gone as a whole, and numbers no wider than moments say."""
        model, lanes = self.model, len(self.waves.lanes) * self.waves.each
        center = model.mean * model.standard.spread + model.standard.center
        spread = np.sqrt(np.diagonal(model.raised)) * model.standard.spread
        spread[lanes:] = np.inf
        gaps = np.zeros(len(center))
        # a lane is there or not with all of its numbers, so one count that noise made stand out is no gap
        each = np.median(model.quantiles.gaps[:lanes].reshape(-1, self.waves.each), axis=1)
        if len(each) > 1:  # of one lane alone, no window without a reading is one
            gaps[:lanes] = np.repeat(each, self.waves.each)
        found = replace(model.quantiles, gaps=gaps)
        return replace(model, quantiles=found.narrowed(center, spread, model.least))

    def sampled_scores(self, count: int, data: pd.DataFrame) -> Floats:  # noqa: ARG002
        """Scores of the model's own windows; where their distribution was released, its quantiles."""
        if self.model.scored is not None:
            shares = (np.arange(count)[:, None] + 0.5) / max(count, 1)
            return -self.model.at_cells(self.model.scored.at(shares)[:, 0])
        rng = np.random.default_rng(0)
        found = self.drawn(max(count // self.each, 1), rng)
        values = self.waves.numbers(found)
        return -self.model.scores(values, np.zeros((len(values), 0), np.int64))[self.score_name]

    def heat(self, data: Any) -> Floats:  # noqa: ANN401
        """Where each window is strange, by step and channel: [w, t, c].

        The sum over a window is the part of its Mahalanobis score that low frequencies have; detail has no place.
        Errors: UsageError where the scores read the bounds alone.
        """
        return self._heat(self.records(data)[0])

    def heat_of(self, found: Windows) -> Floats:
        """`heat` of windows that were cut already."""
        return self._heat(self.waves.numbers(found))

    def _heat(self, values: Floats) -> Floats:
        waves, steps = self.waves, self.schema.steps
        parts = self.model.leaning(self._centered(values))
        size = len(waves.lanes) * waves.each
        wave = basis(steps, waves.frequencies).T
        fields = (
            part[:, :size].reshape(len(part), len(waves.lanes), waves.each)[:, :, :-1] @ wave
            for part in parts
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

    def unit_rows(self, data: pd.DataFrame) -> Floats:
        """Units as rows, for audits: the numbers of their mean windows, [u, d]; NaN where no window has one."""
        values, _, unit = self.grouped(data)
        return means(values, unit)

    def unit_parts(self, rows: Floats) -> dict[str, Floats]:
        """What a unit's score is made of, each higher for a more ordinary one, [u]; the score itself is "score"."""
        found = self.model.scores(rows, np.zeros((len(rows), 0), np.int64))
        parts = {name: -values for name, values in found.items()}
        return parts | {"distance": -np.sqrt(found["diagonal"]), "score": parts[self.score_name]}

    def unit_codes(self, rows: Floats) -> Floats:
        """Whitened principal coordinates of units: [u, d]."""
        return self.model.embed(rows)

    def unit_points(self, rows: Floats) -> tuple[Floats, tuple[str, ...]]:
        """Rows of units over their bounds, NaN for a gap, and what each number is."""
        grid = self.layout.grid
        return np.clip((rows - grid.low) / grid.width, -0.5, 1.5), self.waves.names

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

    def _kinds(self, count: int, rng: np.random.Generator) -> Integers:
        """Kinds of new ids, by their shares in the model: [count]; -1 where there are none."""
        if "kind" not in self.schema.conditions:
            return np.full(count, -1)
        return np.asarray(rng.choice(len(self.schema.kinds), count, p=self.kind_shares), np.int64)

    @property
    def kind_shares(self) -> Floats:
        """Shares of the kinds of device among windows: where the mean code lies between those of 0 and of 1."""
        first = len(self.model.mean) - self.model.given + conditions(self.schema, "kind")
        none, whole = self.model.standard.codes(np.array([[0.0], [1.0]]) * np.ones(len(self.model.mean)))
        share = (self.model.mean - none) / np.maximum(whole - none, 1e-9)
        rest = np.clip(share[first : first + len(self.schema.kinds) - 1], 0.0, 1.0)
        found = np.append(max(1.0 - rest.sum(), 1e-3), rest)
        return np.asarray(found / found.sum())

    def _lanes(self, values: Floats, rng: np.random.Generator) -> Floats:
        """Readings of numbers, with detail of the drawn size: [w, d] -> [w, t, l] in 0 to 1, NaN for gaps.

        A lane is absent where its mean is: in data, all of its numbers are gaps then.
        """
        waves, steps = self.waves, self.schema.steps
        lanes, wave = len(waves.lanes), basis(steps, waves.frequencies)
        absent = np.isnan(values[:, : lanes * waves.each : waves.each])
        values = self._centered(values)
        parts = values[:, : lanes * waves.each].reshape(len(values), lanes, waves.each)
        rough = rng.standard_normal((len(values), lanes, steps))
        rough -= rough @ wave @ wave.T
        size = np.sqrt((rough**2).mean(2, keepdims=True))
        numeric = np.array([self.schema.channels[c].kind == "numeric" for c in waves.lanes.channel])
        detail = np.where(numeric, parts[:, :, -1], 0.0)[:, :, None]
        found = 0.5 + parts[:, :, :-1] @ wave.T * math.sqrt(steps) + detail * rough / np.maximum(size, 1e-12)
        found = np.clip(found, 0.0, 1.0).transpose(0, 2, 1)
        for place, channel in enumerate(waves.missing):
            share = values[:, lanes * waves.each + place]
            gone = rng.random((len(values), steps)) < share[:, None]
            found[gone[:, :, None] & (waves.lanes.channel == channel)] = np.nan
        return np.where(absent[:, None, :], np.nan, found)


@dataclass(frozen=True)
class FittedSeriesNetwork(Units):
    """A network of windows, trained by gradients of units: one window at each of its places, in a record.

    A place is where a window lies in the cycle of as many windows as the network reads: days of a week, say.
    """

    model: LatentModel
    kind: str = "series"

    @property
    def network(self) -> WindowNetwork:
        """The network of the model."""
        assert isinstance(self.model.network, WindowNetwork)
        return self.model.network

    def score(self, data: pd.DataFrame) -> Floats:
        """Log-likelihood bound of every window, [w], the other places of its record being gaps."""
        parts = [self._records(part, np.arange(len(part))) for part in blocks(data, self.schema)[0]]
        return self._bounds(torch.cat([torch.zeros(0, self.network.config.inputs), *parts]))

    def embed(self, data: pd.DataFrame) -> Floats:
        """Latent codes of every window, [w, k]: those of its place."""
        windows, latent = self.network.config.windows, self.network.config.latent
        found = [np.zeros((0, latent))]
        for part in blocks(data, self.schema)[0]:
            records = self._records(part, np.arange(len(part)))
            codes = array(self.model.embed(records, no_labels(len(records)))).reshape(
                len(part), windows, latent
            )
            found.append(codes[np.arange(len(part)), self._at(part)])
        return np.concatenate(found)

    def sample(self, count: int, seed: int) -> pd.DataFrame:
        """The readings of `count` new units, in the form of the schema's table; from Monday 2001-01-01 on."""
        return self.table(self.drawn(count, seed), np.random.default_rng(seed))

    def drawn(self, count: int, seed: int) -> Windows:
        """The windows of `count` new units; gaps are NaN."""
        config, generator = self.network.config, torch.Generator().manual_seed(seed)
        who, start, unit = self.places(count)
        of = unit * config.windows + place_of(start, self.schema, config.windows)
        records = -(-(int(of.max(initial=-1)) + 1) // config.windows)
        z = torch.randn(records, config.codes, generator=generator)
        with torch.no_grad():
            made = self.model.likelihood.sample(self.network.decode(z, None), generator)
        half = made.shape[1] // 2
        known = made[:, half:].bool().numpy()
        values = np.where(known, made[:, :half].double().numpy() / 2 + 0.5, np.nan)
        wide = np.clip(values, 0.0, 1.0).reshape(records * config.windows, config.steps, config.channels)
        return Windows(wide[of], who, start, unit, np.full(len(unit), -1))

    def sampled_scores(self, count: int, data: pd.DataFrame) -> Floats:  # noqa: ARG002
        """Scores of the model's own windows."""
        found = self.drawn(max(count // self.each, 1), 0)
        return self._bounds(self._records(found, np.arange(len(found))))

    def unit_rows(self, data: pd.DataFrame) -> Floats:
        """Units as rows, for audits: the records that the network reads, [u, 2 m]."""
        return records_of(data, self.schema, self.network.config.windows).double().numpy()

    def unit_parts(self, rows: Floats) -> dict[str, Floats]:
        """What a unit's bound is made of, each higher for one that is known better, [u]; the bound is "score"."""
        records = torch.from_numpy(rows).float()
        found = arrays(self.model.parts(records, no_labels(len(rows))))
        return found | {"score": self._bounds(records)}

    def unit_codes(self, rows: Floats) -> Floats:
        """Latent codes of units: [u, k]."""
        return array(self.model.embed(torch.from_numpy(rows).float(), no_labels(len(rows))))

    def unit_points(self, rows: Floats) -> tuple[Floats, tuple[str, ...]]:
        """Rows of units in 0 to 1, NaN for a gap, and what each number is."""
        half = rows.shape[1] // 2
        points = np.where(rows[:, half:] > 0, rows[:, :half] / 2 + 0.5, np.nan)
        return points, tuple(f"reading {i}" for i in range(half))

    def belongs(self) -> bool:
        """Whether the model takes the windows of its schema."""
        try:
            self.schema.check()
        except UsageError:
            return False
        if not isinstance(self.model.network, WindowNetwork) or not isinstance(self.model.likelihood, Gappy):
            return False
        config = self.network.config
        if config.windows > MOST_PLACES:
            return False
        return (config.steps, config.channels) == (self.schema.steps, len(lanes_of(self.schema)))

    def _at(self, found: Windows) -> Integers:
        """The place of each window in the cycle: [w]."""
        return place_of(found.start, self.schema, self.network.config.windows)

    def _records(self, found: Windows, record: Integers) -> Tensor:
        return as_records(found, (record, self._at(found)), (len(found), self.network.config.windows))

    def _bounds(self, records: Tensor) -> Floats:
        return array(self.model.log_likelihood(records, no_labels(len(records))))


def means(values: Floats, unit: Integers) -> Floats:
    """The mean of each unit's rows, of those that are known: [w, d], [w] -> [u, d]; NaN where none is."""
    count, known = (int(unit[-1]) + 1 if len(unit) else 0), ~np.isnan(values)
    total, told = np.zeros((2, count, values.shape[1]))
    np.add.at(total, unit, np.where(known, values, 0.0))
    np.add.at(told, unit, known)
    return np.where(told > 0, total / np.maximum(told, 1.0), np.nan)


def place_of(start: Integers, schema: SeriesSchema, places: int) -> Integers:
    """Where windows lie in the cycle of so many, which do not overlap, from a Monday's midnight on."""
    _, window, stride = schema.seconds
    return (start - MONDAY) // (-(-window // stride) * stride) % places


def records_of(data: pd.DataFrame, schema: SeriesSchema, places: int, *, strict: bool = True) -> Tensor:
    """Units as the records of a network, [u, 2 m]: the first window at each place that does not overlap others.

    strict: see `blocks`.
    Guarantee: a record is a function of the rows of its unit alone; other units add rows of their own.
    """
    _, window, stride = schema.seconds
    apart, found = -(-window // stride) * stride, []
    for part in blocks(data, schema, strict=strict)[0]:
        whole = np.flatnonzero((part.start - MONDAY) % apart == 0)
        at = place_of(part.start[whole], schema, places)
        _, first = np.unique(part.unit[whole] * places + at, return_index=True)
        units, record = np.unique(part.unit[whole][first], return_inverse=True)
        found.append(as_records(part.at(whole[first]), (record, at[first]), (len(units), places)))
    size = 2 * places * schema.steps * len(lanes_of(schema))
    return torch.cat([torch.zeros(0, size), *found])


def as_records(found: Windows, where: tuple[Integers, Integers], shape: tuple[int, int]) -> Tensor:
    """Windows at their records and places, [records, 2 m]: values in -1 to 1, then marks; all else is gaps."""
    wide = np.full((*shape, *found.values.shape[1:]), np.nan)
    wide[where] = found.values
    flat = wide.reshape(shape[0], int(np.prod(wide.shape[1:])))
    known = ~np.isnan(flat)
    both = np.concatenate([np.where(known, 2.0 * flat - 1.0, 0.0), known], 1)
    return torch.from_numpy(both.astype(np.float32))
