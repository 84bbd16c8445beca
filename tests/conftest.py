"""Shapes and types of the privacy core and the models are checked while the tests run; small data and fits."""

import compileall
import gc
import hashlib
import itertools
import os
import signal
from pathlib import Path
from types import SimpleNamespace

if "PYTEST_XDIST_WORKER" in os.environ:
    # a worker has one core: more threads than cores wait for each other. Torch reads this when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import numpy as np
import pandas as pd
import pytest

# a job in the background of a script ignores Ctrl-C, which tests press
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" not in os.environ:
    # tests start processes, which compile it anew where the environment says that Python writes no bytecode
    compileall.compile_dir(Path(__file__).resolve().parents[1] / "src" / "privae", quiet=2)


def checked(*, typechecker, every=jaxtyping.jaxtyped):
    """The check of a function or class of a module; inner functions would be compiled anew at every call."""
    check = every(typechecker=typechecker)
    return lambda made: made if "<locals>" in getattr(made, "__qualname__", "") else check(made)


jaxtyping.jaxtyped = checked  # what the hook puts before every definition
jaxtyping.install_import_hook(["privae.layers", "privae.privacy", "privae.models"], "beartype.beartype")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Everything is tested by as many processes as there are cores, what is named on the command line by one."""
    return 0 if config.args_source is config.ArgsSource.ARGS else min(os.cpu_count() or 1, 4)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Modules and tests stay to the end: looking for garbage among them took a third of the time to collect them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()  # and it is not looked for among them while the tests run
        gc.enable()


@pytest.fixture(scope="module")
def tiny():
    """Fits take a fraction of a second: few components, steps and warm-up samples; keys repeat, and differ."""
    from privae.privacy import noise
    from privae.recipes import gradients, table
    from privae.sums import mixture

    keys = (hashlib.sha256(str(number).encode()).digest() for number in itertools.count())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "os", SimpleNamespace(getpid=os.getpid, urandom=lambda _: next(keys)))
        patch.setattr(gradients, "_WARM_STEPS", 3)
        patch.setattr(gradients, "WARM_ROWS", 300)
        patch.setattr(
            table, "MixtureSettings", lambda: mixture.MixtureSettings(components=30, steps=20, tree_from=1.0)
        )
        yield


@pytest.fixture(scope="session")
def facts():
    """The schema of `people`: every kind of column, gaps and other values; `ill` is the label."""
    from privae.data.column import Column
    from privae.data.schema import Schema

    return Schema(
        columns=(
            Column(name="age", kind="numeric", bounds=(0, 100), bins=4, integer=True, missing=True),
            Column(name="job", kind="category", categories=("nurse", "cook"), other="else"),
            Column(name="height", kind="numeric", bounds=(1.0, 2.2), bins=3, decimals=2),
            Column(name="ill", kind="boolean"),
        ),
        label="ill",
    )


@pytest.fixture(scope="session")
def plays():
    """A function of (persons, seed): ratings of twelve items by persons of two tastes; `schema` is theirs."""
    from privae.data.ratings import RatingSchema

    items = [f"{taste}{i}" for taste in "xy" for i in range(6)]

    def made(persons, seed=0):
        rng = np.random.default_rng(seed)
        taste = rng.integers(0, 2, persons)
        chance = np.where((np.arange(12) < 6) == (taste[:, None] == 0), 0.6, 0.05)
        who, what = np.nonzero(rng.random((persons, 12)) < chance)
        return pd.DataFrame(
            {"who": who, "what": np.array(items)[what], "stars": rng.choice([4, 5], len(who))}
        )

    made.schema = RatingSchema(person="who", item="what", value="stars", like=4, items=tuple(items))
    return made


@pytest.fixture(scope="session")
def homes():
    """A function of (homes, days, seed): hourly power and heat, higher at weekends; `schema` is theirs."""
    from privae.data.column import Column
    from privae.series.schema import SeriesSchema

    def made(count, days=3, seed=0):
        rng, hours = np.random.default_rng(seed), 24 * days
        time = pd.date_range("2026-01-02", periods=hours, freq="h")  # a Friday
        level = rng.normal(2.0, 0.3, (count, 1)) + 0.5 * (time.day_of_week.to_numpy() >= 5)
        day = 0.5 * np.sin(2 * np.pi * np.arange(hours) / 24)
        power = level + day + rng.normal(0, 0.2, (count, hours))
        heat = 20 + 4 * (level + day - 2) + rng.normal(0, 0.5, (count, hours))
        who = np.repeat(np.arange(count), hours)
        cells = {"power": power.ravel().round(3), "heat": heat.ravel().round(2)}
        return pd.DataFrame({"home": who, "time": np.tile(time, count), **cells})

    made.schema = SeriesSchema(
        id="home",
        time="time",
        step="1h",
        window="1d",
        windows=3,
        channels=(
            Column(name="power", kind="numeric", bounds=(0.0, 5.0), decimals=3),
            Column(name="heat", kind="numeric", bounds=(0.0, 40.0), decimals=2),
        ),
    )
    return made


@pytest.fixture(scope="session")
def people():
    """A function of (n, seed): a table whose columns hang together."""

    def made(count, seed=0):
        rng = np.random.default_rng(seed)
        ill = rng.random(count) < 0.4
        return pd.DataFrame(
            {
                "age": rng.integers(0, 50, count) + 50 * ill,
                "job": np.where(rng.random(count) < 0.2 + 0.6 * ill, "nurse", "cook"),
                "height": np.round(1.2 + 0.8 * rng.random(count), 2),
                "ill": ill,
            }
        )

    return made


@pytest.fixture(scope="session")
def pictures():
    """A function of (n, seed): images [n, 4, 4] of two classes, bright at the left or at the right, and labels."""

    def made(count, seed=0):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, count)
        bright = np.where(labels[:, None], [0, 0, 1, 1], [1, 1, 0, 0])[:, None, :]
        pixels = 40 + 120 * bright + 50 * rng.random((count, 4, 4))
        return pixels.astype(np.uint8), labels

    return made


@pytest.fixture
def transcript(monkeypatch):
    """A function of (vae, data...): fits, and tells all that left the fit; `replay` answers with its releases.

    With `replay`, every release is replaced by the one of an earlier fit, so whatever still differs was taken
    from the data past the mechanism.
    """
    from privae.privacy.mechanism import Mechanism
    from privae.privacy.noise import NoiseSource

    real = Mechanism.release

    def fitted(vae, *data, replay=None, **options):
        released, told = [], []
        answers = iter(replay or ())

        def release(mechanism, total, noise, divisor=1.0, *, over=False):
            answer = (
                real(mechanism, total, noise, divisor).clone()
                if over
                else real(mechanism, total, noise, divisor)
            )
            if noise.fixed is not True or noise is not source:
                return answer  # training on released samples draws from a public source of its own
            released.append(answer if replay is None else next(answers))
            assert released[-1].shape == answer.shape
            return released[-1]

        class Watch:
            def phase(self, name, total):
                told.append(("phase", name, total))

            def advance(self, count, epsilon=None):
                told.append(("advance", count, epsilon))

            def note(self, text):
                told.append(("note", text))

        source = NoiseSource(bytes(32))
        with monkeypatch.context() as patch:
            patch.setattr(Mechanism, "release", release)
            try:
                vae.fit(*data, noise=source, watch=Watch(), **options)
                outcome = "fitted"
            except Exception as error:  # noqa: BLE001  the outcome is what is compared
                outcome = repr(error)
        return {"released": released, "told": told, "outcome": outcome, "vae": vae}

    return fitted
