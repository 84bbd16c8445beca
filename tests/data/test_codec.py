import numpy as np
import pandas as pd
import pytest

from privae.data.codec import Codec, text_codes
from privae.data.column import Column
from privae.data.schema import Schema
from privae.errors import DataError, UsageError

SCHEMA = Schema.loads("""
[table]
label = "sick"
[columns.age]
kind = "numeric"
bounds = [0, 120]
unit = 1
bins = 20
missing = true
[columns.ward]
kind = "category"
categories = ["A", "B"]
other = "other"
[columns.grade]
kind = "ordinal"
categories = [1, 2, 3]
missing = true
[columns.note]
kind = "category"
action = "drop"
[columns.sick]
kind = "boolean"
""")


@pytest.fixture
def codec():
    return Codec(SCHEMA)


def test_cells_are_categories_then_other_then_missing(codec):
    assert codec.names == ("age", "ward", "grade", "sick")
    assert codec.sizes.tolist() == [21, 3, 4, 2]
    assert codec.offsets.tolist() == [0, 21, 24, 28, 30]
    assert codec.label == 3


def test_a_hand_made_table_has_the_codes_one_expects(codec):
    frame = pd.DataFrame(
        {
            "sick": ["True", "no", 1, None],
            "age": ["6", "1e9", "x", "-3"],
            "ward": ["A", "Z", " B", None],
            "grade": [1.0, "3", "?", "9"],
        }
    )
    assert codec.encode(frame).tolist() == [[1, 0, 0, 1], [19, 2, 2, 0], [20, 1, 3, 1], [0, -1, -1, -1]]


def test_text_and_types_have_the_same_codes(codec, tmp_path):
    typed = pd.DataFrame(
        {"age": [5.0, None], "ward": ["A", "B"], "grade": [1.0, None], "sick": [True, False]}
    )
    typed.to_csv(tmp_path / "t.csv", index=False)
    text = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    assert (codec.encode(typed) == codec.encode(text)).all()


def test_a_table_to_score_may_lack_the_label_and_nothing_else(codec):
    frame = pd.DataFrame({"age": [1], "ward": ["A"], "grade": [1]})
    assert codec.encode(frame)[:, 3].tolist() == [-1]
    with pytest.raises(DataError, match="no column 'ward'"):
        codec.encode(frame.drop(columns="ward"))
    with pytest.raises(DataError, match="two columns named 'age'"):
        codec.encode(pd.concat([frame, frame], axis=1))


@pytest.mark.parametrize(
    ("column", "value"),
    [("age", "canary"), ("age", "121"), ("ward", "canary"), ("ward", ""), ("sick", "canary")],
)
def test_strict_names_the_column_and_nothing_of_the_data(codec, column, value):
    frame = pd.DataFrame({"age": ["1"], "ward": ["A"], "grade": [""], "sick": ["True"]})
    codec.encode(frame, strict=True)
    with pytest.raises(DataError) as caught:
        codec.encode(frame.assign(**{column: value}), strict=True)
    assert f"'{column}'" in str(caught.value)
    assert not value or value not in str(caught.value)


def test_records_come_back_in_the_order_and_types_of_the_schema(codec):
    frame = codec.decode(np.array([[20, 2, 3, 1], [0, 0, 0, 0]]), np.random.default_rng(0))
    assert frame.columns.tolist() == ["age", "ward", "grade", "sick"]
    assert [str(dtype) for dtype in frame.dtypes] == ["Int64", str(pd.Series(["a"]).dtype), "Int64", "bool"]
    assert frame.isna().to_numpy().tolist() == [[True, False, True, False], [False] * 4]
    assert frame["ward"].tolist() == ["other", "A"]
    assert 0 <= frame["age"][1] <= 5


def test_a_code_of_minus_one_comes_back_as_a_gap(codec):
    frame = codec.decode(np.full((2, 4), -1), np.random.default_rng(0))
    assert frame.isna().all().all()


def test_no_records_decode_to_no_records_with_the_same_types(codec):
    frame = codec.decode(np.empty((0, 4), dtype=np.int32), np.random.default_rng(0))
    assert frame.shape == (0, 4)
    assert str(frame["sick"].dtype) == "bool"
    assert codec.encode(frame).shape == (0, 4)


def test_codes_outside_the_cells_are_refused(codec):
    with pytest.raises(UsageError, match="outside"):
        codec.decode(np.array([[21, 0, 0, 0]]), np.random.default_rng(0))
    with pytest.raises(UsageError, match="shape"):
        codec.decode(np.zeros((1, 3), dtype=int), np.random.default_rng(0))


def test_onehot_has_a_one_a_column_and_none_for_minus_one(codec):
    hot = codec.onehot(np.array([[1, 0, 3, -1]]))
    assert hot.shape == (1, 30)
    assert np.flatnonzero(hot[0]).tolist() == [1, 21, 27]


def test_numbers_are_rounded_to_the_unit_and_uniform_in_their_bin():
    codec = Codec(Schema(columns=(Column(name="x", kind="numeric", edges=(0, 1, 2.05), decimals=1),)))
    drawn = codec.decode(np.ones((2000, 1), dtype=int), np.random.default_rng(0))["x"]
    assert sorted(set(drawn)) == [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]


def test_few_whole_numbers_have_a_bin_each():
    column = Column(name="x", kind="numeric", bounds=(1, 5), unit=1)
    codec = Codec(Schema(columns=(column,)))
    assert codec.sizes.tolist() == [5]
    assert codec.encode(pd.DataFrame({"x": [1, 2, 3, 4, 5, 99, -99]}))[:, 0].tolist() == [0, 1, 2, 3, 4, 4, 0]


def test_an_ordinal_of_dtype_category_comes_back_ordered():
    column = Column(name="x", kind="ordinal", categories=("low", "high"), dtype="category")
    frame = Codec(Schema(columns=(column,))).decode(np.array([[1], [0]]), np.random.default_rng(0))
    assert frame["x"].cat.ordered
    assert frame["x"].cat.categories.tolist() == ["low", "high"]


def test_a_declared_category_that_looks_like_a_gap_is_a_category():
    column = Column(name="x", kind="category", categories=("NA", "EU"), missing=True)
    codes = Codec(Schema(columns=(column,))).encode(pd.DataFrame({"x": ["NA", "", None]}))
    assert codes[:, 0].tolist() == [0, 2, 2]


def test_categories_that_are_not_bought_yet_make_no_codec():
    with pytest.raises(UsageError, match="still to be bought"):
        Codec(Schema(columns=(Column(name="x", kind="category", categories="bought"),)))


def test_texts_to_buy_are_sorted_and_leave_gaps_out():
    places, texts = text_codes(pd.Series(["b", " a", "", None, "b", 1.0], dtype=object))
    assert texts == ["1", "a", "b"]
    assert places.tolist() == [2, 1, -1, -1, 2, 0]
    assert text_codes(pd.Series([], dtype=object))[1] == []
