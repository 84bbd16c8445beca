"""Ratings: who likes which items, as public facts, as one set of items a person, and back.

A row says that a person took to an item: watched, bought, or rated it. The unit is the person: all of their rows are
one contribution, and what becomes of them is a function of the schema and of these rows alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import field_validator
from scipy.sparse import csr_array

from privae.data.schema import (
    Declared,
    known_keys,
    parsed,
    section,
    toml_value,
    validated,
)
from privae.data.values import canonical, category_codes, distinct, numbers
from privae.errors import UsageError

Index = NDArray[np.int64]
_TAKEN = {"rank", "score", "likeness"}


class RatingSchema(Declared):
    """The public facts of ratings: the names of their columns, what counts as liking, and the catalogue.

    value, like: a row counts from this value on; without them every row counts. time: of several rows of one person
    about one item the latest counts; without it, any that counts. items: the catalogue, or "bought". rows: roughly how
    many *persons* there are.
    """

    person: str
    item: str
    value: str | None = None
    like: float | None = None
    time: str | None = None
    items: tuple[str, ...] | Literal["bought"] = "bought"
    rows: int | None = None

    @field_validator("items", mode="before")
    @classmethod
    def _items_as_text(cls, given: Any) -> Any:  # noqa: ANN401  pydantic hands over whatever was written
        return tuple(canonical(one) or "" for one in given) if isinstance(given, list | tuple) else given

    @classmethod
    def loads(cls, text: str) -> Self:
        """The schema in a TOML text: one section, [ratings]."""
        read = parsed(text)
        known_keys(read, ("ratings",), "the schema of ratings")
        facts = section(read, "ratings")
        known_keys(facts, tuple(cls.model_fields), "[ratings]")
        return validated(cls, facts, "[ratings]")

    def dumps(self) -> str:
        """The TOML text; `loads` gives the same schema back."""
        facts = self.model_dump(exclude_none=True)
        return "\n".join(["[ratings]", *(f"{key} = {toml_value(value)}" for key, value in facts.items()), ""])

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are read."""
        named = self.person, self.item, self.value, self.time
        return tuple(name for name in named if name is not None)

    def check(self) -> None:
        """Raise UsageError for the first thing that is undeclared or contradictory."""
        if len(set(self.columns)) < len(self.columns):
            raise UsageError("[ratings] names one column twice")
        if taken := sorted(_TAKEN & set(self.columns)):
            raise UsageError(
                f"[ratings] a column may not be named {taken[0]}, as one of recommendations is; rename it"
            )
        if (self.value is None) != (self.like is None):
            raise UsageError(
                "[ratings] value and like go together: a row counts as liked from which value on? "
                "Without both, every row counts"
            )
        if self.like is not None and not np.isfinite(self.like):
            raise UsageError("[ratings] like must be a number")
        if self.rows is not None and self.rows < 1:
            raise UsageError("[ratings] rows must be at least 1: roughly how many persons there are")
        if self.items != "bought" and (len(self.items) < 2 or "" in self.items):
            raise UsageError("[ratings] items are at least two names, none of them empty")
        if self.items != "bought" and len(set(self.items)) < len(self.items):
            raise UsageError("[ratings] items has one name twice")

    def with_items(self, names: Sequence[str]) -> Self:
        """The schema after its catalogue was bought; sorted, so that no order leaks."""
        return self.model_copy(update={"items": tuple(sorted(set(names)))})


@dataclass(frozen=True)
class Profiles:
    """What each person likes. likes [persons, items]: 1 or nothing; persons: their names, in order of appearance."""

    likes: csr_array = field(repr=False)
    persons: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        """How many persons."""
        return len(self.persons)


