import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.sums import moments
from privae.sums.moments import BOUND, REPLACE_RATIO, SENSITIVITY


def weighted(row):
    return moments.sums(row[None]) * moments.weights(len(row))[0]


def test_the_sensitivities_are_those_of_rule_7_and_10():
    assert pytest.approx(1.1225, abs=1e-4) == SENSITIVITY
    assert pytest.approx(math.sqrt(2 + 2 / 4 + 1 / 32)) == SENSITIVITY * REPLACE_RATIO


def test_a_record_on_the_bound_moves_the_release_by_exactly_the_sensitivity():
    for row in (np.array([BOUND, 0, 0]), np.array([BOUND * 3 // 5 // 4 * 4, 0, BOUND * 4 // 5 // 4 * 4])):
        assert np.linalg.norm(weighted(row)) == pytest.approx(SENSITIVITY, rel=1e-4)
        assert np.linalg.norm(weighted(row)) <= SENSITIVITY


def test_the_worst_replacement_comes_close_to_the_replace_one_figure():
    """At |z| = |w| = R and cosine -a^2 / 2 = -1/8 (guarantees.md rule 10)."""
    angle = math.acos(-1 / 8)
    one = np.array([BOUND, 0])
    other = np.trunc(BOUND * np.array([math.cos(angle), math.sin(angle)])).astype(np.int64)
    moved = np.linalg.norm(weighted(one) - weighted(other))
    assert moved == pytest.approx(SENSITIVITY * REPLACE_RATIO, rel=1e-5)
    assert moved <= SENSITIVITY * REPLACE_RATIO


def test_sums_by_hand():
    assert moments.sums(np.array([[1, 2], [3, -4]])).tolist() == [10, -10, 20, 4, -2, 2]
    assert moments.sums(np.zeros((0, 2), np.int64)).tolist() == [0] * 6


def test_sums_are_exact_at_the_bound():
    rows = np.full((2 * moments.CHUNK + 1, 1), BOUND, np.int64)
    assert moments.sums(rows).tolist() == [len(rows) * BOUND**2, len(rows) * BOUND, len(rows)]


def test_unpack_gives_the_symmetric_matrix_back():
    found = moments.unpack(moments.sums(np.array([[1, 2], [3, -4]])).astype(float), 2)
    assert found.second.tolist() == [[10, -10], [-10, 20]]
    assert found.first.tolist() == [4, -2]
    assert found.count == 2


@pytest.mark.parametrize(("height", "width", "size"), [(4, 4, 16), (5, 3, 6), (1, 7, 3)])
def test_the_public_basis_is_orthonormal_and_starts_with_the_mean(height, width, size):
    whole = moments.low_pass_basis(height, width, size)
    assert whole.dtype == np.int64
    basis = whole / 2.0**20
    assert basis.shape == (height * width, size)
    assert basis.T @ basis == pytest.approx(np.eye(size), abs=1e-5)
    assert np.ptp(np.abs(basis[:, 0])) < 1e-5


integers = st.integers(-(2**20), 2**20)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(integers, integers, integers), min_size=1, max_size=5),
    st.lists(st.tuples(integers, integers), min_size=3, max_size=3),
)
def test_projection_equals_integer_arithmetic(rows, matrix):
    found = moments.project(np.array(rows, np.int64), np.array(matrix, np.int64), 12)
    columns = list(zip(*matrix, strict=True))
    exact = [[sum(a * b for a, b in zip(row, col, strict=True)) >> 12 for col in columns] for row in rows]
    assert found.tolist() == exact


def test_covariance_of_a_noiseless_release_is_that_of_the_data():
    rows = np.random.default_rng(0).integers(-1000, 1000, (500, 3))
    mean, covariance = moments.covariance(moments.unpack(moments.sums(rows).astype(float), 3), 0.0)
    assert mean == pytest.approx(rows.mean(0))
    assert covariance == pytest.approx(np.cov(rows.T, bias=True))


def test_covariance_of_a_release_full_of_noise_is_still_one():
    release = moments.unpack(np.array([-50.0, 9, -50, 3, 3, -2]), 2)
    mean, covariance = moments.covariance(release, 0.25)
    assert np.isfinite(mean).all()
    assert np.linalg.eigvalsh(covariance) == pytest.approx([0.25, 0.25])


def groups():
    rng = np.random.default_rng(0)
    rows = [rng.integers(-1000, 1000, (400, 2)), rng.integers(-100, 100, (400, 2)) * [3, 1]]
    return [moments.unpack(moments.sums(r).astype(float), 2) for r in rows], rows


def test_without_noise_every_class_keeps_its_own_covariance():
    released, rows = groups()
    means, covariances = moments.shrunk(released, 0.0, 0.0)
    for mean, covariance, own in zip(means, covariances, rows, strict=True):
        assert mean == pytest.approx(own.mean(0))
        assert covariance == pytest.approx(np.cov(own.T, bias=True))


def test_under_heavy_noise_all_classes_share_the_pooled_covariance():
    released, _ = groups()
    _, covariances = moments.shrunk(released, 1e12, 0.0)
    assert covariances[0] == pytest.approx(covariances[1])


def test_one_class_alone_is_its_own_pool():
    released, rows = groups()
    _, covariances = moments.shrunk(released[:1], 0.0, 0.0)
    assert covariances[0] == pytest.approx(np.cov(rows[0].T, bias=True))
