"""Law: no cell value is in a log, an error, a repr or a file: canaries in every column of every fit are looked for."""

import io
import logging
import struct
import traceback
import zipfile

import numpy as np
import pandas as pd
import pytest

from privae import VAE, Training
from privae.errors import PrivaeError
from privae.privacy.ledger import Ledger

pytestmark = pytest.mark.usefixtures("tiny")

TEXT = "zq" + "canary" * 2
NUMBER = 64.0 + 137 / 1024 + 2.0**-30  # exact in float64, not in float32
WHOLE = 7_316_529
SHOWN = (TEXT, f"{NUMBER!r}"[:7], str(WHOLE))
BYTES = [*(text.encode() for text in SHOWN), *(struct.pack(f, NUMBER) for f in ["<d", "<f", ">d", ">f"])]
BYTES += [struct.pack(f, WHOLE) for f in ("<q", "<i", "<d", "<f")]


def planted(people, count=1500):
    """Canaries of every kind in every column, ten of each: a fit learns from them, but may not hold them."""
    frame = people(count).astype(object)
    for place, (name, canary) in enumerate(
        [(name, canary) for name in frame for canary in (TEXT, NUMBER, WHOLE, f"{TEXT} {WHOLE}")]
    ):
        frame.loc[frame.index[10 * place : 10 * place + 10], name] = canary
    return frame.assign(secret=[f"{TEXT}{i}" for i in range(count)])


@pytest.fixture(scope="module")
def schema(facts):
    """The facts with a column that is dropped, and one whose categories are bought."""
    from privae.data.column import Column

    columns = (
        *facts.columns[:1],
        facts.columns[1].model_copy(update={"categories": "bought", "other": None}),
        *facts.columns[2:],
        Column(name="secret", kind="category", action="drop"),
    )
    return facts.model_copy(update={"columns": columns})


class Told:
    def __init__(self):
        self.texts = []

    def phase(self, name, total):
        self.texts.append(f"{name} {total}")

    def advance(self, count, epsilon=None):
        self.texts.append(f"{count} {epsilon}")

    def note(self, text):
        self.texts.append(text)


def clean(text):
    return not any(canary in text for canary in SHOWN)


def whole(error):
    """An error with the errors it came from, as a terminal shows them, and hidden ones too."""
    shown, current = [], error
    while current is not None:
        shown.append(repr(current.args))
        current = current.__cause__ or (None if isinstance(current, PrivaeError) else current.__context__)
    return "".join([*shown, *traceback.format_exception(error)])


def members_of(path):
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("recipe", ["auto", "gradients", "detection"])
def test_fits_of_tables(people, schema, facts, tmp_path, capfd, caplog, recipe):
    caplog.set_level(logging.DEBUG)
    told = Told()
    training = Training(latent=2, hidden=(4,), steps=2, batch=30)
    vae = VAE(3.0, rows=30, recipe=recipe, training=training)
    frame = planted(people)
    used = schema
    if recipe != "auto":
        columns = (schema.columns[0], facts.columns[1], *schema.columns[2:])
        label = schema.label if recipe == "gradients" else None
        used = schema.model_copy(update={"columns": columns, "label": label})
    shared = Ledger.open(tmp_path / "shared.ledger", 9.0, 1e-5)
    vae.fit(frame, schema=used, watch=told, ledger=shared)
    vae.save(tmp_path / "a.privae")
    for content in [*members_of(tmp_path / "a.privae").values(), (tmp_path / "shared.ledger").read_bytes()]:
        assert not any(canary in content for canary in BYTES)
    said = [repr(vae), str(vae.guarantee), repr(vae.guarantee), vae.plan_.dumps(), repr(vae.plan_)]
    said += [vae.ledger.dumps(), repr(vae.ledger), vae.fitted_.schema.dumps(), repr(vars(vae)), *told.texts]
    out = capfd.readouterr()
    assert all(clean(text) for text in [*said, out.out, out.err, caplog.text])
    made = vae.sample(2000, seed=0)
    assert clean(made.to_csv())


def test_the_canaries_would_be_found(people, schema, tmp_path, facts):
    """The search finds a text that was bought because many hold it: a released one, in the files that say so."""
    frame = planted(people)
    frame.loc[frame.index[700:], "job"] = TEXT
    vae = VAE(3.0).fit(frame, schema=schema)
    vae.save(tmp_path / "a.privae")
    found = [name for name, content in members_of(tmp_path / "a.privae").items() if TEXT.encode() in content]
    assert found == ["schema"]
    assert not clean(vae.fitted_.schema.dumps())
    assert clean(vae.ledger.dumps() + vae.plan_.dumps())


def test_fits_of_images(pictures, tmp_path):
    x, y = pictures(3000)
    labels = np.array([str(one) for one in y], dtype=object)
    labels[:5] = TEXT
    for classes in (2, None):
        told = Told()
        vae = VAE(3.0, classes=classes, fidelity=False).fit(x, labels, watch=told)
        vae.save(tmp_path / "a.privae")
        assert not any(TEXT.encode() in content for content in members_of(tmp_path / "a.privae").values())
        assert all(
            clean(text) for text in [repr(vars(vae)), vae.fitted_.schema.model_dump_json(), *told.texts]
        )


