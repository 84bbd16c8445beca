import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privae.errors import UsageError
from privae.privacy.accountant import epsilon, mu_squared
from privae.privacy.clipping import (
    Clipping,
    Quantile,
    check_clip_norm,
    clip_factors,
    clip_to_grid,
    clipped_sum,
    clipping_of,
)
from privae.privacy.mechanism import Event
from privae.privacy.noise import NoiseSource

KINDS = ["flat", "automatic", "per layer"]
VOTING = Quantile(target=0.5, rate=0.2, multiplier=5.0, start=1.0)


def doubles(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def exact(value: float) -> Fraction:
    return Fraction(float(value))


def squared_norm(clipping: Clipping, squared: torch.Tensor) -> list[Fraction]:
    """Exact squared norm of each record after its factors."""
    factors = clipping.factors(squared)
    pairs = zip(factors.tolist(), squared.tolist(), strict=True)
    return [
        sum((exact(f) ** 2 * exact(s) if f else Fraction(0) for f, s in zip(*pair, strict=True)), Fraction(0))
        for pair in pairs
    ]


def test_flat_factors_of_hand_computed_norms_are_the_same_for_every_parameter():
    factors = Clipping(2.0).factors(doubles([[9.0, 7.0], [1.0, 2.0], [0.0, 0.0]]))
    assert factors == pytest.approx(doubles([[0.5, 0.5], [1.0, 1.0], [1.0, 1.0]]), rel=1e-14)


def test_automatic_factors_bring_every_gradient_to_nearly_the_same_length():
    factors = Clipping(2.0, "automatic", gamma=1.0).factors(doubles([[9.0, 7.0], [0.0, 0.0], [1e12, 0.0]]))
    assert factors == pytest.approx(doubles([[0.4, 0.4], [2.0, 2.0], [2e-6, 2e-6]]), rel=1e-5)


def test_per_layer_factors_give_each_parameter_an_equal_share_of_the_square():
    factors = Clipping(2.0, "per layer").factors(doubles([[16.0, 1.0, 4.0, 0.0]]))
    assert factors == pytest.approx(doubles([[0.25, 1.0, 0.5, 1.0]]), rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e-30, 1.7e308])
def test_a_bad_number_in_any_column_leaves_the_whole_record_out(kind, bad):
    squared = doubles([[1.0, bad, 1e308], [4.0, 4.0, 4.0]])
    factors = Clipping(1.0, kind).factors(squared)
    assert factors[0].tolist() == [0.0, 0.0, 0.0]
    assert (factors[1] > 0).all()
    assert Clipping(math.inf, kind).factors(squared).tolist() == [[0.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_negative_zero_is_a_norm_of_zero(kind):
    zeros = doubles([[-0.0, -0.0], [0.0, 0.0]])
    factors = Clipping(1.0, kind).factors(zeros)
    assert (factors[0] >= 1).all()
    assert torch.equal(factors[0], factors[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_factors_of_nothing_are_nothing(kind, shape):
    assert Clipping(1.0, kind).factors(torch.zeros(shape, dtype=torch.float64)).shape == shape


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats()),
    st.floats(1e-6, 1e6),
)
def test_a_factored_record_is_within_the_clip_norm_exactly_whatever_it_holds(kind, squared, clip_norm):
    lengths = squared_norm(Clipping(clip_norm, kind), torch.from_numpy(squared))
    assert all(length <= exact(clip_norm) ** 2 for length in lengths)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 1e3)), st.floats(1e-6, 1e6))
def test_a_factor_loses_no_more_than_its_rounding(kind, squared, clip_norm):
    factors = Clipping(clip_norm, kind).factors(torch.from_numpy(squared))
    norms = np.sqrt(squared)
    whole = np.sqrt(squared.sum(1, keepdims=True)).repeat(4, axis=1)
    with np.errstate(divide="ignore"):
        ideal = {
            "flat": np.minimum(1.0, clip_norm / whole),
            "automatic": clip_norm / (whole + 0.01),
            "per layer": np.minimum(1.0, clip_norm / 2 / norms),
        }[kind]
    assert factors.numpy() == pytest.approx(ideal, rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_factors_of_a_record_do_not_depend_on_its_company(kind):
    squared = torch.from_numpy(np.random.default_rng(0).exponential(size=(37, 5)))
    squared[3, 1] = math.nan
    alone = [Clipping(0.7, kind).factors(squared[i : i + 1]) for i in range(37)]
    assert torch.equal(torch.cat(alone), Clipping(0.7, kind).factors(squared))


def test_a_number_is_flat_clipping_at_that_norm():
    assert clipping_of(2.0) == Clipping(2.0) == Clipping(2.0, "flat")
    assert clipping_of(Clipping(2.0, "per layer")) == Clipping(2.0, "per layer")


@pytest.mark.parametrize("gamma", [0.0, -1.0, 2.0**-501, math.nan, math.inf])
def test_a_gamma_that_keeps_nothing_finite_is_a_usage_error(gamma):
    with pytest.raises(UsageError, match="gamma"):
        Clipping(1.0, "automatic", gamma)


def test_an_unknown_kind_of_clipping_is_a_usage_error():
    odd = object.__new__(Clipping)  # past the types that tests check
    vars(odd).update(clip_norm=1.0, kind="global", gamma=0.01)
    with pytest.raises(UsageError, match="flat"):
        odd.__post_init__()


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, 1e-200, 1e200])
def test_a_clip_norm_whose_square_means_nothing_is_a_usage_error(clip_norm):
    for make in (check_clip_norm, Clipping):
        with pytest.raises(UsageError, match="clip_norm"):
            make(clip_norm)


