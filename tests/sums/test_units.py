"""Units of several records: each moves the sums as one record does at most, and one record counts as ever."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.sums import moments, units
from privae.sums.moments import BOUND, SENSITIVITY
from privae.sums.quantiles import Layout, grid
from privae.sums.units import REPLACE_RATIO, WHOLE

LAYOUT = Layout(grid([0.0, -1.0], [1.0, 1.0], [0.01, 0.1]), np.array([3, 2]))
ROUNDING = 1 + 1e-12
SIZES = (1, 2, 3, 4, 5, 6, 7, 1000)


def codes_of(kind, windows, size=3, seed=0):
    """Integer codes of norm at most BOUND: [windows, size]."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((windows, size))
    if kind == "equal":
        rows = np.repeat([[1.0] + [0.0] * (size - 1)], windows, 0)
    if kind == "opposite":
        rows = np.eye(size)[np.zeros(windows, int)] * (1 - 2 * (np.arange(windows) % 2))[:, None]
    if kind == "apart":
        rows = np.eye(size)[np.arange(windows) % size]
    inside = np.trunc(rows / np.linalg.norm(rows, axis=1, keepdims=True) * BOUND).astype(np.int64)
    return inside if kind != "least" else rng.integers(-1, 2, (windows, size))


def norm(total, weight):
    return math.sqrt(math.fsum(float(w * x) ** 2 for w, x in zip(weight, total.tolist(), strict=True)))


@pytest.mark.parametrize("windows", SIZES)
@pytest.mark.parametrize("kind", ["equal", "opposite", "apart", "random", "least"])
def test_a_unit_moves_moments_by_at_most_the_sensitivity_and_a_replaced_one_by_its_ratio(kind, windows):
    weight = moments.weights(3)[0]
    mine = codes_of(kind, windows)
    own = units.sums(mine, np.zeros(windows, np.int64))
    assert norm(own, weight) <= SENSITIVITY * ROUNDING
    if kind == "equal":
        assert norm(own, weight) > SENSITIVITY * 0.999
    for other in ("equal", "opposite", "apart", "random"):
        theirs = units.sums(-codes_of(other, 7, seed=1), np.zeros(7, np.int64))
        assert norm(own - theirs, weight) <= REPLACE_RATIO * SENSITIVITY * ROUNDING


def test_two_units_use_up_the_ratio_of_a_replacement_nearly():
    """Opposite means, and second moments of directions apart, cannot be had at once: sqrt(3) bounds both."""
    weight = moments.weights(2)[0]
    right, up = np.array([[BOUND, 0]]), np.array([[0, BOUND]])
    one, other = (units.sums(codes, np.zeros(1, np.int64)) for codes in (right, up))
    assert norm(one - other, weight) == pytest.approx(math.sqrt(2 + 0.5))
    assert norm(one - other, weight) <= REPLACE_RATIO * SENSITIVITY


@pytest.mark.parametrize("windows", SIZES)
def test_a_unit_counts_once_a_level_and_column_at_most(windows):
    rng, unit = np.random.default_rng(windows), np.zeros(windows, np.int64)
    for values in (
        np.full((windows, 2), 0.5),
        rng.uniform(-1, 1, (windows, 2)),
        np.full((windows, 2), np.nan),
    ):
        codes = np.stack([rng.integers(-1, 3, windows), np.ones(windows, np.int64)], 1)
        found = units.counts(values, codes, unit, LAYOUT)
        assert norm(found, np.ones(len(found))) <= WHOLE * LAYOUT.sensitivity * ROUNDING
        assert found.min() >= 0
        other = units.counts(values[:1] + 0.3, codes[:1] * 0 + 1, unit[:1], LAYOUT)
        assert (
            norm(found - other, np.ones(len(found))) <= math.sqrt(2) * WHOLE * LAYOUT.sensitivity * ROUNDING
        )
    whole = units.counts(np.full((windows, 2), 0.5), codes * 0, unit, LAYOUT)
    assert norm(whole, np.ones(len(whole))) > 0.999 * WHOLE * LAYOUT.sensitivity


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(-BOUND, BOUND), min_size=2, max_size=2), min_size=1, max_size=12))
def test_units_of_one_window_add_what_records_do(rows):
    codes = np.array(rows, np.int64)
    codes = codes[(codes.astype(object) ** 2).sum(1) <= BOUND**2]
    each = np.arange(len(codes))
    np.testing.assert_array_equal(units.sums(codes, each), moments.sums(codes))
    values = codes / BOUND
    np.testing.assert_array_equal(
        units.counts(values, np.zeros((len(codes), 2), np.int64), each, LAYOUT),
        WHOLE * LAYOUT.counts(values, np.zeros((len(codes), 2), np.int64)),
    )


def test_sums_are_those_of_the_means_and_of_all_units():
    codes, unit = codes_of("random", 10), np.array([0, 0, 0, 1, 2, 2, 2, 2, 3, 3])
    whole = units.sums(codes, unit)
    parts = [units.sums(codes[unit == u], np.zeros((unit == u).sum(), np.int64)) for u in range(4)]
    np.testing.assert_array_equal(whole, np.sum(parts, 0))
    found = moments.unpack(whole.astype(float), 3)
    means = np.stack([codes[unit == u].mean(0) for u in range(4)])
    assert found.first == pytest.approx(means.sum(0), abs=4)
    second = sum(codes[unit == u].T @ codes[unit == u] / (unit == u).sum() for u in range(4))
    assert found.second / BOUND**2 == pytest.approx(second / BOUND**2, abs=1e-5)
    assert found.count == 4


def test_no_units_are_zeros_and_more_windows_than_counts_can_share_count_for_none():
    none = np.zeros(0, np.int64)
    assert not units.sums(np.zeros((0, 3), np.int64), none).any()
    assert not units.counts(np.zeros((0, 2)), np.zeros((0, 2), np.int64), none, LAYOUT).any()
    many = WHOLE + 1
    layout = Layout(grid([0.0], [1.0], [1.0]), none)
    assert not units.counts(
        np.zeros((many, 1)), np.zeros((many, 0), np.int64), np.zeros(many, np.int64), layout
    ).any()
    own = units.sums(np.full((many, 1), BOUND), np.zeros(many, np.int64))
    assert 0.99 * SENSITIVITY < norm(own, moments.weights(1)[0]) <= SENSITIVITY
