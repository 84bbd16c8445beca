"""The one training loop: draw a batch, sum clipped gradients, charge, release, step.

The same loop trains with and without privacy: with the default Mechanism() (no clip, no noise) it is ordinary
SGD. It trains in one process or in several (`Hands.group`), and goes on where a killed run left off
(`Hands.keeper`).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privae.errors import UsageError
from privae.privacy.gradients import BY_VMAP, Loss, Parts, Summation, clipped_gradient_sum, trainable
from privae.privacy.mechanism import Event, Joint, Mechanism
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import CLIENT, Poisson, Sampling, places_of, refuse_rows_of_persons
from privae.training.bound import Bound, Rule
from privae.training.group import ALONE, Group
from privae.training.optimizers import Average, CorrectedAdam, FlatParameters, Optimizer, optimizer_of
from privae.training.state import FORGETFUL, Keeper, State
from privae.training.watch import Silent, Watch

Charge = Callable[[Event], float | None]
"""Writes an event into the ledger, or raises PrivacyRefused; may return the epsilon spent so far."""

_LATENT_GRID = 2.0**20
_SILENT = Silent()


@dataclass(frozen=True)
class Objective:
    """What is minimized: one loss a record, and how many normal numbers a record draws at every step.

    The numbers come as the last part of the records, [n, noise_size]; none for noise_size = 0. Where the unit
    is a person with up to k rows, parts are [n, k, ...], a mask [n, k] of the rows that are there comes before
    the numbers [n, k, noise_size], and the loss adds a person's rows up.
    """

    loss: Loss
    noise_size: int = 0
    summation: Summation = BY_VMAP


@dataclass(frozen=True)
class Release:
    """How sums leave the private side: who takes part, the mechanism, its noise, and who is told first.

    rule: how contributions come under the mechanism's clip norm.
    """

    sampling: Sampling
    mechanism: Mechanism
    noise: NoiseSource = field(repr=False)
    charge: Charge = field(repr=False)
    rule: Rule = field(default_factory=Rule)


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
    optimizer: Literal["sgd", "adam", "adam corrected"] = "adam"
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


@dataclass(frozen=True)
class Local:
    """Steps of gradient descent that a site takes by itself before it sends how far its weights went (FedAvg).

    batch: expected records a step. proximal: pull back to the weights that the round began with (FedProx).
    Source: McMahan et al. 2017, arXiv:1602.05629; Li et al. 2020, arXiv:1812.06127.
    """

    steps: int = 10
    learning_rate: float = 0.05
    batch: int = 64
    proximal: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not self.learning_rate > 0 or not self.proximal >= 0:
            raise UsageError(
                "local steps, their batch and their learning rate are positive, the pull not negative"
            )

    def settings(self) -> dict[str, int | float | str | bool | None]:
        """As a plan says it."""
        own = {"local_steps": self.steps, "local_rate": self.learning_rate}
        return {"unit": CLIENT, **own, "local_batch": self.batch, "proximal": self.proximal}

    @classmethod
    def of(cls, settings: Mapping[str, int | float | str | bool | None]) -> "Local | None":
        """Inverse of `settings`; None for a plan without local steps."""
        if settings.get("unit") != CLIENT:
            return None
        names = ("local_steps", "local_rate", "local_batch", "proximal")
        steps, rate, batch, pull = (float(settings.get(name) or 0) for name in names)
        return cls(int(steps), rate, int(batch), pull)


@dataclass(frozen=True)
class Hands:
    """Who does the work: the processes, the device, and where the state of a phase is kept for a resumed run.

    coins: secret coins of a step, where a step that is run again must draw the same ones (a site that was killed
    sends byte for byte what it sent before); None: those of the release, in their order.
    """

    group: Group = ALONE
    keeper: Keeper = FORGETFUL
    phase: str = "gradients"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    coins: Callable[[int], NoiseSource] | None = field(default=None, repr=False)


def train(  # noqa: PLR0913  who, what, how, and who is told
    model: nn.Module,
    objective: Objective,
    records: Parts,
    release: Release,
    schedule: Schedule,
    watch: Watch = _SILENT,
    hands: Hands = Hands(),
) -> None:
    """Train the model, which lies on the device of `hands`, in place on released sums of clipped gradients.

    Shapes: records, each [n, ...]; n is never divided by, printed, or handed to the watcher.
    Guarantee: the weights are a function of `schedule.steps` releases of `release.mechanism` over batches of
    `release.sampling`; each was charged before it ran. Averaging, the optimizer and the rates are
    post-processing.
    Edges: an empty batch is a step of noise, charged like any other; steps = 0 changes nothing.
    Errors: what `release.charge` raises ends the training before the steps it refused; the weights of earlier
    steps stay, and no gradient is left on the model.
    """
    refuse_rows_of_persons(release.sampling, release.mechanism.unit)
    parameters = trainable(model)
    size = sum(parameter.numel() for parameter in parameters)
    bound = Bound(release.mechanism, release.rule, size, hands.group)
    bound.check(objective.summation)
    progress = _Progress(schedule, bound, hands)
    # privacy: how many numbers a batch takes tells its size, so they are not counted with those of the noise
    latent = NoiseSource(release.noise.words(4).tobytes()) if objective.noise_size else release.noise
    drawn = _drawn(release, len(records[0]), (progress.start, schedule.steps), latent, hands)
    with FlatParameters(parameters) as flat, bound.noise_ahead(release.noise, schedule.steps) as noise:
        progress.begin(flat.values)
        total: Tensor | None = None
        try:
            for step, epsilon in _charged_steps(release, schedule, progress, flat.values):
                batch, coins = next(drawn)
                parts = _parts(records, batch, objective, coins, hands)
                total = clipped_gradient_sum(
                    model, objective.loss, parts, bound.clipping, objective.summation, bound.observe, total
                )
                progress.expect_noise()
                gradient = bound.release(total, (noise, release.noise), schedule.expected_batch_size)
                progress.step(flat.values, gradient, schedule.rate(step))
                watch.advance(1, epsilon)
        finally:
            progress.finish(flat.values)
    unusable = int(hands.group.sum(torch.tensor(float(bound.unusable))))
    if unusable:
        watch.aside(f"{unusable} gradients of records were not finite, and counted as zero")


def local_rounds(
    model: nn.Module,
    objective: Objective,
    records: Parts,
    release: Release,
    schedule: tuple[int, int, Local],
    hands: Hands,
) -> None:
    """Train by rounds of local steps: the weights move by the released sum of the sites' moves, over how many they are.

    schedule: rounds, sites as declared, local steps. Guarantee: that of the mechanism for one *site*: all that its
    records do is one move of L2 norm at most the clip norm, of a sum that every site is in (sampling rate 1).
    Sites weigh the same, whatever their number of records, which stays secret. A move that is not finite counts as
    zero; a place without records moves nothing.
    Errors: UsageError where no other place is asked: one site's move is not hidden by anybody's.
    """
    rounds, sites, local = schedule
    if not isinstance(release.mechanism, Joint) or hands.coins is None:
        raise UsageError("local steps are between the sums of several sites; fit with: privae federated")
    with FlatParameters(trainable(model)) as flat:
        release.charge(release.sampling.event(release.mechanism, rounds))
        for step in range(rounds):
            move = _move(model, flat.values, objective, records, local, hands.coins(step))
            norm = float(move.double().norm())
            # privacy: a site that sent more than the clip norm would move the sum by more than was charged
            kept = min(1.0, release.mechanism.clip_norm / max(norm, 1e-300)) if math.isfinite(norm) else 0.0
            clipped = move.nan_to_num(0.0, 0.0, 0.0).double() * kept
            flat.values += release.mechanism.release(clipped, release.noise, float(sites)).to(flat.values)


def _move(
    model: nn.Module, values: Tensor, objective: Objective, records: Parts, local: Local, coins: NoiseSource
) -> Tensor:
    """How far local steps move the weights [p]; they are put back."""
    begin = values.clone()
    rate = min(1.0, local.batch / max(len(records[0]), 1))
    for batch in Poisson(rate).batches(len(records[0]), local.steps, coins):
        if len(batch):
            parts = _parts(records, batch, objective, coins, Hands())
            found = torch.autograd.grad(objective.loss(model, parts).mean(), trainable(model))
            gradient = torch.cat([part.flatten() for part in found])
            with torch.no_grad():
                values -= local.learning_rate * (gradient + local.proximal * (values - begin))
    moved = values - begin
    values.copy_(begin)
    return moved


class _Progress:
    """The optimizer and the average of one training, from where an earlier run of it was charged up to."""

    def __init__(self, schedule: Schedule, bound: Bound, hands: Hands) -> None:
        self._divisor = schedule.expected_batch_size
        self.optimizer: Optimizer = optimizer_of(schedule.optimizer, schedule.momentum)
        self.average = Average(schedule.average)
        self._bound = bound
        self._hands = hands
        self._earlier = hands.group.same(lambda: hands.keeper.restore(hands.phase))
        self.start = min(self._earlier.step, schedule.steps) if self._earlier else 0

    def begin(self, values: Tensor) -> None:
        """Begin with the first process's weights, or with what an earlier run kept."""
        values.copy_(self._hands.group.same(lambda: values))
        if self._earlier and self._earlier.tensors:
            kept = {name: tensor.to(values.device) for name, tensor in self._earlier.tensors.items()}
            values.copy_(kept["values"])
            self.optimizer.load(_under("optimizer", kept))
            self.average.load(_under("average", kept))
            self._bound.clip_norm = float(kept["clip_norm"])

    def expect_noise(self) -> None:
        """Tell an optimizer that corrects for it how large this step's noise is."""
        if isinstance(self.optimizer, CorrectedAdam):
            self.optimizer.noise_std = self._bound.mechanism.std / self._divisor

    def step(self, values: Tensor, gradient: Tensor, rate: float) -> None:
        """One update by a released gradient."""
        self.optimizer.step(values, gradient.to(values), rate)
        self.average.update(values)

    def keep(self, values: Tensor, step: int) -> None:
        """Keep all that the next step needs; nothing of it is secret."""
        if not self._hands.group.first:
            return
        parts = {"optimizer": self.optimizer.state(), "average": self.average.state()}
        named = {f"{part}.{name}": tensor for part, kept in parts.items() for name, tensor in kept.items()}
        own = {
            "values": values.clone(),
            "clip_norm": torch.tensor(self._bound.clip_norm, dtype=torch.float64),
        }
        self._hands.keeper.save(self._hands.phase, State(step, {**own, **named}))

    def finish(self, values: Tensor) -> None:
        """End with the average, if there is one."""
        values.copy_(self.average.result(values))


