"""The one way out."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.privacy import accountant
from privae.privacy.mechanism import Event, Mechanism, for_gradients, for_sums
from privae.privacy.noise import NoiseSource

KEY = bytes(32)


def test_the_default_promises_nothing():
    assert accountant.epsilon([Mechanism().event()], 1e-5) == math.inf
    assert Mechanism().std == 0.0


def test_without_noise_the_total_comes_back_as_float64():
    assert Mechanism().release(np.array([1.5, -0.1]), NoiseSource(KEY)).tolist() == [1.5, -0.1]
    released = Mechanism().release(torch.tensor([3]), NoiseSource(KEY))
    assert released.dtype == torch.float64
    assert released.tolist() == [3.0]


def test_sensitivity_counts_slack_and_rounding():
    mechanism = Mechanism(2.0, 3.0, grid=0.5, slack=0.25, rounding=0.5)
    assert mechanism.sensitivity() == 3.0
    assert mechanism.std == pytest.approx(9.0, rel=1e-14)
    assert mechanism.std >= 9.0


def test_a_release_is_the_rounded_total_plus_grid_noise():
    mechanism = Mechanism(1.0, 2.0, grid=0.25)
    noise = NoiseSource(KEY).gaussian_integers(4, mechanism.std / 0.25).reshape(2, 2) * 0.25
    total = np.array([[0.1, 0.2], [-0.1, 7.0]])
    expected = np.array([[0.0, 0.25], [0.0, 7.0]]) + noise
    assert mechanism.release(total, NoiseSource(KEY)).tolist() == expected.tolist()


def test_tensors_go_in_and_come_out():
    total = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    released = for_gradients(1.0, 1.0, 3, 0.0).release(total, NoiseSource(KEY))
    assert isinstance(released, torch.Tensor)
    assert released.shape == (3,)
    assert not released.requires_grad


def test_integer_totals_are_released_exactly_beyond_float_precision():
    mechanism = for_sums(1.0, 1.0, 2.0)
    noise = NoiseSource(KEY).gaussian_integers(1, mechanism.std)
    released = mechanism.release(np.array([2**53 + 1]), NoiseSource(KEY))
    assert released[0] == float(2**53 + 1 + int(noise[0]))


def test_an_empty_total_is_released_empty():
    assert for_sums(1.0, 1.0, 2.0).release(np.zeros((0, 3)), NoiseSource(KEY)).shape == (0, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**62, -(2.0**62)])
def test_totals_that_were_not_clipped_are_refused(value):
    with pytest.raises(PrivacyRefused, match="clip its contributions"):
        for_sums(1.0, 1.0, 2.0).release(np.array([value]), NoiseSource(KEY))


def test_other_dtypes_are_refused():
    with pytest.raises(UsageError, match="float64 or int64"):
        Mechanism().release(np.zeros(1, dtype=np.float32), NoiseSource(KEY))
    with pytest.raises(UsageError, match="grid 1"):
        Mechanism(1.0, 1.0, grid=0.5).release(np.zeros(1, dtype=np.int64), NoiseSource(KEY))


@pytest.mark.parametrize(
    "fields",
    [
        {"clip_norm": 0.0},
        {"clip_norm": math.nan},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": 1.0},
        {"clip_norm": 1.0, "noise_multiplier": 1.0},
        {"noise_multiplier": 1.0, "grid": 1.0},
        {"clip_norm": 1.0, "grid": 0.3},
        {"grid": -1.0},
        {"grid": math.inf},
        {"slack": -0.1},
        {"slack": math.nan},
        {"rounding": math.inf},
        {"replace_ratio": 2.1},
        {"replace_ratio": 0.0},
    ],
)
def test_parameters_that_bound_nothing_are_refused(fields):
    with pytest.raises(UsageError):
        Mechanism(**fields)


@given(st.floats(1e-6, 1e6), st.integers(1, 10**9))
def test_the_grid_of_gradients_costs_at_most_a_thousandth(clip_norm, size):
    mechanism = for_gradients(clip_norm, 1.0, size, slack=0.0)
    assert mechanism.grid * math.sqrt(size) <= mechanism.rounding * (1 + 1e-12)
    assert 0.0004 * clip_norm < mechanism.rounding <= 0.001 * clip_norm * (1 + 1e-12)
    assert mechanism.sensitivity() == clip_norm + mechanism.rounding


def test_gradients_without_noise_are_not_rounded():
    assert for_gradients(math.inf, 0.0, 5, 0.1).grid == 0.0
    assert for_gradients(1.0, 0.0, 5, 0.0).rounding == 0.0
    with pytest.raises(UsageError, match="finite clip norm"):
        for_gradients(math.inf, 1.0, 5, 0.0)
    with pytest.raises(UsageError, match="no gradients"):
        for_gradients(1.0, 1.0, 0, 0.0)


def test_events_say_what_was_done():
    event = for_sums(3.0, 2.0, math.sqrt(2)).event(steps=7, sampling_rate=0.5)
    assert event == Event(2.0, 0.5, 7, math.sqrt(2))
    assert Event.from_dict(json.loads(json.dumps(event.to_dict()))) == event


@pytest.mark.parametrize("fields", [(-1.0,), (math.nan,), (1.0, 1.5), (1.0, 1.0, -1), (1.0, 1.0, 1, 3.0)])
def test_events_that_make_no_sense_are_refused(fields):
    with pytest.raises(UsageError):
        Event(*fields)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 1.5},
        {"steps": "1"},
        {"steps": True},
        {"noise_multiplier": -1.0},
        {"extra": 1},
        {"steps": math.inf},
    ],
)
def test_broken_events_are_refused(change):
    with pytest.raises(ArtifactError):
        Event.from_dict({**Event(1.0).to_dict(), **change})
