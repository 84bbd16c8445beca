"""Times: what the clock on the wall showed, each read by itself."""

import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.errors import UsageError
from privae.series.clock import DAY, NEVER, check_timezone, seconds_of, wall_clock

NOON = int(np.datetime64("2026-11-30T14:05:00", "s").astype(np.int64))


def read(*cells, zone=None, dtype=object):
    return wall_clock(pd.Series(list(cells), dtype=dtype), zone).tolist()


@pytest.mark.parametrize(
    "cell",
    [
        "2026-11-30 14:05:00",
        "2026-11-30T14:05",
        " 2026/11/30   14:05:00.999 ",
        "2026-11-30 14:05:00,5",
        "2026-11-30T14:05:00Z",
        "2026-11-30 14:05 UTC",
        "2026-11-30T15:05:00+01:00",
        "2026-11-30T15:05+01",
        "2026-11-30T08:35-0530",
        str(NOON),
        NOON,
        NOON + 0.5,
        f"{NOON}.9",
        pd.Timestamp("2026-11-30 14:05"),
        pd.Timestamp("2026-11-30 14:05:00.123456789"),
        pd.Timestamp("2026-11-30 15:05", tz="Europe/Rome"),
        np.datetime64("2026-11-30T14:05"),
        datetime.datetime(2026, 11, 30, 14, 5),
        b"2026-11-30 14:05",
    ],
)
def test_one_time_is_said_in_many_ways(cell):
    assert read(cell) == [NOON]


@pytest.mark.parametrize(
    "cell",
    [
        None,
        "",
        "NA",
        "?",
        np.nan,
        np.inf,
        "-inf",
        1e308,
        10**400,
        2**37,
        "soon",
        "14:05",
        "2026-11",
        "20261130T1405",
        "2026-13-01",
        "2026-00-10",
        "2026-02-29",
        "2026-11-31",
        "2026-11-30 24:00",
        "2026-11-30 14:60",
        "2026-11-30 14:05:61",
        "2026-11-30 2:05 PM",
        "30/11/2026",
        "2026-11-30T14:05+99:00",
        "2026-11-30T14:05+01:60",
        "9999-12-31T23:59:59-12:00",
        "12026-11-30",
        "\ud800",
        "2026-11-30\0",
        "-",
        object(),
        (),
        [1],
        pd.NaT,
    ],
)
@pytest.mark.parametrize("zone", [None, "Europe/Rome"])
def test_what_is_no_time_is_none_in_any_zone(cell, zone):
    assert read(cell, zone=zone) == [NEVER]


def test_calendars_and_extremes_read():
    assert read("2024-02-29", "1970-01-01", "1969-12-31") == [19782 * DAY, 0, -DAY]
    assert read("2026-1-2 3:04") == read("2026-01-02 03:04:00")
    assert read("2016-12-31 23:59:60") == read("2017-01-01")
    assert read("0000-01-01", "9999-12-31", 2**37 - 1, -(2**37) + 1)[2:] == [2**37 - 1, -(2**37) + 1]
    assert NEVER not in read("0001-01-01T00:00Z", "6000-01-01T00:00Z", 2**37 - 1, zone="Europe/Rome")
    assert read() == []


def test_times_with_an_offset_move_to_the_zone_and_others_stay():
    found = read("2026-07-01 12:00", "2026-07-01 12:00Z", "2026-07-01 12:00+05:30", 0, zone="Europe/Rome")
    shown = [str(np.datetime64(one, "s")) for one in found]
    assert shown == [
        "2026-07-01T12:00:00",
        "2026-07-01T14:00:00",
        "2026-07-01T08:30:00",
        "1970-01-01T01:00:00",
    ]


def test_where_clocks_go_forward_an_hour_has_no_readings_and_back_one_has_twice_as_many():
    def hours(first):
        time = pd.date_range(first, periods=6 * 4, freq="15min", tz="UTC")
        found = wall_clock(pd.Series(time), "Europe/Rome")
        return dict(zip(*np.unique(found % DAY // 3600, return_counts=True), strict=True))

    assert hours("2026-03-29 00:00") == {1: 4, 3: 4, 4: 4, 5: 4, 6: 4, 7: 4}
    assert hours("2026-10-25 00:00") == {2: 8, 3: 4, 4: 4, 5: 4, 6: 4}


def test_typed_columns_read_as_their_text_does():
    time = pd.date_range("2026-03-28 12:00", periods=50, freq="37min")
    texts = wall_clock(pd.Series(time.strftime("%Y-%m-%d %H:%M:%S"), dtype=object), None)
    for unit in ("s", "ms", "us", "ns"):
        assert (wall_clock(pd.Series(time.as_unit(unit)), None) == texts).all()
    aware = pd.Series(time.tz_localize("UTC"))
    assert (wall_clock(aware, "America/New_York") == wall_clock(aware.astype(str), "America/New_York")).all()
    assert (wall_clock(pd.Series(texts), None) == texts).all()
    assert (wall_clock(pd.Series(texts.astype(float)), None) == texts).all()
    assert (wall_clock(pd.Series(time).astype("category"), None) == texts).all()


cells = st.one_of(
    st.datetimes().map(str),
    st.datetimes(timezones=st.timezones()).map(lambda time: time.isoformat()),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.none(),
    st.text(max_size=4),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}( [0-9]{2}:[0-9]{2})?(Z|\+[0-9]{2}:[0-9]{2})?", fullmatch=True),
    st.sampled_from(["2026-11-30\0", "\ud800", b"\xff", True, "9999-12-31T23:59Z"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(cells, max_size=6), st.sampled_from([None, "Europe/Rome", "Asia/Kathmandu"]))
def test_a_cell_reads_as_if_it_were_alone(column, zone):
    assert read(*column, zone=zone) == [read(cell, zone=zone)[0] for cell in column]


def test_durations_are_a_number_and_a_unit():
    said = {"30s": 30, "15min": 900, "1h": 3600, " 7d ": 7 * DAY, "7 d": 7 * DAY, "400d": 400 * DAY}
    assert {text: seconds_of(text, "step") for text in said} == said


@pytest.mark.parametrize(
    "text", ["", "0s", "1w", "h", "-1h", "1.5h", "1H", "401d", "1h30min", "9" * 5000 + "s", "١h"]
)
def test_other_durations_are_refused_and_named(text):
    with pytest.raises(UsageError, match=r"\[series\] stride must be a duration") as caught:
        seconds_of(text, "stride")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "zone", ["", "Mars", "Europe", "../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "x" * 5000]
)
def test_unknown_time_zones_are_refused_in_one_line(zone):
    check_timezone("Europe/Rome")
    with pytest.raises(UsageError, match="IANA"):
        check_timezone(zone)
