"""What an attacker may look at: released things, and the records whose secrets are played for, as plain numbers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.data.schema import Schema
from privae.data.values import distinct, numbers
from privae.errors import UsageError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_TEXTS = 32  # texts of a column that have an axis of their own


class Model(Protocol):
    """A fitted model as attacks use it; see `recipes.modality`."""

    def score(self, data: Any) -> Floats:  # noqa: ANN401
        """Log-likelihood bound of every record, [n]."""

    def embed(self, data: Any) -> Floats:  # noqa: ANN401
        """Latent codes of every record, [n, k]."""


@dataclass(frozen=True)
class Records:
    """Records as numbers, for distances: a numeric column in units of its declared range, any other as codes.

    Shapes: values [n, m], a gap is -1; numeric [m]; names [m]. Codes of texts are places in `Vocabulary`, shared by
    all tables of one audit, so equal codes are equal texts. Images are their pixels in [0, 1], all numeric.
    """

    values: Floats = field(repr=False)
    numeric: Bools
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> "Records":  # noqa: ANN401  whatever numpy takes as rows
        return Records(self.values[rows], self.numeric, self.names)


def joint(*records: Records) -> list[Floats]:
    """Sets of records as points of one space: numbers as they are, and texts one-hot, two different ones 1 apart.

    Shapes: sets of [n_i, m] -> [n_i, d], numbers first, at most 64 axes a column of texts.
    Edges: the 32 most frequent texts of a column have an axis of their own; the others share as many, so that
    one in 32 pairs of them coincides.
    """
    values, numeric = np.concatenate([each.values for each in records]), records[0].numeric
    parts = [values[:, numeric], *(_cells(values[:, place]) for place in np.flatnonzero(~numeric))]
    return np.split(np.concatenate(parts, 1), np.cumsum([len(each) for each in records])[:-1])


def _cells(codes: Floats) -> Floats:
    _, places, counts = np.unique(codes, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")[places]
    cells = np.where(rank < _TEXTS, rank, _TEXTS + rank % _TEXTS)
    found: Floats = np.eye(min(len(counts), 2 * _TEXTS))[cells] * np.sqrt(0.5)
    return found


class Vocabulary:
    """Codes for the texts of every column, over all tables that one audit compares."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._codes: dict[str, dict[str, int]] = {column.name: {} for column in schema.kept}

    def records(self, frame: pd.DataFrame) -> Records:
        """A table as numbers. Errors: UsageError for a table that lacks a column of the schema."""
        columns = self.schema.kept
        missing = [column.name for column in columns if column.name not in frame.columns]
        if missing:
            raise UsageError(f"the table has no column '{missing[0]}', which the schema declares")
        parts = [self._column(column, frame[column.name]) for column in columns]
        numeric = np.array([column.kind == "numeric" for column in columns], dtype=bool)
        values = np.stack(parts, 1) if parts else np.zeros((len(frame), 0))
        return Records(values, numeric, tuple(column.name for column in columns))

    def _column(self, column: Any, values: "pd.Series[Any]") -> Floats:  # noqa: ANN401  a Column
        if column.kind == "numeric":
            found, gaps = numbers(values)
            low, high = float(column.numeric_bins.edges[0]), float(column.numeric_bins.edges[-1])
            placed = np.clip((found - low) / (high - low), -0.5, 1.5)
            return np.where(gaps | np.isnan(placed), -1.0, placed)
        places, texts = distinct(values)
        known = self._codes[column.name]
        codes = np.array([*(known.setdefault(text, len(known)) for text in texts), -1.0])
        return codes[places]


def pixels(images: NDArray[np.uint8]) -> Records:
    """Images [n, h, w] as records of h * w numbers in [0, 1]."""
    values = images.reshape(len(images), -1) / 255.0
    size = values.shape[1]
    return Records(values, np.ones(size, bool), tuple(f"pixel {i}" for i in range(size)))


def drawn(count: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of at most `most` of so many records, by lot, in order."""
    return np.sort(rng.permutation(count)[:most]) if count > most else np.arange(count)


@dataclass(frozen=True)
class World:
    """Everything that one audit may use; data are for the data holder's machine only.

    members: records that the model or the synthetic data were made from. holdout: records of the same population
    that they were not made from, or None. synthetic: what was generated. raw data (DataFrame, or images) go to the
    model; `*_records` are the same as numbers. epsilon, delta: the claim, None where none is made. kept_out: the chance
    at which secret coins kept each record out of the fit, where they decided the hold-out; else 0.
    refit: fits the same plan to other data, for reference models; None where that cannot be done.
    """

    members: Any = field(repr=False)
    synthetic: Any = field(repr=False)
    member_records: Records = field(repr=False)
    synthetic_records: Records = field(repr=False)
    holdout: Any = field(default=None, repr=False)
    holdout_records: Records | None = field(default=None, repr=False)
    schema: Schema | None = None
    model: Model | None = field(default=None, repr=False)
    epsilon: float | None = None
    delta: float = 0.0
    kept_out: float = 0.0
    refit: Callable[[Any], Model] | None = field(default=None, repr=False)
    seed: int = 0

    @property
    def rng(self) -> np.random.Generator:
        """A fresh generator, the same at every call."""
        return np.random.default_rng(self.seed)
