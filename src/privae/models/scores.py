"""The fitted model of anomalies: released quantiles and moments, and the scores that are read from them.

Nothing here is private: it holds released numbers and public facts, and every score is a function of one record.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from privae.errors import UsageError

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Basis = Literal["covariance", "diagonal", "public"]

SCORES = ("combined", "mahalanobis", "diagonal", "tail")
"""The scores, the default one first."""
_LINEAR = 3.0  # standardized values are kept as they are up to here, and grow as the logarithm beyond
_STEP = 256  # steps of a soft-limited value
_KNOTS = 2.0 + np.exp(np.arange(1, 16 * _STEP + 1) / _STEP)
_LEAST = 1e-6  # of a squared distance, so that its logarithm is finite
SCALE = 1024
"""Cells that scores are counted in, where their distribution is released: as fine as their size."""
_EDGES = np.expm1(np.arange(SCALE + 1) / SCALE * 12.0)
_MIDDLE, _WIDE, _FAR = (0.15, 0.85), 2.0 * float(ndtri(0.85)), 3.5
_APART = 2.0  # distance of two columns' parts on the one axis that all of them are looked up on


@dataclass(frozen=True)
class Quantiles:
    """Released distribution functions of d numeric columns, each linear between its knots.

    Shapes: low [d] and width [d] of the declared bounds; place [d, k] of the knots, as shares of the width, and share
    [d, k] of values below them, both rising from 0 to 1; gaps [d], the share of records that have none.
    """

    low: Array
    width: Array
    place: Array
    share: Array
    gaps: Array

    def below(self, values: Array) -> Array:
        """Share of values below each: [n, d] -> [n, d]. Edges: clipped to the bounds; NaN -> 1/2."""
        inside = np.clip((values - self.low) / self.width, 0.0, 1.0)
        return np.where(np.isnan(values), 0.5, _looked_up(inside, self.place, self.share))

    def at(self, shares: Array) -> Array:
        """The value that a share of each column lies below: [n, d] in [0, 1] -> [n, d], within the bounds."""
        return self.low + self.width * _looked_up(shares, self.share, self.place)

    def narrowed(self, center: Array, spread: Array, least: float) -> "Quantiles":
        """The same, no wider than the standard deviations [d] around the centers [d] that moments say.

        Where cells are coarse, or noise made some of them stand out, counts say less than moments about how wide a
        column is. Distances from the center are scaled so that the middle 70 % are as wide as of a normal column, if
        they are wider; and no share below six times `least` lies beyond 3.5 deviations. Post-processing of releases.
        """
        lower, upper = self.at(np.repeat([[_MIDDLE[0]], [_MIDDLE[1]]], len(center), axis=1))
        ratio = np.minimum(1.0, spread / np.maximum((upper - lower) / _WIDE, 1e-300))
        far = np.stack([self.below(center - _FAR * spread), 1.0 - self.below(center + _FAR * spread)])
        most = np.where(far < 6 * least, _FAR * spread / self.width, np.inf)[:, :, None]
        middle = ((center - self.low) / self.width)[:, None]
        inside = np.clip(
            middle + np.clip((self.place - middle) * ratio[:, None], -most[0], most[1]), 0.0, 1.0
        )
        inside[:, 0], inside[:, -1] = 0.0, 1.0
        return replace(self, place=inside)


@dataclass(frozen=True)
class Standard:
    """What standardizes: center [d] and spread [d] of the columns, and their declared bounds."""

    center: Array
    spread: Array
    low: Array
    width: Array

    def codes(self, values: Array) -> Array:
        """Soft-limited standardized values, [n, d] -> [n, d]: a function of each value alone, bit for bit.

        Edges: a gap is 0, the center; what lies beyond the bounds counts up to one width beyond them.
        """
        inside = np.clip(values, self.low - self.width, self.low + 2 * self.width)
        return soft_limit(np.where(np.isnan(values), 0.0, (inside - self.center) / self.spread))


@dataclass(frozen=True)
class Cells:
    """Released shares of the cells of c category columns, one after the other. Shapes: sizes [c], shares [cells]."""

    sizes: Integers
    shares: Array

    def surprise(self, codes: Integers, least: float) -> Array:
        """Sum of -log shares, raised to `least`, of each record's cells: [n, c] -> [n]. A code of -1 is the last."""
        known = np.where(codes < 0, self.sizes - 1, codes) + np.cumsum(self.sizes) - self.sizes
        return np.asarray(-np.log(np.maximum(self.shares, least))[known].sum(1))

    def draw(self, count: int, rng: np.random.Generator) -> Integers:
        """Cells of new records, each column by itself: [count, c]."""
        ends = np.cumsum(self.sizes)
        steps = np.concatenate(
            [np.cumsum(p) / max(p.sum(), 1e-300) for p in np.split(self.shares, ends[:-1])]
        )
        axis = steps + _APART * np.repeat(np.arange(len(ends)), self.sizes)
        drawn = np.searchsorted(axis, rng.random((count, len(ends))) + _APART * np.arange(len(ends)))
        return np.minimum(drawn - (ends - self.sizes), self.sizes - 1)


