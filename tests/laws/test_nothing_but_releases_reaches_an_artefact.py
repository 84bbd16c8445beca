"""Law: whatever a fit writes or says is a function of its releases (guarantees.md rules 15 and 22).

Each fit is run on neighboring data: with one more record, as far from the others as can be, and answered with the
releases of the fit without it. Every file for publication, and every line of the log, is then the same to the byte:
the model, with what its canaries showed to an outsider, ledger, certificate, page. Keys and dates are equal.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from privae import VAE, Training
from privae.audit.case import Own, joined_to
from privae.audit.coins import Coins
from privae.audit.game import Tape, replayed
from privae.cli import auditing, checks, telling
from privae.custody.keys import signing_key
from privae.recipes import image
from privae.report import certificate
from privae.report.page import render
from privae.training.watch import Silent

pytestmark = pytest.mark.usefixtures("tiny")
KEY = bytes(range(32))
SMALL = Training(latent=2, hidden=(4,), steps=3, batch=30)
COINS = Coins(40, 0.1, KEY)


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(image, "_DECODER_STEPS", 3)


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return signing_key(tmp_path_factory.mktemp("key") / "signing.key")


def bought(facts):
    job = facts.columns[1].model_copy(update={"categories": "bought"})
    return facts.model_copy(update={"columns": (facts.columns[0], job, *facts.columns[2:])})


def odd_row(job):
    return pd.DataFrame({"age": [1e9], "job": [job], "height": [np.nan], "ill": [True]})


def tables(people, job="astronaut"):
    """A table, and the same with one more row."""
    frame = people(600)
    return (frame,), (joined_to((frame, None), (odd_row(job), None))[0],)


def images(pictures, *, labelled=True):
    """Images, and the same with one more."""
    x, y = pictures(1500)
    labels = y.astype(str).astype(object)
    odd = (np.indices((4, 4)).sum(0) % 2 * 255).astype(np.uint8)[None]
    if not labelled:
        return (x,), (np.concatenate([x, odd]),)
    return (x, labels), (np.concatenate([x, odd]), np.append(labels, labels[0]))


def ratings(plays):
    """Ratings, and the same with one person more, who likes everything."""
    frame, items = plays(800), plays.schema.items
    odd = pd.DataFrame({"who": "odd", "what": [*items, "only mine"], "stars": 5})
    return (frame,), (pd.concat([frame.astype(object), odd]),)


def readings(homes, **changes):
    """Readings, and the same with one unit more, of very many windows at the ends of the bounds."""
    frame = homes(300)
    time = pd.date_range("2026-02-01", periods=24 * 50, freq="h")
    odd = pd.DataFrame({"home": "odd", "time": time, "power": 5.0, "heat": 0.0})
    return (
        (frame,),
        (pd.concat([frame.astype(object), odd.astype(object)]),),
        homes.schema.model_copy(update=changes),
    )


def of_series(homes, epsilon=3.0, coins=None, **options):
    one, other, schema = readings(homes, conditions=() if "recipe" in options else ("weekday",))
    return {"epsilon": epsilon, "rows": 300, **options}, (one, other), {"schema": schema, "coins": coins}


CASES = {
    "series": lambda _, h, f: of_series(h, coins=COINS),
    "series by gradients": lambda _, h, f: of_series(
        h, math.inf, recipe="gradients", training=replace(SMALL, network="convolution")
    ),
    "table": lambda p, _, f: ({"epsilon": 3.0, "rows": 600}, tables(p), {"schema": f}),
    "table with canaries": lambda p, _, f: ({"epsilon": 3.0}, tables(p), {"schema": f, "coins": COINS}),
    "bought categories": lambda p, _, f: (
        {"epsilon": 3.0},
        tables(p, "cook"),
        {"schema": bought(f), "coins": Coins(0, 0.0, KEY)},
    ),
    "table refined": lambda p, _, f: (
        {"epsilon": math.inf, "rows": 600, "fidelity": True, "training": SMALL},
        tables(p),
        {"schema": f},
    ),
    "table by gradients": lambda p, _, f: (
        {"epsilon": math.inf, "rows": 600, "recipe": "gradients", "training": SMALL},
        tables(p),
        {"schema": f, "coins": COINS},
    ),
    "detection": lambda p, _, f: (
        {"epsilon": 3.0, "rows": 600, "recipe": "detection"},
        tables(p),
        {"schema": f.model_copy(update={"label": None})},
    ),
    "detection with bought categories": lambda p, _, f: (
        {"epsilon": 3.0, "rows": 600, "recipe": "detection"},
        tables(p, "cook"),
        {"schema": bought(f).model_copy(update={"label": None}), "coins": COINS},
    ),
    "detection in images": lambda _, x, f: (
        {"epsilon": 3.0, "rows": 1500, "recipe": "detection"},
        images(x, labelled=False),
        {"coins": COINS},
    ),
    "images": lambda _, x, f: (
        {"epsilon": 3.0, "classes": 2, "fidelity": False},
        images(x),
        {"coins": COINS},
    ),
    "images with a decoder": lambda _, x, f: (
        {"epsilon": math.inf, "rows": 1500, "classes": 2, "fidelity": True},
        images(x),
        {},
    ),
    "bought labels": lambda _, x, f: ({"epsilon": math.inf}, images(x), {}),
    "ratings": lambda p, x, _: (
        {"epsilon": 3.0, "rows": 800},
        ratings(x),
        {"schema": x.schema},
    ),
    "images by gradients": lambda _, x, f: (
        {"epsilon": math.inf, "rows": 1500, "recipe": "gradients", "training": SMALL},
        images(x, labelled=False),
        {},
    ),
}


def artefacts(result, folder, key) -> dict[str, bytes]:
    """Everything that may be published of a fit, by name."""
    assert result["outcome"] == "fitted"
    path, vae = folder / "m.privae", result["vae"]
    vae.save(path)
    model = VAE.load(path)
    texts = {
        "ledger": model.ledger.dumps(),
        "certificate": certificate.dumps(certificate.issue(checks._facts(path), key)),
        "inspect": telling.model_text(model, path) + json.dumps(telling.model_fields(model), default=str),
        "fit": telling.fitted_text(vae, path),
        "log": repr(result["told"]),
        "sample": repr(model.sample(20, seed=1)),
    }
    if model.fitted_.kind != "ratings":
        contents = auditing.contents(model, auditing.Sources(path), Silent())
        texts |= {f"report {tongue}": render(contents, tongue, public=True) for tongue in ("en", "zh")}
    return {"model": path.read_bytes()} | {name: text.encode() for name, text in texts.items()}


@pytest.mark.parametrize("kind", CASES)
def test_one_more_record_changes_no_byte_of_any_artefact(
    transcript, people, pictures, plays, homes, facts, tmp_path, key, kind
):
    options, (without, with_it), more = CASES[kind](
        people, {"r": plays, "s": homes}.get(kind[0], pictures), facts
    )
    first = transcript(VAE(**options), *without, **more)
    again = transcript(VAE(**options), *with_it, replay=first["released"], **more)
    one, other = (artefacts(result, tmp_path, key) for result in (first, again))
    assert [name for name in one if one[name] != other[name]] == []


def test_findings_of_canaries_are_among_what_is_published(transcript, people, facts, tmp_path, key):
    """The reader who knows all other records sees the difference, and the file does not have it."""
    options, (without, with_it), more = CASES["table with canaries"](people, None, facts)
    first = transcript(VAE(**options), *without, **more)
    again = transcript(VAE(**options), *with_it, replay=first["released"], **more)
    made = artefacts(first, tmp_path, key)
    for name in ("canary release", "canary loss"):
        assert name.encode() in made["certificate"] + made["report en"]
    assert b"canary reading" not in b"".join(content for name, content in made.items() if name != "log")
    assert [f.public for f in again["vae"].canary_findings_] == [False, True, True]


def test_without_the_same_releases_every_artefact_of_the_model_differs(
    transcript, people, facts, tmp_path, key
):
    """The law would see it: the numbers do depend on the data, through the releases."""
    options, (without, with_it), more = CASES["table"](people, None, facts)
    one, other = (
        artefacts(transcript(VAE(**options), *data, **more), tmp_path, key) for data in (without, with_it)
    )
    differing = {name for name in one if one[name] != other[name]}
    assert {"model", "certificate", "sample"} <= differing
    assert "log" not in differing


def test_a_text_of_one_record_alone_reaches_nothing_where_categories_are_bought(people, facts):
    """Noisy counts of texts tell how many there are, so they are no release: what passed the threshold is."""
    vae = VAE(3.0).fit(people(600), schema=bought(facts))
    recipe = vae._recipe(bought(facts), vae.plan_)
    own = Own(vae.fitted_, vae.plan_, recipe, None)
    data, odd = (people(600), None), (odd_row("astronaut"), None)
    found = replayed(
        lambda tape, with_it: own.written(tape, joined_to(data, odd) if with_it else data), 0.999
    )
    assert (found.failed, found.details["named"]) == (False, "-")
    assert b"astronaut" not in own.written(Tape(), joined_to(data, odd))["schema"]
