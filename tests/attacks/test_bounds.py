"""Bounds against closed forms, brute force and simulations; what a claim promises is contradicted as rarely as said."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privae.attacks import bounds
from privae.attacks.bounds import (
    auc,
    auc_interval,
    balanced,
    corrected,
    excess,
    game_bound,
    guessed,
    one_run_bound,
    one_run_p_value,
    one_run_power,
    roc,
    scores_bound,
    share,
    thinned,
    tpr_at_fpr,
)
from privae.errors import UsageError

SCORES = st.lists(st.integers(0, 5), min_size=1, max_size=30).map(lambda x: np.array(x, np.float64))


def rng(seed=0):
    return np.random.default_rng(seed)


# --- one run ----------------------------------------------------------------------------------------------


def test_without_delta_the_p_value_is_a_binomial_tail():
    for right, epsilon in ((0, 1.0), (7, 0.0), (10, 1.0), (9, 3.0)):
        rate = math.exp(epsilon) / (1 + math.exp(epsilon))
        tail = sum(math.comb(10, k) * rate**k * (1 - rate) ** (10 - k) for k in range(right, 11))
        assert one_run_p_value(right, 10, 50, epsilon, 0.0) == pytest.approx(tail, rel=1e-12)


@pytest.mark.parametrize(("right", "guesses", "canaries"), [(8, 10, 10), (60, 80, 300), (1, 1, 5)])
def test_with_delta_the_p_value_is_that_of_the_theorem_term_by_term(right, guesses, canaries):
    """Theorem 5.2: beta + 2 m delta max over i of P[v - i <= W < v] / i."""
    epsilon, delta, rate = 1.0, 1e-3, 1 / (1 + math.exp(-1.0))
    mass = [math.comb(guesses, k) * rate**k * (1 - rate) ** (guesses - k) for k in range(guesses + 1)]
    most = max(sum(mass[right - i : right]) / i for i in range(1, right + 1))
    expected = min(1.0, sum(mass[right:]) + 2 * canaries * delta * most)
    assert one_run_p_value(right, guesses, canaries, epsilon, delta) == pytest.approx(expected, rel=1e-9)


def test_the_p_value_bounds_what_a_mechanism_with_failures_reaches():
    """100,000 runs of 30 canaries, each told outright with probability delta, else by randomized response.

    Whatever the number of right guesses, it is reached at most as often as the p-value says, up to 4 sd.
    """
    epsilon, delta, runs, canaries = 0.5, 0.02, 100_000, 30
    rate = 1 / (1 + math.exp(-epsilon))
    right = rng().binomial(canaries, delta + (1 - delta) * rate, runs)
    for least in range(canaries + 1):
        allowed = one_run_p_value(least, canaries, canaries, epsilon, delta)
        assert (right >= least).mean() <= allowed + 4 * math.sqrt(allowed / runs)


def test_no_right_guess_proves_nothing_and_impossible_counts_are_refused():
    assert one_run_p_value(0, 10, 10, 1.0, 1e-3) == 1.0
    assert one_run_p_value(0, 0, 0, 0.0, 0.0) == 1.0
    for counts in ((5, 4, 10), (4, 5, 4), (-1, 4, 4)):
        with pytest.raises(UsageError, match="right guesses"):
            one_run_p_value(*counts, 1.0, 0.0)


def test_what_one_run_could_show_at_most():
    assert one_run_power(100, 100, 0.0, 0.999) == pytest.approx(2.64, abs=0.005)
    assert one_run_power(1000, 1000, 0.0, 0.999) == pytest.approx(4.97, abs=0.005)
    # closed form: rate^r = 0.001
    rate = 0.001 ** (1 / 100)
    assert one_run_power(100, 100, 0.0, 0.999) == pytest.approx(math.log(rate / (1 - rate)), abs=1e-5)
    assert one_run_power(1000, 1000, 1e-4, 0.999) < 4.97
    assert one_run_power(9, 9, 0.0, 0.999) == 0.0  # 2^-9 > 0.001: too few to show anything


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(0, 100),
    st.data(),
    st.sampled_from([0.0, 1e-9, 1e-4, 0.05]),
    st.sampled_from([0.9, 0.999]),
)
def test_bounds_grow_with_right_guesses_and_shrink_with_delta(guesses, more, data, delta, confidence):
    right = data.draw(st.integers(0, guesses))
    canaries = guesses + more
    bound = one_run_bound(right, guesses, canaries, delta, confidence)
    assert 0 <= bound <= one_run_power(guesses, canaries, delta, confidence) + 1e-6
    assert bound <= one_run_bound(right, guesses, canaries, 0.0, confidence) + 1e-6
    assert bound >= one_run_bound(max(right - 1, 0), guesses, canaries, delta, confidence) - 1e-6
    assert bound >= one_run_bound(right, guesses, canaries, delta, confidence + (1 - confidence) / 2) - 1e-6
    p_values = [one_run_p_value(right, guesses, canaries, e, delta) for e in (0.0, bound, bound + 0.01)]
    assert all(0 <= p <= 1 for p in p_values)
    assert bound == 0 or p_values[1] < 1 - confidence <= p_values[2]


def test_randomized_response_is_contradicted_as_rarely_as_said():
    """Epsilon 1, 200 canaries, all guessed, 99.9 %: exactly, and in 20,000 runs within 4 sd of one in a thousand."""
    rate = 1 / (1 + math.exp(-1.0))
    limits = np.array([one_run_bound(v, 200, 200, 0.0, 0.999) for v in range(201)])
    assert (np.diff(limits) >= 0).all()
    error = stats.binom.pmf(np.arange(201), 200, rate)[limits > 1.0].sum()
    assert 1e-4 < error <= 0.001  # nearly all of what is allowed is used
    alarms = (limits[rng(1).binomial(200, rate, 20_000)] > 1.0).sum()
    assert alarms <= 20 + 4 * math.sqrt(20)


def test_scores_of_randomized_response_are_contradicted_as_rarely_as_said():
    """300 runs of 200 canaries whose score is a noisy coin of epsilon 1; bound at 99 %: 3 expected, 12 at most."""
    draw, rate = rng(2), 1 / (1 + math.exp(-1.0))
    alarms = 0
    for _ in range(300):
        coins = draw.random(200) < 0.5
        told = np.where(draw.random(200) < rate, coins, ~coins)
        alarms += scores_bound(told.astype(float), coins, 0.0, 0.99)[0] > 1.0
    assert alarms <= 12


def test_the_highest_half_is_guessed_in_and_the_lowest_out():
    scores, coins = np.array([5.0, 1, 4, 2, 3, 0]), np.array([True, False, True, True, False, True])
    assert guessed(scores, coins, 2) == 1  # 5 is in: right; 0 is in, too: wrong
    assert guessed(scores, coins, 4) == 3
    assert guessed(scores, coins, 6) == 3
    assert guessed(scores, coins, 100) == 3
    assert guessed(scores, coins, 0) == 0


def test_ties_are_broken_by_place_which_coins_do_not_know():
    assert guessed(np.zeros(4), np.array([False, False, True, True]), 4) == 4
    assert guessed(np.zeros(4), np.array([True, True, False, False]), 4) == 0


def test_half_of_the_canaries_are_guessed():
    coins = rng().random(1000) < 0.5
    bound, power, right, guesses = scores_bound(coins.astype(float), coins, 0.0, 0.999)
    assert (right, guesses) == (500, 500)
    assert bound == power == one_run_power(500, 1000, 0.0, 0.999)
    for count, expected in ((0, 0), (1, 0), (2, 2), (3, 2), (7, 2), (8, 4)):
        assert scores_bound(np.zeros(count), np.zeros(count, bool), 0.0, 0.999)[3] == expected


# --- shares and games -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (1, 1), (0, 20), (20, 20), (3, 17), (500, 1000)])
def test_a_share_has_the_exact_interval(hits, trials):
    found = share(hits, trials, 0.95)
    expected = stats.binomtest(hits, trials).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == hits / trials


def test_a_share_of_nothing_is_anything():
    found = share(0, 0, 0.95)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.data(), st.sampled_from([0.5, 0.95, 0.999999]))
def test_a_share_lies_in_its_interval(trials, data, confidence):
    hits = data.draw(st.integers(0, trials))
    found = share(hits, trials, confidence)
    assert 0 <= found.low <= found.high <= 1
    assert trials == 0 or found.low <= found.value <= found.high


def test_a_game_that_is_always_won_shows_the_ratio_of_two_exact_limits():
    limit = (0.05 / 4) ** (1 / 1000)  # two intervals of two sides each
    assert game_bound((1000, 1000), (0, 1000), 0.0, 0.95) == pytest.approx(math.log(limit / (1 - limit)))
    assert game_bound((0, 1000), (1000, 1000), 0.0, 0.95) == pytest.approx(math.log(limit / (1 - limit)))


def test_a_game_sees_events_that_hardly_ever_happen_and_ones_that_nearly_always_do():
    rare = game_bound((50, 1000), (0, 1000), 0.0, 0.95)
    assert rare > 1
    assert game_bound((950, 1000), (1000, 1000), 0.0, 0.95) == pytest.approx(rare)
    assert game_bound((1000, 1000), (950, 1000), 0.0, 0.95) == pytest.approx(rare)


def test_a_game_of_chance_delta_or_no_runs_shows_nothing():
    assert game_bound((500, 1000), (500, 1000), 0.0, 0.95) == 0.0
    assert game_bound((5, 1000), (0, 1000), 0.5, 0.95) == 0.0
    assert game_bound((0, 0), (0, 0), 0.0, 0.95) == 0.0
    assert game_bound((1000, 1000), (0, 1000), 1.0, 0.95) == 0.0


def test_a_game_of_randomized_response_is_contradicted_as_rarely_as_said():
    """20,000 games of 2 x 100 runs at epsilon 1 and 90 %: at most 10 % (5 % a side), up to 4 sd."""
    rate, draw = 1 / (1 + math.exp(-1.0)), rng(3)
    hits = draw.binomial(100, [rate, 1 - rate], (20_000, 2))
    seen, counts = np.unique(hits, axis=0, return_counts=True)
    above = [game_bound((int(a), 100), (int(b), 100), 0.0, 0.9) > 1.0 for a, b in seen]
    error = counts[np.array(above)].sum() / 20_000
    assert error <= 0.1 + 4 * math.sqrt(0.1 * 0.9 / 20_000)


def test_excess_contradicts_what_the_claim_does_not_allow():
    low, contradicts = excess((900, 1000), (10, 1000), 1.0, 1e-6, 0.999)
    inside, outside = share(900, 1000, 0.999), share(10, 1000, 0.999)
    assert low == pytest.approx(inside.low - outside.high)
    assert contradicts
    assert not excess((900, 1000), (500, 1000), 1.0, 1e-6, 0.999)[1]
    assert not excess((900, 1000), (10, 1000), 1.0, 0.9, 0.999)[1]
    assert not excess((1000, 1000), (0, 1000), math.inf, 0.0, 0.999)[1]
    assert excess((0, 0), (0, 0), 1.0, 0.0, 0.999) == (-1.0, False)


def test_findings_share_the_error():
    assert corrected(4, 0.96) == pytest.approx(0.99)
    assert corrected(0, 0.96) == 0.96
    assert corrected(1) == bounds.CONFIDENCE


# --- curves -----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_in_order(members, others):
    pairs = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    assert auc(members, others) == pytest.approx(pairs.mean())
    found = auc_interval(members, others, 0.99)
    assert 0 <= found.low <= found.value <= found.high <= 1


@settings(max_examples=30, deadline=None)
@given(SCORES.filter(lambda x: len(x) > 1), SCORES.filter(lambda x: len(x) > 1))
def test_delongs_variance_is_that_of_the_placements(members, others):
    """By brute force: the variance of each record's mean over the other side's pairs."""
    members, others = np.tile(members, 200), np.tile(others, 200)
    pairs = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    variance = pairs.mean(1).var(ddof=1) / len(members) + pairs.mean(0).var(ddof=1) / len(others)
    found = auc_interval(members, others, 0.95)
    if variance > 1e-12:
        half = 1.959963985 * math.sqrt(variance)
        assert found.low == pytest.approx(max(0, found.value - half), abs=1e-6)
        assert found.high == pytest.approx(min(1, found.value + half), abs=1e-6)
    else:
        half = math.sqrt(math.log(2 / 0.05) / (2 * min(len(members), len(others))))
        assert found.low == pytest.approx(max(0, found.value - half), abs=1e-6)


@pytest.mark.parametrize("sizes", [(9, 30), (200, 250)])
def test_the_interval_of_auc_covers_a_half_as_often_as_said(sizes):
    """600 draws of normal numbers at 95 %: at most 30 misses expected, 52 is 4 sd. Under 200 of a kind, far fewer."""
    draw = rng(4)
    found = [auc_interval(*(draw.normal(size=n) for n in sizes), 0.95) for _ in range(600)]
    assert sum(not one.low <= 0.5 <= one.high for one in found) <= (52 if min(sizes) >= 200 else 6)


def test_few_records_have_the_interval_that_always_holds():
    members, others = rng(1).normal(size=50), rng(2).normal(size=199)
    found = auc_interval(members, others, 0.99)
    half = math.sqrt(math.log(2 / 0.01) / (2 * 50))
    assert found.high - found.low == pytest.approx(2 * half)


def test_one_record_a_side_says_nothing_for_sure():
    assert auc_interval(np.array([1.0]), np.array([0.0]), 0.95).low == 0.0


def test_true_positives_are_counted_above_the_threshold_that_few_others_pass():
    members, others = np.array([5.0, 4, 3, 2]), np.array([4.0, 3, 2, 1, 0])
    assert tpr_at_fpr(members, others, 0.0, 0.95).value == 0.25  # above 4
    assert tpr_at_fpr(members, others, 0.2, 0.95).value == 0.5  # one of five others may pass: above 3
    assert tpr_at_fpr(members, others, 0.39, 0.95).value == 0.5
    assert tpr_at_fpr(members, others, 1.0, 0.95).value == 1.0
    found = tpr_at_fpr(members, others, 0.2, 0.95)
    assert (found.low, found.high) == (share(2, 4, 0.95).low, share(2, 4, 0.95).high)


def test_true_positives_at_ties_are_not_counted():
    assert tpr_at_fpr(np.ones(10), np.ones(10), 0.5, 0.95).value == 0.0
    assert tpr_at_fpr(np.array([1.0, 2]), np.array([1.0, 1]), 0.0, 0.95).value == 0.5


@settings(max_examples=40, deadline=None)
@given(SCORES, SCORES)
def test_a_curve_runs_from_corner_to_corner_and_every_point_is_a_threshold(members, others):
    curve = roc(members, others)
    points = np.array([curve["fpr"], curve["tpr"]])
    assert (points[:, 0] == 0).all()
    assert (points[:, -1] == 1).all()
    assert (np.diff(points) >= -1e-6).all()
    cuts = {(round((others >= c).mean(), 6), round((members >= c).mean(), 6)) for c in [*members, *others]}
    assert {(f, t) for f, t in points.T.round(6).tolist()} <= cuts | {(0.0, 0.0), (1.0, 1.0)}


def test_a_curve_has_few_points_however_many_scores():
    draw = rng()
    curve = roc(draw.normal(1, 1, 5000), draw.normal(0, 1, 5000))
    assert len(curve["fpr"]) == len(curve["tpr"]) <= 202
    assert sum(f <= 0.01 for f in curve["fpr"]) > 20  # dense where alarms are rare


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 9))
def test_as_many_members_as_others_are_drawn_each_once(members, others, seed):
    inside, outside = balanced(members, others, rng(seed))
    assert len(inside) == len(outside) == min(members, others)
    for chosen, count in ((inside, members), (outside, others)):
        assert sorted(set(chosen)) == list(chosen)
        assert set(chosen) <= set(range(count))


@pytest.mark.parametrize("kept_out", [0.0, 0.05, 0.3, 0.5])
def test_thinned_members_and_all_who_were_kept_out_are_as_many_by_chance(kept_out):
    """100,000 records: those drawn of members are a share p / (1 - p), so both kinds come with chance p (4 sd)."""
    draw = rng(5)
    kept = draw.random(100_000) < kept_out
    chosen = thinned(int((~kept).sum()), kept_out, draw)
    assert (np.diff(chosen) > 0).all()
    assert abs(len(chosen) - 100_000 * kept_out) <= 4 * math.sqrt(100_000 * kept_out)
    assert abs(len(chosen) - kept.sum()) <= 4 * math.sqrt(2 * 100_000 * kept_out)
