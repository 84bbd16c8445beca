"""A first schema for a person to complete: names from the header, kinds guessed from types and cells, nothing else.

privacy: a kind, a type, "no gaps" or "not to be learned" read from cells is a guess about private data. So a
draft leaves bounds and categories open, and each of its columns is unconfirmed until a person has seen that
the guess is right and said so; only from public data may it read them.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.data.column import ONE_BIN_A_VALUE, Column, Kind, nullable
from privae.data.schema import Schema, plain, toml_key, toml_value
from privae.data.values import canonical, distinct, means_missing, numbers
from privae.errors import DataError

QUANTILES = 20
_ENOUGH_TO_TELL = 20  # fewer rows than this say nothing about whether a column names people
_MOST_DECIMALS = 6
_ID = re.compile(r"(^|[_\s-])(id|uuid|guid)$", re.IGNORECASE)
_CODE = re.compile(r"[+-]?0[0-9]+")

Looks = Mapping[str, tuple[Sequence[str], bool]]
"""What columns look like, as `deidentify.detect` tells: by column, lines of a comment, and whether to leave it out."""


def draft(frame: pd.DataFrame, *, public: bool = False, looks: Looks | None = None) -> Schema:
    """A schema with the names and kinds of a table; with public=True also its bounds, bins and categories.

    looks: what was found out about some columns; those that are to be left out are.

    Guarantee: without `public`, no bound, category or count is read; kinds, gaps and what looks like an
        identifier (or that there are none) are guesses from the cells, and `Schema.check` refuses each
        column, the dropped ones too, until a person confirms it.
    Errors: DataError for a table without columns, or with two of one name.
    """
    names = [str(name) for name in frame.columns]
    if not names:
        raise DataError("the table has no columns")
    if len(set(names)) < len(names):
        raise DataError(f"the table has two columns named '{max(names, key=names.count)}'; rename one")
    out = {name for name, (_, left) in (looks or {}).items() if left}
    columns = tuple(
        _drafted(name, frame.iloc[:, place], public, name in out) for place, name in enumerate(names)
    )
    return Schema(columns=columns, origin="public" if public else "declared")


def draft_toml(schema: Schema, looks: Looks | None = None) -> str:
    """The TOML of a drafted schema, with comments that say what a person has to declare and why, and what was seen.

    Edges: `Schema.loads` reads it; `check` refuses it until every open line is filled in.
    """
    head = _PUBLIC_HEAD if schema.origin == "public" else _HEAD
    table = [
        "[table]",
        *(f"{key} = {toml_value(value)}" for key, value in _table(schema).items()),
        *_TABLE_HINTS,
    ]
    seen = {name: tuple(lines) for name, (lines, _) in (looks or {}).items()}
    columns = (line for column in schema.columns for line in _lines(column, seen.get(column.name, ())))
    return "\n".join([*head, "", *table, *columns]) + "\n"


_HEAD = (
    "# A draft. Kinds were guessed from types and cells; bounds and categories are yours to declare:",
    "# they must be public facts (a code book, the range of an instrument), never read off the private rows.",
    "# Whether a column has gaps, whole numbers, or is to be left out was guessed from the rows: see to each.",
)
_PUBLIC_HEAD = (
    "# Bounds, bins and categories were read from the table itself. That is right only for public data:",
    "# with private rows they would leak what single people hold.",
)
_TABLE_HINTS = (
    '# label = "..."          # the column that other columns are to predict, if there is one',
    "# rows = 10000           # about how many records, if that is no secret",
)


def _table(schema: Schema) -> dict[str, object]:
    return schema.model_dump(exclude_defaults=True, exclude={"columns"})


def _drafted(name: str, values: pd.Series, public: bool, out: bool) -> Column:
    column = _guessed(name, values, out)
    if not public:
        return column.model_copy(update={"confirmed": False})
    return _read(column, values) if column.learned else column


def _guessed(name: str, values: pd.Series, out: bool) -> Column:
    """Kind, type, gaps, and whether the column names people or holds nothing that a model can learn."""
    places, texts = distinct(values)
    told = [text for text in texts if not means_missing(text)]
    gaps = bool((places < 0).any()) or len(told) < len(texts)
    alone = len(values) > _ENOUGH_TO_TELL and len(texts) == len(values) and not gaps
    kind = _kind(values, told)
    drop = out or bool(_ID.search(name)) or not told or _is_time(values) or (alone and kind == "category")
    column = Column(
        name=name,
        kind="category" if drop else kind,
        missing=gaps and not drop,
        integer=True if kind == "numeric" and not drop and _whole(values) else None,
        action="drop" if drop else "keep",
    )
    return column if drop else column.model_copy(update={"dtype": _dtype(column, values)})


def _kind(values: pd.Series, told: list[str]) -> Kind:
    if pd.api.types.is_bool_dtype(values.dtype) or (told and set(told) <= {"True", "False"}):
        return "boolean"
    if isinstance(values.dtype, pd.CategoricalDtype):
        return "ordinal" if values.dtype.ordered else "category"
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_complex_dtype(values.dtype):
        return "numeric"
    # a code such as 01234 is no number: it would come back without its zero
    if told and not any(_CODE.fullmatch(text) for text in told):
        return "numeric" if np.isfinite(_said(told)).all() else "category"
    return "category"


def _said(texts: list[str]) -> NDArray[np.float64]:
    return numbers(pd.Series(texts, dtype=object))[0]


def _is_time(values: pd.Series) -> bool:
    return getattr(getattr(values.dtype, "numpy_dtype", values.dtype), "kind", "O") in "mM"


def _typed(values: pd.Series) -> bool:
    return values.dtype != object and not pd.api.types.is_string_dtype(values.dtype)


def _whole(values: pd.Series) -> bool:
    """Whether the type, or for text the way in which the numbers are written, says whole numbers."""
    if _typed(values):
        return pd.api.types.is_integer_dtype(values.dtype)
    return not any(sign in text for text in distinct(values)[1] if not means_missing(text) for sign in ".eE")


def _dtype(column: Column, values: pd.Series) -> str | None:
    """The type in which the values are to come back, where it is not the usual one of the kind."""
    if not _typed(values):
        named = column.kind == "category" and values.dtype not in (object, column.returned)
        return str(values.dtype) if named else None
    return None if nullable(values.dtype) == nullable(column.returned) else str(values.dtype)


def _read(column: Column, values: pd.Series) -> Column:
    """A column with the bounds, bins and categories that public data show."""
    if column.kind == "boolean":
        return column
    if column.kind == "numeric":
        return _read_numbers(column, values)
    texts = sorted(text for text in distinct(values)[1] if not means_missing(text))
    ordered = [str(canonical(value)) for value in getattr(values.dtype, "categories", ())]
    return column.model_copy(update={"categories": tuple(ordered if column.kind == "ordinal" else texts)})


def _read_numbers(column: Column, values: pd.Series) -> Column:
    found = numbers(values)[0]
    found = found[np.isfinite(found)]
    whole = bool((found == np.round(found)).all())
    decimals = None if whole else _decimals(found)
    open_ = column.model_copy(update={"integer": whole or None, "decimals": decimals, "dtype": None})
    return open_.model_copy(update={**_range(found, open_.step), "dtype": _dtype(open_, values)})


def _decimals(found: NDArray[np.float64]) -> int | None:
    fits = (d for d in range(1, _MOST_DECIMALS + 1) if (np.round(found, d) == found).all())
    return next(fits, None)


def _range(found: NDArray[np.float64], step: float | None) -> dict[str, object]:
    """Bounds for few steps, else edges at quantiles; a value that many records hold has a bin of its own."""
    low, high = float(found.min()), float(found.max())
    if step is not None and low < high and (high - low) / step < ONE_BIN_A_VALUE - 0.5:
        return {"bounds": (low, high)}
    values, counts = np.unique(found, return_counts=True)
    spikes = values[counts > len(found) / QUANTILES]
    rest = found[~np.isin(found, spikes)]
    ranks = np.linspace(0, 1, max(1, QUANTILES - len(spikes)), endpoint=False)
    starts = np.quantile(rest, ranks, method="inverted_cdf") if len(rest) else rest
    starts = np.concatenate([starts, spikes])
    ends = np.append(spikes, high)
    if step is not None:
        edges = np.concatenate([starts - step / 2, ends + step / 2]).round(_MOST_DECIMALS + 1)
    else:
        after = np.nextafter(ends, np.inf)
        edges = np.concatenate([starts, after if high in spikes else np.append(after[:-1], high)])
    return {"edges": tuple(np.unique(edges).tolist())}


def _lines(column: Column, seen: Sequence[str]) -> list[str]:
    facts = column.model_dump(exclude_defaults=True, exclude={"name", "confirmed"})
    lines = ["", f"[columns.{toml_key(column.name)}]", *(f"# {line}" for line in seen)]
    lines += [f"{key} = {toml_value(plain(value))}{_NOTES.get(key, '')}" for key, value in facts.items()]
    if column.confirmed:
        return lines
    return [*lines, *(_OPEN.get(column.kind, ()) if column.learned else ()), _UNCONFIRMED]


_NOTES = {
    "action": '  # an identifier, a time, or empty: not learned; else say "keep" and declare the rest',
    "missing": "  # gaps are a state of their own; delete the line if there can be none",
}
_OPEN = {
    "numeric": (
        "# bounds = [0, 100]      # declare: the lowest and the highest possible value",
        "# unit = 1               # the size of a meaningful difference",
        "# bins = 20              # equal widths, or edges = [...]",
    ),
    "category": (
        '# categories = ["a"]     # declare the code book, or "bought": that spends a little of the budget',
        '# other = "other"        # where every other value goes',
    ),
    "ordinal": ('# categories = ["a"]     # declare the code book, from the lowest to the highest',),
}
_UNCONFIRMED = "confirmed = false        # guessed from the cells: delete this line if it is right"
