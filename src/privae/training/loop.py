"""The one training loop: draw a batch, sum clipped gradients, charge, release, step.

The same loop trains with and without privacy: with the default Mechanism() (no clip, no noise) it is ordinary
SGD.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from privae.errors import UsageError
from privae.privacy.gradients import BY_VMAP, Loss, Parts, Summation, clipped_gradient_sum, trainable
from privae.privacy.mechanism import Event, Mechanism
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Sampling
from privae.training.watch import Silent, Watch

Charge = Callable[[Event], float | None]
"""Writes an event into the ledger, or raises PrivacyRefused; may return the epsilon spent so far."""

_LATENT_GRID = 2.0**20


@dataclass(frozen=True)
class Objective:
    """What is minimized: one loss a record, and how many normal numbers a record draws at every step.

    The numbers come as the last part of the records, [n, noise_size]; none for noise_size = 0.
    """

    loss: Loss
    noise_size: int = 0
    summation: Summation = BY_VMAP


@dataclass(frozen=True)
class Release:
    """How sums leave the private side: who takes part, the mechanism, its noise, and who is told first."""

    sampling: Sampling
    mechanism: Mechanism
    noise: NoiseSource = field(repr=False)
    charge: Charge = field(repr=False)


@dataclass(frozen=True)
class Schedule:
    """Public choices of a training: all fixed in the plan, none read from the data.

    expected_batch_size: the declared divisor of every sum. average: decay of the exponential moving average
    that the weights end with; 0 keeps the last weights. block: steps that are charged at a time, before they
    run.
    """

    steps: int
    expected_batch_size: float
    learning_rate: float = 1e-3
    optimizer: Literal["sgd", "adam"] = "adam"
    momentum: float = 0.0
    warm_up: int = 0
    cosine: bool = False
    average: float = 0.0
    block: int = 100

    def __post_init__(self) -> None:
        if self.steps < 0 or self.block < 1 or self.warm_up < 0:
            raise UsageError("steps and warm_up must not be negative, and block must be at least 1")
        if not (0 < self.expected_batch_size < math.inf and 0 < self.learning_rate < math.inf):
            raise UsageError("expected_batch_size and learning_rate must be positive numbers")
        if not (0 <= self.average < 1 and 0 <= self.momentum < 1):
            raise UsageError("average and momentum must lie in [0, 1)")

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then constant or half a cosine down to zero.

        >>> Schedule(steps=10, expected_batch_size=1.0, learning_rate=1.0, warm_up=2).rate(0)
        0.5
        """
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        if not self.cosine:
            return self.learning_rate
        done = (step - self.warm_up) / max(self.steps - self.warm_up, 1)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


_SILENT = Silent()


def train(
    model: nn.Module,
    objective: Objective,
    records: Parts,
    release: Release,
    schedule: Schedule,
    watch: Watch = _SILENT,
) -> None:
    """Train the model in place on released sums of clipped gradients.

    Shapes: records, each [n, ...]; n is never divided by, printed, or handed to the watcher.
    Guarantee: the weights are a function of `schedule.steps` releases of `release.mechanism` over batches of
    `release.sampling`; each was charged before it ran. Averaging, the optimizer and the rates are
    post-processing.
    Edges: an empty batch is a step of noise, charged like any other; steps = 0 changes nothing.
    Errors: what `release.charge` raises ends the training before the steps it refused; the weights of earlier
    steps stay, and no gradient is left on the model.
    """
    parameters, n = trainable(model), len(records[0])
    optimizer, average = _optimizer(parameters, schedule), _Average(parameters, schedule.average)
    charged = _charged_steps(release, schedule)
    batches = release.sampling.batches(n, schedule.steps, release.noise)
    try:
        for (step, epsilon), batch in zip(charged, batches, strict=True):
            parts = _with_noise(tuple(p[torch.from_numpy(batch)] for p in records), objective, release.noise)
            clip_norm = release.mechanism.clip_norm
            total = clipped_gradient_sum(model, objective.loss, parts, clip_norm, objective.summation)
            # privacy: the only line that leaves the private side; a public number divides, never len(batch)
            gradient = _released(release, total) / schedule.expected_batch_size
            _apply(optimizer, parameters, gradient, schedule.rate(step))
            average.update(parameters)
            watch.advance(1, epsilon)
    finally:
        average.install(parameters)
        optimizer.zero_grad(set_to_none=True)


def _charged_steps(release: Release, schedule: Schedule) -> Iterator[tuple[int, float | None]]:
    """Numbers of the steps, each block of which is charged before its first step is handed out."""
    for start in range(0, schedule.steps, schedule.block):
        size = min(schedule.block, schedule.steps - start)
        epsilon = release.charge(release.sampling.event(release.mechanism, size))
        for step in range(start, start + size):
            yield step, epsilon


def _with_noise(parts: Parts, objective: Objective, noise: NoiseSource) -> Parts:
    if not objective.noise_size:
        return parts
    n = len(parts[0])
    # privacy: drawn secretly, since a public draw by place in the batch would change when another record
    # leaves
    integers = noise.gaussian_integers(n * objective.noise_size, _LATENT_GRID)
    drawn = torch.from_numpy(integers).double().view(n, objective.noise_size) / _LATENT_GRID
    return (*parts, drawn.to(parts[0].device, torch.get_default_dtype()))


def _released(release: Release, total: Tensor) -> Tensor:
    return release.mechanism.release(total, release.noise).to(total.device)


def _optimizer(parameters: list[nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=schedule.learning_rate, momentum=schedule.momentum)
    return torch.optim.Adam(parameters, lr=schedule.learning_rate)


def _apply(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], gradient: Tensor, rate: float
) -> None:
    pieces = torch.split(gradient, [parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view(parameter.shape).to(parameter.dtype)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


class _Average:
    """Exponential moving average of the weights, without bias towards the first ones."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.weight = 0.0
        self.values = [torch.zeros_like(p.detach()) for p in parameters] if decay else []

    def update(self, parameters: list[nn.Parameter]) -> None:
        self.weight = self.decay * self.weight + (1.0 - self.decay)
        for value, parameter in zip(self.values, parameters, strict=False):
            value.lerp_(parameter.detach(), 1.0 - self.decay)

    def install(self, parameters: list[nn.Parameter]) -> None:
        """Put the average into the weights; nothing if there were no steps, or no averaging."""
        if self.weight:
            for value, parameter in zip(self.values, parameters, strict=False):
                parameter.data.copy_(value / self.weight)