def failures(people, schema, facts):
    """Fits that fail for many reasons, on data with canaries."""
    frame = planted(people)
    strict = VAE(3.0, strict=True)
    yield strict, (frame.drop(columns="secret"),), {"schema": facts}
    yield VAE(0.01), (frame.iloc[:20],), {"schema": schema}
    yield VAE(3.0), (frame.drop(columns="age"),), {"schema": schema}
    yield VAE(3.0), (frame.rename(columns={"age": "old"}),), {"schema": schema}
    yield VAE(3.0), (frame.drop(columns="ill"), [TEXT] * 3), {"schema": schema}
    yield VAE(3.0), (frame.assign(height=TEXT),), {"schema": schema}
    yield VAE(3.0), (frame.to_numpy(),), {"schema": schema}
    yield VAE(3.0), (frame.to_numpy().tolist(),), {"schema": schema}
    yield VAE(3.0), (frame,), {}
    yield VAE(3.0), (frame["job"],), {"schema": schema}
    yield VAE(3.0, classes=2), (np.zeros((5, 4, 4), np.uint8), np.array([TEXT] * 4)), {}
    yield VAE(3.0, classes=2, fidelity=False), (np.zeros((3000, 4, 4), np.uint8), np.array([TEXT] * 3000)), {}
    yield VAE(3.0, fidelity=False), (np.zeros((3000, 4, 4), np.uint8), np.arange(3000) + WHOLE), {}


def test_errors_of_fits(people, schema, facts):
    for number, (vae, data, options) in enumerate(failures(people, schema, facts)):
        with pytest.raises(PrivaeError) as caught:
            vae.fit(*data, **options)
        assert clean(whole(caught.value)), number
        assert "\n" not in str(caught.value)
        for count in (1500, 3000, 1501):
            assert str(count) not in str(caught.value), number


def test_errors_of_a_fitted_model(people, schema, tmp_path):
    vae = VAE(3.0).fit(planted(people), schema=schema)
    bad = planted(people, 50)
    for call in (vae.score_samples, vae.transform, vae.predict, vae.decision_function):
        with pytest.raises(PrivaeError) as caught:
            call(bad.drop(columns="age"))
        assert clean(whole(caught.value))
        assert np.isfinite(np.asarray(call(bad), dtype=float)).all()


def test_a_fitted_object_holds_no_data(people, schema):
    """Nothing reachable from the object is a table, or an array as long as the data."""
    vae = VAE(3.0).fit(planted(people), schema=schema)
    seen, stack = set(), [vae]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        assert not isinstance(item, pd.DataFrame | pd.Series)
        assert getattr(item, "shape", (0,))[:1] != (1500,)
        if isinstance(item, str):
            assert clean(item)
        elif isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            stack += list(item)
        elif hasattr(item, "__dict__") and not isinstance(item, type):
            stack.append(vars(item))


def planted_in_series(homes):
    """Canaries of every kind in every column of readings, of homes of their own and of others."""
    frame = homes(200).astype(object)
    for place, (name, canary) in enumerate(
        (n, c) for n in frame for c in (TEXT, NUMBER, WHOLE, f"{TEXT} {WHOLE}")
    ):
        frame.loc[frame.index[50 * place : 50 * place + 30], name] = canary
    return frame.assign(secret=TEXT)


@pytest.mark.parametrize("recipe", ["auto", "gradients"])
def test_fits_of_series(homes, tmp_path, capfd, recipe):
    training = Training(network="convolution", latent=2, hidden=(4,), steps=2, batch=200)
    told, vae = Told(), VAE(3.0, rows=200, recipe=recipe, schema=homes.schema, training=training)
    vae.fit(planted_in_series(homes), watch=told)
    vae.save(tmp_path / "a.privae")
    assert not any(c in content for content in members_of(tmp_path / "a.privae").values() for c in BYTES)
    out = capfd.readouterr()
    said = [repr(vae), vae.plan_.dumps(), vae.ledger.dumps(), repr(vars(vae)), out.out, out.err, *told.texts]
    assert all(clean(text) for text in [*said, vae.sample(200, seed=0).to_csv()])


def test_errors_of_series(homes):
    frame = planted_in_series(homes)
    vae = VAE(3.0, rows=200, schema=homes.schema).fit(frame)
    bad = homes.schema.model_copy(update={"id": None})
    for call in (
        lambda: vae.score_samples(frame.drop(columns="heat")),
        lambda: vae.score_samples(frame.assign(time=TEXT)),
        lambda: vae.score_samples(frame.to_numpy()),
        lambda: VAE(0.01, rows=200, schema=homes.schema).fit(frame.iloc[:90]),
        lambda: VAE(3.0, rows=200, schema=homes.schema).fit(frame, [TEXT] * len(frame)),
        lambda: VAE(3.0, rows=200, schema=bad).fit(frame),
        lambda: VAE(3.0, rows=200, schema=homes.schema).fit(frame.rename(columns={"time": TEXT})),
    ):
        with pytest.raises(PrivaeError) as caught:
            call()
        assert clean(whole(caught.value))
        assert "\n" not in str(caught.value)
    assert np.isfinite(vae.score_samples(frame)).all()
