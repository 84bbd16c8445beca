"""The main job: how good is what a private fit gives, and how long does it take?

MNIST: a CNN trained on 60,000 synthetic digits, tested on real ones, at epsilon 1 and 0.2, beside a plain
DP-CVAE (recipe="gradients", N(0, I) prior). Adult: gradient boosting and logistic regression trained on synthetic
codes, tested on real ones, and the total variation of two-way marginals. Delta is 1e-5; three seeds.
Sizes were chosen on 10,000 of MNIST's and 6,512 of Adult's *training* rows (--validate measures there); the
figures on these two sets still carry that unaccounted tuning (guarantees.md rule 27).
Data: ../shared/data (see its README); none of it is in the repository but Adult's training table.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd
import torch
from harness import SHARED, Report, parser
from torch import nn

from privae import VAE, Training
from privae.data.codec import Codec
from privae.data.examples import load_table
from privae.evaluate import fidelity
from privae.evaluate.utility import image_score, table_scores

DELTA = 1e-5
OURS, PLAIN, REAL = "privae", "plain DP-CVAE, N(0, I) prior", "real training rows"
BASELINE = Training(latent=16, hidden=(200,), steps=150, batch=3000)
MNIST_BARS = {1.0: 94.0, 0.2: 88.5}
ADULT_BARS = {0.2: (0.870, 0.875), 1.0: (0.895, 0.900), 10.0: (0.905, 0.907)}


@dataclass(frozen=True)
class Split:
    """Training and evaluation records."""

    x: object
    y: np.ndarray | None
    test_x: object
    test_y: np.ndarray | None


def mnist(validate: bool) -> Split:
    """MNIST, or its training rows split 50,000 / 10,000."""
    with np.load(SHARED / "mnist.npz") as file:
        x, y, test_x, test_y = (file[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    if not validate:
        return Split(x, y.astype(int), test_x, test_y.astype(int))
    order = np.random.default_rng(3).permutation(len(x))
    kept, held = order[:50_000], order[50_000:]
    return Split(x[kept], y[kept].astype(int), x[held], y[held].astype(int))


def cnn_accuracy(x: np.ndarray, y: np.ndarray, split: Split, seed: int) -> float:
    """Percent of real test digits that a CNN trained on (x, y) gets right; the last model, two epochs."""
    torch.manual_seed(seed)
    convolutions = [
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    ]
    net = nn.Sequential(*convolutions, nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.4), nn.Linear(128, 10))
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    images, labels = torch.tensor(x)[:, None].float() / 255, torch.tensor(y)
    for _ in range(2):
        for batch in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        tests = (torch.tensor(split.test_x)[:, None].float() / 255).split(1000)
        predicted = torch.cat([net(part).argmax(1) for part in tests]).numpy()
    return 100 * float((predicted == split.test_y).mean())


@dataclass(frozen=True)
class Job:
    """One fit and one CNN trained on its samples, or on the real rows."""

    method: str
    epsilon: float
    seed: int
    count: int
    validate: bool


def run_job(job: Job) -> dict[str, Any]:
    """The measured row of one job, on one thread."""
    torch.set_num_threads(1)
    split = mnist(job.validate)
    if job.method == REAL:
        return {"data": "MNIST", "method": REAL, "cnn": cnn_accuracy(split.x, split.y, split, job.seed)}
    start = time.perf_counter()
    options = {"recipe": "gradients", "training": BASELINE} if job.method == PLAIN else {}
    vae = VAE(epsilon=job.epsilon, delta=DELTA, rows=len(split.x), classes=10, **options)
    vae.fit(split.x, split.y.astype(str))
    fit = time.perf_counter() - start
    x, y = vae.sample(job.count, seed=job.seed)
    start = time.perf_counter()
    accuracy = cnn_accuracy(x, y.astype(int), split, job.seed)
    logistic = image_score((x[:10_000], y[:10_000].astype(int)), (split.test_x, split.test_y), iterations=50)
    return {
        "data": "MNIST",
        "method": job.method,
        "epsilon": job.epsilon,
        "accounted": vae.guarantee.epsilon,
        "seed": job.seed,
        "cnn": accuracy,
        "logistic_on_10000": 100 * logistic,
        "fit_seconds": fit,
        "cnn_seconds": time.perf_counter() - start,
    }


def run_mnist(report: Report, seeds: range, count: int, validate: bool) -> None:
    """Every method and epsilon on MNIST: two processes of one thread each."""
    settings = [(OURS, 1.0), (OURS, 0.2), (PLAIN, 1.0)]
    jobs = [Job(method, epsilon, seed, count, validate) for method, epsilon in settings for seed in seeds]
    jobs.append(Job(REAL, 0.0, 0, count, validate))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        rows = []
        for row in pool.map(run_job, jobs):
            report.row(**row)
            rows.append(row)
    for epsilon, bar in MNIST_BARS.items():
        mine = [row for row in rows if row["method"] == OURS and row["epsilon"] == epsilon]
        mean = float(np.mean([row["cnn"] for row in mine]))
        report.check(f"MNIST epsilon {epsilon:g}: CNN accuracy, mean of seeds", mean, bar, "at_least")
        slowest = max(row["fit_seconds"] for row in mine)
        report.check(f"MNIST epsilon {epsilon:g}: slowest fit, seconds", slowest, 60.0, "at_most")


def adult(validate: bool) -> tuple[pd.DataFrame, pd.DataFrame, Codec]:
    """Adult's training and test rows (or its training rows split 80 / 20) and the declared codec."""
    train, schema = load_table()
    if not validate:
        return train, pd.read_parquet(SHARED / "adult_test.parquet"), Codec(schema)
    order = np.random.default_rng(5).permutation(len(train))
    return train.iloc[order[6512:]], train.iloc[order[:6512]], Codec(schema)


