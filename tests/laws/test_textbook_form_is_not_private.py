"""Law: forms often written in articles have no bounded sensitivity; the clipped sum has.

(a) L + lambda |grad L + N(0, s^2)|^2 as the objective of ordinary training: the first term's gradient has no
bound, and the second makes it grow faster. (b) Noise added to gradients that were never clipped.
"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from privae.privacy.gradients import Summation, clipped_gradient_sum

CLIP, LAMBDA = 1.0, 0.1


def squares(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    return (model(parts[0]) - 1).square().sum(-1)


def model() -> nn.Linear:
    layer = nn.Linear(2, 1).double()
    with torch.no_grad():
        layer.weight.fill_(0.5), layer.bias.fill_(0.1)
    return layer


def textbook_step(layer: nn.Module, x: Tensor) -> Tensor:
    """Gradient of L + lambda |grad L + noise|^2, with the same noise for every data set."""
    parameters = list(layer.parameters())
    loss = squares(layer, (x,)).sum()
    first = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(0), dtype=first.dtype)
    whole = loss + LAMBDA * (first + noise).square().sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(whole, parameters)])


def unclipped_step(layer: nn.Module, x: Tensor) -> Tensor:
    total = clipped_gradient_sum(layer, squares, (x,), torch.inf)
    return total + torch.randn(total.shape, generator=torch.Generator().manual_seed(0), dtype=total.dtype)


def clipped_step(layer: nn.Module, x: Tensor) -> Tensor:
    return clipped_gradient_sum(layer, squares, (x,), CLIP, Summation("by rule", "proved", 8))


def move(step, size: float) -> float:
    """How far one record of this size moves a step over the same other records."""
    others, record = (
        torch.full((4, 2), 0.3, dtype=torch.float64),
        torch.full((1, 2), size, dtype=torch.float64),
    )
    return float((step(model(), torch.cat((others, record))) - step(model(), others)).norm())


@pytest.mark.parametrize("step", [textbook_step, unclipped_step])
def test_one_record_moves_the_textbook_forms_without_limit(step):
    moves = [move(step, 10.0**k) for k in range(6)]
    assert all(later > 50 * earlier for earlier, later in pairwise(moves))
    assert moves[-1] > 1e9


def test_the_same_record_moves_the_clipped_sum_by_at_most_the_clip_norm():
    assert all(move(clipped_step, 10.0**k) <= CLIP * (1 + 1e-9) for k in range(6))
