"""Sums of per-record gradients, each clipped, from one backward pass, none of them stored.

Two paths give the same sum. *By rule*: for Linear, LayerNorm and Embedding (see `rules`) norms come first,
then one matrix product a layer. *vmap*: every other model, one gradient a record, in chunks. `supported`
compares the two on probe records and says which may be used.

Besides float64 rounding (see `slack`) the bound rests on one assumption about the arithmetic library: in a
block of fixed shape a record gets the same bits wherever it stands and whoever else is there. Every block is
padded.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from privae.errors import PrivacyRefused, UsageError
from privae.privacy.clipping import check_clip_norm, clip_factors, clipped_sum
from privae.privacy.rules import RULES, Use, covered
from privae.privacy.sampling import MAX_BATCH

Parts = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Parts], Tensor]
"""(model, parts of n records, each [n, ...]) -> loss of each record [n]; parts of one record -> a scalar."""
Path = Literal["by rule", "vmap"]
Precision = Literal["proved", "float32"]

_TOLERANCE = 1e-8
_CELLS = 2**24  # numbers of per-record gradients held at a time
_NORM_ERROR = 2.0**-22  # of float64 norms of up to 2^30 numbers
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Summation:
    """How a gradient sum is formed: the path that `supported` named, the precision, the records of a block.

    precision "proved": sums in float64, whose error `slack` bounds. "float32": faster, and floating-point
    summation is then not covered by the guarantee (guarantees.md rule 2). Norms are float64 either way.
    micro_batch: every block is padded to this many records, so choose it near the expected batch or below.
    """

    path: Path = "vmap"
    precision: Precision = "proved"
    micro_batch: int = 512

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise UsageError("micro_batch must be at least 1")

    @property
    def slack(self) -> float:
        """What rounding adds to the sensitivity of this sum; see the function `slack`."""
        return slack(self.precision, self.micro_batch)


BY_VMAP = Summation()


def slack(summation: Precision, micro_batch: int) -> float:
    """What float64 rounding adds to the sensitivity of a gradient sum, relative to clip_norm.

    Proof: a block adds m = micro_batch rows and at most ceil(B / m) blocks are added, B = MAX_BATCH, so each
    entry goes through at most k = m + ceil(B / m) + 3 roundings (product and factor included); the clipped
    rows' norms add up to at most B C, so the sum is off by at most k 2^-53 B C. Two neighboring sums are both
    off, and computed norms by a relative 2^-22 at most. Nothing is charged for "float32": it is stated as not
    covered.
    Source: Casacuberta et al. 2022, arXiv:2207.10635, for why it is charged at all.

    >>> 0 < slack("proved", 512) < 1e-5
    True
    """
    if summation == "float32":
        return 0.0
    roundings = micro_batch - (-MAX_BATCH // micro_batch) + 3
    return roundings * MAX_BATCH / 2**52 + _NORM_ERROR


def clipped_gradient_sum(
    model: nn.Module, loss: Loss, parts: Parts, clip_norm: float, summation: Summation = BY_VMAP
) -> Float64[Tensor, "p"]:
    """Sum over records of the gradient of that record's loss, each first scaled to L2 norm <= clip_norm.

    Shapes: parts, each [n, ...] -> [p], flat, in the order of the model's trainable parameters.
    Guarantee: adding or removing one record changes the result by at most clip_norm * (1 + summation.slack),
    provided that `refuse_mixing` passed and the path is the one that `supported` named.
    Edges: no records -> zeros; a record whose gradient has nan or inf counts as zeros; clip_norm = inf ->
    plain sum. No hook, gradient or buffer is left on the model, also after an exception.
    Errors: UsageError for parts that disagree about n, or a loss that is not one number a record.
    Source: arXiv:1607.00133 (clipping), arXiv:2210.00038 (one backward pass, book-keeping).
    """
    check_clip_norm(clip_norm)
    parameters = trainable(model)
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device=parameters[0].device)
    for block, count in _blocks(parts, summation.micro_batch):
        if summation.path == "vmap":
            total += _sum_by_vmap(model, loss, block, count, clip_norm)
            continue
        uses = _capture(model, loss, block)
        factors = clip_factors(_squared_norms(uses, total, len(block[0])).sqrt(), clip_norm)
        factors[count:] = 0.0
        total += _weighted(parameters, uses, factors, summation.precision)
    return total


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The model's parameters that require a gradient, in their registered order, each once.

    Errors: UsageError if there is none.
    """
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not found:
        raise UsageError("the model has no trainable parameter; leave the gradient phase out")
    return found


