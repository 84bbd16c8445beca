"""Law: noise integers are an ideal Gaussian, rounded half up; no float law, no gap, no tail cut, no reuse.

Each test runs for both ways to the same numbers: operations on whole arrays, and compiled loops. All draws use a
fixed key, so no test flakes; the rates below say how often another key would fail.
"""

import threading

import numpy as np
import pytest
import torch
from mpmath import mp
from scipy import stats

from privae.gaussian import loops as compiled_loops
from privae.gaussian import pairs as module
from privae.privacy import mechanism as releasing
from privae.privacy import noise
from privae.privacy.mechanism import Mechanism, for_gradients
from privae.privacy.noise import NoiseSource, ahead

KEY = bytes(range(32))


@pytest.fixture(autouse=True, params=["arrays", "loops"])
def loops(request, monkeypatch):
    found = compiled_loops if request.param == "loops" else None
    monkeypatch.setattr(noise, "compiled", lambda drawn: found)
    monkeypatch.setattr(releasing, "compiled", lambda drawn: found)
    return found


def ideal_pair(uniform, turn, words, std):
    """The pair of the exact numbers (uniform, turn) 2^(1 - 64 words), at 700 bits."""
    with mp.workprec(700):
        unit = mp.mpf(2) ** (1 - 64 * words)
        radius = mp.mpf(std) * mp.sqrt(-2 * mp.log(abs(mp.mpf(uniform)) * unit))
        theta = mp.pi * mp.mpf(turn) * unit
        return radius * mp.cos(theta), radius * mp.sin(theta)


def rounded(value):
    with mp.workprec(700):
        return int(mp.floor(value + mp.mpf(0.5)))


def desk_of(uniforms, turns):
    desk = module.Desk(len(uniforms))
    desk.uniform[:], desk.turn[:] = uniforms, turns
    return desk


def candidates(desk, std, loops):
    """Rounded pairs [2, n], and those that are certain."""
    values = np.empty((2, len(desk.uniform)))
    with np.errstate(all="ignore"):
        open_ = module.candidates(desk, std, values, loops)
    certain = np.ones(len(desk.uniform), dtype=bool)
    certain[open_] = False
    return values, certain


def drawn_desk(pairs, key=KEY):
    return desk_of(*NoiseSource(key).words(2 * pairs).view(np.int64).reshape(2, pairs))


def fills(source, count, size, std):
    """Successive fills, [count, size], in units of their std."""
    out = torch.empty(count, size, dtype=torch.float64)
    for row in out:
        source.fill(row, std)
    return out.numpy() / std


def largest_z(first, second):
    """Largest |z| of four statistics that are standard normal for independent samples of standard normals."""
    n = len(first)
    products = (first * second, (first**2 - 1) * (second**2 - 1) / 2)
    crossed = (first * (second**2 - 1) / np.sqrt(2), (first**2 - 1) * second / np.sqrt(2))
    return max(abs(values.sum()) / np.sqrt(n) for values in (*products, *crossed))


class Repeating(NoiseSource):
    """The planted bug: every fill starts the counter again."""

    def fill(self, out, std):
        self._start(KEY)
        super().fill(out, std)


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


@pytest.mark.parametrize("std", [2.0**17, 2.0**28])
def test_mean_variance_skewness_and_kurtosis_are_those_of_the_ideal_gaussian(std):
    """n = 1,000,000; |z| < 4.5 for four moments and two stds: fails for 6e-5 of the keys."""
    n = 1_000_000
    values = fills(NoiseSource(KEY), 1, n, std)[0]
    moments = (values, values**2 - 1, values**3, values**4 - 3)
    variances = (1, 2, 15, 96)  # of z, z^2, z^3 and z^4
    for moment, variance in zip(moments, variances, strict=True):
        assert abs(moment.mean()) < 4.5 * np.sqrt(variance / n)


def test_the_two_numbers_of_a_pair_are_independent_and_standard():
    """n = 2^18 pairs; |z| < 4.5 for four statistics: fails for 3e-5 of the keys."""
    blocks = fills(NoiseSource(KEY), 16, 2 * noise._PAIRS, 1000.0).reshape(16, 2, noise._PAIRS)
    cosine, sine = blocks.transpose(1, 0, 2).reshape(2, -1)
    assert largest_z(cosine, sine) < 4.5


@pytest.mark.parametrize("lag", [1, 2])
def test_successive_fills_are_independent(lag):
    """n = 300,000 pairs of numbers; |z| < 4.5 for four statistics: fails for 3e-5 of the keys a lag."""
    steps = fills(NoiseSource(KEY), 30 + lag, 10_000, 2.0**20)
    assert largest_z(steps[lag:].ravel(), steps[:-lag].ravel()) < 4.5


