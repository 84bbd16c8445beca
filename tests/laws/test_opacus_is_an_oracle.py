"""Law: the clipped sum is the one that Opacus forms by its hooks, on the layers that both know (float64, 2e-6).

Opacus 1.6 divides by norm + 1e-6, so that the figures agree to about 1e-6 of a norm and no closer.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

from privae.privacy.clipping import Clipping
from privae.privacy.gradients import Loss, Summation, clipped_gradient_sum, supported, trainable

N, CLIP = 7, 2.5


class Tokens(nn.Module):
    """Tokens, added up and judged."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).sum(-2))


class Pictures(nn.Module):
    """Pictures by groups of channels; torch's GroupNorm knows no single record, so one comes as a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.last(torch.relu(self.norm(self.first(x if x.ndim == 4 else x[None]))))
        return out if x.ndim == 4 else out[0]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def words(*shape: int) -> Tensor:
    return torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(2))


def pooled(places: int) -> Loss:
    """Squared distance of a record's output, which has `places` axes, from a constant."""

    def loss(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
        return (model(parts[0]) - 0.3).square().sum(tuple(range(-places, 0)))

    return loss


CASES = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)), (N, 5), 1),
    "linear on sequences": (lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)), (N, 4, 5), 2),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 2, stride=2)),
        (N, 2, 6, 6),
        3,
    ),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 2)), (N, 5), 1),
    "group norm": (Pictures, (N, 2, 5, 5), 3),
    "embedding": (Tokens, (N, 6), 1),
}


def case(name: str) -> tuple[nn.Module, Loss, Tensor]:
    torch.manual_seed(0)
    make, shape, places = CASES[name]
    model = make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.3 * torch.randn_like(parameter)
            )  # norms start at one and zero: that hides errors
    return model, pooled(places), words(*shape) if name == "embedding" else normal(*shape)


def opacus_sum(model: nn.Module, loss: Loss, x: Tensor, clipping: Clipping) -> Tensor:
    """The sum that Opacus' optimizer clips and accumulates, from the gradients of its hooks."""
    optimizers = pytest.importorskip("opacus.optimizers", exc_type=ImportError)
    hooked = pytest.importorskip("opacus.grad_sample", exc_type=ImportError).GradSampleModule(
        copy.deepcopy(model), loss_reduction="sum"
    )
    count = len(trainable(model))
    flat = clipping.kind == "flat"
    form = optimizers.DPOptimizer if flat else optimizers.DPPerLayerOptimizer
    optimizer = form(
        torch.optim.SGD(hooked.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=clipping.clip_norm if flat else [clipping.clip_norm / count**0.5] * count,
        expected_batch_size=1,
    )
    loss(hooked, (x,)).sum().backward()
    optimizer.clip_and_accumulate()
    return torch.cat([p.summed_grad.flatten() for p in hooked.parameters()])


@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["flat", "per layer"])
@pytest.mark.parametrize("name", list(CASES))
def test_the_clipped_sum_is_that_of_opacus(name, kind):
    model, loss, x = case(name)
    clipping = Clipping(CLIP, kind)
    theirs = opacus_sum(model, loss, x, clipping)
    summation = Summation(supported(model, loss, (x,)), "proved", 4)
    ours = clipped_gradient_sum(model, loss, (x,), clipping, summation)
    assert float((ours - theirs).norm()) <= 2e-6 * float(theirs.norm())


@pytest.mark.parametrize("name", list(CASES))
def test_the_clip_norm_lies_among_the_norms_so_that_the_law_can_fail(name):
    model, loss, x = case(name)
    seen = []
    clipped_gradient_sum(model, loss, (x,), CLIP, Summation("vmap", "proved", N), seen.append)
    norms = torch.cat(seen).sum(1).sqrt()
    assert (norms > 1.05 * CLIP).any()
