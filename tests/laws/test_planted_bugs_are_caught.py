"""Law: detectors that pass on the engine fail on each planted bug: noise or clip off, a wrong rate, and the like."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from privae.errors import PrivacyRefused
from privae.privacy.clipping import Clipping
from privae.privacy.gradients import Loss, Path, Summation, refuse_mixing
from privae.privacy.mechanism import Mechanism, for_gradients
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import FullBatch, Persons, Poisson, Sampling
from privae.training.loop import Objective, Release, Schedule, train

INPUTS, OUTPUTS, CLIP, MULTIPLIER = 40, 10, 2.0, 1.5
SLACK = Summation("by rule", "proved", 8).slack
SIZE = INPUTS * OUTPUTS + OUTPUTS
KEY = bytes(range(32))


def squares(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    return (model(parts[0]) - 1).square().sum(-1)


def squares_of_persons(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    """The losses of a person's rows [n, k, ...], added up where the mask [n, k] says that there is a row."""
    return ((model(parts[0]) - 1).square().sum(-1) * parts[1]).sum(-1)


@dataclass(frozen=True)
class Engine:
    """The parts of a private training; a planted bug exchanges one of them."""

    train: Callable[..., None] = train
    mechanism: Callable[..., Mechanism] = for_gradients
    sampling: Callable[[float], Sampling] = Poisson
    persons: Callable[..., Sampling] = Persons
    loss: Loss = squares
    path: Path = "by rule"

    def released(
        self, x: Tensor, sampling: Sampling, multiplier: float = 0.0, steps: int = 1, divisor: float = 1.0
    ) -> Tensor:
        """The sum of all gradients that left: how far plain descent at rate 1 moves the weights, [SIZE]."""
        torch.manual_seed(0)
        model = nn.Linear(INPUTS, OUTPUTS).double()
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        persons = isinstance(sampling, Persons)
        unit = "person" if persons else "record"
        mechanism = replace(self.mechanism(CLIP, multiplier, SIZE, SLACK), unit=unit)
        release = Release(sampling, mechanism, NoiseSource(KEY), lambda _: None)
        objective = Objective(
            squares_of_persons if persons else self.loss, summation=Summation(self.path, "proved", 8)
        )
        self.train(model, objective, (x,), release, Schedule(steps, divisor, 1.0, "sgd"))
        return before - torch.cat([p.detach().flatten() for p in model.parameters()])


