"""Noise correlated between steps, against dense matrices; what a stream costs, and who may use its noise."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from privae.errors import PrivacyRefused, UsageError
from privae.privacy import accountant, correlated
from privae.privacy.correlated import SCALE, Correlated, Stream, Turns, square_root
from privae.privacy.mechanism import Event, Mechanism, Noise, for_gradients
from privae.privacy.noise import NoiseSource, ahead
from privae.privacy.sampling import FullBatch, Poisson, Sampling

KEY = bytes(range(32))


def dense(weights, steps):
    """The filter's matrix C, [steps, steps]."""
    matrix = np.zeros((steps, steps))
    for lag, weight in enumerate(weights[:steps]):
        matrix += np.diag(np.full(steps - lag, weight / SCALE), -lag)
    return matrix


def stream_of(bands, steps, period, multiplier=2.0, grid=2.0**-10):
    return Stream(1.0, multiplier, grid=grid, steps=steps, period=period, filter=square_root(bands))


def drawn(stream, size, source=None):
    """All the noise of a stream, [steps, size], in grid steps."""
    noise, out = Correlated(source or NoiseSource(KEY), stream, size), torch.empty(size, dtype=torch.float64)
    return np.array(
        [noise.fill(out, stream.std / stream.grid) or out.numpy().copy() for _ in range(stream.steps)]
    )


def patterns(steps, period):
    """Every set of steps that lie at least `period` apart."""
    for taken in itertools.product([0, 1], repeat=steps):
        at = np.flatnonzero(taken)
        if len(at) and (np.diff(at) >= period).all():
            yield at


def worst(weights, steps, period):
    """How far a unit can move the filtered stream by contributions of one direction, over all its patterns."""
    matrix = dense(weights, steps)
    return max(np.linalg.norm(matrix[:, at].sum(axis=1)) for at in patterns(steps, period))


def error(matrix, std):
    """Root mean square error of all prefix sums, where the noise of the steps is std times matrix^-1 z."""
    sums = np.tril(np.ones_like(matrix)) @ np.linalg.inv(matrix)
    return std * np.linalg.norm(sums) / math.sqrt(len(matrix))


def test_the_square_root_squared_is_the_matrix_of_prefix_sums():
    matrix = dense(square_root(40), 40)
    assert np.abs(matrix @ matrix - np.tril(np.ones((40, 40)))).max() < 40 / SCALE
    assert square_root(1) == (SCALE,)
    with pytest.raises(UsageError, match="bands"):
        square_root(0)


@pytest.mark.parametrize(
    ("bands", "steps", "period"), [(1, 7, 1), (4, 9, 1), (4, 9, 3), (4, 11, 4), (3, 10, 5), (8, 5, 9)]
)
def test_the_sensitivity_is_that_of_the_worst_pattern(bands, steps, period):
    stream = stream_of(bands, steps, period)
    plain = Mechanism(1.0, 2.0, grid=2.0**-10).sensitivity()
    assert stream.sensitivity() == pytest.approx(plain * worst(stream.filter, steps, period), rel=1e-12)


def test_columns_that_do_not_overlap_add_up_in_squares():
    stream = stream_of(4, 23, 5)
    norm = np.linalg.norm(stream.filter) / SCALE
    last = np.linalg.norm(stream.filter[:3]) / SCALE  # the fifth column is cut by the end of the stream
    assert stream.sensitivity() == pytest.approx(math.sqrt(4 * norm**2 + last**2), rel=1e-12)


def test_contributions_in_other_directions_move_the_stream_less():
    steps, period, rng = 8, 2, np.random.default_rng(0)
    matrix, limit = dense(square_root(5), steps), worst(square_root(5), steps, period)
    for at in patterns(steps, period):
        moved = np.zeros((steps, 3))
        moved[at] = rng.normal(size=(len(at), 3))
        moved[at] /= np.linalg.norm(moved[at], axis=1, keepdims=True)
        assert np.linalg.norm(matrix @ moved) <= limit * (1 + 1e-12)


@pytest.mark.parametrize("wrong", ["one participation", "one column", "a longer period"])
def test_the_test_of_the_sensitivity_catches_a_wrong_one(wrong):
    weights, steps, period = square_root(4), 12, 4
    claimed = {
        "one participation": np.linalg.norm(weights) / SCALE,
        "one column": math.sqrt(3),
        "a longer period": correlated._movement(weights, steps, 6),
    }[wrong]
    assert claimed < 0.99 * worst(weights, steps, period)


