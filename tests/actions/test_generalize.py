"""Generalizing: which group, that a group stays one, and that nothing unreadable comes through."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.actions.generalize import adjusted, generalized, groups_of
from privae.actions.rule import Bands, DatePart, Groups, Limits, Multiple, Prefix, Shown

RULES = [
    Bands(width=10),
    Bands(width=0.1),
    Bands(width=2.5, low=-5, high=20),
    Bands(edges=(0, 18, 65.5, 90)),
    DatePart(date="year"),
    DatePart(date="quarter", format="%d.%m.%Y"),
    DatePart(date="month"),
    DatePart(date="weekday"),
    Prefix(prefix=2),
    Groups(groups={"north": ("A", "B"), "C": ("C", "D")}),
]
cells = (
    st.text(max_size=6)
    | st.sampled_from(
        ["2024-02-29", "29.02.2024", "2023-02-29", "20240301", "A", "C", "*", "1e400", "-0", "1e-320"]
    )
    | st.floats().map(str)
    | st.integers(-200, 200).map(lambda n: str(n / 10))
    | st.from_regex(r"-?[0-9]{1,3}(-|\+| to )-?[0-9]{0,3}", fullmatch=True)
)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(cells, max_size=4))
def test_a_group_stays_a_group_and_no_value_moves_another(rule, texts):
    once = generalized(rule, texts)
    assert generalized(rule, once) == once
    assert once == [generalized(rule, [text])[0] for text in texts]
    if groups := groups_of(rule):
        assert set(once) <= {*groups, "*"}


@pytest.mark.parametrize(
    ("rule", "text", "group"),
    [
        (Bands(width=10), "37", "30-39"),
        (Bands(width=10), "-1", "-10--1"),
        (Bands(width=10), "39.99", "30-39"),
        (Bands(width=1), "7", "7"),
        (Bands(width=10, low=0, high=85), "84", "80-84"),
        (Bands(width=10, low=0, high=85), "85", "85+"),
        (Bands(width=10, low=0, high=85), "-0.5", "<0"),
        (Bands(width=0.1), "0.3", "0.3 to 0.4"),
        (Bands(edges=(0, 18, 65)), "17.9", "0-17"),
        (Bands(edges=(0, 18, 65)), "0-18", "*"),
        (Bands(edges=(18,)), "4", "<18"),
        (Bands(width=10), "thirty", "*"),
        (Bands(width=10), "1" * 60, "*"),
        (DatePart(date="year"), "1980-02-03T10:00:00Z", "1980"),
        (DatePart(date="weekday"), "2024-02-29", "Thu"),
        (DatePart(date="month"), "2024/02/29", "2024-02"),
        (DatePart(date="month"), "2024-02-29 Ann Smith", "*"),
        (DatePart(date="month"), "02/29/2024", "*"),
        (DatePart(date="month", format="%Y年%m月%d日"), "2024年2月9日", "2024-02"),
        (Prefix(prefix=3), "90210", "902*"),
        (Prefix(prefix=0), "90210", "*"),
        (Groups(groups={"north": ("A",)}), "Z", "*"),
    ],
)
def test_which_group(rule, text, group):
    assert generalized(rule, [text]) == [group]


def test_the_groups_that_a_rule_has():
    assert groups_of(Bands(width=20, low=20, high=50)) == ("<20", "20-39", "40-49", "50+")
    assert groups_of(Bands(width=0.1, low=0, high=0.3)) == (
        "<0",
        "0 to 0.1",
        "0.1 to 0.2",
        "0.2 to 0.3",
        "0.3+",
    )
    assert groups_of(DatePart(date="weekday"))[::6] == ("Mon", "Sun")
    assert groups_of(Groups(groups={"b": ("1",), "a": ("2",)})) == ("b", "a")
    assert groups_of(Groups(hierarchy="h.csv")) is None
    assert groups_of(None) is groups_of(Bands(width=10)) is groups_of(Prefix(prefix=1)) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(), max_size=5),
    st.sampled_from(
        [
            Multiple(to=0.1),
            Multiple(to=5),
            Multiple(to=0.07),
            Multiple(to=1e15),
            Limits(low=-3),
            Limits(low=0, high=9),
        ]
    ),
)
def test_numbers_are_adjusted_once_and_each_by_itself(values, rule):
    once = adjusted(rule, np.array(values))
    np.testing.assert_array_equal(adjusted(rule, once), once)
    np.testing.assert_array_equal(once, [adjusted(rule, np.array([value]))[0] for value in values])


def test_the_nearest_multiple_and_the_limits():
    assert adjusted(Multiple(to=0.1), np.array([0.26, -0.04, 2.5, 1e300])).tolist() == [0.3, 0.0, 2.5, 1e300]
    assert adjusted(Multiple(to=10), np.array([25.0, 35.0, np.inf])).tolist() == [20.0, 40.0, np.inf]
    assert adjusted(Limits(low=18, high=90), np.array([-np.inf, 17.0, 55.5, 97.0])).tolist() == [
        18,
        18,
        55.5,
        90,
    ]


def test_a_rule_of_another_kind_is_a_mistake_of_the_caller():
    with pytest.raises(TypeError):
        generalized(Shown(), ["a"])
    with pytest.raises(TypeError):
        adjusted(Shown(), np.zeros(1))
