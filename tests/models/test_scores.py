import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.errors import UsageError
from privae.models.scores import (
    SCORES,
    Cells,
    DetectionModel,
    Quantiles,
    Standard,
    soft_limit,
)

UNIFORM = [[0.0, 1.0], [0.0, 1.0]]


def model_of(basis="covariance", gaps=(0.0, 0.25), **more):
    """Two uniform columns on [0, 10] and [-1, 1], standardized, and one category column of three cells."""
    low, width = np.array([0.0, -1.0]), np.array([10.0, 2.0])
    parts = {
        "quantiles": Quantiles(low, width, np.array(UNIFORM), np.array(UNIFORM), np.array(gaps)),
        "standard": Standard(np.array([5.0, 0.0]), np.array([2.0, 0.5]), low, width),
        "cells": Cells(np.array([3]), np.array([0.7, 0.3, 0.0])),
        "mean": np.zeros(2),
        "covariance": np.array([[1.0, 0.5], [0.5, 1.0]]),
    }
    numbers = {"floor": 0.01, "least": 0.001, "known": 0.9, "basis": basis}
    return DetectionModel(**(parts | numbers | more))


def test_soft_limit_by_hand():
    values = np.array([0.25, -3.0, 2.0 + math.e, -2.0 - math.exp(2), math.inf, math.nan])
    expected = np.array([0.25, -3.0, 4.0, -5.0, 19.0, math.nan])
    assert soft_limit(values) == pytest.approx(expected, abs=1 / 256, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_soft_limit_is_odd_rises_and_depends_on_one_value_alone(values):
    wide = np.array(values)
    limited = soft_limit(wide)
    assert (soft_limit(-wide) == -limited).all()
    assert (np.diff(limited[np.argsort(wide)]) >= 0).all()
    assert np.abs(limited).max() <= 19
    assert limited.tolist() == [float(soft_limit(np.array([value]))[0]) for value in values]


def test_distribution_functions_are_read_column_by_column():
    quantiles = Quantiles(
        np.array([0.0, 100.0]),
        np.array([10.0, 100.0]),
        np.array([[0.0, 0.5, 1.0], [0.0, 0.1, 1.0]]),
        np.array([[0.0, 0.9, 1.0], [0.0, 0.5, 1.0]]),
        np.zeros(2),
    )
    values = np.array([[5.0, 110.0], [2.5, 155.0], [-1e300, math.inf], [math.nan, 100.0]])
    below = quantiles.below(values)
    assert below == pytest.approx(np.array([[0.9, 0.5], [0.45, 0.75], [0.0, 1.0], [0.5, 0.0]]))
    assert quantiles.at(below[:2]) == pytest.approx(values[:2])


def test_scores_by_hand():
    model = model_of()
    values, codes = np.array([[5.0, 0.0], [9.0, 0.0]]), np.array([[0], [1]])
    found = model.scores(values, codes)
    assert list(found) == list(SCORES)
    z = np.array([2.0, 0.0])
    assert found["mahalanobis"] == pytest.approx([0.0, z @ np.linalg.inv(model.covariance) @ z])
    assert found["diagonal"] == pytest.approx([0.0, 4.0])
    tails = [-2 * math.log(0.501) - math.log(0.7)]
    tails.append(-math.log(0.1 + 0.001 * math.exp(-2)) - math.log(0.501) - math.log(0.3))
    assert found["tail"] == pytest.approx(tails)
    expected = np.log(found["mahalanobis"] + 1e-6) + 2 * np.log(found["tail"])
    assert found["combined"] == pytest.approx(expected, abs=1e-5)
    assert (model.embed(values) ** 2).sum(1) == pytest.approx(found["mahalanobis"])


def test_a_gap_is_the_median_in_distances_and_counts_by_its_share_in_tails():
    model = model_of()
    gap, middle = (model.scores(np.array([[5.0, second]]), np.array([[0]])) for second in (math.nan, 0.0))
    assert gap["mahalanobis"] == middle["mahalanobis"]
    assert gap["tail"] - middle["tail"] == pytest.approx(-math.log(0.251) + math.log(0.501))


def test_a_cell_that_nobody_has_counts_by_the_least_share_that_can_be_told():
    found = model_of().scores(np.array([[5.0, 0.0]] * 2), np.array([[2], [-1]]))
    assert found["tail"][0] == found["tail"][1]
    assert found["tail"][0] == pytest.approx(-2 * math.log(0.501) - math.log(0.001))


def test_the_basis_says_what_distances_read():
    values, codes = np.array([[9.0, 1.0], [2.0, -0.5]]), np.zeros((2, 1), np.int64)
    diagonal = model_of("diagonal").scores(values, codes)
    assert diagonal["mahalanobis"] == pytest.approx(diagonal["diagonal"])
    public = model_of("public").scores(values, codes)
    expected = (((values - [5.0, 0.0]) / [5.0, 1.0]) ** 2).sum(1)
    assert all(public[name] == pytest.approx(expected) for name in SCORES)


@pytest.mark.parametrize("basis", ["covariance", "diagonal", "public"])
def test_any_record_has_finite_scores(basis):
    wild = [0.0, -0.0, 1e308, -1e308, math.inf, -math.inf, math.nan, 5e-324]
    values = np.array([[a, b] for a in wild for b in wild])
    found = model_of(basis).scores(values, np.full((len(values), 1), -1))
    assert all(np.isfinite(score).all() for score in found.values())
    assert np.isfinite(model_of(basis).embed(values)).all()
    assert all(
        score.shape == (0,) for score in model_of(basis).scores(values[:0], np.zeros((0, 1), int)).values()
    )


def test_samples_have_the_distribution_functions_the_correlation_and_the_gaps():
    values, codes = model_of().sample(20_000, np.random.default_rng(0))
    known = ~np.isnan(values[:, 1])
    assert known.mean() == pytest.approx(0.75, abs=0.02)
    assert np.corrcoef(values[known].T)[0, 1] == pytest.approx(6 / math.pi * math.asin(0.25), abs=0.02)
    assert np.quantile(values[:, 0], [0.1, 0.5, 0.9]) == pytest.approx([1, 5, 9], abs=0.2)
    assert np.bincount(codes[:, 0], minlength=3) / len(codes) == pytest.approx([0.7, 0.3, 0.0], abs=0.02)
    apart, _ = model_of("diagonal", gaps=(0.0, 0.0)).sample(20_000, np.random.default_rng(0))
    assert abs(np.corrcoef(apart.T)[0, 1]) < 0.02


def test_cells_without_any_record_are_drawn_as_unknown():
    cells = Cells(np.array([2, 3]), np.array([0.0, 0.0, 0.5, 0.5, 0.0]))
    drawn = cells.draw(1000, np.random.default_rng(0))
    assert set(drawn[:, 0].tolist()) == {1}
    assert set(drawn[:, 1].tolist()) == {0, 1}
    assert Cells(np.zeros(0, np.int64), np.zeros(0)).draw(3, np.random.default_rng(0)).shape == (3, 0)


def test_a_model_comes_back_from_its_state():
    model = model_of()
    again = DetectionModel.load(model.config(), model.state())
    values, codes = np.array([[9.0, 1.0], [2.0, math.nan]]), np.array([[0], [2]])
    for name, score in model.scores(values, codes).items():
        assert (again.scores(values, codes)[name] == score).all()
    storage = {value.data_ptr() for value in model.state().values()}
    assert len(storage) == len(model.state())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", torch.zeros(3, dtype=torch.float64)),
        ("covariance", torch.full((2, 2), math.nan, dtype=torch.float64)),
        ("standard.spread", torch.tensor([1.0, 0.0], dtype=torch.float64)),
        ("quantiles.share", torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)),
        ("quantiles.place", torch.tensor([0.0, 1.0], dtype=torch.float64)),
        ("cells.sizes", torch.tensor([4])),
        ("quantiles.gaps", torch.zeros(1, dtype=torch.float64)),
    ],
)
def test_a_state_that_no_fit_gives_is_refused(name, value):
    model = model_of()
    with pytest.raises(ValueError, match="no fit gives"):
        DetectionModel.load(model.config(), model.state() | {name: value})


