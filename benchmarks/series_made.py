"""Made-up series: how close they are to real ones, what they teach, and what gradients make of the same homes."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness import Report
from series_data import (
    HOME,
    START,
    SUMMER,
    WINTER,
    Split,
    italy,
    power,
    seeds,
    table,
    winter_homes,
)
from sklearn.metrics import roc_auc_score

from privae import VAE
from privae.evaluate.series import next_step, profile_distance, series_figures
from privae.report import picture
from privae.series.clock import DAY, MONDAY
from privae.series.schema import SeriesSchema
from privae.series.windows import windows

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # real, made-up, held-out windows
PICTURES = Path(__file__).parent.parent / "docs" / "explain"
HOMES, WEEKS, DRAWS = 1000, 4, 3
UNIT = (np.zeros(1), np.ones(1))  # windows are cut in units of their bounds
GRADIENT_HOMES = (1000, 10_000)


def weekly(days: np.ndarray, half: np.ndarray, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Homes with weekdays of the one half of the year and weekends of the other, for some weeks."""
    pools = [days[half == which] for which in (WINTER, SUMMER)]
    drawn = [pool[rng.integers(0, len(pool), (count, 7 * WEEKS))] for pool in pools]
    weekend = np.arange(7 * WEEKS) % 7 >= 5
    values = np.where(weekend[:, None], drawn[1], drawn[0])
    hours = (START + pd.to_timedelta(np.arange(7 * WEEKS * 24), unit="h")).to_numpy("datetime64[s]")
    who = np.repeat(np.arange(count), len(hours))
    return pd.DataFrame({"home": who, "time": np.tile(hours, count), "power": values.reshape(-1)})


