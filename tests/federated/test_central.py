"""A federated fit is the central fit on the union of the records."""

import itertools

import numpy as np
import pytest
import torch

from privae import VAE
from privae.data.codec import Codec
from privae.data.images import ImageSchema
from privae.errors import UsageError
from privae.federated import site
from privae.models.likelihoods import Categorical
from privae.privacy.mechanism import Joint
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Poisson
from privae.recipes import gradients, image
from privae.recipes.gradients import Training
from privae.training import loop
from privae.training.books import whole_plan
from privae.training.loop import Local
from privae.transport.simulate import assemble, parted, run, simulate

KEY = bytes(range(32))


@pytest.mark.parametrize("way", ["masked", "encrypted"])
@pytest.mark.parametrize("images", [False, True])
def test_closed_form_phases_are_bit_identical_to_a_central_fit_with_the_same_noise(
    room, people, digits, monkeypatch, tiny, images, way
) -> None:
    records = digits(900) if images else (people(900), None)
    terms = room(epsilon=8.0, images=images, sum=way)
    made = with_noise_of_one(terms, records, "label", monkeypatch)
    plan, schema = terms.plan_of(), made.study.schema_of
    central = VAE(8.0, 1e-5, 600, schema=schema, classes=3 if images else None)
    central.set_params(fidelity=False if images else None)
    central.fit(*records, plan=plan, noise=NoiseSource(KEY))
    assert_same(made.coordinator.fitted.model.state(), central.fitted_.model.state(), 0.0)


@pytest.mark.parametrize("images", [False, True])
def test_anomaly_scores_of_several_sites_are_bit_identical_to_a_central_fits(
    agreed, people, digits, facts, monkeypatch, images
) -> None:
    schema = facts.model_copy(update={"label": None})
    records = (digits(900)[0] if images else people(900), None)
    if images:
        schema = ImageSchema(height=records[0].shape[1], width=records[0].shape[2])
    vae = VAE(8.0, 1e-5, 600, recipe="detection", schema=schema)
    terms = agreed(vae, "xyz")
    made = with_noise_of_one(terms, records, "even", monkeypatch)
    vae.fit(records[0], plan=terms.plan_of(), noise=NoiseSource(KEY))
    assert_same(made.coordinator.fitted.model.state(), vae.fitted_.model.state(), 0.0)
    assert made.coordinator.fitted.notes == vae.fitted_.notes


def with_noise_of_one(terms, records, split, monkeypatch):
    """The study, in which one site draws the central fit's noise and the others none."""
    source = NoiseSource(KEY)
    made = assemble(terms, parted(records, tuple(terms.sites), split, terms.study(*_keys(terms)).schema_of))
    turns = itertools.count()

    def drawn(ask, share, coins):
        scales = np.repeat([wire.scale for wire in ask.wires], [wire.count for wire in ask.wires])
        noise = [np.zeros(wire.count, np.int64) for wire in ask.wires]
        if next(turns) % len(terms.sites) == 0:
            noise = [source.gaussian_integers(wire.count, wire.std / wire.scale) for wire in ask.wires]
        return (ask.values + np.concatenate(noise)) * scales

    monkeypatch.setattr(site, "noised", drawn)
    run(made.coordinator, lambda name, message: made.sites[name].answer(message))
    return made


def _keys(terms):
    return {n: n for n in terms.sites}, "b"


def assert_same(found, wanted, tolerance) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.allclose(found[name].double(), tensor.double(), rtol=0, atol=tolerance), name


