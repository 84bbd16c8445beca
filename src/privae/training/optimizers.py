"""Optimizers and the average of weights, each on one flat vector, so that a step costs no loop over parameters.

They see released gradients only: whatever they do is post-processing, and costs nothing. Each can be saved and
goes on bit for bit where it was.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Literal, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from privae.errors import ArtifactError, UsageError

Name = Literal["sgd", "adam", "adam corrected"]

_FUSED = {"cpu", "cuda"}  # devices whose Adam is one pass over the vectors


class Optimizer(Protocol):
    """Moves a flat vector against a gradient, in place."""

    def step(self, values: Tensor, gradient: Tensor, rate: float) -> None:
        """Change values [p] by one step against gradient [p], which stays as it is."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Copies of all that the next step depends on, besides its arguments."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; ArtifactError if another kind of optimizer gave it."""
        ...


def optimizer_of(name: Name, momentum: float = 0.0, noise_std: float = 0.0) -> Optimizer:
    """The optimizer of that name; memory is taken at its first step.

    momentum is of "sgd" alone; noise_std, the standard deviation of the noise in each number of a gradient as
    `step` gets it, of "adam corrected" alone.
    Errors: UsageError for another name.
    """
    if name == "sgd":
        return Sgd(momentum)
    if name == "adam":
        return Adam()
    if name == "adam corrected":
        return CorrectedAdam(noise_std)
    raise UsageError("the optimizer is sgd, adam or adam corrected; choose one of them")


class FlatParameters:
    """Within its `with`, parameters are views of one vector `values`, in their order, each in row-major order.

    Shapes: values [p], p the sum of the parameters' sizes; a gradient of `clipped_gradient_sum` has the same.
    On leaving, also by an exception, the values are copied back to where each parameter lay before, with its
    strides, and the parameter lies there again: references from outside and tied modules see them. Gradients
    are not touched. `copy.deepcopy` of the model meanwhile gives a model of its own.
    Edges: a graph made before `values` changes in place may not be run backward after, and torch does not
    notice. Weights in channels_last are row-major meanwhile.
    Errors: UsageError for no parameters, several types or devices, or memory that two places share.
    """

    values: Tensor

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        if len({(parameter.dtype, parameter.device) for parameter in parameters}) != 1:
            raise UsageError(
                "the trained parameters must have one type and one device; use model.to(device, dtype)"
            )
        if _overlap(parameters):
            raise UsageError(
                "two trained parameters share memory; tie them as one parameter, or clone one of them"
            )
        self._parameters = tuple(parameters)
        self._originals: list[Tensor] = []

    def __enter__(self) -> Self:
        self._originals = [parameter.data for parameter in self._parameters]
        self.values = torch.cat([original.reshape(-1) for original in self._originals])
        for parameter, view in zip(self._parameters, self._views(), strict=True):
            parameter.data = view
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for parameter, original, view in zip(self._parameters, self._originals, self._views(), strict=True):
            original.copy_(view)
            parameter.data = original
        self._originals = []

    def _views(self) -> list[Tensor]:
        pieces = torch.split(self.values, [original.numel() for original in self._originals])
        return [piece.view(original.shape) for piece, original in zip(pieces, self._originals, strict=True)]


class _Memory:
    """What is kept from step to step: vectors like the values, all zeros at first, and the number of steps."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._count = 0
        self._vectors: tuple[Tensor, ...] = ()

    def state(self) -> dict[str, Tensor]:
        """Copies of all that the next step depends on, besides its arguments."""
        kept = zip(self._names, self._vectors, strict=False)  # no vectors before the first step
        return {name: vector.clone() for name, vector in kept} | {"count": torch.tensor(self._count)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; ArtifactError if another kind of optimizer gave it."""
        count = int(state["count"]) if "count" in state and state["count"].numel() == 1 else -1
        if count < 0 or set(state) != {"count", *(self._names if count else ())}:
            raise _of_another_kind()
        self._count = count
        self._vectors = tuple(state[name].clone() for name in self._names if count)

    def _next(self, values: Tensor) -> tuple[Tensor, ...]:
        """Count a step, and give the vectors for it, on the device of the values."""
        if not self._vectors:
            self._vectors = tuple(torch.zeros_like(values) for _ in self._names)
        if any((v.shape, v.dtype) != (values.shape, values.dtype) for v in self._vectors):
            raise ArtifactError("the saved optimizer belongs to another model; start without it")
        self._vectors = tuple(vector.to(values.device) for vector in self._vectors)
        self._count += 1
        return self._vectors


class Sgd(_Memory):
    """Stochastic gradient descent, with heavy-ball momentum; the steps of torch.optim.SGD."""

    def __init__(self, momentum: float = 0.0) -> None:
        self.momentum = _within_one(momentum, "momentum")
        super().__init__(*["velocity"] * bool(momentum))

    def step(self, values: Tensor, gradient: Tensor, rate: float) -> None:
        """Change values [p] by one step against gradient [p], which stays as it is."""
        direction = gradient.to(values)
        for velocity in self._next(values):
            direction = velocity.mul_(self.momentum).add_(direction)
        values.add_(direction, alpha=-rate)


class Adam(_Memory):
    """Adam, one fused pass where torch has it; the steps of torch.optim.Adam.

    Source: Kingma & Ba 2015, arXiv:1412.6980.
    """

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.betas, self.eps = _checked(betas), eps
        super().__init__("first", "second")

    def step(self, values: Tensor, gradient: Tensor, rate: float) -> None:
        """Change values [p] by one step against gradient [p], which stays as it is."""
        first, second = self._next(values)
        fused = values.device.type in _FUSED
        # a scalar made on the device: no step waits for it
        done = torch.full((), self._count - 1.0, device=values.device if fused else "cpu")
        adam(
            [values],
            [gradient.to(values)],
            [first],
            [second],
            [],
            [done],
            fused=fused,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=rate,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )


class CorrectedAdam(_Memory):
    """Adam whose second moment is freed of the noise that was added: it scales by the gradients, not by noise.

    noise_std: of the noise in each number of the next gradient, sensitivity * noise_multiplier / divisor; set it
    anew before a step where the clip norm moves.
    With m, v the moments after t steps, free of their bias towards zero as in Adam, the step is
    rate * m / (sqrt(max(v - noise_std^2, floor)) + eps); of a noise_std that moves, the squares are averaged like v.

    The paper tunes the floor; here it is the standard deviation that v itself has where the gradient is noise
    alone: noise_std^2 sqrt(2 (1 - b)(1 + b^t) / ((1 + b)(1 - b^t))), b = betas[1]. Proof: v = sum_i w_i g_i^2
    with weights w_i = (1 - b) b^(t - i) / (1 - b^t), and Var(g_i^2) = 2 noise_std^4 for independent Gaussians.
    A second moment below it cannot be told from noise, and a smaller floor would turn noise into large steps.
    Edges: noise_std = 0 -> the floor is 0, and the steps are those of Adam.
    Errors: UsageError for a noise_std that is negative or not finite.
    Source: Tang, Shpilevskiy & Lecuyer 2024, arXiv:2312.14334.
    """

    def __init__(
        self, noise_std: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        if not 0 <= noise_std < math.inf:
            raise UsageError("the standard deviation of the noise is finite and not negative")
        self.noise_std, self.betas, self.eps = noise_std, _checked(betas), eps
        self._variance = 0.0  # what the noise has put into `second` so far
        super().__init__("first", "second")

    def step(self, values: Tensor, gradient: Tensor, rate: float) -> None:
        """Change values [p] by one step against gradient [p], which stays as it is."""
        first, second = self._next(values)
        gradient = gradient.to(values)
        first.lerp_(gradient, 1 - self.betas[0])
        second.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        self._variance = self.betas[1] * self._variance + (1 - self.betas[1]) * self.noise_std**2
        # all of the quotient times sqrt(seen), which saves a pass
        seen = 1 - self.betas[1] ** self._count
        scale = second.sub(self._variance).clamp_(min=self._scatter() * self._variance)
        scale.sqrt_().add_(self.eps * math.sqrt(seen))
        values.addcdiv_(first, scale, value=-rate * math.sqrt(seen) / (1 - self.betas[0] ** self._count))

    def state(self) -> dict[str, Tensor]:
        """Copies of all that the next step depends on, besides its arguments."""
        return super().state() | {"variance": torch.tensor(self._variance, dtype=torch.float64)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; ArtifactError if another kind of optimizer gave it."""
        super().load({name: tensor for name, tensor in state.items() if name != "variance"})
        if "variance" not in state:
            raise _of_another_kind()
        self._variance = float(state["variance"])

    def _scatter(self) -> float:
        """Standard deviation of a second moment of noise alone, over its mean; see the class."""
        decay, left = self.betas[1], self.betas[1] ** self._count
        return math.sqrt(2 * (1 - decay) * (1 + left) / ((1 + decay) * (1 - left)))


class Average(_Memory):
    """Exponential moving average of the values, without bias towards the first ones; decay 0: the last values.

    After t updates the values of update i weigh (1 - decay) decay^(t - i) / (1 - decay^t).
    """

    def __init__(self, decay: float) -> None:
        self.decay = _within_one(decay, "the decay of an average")
        super().__init__(*["total"] * bool(decay))

    def update(self, values: Tensor) -> None:
        """Take in the values [p] of one step."""
        for total in self._next(values):
            total.lerp_(values, 1 - self.decay)

    def result(self, values: Tensor) -> Tensor:
        """The average [p] in memory of its own; the values themselves if nothing is averaged, or nothing yet."""
        return self._vectors[0] / (1 - self.decay**self._count) if self._vectors else values


def _of_another_kind() -> ArtifactError:
    return ArtifactError("the saved optimizer is of another kind than the plan's; start without it")


def _overlap(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether memory is used twice, by two parameters or within one."""
    found = [parameter for parameter in parameters if parameter.numel()]
    inside = any(size > 1 and not step for p in found for size, step in zip(p.shape, p.stride(), strict=True))
    return inside or any(end > start for (_, end), (start, _) in pairwise(sorted(map(_extent, found))))


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First byte of a tensor and the first one after it."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _within_one(value: float, name: str) -> float:
    if not 0 <= value < 1:
        raise UsageError(f"{name} is at least 0 and below 1")
    return value


def _checked(betas: tuple[float, float]) -> tuple[float, float]:
    return _within_one(betas[0], "each beta"), _within_one(betas[1], "each beta")