def test_noise_is_the_inverse_filter_of_independent_noise_rounded_step_by_step():
    """In fractions: SCALE w_t = z_t - sum of a_j w_(t-j), each w_t rounded half up, z the source's own integers."""
    stream, size = stream_of(4, 9, 4), 5
    noise, source = drawn(stream, size), NoiseSource(KEY)
    expected = []
    for _ in range(stream.steps):
        independent = source.gaussian_integers(size, stream.std / stream.grid * SCALE)
        row = []
        for place, z in enumerate(independent):
            past = sum(a * w[place] for a, w in zip(stream.filter[1:], reversed(expected), strict=False))
            row.append(math.floor(Fraction(int(z) - past, SCALE) + Fraction(1, 2)))
        expected.append(row)
    assert noise.tolist() == expected


def test_releases_are_a_function_of_the_filtered_noisy_stream_alone():
    """q_t = H((y_t + z_t - sum of a_j q_(t-j)) / SCALE), for every total: what the proof of `Correlated` says."""
    stream, size, rng = stream_of(5, 12, 5), 4, np.random.default_rng(1)
    totals = rng.normal(size=(stream.steps, size))
    source, noise = NoiseSource(KEY), Correlated(NoiseSource(KEY), stream, size)
    released = [stream.release(total, noise) / stream.grid for total in totals]
    steps = np.rint(totals / stream.grid).astype(np.int64)
    weights = stream.filter
    for t, row in enumerate(released):
        z = source.gaussian_integers(size, stream.std / stream.grid * SCALE)
        y = sum(a * steps[t - j] for j, a in enumerate(weights[: t + 1]))
        seen = sum(a * released[t - j] for j, a in enumerate(weights[: t + 1]) if j)
        assert row.tolist() == np.floor((y + z - seen) / SCALE + 0.5).tolist()


def test_the_covariance_of_the_steps_is_that_of_the_dense_inverse():
    """n = 40,000 numbers a step, 21 covariances; |z| < 5 fails for 1.2e-5 of the keys."""
    stream, n = stream_of(3, 6, 3), 40_000
    noise = drawn(stream, n) * stream.grid
    inverse = np.linalg.inv(dense(stream.filter, 6))
    expected = stream.std**2 * inverse @ inverse.T
    spread = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / n)
    assert (np.abs(noise @ noise.T / n - expected) < 5 * spread).all()


def test_prefix_sums_carry_the_error_of_the_dense_matrix_and_less_than_independent_noise_at_the_same_epsilon():
    """n = 4,000 numbers, 64 steps; the mean square of 64 correlated sums is within 10 % of its expectation.

    Its standard deviation is below sqrt(2 / n) = 2.2 % of it, whatever the correlation: 4.5 of them, 7e-6 of keys.
    """
    steps, period, n = 64, 16, 4_000
    stream, plain = stream_of(16, steps, period), Mechanism(1.0, 2.0, grid=2.0**-10)
    found = math.sqrt(np.mean((np.cumsum(drawn(stream, n), axis=0) * stream.grid) ** 2))
    assert found == pytest.approx(error(dense(stream.filter, steps), stream.std), rel=0.05)
    units = Turns(period)
    # independent noise that costs as much: one Gaussian for each of the four participations
    other = Mechanism(1.0, 2.0 * math.sqrt(4), grid=plain.grid)
    same = [accountant.epsilon([units.event(mechanism, steps)], 1e-6) for mechanism in (stream, other)]
    assert same[0] == pytest.approx(same[1], rel=1e-9)
    assert found < 0.5 * error(np.eye(steps), other.std)


def test_without_bands_noise_is_that_of_the_mechanism():
    stream = Stream(1.0, 2.0, grid=0.25, steps=3, period=1)
    assert stream.sensitivity() == math.sqrt(3)
    noise = drawn(stream, 1000)
    assert np.std(noise * stream.grid) == pytest.approx(stream.std, rel=0.1)


def test_a_step_may_be_filled_in_parts_from_a_source_that_draws_ahead():
    stream, size = stream_of(3, 4, 3), 70_000
    std = stream.std / stream.grid
    whole = drawn(stream, 2**15, NoiseSource(KEY).child())
    with ahead(NoiseSource(KEY), std * SCALE, size) as source:
        noise = Correlated(source, stream, 2**15)
        assert isinstance(noise, Noise)
        assert noise.fixed
        out = torch.empty(2**15, dtype=torch.float64)
        for step in range(4):
            for part in torch.split(out, 9_999):
                noise.fill(part, std)
            assert out.tolist() == whole[step].tolist()
        assert noise.numbers_drawn >= 4 * 2**15


