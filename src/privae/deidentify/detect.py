"""What looks like an identifier in a table: by the names of its columns, by their values, by how few are alike.

privacy: what is found by values is a guess about private data, for the data holder's terminal. A finding holds no
value, and no figure but "some", "most" or "nearly all"; a draft that is written from it stays unconfirmed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from privae.data.schema import toml_value
from privae.data.values import distinct, means_missing
from privae.deidentify.names import KIND, Kind, Rule, named
from privae.deidentify.patterns import SURE, folded, spans
from privae.training.watch import Silent, Watch

HALF = 0.5
"""A column is of a kind if this share of its distinct values are: far above luck (random digits that look like a card
pass Luhn one time in ten), and below what gaps, typing errors and values of other countries leave of a true one."""
FEW = 0.01
"""So many, or three times what luck gives, say that a column holds some of a kind among other things."""
ALONE = 0.95
"""So many distinct values among the cells that are not gaps: each is nearly one's own."""
_ENOUGH = 20  # rows: fewer say nothing about how many are alike
_NUMBER = r"\A[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?\z"
_ROWS = 50_000  # so many rows, evenly spaced, are looked at: a share of 1 % is then known to about 0.1 %
_SEARCHED, _READ = 5_000, 10_000  # texts that are searched, and characters of each
_LONG, _SPACES, _HAN = 30, 3, 8  # mean letters, spaces and Chinese characters of what is free text
_LONGER_THAN_NUMBERS = 12
_FIXED = 6  # digits of numbers that are all as long, and may have been given out

Strength = Literal["strong", "likely", "weak"]
Means = Literal["name", "values", "cardinality"]
_DATE = (
    r"\A(?:[0-9]{4}[-/.年][0-9]{1,2}[-/.月][0-9]{1,2}日?|[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{2,4})"
    r"(?:[T ]?[0-9]{1,2}[:时].*)?\z|\A[0-9]{1,2}:[0-9]{2}.*\z"
)
_YEARS, _EPOCHS = (1800, 2100), ((10**9, 2 * 10**9), (10**12, 2 * 10**12), (10**15, 2 * 10**15))


@dataclass(frozen=True)
class Finding:
    """What a column looks like, how that was found, and what is proposed.

    share: "some", "most" or "nearly all" of the values, or "" where values were not what told it.
    """

    column: str
    kind: str
    found: tuple[Means, ...]
    share: str
    strength: Strength

    @property
    def about(self) -> Kind:
        """The kind, with its words and its actions."""
        return KIND[self.kind]

    @property
    def direct(self) -> bool:
        """Whether it tells who somebody is by itself; otherwise together with other columns."""
        return self.about.direct

    @property
    def drops(self) -> bool:
        """Whether a draft leaves the column out until a person says otherwise."""
        return self.direct and self.strength != "weak"

    @property
    def instead(self) -> tuple[str, Rule] | None:
        """The action and its rule where the column is needed; surrogates of a column named in Chinese are Chinese."""
        given = self.about.instead
        if given is not None and given[0] == "surrogate" and re.search("[\u4e00-\u9fff]", self.column):
            return "surrogate", {**(given[1] or {}), "locale": "zh_CN"}
        return given

    def lines(self) -> tuple[str, ...]:
        """Two lines for a person: what it looks like, and the action proposed."""
        return (
            f"{self._seen()} ({self._told()}){'' if self.direct else ': with others it tells people apart'}",
            (self._proposed()),
        )

    def to_dict(self) -> dict[str, Any]:
        """The finding for JSON."""
        about = self.about
        return {
            "column": self.column,
            "kind": self.kind,
            "direct": self.direct,
            "found_by": list(self.found),
            "share": self.share or None,
            "strength": self.strength,
            **_action(about.action, about.rule),
            "instead": None if self.instead is None else _action(*self.instead),
        }

    def _seen(self) -> str:
        return f"looks like {self.about.words}" if self.strength != "weak" else f"may be {self.about.words}"

    def _told(self) -> str:
        how = {
            "name": "its name",
            "values": f"{self.share} values",
            "cardinality": "hardly a value occurs twice",
        }
        return "by " + " and ".join(how[means] for means in self.found)

    def _proposed(self) -> str:
        about = self.about
        if not self.direct:
            kept = about.action == "keep"
            return (
                "proposed: keep, if few values are rare"
                if kept
                else f"proposed: {_toml(about.action, about.rule)}"
            )
        needed = "" if self.instead is None else f"; where it is needed: {_toml(*self.instead)}"
        return f"proposed: {_toml(about.action, about.rule)}{needed}"


