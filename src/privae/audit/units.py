"""Audits of time series: a record is a unit (a household, a device, a day or a window), as its mean window.

Units are attacked as rows of numbers, those that the model reads; canaries are made-up units of one window each, and
are read off the released sums by whoever knows all others (`audit.readings`).
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.attacks.world import Records
from privae.audit.case import Case, Own, case_of_units
from privae.audit.coins import Coins
from privae.audit.persons import by_lot, check_others, taking_part
from privae.data.ratings import persons_in
from privae.errors import DataError, UsageError
from privae.fitted.series import FittedSeries, FittedSeriesNetwork
from privae.fitted.units import beginning
from privae.series.clock import DAY, MONDAY, wall_clock
from privae.series.schema import OF_AN_ID, SeriesSchema
from privae.series.waves import basis
from privae.series.windows import owners_in, sources_in

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

_WAVES, _CONTRAST = 6, 0.8
_LATER = 80_000 * DAY  # when canaries without an id are, long after anybody's readings


@dataclass(frozen=True)
class Attacked:
    """A model of series as attacks use it: of units as rows [n, d]."""

    fitted: FittedSeries | FittedSeriesNetwork = field(repr=False)

    def rows(self, frame: pd.DataFrame) -> Floats:
        """Units as rows."""
        return self.fitted.unit_rows(frame)

    def score(self, data: Floats) -> Floats:
        """The score of every row, higher for a more ordinary one, [n]."""
        return self.fitted.unit_parts(data)["score"]

    def embed(self, data: Floats) -> Floats:
        """Codes of every row, [n, k]."""
        return self.fitted.unit_codes(data)

    def parts(self, data: Floats) -> dict[str, Floats]:
        """What a score is made of, each higher for a more ordinary row, [n]."""
        return {name: values for name, values in self.fitted.unit_parts(data).items() if name != "score"}

    def records(self, data: Floats) -> Records:
        """Rows as points: numbers over their bounds' widths; a gap is -1."""
        points, names = self.fitted.unit_points(data)
        return Records(np.where(np.isnan(points), -1.0, points), np.ones(len(names), bool), names)


def case_of(own: Own, data: pd.DataFrame, holdout: Any, coins: Coins | None, seed: int) -> Case:  # noqa: ANN401
    """The case of a model of series. holdout: readings of other units, or None.

    Units that coins kept out of the fit are no members, and are the hold-out where none is given; about 10,000 units
    are looked at. Errors: DataError without units; UsageError for a hold-out that is no table, or of the same units.
    """
    assert isinstance(own.fitted, FittedSeries | FittedSeriesNetwork)
    model, schema = Attacked(own.fitted), own.fitted.schema
    which, names = units_in(data, schema)
    if not len(names):
        raise DataError("the data hold no units; give those that the model was fitted to")
    seen, others = by_lot(len(names), seed), None
    present, part = taking_part(coins, names), coins.kept_out if coins is not None else 0.0
    if holdout is not None:
        others = _others(holdout, schema, names, seed)
    elif part:
        others = _of(data, which, seen & ~present)
    members = model.rows(_of(data, which, seen & present))
    made = model.rows(own.fitted.sample(len(members), seed))
    held = None if others is None else model.rows(others)
    return case_of_units(own, model, (members, made, held), part if holdout is None else None, seed)


def _others(holdout: Any, schema: SeriesSchema, known: list[str], seed: int) -> pd.DataFrame:  # noqa: ANN401
    """The rows of other units, about 10,000 of them."""
    if not isinstance(holdout, pd.DataFrame):
        raise UsageError("the hold-out must have the form of the data: a table of readings")
    which, names = units_in(holdout, schema)
    check_others(names, known, f"{schema.unit}s")
    return _of(holdout, which, by_lot(len(names), seed + 1))


