import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.errors import UsageError
from privae.evaluate import series

BOUNDS = (np.array([0.0, -10.0]), np.array([100.0, 10.0]))


def windows(count=200, seed=0, steps=12, keep=0.9):
    """Two channels that hang together and remember: [count, steps, 2], within the bounds but for chance."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, steps, 2))
    state = np.empty_like(noise)
    state[:, 0] = noise[:, 0]
    for t in range(1, steps):
        state[:, t] = keep * state[:, t - 1] + np.sqrt(1 - keep**2) * noise[:, t]
    first = state[..., 0]
    second = 0.8 * first + 0.6 * state[..., 1]
    season = np.sin(2 * np.pi * np.arange(steps) / steps)
    return np.stack([50 + 10 * first + 10 * season, 2 * second], 2)


def shuffled(x, seed=0):
    """The same values of each window and channel, in another order of steps."""
    return np.random.default_rng(seed).permuted(x, axis=1)


def holed(x, share=0.2, seed=5):
    return np.where(np.random.default_rng(seed).random(x.shape) < share, np.nan, x)


def every_distance(left, right):
    return [
        *series.profile_distance(left, right, BOUNDS).values(),
        series.marginal_distance(left, right, BOUNDS),
        series.autocorrelation_distance(left, right, BOUNDS),
        series.correlation_distance(left, right, BOUNDS),
    ]


def test_a_set_is_at_no_distance_from_itself_gaps_or_not() -> None:
    for x in (windows(50), holed(windows(50))):
        assert every_distance(x, x) == pytest.approx([0] * 5, abs=1e-12)


def test_a_shifted_profile_is_told_in_widths_of_the_bounds() -> None:
    x, shift = np.clip(windows(), 10, 90) * [1, 0], np.array([5.0, 1.0])
    found = series.profile_distance(x, x + shift, BOUNDS)
    assert found["mean"] == pytest.approx(0.05)
    assert found["deviation"] == pytest.approx(0, abs=1e-12)
    assert series.marginal_distance(x, x + shift, BOUNDS) == pytest.approx(0.05)


def test_a_wider_spread_is_told_by_deviations_alone() -> None:
    x = np.tile([[[40.0, -1.0]], [[60.0, 1.0]]], (5, 3, 1))
    wide = np.tile([[[30.0, -2.0]], [[70.0, 2.0]]], (5, 3, 1))
    found = series.profile_distance(x, wide, BOUNDS)
    assert found["mean"] == pytest.approx(0)
    assert found["deviation"] == pytest.approx((0.1 + 0.05) / 2)


def test_shuffled_steps_lose_memory_but_no_values() -> None:
    x = windows() - np.stack([10 * np.sin(2 * np.pi * np.arange(12) / 12), np.zeros(12)], 1)
    mixed = np.take_along_axis(x, np.argsort(np.random.default_rng(1).random((200, 12, 1)), 1), 1)
    assert series.marginal_distance(x, mixed, BOUNDS) == pytest.approx(0, abs=1e-12)
    assert series.correlation_distance(x, mixed, BOUNDS) == pytest.approx(0, abs=1e-9)
    assert series.autocorrelation_distance(x, mixed, BOUNDS) > 0.15
    assert series.autocorrelation_distance(x, windows(seed=3), BOUNDS) < 0.06


def test_autocorrelations_are_those_of_the_process_and_of_pooled_pairs() -> None:
    x = windows(3000, keep=0.8)
    found = series.autocorrelations(x, BOUNDS)
    assert found[:, 0] == pytest.approx(0.8 ** np.arange(1, 12), abs=0.06)
    centered = x - x.mean(0)
    by_hand = np.corrcoef(centered[:, :-3, 1].ravel(), centered[:, 3:, 1].ravel())[0, 1]
    assert found[2, 1] == pytest.approx(by_hand, abs=1e-9)


def test_a_shared_profile_is_no_memory() -> None:
    x = np.tile(windows(1), (20, 1, 1))
    assert (series.autocorrelations(x, BOUNDS) == 0).all()


def test_gaps_are_left_out_pair_by_pair() -> None:
    x = holed(windows(300))
    other = np.random.default_rng(0).normal(size=x.shape[:2])
    apart = np.stack([x[..., 0], other], 2)
    first, second = np.clip(x, *BOUNDS).reshape(-1, 2).T
    known = ~np.isnan(first)
    both = known & ~np.isnan(second)
    expected = np.corrcoef(first[both], second[both]) - np.corrcoef(first[known], other.ravel()[known])
    assert series.correlation_distance(x, apart, BOUNDS) == pytest.approx(abs(expected[0, 1]), abs=1e-9)
    assert max(every_distance(windows(300), x)) < 0.03


def test_unlinked_channels_are_told() -> None:
    x = windows()
    apart = np.stack([x[..., 0], np.random.default_rng(2).permutation(x[..., 1])], 2)
    assert series.correlation_distance(x, apart, BOUNDS) > 0.4
    assert series.marginal_distance(x, apart, BOUNDS) == pytest.approx(0, abs=1e-12)


def test_a_channel_that_one_set_never_knows_is_left_out_and_where_none_is_left_nothing_is_told() -> None:
    x, y = windows(30), windows(30, 1)
    half, none = x.copy(), np.full_like(x, np.nan)
    half[..., 1] = np.nan
    one = (BOUNDS[0][:1], BOUNDS[1][:1])
    assert series.marginal_distance(half, y, BOUNDS) == series.marginal_distance(x[..., :1], y[..., :1], one)
    assert series.next_step(half, y) > 0
    assert np.isnan(series.correlation_distance(half, y, BOUNDS))
    assert np.isnan([*every_distance(none, y), series.next_step(none, y)]).all()
    assert np.isnan(series.next_step(x, np.ones_like(x)))


def test_values_beyond_the_bounds_are_clipped() -> None:
    x = windows(30)
    far = x.copy()
    far[0, 0, 0] = 1e12
    assert series.marginal_distance(x, far, BOUNDS) <= 1 / (30 * 12)


def test_the_next_step_is_learned_where_there_is_memory() -> None:
    """Of an AR(1) process with 0.9 at most 0.81 of the variance is told by the past."""
    test = windows(300, 1)
    real, noise = series.next_step(windows(300), test), series.next_step(shuffled(windows(300)), test)
    assert 0.65 < real < 0.9
    assert noise < real - 0.1
    line = np.tile(np.arange(12.0)[:, None], (40, 1, 2)) + np.arange(40)[:, None, None] % 7
    assert series.next_step(line, line) > 0.98
    assert series.next_step(windows(300, steps=2), windows(300, 1, steps=2)) > 0.5
    assert series.next_step(holed(windows(300)), holed(test)) > 0.5


def test_more_steps_than_are_learned_are_drawn_by_lot(monkeypatch) -> None:
    monkeypatch.setattr(series, "_STEPS", 300)
    assert series.next_step(windows(200), windows(200, 1)) > 0.4


def test_windows_are_told_apart_by_their_noise() -> None:
    x, y = windows(150), windows(150, 1)
    assert abs(series.told_windows_apart(x, y) - 0.5) < 0.12
    assert series.told_windows_apart(x, shuffled(y)) > 0.9
    assert series.told_windows_apart(x, holed(y)) > 0.9


def test_labels_are_learned_from_windows() -> None:
    x, test = windows(150), windows(150, 1)
    rising, new = x[:, -1, 0] > x[:, 0, 0], test[:, -1, 0] > test[:, 0, 0]
    found = series.class_transfer(x, rising, test, new.tolist())
    assert found["auc"] > 0.9
    assert found["accuracy"] > 0.8
    by_lot = series.class_transfer(x, np.random.default_rng(0).permutation(rising), test, new)
    assert abs(by_lot["auc"] - 0.5) < 0.2
    ward = np.where(rising, "up", "down").astype(object)
    ward[:5], ward[5:20] = None, "flat"
    assert set(series.class_transfer(x, ward, test, np.where(new, "up", "down"))) == {"accuracy"}


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(2, 5),
    st.integers(2, 3),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
def test_distances_are_symmetric_bounded_and_blind_to_the_order_of_windows(
    n, k, steps, channels, gaps, seed
) -> None:
    rng = np.random.default_rng(seed)
    left, right = (rng.normal(0, 9, (count, steps, channels)) for count in (n, k))
    left[rng.random(left.shape) < gaps] = np.nan
    bounds = (-np.ones(channels), np.ones(channels))
    distances = (
        lambda a, b: max(series.profile_distance(a, b, bounds).values()),
        lambda a, b: series.marginal_distance(a, b, bounds),
        lambda a, b: series.autocorrelation_distance(a, b, bounds) / 2,
        lambda a, b: series.correlation_distance(a, b, bounds) / 2,
    )
    for distance in distances:
        found = distance(left, right)
        assert np.isnan(found) or 0 <= found <= 1 + 1e-9
        assert distance(right, left) == pytest.approx(found, nan_ok=True)
        assert distance(left[::-1], right) == pytest.approx(found, nan_ok=True, abs=1e-6)


def test_figures_of_the_same_population_are_at_their_baselines() -> None:
    sets = [windows(160, seed) for seed in range(3)]
    rising = tuple(x[:, -1, 0] > x[:, 0, 0] for x in sets)
    found = series.series_figures(*sets, BOUNDS, labels=rising)
    json.dumps(found, allow_nan=False)
    assert found["windows"] == {"real": 160, "synthetic": 160, "test": 160, "compared": 80}
    assert "data holder only" in found["note"]
    assert found["profile"]["mean"] < 2 * found["profile"]["baseline"]["mean"] < 0.06
    assert found["autocorrelation"]["mean_difference"] < 0.1
    assert found["correlation"]["baseline"]["mean_difference"] < 0.1
    assert abs(found["detection"]["boosting"] - 0.5) < 0.2
    assert abs(found["next_step"]["synthetic"] - found["next_step"]["real"]) < 0.1
    assert found["next_step"]["tested_on"] == "held-out windows"
    assert set(found["class_transfer"]["real"]) == {"accuracy", "auc"}


def test_figures_tell_synthetic_windows_without_order() -> None:
    real = windows(160)
    found = series.series_figures(real, shuffled(windows(160, 1)), None, BOUNDS)
    assert (
        found["autocorrelation"]["mean_difference"]
        > 3 * found["autocorrelation"]["baseline"]["mean_difference"]
    )
    assert found["detection"]["boosting"] > 0.9 > found["detection"]["baseline"]["boosting"]
    assert found["next_step"]["synthetic"] < found["next_step"]["real"] - 0.1
    assert found["next_step"]["tested_on"] == "half of the real windows"
    assert "class_transfer" not in found


def test_what_cannot_be_computed_says_why() -> None:
    x, one = windows(30), (BOUNDS[0][:1], BOUNDS[1][:1])
    few = series.series_figures(x[:19], x, None, BOUNDS)
    assert all("at least 20 real" in few[key]["reason"] for key in ("profile", "detection", "next_step"))
    flat = series.series_figures(x[:, :1, :1], x[:, :1, :1], None, one)
    assert "one step" in flat["autocorrelation"]["reason"]
    assert "one step" in flat["next_step"]["reason"]
    assert "one channel" in flat["correlation"]["reason"]
    gaps = series.series_figures(
        x, np.full_like(x, np.nan), None, BOUNDS, labels=([0, 1] * 15, [1] * 30, None)
    )
    assert all("known values" in gaps[key]["reason"] for key in ("profile", "marginals", "next_step"))
    assert "synthetic" in gaps["class_transfer"]["reason"]
    json.dumps([few, flat, gaps], allow_nan=False)


def test_windows_that_are_none_are_refused_without_a_value_of_them() -> None:
    x = windows(12) + 0.123456
    infinite = x.copy()
    infinite[3, 3, 1] = np.inf
    refused = [
        ("shape", lambda: series.profile_distance(x, x[:, 1:], BOUNDS)),
        ("shape", lambda: series.told_windows_apart(x[0], x[0])),
        ("no windows", lambda: series.next_step(x[:0], x)),
        ("infinite", lambda: series.marginal_distance(x, infinite, BOUNDS)),
        ("a channel", lambda: series.marginal_distance(x, x, ([0.0], [1.0]))),
        ("below its high", lambda: series.marginal_distance(x, x, ([0.0, 1.0], [1.0, 1.0]))),
        ("one step", lambda: series.next_step(x[:, :1], x[:, :1])),
        ("one step", lambda: series.autocorrelation_distance(x[:, :1], x[:, :1], BOUNDS)),
        ("one channel", lambda: series.correlation_distance(x[..., :1], x[..., :1], ([0.0], [1.0]))),
        ("two labels", lambda: series.class_transfer(x, [1] * 12, x, [0, 1] * 6)),
        ("one label a window", lambda: series.class_transfer(x, [1, 0], x, [0, 1] * 6)),
        ("one label a window", lambda: series.series_figures(x, x, x, BOUNDS, ([0] * 12, [0] * 12, None))),
        ("at least 10", lambda: series.told_windows_apart(x[:9], x)),
    ]
    for words, call in refused:
        with pytest.raises(UsageError, match=words) as caught:
            call()
        assert "12345" not in str(caught.value)
