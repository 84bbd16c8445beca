"""Law: a unit that comes or goes moves a stream by at most its sensitivity, and what was charged is what ran."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.continual.contributions import total
from privae.continual.plan import planned
from privae.continual.release import Continual
from privae.privacy.correlated import SCALE
from privae.privacy.ledger import Ledger
from privae.privacy.mechanism import Mechanism
from privae.privacy.noise import NoiseSource

NUMBERS = st.one_of(st.floats(-1e9, 1e9), st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf, 1e308]))
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3)


def plan_of(protect, steps, bands, gaps):
    return planned(
        bounds={"a": (0, 1), "b": (-1e3, 1e3)},
        steps=steps,
        bands=min(bands, steps),
        protect=protect,
        gaps=gaps,
        epsilon=1,
        units=10,
    )


def totals(plan, others, own):
    """The sums of every step, [steps, p]; others: rows of two more units a step, own: rows of the one that changes."""
    return np.array(
        [
            total(
                plan,
                np.array([*rest, *mine], dtype=np.float64).reshape(-1, 2),
                [*("xy"[i % 2] for i in range(len(rest))), *("me" for _ in mine)],
            )
            for rest, mine in zip(others, own, strict=True)
        ]
    )


def moved(plan, one, other):
    """The squared norm by which the filtered stream moves, in whole numbers, times SCALE squared."""
    difference = (one - other).astype(object)
    weights = plan.stream().filter
    filtered = [
        sum(weights[lag] * difference[t - lag] for lag in range(min(len(weights), t + 1)))
        for t in range(plan.steps)
    ]
    return sum(int(number) ** 2 for row in filtered for number in row)


def allowed(plan, ratio=1.0):
    return (plan.stream().sensitivity() * SCALE * ratio) ** 2 * (1 + 1e-12)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), protect=st.sampled_from(["unit", "step"]), steps=st.integers(1, 6), gaps=st.booleans())
def test_a_unit_moves_the_filtered_stream_by_at_most_its_sensitivity(data, protect, steps, gaps):
    plan = plan_of(protect, steps, data.draw(st.integers(1, 6)), gaps)
    others = data.draw(st.lists(ROWS, min_size=steps, max_size=steps))
    own, exchanged = (data.draw(st.lists(ROWS, min_size=steps, max_size=steps)) for _ in range(2))
    if protect == "step":
        places = [data.draw(st.integers(0, steps - 1)) for _ in range(2)]
        own = [rows if t == places[0] else [] for t, rows in enumerate(own)]
        exchanged = [rows if t == places[1] else [] for t, rows in enumerate(exchanged)]
    with_it, without = totals(plan, others, own), totals(plan, others, [[]] * steps)
    assert moved(plan, with_it, without) <= allowed(plan)
    assert moved(plan, with_it, totals(plan, others, exchanged)) <= allowed(plan, plan.stream().replace_ratio)


@pytest.mark.parametrize("protect", ["unit", "step"])
@pytest.mark.parametrize("gaps", [True, False])
def test_a_unit_at_its_bounds_moves_it_by_all_of_it(protect, gaps):
    """So a smaller sensitivity would be caught."""
    plan = plan_of(protect, 6, 3, gaps)
    own = [[(1.0, 1e3)] if protect == "unit" or t == 0 else [] for t in range(6)]
    found = moved(plan, totals(plan, [[]] * 6, own), totals(plan, [[]] * 6, [[]] * 6))
    assert found == pytest.approx(allowed(plan), rel=1e-9)


@pytest.mark.parametrize("gaps", [True, False])
def test_a_row_moves_the_stream_by_what_a_ledger_of_records_is_charged(gaps):
    plan = plan_of("unit", 6, 3, gaps)
    least = plan.stream().std / plan.event_for("record").noise_multiplier
    one, two = ([[(1.0, 1e3)]] + [[]] * 5), ([[(0.0, -1e3)]] + [[]] * 5)
    distance = math.sqrt(moved(plan, totals(plan, [[]] * 6, one), totals(plan, [[]] * 6, two))) / SCALE
    assert distance <= least * (1 + 1e-9)


@pytest.mark.parametrize("protect", ["unit", "step"])
def test_the_event_in_the_ledger_is_what_ran_and_came_first(protect, tmp_path, monkeypatch):
    log, spend, release, fill = [], Ledger.spend, Mechanism.release, NoiseSource.fill

    def spending(self, charges, **options):
        spend(self, charges, **options)
        log.extend(("spent", charge.event) for charge in charges)

    def releasing(self, total, noise, *divisor, **options):
        log.append(("release", self))
        return release(self, total, noise, *divisor, **options)

    def filling(self, out, std):
        log.append(("noise", std, out.numel(), self.fixed))
        fill(self, out, std)

    monkeypatch.setattr(Ledger, "spend", spending)
    monkeypatch.setattr(Mechanism, "release", releasing)
    monkeypatch.setattr(NoiseSource, "fill", filling)
    plan = plan_of(protect, 4, 2, True)
    shared = Ledger.open(tmp_path / "l", 1.0, 1e-6, unit="person" if protect == "unit" else "record")
    if protect == "step":
        shared = None  # charged by itself
    stream = Continual.open(tmp_path / "s", plan, shared)
    for t in range(4):
        stream = Continual.load(tmp_path / "s")
        stream.add(np.full((3, 2), 0.5), [1, 2, 3], f"d{t}")
    charged = [item[1] for item in log if item[0] == "spent"]
    assert charged == [plan.event()] * (2 if protect == "unit" else 1)
    assert [item[0] for item in log] == ["spent"] * len(charged) + ["release", "noise"] * 4
    own = Ledger.parse((tmp_path / "s" / "ledger.jsonl").read_text())
    assert own.events == (plan.event(),)
    assert own.epsilon <= 1
    for kind, found, *more in log[len(charged) :]:
        if kind == "release":
            assert found == plan.stream()
        else:
            assert found >= SCALE * plan.event().noise_multiplier * plan.stream().sensitivity()
            assert more == [plan.size, False]
