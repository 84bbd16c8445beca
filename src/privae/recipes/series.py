"""Time series: windows as few numbers, then the two releases of anomaly detection, of the mean window of each unit.

A unit (a household with all of its rows, a day, or a window) adds the mean of its windows' counts and moments, so any
stride is allowed and no number of windows needs a cap; see `sums.units`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import ndtr

from privae.errors import DataError, UsageError
from privae.fitted.series import MOST_PLACES, UNIT, FittedSeries, FittedSeriesNetwork, records_of
from privae.fitted.tensors import no_labels
from privae.fitted.units import WEEK, Units
from privae.models.likelihoods import Gappy
from privae.models.scores import SCALE, Cells, DetectionModel, Quantiles, Standard
from privae.models.windows import HIDDEN, WindowNetwork
from privae.plan import Phase, Setting
from privae.privacy.accountant import gaussian_mu
from privae.recipes import detection, gradients
from privae.recipes.detection import Counted, Records, Trust
from privae.recipes.gradients import Training
from privae.recipes.phases import Budget, Draft, Run, statistics
from privae.series.schema import SeriesSchema
from privae.series.waves import FEWEST, MOST, Waves, conditions
from privae.series.windows import lanes_of
from privae.sums import quantiles, units
from privae.sums.quantiles import Layout
from privae.sums.standard import clipped_codes

Array = NDArray[np.float64]

FREQUENCIES, ONE_PHASE, COUNT = "frequencies", "one_phase", "count"
TRUST = Trust(4.0, 0.5)
"""Frequencies hang together so much that covariances with more noise still help."""
TRUST_OF_FEW = Trust(3.0, 0.5)
_EACH, _EACH_OF_FEW = 5.5, 4.0  # n mu a number that is released
_USUAL = 6  # frequencies a lane, where no units are declared
_FEW = 30.0  # n mu below which nothing is spent on quantiles
_FINE = (
    (300.0, 0.08),
    (3000.0, 0.02),
    (math.inf, 0.005),
)  # n mu, and how finely numbers are counted below it
_COUNT_SHARE = 0.1
_PER_NOISE = 10.0  # units per standard deviation of a count, from which quantiles are trusted
PLACES, SCORES, _SCORE_SHARE = "places", "scores", 0.1
_SCORED = Layout(quantiles.grid([0], [SCALE], [4]), np.zeros(0, np.int64))
_VARIANCE = 0.02  # public: of readings in -1 to 1 around their means
SERIES = Training(network="convolution", latent=4, hidden=HIDDEN["convolution"], learning_rate=1e-2)
"""What gradients of series are by default: a small convolutional network."""
_CERTAIN = 3.0
_HINT = "See, too, that times read like 2026-11-30 14:05:00, and that windows have enough readings"
_NOTE = "few units for this epsilon: numbers keep public units, and only their moments are released"


def trained(training: Training | None) -> Training:
    """The choices with sizes and a rate for windows, where those of other data were left as they are.

    >>> trained(Training(network="recurrent")).hidden
    (48,)
    """
    if training is None or training.network == "perceptron":
        return training or SERIES
    usual, rate = Training(), SERIES.learning_rate * (2 if training.network == "recurrent" else 1)
    own: dict[str, Any] = {"hidden": HIDDEN[training.network], "latent": SERIES.latent, "learning_rate": rate}
    return replace(
        training, **{name: to for name, to in own.items() if getattr(training, name) == getattr(usual, name)}
    )


def frequencies_for(schema: SeriesSchema, budget: Budget) -> int:
    """How many frequencies a lane: as many as carry a covariance, by n mu / d with the declared n; 2 to 12.

    Public: a function of the schema and the budget.
    """
    lanes, most = len(lanes_of(schema)), min(MOST, schema.steps - 1)
    signal = _signal(budget)
    if signal is None:
        return min(_USUAL, most)
    fixed = conditions(schema) + sum(column.missing for column in schema.channels)
    within = (signal / (_EACH_OF_FEW if signal < _FEW else _EACH) - fixed) / lanes - 1
    return int(max(min(within, most), min(FEWEST, most)))


def _signal(budget: Budget) -> float | None:
    """The declared n times mu, infinite without noise; None where no units are declared."""
    mu = gaussian_mu(budget.epsilon, budget.accountant_delta)
    return mu if math.isinf(mu) else None if budget.rows is None else budget.rows * mu


def _needed(size: int, noisy: Sequence[Phase]) -> float:
    """Units from which covariances are trusted and quantiles read."""
    mu = detection.mu_of(noisy)
    if noisy[0].name != detection.QUANTILES:
        return max(TRUST_OF_FEW.full * size, _FEW) / mu
    return max(TRUST.full * size / mu, _PER_NOISE * noisy[0].mechanism().std)


def waves_for(schema: SeriesSchema, budget: Budget) -> Waves:
    """What is released of a window: public."""
    signal = _signal(budget)
    unit = next(unit for most, unit in _FINE if (_FINE[0][0] if signal is None else signal) <= most)
    return Waves(schema, frequencies_for(schema, budget), unit)


@dataclass(frozen=True)
class SeriesRecipe:
    """How time series are fitted: by two releases of statistics, or by gradients of units."""

    schema: SeriesSchema
    by_gradients: bool = False
    training: Training = SERIES

    def draft(self, budget: Budget) -> Draft:
        """The phases of the fit. Errors: UsageError for a schema or a budget that series cannot be fitted with."""
        self.schema.check()
        if budget.strict:
            raise UsageError("strict is for tables; of series, values are clipped to their bounds")
        detection.check_closed_form(budget)
        if self.by_gradients:
            return self._draft_of_network(budget)
        waves = waves_for(self.schema, budget)
        expected = 3.0 + 1e-4 * (budget.rows or 1000), 600.0
        made = detection.drafted(waves.layout, budget, TRUST.full, expected, units.REPLACE_RATIO)
        settings: dict[str, Setting] = {
            "unit": self.schema.unit,
            FREQUENCIES: waves.frequencies,
            UNIT: waves.unit,
        }
        if (_signal(budget) or math.inf) < _FEW:
            count = statistics(COUNT, _COUNT_SHARE, 1.0, 1.0)
            moments = made.phases[-1].model_copy(update={"share": 1.0 - _COUNT_SHARE})
            made = replace(made, phases=(count, moments), notes=(_NOTE,))
            settings |= {ONE_PHASE: True}
        if self.schema.threshold == "released":
            made = _with_scores(made)
        return replace(made, recipe="series", settings=settings, rows_needed=partial(_needed, waves.size))

    def _draft_of_network(self, budget: Budget) -> Draft:
        if self.schema.conditions:
            raise UsageError(
                "gradients take no conditions: windows have places in a cycle instead; leave them out"
            )
        if self.schema.threshold == "released":
            raise UsageError("gradients release no scores: leave threshold out, or fit with recipe auto")
        if self.training.share != "all" or self.training.local is not None:
            raise UsageError(
                "gradients of series train the whole network, at one place; leave out share and local"
            )
        network = self._network()
        made = gradients.draft(network.config.inputs, 1, network, self.training, budget)
        places: dict[str, Setting] = {"unit": self.schema.unit, PLACES: network.config.windows}
        return replace(made, settings={**made.settings, **places})

    def _network(self, places: int | None = None) -> WindowNetwork:
        """The network of the training, of a week's windows, 16 at most; its weights are from a fixed public seed."""
        training = self.training
        if training.network == "perceptron":
            raise UsageError('series are read by network="convolution" or "recurrent"; see Training')
        own = Units(self.schema)
        most = 1 if training.network == "recurrent" else min(max(WEEK // own.apart, 1), MOST_PLACES)
        config: dict[str, Any] = {
            "windows": places or min(own.each, most),
            "steps": self.schema.steps,
            "channels": len(lanes_of(self.schema)),
            "latent": training.latent,
            "kind": training.network,
            "hidden": training.hidden,
        }
        return WindowNetwork.from_config(config, torch.Generator().manual_seed(0))

    def _fit_network(self, run: Run, data: pd.DataFrame) -> FittedSeriesNetwork:
        network = self._network(int(run.plan.settings[PLACES] or 0))
        records = records_of(data, self.schema, network.config.windows, strict=False)
        likelihood = Gappy(network.config.inputs, _VARIANCE)
        model = gradients.fit(run, (records, no_labels(len(records)).numpy()), likelihood, 1, network)
        return FittedSeriesNetwork(self.schema, model)

    def check(self, data: pd.DataFrame, labels: NDArray[Any] | None, strict: bool) -> None:  # noqa: ARG002
        """Refuse labels, which series have not."""
        if labels is not None:
            raise UsageError("series have no labels y; fit to what is ordinary, and score the rest")

    def fit(
        self,
        run: Run,
        data: pd.DataFrame,
        labels: NDArray[Any] | None = None,  # noqa: ARG002
    ) -> FittedSeries | FittedSeriesNetwork:
        """Fit as the plan says. Errors: DataError when the released counts say that there is nothing to learn from."""
        if self.by_gradients:
            return self._fit_network(run, data)
        settings = run.plan.settings
        waves = Waves(self.schema, int(settings[FREQUENCIES] or 0), float(settings[UNIT] or 0))
        values, unit = FittedSeries.read(waves, data, strict=False)
        detection.check_size(np.unique(unit))
        records = Records(values, np.zeros((len(values), 0), np.int64), unit)
        try:
            one = bool(settings.get(ONE_PHASE))
            model = (
                in_one_phase(run, records, waves)
                if one
                else detection.fitted(run, records, waves.layout, TRUST)
            )
        except DataError as error:
            raise DataError(f"{error}. {_HINT}") from None
        model = replace(model, given=waves.given)
        if self.schema.threshold == "released":
            found = _scored(run, model, records)
            model = model if model.basis == "public" else replace(model, scored=found)
        return FittedSeries(self.schema, model)


def _with_scores(made: Draft) -> Draft:
    """The draft, followed by a phase that releases how scores are distributed among units."""
    last = statistics(SCORES, _SCORE_SHARE, _SCORED.sensitivity, math.sqrt(2), size=_SCORED.size)
    rest = [p.model_copy(update={"share": p.share * (1 - _SCORE_SHARE)}) for p in made.phases]
    return replace(made, phases=(*rest, last))


def _scored(run: Run, model: DetectionModel, records: Records) -> Quantiles:
    """The released distribution of the scores of units' windows, each unit counting once."""
    run.watch.phase(SCORES, 1)
    places = Records(model.cells_of(records.values), records.codes, records.unit)
    total, whole = detection.totals_of(places, _SCORED)
    released = run.release(SCORES, [(total, 1.0 / whole)])[0] / whole
    run.watch.advance(1)
    count = float(quantiles.totals(released, _SCORED.grid)[0])
    found = quantiles.quantiles(released, _SCORED.grid, max(count, 1.0), run.deviation(SCORES))
    return replace(found, gaps=np.zeros(1))


def in_one_phase(run: Run, records: Records, waves: Waves) -> DetectionModel:
    """The model of few units: a count, and moments of numbers in public units; normal distributions of these.

    Errors: DataError when the released count says that there is nothing to learn from.
    """
    run.watch.phase(COUNT, 1)
    assert records.unit is not None
    units_there = int(records.unit[-1]) + 1 if len(records.unit) else 0
    count = float(run.release(COUNT, [(np.array([units_there]), 1.0)])[0][0])
    run.watch.advance(1)
    if count <= max(_CERTAIN * run.deviation(COUNT), 1.0):
        raise DataError(
            "the released number of units cannot be told from none at this epsilon: too few; give more, or a larger "
            "epsilon"
        )
    grid = waves.layout.grid
    standard = Standard(waves.usual[0], waves.usual[1], grid.low, grid.width)
    found = detection.released_moments(run, clipped_codes(records.values, standard), records.unit)
    flat = normal_quantiles(np.zeros(len(grid)), np.ones(len(grid)), standard)
    none = Cells(np.zeros(0, np.int64), np.zeros(0))
    noise = run.deviation(detection.MOMENTS) / count
    model = detection.model_of(run, Counted(flat, none, count, noise), standard, found, TRUST_OF_FEW)
    spread = np.sqrt(np.maximum(np.diagonal(model.covariance), model.floor))
    model = replace(model, quantiles=normal_quantiles(model.mean, spread, standard))
    run.watch.note(_NOTE)
    return model


def normal_quantiles(mean: Array, spread: Array, standard: Standard) -> Quantiles:
    """Normal distribution functions of numbers within their bounds. Shapes: [d], [d], in standardized units."""
    z = np.linspace(-4.0, 4.0, 33)
    center = mean * standard.spread + standard.center
    at = (center[:, None] + z * (spread * standard.spread)[:, None] - standard.low[:, None]) / standard.width[
        :, None
    ]
    ends = np.ones((len(mean), 1))
    place = np.concatenate([0 * ends, np.clip(at, 0.0, 1.0), ends], 1)
    share = np.concatenate([0 * ends, np.tile(ndtr(z), (len(mean), 1)), ends], 1)
    return Quantiles(standard.low, standard.width, place, share, np.zeros(len(mean)))
