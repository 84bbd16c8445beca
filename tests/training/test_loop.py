import math

import pytest
import torch
from torch import nn

from privae.errors import PrivacyRefused, UsageError
from privae.privacy.gradients import Summation, slack
from privae.privacy.mechanism import Mechanism, for_gradients
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import FullBatch, Poisson
from privae.training.loop import Objective, Release, Schedule, train


def noise() -> NoiseSource:
    return NoiseSource(bytes(range(32)))


def to_zero(model, parts):
    """Half the squared output of a record: with x = 1 and no bias, the gradient is the weight itself."""
    return model(parts[0]).square().sum(-1) / 2


def one_weight(value: float = 1.0) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(value)
    return model


def plain(charge=lambda _: None, sampling=None) -> Release:
    return Release(sampling or FullBatch(), Mechanism(), noise(), charge)


class Listening:
    def __init__(self) -> None:
        self.heard: list[tuple[int, float | None]] = []

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, count: int, epsilon: float | None = None) -> None:
        self.heard.append((count, epsilon))

    def note(self, text: str) -> None: ...


ONES = (torch.ones(4, 1),)
OBJECTIVE = Objective(to_zero, summation=Summation("by rule", "proved", 4))


def test_a_step_divides_by_the_declared_batch_size_and_not_by_the_rows():
    model = one_weight()
    train(model, OBJECTIVE, ONES, plain(), Schedule(1, 8.0, 0.1, "sgd"))
    assert model.weight.item() == pytest.approx(1 - 0.1 * 4 / 8)


def test_no_steps_change_nothing_and_charge_nothing():
    model, events = one_weight(), []
    train(model, OBJECTIVE, ONES, plain(events.append), Schedule(0, 1.0, average=0.9))
    assert model.weight.item() == 1.0
    assert events == []


def test_every_block_is_charged_before_its_first_step():
    model, seen = one_weight(), []
    train(
        model,
        OBJECTIVE,
        ONES,
        plain(lambda event: seen.append((event.steps, model.weight.item()))),
        Schedule(5, 4.0, 0.5, "sgd", block=2),
    )
    assert seen == [(2, 1.0), (2, 0.25), (1, 0.0625)]


def test_a_refused_charge_releases_nothing_more_and_leaves_no_gradient():
    model, charged = one_weight(), []

    def charge(event):
        if charged:
            raise PrivacyRefused("nothing is left")
        charged.append(event)

    with pytest.raises(PrivacyRefused, match="nothing is left"):
        train(model, OBJECTIVE, ONES, plain(charge), Schedule(6, 4.0, 0.5, "sgd", block=3))
    assert model.weight.item() == 0.125  # three steps, not six
    assert model.weight.grad is None


def test_the_watcher_hears_steps_and_epsilon_and_nothing_of_the_batches():
    watch = Listening()
    release = plain(lambda event: 0.1 * event.steps, Poisson(0.5))
    train(one_weight(), OBJECTIVE, ONES, release, Schedule(3, 2.0, block=2), watch)
    assert watch.heard == [(1, 0.2), (1, 0.2), (1, 0.1)]


def test_fresh_latent_noise_is_drawn_for_every_record_and_step():
    seen = []

    def keep(model, parts):
        seen.append(parts[1].detach().clone())
        return to_zero(model, parts)

    objective = Objective(keep, noise_size=3, summation=Summation("by rule", "float32", 4))
    train(one_weight(), objective, ONES, plain(), Schedule(2, 4.0))
    assert [draw.shape for draw in seen] == [(4, 3), (4, 3)]
    assert torch.cat(seen).unique().numel() == 24


def test_latent_noise_is_standard_normal():
    # n = 20,000 numbers, fixed key; bands of 5 standard deviations
    seen = []

    def keep(model, parts):
        seen.append(parts[1].detach().clone())
        return to_zero(model, parts)

    objective = Objective(keep, noise_size=10, summation=Summation("by rule", "proved", 2000))
    train(one_weight(), objective, (torch.ones(2000, 1),), plain(), Schedule(1, 1.0))
    assert abs(seen[0].mean().item()) < 5 / math.sqrt(20_000)
    assert seen[0].std().item() == pytest.approx(1.0, abs=5 / math.sqrt(40_000))


def test_the_same_key_gives_the_same_fit_and_another_key_another():
    results = []
    for key in (bytes(range(32)), bytes(range(32)), bytes(range(1, 33))):
        model = one_weight()
        mechanism = for_gradients(1.0, 1.0, 1, slack("proved", 4))
        release = Release(Poisson(0.5), mechanism, NoiseSource(key), lambda _: None)
        train(model, OBJECTIVE, ONES, release, Schedule(5, 2.0))
        results.append(model.weight.item())
    assert results[0] == results[1] != results[2]


def test_the_learning_rate_warms_up_and_follows_half_a_cosine():
    schedule = Schedule(steps=12, expected_batch_size=1.0, learning_rate=1.0, warm_up=2, cosine=True)
    assert [schedule.rate(step) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert schedule.rate(7) == pytest.approx(0.5)
    assert 0 < schedule.rate(11) < 0.05
    assert Schedule(12, 1.0, 0.3).rate(11) == 0.3


def test_the_rate_of_the_schedule_is_the_rate_of_the_step():
    model = one_weight()
    train(model, OBJECTIVE, ONES, plain(), Schedule(1, 4.0, 0.5, "sgd", warm_up=5))
    assert model.weight.item() == pytest.approx(1 - 0.1)


def test_momentum_is_passed_to_sgd():
    model = one_weight()
    train(model, OBJECTIVE, ONES, plain(), Schedule(2, 4.0, 0.5, "sgd", momentum=0.5))
    # first step: gradient 1, weight .5; second: velocity .5 + .5 = 1, weight 0
    assert model.weight.item() == pytest.approx(0.0)


def test_averaged_weights_are_the_exponential_mean_of_the_steps():
    model = one_weight()
    train(model, OBJECTIVE, ONES, plain(), Schedule(2, 4.0, 0.5, "sgd", average=0.5))
    # weights .5, .25 with shares 1/3, 2/3
    assert model.weight.item() == pytest.approx(1 / 3)


def test_frozen_parameters_stay_as_they_are():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)).requires_grad_(True)
    model[0].requires_grad_(False)
    before = [parameter.detach().clone() for parameter in model[0].parameters()]
    train(model, OBJECTIVE, ONES, plain(), Schedule(2, 4.0))
    assert all(torch.equal(a, b) for a, b in zip(before, model[0].parameters(), strict=True))


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": -1},
        {"block": 0},
        {"warm_up": -1},
        {"expected_batch_size": 0.0},
        {"expected_batch_size": math.nan},
        {"expected_batch_size": math.inf},
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"average": 1.0},
        {"momentum": -0.1},
    ],
)
def test_a_schedule_that_cannot_be_is_a_usage_error(fields):
    with pytest.raises(UsageError):
        Schedule(**{"steps": 1, "expected_batch_size": 1.0, **fields})


def test_a_release_shows_neither_noise_nor_ledger():
    assert "Noise" not in repr(plain())
