"""Terms: the gradients of all records for one parameter, in the form in which a layer gives them.

`Outer`: products of what came in and what flows back, added over places (Linear, convolutions, recurrences).
`Rows`: given outright (biases, scales). `Tokens`: rows of a table (embeddings). Norms and sums are formed of
the same numbers: a norm that loses its digits where terms cancel would let a record pass unclipped, so a Gram
norm is believed only where little cancels.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from privae.layers.records import Memo, flat, remembered, squares

KEPT: Final = 2**22  # numbers of per-record gradients of one parameter that are kept between norm and sum
CHUNK: Final = 2**23  # numbers of per-record gradients formed at a time
GRAM_PLACES: Final = 64  # places a record may have where its norm comes from Gram matrices
CANCELLING: Final = 2.0**-10  # of (sum of |left| |right|)^2: below it a record's gradient is formed outright
_PASS: Final = 100  # multiplications that cost as much as writing and reading one number of a gradient


@final
class Weights:
    """Factors of records, [n] float64, with what every sum asks of them worked out once."""

    def __init__(self, factors: Float64[Tensor, "n"]) -> None:
        self.factors = factors
        self.kept = factors > 0
        self.all_kept = bool(self.kept.all())
        self._cast: dict[torch.dtype, Tensor] = {torch.float64: factors}

    def to(self, dtype: torch.dtype) -> Tensor:
        """The factors in the precision of a sum."""
        if dtype not in self._cast:
            # a factor that would lose digits below float32's normal numbers is 0
            self._cast[dtype] = torch.where(self.factors < 2.0**-126, 0.0, self.factors).to(dtype)
        return self._cast[dtype]

    def part(self, part: slice) -> "Weights":
        """The weights of these records."""
        whole = part.indices(len(self.factors)) == (0, len(self.factors), 1)
        return self if whole else Weights(self.factors[part])

    def cleared(self, rows: Tensor) -> Tensor:
        """The rows, zeros where the factor is 0: 0 * nan is nan, so that weighing with 0 is not enough."""
        return rows if self.all_kept else torch.where(self.kept.view(-1, *[1] * (rows.ndim - 1)), rows, 0.0)


class Term(ABC):
    """Gradients of n records for one parameter."""

    @property
    @abstractmethod
    def n(self) -> int:
        """Number of rows: records, or k rows for each of n / k units until `grouped`."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Numbers in one gradient."""

    @abstractmethod
    def grouped(self, rows: int) -> "Term":
        """The same for units of `rows` consecutive rows each, whose gradients add up."""

    @abstractmethod
    def rows(self, part: slice) -> Tensor:
        """Gradients of these records outright: [b, *parameter.shape]."""

    def joined(self, others: "Sequence[Term]", *, alike: bool) -> "Term":  # noqa: ARG002
        """The sum of all. alike: products are arranged alike, for they come from calls of one layer."""
        return Together((self, *others))

    def asked(self) -> tuple[Tensor, ...]:
        """Tensors, [n, ...], of whose rows `squared_norms` will ask the norms."""
        return ()

    def squared_norms(self, memo: Memo | None = None) -> Float64[Tensor, "n"]:  # noqa: ARG002
        """Squared norm of each record's gradient, [n], accumulated in float64."""
        return torch.cat([squares(rows) for _, rows in self._chunks()])

    def add_to(self, total: Tensor, weights: Weights) -> None:
        """Add the sum of factor * gradient to `total`, in its precision; records of factor 0 are left out."""
        for part, rows in self._chunks():
            _add_rows(total.view(-1), rows, weights.part(part))

    def write_to(self, total: Tensor, weights: Weights) -> None:
        """The same, over whatever `total` held."""
        self.add_to(total.zero_(), weights)

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        size = max(1, CHUNK // max(self.size, 1))
        for start in range(0, self.n, size):
            part = slice(start, min(start + size, self.n))
            yield part, self.rows(part)


@final
@dataclass(eq=False)
class Rows(Term):
    """Gradients given outright. values: [n, *parameter.shape]."""

    values: Float[Tensor, "n *shape"]

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.values)

    @property
    def size(self) -> int:
        """Numbers in one gradient."""
        return math.prod(self.values.shape[1:])

    def grouped(self, rows: int) -> "Rows":
        """Gradients of consecutive rows, added."""
        return Rows(torch.unflatten(self.values, 0, (-1, rows)).sum(1))

    def rows(self, part: slice) -> Tensor:
        """The values themselves."""
        return self.values[part]

    def joined(self, others: Sequence[Term], *, alike: bool) -> Term:
        """Values add up."""
        rows = [self, *(term for term in others if isinstance(term, Rows))]
        if len(rows) <= len(others):
            return super().joined(others, alike=alike)
        return Rows(torch.stack([term.values for term in rows]).sum(0))

    def asked(self) -> tuple[Tensor, ...]:
        """The values."""
        return (self.values,)

    def squared_norms(self, memo: Memo | None = None) -> Float64[Tensor, "n"]:
        """Squared norm of each record's gradient, [n]."""
        return remembered(self.values, memo)


