"""Windows as few numbers: a lane's mean, low frequencies and detail, gaps, and conditions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from privae.data.column import Column
from privae.models.scores import Standard
from privae.series.clock import DAY, MONDAY
from privae.series.schema import SeriesSchema
from privae.series.waves import Waves, basis, conditions, filled
from privae.series.windows import Windows
from privae.sums.moments import BOUND
from privae.sums.standard import clipped_codes

T = 24
X = Column(name="x", kind="numeric", bounds=(0, 1))
GAPPY = Column(name="mode", kind="category", categories=("a", "b", "c"), missing=True)
ONE = SeriesSchema(id="id", time="t", step="1h", window="1d", channels=(X,))
TWO = ONE.model_copy(update={"channels": (X, GAPPY)})
TOLD = TWO.model_copy(
    update={
        "stride": "6h",
        "kind": "type",
        "kinds": ("oven", "fridge", "tv"),
        "conditions": ("hour", "weekday", "kind"),
    }
)
nan = math.nan


def made(values, start=MONDAY, kind=-1):
    """Windows of values [w, t, l] or [t]."""
    values = np.asarray(values, float)
    values = values[None, :, None] if values.ndim == 1 else values
    count = len(values)
    where = np.arange(count)
    return Windows(values, where, np.full(count, start), where, np.full(count, kind))


def numbers(values, frequencies=4, of=ONE):
    return Waves(of, frequencies).numbers(made(values))


def test_a_constant_is_its_mean_alone():
    assert numbers(np.full(T, 0.5)) == pytest.approx(np.zeros((1, 5)), abs=1e-9)
    assert numbers(np.full(T, 0.8)) == pytest.approx(np.array([[0.3, 0, 0, 0, 0]]), abs=1e-4)
    assert numbers(np.zeros(T))[0, 0] == pytest.approx(-0.5, abs=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_cosine_is_its_coefficient(k):
    wave = 0.4 * np.cos(np.pi * k * (np.arange(T) + 0.5) / T)
    expected = np.zeros(5)
    expected[k] = 0.4 / math.sqrt(2)  # over sqrt(t), so the square is the mean square
    assert numbers(0.5 + wave)[0] == pytest.approx(expected, abs=3e-3)
    assert numbers(0.5 + wave)[0, k] == pytest.approx(expected[k], abs=1e-4)


def test_a_higher_frequency_and_noise_are_detail():
    wave = 0.4 * np.cos(np.pi * 9 * (np.arange(T) + 0.5) / T)
    assert numbers(0.5 + wave)[0] == pytest.approx([0, 0, 0, 0, 0.4 / math.sqrt(2)], abs=1e-3)
    noise = np.random.default_rng(0).normal(0, 0.1, (500, T, 1))
    detail = numbers(0.5 + noise)[:, -1]
    assert (detail**2).mean() == pytest.approx(0.01 * (T - 4) / T, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(arrays(float, (3, T, 1), elements=st.floats(0, 1)), st.integers(1, 12))
def test_energy_adds_up_and_numbers_lie_within_their_bounds(values, frequencies):
    waves = Waves(ONE, frequencies)
    found = waves.numbers(made(values))
    energy = ((np.rint((values - 0.5) * 2**14) / 2**14) ** 2).mean((1, 2))
    assert (found**2).sum(1) == pytest.approx(energy, abs=1e-4)
    grid = waves.layout.grid
    assert len(grid) == waves.size == found.shape[1] == len(waves.names)
    cells = grid.places(found)
    assert ((cells >= 0) & (cells < 4.0**grid.levels)).all()
    standard = Standard(*waves.usual, grid.low, grid.width)
    codes = clipped_codes(found, standard)
    assert (codes.astype(object) ** 2).sum(1).max() <= BOUND**2


def test_frequencies_are_orthonormal():
    wave = basis(T, 12)
    assert wave.T @ wave == pytest.approx(np.eye(12), abs=1e-12)


def test_gaps_are_lines_between_what_is_known():
    lane = np.array([nan, 0.2, nan, nan, 0.8, nan])[None, :, None]
    assert filled(lane)[0, :, 0] == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert filled(np.full((1, 6, 1), nan))[0, :, 0].tolist() == [0.5] * 6
    line = np.linspace(0.1, 0.9, T)
    holes = line.copy()
    holes[[3, 4, 9, 20]] = nan
    assert numbers(holes)[0] == pytest.approx(numbers(line)[0], abs=1e-4)


def test_an_absent_lane_has_no_numbers_and_its_gaps_have_a_share():
    values = np.full((3, T, 3), 0.25)
    values[0, :, 0] = nan
    values[1, :6, 1:] = nan
    values[2, :, 1:] = nan
    waves = Waves(TWO, 2)
    found = waves.numbers(made(values))
    assert waves.names[:3] == ("x mean", "x frequency 1", "x detail")
    assert waves.names[-1] == "mode gaps"
    assert np.isnan(found).tolist() == [
        [True] * 3 + [False] * 7,
        [False] * 10,
        [False] * 3 + [True] * 6 + [False],
    ]
    assert found[:, -1].tolist() == [0.0, 0.25, 1.0]


def test_conditions_are_looked_up():
    waves = Waves(TOLD, 2)
    start = MONDAY + np.array([0, 6 * 3600, 5 * DAY, 6 * DAY + 18 * 3600, -DAY])
    found = waves.conditions(start, np.array([0, 1, 2, -1, 0]))
    week = 2 * math.pi / 7 * np.array([0, 0, 5, 6, 6])
    expected = np.stack(
        [
            [0, 1, 0, -1, 0],
            [1, 0, 1, 0, 1],
            np.sin(week),
            np.cos(week),
            [0, 0, 1, 1, 1],
            [0, 1, 0, nan, 0],
            [0, 0, 1, nan, 0],
        ],
        1,
    )
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert conditions(TOLD) == waves.given == 7
    assert conditions(TOLD, "kind") == 5
    assert waves.numbers(made(np.zeros((1, T, 3)))).shape == (1, waves.size)
    grid = waves.layout.grid
    known = found[~np.isnan(found).any(1)]
    assert (known >= grid.low[-7:]).all()
    assert (known <= grid.low[-7:] + grid.width[-7:]).all()
    assert (waves.usual[0].shape, waves.usual[1].shape) == ((waves.size,), (waves.size,))


@settings(max_examples=30, deadline=None)
@given(arrays(float, (5, T, 3), elements=st.floats(0, 1) | st.just(nan)), st.integers(1, 12))
def test_a_window_has_the_numbers_that_it_has_alone(values, frequencies):
    """Bit for bit: no library's order of adding shows."""
    waves = Waves(TOLD, frequencies)
    start, kind = MONDAY + np.arange(5) * 6 * 3600, np.array([0, 1, -1, 2, 0])
    where = np.arange(5)
    whole = Windows(values, where, start, where, kind)
    together = waves.numbers(whole)
    for row in range(5):
        np.testing.assert_array_equal(waves.numbers(whole.at([row])), together[[row]])
    many = Windows(
        *(np.repeat(getattr(whole, name), 40, 0) for name in ("values", "who", "start", "unit", "kind"))
    )
    np.testing.assert_array_equal(waves.numbers(many)[::40], together)
