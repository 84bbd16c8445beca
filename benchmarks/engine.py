"""What does a private gradient step cost beside an ordinary one, here and in every peer that installs?

Every engine trains the same models (engine_models.py) from the same weights with Adam; a row is one engine on one
model, batch size and number of threads. All engines of a row's cell take turns in one process: a burst of steps,
each burst right after one of plain torch's, after one step that is not timed. A ratio is the median over the rounds
of a burst to the plain burst before it; milliseconds are the least of all bursts. Processor time is that of all
threads of the process, the one that prepares noise included. JAX runs in a process of its own, beside its own plain
step. Every process keeps the memory that it frees, as privae's command line does: otherwise all engines, plain torch
too, pay for page faults that vary from run to run. Extra memory: the peak of a process of its own beyond model,
records and optimizer.

`python benchmarks/engine.py` writes results/engine.json; `--quick` writes engine.quick.json;
`--only mlp:256` measures one cell and writes nothing. Peers: `pip install -r benchmarks/requirements-engine.txt`;
`--jax PYTHON` (or ENGINE_JAX_PYTHON) names the interpreter that has jax-privacy, if it is not this one.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine_checks import (
    BFLOAT16,
    GHOST,
    HOOKS,
    NO_NOISE,
    OURS,
    PLAIN,
    PROVED,
    Cell,
    Row,
    Table,
    Target,
    profile_of,
    reason,
    targets,
)
from engine_models import ITEMS, ITEMS_HIDDEN
from harness import Report, parser

Job = dict[str, Any]
HERE = Path(__file__).parent
FUSED, POISSON, PROVED_BFLOAT16 = (
    "plain, fused Adam",
    "privae proved, Poisson batches",
    "privae proved, bfloat16",
)
MODELS = ("mlp", "tab", "conv", "gru", "items")
CELLS = [(model, batch) for model in MODELS for batch in (256, 2048) if (model, batch) != ("items", 2048)]
QUICK = [("mlp", 256), ("conv", 256)]
_TIMEOUT = 600  # seconds for one process

NOT_MEASURED = [
    {
        "name": "fastDP (fast-differential-privacy)",
        "reason": "no version of it is on the package index, so it does not install",
    },
    {
        "name": "Opacus' secure noise (secure_mode=True)",
        "reason": "needs torchcsprng, which has no wheel for this Python: Opacus' rows use torch's insecure generator",
    },
    {
        "name": "Opacus hooks: gru at 2048, and all at 2048 with two threads",
        "reason": "a step takes seconds; at 256, and on one thread, it is measured",
    },
    {
        "name": "Opacus hooks: items",
        "reason": "a gradient a record would be 256 x 24 million numbers, 25 GB",
    },
    {
        "name": "jax-privacy: conv, gru, items, batch 2048",
        "reason": "only its own loop over perceptrons at batch 256 was written; a step there takes seconds already",
    },
]


LONG = [("conv", 2048), ("gru", 2048)]  # cells whose steps take a second: fewer engines there
UNHOOKED = [("gru", 2048), ("items", 256)]


def timing_jobs(cells: list[Cell], seconds: float) -> Iterator[Job]:
    """What is timed, a process each, one after the other."""
    for model, batch in cells:
        long = (model, batch) in LONG
        cell = {"model": model, "batch": batch, "seconds": seconds, "before": 0 if long else 1}
        others = [] if long else [FUSED, NO_NOISE, POISSON, PROVED_BFLOAT16]
        engines = [OURS, PROVED, BFLOAT16, GHOST, *others]
        profiled = [OURS, PROVED, BFLOAT16] if long else [OURS, NO_NOISE, PROVED, BFLOAT16]
        yield {"question": "time", **cell, "engines": engines, "profiled": profiled}
        others = [] if long else [FUSED, BFLOAT16, PROVED_BFLOAT16]
        yield {"question": "time", **cell, "engines": [OURS, PROVED, GHOST, *others], "threads": 2}
        if (
            model,
            batch,
        ) not in UNHOOKED:  # in processes of their own: the gigabytes they take stay with a process
            for threads in (1, 2) if batch == 256 else (1,):
                yield {
                    "question": "time",
                    **cell,
                    "seconds": seconds / 4,
                    "engines": [HOOKS],
                    "threads": threads,
                }
    batches = {batch for model, batch in cells if model == "mlp"} | ({1024} if cells == CELLS else set())
    for batch in sorted(batches):
        noise = {"question": "noise", "model": "mlp", "batch": batch, "threads": 2, "seconds": seconds}
        yield {**noise, "base": NO_NOISE, "engines": [OURS], "profiled": [OURS]}


def other_jobs(cells: list[Cell]) -> Iterator[Job]:
    """What is not timed, so that two processes may run at a time: memory, and the checks before a training."""
    for model, batch in cells:
        hooks = [] if (model, batch) in UNHOOKED else [HOOKS]
        engines = [FUSED, OURS, PROVED, BFLOAT16, GHOST, *hooks]
        yield {"question": "memory", "model": model, "batch": batch, "engines": engines}
    models = dict.fromkeys(model for model, _ in cells)
    yield from ({"question": "path", "model": model, "batch": 256} for model in models)


def rows_of(command: list[str], threads: int, name: str) -> list[Row]:
    """The JSON lines that a process prints, and one that says why if it failed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT
    )
    rows = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]
    if found.returncode != 0:
        last = (found.stderr.strip().splitlines() or ["no message"])[-1]
        rows.append({"question": "failed", "name": name, "reason": last[:300]})
    return rows


