import json

import pytest
import torch
from torch import nn

from privae.errors import UsageError
from privae.models.networks import (
    LOG_VARIANCE_LIMIT,
    Decoder,
    Encoder,
    Network,
    NetworkConfig,
    initialize,
    perceptron,
)


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
