"""Write the figures of README.md and of the pages on engine, audit, federation and encryption from benchmark results.

`python scripts/figures.py` writes them; with --check it fails, naming the command, when they are stale. No figure of
a benchmark is typed by hand; until it has run they read "not measured yet".
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README, ENGINE = ROOT / "README.md", ROOT / "docs" / "explain" / "engine.md"
RESULTS = ROOT / "benchmarks" / "results" / "main.json"
ENGINE_RESULTS, AUDIT_RESULTS = RESULTS.with_name("engine.json"), RESULTS.with_name("audit.json")
AUDIT = ROOT / "docs" / "explain" / "audit.md"
FEDERATED, FEDERATED_RESULTS = AUDIT.with_name("federated.md"), RESULTS.with_name("federated.json")
FIGURES, TRIED, TOGETHER = "figures", "audit", "federated"
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
    lines = (
        [method, f"{epsilon:g}" if epsilon else "none", *(_mean(found, name) for name in columns)]
        for (method, epsilon), found in groups.items()
    )
    return _markdown([data, "epsilon", *columns.values()], lines)


def _markdown(head: list[str], lines: Iterable[list[str]]) -> str:
    written = ["| " + " | ".join(cells) + " |" for cells in (head, *lines)]
    return "\n".join([written[0], "|---" * len(head) + "|", *written[1:]])


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


def render_engine(results: dict[str, Any] | None) -> str:
    """The text of the engine's page: times, memory, every target and what was missed and why."""
    if results is None:
        return NOTHING
    grids = [
        _grid(results["rows"], "time", "cpu_ratio", 1, "processor time of a step, 1 thread"),
        _grid(results["rows"], "time", "wall_ratio", 2, "wall time of a step, 2 threads"),
        _grid(results["rows"], "memory", "extra_megabytes", 1, "extra peak memory, MB"),
        _grid(results["rows"], "time", "roof_share", 1, "share of the measured product rate"),
    ]
    return "\n\n".join([*filter(None, grids), _targets(results["checks"]), "\n".join(_engine_print(results))])


def _grid(rows: list[dict[str, Any]], question: str, field: str, threads: int, title: str) -> str:
    """One figure: a line an engine, a column a model and batch. Plain's own ratio gives way to its milliseconds."""
    cells: dict[tuple[str, str], str] = {}
    for row in rows:
        if (row["question"], row.get("threads")) == (question, threads) and field in row:
            plain = row["engine"] == "plain" and field.endswith("_ratio")
            text = f"{row[field.replace('_ratio', '_ms')]:.3g} ms" if plain else f"{row[field]:.3g}"
            cells[row["engine"], f"{row['model']} {row['batch']}"] = text
    if not cells:
        return ""
    engines, columns = ([*dict.fromkeys(key[i] for key in cells)] for i in (0, 1))
    lines = ([engine, *(cells.get((engine, column), "") for column in columns)] for engine in engines)
    return _markdown([title, *columns], lines)


def _targets(checks: list[dict[str, Any]]) -> str:
    lines = []
    for found in checks:
        bar = f"{found['sense'].replace('_', ' ')} {found['bar']:g}"
        lines.append(
            [
                found["name"].replace("|", "\\|"),
                f"{found['value']:.3g}",
                bar,
                "met" if found["met"] else "**missed**",
            ]
        )
    return _markdown(["target", "measured", "bar", "outcome"], lines)


def _engine_print(results: dict[str, Any]) -> Iterator[str]:
    checks = results["checks"]
    yield (
        f"{sum(check['met'] for check in checks)} of {len(checks)} targets met. Machine: {results['machine']}; "
        f"torch {results['versions']['torch']}; {results['seconds'] / 60:.0f} minutes for everything."
    )
    yield from (f"- Missed: {c['name']}: {c.get('reason') or 'no profile'}." for c in checks if not c["met"])
    yield from (f"- Not measured: {item['name']}: {item['reason']}." for item in results["not_measured"])


