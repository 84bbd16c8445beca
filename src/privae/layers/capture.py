"""Capture: one forward and one backward pass that leave every parameter's per-record gradients as terms."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from privae.errors import PrivacyRefused
from privae.layers import convolution, embedding, normalization, recurrent
from privae.layers.records import Loss, Parts, check_losses
from privae.layers.rule import LinearRule, Rule, Spot
from privae.layers.term import Term

Terms = dict[nn.Parameter, Term]
_Call = tuple[nn.Module, Spot]

RULES: Final[dict[type[nn.Module], Rule]] = {
    nn.Linear: LinearRule(),
    **convolution.RULES,
    **embedding.RULES,
    **normalization.RULES,
    **recurrent.RULES,
}

NOT_BY_VMAP: Final = (nn.RNNBase, nn.RNNCellBase, nn.EmbeddingBag)
"""Layers that torch.func.vmap cannot take: they have a rule or none."""


def covered(layer: nn.Module) -> bool:
    """Whether a rule gives this layer's gradients; subclasses of a layer are not covered."""
    return type(layer) in RULES and RULES[type(layer)].covers(layer)


def all_covered(model: nn.Module) -> bool:
    """Whether each trainable parameter belongs to layers that have a rule, and to nothing else."""
    return all(
        covered(layer)
        for layer in model.modules()
        for parameter in layer.parameters(recurse=False)
        if parameter.requires_grad
    )


def capture(model: nn.Module, loss: Loss, block: Parts) -> Terms:
    """Run the loss once and its backward pass once, down to the spots of the layers: no weight gradient is formed.

    A parameter that several calls or layers use has the sum of all its terms. No hook stays on the model.
    Errors: PrivacyRefused if a layer is not called with the same number of rows for each record; UsageError
        for a loss that is not one number a record.
    """
    calls: list[_Call] = []
    with _hooked(model, calls), torch.enable_grad():
        losses = loss(model, block)
    check_losses(losses, len(block[0]))
    calls = [call for call in calls if call[1].at.requires_grad]
    if not (calls and losses.requires_grad):
        return {}
    places = [spot.at for _, spot in calls]
    gradients = torch.autograd.grad(losses, places, torch.ones_like(losses), allow_unused=True)
    return _gathered(calls, gradients, len(block[0]))


@contextmanager
def _hooked(model: nn.Module, calls: list[_Call]) -> Iterator[None]:
    def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ANN401
        found, spots = RULES[type(layer)].spots(layer, args, kwargs, output)
        calls.extend((layer, spot) for spot in spots)
        return None if found is output else found

    layers = [layer for layer in model.modules() if _trains(layer)]
    hooks = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _gathered(calls: list[_Call], gradients: tuple[Tensor | None, ...], n: int) -> Terms:
    found: dict[nn.Parameter, list[tuple[nn.Module, Term]]] = {}
    for (layer, spot), gradient in zip(calls, gradients, strict=True):
        if gradient is not None:
            for name, term in spot.terms(gradient).items():
                found.setdefault(getattr(layer, name), []).append((layer, _by_record(term, n)))
    return {parameter: _added(pairs) for parameter, pairs in found.items()}


def _by_record(term: Term, n: int) -> Term:
    rows, rest = divmod(term.n, n)
    if rest or not rows:
        raise PrivacyRefused(
            "a layer is not called with the same number of rows for each record; sum its gradients by vmap"
        )
    return term if rows == 1 else term.grouped(rows)


def _added(pairs: list[tuple[nn.Module, Term]]) -> Term:
    """One term of a parameter: the sum of what its calls gave, in their form if they share one."""
    first, *others = (term for _, term in pairs)
    return first.joined(others, alike=len({layer for layer, _ in pairs}) == 1) if others else first


def _trains(layer: nn.Module) -> bool:
    return covered(layer) and any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