def test_votes_count_the_gradients_that_stay_whole():
    squared = doubles([[9.0, 7.0], [9.0, 7.1], [0.0, 0.0], [math.nan, 0.0], [math.inf, 0.0]])
    assert VOTING.votes(squared, 4.0).tolist() == [-1]
    assert VOTING.votes(squared[:1], 4.0).tolist() == [1]
    assert VOTING.votes(squared[:0], 4.0).tolist() == [0]


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, (4, 2), elements=st.floats()), st.floats(1e-3, 1e3), st.integers(0, 3))
def test_one_record_moves_the_votes_by_exactly_one_whatever_it_holds(squared, clip_norm, left_out):
    rows = torch.from_numpy(squared)
    others = rows[torch.arange(4) != left_out]
    assert abs((VOTING.votes(rows, clip_norm) - VOTING.votes(others, clip_norm)).item()) == 1


@pytest.mark.parametrize("multiplier", [0.1, 1.0, 2.5, 4.99999])
def test_gradients_and_votes_cost_together_what_was_planned(multiplier):
    gradients = VOTING.gradients(multiplier)
    together = 1 / exact(gradients) ** 2 + 1 / exact(5.0) ** 2
    planned = 1 / exact(multiplier) ** 2
    assert together <= planned
    assert float(together / planned) == pytest.approx(1.0, abs=1e-13)
    # the accountant says the same of two releases of everyone's sums
    apart = [Event(gradients), Event(5.0)]
    assert mu_squared(apart) == pytest.approx(mu_squared([Event(multiplier)]))
    assert epsilon(apart, 1e-6, "replace_one") == pytest.approx(
        epsilon([Event(multiplier)], 1e-6, "replace_one")
    )


def test_the_papers_split_is_the_same_in_its_own_units():
    # arXiv 1905.03871: z_g = (z^-2 - (2 sigma_b)^-2)^(-1/2), sigma_b on a count of zeros and ones
    assert VOTING.gradients(3.0) == pytest.approx((3.0**-2 - (2 * 2.5) ** -2) ** -0.5)
    assert VOTING.gradients(3.0) > 3.0
    assert VOTING.gradients(0.0) == 0.0


@pytest.mark.parametrize("multiplier", [5.0, 6.0])
def test_votes_that_cost_the_whole_budget_are_refused(multiplier):
    with pytest.raises(UsageError, match="votes"):
        VOTING.gradients(multiplier)


def test_votes_are_released_as_integers_with_the_noise_that_was_split_off():
    mechanism = VOTING.mechanism()
    assert (mechanism.sensitivity(), mechanism.grid, mechanism.replace_ratio) == (1.0, 1.0, 2.0)
    assert mechanism.std == pytest.approx(5.0)
    votes = VOTING.votes(doubles([[1.0]] * 8), 1.0)
    released = float(mechanism.release(votes, NoiseSource(bytes(32))))
    assert released == round(released) != 8


def test_the_clip_norm_moves_geometrically_by_the_share_over_a_declared_batch():
    # 60 of 80 stay whole, 100 were expected: share 0.5 + (60 - 20) / 200 = 0.7
    assert VOTING.updated(3.0, 40.0, 100.0) == pytest.approx(3.0 * math.exp(-0.2 * 0.2))
    assert VOTING.updated(3.0, -100.0, 100.0) == pytest.approx(3.0 * math.exp(0.1))
    assert VOTING.updated(3.0, 1e300, 1e-3) == pytest.approx(3.0 * math.exp(-0.1))


def test_the_clip_norm_stays_within_a_public_range():
    assert VOTING.updated(2.0**20, -100.0, 100.0) == 2.0**20
    assert VOTING.updated(2.0**-20, 100.0, 100.0) == 2.0**-20


