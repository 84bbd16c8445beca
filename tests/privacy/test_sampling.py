import math
from collections import Counter
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from privae.errors import DataError, PrivacyRefused, UsageError
from privae.privacy import sampling
from privae.privacy.mechanism import Mechanism
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import (
    FullBatch,
    Persons,
    Poisson,
    Sampling,
    TruncatedPoisson,
    places_of,
    refuse_rows_of_persons,
)

CODES = np.array([7, 4, 7, 7, 9])  # rows 0, 2, 3 are about one person, 1 and 4 about two others


def noise() -> NoiseSource:
    return NoiseSource(bytes(range(32)))


def inclusions(n: int, steps: int, rate: float) -> np.ndarray:
    table = np.zeros((steps, n))
    for step, batch in enumerate(Poisson(rate).batches(n, steps, noise())):
        table[step, batch] = 1
    return table


def test_every_unit_is_drawn_at_the_rate():
    # n = 40,000 coins at rate 0.3; the band is 5 standard deviations (false alarm 6e-7; the key is fixed)
    table = inclusions(20, 2000, 0.3)
    assert abs(table.mean() - 0.3) < 5 * math.sqrt(0.21 / table.size)
    assert np.abs(table.mean(0) - 0.3).max() < 5 * math.sqrt(0.21 / 2000)


def test_units_are_drawn_independently_of_each_other():
    # batches of a fixed size, or shuffled ones, would have less variance of the size
    table = inclusions(20, 4000, 0.3)
    pairs = np.cov(table.T)[np.triu_indices(20, 1)]
    assert np.abs(pairs).max() < 5.5 * 0.21 / math.sqrt(4000)  # 190 pairs
    assert table.sum(1).var() == pytest.approx(20 * 0.21, rel=5 * math.sqrt(2 / 4000))


def test_indices_increase_and_never_repeat():
    for batch in Poisson(0.5).batches(100, 20, noise()):
        assert batch.dtype == np.int64
        assert (np.diff(batch) > 0).all()


def test_empty_batches_are_yielded_not_skipped():
    batches = list(Poisson(1e-9).batches(3, 4, noise()))
    assert [len(batch) for batch in batches] == [0, 0, 0, 0]
    assert [len(batch) for batch in Poisson(0.5).batches(0, 2, noise())] == [0, 0]


def test_rate_one_and_the_full_batch_draw_everyone():
    for sampler in (Poisson(1.0), FullBatch()):
        assert [batch.tolist() for batch in sampler.batches(3, 2, noise())] == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
@pytest.mark.parametrize(
    "make", [Poisson, lambda rate: TruncatedPoisson(rate, 5, 5), lambda rate: Persons(rate, CODES, 2)]
)
def test_a_rate_outside_its_range_is_a_usage_error(make, rate):
    with pytest.raises(UsageError, match="sampling rate"):
        make(rate)


def test_the_sampler_names_the_event_of_its_own_steps():
    mechanism = Mechanism(clip_norm=1.0, noise_multiplier=2.0, grid=2.0**-20)
    samplers: list[Sampling] = [
        FullBatch(),
        Poisson(0.25),
        TruncatedPoisson(0.25, 5, 5),
        Persons(0.25, CODES, 2),
    ]
    assert all(isinstance(sampler, Sampling) for sampler in samplers)
    events = [sampler.event(mechanism, 7) for sampler in samplers]
    assert events == [mechanism.event(7, 1.0), *[mechanism.event(7, 0.25)] * 3]
    assert [sampler.added_delta(1.0, 7) for sampler in samplers] == [0.0] * 4


def test_a_batch_above_the_public_cap_is_refused_without_saying_its_size(monkeypatch):
    monkeypatch.setattr(sampling, "MAX_BATCH", 5)
    assert len(next(FullBatch().batches(5, 1, noise()))) == 5
    with pytest.raises(PrivacyRefused, match="public cap of 5") as refused:
        next(FullBatch().batches(613, 1, noise()))
    assert "613" not in str(refused.value)


def test_a_batch_of_persons_above_the_cap_counts_its_places(monkeypatch):
    monkeypatch.setattr(sampling, "MAX_BATCH", 6)
    assert next(Persons(1.0, CODES, 2).batches(5, 1, noise())).shape == (3, 2)
    with pytest.raises(PrivacyRefused, match="public cap of 6"):
        next(Persons(1.0, CODES, 3).batches(5, 1, noise()))


def test_batches_are_cut_to_the_cap_and_only_then():
    cut = list(TruncatedPoisson(0.5, 12, 20).batches(20, 200, noise()))
    assert max(map(len, cut)) == 12
    assert all((np.diff(batch) > 0).all() for batch in cut)
    # below the cap it draws what Poisson draws, of the same coins, until the first batch that is cut
    for ours, theirs in zip(cut, Poisson(0.5).batches(20, 200, noise()), strict=True):
        if len(theirs) > 12:
            assert set(ours) < set(theirs)
            break
        assert ours.tolist() == theirs.tolist()


