"""The evidence lower bound of one record: the only ELBO in the project."""

import torch
from jaxtyping import Float
from torch import Tensor

from privae.models.likelihoods import Likelihood
from privae.models.networks import Autoencoder


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
