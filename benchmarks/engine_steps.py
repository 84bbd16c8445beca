"""Engines of benchmarks/engine.py as functions that run some training steps and return what these cost.

Every engine trains the same model from the same first weights with Adam at the same rate. A step takes a batch of
the records by index, draws the normal numbers of the codes, and updates. Plain torch and Opacus draw from torch's
generator, which is not secure; privae draws both codes and noise from its keystream, as its training loop always
does: its steps here *are* privae.training.loop.train.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from engine_models import KINDS, Autoencoder, model_of, negative_elbo, records_of
from torch import Tensor, nn

from privae.gaussian.pairs import compiled
from privae.plan import MICRO_BATCH
from privae.privacy.gradients import Precision, Summation
from privae.privacy.mechanism import for_gradients
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import FullBatch, Poisson, Sampling
from privae.training.loop import Objective, Release, Schedule, train

RATE, CLIP_NORM, NOISE_MULTIPLIER = 1e-3, 1.0, 1.0
WIDE = ("conv",)  # models whose blocks the recipe keeps small
_MANY = 2**28  # numbers, after which compiling pays
_SHARE = 1 / 16  # of the records in a Poisson batch


@dataclass(frozen=True)
class Case:
    """One cell of the benchmark."""

    model: str
    batch: int


@dataclass(frozen=True)
class Cost:
    """Seconds of some steps: of processor time of all threads, and by the clock."""

    cpu: float
    wall: float


Run = Callable[[int, int], Cost]
"""(steps before the clock starts, timed steps) -> cost of the timed ones. With none before, starting is timed too."""


def _stepped(step: Callable[[], None]) -> Run:
    def run(before: int, steps: int) -> Cost:
        for _ in range(before):
            step()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            step()
        return Cost(time.process_time() - cpu, time.perf_counter() - wall)

    return run


def _drawn(case: Case) -> Callable[[], tuple[Tensor, Tensor]]:
    """A batch by index, and fresh normal numbers for the codes."""
    records, index = records_of(case.model, case.batch), torch.arange(case.batch)
    return lambda: (records[index], torch.randn(case.batch, KINDS[case.model].latent))


def load_compiled() -> None:
    """Let noise come from compiled loops, as it does after a source's first 2^28 numbers, if numba is installed."""
    compiled(_MANY)
    for_gradients(1.0, 1.0, 2, 0.0).release(torch.zeros(2), NoiseSource())


def _in_one_pass(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer) -> Run:
    """Steps of one forward and one backward pass, as everyone writes them."""
    draw = _drawn(case)

    def step() -> None:
        x, noise = draw()
        optimizer.zero_grad()
        torch.autograd.backward(negative_elbo(case.model, model(x, noise), x).mean())
        optimizer.step()

    return _stepped(step)


def plain(case: Case, fused: bool = False) -> Run:
    """Ordinary training: no clipping, no noise."""
    model = model_of(case.model)
    return _in_one_pass(
        case, model, torch.optim.Adam(model.parameters(), RATE, fused=True if fused else None)
    )


