"""Anomalies in time series: days, homes, windows of one room, days of one house, and readings of single series."""

import math
from typing import Any

import numpy as np
import pandas as pd
from harness import SHARED, Report
from series_data import (
    Split,
    appliances,
    beside,
    by_lot,
    data_free,
    italy,
    measured,
    occupancy,
    ours,
    seeds,
    size_of,
    winter,
    winter_homes,
)

from privae import VAE
from privae.errors import PrivaeError
from privae.evaluate.detection import range_figures
from privae.fitted.following import points
from privae.series.schema import SeriesSchema

DRAWS = 15  # of the noise, a split
HOMES = {100: 15, 300: 10, 1000: 5, 3000: 3, 10_000: 1}  # draws of noise a split, by homes
DEFAULT_DELTA = 1e-6
FAMILIES = ("realKnownCause", "realAWSCloudwatch")
WIDTH, FEWEST, PART = (
    24,
    60,
    0.4,
)  # steps of a window, fewest windows fitted, share of a series that is fitted


def fits(
    report: Report, splits: dict[int, Split], epsilons: tuple[float, ...], draws: int, **more: Any
) -> dict[float, dict[str, float]]:
    """Rows of private fits at every epsilon, and at epsilon 1 with the delta that nobody chose."""
    found = {}
    first = next(iter(splits.values()))
    for epsilon, delta in [*((e, None) for e in epsilons), (1.0, DEFAULT_DELTA)]:
        told = {"epsilon": str(epsilon), "delta": "rows^-1.1" if delta is None else f"{delta:g}"}
        told |= size_of(first, epsilon, delta)
        times = draws if math.isfinite(epsilon) else 1
        auc = measured(report, splits, ours(epsilon, delta), times, **more, who="privae", **told)
        found.setdefault(epsilon, auc)
    return found


def days(report: Report, options: Any) -> None:
    """Summer days among winter days, the unit a day."""
    splits = {seed: winter(*italy(options.sktime), seed) for seed in seeds(report)}
    more = {"part": "italy", "set": "Italy, day"}
    found = fits(report, splits, (1.0, 3.0, 10.0, math.inf), DRAWS, **more)
    beside(report, splits, **more)
    report.check("Italy, days: AUC of mahalanobis at epsilon 1", found[1.0]["mahalanobis"], 0.94, "at_least")
    lost = found[math.inf]["mahalanobis"] - found[1.0]["mahalanobis"]
    report.check("Italy, days: AUC that noise costs mahalanobis", lost, 0.02, "at_most")


def population(report: Report, options: Any) -> None:
    """Homes that are 30 winter days each, the unit a home; days are scored."""
    loaded = italy(options.sktime)
    for count, draws in HOMES.items():
        if report.quick and count > 300:
            continue
        splits = {seed: winter_homes(*loaded, count, seed) for seed in seeds(report)}
        more = {"part": "homes", "set": f"{count} homes"}
        found = fits(report, splits, (1.0, math.inf), draws, **more)
        if count == 1000:
            auc = found[1.0]["mahalanobis"]
            report.check("1,000 homes: AUC of mahalanobis at epsilon 1", auc, 0.95, "at_least")
    for scored in (by_lot, data_free):
        measured(report, splits, scored, part="homes", set="any number of homes", who="without data")


def room(report: Report, _: Any) -> None:
    """One room: the unit a window of 16 minutes, and a day. One split, which the set came with."""
    for unit in ("window", "day"):
        splits = {0: occupancy(unit)}
        more = {"part": "occupancy", "set": f"Occupancy, {unit}"}
        fits(report, splits, (1.0, 3.0, 10.0, math.inf), 3 * DRAWS, **more)
        if unit == "window":
            beside(report, splits, **more)


def house(report: Report, _: Any) -> None:
    """One house: the unit a day, of which half of the scored ones were changed."""
    splits = {seed: appliances(seed) for seed in seeds(report)}
    more = {"part": "appliances", "set": "Appliances, day"}
    fits(report, splits, (1.0, 3.0, 10.0, math.inf), DRAWS, **more)
    beside(report, splits, **more)


