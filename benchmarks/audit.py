"""The audit: does it find what it should, stay silent where it should, and how much of epsilon can it show?

Parts (one or several may be named on the command line; none: all):
  bugs      every planted bug of audit_bugs.py, on the shipped code and with the bug
  alarms    many cheap audits of a correct run: how often one fails
  bounds    fits on three data sets over epsilon 0.5 to 10: every lower bound beside the accounted epsilon
  overfit   an overfitted VAE without privacy beside ours at epsilon 1: membership AUC and TPR at 1 % FPR
  tools     synthetic data of other tools: a copy of the training table, and SDV's TVAE, beside Anonymeter's figures
  cost      how long an audit of 10,000 rows takes
`tools` reads what audit_peers.py wrote (--peers FOLDER), for those tools need environments of their own.
Data: packaged Adult and digits, and ../shared/data/pneumoniamnist.npz.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import audit_bugs
import numpy as np
import pandas as pd
import torch
from harness import SHARED, Report, parser

from privae import VAE, Training
from privae.attacks import copies, membership
from privae.attacks.bounds import CONFIDENCE, corrected, one_run_bound
from privae.attacks.finding import Finding
from privae.audit.case import Own, case_of, case_of_samples
from privae.audit.coins import Coins
from privae.audit.game import gradient_canaries
from privae.audit.suite import audit
from privae.data.column import Column
from privae.data.examples import load_digits, load_table
from privae.data.schema import Schema
from privae.privacy.noise import NoiseSource
from privae.recipes.gradients import GRADIENTS

DELTA = 1e-6
EPSILONS = (0.5, 1.0, 3.0, 10.0)
CANARIES = 500
ALARMS = 1000
SECONDS = 30.0
ROWS = 10_000
OVERFIT_ROWS = 500
OVERFIT = Training(
    latent=64, hidden=(512, 512), steps=3000, batch=250, learning_rate=1e-3, precision="float32"
)


def bugs(report: Report, _: Any) -> None:
    """Each planted bug, and the same attack on the shipped code."""
    caught, alarms = 0, 0
    for case in audit_bugs.CASES:
        shipped, planted = case.shipped(), case.planted()
        caught += planted.failed
        alarms += shipped.failed
        report.row(
            part="bugs",
            bug=case.bug,
            attack=case.attack,
            claim=audit_bugs.EPSILON,
            confidence=planted.confidence,
            shipped_bound=shipped.value,
            planted_bound=planted.value,
            power=planted.power,
        )
    count = len(audit_bugs.CASES)
    report.check("planted bugs found by their named attack", caught, count, "at_least")
    report.check("the same attacks that fail on the shipped code", alarms, 0, "at_most")


def alarms(report: Report, options: Any) -> None:
    """Audits of a correct run at the audit's confidence, with the strongest attack there is, at epsilon 1."""
    count = ALARMS // 10 if options.quick else ALARMS
    phase = audit_bugs.phase()
    found = [gradient_canaries(phase, 1000, DELTA, CONFIDENCE, NoiseSource()) for _ in range(count)]
    failed = sum(finding.failed for finding in found)
    highest = max(finding.value for finding in found)
    report.row(part="alarms", runs=count, failed=failed, epsilon=1.0, highest_bound=highest)
    report.check("false alarms of 1,000 audits of a correct run", failed, 3, "at_most")


def table_fit(epsilon: float, seed: int) -> VAE:
    people, schema = load_table()
    rows = people.sample(ROWS, random_state=seed)
    return VAE(epsilon, DELTA, rows=ROWS, schema=schema).fit(rows, coins=Coins(CANARIES))


def gradient_fit(epsilon: float, seed: int) -> VAE:
    x, y, schema = load_digits()
    kept = np.random.default_rng(seed).permutation(len(x))[:1_700]
    training = Training(latent=8, hidden=(64,), steps=100, batch=170)
    model = VAE(epsilon, DELTA, rows=1_700, recipe="gradients", training=training, schema=schema)
    return model.fit(x[kept], y[kept], coins=Coins(200))


def scans() -> tuple[np.ndarray, np.ndarray]:
    """Chest X-rays, each once."""
    with np.load(SHARED / "pneumoniamnist.npz") as file:
        x, y = (np.concatenate([file[f"{k}_{part}"] for part in ("train", "val", "test")]) for k in "xy")
    _, first = np.unique(x.reshape(len(x), -1), axis=0, return_index=True)
    return x[first], y[first].ravel().astype(str)


