"""A finite mixture of product distributions fitted to released pair tables, stopped at the known noise floor.

Post-processing only: it reads the released tables and the standard deviation of their noise.
Source: the projection of noisy marginals on a family of distributions is known from RAP (arXiv:2103.06641) and
GEM (arXiv:2106.07153); the tree start and the stop at the known noise floor are measured in benchmarks/main.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privae.models.priors import ProductMixture
from privae.sums.tree import Margins, fit_tree, offsets_of, sample_tree
from privae.training.watch import Watch

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class MixtureSettings:
    """Public constants of the fit; defaults were tuned on a part of Adult's training rows (benchmarks/main.py)."""

    components: int = 1000
    steps: int = 400
    rate: float = 0.05
    tilt: float = 3.0  # how strongly a component starts at its tree sample
    spread: float = 0.2
    floor: float = 1.0  # stop when loss / noise floor reaches this
    tree_from: float = 300.0  # released rows over the noise of a cell, from which the tree starts the fit


@dataclass(frozen=True)
class MixtureFit:
    """The fitted model with its diagnostics: the last loss over the noise floor (inf without noise), steps taken."""

    model: ProductMixture
    loss_over_floor: float
    steps: int


def fit_mixture(
    tables: Array, margins: Margins, sizes: Index, deviation: float, settings: MixtureSettings, watch: Watch
) -> MixtureFit:
    """Least-squares fit of the mixture's pair tables to the released ones.

    Shapes: tables [c, cells, cells] symmetric with zero diagonal blocks, in counts; deviation is the noise of one
    cell, in counts. The loss is the squared distance over the upper block triangle; its expectation at the truth
    is (number of released cells) * deviation^2: below that the fit would learn noise, so it stops there.
    """
    total = margins.counts.sum()
    owner = np.repeat(np.arange(len(sizes)), sizes)
    upper = torch.tensor(owner[:, None] < owner[None], dtype=torch.float32)
    target = torch.tensor(tables / total, dtype=torch.float32) * upper
    shares = torch.tensor(margins.counts / total, dtype=torch.float32)
    blocks = torch.nn.functional.one_hot(torch.tensor(owner), len(sizes)).float()
    floor = (deviation / total) ** 2 * len(margins.counts) * float(upper.sum())
    logits = _start(tables, margins, sizes, deviation, settings).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=settings.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    watch.phase("fitting the mixture to the released tables", settings.steps)
    ratio, steps = float("inf"), 0
    while steps < settings.steps:
        cells = _normalised(logits, blocks)
        joint = torch.bmm(cells.mT, cells) * (shares / cells.shape[1])[:, None, None]
        loss = ((joint - target) * upper).square().sum()
        ratio = loss.item() / floor if floor > 0 else float("inf")
        if ratio <= settings.floor:
            break
        optimizer.zero_grad()
        torch.autograd.backward(loss / (floor if floor > 0 else 1e-4))
        optimizer.step()
        schedule.step()
        steps += 1
        watch.advance(1)
    with torch.no_grad():
        log_cells = _normalised(logits, blocks).clamp_min(1e-12).log()
    weights = torch.tensor(margins.counts / total, dtype=torch.float64)
    return MixtureFit(ProductMixture(weights, log_cells, torch.tensor(sizes)), ratio, steps)


def _normalised(logits: Tensor, blocks: Tensor) -> Tensor:
    """Softmax inside every column's block: [c, K, cells] -> [c, K, cells]."""
    weights = logits.clamp(-20, 20).exp()
    return weights / ((weights @ blocks) @ blocks.T)


def _start(
    tables: Array, margins: Margins, sizes: Index, deviation: float, settings: MixtureSettings
) -> Tensor:
    """Logits [c, K, cells]: at samples of each class's tree where the signal carries it, else near independence."""
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    bias = torch.tensor(margins.one, dtype=torch.float32).clamp_min(1e-5).log()
    shape = (len(bias), settings.components, bias.shape[1])
    if margins.counts.sum() < settings.tree_from * deviation:
        return 0.7 * bias[:, None] + 0.5 * torch.randn(shape, generator=generator)
    logits = 0.7 * bias[:, None] + settings.spread * torch.randn(shape, generator=generator)
    rows, starts = torch.arange(settings.components)[:, None], torch.tensor(offsets_of(sizes)[:-1])
    for c, count in enumerate(margins.counts):
        tree = fit_tree(tables[c] / count, margins.one[c], sizes, deviation / float(count))
        codes = torch.tensor(sample_tree(tree, settings.components, rng).astype(np.int64))
        logits[c, rows, codes + starts] += settings.tilt
    return logits
