import json

import pytest
import torch
from torch import nn

from privae.errors import UsageError
from privae.models.networks import (
    LOG_VARIANCE_LIMIT,
    RANGE,
    Decoder,
    Encoder,
    Network,
    NetworkConfig,
    Square,
    initialize,
    perceptron,
)
from privae.privacy.gradients import Summation, clipped_gradient_sum, refuse_mixing, supported


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("batch", [(), (0,), (5,), (2, 3)])
def test_shapes_follow_any_leading_dimensions(batch):
    network = Network(NetworkConfig(inputs=4, latent=2, condition=3, hidden=(8, 6), layer_norm=True))
    mean, log_variance = network.encode(torch.zeros(*batch, 4), torch.zeros(*batch, 3))
    assert mean.shape == log_variance.shape == (*batch, 2)
    assert network.decode(mean, torch.zeros(*batch, 3)).shape == (*batch, 4)


def test_without_condition_and_hidden_layers_a_network_is_linear():
    network = Network(NetworkConfig(inputs=3, latent=2, hidden=()))
    with torch.no_grad():
        network.encoder.mean.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 2.0, 0]]))
        network.encoder.mean.bias.zero_()
    mean, _ = network.encode(torch.tensor([1.0, 1.0, 1.0]))
    assert mean.tolist() == [1.0, 2.0]


def test_the_decoder_mirrors_the_hidden_layers():
    network = Network(NetworkConfig(inputs=3, latent=2, hidden=(7, 5)))
    assert [layer.out_features for layer in network.encoder.body if isinstance(layer, nn.Linear)] == [7, 5]
    assert [layer.out_features for layer in network.decoder.body if isinstance(layer, nn.Linear)] == [5, 7]


def test_log_variance_stays_within_its_limit():
    encoder = Encoder(1, (), 1)
    with torch.no_grad():
        encoder.log_variance.weight.fill_(1e6)
    _, log_variance = encoder(torch.tensor([[1.0], [-1.0]]))
    assert log_variance.abs().max() == LOG_VARIANCE_LIMIT


def test_a_config_survives_json_and_builds_the_same_network():
    config = NetworkConfig(inputs=4, latent=2, condition=1, hidden=(6,), activation="silu", layer_norm=True)
    first = Network.from_config(config.model_dump(), seeded(3))
    again = Network.from_config(json.loads(json.dumps(first.to_config())), seeded(3))
    assert again.config == config
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    again = Network.from_config(first.to_config())
    again.load_state_dict(first.state_dict())
    assert torch.equal(first.decode(torch.ones(3, 3)), again.decode(torch.ones(3, 3)))


def test_first_weights_come_from_the_generator_and_leave_the_global_state_alone():
    layers = perceptron(4, (16,))
    before = torch.random.get_rng_state()
    initialize(layers, seeded(1))
    assert torch.equal(before, torch.random.get_rng_state())
    weight = layers[0].weight.detach()
    assert weight.abs().max() <= 0.5
    assert weight.std() == pytest.approx(0.5 / 3**0.5, rel=0.2)


@pytest.mark.parametrize("config", [{}, {"inputs": 0, "latent": 1}, {"inputs": 1, "latent": 1, "depth": 2}])
def test_a_wrong_config_is_a_usage_error(config):
    with pytest.raises(UsageError, match="network sizes"):
        Network.from_config(config)


def test_no_layer_mixes_records():
    network = Network(NetworkConfig(inputs=3, latent=2, hidden=(4,), layer_norm=True))
    assert not any("BatchNorm" in type(layer).__name__ for layer in network.modules())


