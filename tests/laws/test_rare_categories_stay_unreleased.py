"""Law: a text held by one record alone, in any of l bought columns, is released with probability <= delta_t.

Guarantees.md rule 9, with the exact law of the sampler: the noise is an ideal Gaussian rounded half up, so
P(1 + noise >= T) = P(Y >= T - 1 - 1/2).
"""

import math

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from privae.data.column import Column
from privae.data.schema import Schema
from privae.privacy.noise import NoiseSource
from privae.recipes import table
from privae.recipes.phases import CATEGORIES, Budget, Run, plan_of
from privae.recipes.table import threshold
from privae.training.watch import Silent


def any_passes(bound, deviation, cells):
    """P(at least one of `cells` counts of one, with rounded noise, reaches `bound`); exact tails."""
    one = float(norm.sf((bound - 1.5) / deviation))
    return -math.expm1(cells * math.log1p(-one))


@settings(max_examples=300, deadline=None)
@given(st.floats(1e-12, 0.5), st.floats(0.3, 1e5), st.integers(1, 300))
@example(1e-7, 22.0, 10)
def test_the_exact_tail_is_at_most_delta(delta, deviation, cells):
    bound = threshold(deviation, cells, delta)
    assert any_passes(bound, deviation, cells) <= delta * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-12, 0.5), st.floats(0.3, 1e5), st.integers(1, 300))
def test_no_smaller_whole_threshold_would_do(delta, deviation, cells):
    bound = threshold(deviation, cells, delta)
    assert any_passes(bound - 1, deviation, cells) > delta * (1 - 1e-9)


def test_the_formula_for_one_column_would_not_do_for_ten():
    assert any_passes(threshold(50.0, 1, 1e-7), 50.0, 10) > 5e-7


NAMES = ("a", "b", "c", "d")
SCHEMA = Schema(
    columns=(
        *(Column(name=name, kind="category", categories="bought") for name in NAMES),
        Column(name="yes", kind="boolean"),
    )
)


def planted(delta):
    """An ordinary plan, but for the threshold's share: 1e-7 cannot be simulated, 0.2 can."""
    budget = Budget(1.0, 1e-6)
    plan = plan_of(table.draft(SCHEMA, budget), budget, SCHEMA.hash, "source")
    return plan.model_copy(update={"delta_threshold": delta})


def test_the_plan_charges_the_threshold_to_delta():
    budget = Budget(1.0, 1e-6)
    guarantee = plan_of(table.draft(SCHEMA, budget), budget, SCHEMA.hash, "source").guarantee()
    assert guarantee.delta_threshold == pytest.approx(1e-7)
    parts = guarantee.delta_accountant + guarantee.delta_threshold + guarantee.delta_sampler
    assert parts == pytest.approx(1e-6, rel=1e-12)
    assert guarantee.epsilon <= 1.0


def test_simulated_at_a_large_planted_delta():
    """n = 500 purchases with fixed keys; a false alarm would have had probability 2e-6 (two sides, alpha 1e-6)."""
    runs, delta = 500, 0.2
    plan = planted(delta)
    deviation = plan.phase(CATEGORIES).mechanism().std
    exact = any_passes(threshold(deviation, 4, delta), deviation, 4)
    frame = pd.DataFrame({name: ["held by one"] for name in NAMES})
    noise, passed = NoiseSource(bytes(32)), 0
    for _ in range(runs):
        run = Run(plan, lambda *_: None, noise, Silent())
        columns = [frame[name] for name in NAMES]
        passed += any(table.buy_texts(run, columns))
    assert exact <= delta
    assert binom.isf(1e-6, runs, delta) >= passed
    assert binom.ppf(1e-6, runs, exact) <= passed <= binom.isf(1e-6, runs, exact)


def test_one_record_of_many_never_brings_its_own_text():
    """delta_t = 1e-7 by the law above, so not once in 50 purchases."""
    frame = pd.DataFrame({name: ["common"] * 400 + [f"only here {name}"] for name in NAMES})
    noise = NoiseSource(bytes(32))
    budget = Budget(3.0, 1e-6)
    plan = plan_of(table.draft(SCHEMA, budget), budget, SCHEMA.hash, "source")
    for _ in range(50):
        bought = table.buy_categories(Run(plan, lambda *_: None, noise, Silent()), frame, SCHEMA)
        assert all(column.categories == ("common",) for column in bought.kept[:4])


def test_a_record_fills_one_cell_a_column_however_it_is_written():
    """ "1", 1, 1.0 and b"1" are texts of one value each; gaps buy nothing."""
    values = ["1", 1, 1.0, b"1", " 1 ", None, math.nan, "NA", ""]
    seen = []

    class Noiseless(Run):
        def release(self, name, totals, leaves):
            seen.extend(total.tolist() for total, _ in totals)
            return leaves([total.astype(float) for total, _ in totals])

    run = Noiseless(planted(0.2), lambda *_: None, NoiseSource(bytes(32)), Silent())
    table.buy_texts(run, [pd.Series(values, dtype=object)])
    assert seen == [[5]]
