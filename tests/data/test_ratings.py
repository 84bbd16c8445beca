"""Ratings: what counts as liked, once a person and item, whoever else there is."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.data.ratings import RatingSchema, named, profiles, table_of
from privae.data.schema import Schema
from privae.errors import DataError, UsageError
from privae.series.schema import read_schema

ITEMS = ("a", "b", "c", "7")
PLAIN = RatingSchema(person="who", item="what", items=ITEMS)
VALUED = PLAIN.model_copy(update={"value": "stars", "like": 4.0})
TIMED = VALUED.model_copy(update={"time": "when"})


def table(*rows, names=("who", "what", "stars", "when")):
    return pd.DataFrame(rows, columns=list(names)[: len(rows[0])] if rows else list(names), dtype=object)


def liked(frame, schema):
    found = profiles(frame, schema, ITEMS)
    return {name: {ITEMS[i] for i in found.likes[[row]].indices} for row, name in enumerate(found.persons)}


def test_every_row_counts_once_a_person_and_item_where_no_value_is_declared():
    frame = table(
        ("x", "a"), ("x", "a"), ("y", "c"), ("x", "b"), ("y", "unknown"), ("z", None), (None, "a"), ("", "a")
    )
    assert liked(frame, PLAIN) == {"x": {"a", "b"}, "y": {"c"}, "z": set()}
    found = profiles(frame, PLAIN, ITEMS)
    assert set(found.likes.data.tolist()) == {1}
    assert found.persons == ("x", "y", "z")
    assert "x" not in repr(found)


def test_a_value_counts_from_the_declared_one_on_negative_ones_and_gaps_do_not():
    rows = [
        ("x", "a", 4),
        ("x", "b", 3.99),
        ("x", "c", -5),
        ("x", "7", math.nan),
        ("y", "a", "5"),
        ("y", "b", "good"),
    ]
    assert liked(table(*rows), VALUED) == {"x": {"a"}, "y": {"a"}}
    below = VALUED.model_copy(update={"like": -5.0})
    assert liked(table(*rows), below)["x"] == {"a", "b", "c"}


def test_of_several_rows_about_one_item_the_latest_counts_or_without_time_any():
    rows = [
        ("x", "a", 5, 1),
        ("x", "a", 1, 2),
        ("x", "b", 1, 10),
        ("x", "b", 5, 9),
        ("x", "c", 5, None),
        ("x", "c", 1, 0),
    ]
    assert liked(table(*rows), TIMED) == {"x": set()}
    assert liked(table(*rows), VALUED) == {"x": {"a", "b", "c"}}
    dates = [
        ("x", "a", 1, "2026-01-02"),
        ("x", "a", 5, "2026-11-30"),
        ("x", "b", 5, "2025-12-31"),
        ("x", "b", 1, "2026-01-01"),
    ]
    assert liked(table(*dates), TIMED) == {"x": {"a"}}


def test_numbers_name_items_and_persons_as_a_file_would_write_them():
    frame = pd.DataFrame({"who": [1.0, 1, 2], "what": [7, 7.0, 7]})
    assert liked(frame, PLAIN) == {"1": {"7"}, "2": {"7"}}


cells = st.sampled_from(["x", "x\0", "a", "b", "7", 7, 7.0, "7.0", "", None, "zz", math.nan])
rows = st.lists(
    st.tuples(
        st.sampled_from(["x", "y", 1, "1", None, ""]),
        cells,
        st.sampled_from([1, 4, 5, "5", None, "x"]),
        cells,
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(rows, rows)
def test_what_a_person_likes_is_a_function_of_their_own_rows(mine, others):
    """Rows of others, before and after, change nothing."""
    mine = [("me", *row[1:]) for row in mine]
    alone = liked(table(*mine), TIMED).get("me", set())
    assert liked(table(*others, *mine), TIMED).get("me", set()) == alone
    assert liked(table(*mine, *others), TIMED).get("me", set()) == alone


def test_times_that_differ_in_a_last_nul_are_told_apart_whoever_else_there_is():
    """Arrays of text would lose the NUL, and the tie would fall to the order in which others' rows brought them."""
    mine = [("me", "a", 5, "x"), ("me", "a", 1, "x\0")]
    for other in ([], [("you", "b", 5, "x\0")], [("you", "b", 5, "x")]):
        assert liked(table(*other, *mine), TIMED)["me"] == set()


def test_one_very_long_cell_takes_no_more_memory_than_itself():
    rows = [("me", "a", 5, f"t{i}") for i in range(3000)] + [("you", "b", 5, "z" * 10**7)]
    assert liked(table(*rows), TIMED) == {"me": {"a"}, "you": {"b"}}


