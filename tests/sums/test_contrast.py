"""Numbers of images: shares of contrast, exact functions of one image, and pictures of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.fft import dctn

from privae.sums import contrast


def noise(count, shape=(9, 7), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_the_numbers_are_low_frequencies_over_the_contrast_and_what_is_left():
    x = noise(5)
    centered = x - x.mean((1, 2), keepdims=True)
    length = np.sqrt((centered**2).sum((1, 2)))[:, None]
    u, v = np.meshgrid(np.arange(9) / 9, np.arange(7) / 7, indexing="ij")
    order = np.argsort((u**2 + v**2).ravel(), kind="stable")[1:12]
    wanted = dctn(centered, axes=(1, 2), norm="ortho").reshape(5, -1)[:, order] / length
    found = contrast.numbers(x, 12)
    assert found[:, :-1] == pytest.approx(wanted, abs=1e-4)
    assert found[:, -1] == pytest.approx(np.sqrt(1 - (wanted**2).sum(1)), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, (4, 5, 3)), st.integers(2, 15))
def test_each_row_is_a_function_of_its_image_and_lies_within_the_bounds(x, size):
    together = contrast.numbers(x, size)
    alone = np.concatenate([contrast.numbers(one[None], size) for one in x])
    assert (together == alone).all()
    assert (contrast.numbers(x[::-1], size)[::-1] == together).all()
    low = contrast.bounds(size).low
    assert (together >= low - 1e-2).all()
    assert (together <= 1 + 1e-2).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 60))
def test_brightness_and_contrast_are_gone(times, more):
    x = noise(3) // 4
    changed = (x * times + more).astype(np.uint8)
    assert contrast.numbers(changed, 20) == pytest.approx(contrast.numbers(x, 20), abs=2e-3)


def test_images_of_one_color_have_no_numbers():
    flat = np.stack([np.full((6, 6), value, np.uint8) for value in (0, 7, 255)])
    assert (contrast.numbers(flat, 9) == 0).all()
    assert contrast.numbers(flat[:0], 9).shape == (0, 9)


def test_the_largest_images_do_not_wrap():
    side = 2896  # 8,386,816 pixels
    x = np.zeros((1, side, side), np.uint8)
    x[0, : side // 2] = 255
    assert side**2 <= contrast.MOST_PIXELS
    found = contrast.numbers(x, 3)
    assert np.isfinite(found).all()
    assert (found**2).sum() == pytest.approx(1, abs=1e-3)


def test_a_picture_has_the_numbers_that_it_shows():
    values = np.random.default_rng(1).normal(0, 0.05, (6, 11))
    found = contrast.numbers(contrast.picture(values, (24, 32)), 11)[:, :-1]
    shown = values[:, :-1] / np.linalg.norm(values[:, :-1], axis=1, keepdims=True)
    assert found == pytest.approx(shown, abs=0.08)  # whole gray levels have detail, too


def test_products_of_fields_sum_as_products_of_numbers():
    a, b = np.random.default_rng(2).normal(size=(2, 3, 8))
    fields = contrast.spread_out(a, (10, 6)) * contrast.spread_out(b, (10, 6))
    assert fields.sum((1, 2)) == pytest.approx((a * b).sum(1), abs=1e-4)


def test_the_layout_counts_each_number_and_nothing_else():
    layout = contrast.layout(5)
    assert len(layout.grid) == 5
    assert layout.sensitivity == pytest.approx(np.sqrt(layout.grid.squared))
    x = noise(40)
    counted = layout.counts(contrast.numbers(x, 5), np.zeros((40, 0), np.int64))
    assert counted.sum() == 40 * layout.grid.squared
