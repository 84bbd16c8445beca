import json
import math

import pytest
import torch
from torch import nn

from privae.errors import UsageError
from privae.models.likelihoods import Gappy
from privae.models.networks import LOG_VARIANCE_LIMIT
from privae.models.windows import HIDDEN, WindowConfig, WindowNetwork
from privae.privacy.gradients import Summation, clipped_gradient_sum
from privae.recipes.gradients import checked, negative_elbo

KINDS = [("convolution", 3), ("recurrent", 1)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(kind: str, windows: int, **sizes: object) -> WindowNetwork:
    return WindowNetwork.from_config({"kind": kind, "windows": windows, "steps": 24, **sizes}, seeded(0))


def sines(count: int, windows: int, steps: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sines of a record's own phase and each window's own height, a tenth of them lacking: records, and all values."""
    generator = seeded(seed)
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    height = 0.3 + 0.6 * torch.rand(count, windows, 1, generator=generator)
    values = height * torch.sin(2 * math.pi * torch.arange(steps) / steps + phase)
    marks = (torch.rand(count, windows, steps, generator=generator) > 0.1).float()
    return torch.cat(((values * marks).flatten(1), marks.flatten(1)), 1), values.flatten(1)


@pytest.mark.parametrize(("kind", "windows"), KINDS)
@pytest.mark.parametrize("batch", [(), (0,), (5,), (2, 3)])
def test_shapes_follow_any_leading_dimensions(kind, windows, batch):
    made = network(kind, windows, channels=2, latent=5)
    x = torch.rand(*batch, made.config.inputs)
    mean, log_variance = made.encode(x, None)
    assert made.config.inputs == 2 * windows * 24 * 2
    assert mean.shape == log_variance.shape == (*batch, 5 * windows)
    assert made.decode(mean, None).shape == x.shape
    if batch == (2, 3):
        assert torch.allclose(mean[1, 2], made.encode(x[1, 2])[0], atol=1e-6)
        assert torch.allclose(made.decode(mean)[1, 2], made.decode(mean[1, 2]), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7, 23, 24, 96])
@pytest.mark.parametrize(("kind", "windows"), KINDS)
def test_a_window_may_have_any_number_of_steps(steps, kind, windows):
    made = WindowNetwork(WindowConfig(kind=kind, windows=windows, steps=steps, hidden=(4, 4, 4)))
    codes, _ = made.encode(torch.zeros(2, 2 * windows * steps))
    assert made.decode(codes).shape == (2, 2 * windows * steps)


def test_one_window_moves_its_own_codes_and_a_code_its_own_window():
    made, own = network("convolution", 3, channels=2), slice(48, 96)
    x = torch.rand(4, 3 * 48).repeat(1, 2).round()
    with torch.no_grad():
        codes, other = made.encode(x)[0], x.clone()
        for half in (x[:, :144], x[:, 144:]):
            half[:, own] = 1 - half[:, own]
        moved = (made.encode(other)[0] != made.encode(x)[0]).view(4, 3, 4)
        assert moved[:, 1].any(1).all()
        assert not moved[:, [0, 2]].any()
        codes[:, 4:8] += 1.0
        moved = (made.decode(codes) != made.decode(made.encode(other)[0])).view(4, 2, 3, 48)
    assert moved[:, :, 1].any(-1).all()
    assert not moved[:, :, [0, 2]].any()


def test_windows_with_the_same_values_have_the_same_codes_and_may_be_decoded_otherwise():
    """Kernels are shared; a scale and an offset of codes are a window's own."""
    made = network("convolution", 3)
    codes, _ = made.encode(torch.rand(2, 1, 24).repeat(1, 6, 1).flatten(1))
    assert torch.allclose(codes.view(2, 3, 4), codes.view(2, 3, 4)[:, :1], atol=1e-6)
    nn.init.constant_(made.decoder.place.bias[:4], 1.0)
    first, second, third = made.decode(codes).view(2, 2, 3, 24).unbind(2)
    assert torch.allclose(second, third, atol=1e-6)
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(("kind", "windows"), KINDS)
def test_the_value_of_a_gap_does_not_matter(kind, windows):
    made = network(kind, windows)
    x, values = sines(6, windows)
    assert not torch.equal(x[:, : values.shape[1]], values)
    told = torch.cat((values, x[:, values.shape[1] :]), 1)
    likelihood, noise = Gappy(made.config.inputs), torch.zeros(6, made.config.codes)
    loss = negative_elbo(likelihood, 1)
    assert torch.equal(made.encode(x)[0], made.encode(told)[0])
    assert torch.equal(loss(made, (x, noise)), loss(made, (told, noise)))


@pytest.mark.parametrize(("kind", "windows"), KINDS)
def test_gradients_by_rule_are_those_of_single_records(kind, windows):
    made = network(kind, windows, channels=2, latent=2, hidden=(4, 3)).double().train()
    likelihood = Gappy(made.config.inputs)
    loss = negative_elbo(likelihood, 1)
    x = likelihood.sample(torch.randn(6, likelihood.size, generator=seeded(1)), seeded(2)).double()
    parts = (x, torch.randn(6, made.config.codes, generator=seeded(3)).double())
    summation = checked(made, loss, parts, Summation("by rule", "proved", 64))
    assert summation.path == "by rule"
    expected = 0.0
    for i in range(6):
        value = loss(made, tuple(part[i : i + 1] for part in parts)).sum()
        found = torch.autograd.grad(value, list(made.parameters()))
        gradient = torch.cat([piece.flatten() for piece in found])
        expected = expected + gradient * min(1.0, 50.0 / float(gradient.norm()))
    assert torch.allclose(clipped_gradient_sum(made, loss, parts, 50.0, summation), expected, rtol=1e-10)


@pytest.mark.parametrize(("kind", "windows"), KINDS)
def test_training_reconstructs_sines_and_fills_their_gaps(kind, windows):
    made, (x, values) = network(kind, windows), sines(256, windows)
    likelihood = Gappy(made.config.inputs, 0.02)
    loss, generator = negative_elbo(likelihood, 1), seeded(1)
    optimizer, losses = torch.optim.Adam(made.parameters(), lr=5e-3), []
    for _ in range(120):
        rows = torch.randint(0, len(x), (64,), generator=generator)
        value = loss(made, (x[rows], torch.randn(64, made.config.codes, generator=generator))).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    means, shown = likelihood.mean(made.decode(made.encode(x)[0])).detach().chunk(2, 1)
    assert sum(losses[-10:]) / 10 < 0.1 * losses[0]
    assert float((means - values).square().mean()) < 0.05 * float(values.var())
    assert float(shown.mean()) == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize(("kind", "windows"), KINDS)
def test_first_weights_come_from_the_generator_and_leave_the_global_state_alone(kind, windows):
    before = torch.random.get_rng_state()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first = network(kind, windows)
        torch.manual_seed(6)
        again = network(kind, windows)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert torch.equal(before, torch.random.get_rng_state())
    bounds = {
        nn.GRU: lambda layer: layer.hidden_size,
        nn.Conv2d: lambda layer: layer.in_channels * 5,
        nn.ConvTranspose2d: lambda layer: layer.out_channels * 5,
    }
    for layer in first.modules():
        if type(layer) in bounds:
            bound = bounds[type(layer)](layer) ** -0.5
            weights = torch.cat([parameter.flatten() for parameter in layer.parameters()])
            assert 0.9 * bound < weights.abs().max().item() <= bound * (1 + 1e-6)


@pytest.mark.parametrize(("kind", "windows"), KINDS)
def test_a_config_survives_json_and_builds_the_same_network(kind, windows):
    first = network(kind, windows, channels=2)
    assert first.config.hidden == HIDDEN[kind]
    again = WindowNetwork.from_config(json.loads(json.dumps(first.to_config())))
    again.load_state_dict(first.state_dict())
    assert again.config == first.config
    x = torch.rand(3, first.config.inputs)
    assert torch.equal(first.decode(first.encode(x)[0]), again.decode(again.encode(x)[0]))


@pytest.mark.parametrize(("kind", "windows"), [("convolution", 1), ("convolution", 7), ("recurrent", 1)])
def test_the_default_networks_are_small(kind, windows):
    """Noise grows with the root of the parameters."""
    assert 7_000 < sum(p.numel() for p in network(kind, windows).parameters()) < 20_000


def test_log_variance_stays_within_its_limit():
    made = network("convolution", 2)
    nn.init.constant_(made.encoder.log_variance.bias, 1e6)
    assert made.encode(torch.zeros(96))[1].max() == LOG_VARIANCE_LIMIT


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"windows": 0, "steps": 24},
        {"windows": 1, "steps": 24, "hidden": []},
        {"windows": 1, "steps": 24, "hidden": [4, 0]},
        {"windows": 1, "steps": 24, "hidden": [4] * 7},
        {"windows": 1, "steps": 24, "kind": "perceptron"},
        {"windows": 1, "steps": 24, "depth": 2},
    ],
)
def test_a_wrong_config_is_a_usage_error(config):
    with pytest.raises(UsageError, match=r"network sizes: .* is not valid; see WindowConfig"):
        WindowNetwork.from_config(config)


def test_what_a_network_of_windows_does_not_take():
    with pytest.raises(UsageError, match="one window a record; choose a convolution"):
        network("recurrent", 2)
    with pytest.raises(UsageError, match="no condition"):
        network("convolution", 2).encode(torch.zeros(1, 96), torch.zeros(1, 2))
    with pytest.raises(UsageError, match="no condition"):
        network("convolution", 2).decode(torch.zeros(1, 8), torch.zeros(1, 2))
