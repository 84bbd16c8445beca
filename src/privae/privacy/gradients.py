"""Sums of per-record gradients, each clipped, from one backward pass, none of them stored.

Two paths give the same sum. *By rule*: for layers that have one (see `layers.capture.RULES`) norms come first,
then one product a parameter. *vmap*: every other model, one gradient a record, in chunks. `supported` compares
both on probe records with a loop over single records, and says which may be used.

Besides float64 rounding (see `slack`) the bound rests on one assumption about the arithmetic library: in a
block of fixed shape a record gets the same bits wherever it stands and whoever else is there. Blocks of proved
sums are padded for it, to multiples of 64 records: torch's kernels treat the numbers beyond a multiple of their
vectors otherwise, and a kink of the network can turn a last bit into another gradient. Seen to hold on CPUs with
1, 2 and 4 threads, not with 3; guarantees list it as not covered.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from privae.errors import UsageError
from privae.layers import probes
from privae.layers.capture import Terms, capture
from privae.layers.probes import refuse_mixing
from privae.layers.records import Loss, Parts, gradient_rows, record_count, remember, squares, trainable
from privae.layers.term import CANCELLING, GRAM_PLACES, Rows, Weights
from privae.privacy.clipping import Clipping, clipping_of
from privae.privacy.sampling import MAX_BATCH

__all__ = [
    "Loss",
    "Parts",
    "Path",
    "Precision",
    "Summation",
    "clipped_gradient_sum",
    "refuse_mixing",
    "refuse_mixing_in_blocks",
    "slack",
    "supported",
    "trainable",
]

Path = Literal["by rule", "vmap"]
Precision = Literal["proved", "float32"]

VECTORS = 64  # records that padded blocks are a multiple of
Observe = Callable[[Float64[Tensor, "b k"]], None]

_CELLS = 2**24  # numbers of per-record gradients held at a time
_NORM_ERROR = 2.0**-14  # of computed norms (`layers.records.squares`)
_BFLOAT16_ERROR = 2.0**-7  # two factors, each rounded by 2^-8 / (1 + 2^-8): less than 2^-7 together


@dataclass(frozen=True)
class Summation:
    """How a gradient sum is formed: the path that `supported` named, the precision, the records of a block.

    precision "proved": sums in float64, whose error `slack` bounds. "float32": faster, and floating-point
    summation is then not covered by the guarantee (guarantees.md rule 2). Either way computed norms of gradients are
    too small by a relative 2^-14 at most (`layers.records.squares`), which is charged.
    micro_batch: most records taken at a time. Proved blocks are padded to the next multiple of 64 above it, so that
    it should lie a little above the expected batch, or well below.
    bfloat16: matrix products of float32 numbers round their factors to bfloat16 where the processor multiplies
    those (AMX, AVX-512; on a GPU, TF32); weights, norms and totals keep their precision. Sums are formed of the
    numbers whose norms were taken; only with precision "float32" are these rounded again, which `slack` charges.
    """

    path: Path = "vmap"
    precision: Precision = "proved"
    micro_batch: int = 512
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise UsageError("micro_batch must be at least 1")

    @property
    def block(self) -> int:
        """Records that a padded block holds."""
        return -(-self.micro_batch // VECTORS) * VECTORS

    @property
    def slack(self) -> float:
        """What rounding adds to the sensitivity of this sum; see the function `slack`."""
        return slack(self.precision, self.block, bfloat16=self.bfloat16)

    @property
    def dtype(self) -> torch.dtype:
        """What sums by rule are formed in."""
        return torch.float32 if self.precision == "float32" else torch.float64


BY_VMAP = Summation()


def slack(summation: Precision, micro_batch: int, *, bfloat16: bool = False) -> float:
    """What rounding adds to the sensitivity of a gradient sum, relative to clip_norm.

    Proof for "proved": a block adds m = micro_batch rows, of at most GRAM_PLACES places each where places are
    added in the same product, and at most ceil(B / m) blocks are added, B = MAX_BATCH. So each entry goes
    through at most k = 64 m + ceil(B / m) + 3 roundings of 2^-53 (product and factor included). What is rounded
    are the summands: a clipped row, of norm at most C; or its places, whose norms add up to at most C / sqrt(K)
    with K = CANCELLING, for a record below that is formed outright. So the sum is off by at most
    k 2^-53 B C / sqrt(K); two neighboring sums are both off, and computed norms are too small by a relative
    2^-14 at most.
    For "float32" the summation is stated as not covered; computed norms are charged all the same, and bfloat16
    factors. A product of factors with one place is then longer by their two roundings at most. Where places are
    added, which may cancel, factors stay float32 (`layers.term.Outer`), or rows are formed and then measured.
    Source: Casacuberta et al. 2022, arXiv:2207.10635, for why it is charged at all.

    >>> 0 < slack("proved", 512) < 1e-3
    True
    """
    if summation == "float32":
        return _NORM_ERROR + (_BFLOAT16_ERROR if bfloat16 else 0.0)
    roundings = GRAM_PLACES * micro_batch - (-MAX_BATCH // micro_batch) + 3
    return roundings * MAX_BATCH / 2**52 / math.sqrt(CANCELLING) + _NORM_ERROR


def clipped_gradient_sum(  # noqa: PLR0913  the last two are for loops that train
    model: nn.Module,
    loss: Loss,
    parts: Parts,
    clipping: Clipping | float,
    summation: Summation = BY_VMAP,
    observe: Observe | None = None,
    out: Float[Tensor, "p"] | None = None,
) -> Float[Tensor, "p"]:
    """Sum over records of the gradient of that record's loss, each first scaled to L2 norm <= clip_norm.

    Shapes: parts, each [n, ...] -> [p], flat, in the order of the model's trainable parameters: float64, or
    float32 for precision "float32" by rule. A record may be a person: parts [n, k, ...] of k rows, and a loss
    that adds them up. observe is called with the squared norms [b, k] of the records of each block, by parameter:
    it is on the private side. out: an earlier result to write over, so that no memory is taken at each step.
    Guarantee: adding or removing one record changes the result by at most clip_norm * (1 + summation.slack),
    provided that the path is the one that `supported` named, `refuse_mixing` and `refuse_mixing_in_blocks`
    passed, and the loss does on all records what it did on the probe's.
    Edges: no records -> zeros; a record whose gradient has nan or inf counts as zeros; clip_norm = inf ->
    plain sum. No hook, gradient or buffer is left on the model, also after an exception.
    Errors: UsageError for parts that disagree about n, or a loss that is not one number a record.
    Source: arXiv:1607.00133 (clipping), arXiv:2210.00038 (one backward pass, book-keeping).
    """
    clipping = clipping_of(clipping)
    parameters = trainable(model)
    dtype = summation.dtype if summation.path == "by rule" else torch.float64
    if out is None or out.dtype != dtype:
        out = torch.empty(sum(p.numel() for p in parameters), dtype=dtype, device=parameters[0].device)
    total = out.zero_() if summation.path == "vmap" or not record_count(parts) else out
    with _arithmetic(bfloat16=summation.bfloat16):
        for start, (block, count) in enumerate(_blocks(parts, summation)):
            if summation.path == "vmap":
                squared = _add_by_vmap(total, (model, loss, block), clipping, count)
            else:
                terms = capture(model, loss, block)
                squared = _add_terms(total, parameters, terms, clipping, count, over=not start)
            if observe is not None:
                observe(squared)
    return total


def supported(model: nn.Module, loss: Loss, probe_parts: Parts) -> Path:
    """The path that may sum this model's gradients: "by rule" if the rules pass the probe, else "vmap".

    See `layers.probes.by_rule`. Errors: PrivacyRefused if the loss cannot be taken one record at a time.
    """
    return "by rule" if probes.by_rule(model, loss, probe_parts) else "vmap"


def refuse_mixing_in_blocks(model: nn.Module, loss: Loss, probe_parts: Parts, summation: Summation) -> None:
    """Raise PrivacyRefused if a probe record's loss or gradient is another one in a block of this summation.

    See `layers.probes.refuse_mixing_in_blocks`.
    """
    rules = summation.path == "by rule"
    probes.refuse_mixing_in_blocks(model, loss, probe_parts, summation.block, rules=rules)


def _blocks(parts: Parts, summation: Summation) -> Iterator[tuple[Parts, int]]:
    """Blocks of at most micro_batch records, and how many are real; padding repeats the block's own."""
    n, size = record_count(parts), summation.micro_batch
    for start in range(0, n, size):
        count = min(size, n - start)
        if summation.precision == "float32" or count == summation.block:
            yield tuple(part[start : start + count] for part in parts), count
            continue
        # privacy: kernels order additions by shape, so the shape must not tell how full it is
        places = start + torch.arange(summation.block, device=parts[0].device) % count
        yield tuple(part[places] for part in parts), count


