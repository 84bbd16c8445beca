"""Games against the code that runs: it passes as shipped, and whatever takes from the data past the noise is seen."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from privae import VAE, Training
from privae.attacks.bounds import one_run_power
from privae.audit.case import joined_to, odd_one_out
from privae.audit.game import Loop, Tape, described, gradient_canaries, neighboring_tables, pull, replayed
from privae.plan import Phase
from privae.privacy import accountant
from privae.privacy.noise import NoiseSource
from privae.recipes import image
from privae.recipes.modality import TableRecipe

pytestmark = pytest.mark.usefixtures("tiny")
SMALL = Training(latent=2, hidden=(8,), steps=6, batch=60)
CONFIDENCE = 0.999


def texts(y):
    return y.astype(str).astype(object)


def phase(multiplier, rate=1.0, steps=1, clip_norm=1.0, size=1000):
    return Phase(
        name="gradients",
        kind="gradients",
        share=1.0,
        sensitivity=clip_norm,
        replace_ratio=2.0,
        sampling_rate=rate,
        steps=steps,
        size=size,
        noise_multiplier=multiplier,
    )


# --- gradient canaries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [0.01, 1.0, 30.0])
def test_the_shipped_loop_passes_at_rate_one(clip_norm):
    planned = phase(4.0, clip_norm=clip_norm)
    found = gradient_canaries(planned, 1000, 1e-6, CONFIDENCE, NoiseSource(bytes(32)))
    assert not found.failed
    assert found.details["epsilon"] == accountant.epsilon([planned.event()], 1e-6)
    assert 250 < found.details["right"] < found.details["guesses"] == 500


def test_the_shipped_loop_passes_subsampled():
    found = gradient_canaries(phase(1.0, 0.1, 20), 400, 1e-6, CONFIDENCE, NoiseSource(bytes(32)))
    assert not found.failed
    assert 100 < found.details["right"] < found.details["guesses"] == 200
    assert found.details["phase"] == "gradients"


def test_little_noise_shows_nearly_all_that_could_be_shown_and_that_is_within_the_promise():
    found = gradient_canaries(phase(0.2), 1000, 1e-6, CONFIDENCE, NoiseSource(bytes(32)))
    assert found.value > 0.9 * found.power
    assert found.power == one_run_power(500, 1000, 1e-6, CONFIDENCE)
    assert not found.failed


def test_a_plan_without_noise_promises_nothing_so_nothing_contradicts_it():
    found = gradient_canaries(phase(0.0), 1000, 1e-6, CONFIDENCE, NoiseSource(bytes(32)))
    assert found.details["right"] == 500
    assert (found.details["epsilon"], found.failed) == (math.inf, False)


def test_a_loop_without_noise_fails():
    found = gradient_canaries(
        phase(4.0),
        1000,
        1e-6,
        CONFIDENCE,
        NoiseSource(bytes(32)),
        Loop(mechanism=lambda m: replace(m, noise_multiplier=0.0)),
    )
    assert found.failed
    assert found.details["right"] == 500
    assert "500 were right" in found.meaning["en"]
    assert "500" in found.meaning["zh"]


@pytest.mark.parametrize("canaries", [1, 2])
def test_hardly_any_canaries_show_nothing(canaries):
    found = gradient_canaries(phase(4.0), canaries, 1e-6, CONFIDENCE, NoiseSource(bytes(32)))
    assert (found.value, found.failed) == (0.0, False)


def test_a_canary_pulls_by_itself_whatever_the_weights():
    network = torch.nn.Linear(3, 1, bias=False)
    record = torch.tensor([[1.0, -2.0, 3.0]])
    pull(network, (record,)).sum().backward()
    assert network.weight.grad.tolist() == record.tolist()


def test_weights_are_the_sum_of_all_clipped_records_over_the_rows():
    """Hardly any noise: a record of norm 5 is shortened to 2, one of norm 1 is not; two steps at rate 1."""
    records = torch.tensor([[3.0, 4.0], [0.0, -1.0]])
    found = Loop().weights(phase(1e-5, steps=2, clip_norm=2.0, size=2), records, 4.0, NoiseSource(bytes(32)))
    assert found == pytest.approx([2 * 1.2 / 4, 2 * (1.6 - 1.0) / 4], rel=1e-3)


# --- neighboring tables -----------------------------------------------------------------------------------


def laplace(scale, seed=0):
    """A count of 3 or 2, with Laplace noise of that scale: epsilon is 1 / scale."""
    rng = np.random.default_rng(seed)
    return lambda present: np.array([0.0, 2.0 + present + rng.laplace(0, scale), rng.normal()])


def test_a_mechanism_that_keeps_its_promise_is_not_contradicted():
    """Forty games at 99 % each, in which epsilon 1 is exact: 0.4 false alarms expected at most, seeds fixed."""
    found = [neighboring_tables(laplace(1.0, s), 100, (1.0, 0.0), 0.99, "count") for s in range(40)]
    assert sum(one.failed for one in found) == 0
    assert max(one.value for one in found) > 0.1


def test_a_mechanism_that_breaks_its_promise_is_contradicted():
    found = neighboring_tables(laplace(0.1), 200, (1.0, 1e-6), CONFIDENCE, "count")
    assert found.failed
    assert 1.0 < found.value <= found.power
    assert found.details["tested"] == 200
    assert found.details["of"] == "count"
    assert "{" not in found.meaning["en"] + found.meaning["zh"]


@pytest.mark.parametrize("direction", [1, -1])
def test_a_number_that_always_differs_is_found_among_many(direction):
    def written(present):
        return np.array([7.0, 5.0 + direction * present, 7.0])

    found = neighboring_tables(written, 100, (1.0, 1e-6), CONFIDENCE, "file")
    assert found.details["right"] == 100
    assert found.value == found.power > 1.0


@pytest.mark.parametrize("written", [lambda _: np.zeros(0), lambda _: np.ones(3)])
def test_what_tells_nothing_shows_nothing(written):
    if not len(written(True)):
        written = lambda _: np.zeros(1)  # noqa: E731  a file that is empty has its length at least
    found = neighboring_tables(written, 20, (1.0, 1e-6), CONFIDENCE, "file")
    assert (found.value, found.failed) == (0.0, False)


def test_an_artefact_is_described_by_its_length_bytes_and_numbers():
    plain = described(b"abca")
    assert plain.shape == (1 + 256 + 512,)
    assert plain[0] == 4
    assert plain[1 + ord("a")] == 2
    assert plain[257 : 257 + 5].tolist() == [97, 98, 99, 97, 0]
    numbered = described(b"", np.array([1.0, 3.0]))
    assert numbered[769:].tolist() == pytest.approx([2.0, 0.0, 1.0, 3.0, 1.0, 3.0])
    assert described(b"x" * 1000, np.zeros(0)).shape == plain.shape
    assert np.isfinite(described(b"", np.zeros(9))).all()


# --- replayed releases ------------------------------------------------------------------------------------


@pytest.fixture
def played(own_of):
    """The game on a model, as an audit plays it."""

    def game(vae, *data, **options):
        own = own_of(vae.fit(*data, **options))
        made, odd = odd_one_out(own, 300, np.random.default_rng(0))
        return replayed(
            lambda tape, with_it: own.written(tape, joined_to(made, odd) if with_it else made), CONFIDENCE
        )

    return game


@pytest.fixture
def decoder(monkeypatch):
    """A residual decoder of few steps."""
    monkeypatch.setattr(image, "_DECODER_STEPS", 5)


CASES = {
    "table": lambda people, pictures, facts: (VAE(3.0), people(600), {"schema": facts}),
    "table refined": lambda people, pictures, facts: (
        VAE(math.inf, rows=300, fidelity=True, training=SMALL),
        people(300),
        {"schema": facts},
    ),
    "table by gradients": lambda people, pictures, facts: (
        VAE(math.inf, rows=300, recipe="gradients", training=SMALL),
        people(300),
        {"schema": facts},
    ),
    "images with a decoder": lambda people, pictures, facts: (
        VAE(math.inf, rows=300, classes=2, fidelity=True),
        pictures(300)[0],
        {"y": texts(pictures(300)[1])},
    ),
    "images by gradients": lambda people, pictures, facts: (
        VAE(math.inf, rows=300, recipe="gradients", training=SMALL),
        pictures(300)[0],
        {},
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_nothing_but_the_releases_is_taken_from_the_data(decoder, played, people, pictures, facts, kind):
    vae, data, more = CASES[kind](people, pictures, facts)
    found = played(vae, data, **more)
    assert (found.value, found.failed, found.details["named"]) == (0.0, False, "-")
    assert found.details["parts"] > 3
    assert "0 of" in found.meaning["en"]


def test_a_model_that_depends_on_the_number_of_records_is_caught(played, people, facts, monkeypatch):
    real = TableRecipe.fit

    def leaky(self, run, data, labels=None):
        fitted = real(self, run, data, labels)
        network = next(fitted.model.network.parameters())
        with torch.no_grad():
            network.view(-1)[0] = float(len(data))
        return fitted

    monkeypatch.setattr(TableRecipe, "fit", leaky)
    found = played(VAE(math.inf), people(300), schema=facts)
    assert found.failed
    assert found.details["differing"] == found.value == 1
    assert "network" in found.details["named"]
    assert found.details["named"] in found.meaning["en"]


def test_a_log_that_tells_the_number_of_records_is_caught(played, people, facts, monkeypatch):
    real = TableRecipe.fit

    def leaky(self, run, data, labels=None):
        run.watch.note(f"{len(data)} rows")
        return real(self, run, data, labels)

    monkeypatch.setattr(TableRecipe, "fit", leaky)
    found = played(VAE(math.inf), people(300), schema=facts)
    assert found.failed
    assert found.details["named"] == "log"


def test_what_is_for_the_holders_own_eyes_is_no_leak(played, people, facts, monkeypatch):
    real = TableRecipe.fit

    def telling(self, run, data, labels=None):
        run.watch.aside(f"{len(data)} rows")
        return real(self, run, data, labels)

    monkeypatch.setattr(TableRecipe, "fit", telling)
    assert not played(VAE(math.inf), people(300), schema=facts).failed


def test_a_part_that_is_written_with_a_record_only_is_a_leak():
    found = replayed(lambda tape, with_it: {"a": b"1"} | ({"b": b""} if with_it else {}), CONFIDENCE)
    assert (found.details["differing"], found.details["named"], found.details["parts"]) == (1, "b", 3)


def test_a_tape_gives_back_nothing_until_it_plays():
    tape = Tape()
    tape.remember("tables", [np.ones(2)])
    tape.save("gradients", "a state")
    tape.phase("tables", 3)
    tape.advance(1, 0.5)
    tape.note("a line")
    assert tape.recall("tables") is tape.restore("gradients") is None
    playing = replace(tape, plays=True)
    assert playing.recall("tables")[0].tolist() == [1, 1]
    assert playing.restore("gradients") == "a state"
    assert playing.recall("others") is None
    assert tape.told == [("phase", "tables", "3"), ("note", "a line")]


def test_a_second_fit_without_the_tape_would_differ(own_of, people, facts):
    """The game is not won by fits that are the same anyway: two of them draw other noise."""
    own = own_of(VAE(3.0).fit(people(600), schema=facts))
    found = replayed(lambda tape, with_it: own.written(Tape(), (people(600), None)), CONFIDENCE)
    assert found.failed
