"""Rules: how a record's gradient follows from a layer's input and the gradient at the layer's output.

For Linear, LayerNorm and Embedding; `capture` finds the two tensors, every other layer goes by vmap.
Norms and sums are formed of the same concrete rows: a Gram norm would lose its digits exactly where an
attacker wants them lost, in terms that cancel.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from privae.errors import PrivacyRefused, UsageError

_Loss = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]
_CELLS = 2**24  # numbers of per-record gradients held at a time


@dataclass(frozen=True)
class Use:
    """One layer in one forward pass: the input and the gradient at the output of each of its calls."""

    layer: nn.Module
    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)

    def trains(self, name: str) -> bool:
        """Whether the layer has this parameter and trains it."""
        parameter = getattr(self.layer, name)
        return parameter is not None and bool(parameter.requires_grad)


@runtime_checkable
class Rule(Protocol):
    """What a layer type must tell: whether it is covered, each record's norm, and the weighted sum."""

    def covers(self, layer: Any) -> bool:  # noqa: ANN401
        """Whether this layer's options are covered."""
        ...

    def squared_norms(self, use: Use) -> Tensor:
        """Squared norm of each record's gradient, [n] float64."""
        ...

    def weighted(self, use: Use, factors: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """Sum of factor * gradient over the records, by parameter name; records of factor 0 are left out."""
        ...


class _Outright(ABC):
    """Forms the gradient of each record, a chunk of records at a time."""

    @abstractmethod
    def rows(self, use: Use, part: slice, dtype: torch.dtype) -> dict[str, Tensor]:
        """Gradient of each record in this part, by parameter name: [b, ...]."""

    def squared_norms(self, use: Use) -> Tensor:
        """Squared norm of each record's gradient, [n] float64."""
        chunks = (self.rows(use, part, torch.float64).values() for part in _chunks(use))
        return torch.cat(
            [torch.cat([rows.flatten(1) for rows in chunk], 1).square().sum(1) for chunk in chunks]
        )

    def weighted(self, use: Use, factors: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """Sum of factor * gradient over the records, by parameter name."""
        total: dict[str, Tensor] = {}
        for part in _chunks(use):
            weights = factors[part]
            for name, rows in self.rows(use, part, dtype).items():
                kept = torch.where((weights > 0)[:, None], rows.flatten(1), 0.0)
                value = (weights.to(dtype) @ kept).double().view(rows.shape[1:])
                total[name] = total[name] + value if name in total else value
        return total


class LinearRule(_Outright):
    """Weight gradient g a' and bias gradient g, added over the places and calls of a record.

    With one row a record the weight gradient has rank one and is never formed: its norm is |g| |a|, nothing
    can cancel, and the clipped sum is one matrix product.
    """

    def covers(self, layer: nn.Linear) -> bool:  # noqa: ARG002
        """Every Linear is covered."""
        return True

    def squared_norms(self, use: Use) -> Tensor:
        """(|a|^2 + 1) |g|^2 for one row a record, [n]."""
        if not _is_flat(use):
            return super().squared_norms(use)
        one = torch.ones(len(use.inputs[0]), dtype=torch.float64, device=use.inputs[0].device)
        inner = (_squares(use.inputs[0]) if use.trains("weight") else 0.0 * one) + one * use.trains("bias")
        return inner * _squares(use.gradients[0])

    def weighted(self, use: Use, factors: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """(c g)' a for one row a record: [out, in]; and the sum of c g: [out]."""
        if not _is_flat(use):
            return super().weighted(use, factors, dtype)
        source, gradient = use.inputs[0], use.gradients[0]
        kept = (factors > 0)[:, None]
        if not kept.all():  # 0 * nan is nan, so that rows are left out and not only weighed with 0
            source, gradient = torch.where(kept, source, 0.0), torch.where(kept, gradient, 0.0)
        scaled = gradient.double() * factors[:, None]
        total = {"bias": scaled.sum(0)} if use.trains("bias") else {}
        if use.trains("weight"):
            total["weight"] = scaled.to(dtype).T @ source.to(dtype)
        return total

    def rows(self, use: Use, part: slice, dtype: torch.dtype) -> dict[str, Tensor]:
        """Gradients of the records in this part: weight [b, out, in], bias [b, out]."""
        source, gradient = (_places(tensors, part, dtype) for tensors in (use.inputs, use.gradients))
        rows = {"bias": gradient.sum(1)} if use.trains("bias") else {}
        if use.trains("weight"):
            rows["weight"] = gradient.transpose(1, 2) @ source
        return rows


class LayerNormRule(_Outright):
    """Weight gradient g * normalized input and bias gradient g, added over a record's places and calls."""

    def covers(self, layer: nn.LayerNorm) -> bool:
        """Normalization over the last axis only."""
        return len(layer.normalized_shape) == 1

    def rows(self, use: Use, part: slice, dtype: torch.dtype) -> dict[str, Tensor]:
        """Gradients of the records in this part: weight [b, d], bias [b, d]."""
        layer: Any = use.layer
        gradient = _places(use.gradients, part, dtype)
        rows = {"bias": gradient.sum(1)} if use.trains("bias") else {}
        if use.trains("weight"):
            source = _places(use.inputs, part, dtype)
            normalized = functional.layer_norm(source, layer.normalized_shape, eps=layer.eps)
            rows["weight"] = (gradient * normalized).sum(1)
        return rows


class EmbeddingRule:
    """A record's gradient fills the rows of the tokens it holds; equal tokens of a record are added first."""

    def covers(self, layer: nn.Embedding) -> bool:
        """Plain tables only."""
        # privacy: max_norm rewrites weights by the tokens seen; scale_grad_by_freq divides by batch counts
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse

    def squared_norms(self, use: Use) -> Tensor:
        """Squared norm of each record's gradient, [n] float64."""
        record, _, rows = _token_rows(use)
        empty = torch.zeros(len(use.inputs[0]), dtype=torch.float64, device=rows.device)
        return empty.index_add(0, record, rows.square().sum(1))

    def weighted(self, use: Use, factors: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:  # noqa: ARG002
        """Sum of factor * gradient over the records: weight [tokens, d], in float64 whatever the dtype."""
        record, token, rows = _token_rows(use)
        weights = factors[record, None]
        layer: Any = use.layer
        empty = torch.zeros(layer.weight.shape, dtype=torch.float64, device=rows.device)
        return {"weight": empty.index_add(0, token, torch.where(weights > 0, rows * weights, 0.0))}


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: LinearRule(),
    nn.LayerNorm: LayerNormRule(),
    nn.Embedding: EmbeddingRule(),
}


def covered(layer: nn.Module) -> bool:
    """Whether a rule gives this layer's gradients; subclasses of a layer are not covered."""
    return type(layer) in RULES and RULES[type(layer)].covers(layer)


def capture(model: nn.Module, loss: _Loss, block: tuple[Tensor, ...]) -> list[Use]:
    """Run the loss once and its backward pass once, down to the outputs of the layers with a rule.

    Errors: PrivacyRefused if a layer is not called with one row a record.
    """
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        calls.append((layer, (args[0] if args else kwargs["input"]).detach(), output))

    hooks = [
        layer.register_forward_hook(keep, with_kwargs=True) for layer in model.modules() if _trains(layer)
    ]
    try:
        with torch.enable_grad():
            losses = loss(model, block)
    finally:
        for hook in hooks:
            hook.remove()
    check_losses(losses, len(block[0]))
    uses = _with_gradients(losses, [call for call in calls if call[2].requires_grad])
    if not all(_is_batch_led(use, len(block[0])) for use in uses):
        raise PrivacyRefused("a layer is not called with one row a record; sum its gradients by vmap")
    return uses


def check_losses(losses: Tensor, n: int) -> None:
    """Raise UsageError unless there is one loss a record, [n]."""
    if losses.shape != (n,):
        raise UsageError(
            "the loss must be one number a record: a tensor [n], not a sum or mean over the batch"
        )


def squared_norms(uses: list[Use], like: Tensor, n: int) -> Tensor:
    """Squared norm of each record's gradient over all layers, [n] in the dtype of `like`."""
    total = like.new_zeros(n)
    for use in uses:
        total += RULES[type(use.layer)].squared_norms(use)
    return total


def weighted_sum(
    parameters: list[nn.Parameter], uses: list[Use], factors: Tensor, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Flat sum over records of factor * gradient; a record of factor 0 is left out, whatever it holds."""
    found: dict[nn.Parameter, Tensor] = {}
    for use in uses:
        for name, value in RULES[type(use.layer)].weighted(use, factors, dtype).items():
            found[getattr(use.layer, name)] = value
    flat = [found[p].double().flatten() if p in found else factors.new_zeros(p.numel()) for p in parameters]
    return torch.cat(flat)


def all_covered(model: nn.Module) -> bool:
    """Whether each trainable parameter belongs to exactly one layer, and that layer has a rule."""
    owners = [
        (parameter, layer)
        for layer in model.modules()
        for _, parameter in layer.named_parameters(recurse=False, remove_duplicate=False)
        if parameter.requires_grad
    ]
    once = len({id(parameter) for parameter, _ in owners}) == len(owners)
    return once and all(covered(layer) for _, layer in owners)


def _trains(layer: nn.Module) -> bool:
    return covered(layer) and any(parameter.requires_grad for parameter in layer.parameters(recurse=False))


def _with_gradients(losses: Tensor, calls: list[tuple[nn.Module, Tensor, Tensor]]) -> list[Use]:
    if not (calls and losses.requires_grad):
        return []
    outputs = [output for _, _, output in calls]
    found = torch.autograd.grad(losses, outputs, torch.ones_like(losses), allow_unused=True)
    uses: dict[nn.Module, Use] = {}
    for (layer, source, _), gradient in zip(calls, found, strict=True):
        if gradient is not None:
            use = uses.setdefault(layer, Use(layer))
            use.inputs.append(source)
            use.gradients.append(gradient)
    return list(uses.values())


def _is_batch_led(use: Use, n: int) -> bool:
    least = 1 if isinstance(use.layer, nn.Embedding) else 2
    return all(source.ndim >= least and len(source) == n for source in use.inputs)


def _token_rows(use: Use) -> tuple[Tensor, Tensor, Tensor]:
    """(record [K], token [K], gradient row [K, d]) of the K distinct (record, token) pairs."""
    layer: Any = use.layer
    n = len(use.inputs[0])
    tokens = torch.cat([source.reshape(n, -1) for source in use.inputs], dim=1)
    flat = [gradient.reshape(n, -1, layer.embedding_dim) for gradient in use.gradients]
    gradients = torch.cat(flat, dim=1).double()
    live = tokens != (-1 if layer.padding_idx is None else layer.padding_idx)
    keys = torch.arange(n, device=tokens.device)[:, None] * layer.num_embeddings + tokens
    pairs, place = torch.unique(keys[live], return_inverse=True)
    rows = gradients.new_zeros((len(pairs), layer.embedding_dim)).index_add(0, place, gradients[live])
    return pairs // layer.num_embeddings, pairs % layer.num_embeddings, rows


def _chunks(use: Use) -> Iterator[slice]:
    n = len(use.inputs[0])
    size = max(1, _CELLS // sum(p.numel() for p in use.layer.parameters(recurse=False)))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _is_flat(use: Use) -> bool:
    return len(use.inputs) == 1 and use.inputs[0].ndim == 2


def _squares(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.square()


def _places(tensors: list[Tensor], part: slice, dtype: torch.dtype) -> Tensor:
    """[b, t, d]: the rows of each record over all places and calls of a layer."""
    chunks = [tensor[part].to(dtype) for tensor in tensors]
    return torch.cat([x.flatten(1, -2) if x.ndim > 2 else x[:, None] for x in chunks], dim=1)
