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
    before, start, busy = peak(), time.monotonic(), time.process_time()
    schema = power(HOME + f"windows = {EACH}")
    vae = VAE(1.0, 1e-6, count // EACH, schema=schema, fidelity=False).fit(frame)
    seconds, cpu, after = time.monotonic() - start, time.process_time() - busy, peak()
    start, busy = time.monotonic(), time.process_time()
    scores = vae.decision_function(frame)
    return {
        "scored": len(scores),
        "table_megabytes": round(float(frame.memory_usage(deep=True).sum()) / 2**20),
        "megabytes_before": before,
        "peak_megabytes": after,
        "fit_seconds": seconds,
        "fit_cpu_seconds": cpu,
        "score_seconds": time.monotonic() - start,
        "score_cpu_seconds": time.process_time() - busy,
        "peak_megabytes_scoring": peak(),
    }


def scale(report: Report, _: Any) -> None:
    """Two sizes, ten times apart; the unit a home of 100 days by the hour."""
    found = []
    for count in [size // 100 for size in SIZES] if report.quick else SIZES:
        with get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(fitted, (count,)))
        report.row(part="scale", windows=count, readings=24 * count, **found[-1])
    for what in ("fit", "score"):  # of the processor, since others use the machine meanwhile
        ratio = found[1][f"{what}_cpu_seconds"] / found[0][f"{what}_cpu_seconds"]
        report.check(f"scale: {what}, processor time of ten times the windows", ratio, 12, "at_most")


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
    took: list[tuple[float, float]] = []
    for line in range(LINES):
        at, who = divmod(line, ids)
        stamp = str(START + pd.to_timedelta(15 * at, unit="min"))
        row = {"home": str(who), "time": stamp} | {name: f"{rng.standard_normal():.3f}" for name in names}
        start, busy = time.perf_counter(), time.thread_time()
        follower.push(row)
        took.append((time.perf_counter() - start, time.thread_time() - busy))
    wall, cpu = 1000 * np.array(took).T
    names_of = ("median", "p99"), (0.5, 0.99)
    found = {f"{name}_ms": float(np.quantile(wall, share)) for name, share in zip(*names_of, strict=True)}
    busy_of = {
        f"{name}_cpu_ms": float(np.quantile(cpu, share)) for name, share in zip(*names_of, strict=True)
    }
    return found | busy_of | {"max_ms": float(wall.max())}


def streaming(report: Report, _: Any) -> None:
    """One line of text at a time, one thread."""
    found = []
    for channels in CHANNELS:
        for steps in STEPS:
            for ids in IDS:
                times = streamed(channels, steps, ids)
                report.row(part="streaming", channels=channels, steps=steps, ids=ids, lines=LINES, **times)
                found.append((times["p99_ms"], times["p99_cpu_ms"]))
    wall, cpu = np.max(found, 0).tolist()
    report.check("streaming: 99th percentile of a line, ms, the worst case", wall, 5, "at_most")
    report.check("streaming: the same, milliseconds of the processor", cpu, 5, "at_most")
