"""What time series take: seconds and memory of a fit, and milliseconds of a line that is scored as it comes."""

import resource
import time
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd
from harness import Report
from series_data import HOME, START, power

from privae import VAE
from privae.fitted.following import Follower
from privae.series.schema import SeriesSchema

EACH = 100  # windows of a home
SIZES = (100_000, 1_000_000)  # windows
CHANNELS, STEPS, IDS = (1, 4), (24, 96), (1, 1000)
LINES = 4000


def made_up(count: int, each: int, rng: np.random.Generator) -> pd.DataFrame:
    """Homes of so many days that rise and fall with the hour, in typed columns."""
    hours = np.arange(each * 24)
    wave = np.sin(hours * (np.pi / 12)).astype(np.float64)
    values = rng.standard_normal((count, each * 24)) * 0.3 + wave
    time_of = (START + pd.to_timedelta(hours, unit="h")).to_numpy("datetime64[s]")
    who = np.repeat(np.arange(count), each * 24)
    return pd.DataFrame({"home": who, "time": np.tile(time_of, count), "power": values.reshape(-1)})


def peak() -> int:
    """Megabytes of this process at their most."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def fitted(count: int) -> dict[str, float]:
    """A fit of so many windows, in a process of its own."""
    frame = made_up(count // EACH, EACH, np.random.default_rng(0))
    before, start = peak(), time.monotonic()
    schema = power(HOME + f"windows = {EACH}")
    vae = VAE(1.0, 1e-6, count // EACH, schema=schema, fidelity=False).fit(frame)
    seconds, after = time.monotonic() - start, peak()
    start = time.monotonic()
    scores = vae.decision_function(frame)
    return {
        "scored": len(scores),
        "table_megabytes": round(float(frame.memory_usage(deep=True).sum()) / 2**20),
        "megabytes_before": before,
        "peak_megabytes": after,
        "fit_seconds": seconds,
        "score_seconds": time.monotonic() - start,
        "peak_megabytes_scoring": peak(),
    }


def scale(report: Report, _: Any) -> None:
    """Two sizes, ten times apart; the unit a home of 100 days by the hour."""
    found = []
    for count in [size // 100 for size in SIZES] if report.quick else SIZES:
        with get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(fitted, (count,)))
        report.row(part="scale", windows=count, readings=24 * count, **found[-1])
    ratio = found[1]["fit_seconds"] / found[0]["fit_seconds"]
    report.check("scale: seconds of ten times the windows over those of 10^5", ratio, 12, "at_most")
    ratio = found[1]["score_seconds"] / found[0]["score_seconds"]
    report.check("scale: seconds to score ten times the windows over those of 10^5", ratio, 12, "at_most")


def streamed(channels: int, steps: int, ids: int) -> dict[str, float]:
    """Milliseconds of single lines, of all ids in turn, a quarter of an hour apart."""
    names = [f"c{place}" for place in range(channels)]
    text = f'[series]\ntime = "time"\nid = "home"\nstep = "15min"\nwindow = "{15 * steps}min"\nwindows = 7\n'
    text += "".join(f'[channels.{name}]\nkind = "numeric"\nbounds = [-4, 4]\n' for name in names)
    rng = np.random.default_rng(0)
    homes, rows = 1000, 2 * steps
    frame = pd.DataFrame({"home": np.repeat(np.arange(homes), rows)})
    frame["time"] = np.tile(START + pd.to_timedelta(15 * np.arange(rows), unit="min"), homes)
    for name in names:
        frame[name] = rng.standard_normal(homes * rows)
    vae = VAE(1.0, 1e-6, homes, schema=SeriesSchema.loads(text), fidelity=False).fit(frame)
    follower = Follower(vae.fitted_)
    took = []
    for line in range(LINES):
        at, who = divmod(line, ids)
        stamp = str(START + pd.to_timedelta(15 * at, unit="min"))
        row = {"home": who, "time": stamp, **{name: float(rng.standard_normal()) for name in names}}
        start = time.perf_counter()
        follower.push(row)
        took.append(1000 * (time.perf_counter() - start))
    median, most = np.quantile(took, [0.5, 0.99]).tolist()
    return {"median_ms": median, "p99_ms": most, "max_ms": max(took)}


def streaming(report: Report, _: Any) -> None:
    """One line at a time, one thread."""
    found = []
    for channels in CHANNELS:
        for steps in STEPS:
            for ids in IDS:
                times = streamed(channels, steps, ids)
                report.row(part="streaming", channels=channels, steps=steps, ids=ids, lines=LINES, **times)
                found.append(times["p99_ms"])
    report.check("streaming: 99th percentile of a line, ms, the worst case", max(found), 5, "at_most")
