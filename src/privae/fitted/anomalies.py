"""Fitted anomaly models: what of a record is read, and its scores; of tables, and of images."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.data.codec import Codec, acted_table
from privae.data.column import Column, nullable
from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.data.values import numbers
from privae.errors import UsageError
from privae.fitted.images import FittedImages
from privae.fitted.table import FittedTable
from privae.fitted.tensors import Floats
from privae.models.scores import SCORES, Basis, DetectionModel
from privae.plan import Plan
from privae.sums import contrast, quantiles
from privae.sums.quantiles import Layout

Integers = NDArray[np.int64]

NOTES: dict[Basis, str] = {
    "covariance": "scores use how the numbers of a record move together",
    "diagonal": "few records for this epsilon (n mu / d below 20): distances leave out how numbers move together",
    "public": "too few records for this epsilon (n mu / d below 5): scores are distances in the public bounds alone, "
    "as before any fit",
}
"""What scores rest on, in words."""
_UNITS = 256  # of a width, where a column declares no unit


@dataclass(frozen=True)
class Reading:
    """Which kept columns of a table are numbers, which places the others have, and where all are counted: public."""

    numeric: tuple[Column, ...]
    others: Integers
    layout: Layout


def reading_of(schema: Schema) -> Reading:
    """What is read of the kept columns. Errors: UsageError where none is numeric, or one is bought or a label."""
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
    lows, highs = zip(*(column.ends for column in numeric), strict=True)
    units = [column.step or (b - a) / _UNITS for column, a, b in zip(numeric, lows, highs, strict=True)]
    others = np.array([i for i, column in enumerate(kept) if column.kind != "numeric"], dtype=np.int64)
    sizes = np.array([kept[i].size + 1 for i in others], dtype=np.int64)
    return Reading(numeric, others, Layout(quantiles.grid(lows, highs, units), sizes))


def records_of(frame: pd.DataFrame, schema: Schema, reading: Reading) -> tuple[Floats, Integers]:
    """Numbers [n, d], NaN for a gap or what is no number, and category codes [n, c], -1 where there is no cell."""
    frame = acted_table(frame, schema)
    codes = Codec(schema).encode(frame)
    header = [str(name) for name in frame.columns]
    columns = [numbers(frame.iloc[:, header.index(column.name)])[0] for column in reading.numeric]
    return np.stack(columns, 1), codes[:, reading.others].astype(np.int64)


def pictured(images: NDArray[np.uint8], size: int) -> tuple[Floats, Integers]:
    """`size` numbers of each image, [n, size], and no category codes, [n, 0]."""
    return contrast.numbers(images, size), np.zeros((len(images), 0), np.int64)


@runtime_checkable
class Heated(Protocol):
    """A model that says where a record is strange."""

    def heat(self, data: Any) -> Floats:  # noqa: ANN401
        """Where each record is strange: [n, h, w] of images, [n, t, c] of windows."""


class Anomalies:
    """What anomaly models of tables and of images have in common: scores, higher is stranger, of released numbers."""

    model: DetectionModel
    score_name: ClassVar[str]

    def records(self, data: Any) -> tuple[Floats, Integers]:  # noqa: ANN401
        """Numbers [n, d] and category codes [n, c] of records."""
        raise NotImplementedError

    def grouped(self, data: Any) -> tuple[Floats, Integers, Integers | None]:  # noqa: ANN401
        """`records`, and whose each is, where a unit has several."""
        return (*self.records(data), None)

    @property
    def layout(self) -> Layout:
        """Where records were counted."""
        raise NotImplementedError

    def counted_in(self, plan: Plan) -> Layout:  # noqa: ARG002
        """Where records were counted, as far as the plan decides it."""
        return self.layout

    @property
    def notes(self) -> tuple[str, ...]:
        """What the scores rest on, in words: a rule on releases and public numbers."""
        known = f"{self.model.known:.0%} of the covariances between numbers stood out from the known noise"
        return NOTES[self.model.basis], *((known,) if self.model.basis == "covariance" else ())

    def scores(self, data: Any) -> dict[str, Floats]:  # noqa: ANN401
        """Every score of every record, higher is stranger, [n] each: see `DetectionModel.scores`."""
        return self.model.scores(*self.records(data))

    def score(self, data: Any) -> Floats:  # noqa: ANN401
        """The default score of every record, negated so that higher is more ordinary: [n]."""
        return -self.scores(data)[self.score_name]

    def embed(self, data: Any) -> Floats:  # noqa: ANN401
        """Whitened principal coordinates of every record, [n, d]."""
        return self.model.embed(self.records(data)[0])

    def parts(self, data: Any) -> dict[str, Floats]:  # noqa: ANN401
        """What a score is made of, each higher for a more ordinary record, [n]: the scores negated, and `distance`.

        distance: minus that of the record from the model's center, in standardized units.
        """
        found = {name: -values for name, values in self.scores(data).items()}
        return found | {"distance": -np.sqrt(-found["diagonal"])}

    def belongs(self) -> bool:
        """Whether the model takes the records of its schema."""
        model, own = self.model, self.layout
        bounds = own.grid.low, own.grid.width
        known = [(part.low, part.width) for part in (model.quantiles, model.standard)]
        same = (np.array_equal(a, b) for part in known for a, b in zip(part, bounds, strict=True))
        return all(same) and np.array_equal(model.cells.sizes, own.sizes)


@dataclass(frozen=True)
class FittedDetection(Anomalies, FittedTable):
    """A table's anomaly model: DataFrames in and out."""

    model: DetectionModel  # type: ignore[assignment]
    score_name: ClassVar[str] = "combined"

    def sample(self, count: int, seed: int) -> pd.DataFrame:
        """`count` new rows: the schema's columns, order and dtypes; category columns are drawn by themselves."""
        rng = np.random.default_rng(seed)
        values, drawn = self.model.sample(count, rng)
        reading, kept = reading_of(self.schema), self.schema.kept
        codes = np.full((count, len(kept)), -1, np.int64)
        known = reading.layout.sizes - 1  # the last cell holds what the schema has none for
        codes[:, reading.others] = np.where(drawn < known, drawn, -1)
        frame = self.codec.decode(codes, rng)
        told = {c.name: shown(c, values[:, i]) for i, c in enumerate(reading.numeric)}
        return frame.assign(**told)

    def sampled_scores(self, count: int, data: pd.DataFrame) -> Floats:  # noqa: ARG002
        """Scores of the model's own samples."""
        return self.score(self.sample(count, 0))

    def score_codes(self, codes: NDArray[np.int32]) -> Floats:
        """`score` of encoded rows, each number drawn from its bin: [n, m] -> [n]."""
        return self.score(self.codec.decode(codes, np.random.default_rng(0)))

    @property
    def layout(self) -> Layout:
        """Where records were counted."""
        return reading_of(self.schema).layout

    def records(self, data: Any) -> tuple[Floats, Integers]:  # noqa: ANN401
        """Numbers [n, d] and category codes [n, c] of rows."""
        names = [column.name for column in self.schema.kept]
        if isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == len(names):
            data = pd.DataFrame(data, columns=names)
        if not isinstance(data, pd.DataFrame):
            raise UsageError("the records must be a pandas DataFrame with the columns of the schema")
        return records_of(data, self.schema, reading_of(self.schema))


