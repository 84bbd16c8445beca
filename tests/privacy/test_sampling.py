import math

import numpy as np
import pytest

from privae.errors import PrivacyRefused, UsageError
from privae.privacy import sampling
from privae.privacy.mechanism import Mechanism
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import FullBatch, Poisson, Sampling


def noise() -> NoiseSource:
    return NoiseSource(bytes(range(32)))


def inclusions(n: int, steps: int, rate: float) -> np.ndarray:
    table = np.zeros((steps, n))
    for step, batch in enumerate(Poisson(rate).batches(n, steps, noise())):
        table[step, batch] = 1
    return table


def test_every_unit_is_drawn_at_the_rate():
    # n = 40,000 coins at rate 0.3; the band is 5 standard deviations (false alarm 6e-7; the key is fixed)
    table = inclusions(20, 2000, 0.3)
    assert abs(table.mean() - 0.3) < 5 * math.sqrt(0.21 / table.size)
    assert np.abs(table.mean(0) - 0.3).max() < 5 * math.sqrt(0.21 / 2000)


def test_units_are_drawn_independently_of_each_other():
    # batches of a fixed size, or shuffled ones, would have less variance of the size
    table = inclusions(20, 4000, 0.3)
    pairs = np.cov(table.T)[np.triu_indices(20, 1)]
    assert np.abs(pairs).max() < 5.5 * 0.21 / math.sqrt(4000)  # 190 pairs
    assert table.sum(1).var() == pytest.approx(20 * 0.21, rel=5 * math.sqrt(2 / 4000))


def test_indices_increase_and_never_repeat():
    for batch in Poisson(0.5).batches(100, 20, noise()):
        assert batch.dtype == np.int64
        assert (np.diff(batch) > 0).all()


def test_empty_batches_are_yielded_not_skipped():
    batches = list(Poisson(1e-9).batches(3, 4, noise()))
    assert [len(batch) for batch in batches] == [0, 0, 0, 0]
    assert [len(batch) for batch in Poisson(0.5).batches(0, 2, noise())] == [0, 0]


def test_rate_one_and_the_full_batch_draw_everyone():
    for sampler in (Poisson(1.0), FullBatch()):
        assert [batch.tolist() for batch in sampler.batches(3, 2, noise())] == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_rate_outside_its_range_is_a_usage_error(rate):
    with pytest.raises(UsageError, match="sampling rate"):
        Poisson(rate)


def test_the_sampler_names_the_event_of_its_own_steps():
    mechanism = Mechanism(clip_norm=1.0, noise_multiplier=2.0, grid=2.0**-20)
    samplers: list[Sampling] = [Poisson(0.25), FullBatch()]
    events = [sampler.event(mechanism, 7) for sampler in samplers]
    assert events == [mechanism.event(7, 0.25), mechanism.event(7, 1.0)]


def test_a_batch_above_the_public_cap_is_refused_without_saying_its_size(monkeypatch):
    monkeypatch.setattr(sampling, "MAX_BATCH", 5)
    assert len(next(FullBatch().batches(5, 1, noise()))) == 5
    with pytest.raises(PrivacyRefused, match="public cap of 5") as refused:
        next(FullBatch().batches(613, 1, noise()))
    assert "613" not in str(refused.value)
