"""Windows: what a unit's rows become on the declared clock, whatever else the table holds."""

import math
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.data.column import Column
from privae.errors import DataError
from privae.series import windows as module
from privae.series.clock import DAY
from privae.series.schema import SeriesSchema
from privae.series.windows import blocks, lanes_of, owners_in, windows

X = Column(name="x", kind="numeric", bounds=(0, 8))
ON = Column(name="on", kind="boolean")
MODE = Column(name="mode", kind="category", categories=("a", "b"), other="else")
PLAIN = SeriesSchema(id="id", time="t", step="1h", window="4h", channels=(X,))
ALL = PLAIN.model_copy(update={"channels": (X, ON, MODE)})
LONG = ALL.model_copy(update={"channel": "what", "value": "value"})
nan = math.nan


def schema(**changes):
    return PLAIN.model_copy(update={"filled": 1e-9} | changes)


def table(*rows, names=("id", "t", "x")):
    """Rows of (id, hour, cell, ...): hours of Monday, 5 January 1970."""
    told = [(who, 4 * DAY + h * 3600 if isinstance(h, int | float) else h, *more) for who, h, *more in rows]
    return pd.DataFrame(told, columns=list(names), dtype=object)


def cut(frame, of):
    """The values of all windows, in the channels' units, [w][t] (of one lane), or [w][t][l]."""
    found, lanes = windows(frame, of)[0].values, lanes_of(of)
    shown = found * lanes.width + lanes.low
    return (shown[..., 0] if len(lanes) == 1 else shown).tolist()


def same(one, other):
    np.testing.assert_equal(one, other)  # NaN equals NaN


def test_rows_in_any_order_are_laid_on_the_clock():
    rows = [("a", 3, 3), ("b", 1, 7), ("a", 0, 0), ("b", 0, 6), ("a", 2.5, 2), ("a", 1.999, 1), ("a", 4, 4)]
    expected = [[0, 1, 2, 3], [4, nan, nan, nan], [6, 7, nan, nan]]
    same(cut(table(*rows), schema()), expected)
    found, names = windows(table(*rows), schema())
    assert names.ids == ["a", "b"]
    assert (found.start - 4 * DAY).tolist() == [0, 4 * 3600, 0]
    assert (found.who.tolist(), found.unit.tolist(), found.kind.tolist()) == ([0, 0, 1], [0, 0, 1], [-1] * 3)
    same(cut(table(*sorted(rows, key=str, reverse=True)), schema()), [expected[2], *expected[:2]])


SEVERAL = [("a", 0, 8), ("a", 0, 2), ("a", 0, 5), ("a", 0.5, "?"), ("a", 1, 1), ("a", 0.1, 1), ("a", 2, None)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("mean", [4, 1]), ("sum", [8, 1]), ("min", [1, 1]), ("max", [8, 1]), ("last", [1, 1])],
)
def test_several_readings_of_a_step_are_one(rule, expected):
    same(cut(table(*SEVERAL), schema(resample=rule)), [[*expected, nan, nan]])


def test_sums_are_of_the_channels_units_and_end_at_the_bounds():
    wide = X.model_copy(update={"bounds": (-3, 5)})
    rows = [("a", 0, 1), ("a", 0, 2), ("a", 1, -2), ("a", 1, -2), ("a", 2, 4), ("a", 2, 4), ("a", 3, 0)]
    found = cut(table(*rows), schema(resample="sum", channels=(wide,)))
    assert found[0] == pytest.approx([3, -3, 5, 0], abs=1e-7)
    states = [("a", 0, 1, "True", "b"), ("a", 0, 2, "False", "b"), ("a", 0, 3, None, "zz")]
    found = cut(
        table(*states, names=("id", "t", "x", "on", "mode")),
        ALL.model_copy(update={"filled": 1e-9, "resample": "sum"}),
    )
    assert found[0][0] == pytest.approx([6, 0.5, 2 / 3, 1 / 3])


def test_the_last_of_equal_times_is_the_later_row():
    rows = [("a", 0, 5), ("a", 0, 6), ("b", 0, 6), ("b", 0, 5)]
    assert [w[0] for w in cut(table(*rows), schema(resample="last"))] == [6, 5]


def test_garbage_is_a_gap_and_what_is_out_of_bounds_their_end():
    cells = [math.inf, -math.inf, 1e308, -1, nan, None, "x", object(), "inf", True, " 3 ", "1_0"]
    found = cut(table(*(("a", h, cell) for h, cell in enumerate(cells))), schema())
    same(found, [[8, 0, 8, 0], [8, 1, 3, nan]])


