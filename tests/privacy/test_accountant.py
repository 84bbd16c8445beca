"""What events cost. Reference figures: shared/research/dp-engines.md section 5 and review-dp.md."""

import math
import time

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from privae.errors import PrivacyRefused, UsageError
from privae.privacy import accountant
from privae.privacy.accountant import (
    Filter,
    calibrate,
    epsilon,
    epsilon_to_renyi,
    gaussian_mu,
    method,
    mu_squared,
    renyi,
    renyi_to_epsilon,
)
from privae.privacy.mechanism import Event

SGD = Event(1.0, 0.01, 1000)
ORDERS = [float(order) for order in range(2, 65)]


@pytest.mark.parametrize(
    ("event", "delta", "pld", "replace_one", "by_renyi"),
    [
        (SGD, 1e-5, 1.828, 2.843, 2.101),
        (Event(2.0, 2048 / 60_000, 586), 1e-5, 1.803, 3.520, 1.976),
        (Event(4.0, 0.1, 300), 1e-6, 2.013, 4.142, 2.171),
    ],
)
def test_subsampled_gaussians_cost_what_the_reference_table_says(event, delta, pld, replace_one, by_renyi):
    assert epsilon([event], delta) == pytest.approx(pld, abs=6e-4)
    assert epsilon([event], delta, "replace_one") == pytest.approx(replace_one, abs=6e-4)
    best = min(renyi_to_epsilon(renyi([event], order), order, delta) for order in ORDERS)
    assert best == pytest.approx(by_renyi, rel=5e-3)
    assert method([event]) == "PLD"


def test_gaussians_cost_exactly_what_the_analytic_curve_says():
    pairs = Event(3.7306, replace_ratio=math.sqrt(2))
    assert epsilon([pairs], 1e-5) == pytest.approx(1.0, abs=1e-4)
    assert epsilon([pairs], 1e-5, "replace_one") == pytest.approx(1.465, abs=5e-4)
    assert epsilon([Event(3.73)], 1e-5, "replace_one") == pytest.approx(2.155, abs=5e-4)
    assert method([pairs, pairs]) == "exact Gaussian"


def test_gaussians_compose_by_the_squares_of_their_mu():
    apart = [Event(5.0, steps=3), Event(2.0, replace_ratio=1.5)]
    assert mu_squared(apart) == pytest.approx(3 / 25 + 1 / 4)
    assert mu_squared(apart, "replace_one") == pytest.approx(4 * 3 / 25 + 2.25 / 4)
    together = Event(1 / math.sqrt(3 / 25 + 1 / 4))
    assert epsilon(apart, 1e-6) == pytest.approx(epsilon([together], 1e-6), rel=1e-12)


@pytest.mark.parametrize("relation", ["add_or_remove", "replace_one"])
def test_mixed_plans_agree_with_the_library_composing_them_itself(relation):
    name = {"add_or_remove": "ADD_OR_REMOVE_ONE", "replace_one": "REPLACE_ONE"}[relation]
    library = PLDAccountant(dp_accounting.NeighboringRelation[name])
    library.compose(dp_accounting.GaussianDpEvent(5.0))
    library.compose(dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(2.0)), 100)
    library.compose(dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(3.0)), 20)
    events = [Event(3.0, 0.1, 20), Event(5.0), Event(2.0, 0.05, 100)]
    assert epsilon(events, 1e-5, relation) == pytest.approx(library.get_epsilon(1e-5), rel=1e-6)


def test_review_figure_of_replace_one_for_gradients():
    assert epsilon([Event(4.0, 0.1, 300)], 1e-5) == pytest.approx(1.770, abs=1e-3)
    assert epsilon([Event(4.0, 0.1, 300)], 1e-5, "replace_one") == pytest.approx(3.699, abs=1e-3)


