import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.recipes.table import Layout, pair_tables
from privae.sums.tree import clean_margins, column_totals, fit_tree, offsets_of, sample_tree


def tables_of(codes, sizes):
    layout = Layout(np.arange(len(sizes)), np.array(sizes), None, 1)
    return pair_tables(np.asarray(codes, np.int32), layout).astype(float)


def chain(count, seed=0):
    """Codes where 0 -> 1 -> 2 is a chain and 3 stands alone."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 3, count)
    second = np.where(rng.random(count) < 0.9, first, rng.integers(0, 3, count))
    third = np.where(rng.random(count) < 0.8, second > 0, rng.random(count) < 0.5).astype(int)
    return np.stack([first, second, third, rng.integers(0, 2, count)], 1)


SIZES = np.array([3, 3, 2, 2])


def test_offsets_are_the_starts_of_the_blocks_and_the_end():
    assert offsets_of(np.array([2, 3, 1])).tolist() == [0, 2, 5, 6]


def test_without_noise_the_margins_are_the_shares_of_the_data():
    codes = [[0, 0, 1], [0, 2, 1], [1, 2, 0], [0, 1, 1]]
    margins = clean_margins(tables_of(codes, [2, 3, 2]), np.array([2, 3, 2]))
    assert margins.counts.tolist() == pytest.approx([4])
    assert margins.one[0] == pytest.approx([0.75, 0.25, 0.25, 0.25, 0.5, 0.25, 0.75])


def test_a_value_left_out_is_missing_from_the_total_of_its_column_alone():
    counts, columns = column_totals(tables_of([[0, 0, 1], [0, -1, 1]], [2, 3, 2]), np.array([2, 3, 2]))
    assert columns[0, 1] == pytest.approx(1)
    assert columns[0, 0] > 1.5
    assert 1 < counts[0] < 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.integers(0, 2**32 - 1), st.floats(0.0, 1000.0))
def test_margins_of_any_noisy_tables_are_distributions(sizes, seed, deviation):
    cells = sum(sizes)
    noise = np.random.default_rng(seed).normal(0, deviation, (2, cells, cells))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    tables = (noise + noise.transpose(0, 2, 1)) * (owner[:, None] != owner)
    margins = clean_margins(tables, np.array(sizes))
    assert (margins.counts >= 1).all()
    assert (margins.one >= 0).all()
    sums = np.add.reduceat(margins.one, offsets_of(np.array(sizes))[:-1], axis=1)
    assert sums == pytest.approx(np.ones_like(sums))


def test_the_tree_of_a_chain_is_the_chain():
    tables = tables_of(chain(4000), SIZES)
    margins = clean_margins(tables, SIZES)
    tree = fit_tree(tables[0] / margins.counts[0], margins.one[0], SIZES, 0.0)
    edges = {frozenset((j, int(p))) for j, p in enumerate(tree.parent) if p >= 0}
    assert {frozenset((0, 1)), frozenset((1, 2))} <= edges
    assert len(edges) == 3
    assert sorted(tree.order.tolist()) == [0, 1, 2, 3]
    for j, table in enumerate(tree.conditional):
        parent = tree.parent[j]
        assert table.shape == (1 if parent < 0 else SIZES[parent], SIZES[j])
        assert table.sum(1) == pytest.approx(np.ones(len(table)))


def test_samples_of_the_tree_have_the_pair_tables_of_the_data():
    """n = 20,000: a share has a standard deviation below 0.0036; 0.02 is five of them for data and samples."""
    tables = tables_of(chain(20_000), SIZES)
    margins = clean_margins(tables, SIZES)
    tree = fit_tree(tables[0] / margins.counts[0], margins.one[0], SIZES, 0.0)
    samples = sample_tree(tree, 20_000, np.random.default_rng(1))
    assert np.abs(tables_of(samples, SIZES)[0] - tables[0]).max() / 20_000 < 0.02
    assert (samples == sample_tree(tree, 20_000, np.random.default_rng(1))).all()


def test_residuals_below_the_noise_are_taken_for_independence():
    tables = tables_of(chain(1000), SIZES)
    margins = clean_margins(tables, SIZES)
    tree = fit_tree(tables[0] / margins.counts[0], margins.one[0], SIZES, 10.0)
    for table in tree.conditional:
        assert table == pytest.approx(np.broadcast_to(table[0], table.shape), abs=1e-6)


def test_an_impossible_parent_value_gives_the_column_its_own_margin():
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 1]] * 10)
    tables = tables_of(codes, [3, 2])
    margins = clean_margins(tables, np.array([3, 2]))
    tree = fit_tree(tables[0] / margins.counts[0], margins.one[0], np.array([3, 2]), 0.0)
    assert all(np.isfinite(table).all() and (table >= 0).all() for table in tree.conditional)
    assert tree.conditional[1].sum(1) == pytest.approx(np.ones(3))
