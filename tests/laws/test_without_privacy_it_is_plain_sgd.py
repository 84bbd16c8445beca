"""Law: with no clip and no noise the loop is ordinary training, for plain losses and for the VAE."""

import copy

import pytest
import torch
from torch import nn

from privae.models.latent import elbo
from privae.models.likelihoods import Bernoulli
from privae.models.networks import Network, NetworkConfig
from privae.privacy.gradients import Summation
from privae.privacy.mechanism import Mechanism
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import FullBatch, Poisson
from privae.training.loop import Objective, Release, Schedule, train

STEPS, N = 12, 30


def noise() -> NoiseSource:
    return NoiseSource(bytes(range(32)))


def squares(model, parts):
    return (model(parts[0]) - parts[1]).square().sum(-1)


def records():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, 3, generator=generator), torch.randn(N, 2, generator=generator)


def release(sampling, source) -> Release:
    return Release(sampling, Mechanism(), source, lambda _: None)


@pytest.mark.parametrize("path", ["by rule", "vmap"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("sampling", [FullBatch(), Poisson(0.3)])
def test_the_loop_takes_the_steps_that_torch_takes(path, optimizer, sampling):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    plain, parts = copy.deepcopy(model), records()
    schedule = Schedule(STEPS, N * sampling.rate, 0.05, optimizer)
    objective = Objective(squares, summation=Summation(path, "proved", 8))
    train(model, objective, parts, release(sampling, noise()), schedule)
    steps = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
    torch_optimizer = steps(plain.parameters(), lr=0.05)
    for batch in sampling.batches(N, STEPS, noise()):
        torch_optimizer.zero_grad()
        chosen = tuple(part[torch.from_numpy(batch)] for part in parts)
        (squares(plain, chosen).sum() / schedule.expected_batch_size).backward()
        torch_optimizer.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_vae_trains_as_it_does_without_this_library():
    torch.manual_seed(2)
    network = Network(NetworkConfig(inputs=6, latent=2, hidden=(8,)))
    plain, x = copy.deepcopy(network), torch.rand(N, 6)

    def loss(model, parts):
        return -elbo(model, Bernoulli(6), parts[0], None, parts[1])

    objective = Objective(loss, noise_size=2, summation=Summation("by rule", "proved", 32))
    train(network, objective, (x,), release(FullBatch(), noise()), Schedule(STEPS, float(N), 0.1, "sgd"))
    source = NoiseSource(noise().words(4).tobytes())  # latent draws have a source of their own
    torch_optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(STEPS):
        drawn = torch.from_numpy(source.gaussian_integers(N * 2, 2.0**20)).double().view(N, 2) / 2**20
        torch_optimizer.zero_grad()
        mean, log_variance = plain.encoder(x)
        logits = plain.decoder(mean + (log_variance / 2).exp() * drawn.float())
        error = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        ((error + divergence) / N).backward()
        torch_optimizer.step()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