def test_a_subsampled_event_is_charged_with_ratio_two_whatever_it_says():
    assert epsilon([Event(4.0, 0.1, 30, 1.0)], 1e-5, "replace_one", fine=False) == epsilon(
        [Event(4.0, 0.1, 30, 2.0)], 1e-5, "replace_one", fine=False
    )


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert epsilon([], 1e-5) == 0
    assert epsilon([Event(0.0, 1.0, 0), Event(0.0, 0.0, 5)], 1e-5) == 0
    assert epsilon([Event(0.0), SGD], 1e-5) == math.inf
    assert renyi([Event(0.0)], 2.0) == math.inf
    assert mu_squared([Event(0.0)]) == math.inf
    assert mu_squared([SGD]) == math.inf
    assert method([Event(0.0)]) == "exact Gaussian"
    assert epsilon([Event(1e9)], 0.5) == 0


def test_the_coarse_lattice_is_an_upper_bound_on_the_fine_one():
    assert epsilon([SGD], 1e-5) <= epsilon([SGD], 1e-5, fine=False) <= 1.01 * epsilon([SGD], 1e-5)


def test_little_noise_is_accounted_on_a_coarser_lattice_in_bounded_memory():
    event = Event(0.05, 0.01, 100)
    value = epsilon([event], 1e-5, fine=False)
    best = min(renyi_to_epsilon(renyi([event], order), order, 1e-5) for order in ORDERS)
    assert 200 < value <= best


@pytest.mark.parametrize("outcome", [MemoryError(), math.nan, math.inf, -1.0])
def test_renyi_divergences_step_in_where_the_loss_distribution_fails(monkeypatch, outcome):
    class Broken:
        def get_epsilon_for_delta(self, delta):
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    accountant._from_loss.cache_clear()
    monkeypatch.setattr(accountant, "_loss", lambda *_: Broken())
    assert method([SGD]) == "RDP"
    assert epsilon([SGD], 1e-5) == pytest.approx(2.101, rel=5e-3)
    assert epsilon([SGD], 1e-5, "replace_one") == math.inf


@given(st.floats(1e-3, 300), st.floats(1e-12, 0.1))
@settings(max_examples=60, deadline=None)
def test_gaussian_mu_and_epsilon_are_inverses_that_never_overshoot(target, delta):
    spent = epsilon([Event(1 / gaussian_mu(target, delta))], delta)
    assert spent == pytest.approx(target, rel=1e-6)
    assert spent <= target * (1 + 1e-9)


def test_gaussian_mu_at_its_ends():
    assert gaussian_mu(math.inf, 1e-5) == math.inf
    assert 0 < gaussian_mu(0.0, 1e-5) < 1e-4
    assert accountant._gaussian_delta(0.0, 1.0) == 0.0
    assert 1 / gaussian_mu(1.0, 1e-5) == pytest.approx(3.7306, abs=1e-4)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(UsageError, match="delta"):
        epsilon([SGD], delta)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
def test_targets_that_are_not_positive_are_refused(wrong):
    with pytest.raises(UsageError, match="epsilon"):
        calibrate(wrong, 1e-5, lambda s: [Event(s)])


def test_an_epsilon_that_is_no_number_is_refused():
    with pytest.raises(UsageError, match="epsilon"):
        gaussian_mu(math.nan, 1e-5)


@pytest.mark.parametrize("order", [1.0, 0.5, math.nan])
def test_an_order_that_is_not_above_one_is_refused(order):
    with pytest.raises(UsageError, match="order"):
        renyi([SGD], order)


@pytest.mark.parametrize("target", [0.3, 3.0, 40.0])
def test_calibrated_gaussian_noise_is_the_smallest(target):
    found = calibrate(target, 1e-5, lambda s: [Event(s)])
    assert epsilon([Event(found)], 1e-5) <= target
    assert found == pytest.approx(1 / gaussian_mu(target, 1e-5), rel=1e-8)


@pytest.mark.parametrize("relation", ["add_or_remove", "replace_one"])
def test_calibrated_noise_never_overshoots_and_is_small_to_two_in_a_thousand(relation):
    def at(multiplier):
        return [Event(20.0, replace_ratio=1.5), Event(multiplier, 0.05, 20)]

    found = calibrate(2.0, 1e-5, at, relation)
    assert epsilon(at(found), 1e-5, relation) <= 2.0
    assert epsilon(at(found / 1.0021), 1e-5, relation) > 2.0