def run_adult(report: Report, seeds: range, validate: bool) -> None:
    """Every epsilon on Adult, and the real rows."""
    train, test, codec = adult(validate)
    real, tests = codec.encode(train), codec.encode(test)
    for epsilon, bars in ADULT_BARS.items():
        found, times = [], []
        for seed in seeds:
            start = time.perf_counter()
            vae = VAE(epsilon=epsilon, delta=DELTA, rows=len(train)).fit(train, schema=codec.schema)
            synthetic = vae.sample(len(train), seed=seed)
            seconds = time.perf_counter() - start
            codes = codec.encode(synthetic)
            auc = table_scores(codes, tests, codec)
            variation = fidelity.of_pairs(fidelity.pair_variation(codes, real, codec.sizes)).mean()
            report.row(
                data="Adult",
                method="privae",
                epsilon=epsilon,
                accounted=vae.guarantee.epsilon,
                seed=seed,
                auc_boosting=auc["boosting"],
                auc_logistic=auc["logistic"],
                pair_variation=float(variation),
                fit_and_sample_seconds=seconds,
            )
            found.append((auc["boosting"], auc["logistic"], variation))
            times.append(seconds)
        mean = np.mean(found, axis=0)
        report.check(f"Adult epsilon {epsilon:g}: AUC of boosting", float(mean[0]), bars[0], "at_least")
        report.check(
            f"Adult epsilon {epsilon:g}: AUC of logistic regression", float(mean[1]), bars[1], "at_least"
        )
        report.check(
            f"Adult epsilon {epsilon:g}: slowest fit and 32,561 samples, seconds", max(times), 60.0, "at_most"
        )
        if epsilon == 1.0:
            report.check("Adult epsilon 1: two-way total variation", float(mean[2]), 0.034, "at_most")
    auc = table_scores(real, tests, codec)
    report.row(
        data="Adult", method="real training rows", auc_boosting=auc["boosting"], auc_logistic=auc["logistic"]
    )


def main() -> None:
    """Run and write results/main.json."""
    options = parser(__doc__ or "")
    options.add_argument(
        "--validate", action="store_true", help="measure on held-out training rows; writes nothing"
    )
    options.add_argument("--only", choices=["mnist", "adult"], help="one data set; writes nothing")
    chosen = options.parse_args()
    report = Report("main", chosen.quick)
    seeds = range(1 if chosen.quick else 3)
    if not SHARED.is_dir():
        report.not_measured.append({"name": "all", "reason": "the data folder ../shared/data is not here"})
    else:
        if chosen.only != "mnist":
            run_adult(report, seeds, chosen.validate)
        if chosen.only != "adult":
            run_mnist(report, seeds, 10_000 if chosen.quick else 60_000, chosen.validate)
    if not (chosen.validate or chosen.only):
        report.write()


if __name__ == "__main__":
    main()
