"""Card fraud from a private fit: strange payments first, and a table of made-up payments for the modelling team.

The payments are made up, with one fraud in a hundred: small amounts that are tried out, then large ones, at night and
far away. No label is used for fitting; it only says at the end how good the alerts were.
"""

import numpy as np
import pandas as pd

from privae import VAE, Schema

SCHEMA = Schema.loads("""
[columns.amount]
kind = "numeric"
bounds = [0, 5000]
unit = 1
[columns.hour]
kind = "numeric"
bounds = [0, 24]
unit = 0.5
[columns.kilometers]
kind = "numeric"
bounds = [0, 2000]
unit = 1
[columns.minutes_since_last]
kind = "numeric"
bounds = [0, 10000]
unit = 1
[columns.channel]
kind = "category"
categories = ["chip", "tap", "web"]
""")


def payments(count: int, seed: int, fraud: float = 0.01) -> tuple[pd.DataFrame, np.ndarray]:
    """Payments, and which of them are fraud."""
    rng = np.random.default_rng(seed)
    bad = rng.random(count) < fraud
    amount = np.where(bad, rng.choice([2.0, 900.0], count), 1.0) * rng.lognormal(np.where(bad, 0.3, 3.2), 0.8)
    hour = np.where(bad, rng.normal(3, 2, count) % 24, np.clip(rng.normal(14, 4, count), 0, 24))
    table = pd.DataFrame({
        "amount": amount.clip(0, 5000),
        "hour": hour,
        "kilometers": rng.gamma(1.0, np.where(bad, 400, 8)).clip(0, 2000),
        "minutes_since_last": rng.exponential(np.where(bad, 15, 900)).clip(0, 10_000),
        "channel": np.where(bad, "web", rng.choice(["chip", "tap", "web"], count, p=[0.3, 0.5, 0.2])),
    })  # fmt: skip
    return table, bad


history, was_bad = payments(20_000, seed=0)
vae = VAE(epsilon=1.0, delta=1e-6, rows=20_000, recipe="detection", schema=SCHEMA).fit(history)
print(vae.guarantee.sentence())
print(*vae.fitted_.notes, sep="\n")

today, bad = payments(10_000, seed=1)
strange = vae.decision_function(today)
alerts = today.assign(strangeness=strange).nlargest(5, "strangeness")
print(alerts.round(1).to_string())
first = np.argsort(-strange)[:100]
print(f"of the 100 strangest payments {bad[first].mean():.0%} are fraud; of all payments {bad.mean():.1%}")

found = vae.audit(history, holdout=payments(5000, seed=2)[0])
print("the audit", "passed" if found.passed else "FAILED", "with", len(found.findings), "attacks")

made = vae.sample(2000, seed=0)  # for who builds models, in the place of the real payments
print("real medians     ", history.median(numeric_only=True).round(1).to_dict())
print("synthetic medians", made.median(numeric_only=True).round(1).to_dict())
