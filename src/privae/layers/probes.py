"""Probes: made-up records that show whether a model keeps records apart, and whether its rules give its gradients."""

import copy
import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from privae.errors import PrivacyRefused, UsageError
from privae.layers.capture import NOT_BY_VMAP, Terms, all_covered, capture
from privae.layers.records import Loss, Parts, check_losses, gradient_rows, record_count, trainable
from privae.layers.term import Weights

_TOLERANCE = 1e-8
_PLAIN = (bool, int, float, complex, str, bytes)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def by_rule(model: nn.Module, loss: Loss, probe_parts: Parts) -> bool:
    """Whether rules give this model's gradients: if not, they go by vmap.

    On a float64 copy whose weights are jittered (so that a zero layer hides nothing), norms and a weighted sum
    by rule must agree to 1e-8 with single records run one after the other. A layer without a rule, a parameter
    used outside its layers, an output changed in place: all end in vmap, which must then agree with them itself.
    Where layers are left to rules (recurrences, bags) the loss is not run by vmap. Probe records come from the
    schema, never from data.
    Errors: PrivacyRefused if the loss cannot be taken one record at a time, or leaves something in the model.
    """
    _check_probe(probe_parts)
    twin, probe = _twin(model, probe_parts)
    left_to_rules = any(isinstance(layer, NOT_BY_VMAP) for layer in twin.modules())
    with _unchanged(twin):
        try:
            found = None if left_to_rules else gradient_rows(twin, loss, probe)
            rows = _one_by_one(twin, loss, probe)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise _not_one_by_one(type(error).__name__) from None
        if all_covered(twin) and _agrees(twin, loss, probe, rows):
            return True
    if found is None:
        raise _not_one_by_one("a layer in it has no rule for this use, and does not go by vmap")
    if not _same(found, rows):
        raise _not_one_by_one("a record alone has another gradient than in a batch of one")
    return False


def refuse_mixing(model: nn.Module, loss: Loss, probe_parts: Parts) -> None:
    """Raise PrivacyRefused if, on the probe, a record moves another's loss or the model keeps something.

    On a float64 copy and at least two probe records (from the schema, never data): each record in turn is
    changed, then left out, and no other loss may move. Nothing that the model's attributes lead to may change
    or appear (see `_held`); torch's generator may not be used, for its draws go by a record's place in the
    batch. BatchNorm and buffers that are not saved are refused by name.
    Edges: code that acts differently only on other values, batch sizes (but `refuse_mixing_in_blocks`) or
    types is not seen, nor is what the loss keeps outside the model: such code is trusted, like first weights.
    """
    _refuse_by_name(model)
    n = _check_probe(probe_parts)
    twin, probe = _twin(model, probe_parts)
    losses = _losses_without_trace(twin, loss, probe)
    for record in range(n):
        others = torch.arange(n, device=probe[0].device) != record
        changed = _losses_without_trace(twin, loss, _with_other(probe, record))
        alone = _losses_without_trace(twin, loss, tuple(part[others] for part in probe))
        if not (_same(changed[others], losses[others]) and _same(alone, losses[others])):
            raise _mixes("changing one moved the loss of another")


