"""Covariances from noisy moments: exact without noise, held down with it, and a public profile where it rules."""

import numpy as np
import pytest

from privae.sums import moments, spectrum


def released(codes, noise, seed=0):
    """Moments of codes [n, d] with normal noise of one deviation on the entries of the second."""
    rng, size = np.random.default_rng(seed), codes.shape[1]
    wild = rng.normal(0, noise, (size, size))
    wild = np.triu(wild, 1) + np.triu(wild, 1).T + np.diag(rng.normal(0, noise * np.sqrt(2), size))
    return moments.Moments(codes.T @ codes + wild, codes.sum(0), float(len(codes)))


def codes_with(spreads, count=4000, seed=1):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(len(spreads), len(spreads))))[0]
    return 3.0 + (rng.normal(size=(count, len(spreads))) * spreads) @ turn


def test_without_noise_it_is_the_covariance():
    codes = codes_with(np.array([5.0, 2.0, 1.0, 0.1]))
    mean, values, axes = spectrum.principal(released(codes, 0.0), 0.0, spectrum.profile(4, 4, 4))
    assert mean == pytest.approx(codes.mean(0))
    assert (axes * values) @ axes.T == pytest.approx(np.cov(codes.T, bias=True), abs=1e-8)
    assert (np.diff(values) <= 0).all()


@pytest.mark.parametrize("noise", [2000.0, 20_000.0, 500_000.0])
def test_noise_does_not_inflate_the_spectrum(noise):
    codes = codes_with(np.array([6.0, 3.0, *np.full(28, 0.3)]))
    found = released(codes, noise)
    raw = found.second / 4000 - np.outer(found.first, found.first) / 4000**2
    _, values, _ = spectrum.principal(found, noise, spectrum.profile(8, 8, 30))
    true = np.array([36.0, 9.0, *np.full(28, 0.09)])
    assert (values > 0).all()
    assert values.sum() == pytest.approx(max(np.trace(raw), noise / 4000), rel=1e-6)
    error, usual = np.abs(values - true).sum(), np.abs(np.linalg.eigvalsh(raw)[::-1] - true).sum()
    assert error < 0.6 * usual


def test_where_noise_rules_the_public_profile_is_left():
    shares = spectrum.profile(6, 6, 20)
    found = moments.Moments(np.diag(np.full(20, 1000.0)), np.zeros(20), 1000.0)
    _, values, axes = spectrum.principal(found, 1e6, shares)
    assert values / values.sum() == pytest.approx(np.sort(shares)[::-1], rel=1e-6)
    assert np.abs(axes).max(0) == pytest.approx(np.ones(20)) or len(set(shares)) < 20


@pytest.mark.parametrize("second", [0.0, -1e12])
def test_moments_of_nothing_give_a_finite_spectrum(second):
    found = moments.Moments(np.full((5, 5), second), np.zeros(5), 0.0)
    for noise in (0.0, 1e6):
        mean, values, axes = spectrum.principal(found, noise, spectrum.profile(3, 3, 5))
        assert all(np.isfinite(part).all() for part in (mean, values, axes))
        assert (values > 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3), (28, 28)])
def test_the_profile_is_shares_that_fall(shape):
    size = min(20, shape[0] * shape[1])
    shares = spectrum.profile(*shape, size)
    assert shares.sum() == pytest.approx(1)
    assert len(shares) == size
    assert (np.diff(shares) <= 1e-15).all()
