import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.errors import PrivacyRefused
from privae.models.scores import Standard
from privae.sums import moments, standard
from privae.sums.moments import BOUND
from privae.sums.quantiles import counts, grid, quantiles

NORMAL = Standard(np.zeros(2), np.ones(2), np.full(2, -100.0), np.full(2, 200.0))
RADIUS = 1.2 * math.sqrt(2)


def test_center_and_spread_are_those_of_a_normal_column():
    of = grid([-50.0, 0.0], [50.0, 1.0], [0.1, 0.1])
    values = np.random.default_rng(0).normal([7.0, 0.5], [3.0, 0.0], (20_000, 2))
    found = standard.standard_of(quantiles(counts(of.places(values), of).astype(float), of, 20_000, 0.0), of)
    assert found.center[0] == pytest.approx(7, abs=0.1)
    assert found.spread[0] == pytest.approx(3, abs=0.1)
    assert found.spread[1] == 0.025  # a column of one value: a quarter of its unit


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=6))
def test_codes_are_bounded_integers_and_each_row_its_own(rows):
    values = np.array(rows)
    codes = standard.clipped_codes(values, NORMAL)
    assert codes.dtype == np.int64
    assert max(int(a) ** 2 + int(b) ** 2 for a, b in codes) <= BOUND**2
    assert (codes == np.concatenate([standard.clipped_codes(row[None], NORMAL) for row in values])).all()


@pytest.mark.parametrize("wild", [0.0, 1e-320, math.nan, math.inf])
def test_codes_are_bounded_whatever_was_released_before(wild):
    """A coordinator of several sites may say anything."""
    with np.errstate(all="ignore"):
        codes = standard.clipped_codes(
            np.array([[1.0, 2.0]]), Standard(np.full(2, wild), np.full(2, wild), NORMAL.low, NORMAL.width)
        )
    assert float((codes.astype(float) ** 2).sum()) <= BOUND**2


def test_moments_come_back_in_standardized_units():
    rng = np.random.default_rng(0)
    values = np.clip(rng.multivariate_normal([0.1, 0], [[0.3, 0.1], [0.1, 0.2]], 5000), -1, 1)
    codes = standard.clipped_codes(values, NORMAL)
    found = moments.unpack(moments.sums(codes).astype(float), 2)
    spread = standard.shrunk(found, 5000.0, 0.0)
    assert spread.mean == pytest.approx(values.mean(0), abs=1e-4)
    assert spread.covariance == pytest.approx(np.cov(values.T), abs=1e-3)
    assert (spread.known, spread.floor) == (1.0, pytest.approx(0.05 * np.median(np.diag(spread.covariance))))


def test_covariances_give_way_to_the_known_noise_and_variances_do_not():
    second = np.array([[0.4, 0.1], [0.1, 0.4]]) * BOUND**2 * 100
    found = moments.Moments(second, np.zeros(2), 100.0)
    noiseless, some, drowned = (standard.shrunk(found, 100.0, noise) for noise in (0.0, 7.0, 1000.0))
    assert noiseless.covariance[0, 1] > some.covariance[0, 1] > drowned.covariance[0, 1] == 0
    assert some.known == pytest.approx(1 - (7 / math.sqrt(2) / 10) ** 2)
    assert np.diag(drowned.covariance) == pytest.approx(np.diag(noiseless.covariance))
    assert noiseless.floor < some.floor < drowned.floor
    assert some.floor == pytest.approx(7 / math.sqrt(2) * RADIUS**2 / 100 * math.sqrt(2))


def test_one_column_has_no_covariances():
    found = moments.Moments(np.array([[50.0 * BOUND**2]]), np.zeros(1), 100.0)
    assert standard.shrunk(found, 100.0, 3.0).known == 1.0


def agreed(center, spread):
    return {"center": torch.from_numpy(np.array(center)), "spread": torch.from_numpy(np.array(spread))}


def test_what_a_coordinator_agrees_is_what_releases_could_have_given():
    two = grid([0.0, 0.0], [10.0, 4.0], [1.0, 0.5])
    own = standard.agreed_standard(agreed([5.0, 2.0], [1.0, 1.0]), two)
    assert (own.center.tolist(), own.spread.tolist()) == ([5.0, 2.0], [1.0, 1.0])
    nan = math.nan
    wild = [
        {},
        agreed([5.0], [1.0]),
        agreed([[5.0, 2.0]], [1.0, 1.0]),  # another center for each record
        agreed([5, 2], [1, 1]),
        agreed([nan, 2.0], [1.0, 1.0]),
        agreed([11.0, 2.0], [1.0, 1.0]),
        agreed([5.0, 2.0], [1.0, nan]),
        agreed([5.0, 2.0], [1.0, math.inf]),
        agreed([5.0, 2.0], [0.0, 1.0]),
        agreed([5.0, 2.0], [1.0, -1.0]),
    ]
    for given_ in wild:
        with pytest.raises(PrivacyRefused, match="do not trust the coordinator"):
            standard.agreed_standard(given_, two)