def test_the_clip_norm_finds_the_quantile_of_norms():
    # n = 2,000 exponential norms, 120 steps of rate 0.2 from a start 20 times too high, noise std 20; the 0.8
    # quantile is ln 5; the fixed key makes it deterministic, the band is 10 %
    quantile = Quantile(target=0.8, rate=0.2, multiplier=20.0, start=30.0)
    squared = torch.from_numpy(np.random.default_rng(0).exponential(size=(2000, 1))) ** 2
    source, clip_norm = NoiseSource(bytes(32)), quantile.start
    for _ in range(120):
        released = quantile.mechanism().release(quantile.votes(squared, clip_norm), source)
        clip_norm = quantile.updated(clip_norm, float(released), 2000.0)
    assert clip_norm == pytest.approx(math.log(5), rel=0.1)


@pytest.mark.parametrize(
    "fields",
    [
        {"target": 0.0},
        {"target": 1.0},
        {"target": math.nan},
        {"rate": 0.0},
        {"rate": 1.5},
        {"multiplier": 0.0},
        {"multiplier": math.inf},
        {"start": 0.0},
        {"start": math.inf},
        {"start": math.nan},
    ],
)
def test_a_quantile_that_cannot_be_is_a_usage_error(fields):
    with pytest.raises(UsageError):
        Quantile(**{"target": 0.5, "rate": 0.2, "multiplier": 5.0, "start": 1.0, **fields})


def test_factors_of_hand_computed_norms():
    norms = torch.tensor([0.0, 1.0, 2.0, 4.0, math.inf, math.nan])
    assert clip_factors(norms, 2.0).tolist() == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]


def test_an_infinite_clip_norm_keeps_every_finite_row():
    assert clip_factors(torch.tensor([0.0, 1e30, math.nan]), math.inf).tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan])
def test_a_clip_norm_that_bounds_nothing_is_a_usage_error(clip_norm):
    with pytest.raises(UsageError, match="clip_norm"):
        clip_factors(torch.ones(1), clip_norm)


def test_long_rows_are_scaled_and_short_ones_kept():
    rows = torch.tensor([[3.0, 4.0], [0.1, 0.0]])
    assert clipped_sum(rows, 1.0).tolist() == pytest.approx([0.7, 0.8])


def test_rows_that_are_not_finite_count_as_zeros():
    rows = torch.tensor([[math.nan, 1.0], [math.inf, 0.0], [-math.inf, math.inf], [1.0, 0.0]])
    assert clipped_sum(rows, math.inf).tolist() == [1.0, 0.0]


def test_no_rows_give_zeros():
    assert clipped_sum(torch.zeros(0, 3), 1.0).tolist() == [0.0, 0.0, 0.0]


def test_float32_rows_are_summed_in_float64():
    rows = torch.tensor([[1.0], [2.0**-40]])
    assert clipped_sum(rows, math.inf).item() == 1.0 + 2.0**-40


def test_integer_rows_are_scaled_towards_zero():
    codes = np.array([[30, 40], [3, 4], [-30, 40], [0, 0]])
    assert clip_to_grid(codes, 10).tolist() == [[5, 7], [3, 4], [-5, 7], [0, 0]]


def test_a_row_on_the_bound_is_kept_exactly():
    assert clip_to_grid(np.array([[3, 4]]), 5).tolist() == [[3, 4]]


def test_the_dtype_is_kept_and_the_argument_untouched():
    codes = np.array([[30.0, 40.0]])
    clipped = clip_to_grid(codes, 10)
    assert clipped.dtype == np.float64
    assert codes.tolist() == [[30.0, 40.0]]
    assert clip_to_grid(np.array([[30, 40]]), 10).dtype == np.int64


def test_rows_of_other_things_than_integers_are_bounded_too():
    codes = np.array([[math.nan, 1.0], [math.inf, 0.0], [1.9, -1.9], [1e300, 0.0], [-1e300, 0.0]])
    assert clip_to_grid(codes, 7).tolist() == [[0, 0], [0, 0], [1, -1], [6, 0], [-6, 0]]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_tables_stay_empty(shape):
    assert clip_to_grid(np.zeros(shape, dtype=np.int64), 1).shape == shape


def test_a_bound_beyond_every_norm_changes_nothing():
    codes = np.array([[2**30, -(2**30)]])
    assert clip_to_grid(codes, 2**40).tolist() == codes.tolist()


@pytest.mark.parametrize("bound", [0, -3])
def test_a_bound_that_is_not_positive_is_a_usage_error(bound):
    with pytest.raises(UsageError, match="positive integer"):
        clip_to_grid(np.zeros((1, 1), dtype=np.int64), bound)
