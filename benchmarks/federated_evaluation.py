"""A released model evaluated by several sites, for benchmarks/federated.py: noisy figures beside exact ones."""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from federated_data import DELTA, FIVE, image_schema, mnist
from harness import SHARED, Report
from sklearn.metrics import roc_auc_score

from privae import VAE
from privae.data.examples import load_table
from privae.evaluate import released
from privae.evaluate.released import Evaluated, Evaluation
from privae.federated.study import Terms
from privae.privacy.noise import NoiseSource
from privae.recipes.phases import Run
from privae.training.watch import Silent
from privae.transport.simulate import parted, simulate

EPSILON = 0.5
FITS = 3  # evaluations of the same records, each with noise of its own
UNSEEN = "0"  # the digit that the model of images was not fitted on
NEAR = 0.02  # how far a noisy AUC may be from the exact one


def evaluation(report: Report, options: Any) -> None:
    """AUC, false alarms and thresholds at epsilon 0.5 from five sites, beside exact ones; without noise, the counts."""
    count = 2_000 if options.quick else 10_000
    errors, inside, apart = [], [], 0
    for name, model, records, truth in (people(count), digits(count)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.privae"
            model.save(path)
            apart += differing(path, records)
            for turn in range(1 if options.quick else FITS):
                found, seconds = by_sites(path, records, EPSILON)
                figures = found.figures()
                for figure, exact in truth.items():
                    kind, key = figure
                    shown = figures[kind][key]
                    if shown is None:  # lost in the noise, as it says
                        continue
                    errors += [shown["value"] - exact] if kind == "auc" else []
                    inside.append(shown["low"] <= exact <= shown["high"])
                    alarms = "" if kind == "auc" else f"stranger than {1 - float(key):.0%} of its own samples"
                    what = alarms or f"AUC of strangeness, {key}"
                    values = {
                        **shown,
                        "exact": exact,
                        "milliseconds_a_record": 1000 * seconds / len(records[0]),
                    }
                    report.row(part="evaluation", data=name, figure=what, fit=turn, epsilon=EPSILON, **values)
    report.check("evaluation without noise: counts that differ from a central one's", apart, 0, "at_most")
    typical = math.sqrt(float(np.mean(np.square(errors))))
    report.check("evaluation at epsilon 0.5: root mean square error of an AUC", typical, NEAR, "at_most")
    covered = float(np.mean(inside))
    report.check(
        "evaluation at epsilon 0.5: exact figures inside the 95 % intervals, share", covered, 0.9, "at_least"
    )


def people(count: int) -> tuple[str, VAE, Any, dict[tuple[str, str], float]]:
    """Census rows: a model of the training rows at epsilon 1, and rows that it has not seen."""
    train, schema = load_table()
    held = pd.read_parquet(SHARED / "adult_test.parquet").iloc[:count]
    model = VAE(1.0, DELTA, rows=len(train)).fit(train, schema=schema)
    label = str(schema.label)
    scores = model.score_samples(held.drop(columns=label))
    codes = model.fitted_.codec.encode(held)[:, model.fitted_.codec.label]
    own = model.fitted_.sampled_scores(10_000, held.drop(columns=label))
    return "Adult", model, (held, None), exact(scores, codes, own, released.class_names(schema))


def digits(count: int) -> tuple[str, VAE, Any, dict[tuple[str, str], float]]:
    """Digits: a model at epsilon 1 that saw no zeros; zeros are among those that it is asked about."""
    x, y = mnist()
    model = VAE(1.0, DELTA, rows=len(x), schema=image_schema(), classes=10, fidelity=False)
    model.fit(x[y != UNSEEN], y[y != UNSEEN])
    x, y = mnist(count, test=True)
    own = model.score_samples(model.sample(10_000, seed=0)[0])
    names = released.class_names(image_schema())
    truth = exact(model.score_samples(x), y.astype(int), own, names)
    return "MNIST, fitted without zeros", model, (x, y), truth


def exact(scores: Any, classes: Any, own: Any, names: tuple[str, ...]) -> dict[tuple[str, str], float]:
    """The figures of the scores themselves, by kind and key."""
    found = {
        ("auc", name): float(roc_auc_score(classes == place, -scores)) for place, name in enumerate(names)
    }
    alarms = {
        ("stranger_than_own", str(share)): float((scores < np.quantile(own, share)).mean())
        for share in released.SHARES
    }
    return found | alarms


def by_sites(path: Path, records: Any, epsilon: float) -> tuple[Evaluated, float]:
    """An evaluation by five sites, under masks and shared noise, and its seconds."""
    released.planned(path, epsilon, DELTA, len(records[0])).save(path.with_name("plan.toml"))
    fields = {"name": "benchmark", "plan": "plan.toml", "model": path.name, "sites": dict.fromkeys(FIVE, "")}
    terms = Terms.model_validate({**fields, "colluders": 0, "min_sites": 5})
    terms = terms.model_copy(update={"folder": path.parent})
    start = time.process_time()
    made = simulate(terms, parted(records, FIVE, "label", terms.schema_of()))
    return made.coordinator.fitted, time.process_time() - start


def differing(path: Path, records: Any) -> int:
    """Counts that five sites and one place find without noise, and that are not the same."""
    few = records[0][:1_000], None if records[1] is None else records[1][:1_000]
    together, _ = by_sites(path, few, math.inf)
    plan, fitted = (
        released.planned(path, math.inf, DELTA, 1_000),
        released.load_members(path.read_bytes(), "m"),
    )
    run = Run(plan, lambda *_: None, NoiseSource(), Silent())
    alone = Evaluation.of(fitted.schema, plan, path.read_bytes()).fit(run, *few)
    return int((together.counts != alone.counts).sum())
