"""Rules of scales and biases: normalizing layers, and `Affine`, a scale and bias of a record's own numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from privae.layers.rule import Rule, Spot, trains
from privae.layers.term import Rows, Term


class Affine(nn.Module):
    """Scale and bias of each number of a record: y = x * weight + bias over the last axis, at first y = x.

    >>> Affine(2)(torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The scaled numbers.  Shapes: x [..., d] -> [..., d]."""
        return torch.addcmul(self.bias, x, self.weight)


@dataclass(frozen=True)
class ScaleRule:
    """A layer that multiplies its normalized input by `weight` and adds `bias`, if it has them.

    normalized: (layer, input [n, ...]) -> what is scaled. added: (layer, products [n, ...]) -> their sums over
    the places of a record, [n, *parameter.shape]. plain: whether a layer's options are covered.
    """

    normalized: Callable[[Any, Tensor], Tensor]
    added: Callable[[Any, Tensor], Tensor]
    plain: Callable[[Any], bool] = lambda _: True

    def covers(self, layer: nn.Module) -> bool:
        """Whether this layer's options are covered."""
        return self.plain(layer)

    def spots(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> tuple[Tensor, list[Spot]]:
        """One spot: the output."""
        source: Tensor = [*args, *kwargs.values()][0].detach()

        def terms(gradient: Tensor) -> dict[str, Term]:
            found: dict[str, Term] = {}
            if trains(layer, "weight"):
                found["weight"] = Rows(self.added(layer, gradient * self.normalized(layer, source)))
            if trains(layer, "bias"):
                found["bias"] = Rows(self.added(layer, gradient))
            return found

        return output, [Spot(output, terms)]


def _by_last_axes(layer: Any, products: Tensor) -> Tensor:  # noqa: ANN401
    """[n, *places, *shape] -> [n, *shape]; an input without a row axis is one row."""
    places = products.ndim - layer.weight.ndim - 1
    if places < 0:
        return products[None]
    return products.flatten(1, places).sum(1) if places else products


def _by_channel(layer: Any, products: Tensor) -> Tensor:  # noqa: ANN401, ARG001
    """[n, c, *places] -> [n, c]."""
    return products.flatten(2).sum(2) if products.ndim > 2 else products


def _instance_norm(rank: int) -> ScaleRule:
    """The rule for `rank` axes of places, where an input may come without a row axis: then it is one row."""

    def rows(x: Tensor) -> Tensor:
        return x if x.ndim == rank + 2 else x[None]

    return ScaleRule(
        lambda layer, x: functional.instance_norm(rows(x), eps=layer.eps),
        lambda layer, products: _by_channel(layer, rows(products)),
        lambda layer: not layer.track_running_stats,
    )


RULES: Final[dict[type[nn.Module], Rule]] = {
    Affine: ScaleRule(lambda _, x: x, _by_last_axes),
    nn.LayerNorm: ScaleRule(
        lambda layer, x: functional.layer_norm(x, layer.normalized_shape, eps=layer.eps), _by_last_axes
    ),
    nn.RMSNorm: ScaleRule(
        lambda layer, x: functional.rms_norm(x, layer.normalized_shape, eps=layer.eps), _by_last_axes
    ),
    nn.GroupNorm: ScaleRule(
        lambda layer, x: functional.group_norm(x, layer.num_groups, eps=layer.eps), _by_channel
    ),
    nn.InstanceNorm1d: _instance_norm(1),
    nn.InstanceNorm2d: _instance_norm(2),
    nn.InstanceNorm3d: _instance_norm(3),
}
