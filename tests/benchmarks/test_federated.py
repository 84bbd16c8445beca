"""The page that shows benchmarks/federated.py: a table a part, every target, and why one was missed."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def figures():
    spec = importlib.util.spec_from_file_location("figures_of_studies", ROOT / "scripts" / "figures.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_page_shows_what_was_measured_missed_and_not_measured():
    fit = {"part": "utility", "data": "MNIST", "measure": "logistic_on_10000"}
    check = {"value": 1.0, "bar": 0.0, "sense": "at_most", "met": False}
    results = {
        "machine": "a machine",
        "seconds": 600.0,
        "rows": [
            {**fit, "fit": "federated", "value": 86.0},
            {**fit, "fit": "federated", "value": 88.0},
            {**fit, "fit": "central", "value": 87.5},
            {"part": "leak", "mode": "plain", "recovered": 64, "records": 64, "low": 0.944, "high": 1.0},
            {"part": "cost", "what": "messages", "bytes_up": 12.0},
            {"part": "cost", "sites": 10, "numbers": 7, "site_cpu_ms": 20.0, "site_cpu_ms_least": 19.5},
        ],
        "checks": [{**check, "name": "decoder only", "reason": "it is no protection"}],
        "not_measured": [{"name": "Flower's round", "reason": "no interpreter"}],
    }
    text = figures().render_federated(results)
    assert "| MNIST | logistic on 10000 | 87.0 (86.0 to 88.0, 2 fits) | 87.5 (87.5 to 87.5, 1 fits) |" in text
    assert "| plain | 64 | 64 | 0.944 | 1 |" in text
    assert "| 10 | 7 | 20 | 19.5 |  |" in text
    assert "| decoder only | 1 | at most 0 | **missed** |" in text
    assert "- Missed: decoder only: it is no protection." in text
    assert "- Not measured: Flower's round: no interpreter." in text
    assert "what goes wrong" not in text


def test_a_page_without_results_says_so():
    assert figures().render_federated(None) == "not measured yet"
