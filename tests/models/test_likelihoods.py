import math

import pytest
import torch

from privae.errors import UsageError
from privae.models.likelihoods import Bernoulli, Categorical, Gappy, Gaussian, Likelihood, of_pixels


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_blocks(logits, x, sizes):
    pairs = zip(logits.split(sizes, -1), x.split(sizes, -1), strict=True)
    return sum((torch.log_softmax(left, -1) * right).sum(-1) for left, right in pairs)


def test_bernoulli_of_a_hand_computed_record():
    logits = torch.tensor([math.log(3.0), 0.0])  # p = 3/4, 1/2
    assert Bernoulli(2).log_prob(logits, torch.tensor([1.0, 0.0])).item() == pytest.approx(math.log(0.375))


def test_bernoulli_stays_finite_for_huge_logits():
    value = Bernoulli(2).log_prob(torch.tensor([1e4, -1e4]), torch.tensor([1.0, 0.0]))
    assert value.item() == 0.0


def test_categorical_agrees_with_a_softmax_a_block():
    sizes = (1, 3, 2, 5)
    logits = torch.randn(4, 11, generator=seeded(0)) * 5
    x = torch.rand(4, 11, generator=seeded(1))
    expected = by_blocks(logits, x, sizes)
    assert torch.allclose(Categorical(sizes).log_prob(logits, x), expected, atol=1e-5)


def test_categorical_survives_blocks_of_very_different_size_of_logits():
    logits = torch.tensor([1e4, 0.0, -1e4, -1e4])
    value = Categorical((2, 2)).log_prob(logits, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert value.item() == pytest.approx(math.log(0.5))


def test_a_block_of_zeros_contributes_nothing():
    logits = torch.tensor([0.3, -0.2, 1.0, 2.0])
    alone = Categorical((2,)).log_prob(logits[:2], torch.tensor([0.0, 1.0]))
    assert torch.isclose(Categorical((2, 2)).log_prob(logits, torch.tensor([0.0, 1.0, 0.0, 0.0])), alone)


def test_categorical_gradient_is_one_hot_minus_probability():
    likelihood, logits = Categorical((2, 3)), torch.randn(5, generator=seeded(2), requires_grad=True)
    x = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0])
    likelihood.log_prob(logits, x).backward()
    assert torch.allclose(logits.grad, x - likelihood.mean(logits.detach()), atol=1e-6)


def test_means_are_probabilities():
    mean = Categorical((2, 3)).mean(torch.zeros(2, 5))
    assert torch.allclose(mean[0], torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3]))
    assert Bernoulli(1).mean(torch.zeros(1)).item() == 0.5


def test_samples_follow_the_probabilities():
    # 20,000 draws, five-sigma bands, fixed seed
    logits = torch.log(torch.tensor([0.2, 0.8, 0.5, 0.25, 0.25])).expand(20_000, 5)
    drawn = Categorical((2, 3)).sample(logits, seeded(3))
    assert torch.equal(drawn[:, :2].sum(1), torch.ones(20_000))
    assert torch.equal(drawn[:, 2:].sum(1), torch.ones(20_000))
    assert torch.allclose(
        drawn.mean(0), torch.tensor([0.2, 0.8, 0.5, 0.25, 0.25]), atol=5 * 0.5 / 20_000**0.5
    )
    pixels = Bernoulli(1).sample(torch.full((20_000, 1), math.log(4.0)), seeded(4))
    assert pixels.mean().item() == pytest.approx(0.8, abs=5 * 0.4 / 20_000**0.5)


def test_codes_stay_inside_their_block_and_repeat_with_the_seed():
    likelihood, logits = Categorical((1, 4)), torch.randn(50, 5, generator=seeded(5)) * 30
    codes = likelihood.codes(logits, seeded(6))
    assert torch.equal(codes, likelihood.codes(logits, seeded(6)))
    assert codes[:, 0].eq(0).all()
    assert codes[:, 1].min() >= 0
    assert codes[:, 1].max() <= 3


def test_leading_dimensions_may_be_none_empty_or_many():
    likelihood: Likelihood = Categorical((2, 3))
    for batch in [(), (0,), (2, 3)]:
        logits = torch.zeros(*batch, 5)
        assert likelihood.log_prob(logits, logits).shape == batch
        assert likelihood.sample(logits).shape == (*batch, 5)
    assert likelihood.size == 5


@pytest.mark.parametrize("sizes", [(), (3, 0)])
def test_a_column_without_cells_is_a_usage_error(sizes):
    with pytest.raises(UsageError, match="at least one cell"):
        Categorical(sizes)


def test_records_may_be_mapped_one_by_one():
    likelihood, logits, x = Categorical((2, 3)), torch.randn(4, 5, generator=seeded(7)), torch.rand(4, 5)
    mapped = torch.func.vmap(likelihood.log_prob)(logits, x)
    assert torch.allclose(mapped, likelihood.log_prob(logits, x), atol=1e-6)