def test_a_child_is_independent_of_its_parent_and_of_its_sibling():
    """n = 200,000; |z| < 4.5 for four statistics and three pairs of sources: fails for 9e-5 of the keys."""
    parent = NoiseSource(KEY)
    sources = parent.child(), parent.child(), parent
    first, second, third = (fills(source, 1, 200_000, 2.0**20)[0] for source in sources)
    assert max(largest_z(first, second), largest_z(first, third), largest_z(second, third)) < 4.5


def test_the_test_of_independence_catches_a_counter_that_starts_again():
    steps = fills(Repeating(KEY), 2, 10_000, 2.0**20)
    assert largest_z(*steps) > 100


@pytest.mark.parametrize("std", [3.0, 2.0**21, 2.0**36, 2.0**43])
def test_certain_candidates_are_what_every_continuation_rounds_to(std, loops):
    desk = drawn_desk(600)
    values, certain = candidates(desk, std, loops)
    assert certain.any()
    assert std != 2.0**43 or not certain.all()
    assert not mistakes(desk, values, certain, std)


def mistakes(desk, values, certain, std):
    """How many certain numbers some continuation of their digits rounds otherwise: the two ends of what is open."""
    found = 0
    for pair in np.flatnonzero(certain):
        for low in (0, 2**64 - 1):
            ideal = ideal_pair(int(desk.uniform[pair]) << 64 | low, int(desk.turn[pair]) << 64 | low, 2, std)
            found += sum(int(values[part, pair]) != rounded(ideal[part]) for part in range(2))
    return found


def test_without_windows_there_are_mistakes(monkeypatch, loops):
    monkeypatch.setattr(module, "_uncertain", lambda desk, std, pairs: pairs[:0])
    desk = drawn_desk(600)
    values, certain = candidates(desk, 2.0**43, loops)
    assert certain.all()
    assert mistakes(desk, values, certain, 2.0**43)


def bound(radius, uniform):
    """The bound of `_candidates` on |computed - y| / std, in units of 2^-53."""
    return 62 * radius + 2.01 * (1 + 2.0**53 / uniform) / radius


def test_float64_errs_by_less_than_the_proof_says(loops):
    """Over all radii from 2^-9 to 5.5: the window holds the bound, and the bound is at least four errors wide."""
    radius = np.geomspace(module._LOW, module._HIGH, 300)
    uniform = (2.0**63 * np.exp(-(radius**2) / 2)).astype(np.int64)
    desk = desk_of(uniform, NoiseSource(KEY).words(300).view(np.int64))
    std = 2.0**43
    values, _ = candidates(desk, std, loops)
    limits = bound(radius, uniform)
    assert limits.max() < 2048
    for pair, limit in enumerate(limits):
        ideal = ideal_pair(int(uniform[pair]), int(desk.turn[pair]), 1, std)
        for part in range(2):
            with mp.workprec(700):
                error = abs(mp.mpf(values[part, pair]) + mp.mpf(desk.ideal[part, pair]) - ideal[part])
            # at the digits' lower end, so that what is not drawn counts nothing
            assert float(error) / std < 2.0**-53 * (62 * radius[pair] + 2.01 / radius[pair]) / 4
            assert limit * 2.0**-53 > float(error) / std