def test_no_target_needs_no_noise():
    assert calibrate(math.inf, 1e-5, lambda s: [Event(s)]) == 0.0


def test_a_target_that_other_phases_already_exceed_is_refused():
    with pytest.raises(PrivacyRefused, match="other phases"):
        calibrate(1.0, 1e-5, lambda s: [Event(1.0), Event(s)])


@pytest.mark.parametrize("edge", [0.75, 3.3])
def test_calibration_survives_a_cost_that_jumps(edge):
    def at(multiplier):
        return [Event(50.0 if multiplier > edge else 0.6, 0.5, 1)]

    assert calibrate(1.0, 1e-5, at) == pytest.approx(edge, rel=3e-3)
    assert calibrate(1.0, 1e-5, at) >= edge


def test_calibration_survives_a_coarse_lattice_that_says_too_little(monkeypatch):
    genuine = accountant.epsilon
    monkeypatch.setattr(
        accountant,
        "epsilon",
        lambda events, delta, relation, fine: (
            genuine(events, delta, relation, fine=False) * (1.01 if fine else 1)
        ),
    )
    found = calibrate(2.0, 1e-5, lambda s: [Event(s, 0.02, 50)])
    assert genuine([Event(found, 0.02, 50)], 1e-5, fine=False) * 1.01 <= 2.0


def test_events_that_cost_nothing_at_any_noise_get_almost_none():
    assert calibrate(1.0, 1e-5, lambda s: [Event(s, 0.0, 5)]) <= 2.0**-40


@pytest.mark.parametrize(
    ("excess", "calls"),
    [
        (lambda s: 5.0, 2),  # flat
        (lambda s: math.inf if s < 1.5 else 0.5, 2),  # no finite slope
        (lambda s: 4 / s if s < 1.99 else 0.5, 4),  # back to an end it came from
        (lambda s: math.exp(-math.cbrt(math.log(s) - 0.4)), 8),  # oscillates
    ],
)
def test_the_secant_gives_up_rather_than_guess(excess, calls):
    asked = []
    assert accountant._secant(lambda s: asked.append(s) or excess(s), 1.0, 2.0) is None
    assert len(asked) == calls


@pytest.mark.parametrize("guess", [0.99, 1.0, 1.01])
def test_a_guess_is_moved_to_the_smallest_multiplier_that_is_confirmed(guess):
    found = accountant._confirmed(lambda multiplier: multiplier >= 1.0, guess)
    assert 1.0 <= found < 1.002


def test_the_secant_finds_a_power_law_at_once():
    assert accountant._secant(lambda s: (1.4 / s) ** 2, 1.0, 2.0) == pytest.approx(1.4)


def test_renyi_divergences_add_up_and_convert():
    assert renyi([Event(2.0, steps=4), Event(1.0)], 3.0) == pytest.approx(1.5 + 1.5)
    assert renyi([Event(2.0)], 3.0, "replace_one") == pytest.approx(1.5)
    assert renyi([SGD], 3.0, "replace_one") == math.inf
    assert renyi_to_epsilon(0.0, 1024.0, 0.5) == 0.0
    assert epsilon_to_renyi(renyi_to_epsilon(0.5, 8.0, 1e-5), 8.0, 1e-5) == pytest.approx(0.5)


@pytest.mark.parametrize("composition", ["renyi", "gaussian"])
@pytest.mark.parametrize("cap", [(1.0, 1e-5), (10.0, 1e-6), (0.1, 1e-9)])
def test_whatever_fits_a_filter_costs_at_most_its_epsilon(composition, cap):
    """A plan fixed in advance is a special case of an adaptive one, so the exact accountant must agree."""
    terms = Filter.fixed(*cap, composition)
    unit = terms.used([Event(1.0)], "add_or_remove")
    largest = Event(math.sqrt(unit))
    assert terms.used([largest], "add_or_remove") == pytest.approx(1.0)
    assert epsilon([largest], 0.9 * cap[1]) <= cap[0] * (1 + 1e-9)
    assert terms.so_far([largest], "add_or_remove") == pytest.approx(cap[0])
    assert terms.used([SGD], "add_or_remove") > 0