def _charged_steps(
    release: Release, schedule: Schedule, progress: _Progress, values: Tensor
) -> Iterator[tuple[int, float | None]]:
    """Numbers of the steps, each block of which is charged before its first step is handed out."""
    group = progress._hands.group
    for start in range(progress.start, schedule.steps, schedule.block):
        size = min(schedule.block, schedule.steps - start)
        epsilon = group.same(partial(release.charge, release.sampling.event(release.mechanism, size)))
        for step in range(start, start + size):
            yield step, epsilon
        progress.keep(values, start + size)


def _drawn(
    release: Release, n: int, steps: tuple[int, int], latent: NoiseSource, hands: Hands
) -> Iterator[tuple[NDArray[np.int64], NoiseSource]]:
    """The batch of every step from the first to the last, and the coins that its records' numbers are drawn from."""
    first, last = steps
    if hands.coins is None:
        batches = release.sampling.batches(n, last - first, release.noise)
        while True:
            yield hands.group.same(lambda: next(batches)), latent
    for step in range(first, last):
        coins = hands.coins(step)
        yield next(release.sampling.batches(n, 1, coins)), coins


def _parts(
    records: Parts, batch: NDArray[np.int64], objective: Objective, noise: NoiseSource, hands: Hands
) -> Parts:
    """This process's share of a batch, on the device: the records, a mask of a person's rows, and normal numbers."""
    summation = objective.summation
    block = summation.micro_batch if summation.precision == "proved" else 1
    mine = hands.group.part(len(batch), block)
    places, counted = places_of(batch[mine])
    parts = [part[torch.from_numpy(places)] for part in records]
    if batch.ndim == 2:
        parts.append(torch.from_numpy(counted).to(torch.get_default_dtype()))
    if objective.noise_size:
        drawn = hands.group.same(lambda: _latent(batch.shape, objective.noise_size, noise))
        parts.append(drawn[mine])
    return tuple(part.to(hands.device) for part in parts)


def _latent(shape: tuple[int, ...], size: int, noise: NoiseSource) -> Tensor:
    # privacy: drawn secretly, since a public draw by place in the batch would change when another record leaves
    drawn = torch.empty(*shape, size, dtype=torch.float64)
    noise.fill(drawn, _LATENT_GRID)
    return (drawn / _LATENT_GRID).to(torch.get_default_dtype())


def _under(part: str, kept: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): x for name, x in kept.items() if name.startswith(f"{part}.")}
