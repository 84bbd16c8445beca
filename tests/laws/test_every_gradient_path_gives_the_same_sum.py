"""Law: by rule, by vmap and one record at a time, the clipped gradient sum is the same (float64, 1e-8)."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from privae.models.elbo import elbo
from privae.models.likelihoods import Categorical
from privae.models.networks import Network, NetworkConfig
from privae.privacy.gradients import (
    Loss,
    Summation,
    clipped_gradient_sum,
    refuse_mixing,
    supported,
    trainable,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(1))


def pooled(places: int) -> Loss:
    """Squared distance of a record's output, which has `places` axes, from a constant."""

    def loss(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
        return (model(*parts) - 0.3).square().sum(tuple(range(-places, 0)))

    return loss


class Twice(nn.Module):
    """One layer called twice in a forward pass, once on a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.tanh(self.linear(x)))


class Mixed(nn.Module):
    """Called on a sequence and on its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.norm(self.linear(x)))
        return self.linear(rows.sum(-2)) + self.norm(rows.mean(-2))


class Tokens(nn.Module):
    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(5, 3, padding_idx=padding), nn.Linear(3, 2)

    def forward(self, places: Tensor) -> Tensor:
        return self.out(torch.tanh(self.table(places))) + self.table(places)[..., :2]


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Linear(2 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x).tanh()
        hidden = self.norm(hidden) if hidden.ndim == 4 else self.norm(hidden.unsqueeze(0)).squeeze(0)
        return self.out(hidden.flatten(-3))


def partly_frozen(train_weight: bool) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.LayerNorm(3))
    model[0].weight.requires_grad_(train_weight)
    model[2].bias.requires_grad_(not train_weight)
    model[2].weight.requires_grad_(train_weight)
    model[3].weight.requires_grad_(not train_weight)
    model[3].bias.requires_grad_(train_weight)
    return model


def vae_loss(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    assert isinstance(model, Network)
    return -elbo(model, Categorical((2, 3)), *parts, beta=0.5)


@dataclass(frozen=True)
class Case:
    name: str
    model: nn.Module
    loss: Loss
    parts: tuple[Tensor, ...]
    path: str = "by rule"


N = 7
CASES = [
    Case("linear", nn.Linear(4, 3), pooled(1), (normal(N, 4),)),
    Case("no bias", nn.Linear(4, 3, bias=False), pooled(1), (normal(N, 4),)),
    Case("deep", nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 3)), pooled(1), (normal(N, 4),)),
    Case(
        "sequence", nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)), pooled(2), (normal(N, 5, 4),)
    ),
    Case("grid of places", nn.Linear(4, 3), pooled(3), (normal(N, 2, 3, 4),)),
    Case("called twice", Twice(), pooled(1), (normal(N, 4),)),
    Case("called twice on sequences", Twice(), pooled(2), (normal(N, 3, 4),)),
    Case("sequence and record", Mixed(), pooled(1), (normal(N, 3, 4),)),
    Case("layer norm", nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)), pooled(1), (normal(N, 4),)),
    Case("layer norm without bias", nn.LayerNorm(4, bias=False), pooled(2), (normal(N, 3, 4),)),
    Case("frozen weights", partly_frozen(False), pooled(1), (normal(N, 4),)),
    Case("frozen biases", partly_frozen(True), pooled(1), (normal(N, 4),)),
    Case("frozen on sequences", partly_frozen(True), pooled(2), (normal(N, 3, 4),)),
    Case("frozen weights on sequences", partly_frozen(False), pooled(2), (normal(N, 3, 4),)),
    Case("tokens", Tokens(), pooled(2), (tokens(N, 6),)),
    Case("one token", Tokens(), pooled(1), (tokens(N),)),
    Case("padded tokens", Tokens(padding=0), pooled(2), (tokens(N, 6),)),
    Case(
        "the VAE",
        Network(NetworkConfig(inputs=5, latent=2, condition=2, hidden=(6,), layer_norm=True)),
        vae_loss,
        (
            torch.eye(5, dtype=torch.float64)[tokens(N)],
            torch.eye(2, dtype=torch.float64)[tokens(N) % 2],
            normal(N, 2),
        ),
    ),
    Case("convolution", Image(), pooled(1), (normal(N, 1, 5, 5),), "vmap"),
    Case("transposed", nn.ConvTranspose2d(1, 2, 2), pooled(3), (normal(N, 1, 3, 3),), "vmap"),
]


def one_at_a_time(case: Case, parts: tuple[Tensor, ...], clip_norm: float) -> Tensor:
    parameters = trainable(case.model)
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for record in range(len(parts[0])):
        loss = case.loss(case.model, tuple(part[record : record + 1] for part in parts)).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        pairs = zip(found, parameters, strict=True)
        flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        total += flat * min(1.0, clip_norm / float(flat.norm()))
    return total


def middle_norm(case: Case) -> float:
    """A clip norm that bites for some records only."""
    norms = [
        float(one_at_a_time(case, tuple(p[i : i + 1] for p in case.parts), torch.inf).norm())
        for i in range(N)
    ]
    return sorted(norms)[N // 2]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_paths_agree_for_every_batch_size_and_every_partition(case):
    case.model.double()
    clip_norm = middle_norm(case)
    assert supported(case.model, case.loss, case.parts) == case.path
    refuse_mixing(case.model, case.loss, case.parts)
    for n in (0, 1, N):
        parts = tuple(part[:n] for part in case.parts)
        expected = one_at_a_time(case, parts, clip_norm)
        for path in {"vmap", case.path}:
            for micro_batch in (3, 16):
                total = clipped_gradient_sum(
                    case.model, case.loss, parts, clip_norm, Summation(path, "proved", micro_batch)
                )
                assert float((total - expected).abs().max()) <= 1e-8 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_a_clip_norm_it_is_the_gradient_of_the_sum(case):
    case.model.double()
    total = clipped_gradient_sum(case.model, case.loss, case.parts, torch.inf, Summation(case.path))
    found = torch.autograd.grad(case.loss(case.model, case.parts).sum(), trainable(case.model))
    assert torch.allclose(total, torch.cat([g.flatten() for g in found]), rtol=1e-8, atol=1e-8)


def test_a_record_gets_the_same_bits_wherever_it_stands_in_a_block():
    """The assumption on the arithmetic library that the bound rests on, observed on this machine."""
    model, loss = nn.Sequential(nn.Linear(33, 17), nn.ReLU(), nn.Linear(17, 3)), pooled(1)
    x = normal(48, 33).float()
    alone = Summation("by rule", "proved", 48)
    for order in (torch.arange(48).flip(0), torch.randperm(48, generator=torch.Generator().manual_seed(2))):
        hidden, moved = model(x), model(x[order])
        assert torch.equal(hidden[order], moved)
    one = clipped_gradient_sum(model, loss, (x[5:6],), 1.0, alone)
    rest = torch.cat((x[:5], x[6:]))
    difference = clipped_gradient_sum(model, loss, (x,), 1.0, alone) - clipped_gradient_sum(
        model, loss, (rest,), 1.0, alone
    )
    assert float((difference - one).abs().max()) < 1e-13
