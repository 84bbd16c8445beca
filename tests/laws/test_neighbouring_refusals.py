"""Law: whether a fit ends, and how, is a function of its releases: no cell and no single record can make it fail.

The same replay as in `test_row_count_is_never_used`: neighbors, and data of arbitrary garbage, answered with the
releases of an ordinary fit, must end as it ended; and a fit that its releases refuse is refused for any data.
"""

import datetime
import math

import numpy as np
import pandas as pd
import pytest

from privae import VAE, Training
from privae.privacy.noise import NoiseSource

pytestmark = pytest.mark.usefixtures("tiny")
SMALL = Training(latent=2, hidden=(4,), steps=2, batch=30)
SERIES = Training(network="convolution", latent=2, hidden=(4,), steps=2, batch=30)

GARBAGE = [
    None, math.nan, math.inf, -math.inf, 1e308, 10**400, -1, "", "NA", "\ud800", "a\0b", b"\xff", True, [1], {"a": 1},
    object(), datetime.datetime(2020, 1, 1), pd.Timestamp("2020"), pd.NaT, pd.NA, complex(1, 2), "'; DROP", "1_000",
    np.float32(0.1), np.int8(3), (1, 2), "nan", "True", "é" * 50,
]  # fmt: skip


def garbled(frame, seed=0):
    """The frame with every cell replaced by garbage, of types that differ from cell to cell."""
    rng = np.random.default_rng(seed)
    cells = {name: [GARBAGE[i] for i in rng.integers(0, len(GARBAGE), len(frame))] for name in frame}
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})


def neighbors(frame):
    """One row less, one more, one replaced by garbage; all garbage; no rows; one row; gaps only."""
    bad = garbled(frame.iloc[:1])
    return [
        frame.iloc[1:],
        pd.concat([frame.astype(object), frame.iloc[:1].astype(object)], ignore_index=True),
        pd.concat([frame.iloc[1:].astype(object), bad], ignore_index=True),
        pd.concat([frame.astype(object), bad], ignore_index=True),
        garbled(frame),
        frame.iloc[:0],
        frame.iloc[:1],
        frame.assign(age=None, job=None),
        frame.astype(str),
        frame.set_axis(range(1000, 1000 + len(frame))),
    ]


@pytest.mark.parametrize("options", [{}, {"rows": 800}])
def test_ratings_are_fitted_whatever_their_cells_are(transcript, plays, options):
    frame = plays(800)
    timed = plays.schema.model_copy(update={"time": "when"})
    frame = frame.assign(when=range(len(frame)))
    first = transcript(VAE(5.0, **options), frame, schema=timed)
    assert first["outcome"] == "fitted"
    bad = garbled(frame.iloc[:300])
    one = frame.astype(object).assign(who="one")
    for other in (
        frame.iloc[1:],
        garbled(frame),
        pd.concat([frame.astype(object), bad]),
        one,
        frame.iloc[:0],
        frame.assign(who=None),
    ):
        again = transcript(VAE(5.0, **options), other, schema=timed, replay=first["released"])
        assert again["outcome"] == "fitted"
        assert again["told"] == first["told"]
        assert again["vae"].ledger.events == first["vae"].ledger.events


@pytest.mark.parametrize(
    "options", [{"rows": 200}, {"rows": 30}, {"rows": 30, "recipe": "gradients", "training": SERIES}]
)
def test_series_are_fitted_whatever_their_cells_are(transcript, homes, options):
    frame, vae = homes(60 if options["rows"] == 30 else 200), lambda: VAE(5.0, schema=homes.schema, **options)
    first = transcript(vae(), frame)
    assert first["outcome"] == "fitted"
    others = (
        frame.loc[frame["home"] > 0],
        garbled(frame),
        pd.concat([frame.astype(object), garbled(frame.iloc[:300])]),
        frame.assign(home="one"),
        frame.assign(home=range(len(frame))),
        frame.iloc[:0],
        frame.iloc[:1],
        frame.assign(home=None),
        frame.assign(time="soon"),
        frame.assign(power=None, heat="x"),
        frame.set_axis(range(9, 9 + len(frame))),
    )
    for other in others[:: 3 if "recipe" in options else 1]:  # networks read the windows that statistics do
        again = transcript(vae(), other, replay=first["released"])
        assert (again["outcome"], again["told"]) == ("fitted", first["told"])
        assert again["vae"].ledger.events == first["vae"].ledger.events