def test_a_decoder_may_stand_alone():
    assert Decoder(2, (3,), 5)(torch.zeros(4, 2)).shape == (4, 5)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers of deviation 4, so that many lie beyond any bound in use."""
    return 4 * torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def test_square_is_its_polynomial_and_so_is_its_slope_within_the_bound():
    square, u = Square(bound=3.0), torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(square(u), 0.25 * (u + 1) ** 2 - 0.25)
    square(u).sum().backward()
    assert torch.allclose(u.grad, 0.5 * (u.detach() + 1))
    assert torch.autograd.gradcheck(square, u)
    assert "bound=3" in repr(square)


def test_training_adds_the_gradient_of_the_penalty_and_leaves_values_alone():
    square, u, slope = Square(2.0, 0.7), numbers(5, 6).requires_grad_(), numbers(5, 6, seed=1)
    (found,) = torch.autograd.grad(square(u), u, slope)
    plain = 0.25 * u.square() + 0.5 * u
    penalty = 0.7 * torch.relu(u.abs() - 2.0).square().sum()
    (expected,) = torch.autograd.grad((plain * slope).sum() + penalty, u)
    assert torch.allclose(found, expected)
    assert torch.equal(square(u), square.eval()(u))
    (without,) = torch.autograd.grad(square(u), u, slope)
    assert torch.allclose(without, slope * 0.5 * (u + 1))
    assert not torch.allclose(found, without)


def test_the_slope_of_square_has_a_slope():
    """An audit that reconstructs records differentiates gradients once more."""
    assert torch.autograd.gradgradcheck(Square(2.0, 0.7), numbers(7).requires_grad_())


def squared() -> tuple[nn.Module, object, tuple[torch.Tensor, ...]]:
    """A network, a loss, and records whose numbers leave the bound in both hidden layers."""
    network = Network.from_config(
        {"inputs": 4, "latent": 2, "hidden": [6], "activation": "square"}, seeded(0)
    )

    def loss(model, parts):
        mean, spread = model.encode(parts[0])
        return (model.decode(mean + spread) - parts[0]).square().sum(-1)

    return network.double(), loss, (numbers(7, 4) * 3,)


@pytest.mark.parametrize("clip_norm", [float("inf"), 0.5])
def test_every_gradient_path_adds_the_penalty_of_each_record(clip_norm):
    network, loss, parts = squared()
    assert supported(network, loss, parts) == "by rule"
    refuse_mixing(network, loss, parts)
    by_rule, by_vmap = (
        clipped_gradient_sum(network, loss, parts, clip_norm, Summation(path)) for path in ("by rule", "vmap")
    )
    single = sum(
        clipped_gradient_sum(network, loss, (parts[0][i : i + 1],), clip_norm, Summation("by rule"))
        for i in range(7)
    )
    assert torch.allclose(by_rule, by_vmap, rtol=1e-10)
    assert torch.allclose(by_rule, single, rtol=1e-10)
    without = clipped_gradient_sum(network.eval(), loss, parts, clip_norm, Summation("by rule"))
    assert not torch.allclose(by_rule, without, rtol=1e-2)


def test_the_gradient_sum_is_that_of_the_loss_and_the_explicit_penalty():
    network, loss, parts = squared()
    found = clipped_gradient_sum(network, loss, parts, float("inf"), Summation("by rule"))
    seen = []
    layers = [network.encoder.body[0], network.decoder.body[0]]
    hooks = [layer.register_forward_hook(lambda *call: seen.append(call[-1])) for layer in layers]
    total = loss(network.eval(), parts).sum()
    for hook in hooks:
        hook.remove()
    penalty = sum(torch.relu(u.abs() - RANGE).square().sum() for u in seen)
    assert all((u.abs() > RANGE).any() for u in seen)
    expected = torch.autograd.grad(total + penalty, list(network.parameters()))
    assert torch.allclose(found, torch.cat([part.flatten() for part in expected]), rtol=1e-10)


def test_layer_norm_between_squares_is_refused():
    with pytest.raises(UsageError, match="layer_norm is no polynomial"):
        Network(NetworkConfig(inputs=3, latent=2, activation="square", layer_norm=True))
    with pytest.raises(UsageError, match="layer_norm is no polynomial"):
        perceptron(3, (), activation="square", layer_norm=True)


def test_a_network_of_squares_comes_back_from_its_config():
    first = Network(NetworkConfig(inputs=3, latent=2, hidden=(4,), activation="square"))
    again = Network.from_config(json.loads(json.dumps(first.to_config())))
    again.load_state_dict(first.state_dict())
    assert [type(layer) for layer in again.encoder.body] == [nn.Linear, Square]
    assert torch.equal(first.decode(torch.ones(5, 2)), again.decode(torch.ones(5, 2)))