def detect(frame: pd.DataFrame, watch: Watch | None = None) -> list[Finding]:
    """The columns that look like identifiers, or like what tells people apart, in their order; others are left out.

    Guarantee: none: what is not found may still be an identifier. Nothing is taken from the network.
    Edges: each column by itself, whatever it holds; an empty table is judged by its names.
    """
    seen = watch if watch is not None else Silent()
    seen.phase("looking for identifiers", max(1, frame.shape[1]))
    found = []
    for place, name in enumerate(frame.columns):
        finding = _of(str(name), frame.iloc[:, place])
        found += [] if finding is None else [finding]
        seen.advance(1)
    return found


def identifiers(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Of these columns, those that tell who somebody is by their name or their values, each with what it looks like.

    Edges: what was told by how few values are alike, or may be otherwise, is left out: this is for refusals.
    """
    findings = detect(frame[[name for name in names if name in frame.columns]])
    return {f.column: f.about.words for f in findings if f.drops and f.found != ("cardinality",)}


def beside(findings: Sequence[Finding]) -> dict[str, tuple[tuple[str, ...], bool]]:
    """For `data.drafting`: by column, lines for a comment, and whether the column is to be left out."""
    return {finding.column: (finding.lines(), finding.drops) for finding in findings}


def summary(findings: Sequence[Finding]) -> str:
    """One line for each sort of finding, which names the columns; empty where nothing was found."""
    sorts = {
        "look like identifiers, and are left out": [f for f in findings if f.drops],
        "may be identifiers": [f for f in findings if f.direct and not f.drops],
        "tell people apart together": [f for f in findings if not f.direct],
    }
    return "\n".join(f"{said}: {', '.join(f.column for f in held)}" for said, held in sorts.items() if held)


def _of(name: str, values: pd.Series) -> Finding | None:
    by_name = named(name)
    rows = len(values)
    places, texts = distinct(values.iloc[_spread(rows, _ROWS)])
    told = [text for text in texts if not means_missing(text)]
    by_value = _by_values(told) if told else None
    if by_value is not None:
        return _both(name, by_name, *by_value)
    if by_name is not None:
        # a column of yes and no is about an identifier, and is none
        two = len(told) <= 2 and rows > _ENOUGH and by_name.direct
        return Finding(name, by_name.name, ("name",), "", "weak" if two else "likely")
    return _by_cardinality(name, told, int((places >= 0).sum()), rows) if told else None


def _both(name: str, by_name: Kind | None, kind: str, share: float) -> Finding:
    """Where name and values tell of two kinds, the values are right if most say so; else a direct name is."""
    if by_name is not None and by_name.direct:
        if by_name.name == kind or {by_name.name, kind} == {"phone", "mobile"}:
            return Finding(name, kind, ("name", "values"), _share(share), "strong")
        if share < HALF:
            return Finding(name, by_name.name, ("name",), "", "likely")
    return Finding(name, kind, ("values",), _share(share), "strong" if share >= HALF else "likely")


def _by_values(texts: Sequence[str]) -> tuple[str, float] | None:
    """The kind that most values are of, and the share of those of any; else what texts hold."""
    sample = [folded(text) for text in texts]
    counted: list[tuple[float, str]] = []
    any_: NDArray[np.bool_] = np.zeros(len(sample), dtype=bool)
    for recognizer in SURE:
        marks = recognizer.whole(sample)
        if marks.mean() >= max(FEW, 3 * recognizer.luck / 1e6):
            counted.append((float(marks.mean()), recognizer.kind))
            any_ |= marks
    if counted:
        return max(counted, key=lambda pair: pair[0])[1], float(any_.mean())
    return _within(texts)


def _within(texts: Sequence[str]) -> tuple[str, float] | None:
    sample = [texts[place][:_READ] for place in _spread(len(texts), _SEARCHED)]
    # the digits of a number with a point are no card's, though they may be as many
    if _mean_length(sample) < _LONGER_THAN_NUMBERS or _mostly(sample, _NUMBER):
        return None
    kinds = [{span.kind for span in held} for held in spans(sample)]
    share = sum(map(bool, kinds)) / len(kinds)
    if share < FEW:
        return None
    if _is_free(sample):
        return "free text", share
    each = [kind for held in kinds for kind in held]
    return max(sorted(set(each)), key=each.count), share


def _by_cardinality(name: str, told: Sequence[str], cells: int, rows: int) -> Finding | None:
    if cells <= _ENOUGH:
        return None
    if _is_free(told) and len(told) >= HALF * cells:
        return Finding(name, "free text", ("cardinality",), "", "likely")
    if len(told) < ALONE * cells or _mostly(told, _DATE):
        return None
    if _mostly(told, r"\A[+-]?[0-9]{1,18}\z"):
        return _of_numbers(name, told, rows)
    if _mostly(told, _NUMBER):
        return None
    return Finding(name, "record number", ("cardinality",), "", "likely")


def _of_numbers(name: str, told: Sequence[str], rows: int) -> Finding | None:
    """Whole numbers one after another are those of rows; those that are all as long may have been given out."""
    numbers = np.array([int(text) for text in told if text.lstrip("+-").isdigit()], dtype=np.int64)
    low, high = int(numbers.min()), int(numbers.max())
    if (low >= _YEARS[0] and high <= _YEARS[1]) or any(a <= low and high <= b for a, b in _EPOCHS):
        return None
    if high - low < 1.2 * rows:
        return Finding(name, "row number", ("cardinality",), "", "likely")
    fixed = len(str(low)) == len(str(high)) >= _FIXED and low > 0
    return Finding(name, "record number", ("cardinality",), "", "weak") if fixed else None


def _spread(count: int, most: int) -> list[int]:
    return [int(place) for place in np.linspace(0, count - 1, min(count, most))]


def _share(share: float) -> str:
    return "nearly all" if share >= 0.9 else "most" if share >= HALF else "some"


def _mean_length(texts: Sequence[str]) -> float:
    return float(np.mean([len(text) for text in texts]))


def _is_free(texts: Sequence[str]) -> bool:
    array = pa.array(texts, pa.large_string())
    counts = [pc.mean(pc.count_substring_regex(array, sign)).as_py() for sign in (" ", r"\p{Han}")]
    return counts[1] >= _HAN or (counts[0] >= _SPACES and _mean_length(texts) >= _LONG)


def _mostly(texts: Sequence[str], form: str) -> bool:
    marks = pc.match_substring_regex(pa.array(texts, pa.large_string()), form)
    return bool(pc.mean(marks.cast(pa.int8())).as_py() >= 0.9)


def _action(action: str, rule: Rule) -> dict[str, Any]:
    return {"action": action, "rule": dict(rule)} if rule else {"action": action}


def _toml(action: str, rule: Rule) -> str:
    """What a person writes into the schema; groups are no numbers, so that the kind changes with them."""
    facts = ", ".join(f"{key} = {toml_value(value)}" for key, value in (rule or {}).items())
    kind = (
        f'kind = "{"ordinal" if rule and "prefix" not in rule and "hierarchy" not in rule else "category"}", '
    )
    said = f'{kind if action == "generalize" else ""}action = "{action}"'
    return said + (f", rule = {{ {facts} }}" if rule else "")
