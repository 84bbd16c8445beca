"""What every benchmark shares: the machine line, checks against bars, and one JSON a question."""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from privae.files import code_version

RESULTS = Path(__file__).parent / "results"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)  # the larger one of all processes
PACKAGES = ("torch", "numpy", "pandas", "scikit-learn", "scipy", "dp-accounting")


@dataclass
class Report:
    """Rows measured, checks against bars, and what was not measured and why."""

    name: str
    quick: bool
    started: float = field(default_factory=time.time)
    rows: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    not_measured: list[dict[str, str]] = field(default_factory=list)

    def row(self, **values: Any) -> None:
        """Add a measured row, and print it."""
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
        self.rows.append(rounded)
        print(rounded, flush=True)

    def check(self, name: str, value: float, bar: float, sense: Literal["at_least", "at_most"]) -> None:
        """Compare a value with its bar."""
        met = value >= bar if sense == "at_least" else value <= bar
        self.checks.append(
            {"name": name, "value": round(value, 4), "bar": bar, "sense": sense, "met": bool(met)}
        )
        print(
            f"{'met   ' if met else 'MISSED'} {name}: {value:.4f} ({sense.replace('_', ' ')} {bar})",
            flush=True,
        )

    def write(self) -> None:
        """Write results/NAME.json (NAME.quick.json for a quick run)."""
        fields = asdict(self)
        body = {
            "machine": machine(),
            "versions": {name: version(name) for name in PACKAGES}
            | {"privae": code_version(), "python": platform.python_version()},
            "seconds": round(time.time() - self.started, 1),
            "peak_megabytes": round(max(resource.getrusage(who).ru_maxrss for who in _WHO) / 1024),
            **{key: fields[key] for key in ("rows", "checks", "not_measured")},
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}{'.quick' if self.quick else ''}.json"
        path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path.name}: {sum(c['met'] for c in self.checks)} of {len(self.checks)} checks met")


Part = Callable[[Report, Any], None]


def measured(report: Report, part: Part, options: Any) -> None:
    """Run one part; its checks and what it did not measure bear its name, and its time the version of the code."""
    start, known = time.monotonic(), (len(report.checks), len(report.not_measured))
    part(report, options)
    for found, before in zip((report.checks, report.not_measured), known, strict=True):
        for one in found[before:]:
            one["part"] = part.__name__
    seconds = time.monotonic() - start
    report.row(part="seconds", of=part.__name__, seconds=seconds, privae=code_version())


def run(name: str, parts: Sequence[Part], options: argparse.ArgumentParser) -> None:
    """Measure all parts, or, with --only, one of them again."""
    options.add_argument("--only", metavar="PART", choices=[part.__name__ for part in parts])
    chosen = options.parse_args()
    torch.set_num_threads(1)
    report = Report(name, chosen.quick)
    if not SHARED.is_dir():
        raise SystemExit("the data folder ../shared/data is not here")
    for part in parts:
        if chosen.only in (None, part.__name__):
            measured(report, part, chosen)
    if chosen.only:
        kept(report, chosen.only)
    else:
        report.write()


def kept(report: Report, again: str) -> None:
    """Put what was measured of one part in the place of what the results hold of it."""
    path = RESULTS / f"{report.name}{'.quick' if report.quick else ''}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in ("rows", "checks", "not_measured"):
        old = [one for one in before.get(name, []) if again not in (one["part"], one.get("of"))]
        getattr(report, name)[:] = [*old, *getattr(report, name)]
    report.started = time.time() - sum(row["seconds"] for row in report.rows if row["part"] == "seconds")
    report.write()


def machine() -> str:
    """One line: processor, cores, memory."""
    cpu = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--quick", action="store_true", help="one seed, small, for a smoke test")
    return result
