"""Compiled loops: their series err as the proof says, they release what arrays release, and nobody needs them."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from mpmath import mp

from privae.errors import PrivacyRefused
from privae.gaussian import loops, pairs
from privae.privacy import mechanism, noise
from privae.privacy.mechanism import Mechanism
from privae.privacy.noise import NoiseSource

KEY = bytes(range(32))


@pytest.fixture
def untried():
    """As in a process that has drawn nothing yet."""
    pairs._loops.cache_clear()
    yield
    pairs._loops.cache_clear()


def use(monkeypatch, found):
    for module in (noise, mechanism):
        monkeypatch.setattr(module, "compiled", lambda drawn: found)


def errors(found, exact):
    with mp.workprec(200):
        return np.array([float(abs(mp.mpf(float(f)) - e)) for f, e in zip(found, exact, strict=True)])


def test_the_series_of_sine_and_cosine_err_by_less_than_the_proof_says():
    x = np.linspace(-np.pi / 4, np.pi / 4, 999)
    with mp.workprec(200):
        sine, cosine = ([getattr(mp, name)(mp.mpf(float(point))) for point in x] for name in ("sin", "cos"))
    unit = 2.0**-53
    assert errors([loops._sine(point, point * point) for point in x], sine).max() < 4 * unit
    assert errors([loops._cosine(point * point) for point in x], cosine).max() < 4 * unit


def test_the_series_of_the_logarithm_errs_by_less_than_the_proof_says():
    s = np.linspace(2.0**-30, (2**0.5 - 1) / (2**0.5 + 1), 999)
    with mp.workprec(200):
        exact = [mp.atanh(mp.mpf(float(point))) / mp.mpf(float(point)) for point in s]
    # the square of s is rounded before: its share is small beside the first term, 1
    assert errors([loops._tangent(point * point) for point in s], exact).max() < 1.5 * 2.0**-53


def test_radii_err_by_less_than_the_proof_says_from_the_smallest_to_the_largest():
    known = np.array(
        [1, 3, 2**20, 2**53 + 1, 2**62, 2**63 - 2**20, 2**63 - 2, -5, -(2**62) - 12345], np.int64
    )
    drawn = np.concatenate([known, NoiseSource(KEY).words(2000).view(np.int64)])
    radius = np.empty(len(drawn))
    loops._radii(drawn, 3.0, radius)
    with mp.workprec(200):
        # of the float64 that a word is rounded to: what rounding it adds, the window pays for
        uniform = [mp.mpf(float(abs(float(word)))) / mp.mpf(2) ** 63 for word in drawn]
        exact = [3 * mp.sqrt(-2 * mp.log(u)) for u in uniform]
    assert (errors(radius, exact) <= 19.1 * 2.0**-53 * radius).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 511, 513, 2**15 + 7])
def test_both_ways_release_the_same_numbers(dtype, count):
    total = np.random.default_rng(0).normal(size=count).astype(dtype)
    added = np.rint(np.random.default_rng(1).normal(size=count) * 2.0**20)
    released = np.empty_like(total)
    mechanism._write_part(total, 2.0**18, (added, np.empty(count)), 2.0**-18 / 3, released)
    found = np.empty_like(total)
    assert loops.noisy(total, 2.0**18, added, 2.0**-18 / 3, 2.0**52, found)
    assert np.array_equal(found, released)
    assert loops.noisy(total, 2.0**18, added, 2.0**-18 / 3, 2.0**52, total)
    assert np.array_equal(total, released)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**35, -(2.0**35)])
@pytest.mark.parametrize("place", [0, 600])
@pytest.mark.parametrize("found", [None, loops], ids=["arrays", "loops"])
def test_a_total_that_does_not_fit_its_grid_is_refused_either_way(bad, place, found, monkeypatch):
    use(monkeypatch, found)
    total = np.zeros(601)
    release = Mechanism(1.0, 1.0, grid=2.0**-18).release
    release(total, NoiseSource(KEY))
    total[place] = bad
    with pytest.raises(PrivacyRefused, match="not finite or too large"):
        release(total, NoiseSource(KEY))


def test_loops_are_compiled_once_a_source_has_drawn_enough_and_then_serve_all(untried):
    assert pairs.compiled(pairs._WORTH_COMPILING - 1) is None
    assert pairs.compiled(pairs._WORTH_COMPILING) is loops
    assert pairs.compiled(0) is loops


def test_numbers_do_not_change_where_compiled_loops_take_over(untried, monkeypatch):
    """Of the 2^16 numbers at this std none is uncertain by either way, so that no digits beyond the first are drawn."""
    expected = NoiseSource(KEY).gaussian_integers(2**16, 100.0)
    monkeypatch.setattr(pairs, "_WORTH_COMPILING", 2**15)
    source = NoiseSource(KEY)
    drawn = np.concatenate([source.gaussian_integers(2**14, 100.0) for _ in range(4)])
    assert pairs._loops.cache_info().currsize == 1
    again = NoiseSource(KEY)
    assert np.array_equal(drawn, np.concatenate([again.gaussian_integers(2**14, 100.0) for _ in range(4)]))
    assert np.array_equal(NoiseSource(KEY).gaussian_integers(2**16, 100.0), expected)


def off_by_one(words, turn, std, window, *outputs):
    covered = loops.candidates(words, turn, std, window, *outputs)
    outputs[-1][0, 7] += 1
    return covered


def out_of_order(*args):
    return False


FAILING = {
    "not installed": ImportError,
    "broken": OSError,
    "off by one": SimpleNamespace(candidates=off_by_one, noisy=loops.noisy),
    "never fits": SimpleNamespace(candidates=loops.candidates, noisy=out_of_order),
    "released otherwise": SimpleNamespace(candidates=loops.candidates, noisy=lambda *args: True),
}


@pytest.mark.parametrize("found", FAILING.values(), ids=FAILING)
def test_without_compiled_loops_that_work_noise_is_drawn_in_arrays(found, untried, monkeypatch):
    def imported(name):
        if isinstance(found, type):
            raise found
        return found

    monkeypatch.setattr(importlib, "import_module", imported)
    assert pairs.compiled(pairs._WORTH_COMPILING) is None
    assert pairs.compiled(0) is None
    monkeypatch.setattr(pairs, "_WORTH_COMPILING", 0)
    assert len(NoiseSource(KEY).gaussian_integers(5, 3.0)) == 5


def test_turns_are_taken_apart_without_a_carry_beyond_a_word():
    """The eighth of the words whose nearest quarter is the next half, where adding would overflow."""
    edges = [2**63 - 1, 2**63 - 2**61, 2**63 - 2**61 - 1, -(2**63), -(2**63) + 2**61, 2**61, 2**61 - 1, 0, -1]
    high = NoiseSource(KEY).words(3000) >> np.uint64(3) | np.uint64(7 << 60)
    for turn in (np.array(edges, np.int64), (high & np.uint64(2**63 - 1)).view(np.int64)):
        results = []
        for way in (None, loops):
            desk, values = pairs.Desk(len(turn)), np.empty((2, len(turn)))
            desk.uniform[:], desk.turn[:] = 2**62 + 2**40, turn
            open_ = pairs.candidates(desk, 1000.0, values, way)
            values[:, open_] = 0.0
            results.append(values)
        assert np.array_equal(*results)
        assert results[0].any()
