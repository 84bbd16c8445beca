import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privae.errors import UsageError
from privae.evaluate import fidelity

SIZES = np.array([2, 3])
LEFT = np.array([[0, 0], [0, 1], [1, 2], [1, -1]], dtype=np.int32)
RIGHT = np.array([[0, 0], [0, 0], [0, 2], [0, -1]], dtype=np.int32)


def test_one_way_distances_by_hand() -> None:
    assert fidelity.column_variation(LEFT, RIGHT, SIZES).tolist() == [0.5, 0.25]


def test_what_the_schema_has_no_cell_for_is_a_cell_of_its_own() -> None:
    known, unknown = np.array([[0]] * 3), np.array([[-1]] * 3)
    assert fidelity.column_variation(known, unknown, np.array([1])).tolist() == [1.0]
    assert fidelity.shares(np.array([-1, -1, 0, 2]), 3).tolist() == [0.5, 0.25, 0.0, 0.25]


def test_two_way_distances_by_hand() -> None:
    found = fidelity.pair_variation(LEFT, RIGHT, SIZES)
    assert found.tolist() == [[0.5, 0.75], [0.75, 0.25]]
    assert fidelity.of_pairs(found).tolist() == [0.75]


def test_pairs_of_very_many_cells_are_counted_alike(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([5, 4, 3])
    left, right = (rng.integers(-1, sizes, (60, 3)) for _ in range(2))
    dense = fidelity.pair_variation(left, right, sizes), fidelity.associations(left, sizes)
    monkeypatch.setattr(fidelity, "_DENSE", 0)
    np.testing.assert_allclose(fidelity.pair_variation(left, right, sizes), dense[0])
    np.testing.assert_allclose(fidelity.associations(left, sizes), dense[1])


def test_a_pair_of_columns_of_ten_thousand_cells_takes_no_memory() -> None:
    sizes = np.array([10_000, 10_000])
    codes = np.array([[0, 9_999], [9_999, 0]])
    assert fidelity.pair_variation(codes, codes[:1], sizes).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert fidelity.associations(codes, sizes)[0, 1] == 0  # two rows show no association beyond chance


@given(st.integers(0, 2**32 - 1))
def test_distances_are_symmetric_bounded_and_zero_for_the_same_rows(seed) -> None:
    rng = np.random.default_rng(seed)
    left, right = (rng.integers(-1, SIZES, (rng.integers(1, 20), 2)) for _ in range(2))
    found = fidelity.pair_variation(left, right, SIZES)
    np.testing.assert_allclose(found, fidelity.pair_variation(right, left, SIZES))
    assert (found >= 0).all()
    assert (found <= 1 + 1e-12).all()
    assert (
        fidelity.of_pairs(found) >= np.diag(found).max() - 1e-12
    ).all()  # a pair shows what its columns show
    assert not fidelity.pair_variation(left, left, SIZES).any()


def test_association_is_one_for_copies_and_zero_for_a_constant() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 3, 300)
    codes = np.stack([first, first, np.zeros(300, int), rng.integers(0, 3, 300)], 1)
    found = fidelity.associations(codes, np.array([3, 3, 2, 3]))
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == 0
    assert found[0, 3] < 0.15  # n = 300 of 3 x 3 cells; chance alone, seed fixed
    assert (np.diag(found) == 1).all()


def test_association_by_hand() -> None:
    codes = np.array([[0, 0]] * 40 + [[0, 1]] * 10 + [[1, 0]] * 10 + [[1, 1]] * 40)
    squared = 0.36 - 1 / 99  # phi squared of this table, less what independence gives on average
    expected = np.sqrt(squared / (1 - 1 / 99))
    assert fidelity.associations(codes, np.array([2, 2]))[0, 1] == pytest.approx(expected)


def test_the_frechet_distance_of_shifted_and_scaled_gaussians_is_known() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # covariance 2/3 of the identity
    shift = np.array([3.0, 4.0])
    assert fidelity.frechet(rows, rows + shift) == pytest.approx(25)
    assert fidelity.frechet(rows, 2 * rows) == pytest.approx(2 * (2 / 3))  # two times (2 s - s)^2
    assert fidelity.frechet(rows, rows[::-1]) == pytest.approx(0, abs=1e-12)
    assert fidelity.frechet(rows[:, :1], 3 + rows[:, :1]) == pytest.approx(9)


def test_the_frechet_distance_bears_constant_features() -> None:
    flat = np.zeros((5, 3))
    assert fidelity.frechet(flat, flat + 1) == pytest.approx(3)


def test_tables_with_no_cell_in_common_are_at_distance_one() -> None:
    codes = [np.full((4, 3), cell) for cell in (0, 1)]
    features = [fidelity.table_features(one, np.array([2, 2, 2])) for one in codes]
    assert features[0].shape == (4, 9)
    assert fidelity.frechet(*features) == pytest.approx(1)


def test_a_table_of_many_cells_is_hashed_into_few_public_dimensions() -> None:
    sizes = np.array([400, 400])
    rows = np.stack([np.arange(300), np.arange(300)], 1)
    features = fidelity.table_features(rows, sizes)
    assert features.shape == (300, fidelity.TABLE_FEATURES)
    np.testing.assert_array_equal(features, fidelity.table_features(rows, sizes))
    assert 0.3 < (features**2).sum(1).mean() < 0.7  # a half, as of one-hot cells over sqrt(2 m)


def test_images_are_seen_through_their_low_frequencies() -> None:
    flat = np.full((3, 28, 28), 51, np.uint8)
    found = fidelity.low_pass(flat)
    assert found.shape == (3, 64)
    np.testing.assert_allclose(found[:, 0], 28 * 0.2)
    np.testing.assert_allclose(found[:, 1:], 0, atol=1e-12)
    assert fidelity.low_pass(flat[:, :2, :3]).shape == (3, 6)
    assert fidelity.low_pass_and_bands(flat).shape == (3, 64 + 16)


def test_gray_levels_are_compared_pixel_by_pixel() -> None:
    dark, half = np.zeros((4, 2, 2), np.uint8), np.zeros((4, 2, 2), np.uint8)
    half[:2, 0, 0] = 255
    half[:, 1, 1] = 15  # the same level
    assert fidelity.pixel_variation(dark, half).tolist() == [0.5, 0, 0, 0]


def test_correlations_are_pearsons() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 3))
    np.testing.assert_allclose(fidelity.correlations(rows), np.corrcoef(rows, rowvar=False))
    rows[:, 1] = 2
    assert fidelity.correlations(rows)[0, 1] == 0


def test_no_rows_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="no rows to compare"):
        fidelity.column_variation(LEFT[:0], RIGHT, SIZES)
    with pytest.raises(UsageError, match="no rows to compare"):
        fidelity.associations(LEFT[:0], SIZES)
    with pytest.raises(UsageError, match="no rows to compare"):
        fidelity.pixel_variation(np.zeros((0, 2, 2), np.uint8), np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(UsageError, match="at least two rows"):
        fidelity.frechet(np.zeros((1, 2)), np.zeros((5, 2)))