def supported(model: nn.Module, loss: Loss, probe_parts: Parts) -> Path:
    """The path that may sum this model's gradients: "by rule" if both agree on the probe, else "vmap".

    Both run once on a float64 copy whose weights are jittered (so that a zero layer hides nothing); each
    record's norm and a weighted sum must agree to 1e-8. A layer without a rule, a parameter that two layers
    share or that is used outside its layer, an output changed in place: all end in "vmap". Probe records come
    from the schema, never from data.
    Errors: PrivacyRefused if the loss cannot be taken one record at a time.
    """
    _check_probe(probe_parts)
    twin, probe = _twin(model, probe_parts)
    try:
        rows = _rows(twin, loss, probe)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise PrivacyRefused(
            f"the loss cannot be taken one record at a time ({type(error).__name__}), so no record's "
            "influence is bounded; write it for one record, without branches on values"
        ) from None
    return "by rule" if _covered(twin) and _agrees(twin, loss, probe, rows) else "vmap"


def refuse_mixing(model: nn.Module, loss: Loss, probe_parts: Parts) -> None:
    """Raise PrivacyRefused if a record can move another's loss, or if the model keeps or draws anything.

    On a float64 copy and at least two probe records (from the schema, never data): each record in turn is
    changed, then left out, and no other loss may move; no parameter or buffer may change; torch's generator
    may not be used, for its draws go by a record's place in the batch. BatchNorm is refused by name.
    """
    _refuse_batch_norm(model)
    n = _check_probe(probe_parts)
    twin, probe = _twin(model, probe_parts)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        losses = _losses_without_trace(twin, loss, probe)
        for record in range(n):
            others = torch.arange(n) != record
            changed = _losses_without_trace(twin, loss, _with_other(probe, record))
            alone = _losses_without_trace(twin, loss, tuple(part[others] for part in probe))
            if not (_same(changed[others], losses[others]) and _same(alone, losses[others])):
                raise PrivacyRefused(
                    "the loss mixes records: changing one moved the loss of another, so no record's "
                    "influence is bounded; write the loss for one record, without statistics of the batch"
                )


def _blocks(parts: Parts, micro_batch: int) -> Iterator[tuple[Parts, int]]:
    """Blocks of exactly micro_batch records, and how many are real; the rest repeat the block's own."""
    n = _records(parts)
    for start in range(0, n, micro_batch):
        count = min(micro_batch, n - start)
        # privacy: kernels order additions by shape, so the shape must not tell how full it is
        places = start + torch.arange(micro_batch, device=parts[0].device) % count
        yield tuple(part[places] for part in parts), count


def _records(parts: Parts) -> int:
    if not parts or any(part.ndim == 0 for part in parts) or len({len(part) for part in parts}) > 1:
        raise UsageError("the parts of the records must be tensors [n, ...] with the same n")
    return len(parts[0])


def _check_probe(parts: Parts) -> int:
    n = _records(parts)
    if n < 2:
        raise UsageError("a probe needs at least two records, drawn from the schema")
    return n


def _capture(model: nn.Module, loss: Loss, block: Parts) -> list[Use]:
    """Run the loss once and its backward pass once, down to the outputs of the layers with a rule."""
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
    _check_losses(losses, len(block[0]))
    uses = _with_gradients(losses, [call for call in calls if call[2].requires_grad])
    if not all(_is_batch_led(use, len(block[0])) for use in uses):
        raise PrivacyRefused("a layer is not called with one row a record; sum its gradients by vmap")
    return uses


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


def _check_losses(losses: Tensor, n: int) -> None:
    if losses.shape != (n,):
        raise UsageError(
            "the loss must be one number a record: a tensor [n], not a sum or mean over the batch"
        )


def _squared_norms(uses: list[Use], like: Tensor, n: int) -> Tensor:
    total = like.new_zeros(n)
    for use in uses:
        total += RULES[type(use.layer)].squared_norms(use)
    return total