def render_demo(results: dict[str, Any] | None) -> str:
    """The audit in the README: who is recognized in an overfitted VAE, and in ours."""
    if results is None:
        return NOTHING
    models: dict[str, list[dict[str, Any]]] = {}
    for row in _part(results, "overfit"):
        models.setdefault(row["model"], []).append(row)
    lines = []
    for name, rows in models.items():
        best = max(rows, key=lambda row: row["auc"])
        tpr = max(rows, key=lambda row: row["tpr"])
        lines.append(
            [
                name,
                _interval(best, "auc", 2),
                _interval(tpr, "tpr", 3),
                f"{max(row['bound'] for row in rows):.2f}",
            ]
        )
    head = ["about 500 census rows kept by", "best AUC", "best TPR at 1 % FPR", "epsilon at least"]
    checks = results["checks"]
    return "\n\n".join(
        [
            _markdown(head, lines),
            "Intervals at 99.9 %; a coin flip has AUC 0.5 and a TPR of 1 %. "
            f"{sum(check['met'] for check in checks)} of {len(checks)} targets met; all of them: "
            "[docs/explain/audit.md](docs/explain/audit.md).",
        ]
    )


def render_audit(results: dict[str, Any] | None) -> str:
    """The audit's page: planted bugs, bounds beside what is accounted, other tools, every target."""
    if results is None:
        return NOTHING
    bugs = [
        [
            row["bug"],
            row["attack"],
            *(f"{row[key]:.2f}" for key in ("shipped_bound", "planted_bound", "power")),
        ]
        for row in _part(results, "bugs")
    ]
    ratios: dict[str, dict[float, float]] = {}
    for row in _part(results, "tightness"):
        ratios.setdefault(row["attack"], {})[row["epsilon"]] = row["ratio"]
    epsilons = sorted({row["epsilon"] for row in _part(results, "tightness")})
    shown = [[attack, *(f"{found.get(e, 0.0):.2f}" for e in epsilons)] for attack, found in ratios.items()]
    tools = [
        [
            row["tool"],
            row["attack"],
            _interval(row, "value", 3, ""),
            "**failed**" if row["failed"] else "passed",
        ]
        for row in _part(results, "tools")
        if row["value"] is not None
    ]
    tables = [
        _markdown(
            ["planted bug (claim: epsilon 1)", "attack", "shipped code", "with the bug", "could show"], bugs
        ),
        _markdown(["highest bound / accounted epsilon", *(f"epsilon {e:g}" for e in epsilons)], shown),
        _markdown(["synthetic data of", "attack", "value (interval)", "outcome"], tools),
        _targets(results["checks"]),
        "\n".join(_engine_print(results)),
    ]
    return "\n\n".join(tables)


_SHOWN: dict[str, tuple[tuple[str, str], ...]] = {
    "equality": (
        ("data", "federated against central"),
        ("phases", "phases"),
        ("records", "records"),
        ("sites", "sites"),
        ("largest_difference", "largest difference"),
    ),
    "drift": (
        ("method", "without privacy, two digits a site"),
        ("rounds", "rounds"),
        ("gradient_evaluations_a_site", "gradients a site"),
        ("elbo", "ELBO of held-out digits, mean"),
        ("elbo_low", "lowest of 3 seeds"),
        ("elbo_high", "highest"),
    ),
    "evaluation": (
        ("data", "evaluated by five sites at epsilon 0.5"),
        ("figure", "figure"),
        ("exact", "exact"),
        ("value", "told"),
        ("low", "from"),
        ("high", "to"),
    ),
    "leak": (
        ("mode", "what the coordinator sees"),
        ("recovered", "recovered"),
        ("records", "of records"),
        ("low", "share at least"),
        ("high", "share at most"),
    ),
    "engine": (
        ("engine", "a round of 652,824 numbers"),
        ("sites", "sites"),
        ("seconds_a_round", "seconds"),
        ("beside_training", "beside training"),
        ("slowest_round", "slowest"),
    ),
    "kills": (
        ("sums", "sums"),
        ("kind", "what goes wrong"),
        ("cases", "cases"),
        ("same_bytes", "same bytes"),
        ("refused", "refused"),
        ("charges_right", "charges right"),
        ("released_after_a_refusal", "released after a refusal"),
    ),
}
_AGGREGATION = {
    "sites": "sites",
    "numbers": "numbers",
    "site_cpu_ms": "ms of processor time a site",
    "site_cpu_ms_least": "least of the runs",
    "server_cpu_ms": "coordinator, ms",
}


