"""The fitted model of preferences: a linear autoencoder that recommends, and a decoder of shares that generates."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_PERSONS = 512  # of a dense block


@dataclass(frozen=True)
class PreferenceModel:
    """What persons like, of a catalogue of m items, k of which are modeled one by one.

    kept [k]: places of these in the catalogue. popularity [m]: released, at least 0. weights [k, k]: by which liked
    items speak for others; zeros where the release was too noisy, and popularity recommends. log_shares [k], loadings
    [k, l]: the decoder, softmax(log_shares + loadings z) with z standard normal, from which a person draws items.
    lengths [bins]: shares of persons who like 1, 2 to 3, 4 to 7, ... items.
    """

    kept: Tensor
    popularity: Tensor
    weights: Tensor
    log_shares: Tensor
    loadings: Tensor
    lengths: Tensor

    @property
    def personal(self) -> bool:
        """Whether what a person likes changes what is recommended."""
        return bool(self.weights.any())

    @property
    def latent(self) -> int:
        """Numbers of a code, l."""
        return self.loadings.shape[1]

    def recommend(self, likes: csr_array) -> Array:
        """A score of every item for every person, higher for what is recommended first: [n, m].

        Items that are not modeled come after those that are, by popularity.
        """
        popular = self.popularity.numpy() / max(float(self.popularity.max()), 1e-300)
        if not self.personal:
            return np.tile(popular, (likes.shape[0], 1))
        kept, weights = self.kept.numpy(), self.weights.double().numpy()
        scores = likes[:, kept] @ weights
        least = scores.min(1, keepdims=True) if len(kept) else np.zeros((likes.shape[0], 1))
        found = popular + (least - 2.0)
        found[:, kept] = scores
        return np.asarray(found)

    def embed(self, likes: csr_array) -> Array:
        """Codes of persons, the posterior mean of z to second order around 0: [n, l]."""
        gradient, spectrum, axes, counts = self._expanded(likes)
        found: Array = gradient @ axes / (1.0 + counts[:, None] * spectrum) @ axes.T
        return found

    def log_likelihood(self, likes: csr_array) -> Array:
        """Log-evidence of the modeled items that each person likes, given how many, to second order around 0: [n]."""
        gradient, spectrum, axes, counts = self._expanded(likes)
        widths = 1.0 + counts[:, None] * spectrum
        plain = likes[:, self.kept.numpy()] @ self.log_shares.numpy()
        found: Array = plain + 0.5 * ((gradient @ axes) ** 2 / widths - np.log(widths)).sum(1)
        return found

    def sample(self, count: int, generator: torch.Generator) -> csr_array:
        """New persons: how many items each likes, then these, drawn without putting back: [count, m]."""
        if count == 0:
            return csr_array((0, len(self.popularity)), dtype=np.int64)
        bins = torch.multinomial(self.lengths, count, replacement=True, generator=generator)
        spread = torch.rand(count, generator=generator, dtype=torch.float64)
        sizes = (2.0**bins * (1.0 + spread)).long().clamp(1, len(self.kept))
        columns = [self._drawn(part, generator) for part in torch.split(sizes, _PERSONS)]
        starts = np.concatenate([[0], np.cumsum(sizes.numpy())])
        places = np.concatenate(columns)
        shape = (count, len(self.popularity))
        found = csr_array((np.ones(len(places), np.int64), places, starts), shape=shape)
        found.sort_indices()
        return found

    def nearest(self, item: int) -> Array:
        """How alike every item is to one, by the cosine of their loadings; -1 for what is not modeled: [m]."""
        found = np.full(len(self.popularity), -1.0)
        places = np.flatnonzero(self.kept.numpy() == item)
        if len(places) and self.latent:
            rows = self.loadings.numpy()
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
            found[self.kept.numpy()] = rows @ rows[places[0]]
        return found

    def state(self) -> dict[str, Tensor]:
        """Everything learned, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def config(self) -> dict[str, Any]:
        """Everything public that `load` needs besides the state."""
        return {}

    @classmethod
    def load(cls, config: dict[str, Any], state: dict[str, Tensor]) -> "PreferenceModel":  # noqa: ARG003
        """Inverse of `config` and `state`. Errors: ValueError for tensors that do not fit together."""
        made = cls(**{f.name: state[f.name] for f in fields(cls)})
        size, known = len(made.kept), len(made.popularity)
        shapes = made.weights.shape == (size, size) and made.loadings.shape[0] == len(made.log_shares) == size
        if not shapes or not size or made.kept.min() < 0 or made.kept.max() >= known:
            raise ValueError("tensors of preferences that do not fit together")
        if len(set(made.kept.tolist())) < size or not all(t.isfinite().all() for t in made.state().values()):
            raise ValueError("preferences that are no numbers, or name an item twice")
        return made

    def _expanded(self, likes: csr_array) -> tuple[Array, Array, Array, Array]:
        """Gradient of the log-likelihood at z = 0 [n, l], its curvature's spectrum and axes a like, and likes [n]."""
        loadings, shares = self.loadings.numpy(), np.exp(self.log_shares.numpy())
        shares = shares / shares.sum()
        chosen = likes[:, self.kept.numpy()]
        counts = np.diff(chosen.tocsr().indptr).astype(np.float64)
        mean = shares @ loadings
        curvature = (loadings * shares[:, None]).T @ loadings - np.outer(mean, mean)
        spectrum, axes = np.linalg.eigh(curvature)
        return chosen @ loadings - counts[:, None] * mean, np.maximum(spectrum, 0.0), axes, counts

    def _drawn(self, sizes: Tensor, generator: torch.Generator) -> Index:
        """Items of some persons, one person after the other: the largest of logits plus Gumbel noise."""
        z = torch.randn(len(sizes), self.latent, generator=generator, dtype=torch.float64)
        logits = self.log_shares + z @ self.loadings.T
        uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
        keys = logits - torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        order = keys.topk(int(sizes.max()), dim=1).indices
        mine = torch.arange(order.shape[1])[None] < sizes[:, None]
        found: Index = self.kept[order[mine]].numpy()
        return found
