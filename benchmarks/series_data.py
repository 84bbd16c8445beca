"""Data of the benchmark of time series, as tables with public schemas, and models without privacy beside ours."""

import importlib.util
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from harness import SHARED, Report
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from privae import VAE
from privae.errors import PrivaeError
from privae.models.scores import SCORES
from privae.privacy.accountant import gaussian_mu
from privae.series.clock import MONDAY
from privae.series.schema import SeriesSchema
from privae.series.waves import Waves
from privae.series.windows import Windows, windows

SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
WINTER, SUMMER = 1, 2  # October to March, and the rest
FITTED_DAYS = 410
START = pd.Timestamp("2001-01-01")  # a Monday
WHEEL = "sktime-*.whl"
NO_WHEEL = f"no {WHEEL}: pip download --no-deps sktime==1.2.0, and name the wheel or its folder with --sktime"

POWER = """
[series]
time = "time"
step = "1h"
window = "1d"
{more}
[channels.power]
kind = "numeric"
bounds = [{low}, {high}]
"""
OCCUPANCY = """
[series]
time = "date"
step = "1min"
window = "16min"
unit = "{unit}"
[channels.Temperature]
kind = "numeric"
bounds = [15, 30]
[channels.Humidity]
kind = "numeric"
bounds = [10, 60]
[channels.CO2]
kind = "numeric"
bounds = [300, 2500]
[channels.HumidityRatio]
kind = "numeric"
bounds = [0, 0.01]
"""
HOME = 'unit = "household"\nid = "home"\n'


def power(more: str, low: float = -4, high: float = 4) -> SeriesSchema:
    """Days of power, hour by hour. Italy's days are standardized by somebody else: -4 to 4 is no look at the data."""
    return SeriesSchema.loads(POWER.format(more=more, low=low, high=high))


@dataclass(frozen=True)
class Split:
    """Readings to fit, readings to score, and which of the windows of these are anomalies, [w]."""

    schema: SeriesSchema
    fitted: pd.DataFrame
    tested: pd.DataFrame
    truth: np.ndarray
    rows: int  # declared units

    @cached_property
    def cut(self) -> tuple[Windows, Windows]:
        """Windows of both."""
        return windows(self.fitted, self.schema)[0], windows(self.tested, self.schema)[0]

    @cached_property
    def raw(self) -> tuple[np.ndarray, np.ndarray]:
        """Readings of both in 0 to 1, [w, t, c]; a gap is the middle of its bounds."""
        found = [np.nan_to_num(part.values, nan=0.5) for part in self.cut]
        return found[0], found[1]


Scores = dict[str, np.ndarray]
Scorer = Callable[[Split, int], Scores]


