"""Sums formed on ciphertexts: the digits, and 10,000 of MNIST, fitted at epsilon 1 beside the clear fit.

For each role its processor seconds and the bytes that it sends, and the largest difference of any number of the two
models, whose noise is the same. All roles run in one process, with one thread.
Data: packaged digits, and ../shared/data/mnist.npz.
"""

import time
from typing import Any

import numpy as np
from harness import SHARED, Report

from privae import VAE
from privae.data.examples import load_digits
from privae.data.images import ImageSchema
from privae.encrypted.rounds import Terms
from privae.encrypted.statistics import fit
from privae.privacy.noise import NoiseSource

EPSILON = 1.0
CLIENTS = 3
KEY = bytes(32)
ROWS = 10_000


def measure(*, quick: bool = False) -> dict[str, Any]:
    """Figures of each data set, by name: the digits at one client and at three, and MNIST at one."""
    x, y, schema = load_digits()
    found = {"digits": compared(x, y, schema, 1)}
    if quick:
        return found
    found["digits, 3 clients"] = compared(x, y, schema, CLIENTS)
    if (SHARED / "mnist.npz").exists():
        with np.load(SHARED / "mnist.npz") as stored:
            x, y = stored["x_train"][:ROWS], stored["y_train"][:ROWS].astype(str)
        found["mnist"] = compared(x, y, ImageSchema.with_class_count(28, 28, 10), 1)
    return found


def compared(x: Any, y: Any, schema: ImageSchema, clients: int) -> dict[str, Any]:
    """One fit in the clear, and one on ciphertexts, of the same plan, rows and noise."""
    model = VAE(EPSILON, schema=schema, rows=len(x), fidelity=False)
    plan = model.plan()
    begun = time.process_time()
    model.fit(x, y, plan=plan, noise=NoiseSource(KEY))
    clear = time.process_time() - begun
    parts = list(zip(np.array_split(x, clients), np.array_split(y, clients), strict=True))
    terms = Terms(plan, schema, tuple(len(rows) for rows, _ in parts))
    begun = time.time()
    made = fit(terms, parts, noise=NoiseSource(KEY))
    wall = time.time() - begun
    mine, theirs = made.fitted.model.state(), model.fitted_.model.state()
    tilings = terms.tilings.values()
    return {
        "rows": len(x),
        "clients": clients,
        "degree": terms.parameters.degree,
        "modulus_bits": terms.parameters.total,
        "ciphertexts_sent": sum(
            sum(map(one.blocks, terms.capacities)) * (one.lefts + one.rights) for one in tilings
        ),
        "ciphertexts_opened": sum(len(one.tiles) for one in tilings),
        "clear_seconds": clear,
        **{name.replace(" ", "_"): value for name, value in made.costs.items()},
        "wall_seconds": wall,
        "largest_difference": max(float((mine[k] - theirs[k]).abs().max()) for k in mine),
    }


def statistics(report: Report, options: Any) -> None:
    """What each role spends and sends, and how far the two models are apart."""
    for name, figures in measure(quick=options.quick).items():
        report.row(part="statistics", data=name, **figures)
        report.check(
            f"statistics: {name}, largest difference", figures["largest_difference"], 1e-6, "at_most"
        )