def test_a_stream_releases_totals_longer_than_a_chunk():
    stream = stream_of(3, 2, 3, grid=2.0**-4)
    noise, total = Correlated(NoiseSource(KEY), stream, 40_000), torch.zeros(40_000)
    released = [stream.release(total, noise, 2.0) for _ in range(2)]
    assert released[1].shape == (40_000,)
    assert released[1].std() * 2 == pytest.approx(stream.std * math.sqrt(1 + 0.25), rel=0.05)


def test_correlated_noise_serves_its_own_stream_alone():
    stream, out = stream_of(3, 2, 3), torch.empty(4, dtype=torch.float64)
    noise = Correlated(NoiseSource(KEY), stream, 4)
    with pytest.raises(UsageError, match="no other mechanism"):
        Mechanism(1.0, 2.0, grid=stream.grid).release(torch.zeros(4), noise)
    with pytest.raises(UsageError, match="another size"):
        stream.release(torch.zeros(5), noise)
    for _ in range(2):
        noise.fill(out, stream.std / stream.grid)
    with pytest.raises(PrivacyRefused, match="fewer steps"):
        noise.fill(out, stream.std / stream.grid)
    with pytest.raises(UsageError, match="none to correlate"):
        Correlated(NoiseSource(KEY), Stream(1.0), 4)


def test_noise_that_does_not_fit_exact_integers_is_refused():
    stream = Stream(1.0, 2.0**37, grid=1.0, steps=2, filter=square_root(2000))

    class Huge(NoiseSource):
        def fill(self, out, std):
            out.fill_(2.0**51)

    with pytest.raises(UsageError, match="coarser grid"):
        drawn(stream, 2, Huge(KEY))
    with pytest.raises(UsageError, match="coarser grid"):
        drawn(Stream(1.0, 2.0**40, grid=1.0), 2)


def test_a_stream_is_one_gaussian_event():
    stream = stream_of(4, 20, 4, multiplier=3.0)
    assert Turns(4).event(stream, 20) == Event(3.0)
    assert Turns(9).event(stream, 20) == Event(3.0)
    assert stream.std == pytest.approx(3.0 * stream.sensitivity())
    assert Turns(4).added_delta(1.0, 20) == 0
    assert FullBatch().event(stream_of(4, 20, 1), 20) == Event(2.0)


def test_an_event_that_is_not_the_streams_is_refused():
    stream = stream_of(4, 20, 4)
    with pytest.raises(PrivacyRefused, match="amplification"):
        Poisson(0.5).event(stream, 20)
    for sampling in (FullBatch(), Turns(3)):
        with pytest.raises(PrivacyRefused, match="more often"):
            sampling.event(stream, 20)
    with pytest.raises(PrivacyRefused, match="at once"):
        Turns(4).event(stream, 10)


def test_turns_with_independent_noise_cost_one_gaussian_a_participation():
    assert Turns(4).event(for_gradients(1.0, 3.0, 10, 0.0), 21) == Event(3.0, steps=6)


def test_every_unit_takes_part_once_in_a_period():
    batches = list(Turns(4).batches(50, 11, NoiseSource(KEY)))
    assert isinstance(Turns(4), Sampling)
    assert np.sort(np.concatenate(batches[:4])).tolist() == list(range(50))
    for first, second in zip(batches, batches[4:], strict=False):
        assert first.tolist() == second.tolist() == sorted(first)
    assert len({tuple(batch) for batch in batches[:4]}) == 4
    assert [len(batch) for batch in Turns(3).batches(0, 2, NoiseSource(KEY))] == [0, 0]


def test_a_unit_that_comes_leaves_the_others_their_places():
    more, fewer = ([b.tolist() for b in Turns(3).batches(n, 6, NoiseSource(KEY))] for n in (21, 20))
    assert [[unit for unit in batch if unit != 20] for batch in more] == fewer


def test_batches_above_the_public_cap_are_refused(monkeypatch):
    monkeypatch.setattr(correlated, "MAX_BATCH", 5)
    with pytest.raises(PrivacyRefused, match="public cap"):
        list(Turns(1).batches(6, 1, NoiseSource(KEY)))


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0},
        {"period": 0},
        {"filter": ()},
        {"filter": (SCALE - 1,)},
        {"filter": (SCALE, -1)},
        {"filter": (SCALE, 3, 4)},
        {"noise_multiplier": -1.0},
    ],
)
def test_streams_that_make_no_sense_are_refused(fields):
    with pytest.raises(UsageError):
        Stream(1.0, **{"noise_multiplier": 1.0, "grid": 1.0, **fields})
    with pytest.raises(UsageError):
        Turns(0)
