"""What a layer type must tell: where to take gradients in its forward pass, and what follows; and Linear tells it."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from privae.layers.term import Outer, Rows, Term


class Spot(NamedTuple):
    """A tensor of the forward pass, and what its gradient says: terms by the layer's parameter names.

    All calls of one layer give terms of the same arrangement for the same name.
    """

    at: Tensor
    terms: Callable[[Tensor], dict[str, Term]]


@runtime_checkable
class Rule(Protocol):
    """Gradients of one type of layer. The first axis of its input is that of the records (or of their rows)."""

    def covers(self, layer: Any) -> bool:  # noqa: ANN401
        """Whether this layer's options are covered."""
        ...

    def spots(
        self,
        layer: Any,  # noqa: ANN401
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,  # noqa: ANN401
    ) -> tuple[Any, list[Spot]]:
        """The output (or one computed anew, where its inside is needed) and the spots of one call."""
        ...


def trains(layer: nn.Module, name: str) -> bool:
    """Whether the layer has this parameter and trains it."""
    parameter = getattr(layer, name, None)
    return parameter is not None and bool(parameter.requires_grad)


def only_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The one input of a call, detached."""
    source: Tensor = args[0] if args else kwargs["input"]
    return source.detach()


class LinearRule:
    """Linear: weight gradient g' a and bias gradient g, added over the places of a record."""

    def covers(self, layer: nn.Linear) -> bool:  # noqa: ARG002
        """Every Linear is covered."""
        return True

    def spots(
        self, layer: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> tuple[Tensor, list[Spot]]:
        """One spot: the output."""
        source = only_input(args, kwargs)

        def terms(gradient: Tensor) -> dict[str, Term]:
            found: dict[str, Term] = {}
            if trains(layer, "weight"):
                found["weight"] = Outer(_places(gradient), _places(source))
            if trains(layer, "bias"):
                found["bias"] = Rows(gradient if gradient.ndim == 2 else _places(gradient).sum(1))
            return found

        return output, [Spot(output, terms)]


def _places(tensor: Tensor) -> Tensor:
    """[n, t, d]: the rows of each record over all places."""
    return tensor.unsqueeze(1) if tensor.ndim == 2 else tensor.flatten(1, -2)