@dataclass(frozen=True)
class FittedImageDetection(Anomalies, FittedImages):
    """An anomaly model of images, of their contrast-normalized low frequencies: arrays in and out."""

    schema: ImageSchema
    model: DetectionModel  # type: ignore[assignment]
    score_name: ClassVar[str] = "mahalanobis"

    def sample(self, count: int, seed: int) -> tuple[NDArray[np.uint8], None]:
        """`count` new images, uint8 [n, h, w], of low frequencies alone, at one brightness and contrast; no labels."""
        values, _ = self.model.sample(count, np.random.default_rng(seed))
        return contrast.picture(values, self._shape), None

    def sampled_scores(self, count: int, data: NDArray[np.uint8]) -> Floats:  # noqa: ARG002
        """Scores of the model's own samples, of their numbers: pictures of these have no detail."""
        drawn = self.model.sample(count, np.random.default_rng(0))
        return -self.model.scores(*drawn)[self.score_name]

    def heat(self, data: NDArray[np.uint8]) -> Floats:
        """Where each image is strange: [n, h, w].

        The sum over an image is the part of its Mahalanobis score that low frequencies have; detail has no place.
        Negative where a difference makes the image less strange, given all others.
        Errors: UsageError where the scores read the bounds alone.
        """
        difference, weight = self.model.leaning(self.records(data)[0])
        fields = (contrast.spread_out(part[:, :-1], self._shape) for part in (difference, weight))
        return np.asarray(np.multiply(*fields))

    @property
    def layout(self) -> Layout:
        """Where images were counted."""
        return contrast.layout(len(self.model.mean))

    def belongs(self) -> bool:
        """Whether the model takes the images of its schema."""
        inside = 2 <= len(self.model.mean) <= self.schema.height * self.schema.width
        return (
            inside
            and contrast.readable(*self._shape)
            and not self.model.quantiles.gaps.any()
            and super().belongs()
        )

    def records(self, data: Any) -> tuple[Floats, Integers]:  # noqa: ANN401
        """Numbers [n, d] of images, and no category codes [n, 0]."""
        return pictured(self._checked(data), len(self.model.mean))

    @property
    def _shape(self) -> tuple[int, int]:
        return self.schema.height, self.schema.width


def scores_of(fitted: Any, data: Any, name: str) -> Floats:  # noqa: ANN401
    """One score of every record by its name, higher is stranger: [n]. Errors: UsageError for another model or name."""
    if not isinstance(fitted, Anomalies):
        raise UsageError('this model has one score; fit with recipe = "detection" to choose among several')
    if name not in SCORES:
        raise UsageError(f"there is no score '{name}'; choose among {', '.join(SCORES)}")
    return fitted.scores(data)[name]


def heat_of(fitted: Any, images: Any) -> Floats:  # noqa: ANN401
    """Where each image is strange: [n, h, w]. Errors: UsageError for another model, or see `heat`."""
    if not isinstance(fitted, Heated):
        raise UsageError(
            'heat maps are of images, by a model that was fitted with recipe = "detection", and of series by "auto"'
        )
    return fitted.heat(images)


def shown(column: Column, values: Floats) -> Any:  # noqa: ANN401  a pandas array of whichever kind
    """Values as multiples of the column's step, in its dtype, with gaps where they are NaN."""
    bins, gaps = column.numeric_bins, np.isnan(values)
    whole = np.where(gaps, bins.edges[0], values)
    if bins.step is not None:
        whole = np.round(whole / bins.step) * bins.step
    if bins.digits is not None:
        whole = np.round(whole, bins.digits)
    dtype: Any = nullable(column.returned) if gaps.any() else column.returned
    result = pd.array(np.clip(whole, *column.ends).astype(bins.dtype), dtype=dtype)
    if gaps.any():
        result[gaps] = result.dtype.na_value
    return result
