import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.sums import quantiles
from privae.sums.quantiles import Grid, counts, grid, pooled, totals

TWO = Grid(np.array([0.0, -1.0]), np.array([16.0, 2.0]), np.array([2, 1]), np.array([4.0, 2.0]))


def read(values, of=TWO, deviation=0.0, seed=0):
    noise = np.random.default_rng(seed).normal(size=of.size) * deviation
    released = counts(of.places(values), of) + noise
    return quantiles.quantiles(released, of, float(len(values)), deviation)


def test_levels_follow_from_bounds_and_units_alone():
    made = grid([0, 0, -1000, 0], [1, 120, 1000, 1], [1, 1, 0.001, 1e-12])
    assert made.levels.tolist() == [1, 5, 8, 8]  # 4, 480, 8,000,000 and more cells; 4^8 at most
    assert made.squared == 22
    assert len(made) == 4
    assert made.size == 4 * 4 + 3 * (16 + 64 + 256 + 1024) + 2 * (4**6 + 4**7 + 4**8) + 4


def test_counts_by_hand():
    values = np.array([[0.0, -1.0], [3.9, 0.99], [5.0, math.nan], [math.inf, 1.0], [-7.0, math.nan]])
    found = counts(TWO.places(values), TWO)
    first = [3, 1, 0, 1, 1, 0, 0, 2]
    second = [2, 0, 0, 1, 0, 1, 0, 0, *[0] * 4, 0, 0, 0, 1]
    assert found.tolist() == [*first, *second, 0, 2]
    assert found.dtype == np.int64
    assert totals(found.astype(float), TWO).tolist() == [5, 5]
    assert counts(TWO.places(values[:0]), TWO).tolist() == [0] * TWO.size


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.floats(), st.floats()), st.tuples(st.floats(), st.floats()))
def test_a_record_is_a_vector_of_at_most_so_many_ones(one, other):
    a, b = (counts(TWO.places(np.array([row])), TWO) for row in (one, other))
    assert set(a.tolist()) <= {0, 1}
    assert a.sum() <= TWO.squared == 3
    assert np.linalg.norm(a - b) <= math.sqrt(2 * TWO.squared)


def test_a_whole_record_uses_up_the_sensitivity():
    assert counts(TWO.places(np.array([[1.0, 0.0]])), TWO).sum() == TWO.squared


def test_without_noise_the_functions_are_those_of_the_cells():
    values = np.random.default_rng(0).random((4000, 2)) * [16, 2] - [0, 1]
    found = read(values)
    edges = np.array([[1.0, -0.5], [6.0, 0.0], [15.0, 0.5]])
    expected = [[(values[:, j] < edge).mean() for j, edge in enumerate(row)] for row in edges]
    assert found.below(edges) == pytest.approx(np.array(expected), abs=1e-12)
    assert found.gaps.tolist() == [0, 0]


def test_gaps_have_a_share_and_take_no_part_in_the_function():
    values = np.array([[1.0, math.nan]] * 3 + [[15.0, 0.9]])
    found = read(values)
    assert found.gaps.tolist() == [0, 0.75]
    assert found.below(np.array([[8.0, 0.4]])) == pytest.approx(np.array([[0.75, 0.0]]))


@pytest.mark.parametrize(("bounds", "unit"), [((0, 1), 0.001), ((-50, 50), 0.1), ((0, 1e6), 1)])
def test_one_tree_reads_columns_of_any_scale(bounds, unit):
    """Where the values fill a thousandth of the bounds, the descent is fine; where they fill it all, it is coarse."""
    rng = np.random.default_rng(1)
    of = grid([bounds[0]], [bounds[1]], [unit])
    for scale in (1.0, 0.01):
        values = bounds[0] + (bounds[1] - bounds[0]) * scale * rng.random((5000, 1))
        found = read(values, of, deviation=30.0)
        expected = np.quantile(values, [0.15, 0.5, 0.85])
        error = np.abs(found.at(np.array([[0.15], [0.5], [0.85]]))[:, 0] - expected)
        assert error.max() < 0.06 * scale * (bounds[1] - bounds[0]) + unit


def test_noise_alone_gives_no_shape():
    """Nodes are not divided where nothing stands out, so quantiles are those of the bounds."""
    of = grid([0.0], [1.0], [0.001])
    released = np.full(of.size, 1.0)
    found = quantiles.quantiles(released, of, 4.0, 10.0)
    shares = np.array([[0.1], [0.5], [0.9]])
    assert found.at(shares) == pytest.approx(shares)


def test_functions_rise_from_none_to_all_whatever_was_released():
    rng = np.random.default_rng(3)
    of = grid([0.0, -5.0], [1.0, 5.0], [0.01, 1.0])
    for deviation in (0.0, 1.0, 100.0):
        found = quantiles.quantiles(rng.normal(size=of.size) * 50, of, 10.0, deviation)
        for part in (found.place, found.share):
            assert (np.diff(part) >= 0).all()
            assert (part[:, 0] == 0).all()
            assert (part[:, -1] == 1).all()
        assert ((found.gaps >= 0) & (found.gaps <= 1)).all()


def test_the_number_of_records_is_pooled_by_the_noise_of_each_column():
    more = np.array([10])
    assert pooled(np.array([100.0, 100.0, 100.0]), TWO, more) == pytest.approx(100)
    assert pooled(np.array([100.0, 100.0, 0.0]), TWO, more) == pytest.approx(100 * 0.4 / 0.5)
    assert quantiles.deviation_of_total(TWO, 2.0, more) == pytest.approx(2 / math.sqrt(0.5))