def profiles(frame: pd.DataFrame, schema: RatingSchema, items: Sequence[str]) -> Profiles:
    """The likes of every person among a catalogue of m items: [persons, m].

    Guarantee: a person's row is a function of the schema, the catalogue and this person's rows.
    Edges: rows without a person (a gap, or no text) count for nobody; rows of items that are not in the catalogue,
        gaps, and values that are no number are not liked; one item liked twice is liked once. Persons who like nothing
        keep an empty row.
    """
    header = [str(name) for name in frame.columns]
    schema.ordered(header)
    frame = frame.set_axis(header, axis=1)
    who, persons = persons_in(frame[schema.person])
    places, texts = distinct(frame[schema.item])
    what = np.append(category_codes(texts, items), -1)[places]
    chosen = (who >= 0) & (what >= 0)
    liked = _liked(frame, schema)
    if schema.time is not None:
        order = np.lexsort((liked, _moments(frame[schema.time]), who * len(items) + what))
        order = order[chosen[order]]
        pair = (who * len(items) + what)[order]
        last = order[np.append(pair[1:] != pair[:-1], np.ones(min(len(pair), 1), bool))]
        chosen = np.zeros(len(frame), bool)
        chosen[last] = True
    pairs = np.unique((who * len(items) + what)[chosen & liked])
    row, column = np.divmod(pairs, len(items))
    starts = np.searchsorted(row, np.arange(len(persons) + 1))
    likes = csr_array(
        (np.ones(len(pairs), np.int64), column, starts), shape=(len(persons), len(items)), dtype=np.int64
    )
    return Profiles(likes, tuple(persons))


def named(profile: Any, schema: RatingSchema) -> pd.DataFrame:  # noqa: ANN401  names of items, or a table
    """A profile as the schema's table: a table as it is, or the names of items that one person likes."""
    if isinstance(profile, pd.DataFrame):
        return profile
    if isinstance(profile, str):
        raise UsageError("a profile is a list of items, or a table; one item is a list of one")
    # who likes nothing is a person, too
    columns = dict.fromkeys(schema.columns, "1") | {
        schema.item: [canonical(one) for one in profile] or [None]
    }
    return pd.DataFrame(columns | ({} if schema.value is None else {schema.value: schema.like}))


def table_of(likes: csr_array, schema: RatingSchema) -> pd.DataFrame:
    """Profiles as a table, one row a like; persons are numbers from 1, values the least that counts, times 0."""
    assert schema.items != "bought"
    counts = np.diff(likes.indptr)
    columns: dict[str, Any] = {
        schema.person: np.repeat(np.arange(1, len(counts) + 1), counts),
        schema.item: np.array(schema.items, dtype=object)[likes.indices],
    }
    if schema.value is not None:
        columns[schema.value] = np.full(len(likes.indices), schema.like)
    if schema.time is not None:
        columns[schema.time] = np.zeros(len(likes.indices), np.int64)
    return pd.DataFrame(columns)


def persons_in(column: "pd.Series[Any]") -> tuple[Index, list[str]]:
    """Who each row is about, -1 for nobody, and the persons' names in order of appearance; no text is a gap."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.cat.remove_unused_categories()  # who has no row is nobody
    places, texts = distinct(column)
    if "" in texts:
        gap = texts.index("")
        places = np.where(places == gap, -1, places - (places > gap))
        texts = [*texts[:gap], *texts[gap + 1 :]]
    return places, texts


def _liked(frame: pd.DataFrame, schema: RatingSchema) -> NDArray[np.bool_]:
    if schema.value is None or schema.like is None:
        return np.ones(len(frame), bool)
    found: NDArray[np.bool_] = numbers(frame[schema.value])[0] >= schema.like  # NaN is not liked
    return found


def _moments(column: "pd.Series[Any]") -> Index:
    """When each row was: ranks of its numbers, or else of its texts, as dates like 2026-11-30 sort; gaps first.

    privacy: a rank depends on all rows, but which of a person's two rows is the later one on these two alone.
    """
    places, texts = distinct(column)
    said = np.nan_to_num(numbers(pd.Series(texts, dtype=object))[0], nan=np.inf).tolist()
    # privacy: by Python's own texts: arrays of text lose what ends in NUL, and a tie would fall to others' rows
    order = sorted(range(len(texts)), key=lambda place: (said[place], texts[place]))
    ranks = np.empty(len(texts) + 1, np.int64)
    ranks[order], ranks[-1] = np.arange(len(texts)), -1
    return ranks[places]
