"""The fitted model of images: a linear VAE with released class priors, and an optional residual decoder."""

import math
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from privae.models.networks import Decoder, restored
from privae.models.priors import GaussianClasses

_ROWS = 4096
_PARTS = ("codes", "rest", "pixels", "distance")
_CONTRAST = 8.0  # logit of a pixel = contrast * (linear reconstruction - 1/2)


@dataclass(frozen=True)
class LinearCodes:
    """Pixels to whitened codes and back, all from released statistics and a public basis; float64.

    Shapes: basis [pixels, d] (orthonormal columns), mean [d], axes [d, d] (principal axes, strongest first),
    spread [d] (standard deviation along each axis), in units of one pixel in [0, 1]; k leading axes are latent.
    """

    basis: Float[Tensor, "p d"]
    mean: Float[Tensor, "d"]
    axes: Float[Tensor, "d d"]
    spread: Float[Tensor, "d"]

    def encode(self, x: Float[Tensor, "n p"]) -> Float[Tensor, "n d"]:
        """Coordinates on all axes, each divided by its spread: [n, pixels] -> [n, d]."""
        return (x @ self.basis - self.mean) @ self.axes / self.spread

    def decode(self, codes: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
        """Pixels from coordinates: [n, d] -> [n, pixels], not clamped."""
        return (self.mean + (codes * self.spread) @ self.axes.T) @ self.basis.T


class ResidualDecoder(nn.Module):
    """Logits = contrast * (linear reconstruction - 1/2) + decoder(code, label); the last layer starts at zero."""

    def __init__(self, latent: int, hidden: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.decoder = Decoder(latent, hidden, outputs)
        nn.init.zeros_(self.decoder.logits.weight)
        nn.init.zeros_(self.decoder.logits.bias)

    def forward(self, latent: Tensor, base: Tensor) -> Tensor:
        """Shapes: latent [..., k + c], base [..., pixels] (linear reconstruction) -> logits [..., pixels]."""
        logits: Tensor = _CONTRAST * (base - 0.5) + self.decoder(latent)
        return logits


@dataclass(frozen=True)
class ImageModel:
    """Images of one shape; classes is 1 when there are no labels."""

    height: int
    width: int
    codes: LinearCodes
    prior: GaussianClasses
    decoder: ResidualDecoder | None = None

    @property
    def latent(self) -> int:
        """Number of latent codes k."""
        return self.prior.means.shape[1]

    def sample(
        self, count: int, generator: torch.Generator
    ) -> tuple[UInt8[Tensor, "n h w"], Int[Tensor, "n"]]:
        """New images and the codes of their classes."""
        latents, classes = self.prior.sample(count, generator)
        images = [
            self._pixels(z, y, generator)
            for z, y in zip(torch.split(latents, _ROWS), torch.split(classes, _ROWS), strict=True)
        ]
        pixels = torch.cat([*images, torch.zeros(0, self.height * self.width, dtype=torch.float64)])
        return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).view(-1, self.height, self.width), classes

    def log_likelihood(self, images: UInt8[Tensor, "n h w"], labels: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Log-evidence of the low-pass coefficients under the linear-Gaussian model, its bound with gap zero: [n].

        Latent codes under the class prior, the other axes under centered Gaussians; what lies outside the basis
        was never measured and does not count. Edges: a label of -1 is summed out.
        """
        parts = [
            self._log_evidence(x, y)
            for x, y in zip(torch.split(images, _ROWS), torch.split(labels, _ROWS), strict=True)
        ]
        return torch.cat([*parts, torch.zeros(0, dtype=torch.float64)])

    def parts(self, images: UInt8[Tensor, "n h w"]) -> dict[str, Tensor]:
        """What is known of images, each higher for one that is known better; labels are summed out: [n] each.

        codes, rest: log-density (up to a constant) of the latent codes, and of the other axes; pixels: minus the
        squared error of the decoded codes; distance: minus its root, for the posterior is a point.
        """
        parts = [self._parts(x) for x in torch.split(images, _ROWS)]
        found = torch.cat([*parts, torch.zeros(0, len(_PARTS), dtype=torch.float64)])
        return dict(zip(_PARTS, found.T, strict=True))

    def embed(self, images: UInt8[Tensor, "n h w"]) -> Float[Tensor, "n k"]:
        """Whitened latent codes: [n, h, w] -> [n, k]."""
        parts = [self.codes.encode(_unit(x))[:, : self.latent] for x in torch.split(images, _ROWS)]
        return torch.cat([*parts, torch.zeros(0, self.latent, dtype=torch.float64)])

    def state(self) -> dict[str, Tensor]:
        """Everything learned, by name."""
        linear = {f"codes.{f.name}": getattr(self.codes, f.name) for f in fields(self.codes)}
        prior = {f"prior.{f.name}": getattr(self.prior, f.name) for f in fields(self.prior)}
        network = {} if self.decoder is None else self.decoder.state_dict()
        return linear | prior | {f"decoder.{name}": value for name, value in network.items()}

    def config(self) -> dict[str, Any]:
        """Everything public that `load` needs besides the state."""
        hidden = (
            None
            if self.decoder is None
            else [m.out_features for m in self.decoder.decoder.body if isinstance(m, nn.Linear)]
        )
        return {"height": self.height, "width": self.width, "hidden": hidden}

    @classmethod
    def load(cls, config: dict[str, Any], state: dict[str, Tensor]) -> "ImageModel":
        """Inverse of `config` and `state`."""
        linear = LinearCodes(*(state[f"codes.{f.name}"] for f in fields(LinearCodes)))
        prior = GaussianClasses(*(state[f"prior.{f.name}"] for f in fields(GaussianClasses)))
        decoder = None
        if config["hidden"] is not None:
            size = config["height"] * config["width"]
            found = {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
            latent, hidden = sum(prior.means.shape), tuple(config["hidden"])
            made = restored(lambda: ResidualDecoder(latent, hidden, size), len(hidden), found)
            decoder = cast("ResidualDecoder", made)
        return cls(config["height"], config["width"], linear, prior, decoder)

    def conditioned(self, latents: Tensor, classes: Tensor) -> Tensor:
        """Latents beside one-hot classes (zeros for -1), float32: what the residual decoder reads."""
        return conditioned(latents, classes, len(self.prior.weights))

    def _pixels(self, latents: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        rest = self.codes.spread.shape[0] - self.latent
        noise = torch.randn(len(latents), rest, generator=generator, dtype=torch.float64)
        if self.decoder is None:
            return self.codes.decode(torch.cat([latents, noise], 1))
        return self._mean(torch.cat([latents, torch.zeros_like(noise)], 1), classes)

    def _mean(self, codes: Tensor, classes: Tensor) -> Tensor:
        base = self.codes.decode(codes)
        if self.decoder is None:
            return base
        latents = codes[:, : self.latent]
        with torch.no_grad():
            return torch.sigmoid(self.decoder(self.conditioned(latents, classes), base.float())).double()

    def _parts(self, images: Tensor) -> Tensor:
        x = _unit(images)
        codes = self.codes.encode(x)
        known = torch.logsumexp(self.prior.log_joint(codes[:, : self.latent]), 1)
        rest = -0.5 * codes[:, self.latent :].square().sum(1)
        codes[:, self.latent :] = 0
        error = (self._mean(codes, torch.full((len(x),), -1)) - x).square().sum(1)
        return torch.stack([known, rest, -error, -error.sqrt()], 1)

    def _log_evidence(self, images: Tensor, labels: Tensor) -> Tensor:
        codes = self.codes.encode(_unit(images))
        joint = self.prior.log_joint(codes[:, : self.latent])
        given = joint.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        evidence = torch.where(labels >= 0, given, torch.logsumexp(joint, 1))
        rest = -0.5 * codes[:, self.latent :].square().sum(1)
        others = self.codes.spread.shape[0] - self.latent
        constant = self.codes.spread.log().sum() + 0.5 * others * math.log(2 * math.pi)
        total: Tensor = evidence + rest - constant
        return total


def conditioned(latents: Tensor, classes: Tensor, count: int) -> Tensor:
    """Latents [n, k] beside one-hot classes (zeros for -1) [n, count]: float32 [n, k + count]."""
    places = torch.where(classes >= 0, classes, count)[:, None]
    chosen = torch.zeros(len(latents), count + 1).scatter_(1, places, 1.0)[:, :count]
    return torch.cat([latents.float(), chosen], 1)


def _unit(images: Tensor) -> Tensor:
    return images.flatten(1).double() / 255.0