def test_a_slope_has_the_gradient_of_the_log_likelihood_and_not_its_value():
    logits = torch.randn(
        3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, slope = (Bernoulli(4, slope_only=only).log_prob(logits, x) for only in (False, True))
    assert not torch.allclose(whole, slope)
    found = [torch.autograd.grad(value.sum(), logits)[0] for value in (whole, slope)]
    assert torch.allclose(*found, atol=1e-12)


def test_gaussian_agrees_with_the_normal_law():
    logits, x = torch.randn(4, 3, generator=seeded(8)), torch.rand(4, 3, generator=seeded(9))
    expected = torch.distributions.Normal(logits, 0.2**0.5).log_prob(x).sum(-1)
    assert torch.allclose(Gaussian(3, variance=0.2).log_prob(logits, x), expected, atol=1e-5)


def test_gaussian_means_are_the_outputs_and_samples_vary_around_them():
    # 20,000 draws, five-sigma bands, fixed seed
    likelihood, logits = Gaussian(2, variance=0.09), torch.tensor([0.3, -2.0]).expand(20_000, 2)
    assert torch.equal(likelihood.mean(logits), logits)
    drawn = likelihood.sample(logits, seeded(10))
    assert torch.equal(drawn, likelihood.sample(logits, seeded(10)))
    assert drawn.mean(0).tolist() == pytest.approx([0.3, -2.0], abs=5 * 0.3 / 20_000**0.5)
    assert drawn.std(0).tolist() == pytest.approx([0.3, 0.3], abs=5 * 0.3 / 40_000**0.5)


@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
def test_gaussian_takes_any_leading_dimensions(batch):
    likelihood: Likelihood = Gaussian(5)
    assert likelihood.log_prob(torch.zeros(*batch, 5), torch.zeros(*batch, 5)).shape == batch
    assert likelihood.sample(torch.zeros(*batch, 5)).shape == (*batch, 5)
    assert likelihood.size == 5


@pytest.mark.parametrize("variance", [0.0, -1.0, math.inf, math.nan])
def test_a_variance_that_is_none_is_a_usage_error(variance):
    with pytest.raises(UsageError, match="a positive number"):
        Gaussian(2, variance)


def test_pixels_of_a_polynomial_decoder_are_gaussian():
    assert of_pixels(4, polynomial=False) == Bernoulli(4)
    assert of_pixels(4, polynomial=True) == Gaussian(4)


def test_known_values_and_all_marks_have_their_laws():
    likelihood = Gappy(6, variance=0.2)
    logits = torch.randn(4, 6, generator=seeded(11))
    values, marks = torch.rand(4, 3, generator=seeded(12)), torch.eye(4)[:, :3]
    normal = torch.distributions.Normal(logits[:, :3], 0.2**0.5).log_prob(values)
    shown = torch.distributions.Bernoulli(logits=logits[:, 3:]).log_prob(marks)
    expected = (marks * normal + shown).sum(-1)
    found = likelihood.log_prob(logits, torch.cat((values, marks), -1))
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(found, likelihood.log_prob(logits, torch.cat((values + 9 * (1 - marks), marks), -1)))


def test_what_is_drawn_has_gaps():
    # 20,000 draws, five-sigma bands, fixed seed
    likelihood, logits = Gappy(4, 0.09), torch.tensor([0.3, -2.0, 9.0, 0.0]).expand(20_000, 4)
    drawn = likelihood.sample(logits, seeded(13))
    assert torch.equal(drawn, likelihood.sample(logits, seeded(13)))
    values, marks = drawn.chunk(2, -1)
    assert torch.equal(values == 0, marks == 0)
    assert marks.mean(0).tolist() == pytest.approx([1.0, 0.5], abs=5 * 0.5 / 20_000**0.5)
    assert values[marks[:, 1] == 1, 1].mean() == pytest.approx(-2.0, abs=5 * 0.3 / 9_000**0.5)
    assert torch.equal(likelihood.mean(logits)[:, :2], logits[:, :2])
    assert torch.equal(likelihood.mean(logits)[:, 2:], torch.sigmoid(logits[:, 2:]))


@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
def test_records_with_gaps_take_any_leading_dimensions(batch):
    likelihood: Likelihood = Gappy(6)
    zeros = torch.zeros(*batch, 6)
    assert likelihood.log_prob(zeros, zeros).shape == batch
    assert likelihood.sample(zeros).shape == likelihood.mean(zeros).shape == zeros.shape
    assert likelihood.size == 6


def test_gaps_need_a_mark_a_value_and_a_variance():
    for size in (0, 3):
        with pytest.raises(UsageError, match="one mark a value"):
            Gappy(size)
    with pytest.raises(UsageError, match="a positive number"):
        Gappy(2, 0.0)
