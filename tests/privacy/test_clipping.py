import math

import numpy as np
import pytest
import torch

from privae.errors import UsageError
from privae.privacy.clipping import clip_factors, clip_to_grid, clipped_sum


def test_factors_of_hand_computed_norms():
    norms = torch.tensor([0.0, 1.0, 2.0, 4.0, math.inf, math.nan])
    assert clip_factors(norms, 2.0).tolist() == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]


def test_an_infinite_clip_norm_keeps_every_finite_row():
    assert clip_factors(torch.tensor([0.0, 1e30, math.nan]), math.inf).tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan])
def test_a_clip_norm_that_bounds_nothing_is_a_usage_error(clip_norm):
    with pytest.raises(UsageError, match="clip_norm"):
        clip_factors(torch.ones(1), clip_norm)


def test_long_rows_are_scaled_and_short_ones_kept():
    rows = torch.tensor([[3.0, 4.0], [0.1, 0.0]])
    assert clipped_sum(rows, 1.0).tolist() == pytest.approx([0.7, 0.8])


def test_rows_that_are_not_finite_count_as_zeros():
    rows = torch.tensor([[math.nan, 1.0], [math.inf, 0.0], [-math.inf, math.inf], [1.0, 0.0]])
    assert clipped_sum(rows, math.inf).tolist() == [1.0, 0.0]


def test_no_rows_give_zeros():
    assert clipped_sum(torch.zeros(0, 3), 1.0).tolist() == [0.0, 0.0, 0.0]


def test_float32_rows_are_summed_in_float64():
    rows = torch.tensor([[1.0], [2.0**-40]])
    assert clipped_sum(rows, math.inf).item() == 1.0 + 2.0**-40


def test_integer_rows_are_scaled_towards_zero():
    codes = np.array([[30, 40], [3, 4], [-30, 40], [0, 0]])
    assert clip_to_grid(codes, 10).tolist() == [[5, 7], [3, 4], [-5, 7], [0, 0]]


def test_a_row_on_the_bound_is_kept_exactly():
    assert clip_to_grid(np.array([[3, 4]]), 5).tolist() == [[3, 4]]


def test_the_dtype_is_kept_and_the_argument_untouched():
    codes = np.array([[30.0, 40.0]])
    clipped = clip_to_grid(codes, 10)
    assert clipped.dtype == np.float64
    assert codes.tolist() == [[30.0, 40.0]]
    assert clip_to_grid(np.array([[30, 40]]), 10).dtype == np.int64


def test_rows_of_other_things_than_integers_are_bounded_too():
    codes = np.array([[math.nan, 1.0], [math.inf, 0.0], [1.9, -1.9], [1e300, 0.0], [-1e300, 0.0]])
    assert clip_to_grid(codes, 7).tolist() == [[0, 0], [0, 0], [1, -1], [6, 0], [-6, 0]]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_tables_stay_empty(shape):
    assert clip_to_grid(np.zeros(shape, dtype=np.int64), 1).shape == shape


def test_a_bound_beyond_every_norm_changes_nothing():
    codes = np.array([[2**30, -(2**30)]])
    assert clip_to_grid(codes, 2**40).tolist() == codes.tolist()


@pytest.mark.parametrize("bound", [0, -3])
def test_a_bound_that_is_not_positive_is_a_usage_error(bound):
    with pytest.raises(UsageError, match="positive integer"):
        clip_to_grid(np.zeros((1, 1), dtype=np.int64), bound)
