"""Likelihoods: how well the logits of a decoder explain a record, and records drawn from them."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from privae.errors import UsageError

VARIANCE = 0.05  # public: of pixels in [0, 1] around their means


@runtime_checkable
class Likelihood(Protocol):
    """A law of records [..., d] given logits [..., d]."""

    @property
    def size(self) -> int:
        """Numbers in a record, d."""
        ...

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """Log-likelihood of each record.  Shapes: logits, x [..., d] -> [...]."""
        ...

    def mean(self, logits: Tensor) -> Tensor:
        """Expected record.  Shapes: [..., d] -> [..., d]."""
        ...

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One record a row of logits.  Shapes: [..., d] -> [..., d]."""
        ...


@dataclass(frozen=True)
class Bernoulli:
    """Independent cells in [0, 1]: black-and-white pixels, or gray ones by their cross-entropy.

    slope_only: for training, where nobody reads the value: `log_prob` is the logits times (record less mean), which
    has the log-likelihood's gradient without the price of its logarithms and exponentials.

    >>> Bernoulli(2).log_prob(torch.zeros(2), torch.tensor([0.0, 1.0]))
    tensor(-1.3863)
    """

    size: int
    slope_only: bool = False

    def log_prob(
        self, logits: Float[Tensor, "*batch d"], x: Float[Tensor, "*batch d"]
    ) -> Float[Tensor, "*batch"]:
        """Sum over the cells of x log p + (1 - x) log(1 - p).  Shapes: [..., d] -> [...]."""
        if self.slope_only:
            return ((x - torch.sigmoid(logits.detach())) * logits).sum(-1)
        return (x * logits - functional.softplus(logits)).sum(-1)

    def mean(self, logits: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Probability of a one in each cell.  Shapes: [..., d] -> [..., d]."""
        return torch.sigmoid(logits)

    def sample(
        self, logits: Float[Tensor, "*batch d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch d"]:
        """Zeros and ones drawn cell by cell.  Shapes: [..., d] -> [..., d]."""
        return torch.bernoulli(torch.sigmoid(logits), generator=generator)


@dataclass(frozen=True)
class Gaussian:
    """Independent numbers of one public variance around means that are the decoder's outputs as they are.

    So a decoder that is a polynomial has means that are one, computable on ciphertexts; a sigmoid is none.

    >>> Gaussian(2, variance=1.0).log_prob(torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor(-2.3379)
    """

    size: int
    variance: float = VARIANCE

    def __post_init__(self) -> None:
        if not 0 < self.variance < math.inf:
            raise UsageError("the variance of a Gaussian likelihood must be a positive number")

    def log_prob(
        self, logits: Float[Tensor, "*batch d"], x: Float[Tensor, "*batch d"]
    ) -> Float[Tensor, "*batch"]:
        """Log-density of the numbers, summed.  Shapes: [..., d] -> [...]."""
        constant = 0.5 * self.size * math.log(2.0 * math.pi * self.variance)
        return -(x - logits).square().sum(-1) / (2.0 * self.variance) - constant

    def mean(self, logits: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The outputs themselves.  Shapes: [..., d] -> [..., d]."""
        return logits

    def sample(
        self, logits: Float[Tensor, "*batch d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch d"]:
        """The means with noise of the variance.  Shapes: [..., d] -> [..., d]."""
        noise = torch.randn(logits.shape, generator=generator, dtype=logits.dtype, device=logits.device)
        return logits + math.sqrt(self.variance) * noise


@dataclass(frozen=True)
class Gappy:
    """Values that may be lacking: m numbers around means, of one public variance, then m marks, 1 where it is known.

    The second half of the logits says how likely a mark is; the value of a gap has no law, and does not count.

    >>> Gappy(2, variance=1.0).log_prob(torch.zeros(2), torch.tensor([9.0, 0.0]))
    tensor(-0.6931)
    """

    size: int
    variance: float = VARIANCE

    def __post_init__(self) -> None:
        if self.size < 2 or self.size % 2:
            raise UsageError("a record with gaps holds one mark a value: an even count of numbers")
        Gaussian(self.size, self.variance)

    def log_prob(
        self, logits: Float[Tensor, "*batch d"], x: Float[Tensor, "*batch d"]
    ) -> Float[Tensor, "*batch"]:
        """Log-density of the known values and log-probability of all marks.  Shapes: [..., 2 m] -> [...]."""
        (means, shown), (values, marks) = logits.chunk(2, -1), x.chunk(2, -1)
        errors = (marks * (values - means).square()).sum(-1) / (2.0 * self.variance)
        constant = 0.5 * math.log(2.0 * math.pi * self.variance) * marks.sum(-1)
        return self._marks.log_prob(shown, marks) - errors - constant

    def mean(self, logits: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Each value's mean if it is known, then the probability that it is.  Shapes: [..., 2 m] -> [..., 2 m]."""
        means, shown = logits.chunk(2, -1)
        return torch.cat((means, self._marks.mean(shown)), -1)

    def sample(
        self, logits: Float[Tensor, "*batch d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch d"]:
        """Values with noise of the variance, 0 in gaps, and marks.  Shapes: [..., 2 m] -> [..., 2 m]."""
        means, shown = logits.chunk(2, -1)
        marks = self._marks.sample(shown, generator)
        return torch.cat(
            (marks * Gaussian(self._marks.size, self.variance).sample(means, generator), marks), -1
        )

    @property
    def _marks(self) -> Bernoulli:
        return Bernoulli(self.size // 2)


@dataclass(frozen=True)
class Categorical:
    """Independent columns, each one-hot in its own block of cells; D cells in m blocks.

    A block of zeros (a value that the schema does not know, or a label that is not given) contributes
    nothing.

    >>> Categorical((2, 3)).log_prob(torch.zeros(5), torch.tensor([1.0, 0, 0, 0, 0])).exp()
    tensor(0.5000)
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise UsageError("every categorical column needs at least one cell; mend the schema")

    @property
    def size(self) -> int:
        """Numbers in a record, D."""
        return sum(self.sizes)

    def log_prob(
        self, logits: Float[Tensor, "*batch D"], x: Float[Tensor, "*batch D"]
    ) -> Float[Tensor, "*batch"]:
        """Log-probability of the filled cells, summed over the columns.  Shapes: [..., D] -> [...]."""
        return (x * self._log_softmax(logits)).sum(-1)

    def mean(self, logits: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Probability of every cell; each block adds up to one.  Shapes: [..., D] -> [..., D]."""
        return self._log_softmax(logits).exp()

    def sample(
        self, logits: Float[Tensor, "*batch D"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch D"]:
        """One one-hot block a column.  Shapes: [..., D] -> [..., D]."""
        cells = self.codes(logits, generator) + self._offsets(logits)
        return torch.zeros_like(logits).scatter(-1, cells, 1.0)

    def codes(
        self, logits: Float[Tensor, "*batch D"], generator: torch.Generator | None = None
    ) -> Int[Tensor, "*batch m"]:
        """One cell a column, drawn by the inverse of the running sum of probabilities.

        Shapes: logits [..., D] -> codes [..., m], each in 0..size-1 of its column.
        """
        # Every block adds up to one, so block j lies between j and j + 1 of the running sum over all cells.
        running = self.mean(logits.double()).cumsum(-1)
        columns = torch.arange(len(self.sizes), device=logits.device, dtype=torch.float64)
        shape = (*logits.shape[:-1], len(self.sizes))
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=logits.device)
        cells = torch.searchsorted(running.contiguous(), columns + uniform, right=True)
        offsets, sizes = self._offsets(logits), torch.tensor(self.sizes, device=logits.device)
        return cells.clamp(offsets, offsets + sizes - 1) - offsets

    def _log_softmax(self, logits: Tensor) -> Tensor:
        block = self._block(logits)
        index = block.expand(logits.shape)
        empty = logits.new_full((*logits.shape[:-1], len(self.sizes)), -torch.inf)
        peak = empty.scatter_reduce(-1, index, logits.detach(), "amax")
        shifted = logits - peak[..., block]
        # Products with the cells' membership add and spread over blocks much faster than index_add does.
        member = functional.one_hot(block, len(self.sizes)).to(logits.dtype)
        return shifted - (shifted.exp() @ member).log() @ member.T

    def _block(self, like: Tensor) -> Tensor:
        sizes = torch.tensor(self.sizes, device=like.device)
        return torch.repeat_interleave(torch.arange(len(self.sizes), device=like.device), sizes)

    def _offsets(self, like: Tensor) -> Tensor:
        sizes = torch.tensor(self.sizes, device=like.device)
        return sizes.cumsum(0) - sizes


def of_pixels(count: int, *, polynomial: bool) -> Bernoulli | Gaussian:
    """The likelihood of gray pixels in [0, 1], whose mean is a sigmoid of logits, or the outputs themselves.

    >>> of_pixels(4, polynomial=True).mean(torch.tensor(0.25))
    tensor(0.2500)
    """
    return Gaussian(count) if polynomial else Bernoulli(count)
