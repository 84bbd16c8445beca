"""Fitted models of preferences: a linear autoencoder with a decoder of shares; and a multinomial VAE by gradients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from privae.models.latent import LatentModel
from privae.models.networks import Network

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_PERSONS = 512  # of a dense block
_LARGEST = 1e4  # of a log-share or a loading

BINS = 24
"""Of how many items persons like: 1, 2 to 3, 4 to 7, ..."""
CODES = 50
"""Most numbers of a code that follows from a Gram matrix."""


@dataclass(frozen=True)
class PreferenceModel:
    """What persons like, of a catalogue of m items, k of which are modeled one by one.

    kept [k]: places of these in the catalogue. popularity [m]: released, at least 0, those of `kept` above all others.
    weights [k, k]: by which liked items speak for others; zeros where the release was too noisy, and popularity
    recommends. log_shares [k], loadings [k, l]: the decoder, softmax(log_shares + loadings z) with z standard normal,
    from which a person draws items. lengths [bins]: shares of persons who like 1, 2 to 3, 4 to 7, ... items.
    within [1]: how far up in these bins the mean person lies, 0 to 1.
    """

    kept: Tensor
    popularity: Tensor
    weights: Tensor
    log_shares: Tensor
    loadings: Tensor
    lengths: Tensor
    within: Tensor

    @property
    def personal(self) -> bool:
        """Whether what a person likes changes what is recommended."""
        return bool(self.weights.any())

    @property
    def traits(self) -> Tensor:
        """What stands for each modeled item where items are compared: for which others it speaks, [k, k]."""
        return self.weights.double()

    @property
    def known(self) -> int:
        """Items of the catalogue, m."""
        return len(self.popularity)

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
        found = np.asarray(popular + (scores.min(1, keepdims=True) - 2.0))
        found[:, kept] = scores
        found[np.diff(likes[:, kept].tocsr().indptr) == 0] = popular  # nothing speaks for anything
        return found

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

        def logits(z: Tensor) -> Tensor:
            return self.log_shares + z @ self.loadings.T

        return _drawn(logits, (count, self.latent), self, generator)

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
        if not _sound(made):
            raise ValueError("preferences of shapes or numbers that no fit gives")
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


@dataclass(frozen=True)
class PreferenceNetwork:
    """A multinomial VAE: a person's likes are drawn from the shares that a network decodes.

    vae: of records [n, m] of ones, one block of m cells. lengths: as of `PreferenceModel`.
    Source: Liang et al. 2018, arXiv:1802.05814.
    """

    vae: LatentModel
    lengths: Tensor

    @property
    def personal(self) -> bool:
        """Whether what a person likes changes what is recommended."""
        return True

    @property
    def traits(self) -> Tensor:
        """What stands for each item where items are compared."""
        return self.loadings

    @property
    def known(self) -> int:
        """Items of the catalogue, m."""
        return self.vae.likelihood.size

    @property
    def latent(self) -> int:
        """Numbers of a code."""
        return self.vae.latent

    @property
    def within(self) -> Tensor:
        """As of `PreferenceModel`: in the middle."""
        return torch.tensor(0.5, dtype=torch.float64)

    @property
    def kept(self) -> Tensor:
        """All items: each is modeled."""
        return torch.arange(self.known)

    @property
    def loadings(self) -> Tensor:
        """The weights of the decoder's last layer, one row an item: [m, h]."""
        return self._network.decoder.logits.weight.detach().double()

    def recommend(self, likes: csr_array) -> Array:
        """A score of every item for every person, the logits of the decoded posterior mean: [n, m]."""
        with torch.no_grad():
            parts = [self._network.decode(self._network.encode(x, None)[0], None) for x in _dense(likes)]
        return np.concatenate([np.zeros((0, self.known)), *(part.double().numpy() for part in parts)])

    def embed(self, likes: csr_array) -> Array:
        """Codes of persons, posterior means: [n, k]."""
        parts = [self.vae.embed(x, _unlabelled(x)) for x in _dense(likes)]
        return np.concatenate([np.zeros((0, self.latent)), *(part.double().numpy() for part in parts)])

    def log_likelihood(self, likes: csr_array) -> Array:
        """Evidence lower bound of what every person likes, given how many: [n]."""
        parts = [self.vae.log_likelihood(x, _unlabelled(x)) for x in _dense(likes)]
        return np.concatenate([np.zeros(0), *(part.numpy() for part in parts)])

    def sample(self, count: int, generator: torch.Generator) -> csr_array:
        """New persons: how many items each likes, then these, drawn without putting back: [count, m]."""

        def logits(z: Tensor) -> Tensor:
            with torch.no_grad():
                return self._network.decode(z.float(), None).double()

        return _drawn(logits, (count, self.latent), self, generator)

    def state(self) -> dict[str, Tensor]:
        """Everything learned, by name."""
        return self.vae.state() | {"lengths": self.lengths}

    def config(self) -> dict[str, Any]:
        """Everything public that `load` needs besides the state."""
        return self.vae.config()

    @classmethod
    def load(cls, config: dict[str, Any], state: dict[str, Tensor]) -> "PreferenceNetwork":
        """Inverse of `config` and `state`. Errors: ValueError for another likelihood than one block of items."""
        vae = LatentModel.load(config, state, None)
        if config["blocks"] != [vae.likelihood.size] or not isinstance(vae.network, Network):
            raise ValueError("a network of other records than preferences")
        if not _lengths(state["lengths"]) or not all(t.isfinite().all() for t in state.values()):
            raise ValueError("preferences of shapes or numbers that no fit gives")
        return cls(vae, state["lengths"])

    @property
    def _network(self) -> Network:
        assert isinstance(self.vae.network, Network)
        return self.vae.network


