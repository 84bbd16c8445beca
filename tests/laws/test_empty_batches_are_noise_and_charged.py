"""Law: a step whose batch is empty releases noise alone, moves the weights, and is charged like any other."""

import pytest
import torch
from torch import nn

from privae.privacy.gradients import Summation, slack
from privae.privacy.mechanism import for_gradients
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Poisson
from privae.training.loop import Objective, Release, Schedule, train

STEPS, DIVISOR, CLIP, MULTIPLIER = 30, 5.0, 2.0, 1.5


def squares(model, parts):
    return (model(parts[0]) - 1).square().sum(-1)


@pytest.mark.parametrize("path", ["by rule", "vmap"])
@pytest.mark.parametrize("n", [0, 3])
def test_steps_without_records_are_noise_and_charged(path, n):
    model = nn.Linear(40, 2)
    size = sum(parameter.numel() for parameter in model.parameters())
    mechanism = for_gradients(CLIP, MULTIPLIER, size, slack("proved", 4))
    sampling, events = Poisson(1e-9), []
    release = Release(sampling, mechanism, NoiseSource(bytes(range(32))), events.append)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    objective = Objective(squares, summation=Summation(path, "proved", 4))
    train(model, objective, (torch.ones(n, 40),), release, Schedule(STEPS, DIVISOR, 1.0, "sgd", block=8))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    # the sum of STEPS noises; n = 82 numbers, band of 5 standard deviations of the standard deviation
    expected = mechanism.std * STEPS**0.5 / DIVISOR
    assert (after - before).std().item() == pytest.approx(expected, rel=5 / (2 * size) ** 0.5)
    assert [event.steps for event in events] == [8, 8, 8, 6]
    assert all(event == sampling.event(mechanism, event.steps) for event in events)
