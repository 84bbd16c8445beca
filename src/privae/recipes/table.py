"""Tables: one release of all two-way tables, a mixture fitted to them, and a VAE warm-started on its samples.

A record adds one 1 to each of the M = m (m - 1) / 2 tables of its class (m columns besides the label), so the
released vector moves by exactly sqrt(M) when a record comes or goes (at most that if a value is left out), and by
sqrt(2 M) when one is replaced: guarantees.md rules 6 and 10. Counts are integers: sums are exact in any order.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from privae.data.codec import Codec, acted_table, text_codes
from privae.data.schema import Schema
from privae.errors import DataError, ResourceError
from privae.models.priors import ProductMixture
from privae.plan import Phase, Plan
from privae.recipes.phases import CATEGORIES, Array, Budget, Draft, Released, Run, statistics
from privae.sums.mixture import MixtureFit, MixtureSettings, fit_mixture
from privae.sums.tree import clean_margins, column_totals

TABLES = "pair tables"
BOUGHT = "bought"  # the setting that names the columns whose categories are bought
CATEGORY_SHARE = 0.05  # of mu^2, where categories are bought
_MOST_CLASSES = 10
_FEWEST_ROWS = 500  # declared rows a class, from which tables are split by class
_MOST_TABLE_BYTES = 4e9
_ROWS = 8192  # rows of one-hot formed at once
_ASSUMED_CATEGORIES = 20  # of a bought column, for estimates only
_TOLERABLE = 0.05  # total variation of a one-way margin that counts as "works"
_CERTAIN = 5.0  # standard deviations that set a released count apart from none


@dataclass(frozen=True)
class Layout:
    """Which columns are tabulated, and which one splits the tables: public, from the schema and declared rows.

    Shapes: columns [m] and sizes [m] of the tabulated columns; label: the splitting column, or None.
    """

    columns: NDArray[np.int64]
    sizes: NDArray[np.int64]
    label: int | None
    classes: int

    @property
    def pairs(self) -> int:
        """Number of two-way tables that a record contributes to."""
        return len(self.columns) * (len(self.columns) - 1) // 2


def draft(schema: Schema, budget: Budget) -> Draft:
    """The phases of a table's fit, before their noise is known. Errors: ResourceError for too many cells."""
    sizes = np.array([_expected_size(schema, name) for name in (c.name for c in schema.kept)], dtype=np.int64)
    layout = layout_of(schema, sizes, budget.rows)
    cells = int(layout.sizes.sum())
    table_bytes = 8.0 * layout.classes * cells**2
    if table_bytes > _MOST_TABLE_BYTES:
        raise ResourceError("the schema has too many cells for pair tables; declare fewer bins or categories")
    size = layout.classes * cells**2 // 2
    rows = budget.rows or 100_000
    drafted = Draft(
        recipe="table",
        phases=(statistics(TABLES, 1.0, math.sqrt(layout.pairs), math.sqrt(2), size=size),),
        settings={"split_by_label": layout.label is not None},
        rows_needed=lambda noisy: _rows_needed(layout, noisy[-1]),
        seconds=8.0 + 3e-9 * rows * cells * layout.classes + 2e-5 * cells**2 * layout.classes,
        megabytes=400 + 6 * table_bytes / 1e6,
    )
    return with_bought(drafted, schema)


def with_bought(drafted: Draft, schema: Schema) -> Draft:
    """The draft, after a phase of 5 % of mu^2 that buys the categories which the schema leaves open, if it does.

    The settings say which columns these are, for whoever has the fitted schema alone; see `as_declared`.
    """
    if not schema.bought:
        return drafted
    return replace(
        buying(drafted, len(schema.bought)), settings=drafted.settings | {BOUGHT: json.dumps(schema.bought)}
    )


def buying(drafted: Draft, columns: int) -> Draft:
    """The draft, after a phase that buys the texts of so many columns: a record fills one cell of each."""
    bought = statistics(CATEGORIES, CATEGORY_SHARE, math.sqrt(columns), math.sqrt(2), size=columns)
    rest = [p.model_copy(update={"share": p.share * (1 - CATEGORY_SHARE)}) for p in drafted.phases]
    return replace(drafted, phases=(bought, *rest))


def assumed(schema: Schema) -> Schema:
    """The schema with made-up categories in the place of those that are to be bought: for estimates only."""
    for name in schema.bought:
        schema = schema.with_categories(name, [str(place) for place in range(_ASSUMED_CATEGORIES)])
    return schema