def image_fit(epsilon: float, seed: int) -> VAE:
    x, y = scans()
    kept = np.random.default_rng(seed).permutation(len(x))[:5_500]
    model = VAE(epsilon, DELTA, rows=5_500, classes=2, fidelity=False)
    return model.fit(x[kept], y[kept], coins=Coins(CANARIES))


FITS: tuple[tuple[str, Callable[[float, int], VAE]], ...] = (
    ("Adult", table_fit),
    ("PneumoniaMNIST", image_fit),
    ("digits, by gradients", gradient_fit),
)


def bounds(report: Report, options: Any) -> None:
    """Lower bounds of many fits, each at a confidence that is corrected over all of them."""
    seeds = 1 if options.quick else 2
    fits = [(name, fit, epsilon, seed) for name, fit in FITS for epsilon in EPSILONS for seed in range(seeds)]
    confidence = corrected(len(fits) * 5)
    above, ratios = 0, {}
    for name, fit, epsilon, seed in fits:
        model = fit(epsilon, seed)
        accounted = model.guarantee.epsilon
        findings = [*model.canary_findings_, *looped(model)]
        for finding in findings:
            known = finding.details
            numbers = (known["right"], known["guesses"], known["canaries"], DELTA)
            bound = one_run_bound(*numbers, confidence)
            above += bound > accounted
            key = (finding.attack, epsilon)
            ratios[key] = max(ratios.get(key, 0.0), finding.value / accounted)
            report.row(
                part="bounds",
                data=name,
                epsilon=epsilon,
                seed=seed,
                attack=finding.attack,
                bound=finding.value,
                bound_over_all_fits=bound,
                power=finding.power,
                right=known["right"],
                guesses=known["guesses"],
                ratio=finding.value / accounted,
            )
    report.check("fits whose lower bound is above the accounted epsilon", above, 0, "at_most")
    report.check("fits measured", len(fits), 12 if options.quick else 20, "at_least")
    for (attack, epsilon), ratio in sorted(ratios.items()):
        report.row(part="tightness", attack=attack, epsilon=epsilon, ratio=ratio)


def looped(model: VAE) -> Iterator[Finding]:
    """Gradient canaries through the shipped loop, at the settings of the model's gradient phase."""
    phase = model.plan_.phase(GRADIENTS)
    if phase is not None:
        yield gradient_canaries(phase, 1000, DELTA, CONFIDENCE, NoiseSource())


def overfit(report: Report, options: Any) -> None:
    """The same 500 people, kept by an overfitted VAE and by ours; about as many that neither has seen."""
    people, schema = load_table()
    people = people.drop_duplicates().sample(2 * OVERFIT_ROWS, random_state=0).reset_index(drop=True)
    coins = Coins(kept_out=0.5)  # secret coins decide who is kept, so that guesses prove something
    used = coins.taking_part(people)
    known = people[used]
    training = replace(OVERFIT, steps=200) if options.quick else OVERFIT
    terms: dict[str, Any] = {"rows": OVERFIT_ROWS, "schema": schema}
    models = {
        "VAE without privacy, overfitted": VAE(
            math.inf, DELTA, recipe="gradients", training=training, **terms
        ),
        "the same network, epsilon 1": VAE(1.0, DELTA, recipe="gradients", training=training, **terms),
        "privae's default, epsilon 1": VAE(1.0, DELTA, **terms),
    }
    for name, model in models.items():
        start = time.monotonic()
        model.fit(known)
        seconds = time.monotonic() - start
        own = Own(model.fitted_, model.plan_, model._recipe(schema, model.plan_), None)
        world = replace(case_of(own, (people, None), None, coins, 0).world, epsilon=1.0)
        for attack in (membership.loss, membership.parts, membership.reconstruction, membership.domias):
            finding = attack(world, CONFIDENCE, np.random.default_rng(0))
            tpr = next(one for one in finding.details["tpr"] if one["fpr"] == 0.01)
            report.row(
                part="overfit",
                model=name,
                attack=finding.attack,
                auc=finding.value,
                auc_low=finding.low,
                auc_high=finding.high,
                tpr=tpr["value"],
                tpr_low=tpr["low"],
                tpr_high=tpr["high"],
                bound=finding.details["bound"],
                fails_a_claim_of_1=finding.failed,
                fit_seconds=seconds,
            )
    auc = [row for row in report.rows if row["part"] == "overfit"]
    exposed = max(row["auc"] for row in auc if "overfitted" in row["model"])
    hidden = max(abs(row["auc"] - 0.5) for row in auc if "default" in row["model"])
    report.check("best membership AUC against the overfitted VAE", exposed, 0.9, "at_least")
    report.check("largest |AUC - 0.5| against privae's default at epsilon 1", hidden, 0.06, "at_most")