@pytest.mark.parametrize("images", [False, True])
def test_gradient_phases_are_those_of_a_central_fit(room, people, digits, monkeypatch, tiny, images) -> None:
    monkeypatch.setattr(loop, "_latent", lambda shape, size, noise: torch.zeros(*shape, size))
    monkeypatch.setattr(
        Poisson, "batches", lambda self, n, steps, noise: itertools.repeat(np.arange(n), steps)
    )
    monkeypatch.setattr(image, "_DECODER_STEPS", 6)
    records = digits(120) if images else (people(120), None)
    training = Training(latent=2, hidden=(8,), steps=6, batch=600, share="all" if images else "decoder")
    terms = room(epsilon=float("inf"), images=images, training=training, masking=True)
    schema = terms.study(*_keys(terms)).schema_of
    made = simulate(terms, parted(records, tuple(terms.sites), "label", schema))
    central = VAE(float("inf"), 1e-5, 600, schema=schema, classes=3 if images else None, fidelity=True)
    central.set_params(training=training)
    central.fit(*records, plan=terms.plan_of())
    assert_same(made.coordinator.fitted.model.state(), central.fitted_.model.state(), 1e-5)


def test_local_steps_of_one_and_all_records_are_plain_gradient_descent(
    agreed, people, facts, monkeypatch, tiny
) -> None:
    """FedAvg of one full-batch step at sites of one size is gradient descent on the union."""
    monkeypatch.setattr(loop, "_latent", lambda shape, size, noise: torch.zeros(*shape, size))
    local = Local(steps=1, learning_rate=0.1, batch=10_000)
    training = Training(latent=2, hidden=(8,), steps=5, local=local)
    vae = VAE(float("inf"), 1e-5, 3, recipe="gradients", schema=facts, training=training)
    with pytest.raises(UsageError, match="several sites"):
        vae.fit(people(30))
    terms = agreed(vae, "abc", share="all")
    frame = people(90)
    found = simulate(terms, parted((frame, None), tuple("abc"), "even", facts)).coordinator.fitted
    x = found.codec.onehot(found.codec.encode(frame))
    network = gradients.default_network(x.shape[1], 1, training)
    loss = gradients.negative_elbo(Categorical(tuple(found.codec.sizes.tolist())), 1)
    parameters = list(network.parameters())
    for _ in range(5):
        value = loss(network, (x, torch.zeros(len(x), 2))).mean()
        for parameter, part in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
            parameter.data -= 0.1 * part
    assert_same(found.model.network.state_dict(), network.state_dict(), 1e-6)


def test_a_sites_move_counts_as_one_unit_and_is_clipped_as_a_whole(facts, people) -> None:
    training = Training(latent=2, hidden=(8,), steps=2, local=Local(steps=3), clip_norm=0.01)
    plan = VAE(10.0, 1e-5, 3, recipe="gradients", schema=facts, training=training).plan()
    assert (plan.unit, plan.guarantee().unit) == ("client", "client")
    assert Training.of(plan).local == training.local
    assert [c.event.noise_multiplier for c in whole_plan(plan, 20.0)] == [plan.phases[0].noise_multiplier / 2]
    summed = []

    def add(mine):
        summed.append(np.linalg.norm(mine * 2.0**-28))
        return mine

    mechanism = Joint(0.01, grid=2.0**-28, add=add)
    codec = Codec(facts)
    x = codec.onehot(codec.encode(people(50)))
    network = gradients.default_network(x.shape[1], 1, training)
    objective = loop.Objective(gradients.negative_elbo(Categorical(tuple(codec.sizes.tolist())), 1), 2)
    release = loop.Release(Poisson(1.0), mechanism, NoiseSource(KEY), lambda event: None)
    hands = loop.Hands(coins=lambda step: NoiseSource(KEY))
    loop.local_rounds(network, objective, (x,), release, (2, 3, Local(steps=3, learning_rate=1.0)), hands)
    assert summed == pytest.approx([0.01, 0.01], rel=1e-4)
    x[3, :] = float("nan")
    everything = Local(steps=1, batch=100)
    loop.local_rounds(network, objective, (x,), release, (1, 3, everything), hands)
    assert summed[2] == 0.0
    assert all(parameter.isfinite().all() for parameter in network.parameters())