def units_in(frame: pd.DataFrame, schema: SeriesSchema) -> tuple[Integers, list[str]]:
    """Whose each row is, -1 for nobody's, and the units' names: a function of the row and the schema alone."""
    who, names = owners_in(frame, schema)
    if schema.unit in OF_AN_ID:
        return who, names
    if schema.unit == "window":
        who, sources = sources_in(frame, schema)
        names = [sources.title(place) for place in range(len(sources.series))]
    time = wall_clock(frame[schema.time], schema.timezone)
    _, _, stride = schema.seconds
    place = time // DAY if schema.unit == "day" else (time - MONDAY) // stride
    own = np.array([*names, ""], dtype=object)[who]
    named = [f"{name} {at}" for name, at in zip(own, place.tolist(), strict=True)]
    return persons_in(pd.Series(named, dtype=object))


def fed(
    coins: Coins, data: pd.DataFrame, schema: SeriesSchema, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame, Bools]:
    """The rows of the units that take part, those of all canaries, and which rows of these are planted."""
    frame = data.set_axis([str(name) for name in data.columns], axis=1)[list(schema.columns)]
    which, names = units_in(frame, schema)
    present = np.append(taking_part(coins, names), True)
    made, owner = _canaries(coins.canaries, schema, rng)
    return frame.loc[present[which]], made, coins.planted()[owner] if coins.canaries else np.zeros(0, bool)


def _canaries(count: int, schema: SeriesSchema, rng: np.random.Generator) -> tuple[pd.DataFrame, Integers]:
    """Made-up units of one window near full contrast, and whose each row is: [rows].

    Every channel has random low frequencies and a contrast of its own, so that no two canaries are alike.
    """
    steps, (step, _, stride) = schema.steps, schema.seconds
    wave = basis(steps, min(_WAVES, steps))
    fields = rng.standard_normal((count, len(schema.channels), wave.shape[1])) @ wave.T
    level = 0.5 + 0.5 * np.sign(fields) * rng.uniform(_CONTRAST, 1.0, fields.shape[:2])[:, :, None]
    owner = np.repeat(np.arange(count), steps)
    table: dict[str, Any] = {}
    if schema.id is not None:
        names = [f"canary {rng.bytes(8).hex()}" for _ in range(count)]
        table[schema.id] = np.array(names, dtype=object)[owner]
    if schema.series is not None:
        table[schema.series] = np.full(len(owner), "canary", dtype=object)
    if schema.kind is not None:
        kinds = rng.integers(0, len(schema.kinds), count)
        table[schema.kind] = np.array(schema.kinds, dtype=object)[kinds][owner]
    start = np.full(count, beginning(schema))
    if schema.unit not in OF_AN_ID:
        apart = math.lcm(DAY, stride) if schema.unit == "day" else stride
        start = start + _LATER // apart * apart + np.arange(count) * apart
    time = (start[:, None] + np.arange(steps) * step).ravel()
    frame = pd.DataFrame(table | {schema.time: time.astype("datetime64[s]")})
    return _with_channels(
        frame, level.transpose(0, 2, 1).reshape(len(owner), len(schema.channels)), schema, owner
    )


def _with_channels(
    frame: pd.DataFrame, level: Floats, schema: SeriesSchema, owner: Integers
) -> tuple[pd.DataFrame, Integers]:
    """The rows with channels at levels [n, channels], in 0 to 1, of bounds or of categories; long if need be."""
    cells: dict[str, Any] = {}
    for column, share in zip(schema.channels, level.T, strict=True):
        if column.kind == "numeric":
            low, top = column.ends
            cells[column.name] = low + share * (top - low)
        else:
            cells[column.name] = np.where(share > 0.5, column.texts[-1], column.texts[0]).astype(object)
    if not schema.long:
        return frame.assign(**cells)[list(schema.columns)], owner
    columns = str(schema.channel), str(schema.value)
    parts = [
        frame.assign(**{columns[0]: name}).assign(**{columns[1]: np.asarray(values, dtype=object)})
        for name, values in cells.items()
    ]
    return pd.concat(parts, ignore_index=True)[list(schema.columns)], np.tile(owner, len(parts))


def _of(frame: pd.DataFrame, which: Integers, chosen: Bools) -> pd.DataFrame:
    """The rows of some units."""
    return frame.loc[np.append(chosen, False)[which]]