def tools(report: Report, options: Any) -> None:
    """What the black-box audit says of other tools' tables, beside Anonymeter."""
    folder: Path = options.peers
    if not (folder / "tvae.csv").exists():
        report.not_measured.append(
            {"name": "other tools", "reason": "run audit_peers.py first (--peers FOLDER)"}
        )
        return
    _, schema = load_table()
    train, held, copy, made = (read(folder / f"{n}.csv") for n in ("train", "holdout", "copy", "tvae"))
    ours = VAE(1.0, DELTA, rows=len(train), schema=schema).fit(train).sample(len(train), seed=0)
    anonymeter = json.loads((folder / "anonymeter.json").read_text())
    failed = {}
    for name, table in (("copy", copy), ("SDV TVAE", made), ("privae, epsilon 1", ours)):
        done = audit(case_of_samples(schema, (train, held, table), (None, 0.0)), "standard")
        failed[name] = [finding.attack for finding in done.findings if finding.failed]
        for finding in done.findings:
            report.row(
                part="tools",
                tool=name,
                attack=finding.attack,
                measure=finding.measure,
                value=None if math.isnan(finding.value) else finding.value,
                low=finding.low,
                high=finding.high,
                failed=finding.failed,
            )
    found = ends(folder)
    report.row(part="tools", tool="SDV TVAE, breast cancer", **found)
    report.row(part="anonymeter", figures=anonymeter)
    report.check("exact extremes of SDV's TVAE found (1 = yes)", float(found["failed"]), 1, "at_least")
    report.check("failed attacks on the copy", len(failed["copy"]), 5, "at_least")
    report.check("failed attacks on privae's samples", len(failed["privae, epsilon 1"]), 0, "at_most")


def ends(folder: Path) -> dict[str, Any]:
    """Exact extremes that SDV's TVAE repeats, on a table of 30 columns of measurements."""
    train, held, made = (read(folder / f"cancer-{name}.csv") for name in ("train", "holdout", "tvae"))
    every = pd.concat([train, held])
    names = [name for name in train.columns if name != "benign"]
    columns = [Column(name=n, kind="numeric", bounds=(-1.0, 2 * float(every[n].max()) + 1)) for n in names]
    schema = Schema(columns=tuple(columns))
    world = case_of_samples(schema, (train[names], held[names], made[names]), (None, 0.0)).world
    finding = copies.extremes(world, CONFIDENCE)
    exact = sum(made[n].min() == train[n].min() for n in names)
    return {
        "attack": finding.attack,
        "measure": finding.measure,
        "value": finding.value,
        "low": finding.low,
        "high": finding.high,
        "failed": finding.failed,
        "columns": len(names),
        "columns_whose_exact_minimum_is_repeated": int(exact),
    }


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False)


def cost(report: Report, _: Any) -> None:
    """A whole quick and standard audit of a model of 10,000 rows with 2,500 that were kept out."""
    people, schema = load_table()
    known, unknown = people[:ROWS], people[ROWS : ROWS + 2_500]
    model = VAE(1.0, DELTA, rows=ROWS, schema=schema).fit(known)
    for level in ("quick", "standard"):
        done = model.audit(known, holdout=unknown, level=level)
        report.row(part="cost", level=level, rows=ROWS, seconds=done.seconds, findings=len(done.findings))
        if level == "quick":
            report.check("seconds of a quick audit of 10,000 rows", done.seconds, SECONDS, "at_most")


PARTS = (bugs, alarms, bounds, overfit, tools, cost)


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("parts", nargs="*", help="bugs, alarms, bounds, overfit, tools, cost; none: all")
    options.add_argument("--peers", type=Path, default=Path("peers"), help="what audit_peers.py wrote")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    report = Report("audit", chosen.quick)
    for part in PARTS:
        if not chosen.parts or part.__name__ in chosen.parts:
            part(report, chosen)
    if chosen.parts:
        print("a part alone is not written")
        return
    report.write()


if __name__ == "__main__":
    main()
