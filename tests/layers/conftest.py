"""The gradient of each record alone, by autograd, and what terms and clipped sums must be beside it."""

import pytest
import torch

from privae.layers.capture import capture
from privae.layers.term import Weights
from privae.privacy.gradients import Summation, clipped_gradient_sum, supported


def _waves(model, parts):
    found = model(*parts).flatten(1)
    return (found * (1 + 0.3 * torch.arange(found.shape[1]).sin())).square().sum(1)


def _close(found, expected, least=0.0):
    return bool((found - expected).abs().max() <= 1e-10 * expected.abs().max() + least)


def _alone(model, parts, loss):
    """Gradients of each record by autograd, by parameter: [n, *shape] each."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    records = [tuple(part[i : i + 1] for part in parts) for i in range(len(parts[0]))]
    found = [torch.autograd.grad(loss(model, record).sum(), parameters) for record in records]
    return dict(zip(parameters, (torch.stack(rows) for rows in zip(*found, strict=True)), strict=True))


def _check(model, *parts, loss=_waves, least=0.0):
    terms, expected = capture(model, loss, parts), _alone(model, parts, loss)
    assert set(terms) == set(expected)
    factors = torch.linspace(0.5, 2.0, len(parts[0]), dtype=torch.float64)
    for parameter, rows in expected.items():
        total = torch.zeros_like(parameter, requires_grad=False)
        assert _close(terms[parameter].squared_norms(), rows.flatten(1).square().sum(1), least)
        terms[parameter].add_to(total, Weights(factors))
        assert _close(total, torch.einsum("n,n...->...", factors, rows))
        assert _close(terms[parameter].rows(slice(len(rows) // 2, None)), rows[len(rows) // 2 :])
    return [terms[parameter] for parameter in expected]


def _check_sum(model, *parts, loss=_waves):
    assert supported(model, loss, parts) == "by rule"
    rows = torch.cat([rows.flatten(1) for rows in _alone(model, parts, loss).values()], dim=1)
    clip = float(rows.norm(dim=1).median())
    expected = (rows * (clip / rows.norm(dim=1, keepdim=True)).clamp(max=1.0)).sum(0)
    for micro_batch in (1, 2, 5):
        summation = Summation(path="by rule", micro_batch=micro_batch)
        assert _close(clipped_gradient_sum(model, loss, parts, clip, summation), expected)


@pytest.fixture(scope="session")
def waves():
    """A loss of (model, parts): squares of the outputs, no two with the same weight."""
    return _waves


@pytest.fixture(scope="session")
def close():
    """Whether two tensors are the same, to ten digits of the largest number."""
    return _close


@pytest.fixture(scope="session")
def check():
    """A function of (model, *parts, loss=waves): terms give norms, sums and rows of each record; returns them.

    least: what the squared norm of zeros may be said to be.
    """
    return _check


@pytest.fixture(scope="session")
def check_sum():
    """A function of (model, *parts, loss=waves): sums by rule are those of records clipped one by one."""
    return _check_sum
