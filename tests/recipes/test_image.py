import math

import numpy as np
import pytest
import torch

from privae.errors import DataError, PrivacyRefused
from privae.models.image import ResidualDecoder
from privae.privacy.noise import NoiseSource
from privae.recipes import image
from privae.recipes.phases import Budget, Run, plan_of
from privae.sums import moments
from privae.training.watch import Silent


def planned(epsilon=2.0, classes=2, fidelity=False, rows=None, shape=(4, 4)):
    budget = Budget(epsilon, 1e-6, rows, fidelity=fidelity)
    return plan_of(image.draft(shape, classes, budget), budget, "schema", "source")


def started(**options):
    return Run(planned(**options), lambda *_: None, NoiseSource(bytes(32)), Silent())


def drafted(epsilon, fidelity=None, rows=60_000):
    return image.draft((28, 28), 10, Budget(epsilon, 1e-5, rows, fidelity=fidelity))


def test_the_phases_follow_from_epsilon_and_the_wish_for_fidelity():
    closed = ["norms", "axes", "class prior"]
    assert [p.name for p in drafted(1.0).phases] == closed
    assert [p.name for p in drafted(1.0, fidelity=True).phases] == [*closed, "residual decoder"]
    assert [p.name for p in drafted(3.0).phases] == [*closed, "residual decoder"]
    assert [p.name for p in drafted(3.0, fidelity=False).phases] == closed
    assert sum(p.share for p in drafted(3.0).phases) == pytest.approx(1)


def test_without_declared_rows_there_is_no_decoder_and_the_plan_says_why():
    draft = drafted(3.0, rows=None)
    assert [p.kind for p in draft.phases] == ["statistics"] * 3
    assert "--rows" in draft.notes[0]


def test_the_size_of_the_gradient_phase_is_that_of_the_decoder():
    """Rounding a release of d numbers is charged by sqrt(d), so d must be the true one."""
    phase = drafted(3.0).phases[-1]
    decoder = ResidualDecoder(image.sizes_for(3.0, 784).latent + 10, (200,), 784)
    assert phase.size == sum(parameter.numel() for parameter in decoder.parameters())
    assert (phase.sampling_rate, phase.sensitivity, phase.replace_ratio) == (0.05, 1.0, 2.0)


def test_small_images_have_small_sizes():
    sizes = image.sizes_for(1.0, 16)
    assert (sizes.basis, sizes.latent) == (16, 4)
    assert image.sizes_for(1.0, 1).latent == 1


def test_without_noise_the_codes_are_white_and_the_classes_are_told_apart(pictures):
    x, y = pictures(2000)
    model = image.fit(started(epsilon=math.inf), x, y, 2)
    codes = model.embed(torch.from_numpy(x))
    assert codes.shape == (2000, 4)
    assert codes.var(0).numpy() == pytest.approx(np.ones(4), abs=0.5)
    joint = model.prior.log_joint(codes)
    assert (joint.argmax(1).numpy() == y).mean() > 0.95
    assert model.prior.weights.numpy() == pytest.approx(np.bincount(y) / 2000, abs=1e-6)


def test_a_private_fit_still_samples_the_right_class(pictures):
    x, y = pictures(20_000)
    model = image.fit(started(epsilon=2.0), x, y, 2)
    pixels, classes = model.sample(500, torch.Generator().manual_seed(0))
    left = pixels[:, :, :2].float().mean((1, 2)) - pixels[:, :, 2:].float().mean((1, 2))
    assert ((left > 0) == (classes == 0)).double().mean() > 0.9
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (200, 4, 4)).astype(np.uint8))
    unknown = torch.full((200,), -1)
    assert model.log_likelihood(pixels[:200], unknown).mean() > model.log_likelihood(noise, unknown).mean()


@pytest.mark.parametrize("count", [0, 1, 30])
def test_too_few_images_are_refused_by_the_released_count(pictures, count):
    run = started(epsilon=0.5)
    with pytest.raises(DataError, match="released number of images"):
        image.fit(run, *pictures(count), 2)
    assert run.noise.numbers_drawn == 128


def test_images_of_one_color_make_a_model(pictures):
    for value in (0, 255):
        x = np.full((3000, 4, 4), value, np.uint8)
        model = image.fit(started(), x, np.zeros(3000, np.int64), 2)
        assert all(torch.isfinite(v).all() for v in model.state().values())


def test_a_class_without_records_makes_a_model(pictures):
    x, y = pictures(4000)
    for labels in (np.zeros_like(y), np.where(np.arange(4000) < 3, 1, 0)):
        model = image.fit(started(), x, labels, 2)
        assert all(torch.isfinite(v).all() for v in model.state().values())
        assert model.prior.means[1] == pytest.approx(model.prior.means[0], abs=0.2)
        spread = model.prior.factors[0] @ model.prior.factors[0].T
        assert 1 < spread.trace() + model.prior.means[0].square().sum() < 7  # k = 4: not drowned by the other


