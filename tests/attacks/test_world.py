"""Records as numbers: in units of their declared range, texts by codes that all tables share, gaps apart."""

import numpy as np
import pandas as pd
import pytest

from privae.attacks.world import Vocabulary, World, drawn, joint, pixels
from privae.data.column import Column
from privae.data.schema import Schema
from privae.errors import UsageError

SCHEMA = Schema(
    columns=(
        Column(name="age", kind="numeric", bounds=(0, 100), bins=4, integer=True, missing=True),
        Column(name="job", kind="category", categories="bought", other="else"),
        Column(name="ill", kind="boolean"),
        Column(name="note", kind="category", action="drop"),
    )
)


def frame(**columns):
    given = {"age": [25, 100], "job": ["cook", "nurse"], "ill": [True, False], "note": ["a", "b"]}
    return pd.DataFrame(given | columns)


def test_numbers_are_in_units_of_their_range_and_texts_are_codes():
    records = Vocabulary(SCHEMA).records(frame())
    assert records.names == ("age", "job", "ill")
    assert records.numeric.tolist() == [True, False, False]
    assert records.values[:, 0].tolist() == [0.25, 1.0]
    assert records.values[0, 1] != records.values[1, 1]
    assert len(records) == 2
    assert records[[1]].values.tolist() == [records.values[1].tolist()]


def test_equal_texts_have_equal_codes_in_every_table_of_an_audit():
    words = Vocabulary(SCHEMA)
    first = words.records(frame()).values
    again = words.records(frame(job=["nurse", "diver"])).values
    assert again[0, 1] == first[1, 1]
    assert again[1, 1] not in first[:, 1]
    text = words.records(frame(ill=["True", "False"])).values  # as a CSV has it
    assert text[:, 2].tolist() == first[:, 2].tolist()


def test_a_gap_is_less_than_any_value_and_what_lies_outside_is_near_its_end():
    values = (
        Vocabulary(SCHEMA).records(frame(age=[None, 100_000.0], job=[None, "cook"], ill=[None, True])).values
    )
    assert values[0].tolist() == [-1.0, -1.0, -1.0]
    assert values[1, 0] == 1.5
    assert Vocabulary(SCHEMA).records(frame(age=[-1e9, np.inf])).values[:, 0].tolist() == [-0.5, 1.5]


def test_text_numbers_read_as_numbers_and_what_is_none_is_a_gap():
    values = Vocabulary(SCHEMA).records(frame(age=["50", "old"])).values
    assert values[:, 0].tolist() == [0.5, -1.0]


def test_a_table_without_a_column_is_refused_by_its_name():
    with pytest.raises(UsageError, match="no column 'job'"):
        Vocabulary(SCHEMA).records(frame().drop(columns="job"))


def test_a_schema_of_nothing_and_a_table_of_nobody_are_records_too():
    empty = Vocabulary(SCHEMA).records(frame().iloc[:0])
    assert empty.values.shape == (0, 3)
    nothing = Schema(columns=(Column(name="note", kind="category", action="drop"),))
    assert Vocabulary(nothing).records(frame()).values.shape == (2, 0)


def test_images_are_their_pixels():
    records = pixels(np.array([[[0, 255], [51, 0]]], np.uint8))
    assert records.values.tolist() == [[0.0, 1.0, 0.2, 0.0]]
    assert records.numeric.all()
    assert records.names[3] == "pixel 3"


def test_different_texts_are_one_apart_and_equal_ones_at_one_place():
    words = Vocabulary(SCHEMA)
    points = joint(words.records(frame()), words.records(frame(age=[25, 25])))
    assert [len(each) for each in points] == [2, 2]
    gap = np.linalg.norm(points[0][0] - points[1][1])
    assert gap == pytest.approx(np.sqrt(2))  # other job, other answer
    assert np.linalg.norm(points[0][0] - points[1][0]) == 0.0


def test_rare_texts_share_axes_and_frequent_ones_have_their_own():
    words = Vocabulary(SCHEMA)
    many = pd.DataFrame(
        {"age": 1, "job": [*("abcdefgh" * 20), *map(str, range(500))], "ill": True, "note": "x"}
    )
    (points,) = joint(words.records(many))
    assert points.shape == (660, 1 + 64 + 1)
    eight = np.unique(points[:160], axis=0)
    assert len(eight) == 8
    assert len(np.unique(points, axis=0)) == 64


def test_few_are_drawn_of_many_and_all_of_few():
    rng = np.random.default_rng(0)
    places = drawn(100, 10, rng)
    assert len(set(places.tolist())) == 10
    assert (np.diff(places) > 0).all()
    assert drawn(3, 10, rng).tolist() == [0, 1, 2]
    assert drawn(0, 10, rng).tolist() == []


def test_a_world_draws_the_same_lots_at_every_call_and_shows_no_record():
    known = Vocabulary(SCHEMA).records(frame())
    world = World(frame(), frame(), known, known, seed=3)
    assert world.rng.random() == world.rng.random() == np.random.default_rng(3).random()
    assert "cook" not in repr(world)
    assert "0.25" not in repr(known)