@dataclass(frozen=True)
class DetectionModel:
    """Anomaly scores of records with d numeric values and c category codes.

    Shapes: mean [d] and covariance [d, d] of soft-limited standardized values. floor: least eigenvalue. least: the
    smallest share that noise and the number of records let one tell from none. known: the share of the covariances
    between columns that stood out from the known noise. basis: what carries the distance; "public" reads no release.
    given: how many of the numbers, the last ones, are what the others are judged by (an hour, say): scores are of the
    others, given these. scored: how Mahalanobis scores are distributed among units, on the scale of `cells_of`, if that
    was released.
    """

    quantiles: Quantiles
    standard: Standard
    cells: Cells
    mean: Array
    covariance: Array
    floor: float
    least: float
    known: float
    basis: Basis
    given: int = 0
    scored: Quantiles | None = None

    def cells_of(self, values: Array) -> Array:
        """The middles of the cells that Mahalanobis scores lie in, on a public scale of 0 to SCALE: [n, d] -> [n, 1].

        Guarantee: each is a function of that row alone, bit for bit: elementwise products and sums in one order, and a
            comparison with a public table (guarantees.md rule 1).
        """
        own, codes = len(self.mean) - self.given, self.standard.codes(values) - self.mean
        explained = self._explained(self.raised)
        inside = codes[:, :own] - _product(codes[:, own:], explained)
        precision = (self._whitening @ self._whitening.T)[:own, :own]
        squares = _product(inside, np.asarray(np.linalg.cholesky(precision), np.float64)) ** 2
        total = np.zeros(len(values))
        for square in squares.T:
            total = total + square
        return np.asarray(np.searchsorted(_EDGES, total, side="right") - 0.5, np.float64)[:, None]

    def at_cells(self, places: Array) -> Array:
        """The scores at places of the scale of `cells_of`."""
        return np.asarray(np.interp(places, np.arange(SCALE + 1), _EDGES))

    def scores(self, values: Array, codes: Integers) -> dict[str, Array]:
        """Every score of records, higher is stranger: values [n, d] (NaN: a gap), codes [n, c] -> [n] each.

        mahalanobis: squared distance under the covariance; of the diagonal where that is the basis. tail: sum of
        -log tail shares (of cells, their shares), of both sides. combined: log(mahalanobis) + 2 log(tail).
        Edges: where the basis is "public", each is the squared norm in units of half the bounds' widths.
        """
        if self.basis == "public":
            return dict.fromkeys(SCORES, self._public(values))
        codes_of, own = self.standard.codes(values), len(self.mean) - self.given
        parts = (codes_of - self.mean) ** 2 / np.maximum(np.diagonal(self.covariance), self.floor)
        squared = parts[:, :own].sum(1)
        distance = squared if self.basis == "diagonal" else self._distance(values)
        tail = self._tails(values, codes_of) + self.cells.surprise(codes, self.least)
        combined = np.log(distance + _LEAST) + 2 * np.log(tail + _LEAST)
        return dict(zip(SCORES, (combined, distance, squared, tail), strict=True))

    def embed(self, values: Array) -> Array:
        """Whitened principal coordinates, [n, d] -> [n, d]; their squared norm is the Mahalanobis score."""
        return (self.standard.codes(values) - self.mean) @ self._whitening

    def leaning(self, values: Array) -> tuple[Array, Array]:
        """What makes each value strange, in two factors: its difference, and the weight of that, given all others.

        Shapes: [n, d] -> [n, d] each, in the values' own units and in one over these. Their product sums over a
        record to its Mahalanobis score. Errors: UsageError where the basis is "public".
        """
        self.check_told()
        difference, own = self.standard.codes(values) - self.mean, len(self.mean) - self.given
        inside = difference[:, :own] - difference[:, own:] @ self._explained(self.raised)
        weight = inside @ (self._whitening @ self._whitening.T)[:own, :own]
        spread = self.standard.spread[:own]
        return inside * spread, weight / spread

    def check_told(self) -> None:
        """Raise UsageError where the scores read the bounds alone."""
        if self.basis == "public":
            raise UsageError(
                "the noise hid where records lie: there is nothing to show but the public bounds"
            )

    def sample(
        self, count: int, rng: np.random.Generator, given: Array | None = None
    ) -> tuple[Array, Integers]:
        """Values [count, d] and codes [count, c] of new records.

        Values have the released distribution functions and the correlations of a Gaussian copula; gaps and codes are
        drawn each column by itself. given: the last values of each, [count, given]; drawn, too, without them.
        """
        wide = self._correlation
        normal = rng.standard_normal((count, len(self.mean)))
        if given is None or not self.given:
            values = self.quantiles.at(ndtr(normal @ np.linalg.cholesky(wide).T))
        else:
            values = self._drawn_given(normal, given, wide)
        values[rng.random(values.shape) < self.quantiles.gaps] = np.nan
        return values, self.cells.draw(count, rng)

    def normal_given(self, given: Array) -> tuple[Array, Array]:
        """The Gaussian of the other values, given the last ones: means [n, d - given] and one covariance.

        In the values' own units, as if none lay beyond the soft limit. Errors: UsageError where the basis is "public".
        """
        self.check_told()
        own, spread = len(self.mean) - self.given, self.standard.spread
        wide = np.concatenate([np.zeros((len(given), own)), given], 1)
        told = (self.standard.codes(wide) - self.mean)[:, own:]
        explained = self._explained(self.raised)
        center = self.mean[:own] + told @ explained
        rest = self.raised[:own, :own] - self.raised[:own, own:] @ explained
        return center * spread[:own] + self.standard.center[:own], rest * np.outer(spread[:own], spread[:own])

    def state(self) -> dict[str, Tensor]:
        """Everything released, by name."""
        named = {f"{part}.{name}": getattr(getattr(self, part), name) for part, name in _PARTS}
        named |= {"mean": self.mean, "covariance": self.covariance}
        if self.scored is not None:
            named |= {f"scored.{f.name}": getattr(self.scored, f.name) for f in fields(Quantiles)}
        return {name: torch.tensor(value) for name, value in named.items()}

    def config(self) -> dict[str, Any]:
        """Everything that `load` needs besides the state."""
        more = {"given": self.given} if self.given else {}
        return {name: getattr(self, name) for name in ("floor", "least", "known", "basis")} | more

    @classmethod
    def load(cls, config: dict[str, Any], state: dict[str, Tensor]) -> "DetectionModel":
        """Inverse of `config` and `state`. Errors: ValueError for shapes or numbers that no fit gives."""
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        own = {
            part: kind(**{f.name: arrays[f"{part}.{f.name}"] for f in fields(kind)})
            for part, kind in _KINDS.items()
        }
        own |= {name: arrays[name] for name in ("mean", "covariance")}
        own |= {name: float(config[name]) for name in ("floor", "least", "known")}
        if "scored.low" in arrays:
            own["scored"] = Quantiles(**{f.name: arrays[f"scored.{f.name}"] for f in fields(Quantiles)})
        model = cls(**own, basis=config["basis"], given=int(config.get("given", 0)))
        if not _sound(model):
            raise ValueError("an anomaly model of shapes or numbers that no fit gives")
        return model

    @cached_property
    def _whitening(self) -> Array:
        """Map to principal coordinates of variance 1: [d, d]."""
        matrix = self.covariance
        if self.basis != "covariance":
            matrix = np.diag(np.diagonal(matrix))
        values, vectors = np.linalg.eigh(matrix)
        return np.asarray(vectors / np.sqrt(np.maximum(values, self.floor)))

    @cached_property
    def raised(self) -> Array:
        """The covariance of the Mahalanobis score, in standardized units: [d, d]."""
        inverse = np.linalg.inv(self._whitening)
        return np.asarray(inverse.T @ inverse)

    @cached_property
    def _correlation(self) -> Array:
        if self.basis != "covariance":
            return np.eye(len(self.mean))
        spread = np.sqrt(np.diagonal(self.raised))
        return np.asarray(self.raised / spread / spread[:, None])

    def _explained(self, matrix: Array) -> Array:
        """Regression of the other values on those given, under a covariance: [given, d - given]."""
        own = len(matrix) - self.given
        return np.asarray(np.linalg.solve(matrix[own:, own:], matrix[own:, :own]))

    def _distance(self, values: Array) -> Array:
        """Squared Mahalanobis distance of the other values, given the last ones: that of all less that of these."""
        whole = self.embed(values)
        squared = (whole**2).sum(1)
        if not self.given:
            return np.asarray(squared)
        own = len(self.mean) - self.given
        told = (self.standard.codes(values) - self.mean)[:, own:]
        theirs = (told * np.linalg.solve(self.raised[own:, own:], told.T).T).sum(1)
        return np.asarray(np.maximum(squared - theirs, 0.0))

    def _drawn_given(self, normal: Array, given: Array, wide: Array) -> Array:
        own = len(self.mean) - self.given
        padded = np.concatenate([np.zeros((len(given), own)), given], 1)
        # by their codes: conditions are few values, whose shares say little of how far apart they lie
        told = ((self.standard.codes(padded) - self.mean) / np.sqrt(np.diagonal(self.raised)))[:, own:]
        explained = self._explained(wide)
        rest = wide[:own, :own] - wide[:own, own:] @ explained
        drawn = told @ explained + normal[:, :own] @ np.linalg.cholesky(rest).T
        shares = ndtr(np.pad(drawn, ((0, 0), (0, self.given))))
        return np.concatenate([self.quantiles.at(shares)[:, :own], given], 1)

    def _tails(self, values: Array, codes: Array) -> Array:
        """Sum of -log tail shares; beyond what was told from none, a share falls with the standardized distance."""
        own = len(self.mean) - self.given
        below = self.quantiles.below(values)
        share = np.minimum(below, 1.0 - below) + self.least * np.exp(-np.abs(codes))
        shares = np.where(np.isnan(values), self.quantiles.gaps + self.least, share)
        return np.asarray(-np.log(np.clip(shares, 1e-300, 1.0))[:, :own].sum(1))

    def _public(self, values: Array) -> Array:
        bounds = self.quantiles
        half = bounds.width / 2
        public = replace(self.standard, center=bounds.low + half, spread=half)
        return np.asarray((public.codes(values) ** 2)[:, : len(self.mean) - self.given].sum(1))