def test_a_window_with_too_few_readings_is_none():
    rows = [
        ("a", 0, 1),
        ("a", 1, 1),
        ("a", 4, 1),
        ("a", 8, nan),
        ("a", 9, nan),
        ("a", 10, nan),
        ("a", 11, nan),
    ]
    same(cut(table(*rows), schema(filled=0.5)), [[1, 1, nan, nan]])
    assert cut(table(*rows), schema(filled=0.51)) == []
    assert len(cut(table(*rows), schema(filled=0.25))) == 2


def test_readings_stand_as_long_as_declared_within_their_window():
    rows = [("a", 0, 1), ("a", 3, 3), ("a", 6, 6), ("a", 7, nan)]
    same(cut(table(*rows), schema(hold="2h")), [[1, 1, 1, 3], [nan, nan, 6, 6]])
    same(cut(table(*rows), schema(hold="90min")), [[1, 1, nan, 3], [nan, nan, 6, 6]])
    same(cut(table(*rows), schema(hold="1h", filled=0.75)), [[1, 1, nan, 3]])
    same(cut(table(("a", 0, 1)), schema(hold="4h", filled=1.0)), [[1, 1, 1, 1]])


def test_irregular_sampling_is_brought_to_the_clock():
    rng = np.random.default_rng(0)
    hours = np.sort(rng.uniform(0, 40, 400))
    found = np.ravel(cut(table(*zip(["a"] * 400, hours, hours / 5, strict=True)), schema()))
    assert found == pytest.approx(np.arange(40) / 5 + 0.1, abs=0.1)


def test_states_are_lanes_of_zeros_and_ones():
    rows = [
        ("a", 0, 1, True, "a"),
        ("a", 1, 2, "False", "b"),
        ("a", 2, 3, 1, "zz"),
        ("a", 3, 4, "maybe", None),
        ("b", 0, 1, None, "else"),
        ("b", 1, 1, True, ""),
    ]
    found = cut(table(*rows, names=("id", "t", "x", "on", "mode")), ALL.model_copy(update={"filled": 1e-9}))
    assert lanes_of(ALL).channel.tolist() == [0, 1, 2, 2]
    same(found[0][:3], [[1, 1, 0, 0], [2, 0, 1, 0], [3, 1, 0, 1]])
    assert found[0][3][0] == 4
    assert np.isnan(found[0][3][1])
    same(found[1][0], [1, nan, 0, 1])


def test_a_long_table_is_the_wide_one():
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(
        {
            "id": rng.choice(["a", "b"], 40),
            "t": 4 * DAY + rng.integers(0, 40 * 3600, 40),
            "x": rng.uniform(0, 9, 40),
            "on": rng.choice([True, False, None], 40),
            "mode": rng.choice(["a", "b", "zz", None], 40),
        }
    )
    long = wide.melt(["id", "t"], var_name="what", value_name="value").sample(frac=1, random_state=0)
    more = pd.DataFrame({"id": "a", "t": 4 * DAY, "what": ["unknown", None, ""], "value": 5})
    for rule in ("mean", "sum", "min", "max"):
        one = windows(wide, ALL.model_copy(update={"resample": rule}))[0]
        frame = pd.concat([long.astype(object), more], ignore_index=True)
        other = windows(frame, LONG.model_copy(update={"resample": rule}))[0]
        order = owners_in(wide, ALL)[1] == owners_in(frame, LONG)[1]
        back = np.argsort(1 - other.who, kind="stable") if not order else slice(None)
        np.testing.assert_array_equal(one.values, other.values[back])
        assert (one.start == other.start[back]).all()


def test_windows_may_overlap_or_leave_time_out():
    rows = [("a", h, h % 8) for h in range(8)]
    assert cut(table(*rows), schema(stride="2h", filled=1.0)) == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    same(cut(table(*rows), schema(stride="2h"))[0], [nan, nan, 0, 1])
    assert cut(table(*rows), schema(stride="1h", filled=1.0)) == [list(range(i, i + 4)) for i in range(5)]
    assert cut(table(*rows, ("a", 8, 3)), schema(stride="5h", filled=0.5)) == [[0, 1, 2, 3], [5, 6, 7, 3]]