def test_a_filter_without_budget_admits_nothing():
    assert Filter(1e-9, 1e-9, "renyi", 2.0).used([Event(100.0)], "add_or_remove") == math.inf
    assert Filter.fixed(1.0, 1e-5, "gaussian").used([SGD], "add_or_remove") == math.inf


BLOCKS = [Event(1.0, 0.01, 20)] * 50


@pytest.mark.parametrize("relation", ["add_or_remove", "replace_one"])
def test_fifty_blocks_cost_exactly_what_one_event_of_all_their_steps_costs(relation):
    assert epsilon(BLOCKS, 1e-5, relation, fine=False) == epsilon([SGD], 1e-5, relation, fine=False)
    mixed = [*BLOCKS[:30], Event(5.0), *BLOCKS[30:], Event(5.0, steps=2)]
    assert epsilon(mixed, 1e-5, relation, fine=False) == epsilon(
        [SGD, Event(5.0, steps=3)], 1e-5, relation, fine=False
    )
    assert renyi(BLOCKS, 4.0) == renyi([SGD], 4.0)


def test_fifty_blocks_take_no_longer_than_one_event():
    def seconds(events):
        for kept in (accountant._from_loss, accountant._loss, accountant._step_loss):
            kept.cache_clear()
        start = time.process_time()
        epsilon(events, 1e-5, fine=False)
        return time.process_time() - start

    whole = min(seconds([SGD]) for _ in range(3))
    assert min(seconds(BLOCKS) for _ in range(3)) < 3 * whole + 0.05


def test_only_events_that_differ_in_steps_alone_are_put_together():
    apart = [Event(1.0, 0.1), Event(2.0, 0.1), Event(1.0, 0.2), Event(1.0, 0.1, replace_ratio=1.0)]
    assert accountant._real([*apart, Event(1.0, 0.1, 4), Event(1.0, 0.1, 0), Event(1.0, 0.0)]) == [
        Event(1.0, 0.1, 5),
        *apart[1:],
    ]


@pytest.mark.parametrize(("rate", "size"), [(1.0, 3), (0.2, 2), (0.05, 3)])
def test_a_person_with_several_records_costs_what_the_mixture_of_their_draws_says(rate, size):
    sigma, delta = 2.0, 1e-4
    found = accountant.group_epsilon([Event(sigma, rate)], delta, size)
    x = np.linspace(-60, 60, 400_001)
    drawn = binom.pmf(range(size + 1), size, rate)
    there = sum(p * norm.pdf(x, k, sigma) for k, p in enumerate(drawn))
    gone = norm.pdf(x, 0, sigma)
    step = x[1] - x[0]

    def missing(epsilon):
        return max(
            np.maximum(a - np.exp(epsilon) * b, 0).sum() * step for a, b in ((there, gone), (gone, there))
        )

    assert missing(found) <= delta * (1 + 1e-6)
    assert missing(found * 0.99) > delta
    assert found > accountant.epsilon([Event(sigma, rate)], delta)


def test_many_steps_of_several_records_cost_at_most_what_converting_one_says():
    """Group privacy of (epsilon, delta) for 2: 2 epsilon at (1 + e^epsilon) delta, a much looser bound."""
    event = Event(1.5, 0.01, steps=300)
    one = accountant.epsilon([event], 1e-8)
    loose, at = 2 * one, (1 + math.exp(one)) * 1e-8
    assert accountant.epsilon([event], at) < accountant.group_epsilon([event], at, 2) <= loose


def test_several_records_cost_nothing_and_everything_where_one_does(monkeypatch):
    assert accountant.group_epsilon([], 1e-5, 3) == 0
    assert accountant.group_epsilon([Event(0.0, 0.5)], 1e-5, 3) == math.inf
    accountant._from_loss.cache_clear()
    monkeypatch.setattr(accountant, "_loss", lambda *_: 1 / 0)
    found = accountant.group_epsilon([Event(1.0, 0.5)], 1e-5, 2)
    assert found == accountant.epsilon([Event(0.5)], 1e-5)  # as if both were in every batch
