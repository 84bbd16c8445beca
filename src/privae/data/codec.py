"""From records to codes and back, by the public Schema alone.

The code of a value is the place of its cell (bin, category, other, missing) in its column; -1 says that the
schema has no cell for it. Every value whatsoever has a code: one record can never make a fit fail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from privae.actions.generalize import adjusted, generalized
from privae.actions.rule import SUPPRESSED
from privae.data.column import Column, nullable, palette
from privae.data.schema import Schema
from privae.data.values import category_codes, distinct, means_missing, numbers
from privae.errors import DataError, UsageError

_BOOLEAN_WORDS = {"yes": "True", "y": "True", "t": "True", "no": "False", "n": "False", "f": "False"}


@dataclass(frozen=True)
class Codec:
    """Codes of the m kept columns of a schema, each after its action; see `acted`.

    Guarantee: the code of a record is a function of the schema and of this record alone.
    Errors: UsageError for a schema that does not pass `Schema.check`, or with categories still to be bought.
    """

    schema: Schema

    def __post_init__(self) -> None:
        self.schema.check()
        if self.schema.bought:
            raise UsageError(f"the categories of column '{self.schema.bought[0]}' are still to be bought")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the kept columns, [m]."""
        return tuple(column.name for column in self.schema.kept)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Cells of each column, [m]: bins or categories, then other if declared, then missing if declared."""
        return np.array([column.size for column in self.schema.kept], dtype=np.int64)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where the cells of each column begin among all D cells, and D itself, [m + 1]."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @property
    def label(self) -> int | None:
        """Place of the label among the kept columns."""
        return None if self.schema.label is None else self.names.index(self.schema.label)

    def encode(self, frame: pd.DataFrame, strict: bool = False) -> NDArray[np.int32]:
        """The codes of n records.

        Shapes: -> int32 [n, m].
        Edges: numbers are clipped to the bounds; an unknown category is `other`, a gap or a text in a numeric
            column is missing, where the schema declares these, else -1; an absent label column is -1; columns
            that the schema does not keep are not read.
        Errors: DataError for another absent column or a name used twice; with strict, also for any value that
            the schema does not declare, naming the column and nothing else.
        """
        header = [str(name) for name in frame.columns]
        result = np.full((len(frame), len(self.names)), -1, dtype=np.int32)
        for place, column in enumerate(self.schema.kept):
            if header.count(column.name) > 1:
                raise DataError(f"the table has two columns named '{column.name}'; rename one")
            if column.name in header:
                values = acted(column, frame.iloc[:, header.index(column.name)])
                codes, declared = _encoded(column, values)
                if strict and not declared.all():
                    raise DataError(
                        f"column '{column.name}' holds values outside the schema; extend the schema"
                    )
                result[:, place] = codes
            elif column.name != self.schema.label:
                raise DataError(f"the table has no column '{column.name}', which the schema declares")
        return result

    def decode(self, codes: NDArray[np.integer], rng: np.random.Generator) -> pd.DataFrame:
        """Records for codes: kept columns in the order and the dtypes of the schema.

        Shapes: codes [n, m] -> n records.
        Guarantee: `encode(decode(codes)) == codes` for every code that is not -1.
        Edges: a number is uniform among those of its bin; missing and -1 are gaps.
        Errors: UsageError for codes of another shape or outside the cells.
        """
        if codes.ndim != 2 or codes.shape[1] != len(self.names):
            raise UsageError(f"codes must have the shape [n, {len(self.names)}]")
        if (codes < -1).any() or (codes >= self.sizes).any():
            raise UsageError("a code is outside the cells of its column")
        columns = {
            c.name: _decoded(c, codes[:, i].astype(np.int64), rng) for i, c in enumerate(self.schema.kept)
        }
        return pd.DataFrame(columns, index=pd.RangeIndex(len(codes)), columns=pd.Index(self.names))

    def onehot(self, codes: NDArray[np.integer]) -> torch.Tensor:
        """One 1 a column, at the cell of its code; nothing for -1.

        Shapes: codes [n, m] -> float32 [n, D].
        """
        result = torch.zeros(len(codes), int(self.offsets[-1]))
        rows, columns = np.nonzero(codes >= 0)
        result[torch.from_numpy(rows), torch.from_numpy(self.offsets[columns] + codes[rows, columns])] = 1.0
        return result


def acted(column: Column, values: pd.Series) -> pd.Series:
    """The values of a column after its action, where that generalizes, rounds or codes them; else as they are.

    Shapes: [n] -> [n], with the same index.
    Guarantee: each result is a function of the schema and of its own value, and a result gives itself. So two tables
        that differ in one record differ in one record afterwards, and every sensitivity is what it is without.
    Edges: a gap stays one, and so does `other`; a value that the rule cannot read becomes "*", of which the codec makes
        what it makes of any value outside the schema.
    """
    if column.rule is None or not column.learned:
        return values
    if column.action == "generalize":
        places, texts = distinct(values)
        done: list[Any] = [
            text if text == column.other or (group == SUPPRESSED and means_missing(text)) else group
            for text, group in zip(texts, generalized(column.rule, texts), strict=True)
        ]
        return pd.Series([*done, None], dtype=object).iloc[places].set_axis(values.index)
    found, gaps = numbers(values)
    changed = pd.Series(adjusted(column.rule, found), index=values.index)
    unread = np.isnan(found) & ~gaps
    return changed.astype(object).mask(unread, SUPPRESSED) if unread.any() else changed


def acted_table(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """A table with its learned columns after their actions; others, and those that are absent, are left alone."""
    names = [str(name) for name in frame.columns]
    done = {c.name: acted(c, frame[c.name]) for c in schema.kept if c.rule and names.count(c.name) == 1}
    return frame.assign(**done) if done else frame


def text_codes(column: pd.Series) -> tuple[NDArray[np.int64], list[str]]:
    """The texts that may be bought as categories, and for each record the place of its text; -1 for a gap.

    Shapes: column [n] -> [n] and the distinct texts.
    Guarantee: none; the texts are private until a mechanism has released them. They are sorted.
    """
    places, texts = distinct(column)
    order = np.argsort(np.array(texts, dtype=object)) if texts else np.empty(0, dtype=np.int64)
    kept = [place for place in order.tolist() if not means_missing(texts[place])]
    rank = np.full(len(texts) + 1, -1, dtype=np.int64)
    rank[kept] = np.arange(len(kept))
    return rank[places], [texts[place] for place in kept]


def _encoded(column: Column, values: pd.Series) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Codes [n] of a column, and whether the schema declares each value [n]."""
    missing = column.size - 1 if column.missing else -1
    if column.kind == "numeric":
        found, gaps = numbers(values)
        bins = column.numeric_bins
        codes = bins.place(found)
        declared = np.where(gaps, column.missing, (found >= bins.edges[0]) & (found <= bins.edges[-1]))
        return np.where(codes < 0, missing, codes), declared
    places, texts = distinct(values)
    table, declared = _text_table(column, texts, missing)
    return np.append(table, missing)[places], np.append(declared, column.missing)[places]