def halves(days: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(days))
    return order[: len(days) // 2], order[len(days) // 2 :]


def cut(frame: pd.DataFrame, schema: SeriesSchema) -> tuple[np.ndarray, np.ndarray]:
    """Windows [w, t, c], and whether they are of a weekend."""
    found = windows(frame, schema)[0]
    return found.values, (found.start - MONDAY) // DAY % 7 >= 5


def flat(found: dict[str, Any]) -> dict[str, float]:
    """Figures beside what is as good as a perfect synthesizer."""
    result = {"told_apart": found["detection"]["boosting"]}
    result["told_apart_base"] = found["detection"]["baseline"]["boosting"]
    for name, key in (("profile", "mean"), ("marginals", "mean"), ("autocorrelation", "mean_difference")):
        result[name], result[f"{name}_base"] = found[name][key], found[name]["baseline"][key]
    result["next_step"], result["next_step_real"] = (found["next_step"][key] for key in ("synthetic", "real"))
    lesson = found["class_transfer"]
    result["transfer"], result["transfer_real"] = lesson["synthetic"]["auc"], lesson["real"]["auc"]
    return result


def by_weeks(values: np.ndarray) -> np.ndarray:
    """Days of homes, one after the other, as weeks: [w, 24, c] -> [w / 7, 168, c]."""
    return values.reshape(-1, 7 * 24, values.shape[2])


def drawn(parts: Parts, weekend: tuple[np.ndarray, np.ndarray], folder: Path) -> None:
    """Pictures of profiles and of some windows, in the units of the readings."""
    real, made = (8 * part - 4 for part in parts[:2])
    title = "1,000 homes, epsilon 1"
    kinds = [
        [part[is_weekend == which][: len(part) // 4] for which in (False, True)]
        for part, is_weekend in zip((real, made), weekend, strict=True)
    ]
    daily = [np.concatenate([part[: min(map(len, kind))] for part in kind], 2) for kind in kinds]
    picture.profiles(
        *daily, folder / "series-days.png", ("Monday to Friday", "Saturday, Sunday"), title, "hour"
    )
    weeks = [by_weeks(part) for part in (real, made)]
    picture.profiles(*weeks, folder / "series-week.png", ("power",), title, "hour, from Monday on")
    rng = np.random.default_rng(0)
    some = [part[rng.permutation(len(part))[:12], :, 0] for part in (real, made)]
    picture.examples(*some, folder / "series-windows.png", f"{title}: days by lot", "hour")


def of_homes(report: Report, loaded: tuple[np.ndarray, np.ndarray]) -> None:
    """Homes with weeks: their days, given the weekday."""
    schema = power(HOME + f'windows = {7 * WEEKS}\nconditions = ["weekday"]')
    count = 200 if report.quick else HOMES
    for epsilon in (1.0, math.inf):
        found = []
        for seed in seeds(report):
            rng = np.random.default_rng(seed)
            both = [tuple(part[rows] for part in loaded) for rows in halves(loaded[0], seed)]
            frame, held = weekly(*both[0], count, rng), weekly(*both[1], count, rng)
            (real, of_real), (test, of_test) = cut(frame, schema), cut(held, schema)
            for draw in range(1 if report.quick or math.isinf(epsilon) else DRAWS):
                vae = VAE(epsilon, count**-1.1, count, schema=schema).fit(frame)
                made, of_made = cut(vae.sample(count, seed=draw), schema)
                figures = flat(series_figures(real, made, test, UNIT, (of_real, of_made, of_test), seed))
                weeks = [by_weeks(part) for part in (real, made, test)]
                figures["week"], figures["week_base"] = (
                    profile_distance(weeks[0], part, UNIT)["mean"] for part in weeks[1:]
                )
                found.append(figures)
                if (epsilon, seed, draw) == (1.0, 0, 0) and not report.quick:
                    drawn((real, made, test), (of_real, of_made), PICTURES)
        told(report, f"{count} homes, weekend", epsilon, found)


def told(report: Report, name: str, epsilon: float, found: list[dict[str, float]]) -> None:
    """The mean of figures, and their bars at epsilon 1."""
    mean = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
    report.row(part="synthetic", set=name, epsilon=str(epsilon), fits=len(found), **mean)
    if epsilon == 1:
        lost = mean["next_step_real"] - mean["next_step"]
        report.check(f"{name}: R2 of the next step that is lost at epsilon 1", lost, 0.05, "at_most")
        lost = mean["transfer_real"] - mean["transfer"]
        report.check(f"{name}: AUC of labels that is lost at epsilon 1", lost, 0.05, "at_most")


def of_days(report: Report, loaded: tuple[np.ndarray, np.ndarray]) -> None:
    """Days of either half of the year, each made up by a model of its own; the unit a day, which is in one of them."""
    days, half = loaded
    schema = power('unit = "day"\n')
    for epsilon in (1.0, math.inf):
        found = []
        for seed in seeds(report):
            fitted, held = halves(days, seed)
            labels = half[fitted]
            real, test = (cut(table(days[rows]), schema)[0] for rows in (fitted, held))
            for draw in range(1 if report.quick or math.isinf(epsilon) else 2 * DRAWS):
                made = []
                for which in (WINTER, SUMMER):
                    own = table(days[fitted][labels == which])
                    vae = VAE(epsilon, 250**-1.1, 250, schema=schema).fit(own)
                    made.append(cut(vae.sample(270, seed=draw), schema)[0])
                names = np.repeat([WINTER, SUMMER], 270)
                found.append(
                    flat(
                        series_figures(
                            real, np.concatenate(made), test, UNIT, (labels, names, half[held]), seed
                        )
                    )
                )
        told(report, "days, half of the year", epsilon, found)


def synthetic(report: Report, options: Any) -> None:
    """Homes with weeks, and days of both halves of the year."""
    loaded = italy(options.sktime)
    of_homes(report, loaded)
    of_days(report, loaded)


def lesson(split: Split, vae: VAE) -> dict[str, float]:
    """AUC of odd days, and R2 of the next step learned from made-up days, and from real ones."""
    made = windows(vae.sample(200, seed=0), split.schema)[0].values
    real, tested = (part.values for part in split.cut)
    ordinary = tested[~split.truth]
    return {
        "auc": float(roc_auc_score(split.truth, vae.decision_function(split.tested))),
        "next_step": next_step(made, ordinary),
        "next_step_real": next_step(real[:6000], ordinary),
    }


def gradients(report: Report, options: Any) -> None:
    """The convolutional network of homes, at epsilon 3 and without noise, and the statistics of the same homes."""
    loaded = italy(options.sktime)
    for count in GRADIENT_HOMES[: 1 if report.quick else None]:
        splits = [winter_homes(*loaded, count, seed) for seed in seeds(report)[: 3 if count < 5000 else 1]]
        for epsilon in (3.0, math.inf):
            for recipe in ("auto", "gradients"):
                found = []
                for split in splits:
                    start = time.monotonic()
                    schema = split.schema.model_copy(update={"windows": 7})
                    vae = VAE(epsilon, count**-1.1, count, recipe, schema).fit(split.fitted)
                    seconds = time.monotonic() - start
                    found.append({**lesson(split, vae), "fit_seconds": seconds})
                mean = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
                who = "statistics" if recipe == "auto" else "convolutional VAE, gradients"
                report.row(
                    part="gradients", homes=count, who=who, epsilon=str(epsilon), fits=len(found), **mean
                )
