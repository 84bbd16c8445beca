"""Anomaly detection in tables: released quantiles, then released moments of standardized values; scores for free.

numbers -> [released tree of counts] -> median, spread, tails -> standardize, soft-limit, clip in integers ->
[released moments] -> mean, covariance. Category columns are counted beside the trees: they take part in the tail
score, by the shares of their cells, and not in distances. A gap counts as the median there, and by the share of gaps
in the tail score. Every sum is exact in integers (guarantees.md rules 1, 7, 8 and 10).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from privae.data.codec import Codec
from privae.data.column import Column, nullable
from privae.data.schema import Schema
from privae.data.values import numbers
from privae.errors import DataError, ResourceError, UsageError
from privae.models.scores import SCORES, Basis, Cells, DetectionModel, Quantiles, Standard
from privae.plan import Phase
from privae.recipes.fitted import FittedTable, Floats
from privae.recipes.image import unpacked
from privae.recipes.phases import Array, Budget, Draft, Run, statistics
from privae.sums import moments, quantiles
from privae.sums.moments import Integers
from privae.sums.quantiles import Grid
from privae.sums.standard import agreed_standard, clipped_codes, shrunk, standard_of

QUANTILES, MOMENTS = "bounds", "moments"
RECIPE = "detection"
QUANTILE_SHARE = 0.5  # of mu^2
FULL, SOME = 20.0, 5.0  # n mu / d from which covariances, and from which more than public units, are trusted
_MOST_CELLS = 10**8
_UNITS = 256  # of a width, where a column declares no unit
_CERTAIN = 5.0
_MOST_ROWS = 2**22  # times BOUND^2 = 2^40, still below 2^62
_FEWEST_PER_NOISE = 20.0  # rows per standard deviation of a count, from which quantiles are trusted
_NOTES: dict[Basis, str] = {
    "covariance": "scores use the covariance of the columns",
    "diagonal": "few rows for this epsilon (n mu / d below 20): distances leave out how columns move together",
    "public": "too few rows for this epsilon (n mu / d below 5): scores are distances in the schema's bounds alone, "
    "as before any fit",
}


@dataclass(frozen=True)
class Layout:
    """Which kept columns are numbers and which are categories: public. grid: of the numbers. sizes: cells of the rest.

    The last cell of a category column holds what the schema has no cell for.
    """

    numeric: tuple[Column, ...]
    others: NDArray[np.int64]
    grid: Grid
    sizes: Integers

    @property
    def sensitivity(self) -> float:
        """L2 norm of what a record counts: once a level of each tree, and once a category column."""
        return math.sqrt(self.grid.squared + len(self.sizes))

    @property
    def size(self) -> int:
        """How many counts are released."""
        return self.grid.size + int(self.sizes.sum())


def layout_of(schema: Schema) -> Layout:
    """The layout of a schema's kept columns. Errors: UsageError where none is numeric, or one is bought or a label."""
    if schema.label is not None:
        raise UsageError(
            f"the label '{schema.label}' takes no part in detection; remove `label` and give that column "
            'action = "drop"'
        )
    if schema.bought:
        raise UsageError(
            f"detection needs the categories of '{schema.bought[0]}' declared, or its column dropped"
        )
    kept = schema.kept
    numeric = tuple(column for column in kept if column.kind == "numeric")
    if not numeric:
        raise UsageError('detection needs a numeric column; recipe = "auto" scores categories alone')
    lows, highs = zip(*map(_bounds, numeric), strict=True)
    units = [column.step or (b - a) / _UNITS for column, a, b in zip(numeric, lows, highs, strict=True)]
    others = np.array([i for i, column in enumerate(kept) if column.kind != "numeric"], dtype=np.int64)
    sizes = np.array([kept[i].size + 1 for i in others], dtype=np.int64)
    return Layout(numeric, others, quantiles.grid(lows, highs, units), sizes)


