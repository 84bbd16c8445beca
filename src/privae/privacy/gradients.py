"""Sums of per-record gradients, each clipped, from one backward pass, none of them stored.

Two paths give the same sum. *By rule*: for Linear, LayerNorm and Embedding (see `rules`) norms come first,
then one matrix product a layer. *vmap*: every other model, one gradient a record, in chunks. `supported`
compares the two on probe records and says which may be used.

Besides float64 rounding (see `slack`) the bound rests on one assumption about the arithmetic library: in a
block of fixed shape a record gets the same bits wherever it stands and whoever else is there. Every block is
padded.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from privae.errors import PrivacyRefused, UsageError
from privae.privacy.clipping import check_clip_norm, clip_factors, clipped_sum
from privae.privacy.rules import all_covered, capture, check_losses, squared_norms, weighted_sum
from privae.privacy.sampling import MAX_BATCH

Parts = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Parts], Tensor]
"""(model, parts of n records, each [n, ...]) -> loss of each record [n]; parts of one record -> a scalar."""
Path = Literal["by rule", "vmap"]
Precision = Literal["proved", "float32"]

_TOLERANCE = 1e-8
_CELLS = 2**24  # numbers of per-record gradients held at a time
_NORM_ERROR = 2.0**-22  # of float64 norms of up to 2^30 numbers
_PLAIN = (bool, int, float, complex, str, bytes)
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

    @property
    def dtype(self) -> torch.dtype:
        """What sums by rule are formed in."""
        return torch.float32 if self.precision == "float32" else torch.float64


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
    provided that the path is the one that `supported` named, `refuse_mixing` and `refuse_mixing_in_blocks`
    passed, and the loss does on all records what it did on the probe's.
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
        uses = capture(model, loss, block)
        factors = clip_factors(squared_norms(uses, total, len(block[0])).sqrt(), clip_norm)
        factors[count:] = 0.0
        total += weighted_sum(parameters, uses, factors, summation.dtype)
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
    Errors: PrivacyRefused if the loss cannot be taken one record at a time, or leaves something in the model.
    """
    _check_probe(probe_parts)
    twin, probe = _twin(model, probe_parts)
    with _unchanged(twin):
        try:
            rows = _rows(twin, loss, probe)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise PrivacyRefused(
                f"the loss cannot be taken one record at a time ({type(error).__name__}), so no record's "
                "influence is bounded; write it for one record, without branches on values"
            ) from None
        return "by rule" if all_covered(twin) and _agrees(twin, loss, probe, rows) else "vmap"


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
        others = torch.arange(n) != record
        changed = _losses_without_trace(twin, loss, _with_other(probe, record))
        alone = _losses_without_trace(twin, loss, tuple(part[others] for part in probe))
        if not (_same(changed[others], losses[others]) and _same(alone, losses[others])):
            raise _mixes("changing one moved the loss of another")


def refuse_mixing_in_blocks(model: nn.Module, loss: Loss, probe_parts: Parts, summation: Summation) -> None:
    """Raise PrivacyRefused if a probe record's loss or gradient is another one in a block than in a small batch.

    Blocks are of the size that training pads to. They repeat the probe's records; or all of them with the
    first, middle or last one taken out for a moved one; or one record but for another at such a place (so that
    no maximum or count is reached already). Losses are compared in every block; norms and a weighted
    sum of gradients by rule in one block of each kind without moved records.
    Edges: as for `refuse_mixing`.
    """
    n, size = _check_probe(probe_parts), summation.micro_batch
    twin, probe = _twin(model, probe_parts)
    pool = tuple(torch.cat([part, _moved(part), _moved(part, -2.0)]) for part in probe)
    losses = _losses_without_trace(twin, loss, probe)
    for places in _compositions(n, size):
        known = places < n
        found = _losses_without_trace(twin, loss, tuple(part[places] for part in pool))
        if known.any() and not _same(found[known], losses[places[known]]):
            raise _mixes("a full block moved the losses of its records")
    if summation.path == "by rule":
        for places in (torch.arange(size) % n, torch.arange(size).eq(size // 2).long()):
            with _unchanged(twin):
                if not _same_gradients(twin, loss, probe, places):
                    raise _mixes("a full block moved the gradients of its records")


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


def _agrees(model: nn.Module, loss: Loss, probe: Parts, rows: Tensor) -> bool:
    try:
        uses = capture(model, loss, probe)
    except PrivacyRefused:
        return False
    weights = torch.linspace(1.0, 2.0, len(rows), dtype=torch.float64, device=rows.device)
    total = weighted_sum(trainable(model), uses, weights)
    norms = squared_norms(uses, rows, len(rows))
    return _same(total, weights @ rows) and _same(norms, rows.square().sum(1))


def _same_gradients(model: nn.Module, loss: Loss, probe: Parts, places: Tensor) -> bool:
    """Whether records have the same gradients by rule at these places of a block as in the probe alone."""
    small, block = capture(model, loss, probe), capture(model, loss, tuple(part[places] for part in probe))
    places = places.to(probe[0].device)
    weights = torch.linspace(1.0, 2.0, len(places), dtype=torch.float64, device=places.device)
    shares = weights.new_zeros(len(probe[0])).index_add(0, places, weights)
    parameters = trainable(model)
    totals = [weighted_sum(parameters, *pair) for pair in ((block, weights), (small, shares))]
    norms = squared_norms(small, shares, len(shares))[places]
    return _same(*totals) and _same(squared_norms(block, weights, len(places)), norms)


def _compositions(n: int, size: int) -> Iterator[Tensor]:
    """Blocks of the probe's records 0..n-1 and the moved ones n..3n-1: [size] each; see the caller."""
    tiled, spots = torch.arange(size) % n, (0, size // 2, size - 1)
    yield tiled
    for record in range(n):
        spot = torch.tensor(spots[record % len(spots)])
        yield tiled.index_fill(0, spot, n + record)
        yield tiled.index_fill(0, spot, 2 * n + record)
        yield torch.full((size,), record).index_fill(0, spot, (record + 1) % n)


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
        coins = torch.random.get_rng_state()
        losses = loss(model, parts)
        if not torch.equal(coins, torch.random.get_rng_state()):
            raise PrivacyRefused(
                "the loss draws from torch's generator; pass its noise as a part of the records"
            )
    check_losses(losses, len(parts[0]))
    return losses.detach()


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
    chosen = torch.arange(len(parts[0])) == record
    return tuple(torch.where(chosen.view(-1, *[1] * (p.ndim - 1)), _moved(p), p) for p in parts)


def _moved(part: Tensor, by: float = 1.5) -> Tensor:
    """Each record's neighbor, and numbers moved out of the schema's domain besides."""
    other = part.roll(-1, 0)
    return other * by + 0.25 if part.is_floating_point() else other


def _same(left: Tensor, right: Tensor) -> bool:
    return bool(((left - right).abs() <= _TOLERANCE * right.abs().max()).all())  # nan is never the same
