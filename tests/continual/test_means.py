"""Means and totals of a stream: right without noise; with it, errors that are those of the dense inverse, and met."""

import math

import numpy as np
import pytest

from privae.continual.means import means, spread, table, totals
from privae.continual.plan import planned
from privae.privacy.correlated import SCALE, square_root

DAYS = [f"d{i}" for i in range(12)]


def plan_of(**choices):
    fields = {
        "bounds": {"a": (0, 4), "b": (-10, 10)},
        "steps": 12,
        "protect": "step",
        "epsilon": 1,
        "units": 100,
    }
    return planned(**fields | choices)


@pytest.mark.parametrize("bands", [1, 4, 12])
@pytest.mark.parametrize("last", [1, 3, 12, 50])
def test_the_spread_is_that_of_the_dense_inverse(bands, last):
    column = np.zeros(12)
    column[:bands] = np.array(square_root(bands)) / SCALE
    inverse = np.linalg.inv(sum(np.diag(np.full(12 - k, column[k]), -k) for k in range(12)))
    expected = [np.linalg.norm(inverse[max(0, t + 1 - last) : t + 1].sum(0)) for t in range(12)]
    assert spread(square_root(bands), 12, last) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gaps", [True, False])
def test_without_noise_means_and_totals_are_exact(gaps):
    plan = plan_of(epsilon=math.inf, gaps=gaps)
    scales, rows = plan.scales(), []
    for t in range(12):  # 10 units at a = 1 + t / 12, b = -5
        sums = [10 * round((-0.5 + t / 24) * plan.levels), -5 * plan.levels]
        rows.append([*sums, *([10 * plan.mark] * 2 if gaps else []), 10 * plan.counted])
    released = np.array(rows, dtype=np.float64)
    found = means(scales, released, DAYS, 3).query("name == 'a'")
    assert found["mean"].to_numpy()[2:] == pytest.approx([1 + (t - 1) / 12 for t in range(2, 12)], abs=1e-5)
    assert (found["standard_error"] == 0).all()
    assert found["count"].to_numpy() == pytest.approx(10)
    assert totals(scales, released, DAYS).query("name == 'b'")["total"].to_numpy() == pytest.approx(
        [-50 * (t + 1) for t in range(12)]
    )
    told = table(scales, released, DAYS)
    assert told["a:sum"].to_numpy() == pytest.approx([10 * (1 + t / 12) for t in range(12)], abs=1e-4)
    assert list(told.columns) == ["step", "day", "units", "a:sum", "a:count", "b:sum", "b:count"]


def test_too_few_units_have_no_mean():
    plan = plan_of()
    found = means(plan.scales(), np.zeros((2, 5)), DAYS[:2], 7)
    assert found["mean"].isna().all()
    assert found["standard_error"].isna().all()


def test_nothing_released_is_no_row():
    scales, none = plan_of().scales(), np.zeros((0, 5))
    assert (
        len(means(scales, none, [], 7)) == len(totals(scales, none, [])) == len(table(scales, none, [])) == 0
    )


@pytest.mark.parametrize(("protect", "window"), [("step", 7), ("step", 30), ("unit", 7)])
def test_the_errors_told_are_those_that_are_made(protect, window):
    """600 streams of 40 days; the root mean square of the errors is within 14 % of the one told (|z| < 5)."""
    plan = plan_of(steps=40, protect=protect, window=window, units=2000)
    scales, rng, runs = plan.scales(), np.random.default_rng(0), 600
    column = np.zeros(40)
    column[: plan.bands] = np.array(square_root(plan.bands)) / SCALE
    inverse = np.linalg.inv(sum(np.diag(np.full(40 - k, column[k]), -k) for k in range(40)))
    exact = np.array([0.4 * plan.levels, -0.8 * plan.levels, plan.mark, plan.mark, plan.counted]) * 2000
    days, errors, totalled = [f"d{t}" for t in range(40)], [], []
    for _ in range(runs):
        released = exact + inverse @ rng.normal(0, scales.std, (40, 5))
        found = means(scales, released, days, 7).tail(2)
        errors.append((found["mean"] - [2.8, -8.0]) / found["standard_error"])
        total = totals(scales, released, days).tail(2)
        totalled.append((total["total"] - [2.8 * 80_000, -8.0 * 80_000]) / total["standard_error"])
    assert np.sqrt(np.mean(np.square(errors), axis=0)) == pytest.approx(1, abs=0.14)
    assert np.sqrt(np.mean(np.square(totalled), axis=0)) == pytest.approx(1, abs=0.14)