@runtime_checkable
class Preferences(Protocol):
    """What both models of preferences can do; see `PreferenceModel`."""

    @property
    def kept(self) -> Tensor:
        """Places of the items that are modeled one by one: [k]."""
        ...

    @property
    def lengths(self) -> Tensor:
        """Shares of persons who like 1, 2 to 3, 4 to 7, ... items: [bins]."""
        ...

    @property
    def within(self) -> Tensor:
        """How far up in these bins the mean person lies, 0 to 1."""
        ...

    @property
    def traits(self) -> Tensor:
        """What stands for each modeled item where items are compared: [k, l]."""
        ...

    @property
    def known(self) -> int:
        """Items of the catalogue, m."""
        ...


def _sound(model: PreferenceModel) -> bool:
    """Whether all parts fit together, and what is recommended, drawn and scored will be finite numbers."""
    kept, size = model.kept, len(model.kept)
    real = (model.popularity, model.log_shares, model.loadings, model.within)
    return (
        (kept.dtype, kept.ndim) == (torch.int64, 1)
        and all(part.dtype == torch.float64 for part in real)
        and (model.weights.dtype, model.weights.shape) == (torch.float32, (size, size))
        and size > 0
        and model.popularity.ndim == 1
        and model.log_shares.shape == (size,)
        and model.loadings.ndim == 2
        and model.loadings.shape[0] == size
        and model.loadings.shape[1] <= CODES
        and model.within.numel() == 1
        and _lengths(model.lengths)
        and all(bool(part.isfinite().all()) for part in model.state().values())
        and bool(kept.min() >= 0 and kept.max() < model.known and len(set(kept.tolist())) == size)
        and bool((model.popularity >= 0).all() and model.log_shares.abs().max() < _LARGEST)
        and bool((model.loadings.abs() < _LARGEST).all())
    )


def _lengths(lengths: Tensor) -> bool:
    """Whether these are shares of persons by how much they like."""
    return (
        (lengths.dtype, lengths.ndim) == (torch.float64, 1)
        and 0 < len(lengths) <= BINS
        and bool(lengths.isfinite().all() and (lengths >= 0).all() and lengths.sum() > 0)
    )


def nearest(model: Preferences, item: int) -> Array:
    """How alike every item is to one, by the cosine of what stands for them; NaN for what is not modeled: [m]."""
    found, kept = np.full(model.known, np.nan), model.kept.numpy()
    places = np.flatnonzero(kept == item)
    if len(places):
        rows = model.traits.numpy()
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
        found[kept] = rows @ rows[places[0]]
    return found


def _drawn(
    logits: Callable[[Tensor], Tensor], shape: tuple[int, int], model: Preferences, generator: torch.Generator
) -> csr_array:
    """Persons from codes z [n, k], and logits of the modeled items: the largest of these plus Gumbel noise."""
    count, kept, columns = shape[0], model.kept, []
    if count == 0:
        return csr_array((0, model.known), dtype=np.int64)
    bins = torch.multinomial(model.lengths, count, replacement=True, generator=generator)
    spread = torch.rand(count, generator=generator, dtype=torch.float64)
    mean = float(model.within.clamp(0.02, 0.98))  # of u^(1 / mean - 1), u uniform
    sizes = (2.0**bins * (1.0 + spread ** (1.0 / mean - 1.0))).long().clamp(1, len(kept))
    for part in torch.split(sizes, _PERSONS):
        z = torch.randn(len(part), shape[1], generator=generator, dtype=torch.float64)
        scores = logits(z)
        uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
        keys = scores - torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        order = keys.topk(int(part.max()), dim=1).indices
        columns.append(kept[order[torch.arange(order.shape[1])[None] < part[:, None]]].numpy())
    starts, places = np.concatenate([[0], np.cumsum(sizes.numpy())]), np.concatenate(columns)
    found = csr_array((np.ones(len(places), np.int64), places, starts), shape=(count, model.known))
    found.sort_indices()
    return found


def _dense(likes: csr_array) -> Iterator[Tensor]:
    for start in range(0, likes.shape[0], _PERSONS):
        yield torch.from_numpy(likes[start : start + _PERSONS].astype(np.float32).toarray())


def _unlabelled(x: Tensor) -> Tensor:
    return torch.full((len(x),), -1, dtype=torch.int64)