@final
@dataclass(eq=False)
class Outer(Term):
    """Gradient of record i = sum over places t of left[i, t]' right[i, t].

    Shapes: left [n, t, p], right [n, t, q] for gradients [p, q]; or [n, G, t, p] and [n, G, t, q] for
    [G, p, q]. arrange: [*lead, (G,) p, q] -> [*lead, *parameter.shape], for any leading axes; None = it is a
    matrix [p, q] already.
    One place: the norm is |left| |right| and the sum is one matrix product; nothing is formed for a record.
    Few places: norms by Gram matrices, the sum again one product; records in which much cancels are formed
    outright. Else every record's gradient is formed, `KEPT` numbers of it kept for the sum.
    """

    left: Float[Tensor, "n *places p"]
    right: Float[Tensor, "n *places q"]
    arrange: Callable[[Tensor], Tensor] | None = None
    _outright: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.left)

    @property
    def size(self) -> int:
        """Numbers in one gradient."""
        groups = self.left.shape[1] if self.left.ndim == 4 else 1
        return groups * self.left.shape[-1] * self.right.shape[-1]

    def grouped(self, rows: int) -> "Outer":
        """The rows of a unit are more places of it."""
        return Outer(_regrouped(self.left, rows), _regrouped(self.right, rows), self.arrange)

    def joined(self, others: Sequence[Term], *, alike: bool) -> Term:
        """Products of all are products at more places."""
        outer = [self, *(term for term in others if isinstance(term, Outer))]
        plain = all(term.arrange is None for term in outer)
        if len(outer) <= len(others) or not (alike or plain):
            return super().joined(others, alike=alike)
        left = torch.cat([term.left for term in outer], dim=-2)
        return Outer(left, torch.cat([term.right for term in outer], dim=-2), self.arrange)

    @cached_property
    def way(self) -> str:
        """The cheapest sound way to norms and sums: "factored", "Gram" or "outright"."""
        if self.left.ndim == 4:
            return "outright"
        t, p, q = self.left.shape[-2], self.left.shape[-1], self.right.shape[-1]
        if t == 1:
            return "factored"
        gram = 3 * t * t * (p + q) + t * p * q
        return "Gram" if t <= GRAM_PLACES and gram < _PASS * p * q else "outright"

    def rows(self, part: slice) -> Tensor:
        """Gradients of these records: [b, *parameter.shape]."""
        return self._arranged(self._products(part))

    def asked(self) -> tuple[Tensor, ...]:
        """Both factors, where the norm is the product of theirs."""
        return (self.left, self.right) if self.way == "factored" else ()

    def squared_norms(self, memo: Memo | None = None) -> Float64[Tensor, "n"]:
        """Squared norm of each record's gradient, [n]."""
        if self.way == "factored":
            return remembered(self.left, memo) * remembered(self.right, memo)
        if self.way == "Gram":
            found, doubtful = self._gram
            return found if doubtful is None else torch.where(doubtful, super().squared_norms(), found)
        if self.n * self.size > KEPT:
            return super().squared_norms()
        self._outright = self._products(slice(None))
        return squares(self._outright)

    def add_to(self, total: Tensor, weights: Weights) -> None:
        """Add the sum of factor * gradient to `total`; records of factor 0 are left out."""
        if self.way == "outright":
            self._add_outright(total, weights)
            return
        if self.way == "Gram" and self._gram[1] is not None:
            doubtful = self._gram[1]
            super().add_to(total, Weights(weights.factors * doubtful))
            weights = Weights(weights.factors * ~doubtful)
        product = self._weighed(total.dtype, weights)
        # privacy: what cancels between places makes a rounding of the factors large beside the norm
        with _whole_factors() if self.way == "Gram" else nullcontext():
            if self.arrange is None:
                total.addmm_(*product)
            else:
                total.add_(self._arranged(torch.mm(*product)))

    def write_to(self, total: Tensor, weights: Weights) -> None:
        """The same, over whatever `total` held: a product that is the whole sum is written there at once."""
        if self.way == "factored" and self.arrange is None:
            total.addmm_(*self._weighed(total.dtype, weights), beta=0)
        else:
            super().write_to(total, weights)

    def _weighed(self, dtype: torch.dtype, weights: Weights) -> tuple[Tensor, Tensor]:
        """The two matrices whose product is the sum of factor * gradient; the smaller one carries the factors."""
        left, right = (weights.cleared(x).to(dtype) for x in (self.left, self.right))
        factors = weights.to(dtype)[:, None, None]
        if left.numel() <= right.numel():
            left = left * factors
        else:
            right = right * factors
        return left.flatten(0, 1).T, right.flatten(0, 1)

    def _add_outright(self, total: Tensor, weights: Weights) -> None:
        if self._outright is None:
            super().add_to(total, weights)
            return
        found = torch.zeros(self.size, dtype=total.dtype, device=total.device)
        _add_rows(found, self._outright, weights)
        total.add_(self._arranged(found.view(self._outright.shape[1:])))

    @cached_property
    def _gram(self) -> tuple[Tensor, Tensor | None]:
        """Squared norms, and which of them are too small against their summands to be believed, if any."""
        found = torch.empty(self.n, dtype=torch.float64, device=self.left.device)
        largest = torch.empty_like(found)
        step = max(1, CHUNK // (self.left.shape[-2] * (self.left.shape[-1] + self.right.shape[-1])))
        for start in range(0, self.n, step):
            part = slice(start, min(start + step, self.n))
            left, right = self.left[part].double(), self.right[part].double()
            inner = (left @ left.mT, right @ right.mT)
            diagonals = [x.diagonal(dim1=1, dim2=2) for x in inner]
            torch.sum(inner[0] * inner[1], (1, 2), out=found[part])
            largest[part] = (diagonals[0] * diagonals[1]).sqrt().sum(1).square()
        doubtful = found < CANCELLING * largest
        return found, doubtful if bool(doubtful.any()) else None

    def _products(self, part: slice) -> Tensor:
        return self.left[part].mT @ self.right[part]

    def _arranged(self, product: Tensor) -> Tensor:
        return product if self.arrange is None else self.arrange(product)


@final
@dataclass(eq=False)
class Tokens(Term):
    """Gradient rows of a table: record[j] has the gradient rows[j] for table row token[j].

    Shapes: record, token [K] int64, rows [K, d], for n records and a table [count, d]. Equal pairs (record,
    token) are added first, so that norms are those of the sums.
    """

    record: Int64[Tensor, "k"]
    token: Int64[Tensor, "k"]
    gradients: Float[Tensor, "k d"]
    records: int
    count: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.records

    @property
    def size(self) -> int:
        """Numbers in one gradient, were it formed."""
        return self.count * self.gradients.shape[1]

    def grouped(self, rows: int) -> "Tokens":
        """The tokens of all rows of a unit are the unit's."""
        return Tokens(self.record // rows, self.token, self.gradients, self.records // rows, self.count)

    def joined(self, others: Sequence[Term], *, alike: bool) -> Term:
        """Tokens of all."""
        tokens = [self, *(term for term in others if isinstance(term, Tokens))]
        if len(tokens) <= len(others):
            return super().joined(others, alike=alike)
        record, token = (torch.cat([getattr(x, name) for x in tokens]) for name in ("record", "token"))
        return Tokens(record, token, torch.cat([x.gradients for x in tokens]), self.records, self.count)

    def rows(self, part: slice) -> Tensor:
        """Gradients of these records as tables: [b, count, d]."""
        start, stop, _ = part.indices(self.records)
        record, token, sums = self._pairs
        inside = (record >= start) & (record < stop)
        table = sums.new_zeros(stop - start, self.count, sums.shape[1])
        return table.index_put((record[inside] - start, token[inside]), sums[inside])

    def squared_norms(self, memo: Memo | None = None) -> Float64[Tensor, "n"]:  # noqa: ARG002
        """Squared norm of each record's gradient, [n]."""
        record, _, sums = self._pairs
        empty = torch.zeros(self.records, dtype=torch.float64, device=sums.device)
        return empty.index_add(0, record, squares(sums))

    def add_to(self, total: Tensor, weights: Weights) -> None:
        """Add the sum of factor * gradient to the table `total` [count, d]."""
        record, token, sums = self._pairs
        each = weights.factors[record, None]
        scaled = torch.where(each > 0, sums * each, 0.0).to(total.dtype)
        total.view(self.count, -1).index_add_(0, token, scaled)

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """(record, token, sum of its rows in float64) of the distinct pairs."""
        pairs, place = torch.unique(self.record * self.count + self.token, return_inverse=True)
        empty = torch.zeros(len(pairs), self.gradients.shape[1], dtype=torch.float64, device=pairs.device)
        return pairs // self.count, pairs % self.count, empty.index_add(0, place, self.gradients.double())


@final
@dataclass(eq=False)
class Together(Term):
    """Gradients of one parameter from several places of a model that share no cheaper form: formed, then added."""

    parts: tuple[Term, ...]

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.parts[0].n

    @property
    def size(self) -> int:
        """Numbers in one gradient."""
        return self.parts[0].size

    def grouped(self, rows: int) -> "Together":
        """The same for units of several rows."""
        return Together(tuple(part.grouped(rows) for part in self.parts))

    def rows(self, part: slice) -> Tensor:
        """Gradients of these records, added over the parts."""
        rows = [term.rows(part) for term in self.parts]
        return torch.stack([row.to(torch.promote_types(row.dtype, rows[0].dtype)) for row in rows]).sum(0)


@contextmanager
def _whole_factors() -> Iterator[None]:
    """Products of float32 numbers without rounding their factors."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _add_rows(total: Tensor, rows: Tensor, weights: Weights) -> None:
    """Add the sum of factor * row to the flat total."""
    matrix = weights.cleared(flat(rows)).to(total.dtype)
    total.addmv_(matrix.T, weights.to(total.dtype))


def _regrouped(tensor: Tensor, rows: int) -> Tensor:
    if tensor.ndim == 3:
        return tensor.reshape(-1, rows * tensor.shape[1], tensor.shape[2])
    return torch.unflatten(tensor, 0, (-1, rows)).transpose(1, 2).flatten(2, 3)