def refuse_mixing_in_blocks(
    model: nn.Module, loss: Loss, probe_parts: Parts, size: int, *, rules: bool
) -> None:
    """Raise PrivacyRefused if a probe record's loss or gradient is another one in a block than in a small batch.

    Blocks are of `size` records, as training has them. They repeat the probe's records; or all of them with the
    first, middle or last one taken out for a moved one; or one record but for another at such a place (so that
    no maximum or count is reached already). Losses are compared in every block; norms and a weighted
    sum of gradients by rule in one block of each kind without moved records.
    Edges: as for `refuse_mixing`.
    """
    n = _check_probe(probe_parts)
    twin, probe = _twin(model, probe_parts)
    pool = tuple(torch.cat([part, _moved(part), _moved(part, -2.0)]) for part in probe)
    losses = _losses_without_trace(twin, loss, probe)
    for places in _compositions(n, size):
        known = places < n
        found = _losses_without_trace(twin, loss, tuple(part[places] for part in pool))
        if known.any() and not _same(found[known], losses[places[known]]):
            raise _mixes("a full block moved the losses of its records")
    if rules:
        for places in (torch.arange(size) % n, torch.arange(size).eq(size // 2).long()):
            with _unchanged(twin):
                if not _same_gradients(twin, loss, probe, places):
                    raise _mixes("a full block moved the gradients of its records")


def _check_probe(parts: Parts) -> int:
    n = record_count(parts)
    if n < 2:
        raise UsageError("a probe needs at least two records, drawn from the schema")
    return n


def _twin(model: nn.Module, parts: Parts) -> tuple[nn.Module, Parts]:
    """A float64 copy with jittered weights, and the probe records in float64."""
    twin = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            jitter = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(jitter.to(parameter.device), alpha=0.05)
    return twin, tuple(part.double() if part.is_floating_point() else part for part in parts)


def _one_by_one(model: nn.Module, loss: Loss, probe: Parts) -> Tensor:
    """The gradient of each record alone, [n, p]."""
    parameters = trainable(model)
    rows = []
    for record in range(len(probe[0])):
        with torch.enable_grad():
            losses = loss(model, tuple(part[record : record + 1] for part in probe))
        check_losses(losses, 1)
        found = torch.autograd.grad(losses.sum(), parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([gradient.reshape(-1) for gradient in found]))
    return torch.stack(rows)


def _agrees(model: nn.Module, loss: Loss, probe: Parts, rows: Tensor) -> bool:
    try:
        terms = capture(model, loss, probe)
    except PrivacyRefused:
        return False
    weights = torch.linspace(1.0, 2.0, len(rows), dtype=torch.float64, device=rows.device)
    norms, total = _summed(trainable(model), terms, weights)
    return _same(total, weights @ rows) and _same(norms, rows.square().sum(1))


def _same_gradients(model: nn.Module, loss: Loss, probe: Parts, places: Tensor) -> bool:
    """Whether records have the same gradients by rule at these places of a block as in the probe alone."""
    places = places.to(probe[0].device)
    weights = torch.linspace(1.0, 2.0, len(places), dtype=torch.float64, device=places.device)
    shares = weights.new_zeros(len(probe[0])).index_add(0, places, weights)
    parameters = trainable(model)
    small = _summed(parameters, capture(model, loss, probe), shares)
    block = _summed(parameters, capture(model, loss, tuple(part[places] for part in probe)), weights)
    return _same(block[1], small[1]) and _same(block[0], small[0][places])


def _summed(parameters: list[nn.Parameter], terms: Terms, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms [n], and the sum of factor * gradient, flat."""
    norms, weights = torch.zeros_like(factors), Weights(factors)
    pieces = []
    for parameter in parameters:
        total = factors.new_zeros(parameter.shape)
        if parameter in terms:
            norms += terms[parameter].squared_norms()
            terms[parameter].write_to(total.fill_(math.nan), weights)
        pieces.append(total.flatten())
    return norms, torch.cat(pieces)


def _compositions(n: int, size: int) -> Iterator[Tensor]:
    """Blocks of the probe's records 0..n-1 and the moved ones n..3n-1: [size] each; see the caller."""
    tiled, spots = torch.arange(size) % n, (0, size // 2, size - 1)
    yield tiled
    for record in range(n):
        spot = torch.tensor(spots[record % len(spots)])
        yield tiled.index_fill(0, spot, n + record)
        yield tiled.index_fill(0, spot, 2 * n + record)
        yield torch.full((size,), record).index_fill(0, spot, (record + 1) % n)


def _not_one_by_one(why: str) -> PrivacyRefused:
    return PrivacyRefused(
        f"the loss cannot be taken one record at a time ({why}), so no record's influence is bounded; write it "
        "for one record, without branches on values"
    )


def _mixes(how: str) -> PrivacyRefused:
    return PrivacyRefused(
        f"the loss mixes records: {how}, so no record's influence is bounded; write the loss for one record, "
        "without statistics of the batch"
    )


def _refuse_by_name(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BATCH_NORMS):
            raise PrivacyRefused(
                f"{type(module).__name__} at '{name}' mixes the records of a batch, so no record's influence "
                "is bounded; use LayerNorm or GroupNorm"
            )
    saved = model.state_dict()
    for name, _ in model.named_buffers(remove_duplicate=False):
        if name not in saved:
            raise PrivacyRefused(
                f"the buffer '{name}' is not saved with the model; register it as persistent"
            )


def _losses_without_trace(model: nn.Module, loss: Loss, parts: Parts) -> Tensor:
    # gradients are on, as they are in training
    with torch.enable_grad(), torch.random.fork_rng(devices=[]), _unchanged(model):
        coins = _coins(parts[0])
        losses = loss(model, parts)
        if not torch.equal(coins, _coins(parts[0])):
            raise PrivacyRefused(
                "the loss draws from torch's generator; pass its noise as a part of the records"
            )
    check_losses(losses, len(parts[0]))
    return losses.detach()


def _coins(like: Tensor) -> Tensor:
    """The states of torch's generators that a model of these records could draw from."""
    own = torch.random.get_rng_state()
    return torch.cat([own, torch.cuda.get_rng_state(like.device)]) if like.is_cuda else own


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Refuse a call that leaves anything in the model: what it holds stays the same objects and values."""
    before = _held(model)
    copies = {path: copy.deepcopy(x) for path, x in before.items() if isinstance(x, Tensor | np.ndarray)}
    yield
    after = _held(model)
    for path in before | after:
        was, now = before.get(path, copies), after.get(path, copies)
        same = was == now if type(was) is type(now) and isinstance(was, _PLAIN) else was is now
        if not same or (path in copies and not bool((copies[path] == now).all())):
            raise PrivacyRefused(
                f"the forward pass changes '{_named(path)}' by the data, unclipped; remove it"
            )


def _held(model: nn.Module) -> dict[tuple[Any, ...], Any]:
    """All that a model's attributes lead to through modules, containers and plain objects, by path."""
    found: dict[tuple[Any, ...], Any] = {}
    left: list[tuple[tuple[Any, ...], Any]] = [((), model)]
    seen: set[int] = set()
    while left:
        path, value = left.pop()
        found[path] = value
        if id(value) not in seen:
            seen.add(id(value))
            left += [((*path, step), part) for step, part in _inside(value)]
    return found


def _inside(value: object) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Tensor | np.ndarray | type):
        return ()
    if isinstance(value, list | tuple | deque):
        return enumerate(value)
    if isinstance(value, set | frozenset):
        return dict.fromkeys(value).items()
    return (value if isinstance(value, dict) else getattr(value, "__dict__", {})).items()


def _named(path: tuple[Any, ...]) -> str:
    hidden = {"_parameters", "_buffers", "_modules"}
    return ".".join(step for step in path if isinstance(step, str) and step not in hidden)


def _with_other(parts: Parts, record: int) -> Parts:
    """The same records but one, which takes its neighbor's values (numbers are moved besides)."""
    chosen = torch.arange(len(parts[0]), device=parts[0].device) == record
    return tuple(torch.where(chosen.view(-1, *[1] * (p.ndim - 1)), _moved(p), p) for p in parts)


def _moved(part: Tensor, by: float = 1.5) -> Tensor:
    """Each record's neighbor, and numbers moved out of the schema's domain besides."""
    other = part.roll(-1, 0)
    return other * by + 0.25 if part.is_floating_point() else other


def _same(left: Tensor, right: Tensor) -> bool:
    return bool(((left - right).abs() <= _TOLERANCE * right.abs().max()).all())  # nan is never the same
