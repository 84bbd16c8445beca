"""A round over NVFlare beside Flower's, for benchmarks/federated.py: provisioned, mTLS, loopback, one process a site.

Every process is started by the kits' own scripts, and ended by its number. A round's time is read off the files that
the coordinator writes when a sum is decided, so that it holds all that happens between two sums.
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from federated_data import DELTA, FIVE, image_schema, mnist, terms_of
from federated_masks import NETWORK, NUMBERS
from harness import Report

from privae import VAE
from privae.plan import Plan

ROUNDS, ROWS, SITE_BATCH, EPSILON = 10, 300, 64, 8.0
FIRST = 2  # rounds left out: the processes warm up
PATIENCE = 240.0  # seconds for the whole study
FLOWER = Path(__file__).parent / "federated_flower.py"


def engine(report: Report, options: Any) -> None:
    """Seconds of a masked, noised round of 652,824 numbers, and of Flower's plain round of as many."""
    ours = theirs = None
    try:
        import nvflare  # noqa: F401
    except ImportError:
        report.not_measured.append({"name": "a round over NVFlare", "reason": "NVFlare is not installed"})
    else:
        try:
            ours = over_nvflare(report, 6 if options.quick else ROUNDS)
        except Exception as error:  # noqa: BLE001  whatever it is, the other parts are worth having
            reason = f"the run failed: {type(error).__name__}: {error}"
            report.not_measured.append({"name": "a round over NVFlare", "reason": reason})
    if options.flower is None:
        reason = "no interpreter with Flower was named (--flower, FEDERATED_FLOWER_PYTHON)"
        report.not_measured.append({"name": "Flower's round", "reason": reason})
    else:
        theirs = over_flower(report, Path(options.flower))
    if ours and theirs:
        report.check(
            "Flower's plain round over our masked one, beside training", theirs / ours, 20.0, "at_least"
        )


def over_nvflare(report: Report, rounds: int) -> float:
    """Seconds beside training of a round, the median one."""
    from privae.transport import kits

    images, _ = mnist(ROWS * len(FIVE))
    schema = image_schema(None)
    training = replace(NETWORK, steps=rounds, batch=SITE_BATCH * len(FIVE))
    model = VAE(EPSILON, DELTA, rows=len(images), recipe="gradients", training=training, schema=schema)
    plan = model.plan()
    alone = trained_alone(images[:ROWS], rounds)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        terms_of(here, plan, schema, FIVE, min_sites=len(FIVE), share="all")
        start = time.monotonic()
        made = kits.provision(here / "study.toml", here / "kits", port=free_port())
        provisioned = time.monotonic() - start
        for place, kit in enumerate(made.sites.values()):
            np.savez(kit / "local" / "data.npz", x=images[place :: len(FIVE)])
            own = {
                "data": '"local/data.npz"',
                "max_epsilon": EPSILON,
                "min_sites": 5,
                "allow_share": '["all"]',
            }
            (kit / "local" / "site.toml").write_text("".join(f"{k} = {v}\n" for k, v in own.items()))
        with running((made.coordinator, *made.sites.values())):
            started, done = followed(made, plan, here)
            told = sorted(made.coordinator.glob("privae/*/state/told-*"), key=lambda at: int(at.name[5:]))
            times = [at.stat().st_mtime for at in told]
    gaps = [float(gap) for gap in np.diff(times)[FIRST:]]
    report.row(
        part="engine",
        engine="privae over NVFlare, masked and noised, mTLS",
        sites=len(FIVE),
        numbers=NUMBERS,
        rounds=len(times),
        seconds_a_round=statistics.median(gaps),
        slowest_round=max(gaps),
        training_seconds=alone,
        beside_training=statistics.median(gaps) - alone,
        provision_seconds=provisioned,
        first_sum_after_seconds=times[0] - started,
        study_seconds=done,
    )
    return statistics.median(gaps) - alone


def trained_alone(images: Any, steps: int) -> float:
    """Seconds of a step of one site's batch, in this process alone, with no noise and no messages."""
    training = replace(NETWORK, steps=steps, batch=SITE_BATCH)
    model = VAE(float("inf"), DELTA, rows=len(images), recipe="gradients", training=training)
    start = time.monotonic()
    model.fit(images)
    whole = time.monotonic() - start
    once = VAE(float("inf"), DELTA, rows=len(images), recipe="gradients", training=replace(training, steps=1))
    start = time.monotonic()
    once.fit(images)
    return max(whole - (time.monotonic() - start), 0.0) / (steps - 1)


def followed(made: Any, plan: Plan, folder: Path) -> tuple[float, float]:
    """When the job was handed in, and the seconds until its end."""
    from privae.transport import apps, jobs

    job = jobs.Job.of(made.study, plan, (folder / "plan.toml").read_text(encoding="utf-8"))
    at, start = time.time(), time.monotonic()
    last: dict[str, Any] = {}
    with closing(apps.AdminDesk(made.admin)) as desk, closing(jobs.run(desk, job, folder / "out")) as told:
        for last in told:
            if time.monotonic() - start > PATIENCE:
                raise TimeoutError(f"no end after {PATIENCE:g} seconds: {last.get('note')}")
    if not last.get("done"):
        raise RuntimeError(f"the study did not end: {last.get('note')}")
    VAE.load(folder / "out" / "model.privae")
    return at, time.monotonic() - start


@contextmanager
def running(everybody: tuple[Path, ...]) -> Iterator[None]:
    """The participants, started by their kits' scripts, and ended by their numbers."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        for kit in everybody:
            command = [str(kit / "startup" / "start.sh")]
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": path})
        yield
    finally:
        for kit in everybody:  # the watchdogs first, or they would start what is ended
            for name in ("daemon_pid", "pid"):
                with suppress(OSError, ValueError):
                    ended(int((kit / f"{name}.fl").read_text()))


def ended(number: int) -> None:
    """End a process and its children."""
    listed = subprocess.run(["pgrep", "-P", str(number)], capture_output=True, text=True, check=False)
    for one in (number, *map(int, listed.stdout.split())):
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def over_flower(report: Report, python: Path) -> float | None:
    """Seconds beside training of Flower's round, the median one but the first; None if it did not run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), str(FLOWER), folder]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=600)
            found = json.loads((Path(folder) / "flower.json").read_text())
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            report.not_measured.append(
                {"name": "Flower's round", "reason": f"it did not run: {type(error).__name__}"}
            )
            return None
    beside = statistics.median(found["beside_training"][1:])
    report.row(
        part="engine",
        engine=f"Flower {found['versions']['flwr']}, plain, TLS",
        sites=found["sites"][-1],
        numbers=found["numbers"],
        rounds=len(found["seconds"]),
        seconds_a_round=statistics.median(found["seconds"][1:]),
        slowest_round=max(found["seconds"]),
        beside_training=beside,
    )
    return beside