_KINDS: dict[str, Any] = {"quantiles": Quantiles, "standard": Standard, "cells": Cells}
_PARTS = [(part, f.name) for part, kind in _KINDS.items() for f in fields(kind)]


def soft_limit(values: Array) -> Array:
    """Values beyond +-3 grow as 3 + log(|value| - 2), in steps of 1/256; [n, d] -> [n, d].

    Guarantee: by comparison with a public table, so that a value's result never depends on its neighbors, as that of
    a vectorized logarithm may in its last bit (guarantees.md rule 1).
    Edges: at most 19; infinite values are moved there, NaN stays.

    >>> soft_limit(np.array([-1.5, 3.0, -5.0, np.inf])).tolist()
    [-1.5, 3.0, -4.09765625, 19.0]
    """
    size = np.abs(values)
    limited = _LINEAR + np.searchsorted(_KNOTS, size, side="right") / _STEP
    return np.where(size > _LINEAR, np.copysign(limited, values), values)


def _looked_up(values: Array, knots: Array, results: Array) -> Array:
    """Linear interpolation of every column in its own knots, at once. Shapes: [n, d], [d, k], [d, k] -> [n, d]."""
    shift = _APART * np.arange(len(knots))
    return np.asarray(np.interp(values + shift, (knots + shift[:, None]).ravel(), results.ravel()))