def _weighted(
    parameters: list[nn.Parameter], uses: list[Use], factors: Tensor, precision: Precision
) -> Tensor:
    """Flat sum over records of factor * gradient; a record of factor 0 is left out, whatever it holds."""
    dtype = torch.float32 if precision == "float32" else torch.float64
    found: dict[nn.Parameter, Tensor] = {}
    for use in uses:
        for name, value in RULES[type(use.layer)].weighted(use, factors, dtype).items():
            found[getattr(use.layer, name)] = value
    flat = [found[p].double().flatten() if p in found else factors.new_zeros(p.numel()) for p in parameters]
    return torch.cat(flat)


class _Objective(nn.Module):
    """The loss as a module, so that parameters can be swapped for one call without touching the model."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, *parts: Tensor) -> Tensor:
        return self.loss(self.model, parts)


def _sum_by_vmap(model: nn.Module, loss: Loss, block: Parts, count: int, clip_norm: float) -> Tensor:
    size = max(1, _CELLS // sum(p.numel() for p in trainable(model)))
    sums = []
    for start in range(0, count, size):
        rows = _rows(model, loss, tuple(part[start : start + size] for part in block))
        sums.append(clipped_sum(rows[: count - start], clip_norm))
    return torch.stack(sums).sum(0)


def _rows(model: nn.Module, loss: Loss, parts: Parts) -> Tensor:
    """The gradient of each record, [n, p]."""
    objective = _Objective(model, loss)
    values = {name: p.detach() for name, p in objective.named_parameters() if p.requires_grad}

    def one(values: dict[str, Tensor], record: Parts) -> Tensor:
        value: Tensor = torch.func.functional_call(objective, values, record)
        return value

    with torch.enable_grad():
        found = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0))(values, parts)
    return torch.cat([found[name].reshape(len(parts[0]), -1) for name in values], dim=1)


def _twin(model: nn.Module, parts: Parts) -> tuple[nn.Module, Parts]:
    """A float64 copy with jittered weights, and the probe records in float64."""
    twin = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            jitter = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(jitter.to(parameter.device), alpha=0.05)
    return twin, tuple(part.double() if part.is_floating_point() else part for part in parts)


def _covered(model: nn.Module) -> bool:
    """Whether each trainable parameter belongs to exactly one layer, and that layer has a rule."""
    owners = [
        (parameter, layer)
        for layer in model.modules()
        for _, parameter in layer.named_parameters(recurse=False, remove_duplicate=False)
        if parameter.requires_grad
    ]
    once = len({id(parameter) for parameter, _ in owners}) == len(owners)
    return once and all(covered(layer) for _, layer in owners)


def _agrees(model: nn.Module, loss: Loss, probe: Parts, rows: Tensor) -> bool:
    try:
        uses = _capture(model, loss, probe)
    except PrivacyRefused:
        return False
    weights = torch.linspace(1.0, 2.0, len(rows), dtype=torch.float64, device=rows.device)
    total = _weighted(trainable(model), uses, weights, "proved")
    norms = _squared_norms(uses, rows, len(rows))
    return _same(total, weights @ rows) and _same(norms, rows.square().sum(1))


def _refuse_batch_norm(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BATCH_NORMS):
            raise PrivacyRefused(
                f"{type(module).__name__} at '{name}' mixes the records of a batch, so no record's influence "
                "is bounded; use LayerNorm or GroupNorm"
            )


def _losses_without_trace(model: nn.Module, loss: Loss, parts: Parts) -> Tensor:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    coins = torch.random.get_rng_state()
    losses = loss(model, parts)
    _check_losses(losses, len(parts[0]))
    if not torch.equal(coins, torch.random.get_rng_state()):
        raise PrivacyRefused("the loss draws from torch's generator; pass its noise as a part of the records")
    for name, value in model.state_dict().items():
        if not torch.equal(before[name], value):
            raise PrivacyRefused(f"the forward pass changes '{name}' by the data, unclipped; remove it")
    return losses


def _with_other(parts: Parts, record: int) -> Parts:
    """The same records but one, which takes its neighbor's values (numbers are moved besides)."""
    changed = tuple(part.clone() for part in parts)
    for part in changed:
        other = part[(record + 1) % len(part)]
        part[record] = other * 1.5 + 0.25 if part.is_floating_point() else other
    return changed


def _same(left: Tensor, right: Tensor) -> bool:
    return bool(((left - right).abs() <= _TOLERANCE * right.abs().max()).all())  # nan is never the same