def _add_terms(
    total: Tensor,
    parameters: list[nn.Parameter],
    terms: Terms,
    clipping: Clipping,
    count: int,
    *,
    over: bool,
) -> Tensor:
    """Add the clipped sum of the first `count` records of a block, or write it over whatever `total` held.

    Returns: the squared norms of these records, [count, k].
    """
    if not terms:
        if over:
            total.zero_()
        return total.new_zeros(count, len(parameters), dtype=torch.float64)
    memo = remember(tensor for term in terms.values() for tensor in term.asked())
    norms = {parameter: term.squared_norms(memo) for parameter, term in terms.items()}
    unused = torch.zeros_like(next(iter(norms.values())))
    squared = torch.stack([norms.get(parameter, unused) for parameter in parameters], 1)
    weights = _weights(clipping.factors(squared), count)
    pieces = torch.split(total, [p.numel() for p in parameters])
    for parameter, piece, weight in zip(parameters, pieces, weights, strict=True):
        if over and parameter not in terms:
            piece.zero_()
        elif parameter in terms:
            term = terms[parameter]
            (term.write_to if over else term.add_to)(piece.view(parameter.shape), weight)
    return squared[:count]


def _weights(factors: Tensor, count: int) -> list[Weights]:
    """Weights by parameter, of the first `count` records; one for all where a record has one factor."""
    columns = 1 if factors.stride(1) == 0 else factors.shape[1]
    if count < len(factors):
        real = torch.arange(len(factors), device=factors.device) < count
        factors = factors * real[:, None]
    found = [Weights(factors[:, column]) for column in range(columns)]
    return found * factors.shape[1] if columns == 1 else found