def test_days_are_units_and_drop_what_crosses_midnight():
    rows = [(who, h, h % 8) for who in "ab" for h in range(48)]
    by_day = schema(unit="day", stride="2h", filled=1.0)
    found = windows(table(*rows), by_day)[0]
    assert len(found) == 2 * 2 * 11
    assert found.unit.tolist() == np.repeat(range(4), 11).tolist()
    assert (found.start % DAY + 4 * 3600 <= DAY).all()
    everything = windows(table(*rows), schema(stride="2h", filled=1.0))[0]
    assert len(everything) == 2 * 23
    assert everything.unit.max() == 1
    single = windows(table(*rows), schema(unit="window", filled=1.0))[0]
    assert single.unit.tolist() == list(range(24))
    alone = windows(table(*rows).drop(columns="id"), schema(unit="day", id=None))[0]
    assert alone.unit.tolist() == np.repeat([0, 1], 6).tolist()


def test_days_are_those_of_the_wall():
    """A day of 23 hours, one of 24 and one of 25 are one unit each."""
    time = pd.date_range("2026-10-23 22:00", periods=24 + 25 + 24, freq="h", tz="UTC")
    frame = pd.DataFrame({"id": "a", "t": time, "x": 1.0})
    found = windows(frame, schema(unit="day", timezone="Europe/Rome", window="1d", filled=0.9))[0]
    assert (found.unit.tolist(), len(found)) == ([0, 1, 2], 3)
    mixed = frame.astype({"t": object})
    mixed.loc[:9, "t"] = [str(one) for one in time[:10].tz_convert("Asia/Tokyo")]
    mixed.loc[10:19, "t"] = [str(one.tz_localize(None)) for one in time[10:20].tz_convert("Europe/Rome")]
    mixed.loc[20:29, "t"] = [int(one.timestamp()) for one in time[20:30]]
    again = windows(mixed, schema(unit="day", timezone="Europe/Rome", window="1d", filled=0.9))[0]
    np.testing.assert_array_equal(again.values, found.values)


KINDS = schema(kind="type", kinds=("oven", "7"), conditions=("kind",))


def test_a_windows_kind_is_the_one_that_most_of_its_steps_say():
    names = ("id", "t", "x", "type")
    rows = [
        ("a", 0, 1, "7.0"),
        ("a", 1, 1, "7"),
        ("a", 2, 1, "oven"),
        ("a", 4, 1, "oven"),
        ("a", 5, nan, 7),
        ("b", 0, 1, None),
        ("b", 1, 1, "fridge"),
        ("c", 0, 1, "oven"),
    ]
    found = windows(table(*rows, names=names), KINDS)[0]
    assert found.kind.tolist() == [1, 0, -1, 0]
    for rule in ("sum", "last", "min", "max"):
        again = windows(table(*rows, names=names), KINDS.model_copy(update={"resample": rule}))[0]
        assert again.kind.tolist() == [1, 0, -1, 0]


def test_few_rows_and_none():
    one = table(("a", 0, 1))
    assert len(windows(one, schema())[0]) == 1
    assert windows(one, PLAIN)[0].values.shape == (0, 4, 1)  # shorter than a window: none, and no failure
    for empty in (one.iloc[:0], one.assign(id=None), one.assign(id="")):
        assert windows(empty, schema())[0].values.shape == (0, 4, 1)
    assert windows(one.iloc[:0].drop(columns="id"), schema(id=None, unit="day"))[1].ids == [""]


def test_a_table_of_which_no_time_reads_is_refused_in_one_line_but_not_by_fits():
    frame = table(("a", "soon", 1), ("secret", "later", 1))
    with pytest.raises(DataError, match="no value of column 't' reads as a time") as caught:
        windows(frame, schema())
    assert "\n" not in str(caught.value)
    assert "soon" not in str(caught.value)
    assert [len(part) for part in blocks(frame, schema(), strict=False)[0]] == [0]
    assert len(windows(pd.concat([frame, table(("a", 0, 1))]), schema())[0]) == 1
    with pytest.raises(DataError, match="no column 'x'"):
        windows(frame.drop(columns="x"), schema())


def test_columns_named_by_numbers_and_others_are_as_they_are():
    frame = table(("a", 0, 1), ("a", 1, 2)).rename(columns={"x": 7}).assign(other=object())
    same(cut(frame, schema(channels=(X.model_copy(update={"name": "7"}),))), [[1, 2, nan, nan]])


def sorted_parts(found, sources):
    """Windows by the name of their id, in their order: {name: (values, start, kind)}."""
    own = sources.owner[found.who]
    return {
        name: tuple(getattr(found, part)[own == place].tolist() for part in ("values", "start", "kind"))
        for place, name in enumerate(sources.ids)
        if (own == place).any()
    }