def italy(given: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """ItalyPowerDemand: standardized power of 1,096 days by the hour, [d, 24], and the half of the year, [d]."""
    places = [given] if given is not None and given.is_file() else sorted((given or SHARED).glob(WHEEL))
    if not places:
        raise SystemExit(NO_WHEEL)
    lines: list[str] = []
    with zipfile.ZipFile(places[-1]) as wheel:
        for part in ("TRAIN", "TEST"):
            name = f"sktime/datasets/data/ItalyPowerDemand/ItalyPowerDemand_{part}.ts"
            text = wheel.read(name).decode().splitlines()
            lines += [line for line in text if line and line[0] not in "#@"]
    pairs = [line.rsplit(":", 1) for line in lines]
    days = np.array([[float(value) for value in values.split(",")] for values, _ in pairs])
    return days, np.array([int(label) for _, label in pairs])


def table(days: np.ndarray, **columns: Any) -> pd.DataFrame:
    """One day after the other by the hour: [d, 24]."""
    time = START + pd.to_timedelta(np.arange(days.size), unit="h")
    return pd.DataFrame({**columns, "time": time, "power": days.ravel()})


def winter(days: np.ndarray, half: np.ndarray, seed: int) -> Split:
    """Winter days to fit; the other winter days, and all summer days, which are the anomalies."""
    normal = np.random.default_rng(seed).permutation(np.flatnonzero(half == WINTER))
    tested = np.concatenate([days[normal[FITTED_DAYS:]], days[half == SUMMER]])
    truth = np.arange(len(tested)) >= len(normal) - FITTED_DAYS
    return Split(power('unit = "day"\n'), table(days[normal[:FITTED_DAYS]]), table(tested), truth, 400)


def homes(pool: np.ndarray, count: int, each: int, rng: np.random.Generator) -> pd.DataFrame:
    """Homes of so many days of a pool, each drawn by lot: [d, 24]."""
    days = pool[rng.integers(0, len(pool), (count, each))]
    time = (START + pd.to_timedelta(np.arange(each * 24), unit="h")).to_numpy("datetime64[s]")
    who = np.repeat(np.arange(count), each * 24)
    return pd.DataFrame({"home": who, "time": np.tile(time, count), "power": days.reshape(-1)})


def winter_homes(days: np.ndarray, half: np.ndarray, count: int, seed: int) -> Split:
    """Homes of 30 days of one half of the winter days; the other half, and all summer days, are scored day by day."""
    rng = np.random.default_rng(seed)
    normal = rng.permutation(np.flatnonzero(half == WINTER))
    first = len(normal) // 2
    tested = np.concatenate([days[normal[first:]], days[half == SUMMER]])
    truth = np.arange(len(tested)) >= len(normal) - first
    fitted = homes(days[normal[:first]], count, 30, rng)
    return Split(power(HOME + "windows = 30"), fitted, table(tested, home=0), truth, count)


def occupancy(unit: str) -> Split:
    """Windows of 16 minutes of four sensors (light alone tells all): unoccupied ones fitted, others scored."""
    frame = pd.read_parquet(SHARED / "occupancy.parquet")
    schema = SeriesSchema.loads(OCCUPANCY.format(unit=unit))
    seconds = pd.to_datetime(frame["date"]).to_numpy("datetime64[s]").astype(np.int64)
    place = (seconds - MONDAY) // schema.seconds[1]
    occupied = frame["Occupancy"].groupby(place).max()
    train = (frame["split"] == "train").to_numpy()
    empty = occupied.reindex(place).to_numpy() == 0
    tested = frame[~train]
    cut = windows(tested, schema)[0]
    truth = occupied.reindex((cut.start - MONDAY) // schema.seconds[1]).to_numpy() > 0
    return Split(schema, frame[train & empty], tested, truth, 400 if unit == "window" else 8)


def appliances(seed: int) -> Split:
    """Days of one house's appliances (log10 of Wh): six tenths fitted; the others, and changed copies of these."""
    rng = np.random.default_rng(seed)
    frame = pd.read_parquet(SHARED / "appliances_energy.parquet")
    shown = pd.DataFrame({"time": frame["date"], "power": np.log10(frame["Appliances"].clip(10, 1000))})
    schema = power('unit = "day"\n', 1, 3)
    days = 1 + 2 * windows(shown, schema)[0].values[:, :, 0]
    days = rng.permutation(days[~np.isnan(days).any(1)])
    first = int(0.6 * len(days))
    normal = days[first:]
    odd = normal.copy()
    for place, day in enumerate(odd):
        if place % 3 == 0:
            day[:] = np.roll(day, 12)  # night and day are exchanged
        elif place % 3 == 1:
            at = rng.integers(0, 18)
            day[at : at + 6] = np.minimum(day[at : at + 6] + 0.5, 3)  # six hours of three times the power
        else:
            day[:] = day.mean()
    truth = np.arange(2 * len(normal)) >= len(normal)
    return Split(schema, table(days[:first]), table(np.concatenate([normal, odd])), truth, 80)


def ours(epsilon: float, delta: float | None = None) -> Scorer:
    """All scores of a private fit; zeros where it is refused, or has nothing but the bounds to score by."""

    def scored(split: Split, _: int) -> Scores:
        try:
            vae = VAE(epsilon, delta or split.rows**-1.1, split.rows, schema=split.schema)
            vae.fit(split.fitted)
            return {score: vae.decision_function(split.tested, score) for score in SCORES}
        except PrivaeError:
            return {score: np.zeros(len(split.truth)) for score in SCORES}

    return scored


def size_of(split: Split, epsilon: float, delta: float | None = None) -> dict[str, float]:
    """Units fitted, numbers of a window, and units times mu over numbers: public, but for the first."""
    made = VAE(epsilon, delta or split.rows**-1.1, split.rows, schema=split.schema)
    frequencies = int(made.plan().settings["frequencies"] or 0)
    numbers = Waves(split.schema, frequencies).size
    units = int(split.cut[0].unit[-1]) + 1
    mu = gaussian_mu(epsilon, delta or split.rows**-1.1)
    more = {} if np.isinf(mu) else {"n_mu_over_d": round(units * mu / numbers, 1)}
    return {"n": units, "numbers": numbers, **more}


def by_lot(split: Split, seed: int) -> Scores:
    return {"random": np.random.default_rng(seed).random(len(split.truth))}


def data_free(split: Split, _: int) -> Scores:
    """The squared norm of a window's numbers in public units: no fit at all."""
    waves = Waves(split.schema, 8)
    center, spread = waves.usual
    values = (waves.numbers(split.cut[1]) - center) / spread
    return {"norm": (np.nan_to_num(values) ** 2).sum(1)}


def forest(split: Split, seed: int) -> Scores:
    fitted, tested = (part.reshape(len(part), -1) for part in split.raw)
    return {"IsolationForest": -IsolationForest(random_state=seed).fit(fitted).score_samples(tested)}


def components(split: Split, _: int) -> Scores:
    """What components of 90 % of the variance leave of standardized readings."""
    fitted, tested = (part.reshape(len(part), -1) for part in split.raw)
    scaler = StandardScaler().fit(fitted)
    reduced = PCA(0.9).fit(scaler.transform(fitted))
    records = scaler.transform(tested)
    back = reduced.inverse_transform(reduced.transform(records))
    return {"PCA residual": ((records - back) ** 2).sum(1)}


def of_pyod(split: Split, seed: int) -> Scores:
    """PyOD's models of flat windows, as they come."""
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.ecod import ECOD
    from pyod.models.iforest import IForest
    from pyod.models.pca import PCA as Components

    models = {
        "IForest": IForest(random_state=seed),
        "ECOD": ECOD(),
        "PCA": Components(random_state=seed),
        "AutoEncoder": AutoEncoder(random_state=seed, verbose=0),
    }
    fitted, tested = (part.reshape(len(part), -1) for part in split.raw)
    found = {}
    for name, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[f"PyOD {name}"] = model.fit(fitted).decision_function(tested)
    return found


def convolutional(split: Split, seed: int) -> Scores:
    """A small convolutional autoencoder of raw windows, without privacy: 8 codes, 200 passes."""
    torch.manual_seed(seed)
    fitted, tested = (torch.from_numpy(part).float().transpose(1, 2) for part in split.raw)
    center, spread = fitted.mean((0, 2), keepdim=True), fitted.std((0, 2), keepdim=True)
    fitted, tested = (fitted - center) / spread, (tested - center) / spread
    _, channels, steps = fitted.shape
    network = nn.Sequential(
        *(nn.Conv1d(channels, 16, 5, 2, 2), nn.ReLU(), nn.Conv1d(16, 32, 5, 2, 2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * steps, 8), nn.Linear(8, 8 * steps), nn.ReLU()),
        *(nn.Unflatten(1, (32, steps // 4)), nn.ConvTranspose1d(32, 16, 4, 2, 1), nn.ReLU()),
        nn.ConvTranspose1d(16, channels, 4, 2, 1),
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(200):
        for batch in torch.randperm(len(fitted)).split(64):
            optimizer.zero_grad()
            ((network(fitted[batch]) - fitted[batch]) ** 2).mean().backward()
            optimizer.step()
    with torch.no_grad():
        return {"convolutional autoencoder": ((network(tested) - tested) ** 2).mean((1, 2)).numpy()}


PEERS: dict[str, tuple[Scorer, ...]] = {
    "without data": (by_lot, data_free),
    "sklearn, without privacy": (forest, components),
    "torch, without privacy": (convolutional,),
}
if importlib.util.find_spec("pyod") is not None:
    PEERS[f"PyOD {version('pyod')}, without privacy"] = (of_pyod,)


def figures(splits: dict[int, Split], scored: Scorer, draws: int) -> Iterator[dict[str, Any]]:
    """Mean and spread of AUC and average precision over splits and draws of noise, a row a score."""
    found: dict[str, list[tuple[float, float]]] = {}
    refused = 0
    for seed, split in splits.items():
        for draw in range(draws):
            scores = scored(split, 1000 * draw + seed)
            refused += all(np.ptp(values) == 0 for values in scores.values())
            for score, values in scores.items():
                both = (
                    roc_auc_score(split.truth, values),
                    average_precision_score(split.truth, values),
                )
                found.setdefault(score, []).append(both)
    for score, each in found.items():
        (auc, precision), spread = np.mean(each, 0).tolist(), np.std(each, 0).tolist()
        yield {
            "score": score,
            "auc": auc,
            "auc_std": spread[0],
            "ap": precision,
            "ap_std": spread[1],
            **({"refused": refused, "of": len(each)} if refused else {}),
        }


def measured(
    report: Report, splits: dict[int, Split], scored: Scorer, draws: int = 1, **more: Any
) -> dict[str, float]:
    """Rows of one fit; the AUC of each score."""
    found = list(figures(splits, scored, 1 if report.quick else draws))
    for row in found:
        report.row(**more, **row)
    return {row["score"]: row["auc"] for row in found}


def beside(report: Report, splits: dict[int, Split], **more: Any) -> None:
    """Rows of every model that is not ours."""
    for who, each in PEERS.items():
        for scored in each:
            measured(report, splits, scored, **more, who=who)
    if not any(who.startswith("PyOD") for who in PEERS):
        report.not_measured.append({"name": f"PyOD, {more['part']}", "reason": "PyOD is not installed"})


def seeds(report: Report) -> tuple[int, ...]:
    return QUICK_SEEDS if report.quick else SEEDS