def _add_by_vmap(
    total: Tensor, work: tuple[nn.Module, Loss, Parts], clipping: Clipping, count: int
) -> Tensor:
    """The same, by the gradient of each record."""
    model, loss, block = work
    seen = []
    sizes = [p.numel() for p in trainable(model)]
    size = max(1, _CELLS // sum(sizes))
    for start in range(0, count, size):
        rows = gradient_rows(model, loss, tuple(part[start : start + size] for part in block)).double()
        pieces = torch.split(rows, sizes, 1)
        squared = torch.stack([squares(piece) for piece in pieces], 1)
        weights = _weights(clipping.factors(squared), count - start)
        for place, piece in enumerate(pieces):
            Rows(piece).add_to(torch.split(total, sizes)[place], weights[place])
        seen.append(squared[: count - start])
    return torch.cat(seen)


@contextmanager
def _arithmetic(*, bfloat16: bool) -> Iterator[None]:
    """Matrix products of float32 numbers by bfloat16 or by float32 factors, and the caller's settings afterwards."""
    before, algorithms = torch.get_float32_matmul_precision(), torch.backends.cudnn.flags
    torch.set_float32_matmul_precision("medium" if bfloat16 else "highest")
    try:
        # privacy: a record's gradient may not depend on which algorithm a trial run found fastest
        with algorithms(enabled=True, benchmark=False, deterministic=True, allow_tf32=bfloat16):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
