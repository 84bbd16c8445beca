"""The gradient of each record by vmap: exact for every model that takes one record at a time, and slow."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from privae.errors import UsageError

Parts = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Parts], Tensor]
"""(model, parts of n records, each [n, ...]) -> loss of each record [n]; parts of one record -> a scalar."""


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
