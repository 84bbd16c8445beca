"""Made-up windows follow what they are given, and have no gaps where no channel may be missing."""

import math

import numpy as np
import pandas as pd
import pytest

from privae import VAE
from privae.series.schema import SeriesSchema
from privae.series.windows import windows

SCHEMA = SeriesSchema.loads(
    """
[series]
time = "t"
id = "home"
step = "1h"
window = "1d"
windows = 14
conditions = ["weekday"]
[channels.power]
kind = "numeric"
bounds = [-4, 4]
"""
)


def homes(count: int) -> pd.DataFrame:
    """Two weeks of homes: a wave, and at weekends the opposite one."""
    hours = np.arange(14 * 24)
    weekend = hours // 24 % 7 >= 5
    wave = np.where(weekend, -1.0, 1.0) * np.sin(hours * (math.tau / 24))
    values = wave + 0.4 * np.random.default_rng(0).standard_normal((count, len(hours)))
    time = pd.Timestamp("2001-01-01") + pd.to_timedelta(hours, unit="h")
    who = np.repeat(np.arange(count), len(hours))
    return pd.DataFrame({"home": who, "t": np.tile(time, count), "power": values.ravel()})


@pytest.fixture(scope="module")
def vae():
    return VAE(math.inf, 1e-6, 60, schema=SCHEMA, fidelity=False).fit(homes(60))


def test_what_is_given_counts_as_much_as_it_did(vae):
    made = windows(vae.sample(60, seed=1), SCHEMA)[0]
    weekend = (made.start // 86_400 + 3) % 7 >= 5
    shown = 8 * made.values[:, :, 0] - 4
    wave = np.sin(np.arange(24) * (math.tau / 24))
    for which, sign in ((False, 1.0), (True, -1.0)):
        mean = shown[weekend == which].mean(0)
        assert abs(mean @ wave / 12 - sign) < 0.15  # ends of a condition's bounds are no extreme values


def test_no_window_is_a_gap_for_what_noise_counted(vae):
    found = vae.fitted_
    gaps = np.full_like(found.model.quantiles.gaps, 0.2)
    object.__setattr__(found.model.quantiles, "gaps", gaps)
    assert not np.isnan(found.drawn(20, np.random.default_rng(0)).values).any()
