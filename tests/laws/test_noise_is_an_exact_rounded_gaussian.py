"""Law: noise integers are an ideal Gaussian, rounded half up; no float law, no gap, no tail cut, no reuse.

All draws use a fixed key, so no test flakes; the rates below say how often another key would fail.
"""

import threading

import numpy as np
import pytest
import torch
from mpmath import mp
from scipy import stats

from privae.privacy import noise as module
from privae.privacy.mechanism import Mechanism, for_gradients
from privae.privacy.noise import NoiseSource

KEY = bytes(range(32))


def ideal_pair(uniform, angle, length, std):
    """The pair, at 700 bits, in the middle of what its digits leave open."""
    with mp.workprec(700):
        u = (mp.mpf(uniform) + 0.5) / mp.mpf(2) ** (63 * (length + 1))
        theta = 2 * mp.pi * (mp.mpf(angle) + 0.5) / mp.mpf(2) ** (63 * length)
        radius = mp.mpf(std) * mp.sqrt(-2 * mp.log(u))
        return radius * mp.cos(theta), radius * mp.sin(theta)


def rounded(value):
    with mp.workprec(700):
        return int(mp.floor(value + mp.mpf(0.5)))


@pytest.mark.parametrize("std", [0.3, 1.0, 2.7])
def test_frequencies_are_the_exact_cell_probabilities(std):
    """Chi-square, n = 400,000, alpha = 1e-3: fails for one key in a thousand."""
    n = 400_000
    drawn = NoiseSource(KEY).gaussian_integers(n, std)
    edge = int(np.ceil(4 * std))
    cells = np.arange(-edge, edge + 1)
    inner = stats.norm.cdf((cells + 0.5) / std) - stats.norm.cdf((cells - 0.5) / std)
    tail = stats.norm.sf((edge + 0.5) / std)
    expected = n * np.array([tail, *inner, tail])
    observed = [(drawn < -edge).sum(), *((drawn == cell).sum() for cell in cells), (drawn > edge).sum()]
    keep = expected > 5
    statistic = (((np.array(observed) - expected) ** 2 / expected)[keep]).sum()
    assert statistic < stats.chi2.isf(1e-3, keep.sum() - 1)


def test_tails_are_those_of_the_ideal_gaussian():
    """Counts beyond 3 and 4 std, n = 1,000,000: binomial interval at alpha = 1e-4 each."""
    n, std = 1_000_000, 1000.0
    drawn = NoiseSource(KEY).gaussian_integers(n, std)
    for edge in (3, 4):
        beyond = int((np.abs(drawn) > edge * std).sum())
        p = 2 * stats.norm.sf(edge + 0.5 / std)
        assert stats.binom.ppf(5e-5, n, p) <= beyond <= stats.binom.isf(5e-5, n, p)


def test_the_two_numbers_of_a_pair_are_uncorrelated_and_standard():
    """n = 200,000 pairs; |z| < 4.5 for four statistics: fails for 3e-5 of the keys."""
    cosine, sine = NoiseSource(KEY)._block(200_000, 1000.0).reshape(2, -1) / 1000.0
    n = len(cosine)
    for values, spread in ((cosine, 1.0), (sine, 1.0), (cosine * sine, 1.0), (cosine**2 - 1, np.sqrt(2.0))):
        assert abs(values.mean()) < 4.5 * spread / np.sqrt(n)


@pytest.mark.parametrize("std", [3.0, 2.0**21, 2.0**38, 2.0**40])
def test_certain_candidates_are_what_every_continuation_rounds_to(std):
    words = (NoiseSource(KEY).words(3 * 200) >> 1).view(np.int64).reshape(3, 200)
    values, decided = module._candidates(torch.from_numpy(words), std)
    assert decided.any()
    for pair in range(200):
        first, second, angle = (int(word) for word in words[:, pair])
        for low in (0, 2**63 - 1):  # the two ends of what is still open
            further = ((first << 63 | second) << 63 | low, angle << 63 | low, 2)
            ideal = ideal_pair(*further, std)
            for part in range(2):
                assert not decided[part, pair] or int(values[part, pair]) == rounded(ideal[part])