def draft(schema: Schema, budget: Budget) -> Draft:
    """The phases of a fit, before their noise is known. Errors: ResourceError for too many cells."""
    layout = layout_of(schema)
    size = len(layout.grid)
    if layout.size + size**2 > _MOST_CELLS:
        raise ResourceError(
            "the schema has too many cells to count; declare larger units or keep fewer columns"
        )
    rows = budget.rows or 10_000
    shares = QUANTILE_SHARE, 1.0 - QUANTILE_SHARE
    left_out = "category columns take part in the tail score, not in distances between records"
    return Draft(
        recipe="detection",
        phases=(
            statistics(QUANTILES, shares[0], layout.sensitivity, math.sqrt(2), size=layout.size),
            statistics(
                MOMENTS,
                shares[1],
                moments.SENSITIVITY,
                moments.REPLACE_RATIO,
                size=len(moments.weights(size)[0]),
            ),
        ),
        settings={},
        rows_needed=lambda noisy: _rows_needed(noisy, size),
        seconds=2.0 + 7e-8 * rows * layout.grid.squared + 1e-9 * rows * size**2,
        megabytes=500 + 6e-5 * rows * size + 5e-5 * layout.size,
        notes=(left_out,) if len(layout.sizes) else (),
    )


def _rows_needed(phases: Sequence[Phase], size: int) -> float:
    """Rows from which covariances and quantiles are trusted."""
    return max(FULL * size / _mu(phases), _FEWEST_PER_NOISE * phases[0].mechanism().std)


def _mu(phases: Sequence[Phase]) -> float:
    """The budget as a Gaussian mechanism; infinite without noise."""
    if any(phase.noise_multiplier == 0 for phase in phases):
        return math.inf
    return math.sqrt(math.fsum(phase.noise_multiplier**-2 for phase in phases))


@dataclass(frozen=True)
class Counted:
    """What the released counts say: distribution functions, shares of cells, records, and noise as a share of them."""

    quantiles: Quantiles
    cells: Cells
    records: float
    noise: float


def counted(run: Run, values: Array, codes: Integers, layout: Layout) -> Counted:
    """The counts of every tree and category column, released at once, and what is read from them.

    Shapes: values [n, d], codes [n, c], -1 where there is no cell.
    Errors: DataError when the *released* counts say that there is next to nothing to learn from.
    """
    run.watch.phase(QUANTILES, 1)
    places = layout.grid.places(values)
    total = np.concatenate([quantiles.counts(places, layout.grid), cell_counts(codes, layout.sizes)])
    released = run.release(QUANTILES, [(total, 1.0)])[0]
    run.watch.advance(1)
    deviation = run.deviation(QUANTILES)
    trees, cells = np.split(released, [layout.grid.size])
    parts = np.split(cells, np.cumsum(layout.sizes)[:-1]) if len(layout.sizes) else []
    per_column = np.append(quantiles.totals(trees, layout.grid), [part.sum() for part in parts])
    records = quantiles.pooled(per_column, layout.grid, layout.sizes)
    if records <= max(_CERTAIN * quantiles.deviation_of_total(layout.grid, deviation, layout.sizes), 1.0):
        raise DataError(
            "the released row count cannot be told from none at this epsilon: too few records; give more rows or a "
            "larger epsilon"
        )
    found = quantiles.quantiles(trees, layout.grid, records, deviation)
    _check_told(found, layout, deviation / records)
    return Counted(
        found,
        _shares(cells, layout.sizes, records, quantiles.CERTAIN * deviation),
        records,
        deviation / records,
    )


def cell_counts(codes: Integers, sizes: Integers) -> Integers:
    """How many records each cell of the category columns has: [n, c] -> [sum of sizes]; -1 is the last cell."""
    starts = np.cumsum(sizes) - sizes
    cells = np.where(codes < 0, sizes - 1, codes) + starts
    return np.bincount(cells.ravel(), minlength=int(sizes.sum())).astype(np.int64)


def _shares(cells: Array, sizes: Integers, records: float, least: float) -> Cells:
    """Shares of the category cells that stand out from the noise; the others have none."""
    return Cells(sizes, np.where(cells > max(least, 0.0), cells, 0.0) / records)


def _check_told(found: Quantiles, layout: Layout, noise: float) -> None:
    """Refuse a column whose released counts are nearly all gaps (post-processing; guarantees.md rule 20)."""
    for column, gaps in zip(layout.numeric, found.gaps, strict=True):
        if gaps > 0.9 and noise < 0.1 and not column.missing:
            raise DataError(
                f"column '{column.name}': the released counts hold hardly any number; declare missing = true, mend "
                "the column, or drop it"
            )


