"""Dates in texts: read where they are written, each by itself, and moved without changing how they are written."""

import re
from datetime import date, timedelta
from functools import cache

_MOST_FORMAT = 40
_PIECES = {
    "Y": r"(?P<Y>[0-9]{4})",
    "m": r"(?P<m>[0-9]{1,2})",
    "d": r"(?P<d>[0-9]{1,2})",
    "H": "[0-9]{1,2}",
    "M": "[0-9]{2}",
    "S": "[0-9]{2}",
}
_BETWEEN = set(" .-/:,T_年月日时分秒")
# the year first, then month and day; a time of the day may follow, and nothing else
_USUAL = re.compile(
    r"(?P<Y>[0-9]{4})(?P<between>[-/.]?)(?P<m>[0-9]{2})(?P=between)(?P<d>[0-9]{2})"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?( ?(Z|UTC|[+-][0-9]{2}:?[0-9]{2}))?)?"
)


@cache
def pattern_of(format: str | None) -> "re.Pattern[str]":
    """What dates of a format look like: %Y, %m, %d, %H, %M, %S and signs between them; None: the year first.

    A letter of a name of a month has no place in it, nor has a pattern of one's own: no format takes long to match.
    Errors: ValueError.
    """
    if format is None:
        return _USUAL
    if len(format) > _MOST_FORMAT:
        raise ValueError(f"a format has at most {_MOST_FORMAT} characters")
    parts = re.split(r"%(.?)", format)
    named, between = parts[1::2], parts[::2]
    if not {"Y", "m", "d"} <= set(named) or len(set(named)) < len(named) or set(named) - set(_PIECES):
        raise ValueError("a format has %Y, %m and %d once each, and may have %H, %M and %S")
    if set("".join(between)) - _BETWEEN:
        raise ValueError("between the parts of a format are signs such as - / . : or a space")
    pieces = [
        re.escape(sign) + _PIECES.get(name, "") for sign, name in zip(between, [*named, ""], strict=True)
    ]
    return re.compile("".join(pieces))


def read(text: str, format: str | None = None) -> date | None:
    """The day that a text says; None for a text that is no date of that format, or no day there is.

    >>> read("2024-02-29 08:30"), read("29.02.2024", "%d.%m.%Y"), read("2023-02-29")
    (datetime.date(2024, 2, 29), datetime.date(2024, 2, 29), None)
    """
    found = pattern_of(format).fullmatch(text)
    return None if found is None else _day(found)


def moved(text: str, days: int, format: str | None = None) -> str | None:
    """The text with its day so many days later, written as it was; None as of `read`, and beyond the years 1 to 9999.

    >>> moved("2024-02-28T10:00Z", 2), moved("1/3/2024", -1, "%d/%m/%Y")
    ('2024-03-01T10:00Z', '29/2/2024')
    """
    found = pattern_of(format).fullmatch(text)
    day = None if found is None else _day(found)
    if found is None or day is None:
        return None
    try:
        day += timedelta(days)
    except OverflowError:
        return None
    new = {"Y": day.year, "m": day.month, "d": day.day}
    for name in sorted(new, key=found.start, reverse=True):
        start, end = found.span(name)
        text = f"{text[:start]}{new[name]:0{end - start}d}{text[end:]}"
    return text


def _day(found: "re.Match[str]") -> date | None:
    try:
        return date(int(found["Y"]), int(found["m"]), int(found["d"]))
    except ValueError:
        return None
