import math

import pytest
import torch

from privae.models.latent import elbo, kl
from privae.models.likelihoods import Bernoulli
from privae.models.networks import Network, NetworkConfig


def zero_network(condition: int = 0) -> Network:
    network = Network(NetworkConfig(inputs=3, latent=2, condition=condition, hidden=()))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return network


def test_kl_of_hand_computed_posteriors():
    assert kl(torch.zeros(2), torch.zeros(2)).item() == 0.0
    assert kl(torch.tensor([2.0]), torch.zeros(1)).item() == pytest.approx(2.0)
    assert kl(torch.zeros(1), torch.tensor([math.log(4.0)])).item() == pytest.approx(1.5 - math.log(2.0))


def test_kl_agrees_with_torch():
    mean, log_variance = torch.randn(5, 4), torch.randn(5, 4)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    assert torch.allclose(kl(mean, log_variance), expected, atol=1e-5)


def test_a_network_of_zeros_knows_nothing():
    value = elbo(zero_network(), Bernoulli(3), torch.zeros(4, 3), None, torch.ones(4, 2))
    assert torch.allclose(value, torch.full((4,), -3 * math.log(2.0)))


def test_beta_weighs_the_divergence():
    network = zero_network()
    with torch.no_grad():
        network.encoder.mean.bias.fill_(1.0)
    values = [
        elbo(network, Bernoulli(3), torch.zeros(3), None, torch.zeros(2), beta) for beta in (0.0, 1.0, 2.0)
    ]
    assert (values[0] - values[1]).item() == pytest.approx(1.0)
    assert (values[1] - values[2]).item() == pytest.approx(1.0)


def test_one_record_and_a_batch_agree():
    network, noise = Network(NetworkConfig(inputs=3, latent=2, condition=2, hidden=(4,))), torch.randn(5, 2)
    record, condition = torch.rand(5, 3), torch.eye(2)[torch.tensor([0, 1, 1, 0, 0])]
    together = elbo(network, Bernoulli(3), record, condition, noise)
    alone = [elbo(network, Bernoulli(3), record[i], condition[i], noise[i]) for i in range(5)]
    assert together.shape == (5,)
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)