def test_blocks_of_ids_are_the_whole_and_units_go_on(monkeypatch):
    rng = np.random.default_rng(0)
    pairs = zip(rng.integers(0, 9, 300), rng.uniform(0, 40, 300), strict=True)
    frame = table(*((int(who), float(h), h / 5) for who, h in pairs))
    for of in (schema(), schema(unit="day"), schema(unit="window")):
        whole, names = windows(frame, of)
        for size in (1, 50, 120):
            monkeypatch.setattr(module, "_ROWS", size)
            parts = list(blocks(frame, of)[0])
            assert len(parts) > 1
            for name in (field.name for field in fields(whole)):
                np.testing.assert_array_equal(
                    np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name)
                )
        monkeypatch.undo()
        assert (np.diff(whole.unit) >= 0).all()
        assert np.unique(whole.unit).tolist() == list(range(whole.unit.max() + 1))
        assert len(names.ids) == 9


def test_a_unit_with_a_reading_here_and_there_takes_no_memory():
    """20,000 readings, each in 64 windows of 4,096 steps, would be 42 GB."""
    sparse = schema(step="1min", window="4096min", stride="64min", filled=0.5)
    frame = pd.DataFrame({"id": "a", "t": np.arange(20_000) * 30_000_000, "x": 1})
    assert len(windows(frame, sparse)[0]) == 0


def test_a_unit_has_several_series_and_their_windows_lie_together():
    several = schema(series="type", filled=1e-9)
    rows = [
        ("a", 1, 1, "oven"),
        ("b", 1, 2, "oven"),
        ("a", 5, 3, "attic"),
        ("a", 2, 4, "oven"),
        ("a", 3, 9, None),
    ]
    frame = table(*rows, names=("id", "t", "x", "type"))
    found, sources = windows(frame, several)
    assert [sources.title(who) for who in found.who] == ["a attic", "a oven", "b oven"]
    assert found.unit.tolist() == [0, 0, 1]
    days = several.model_copy(update={"unit": "day", "window": "12h", "stride": "12h"})
    frame = table(
        ("a", 1, 1, "oven"), ("a", 25, 2, "oven"), ("a", 2, 3, "attic"), names=("id", "t", "x", "type")
    )
    found, sources = windows(frame, days)
    assert found.unit.tolist() == [0, 0, 1]
    assert [sources.series[who] for who in found.who] == ["attic", "oven", "oven"]
    assert windows(frame, several.model_copy(update={"unit": "window"}))[0].unit.tolist() == list(
        range(len(windows(frame, several)[0]))
    )


# --- the law ------------------------------------------------------------------------------------------------

SCHEMAS = {
    "plain": schema(),
    "half": schema(filled=0.5),
    "held": schema(hold="2h", filled=0.5),
    "overlapping": schema(stride="2h", resample="sum", timezone="Europe/Rome"),
    "days": schema(unit="day", stride="3h", resample="max"),
    "kinds": KINDS.model_copy(update={"resample": "last"}),
    "windows": schema(unit="window", stride="5h", resample="min"),
    "mean of kinds": KINDS,
    "series": schema(series="type", filled=0.3),
    "days of series": schema(series="type", unit="day", stride="4h", window="4h", filled=0.3),
    "windows of series": schema(series="type", unit="window", filled=0.3),
}
hours = (
    st.floats(0, 30) | st.integers(0, 9) | st.sampled_from([None, "soon", "1970-01-05T03:00+01:00", 2**60])
)
readings = st.floats() | st.sampled_from([0, 1, 8, 0.1, 1 / 3, "3", None, "x", True])
rows = st.tuples(hours, readings, st.sampled_from(["oven", "7", 7.0, None, "x"]))
others = st.tuples(
    st.sampled_from(["you", 1, "1", None, ""]), hours, readings, st.sampled_from(["oven", None])
)


@pytest.mark.parametrize("name", SCHEMAS)
@settings(max_examples=25, deadline=None)
@given(st.lists(rows, max_size=10), st.lists(others, max_size=10), st.randoms())
def test_windows_of_a_unit_are_a_function_of_its_rows_alone(name, mine, theirs, random):
    """Bit for bit, and whatever the order of units is: only that of the unit's own rows may matter."""
    names, of = ("id", "t", "x", "type"), SCHEMAS[name]
    mine = [("me", *row) for row in mine]
    alone = sorted_parts(*told(table(*mine, names=names), of)).get("me")
    mixed, left = [], list(mine)
    for other in theirs:
        while left and random.random() < 0.5:
            mixed.append(left.pop(0))
        mixed.append(other)
    for frame in ([*theirs, *mine], [*mine, *theirs], [*mixed, *left]):
        np.testing.assert_equal(sorted_parts(*told(table(*frame, names=names), of)).get("me"), alone)


def told(frame, of):
    parts, names = blocks(frame, of, strict=False)
    return module.joined(list(parts), of), names
