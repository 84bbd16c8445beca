"""Times and durations: wall-clock seconds of what a cell says, each read by itself.

privacy: libraries guess the format of a column from its first cells, so that one home's rows would change how another's
read. Here a time is ISO 8601 text, a number of seconds, or a typed time, and nothing but the cell itself is looked at.
"""

import re
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from privae.data.values import distinct, parsed
from privae.errors import UsageError

Integers = NDArray[np.int64]

DAY = 86_400
MONDAY = 4 * DAY  # 1970-01-05: windows and weeks are counted from its midnight
NEVER = np.iinfo(np.int64).min
"""A time that does not read."""
_LIMIT = 2.0**37  # seconds: years -2385 to 6325
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": DAY}
_DURATION = re.compile(r"([0-9]{1,9}) *(s|min|h|d)")
_TIME = (
    r"^(?P<year>[0-9]{4})[-/](?P<month>[0-9]{1,2})[-/](?P<day>[0-9]{1,2})"
    r"(?:[T ]+(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,][0-9]*)?)?)?"
    r"\s*(?P<zone>Z|z|UTC|(?P<sign>[+-])(?P<ahead>[0-9]{2}):?(?P<rest>[0-9]{2})?)?$"
)


def seconds_of(duration: str, name: str) -> int:
    """Seconds of "30s", "15min", "1h" or "7d". Errors: UsageError, naming the key, for anything else."""
    found = _DURATION.fullmatch(duration.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= 400 * DAY:
        raise UsageError(f'[series] {name} must be a duration such as "30s", "15min", "1h" or "7d"')
    return seconds


def check_timezone(timezone: str) -> None:
    """Raise UsageError for a time zone that is not known."""
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            '[series] timezone must be a name such as "Europe/Rome", as the IANA list has it'
        ) from None


def wall_clock(column: "pd.Series[Any]", timezone: str | None) -> Integers:
    """What the clock on the wall showed at each time, in seconds since 1970-01-01 00:00: [n] -> [n].

    A time with an offset (or a number, seconds since 1970 in UTC) is moved to the time zone; one without is what the
    clock showed. So a day has its 24 hours: where clocks are put forward an hour has no readings, and where they are
    put back one has twice as many.
    Guarantee: each number is a function of that cell, and of the zone, alone.
    Edges: fractions of a second are cut off; what does not read as a time is NEVER.
    """
    places, texts = distinct(column)
    seconds, aware = _read(texts)
    if aware.any():
        moved = pd.DatetimeIndex(seconds[aware].astype("datetime64[s]")).tz_localize("UTC")
        local = moved.tz_convert(timezone or "UTC").tz_localize(None)
        seconds[aware] = local.to_numpy("datetime64[s]").astype(np.int64)
    return np.append(seconds, NEVER)[places]


def _read(texts: list[str]) -> tuple[Integers, NDArray[np.bool_]]:
    """Seconds of each text, NEVER for none, and whether they are those of UTC."""
    fields = pc.extract_regex(pa.array(texts, pa.large_string()), _TIME)
    year, month, day = (_whole(fields, name) for name in ("year", "month", "day"))
    hour, minute, second = (_whole(fields, name, 0) for name in ("hour", "minute", "second"))
    first = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (np.clip(month, 1, 12) - 1)
    dates = first.astype("datetime64[D]").astype(np.int64) + day - 1
    after = (first + 1).astype("datetime64[D]").astype(np.int64)
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (dates < after)
    valid &= (hour <= 23) & (minute <= 59) & (second <= 60)
    sign = np.where(_text(fields, "sign") == "-", -1, 1)
    ahead, rest = _whole(fields, "ahead", 0), _whole(fields, "rest", 0)
    valid &= (ahead <= 23) & (rest <= 59)
    offset = sign * (ahead * 3600 + rest * 60)
    seconds = dates * DAY + hour * 3600 + minute * 60 + second - offset
    aware = _text(fields, "zone") != ""
    valid &= ~aware | (np.abs(seconds) < _LIMIT)  # beyond, no time zone is known, and a library would raise
    others = np.flatnonzero(~valid)
    said = parsed([texts[place] for place in others.tolist()])
    known = np.abs(said) < _LIMIT  # NaN compares false
    seconds[others] = np.where(known, np.floor(np.where(known, said, 0.0)), NEVER).astype(np.int64)
    aware[others] = known
    return seconds, aware


def _text(fields: pa.StructArray, name: str) -> NDArray[np.object_]:
    found: NDArray[np.object_] = np.array(
        pc.fill_null(pc.struct_field(fields, name), "").to_pylist(), dtype=object
    )
    return found


def _whole(fields: pa.StructArray, name: str, absent: int = -1) -> Integers:
    """A part of the times as whole numbers; `absent` where it is not there."""
    texts = pc.struct_field(fields, name)
    known = pc.if_else(pc.equal(pc.utf8_length(pc.fill_null(texts, "")), 0), str(absent), texts)
    found: Integers = pc.cast(known, pa.int64()).to_numpy(zero_copy_only=False).astype(np.int64)
    return found
