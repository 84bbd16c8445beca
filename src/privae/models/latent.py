"""The evidence lower bound, the only ELBO in the project; the fitted VAE of gradients, with an N(0, I) prior."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from privae.models.likelihoods import Bernoulli, Categorical, Gappy, Gaussian, Likelihood
from privae.models.networks import Autoencoder, Network
from privae.models.priors import draw_classes
from privae.models.table import loaded_network
from privae.models.windows import WindowNetwork, loaded_windows

_ROWS = 4096
_DRAWS = 8  # posterior draws that a bound is averaged over
_PARTS = ("reconstruction", "kl", "norm", "distance")


def elbo(
    network: Autoencoder,
    likelihood: Likelihood,
    record: Float[Tensor, "*batch d"],
    condition: Float[Tensor, "*batch c"] | None,
    noise: Float[Tensor, "*batch k"],
    beta: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """Log-likelihood of a record decoded from one posterior draw, less beta times its KL divergence.

    One number a record: nothing is averaged over a batch, so that a clipped sum of gradients is bounded.

    Shapes: record [..., d], condition [..., c] or None, noise [..., k] (standard normal) -> [...].
    Source: Kingma and Welling 2014, arXiv:1312.6114; beta: Higgins et al. 2017.
    """
    mean, log_variance = network.encode(record, condition)
    latent = mean + (0.5 * log_variance).exp() * noise
    reconstruction = likelihood.log_prob(network.decode(latent, condition), record)
    return reconstruction - beta * kl(mean, log_variance)


def kl(mean: Float[Tensor, "*batch k"], log_variance: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Divergence of N(mean, exp(log_variance)) from N(0, I), in closed form.

    Shapes: [..., k], [..., k] -> [...].

    >>> kl(torch.ones(3), torch.zeros(3))
    tensor(1.5000)
    """
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(-1)


