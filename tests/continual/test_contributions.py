"""What a unit contributes to a step: integers within its norm, the mean of its rows, a matter of its own rows alone."""

import numpy as np
import pandas as pd
import pytest

from privae.continual.contributions import from_table, total
from privae.continual.plan import planned
from privae.errors import DataError, UsageError


def plan_of(**choices):
    fields = {
        "bounds": {"a": (0, 4), "b": (-10, 10)},
        "steps": 5,
        "protect": "step",
        "epsilon": 1,
        "units": 10,
    }
    return planned(**fields | choices)


def test_numbers_are_scaled_over_their_bounds_and_counted():
    plan = plan_of()
    found = total(plan, np.array([[4.0, 0.0], [1.0, -5.0]]), ["x", "y"])
    assert found.tolist() == [
        plan.levels // 2,
        -plan.levels // 2,
        2 * plan.mark,
        2 * plan.mark,
        2 * plan.counted,
    ]


def test_values_beyond_the_bounds_are_clipped_and_gaps_are_zeros_with_no_mark():
    plan = plan_of()
    found = total(plan, np.array([[99.0, np.nan], [-99.0, np.inf], [np.nan, -np.inf]]), [1, 2, 3])
    assert found.tolist() == [0, 0, 2 * plan.mark, 0, 3 * plan.counted]


def test_without_gaps_a_unit_that_lacks_a_number_does_not_count():
    plan = plan_of(gaps=False)
    found = total(plan, np.array([[4.0, 10.0], [4.0, np.nan]]), [1, 2])
    assert found.tolist() == [plan.levels, plan.levels, plan.counted]


def test_rows_of_one_unit_count_as_their_mean_number_by_number():
    plan = plan_of()
    rows = np.array([[4.0, 5.0], [2.0, np.nan], [3.0, np.nan]])
    found = total(plan, rows, ["x", "x", "x"])
    assert found.tolist() == [plan.levels // 2, plan.levels // 2, plan.mark, plan.mark, plan.counted]


def test_no_rows_are_zeros_and_rows_of_nobody_are_left_out():
    plan = plan_of()
    assert total(plan, np.zeros((0, 2)), []).tolist() == [0] * 5
    assert total(plan, np.ones((3, 2)), [None, "", np.nan]).tolist() == [0] * 5


def test_the_order_of_rows_changes_nothing_bit_for_bit():
    plan, rng = plan_of(), np.random.default_rng(0)
    values, units = rng.normal(2, 3, (500, 2)), rng.integers(0, 60, 500)
    order = rng.permutation(500)
    assert total(plan, values, units).tolist() == total(plan, values[order], units[order]).tolist()


def test_names_of_other_units_do_not_merge_or_part_rows():
    """An array of objects with one text would turn all numbers into texts, if types were guessed over all of them."""
    plan = plan_of()
    units = np.array([1, 1.0, 2, "z"], dtype=object)
    values = np.full((4, 2), 4.0)
    with_z, without = total(plan, values, units), total(plan, values[:3], units[:3])
    assert (with_z - without).tolist() == [
        plan.levels,
        int(0.4 * plan.levels),
        plan.mark,
        plan.mark,
        plan.counted,
    ]


def test_a_step_of_another_shape_is_refused():
    with pytest.raises(UsageError, match="one row a unit and 2 numbers"):
        total(plan_of(), np.zeros((3, 3)), [1, 2, 3])
    with pytest.raises(UsageError, match="one row a unit"):
        total(plan_of(), np.zeros((3, 2)), [1, 2])


def test_a_table_is_read_by_names_and_what_is_no_number_is_a_gap():
    frame = pd.DataFrame(
        {"b": ["1", "x", ""], "who": ["h1", "h2", ""], "a": ["1.5", "2", "NA"], "rest": [0, 0, 0]}
    )
    values, units = from_table(plan_of(), frame, "who")
    assert np.isnan(values).tolist() == [[False, False], [False, True], [True, True]]
    assert values[0].tolist() == [1.5, 1.0]
    assert total(plan_of(), values, units)[-1] == 2 * plan_of().counted


@pytest.mark.parametrize("gone", ["a", "who"])
def test_a_column_that_is_not_there_is_named(gone):
    frame = pd.DataFrame({"a": [1], "b": [1], "who": [1]}).drop(columns=gone)
    with pytest.raises(DataError, match=f"no column '{gone}'"):
        from_table(plan_of(), frame, "who")


def test_a_category_that_no_row_has_is_no_unit():
    plan, units = plan_of(), pd.Series(pd.Categorical(["x", "z"], categories=["w", "x", "y", "z"]))
    assert total(plan, np.full((2, 2), 4.0), units)[-1] == 2 * plan.counted
