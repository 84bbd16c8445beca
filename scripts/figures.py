"""Write the figures of README.md, between their markers, from benchmarks/results/main.json.

`python scripts/figures.py` writes them; with --check it fails, naming the command, when they are stale. No figure in
the README is typed by hand; until the benchmark has run they read "not measured yet".
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "main.json"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
NOTHING = "not measured yet"
_COLUMNS = {
    "MNIST": {
        "cnn": "CNN accuracy, % (lowest to highest)",
        "logistic_on_10000": "logistic on 10,000, %",
        "fit_seconds": "fit, s",
    },
    "Adult": {
        "auc_boosting": "AUC boosting",
        "auc_logistic": "AUC logistic",
        "pair_variation": "two-way TV",
        "fit_and_sample_seconds": "fit + sample, s",
    },
}
_DIGITS = {"cnn": 1, "logistic_on_10000": 1, "fit_seconds": 0, "fit_and_sample_seconds": 0}

_COLLAPSED = 12  # percent: the share of the most frequent digit in MNIST's test rows is 11.35


def render(results: dict[str, Any] | None) -> str:
    """The text between the markers, for the parsed JSON, or for None."""
    if results is None:
        return NOTHING
    tables = [_table(results["rows"], data, columns) for data, columns in _COLUMNS.items()]
    return "\n\n".join([*filter(None, tables), "\n".join(_fine_print(results))])


def _table(rows: list[dict[str, Any]], data: str, columns: dict[str, str]) -> str:
    """One data set: a line a method and epsilon, each figure a mean over seeds. Empty without rows."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("data") == data:
            groups.setdefault((row["method"], row.get("epsilon", 0.0)), []).append(row)
    if not groups:
        return ""
    lines = [
        "| " + " | ".join([data, "epsilon", *columns.values()]) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for (method, epsilon), found in groups.items():
        cells = [_mean(found, name) for name in columns]
        lines.append("| " + " | ".join([method, f"{epsilon:g}" if epsilon else "none", *cells]) + " |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, Any]], name: str) -> str:
    values = [row[name] for row in rows if name in row]
    if not values:
        return ""
    mean, low, high = (f"{v:.{_DIGITS.get(name, 3)}f}" for v in (fmean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})" if name == "cnn" and len(values) > 1 else mean


def _fine_print(results: dict[str, Any]) -> Iterator[str]:
    checks = results["checks"]
    seeds = len({row["seed"] for row in results["rows"] if "seed" in row})
    yield (
        f"Means of {seeds} seeds, delta 1e-5; {sum(check['met'] for check in checks)} of {len(checks)} targets met. "
        f"Machine: {results['machine']}; {results['seconds'] / 60:.0f} minutes for everything."
    )
    if any(row.get("cnn", 100) < _COLLAPSED for row in results["rows"]):
        yield (
            f"A CNN below {_COLLAPSED} % gives one class to every digit: its training collapsed on that sample; "
            "logistic regression on the same sample stands beside it."
        )
    yield from (f"Missed: {c['name']}: {c['value']:g} (target {c['bar']:g})." for c in checks if not c["met"])
    yield from (f"Not measured: {item['name']}: {item['reason']}." for item in results["not_measured"])


def stored() -> dict[str, Any] | None:
    """The parsed benchmark results, or None while there are none."""
    if not RESULTS.exists():
        return None
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


def split(text: str) -> tuple[str, str, str]:
    """A README's text before, between and after the markers, which must be there once."""
    head, begun, rest = text.partition(BEGIN)
    inside, ended, tail = rest.partition(END)
    if not (begun and ended) or BEGIN in tail:
        raise SystemExit(f"README.md must hold one pair of markers: {BEGIN} and {END}")
    return head + begun, inside.strip(), ended + tail


def main(arguments: list[str]) -> int:
    """Write the figures, or compare them."""
    head, inside, tail = split(README.read_text(encoding="utf-8"))
    expected = render(stored())
    if "--check" not in arguments:
        README.write_text(f"{head}\n{expected}\n{tail}", encoding="utf-8")
        return 0
    if inside == expected:
        return 0
    sys.stderr.write("the figures of README.md are stale; write them again with: python scripts/figures.py\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