def as_declared(schema: Schema, plan: Plan) -> Schema:
    """A fitted schema as it was before its categories were bought."""
    names = json.loads(str(plan.settings.get(BOUGHT) or "[]"))
    before = {"categories": "bought"}
    columns = (c.model_copy(update=before) if c.name in names else c for c in schema.columns)
    return schema.model_copy(update={"columns": tuple(columns)})


def layout_of(schema: Schema, sizes: NDArray[np.int64], rows: int | None, *, split: bool = True) -> Layout:
    """Split by the label if it is declared, has at most 10 classes, and about 500 declared rows a class."""
    names = [column.name for column in schema.kept]
    label = names.index(schema.label) if schema.label is not None else None
    if label is not None:
        classes = int(sizes[label])
        crowded = rows is None or rows >= _FEWEST_ROWS * classes
        fits = classes <= _MOST_CLASSES and crowded and schema.label not in schema.bought and len(names) > 2
        label = label if fits and split else None
    columns = np.array([i for i in range(len(names)) if i != label], dtype=np.int64)
    return Layout(columns, sizes[columns], label, int(sizes[label]) if label is not None else 1)


def buy_categories(run: Run, frame: pd.DataFrame, schema: Schema) -> Schema:
    """The schema with its undeclared categories bought by one stability histogram over all columns.

    A record fills at most l cells, one a bought column. A text is released if its noisy count passes
    1 + sigma Phi^-1((1 - delta_t)^(1/l)): a text that one record alone holds, in any of the l columns, passes with
    probability at most delta_t, which is part of the printed delta. The count has rounded noise, so half a step is
    added. Source: guarantees.md rule 9.
    """
    names, frame = schema.bought, acted_table(frame, schema)
    for name, texts in zip(names, buy_texts(run, [frame[name] for name in names]), strict=True):
        schema = schema.with_categories(name, texts)
    return schema


def buy_texts(run: Run, columns: Sequence["pd.Series[Any]"]) -> list[list[str]]:
    """The texts of every column that pass the threshold of one noisy histogram; see `buy_categories`."""
    coded = [text_codes(column) for column in columns]
    counts = [np.bincount(places[places >= 0], minlength=len(texts)) for places, texts in coded]
    ends = np.cumsum([len(texts) for _, texts in coded])

    def passing(noisy: Released) -> Released:
        passed = noisy[0] >= threshold(run.deviation(CATEGORIES), len(columns), run.plan.delta_threshold)
        kept = np.split(passed, ends[:-1])
        texts = [[texts[i] for i in np.flatnonzero(k)] for (_, texts), k in zip(coded, kept, strict=True)]
        return [np.frombuffer(json.dumps(texts).encode(), np.uint8)]

    run.watch.phase(CATEGORIES, 1)
    # privacy: how many different texts there are is not released, so nothing but those that pass is kept
    released = run.release(CATEGORIES, [(np.concatenate(counts).astype(np.int64), 1.0)], passing)[0]
    run.watch.advance(1)
    bought: list[list[str]] = json.loads(released.tobytes())
    return bought


def threshold(deviation: float, cells: int, delta: float, most: int = 1) -> float:
    """The noisy count from which a category is released; 1 without noise.

    Shapes: cells = (column, category) cells that one record may fill over all bought columns. most: what one record
    adds to a cell at most.
    """
    if deviation == 0:
        return 1.0
    return math.ceil(most + 0.5 + deviation * float(norm.isf(-math.expm1(math.log1p(-delta) / cells))))


def pair_tables(codes: NDArray[np.int32], layout: Layout) -> NDArray[np.int64]:
    """All two-way tables a class, as one symmetric matrix of cells with zero diagonal blocks.

    Shapes: codes [n, all columns] -> [classes, cells, cells]. A code of -1 is left out; so is a row whose label
    is -1. Exact: float32 products of at most 8,192 zeros and ones are integers below 2^24, and numpy's are not
    rounded to short factors, as torch's may be.
    """
    starts = np.concatenate([[0], np.cumsum(layout.sizes)])[:-1]
    cells = int(layout.sizes.sum())
    total = np.zeros((layout.classes, cells, cells), np.int64)
    for begin in range(0, len(codes), _ROWS):
        rows = codes[begin : begin + _ROWS]
        wide = np.zeros((len(rows), cells + 1), np.float32)
        cell = np.where(rows[:, layout.columns] >= 0, rows[:, layout.columns] + starts, cells)
        np.put_along_axis(wide, cell, 1.0, axis=1)
        wide = wide[:, :cells]
        for c in range(layout.classes):
            mine = wide if layout.label is None else wide[rows[:, layout.label] == c]
            total[c] += (mine.T @ mine).astype(np.int64)
    return total * _off_blocks(layout)


