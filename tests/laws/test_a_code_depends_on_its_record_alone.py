"""Law: the code of a value is a function of the schema and of this value, whatever else the column holds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.data.codec import Codec, acted_table
from privae.data.images import label_codes, read_images
from privae.data.schema import Schema
from privae.data.values import canonical, distinct, numbers
from privae.models.scores import Standard
from privae.series.clock import wall_clock
from privae.series.schema import SeriesSchema
from privae.series.waves import Waves
from privae.series.windows import windows
from privae.sums.standard import clipped_codes

CODEC = Codec(
    Schema.loads(
        """
        [columns.text]
        kind = "category"
        categories = ["A", "A\\u0000", "'\\\\ud800'", "1", "True", "9007199254740993"]
        other = "other"
        missing = true
        [columns.number]
        kind = "numeric"
        bounds = [0, 10]
        bins = 10
        """
    )
)
ACTED = Codec(
    Schema.loads(
        """
        [columns.band]
        kind = "ordinal"
        missing = true
        action = "generalize"
        rule = { width = 10, low = 0, high = 90 }
        [columns.start]
        kind = "category"
        categories = ["A*", "1*", "2*"]
        other = "other"
        action = "generalize"
        rule = { prefix = 1 }
        [columns.group]
        kind = "category"
        other = "*"
        action = "generalize"
        rule = { groups = { one = ["A", "1"], "2" = ["3", "True"] } }
        [columns.year]
        kind = "numeric"
        bounds = [1900, 2025]
        integer = true
        missing = true
        action = "generalize"
        rule = { date = "year" }
        [columns.day]
        kind = "ordinal"
        missing = true
        action = "generalize"
        rule = { date = "weekday" }
        [columns.near]
        kind = "numeric"
        bounds = [-1, 10]
        missing = true
        action = "round"
        rule = { to = 0.5 }
        [columns.top]
        kind = "numeric"
        bounds = [0, 5]
        missing = true
        action = "code"
        rule = { low = 0, high = 5 }
        """
    )
)
actions = st.sampled_from(
    [
        "2024-02-29",
        "1980-01-01 10:00",
        pd.Timestamp("2001-02-03"),
        "37",
        37.5,
        "30-39",
        "90+",
        "<0",
        "A*",
        "one",
        "Thu",
        "-0.2",
        "1e400",
        7.25,
        np.float32(0.3),
        "NA",
        "1.0",
    ]
)
nasty = st.sampled_from(
    ["A", "A\0", "A\0B", "\0", "\ud800", "\\ud800", "'\\ud800'", "?", " A", "1", "1\0", "1.0", ""]
)
numeric = st.sampled_from(
    [0, 1, 1.0, True, False, -0.0, 0.0, 0.5, 2**53, 2**53 + 1, np.float32(0.1), np.int8(1), 1j, -0j]
)
cells = (
    nasty
    | numeric
    | st.none()
    | st.sampled_from([np.nan, pd.NA, b"A", (), float("inf")])
    | st.text(max_size=3)
)


def codes(values, dtype=object):
    column = pd.Series(values, dtype=dtype)
    return CODEC.encode(pd.DataFrame({"text": column, "number": column}))


@settings(max_examples=120, deadline=None)
@given(st.lists(cells, max_size=6) | st.lists(nasty | st.none(), max_size=6))
def test_a_record_is_encoded_as_if_it_were_alone(values):
    alone = [codes([value])[0] for value in values]
    np.testing.assert_array_equal(codes(values), np.array(alone).reshape(-1, 2))


@settings(max_examples=20, deadline=None)
@given(st.lists(cells | actions, max_size=4))
def test_a_record_is_acted_on_as_if_it_were_alone_and_once(values):
    """Generalizing, rounding, coding: of each record alone, so one record moves one, and every sensitivity stays."""
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name in ACTED.names})
    together = ACTED.encode(frame)
    alone = [ACTED.encode(frame.iloc[[place]])[0] for place in range(len(values))]
    np.testing.assert_array_equal(together, np.array(alone).reshape(-1, len(ACTED.names)))
    once = acted_table(frame, ACTED.schema)
    np.testing.assert_array_equal(ACTED.encode(once), together)
    again = acted_table(once, ACTED.schema)
    texts = [[canonical(value) for value in table.to_numpy(dtype=object).ravel()] for table in (once, again)]
    assert texts[0] == texts[1]


def test_synthetic_records_are_read_as_what_they_are():
    codes = np.stack([np.arange(300) % size for size in ACTED.sizes], 1)
    made = ACTED.decode(codes, np.random.default_rng(0))
    np.testing.assert_array_equal(ACTED.encode(made, strict=True), codes)


@settings(max_examples=300, deadline=None)
@given(st.lists(cells, max_size=6) | st.lists(nasty | st.none(), max_size=6))
def test_the_text_of_a_record_is_its_own(values):
    places, texts = distinct(pd.Series(values, dtype=object))
    assert [texts[place] if place >= 0 else None for place in places] == [canonical(v) for v in values]
    assert len(set(texts)) == len(texts)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=3) | st.none(), max_size=6),
    st.sampled_from(["str", "string", "string[python]", "string[pyarrow]"]),
)
def test_text_reads_alike_in_every_memory(values, dtype):
    np.testing.assert_array_equal(codes(values, dtype), codes(values))


@pytest.mark.parametrize("first", ["A\0", "A\0B", "\ud800", "\\ud800", "1\0", 0.5, 1j])
def test_one_nasty_record_moves_no_other(first):
    rest = ["A", "1", "'\\ud800'", 2**53 + 1, 3, "5"] * 3
    np.testing.assert_array_equal(codes([first, *rest])[1:], codes(rest))
    texts = [value for value in rest if isinstance(value, str)]
    np.testing.assert_array_equal(codes([first, *texts])[1:], codes(texts))
    np.testing.assert_array_equal(
        numbers(pd.Series([first, *rest], dtype=object))[0][1:], numbers(pd.Series(rest, dtype=object))[0]
    )


@pytest.mark.parametrize("first", [0.5, "1\0x", "\ud800", None, True])
def test_one_nasty_label_moves_no_other(first):
    large = 2**53 + 1
    assert label_codes([first, large, 1, "1"], ["1", str(large)])[1:].tolist() == [1, 0, 0]


def test_one_nasty_label_in_a_file_moves_no_other(tmp_path):
    np.savez(tmp_path / "i.npz", x=np.zeros((3, 1, 1), np.uint8), y=np.array(["1\0x", "1", "1\0y"]))
    assert read_images(tmp_path / "i.npz")[1].tolist() == ["1\0x", "1", "1\0y"]


@settings(max_examples=100, deadline=None)
@given(st.lists(cells, max_size=6), st.sampled_from([None, "Europe/Rome"]))
def test_a_time_reads_as_if_it_were_alone(values, zone):
    alone = [wall_clock(pd.Series([value], dtype=object), zone)[0] for value in values]
    assert wall_clock(pd.Series(values, dtype=object), zone).tolist() == alone


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(cells, st.integers(0, 30), cells, cells), max_size=8))
def test_the_codes_of_a_window_are_its_own(rows):
    """Each household's windows, standardized and clipped, bit for bit as if the others were not there."""
    channels = (CODEC.schema.columns[1], CODEC.schema.columns[0])
    waves = Waves(SeriesSchema(id="id", time="t", step="1h", window="8h", filled=0.1, channels=channels), 3)
    standard = Standard(*waves.usual, waves.layout.grid.low, waves.layout.grid.width)
    frame = pd.DataFrame(
        [(who, 3600 * h, *more) for who, h, *more in rows],
        columns=["id", "t", "number", "text"],
        dtype=object,
    )

    def codes_of(part):
        found, names = windows(part, waves.schema)
        return {
            name: clipped_codes(waves.numbers(found.at(found.who == i)), standard).tolist()
            for i, name in enumerate(names.ids)
        }

    found = windows(frame, waves.schema)[0]
    together, whole = codes_of(frame), clipped_codes(waves.numbers(found), standard).tolist()
    assert whole == [code for name in together for code in together[name]]
    for name in together:
        mine = frame.loc[[canonical(value) == name for value in frame["id"]]]
        assert codes_of(mine)[name] == together[name]