@dataclass(frozen=True)
class LatentModel:
    """Records as vectors x [n, d] (pixels in [0, 1], or one-hot cells) with a class code [n] or -1.

    network: anything with `encode(x, condition)`, `decode(z, condition)`; its own class builds it again on load.
    weights [c]: released shares of the classes (one class when there are none).
    """

    network: nn.Module
    likelihood: Likelihood
    weights: Float[Tensor, "c"]
    latent: int

    def sample(self, count: int, generator: torch.Generator) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"]]:
        """New records: pixel means, or one cell a column drawn; and their classes."""
        classes = draw_classes(self.weights, count, generator)
        z = torch.randn(count, self.latent, generator=generator)
        with torch.no_grad():
            logits = torch.cat(
                [
                    self._coder.decode(a, self.condition(b))
                    for a, b in zip(torch.split(z, _ROWS), torch.split(classes, _ROWS), strict=True)
                ]
            )
            if isinstance(self.likelihood, Bernoulli | Gaussian):
                return self.likelihood.mean(logits), classes
            return torch.cat(
                [self.likelihood.sample(rows, generator) for rows in torch.split(logits, _ROWS)]
            ), classes

    def log_likelihood(self, x: Float[Tensor, "n d"], labels: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Evidence lower bound of each record, averaged over posterior draws fixed by a seed: [n].

        Edges: a label of -1 enters the network as zeros.
        """
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(_DRAWS, 1, self.latent, generator=generator)

        def bound(rows: Tensor, y: Tensor) -> Tensor:
            wide, given = rows.expand(_DRAWS, *rows.shape), self.condition(y)
            condition = None if given is None else given.expand(_DRAWS, *given.shape)
            drawn = noise.expand(_DRAWS, len(rows), self.latent)
            return elbo(self._coder, self.likelihood, wide, condition, drawn).mean(0).double()

        return self._by_rows(bound, x, labels, torch.zeros(0, dtype=torch.float64))

    def parts(self, x: Float[Tensor, "n d"], labels: Int[Tensor, "n"]) -> dict[str, Tensor]:
        """What a bound is made of, each higher for a record that is known better: [n, d] -> float64 [n] each.

        reconstruction: its log-probability; kl: -KL; norm: -|posterior mean|^2; distance: minus the smallest one
        between the record and what posterior draws, fixed by a seed, decode to.
        """
        noise = torch.randn(_DRAWS, 1, self.latent, generator=torch.Generator().manual_seed(0))

        def each(rows: Tensor, y: Tensor) -> Tensor:
            wide, given = rows.expand(_DRAWS, *rows.shape), self.condition(y)
            mean, log_variance = self._coder.encode(rows, given)
            drawn = mean + (0.5 * log_variance).exp() * noise
            logits = self._coder.decode(drawn, None if given is None else given.expand(_DRAWS, *given.shape))
            known = self.likelihood.log_prob(logits, wide).mean(0)
            near = (self.likelihood.mean(logits) - wide).norm(dim=-1).amin(0)
            return torch.stack([known, -kl(mean, log_variance), -mean.square().sum(-1), -near], 1).double()

        found = self._by_rows(each, x, labels, torch.zeros(0, len(_PARTS), dtype=torch.float64))
        return dict(zip(_PARTS, found.T, strict=True))

    def embed(self, x: Float[Tensor, "n d"], labels: Int[Tensor, "n"]) -> Float[Tensor, "n k"]:
        """Posterior means: [n, d] -> [n, k]."""
        return self._by_rows(
            lambda rows, y: self._coder.encode(rows, self.condition(y))[0],
            x,
            labels,
            torch.zeros(0, self.latent),
        )

    def condition(self, classes: Int[Tensor, "n"]) -> Float[Tensor, "n c"] | None:
        """One-hot classes, zeros for -1; None when the network takes no condition."""
        count = len(self.weights)
        if count == 1:
            return None
        places = torch.where(classes >= 0, classes, count)[:, None]
        return torch.zeros(len(classes), count + 1).scatter_(1, places, 1.0)[:, :count]

    def state(self) -> dict[str, Tensor]:
        """Everything learned, by name."""
        weights = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        return {"weights": self.weights, **weights}

    def config(self) -> dict[str, Any]:
        """Everything public that `load` needs besides the state."""
        blocks = list(self.likelihood.sizes) if isinstance(self.likelihood, Categorical) else None
        own = self.network.to_config() if isinstance(self.network, Network | WindowNetwork) else None
        known = {"network": own, "blocks": blocks, "pixels": self.likelihood.size, "latent": self.latent}
        return known | _spread(self.likelihood)

    @classmethod
    def load(
        cls, config: dict[str, Any], state: dict[str, Tensor], network: nn.Module | None
    ) -> "LatentModel":
        """Inverse of `config` and `state`; a network of one's own is given again, its weights are restored."""
        likelihood = _likelihood(config)
        if config["network"] is not None:
            own, sizes = _own(config["network"], state)
            if sizes != (likelihood.size, config["latent"]):
                raise ValueError("a network of other sizes than its model")
            return cls(own, likelihood, state["weights"], config["latent"])
        assert network is not None
        found = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
        network.load_state_dict(found)
        return cls(network.eval(), likelihood, state["weights"], config["latent"])

    @property
    def _coder(self) -> Autoencoder:
        return cast("Autoencoder", self.network)

    @staticmethod
    def _by_rows(
        function: Callable[[Tensor, Tensor], Tensor], x: Tensor, labels: Tensor, nothing: Tensor
    ) -> Tensor:
        with torch.no_grad():
            parts = [
                function(a, b) for a, b in zip(torch.split(x, _ROWS), torch.split(labels, _ROWS), strict=True)
            ]
        return torch.cat(
            [*(part for part in parts if len(part)), nothing.to(parts[0].dtype if parts else nothing.dtype)]
        )


def _own(config: dict[str, Any], state: dict[str, Tensor]) -> tuple[Network | WindowNetwork, tuple[int, int]]:
    """A network of privae's own, and how many numbers its records and their codes have."""
    if "windows" in config:
        windows = loaded_windows(config, state)
        return windows, (windows.config.inputs, windows.config.codes)
    network = loaded_network(config, state)
    return network, (network.config.inputs, network.config.latent)


def _spread(likelihood: Likelihood) -> dict[str, Any]:
    """What a file says of a likelihood with a variance; nothing of the others, whose files stay what they were."""
    if not isinstance(likelihood, Gaussian | Gappy):
        return {}
    return {"variance": likelihood.variance} | ({"gaps": True} if isinstance(likelihood, Gappy) else {})


def _likelihood(config: dict[str, Any]) -> Bernoulli | Gaussian | Gappy | Categorical:
    """The likelihood that a stored model was fitted with; see `_spread`."""
    if config["blocks"] is not None:
        return Categorical(tuple(config["blocks"]))
    size = config["pixels"]
    if "gaps" in config:
        return Gappy(size, config["variance"])
    return Gaussian(size, config["variance"]) if "variance" in config else Bernoulli(size)
