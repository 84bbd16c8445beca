from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from privae.data.values import canonical, category_codes, column_of, distinct, numbers, widened


class Nasty:
    def __str__(self):
        raise RuntimeError("canary")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (np.float32(0.1), "0.1"),
        (np.int8(3), "3"),
        (True, "True"),
        (np.bool_(False), "False"),
        ("  a b ", "a b"),
        (b"a", "a"),
        ("\ud800", "?"),
        (None, None),
        (np.nan, None),
        (pd.NA, None),
        (pd.NaT, None),
        (Nasty(), None),
    ],
)
def test_every_value_has_one_text(value, text):
    assert canonical(value) == text


@pytest.mark.parametrize("dtype", ["object", "str", "string", "category"])
def test_numbers_are_read_alike_from_every_kind_of_text(dtype):
    said = ["1", " 2.5 ", "-1e3", "x", "inf", "true", "1_0"]
    column = pd.Series(said, dtype=dtype)
    found, gaps = numbers(column)
    np.testing.assert_array_equal(found, [1, 2.5, -1000, np.nan, np.inf, 1, np.nan])
    assert not gaps.any()


def test_gaps_are_told_from_text_that_is_no_number():
    _, gaps = numbers(pd.Series(["", "NA", "?", "x", None]))
    assert gaps.tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("dtype", ["Int64", "Float32", "float32", "int64[pyarrow]"])
def test_typed_numbers_need_no_text(dtype):
    found, gaps = numbers(pd.Series([1, 2, None] if dtype != "float32" else [1, 2, np.nan], dtype=dtype))
    np.testing.assert_array_equal(found, [1, 2, np.nan])
    assert gaps.tolist() == [False, False, True]


def test_a_short_float_is_the_decimal_that_it_would_be_written_as():
    assert widened(np.array([0.7, 0.1], dtype=np.float32)).tolist() == [0.7, 0.1]


def test_distinct_texts_point_back_to_their_records():
    places, texts = distinct(pd.Series([1, "a", 1.0, None, "1"], dtype=object))
    assert [texts[place] if place >= 0 else None for place in places] == ["1", "a", "1", None, "1"]


def arrow(kind, *values):
    return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values, kind)))


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pd.Series(pd.arrays.SparseArray([1.0, np.nan, 2.5])), ["1", None, "2.5"]),
        (pd.Series(pd.arrays.SparseArray([1, 0, 1])), ["1", "0", "1"]),
        (pd.Series(pd.period_range("2020", periods=2, freq="Y")), ["2020", "2021"]),
        (pd.Series(pd.to_datetime(["2020-01-02", None], utc=True)), ["2020-01-02 00:00:00+00:00", None]),
        (pd.Series([1j, 2]), ["1j", "(2+0j)"]),
        (arrow(pa.string_view(), "a", None, "a "), ["a", None, "a"]),
        (arrow(pa.binary(), b"a", None), ["a", None]),
        (arrow(pa.date32(), date(2020, 1, 2), None), ["2020-01-02", None]),
        (arrow(pa.list_(pa.int64()), [1, 2], None), ["[1 2]", None]),
        (arrow(pa.null(), None, None), [None, None]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_columns_of_any_type_have_texts(column, texts):
    places, found = distinct(column)
    assert [found[place] if place >= 0 else None for place in places] == texts


def test_a_category_is_matched_by_spelling_then_by_number_if_only_one_is_that_number():
    assert category_codes(["1.0", "True", "01"], ["1", "0"]).tolist() == [0, 0, 0]
    assert category_codes(["1.00"], ["1", "1.0"]).tolist() == [-1]
    assert category_codes([], ["a"]).tolist() == []


def test_a_number_too_long_to_be_written_is_a_gap():
    assert canonical(10**5000) is None


def test_a_column_is_never_given_a_type_guessed_over_all_its_values():
    assert column_of([0.5, 2**53 + 1, True]).tolist() == [0.5, 2**53 + 1, True]
    assert column_of(np.array([1, 2], dtype=np.int8)).dtype == np.int8
    typed = pd.Series([1, None], dtype="Int64", index=[5, 6])
    assert column_of(typed).dtype == "Int64"
    assert column_of(typed).index.tolist() == [0, 1]
    assert column_of(np.array(["2020", None], dtype=object)).dtype == object


@pytest.mark.parametrize("dtype", ["float16", "float32", "Float32", "float[pyarrow]", "category"])
def test_a_short_float_has_the_text_of_its_shortest_decimal(dtype):
    column = pd.Series(np.array([0.5, 0.7], np.float16 if dtype == "float16" else np.float32))
    assert distinct(column.astype(dtype))[1] == ["0.5", "0.7"]
