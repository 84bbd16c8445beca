"""Singling out, linking, inferring: tiny tables by hand, whole copies, independent tables, and no crash."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from privae.attacks import linkage
from privae.attacks.bounds import share
from privae.attacks.finding import Finding, Skipped
from privae.attacks.linkage import INFERENCE, Tries, risk
from privae.attacks.world import Vocabulary, World
from privae.data.column import Column
from privae.data.schema import Schema

CONFIDENCE = 0.9999
ALL = (
    linkage.singling_out,
    linkage.singling_out_jointly,
    linkage.linkability,
    linkage.inference,
    linkage.attribute_inference,
)
LETTERS = tuple("abcdefgh")
FACTS = Schema(
    columns=(
        Column(name="age", kind="numeric", bounds=(0, 100), integer=True, missing=True),
        Column(name="pay", kind="numeric", bounds=(0.0, 1e6)),
        Column(name="height", kind="numeric", bounds=(100.0, 220.0)),
        Column(name="job", kind="category", categories=LETTERS, missing=True),
        Column(name="town", kind="category", categories=LETTERS),
        Column(name="ill", kind="boolean"),
    ),
    label="ill",
)


def people(count, seed):
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, count).astype(float)
    age[rng.random(count) < 0.1] = np.nan
    job, town = rng.choice(np.array(LETTERS, dtype=object), (2, count))
    job[rng.random(count) < 0.1] = None
    columns = {"age": age, "pay": np.exp(rng.normal(10, 1, count)), "height": rng.normal(170, 10, count)}
    return pd.DataFrame({**columns, "job": job, "town": town, "ill": rng.random(count) < 0.4})


def world(members, holdout, synthetic, schema=FACTS, **claim):
    vocabulary = Vocabulary(schema)
    held = None if holdout is None else vocabulary.records(holdout)
    tables = (vocabulary.records(members), vocabulary.records(synthetic))
    return World(members, synthetic, *tables, holdout, held, schema, **claim)


def numbers(members, holdout, synthetic):
    names = [f"x{i}" for i in range(np.shape(members)[1])]
    schema = Schema(columns=tuple(Column(name=name, kind="numeric", bounds=(0.0, 100.0)) for name in names))
    return world(
        *(pd.DataFrame(each, columns=names, dtype=float) for each in (members, holdout, synthetic)), schema
    )


def anything(epsilon=None, delta=0.0):
    return replace(world(people(1, 0), None, people(1, 0)), epsilon=epsilon, delta=delta)


def test_a_risk_is_the_excess_over_the_control_between_exact_bounds():
    found = risk(INFERENCE, Tries((90, 100), (50, 100), (30, 100)), anything(), 0.99)
    level = 1 - 0.01 / 3
    own, control = share(90, 100, level), share(50, 100, level)
    assert found.value == pytest.approx((0.9 - 0.5) / (1 - 0.5))
    assert found.low == pytest.approx((own.low - control.high) / (1 - control.high))
    assert found.high == pytest.approx((own.high - control.low) / (1 - control.low))
    assert found.failed
    assert found.details["blind"] == pytest.approx(0.3)
    assert found.details["better_than_blind"]


@pytest.mark.parametrize(
    ("members", "control", "value"),
    [((0, 0), (0, 0), math.nan), ((9, 9), (9, 9), 0.0), ((0, 9), (9, 9), 0.0), ((9, 9), (0, 9), 1.0)],
)
def test_no_trials_and_trials_that_always_succeed_are_no_crash(members, control, value):
    found = risk(INFERENCE, Tries(members, control, (0, 0), 3.0), anything(), CONFIDENCE)
    assert found.value == pytest.approx(value, nan_ok=True)
    assert 0.0 <= found.low <= found.high <= 1.0
    json.dumps(found.to_dict(), allow_nan=False)


def test_with_a_claim_only_a_contradiction_fails():
    tries = Tries((900, 1000), (300, 1000), (0, 1000))
    assert risk(INFERENCE, tries, anything(0.5), CONFIDENCE).failed
    assert not risk(INFERENCE, tries, anything(2.0), CONFIDENCE).failed
    assert not risk(INFERENCE, tries, anything(0.5, 0.6), CONFIDENCE).failed
    small = Tries((400, 1000), (300, 1000), (0, 1000))
    assert not risk(INFERENCE, small, anything(), CONFIDENCE).failed
    scaled = Tries((900, 1000), (300, 1000), (0, 1000), 3.0)
    assert not risk(INFERENCE, scaled, anything(0.5), CONFIDENCE).failed


def test_singling_out_by_one_column_is_counted_by_hand():
    case = numbers([[1], [2], [2], [9]], [[3], [4], [5], [6]], [[1], [2], [2], [9]])
    found = linkage.singling_out(case, CONFIDENCE)  # 2 fits two generated records, so 1 and 9 are left
    assert (found.details["hits"], found.details["trials"]) == (2, 2)
    assert (found.details["control_hits"], found.details["control_trials"]) == (0, 2)
    assert found.details["control_scale"] == 1.0


def test_a_smaller_holdout_counts_as_many_times_and_a_larger_one_is_cut():
    case = numbers([[i] for i in range(8)], [[20], [30]], [[1], [2]])
    assert linkage.singling_out(case, CONFIDENCE).details["control_scale"] == 4.0
    case = numbers([[1], [2]], [[i] for i in range(8)], [[1], [2]])
    assert linkage.singling_out(case, CONFIDENCE).details["control_scale"] == 1.0


def test_linking_by_hand():
    made = [[0, 0], [50, 50], [100, 100]]
    found = linkage.linkability(
        numbers([[1, 2], [49, 51], [97, 99], [2, 1]], [[0, 99]] * 4, made), CONFIDENCE
    )
    assert (found.details["hits"], found.details["trials"]) == (4, 4)
    assert (found.details["control_hits"], found.details["control_trials"]) == (0, 4)


def test_inferring_by_hand():
    made = [[0, 10], [50, 60], [100, 90]]
    found = linkage.inference(numbers([[1, 10], [51, 60]], [[20, 30], [70, 80]], made), CONFIDENCE)
    assert (found.details["trials"], found.details["control_trials"]) == (2, 2)
    assert found.details["hits"] == sum(secret["hits"] for secret in found.details["secrets"])
    assert found.details["control_hits"] == 0
    assert found.details["hits"] == 2


def test_a_label_is_the_first_secret_of_classifiers():
    found = linkage.attribute_inference(world(people(50, 0), people(50, 1), people(50, 2)), CONFIDENCE)
    assert found.details["secrets"][0]["column"] == "ill"
    assert len(found.details["secrets"]) == 5


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.__name__)
def test_a_copy_of_the_training_table_has_a_risk_near_one(attack):
    members = people(1000, 0)
    found = attack(world(members, people(1000, 1), members.sample(frac=1, random_state=2)), CONFIDENCE)
    assert found.value > 0.9
    assert found.failed
    assert found.details["better_than_blind"]
    assert attack(world(members, people(1000, 1), members, epsilon=0.1, delta=1e-5), CONFIDENCE).failed


@pytest.mark.parametrize("seed", range(20))
def test_an_independent_table_raises_no_alarm(seed):
    """n = 120, 90 and 120 at confidence 0.9999, under the strictest claim, epsilon 0."""
    case = world(people(120, 3 * seed), people(90, 3 * seed + 1), people(120, 3 * seed + 2), epsilon=0.0)
    found = [attack(case, CONFIDENCE) for attack in ALL]
    assert not [one.attack for one in found if one.failed]
    assert all(one.low == 0.0 for one in found)


def test_fewer_predicates_than_asked_for_are_used_and_told():
    members = people(50, 0)
    found = linkage.singling_out_jointly(world(members, people(50, 1), people(50, 2)), CONFIDENCE)
    assert 0 < found.details["trials"] < found.details["asked"]
    same = [[1, 1]] * 4
    none = linkage.singling_out_jointly(numbers(same, same, same), CONFIDENCE)
    assert none.details["trials"] == 0
    assert (none.low, none.high, none.failed) == (0.0, 1.0, False)


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.__name__)
def test_small_or_odd_tables_are_judged_or_skipped(attack):
    full, gaps = people(6, 0), people(6, 1)
    gaps[["age", "job"]] = None
    for tables in (
        (full[:1], full[:1], full[:1]),
        (gaps, gaps, gaps),
        (full, gaps, gaps),
        (gaps, full, full),
    ):
        found = attack(world(*tables), CONFIDENCE)
        assert isinstance(found, Finding)
        json.dumps(found.to_dict(), allow_nan=False)
        assert "{" not in found.meaning["en"] + found.meaning["zh"]
    for tables in (
        (full, None, full),
        (full, full[:0], full),
        (full[:0], full, full),
        (full, full, full[:0]),
    ):
        assert isinstance(attack(world(*tables), CONFIDENCE), Skipped)


def test_one_column_can_only_be_singled_out_by():
    case = numbers([[1], [2]], [[3], [4]], [[1], [2]])
    assert isinstance(linkage.singling_out(case, CONFIDENCE), Finding)
    assert all(isinstance(attack(case, CONFIDENCE), Skipped) for attack in ALL[1:])


def test_the_same_world_gives_the_same_findings():
    case = world(people(100, 0), people(100, 1), people(100, 2))
    assert [attack(case, CONFIDENCE) for attack in ALL] == [attack(case, CONFIDENCE) for attack in ALL]