def opacus_hooks(case: Case) -> Run:
    """Opacus' default mode: every record's gradient, stored."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    model = GradSampleModule(_for_opacus(case.model))
    adam = torch.optim.Adam(model.parameters(), RATE)
    return _in_one_pass(case, model, DPOptimizer(adam, **_opacus_options(case)))


def opacus_ghost(case: Case) -> Run:
    """Opacus' ghost clipping: norms first, then a second backward pass."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    class Criterion:
        reduction = "mean"

        def __call__(self, output: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
            return negative_elbo(case.model, output, x)

    model = GradSampleModuleFastGradientClipping(_for_opacus(case.model), max_grad_norm=CLIP_NORM)
    adam, draw = torch.optim.Adam(model.parameters(), RATE), _drawn(case)
    optimizer = DPOptimizerFastGradientClipping(adam, **_opacus_options(case))
    loss = DPLossFastGradientClipping(model, optimizer, Criterion())

    def step() -> None:
        x, noise = draw()
        optimizer.zero_grad()
        loss(model(x, noise), x).backward()
        optimizer.step()

    return _stepped(step)


def _for_opacus(name: str) -> Autoencoder:
    from opacus.layers import DPGRU

    return model_of(name, DPGRU)


def _opacus_options(case: Case) -> dict[str, Any]:
    return {
        "noise_multiplier": NOISE_MULTIPLIER,
        "max_grad_norm": CLIP_NORM,
        "expected_batch_size": case.batch,
    }


class _Clock:
    """A watcher that times the steps of a training after the first `before`."""

    def __init__(self, before: int, steps: int) -> None:
        self.before, self.steps, self.done = before, steps, 0
        self.start, self.cost = (time.process_time(), time.perf_counter()), Cost(0.0, 0.0)

    def phase(self, name: str, total: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def aside(self, text: str) -> None:
        """Nothing."""

    def advance(self, count: int, epsilon: float | None = None) -> None:  # noqa: ARG002
        """Read the clocks where the timed steps begin and end."""
        self.done += count
        if self.done == self.before:
            self.start = (time.process_time(), time.perf_counter())
        elif self.done == self.before + self.steps:
            cpu, wall = self.start
            self.cost = Cost(time.process_time() - cpu, time.perf_counter() - wall)


def loss_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    """Minus the ELBO of (x, normal numbers), as privae takes it."""
    return lambda model, parts: negative_elbo(name, model(parts[0], parts[1]), parts[0])


@dataclass(frozen=True)
class Ours:
    """privae's training loop. poisson: batches drawn from sixteen times as many records, else all in every step."""

    precision: Precision = "float32"
    bfloat16: bool = False
    noise_multiplier: float = 1.0
    poisson: bool = False

    def __call__(self, case: Case) -> Run:
        """The loop on the case's model; each run is a training of its own, timed in its middle."""
        load_compiled()
        model, latent = model_of(case.model), KINDS[case.model].latent
        summation = Summation("by rule", self.precision, self._block(case), bfloat16=self.bfloat16)
        size = sum(parameter.numel() for parameter in model.parameters())
        mechanism = for_gradients(CLIP_NORM, self.noise_multiplier, size, summation.slack)
        objective = Objective(loss_of(case.model), latent, summation)
        sampling: Sampling = Poisson(_SHARE) if self.poisson else FullBatch()
        records = records_of(case.model, round(case.batch / (_SHARE if self.poisson else 1)))

        def run(before: int, steps: int) -> Cost:
            # one step more than is timed, so that noise is still made for the next one while the last is timed
            schedule = Schedule(before + steps + (before > 0), case.batch, RATE)
            clock = _Clock(before, steps)
            release = Release(sampling, mechanism, NoiseSource(), lambda _: None)
            train(model, objective, (records,), release, schedule, clock)
            return clock.cost

        return run

    def _block(self, case: Case) -> int:
        """Records of a block, as the recipe plans it; one that is full in every step needs no room to vary."""
        least, most = MICRO_BATCH
        if case.model in WIDE:
            return least
        spread = 2 * math.sqrt(case.batch) if self.poisson else 0
        return min(max(64 * math.ceil((case.batch + spread) / 64), least), most)


PLAIN, NO_NOISE = "plain", "privae float32, no noise"
ENGINES: dict[str, Callable[[Case], Run]] = {
    PLAIN: plain,
    "plain, fused Adam": lambda case: plain(case, fused=True),
    "privae float32": Ours(),
    NO_NOISE: Ours(noise_multiplier=0.0),
    "privae proved": Ours("proved"),
    "privae proved, Poisson batches": Ours("proved", poisson=True),
    "privae bfloat16": Ours(bfloat16=True),
    "privae proved, bfloat16": Ours("proved", bfloat16=True),
    "Opacus ghost": opacus_ghost,
    "Opacus hooks": opacus_hooks,
}
