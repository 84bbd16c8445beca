import math

import pytest

from privae.errors import PrivacyRefused, UsageError
from privae.plan import MOST_NUMBERS, sampler_delta
from privae.privacy.accountant import epsilon
from privae.privacy.gradients import Summation
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import FullBatch, TruncatedPoisson
from privae.training.promise import promised

DELTA = 1e-6


def ledger_of(*events: Event, added: float = 0.0, unit: str = "record") -> Ledger:
    ledger = Ledger.fresh(DELTA, unit=unit)
    ledger.spend([Charge("plan", "schema", "gradients", event, 1, unit, added) for event in events])
    return ledger


def promise(ledger, noise=None, sampling=None, summation=None):
    return promised(ledger, noise or NoiseSource(), sampling or FullBatch(), summation or Summation())


def test_the_promise_is_that_of_the_events_at_what_is_left_of_delta():
    events = [Event(4.0, steps=3), Event(7.0)]
    found = promise(ledger_of(*events))
    assert found.epsilon == epsilon(events, found.delta_accountant)
    assert found.epsilon_replace_one == pytest.approx(
        epsilon(events, found.delta_accountant, "replace_one"), rel=1e-6
    )
    assert found.epsilon < found.epsilon_replace_one
    assert (found.delta, found.unit, found.accountant) == (DELTA, "record", "exact Gaussian")
    assert found.delta_accountant + found.delta_threshold + found.delta_sampler == pytest.approx(DELTA)


def test_the_noise_sampler_is_paid_at_no_less_than_the_epsilon_that_comes_out():
    found = promise(ledger_of(Event(0.5, steps=4)))
    assert found.epsilon > 20
    assert sampler_delta(found.epsilon) <= found.delta_sampler <= sampler_delta(1.01 * found.epsilon + 0.01)


def test_where_the_noise_sampler_takes_all_of_delta_nothing_is_promised():
    found = promise(ledger_of(Event(0.1, steps=20)))
    assert found.epsilon == math.inf
    assert not found.holds


def test_what_was_charged_as_added_is_taken_off_once_and_twice_for_replaced():
    found = promise(ledger_of(Event(4.0), added=4e-7))
    assert found.delta_threshold == 4e-7
    assert found.epsilon == pytest.approx(epsilon([Event(4.0)], 6e-7), rel=1e-6)
    assert found.epsilon_replace_one == pytest.approx(epsilon([Event(4.0)], 2e-7, "replace_one"), rel=1e-6)
    assert promise(ledger_of(Event(4.0), added=6e-7)).epsilon_replace_one == math.inf


def test_cut_batches_are_paid_for_all_steps():
    sampling = TruncatedPoisson(rate=0.5, cap=90, most_rows=100)
    found = promise(ledger_of(Event(9.0, 0.5, 2), Event(9.0, 0.5, 1)), sampling=sampling)
    assert 0 < sampling.added_delta(found.epsilon, 3) <= found.delta_threshold < DELTA


def test_without_charges_nothing_is_spent_and_without_noise_nothing_is_promised():
    assert promise(Ledger.fresh(DELTA)).epsilon == 0
    found = promise(ledger_of(Event(0.0)))
    assert found.epsilon == math.inf
    assert "NOT PRIVATE" in str(found)


def test_a_key_given_by_hand_is_named_first():
    found = promise(ledger_of(Event(4.0)), NoiseSource(bytes(32)))
    assert "key was given by hand" in found.not_covered[0]
    assert not any("by hand" in item for item in promise(ledger_of(Event(4.0))).not_covered)


def test_float32_sums_are_named():
    def named(precision):
        found = promise(ledger_of(Event(4.0)), summation=Summation("by rule", precision))
        return any("float32" in item for item in found.not_covered)

    assert named("float32")
    assert not named("proved")


def test_the_unit_is_that_of_the_ledger():
    assert "one person" in promise(ledger_of(Event(4.0), unit="person")).sentence()


def test_a_data_sets_ledger_promises_by_its_cap_alone(tmp_path):
    ledger = Ledger.open(tmp_path / "x.ledger", 1.0, DELTA)
    with pytest.raises(UsageError, match="own ledger"):
        promise(ledger)


def test_more_noise_than_delta_pays_for_is_refused():
    noise = NoiseSource()
    noise.numbers_drawn = MOST_NUMBERS + 1
    with pytest.raises(PrivacyRefused, match="plan fewer steps"):
        promise(ledger_of(Event(4.0)), noise)