def test_a_million_rows_of_one_person_are_one_profile():
    frame = pd.DataFrame({"who": np.zeros(10**6, int), "what": np.tile(["a", "b"], 500_000)})
    assert liked(frame, PLAIN) == {"0": {"a", "b"}}


def test_a_schema_survives_its_file_and_says_which_of_two_kinds_it_is(tmp_path):
    made = TIMED.model_copy(update={"rows": 300, "items": ('odd "name"', "b", "ü")})
    made.save(tmp_path / "s.toml")
    assert RatingSchema.load(tmp_path / "s.toml") == made
    assert RatingSchema.loads(made.dumps()).hash == made.hash
    assert isinstance(read_schema(tmp_path / "s.toml"), RatingSchema)
    (tmp_path / "t.toml").write_text('[columns.x]\nkind = "boolean"\n')
    assert isinstance(read_schema(tmp_path / "t.toml"), Schema)
    (tmp_path / "marked.toml").write_text("\ufeff" + made.dumps())
    assert read_schema(tmp_path / "marked.toml") == made
    (tmp_path / "broken.toml").write_text("[ratings")
    with pytest.raises(UsageError, match="not valid TOML"):
        read_schema(tmp_path / "broken.toml")
    assert RatingSchema.loads('[ratings]\nperson = "p"\nitem = "i"\n').items == "bought"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[other]", "unknown key 'other'"),
        ("ratings = 3", "not a section"),
        ('[ratings]\nperson = "p"\nitem = "i"\n[columns.x]\nkind = "boolean"', "unknown key 'columns'"),
        ('[ratings]\nperson = "p"', "item: field required"),
        ('[ratings]\nperson = "p"\nitem = "i"\nfilm = 3', "unknown key 'film'"),
        ('[ratings]\nperson = "p"\nitem = "i"\nitems = 3', "items"),
    ],
)
def test_what_is_no_schema_is_refused_in_one_line(text, says):
    with pytest.raises(UsageError, match=says):
        RatingSchema.loads(text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"item": "who"}, "one column twice"),
        ({"like": 3.0}, "go together"),
        ({"value": "stars"}, "go together"),
        ({"value": "stars", "like": math.nan}, "must be a number"),
        ({"rows": 0}, "at least 1"),
        ({"item": "score"}, "may not be named score"),
        ({"items": ("a",)}, "at least two"),
        ({"items": ("a", "")}, "none of them empty"),
        ({"items": ("a", "b", "a")}, "one name twice"),
    ],
)
def test_contradictions_are_refused_in_one_line(change, says):
    with pytest.raises(UsageError, match=says):
        PLAIN.model_copy(update=change).check()


def test_columns_that_lack_or_come_twice_are_named_and_others_are_not_read():
    with pytest.raises(DataError, match="no column 'what'"):
        profiles(pd.DataFrame({"who": []}), PLAIN, ITEMS)
    with pytest.raises(DataError, match="more than one column 'who'"):
        profiles(pd.DataFrame([[1, 2, 3]], columns=["who", "who", "what"]), PLAIN, ITEMS)
    assert liked(pd.DataFrame([["x", "a", object()]], columns=["who", "what", 3]), PLAIN) == {"x": {"a"}}


def test_profiles_come_back_as_the_table_they_are_of():
    frame = table(("x", "a", 5), ("x", "7", 4), ("y", "b", 4))
    made = table_of(profiles(frame, VALUED, ITEMS).likes, VALUED)
    assert made.columns.tolist() == ["who", "what", "stars"]
    assert made.values.tolist() == [[1, "a", 4.0], [1, "7", 4.0], [2, "b", 4.0]]
    assert liked(made, VALUED) == {"1": {"a", "7"}, "2": {"b"}}
    assert liked(named(["a", 7, "nothing"], TIMED), TIMED) == {"1": {"a", "7"}}
    assert named(frame, TIMED) is frame
    assert liked(named([], TIMED), TIMED) == {"1": set()}
    with pytest.raises(UsageError, match="a list of one"):
        named("a", TIMED)
    own = table_of(profiles(frame, VALUED, ITEMS).likes, TIMED)
    assert liked(own, TIMED) == {"1": {"a", "7"}, "2": {"b"}}


def test_no_rows_are_no_persons():
    found = profiles(table(), VALUED, ITEMS)
    assert (len(found), found.likes.shape) == (0, (0, 4))
