"""Anomalies in images: ordinary ones are smooth slopes with a few waves, strange ones have a wave that these lack."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from privae import VAE
from privae.data.images import ImageSchema
from privae.encrypted.compile import compiled
from privae.errors import DataError, ResourceError, UsageError
from privae.fitted.anomalies import FittedImageDetection
from privae.privacy.noise import NoiseSource
from privae.recipes import detection
from privae.recipes.phases import Budget
from privae.sums import contrast

SHAPE = 16, 12


def slopes(count, seed=0, wave=0.0):
    """Brightness that falls from the top by chance, and noise; with `wave`, one more wave across."""
    rng = np.random.default_rng(seed)
    down, across = np.linspace(-1, 1, SHAPE[0])[:, None], np.linspace(-1, 1, SHAPE[1])
    tilt, lean = rng.normal(1, 0.3, (2, count, 1, 1))
    fields = (
        tilt * down
        + 0.4 * lean * across
        + wave * np.cos(np.pi * across)
        + rng.normal(0, 0.2, (count, *SHAPE))
    )
    return np.clip(128 + 45 * fields, 0, 255).astype(np.uint8)


def vae(epsilon=2.0, rows=4000, **options):
    return VAE(epsilon, 1e-6, rows, recipe="detection", **options)


@pytest.fixture(scope="module")
def model():
    return vae().fit(slopes(4000), noise=NoiseSource(bytes(32)))


def test_strange_images_are_told_from_ordinary_ones_by_every_score(model):
    x = np.concatenate([slopes(300, 1), slopes(300, 2, wave=0.8)])
    strange = np.arange(600) >= 300
    for name, least in (("combined", 0.8), ("mahalanobis", 0.93), ("diagonal", 0.85), ("tail", 0.6)):
        assert roc_auc_score(strange, model.decision_function(x, name)) > least
    assert (model.decision_function(x) == model.decision_function(x, "mahalanobis")).all()
    flags = model.predict(x)
    assert flags[strange].mean() > 0.8
    assert flags[~strange].mean() < 0.15


def test_scores_do_not_see_brightness_or_contrast(model):
    x = slopes(50, 3) // 2
    brighter, stronger = x + 60, np.clip(2 * x.astype(int), 0, 255).astype(np.uint8)
    usual = model.decision_function(x)
    assert model.decision_function(brighter) == pytest.approx(usual, rel=1e-3)
    assert model.decision_function(stronger) == pytest.approx(usual, rel=0.2)


def test_heat_sums_to_the_score_of_the_low_frequencies(model):
    x = slopes(20, 4, wave=0.5)
    heat, inner = model.heat_map(x), model.fitted_.model
    assert heat.shape == x.shape
    difference, weight = inner.leaning(contrast.numbers(x, len(inner.mean)))
    whole = (difference * weight).sum(1)
    assert whole == pytest.approx(model.decision_function(x), rel=1e-9)
    parts = heat.sum((1, 2)) + difference[:, -1] * weight[:, -1]
    assert parts == pytest.approx(whole, rel=1e-3)


def test_heat_lies_where_an_image_is_strange(model):
    x = slopes(1, 5).repeat(2, 0)
    x[1, :5, :4] = 255
    found = model.heat_map(x)[1] - model.heat_map(x)[0]
    assert found[:5, :4].mean() > 3 * abs(found[8:, 6:].mean())


def test_samples_look_like_the_images_and_scores_of_samples_are_those_of_their_numbers(model):
    x = model.sample(400, seed=0)
    assert (x.shape, x.dtype) == ((400, *SHAPE), np.uint8)
    assert (x == model.sample(400, seed=0)).all()
    real, made = (contrast.numbers(part, 10)[:, :-1].mean(0) for part in (slopes(400, 6), x))
    assert made == pytest.approx(real, abs=0.12)
    scores = -model.fitted_.sampled_scores(500, x)
    assert np.median(scores) == pytest.approx(np.median(model.decision_function(slopes(400, 7))), rel=0.5)


def test_a_model_is_read_back_as_it_was(model, tmp_path):
    model.save(tmp_path / "m.privae")
    again, x = VAE.load(tmp_path / "m.privae"), slopes(30, 8)
    assert isinstance(again.fitted_, FittedImageDetection)
    assert (again.decision_function(x) == model.decision_function(x)).all()
    assert (again.transform(x) == model.transform(x)).all()
    assert again.transform(x).shape == (30, len(model.fitted_.model.mean))
    assert again.fitted_.notes == model.fitted_.notes


@pytest.mark.parametrize("shape", [(3, 4), (16, 13), (40, 5)])
def test_a_model_of_images_of_another_shape_still_reads_theirs_alone(model, shape):
    with pytest.raises(UsageError, match=r"images must be uint8 \[n, 16, 12\]"):
        model.score_samples(np.zeros((1, *shape), np.uint8))
    other = FittedImageDetection(ImageSchema(height=2, width=2), model.fitted_.model)
    assert model.fitted_.belongs()
    assert not other.belongs()


def test_an_image_of_one_color_has_a_score(model):
    flat = np.stack([np.full(SHAPE, value, np.uint8) for value in (0, 255)])
    scores = model.decision_function(flat)
    assert np.isfinite(scores).all()
    assert scores[0] == scores[1]
    assert model.heat_map(flat).shape == flat.shape


def test_the_number_of_numbers_follows_the_declared_rows_and_epsilon_alone():
    schema = ImageSchema(height=28, width=28)

    def size(epsilon, rows, shape=schema):
        return detection.numbers_of_images(shape, Budget(epsilon, 1e-6, rows))

    assert size(1.0, None) == 16
    assert size(1.0, 10) == 8
    assert size(1.0, 100_000) == size(math.inf, None) == size(math.inf, 10) == 36
    assert 8 < size(1.0, 500) < size(1.0, 800) < 36
    assert size(10.0, 100_000, ImageSchema(height=3, width=4)) == 12
    plan = vae(1.0, 500).plan(schema)
    assert plan.settings == {"frequencies": size(1.0, 500)}


@pytest.mark.parametrize("rows", [700, 4000])
def test_covariances_are_trusted_with_a_third_fewer_rows_than_declared(rows):
    made = vae(1.0, rows).fit(slopes(rows * 2 // 3), noise=NoiseSource(bytes(32)))
    assert made.fitted_.model.basis == "covariance"


def test_a_file_of_huge_images_or_of_gaps_is_no_model(model):
    from dataclasses import replace

    inner = model.fitted_.model
    for shape in ((200_000, 200_000), (1, 20_000), (2**12 + 1, 3)):
        assert not FittedImageDetection(ImageSchema(height=shape[0], width=shape[1]), inner).belongs()
        with pytest.raises(UsageError, match="a side"):
            vae().plan(ImageSchema(height=shape[0], width=shape[1]))
    gaps = replace(inner.quantiles, gaps=np.full(len(inner.mean), 0.5))
    assert not FittedImageDetection(model.fitted_.schema, replace(inner, quantiles=gaps)).belongs()


def test_a_model_is_not_computed_on_ciphertexts_and_says_why(model):
    with pytest.raises(UsageError, match="scores locally"):
        compiled(model.fitted_)


def test_labels_and_options_of_other_recipes_are_refused():
    x = slopes(20)
    with pytest.raises(UsageError, match="uses no labels"):
        vae().fit(x, ["a"] * 20)
    with pytest.raises(UsageError, match="uses no labels"):
        vae(classes=2).fit(x)
    with pytest.raises(UsageError, match="leave out fidelity"):
        vae(fidelity=True).fit(x)
    with pytest.raises(UsageError, match="strict is for tables"):
        vae(strict=True).fit(x)
    with pytest.raises(UsageError, match="4 to"):
        vae().fit(x[:, :1, :3])
    with pytest.raises(DataError, match="too few records"):
        vae(0.1).fit(x)


def test_more_images_than_the_sums_hold_are_refused(monkeypatch):
    monkeypatch.setattr(detection, "_MOST_ROWS", 9)
    with pytest.raises(ResourceError, match="more records"):
        vae(math.inf).fit(slopes(20))


def test_heat_needs_a_detection_model_of_images_that_knows_more_than_the_bounds(pictures):
    from dataclasses import replace

    plain = VAE(math.inf).fit(pictures(300)[0])
    with pytest.raises(UsageError, match="heat maps are of images"):
        plain.heat_map(pictures(3)[0])
    made = vae(math.inf).fit(slopes(200))
    blind = FittedImageDetection(made.fitted_.schema, replace(made.fitted_.model, basis="public"))
    with pytest.raises(UsageError, match="nothing to show"):
        blind.heat(slopes(3))
    assert np.isfinite(blind.score(slopes(3))).all()
