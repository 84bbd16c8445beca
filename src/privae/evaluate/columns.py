"""Columns for a reader: bars of real beside synthetic shares, with names for the cells; metadata for SDMetrics.

privacy: shares of real rows without noise: for the data holder only. The metadata come from the schema alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privae.data.codec import Codec
from privae.data.column import Column
from privae.data.schema import Schema
from privae.evaluate.fidelity import Floats, column_variation, shares
from privae.evaluate.learners import Codes

MOST_RANGES = 24
"""A numeric column with more bins is shown in 20 ranges."""
MOST_TEXTS = 12
"""Of a column with more categories, the commonest are shown, and the rest together."""

Group = tuple[str, NDArray[np.int64]]
"""A name, and the cells [1 + c] that it stands for; cell 0 is what the schema has no cell for."""

_TYPES = {"numeric": "numerical", "category": "categorical", "ordinal": "categorical", "boolean": "boolean"}
_RANGES = 20
_OUTSIDE, _MISSING, _REST = "(outside the schema)", "(missing)", "(all other)"


def beside(real: Codes, synthetic: Codes, baseline: Floats, codec: Codec) -> list[dict[str, Any]]:
    """Every column as bars, {"name", "kind", "labels", "real", "synthetic", "tv", "baseline"}; see `bars`.

    Shapes: codes [n, m], [k, m], baseline [m].
    """
    distances = column_variation(real, synthetic, codec.sizes)
    result = []
    for place, column in enumerate(codec.schema.kept):
        sets = [shares(codes[:, place], column.size) for codes in (real, synthetic)]
        figures = {"tv": round(float(distances[place]), 4), "baseline": round(float(baseline[place]), 4)}
        result.append(
            {"name": column.name, "kind": column.kind, **bars(_groups(column, sets), sets), **figures}
        )
    return result


def label_beside(names: Sequence[str], real: Codes, synthetic: Codes, other: Codes) -> dict[str, Any]:
    """The labels of images as one column, like `beside`; `other` is the other half of the real ones.

    Shapes: places among the c names, -1 for a gap: [n], [n], [n].
    """
    sets = [shares(codes, len(names)) for codes in (real, synthetic, other)]
    tv, baseline = (round(float(0.5 * np.abs(sets[0] - part).sum()), 4) for part in sets[1:])
    shown = bars(by_frequency(names, sets[:2]), sets[:2])
    return {"name": "label", "kind": "category", **shown, "tv": tv, "baseline": baseline}


def bars(groups: Sequence[Group], sets: Sequence[Floats]) -> dict[str, list[Any]]:
    """{"labels": names, "real": shares, "synthetic": shares} of groups of cells, in order; the shares add to 1.

    Shapes: sets two of [1 + c].
    Edges: what the schema has no cell for is shown only where it occurs.
    """
    chosen = [(name, cells) for name, cells in groups if cells[0] > 0 or max(part[0] for part in sets) > 0]
    real, synthetic = ([round(float(part[cells].sum()), 6) for _, cells in chosen] for part in sets)
    return {"labels": [name for name, _ in chosen], "real": real, "synthetic": synthetic}


def by_frequency(names: Sequence[str], sets: Sequence[Floats]) -> list[Group]:
    """A group for each of c cells, in their order; of more than twelve the commonest eleven, and the rest as one."""
    count = len(names)
    order = 1 + np.argsort(-np.maximum(sets[0], sets[1])[1:], kind="stable")
    top = count if count <= MOST_TEXTS else MOST_TEXTS - 1
    groups: list[Group] = [(names[cell - 1], np.array([cell])) for cell in np.sort(order[:top]).tolist()]
    rest: list[Group] = [(_REST, np.sort(order[top:]))] if top < count else []
    return [*groups, *rest, (_OUTSIDE, np.array([0]))]


def sdmetrics_metadata(schema: Schema) -> dict[str, Any]:
    """Metadata of one table, as SDMetrics reads it: {"columns": {name: {"sdtype": ...}}}.

    Only the columns of the synthetic table; a person's column is not one of them. Bounds and categories are left
    out, although SDMetrics would read them (`range_min`, `range_max`, `range_values`): they tell exact ranges.
    Reports over several tables, and those of SDMetrics 0.32 on, want {"tables": {"table": ...}} around it.
    Source: docs.sdv.dev/sdmetrics, "Single Table Metadata"; tried with SDMetrics 0.32.0.
    """
    return {"columns": {column.name: {"sdtype": _TYPES[column.kind]} for column in schema.kept}}


def _groups(column: Column, sets: Sequence[Floats]) -> list[Group]:
    missing = [_MISSING] if column.missing else []
    if column.kind != "numeric":
        return by_frequency([*column.texts, *missing], sets)
    count = len(column.numeric_bins)
    parts = np.array_split(np.arange(count), _RANGES if count > MOST_RANGES else count)
    ranges = [(_range(column, part), part + 1) for part in parts]
    return [*ranges, *((name, np.array([count + 1])) for name in missing), (_OUTSIDE, np.array([0]))]


def _range(column: Column, cells: NDArray[np.int64]) -> str:
    """The numbers that neighboring bins hold: "17 to 20", or the only one."""
    bins = column.numeric_bins
    low, high = bins.limits if bins.step is not None else (bins.edges[:-1], bins.edges[1:])
    first, last = (_number(float(limit) * (bins.step or 1.0)) for limit in (low[cells[0]], high[cells[-1]]))
    return first if first == last else f"{first} to {last}"


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