def run_job(job: Job) -> list[Row]:
    """Rows of one job of engine_measure.py."""
    name = f"{job['question']}, {job['model']} at {job['batch']}"
    command = [sys.executable, str(HERE / "engine_measure.py"), json.dumps(job)]
    return rows_of(command, job.get("threads", 1), name)


def take(report: Report, rows: list[Row]) -> list[Row]:
    """Report rows, and what failed as not measured; the profiles are given back."""
    for row in rows:
        if row["question"] == "failed":
            name = row.get("name") or f"{row['engine']}: {row['model']} at {row['batch']}"
            failed = {"name": name, "reason": row["reason"]}
            if failed not in report.not_measured:
                report.not_measured.append(failed)
                print(f"not measured: {failed}", flush=True)
        elif row["question"] != "profile":
            report.row(**row)
    return [row for row in rows if row["question"] == "profile"]


def earlier_rows(path: Path | None) -> list[Row]:
    """The rows that a run printed before it was cut short."""
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    return [ast.literal_eval(line) for line in lines if line.startswith("{'question'")]


def _taken(earlier: list[Row], job: Job) -> list[Row]:
    """The next rows of this job's cell, up to the roof that ends a job, taken out of the earlier ones; none without."""
    cell = {**{"threads": 1}, **{key: job[key] for key in ("model", "batch", "threads") if key in job}}
    found = []
    for row in earlier:
        if all(row.get(key) == value for key, value in cell.items()):
            found.append(row)
            if row["question"] == "roof":
                earlier[:] = [other for other in earlier if not any(other is one for one in found)]
                return found
    return []


def measure(report: Report, cells: list[Cell], seconds: float, earlier: list[Row]) -> list[Row]:
    """Every job of torch; the profiles, which are reported only where a target is missed.

    A job whose last row, the roof, is among the earlier ones is run again for a moment, for its profile alone.
    """
    profiles = []
    for job in timing_jobs(cells, seconds):
        done = _taken(earlier, job) if job["question"] == "time" else []
        if not done:
            profiles += take(report, run_job(job))
            continue
        take(report, done)
        if job.get("profiled"):
            again = run_job({**job, "engines": job["profiled"], "seconds": 0.1})
            profiles += [row for row in again if row["question"] == "profile"]
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(run_job, other_jobs(cells)):
            take(report, rows)
    return profiles


def measure_jax(report: Report, python: str, cells: list[Cell], seconds: float) -> None:
    """jax-privacy on the perceptrons at batch 256, in its own processes."""
    for model, batch in cells:
        if model in ("mlp", "tab") and batch == 256:
            command = [python, str(HERE / "engine_jax.py"), model, str(batch), "1", str(seconds)]
            take(report, rows_of(command, 1, f"jax-privacy: {model} at {batch}"))


def check(report: Report, profiles: list[Row]) -> None:
    """Every target against the rows, with the profile of what was missed."""
    table, shown = Table(report.rows), []
    for target in targets(ITEMS, ITEMS_HIDDEN):
        try:
            value = target.value(table)
        except KeyError:
            report.not_measured.append({"name": f"target {target.name}", "reason": "its rows are not there"})
            continue
        report.check(target.name, value, target.bar, target.sense)
        if not report.checks[-1]["met"]:
            why, profile = _why(target, report, profiles)
            report.checks[-1]["reason"] = why
            print(f"       {why}", flush=True)
            shown += [profile] if profile and profile not in shown else []
    for profile in shown:
        report.row(**profile)


def _why(target: Target, report: Report, profiles: list[Row]) -> tuple[str, Row | None]:
    if "memory" in target.name:
        table = Table(report.rows)
        own, plain = (
            table.figure("memory", target.cell, engine, "extra_megabytes")
            for engine in (target.engine, PLAIN)
        )
        weights = [
            row["weights"]
            for row in report.rows
            if row["question"] == "path" and row["model"] == target.cell[0]
        ]
        more = f", {1e6 * (own - plain) / weights[0]:.0f} bytes a weight more" if weights else ""
        return f"{own:.0f} MB, plain {plain:.0f} MB{more}", None
    profile = profile_of(target, profiles)
    return (reason(profile) if profile else "no profile"), profile


def peers() -> dict[str, str]:
    """Versions of the peers that run in this interpreter."""
    found = {}
    for name in ("opacus",):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def options() -> argparse.Namespace:
    """The command line."""
    result = parser(__doc__ or "")
    result.formatter_class = argparse.RawDescriptionHelpFormatter
    result.add_argument(
        "--earlier", type=Path, metavar="LOG", help="what a run printed before it was cut short"
    )
    result.add_argument("--only", metavar="MODEL:BATCH", help="one cell; writes nothing")
    result.add_argument("--seconds", type=float, default=20.0, help="for the rounds of one process")
    result.add_argument(
        "--jax", default=os.environ.get("ENGINE_JAX_PYTHON", sys.executable), metavar="PYTHON"
    )
    return result.parse_args()


def main() -> None:
    """Run and write results/engine.json."""
    chosen = options()
    report = Report("engine", chosen.quick, not_measured=[dict(item) for item in NOT_MEASURED])
    cells = QUICK if chosen.quick else CELLS
    if chosen.only:
        model, batch = chosen.only.split(":")
        cells = [(model, int(batch))]
    seconds = 1.0 if chosen.quick else chosen.seconds
    report.row(question="versions", **peers())
    profiles = measure(report, cells, seconds, earlier_rows(chosen.earlier))
    measure_jax(report, chosen.jax, cells, seconds)
    check(report, profiles)
    if not chosen.only:
        report.write()


if __name__ == "__main__":
    main()
