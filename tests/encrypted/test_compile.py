"""From models to circuits: what is computed is what the model computes, or the model is refused with what would do."""

import math

import numpy as np
import pytest
import torch

from privae import VAE
from privae.encrypted.compile import compiled
from privae.encrypted.offer import numbers_of
from privae.errors import UsageError
from privae.recipes import image


def test_a_linear_model_is_its_own_circuit(linear, digits):
    x = digits.x[1500:1550]
    found = compiled(linear.fitted_, ("score", "codes", "reconstruction")).evaluate(
        numbers_of(linear.fitted_.schema, x)
    )
    assert found["score"] == pytest.approx(linear.decision_function(x), rel=1e-9)
    assert found["codes"] == pytest.approx(linear.transform(x), rel=1e-9, abs=1e-9)
    error = ((found["reconstruction"] - x.reshape(50, -1) / 255) ** 2).sum(1)
    assert -error == pytest.approx(linear.fitted_.parts(x)["pixels"], rel=1e-9)


def test_without_labels_there_is_one_class(digits):
    model = VAE(20.0, 1e-5, fidelity=False).fit(digits.x[:1500])
    made = compiled(model.fitted_)
    assert made.circuit.width(made.circuit.outputs["score"]) == 1
    x = digits.x[1500:1520]
    assert made.evaluate(numbers_of(model.fitted_.schema, x))["score"] == pytest.approx(
        model.decision_function(x), rel=1e-9
    )


def test_a_polynomial_network_is_its_own_circuit(square, digits):
    x = digits.x[1500:1550]
    rows = numbers_of(square.fitted_.schema, x)
    found = compiled(square.fitted_, ("codes", "reconstruction", "score")).evaluate(rows)
    network = square.fitted_.model.network
    with torch.no_grad():
        codes, _ = network.encode(torch.from_numpy(rows).float())
        again = network.decode(codes).numpy()
    assert found["codes"] == pytest.approx(codes.numpy(), abs=1e-4)
    assert found["reconstruction"] == pytest.approx(again, abs=1e-4)
    assert found["score"] == pytest.approx(((again - rows) ** 2).sum(1), rel=1e-4)


def test_the_score_needs_nothing_as_wide_as_the_record(square):
    circuit = compiled(square.fitted_).circuit
    assert all(circuit.width(value) < circuit.inputs for value in range(1, len(circuit.steps) + 1))


def test_a_table_of_a_polynomial_network_gives_codes_and_logits(people, facts):
    from privae.recipes.gradients import Training

    training = Training(latent=2, hidden=(4,), activation="square", steps=2)
    model = VAE(math.inf, rows=200, recipe="gradients", training=training).fit(people(200), schema=facts)
    found = compiled(model.fitted_, ("codes", "reconstruction")).evaluate(numbers_of(facts, people(20)))
    assert found["codes"] == pytest.approx(model.transform(people(20)), abs=1e-4)
    assert found["reconstruction"].shape == (20, int(model.fitted_.codec.offsets[-1]))
    with pytest.raises(UsageError, match="ask for --outputs codes or reconstruction"):
        compiled(model.fitted_)


def test_models_that_are_no_polynomials_are_refused_with_what_would_do(people, facts, digits, tiny):
    mixture = VAE(20.0, 1e-5).fit(people(200), schema=facts)
    with pytest.raises(UsageError, match="--recipe gradients --activation square"):
        compiled(mixture.fitted_)
    from privae.recipes.gradients import Training

    relu = VAE(math.inf, rows=100, recipe="gradients", training=Training(latent=2, hidden=(4,), steps=2)).fit(
        digits.x[:100]
    )
    with pytest.raises(UsageError, match="--activation square"):
        compiled(relu.fitted_)


@pytest.mark.parametrize("outputs", [(), ("scores",), ("score", "weights")])
def test_other_outputs_are_refused(linear, outputs):
    with pytest.raises(UsageError, match="score, codes, reconstruction"):
        compiled(linear.fitted_, outputs)


def test_a_residual_decoder_serves_scores_and_codes_but_no_reconstructions(digits, monkeypatch):
    monkeypatch.setattr(image, "_DECODER_STEPS", 3)
    model = VAE(math.inf, rows=1500, classes=3, fidelity=True).fit(digits.x[:1500], digits.y[:1500])
    x = digits.x[1500:1510]
    found = compiled(model.fitted_, ("score", "codes")).evaluate(numbers_of(model.fitted_.schema, x))
    assert found["score"] == pytest.approx(model.decision_function(x), rel=1e-9)
    with pytest.raises(UsageError, match="residual decoder is no polynomial"):
        compiled(model.fitted_, ("reconstruction",))


def test_records_are_read_as_the_model_reads_them(linear):
    with pytest.raises(UsageError, match=r"uint8 \[n, 4, 4\]"):
        numbers_of(linear.fitted_.schema, np.zeros((3, 5, 4), np.uint8))
