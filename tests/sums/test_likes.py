"""Sums of likes: exact integers, whoever is summed when; and what recommends is what regression would have found."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from privae.sums import likes as sums
from privae.sums.likes import UNIT, Gram


def drawn(count, size, seed=0, share=0.2):
    rng = np.random.default_rng(seed)
    return csr_array((rng.random((count, size)) < share).astype(np.int64))


def real(likes):
    """Rows of norm 1, as real numbers."""
    wide = likes.toarray().astype(float)
    return wide / np.maximum(np.sqrt(wide.sum(1, keepdims=True)), 1e-300)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(2, 12), st.integers(0, 99))
def test_sums_are_those_of_normalized_rows_rounded_down_a_person(count, size, seed):
    likes = drawn(count, size, seed)
    rows = real(likes)
    popularity = sums.popularity(likes)
    assert (popularity <= rows.sum(0) * UNIT + 1e-6).all()
    assert np.abs(popularity / UNIT - rows.sum(0)).max() <= (count + 1) / UNIT
    diagonal, above = sums.gram(likes)
    whole = rows.T @ rows
    assert np.abs(diagonal / UNIT - np.diag(whole)).max() <= (count + 1) / UNIT
    assert np.abs(above / UNIT - whole[np.triu_indices(size, 1)]).max(initial=0) <= (count + 1) / UNIT


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(0, 99))
def test_no_person_adds_more_than_one_however_many_items_they_like(liked, seed):
    rng = np.random.default_rng(seed)
    row = np.zeros((1, 401), np.int64)
    row[0, rng.permutation(401)[:liked]] = 1
    one = csr_array(row)
    assert int((sums.popularity(one).astype(object) ** 2).sum()) <= UNIT**2
    diagonal, above = sums.gram(one)
    norm = int((diagonal.astype(object) ** 2).sum()) + 2 * int((above.astype(object) ** 2).sum())
    assert norm <= UNIT**2
    assert norm > 0.99 * UNIT**2  # it is used up
    assert sums.lengths(one).sum() == 1


def test_sums_are_the_same_in_any_order_and_in_any_blocks(monkeypatch):
    likes = drawn(300, 9)
    whole = [sums.popularity(likes), *sums.gram(likes), sums.lengths(likes)]
    order = np.random.default_rng(1).permutation(300)
    for rows in (1, 7, 64):
        monkeypatch.setattr(sums, "_PERSONS", rows)
        again = [sums.popularity(likes[order]), *sums.gram(likes[order]), sums.lengths(likes[order])]
        assert all((a == b).all() for a, b in zip(whole, again, strict=True))
    parts = [likes[:100], likes[100:]]
    assert (sum(sums.gram(part)[1] for part in parts) == whole[2]).all()


def test_lengths_count_persons_by_powers_of_two():
    rows = [[0] * 8, [1] + [0] * 7, [1] * 3 + [0] * 5, [1] * 2 + [0] * 6, [1] * 8]
    assert sums.lengths(csr_array(np.array(rows)))[:5].tolist() == [1, 2, 0, 1, 0]


def exact(likes):
    diagonal, above = sums.gram(likes)
    return sums.unpacked(diagonal.astype(float), above.astype(float), 0.0)


def test_weights_are_those_of_a_ridge_regression_of_each_item_on_the_others(monkeypatch):
    monkeypatch.setattr(sums, "_LEAST_RIDGE", 2.0)
    likes = drawn(500, 6)
    weights, rows = sums.autoencoder(exact(likes), 4.0, shrink=False), real(likes)
    for item in range(6):
        others = [i for i in range(6) if i != item]
        a = rows[:, others]
        right = np.linalg.solve(a.T @ a + 2.0 * np.eye(5), a.T @ rows[:, item])
        assert weights[others, item] == pytest.approx(right, abs=1e-5)
        assert weights[item, item] == 0


def groups(count, seed=0):
    """Persons of two tastes: six items each, of twelve."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, 2, count)
    chance = np.where((np.arange(12) < 6) == (taste[:, None] == 0), 0.6, 0.05)
    return csr_array((rng.random((count, 12)) < chance).astype(np.int64)), taste


def test_the_decoder_knows_how_popular_items_are_and_which_go_together():
    likes, _ = groups(20_000)
    log_shares, loadings = sums.factors(exact(likes), 1)
    share = (real(likes) ** 2).sum(0)
    assert np.exp(log_shares) == pytest.approx(share / share.sum(), rel=1e-5)
    assert loadings.shape == (12, 1)
    assert len(set(np.sign(loadings[:6, 0]))) == len(set(np.sign(loadings[6:, 0]))) == 1
    assert np.sign(loadings[0, 0]) != np.sign(loadings[6, 0])


def test_signal_is_one_without_noise_and_none_in_noise_alone():
    likes, _ = groups(5000)
    clean = exact(likes)
    assert clean.signal == 1.0
    assert clean.edge == 0.0
    rng = np.random.default_rng(0)
    for deviation, least, most in ((5.0, 0.9, 1.0), (2000.0, 0.0, 0.5)):
        noise = rng.normal(size=(12, 12)) * deviation / math.sqrt(2)
        noisy = Gram(clean.matrix + np.triu(noise, 1) + np.triu(noise, 1).T, deviation)
        assert least <= noisy.signal <= most
        assert noisy.edge == pytest.approx(deviation * math.sqrt(24))


def test_independent_likes_are_a_rank_of_one_and_leave_nothing():
    shares = np.linspace(1, 3, 8)
    matrix = np.outer(shares, shares)
    made = Gram(matrix, 0.5)
    off = matrix - np.diag(np.diag(matrix))
    assert made.independent == pytest.approx(off, rel=1e-6)
    assert made.signal == 0.0
    assert made.shrunk == pytest.approx(matrix, rel=1e-6)


def test_shrunk_by_no_signal_weights_rank_items_by_how_many_like_them():
    likes, _ = groups(3000)
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(12, 12)) * 400
    clean = exact(likes)
    liked = 3000 * np.outer(np.arange(1, 13), np.arange(1, 13))
    drowned = Gram(clean.matrix + np.triu(noise, 1) + np.triu(noise, 1).T + liked, 6000.0)
    assert drowned.signal == 0.0
    weights = sums.autoencoder(drowned, 4.0, shrink=True)
    order = np.argsort(weights.sum(0))
    assert (np.diff(order) > 0).mean() > 0.9


def test_noise_alone_gives_no_loadings_and_finite_numbers():
    rng = np.random.default_rng(0)
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(size=(40, 40)) / math.sqrt(2)
        matrix = np.triu(noise, 1) + np.triu(noise, 1).T + np.diag(rng.normal(size=40)) + 200.0
        log_shares, loadings = sums.factors(Gram(matrix, 1.0), 50)
        assert np.isfinite(log_shares).all()
        assert loadings.shape[1] <= 2
    log_shares, loadings = sums.factors(Gram(-np.ones((3, 3)), 1.0), 5)
    assert np.isfinite(log_shares).all()
    assert np.isfinite(loadings).all()
