"""Anomaly detection: released quantiles, then released moments of standardized values; scores for free.

numbers -> [released tree of counts] -> median, spread, tails -> standardize, soft-limit, clip in integers ->
[released moments] -> mean, covariance. The numbers are those of a table's numeric columns, or contrast-normalized low
frequencies of an image (`sums.contrast`). Category columns are counted beside the trees: they take part in the tail
score, by the shares of their cells, and not in distances. A gap counts as the median there, and by the share of gaps
in the tail score. Every sum is exact in integers (guarantees.md rules 1, 7, 8 and 10).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from privae.data.codec import Codec
from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.errors import DataError, ResourceError, UsageError
from privae.fitted.anomalies import (
    NOTES,
    FittedDetection,
    FittedImageDetection,
    Reading,
    pictured,
    reading_of,
    records_of,
)
from privae.models.scores import Basis, Cells, DetectionModel, Quantiles, Standard
from privae.plan import Phase
from privae.privacy.accountant import gaussian_mu
from privae.recipes import table
from privae.recipes.image import unpacked
from privae.recipes.phases import Array, Budget, Draft, Run, statistics
from privae.sums import contrast, moments, quantiles, units
from privae.sums.moments import Integers
from privae.sums.quantiles import Grid, Layout
from privae.sums.standard import agreed_standard, clipped_codes, shrunk, standard_of

QUANTILES, MOMENTS, FREQUENCIES = "bounds", "moments", "frequencies"
RECIPE = "detection"
QUANTILE_SHARE = 0.5  # of mu^2
FULL, SOME = 20.0, 5.0  # n mu / d from which covariances, and from which more than public units, are trusted
FULL_OF_IMAGES = (
    5.0  # frequencies of images hang together so much that covariances with more noise still help
)
_MOST_CELLS = 10**8
_CERTAIN = 5.0
_MOST_ROWS = 2**22  # times BOUND^2 = 2^40, still below 2^62
_FEWEST_PER_NOISE = 20.0  # rows per standard deviation of a count, from which quantiles are trusted
_FEWEST_NUMBERS, _MOST_NUMBERS, _USUAL_NUMBERS = 8, 36, 16  # of an image
_TO_SPARE = 1.6  # how many times too many rows may be declared before fewer numbers would have been better


@dataclass(frozen=True)
class Records:
    """What is read of records: numbers [n, d], NaN for a gap, and category codes [n, c], -1 where there is no cell.

    unit: whose each record is, [n] not decreasing, where a unit has several; see `sums.units`. None: each is its own.
    """

    values: Array
    codes: Integers
    unit: Integers | None = None


def drafted(
    layout: Layout,
    budget: Budget,
    full: float,
    expected: tuple[float, float],
    replace_ratio: float = moments.REPLACE_RATIO,
) -> Draft:
    """The phases of a fit, before their noise is known.

    full: n mu / d from which covariances are trusted. expected: seconds and megabytes besides those of the sums.
    replace_ratio: of moments; that of `sums.units` where a unit has several records.
    """
    size, rows = len(layout.grid), budget.rows or 10_000
    if layout.size + size**2 > _MOST_CELLS:
        raise ResourceError(
            "the schema has too many cells to count; declare larger units or keep fewer columns"
        )
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
                replace_ratio,
                size=len(moments.weights(size)[0]),
            ),
        ),
        settings={},
        rows_needed=lambda noisy: max(
            full * size / mu_of(noisy), _FEWEST_PER_NOISE * noisy[-2].mechanism().std
        ),
        seconds=expected[0] + 7e-8 * rows * layout.grid.squared + 1e-9 * rows * size**2,
        megabytes=expected[1] + 6e-5 * rows * size + 5e-5 * layout.size,
        notes=(left_out,) if len(layout.sizes) else (),
    )


def mu_of(phases: Sequence[Phase]) -> float:
    """What moments and the phase before them spend, as a Gaussian mechanism; infinite without noise."""
    if any(phase.noise_multiplier == 0 for phase in phases):
        return math.inf
    last = next(place for place, phase in enumerate(phases) if phase.name == MOMENTS)
    return math.sqrt(math.fsum(phase.noise_multiplier**-2 for phase in phases[last - 1 : last + 1]))


def numbers_of_images(schema: ImageSchema, budget: Budget) -> int:
    """How many numbers of an image are released: as many as carry a covariance, by n mu / d with the declared n.

    Public: a function of the shape and the budget. Edges: 16 where no rows are declared; 8 to 36; no more than pixels.
    """
    mu = gaussian_mu(budget.epsilon, budget.accountant_delta)
    known = budget.rows is not None or math.isinf(mu)
    size = (budget.rows or 1) * mu / (FULL_OF_IMAGES * _TO_SPARE) if known else _USUAL_NUMBERS
    within = max(_FEWEST_NUMBERS, min(size, _MOST_NUMBERS))
    return int(min(within, schema.height * schema.width))


@dataclass(frozen=True)
class Counted:
    """What the released counts say: distribution functions, shares of cells, records, and noise as a share of them."""

    quantiles: Quantiles
    cells: Cells
    records: float
    noise: float


def counted(run: Run, records: Records, layout: Layout) -> Counted:
    """The counts of every tree and category column, released at once, and what is read from them.

    Errors: DataError when the *released* counts say that there is next to nothing to learn from.
    """
    run.watch.phase(QUANTILES, 1)
    total, whole = totals_of(records, layout)
    released = run.release(QUANTILES, [(total, 1.0 / whole)])[0] / whole
    run.watch.advance(1)
    deviation = run.deviation(QUANTILES)
    trees, cells = np.split(released, [layout.grid.size])
    parts = np.split(cells, np.cumsum(layout.sizes)[:-1]) if len(layout.sizes) else []
    per_column = np.append(quantiles.totals(trees, layout.grid), [part.sum() for part in parts])
    count = quantiles.pooled(per_column, layout.grid, layout.sizes)
    if count <= max(_CERTAIN * quantiles.deviation_of_total(layout.grid, deviation, layout.sizes), 1.0):
        raise DataError(
            "the released row count cannot be told from none at this epsilon: too few records; give more rows or a "
            "larger epsilon"
        )
    found = quantiles.quantiles(trees, layout.grid, count, deviation)
    shares = _shares(cells, layout.sizes, count, quantiles.CERTAIN * deviation)
    return Counted(found, shares, count, deviation / count)


def totals_of(records: Records, layout: Layout) -> tuple[Integers, int]:
    """The counts of records or, as shares of their units, of windows; and what one unit counts in them."""
    if records.unit is None:
        return layout.counts(records.values, records.codes), 1
    return units.counts(records.values, records.codes, records.unit, layout), units.WHOLE


def _shares(cells: Array, sizes: Integers, records: float, least: float) -> Cells:
    """Shares of the category cells that stand out from the noise; the others have none."""
    return Cells(sizes, np.where(cells > max(least, 0.0), cells, 0.0) / records)


def released_moments(run: Run, codes: Integers, unit: Integers | None = None) -> moments.Moments:
    """Noisy moments of clipped codes [n, d], in their units; of the means of units, where these have several."""
    run.watch.phase(MOMENTS, 1)
    size = codes.shape[1]
    weight, _, _ = moments.weights(size)
    total = (moments.sums(codes) if unit is None else units.sums(codes, unit))[None]
    values, block = np.unique(weight, return_inverse=True)
    released = run.release(MOMENTS, [(total[:, block == b], float(w)) for b, w in enumerate(values)])
    run.watch.advance(1)
    return unpacked(released, size)[0]


@dataclass(frozen=True)
class Trust:
    """How far covariances are trusted: from which n mu / d on, and how far noise raises their least eigenvalue."""

    full: float = FULL
    floor: float = 1.0


def model_of(
    run: Run, counts: Counted, standard: Standard, found: moments.Moments, trust: Trust = Trust()
) -> DetectionModel:
    """The model that follows from the releases and the known noise (guarantees.md rule 20)."""
    spread = shrunk(found, counts.records, run.deviation(MOMENTS), trust.floor)
    basis = basis_of(counts.records * mu_of(run.plan.phases) / len(standard.center), trust.full)
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


def basis_of(signal: float, full: float = FULL) -> Basis:
    """What scores may rest on, by n mu / d with the released n; covariances from `full` on."""
    return "covariance" if signal >= full else "diagonal" if signal >= SOME else "public"


def fitted(
    run: Run,
    records: Records,
    layout: Layout,
    trust: Trust = Trust(),
    told: Callable[[Counted], Counted] = lambda counts: counts,
) -> DetectionModel:
    """The model of records. told: looks at what the counts say, and may refuse it.

    Errors: DataError when the released counts say that there is nothing to learn from.
    """
    counts = told(counted(run, records, layout))
    standard = _agreed(run, counts.quantiles, layout.grid)
    found = released_moments(run, clipped_codes(records.values, standard), records.unit)
    model = model_of(run, counts, standard, found, trust)
    if model.basis != "covariance":
        run.watch.note(NOTES[model.basis])
    return model


def _without_gaps(counts: Counted) -> Counted:
    """No image has gaps."""
    found = counts.quantiles
    return replace(counts, quantiles=replace(found, gaps=np.zeros_like(found.gaps)))


def _check_told(named: Reading, counts: Counted) -> Counted:
    """Refuse a column whose released counts are nearly all gaps (post-processing; guarantees.md rule 20)."""
    for column, gaps in zip(named.numeric, counts.quantiles.gaps, strict=True):
        if gaps > 0.9 and counts.noise < 0.1 and not column.missing:
            raise DataError(
                f"column '{column.name}': the released counts hold hardly any number; declare missing = true, mend "
                "the column, or drop it"
            )
    return counts


def _agreed(run: Run, found: Quantiles, grid: Grid) -> Standard:
    """What standardizes, the same at all places that fit together."""

    def made() -> dict[str, torch.Tensor]:
        own = standard_of(found, grid)
        return {"center": torch.from_numpy(own.center), "spread": torch.from_numpy(own.spread)}

    return agreed_standard(run.agreed(QUANTILES, made), grid)


def check_size(records: Any) -> None:  # noqa: ANN401
    """Errors: ResourceError for more records than sums hold."""
    if len(records) > _MOST_ROWS:
        raise ResourceError("more records than integer sums of 64 bits can hold; fit a part of them")


@dataclass(frozen=True)
class DetectionRecipe:
    """How a table is fitted for anomaly scores: by two releases of statistics."""

    schema: Schema

    def draft(self, budget: Budget) -> Draft:
        """The phases of the fit. Errors: UsageError or PrivacyRefused for a schema that cannot be fitted."""
        self.schema.check()
        self.schema.check_records()
        check_closed_form(budget)
        if budget.strict and self.schema.bought:
            raise UsageError('strict asks for declared values; it is not combined with categories = "bought"')
        layout = reading_of(table.assumed(self.schema)).layout
        return table.with_bought(drafted(layout, budget, FULL, (2.0, 500.0)), self.schema)

    def check(self, data: pd.DataFrame, labels: NDArray[Any] | None, strict: bool) -> None:  # noqa: ARG002
        """With strict, refuse values outside the schema before anything is charged."""
        if strict:
            Codec(self.schema).encode(data, strict=True)

    def fit(self, run: Run, data: pd.DataFrame, labels: NDArray[Any] | None = None) -> FittedDetection:  # noqa: ARG002
        """Fit as the plan says. Errors: DataError when the released counts say that there is nothing to learn from."""
        check_size(data)
        schema = table.buy_categories(run, data, self.schema) if self.schema.bought else self.schema
        reading = reading_of(schema)
        records = Records(*records_of(data, schema, reading))
        told = partial(_check_told, reading)
        return FittedDetection(schema, fitted(run, records, reading.layout, told=told))


@dataclass(frozen=True)
class ImageDetectionRecipe:
    """How images are fitted for anomaly scores: a table's recipe, of contrast-normalized low frequencies."""

    schema: ImageSchema

    def draft(self, budget: Budget) -> Draft:
        """The phases of the fit. Errors: UsageError for images or options that it has nothing for."""
        self.schema.check()
        check_closed_form(budget)
        if budget.strict:
            raise UsageError("strict is for tables: every pixel fits")
        if self.schema.classes is not None:
            raise UsageError(
                "detection uses no labels: give images of what is ordinary alone, without y and classes"
            )
        pixels, rows = self.schema.height * self.schema.width, budget.rows or 10_000
        if not contrast.readable(self.schema.height, self.schema.width):
            raise UsageError(
                f"detection is for images of 4 to {contrast.MOST_PIXELS} pixels, at most {contrast.MOST_SIDE} a side"
            )
        size = numbers_of_images(self.schema, budget)
        expected = 2.0 + 1e-8 * rows * pixels, 500 + 1e-6 * rows * pixels + 4e-5 * min(rows * pixels, 2**24)
        made = drafted(contrast.layout(size), budget, FULL_OF_IMAGES, expected)
        return replace(made, settings={FREQUENCIES: size})

    def check(self, data: NDArray[np.uint8], labels: NDArray[Any] | None, strict: bool) -> None:  # noqa: ARG002
        """Refuse, before anything is charged, images of another shape, or labels."""
        if data.ndim != 3 or data.shape[1:] != (self.schema.height, self.schema.width):
            raise UsageError(f"images must be uint8 [n, {self.schema.height}, {self.schema.width}]")
        if labels is not None:
            raise UsageError("detection uses no labels y; leave them out")

    def fit(
        self,
        run: Run,
        data: NDArray[np.uint8],
        labels: NDArray[Any] | None = None,  # noqa: ARG002
    ) -> FittedImageDetection:
        """Fit as the plan says. Errors: DataError when the released counts say that there is nothing to learn from."""
        check_size(data)
        size = run.plan.settings[FREQUENCIES]
        assert isinstance(size, int)
        records = Records(*pictured(np.ascontiguousarray(data), size))
        found = fitted(run, records, contrast.layout(size), Trust(FULL_OF_IMAGES), _without_gaps)
        return FittedImageDetection(self.schema, found)


def check_closed_form(budget: Budget) -> None:
    """Errors: UsageError for a budget that asks for gradients."""
    if budget.fidelity:
        raise UsageError("detection trains no gradients; leave out fidelity")