def test_labels_that_fit_no_class_are_refused_by_the_released_counts(pictures):
    x, y = pictures(4000)
    with pytest.raises(DataError, match="every class"):
        image.fit(started(), x, np.full_like(y, -1), 2)


def test_any_release_makes_a_model_or_is_refused(pictures, monkeypatch):
    """However noisy: what follows the releases ends in a finite model or in our own error."""
    x, y = pictures(60)
    monkeypatch.setattr(image, "_CERTAIN", -1e9)
    for key in range(30):
        run = Run(
            planned(0.05 if key % 2 else 0.5), lambda *_: None, NoiseSource(bytes([key] * 32)), Silent()
        )
        try:
            model = image.fit(run, x, y, 2)
        except DataError:
            continue
        assert all(torch.isfinite(v).all() for v in model.state().values())


def test_the_center_never_leaves_the_bound():
    """Else the products with the released encoder would pass 2^53 and depend on the chunks (rule 1)."""

    class Wild(Run):
        def release(self, name, totals):
            return [
                np.full(total.shape, 1.0 if weight == 0.1 else 2.0**60) for total, weight in totals
            ]  # count 1

    run = Wild(planned(), lambda *_: None, NoiseSource(bytes(32)), Silent())
    mean, axes, spread = image._axes(run, np.zeros((0, 16), np.int64), (4, 4))
    sizes = image.sizes_for(2.0, 16)
    encoder = image._encoder(axes, np.full_like(spread, 1e-3 * moments.BOUND), sizes)
    assert encoder.dtype == np.int64
    assert np.linalg.norm(mean) <= moments.BOUND * (1 + 1e-9)
    longest = 2.001 * moments.BOUND * np.linalg.norm(encoder.astype(float), axis=0).max()
    assert longest < 2.0**53


def test_the_ball_is_read_off_the_counts_and_holds_most_images():
    rng = np.random.default_rng(0)
    shade, texture = rng.normal(180, 10, (2000, 1, 1)), rng.normal(0, 30, (2000, 8, 8))
    x = np.clip(shade + texture, 0, 255).astype(np.uint8)
    sizes = image.sizes_for(10.0, 64)
    raw = image.frequencies(x, sizes)
    counts = image.ball_counts(raw, 64)
    assert counts.shape == (128,)
    assert counts[:64].sum() == counts[64:].sum() == 2000
    ball = image.ball_of(counts.astype(float), 64, 0.9)
    assert ball.center / image._CODE_UNIT / 8 * 255 == pytest.approx(180, abs=255 / 64)
    apart = np.linalg.norm(raw - ball.center * np.eye(1, raw.shape[1]), axis=1)
    assert 0.85 < (apart <= ball.radius).mean() < 1
    assert ball.radius < 0.5 * np.quantile(np.linalg.norm(raw, axis=1), 0.9)
    coded = image.bounded(raw, ball)
    assert np.linalg.norm(coded, axis=1).max() <= moments.BOUND


@pytest.mark.parametrize("counts", [np.zeros(128), -np.ones(128), np.full(128, np.nan), np.full(128, 1e300)])
def test_any_counts_give_a_ball_of_some_size(counts):
    ball = image.ball_of(counts, 16, 0.9)
    top = image._CODE_UNIT * 4
    assert 0 <= ball.center <= top
    assert top / 128 <= ball.radius <= 2 * top


@pytest.mark.parametrize("counts", [np.zeros(64), np.zeros((2, 64)), np.zeros(0)])
def test_what_are_no_counts_is_refused(counts):
    with pytest.raises(PrivacyRefused, match="do not trust"):
        image.ball_of(counts, 16, 0.9)


def test_few_dark_or_bright_images_are_drawn_with_their_own_contrast():
    """Brightness that all share costs no noise, and noise is not drawn as if it were contrast."""
    rng = np.random.default_rng(1)
    down, across = np.linspace(-1, 1, 16)[:, None], np.linspace(-1, 1, 16)
    tilt, lean = rng.normal(0, 12, (2, 2000, 1, 1))
    x = np.clip(200 + tilt * down + lean * across, 0, 255).astype(np.uint8)
    budget = Budget(1.0, 1e-6, fidelity=False)
    plan = plan_of(image.draft((16, 16), 1, budget), budget, "schema", "source")
    run = Run(plan, lambda *_: None, NoiseSource(bytes(32)), Silent())
    model = image.fit(run, x, np.zeros(2000, np.int64), 1)
    made = model.sample(500, torch.Generator().manual_seed(0))[0].numpy().astype(float)
    assert made.mean() == pytest.approx(200, abs=10)
    assert made.std() < 4 * x.astype(float).std()  # ten times before noise was held down


def test_the_decoder_refines_the_reconstruction(pictures):
    x, y = pictures(400)
    run = started(epsilon=math.inf, fidelity=True, rows=400)
    model = image.fit(run, x, y, 2)
    assert model.decoder is not None
    assert not model.decoder.training
    assert model.decoder.decoder.logits.weight.abs().max() > 0
    pixels, _ = model.sample(50, torch.Generator().manual_seed(0))
    assert pixels.shape == (50, 4, 4)