@pytest.mark.parametrize(
    "options", [{}, {"recipe": "detection"}, {"rows": 30, "recipe": "gradients", "training": SMALL}]
)
def test_a_table_is_fitted_whatever_its_cells_are(transcript, people, facts, options):
    frame = people(1500)
    if options.get("recipe") == "detection":
        facts = facts.model_copy(update={"label": None})
    first = transcript(VAE(5.0, **options), frame, schema=facts)
    assert first["outcome"] == "fitted"
    for other in list(neighbors(frame))[:: 2 if options.get("recipe") == "gradients" else 1]:
        again = transcript(VAE(5.0, **options), other, schema=facts, replay=first["released"])
        assert again["outcome"] == "fitted"
        assert again["told"] == first["told"]
        assert again["vae"].ledger.events == first["vae"].ledger.events
        assert again["vae"].plan_ == first["vae"].plan_


def test_a_table_that_its_releases_refuse_is_refused_whatever_its_cells_are(transcript, people, facts):
    few = people(5)
    first = transcript(VAE(0.5), few, schema=facts)
    assert first["outcome"].startswith("DataError")
    for other in [*neighbors(people(300)), people(5000)]:
        again = transcript(VAE(0.5), other, schema=facts, replay=first["released"])
        assert (again["outcome"], again["told"]) == (first["outcome"], first["told"])


def test_images_are_fitted_or_refused_by_their_releases(transcript, pictures):
    x, y = pictures(3000)
    others = [
        (x[1:], y[1:]),
        (np.concatenate([x, x[:1]]), np.append(y, 0)),
        (np.zeros_like(x), np.array(GARBAGE * 200, dtype=object)[:3000]),
        (np.full_like(x, 255), np.full(3000, "no class")),
        (x[:0], y[:0]),
        (x[:1], np.array([None], dtype=object)),
    ]
    for epsilon, start in ((2.0, slice(None)), (0.3, slice(5))):
        first = transcript(VAE(epsilon, classes=2, fidelity=False), x[start], y[start])
        assert first["outcome"].startswith("fitted" if epsilon > 1 else "DataError")
        for other in others:
            again = transcript(VAE(epsilon, classes=2, fidelity=False), *other, replay=first["released"])
            assert (again["outcome"], again["told"]) == (first["outcome"], first["told"])


def test_categories_are_bought_from_any_cells(people, facts):
    """Here the number of texts differs, so releases cannot be replayed; no cell may make the purchase fail."""
    job = facts.columns[1].model_copy(update={"categories": "bought"})
    schema = facts.model_copy(update={"columns": (facts.columns[0], job, *facts.columns[2:])})
    frame = people(1500)
    first = VAE(5.0).fit(frame, schema=schema, noise=NoiseSource(bytes(32)))
    for other in neighbors(frame)[:4]:
        again = VAE(5.0).fit(other, schema=schema, noise=NoiseSource(bytes(32)))
        assert again.ledger.events == first.ledger.events
        assert again.fitted_.schema == first.fitted_.schema


def test_a_column_named_by_a_number_can_be_bought(people, facts):
    job = facts.columns[1].model_copy(update={"categories": "bought", "name": "7"})
    schema = facts.model_copy(update={"columns": (facts.columns[0], job, *facts.columns[2:])})
    vae = VAE(5.0).fit(people(1500).rename(columns={"job": 7}), schema=schema)
    assert vae.fitted_.schema.columns[1].categories == ("cook", "nurse")
