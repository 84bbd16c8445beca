"""A stream of a fleet: how much noise is in a mean of some days, beside independent noise at the same epsilon?

Parts (--only NAME measures one again, in the place of what results/continual.json holds of it):
  errors     standard error of a mean over a day, a week, 30 days and a year, in % of the bounds' width: by formula
  simulated  the same of the week, of streams that ran: 365 days, means of made-up homes against those without noise
  speed      seconds of one `add`: 10^5 units, 24 numbers, a year's filter, in the tenth and in the last step of 365
Epsilon 1, delta 1e-6, one number, 365 days. The formula reads no data: the noise, its covariance, and the declared
number of homes; means near the middle of the bounds (at a bound the error is 1.7 times that). Homes are made up.
"""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import Part, Report, parser, run

from privae.continual.plan import ContinualPlan, planned
from privae.continual.release import Continual

YEAR, WINDOWS = 365, {"day": 1, "week": 7, "30 days": 30, "year": 365}
HOMES, PROTECTS = (1_000, 10_000), ("step", "unit")
UNITS, NUMBERS = 100_000, 24


def plan_of(protect: str, homes: int, **choices: Any) -> ContinualPlan:
    fields = {"bounds": {"power": (0.0, 5.0)}, "steps": YEAR, "epsilon": 1.0, "units": homes}
    return planned(protect=protect, **fields | choices)


def errors(report: Report, _: Any) -> None:
    """By formula; the filter is the best for a week, for 30 days and for a year."""
    for protect in PROTECTS:
        for homes in HOMES:
            for best_for in (7, 30, YEAR):
                plan = plan_of(protect, homes, window=best_for)
                for name, last in WINDOWS.items():
                    both = [50 * plan.standard_error(last, independent=each) for each in (False, True)]
                    report.row(
                        part="errors",
                        protect=protect,
                        homes=homes,
                        best_for=best_for,
                        bands=plan.bands,
                        mean_over=name,
                        percent=f"{both[0]:.3g}",
                        independent=f"{both[1]:.3g}",
                        ratio=both[0] / both[1],
                    )
    weekly = plan_of("step", HOMES[0])
    ratio = weekly.standard_error(7) / weekly.standard_error(7, independent=True)
    report.check("one day of a home: error of a week over that of independent noise", ratio, 0.8, "at_most")
    yearly = plan_of("step", HOMES[0], window=YEAR)
    ratio = yearly.standard_error(YEAR) / yearly.standard_error(YEAR, independent=True)
    report.check("one day of a home: error of a year over that of independent noise", ratio, 0.25, "at_most")
    always = plan_of("unit", HOMES[0])
    ratio = always.standard_error(7) / always.standard_error(7, independent=True)
    report.check(
        "a home with all of its days: error of a week over that of independent noise", ratio, 0.8, "at_most"
    )
    report.checks[-1]["reason"] = (
        "no filter helps: a home that is always there moves every window by all of its days, and independent noise "
        "has the least error for disjoint windows and for the total; the plan takes it"
    )


def simulated(report: Report, options: Any) -> None:
    """Root mean square of the error of weekly means, of disjoint weeks, as a share of what was told."""
    runs, homes = (1 if options.quick else 2), 1000
    rng = np.random.default_rng(0)
    for protect in PROTECTS:
        for bands in (None, 1) if protect == "step" else (None,):
            made, told = [], []
            for _ in range(runs):
                with tempfile.TemporaryDirectory() as folder:
                    stream = Continual.open(Path(folder) / "s", plan_of(protect, homes, bands=bands))
                    means = []
                    for day in range(YEAR):
                        values = np.clip(rng.gamma(4, 0.6, (homes, 1)), 0, 5)
                        means.append(values.mean())
                        stream.add(values, np.arange(homes), f"d{day}")
                    found = stream.means(7)[6::7]
                    exact = np.convolve(means, np.full(7, 1 / 7), "valid")[::7]
                    made.append((found["mean"].to_numpy() - exact) / 5 * 100)
                    told.append(found["standard_error"].to_numpy() / 5 * 100)
            ratio = math.sqrt(np.nanmean(np.square(np.array(made) / np.array(told))))
            report.row(
                part="simulated",
                protect=protect,
                noise="independent" if bands == 1 else "planned",
                percent=f"{math.sqrt(np.nanmean(np.square(made))):.3g}",
                told=f"{math.sqrt(np.nanmean(np.square(told))):.3g}",
                over_told=ratio,
            )
            name = f"{protect}, {'independent' if bands == 1 else 'planned'}: error made over error told"
            report.check(name, ratio, 1.15, "at_most")


def speed(report: Report, options: Any) -> None:
    """One add, reading of the file left out."""
    units = UNITS // 100 if options.quick else UNITS
    rng = np.random.default_rng(0)
    names = [f"meter-{i:06}" for i in range(units)]
    values = rng.normal(0, 0.3, (units, NUMBERS))
    bounds = {f"hour {i}": (-1.0, 1.0) for i in range(NUMBERS)}
    plan = plan_of("step", units, bounds=bounds, window=YEAR)
    with tempfile.TemporaryDirectory() as folder:
        stream = Continual.open(Path(folder) / "s", plan)
        for day in range(YEAR):
            timed = day in (9, YEAR - 1)
            start = time.perf_counter()
            rows = slice(None) if timed else slice(0, 100)
            stream.add(values[rows], names[rows], f"d{day}")
            if timed:
                seconds = time.perf_counter() - start
                report.row(part="speed", units=units, numbers=NUMBERS, step=day + 1, seconds=seconds)
                report.check(f"seconds of add, step {day + 1}", seconds, 2.0, "at_most")


PARTS: tuple[Part, ...] = (errors, simulated, speed)


def main() -> None:
    run("continual", PARTS, parser(__doc__.splitlines()[0]))


if __name__ == "__main__":
    main()
