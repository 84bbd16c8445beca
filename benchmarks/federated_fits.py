"""Federated against central, for benchmarks/federated.py: the same numbers, the same use, and what local steps lose."""

import itertools
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import main
import numpy as np
import torch
from federated_data import (
    DELTA,
    FIVE,
    HOSPITALS,
    KEY,
    apart,
    assembled,
    driven,
    heart,
    image_schema,
    mnist,
    noise_of_one,
)
from harness import SHARED, Report
from torch import Tensor

from privae import VAE, Training
from privae.data.codec import Codec
from privae.data.examples import load_table
from privae.evaluate.utility import image_score, table_scores
from privae.models.latent import LatentModel
from privae.models.likelihoods import Bernoulli
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Poisson
from privae.recipes import image
from privae.recipes.gradients import default_network, negative_elbo
from privae.training import loop

STEPS = 20  # of a gradient phase that is compared number by number
POINTS, AUC = 1.0, 0.01  # how far a federated mean may be from the central one: accuracy in points, AUC
EVALUATIONS, LOCAL_BATCH = 600, 50  # gradients that each site forms in all, and records of each
RATE = 1e-2  # of local gradient descent on mean losses, falling to 0; three times as much diverges
SEEDS = 3
HIDDEN, LATENT = 128, 16
LOCAL = (1, 10, 50)


def equality(report: Report, options: Any) -> None:
    """The model of several sites and the one of a central fit on the union of their records, number by number."""
    table, schema = heart()
    images, labels = mnist(3_000 if options.quick else 10_000)
    cases = (
        ("heart disease, 4 hospitals", (table, None), schema, HOSPITALS, "site"),
        ("MNIST, two digits a site", (images, labels), image_schema(), FIVE, "label"),
    )
    largest = {"closed form": 0.0, "gradients": 0.0}
    for name, records, declared, sites, split in cases:
        for phases, measure in (("closed form", closed_form), ("gradients", by_gradients)):
            found, planned = measure(records, declared, sites, split)
            largest[phases] = max(largest[phases], found)
            report.row(
                part="equality",
                data=name,
                phases=", ".join(phase.name for phase in planned.phases),
                kind=phases,
                records=len(records[0]),
                sites=len(sites),
                largest_difference=f"{found:.3g}",
            )
    report.check(
        "closed-form phases: largest difference from the central fit", largest["closed form"], 0, "at_most"
    )
    report.check("gradient phase: largest difference, in 1e-5", largest["gradients"] / 1e-5, 1.0, "at_most")


def closed_form(records: Any, schema: Any, sites: tuple[str, ...], split: str) -> tuple[float, Any]:
    """With noise, at epsilon 1: that of the central fit, drawn by one site."""
    central = VAE(1.0, DELTA, len(records[0]), schema=schema, fidelity=False, classes=classes_of(schema))
    plan = central.plan(schema)
    with noise_of_one(len(sites)):
        made = assembled(plan, schema, records, split, sites)
        driven(made)
    central.fit(*plain(records), schema=declared(schema), plan=plan, noise=NoiseSource(KEY))
    return apart(made.coordinator.fitted.model.state(), central.fitted_.model.state()), plan


def by_gradients(records: Any, schema: Any, sites: tuple[str, ...], split: str) -> tuple[float, Any]:
    """Without noise, each step on all records: what is left are sums in another order, and the grid that travels."""
    training = Training(steps=STEPS, batch=len(records[0]), share="decoder")
    central = VAE(math.inf, DELTA, len(records[0]), schema=schema, fidelity=True, classes=classes_of(schema))
    central.set_params(training=training)
    with all_records(len(records[0])):
        plan = central.plan(schema)
        made = assembled(plan, schema, records, split, sites)
        driven(made)
        central.fit(*plain(records), schema=declared(schema), plan=plan)
    return apart(made.coordinator.fitted.model.state(), central.fitted_.model.state()), plan


@contextmanager
def all_records(most: int) -> Iterator[None]:
    """Every batch is all records, latent noise is none, and the residual decoder of images takes few steps.

    most: records of a fit; a warm start on more samples, which follow from releases, is as it was.
    """
    drawn = Poisson.batches

    def every(self: Poisson, n: int, steps: int, noise: NoiseSource) -> Any:
        return itertools.repeat(np.arange(n), steps) if n <= most else drawn(self, n, steps, noise)

    with ExitStack() as held:
        held.enter_context(patch.object(Poisson, "batches", every))
        held.enter_context(patch.object(loop, "_latent", lambda shape, size, _: torch.zeros(*shape, size)))
        held.enter_context(patch.object(image, "_DECODER_STEPS", STEPS))
        yield