def released_moments(run: Run, codes: Integers) -> moments.Moments:
    """Noisy moments of clipped codes [n, d], in their units."""
    run.watch.phase(MOMENTS, 1)
    size = codes.shape[1]
    weight, _, _ = moments.weights(size)
    total = moments.sums(codes)[None]
    values, block = np.unique(weight, return_inverse=True)
    released = run.release(MOMENTS, [(total[:, block == b], float(w)) for b, w in enumerate(values)])
    run.watch.advance(1)
    return unpacked(released, size)[0]


def model_of(run: Run, counts: Counted, standard: Standard, found: moments.Moments) -> DetectionModel:
    """The model that follows from the releases and the known noise (guarantees.md rule 20)."""
    spread = shrunk(found, counts.records, run.deviation(MOMENTS))
    basis = basis_of(counts.records * _mu(run.plan.phases) / len(standard.center))
    return DetectionModel(
        counts.quantiles,
        standard,
        counts.cells,
        spread.mean,
        spread.covariance,
        spread.floor,
        max(1.0 / counts.records, counts.noise),
        spread.known,
        basis,
    )


def basis_of(signal: float) -> Basis:
    """What scores may rest on, by n mu / d with the released n."""
    return "covariance" if signal >= FULL else "diagonal" if signal >= SOME else "public"


@dataclass(frozen=True)
class DetectionRecipe:
    """How a table is fitted for anomaly scores: by two releases of statistics."""

    schema: Schema

    def draft(self, budget: Budget) -> Draft:
        """The phases of the fit. Errors: UsageError or PrivacyRefused for a schema that cannot be fitted."""
        self.schema.check()
        self.schema.check_records()
        if budget.fidelity:
            raise UsageError("detection trains no gradients; leave out fidelity")
        return draft(self.schema, budget)

    def check(self, data: pd.DataFrame, labels: NDArray[Any] | None, strict: bool) -> None:  # noqa: ARG002
        """With strict, refuse values outside the schema before anything is charged."""
        if strict:
            Codec(self.schema).encode(data, strict=True)

    def fit(self, run: Run, data: pd.DataFrame, labels: NDArray[Any] | None = None) -> "FittedDetection":  # noqa: ARG002
        """Fit as the plan says. Errors: DataError when the released counts say that there is nothing to learn from."""
        if len(data) > _MOST_ROWS:
            raise ResourceError("more rows than integer sums of 64 bits can hold; fit a part of them")
        layout = layout_of(self.schema)
        values, codes = records_of(data, self.schema, layout)
        counts = counted(run, values, codes, layout)
        standard = _agreed(run, counts.quantiles, layout.grid)
        found = released_moments(run, clipped_codes(values, standard))
        model = model_of(run, counts, standard, found)
        if model.basis != "covariance":
            run.watch.note(_NOTES[model.basis])
        return FittedDetection(self.schema, model)


def _agreed(run: Run, found: Quantiles, grid: Grid) -> Standard:
    """What standardizes, the same at all places that fit together."""

    def made() -> dict[str, torch.Tensor]:
        own = standard_of(found, grid)
        return {"center": torch.from_numpy(own.center), "spread": torch.from_numpy(own.spread)}

    return agreed_standard(run.agreed(QUANTILES, made), grid)


def records_of(frame: pd.DataFrame, schema: Schema, layout: Layout) -> tuple[Array, Integers]:
    """Numbers [n, d], NaN for a gap or what is no number, and category codes [n, c], -1 where there is no cell."""
    codes = Codec(schema).encode(frame)
    header = [str(name) for name in frame.columns]
    columns = [numbers(frame.iloc[:, header.index(column.name)])[0] for column in layout.numeric]
    return np.stack(columns, 1), codes[:, layout.others].astype(np.int64)