def render_federated(results: dict[str, Any] | None) -> str:
    """The page on federation: equality, utility, drift, leaks, cost, a round, deaths, every target."""
    if results is None:
        return NOTHING
    tables = {part: _rows_of(_part(results, part), dict(columns)) for part, columns in _SHOWN.items()}
    costs = [row for row in _part(results, "cost") if "site_cpu_ms" in row]
    told = [row for row in _part(results, "evaluation") if row["fit"] == 0]
    evaluated = _rows_of(told, dict(_SHOWN["evaluation"]))
    tables |= {"utility": _useful(results), "cost": _rows_of(costs, _AGGREGATION), "evaluation": evaluated}
    order = ("equality", "utility", "evaluation", "drift", "leak", "cost", "engine", "kills")
    shown = [tables[part] for part in order if tables[part]]
    return "\n\n".join([*shown, _targets(results["checks"]), "\n".join(_federated_print(results))])


def _federated_print(results: dict[str, Any]) -> Iterator[str]:
    checks = results["checks"]
    yield (
        f"{sum(check['met'] for check in checks)} of {len(checks)} targets met. Machine, which others used meanwhile: "
        f"{results['machine']}; {results['seconds'] / 60:.0f} minutes for everything."
    )
    missed = [check for check in checks if not check["met"]]
    yield from (f"- Missed: {c['name']}{': ' + c['reason'] if 'reason' in c else ''}." for c in missed)
    yield from (f"- Not measured: {item['name']}: {item['reason']}." for item in results["not_measured"])


def render_encrypted(results: dict[str, Any] | None) -> str:
    """Every target beside what was measured."""
    return NOTHING if results is None else _targets(results["checks"])


def render_ratings(results: dict[str, Any] | None) -> str:
    """Rivals by epsilon, means over splits; by the number of persons; every target."""
    if results is None:
        return NOTHING
    rivals: dict[str, dict[str, list[float]]] = {}
    for row in _part(results, "rivals"):
        rivals.setdefault(row["who"], {}).setdefault(str(row["epsilon"]), []).append(row["ndcg_at_10"])
    columns = ("inf", "1.0", "3.0", "10.0")
    lines = [
        [who, *(f"{fmean(found[e]):.3f}" if e in found else "" for e in columns)]
        for who, found in rivals.items()
    ]
    head = ["NDCG@10, Jester", "without privacy", "epsilon 1", "3", "10"]
    some = {
        name: name.replace("_", " ")
        for name in (
            "persons",
            "epsilon",
            "ndcg_at_10",
            "popularity_at_this_epsilon",
            "popularity_without_privacy",
            "planned_from",
        )
    }
    persons = [row for row in _part(results, "persons") if row["who"] == "privae"]
    tables = [_markdown(head, lines), _rows_of(persons, some), _rows_of(_part(results, "scale")[:2], _SCALE)]
    return "\n\n".join([*filter(None, tables), _targets(results["checks"])])


def render_detection(results: dict[str, Any] | None) -> str:
    """AUC and average precision of every set and fit, a column a score; every target."""
    if results is None:
        return NOTHING
    fits: dict[tuple[str, str], dict[str, str]] = {}
    for row in (*_part(results, "sets"), *_part(results, "images")):
        who = f"{row['who']}, epsilon {row['epsilon']}" if "epsilon" in row else row["who"]
        cells = fits.setdefault((row["set"], who.replace(".0", "")), {})
        cells[row["score"]] = f"{row['auc']:.3f} / {row['ap']:.3f}"
    scores = ("combined", "mahalanobis", "diagonal", "tail")
    ours = [
        [*key, *(cells.get(score, "") for score in scores)]
        for key, cells in fits.items()
        if "combined" in cells
    ]
    others = [
        [*key, score, text]
        for key, cells in fits.items()
        if "combined" not in cells
        for score, text in cells.items()
    ]
    tables = [
        _markdown(["AUC / average precision", "fit", *scores], ours),
        _markdown(["AUC / average precision", "beside it", "score", ""], others),
    ]
    made = {
        "epsilon": "chest images made up, epsilon",
        "auc": "AUC learned from them",
        "gray_levels": "gray levels",
    }
    return "\n\n".join([*tables, _rows_of(_part(results, "made_up"), made), _targets(results["checks"])])


_SCALE = {
    name: name.replace("_", " ")
    for name in ("interactions", "items", "modeled", "cpu_seconds", "peak_megabytes")
}


