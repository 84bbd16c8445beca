"""A finding: its sentence in two languages, and its way to JSON and back."""

import json
import math
from dataclasses import replace

import pytest

from privae.attacks.finding import CHANNELS, Attack, Finding, Skipped
from privae.errors import ArtifactError

ATTACK = Attack(
    "a name",
    "data",
    "epsilon lower bound",
    {"en": "A title", "zh": "标题"},
    {
        "en": "{right} of {guesses}: {value}, {low} to {high}, at most {power}, {confidence} sure, {named}, {sure}",
        "zh": "{guesses} 次中 {right} 次：{value}",
    },
    "arXiv:2305.08846",
)


def found(**more):
    details = {"right": 7, "guesses": 10, "named": "b", "sure": True} | more
    return ATTACK.found(1.23456, (0.5, math.inf), 0.9999, power=2.5, **details)


def test_a_sentence_has_its_figures_rounded_and_counts_whole():
    assert found().meaning == {
        "en": "7 of 10: 1.23, 0.5 to inf, at most 2.5, 99.99 % sure, b, True",
        "zh": "10 次中 7 次：1.23",
    }


def test_figures_are_rounded_to_the_side_that_claims_less():
    """What was and could have been shown down, what is accounted up; 1.1 stays what it is."""
    words = {"en": "{value} {low} {high} {power} {epsilon} {other} {confidence}", "zh": ""}
    bound = replace(ATTACK, meaning=words)
    found = bound.found(1.239, (0.5559, 2.001), 0.99999939, power=2.111, epsilon=1.1, other=1.239)
    assert found.meaning["en"] == "1.23 0.555 2.01 2.11 1.1 1.24 99.999939 %"
    share = replace(bound, measure="share").found(1.239, (0.3, 0.3), 0.9999, epsilon=3.3, other=math.nan)
    assert share.meaning["en"] == "1.24 0.3 0.3 None 3.3 nan 99.99 %"


def test_a_finding_has_what_is_the_same_for_all_of_its_attack():
    one = found()
    assert (one.attack, one.channel, one.measure, one.source) == (
        ATTACK.name,
        ATTACK.channel,
        ATTACK.measure,
        ATTACK.source,
    )
    assert (one.failed, one.public, one.title) == (False, False, {"en": "A title", "zh": "标题"})
    assert set(CHANNELS) == {"data", "parameters", "samples"}


def test_json_knows_no_infinity_and_nothing_that_is_no_number():
    one = found(curve=(0.0, math.inf, -math.inf, math.nan), nested={"a": [math.inf]})
    fields = one.to_dict()
    text = json.dumps(fields, allow_nan=False)
    assert fields["high"] == "inf"
    assert fields["details"]["curve"] == [0.0, "inf", "-inf", None]
    assert fields["details"]["nested"] == {"a": ["inf"]}
    assert Finding.from_dict(json.loads(text)).to_dict() == fields


def test_a_finding_comes_back_from_json():
    assert Finding.from_dict(json.loads(json.dumps(found().to_dict()))) == found()
    bare = ATTACK.found(
        math.nan, (-math.inf, 1.0), 0.999, right=0, guesses=0, named="-", sure=False, failed=True
    )
    again = Finding.from_dict(bare.to_dict())
    assert math.isnan(again.value)
    assert (again.low, again.power, again.failed) == (-math.inf, None, True)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attack": "a"},
        {**found().to_dict(), "more": 1},
        {**found().to_dict(), "value": "high"},
        {**found().to_dict(), "value": []},
        [],
        5,
    ],
)
def test_other_fields_are_an_artefact_of_another_version(fields):
    with pytest.raises(ArtifactError, match="audit again"):
        Finding.from_dict(fields)


def test_what_did_not_run_says_why_in_both_languages():
    one = Skipped("a name", "samples", {"en": "no", "zh": "无"})
    assert one.to_dict() == {"attack": "a name", "channel": "samples", "reason": {"en": "no", "zh": "无"}}
