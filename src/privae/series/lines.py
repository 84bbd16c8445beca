"""One row of readings at a time: read as a table of that one row would be, without a table where its cells are plain.

Plain: a time such as 2026-11-30 14:05:00, and numbers as Python has them or as decimal text, for numeric columns of a
wide table. Every other row is read as a table, so what a row says never depends on which way it was read.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.errors import DataError
from privae.series.clock import DAY, wall_clock
from privae.series.schema import SeriesSchema
from privae.series.windows import lanes_of, readings

Array = NDArray[np.float64]

_TIME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?", re.ASCII)
_EXACT = 2**53
_EPOCH = date(1970, 1, 1).toordinal()


class Lines:
    """Reads the rows of a stream, each {column: cell}."""

    def __init__(self, schema: SeriesSchema) -> None:
        self.schema = schema
        lanes = lanes_of(schema)
        self._low, self._width = lanes.low, lanes.width
        self._high = np.array([(c.bounds or (0.0, 0.0))[1] for c in schema.channels], np.float64)
        bounded = all(column.kind == "numeric" and column.bounds is not None for column in schema.channels)
        self._plain = bounded and not schema.long and schema.kind is None
        self._columns = schema.columns
        self._names = tuple(column.name for column in schema.channels)

    def read(self, row: Mapping[str, Any]) -> tuple[int, Array]:
        """The time on the wall clock, NEVER for none, and the readings as `readings` has them, [l + kinds].

        Errors: DataError for a row that lacks a column.
        """
        whole = self._plain and all(name in row for name in self._columns)
        seconds = seconds_of_text(row[self.schema.time]) if whole else None
        cells = [] if seconds is None else [number_of(row[name]) for name in self._names]
        if seconds is None or None in cells:
            return self._by_table(row)
        inside = np.clip(np.array(cells, np.float64), self._low, self._high)
        return seconds, np.asarray(np.clip((inside - self._low) / self._width, 0.0, 1.0))

    def _by_table(self, row: Mapping[str, Any]) -> tuple[int, Array]:
        try:
            frame = pd.DataFrame({name: [row[name]] for name in self.schema.columns}, dtype=object)
        except KeyError as error:
            raise DataError(f"a row has no column {error}, which the schema declares") from None
        time = wall_clock(frame[self.schema.time], self.schema.timezone)
        return int(time[0]), readings(frame, self.schema)[0]


def seconds_of_text(cell: Any) -> int | None:  # noqa: ANN401  any object may stand in a cell
    """What `wall_clock` says of a plain time without an offset; None for every other cell.

    >>> seconds_of_text("1970-01-02 00:00:01"), seconds_of_text("1970-01-02")
    (86401, None)
    """
    found = _TIME.fullmatch(cell) if type(cell) is str else None
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups())
    if hour > 23 or minute > 59 or second > 60:
        return None
    try:
        days = date(year, month, day).toordinal() - _EPOCH
    except ValueError:
        return None
    return days * DAY + hour * 3600 + minute * 60 + second


def number_of(cell: Any) -> float | None:  # noqa: ANN401  any object may stand in a cell
    """What `numbers` says of a plain number or a gap (NaN); None for every other cell.

    >>> number_of("-1.50"), number_of(2), number_of("1e3")
    (-1.5, 2.0, None)
    """
    kind = type(cell)
    if kind is float:
        return float(cell) + 0.0  # no negative zero
    if kind is int and abs(cell) < _EXACT:
        return float(cell)
    if cell is None or (kind is str and not cell):
        return float("nan")
    return float(cell) if kind is str and _NUMBER.fullmatch(cell) else None
