"""Priors over latents: class-conditional Gaussians (images) and a discrete latent over product decoders (tables)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

_ROWS = 4096  # rows drawn or scored at once


def draw_classes(weights: Float[Tensor, "c"], count: int, generator: Generator) -> Int[Tensor, "n"]:
    """Classes by their weights: [c] -> [count]; torch draws no empty sample, so of none one is thrown away."""
    return torch.multinomial(weights, max(count, 1), replacement=True, generator=generator)[:count]


@dataclass(frozen=True)
class GaussianClasses:
    """p(y) N(z; mean_y, covariance_y): the released class-conditional latent prior.

    Shapes: weights [c] (sum 1), means [c, k], factors [c, k, k] (lower Cholesky), all float64.
    """

    weights: Float[Tensor, "c"]
    means: Float[Tensor, "c k"]
    factors: Float[Tensor, "c k k"]

    def sample(self, count: int, generator: Generator) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n"]]:
        """Latents [count, k] and their classes [count]."""
        classes = draw_classes(self.weights, count, generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        latents = self.means[classes].clone()
        for c in range(len(self.weights)):
            latents[classes == c] += noise[classes == c] @ self.factors[c].T
        return latents, classes

    def log_joint(self, latents: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """Log p(y) + log N(z; mean_y, covariance_y): [n, k] -> [n, c]."""
        size = latents.shape[1]
        centered = latents[None] - self.means[:, None]  # [c, n, k]
        white = torch.linalg.solve_triangular(self.factors, centered.mT, upper=False)
        log_det = torch.diagonal(self.factors, dim1=1, dim2=2).log().sum(1)
        log_normal = -0.5 * white.square().sum(1) - (log_det + 0.5 * size * math.log(2 * math.pi))[:, None]
        joint: Tensor = (log_normal + self.weights.log()[:, None]).T
        return joint


@dataclass(frozen=True)
class ProductMixture:
    """p(y) 1/K sum_k prod_j p(x_j | k, y): a VAE's decoder under a uniform discrete latent of K values a class.

    Shapes: weights [c] (sum 1), log_cells [c, K, cells] (log-probabilities, normalised inside every column's block),
    sizes [m] (cells of each column). The exact posterior over k is a softmax of one linear map of the one-hot
    record, so the evidence below is an evidence lower bound with gap zero.
    """

    weights: Float[Tensor, "c"]
    log_cells: Float[Tensor, "c K d"]
    sizes: Int[Tensor, "m"]

    def sample(self, count: int, generator: Generator) -> tuple[Int[Tensor, "n m"], Int[Tensor, "n"]]:
        """Codes [count, m] and classes [count]."""
        classes = draw_classes(self.weights, count, generator)
        chosen = torch.randint(self.log_cells.shape[1], (count,), generator=generator)
        columns = torch.arange(len(self.sizes))
        starts = self.sizes.cumsum(0) - self.sizes
        # each block's cumulative distribution, lifted by its column number: one sorted row serves all columns
        steps = self._steps() + columns.repeat_interleave(self.sizes)
        codes = torch.empty(count, len(self.sizes), dtype=torch.int64)
        for rows in torch.split(torch.arange(count), _ROWS):
            level = columns + torch.rand(len(rows), len(columns), generator=generator, dtype=torch.float64)
            found = torch.searchsorted(steps[classes[rows], chosen[rows]], level, right=True) - starts
            codes[rows] = torch.minimum(found.clamp(min=0), self.sizes - 1)
        return codes, classes

    def log_joint(self, onehot: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Log p(y, x) of one-hot records [n, cells] (a block of zeros is left out of the product): [n, c]."""
        parts = [
            torch.logsumexp(rows @ cells.T, 1)
            for rows in torch.split(onehot.to(self.log_cells.dtype), _ROWS)
            for cells in self.log_cells
        ]
        c = len(self.weights)
        log_evidence = (
            torch.stack([torch.cat(parts[i::c]) for i in range(c)], 1) if parts else onehot.new_zeros(0, c)
        )
        return log_evidence - math.log(self.log_cells.shape[1]) + self.weights.log()

    def _steps(self) -> Float[Tensor, "c K d"]:
        cells = self.log_cells.double().exp()
        total = cells.cumsum(2)
        ends = self.sizes.cumsum(0) - 1
        before = torch.nn.functional.pad(total[:, :, ends[:-1]], (1, 0))
        steps = total - before.repeat_interleave(self.sizes, 2)
        return steps / steps[:, :, ends].repeat_interleave(self.sizes, 2)