def _product(rows: Array, matrix: Array) -> Array:
    """Rows @ matrix, each row by itself whatever its neighbors: [n, k], [k, d] -> [n, d]."""
    total = np.zeros((len(rows), matrix.shape[1]))
    for place, weights in enumerate(matrix):
        total = total + rows[:, place : place + 1] * weights
    return total


def _rising(quantiles: Quantiles, size: int) -> bool:
    """Whether these are distribution functions of so many columns."""
    place, share = quantiles.place, quantiles.share
    shaped = place.ndim == 2 and place.shape == share.shape == (size, place.shape[-1])
    rest = quantiles.low, quantiles.width, quantiles.gaps
    if not shaped or any(part.shape != (size,) for part in rest):
        return False
    finite = all(bool(np.isfinite(part).all()) for part in (place, share, *rest))
    return finite and bool(
        (np.diff(place) >= 0).all() and (np.diff(share) >= 0).all() and (rest[1] > 0).all()
    )


def _sound(model: DetectionModel) -> bool:
    """Whether all parts fit together, and every score of any record will be a finite number."""
    quantiles, standard, size = model.quantiles, model.standard, len(model.mean)
    columns = (*(getattr(standard, f.name) for f in fields(Standard)), quantiles.low, quantiles.width)
    arrays = [getattr(getattr(model, part), name) for part, name in _PARTS] + [model.mean, model.covariance]
    return (
        all(part.shape == (size,) for part in (*columns, quantiles.gaps))
        and model.covariance.shape == (size, size)
        and int(model.cells.sizes.sum()) == len(model.cells.shares)
        and all(bool(np.isfinite(part).all()) for part in arrays)
        and _rising(quantiles, size)
        and bool(min(standard.spread.min(), quantiles.width.min(), model.floor, model.least) > 0)
        and bool((quantiles.gaps >= 0).all() and (quantiles.gaps <= 1).all())
        and all(map(math.isfinite, (model.floor, model.least, model.known)))
        and model.basis in ("covariance", "diagonal", "public")
        and 0 <= model.given < size
        and (model.scored is None or _rising(model.scored, 1))
    )
