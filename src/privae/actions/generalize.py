"""Generalizing: a value to the group that it is in, by the rule and this value alone.

Why a fit costs the same with it: the result for a record is a function of the public rule and of this record, so two
tables that differ in one record differ in that record afterwards, and in no other; every sensitivity stays as it is.
A value that already is a group stays it, so synthetic records can be read again, and doing it twice changes nothing.
A value that the rule cannot read becomes "*", never itself.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal, InvalidOperation, localcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privae.actions import dates
from privae.actions.rule import (
    SUPPRESSED,
    WEEKDAYS,
    Bands,
    DatePart,
    Groups,
    Limits,
    Multiple,
    Prefix,
    Rule,
)

_LONGEST = 40  # characters of a number
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_MOST_STEPS = 10**15  # bands of a width to either side; beyond, a number has more digits than anybody writes
_EXACT = 2.0**53  # float64 holds every whole number below
_LABELS = {
    "year": re.compile(r"[0-9]{4}"),
    "quarter": re.compile(r"[0-9]{4}-Q[1-4]"),
    "month": re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])"),
    "weekday": re.compile("|".join(WEEKDAYS)),
}


def generalized(rule: Rule, texts: Sequence[str]) -> list[str]:
    """The group of each text.

    Guarantee: each result is a function of the rule and of its own text; a group gives itself.

    >>> generalized(Bands(width=10, low=0, high=90), ["37", "94.5", "30-39", "unknown"])
    ['30-39', '90+', '30-39', '*']
    >>> generalized(Prefix(prefix=3), ["90210", "902*"]), generalized(DatePart(date="quarter"), ["2024-05-01"])
    (['902*', '902*'], ['2024-Q2'])
    """
    if isinstance(rule, Bands):
        with localcontext(prec=50):
            return [_band(rule, text) for text in texts]
    if isinstance(rule, DatePart):
        return [_part(rule, text) for text in texts]
    if isinstance(rule, Prefix):
        return [text.removesuffix(SUPPRESSED)[: rule.prefix] + SUPPRESSED for text in texts]
    if isinstance(rule, Groups):
        names = rule.groups or {}
        return [rule.group_of.get(text, text if text in names else SUPPRESSED) for text in texts]
    raise TypeError("no rule of generalizing")


def adjusted(rule: Rule, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers rounded to multiples, or coded at their limits; NaN stays NaN.

    Shapes: [n] -> [n].
    Guarantee: each result is a function of the rule and of its own number; doing it twice changes nothing.

    >>> adjusted(Multiple(to=0.1), np.array([0.27, np.nan])), adjusted(Limits(high=90), np.array([97.0, 4.0]))
    (array([0.3, nan]), array([90.,  4.]))
    """
    if isinstance(rule, Limits):
        low, high = rule.low, rule.high
        return np.clip(values, -np.inf if low is None else low, np.inf if high is None else high)
    if not isinstance(rule, Multiple):
        raise TypeError("no rule of numbers")
    exponent = Decimal(repr(rule.to)).as_tuple().exponent
    digits = max(0, -exponent) if isinstance(exponent, int) else 0
    # privacy: of a number so large that no multiple is near it, float64 holds no more than a multiple would say
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.round(values / rule.to)
        rounded = np.round(near * rule.to, digits)
    return np.where(np.abs(near) < _EXACT, rounded, values) + 0.0


def groups_of(rule: Rule | None) -> tuple[str, ...] | None:
    """All groups that may come out of a rule, in their order; None where they are not finitely many, or not known.

    >>> groups_of(Bands(edges=(18, 65))), groups_of(DatePart(date="month"))
    (('<18', '18-64', '65+'), None)
    """
    if isinstance(rule, Groups):
        return None if rule.groups is None else tuple(rule.groups)
    if isinstance(rule, DatePart):
        return WEEKDAYS if rule.date == "weekday" else None
    return _bands(rule) if isinstance(rule, Bands) else None