@pytest.mark.parametrize(("name", "value"), [("floor", 0.0), ("least", -1.0), ("known", math.nan)])
def test_a_config_that_no_fit_gives_is_refused(name, value):
    model = model_of()
    with pytest.raises(ValueError, match="no fit gives"):
        DetectionModel.load(model.config() | {name: value}, model.state())


# --- given --------------------------------------------------------------------------------------------------


def told_model(**more):
    """Three numbers, the last of which is given: wide bounds, so that nothing is limited."""
    low, width = np.full(3, -100.0), np.full(3, 200.0)
    uniform = np.repeat([[0.0, 1.0]], 3, 0)
    root = np.array([[1.0, 0.4, -0.5], [0.0, 0.8, 0.6], [0.0, 0.0, 0.7]])
    parts = {
        "quantiles": Quantiles(low, width, uniform, uniform, np.zeros(3)),
        "standard": Standard(np.array([1.0, 0.0, 2.0]), np.array([2.0, 0.5, 1.0]), low, width),
        "cells": Cells(np.zeros(0, np.int64), np.zeros(0)),
        "mean": np.array([0.1, -0.2, 0.3]),
        "covariance": root @ root.T,
        "given": 1,
    }
    return model_of(**(parts | more))


def conditional(model, row):
    """Mean and covariance of the first two codes, given the third."""
    codes = (row - model.standard.center) / model.standard.spread
    wide, told = model.covariance, codes[2] - model.mean[2]
    mean = model.mean[:2] + wide[:2, 2] / wide[2, 2] * told
    return codes[:2], mean, wide[:2, :2] - np.outer(wide[:2, 2], wide[2, :2]) / wide[2, 2]


