"""What the gradients of a fitted model's own network are taken of: its loss, and records as rows. For audits."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privae.data.images import label_codes
from privae.fitted.images import FittedImages
from privae.fitted.kinds import Fitted
from privae.fitted.table import FittedTable
from privae.models.image import ImageModel, ResidualDecoder, conditioned
from privae.models.latent import LatentModel
from privae.models.likelihoods import Categorical, Likelihood
from privae.models.table import TableModel
from privae.privacy.gradients import Parts, trainable
from privae.recipes.gradients import negative_elbo
from privae.recipes.image import decoder_loss


@dataclass(frozen=True)
class Target:
    """A network whose gradients an audit looks at. A record is a row [width + condition], a one-hot label at its end.

    loss: one number a record, of (network, parts with the record's `noise_size` normal numbers as the last).
    parts: parts of rows, differentiable. sizes: cells of a table's columns, one-hot; None for pixels in [0, 1].
    rows_of: rows from what the first linear layer reads, if `inputs` numbers long; None if those are rows.
    """

    network: nn.Module
    loss: Callable[[nn.Module, Parts], Tensor] = field(repr=False)
    parts: Callable[[Tensor], Parts] = field(repr=False)
    noise_size: int
    width: int
    condition: int
    inputs: int
    sizes: tuple[int, ...] | None = None
    rows_of: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def batch(self, rows: Tensor, generator: torch.Generator) -> Parts:
        """What the loss reads of rows [n, width + c], with noise drawn."""
        return (*self.parts(rows), torch.randn(len(rows), self.noise_size, generator=generator))

    def gradient(self, parts: Parts, *, graph: bool = False) -> Tensor:
        """Sum over records of the gradient of their losses, [p], flat."""
        total = self.loss(self.network, parts).sum()
        found = torch.autograd.grad(
            total, trainable(self.network), create_graph=graph, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in found])

    def first_layer(self, seen: Tensor) -> tuple[Tensor, Tensor] | None:
        """What was seen [p] of the first layer's weights [h, inputs] and biases [h], if it reads the record."""
        layer = next((layer for layer in self.network.modules() if isinstance(layer, nn.Linear)), None)
        if layer is None or layer.in_features != self.inputs:
            return None
        parameters = trainable(self.network)
        pieces = torch.split(seen, [p.numel() for p in parameters])
        own = {id(p): piece for p, piece in zip(parameters, pieces, strict=True)}
        weight, bias = own.get(id(layer.weight)), own.get(id(layer.bias))
        return None if weight is None or bias is None else (weight.view_as(layer.weight), bias)


def target_of(network: nn.Module, likelihood: Likelihood, latent: int, condition: int = 0) -> Target:
    """The VAE itself, with the negative ELBO as its loss: it reads [record, condition]."""

    def parts(rows: Tensor) -> Parts:
        return (rows[:, :width], rows[:, width:]) if condition else (rows,)

    width, sizes = likelihood.size, likelihood.sizes if isinstance(likelihood, Categorical) else None
    loss = negative_elbo(likelihood, condition)
    return Target(network, loss, parts, latent, width, condition, width + condition, sizes)


def attacked(fitted: Fitted, data: Any, labels: Any, places: NDArray[np.int64]) -> tuple[Target, Tensor]:  # noqa: ANN401
    """The target of a fitted model with a network, and the records at these places as its rows [n, width + c]."""
    model = fitted.model
    if isinstance(fitted, FittedTable):
        rows = fitted.codec.onehot(fitted.codec.encode(data.iloc[places]))
        if isinstance(model, TableModel):
            return target_of(model.network, Categorical(model.sizes), model.network.config.latent), rows
        assert isinstance(model, LatentModel)
        return target_of(model.network, model.likelihood, model.latent), rows
    pixels = torch.from_numpy(np.ascontiguousarray(data[places])).flatten(1).float() / 255.0
    codes = _label_codes(fitted, labels, places)
    if isinstance(model, ImageModel):
        return _decoder_target(model), conditioned(pixels, codes, len(model.prior.weights))
    assert isinstance(model, LatentModel)
    known = model.condition(codes)
    count = 0 if known is None else known.shape[1]
    rows = pixels if known is None else torch.cat([pixels, known], 1)
    return target_of(model.network, model.likelihood, model.latent, count), rows


def _label_codes(fitted: FittedImages, labels: Any, places: NDArray[np.int64]) -> Tensor:  # noqa: ANN401
    """Codes of the labels [n], -1 where none are given; without classes, all belong to the one group."""
    classes = fitted.schema.classes
    if not isinstance(classes, tuple):
        return torch.zeros(len(places), dtype=torch.int64)
    if labels is None:
        return torch.full((len(places),), -1, dtype=torch.int64)
    return torch.from_numpy(label_codes(np.asarray(labels)[places], classes))


def fresh(target: Target, seed: int) -> Target:
    """The same target before its training."""
    network = copy.deepcopy(target.network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in network.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
    if isinstance(network, ResidualDecoder):
        nn.init.zeros_(network.decoder.logits.weight)
        nn.init.zeros_(network.decoder.logits.bias)
    return replace(target, network=network)


def _decoder_target(model: ImageModel) -> Target:
    """The residual decoder of images as its recipe trains it: what it reads are noisy codes, not pixels."""
    assert model.decoder is not None
    latent, classes, width = model.latent, len(model.prior.weights), model.height * model.width
    rest = model.codes.spread.shape[0] - latent

    def images(codes: Tensor) -> Tensor:
        return model.codes.decode(torch.cat([codes, codes.new_zeros(len(codes), rest)], 1)).float()

    def parts(rows: Tensor) -> Parts:
        pixels, known = rows[:, :width], rows[:, width:]
        codes = model.codes.encode(pixels.double())[:, :latent]
        return torch.cat([codes.float(), known], 1), images(codes), pixels

    def rows_of(inputs: Tensor) -> Tensor:
        return torch.cat([images(inputs[:, :latent].double()), inputs[:, latent:]], 1)

    inputs, loss = latent + classes, decoder_loss(latent)
    return Target(model.decoder, loss, parts, latent, width, classes, inputs, rows_of=rows_of)