def _text_table(
    column: Column, texts: Sequence[str], missing: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    known = column.texts
    if column.kind == "boolean":
        texts = [_BOOLEAN_WORDS.get(text.casefold(), text) for text in texts]
    codes = category_codes(texts, known)
    exact = np.isin(np.array(texts, dtype=object), np.array(known, dtype=object))
    gaps = ~exact & np.array([means_missing(text) for text in texts], dtype=bool)
    other = known.index(column.other) if column.other is not None else -1
    declared = np.where(gaps, column.missing, codes >= 0)
    return np.where(gaps, missing, np.where(codes < 0, other, codes)), declared


def _decoded(column: Column, codes: NDArray[np.int64], rng: np.random.Generator) -> Any:  # noqa: ANN401  a pandas array of whichever kind
    shown = column.size - int(column.missing)
    gaps = (codes < 0) | (codes >= shown)
    dtype: Any = nullable(column.returned) if gaps.any() else column.returned
    if column.kind != "numeric":
        known = pd.Series(palette(column), dtype=dtype).array
        return known.take(np.where(gaps, -1, codes), allow_fill=True)
    drawn = column.numeric_bins.draw(np.where(gaps, 0, codes), rng)
    result = pd.array(drawn, dtype=dtype)
    if gaps.any():
        result[gaps] = result.dtype.na_value
    return result
