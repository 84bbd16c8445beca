import math

import pytest
import torch

from privae.models.priors import GaussianClasses, ProductMixture


def gaussians():
    factors = torch.tensor([[[2.0, 0.0], [1.0, 0.5]], [[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    means = torch.tensor([[10.0, 0.0], [-10.0, 5.0]], dtype=torch.float64)
    return GaussianClasses(torch.tensor([0.25, 0.75], dtype=torch.float64), means, factors)


def test_latents_have_the_moments_of_their_class():
    """n = 20,000: means and covariances are within 0.1, more than five standard deviations of each."""
    prior = gaussians()
    z, classes = prior.sample(20_000, torch.Generator().manual_seed(0))
    assert (classes == 0).double().mean().item() == pytest.approx(0.25, abs=0.02)
    for c in range(2):
        assert torch.allclose(z[classes == c].mean(0), prior.means[c], atol=0.15)
        expected = prior.factors[c] @ prior.factors[c].T
        assert torch.allclose(torch.cov(z[classes == c].T), expected, atol=0.3)


def test_the_joint_density_is_the_textbook_one():
    prior = gaussians()
    z = torch.tensor([[9.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    for c in range(2):
        covariance = prior.factors[c] @ prior.factors[c].T
        normal = torch.distributions.MultivariateNormal(prior.means[c], covariance)
        assert torch.allclose(prior.log_joint(z)[:, c], normal.log_prob(z) + prior.weights[c].log())
    assert prior.log_joint(z[:0]).shape == (0, 2)
    assert prior.sample(0, torch.Generator())[0].shape == (0, 2)


def mixture():
    """One class of two components over columns of 2 and 3 cells."""
    cells = torch.tensor([[[0.9, 0.1, 0.2, 0.3, 0.5], [0.5, 0.5, 1.0, 1e-12, 1e-12]]], dtype=torch.float64)
    both = torch.cat([cells, torch.full((1, 2, 5), 0.5).double() / torch.tensor([1, 1, 1.5, 1.5, 1.5])])
    return ProductMixture(torch.tensor([0.6, 0.4], dtype=torch.float64), both.log(), torch.tensor([2, 3]))


def test_the_evidence_by_hand():
    onehot = torch.tensor([[1.0, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    found = mixture().log_joint(onehot)
    assert found[0, 0].exp().item() == pytest.approx(0.6 * 0.5 * (0.9 * 0.5 + 0.5 * 1e-12))
    assert found[1, 0].exp().item() == pytest.approx(0.6 * 0.5 * (0.2 + 1.0))
    assert found[2].exp().tolist() == pytest.approx([0.6, 0.4])
    assert found[:, 1].exp().tolist() == pytest.approx([0.4 / 6, 0.4 / 3, 0.4])


def test_the_evidence_of_all_records_adds_up_to_one():
    cells = [
        [float(i == a) for i in range(2)] + [float(j == b) for j in range(3)]
        for a in range(2)
        for b in range(3)
    ]
    total = torch.logsumexp(mixture().log_joint(torch.tensor(cells)).flatten(), 0)
    assert total.item() == pytest.approx(0.0, abs=1e-6)


def test_samples_have_the_probabilities_of_the_evidence():
    """n = 40,000: every cell's share has a standard deviation below 0.0025; 0.015 is six."""
    model = mixture()
    codes, classes = model.sample(40_000, torch.Generator().manual_seed(0))
    for a in range(2):
        for b in range(3):
            onehot = torch.zeros(1, 5)
            onehot[0, a] = onehot[0, 2 + b] = 1.0
            for c in range(2):
                share = ((codes[:, 0] == a) & (codes[:, 1] == b) & (classes == c)).double().mean().item()
                assert share == pytest.approx(math.exp(model.log_joint(onehot)[0, c]), abs=0.015)
    again, _ = model.sample(40_000, torch.Generator().manual_seed(0))
    assert torch.equal(codes, again)


def test_samples_stay_inside_their_columns_and_empty_ones_are_empty():
    generator = torch.Generator().manual_seed(0)
    cells = torch.log_softmax(torch.randn(3, 7, 9, generator=generator) * 8, 2)
    parts = [torch.log_softmax(p, 2) for p in torch.split(cells, [1, 5, 3], 2)]
    model = ProductMixture(
        torch.full((3,), 1 / 3).double(), torch.cat(parts, 2).clamp_min(-27), torch.tensor([1, 5, 3])
    )
    codes, classes = model.sample(5000, generator)
    assert ((codes >= 0) & (codes < model.sizes)).all()
    assert model.sample(0, generator)[0].shape == (0, 3)
    assert model.log_joint(torch.zeros(0, 9)).shape == (0, 3)
    assert set(classes.tolist()) == {0, 1, 2}


def test_records_beyond_one_block_are_scored_in_order():
    onehot = torch.eye(5)[torch.arange(9000) % 2]
    scores = mixture().log_joint(onehot)
    assert torch.equal(scores[0::2], scores[:1].expand(4500, 2))
    assert torch.equal(scores[1::2], scores[1:2].expand(4500, 2))
