"""The five models that every engine trains in benchmarks/engine.py, their records and their losses.

mlp: 784-400-(32, 32)-400-784, Bernoulli. tab: 100-256-256-(32, 32)-256-256-100, Gaussian. conv: 1x28x28, 32 and
64 channels k4 s2, linear, and the transposed way back. gru: windows of 64 steps of 8 numbers, a GRU of 64 each way.
items: multinomial VAE of 20,000 items, 600-(200, 200)-600 (Liang et al., arXiv:1802.05814).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

ITEMS, ITEMS_HIDDEN = 20_000, 600
_STEPS, _CHANNELS, _HIDDEN = 64, 8, 64  # of the GRU's windows


@dataclass(frozen=True)
class Kind:
    """Shape of a record, size of its code, and how a reconstruction is scored."""

    shape: tuple[int, ...]
    latent: int
    likelihood: str


KINDS = {
    "mlp": Kind((784,), 32, "bernoulli"),
    "tab": Kind((100,), 32, "gaussian"),
    "conv": Kind((1, 28, 28), 32, "bernoulli"),
    "gru": Kind((_STEPS, _CHANNELS), 16, "gaussian"),
    "items": Kind((ITEMS,), 200, "multinomial"),
}


class Windows(nn.Module):
    """The last state of a GRU over a window, [*n, steps, channels] -> [*n, hidden]."""

    def __init__(self, gru: Callable[..., Any]) -> None:
        super().__init__()
        self.gru = gru(_CHANNELS, _HIDDEN, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        last: Tensor = self.gru(x)[0][..., -1, :]
        return last


class Unrolled(nn.Module):
    """A code repeated at every step of a GRU, [*n, latent] -> [*n, steps, channels]."""

    def __init__(self, gru: Callable[..., Any], latent: int) -> None:
        super().__init__()
        self.gru = gru(latent, _HIDDEN, batch_first=True)
        self.out = nn.Linear(_HIDDEN, _CHANNELS)

    def forward(self, z: Tensor) -> Tensor:
        """See the class."""
        repeated = z.unsqueeze(-2).expand(*z.shape[:-1], _STEPS, z.shape[-1])
        result: Tensor = self.out(self.gru(repeated)[0])
        return result


class Autoencoder(nn.Module):
    """Encoder, two heads, decoder: (x, normal numbers) -> reconstruction, mean, log-variance. One record or many."""

    def __init__(self, name: str, gru: Callable[..., Any]) -> None:
        super().__init__()
        latent = KINDS[name].latent
        self.encoder, width, self.decoder = _parts(name, latent, gru)
        self.mean = nn.Linear(width, latent)
        self.log_variance = nn.Linear(width, latent)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        return self.decoder(mean + torch.exp(0.5 * log_variance) * noise), mean, log_variance


def _perceptron(*sizes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU()]
    return layers


def _parts(name: str, latent: int, gru: Callable[..., Any]) -> tuple[nn.Module, int, nn.Module]:
    """Encoder, width of its output, decoder."""
    if name == "conv":
        down = [nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(-3)]
        up = [nn.Linear(latent, 3136), nn.ReLU(), nn.Unflatten(-1, (64, 7, 7))]
        up += [nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1)]
        return nn.Sequential(*down), 3136, nn.Sequential(*up)
    if name == "gru":
        return Windows(gru), _HIDDEN, Unrolled(gru, latent)
    sizes = {"mlp": (784, 400), "tab": (100, 256, 256), "items": (ITEMS, ITEMS_HIDDEN)}[name]
    back = _perceptron(latent, *sizes[::-1])[:-1]
    return nn.Sequential(*_perceptron(*sizes)), sizes[-1], nn.Sequential(*back)


def model_of(name: str, gru: Callable[..., Any] = nn.GRU) -> Autoencoder:
    """The model with its first weights from a fixed seed; gru: the class that stands for nn.GRU."""
    torch.manual_seed(0)
    return Autoencoder(name, gru)


def negative_elbo(name: str, output: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    """Minus the ELBO of each record, [*n]."""
    kind, (reconstruction, mean, log_variance) = KINDS[name], output
    event = tuple(range(-len(kind.shape), 0))
    if kind.likelihood == "bernoulli":
        lost = functional.binary_cross_entropy_with_logits(reconstruction, x, reduction="none").sum(event)
    elif kind.likelihood == "gaussian":
        lost = (reconstruction - x).square().sum(event)
    else:
        lost = -(x * functional.log_softmax(reconstruction, -1)).sum(event)
    return lost - 0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)


def records_of(name: str, count: int) -> Tensor:
    """Made-up records from a fixed seed, [count, *shape]."""
    generator = torch.Generator().manual_seed(0)
    kind = KINDS[name]
    if kind.likelihood == "gaussian":
        return torch.randn(count, *kind.shape, generator=generator)
    share = 0.002 if name == "items" else 0.2
    return (torch.rand(count, *kind.shape, generator=generator) < share).float()


def product_flops(name: str, batch: int) -> float:
    """Floating-point operations of the matrix products and convolutions of one plain step, counted by torch."""
    model = model_of(name)
    x = records_of(name, batch)
    with FlopCounterMode(display=False) as counter:
        output = model(x, torch.zeros(batch, KINDS[name].latent))
        torch.autograd.backward(negative_elbo(name, output, x).sum())
    return float(counter.get_total_flops())
