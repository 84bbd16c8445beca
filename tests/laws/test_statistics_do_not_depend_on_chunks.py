"""Law: the same records in other chunks, orders or parts give the same integers, bit for bit (rule 1)."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.data.column import Column
from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.privacy.clipping import clip_to_grid
from privae.privacy.noise import NoiseSource
from privae.recipes import detection, image, table
from privae.recipes.phases import Budget, Run, plan_of
from privae.sums import moments, quantiles
from privae.sums.moments import BOUND
from privae.training.watch import Silent


@pytest.fixture
def chunked(monkeypatch):
    def choose(rows):
        monkeypatch.setattr(moments, "CHUNK", rows)
        monkeypatch.setattr(table, "_ROWS", rows)

    return choose


def parts_of(count, rng):
    """A random partition of shuffled places."""
    return np.split(rng.permutation(count), np.sort(rng.integers(0, count, 4)))


@pytest.mark.parametrize("rows", [1, 7, 64, 4096])
def test_pair_tables(chunked, rows):
    rng = np.random.default_rng(rows)
    layout = table.Layout(np.array([0, 1, 3]), np.array([3, 5, 2]), 2, 2)
    codes = (rng.integers(0, [3, 5, 2, 2], (300, 4)) - (rng.random((300, 4)) < 0.1)).clip(-1).astype(np.int32)
    whole = table.pair_tables(codes, layout)
    chunked(rows)
    assert (table.pair_tables(codes, layout) == whole).all()
    assert (sum(table.pair_tables(codes[part], layout) for part in parts_of(300, rng)) == whole).all()


def test_pair_tables_count_beyond_the_reach_of_float32():
    """2^24 + 1 records would be lost in float32; blocks of 8,192 are exact and added as integers."""
    codes = np.zeros((2**24 + 1, 2), np.int8)
    layout = table.Layout(np.array([0, 1]), np.array([1, 1]), None, 1)
    assert table.pair_tables(codes, layout)[0, 0, 1] == 2**24 + 1


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_moments_and_projections(chunked, rows):
    rng = np.random.default_rng(rows)
    raw = rng.integers(-(2**21), 2**21, (300, 6))
    matrix = rng.integers(-(2**29), 2**29, (6, 4))
    codes = clip_to_grid(raw, BOUND)
    whole, projected = moments.sums(codes), moments.project(raw, matrix, 20)
    chunked(rows)
    assert (moments.sums(codes) == whole).all()
    assert (moments.project(raw, matrix, 20) == projected).all()
    for part in parts_of(300, rng):
        assert (moments.project(raw[part], matrix, 20) == projected[part]).all()
    assert (sum(moments.sums(codes[part]) for part in parts_of(300, rng)) == whole).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_sums_equal_python_integers(seed, count):
    rng = np.random.default_rng(seed)
    codes = clip_to_grid(rng.integers(-(2**20), 2**20, (count, 2)), BOUND)
    a, b = codes[:, 0].tolist(), codes[:, 1].tolist()
    product = [sum(p * q for p, q in zip(x, y, strict=True)) for x, y in ((a, a), (a, b), (b, b))]
    assert moments.sums(codes).tolist() == [*product, sum(a), sum(b), count]


class Totals(Run):
    """A run that keeps the private totals; its noise has a fixed key, so its releases repeat with them."""

    def release(self, name, totals):
        self.watch.totals += [total.copy() for total, _ in totals]
        return super().release(name, totals)


class Kept(Silent):
    totals = ()


def test_all_statistics_of_images(chunked, pictures):
    budget = Budget(2.0, 1e-6, fidelity=False)
    plan = plan_of(image.draft((4, 4), 2, budget), budget, "schema", "source")
    x, y = pictures(3000)
    seen = []
    for rows, order in ((4096, np.arange(3000)), (97, np.random.default_rng(0).permutation(3000))):
        chunked(rows)
        watch = Kept()
        watch.totals = []
        model = image.fit(Totals(plan, lambda *_: None, NoiseSource(bytes(32)), watch), x[order], y[order], 2)
        seen.append((watch.totals, list(model.state().values())))
    for first, second in zip(*seen, strict=True):
        assert len(first) == len(second) > 3
        assert all(bool((a == b).all()) for a, b in zip(first, second, strict=True))


def test_trees_of_counts():
    rng = np.random.default_rng(0)
    grid = quantiles.grid([0.0, -1.0], [1.0, 1.0], [0.01, 0.5])
    places = grid.places(np.where(rng.random((300, 2)) < 0.1, np.nan, rng.normal(size=(300, 2))))
    whole = quantiles.counts(places, grid)
    assert (sum(quantiles.counts(places[part], grid) for part in parts_of(300, rng)) == whole).all()


@pytest.mark.parametrize("images", [False, True])
def test_all_statistics_of_detection(chunked, pictures, images):
    rng = np.random.default_rng(0)
    columns = (Column(name=name, kind="numeric", bounds=(-9, 9), unit=0.1) for name in "abc")
    recipe = detection.DetectionRecipe(Schema(columns=tuple(columns)))
    table = pd.DataFrame(rng.standard_cauchy((3000, 3)), columns=list("abc"))
    if images:
        recipe = detection.ImageDetectionRecipe(ImageSchema(height=4, width=4))
    budget = Budget(2.0, 1e-6)
    plan = plan_of(recipe.draft(budget), budget, "schema", "source")
    seen = []
    for rows, order in ((4096, np.arange(3000)), (97, rng.permutation(3000))):
        chunked(rows)
        watch = Kept()
        watch.totals = []
        records = pictures(3000)[0][order] if images else table.iloc[order]
        made = recipe.fit(Totals(plan, lambda *_: None, NoiseSource(bytes(32)), watch), records)
        seen.append((watch.totals, list(made.model.state().values())))
    for first, second in zip(*seen, strict=True):
        assert len(first) == len(second) > 3
        assert all(bool((a == b).all()) for a, b in zip(first, second, strict=True))