def plain(records: Any) -> tuple[Any, Any]:
    """Records without the column that says where they are."""
    x, y = records
    return (x.drop(columns="site"), None) if y is None else (x, y)


def classes_of(schema: Any) -> int | None:
    return len(schema.classes) if hasattr(schema, "height") and schema.classes else None


def declared(schema: Any) -> Any:
    """A table's schema; that of images follows from them."""
    return None if hasattr(schema, "height") else schema


def utility(report: Report, options: Any) -> None:
    """What the synthetic data are good for, federated and central, at epsilon 1."""
    scored = {"MNIST": (digits_scored, 3), "Adult": (people_scored, 2), "heart disease": (patients_scored, 2)}
    means: dict[tuple[str, str], float] = {}
    for data, (score, seeds) in scored.items():
        for how, fits in score(range(1 if options.quick else seeds)).items():
            means[data, how] = float(np.mean([fit["value"] for fit in fits]))
            for seed, fit in enumerate(fits):
                report.row(part="utility", data=data, fit=how, epsilon=1.0, seed=seed, **fit)
    for data, bar in (("MNIST", POINTS), ("Adult", AUC)):
        apart_by = abs(means[data, "federated"] - means[data, "central"])
        what = "logistic on 10,000, points" if data == "MNIST" else "AUC of boosting"
        report.check(
            f"{data} epsilon 1: federated against central, |difference of means|, {what}",
            apart_by,
            bar,
            "at_most",
        )


def digits(report: Report, options: Any) -> None:
    """The main job's first figure, from five sites of two digits each: a CNN on synthetic MNIST, at epsilon 1."""
    split, seed = main.mnist(validate=False), 0
    records = (split.x, split.y.astype(str).astype(object))
    plan = VAE(1.0, DELTA, rows=len(records[0]), classes=10).plan(image_schema())
    model = driven(assembled(plan, image_schema(), records, "label", FIVE))
    x, y = model.sample(5_000 if options.quick else len(records[0]), seed=seed)
    accuracy = main.cnn_accuracy(x, y.astype(int), split, seed)
    row = {"data": "MNIST", "fit": "federated", "measure": "cnn", "value": accuracy}
    report.row(part="digits", **row, epsilon=1.0, seed=seed, accounted=model.guarantee.epsilon)
    bar = main.MNIST_BARS[1.0]
    report.check("MNIST epsilon 1, five sites: CNN accuracy, one seed", accuracy, bar, "at_least")


def digits_scored(seeds: range) -> dict[str, list[dict[str, Any]]]:
    """MNIST, 60,000 images, two digits a site: logistic regression on 10,000 synthetic ones."""
    records, tests = mnist(), mnist(10_000, test=True)
    held_out = (tests[0], tests[1].astype(int))
    central = VAE(1.0, DELTA, rows=len(records[0]), classes=10)
    plan = central.plan(image_schema())

    def score(model: VAE, seed: int) -> dict[str, Any]:
        x, y = model.sample(10_000, seed=seed)
        value = 100 * image_score((x, y.astype(int)), held_out, iterations=50)
        return {"measure": "logistic_on_10000", "value": value, "accounted": model.guarantee.epsilon}

    ways = {
        "federated": lambda: driven(assembled(plan, image_schema(), records, "label", FIVE)),
        "central": lambda: VAE(1.0, DELTA, rows=len(records[0]), classes=10).fit(*records),
    }
    return {how: [score(fit(), seed) for seed in seeds] for how, fit in ways.items()}


def people_scored(seeds: range) -> dict[str, list[dict[str, Any]]]:
    """Adult, its rows dealt to four sites: gradient boosting on as many synthetic rows."""
    import pandas as pd

    people, schema = load_table()
    tests = pd.read_parquet(SHARED / "adult_test.parquet")
    return table_scored(people, schema, tests, ("boosting", "even", FIVE[:4]), seeds)


def patients_scored(seeds: range) -> dict[str, list[dict[str, Any]]]:
    """Heart disease, trained on three quarters of each hospital: logistic regression on synthetic patients."""
    table, schema = heart()
    held = table.groupby("site").sample(frac=0.25, random_state=0).index
    tests = table.loc[held].drop(columns="site")
    train = table.drop(index=held).reset_index(drop=True)
    return table_scored(train, schema, tests, ("logistic", "site", HOSPITALS), seeds)


