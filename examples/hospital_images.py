"""Chest images under one promise: strange ones first, made-up ones to pass on, and an audit beside a model that leaks.

The images are drawn: two dark lungs, one or both clouded where there is pneumonia. For real ones, give an npz file with
x_train, y_train, x_test, y_test (0: normal), or one of MedMNIST: `python hospital_images.py pneumoniamnist.npz`
"""

import math
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from privae import VAE, Ledger
from privae.report.picture import beside_images, heats


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 28, 28], and 1 where there is pneumonia."""
    rng = np.random.default_rng(seed)
    sick, (y, x) = rng.random(count) < 0.5, np.mgrid[:28, :28] / 28
    fields = 150 + rng.normal(0, 15, (count, 1, 1)) + rng.normal(0, 25, (count, 28, 28))
    for middle, chance in ((0.28, 1.0), (0.72, 0.5)):
        (across, down), size = rng.normal(0, 0.03, (2, count, 1, 1)), rng.normal(1, 0.1, (count, 1, 1))
        inside = ((x - middle - across) / 0.15) ** 2 + ((y - 0.45 - down) / 0.28) ** 2 < size
        clouded = (sick & (rng.random(count) < chance))[:, None, None] & (y > 0.35)
        fields -= 70 * inside * np.where(clouded, 0.45, 1.0)
    return gaussian_filter(fields, (0, 1, 1)).clip(0, 255).astype(np.uint8), sick.astype(int)


def loaded(path: str) -> list[np.ndarray]:
    """Images and labels to fit, and others to test."""
    with np.load(path) as held:
        names = [n for n in ("train_images", "train_labels", "test_images", "test_labels") if n in held]
        parts = [held[name] for name in names or ("x_train", "y_train", "x_test", "y_test")]
    return [part if part.ndim == 3 else part.ravel().astype(int) for part in parts]


def auc(x: np.ndarray, y: np.ndarray) -> float:
    """How well a classifier that was fitted to these images finds pneumonia in the test images."""
    flat, tested = (part.reshape(len(part), -1) / 255 for part in (x, x_test))
    model = LogisticRegression(C=0.05).fit(flat, y.astype(int))
    return roc_auc_score(y_test, model.decision_function(tested))


x, y, x_test, y_test = loaded(sys.argv[1]) if sys.argv[1:] else (*drawn(3300, 0), *drawn(600, 1))
kept_out = np.arange(len(x)) % 10 == 0  # for the audits
(x, x_out), (y, y_out) = ((part[~kept_out], part[kept_out]) for part in (x, y))
normal, rows = x[y == 0], round(len(x), -2)
ledger = Path(tempfile.mkdtemp(), "hospital.ledger")  # both fits are under one cap; keep your own ledger
Ledger.open(ledger, 1.6, 2.1e-5, "gaussian")

finder = VAE(1.0, 1e-5, round(len(normal), -2), recipe="detection").fit(normal, ledger=ledger)
strange = finder.decision_function(x_test)
first = np.argsort(-strange)[:12]
print(
    f"strange images: AUC {roc_auc_score(y_test, strange):.3f}; of the first 12, {y_test[first].sum()} are sick"
)
names = [f"{strange[i]:.0f}, {'sick' if y_test[i] else 'normal'}" for i in first]
heats(x_test[first], finder.heat_map(x_test[first]), names, "strange.png")

maker = VAE(1.0, 1e-5, rows, classes=2, fidelity=False).fit(x, y, ledger=ledger)
made = maker.sample(rows, seed=0)
print(f"pneumonia found after fitting made-up images: AUC {auc(*made):.3f}, real ones {auc(x, y):.3f}")
beside_images((x, y), made, "made-up.png", "chest images: real, and made up at epsilon 1")
print(maker.guarantee.sentence())
print(f"left for other fits of these patients: epsilon {Ledger.load(ledger).remaining:.2f}")

leaky = VAE(math.inf, 1e-5, 150, fidelity=False).fit(few := normal[:150])
for name, audit in (
    ("a VAE without privacy, which keeps 150 patients,", leaky.audit(few, holdout=x_out[y_out == 0])),
    ("ours, which finds strange images,", finder.audit(normal, holdout=x_out[y_out == 0])),
    ("ours, which makes images up,", maker.audit(x, y, holdout=(x_out, y_out))),
):
    best = max(finding.value for finding in audit.findings if finding.measure == "AUC")
    print(f"who took part in {name} is told with AUC {best:.2f} by the best attack")
