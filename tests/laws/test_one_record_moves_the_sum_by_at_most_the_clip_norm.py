"""Law: whatever a record holds (nan, inf, huge), adding it moves a clipped sum by at most the clip norm."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from privae.privacy.clipping import clip_to_grid, clipped_sum
from privae.privacy.gradients import Summation, clipped_gradient_sum, slack

ROUNDING = 2.0**-14  # of norms of float32 numbers, which the slack charges

floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=floats)
tables = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(3)), elements=floats)
clip_norms = st.floats(1e-3, 1e3)


def moved(total, contributions, clip_norm: float) -> float:
    """The largest move of the sum, over the clip norm, when one record leaves."""
    whole = total(contributions)
    others = [torch.cat((contributions[:i], contributions[i + 1 :])) for i in range(len(contributions))]
    return max(float((whole - total(rest)).norm()) for rest in others) / clip_norm


@settings(max_examples=150, deadline=None)
@given(rows, clip_norms)
def test_clipped_sums(contributions, clip_norm):
    table = torch.from_numpy(contributions)
    assert moved(lambda part: clipped_sum(part, clip_norm), table, clip_norm) <= 1 + ROUNDING


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, (3, 2)), clip_norms)
def test_clipped_sums_of_any_float64(contributions, clip_norm):
    table = torch.from_numpy(contributions)
    total = clipped_sum(table, clip_norm)
    assert torch.isfinite(total).all()
    assert float(total.norm()) <= 3 * clip_norm * (1 + ROUNDING)


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "flat": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
        "normed": nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
    }


def squares(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    return (model(parts[0]) - 1).square().sum(-1)


def squares_of_pairs(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    """Two opposite places a record: their gradients may cancel."""
    x = parts[0]
    return (model(torch.stack((x, -x), dim=-2)) - 1).square().sum((-2, -1))


@pytest.mark.parametrize("path", ["by rule", "vmap"])
@pytest.mark.parametrize("name", list(models()))
@pytest.mark.parametrize("loss", [squares, squares_of_pairs])
@settings(max_examples=10, deadline=None)
@given(tables, clip_norms)
def test_clipped_gradient_sums(path, name, loss, table, clip_norm):
    model = models()[name]

    def total(part: Tensor) -> Tensor:
        return clipped_gradient_sum(model, loss, (part,), clip_norm, Summation(path, "proved", 4))

    assert torch.isfinite(total(torch.from_numpy(table))).all()
    assert moved(total, torch.from_numpy(table), clip_norm) <= 1 + ROUNDING


@pytest.mark.parametrize("path", ["by rule", "vmap"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_a_bad_record_leaves_the_others_as_they_are(path, bad):
    model, clean = models()["normed"], torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 0.3]])
    dirty = torch.cat((clean, torch.full((1, 3), bad)))
    how = Summation(path, "proved", 4)
    expected = clipped_gradient_sum(model, squares, (clean,), 0.1, how)
    total = clipped_gradient_sum(model, squares, (dirty,), 0.1, how)
    assert torch.isfinite(total).all()
    assert float((total - expected).norm()) <= 0.1 * (1 + ROUNDING)
    if not math.isfinite(bad):
        assert torch.allclose(total, expected, atol=1e-12)


def test_tokens_of_a_record_are_bounded_too():
    table, tokens = nn.Embedding(3, 2), torch.tensor([[0, 0, 0], [1, 2, 1]])
    with torch.no_grad():
        table.weight[0] = math.nan
        table.weight[1:] = 1e6

    def loss(model, parts):
        return model(parts[0]).square().sum((-2, -1))

    total = clipped_gradient_sum(table, loss, (tokens,), 0.5, Summation("by rule", "proved", 4))
    assert torch.isfinite(total).all()
    assert float(total.norm()) <= 0.5 * (1 + ROUNDING)


integers = st.one_of(
    st.integers(-20, 20), st.integers(-(2**31), 2**31), st.sampled_from([-(2**63), 2**63 - 1, 0])
)
bounds = st.one_of(st.integers(1, 30), st.integers(1, 2**34))
shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))


def squared(row) -> int:
    return sum(int(value) ** 2 for value in row)


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.int64, shapes, elements=integers), bounds)
def test_integer_rows_are_bounded_exactly(codes, bound):
    assert all(squared(row) <= bound * bound for row in clip_to_grid(codes, bound))


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float64, shapes), bounds)
def test_integers_held_in_floats_are_bounded_exactly_whatever_they_hold(codes, bound):
    clipped = clip_to_grid(codes, bound)
    assert (clipped == np.trunc(clipped)).all()
    assert all(squared(row) <= bound * bound for row in clipped)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.int64, shapes, elements=integers),
    bounds,
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_a_row_of_integers_does_not_depend_on_its_company(codes, bound, cut, random):
    whole = clip_to_grid(codes, bound)
    parts = np.concatenate((clip_to_grid(codes[:cut], bound), clip_to_grid(codes[cut:], bound)))
    order = random.sample(range(len(codes)), len(codes))
    assert (whole == parts).all()
    assert (whole[order] == clip_to_grid(codes[order], bound)).all()


def test_rows_just_outside_the_bound_lose_little():
    # the scaled row stays within one step of the ideal one in every entry
    generator = np.random.default_rng(0)
    codes = generator.integers(-(10**6), 10**6, (2000, 7))
    ideal = codes * np.minimum(1, 10**5 / np.linalg.norm(codes, axis=1, keepdims=True))
    assert np.abs(clip_to_grid(codes, 10**5) - ideal).max() <= 1


def moved_by_one_of_many(push: float, pull: float, precision: str) -> float:
    """How far one of 32,768 equal records moves the sum, over the clip norm: all push every number the same way."""
    layer, count, width = nn.Linear(64, 64, bias=False), 2**15, 64
    records = torch.full((count, width), push), torch.full((count, width), pull)
    summation = Summation("by rule", precision, count)
    sums = [
        clipped_gradient_sum(layer, product, tuple(part[:n] for part in records), 1e3, summation).double()
        for n in (count, count - 1)
    ]
    return float((sums[0] - sums[1]).norm()) / (push * pull * width)


def product(model: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    return (model(parts[0]) * parts[1]).sum(-1)


def test_hostile_rows_break_the_bound_of_a_float32_product_and_not_that_of_proved_sums():
    # pairs of numbers are tried at once: entry (i, j) of one product is the sum of equal numbers push_j pull_i
    grid = (1 + torch.rand(2, 64, generator=torch.Generator().manual_seed(2))) / 8
    push, pull = (row.expand(2**15, 64) for row in grid)
    difference = (pull.T @ push).double() - (pull[:-1].T @ push[:-1]).double()
    worst = int((difference / torch.outer(*grid.flip(0).double()) - 1).abs().argmax())
    chosen = float(grid[0, worst % 64]), float(grid[1, worst // 64])
    bound = 1 + slack("proved", 2**15)
    assert abs(moved_by_one_of_many(*chosen, "float32") - 1) > 2e-3
    assert abs(moved_by_one_of_many(*chosen, "proved") - 1) < 1e-9
    assert moved_by_one_of_many(*chosen, "proved") <= bound
