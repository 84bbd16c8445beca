"""Records: what a loss must give for them, the gradient of each by vmap (exact and slow), and norms of their rows."""

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Final

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from privae.errors import UsageError

Parts = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Parts], Tensor]
"""(model, parts of n records, each [n, ...]) -> loss of each record [n]; parts of one record -> a scalar."""
Memo = dict[tuple[object, ...], Tensor]
"""Squared norms of the rows of tensors that several terms share, for the time of one pass."""

_LEAST: Final = 2.0**-50  # norm of a piece of float32 numbers


class _Objective(nn.Module):
    """The loss as a module, so that parameters can be swapped for one call without touching the model."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, *parts: Tensor) -> Tensor:
        return self.loss(self.model, parts)


def gradient_rows(model: nn.Module, loss: Loss, parts: Parts) -> Float[Tensor, "n p"]:
    """The gradient of each record, in the order of the trainable parameters: [n, p]."""
    objective = _Objective(model, loss)
    values = {name: p.detach() for name, p in objective.named_parameters() if p.requires_grad}

    def one(values: dict[str, Tensor], record: Parts) -> Tensor:
        value: Tensor = torch.func.functional_call(objective, values, record)
        return value

    with torch.enable_grad():
        found = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0))(values, parts)
    return torch.cat([found[name].reshape(len(parts[0]), -1) for name in values], dim=1)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The model's parameters that require a gradient, in their registered order, each once.

    Errors: UsageError if there is none.
    """
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not found:
        raise UsageError("the model has no trainable parameter; leave the gradient phase out")
    return found


def record_count(parts: Parts) -> int:
    """Number of records. Errors: UsageError for parts that disagree about it."""
    if not parts or any(part.ndim == 0 for part in parts) or len({len(part) for part in parts}) > 1:
        raise UsageError("the parts of the records must be tensors [n, ...] with the same n")
    return len(parts[0])


def check_losses(losses: Tensor, n: int) -> None:
    """Raise UsageError unless there is one loss a record, [n]."""
    if losses.shape != (n,):
        raise UsageError(
            "the loss must be one number a record: a tensor [n], not a sum or mean over the batch"
        )


def flat(rows: Tensor) -> Tensor:
    """[n, ...] -> [n, d]."""
    return rows.reshape(rows.shape[0], math.prod(rows.shape[1:]))


def squares(rows: Float[Tensor, "n *shape"]) -> Float64[Tensor, "n"]:
    """Squared norm of each row, [n], accumulated in float64; its root is too small by a relative 2^-15 at most.

    Proof: of float64 rows everything is float64. Of float32 rows, pieces of m <= 512 squares are added in float32,
    in any order: a sum of non-negative terms is then off by a relative (m + 1) 2^-24 at most, and its root by half
    of that and 2^-24, unless squares underflow. Those are of numbers below 2^-63, and are 512 * 2^-126 together
    at most: 2^-17 of the square of a norm above 2^-50, which every piece is said to have at least. A piece that
    overflows is inf, and its record is left out. All else is added in float64.
    """
    matrix = flat(rows)
    if _in_pieces(matrix):
        return _raised([_short(matrix)])[0]
    # pieces of this many rows stay in the cache while their numbers are converted
    size = max(1, 2**16 // max(matrix.shape[1], 1))
    found = [torch.linalg.vector_norm(x, dim=1, dtype=torch.float64) for x in torch.split(matrix, size)]
    # a norm this small is said to be larger, for its square would vanish beside that of another factor
    return (
        torch.cat(found).clamp(min=2.0**-400).square() if found else matrix.new_zeros(0, dtype=torch.float64)
    )


@cache
def _piece(width: int) -> int:
    """The largest divisor of a row's width up to 512; 0 if it is too small to be worth it."""
    found = next((size for size in range(min(width, 512), 0, -1) if width % size == 0), 0)
    return found if found == width or found >= 32 else 0


def remember(tensors: Iterable[Tensor]) -> Memo:
    """`squares` of many tensors [n, ...] for `remembered`, those of float32 rows all at once.

    Each takes a handful of operations that are over before they have begun; so it is one handful for all.
    """
    found = {_place(tensor): flat(tensor) for tensor in tensors if tensor.is_contiguous()}
    found = {place: matrix for place, matrix in found.items() if _in_pieces(matrix)}
    return dict(zip(found, _raised([_short(matrix) for matrix in found.values()]), strict=True))


def remembered(rows: Tensor, memo: Memo | None) -> Tensor:
    """`squares`, taken once for all tensors that are the same numbers in memory.

    Layers share an input; a weight and a bias share a gradient.
    """
    if memo is None or not rows.is_contiguous():  # a copy's place in memory says nothing
        return squares(rows)
    place = _place(rows)
    if place not in memo:
        memo[place] = squares(rows)
    return memo[place]


def _place(rows: Tensor) -> tuple[object, ...]:
    """Where contiguous rows lie."""
    return rows.data_ptr(), rows.shape[0], rows.numel(), rows.dtype


def _in_pieces(matrix: Tensor) -> bool:
    return matrix.dtype == torch.float32 and _piece(matrix.shape[1]) > 0


def _short(matrix: Tensor) -> Tensor:
    """Norms of the pieces of float32 rows: [n, d] -> [n, pieces]."""
    piece = _piece(matrix.shape[1])
    norms: Tensor = torch.linalg.vector_norm(matrix.reshape(-1, piece), dim=1)
    return norms.view(matrix.shape[0], matrix.shape[1] // piece)


def _raised(norms: list[Tensor]) -> list[Tensor]:
    """Squared norms of rows, [n] each, from those of their pieces, [n, pieces] each."""
    if not norms:
        return []
    raised = torch.cat(norms, 1).clamp_(min=_LEAST).double().square_()
    parts = torch.split(raised, [x.shape[1] for x in norms], 1)
    return [part[:, 0] if part.shape[1] == 1 else part.sum(1) for part in parts]
