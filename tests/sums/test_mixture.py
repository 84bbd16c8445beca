import math

import numpy as np
import pytest
import torch

from privae.recipes.table import Layout, pair_tables
from privae.sums.mixture import MixtureSettings, fit_mixture
from privae.sums.tree import clean_margins
from privae.training.watch import Silent

SIZES = np.array([2, 3])
SETTINGS = MixtureSettings(components=50, steps=150)


def two_classes(count=2000):
    """Class 0: columns equal; class 1: the second column is 2."""
    rng = np.random.default_rng(0)
    label, first = rng.random(count) < 0.25, rng.integers(0, 2, count)
    codes = np.stack([first, np.where(label, 2, first), label], 1).astype(np.int32)
    return pair_tables(codes, Layout(np.array([0, 1]), SIZES, 2, 2)).astype(float)


def fitted(deviation, settings=SETTINGS, watch=None):
    tables = two_classes()
    return fit_mixture(tables, clean_margins(tables, SIZES), SIZES, deviation, settings, watch or Silent())


def test_the_mixture_learns_the_pair_tables_without_noise():
    fit = fitted(0.0)
    model = fit.model
    codes, classes = model.sample(20_000, torch.Generator().manual_seed(0))
    assert fit.steps == SETTINGS.steps
    assert math.isinf(fit.loss_over_floor)
    assert (classes == 1).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (codes[classes == 0, 0] == codes[classes == 0, 1]).double().mean() > 0.94
    assert (codes[classes == 1, 1] == 2).double().mean() > 0.94


def test_every_component_is_a_product_of_distributions():
    model = fitted(3.0).model
    blocks = torch.split(model.log_cells.exp(), SIZES.tolist(), 2)
    for block in blocks:
        assert block.sum(2) == pytest.approx(torch.ones(block.shape[:2]), abs=1e-5)
    assert model.weights.sum().item() == pytest.approx(1.0)


def test_the_fit_stops_at_the_known_noise_floor():
    loud, quiet = fitted(1e5), fitted(40.0)
    assert (loud.steps, loud.loss_over_floor <= 1) == (0, True)
    assert 0 < quiet.steps < SETTINGS.steps
    assert quiet.loss_over_floor <= 1


def test_the_fit_is_a_function_of_the_released_tables():
    torch.manual_seed(1)
    first = fitted(3.0).model.log_cells
    torch.manual_seed(2)
    assert torch.equal(first, fitted(3.0).model.log_cells)


def test_the_watcher_is_told_every_step():
    class Watch(Silent):
        phases, steps = (), 0

        def phase(self, name, total):
            self.phases = (*self.phases, total)

        def advance(self, count, epsilon=None):
            self.steps += count

    watch = Watch()
    fit = fitted(40.0, watch=watch)
    assert watch.phases == (SETTINGS.steps,)
    assert watch.steps == fit.steps