def test_whoever_is_cut_is_chosen_uniformly():
    # n = 6,000 pairs cut out of 4 units that are all drawn: 6 pairs, chi-squared of 5 degrees of freedom, whose
    # 1 - 1e-6 quantile is 35.9 (false alarm 1e-6; the key is fixed)
    pairs = Counter(tuple(batch) for batch in _all_cut(4, 2, 6000))
    assert len(pairs) == 6
    assert sum((count - 1000) ** 2 / 1000 for count in pairs.values()) < 35.9


def _all_cut(n: int, cap: int, steps: int):
    """Batches of a sampler whose every Poisson batch is everybody, cut to the cap."""
    sampler = object.__new__(TruncatedPoisson)  # a plan would refuse a cap below the expected batch
    vars(sampler).update(rate=1.0, cap=cap, most_rows=n)
    return sampler.batches(n, steps, noise())


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.floats(1e-4, 0.9999), st.floats(0, 1), st.integers(1, 1000))
def test_the_added_delta_covers_the_probability_that_a_batch_is_cut(most_rows, rate, high, steps):
    cap = math.ceil(max(1.0, rate * most_rows) * (1 - high) + most_rows * high)
    added = TruncatedPoisson(rate, cap, most_rows).added_delta(1.0, steps)
    exact = (1 + math.e) * steps * binom.sf(cap, most_rows, rate)
    assert min(exact, 1.0) * (1 - 1e-9) <= added <= 1.0


@pytest.mark.parametrize(("rate", "most_rows"), [(0.01, 10_000), (2e-9, 10**12), (0.5, 64)])
def test_the_added_delta_is_not_far_above_it(rate, most_rows):
    mean = rate * most_rows
    cap = math.ceil(mean + 6 * math.sqrt(mean * (1 - rate)))
    exact = (1 + math.e) * 10 * binom.sf(cap, most_rows, rate)
    assert exact <= TruncatedPoisson(rate, cap, most_rows).added_delta(1.0, 10) <= 50 * exact


def test_fewer_rows_than_declared_are_cut_less_often():
    tails = [sampling._tail(31, n, 0.1) for n in range(31, 300)]
    assert all(less <= more for less, more in pairwise(tails))


def test_the_added_delta_grows_with_steps_and_epsilon_and_knows_its_ends():
    sampler = TruncatedPoisson(0.01, 150, 10_000)
    assert sampler.added_delta(1.0, 20) == pytest.approx(2 * sampler.added_delta(1.0, 10))
    assert sampler.added_delta(0.0, 10) == pytest.approx(sampler.added_delta(1.0, 10) * 2 / (1 + math.e))
    assert sampler.added_delta(1e4, 10) == 1.0
    assert sampler.added_delta(math.inf, 10) == 0.0
    assert TruncatedPoisson(1.0, 5, 5).added_delta(1.0, 10) == 0.0
    assert sampling._tail(5, 10, 1.0) == sampling._tail(5, 10, 0.6) == 1.0
    assert sampling._tail(10, 10, 0.5) == pytest.approx(2.0**-10, rel=2e-3)


GRID = np.linspace(-14.0, 14.0, 2801)


def density(values: tuple[int, ...], rate: float, cap: int, std: float) -> np.ndarray:
    """Density of one release: the sum over a cut Poisson batch of units with these values, plus noise."""
    total = np.zeros_like(GRID)
    for size in range(len(values) + 1):
        for drawn in combinations(values, size):
            kept = list(combinations(drawn, min(size, cap)))
            share = rate**size * (1 - rate) ** (len(values) - size) / len(kept)
            total += sum(share * np.exp(-(((GRID - sum(those)) / std) ** 2) / 2) for those in kept)
    return total / (std * math.sqrt(2 * math.pi))


def delta(one: np.ndarray, other: np.ndarray, epsilon: float) -> float:
    """The smallest delta at epsilon, in the worse direction, by quadrature (error below 1e-6)."""
    step = GRID[1] - GRID[0]
    return max(
        float(np.maximum(p - math.exp(epsilon) * q, 0).sum() * step) for p, q in ((one, other), (other, one))
    )


@pytest.mark.parametrize("relation", ["add_or_remove", "replace_one"])
@pytest.mark.parametrize(
    ("n", "rate", "cap", "std", "epsilon"), [(4, 0.3, 3, 1.0, 0.5), (5, 0.2, 1, 0.7, 1.0)]
)
def test_one_cut_release_keeps_what_is_promised_computed_exactly(relation, n, rate, cap, std, epsilon):
    replaced = relation == "replace_one"
    poisson = delta(density((1,), rate, 1, std), density((-1,) if replaced else (), rate, 1, std), epsilon)
    promised = poisson + TruncatedPoisson(rate, cap, n).added_delta(epsilon, 1)
    for values in product((-1, 1), repeat=n):
        other = (*values[1:], -values[0]) if replaced else values[1:]
        cut = delta(density(values, rate, cap, std), density(other, rate, cap, std), epsilon)
        assert cut <= promised + 1e-6