def test_undecided_numbers_are_resolved_from_the_same_pair_by_further_digits():
    """std 2^46 leaves nearly every float64 candidate undecided; compared with mpmath at 700 bits."""
    std, pairs = 2.0**46, 40
    drawn = NoiseSource(KEY).gaussian_integers(2 * pairs, std).reshape(2, pairs)
    stream = NoiseSource(KEY)
    words = (stream.words(3 * pairs) >> 1).reshape(3, pairs)
    decided = module._candidates(torch.from_numpy(words.view(np.int64)), std)[1].all(dim=0)
    assert not decided.all()
    for pair in range(pairs):
        first, second, angle = (int(word) for word in words[:, pair])
        uniform, length = first << 63 | second, 1
        if not decided[pair]:
            more = stream.words(2) >> 1
            uniform, angle, length = uniform << 63 | int(more[0]), angle << 63 | int(more[1]), 2
        assert [rounded(value) for value in ideal_pair(uniform, angle, length, std)] == drawn[
            :, pair
        ].tolist()


def test_digits_are_added_until_no_half_integer_is_left(monkeypatch):
    """V = 1/4 to 126 digits: at std 2^130 the cosine's interval reaches -1/2 until a third digit is drawn."""
    source, further = NoiseSource(KEY), iter([[7, 0], [11, 0], [13, 0]])
    monkeypatch.setattr(
        source, "words", lambda count: np.array(next(further), dtype=np.uint64) << np.uint64(1)
    )
    pair = source._resolved(1 << 124, 1 << 61, 2.0**130)
    uniform = ((1 << 124) << 63 | 7) << 63 | 11
    assert list(further) == [[13, 0]]
    assert pair == tuple(rounded(value) for value in ideal_pair(uniform, 1 << 187, 3, 2.0**130))


def test_an_interval_that_holds_a_half_integer_is_not_rounded():
    """V in [1/4, 1/4 + 2^-63]: std cos lies in [-2^-20, 0] at std 2^40, and reaches past -1/2 at std 2^70."""
    assert module._rounded(1 << 124, 1 << 61, 1, 2.0**40) is not None
    assert module._rounded(1 << 124, 1 << 61, 1, 2.0**70) is None


def test_the_slow_and_the_fast_path_agree():
    """A number whose float64 candidate is certain is the same when resolved by intervals."""
    words = (NoiseSource(KEY).words(3 * 100) >> 1).view(np.int64).reshape(3, 100)
    values, decided = module._candidates(torch.from_numpy(words), 50.0)
    source = NoiseSource(bytes(32))
    for pair in range(100):
        first, second, angle = (int(word) for word in words[:, pair])
        assert decided[:, pair].all()
        assert source._resolved(first << 63 | second, angle, 50.0) == tuple(values[:, pair].tolist())


def test_releases_lie_on_the_grid():
    mechanism = for_gradients(1.0, 0.7, size=1000, slack=0.0)
    total = np.linspace(-1, 1, 1000)
    released = mechanism.release(total, NoiseSource(KEY))
    steps = released / mechanism.grid
    assert (steps == np.rint(steps)).all()


def test_noise_does_not_depend_on_the_total():
    mechanism = Mechanism(1.0, 3.0, grid=2.0**-10)
    total = np.array([5.0, -1.0, 1e6])
    difference = mechanism.release(total, NoiseSource(KEY)) - mechanism.release(np.zeros(3), NoiseSource(KEY))
    assert difference.tolist() == total.tolist()


def test_no_key_and_no_counter_is_used_twice():
    seen = {NoiseSource().words(2).tobytes() for _ in range(200)}
    assert len(seen) == 200
    source = NoiseSource()
    drawn = np.concatenate([source.words(1 + k % 5) for k in range(2000)])
    source.gaussian_integers(1001, 4.0)
    source.bernoulli(77, 0.5)
    drawn = np.concatenate([drawn, source.words(1000)])
    assert len(np.unique(drawn)) == len(drawn)  # a birthday collision has probability 2^-38


def test_threads_share_one_keystream_without_repeating_it():
    source, parts = NoiseSource(KEY), []
    threads = [
        threading.Thread(target=lambda: parts.extend(source.words(64) for _ in range(50))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drawn = np.sort(np.concatenate(parts))
    assert drawn.tolist() == np.sort(NoiseSource(KEY).words(64 * 200)).tolist()