@dataclass(frozen=True)
class FittedDetection(FittedTable):
    """A table's anomaly model: DataFrames in and out."""

    model: DetectionModel  # type: ignore[assignment]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the scores rest on, in words: a rule on releases and public numbers."""
        known = f"{self.model.known:.0%} of the covariances between columns stood out from the known noise"
        return _NOTES[self.model.basis], *((known,) if self.model.basis == "covariance" else ())

    def scores(self, data: pd.DataFrame) -> dict[str, Floats]:
        """Every score of every row, higher is stranger, [n] each: see `DetectionModel.scores`."""
        return self.model.scores(*self._records(data))

    def score(self, data: pd.DataFrame) -> Floats:
        """The combined score of every row, negated so that higher is more ordinary: [n]."""
        return -self.scores(data)[SCORES[0]]

    def embed(self, data: pd.DataFrame) -> Floats:
        """Whitened principal coordinates of every row, [n, d]."""
        return self.model.embed(self._records(data)[0])

    def parts(self, data: pd.DataFrame) -> dict[str, Floats]:
        """What a score is made of, each higher for a more ordinary row, [n]: the scores negated, and `distance`.

        distance: minus that of the row from the model's center, in standardized units.
        """
        found = {name: -values for name, values in self.scores(data).items()}
        return found | {"distance": -np.sqrt(-found["diagonal"])}

    def sample(self, count: int, seed: int) -> pd.DataFrame:
        """`count` new rows: the schema's columns, order and dtypes; category columns are drawn by themselves."""
        rng = np.random.default_rng(seed)
        values, drawn = self.model.sample(count, rng)
        layout, kept = layout_of(self.schema), self.schema.kept
        codes = np.full((count, len(kept)), -1, np.int64)
        known = layout.sizes - 1  # the last cell holds what the schema has none for
        codes[:, layout.others] = np.where(drawn < known, drawn, -1)
        frame = self.codec.decode(codes, rng)
        shown = {c.name: _shown(c, values[:, i]) for i, c in enumerate(layout.numeric)}
        return frame.assign(**shown)

    def sampled_scores(self, count: int, data: pd.DataFrame) -> Floats:  # noqa: ARG002
        """Scores of the model's own samples."""
        return self.score(self.sample(count, 0))

    def score_codes(self, codes: NDArray[np.int32]) -> Floats:
        """`score` of encoded rows, each number drawn from its bin: [n, m] -> [n]."""
        return self.score(self.codec.decode(codes, np.random.default_rng(0)))

    def _records(self, data: Any) -> tuple[Array, Integers]:  # noqa: ANN401
        names = [column.name for column in self.schema.kept]
        if isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == len(names):
            data = pd.DataFrame(data, columns=names)
        if not isinstance(data, pd.DataFrame):
            raise UsageError("the records must be a pandas DataFrame with the columns of the schema")
        return records_of(data, self.schema, layout_of(self.schema))


def belongs(fitted: FittedDetection) -> bool:
    """Whether a model takes the records of its schema."""
    layout, model = layout_of(fitted.schema), fitted.model
    known = [(part.low, part.width) for part in (model.quantiles, model.standard)]
    own = layout.grid.low, layout.grid.width
    bounds = (np.array_equal(a, b) for parts in known for a, b in zip(parts, own, strict=True))
    return all(bounds) and np.array_equal(model.cells.sizes, layout.sizes)


def scores_of(fitted: Any, data: Any, name: str) -> Floats:  # noqa: ANN401
    """One score of every row by its name, higher is stranger: [n]. Errors: UsageError for another model or name."""
    if not isinstance(fitted, FittedDetection):
        raise UsageError('this model has one score; fit with recipe = "detection" to choose among several')
    if name not in SCORES:
        raise UsageError(f"there is no score '{name}'; choose among {', '.join(SCORES)}")
    return fitted.scores(data)[name]


def _bounds(column: Column) -> tuple[float, float]:
    edges = column.edges or (0.0, 0.0)
    return column.bounds if column.bounds is not None else (edges[0], edges[-1])


def _shown(column: Column, values: Array) -> Any:  # noqa: ANN401  a pandas array of whichever kind
    """Values as multiples of the column's step, in its dtype, with gaps where they are NaN."""
    bins, gaps = column.numeric_bins, np.isnan(values)
    whole = np.where(gaps, bins.edges[0], values)
    if bins.step is not None:
        whole = np.round(whole / bins.step) * bins.step
    if bins.digits is not None:
        whole = np.round(whole, bins.digits)
    dtype: Any = nullable(column.returned) if gaps.any() else column.returned
    result = pd.array(np.clip(whole, *_bounds(column)).astype(bins.dtype), dtype=dtype)
    if gaps.any():
        result[gaps] = result.dtype.na_value
    return result
