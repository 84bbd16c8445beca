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


class Constant:
    """Noise that is one integer everywhere."""

    fixed, numbers_drawn = True, 0

    def __init__(self, value):
        self.value = value

    def fill(self, out, std):
        out.fill_(self.value)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_the_largest_totals_and_noise_are_added_without_rounding(dtype):
    largest = 2**52 - 1 if dtype == np.float64 else 2**62 - 1
    for total in (largest, -largest, largest - 1):
        for noise in (largest, -largest):
            released = for_sums(1.0, 1.0, 2.0).release(np.array([total], dtype=dtype), Constant(noise))
            assert released.tolist() == [float(total + noise)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**52, -(2.0**52), 1e300])
@pytest.mark.parametrize("place", [0, 2**15 + 1])
def test_totals_that_were_not_clipped_are_refused(value, place):
    total = np.zeros(2**15 + 3)
    total[place] = value
    for refused in (total, torch.from_numpy(total), torch.from_numpy(total).float()):
        with pytest.raises(PrivacyRefused, match="clip its contributions") as error:
            for_sums(1.0, 1.0, 2.0).release(refused, NoiseSource(KEY))
        assert not set("0123456789") & set(str(error.value))


@pytest.mark.parametrize("value", [2**62, -(2**62), -(2**63)])
def test_integer_totals_that_were_not_clipped_are_refused(value):
    with pytest.raises(PrivacyRefused, match="clip its contributions"):
        for_sums(1.0, 1.0, 2.0).release(np.array([value]), NoiseSource(KEY))


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.bool_, np.complex128, np.dtype(">f8"), object])
def test_other_dtypes_are_refused(dtype):
    for mechanism in (Mechanism(), for_sums(1.0, 1.0, 2.0)):
        with pytest.raises(UsageError, match="float64 or int64"):
            mechanism.release(np.zeros(1, dtype=dtype), NoiseSource(KEY))


def test_other_tensors_are_refused():
    with pytest.raises(UsageError, match="float64 or int64"):
        for_sums(1.0, 1.0, 2.0).release(torch.zeros(1, dtype=torch.bfloat16), NoiseSource(KEY))
    with pytest.raises(UsageError, match="grid 1"):
        Mechanism(1.0, 1.0, grid=0.5).release(np.zeros(1, dtype=np.int64), NoiseSource(KEY))


@pytest.mark.parametrize("size", [1, 2**13, 2**15, 2**15 + 3, 2**16 + 2**13])
def test_a_long_total_is_released_chunk_by_chunk_in_order(size):
    mechanism, total = for_gradients(1.0, 1.0, size, 0.0), np.linspace(-1.0, 1.0, size)
    noise = torch.empty(size, dtype=torch.float64)
    source = NoiseSource(KEY)
    for part in torch.split(noise, 2**15):
        source.fill(part, mechanism.std / mechanism.grid)
    expected = (np.rint(total / mechanism.grid) + noise.numpy()) * (mechanism.grid / 3.0)
    assert (mechanism.release(total, NoiseSource(KEY), 3.0) == expected).all()
    assert (mechanism.release(torch.from_numpy(total), NoiseSource(KEY), 3.0).numpy() == expected).all()


def test_a_float32_total_is_rounded_in_float64_and_comes_back_as_float32():
    mechanism = Mechanism(1.0, 1.0, grid=2.0**-20)
    total = torch.tensor([1.0 + 2.0**-23, 3.0e-30, -7.75, 2.0**31], dtype=torch.float32)
    exact = mechanism.release(total.double(), NoiseSource(KEY), 7.0)
    released = mechanism.release(total, NoiseSource(KEY), 7.0)
    assert released.dtype == torch.float32
    assert torch.equal(released, exact.float())
    assert torch.equal(total, torch.tensor([1.0 + 2.0**-23, 3.0e-30, -7.75, 2.0**31]))
    array = mechanism.release(total.numpy(), NoiseSource(KEY), 7.0)
    assert array.dtype == np.float64
    assert array.tolist() == exact.tolist()
    assert Mechanism().release(total, NoiseSource(KEY)).dtype == torch.float32


def test_a_public_divisor_divides_what_is_released():
    total = np.array([0.3, -4.0])
    mechanism = for_gradients(1.0, 1.0, 2, 0.0)
    whole = mechanism.release(total, NoiseSource(KEY))
    assert mechanism.release(total, NoiseSource(KEY), 4.0).tolist() == (whole / 4).tolist()
    assert Mechanism().release(total, NoiseSource(KEY), 4.0).tolist() == (total / 4).tolist()
    assert Mechanism().release(np.array([2**53 + 1]), NoiseSource(KEY), 4.0).tolist() == [2.0**51]
    integers = for_sums(1.0, 1.0, 2.0).release(np.array([8]), Constant(4), 8.0)
    assert integers.tolist() == [1.5]


@pytest.mark.parametrize("divisor", [0.0, -1.0, math.nan, math.inf])
def test_a_divisor_that_is_not_a_positive_number_is_refused(divisor):
    with pytest.raises(UsageError, match="divisor"):
        Mechanism().release(np.zeros(1), NoiseSource(KEY), divisor)


@pytest.mark.parametrize("mechanism", [Mechanism(), for_gradients(1.0, 1.0, 6, 0.0)])
def test_any_shape_and_layout_is_released_and_left_as_it_was(mechanism):
    total = np.arange(6.0).reshape(2, 3)
    total.flags.writeable = False
    flat = mechanism.release(np.array([0.0, 3.0, 1.0, 4.0, 2.0, 5.0]), NoiseSource(KEY))
    for turned in (total.T, torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T):
        released = mechanism.release(turned, NoiseSource(KEY))
        assert released.shape == (3, 2)
        assert released.ravel().tolist() == flat.tolist()
    backwards = mechanism.release(np.array([5.0, 2.0, 4.0, 1.0, 3.0, 0.0])[::-1], NoiseSource(KEY))
    assert backwards.tolist() == flat.tolist()
    assert mechanism.release(np.array(2.0), NoiseSource(KEY)).shape == ()
    assert mechanism.release(torch.tensor(2.0), NoiseSource(KEY)).shape == ()
    own = np.arange(3.0)
    mechanism.release(own, NoiseSource(KEY))[:] = -1
    assert own.tolist() == [0.0, 1.0, 2.0]


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
        {"grid": 2.0**-1001},
        {"grid": 2.0**1001},
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