def above(most: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is at least a fifth above a number."""
    size = 10.0 ** math.floor(math.log10(1.2 * most))
    return next(size * digit for digit in (1, 2, 5, 10) if size * digit >= 1.2 * most)


def single(frame: pd.DataFrame) -> tuple[SeriesSchema, pd.DataFrame, pd.DataFrame, int] | None:
    """The schema of one series, its fitted and its scored part, and windows to declare; None where there are few."""
    frame = frame.sort_values("timestamp")
    step = max(int(frame["timestamp"].diff().dt.total_seconds().median()), 1)
    first = int(PART * len(frame))
    count = first // WIDTH
    fitted, tested = frame.iloc[:first], frame.iloc[first:]
    if count < FEWEST or not tested["label"].any():
        return None
    low, high = fitted["value"].min(), above(fitted["value"].abs().max())
    bounds = [0.0 if low >= 0 else -high, high]
    text = (
        f'[series]\ntime = "timestamp"\nstep = "{step}s"\nwindow = "{WIDTH * step}s"\nunit = "window"\n'
        f'[channels.value]\nkind = "numeric"\nbounds = {bounds}\n'
    )
    return SeriesSchema.loads(text), fitted, tested, round(count, -1)


def steps_of(schema: SeriesSchema, tested: pd.DataFrame) -> pd.DataFrame:
    """Whether a step has an anomaly, and how far its mean is from the middle of the bounds."""
    low, high = schema.channels[0].bounds or (0.0, 1.0)
    step = schema.seconds[0]
    seconds = tested["timestamp"].to_numpy("datetime64[s]").astype(np.int64)
    place = pd.Series((seconds // step * step).astype("datetime64[s]"), name="timestamp")
    grouped = tested.assign(timestamp=place.to_numpy()).groupby("timestamp")
    distance = ((grouped["value"].mean() - (low + high) / 2) / (high - low)) ** 2
    return pd.DataFrame({"label": grouped["label"].max(), "distance": distance})


def ranges(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float, float, float]:
    """VUS-ROC, VUS-PR, AUC and average precision of points."""
    found = range_figures(scores, truth, WIDTH)
    return found["vus_roc"], found["vus_pr"], found["auc"], found["average_precision"]


def followed(schema: SeriesSchema, parts: tuple[pd.DataFrame, pd.DataFrame], rows: int, epsilon: float):
    """Scores of readings by a fit to the first part, by time; None where it is refused."""
    try:
        vae = VAE(epsilon, rows**-1.1, rows, schema=schema).fit(parts[0])
        return points(vae.fitted_, parts[1]).set_index("timestamp")["score"]
    except PrivaeError:
        return None


def nab(report: Report, _: Any) -> None:
    """Single series: the first 40 % fitted without a look at labels, the unit a window; readings of the rest scored."""
    frame = pd.read_parquet(SHARED / "nab.parquet")
    chosen = frame[frame["series"].str.split("/").str[0].isin(FAMILIES)]
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    refused: dict[tuple[str, str], int] = {}
    names = [name for name, own in chosen.groupby("series") if single(own) is not None]
    for name in names[: 2 if report.quick else None]:
        own = single(chosen[chosen["series"] == name])
        assert own is not None
        schema, fitted, tested, rows = own
        steps = steps_of(schema, tested)
        family, truth = str(name).split("/")[0], steps["label"].to_numpy() > 0
        rng = np.random.default_rng(0)
        lots = [ranges(rng.random(len(truth)), truth) for _ in range(3)]
        found.setdefault((family, "random"), []).append(tuple(np.mean(lots, 0)))
        found.setdefault((family, "data-free"), []).append(ranges(steps["distance"].to_numpy(), truth))
        for epsilon in (1.0, 10.0, math.inf):
            key, each = (family, str(epsilon)), []
            for _ in range(5 if math.isfinite(epsilon) and not report.quick else 1):
                scores = followed(schema, (fitted, tested), rows, epsilon)
                refused[key] = refused.get(key, 0) + (scores is None)
                # a window of few readings has no score: as ordinary as can be
                values = np.zeros(len(truth)) if scores is None else scores.reindex(steps.index).fillna(0.0)
                each.append(ranges(np.asarray(values), truth))
            found.setdefault(key, []).append(tuple(np.mean(each, 0)))
    keys = [*found, *(("both", who) for who in dict.fromkeys(who for _, who in found))]
    for family, who in keys:
        rows_of = [
            row
            for (one, other), each in found.items()
            if other == who
            for row in each
            if family in (one, "both")
        ]
        mean = dict(zip(("vus_roc", "vus_pr", "auc", "ap"), np.mean(rows_of, 0).tolist(), strict=True))
        times = sum(n for (one, other), n in refused.items() if other == who and family in (one, "both"))
        ours_too = {"epsilon": who} if who[0] in "1i" else {}
        more = {"who": "privae" if ours_too else who, **ours_too, "series": len(rows_of), **mean}
        report.row(part="nab", set=family, **more, **({"refused": times} if times else {}))
