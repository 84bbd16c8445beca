"""Rules: what a schema may say of an action, and that anything else is refused in a line without its values."""

import pytest

from privae.actions.rule import Bands, Days, Groups, Limits, Shown, Token, rule_of

NAN = float("nan")
REFUSED = [
    ("keep", {}, "takes no rule"),
    ("drop", {"width": 3}, "takes no rule"),
    ("generalize", None, "needs a rule"),
    ("generalize", [], "is a table"),
    ("generalize", "width", "is a table"),
    ("generalize", {}, "one of the two"),
    ("generalize", {"width": -1}, "greater than"),
    ("generalize", {"width": 0}, "greater than"),
    ("generalize", {"width": NAN}, "rule.width"),
    ("generalize", {"width": float("inf")}, "rule.width"),
    ("generalize", {"width": 1e300}, "rule.width"),
    ("generalize", {"width": 1e-9, "low": 0, "high": 1e9}, "more than 1000 bands"),
    ("generalize", {"width": 5, "edges": [1, 2]}, "one of the two"),
    ("generalize", {"edges": [1, 2], "low": 0}, "ends of their own"),
    ("generalize", {"edges": [2, 1]}, "rise"),
    ("generalize", {"edges": []}, "rule.edges"),
    ("generalize", {"edges": list(range(2000))}, "rule.edges"),
    ("generalize", {"width": 5, "low": 9, "high": 1}, "low is below high"),
    ("generalize", {"prefix": -1}, "rule.prefix"),
    ("generalize", {"date": "day"}, "rule.date"),
    ("generalize", {"date": "month", "format": "(a+)+%Y%m%d"}, "between the parts"),
    ("generalize", {"date": "month", "format": "%Y"}, "once each"),
    ("generalize", {"date": "month", "format": "%Y-%m-%d" * 9}, "at most 40"),
    ("generalize", {"date": "month", "format": "%Y-%m-%"}, "once each"),
    ("generalize", {"groups": {"a": ["b"], "b": ["c"]}}, "value of another group"),
    ("generalize", {"groups": {"a": ["x"], "b": ["x"]}}, "in two groups"),
    ("generalize", {"groups": {"a": ["x" * 300]}}, "more than 200 characters"),
    ("generalize", {"groups": {"Secret Ann": [1]}}, "rule.groups"),
    ("generalize", {"groups": {}, "hierarchy": "h.csv"}, "one of the two"),
    ("round", {"to": 0}, "rule.to"),
    ("round", {"to": "a lot"}, "rule.to"),
    ("code", {}, "low, high, or both"),
    ("code", {"low": 3, "high": 3}, "low is below high"),
    ("mask", {"regex": "(a+)+$"}, "rule.regex"),
    ("mask", {"sign": "\n"}, "can be seen"),
    ("mask", {"sign": "**"}, "rule.sign"),
    ("mask", {"first": 99}, "rule.first"),
    ("mask", {"text": True, "last": 3}, "nothing goes with it"),
    ("pseudonymize", {"alphabet": "hex"}, "reversible"),
    ("pseudonymize", {"reversible": True, "alphabet": "klingon"}, "rule.alphabet"),
    ("pseudonymize", {"domain": ""}, "rule.domain"),
    ("shift", {"days": 0}, "rule.days"),
    ("shift", {"days": 10**12}, "rule.days"),
    ("shift", {"days": 3, "format": "%d"}, "rule.format"),
    ("surrogate", {"provider": "__class__"}, "rule.provider"),
    ("surrogate", {"provider": "name", "locale": "xx"}, "rule.locale"),
    ("code", Bands(width=3), "not one of action"),
]


@pytest.mark.parametrize(("action", "given", "words"), REFUSED)
def test_what_no_rule_is_is_refused_in_one_line(action, given, words):
    with pytest.raises(ValueError, match=words) as caught:
        rule_of(action, given)
    assert "\n" not in str(caught.value)
    assert "Ann" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_rules_are_read_by_the_action_and_the_keys():
    assert rule_of("keep", None) is None
    assert rule_of("mask", None) == Shown()
    assert rule_of("pseudonymize", {}) == Token()
    assert rule_of("generalize", {"groups": {"a": ["b"]}}) == Groups(groups={"a": ("b",)})
    assert rule_of("shift", {"days": 3}) == rule_of("shift", Days(days=3))


def test_a_person_reads_what_is_done():
    said = [
        (Bands(edges=(1,)), "to bands"),
        (Limits(low=1, high=2), "below 1 to it, above 2 to it"),
        (Shown(first=1, last=2, after="@"), "the first 1 and the last 2 and what follows '@'"),
        (Token(domain="p"), "domain p"),
        (Token(reversible=True), "FF1 over digits"),
    ]
    for rule, words in said:
        assert words in rule.words