def test_one_window_leaves_to_the_second_look_what_lies_outside_its_radii(loops):
    unit = 2**63 - 1
    near_one, small = unit - 2**42, 2**42  # radii of 2^-10 and 5.4
    desk = desk_of([near_one, small, 2**30, unit // 2], [12345 << 40] * 4)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_uncertain", lambda desk, std, pairs: seen.append(pairs.tolist()) or pairs)
        candidates(desk, 1000.0, loops)
    assert seen == [[0, 2]]


def test_undecided_numbers_are_resolved_from_the_same_pair_by_further_digits(loops):
    """std 2^46 leaves nearly every float64 candidate undecided; compared with mpmath at 700 bits."""
    std, pairs = 2.0**46, 40
    drawn = NoiseSource(KEY).gaussian_integers(2 * pairs, std).reshape(2, pairs)
    stream = NoiseSource(KEY)
    digits = stream.words(2 * pairs).view(np.int64).reshape(2, pairs)
    _, certain = candidates(desk_of(*digits), std, loops)
    assert not certain.all()
    for pair in range(pairs):
        uniform, turn, words = int(digits[0, pair]), int(digits[1, pair]), 1
        if not certain[pair]:
            more = stream.words(2)
            uniform, turn, words = uniform << 64 | int(more[0]), turn << 64 | int(more[1]), 2
        assert [rounded(value) for value in ideal_pair(uniform, turn, words, std)] == drawn[:, pair].tolist()


def test_a_std_beyond_float64_is_drawn_digit_by_digit():
    std, pairs = 2.0**55, 20
    drawn = NoiseSource(KEY).gaussian_integers(2 * pairs - 1, std)
    stream = NoiseSource(KEY)
    digits, expected = stream.words(2 * pairs).reshape(pairs, 2).view(np.int64), []
    for uniform, turn in digits:
        more = stream.words(2)
        pair = ideal_pair(int(uniform) << 64 | int(more[0]), int(turn) << 64 | int(more[1]), 2, std)
        expected += [rounded(value) for value in pair]
    assert drawn.tolist() == expected[:-1]


def test_digits_are_added_until_no_half_integer_is_left(monkeypatch):
    """T = 1/2 to 128 digits: at std 2^130 the cosine's window reaches a half-integer until a third word is drawn."""
    source, further = NoiseSource(KEY), iter([[7, 0], [11, 0], [13, 0]])
    monkeypatch.setattr(source, "words", lambda count: np.array(next(further), dtype=np.uint64))
    pair = source._resolved(1 << 62, 1 << 62, 2.0**130)
    uniform = ((1 << 62) << 64 | 7) << 64 | 11
    assert list(further) == [[13, 0]]
    assert pair == tuple(rounded(value) for value in ideal_pair(uniform, 1 << 190, 3, 2.0**130))


def test_a_window_that_holds_a_half_integer_is_not_rounded():
    """T in [1/2, 1/2 + 2^-127]: std cos lies near 0 at std 2^100, and reaches past -1/2 at std 2^130."""
    assert module.resolved(1 << 126, 1 << 126, 2, 2.0**100) is not None
    assert module.resolved(1 << 126, 1 << 126, 2, 2.0**130) is None


@pytest.mark.parametrize("std", [2.0**-7, 0.3, 1000.0, 2.0**21, 2.0**36])
def test_both_ways_give_the_same_numbers_where_both_are_certain(std):
    desk, other = drawn_desk(4001), drawn_desk(4001)
    values, certain = candidates(desk, std, None)
    compiled, sure = candidates(other, std, compiled_loops)
    both = certain & sure
    assert both.mean() > 0.9
    assert np.array_equal(values[:, both], compiled[:, both])


@pytest.mark.parametrize("std", [50.0, 2.0**36])
def test_the_slow_and_the_fast_path_agree(std, loops):
    desk = drawn_desk(200)
    values, certain = candidates(desk, std, loops)
    source = NoiseSource(bytes(32))
    for pair in np.flatnonzero(certain):
        resolved = source._resolved(int(desk.uniform[pair]), int(desk.turn[pair]), std)
        assert resolved == tuple(values[:, pair].tolist())


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


def repeated_words(make, monkeypatch):
    """How many words of a keystream were handed out more than once, over fills, coins, a child and a thread."""
    handed, draw = [], NoiseSource._draw

    def spied(self, zeros, into):
        draw(self, zeros, into)
        handed.append(np.frombuffer(bytes(into[: len(zeros)]), dtype="<u8"))

    with monkeypatch.context() as patch:
        patch.setattr(NoiseSource, "_draw", spied)
        source = make()
        source.words(1000)
        source.bernoulli(777, 0.5)
        fills(source, 3, 40_001, 2.0**38)
        source.child().gaussian_integers(1001, 4.0)
        with ahead(source, 4.0, 10_000) as noise:
            fills(noise, 3, 30_000, 4.0)
    drawn = np.concatenate(handed)
    return len(drawn) - len(np.unique(drawn))


def test_no_key_and_no_counter_is_used_twice(monkeypatch):
    """A collision by chance among 10^6 words has probability 2^-25."""
    assert len({NoiseSource().words(2).tobytes() for _ in range(200)}) == 200
    assert repeated_words(lambda: NoiseSource(KEY), monkeypatch) == 0
    monkeypatch.setattr(noise, "_MAX_WORDS", 2**17)
    assert repeated_words(lambda: NoiseSource(KEY), monkeypatch) == 0


def test_the_test_of_reuse_catches_a_counter_that_starts_again(monkeypatch):
    assert repeated_words(lambda: Repeating(KEY), monkeypatch) > 10_000


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


def test_threads_fill_from_one_source_without_repeating_it():
    source, parts = NoiseSource(KEY), torch.empty(4, 2 * noise._PAIRS, dtype=torch.float64)
    threads = [threading.Thread(target=source.fill, args=(part, 2.0**30)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = NoiseSource(KEY).gaussian_integers(parts.numel(), 2.0**30)
    assert sorted(parts.ravel().tolist()) == sorted(expected.tolist())