def some(n: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return scale * torch.randn(n, INPUTS, generator=generator, dtype=torch.float64)


# The detectors: each says whether what it looks at holds.


def noise_has_its_std(engine: Engine) -> bool:
    """Nobody's gradients: noise alone. n = 410 numbers, 5 standard deviations (false alarm 6e-7; a fixed key)."""
    moved = engine.released(some(0), FullBatch(), MULTIPLIER)
    expected = for_gradients(CLIP, MULTIPLIER, SIZE, SLACK).std
    return abs(float(moved.square().mean().sqrt()) / expected - 1) < 5 / (2 * SIZE) ** 0.5


def steps_draw_fresh_noise(engine: Engine) -> bool:
    """The noise of two steps does not correlate. n = 410 pairs, 5 standard deviations (false alarm 6e-7)."""
    first, both = (engine.released(some(0), FullBatch(), MULTIPLIER, steps) for steps in (1, 2))
    pair = torch.stack((first, both - first))
    return abs(float(torch.corrcoef(pair)[0, 1])) < 5 / SIZE**0.5


def one_record_is_bounded(engine: Engine) -> bool:
    """A record that comes moves the sum by at most the clip norm, whether it is small, huge or not a number."""
    others, moves = some(5), []
    for value in (0.01, -3.0, 1e4, torch.nan):
        record = torch.full((1, INPUTS), value, dtype=torch.float64)
        sums = [engine.released(x, FullBatch()) for x in (torch.cat((others, record)), others)]
        moves.append(float((sums[0] - sums[1]).norm()))
    return max(moves) <= CLIP * (1 + 1e-9)


def one_person_is_bounded(engine: Engine) -> bool:
    """A person who comes, first in the data and with rows that are not numbers, moves it by no more either."""
    x, codes = some(9), np.array([0, 1, 1, 1, 2, 2, 3, 3, 4])
    x[0] = torch.nan
    everyone = engine.released(x, engine.persons(1.0, codes, 3))
    others = engine.released(x[1:], engine.persons(1.0, codes[1:], 3))
    return bool(everyone.isfinite().all()) and float((everyone - others).norm()) <= CLIP * (1 + 1e-9)


def the_charged_rate_is_drawn(engine: Engine) -> bool:
    """Sizes of 2,000 batches of 50 at rate 0.2: mean and variance of the event's binomial, 5 standard deviations."""
    sampler = engine.sampling(0.2)
    rate = sampler.event(Mechanism(), 1).sampling_rate
    sizes = np.array([len(batch) for batch in sampler.batches(50, 2000, NoiseSource(KEY))])
    variance = 50 * rate * (1 - rate)
    mean_holds = abs(sizes.mean() - 50 * rate) < 5 * (variance / 2000) ** 0.5
    return bool(mean_holds and abs(sizes.var() / variance - 1) < 5 * (2 / 2000) ** 0.5)


def the_divisor_is_declared(engine: Engine) -> bool:
    """Every record twice moves the weights twice as far."""
    x = some(6)
    once, twice = (engine.released(part, FullBatch(), divisor=64.0) for part in (x, torch.cat((x, x))))
    return bool(torch.allclose(twice, 2 * once, atol=1e-12))


def mixing_is_refused(loss: Loss) -> bool:
    try:
        refuse_mixing(nn.Linear(INPUTS, OUTPUTS), loss, (some(4),))
    except PrivacyRefused:
        return True
    return False


# The bugs.


class Quiet(Mechanism):
    """Releases the sum as it is."""

    def release(self, total, noise, divisor=1.0, **options):
        return total.double() / divisor


class Repeating(Mechanism):
    """Starts the same keystream again at every step."""

    def release(self, total, noise, *rest, **options):
        return super().release(total, NoiseSource(KEY), *rest)


class Faster(Poisson):
    """Draws at another rate than its event says."""

    def batches(self, n, steps, noise):
        return Poisson(1.3 * self.rate).batches(n, steps, noise)


class Shuffled(Poisson):
    """Draws at the right rate on average, in batches of one size."""

    def batches(self, n, steps, noise):
        for _ in range(steps):
            yield np.sort(np.argsort(noise.words(n))[: round(self.rate * n)])


class PaddedByTheFirst(Persons):
    """Pads with the first row of the data, whoever it is about."""

    def batches(self, n, steps, noise):
        return (np.maximum(batch, -1) for batch in super().batches(n, steps, noise))


def planted(kind: type[Mechanism]) -> Callable[..., Mechanism]:
    return lambda *numbers: kind(**asdict(for_gradients(*numbers)))


def unclipped(*arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clipping, "factors", lambda _, squared: torch.ones_like(squared))
        train(*arguments)


def divided_by_the_length(model, objective, records, release, schedule) -> None:
    train(model, objective, records, release, replace(schedule, expected_batch_size=float(len(records[0]))))


def scaled_by_the_batch(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    losses = squares(model, parts)
    return losses / losses.detach().mean()


def mean_of_the_batch(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    losses = squares(model, parts)
    return losses / losses.numel()


DETECTORS = [
    noise_has_its_std,
    steps_draw_fresh_noise,
    one_record_is_bounded,
    one_person_is_bounded,
    the_charged_rate_is_drawn,
    the_divisor_is_declared,
]
BUGS = {
    "noise off": (Engine(mechanism=planted(Quiet)), noise_has_its_std),
    "repeated counter": (Engine(mechanism=planted(Repeating)), steps_draw_fresh_noise),
    "clip off": (Engine(train=unclipped), one_record_is_bounded),
    "clip off, by vmap": (Engine(train=unclipped, path="vmap"), one_record_is_bounded),
    "batch-mean loss": (Engine(loss=scaled_by_the_batch), one_record_is_bounded),
    "padding by another's row": (Engine(persons=PaddedByTheFirst), one_person_is_bounded),
    "wrong rate": (Engine(sampling=Faster), the_charged_rate_is_drawn),
    "batches of one size": (Engine(sampling=Shuffled), the_charged_rate_is_drawn),
    "divisor from the data's length": (Engine(train=divided_by_the_length), the_divisor_is_declared),
}


@pytest.mark.parametrize("path", ["by rule", "vmap"])
@pytest.mark.parametrize("holds", DETECTORS)
def test_every_detector_passes_on_the_engine(holds, path):
    assert holds(Engine(path=path))


@pytest.mark.parametrize("bug", list(BUGS))
def test_every_planted_bug_is_caught(bug):
    engine, holds = BUGS[bug]
    assert not holds(engine)


@pytest.mark.parametrize("loss", [scaled_by_the_batch, mean_of_the_batch])
def test_losses_of_the_batch_are_refused_before_they_train(loss):
    assert mixing_is_refused(loss)
    assert not mixing_is_refused(squares)