def _rows_of(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """A table of some fields of rows; empty without rows."""
    if not rows:
        return ""
    return _markdown([*columns.values()], [[_cell(row.get(name, "")) for name in columns] for row in rows])


def _cell(value: Any) -> str:  # noqa: ANN401  whatever a row holds
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def render_continual(results: dict[str, Any] | None) -> str:
    """What stands between the markers of the page on streams."""
    if results is None:
        return NOTHING
    names = {
        "protect": "protects",
        "homes": "homes",
        "best_for": "planned for a mean of, days",
        "bands": "bands",
        "mean_over": "mean over",
        "percent": "standard error, % of the bounds' width",
        "independent": "with independent noise",
        "ratio": "ratio",
    }
    ran = {
        "protect": "protects",
        "noise": "noise",
        "percent": "weekly error that was made, %",
        "told": "that was told, %",
    }
    speed = {"units": "units", "numbers": "numbers", "step": "day", "seconds": "seconds of one add"}
    errors = [row for row in _part(results, "errors") if row["protect"] == "step" or row["best_for"] == 7]
    parts = [(errors, names), (_part(results, "simulated"), ran), (_part(results, "speed"), speed)]
    tables = [_rows_of(rows, columns) for rows, columns in parts]
    return "\n\n".join([*tables, _targets(results["checks"])])


_FOUND = {
    "synthetic": {
        "set": "made up",
        "epsilon": "epsilon",
        "told_apart": "AUC of telling apart",
        "told_apart_base": "of real halves",
        "profile": "daily profile, apart",
        "profile_base": "real halves",
        "week": "weekly profile, apart",
        "week_base": "new real homes",
        "marginals": "values, apart",
        "marginals_base": "real halves ",
        "autocorrelation": "autocorrelation, apart",
        "autocorrelation_base": "real halves  ",
        "next_step": "R2 of the next step",
        "next_step_real": "learned from real",
        "transfer": "AUC of labels",
        "transfer_real": "learned from real ",
    },
    "gradients": {
        "homes": "homes",
        "who": "fit",
        "epsilon": "epsilon",
        "auc": "AUC of odd days",
        "next_step": "R2 of the next step",
        "next_step_real": "learned from real",
        "fit_seconds": "seconds",
        "fits": "fits",
    },
    "nab": {
        "set": "NAB, mean over series",
        "series": "series",
        "who": "score",
        "epsilon": "epsilon",
        "vus_roc": "VUS-ROC",
        "vus_pr": "VUS-PR",
        "auc": "AUC of points",
        "ap": "average precision",
        "refused": "fits refused",
    },
    "scale": {
        "windows": "windows",
        "readings": "readings",
        "fit_seconds": "fit, s",
        "fit_cpu_seconds": "processor, s",
        "score_seconds": "score, s",
        "score_cpu_seconds": "processor, s ",
        "table_megabytes": "table, MB",
        "peak_megabytes": "peak with the table, MB",
        "peak_megabytes_scoring": "peak scoring, MB",
    },
    "streaming": {
        "channels": "channels",
        "steps": "steps a window",
        "ids": "ids",
        "median_ms": "a line: median, ms",
        "p99_ms": "99th percentile, ms",
        "median_cpu_ms": "of the processor: median",
        "p99_cpu_ms": "99th percentile",
    },
}


def render_series(results: dict[str, Any] | None) -> str:
    """Detection by set and fit, a column a score; what is made up; single series; speed; every target."""
    if results is None:
        return NOTHING
    rows = [row for part in ("italy", "homes", "occupancy", "appliances") for row in _part(results, part)]
    tables = [
        *_scores(rows, "mahalanobis"),
        *(_rows_of(_part(results, name), _FOUND[name]) for name in _FOUND),
    ]
    return "\n\n".join(
        [*filter(None, tables), _targets(results["checks"]), "\n".join(_federated_print(results))]
    )


def _scores(rows: list[dict[str, Any]], own: str) -> list[str]:
    """AUC and average precision: of our fits, a column a score, and of everything beside them."""
    fits: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        who = f"epsilon {row['epsilon']}, delta {row['delta']}" if "epsilon" in row else row["who"]
        cells = fits.setdefault((row["set"], who.replace(".0", "")), {})
        cells[row["score"]] = f"{row['auc']:.3f} / {row['ap']:.3f}"
        facts = ("n", "numbers", "n_mu_over_d")
        cells |= {name: str(row.get(name, "")) for name in facts} if "n" in row else {}
        cells |= {"refused": f"{row['refused']} of {row['of']}"} if "refused" in row else {}
    facts = ("n", "numbers", "n_mu_over_d", "mahalanobis", "combined", "diagonal", "tail", "refused")
    ours = [[*key, *(cells.get(name, "") for name in facts)] for key, cells in fits.items() if own in cells]
    others = [
        [*key, score, text]
        for key, cells in fits.items()
        if own not in cells
        for score, text in cells.items()
    ]
    head = ["AUC / average precision", "privae", "units", "numbers", "n mu / d", *facts[3:7], "refused"]
    return [_markdown(head, ours), _markdown(["AUC / average precision", "beside it", "score", ""], others)]


def _useful(results: dict[str, Any]) -> str:
    """Means over seeds of what is trained on synthetic records, federated and central beside each other."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in (*_part(results, "utility"), *_part(results, "digits")):
        found.setdefault((row["data"], row["measure"]), {}).setdefault(row["fit"], []).append(row["value"])
    lines = []
    for (data, measure), fits in found.items():
        ways = [fits.get(fit, []) for fit in ("federated", "central")]
        lines.append([data, measure.replace("_", " "), *(_spread(values) for values in ways)])
    return (
        _markdown(["epsilon 1, trained on synthetic", "measure", "federated", "central"], lines)
        if lines
        else ""
    )


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    digits = 1 if max(values) > 1 else 3
    mean, low, high = (f"{value:.{digits}f}" for value in (fmean(values), min(values), max(values)))
    return f"{mean} ({low} to {high}, {len(values)} fits)"


def _part(results: dict[str, Any], part: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row.get("part") == part]


def _interval(row: dict[str, Any], name: str, digits: int, prefix: str | None = None) -> str:
    ends = [row[f"{name}_{end}" if prefix is None else end] for end in ("low", "high")]
    return f"{row[name]:.{digits}f} ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})"


def stored(path: Path = RESULTS) -> dict[str, Any] | None:
    """The parsed results of a benchmark, or None while there are none."""
    if not path.exists():
        return None
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


_Render = Callable[[dict[str, Any] | None], str]
PAGES: tuple[tuple[Path, Path, _Render, str], ...] = (
    (README, RESULTS, render, FIGURES),
    (README, AUDIT_RESULTS, render_demo, TRIED),
    (ENGINE, ENGINE_RESULTS, render_engine, FIGURES),
    (AUDIT, AUDIT_RESULTS, render_audit, TRIED),
    (FEDERATED, FEDERATED_RESULTS, render_federated, TOGETHER),
    (AUDIT.with_name("encrypted.md"), RESULTS.with_name("encrypted.json"), render_encrypted, FIGURES),
    (AUDIT.with_name("detection.md"), RESULTS.with_name("detection.json"), render_detection, FIGURES),
    (AUDIT.with_name("continual.md"), RESULTS.with_name("continual.json"), render_continual, FIGURES),
    (AUDIT.with_name("series.md"), RESULTS.with_name("series.json"), render_series, FIGURES),
    (AUDIT.with_name("ratings.md"), RESULTS.with_name("ratings.json"), render_ratings, FIGURES),
)


def split(text: str, name: str = FIGURES) -> tuple[str, str, str]:
    """A document's text before, between and after the markers of that name, which must be there once."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, begun, rest = text.partition(begin)
    inside, ended, tail = rest.partition(end)
    if not (begun and ended) or begin in tail:
        raise SystemExit(f"a page with figures must hold one pair of markers: {begin} and {end}")
    return head + begun, inside.strip(), ended + tail


def main(arguments: list[str]) -> int:
    """Write the figures, or compare them."""
    stale = []
    for page, results, rendered, name in PAGES:
        head, inside, tail = split(page.read_text(encoding="utf-8"), name)
        expected = rendered(stored(results))
        if inside != expected:
            stale.append(page.name)
            if "--check" not in arguments:
                page.write_text(f"{head}\n{expected}\n{tail}", encoding="utf-8")
    if not stale or "--check" not in arguments:
        return 0
    sys.stderr.write(
        f"the figures of {', '.join(stale)} are stale; write them again with: python scripts/figures.py\n"
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