def test_the_poisson_event_alone_would_promise_too_much():
    poisson = delta(density((1,), 0.2, 1, 0.7), density((), 0.2, 1, 0.7), 1.0)
    five = [density(values, 0.2, 1, 0.7) for values in ((-1, 1, 1, 1, 1), (1, 1, 1, 1))]
    assert delta(*five, 1.0) > 1.1 * poisson


@pytest.mark.parametrize("fields", [(0.1, 0, 5), (0.1, 2**20 + 1, 5), (0.1, 5, 0), (0.5, 5, 11), (1.0, 5, 6)])
def test_a_cap_that_cannot_be_is_a_usage_error(fields):
    with pytest.raises(UsageError, match="cap"):
        TruncatedPoisson(*fields)


def test_more_units_than_declared_are_refused_without_a_count():
    assert len(list(TruncatedPoisson(0.5, 613, 613).batches(613, 2, noise()))) == 2
    with pytest.raises(PrivacyRefused, match="most_rows") as refused:
        next(TruncatedPoisson(0.5, 613, 613).batches(614, 1, noise()))
    assert not any(character.isdigit() for character in str(refused.value))


def test_all_rows_of_a_person_come_together_up_to_the_most():
    batch = next(Persons(1.0, CODES, 2).batches(5, 1, noise()))
    assert batch.tolist() == [[1, ~1], [0, 2], [4, ~4]]
    rows, counted = places_of(batch)
    assert rows.tolist() == [[1, 1], [0, 2], [4, 4]]
    assert counted.tolist() == [[True, False], [True, True], [True, False]]


def test_rows_that_are_units_of_their_own_need_no_padding():
    rows, counted = places_of(np.array([3, 0]))
    assert rows.tolist() == [3, 0]
    assert counted.tolist() == [True, True]


codes = st.lists(st.integers(0, 6), max_size=30).map(lambda found: np.array(found, dtype=np.int64))


@settings(max_examples=100, deadline=None)
@given(codes, st.integers(1, 4))
def test_padding_and_kept_rows_are_the_persons_own(codes, most):
    batch = next(Persons(1.0, codes, most).batches(len(codes), 1, noise()))
    rows, counted = places_of(batch)
    assert batch.shape == (len(set(codes.tolist())), most)
    assert all(len(set(codes[of_one])) == 1 for of_one in rows)
    kept = rows[counted]
    expected = [i for i in range(len(codes)) if (codes[:i] == codes[i]).sum() < most]
    assert sorted(kept) == expected


def test_the_kept_rows_of_a_person_do_not_depend_on_the_others():
    codes = np.random.default_rng(0).integers(0, 9, 60)

    def kept(among):
        rows, counted = places_of(next(Persons(1.0, codes[among], 3).batches(len(among), 1, noise())))
        return [row for row in among[rows[counted]] if codes[row] == 4]

    everyone = np.arange(60)
    assert kept(everyone) == kept(everyone[np.isin(codes, [1, 4])]) == kept(everyone[codes == 4])


def test_persons_are_drawn_at_the_rate_whatever_they_bring():
    # n = 12,000 coins at rate 0.3; 5 standard deviations (false alarm 6e-7; the key is fixed); one person has
    # 30 rows, two have one
    codes = np.concatenate((np.zeros(30, dtype=np.int64), [1, 2]))
    drawn = [
        codes[places_of(batch)[0]].ravel() for batch in Persons(0.3, codes, 2).batches(32, 4000, noise())
    ]
    shares = [np.mean([person in batch for batch in drawn]) for person in range(3)]
    assert np.abs(np.array(shares) - 0.3).max() < 5 * math.sqrt(0.21 / 4000)
    sizes = np.array([len(batch) // 2 for batch in drawn])
    assert sizes.var() == pytest.approx(3 * 0.21, rel=5 * math.sqrt(2 / 4000))


def test_no_persons_make_empty_batches():
    empty = np.zeros(0, dtype=np.int64)
    assert [batch.shape for batch in Persons(0.5, empty, 3).batches(0, 2, noise())] == [(0, 3), (0, 3)]


def test_codes_of_persons_are_neither_shown_nor_wrong():
    assert repr(Persons(0.5, CODES, 2)) == "Persons(rate=0.5, max_rows=2)"
    with pytest.raises(UsageError, match="each row"):
        next(Persons(0.5, CODES, 2).batches(6, 1, noise()))
    with pytest.raises(DataError, match="no person"):
        Persons(0.5, np.array([0, -1]), 2)
    with pytest.raises(UsageError, match="max_rows"):
        Persons(0.5, CODES, 0)


def test_rows_are_not_drawn_where_persons_are_protected_nor_persons_where_rows_are():
    refuse_rows_of_persons(Persons(0.5, CODES, 2), "person")
    refuse_rows_of_persons(Poisson(0.5), "record")
    for sampler in (Poisson(0.5), FullBatch(), TruncatedPoisson(0.5, 5, 5)):
        with pytest.raises(PrivacyRefused, match="each person"):
            refuse_rows_of_persons(sampler, "person")
    with pytest.raises(PrivacyRefused, match="each record"):
        refuse_rows_of_persons(Persons(0.5, CODES, 2), "record")