def released_tables(run: Run, codes: NDArray[np.int32], layout: Layout) -> Array:
    """The noisy pair tables [classes, cells, cells], each number released once and mirrored."""
    totals = pair_tables(codes, layout)[:, _upper(layout)]
    return mirrored(run.release(TABLES, [(totals, 1.0)])[0], layout)


def mirrored(released: Array, layout: Layout) -> Array:
    """Symmetric tables [classes, cells, cells] from the numbers released, [classes, numbers]."""
    upper = _upper(layout)
    tables = np.zeros((layout.classes, *upper.shape))
    tables[:, upper] = released
    return tables + tables.transpose(0, 2, 1)


@dataclass(frozen=True)
class Counted:
    """Released pair tables [classes, cells, cells], their layout, and the standard deviation of their noise."""

    tables: Array
    layout: Layout
    deviation: float


def counted(run: Run, codes: NDArray[np.int32], codec: Codec) -> Counted:
    """The whole budget in one release; the rest is post-processing.

    Errors: DataError when the *released* counts say that there is next to nothing to learn from.
    """
    split = bool(run.plan.settings.get("split_by_label"))
    layout = layout_of(codec.schema, codec.sizes, run.plan.rows, split=split)
    run.watch.phase(TABLES, 1)
    tables = released_tables(run, codes, layout)
    run.watch.advance(1)
    deviation = run.deviation(TABLES)
    _check_released(tables, layout, deviation, [codec.names[i] for i in layout.columns])
    return Counted(tables, layout, deviation)


def mixture(run: Run, released: Counted) -> MixtureFit:
    """The mixture of product distributions that released tables were drawn from, as nearly as their noise tells."""
    sizes = released.layout.sizes
    margins = clean_margins(released.tables, sizes)
    return fit_mixture(released.tables, margins, sizes, released.deviation, MixtureSettings(), run.watch)


def with_label(mixture: ProductMixture, layout: Layout, count: int, seed: int) -> NDArray[np.int32]:
    """Samples of the mixture in the codec's column order, the splitting label put back: [count, all columns]."""
    codes, classes = mixture.sample(count, torch.Generator().manual_seed(seed))
    result = np.empty((count, len(layout.columns) + (layout.label is not None)), np.int32)
    result[:, layout.columns] = codes.numpy()
    if layout.label is not None:
        result[:, layout.label] = classes.numpy()
    return result


def _check_released(tables: Array, layout: Layout, deviation: float, names: Sequence[str]) -> None:
    """Refuse what the released counts show to be empty (post-processing; guarantees.md rules 15 and 20)."""
    inverse = 1.0 / layout.sizes
    spread = deviation / math.sqrt(max(float(inverse.sum() ** 2 - (inverse**2).sum()) / 2, 1e-300))
    counts, columns = column_totals(tables, layout.sizes)
    if counts.sum() <= max(_CERTAIN * spread * math.sqrt(layout.classes), 1.0):
        raise DataError(
            "the released row count cannot be told from none at this epsilon: too few records, or hardly any "
            "value fits the schema; give more rows, a larger epsilon, or mend the schema"
        )
    share = columns.sum(0) / counts.sum()
    noise = _CERTAIN * deviation * math.sqrt(layout.classes * float(layout.sizes.max())) / counts.sum()
    for name, part in zip(names, share, strict=True):
        if part < 0.1 and noise < 0.5:
            raise DataError(
                f"column '{name}': the released counts hold hardly any value that the schema declares; "
                "declare missing = true, mend its bounds or categories, or drop it"
            )


def _upper(layout: Layout) -> NDArray[np.bool_]:
    return np.triu(_off_blocks(layout)).astype(bool)


def _off_blocks(layout: Layout) -> NDArray[np.int64]:
    owner = np.repeat(np.arange(len(layout.sizes)), layout.sizes)
    different: NDArray[np.bool_] = owner[:, None] != owner[None]
    return different.astype(np.int64)


def _expected_size(schema: Schema, name: str) -> int:
    column = next(c for c in schema.kept if c.name == name)
    return _ASSUMED_CATEGORIES if column.categories == "bought" else column.size


def _rows_needed(layout: Layout, phase: Phase) -> float:
    """Rows from which the noise moves an average one-way margin by about 5 % (total variation)."""
    deviation = phase.mechanism().std
    mean_size = float(layout.sizes.mean())
    margin = deviation * math.sqrt(mean_size / max(len(layout.sizes) - 1, 1))
    return 0.4 * mean_size * margin * layout.classes / _TOLERABLE