def test_given_some_numbers_the_score_is_that_of_the_conditional_gaussian():
    from scipy.stats import multivariate_normal

    model, rng = told_model(), np.random.default_rng(0)
    values = np.array([1.0, 0.0, 2.0]) + rng.normal(0, [1, 0.4, 0.8], (30, 3))
    found = model.scores(values, np.zeros((30, 0), np.int64))
    for row, score, diagonal in zip(values, found["mahalanobis"], found["diagonal"], strict=True):
        codes, mean, wide = conditional(model, row)
        dense = multivariate_normal(mean, wide)
        assert score == pytest.approx(2 * (dense.logpdf(mean) - dense.logpdf(codes)), rel=1e-9)
        assert diagonal == pytest.approx(
            ((codes - model.mean[:2]) ** 2 / np.diag(model.covariance)[:2]).sum()
        )
    difference, weight = model.leaning(values)
    assert difference.shape == weight.shape == (30, 2)
    assert (difference * weight).sum(1) == pytest.approx(found["mahalanobis"], rel=1e-9)
    mean, wide = model.normal_given(values[:, 2:])
    for row, center in zip(values, mean, strict=True):
        _, inside, covariance = conditional(model, row)
        spread = model.standard.spread[:2]
        assert center == pytest.approx(inside * spread + model.standard.center[:2])
        assert wide == pytest.approx(covariance * np.outer(spread, spread))
    blind = told_model(basis="public")
    assert (blind.scores(values, np.zeros((30, 0), np.int64))["tail"] >= 0).all()
    for call in (lambda: blind.leaning(values), lambda: blind.normal_given(values[:, 2:])):
        with pytest.raises(UsageError, match="nothing to show"):
            call()


def test_a_gap_among_what_is_given_is_its_center():
    model = told_model()
    values = np.array([[1.0, 0.0, math.nan], [1.0, 0.0, 2.0]])
    found = model.scores(values, np.zeros((2, 0), np.int64))["mahalanobis"]
    assert found[0] == found[1]
    assert np.isfinite(model.sample(3, np.random.default_rng(0), values[[0, 0, 0], 2:])[0][:, :2]).all()


@pytest.mark.parametrize("share", [0.5, 0.2, 0.05])
def test_samples_given_a_condition_follow_the_conditional_mean(share):
    """The condition is 0 or 1, as a weekend is: of normal marginals, one moves with it."""
    place = 0.5 + np.linspace(-4, 4, 65) / 10
    normal = np.concatenate(
        [[0.0], 0.5 * (1 + np.array([math.erf(z / math.sqrt(2)) for z in np.linspace(-4, 4, 65)])), [1.0]]
    )
    ends = np.concatenate([[0.0], place, [1.0]])
    atoms = (
        np.interp(np.arange(67), [0, 1, 65, 66], [0.0, 0.01, 0.99, 1.0]),
        np.r_[0.0, np.full(65, 1 - share), 1.0],
    )
    quantiles = Quantiles(
        np.array([-5.0, 0.0]),
        np.array([10.0, 1.0]),
        np.stack([ends, atoms[0]]),
        np.stack([normal, atoms[1]]),
        np.zeros(2),
    )
    standard = Standard(np.zeros(2), np.array([1.0, 0.5]), quantiles.low, quantiles.width)
    deviation, rho = math.sqrt(share * (1 - share)) / 0.5, 0.5
    wide = np.array([[1.0, rho * deviation], [rho * deviation, deviation**2]])
    model = model_of(
        quantiles=quantiles,
        standard=standard,
        mean=np.array([0.0, share / 0.5]),
        covariance=wide,
        cells=Cells(np.zeros(0, np.int64), np.zeros(0)),
        given=1,
    )
    for told in (0.0, 1.0):
        expected = rho * (told - share) / math.sqrt(share * (1 - share))
        drawn, _ = model.sample(4000, np.random.default_rng(0), np.full((4000, 1), told))
        assert (drawn[:, 1] == told).all()
        assert drawn[:, 0].mean() == pytest.approx(expected, abs=0.06)
        assert drawn[:, 0].std() == pytest.approx(math.sqrt(1 - rho**2), abs=0.05)


def test_what_is_given_is_in_the_file_and_files_without_it_load():
    model = told_model()
    again = DetectionModel.load(model.config(), model.state())
    assert again.given == 1
    plain = model_of()
    assert "given" not in plain.config()
    assert DetectionModel.load(plain.config(), plain.state()).given == 0
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match="no fit gives"):
            DetectionModel.load(model.config() | {"given": wrong}, model.state())
