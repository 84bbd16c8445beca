"""A row of a stream says what it would say as a table of one row, and only plain cells take the short way."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.errors import DataError
from privae.series.clock import NEVER
from privae.series.lines import Lines, number_of, seconds_of_text
from privae.series.schema import SeriesSchema

TEXT = """
[series]
time = "t"
id = "home"
step = "1h"
window = "1d"
{more}
[channels.power]
kind = "numeric"
bounds = [-4, 4]
[channels.heat]
kind = "{kind}"
{bounds}
"""
WIDE = SeriesSchema.loads(
    TEXT.format(more='timezone = "Europe/Rome"', kind="numeric", bounds="bounds = [0, 0.3]")
)
LINES = Lines(WIDE)

CELLS = (
    st.floats(allow_nan=True, allow_infinity=True)
    | st.integers(-(2**70), 2**70)
    | st.decimals(-99, 99, places=6).map(str)
    | st.sampled_from(["", " 1", "1_0", "1e2", "-0", "NA", "true", "+1", "٣", "1.", ".5", True, None, b"2"])
)
TIMES = (
    st.datetimes().map(lambda at: str(at.replace(microsecond=0)))
    | st.datetimes().map(lambda at: at.strftime("%Y-%m-%dT%H:%M"))
    | st.sampled_from(
        (
            *(
                "2001-02-29 00:00",
                "2001-01-01",
                "2001-01-01 24:00",
                "2001-01-01 00:00:60",
                "2001-01-01 00:61",
            ),
            *("2001-01-01 00:00Z", "2001-01-01 00:00\n", "0000-01-01 00:00", "2001-01-01 00:00+02:00", ""),
            *(978307200, None),
        )
    )
)


@settings(max_examples=300, deadline=None)
@given(time=TIMES, power=CELLS, heat=CELLS)
def test_a_row_reads_as_a_table_of_one_row_does(time, power, heat):
    row = {"home": "a", "t": time, "power": power, "heat": heat}
    seconds, values = LINES.read(row)
    as_table, expected = LINES._by_table(row)
    assert seconds == as_table
    assert np.array_equal(values, expected, equal_nan=True)


def test_plain_cells_need_no_table(monkeypatch):
    monkeypatch.setattr(Lines, "_by_table", lambda *_: pytest.fail("a table was made"))
    seconds, values = LINES.read({"home": 1, "t": "1970-01-01 01:00", "power": "2", "heat": ""})
    assert seconds == 3600
    assert values[0] == 0.75
    assert math.isnan(values[1])


def test_other_cells_are_left_to_the_table():
    assert [number_of(cell) for cell in (True, "1e3", np.float32(0.7), "nan", 2**60)] == [None] * 5
    assert [seconds_of_text(cell) for cell in ("2001-01-01 00:00Z", "2001-02-29 00:00", 5, None)] == [
        None
    ] * 4
    assert LINES.read({"home": 1, "t": "soon", "power": 1, "heat": 1})[0] == NEVER


def test_categories_and_absent_columns_go_by_the_table():
    schema = SeriesSchema.loads(TEXT.format(more="", kind="boolean", bounds=""))
    assert Lines(schema).read({"home": 1, "t": "1970-01-01 00:00", "power": 0, "heat": "yes"})[1][0] == 0.5
    with pytest.raises(DataError, match="no column 'heat'"):
        LINES.read({"home": 1, "t": "1970-01-01 00:00", "power": 0})
    with pytest.raises(DataError, match="no column 'home'"):
        LINES.read({"t": "1970-01-01 00:00", "power": 0, "heat": 1})