def table_scored(
    train: Any, schema: Any, tests: Any, how: tuple[str, str, tuple[str, ...]], seeds: range
) -> dict[str, list[dict[str, Any]]]:
    model, split, sites = how
    codec = Codec(schema)
    held_out, alone = codec.encode(tests), train.drop(columns="site", errors="ignore")
    plan = VAE(1.0, DELTA, rows=len(train), schema=schema).plan()

    def score(fitted: VAE, seed: int) -> dict[str, Any]:
        codes = codec.encode(fitted.sample(len(train), seed=seed))
        value = table_scores(codes, held_out, codec, models=(model,))[model]
        return {"measure": f"auc_{model}", "value": value, "accounted": fitted.guarantee.epsilon}

    ways = {
        "federated": lambda: driven(assembled(plan, schema, (train, None), split, sites)),
        "central": lambda: VAE(1.0, DELTA, rows=len(train)).fit(alone, schema=schema),
    }
    return {how: [score(fit(), seed) for seed in seeds] for how, fit in ways.items()}


def drift(report: Report, options: Any) -> None:
    """Federated averaging without privacy, two digits a site: the ELBO of held-out digits as local steps grow."""
    images, labels = mnist(2_000 if options.quick else 10_000)
    held_out = pixels_of(mnist(1_000, test=True)[0])
    evaluations = EVALUATIONS // (4 if options.quick else 1)
    parts = [pixels_of(images[np.isin(labels.astype(int), (d, d + 1))]) for d in range(0, 10, 2)]
    found: dict[int, list[float]] = {}
    for local in (0, *LOCAL):
        seeds = range(SEEDS if local and not options.quick else 1)
        found[local] = [elbo_of(averaged(parts, evaluations, local, seed), held_out) for seed in seeds]
        report.row(
            part="drift",
            method=f"FedAvg, {local} local steps" if local else "central: the sites' batches as one",
            local_steps=local,
            rounds=evaluations // max(local, 1),
            gradient_evaluations_a_site=evaluations,
            seeds=len(seeds),
            elbo=float(np.mean(found[local])),
            elbo_low=min(found[local]),
            elbo_high=max(found[local]),
        )
    same = abs(found[1][0] - found[0][0])
    report.check("ELBO: one local step a round against central, |difference|, nats", same, 0.01, "at_most")
    lost = float(np.mean(found[1]) - np.mean(found[LOCAL[-1]]))
    report.check("ELBO lost by 50 local steps a round, nats, mean of seeds", lost, 0.0, "at_least")


def pixels_of(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).flatten(1).float() / 255.0


def averaged(parts: list[Tensor], evaluations: int, local: int, seed: int) -> torch.nn.Module:
    """Plain gradient descent at each site, weights averaged after `local` steps; 0: the gradients of each step are.

    The same batches and latent draws whatever `local` is; sites count alike. In float64: hundreds of steps at a rate
    near the largest stable one grow the rounding of float32 to tenths of a nat.
    """
    network = default_network(784, 1, Training(latent=LATENT, hidden=(HIDDEN,))).double()
    loss = negative_elbo(Bernoulli(784), 1)
    drawn = [torch.Generator().manual_seed(100 * seed + index) for index in range(len(parts))]

    def gradient(index: int) -> list[Tensor]:
        rows = torch.randint(len(parts[index]), (LOCAL_BATCH,), generator=drawn[index])
        noise = torch.randn(LOCAL_BATCH, LATENT, generator=drawn[index], dtype=torch.float64)
        mean = loss(network, (parts[index][rows].double(), noise)).mean()
        return list(torch.autograd.grad(mean, list(network.parameters())))

    weights = [p.detach().clone() for p in network.parameters()]
    for turn in range(evaluations // max(local, 1)):
        rates = [RATE * (1 - (turn * local + at) / evaluations) for at in range(local)]
        rates = rates or [RATE * (1 - turn / evaluations)]
        ends = []
        for index in range(len(parts)):
            load(network, weights)
            if not local:
                ends.append(gradient(index))
            for rate in rates[:local]:
                step(network, gradient(index), rate)
            if local:
                ends.append([p.detach().clone() for p in network.parameters()])
        means = [torch.stack(each).mean(0) for each in zip(*ends, strict=True)]
        weights = means if local else [w - rates[0] * g for w, g in zip(weights, means, strict=True)]
    load(network, weights)
    return network.float()


def load(network: torch.nn.Module, weights: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), weights, strict=True):
            parameter.copy_(value)


def step(network: torch.nn.Module, gradient: list[Tensor], rate: float) -> None:
    with torch.no_grad():
        for parameter, slope in zip(network.parameters(), gradient, strict=True):
            parameter -= rate * slope


def elbo_of(network: torch.nn.Module, rows: Tensor) -> float:
    """Mean evidence lower bound of records; -inf for a network that diverged."""
    model = LatentModel(network, Bernoulli(784), torch.ones(1, dtype=torch.float64), LATENT)
    value = float(model.log_likelihood(rows, torch.zeros(len(rows), dtype=torch.int64)).mean())
    return value if math.isfinite(value) else -math.inf