def following(rule: Rule | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a column that follow from its rule, where they are not declared: groups, a unit, bounds."""
    if isinstance(rule, Multiple):
        return {"unit": rule.to}
    if isinstance(rule, Limits) and rule.low is not None and rule.high is not None:
        return {} if given.get("edges") is not None else {"bounds": (rule.low, rule.high)}
    if given.get("kind") == "numeric":
        return {"integer": True} if isinstance(rule, DatePart) else {}
    groups = groups_of(rule)
    return {} if groups is None else {"categories": groups}


def _bands(rule: Bands) -> tuple[str, ...] | None:
    edges = rule.edges
    if edges is None:
        if rule.low is None or rule.high is None or rule.width is None:
            return None
        low, high, width = (Decimal(repr(number)) for number in (rule.low, rule.high, rule.width))
        edges = tuple(float(low + width * step) for step in range(int((high - low) / width) + 1))
        edges = (*(edge for edge in edges if edge < rule.high), rule.high)
    return tuple(dict.fromkeys(generalized(rule, [_plain(edges[0] - 1), *map(_plain, edges)])))


def _band(rule: Bands, text: str) -> str:
    number = _read(text)
    if number is not None:
        return _label(rule, number)
    leading = _NUMBER.match(text.removeprefix("<"))
    low = None if leading is None else _read(leading[0])
    if low is not None and _label(rule, low) == text:
        return text
    ends = _ends(rule)
    return text if ends[0] is not None and text == f"<{_written(ends[0])}" else SUPPRESSED


def _label(rule: Bands, number: Decimal) -> str:
    low, high = _ends(rule)
    if low is not None and number < low:
        return f"<{_written(low)}"
    if high is not None and number >= high:
        return f"{_written(high)}+"
    try:
        start, end = _around(rule, number)
    except InvalidOperation:
        return SUPPRESSED
    if high is not None:
        end = min(end, high)
    if start != start.to_integral_value() or end != end.to_integral_value():
        return f"{_written(start)} to {_written(end)}"
    return _written(start) if end - start == 1 else f"{_written(start)}-{_written(end - 1)}"


def _ends(rule: Bands) -> tuple[Decimal | None, Decimal | None]:
    low, high = (rule.low, rule.high) if rule.edges is None else (rule.edges[0], rule.edges[-1])
    return None if low is None else _exact(low), None if high is None else _exact(high)


def _around(rule: Bands, number: Decimal) -> tuple[Decimal, Decimal]:
    """The ends of the band that a number is in; bands of a width begin at `low`, or else at 0."""
    if rule.width is None:
        edges = [_exact(edge) for edge in rule.edges or ()]
        place = max(i for i, edge in enumerate(edges) if edge <= number)
        return edges[place], edges[place + 1]
    width, first = _exact(rule.width), _exact(rule.low or 0.0)
    steps = ((number - first) / width).to_integral_value(ROUND_FLOOR)
    if abs(steps) > _MOST_STEPS:
        raise InvalidOperation
    return first + steps * width, first + (steps + 1) * width


def _part(rule: DatePart, text: str) -> str:
    if _LABELS[rule.date].fullmatch(text):
        return text
    day = dates.read(text, rule.format)
    if day is None:
        return SUPPRESSED
    year = f"{day.year:04d}"
    said = {"year": year, "quarter": f"{year}-Q{(day.month + 2) // 3}", "month": f"{year}-{day.month:02d}"}
    return WEEKDAYS[day.weekday()] if rule.date == "weekday" else said[rule.date]


def _read(text: str) -> Decimal | None:
    return Decimal(text) + 0 if len(text) <= _LONGEST and _NUMBER.fullmatch(text) else None


def _exact(number: float) -> Decimal:
    return Decimal(repr(number))


def _plain(number: float) -> str:
    return _written(_exact(number))


def _written(number: Decimal) -> str:
    text = f"{number:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
