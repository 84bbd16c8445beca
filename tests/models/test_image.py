import json
import math

import pytest
import torch

from privae.models.image import ImageModel, LinearCodes, ResidualDecoder, conditioned
from privae.models.priors import GaussianClasses


def model(decoder=None):
    """Images of 2 x 2, a full basis, one latent axis, two classes."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    axes, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    mean = torch.full((4,), 0.5, dtype=torch.float64) @ basis
    codes = LinearCodes(basis, mean, axes, torch.tensor([0.4, 0.2, 0.1, 0.05], dtype=torch.float64))
    prior = GaussianClasses(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[1.0], [-1.0]], dtype=torch.float64),
        torch.tensor([[[0.5]], [[0.2]]], dtype=torch.float64),
    )
    return ImageModel(2, 2, codes, prior, decoder)


def images(count=5):
    return torch.randint(0, 256, (count, 2, 2), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_decoding_undoes_encoding():
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = model().codes
    assert torch.allclose(codes.decode(codes.encode(x)), x)


def test_the_likelihood_is_the_density_of_the_linear_gaussian_model():
    """With a full basis the evidence is a Gaussian in pixels: its density, checked against torch's own."""
    found = model()
    x = images()
    pixels = x.flatten(1).double() / 255
    linear = found.codes.basis @ found.codes.axes @ torch.diag(found.codes.spread)
    for c in range(2):
        center, scale = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
        center[0], scale[0] = found.prior.means[c, 0], found.prior.factors[c, 0, 0]
        mean = found.codes.decode(center[None])[0]
        factor = linear @ torch.diag(scale)
        normal = torch.distributions.MultivariateNormal(mean, factor @ factor.T)
        expected = normal.log_prob(pixels) + found.prior.weights[c].log()
        assert torch.allclose(found.log_likelihood(x, torch.full((5,), c)), expected)
    each = [found.log_likelihood(x, torch.full((5,), c)) for c in range(2)]
    both = torch.logsumexp(torch.stack(each), 0)
    assert torch.allclose(found.log_likelihood(x, torch.full((5,), -1)), both)


def test_what_lies_outside_the_basis_does_not_count():
    """The basis sees the first two pixels alone, which are the same in both images."""
    full = model()
    basis, mean = torch.eye(4, dtype=torch.float64)[:, :2], torch.full((2,), 0.5, dtype=torch.float64)
    narrow = LinearCodes(basis, mean, torch.eye(2, dtype=torch.float64), full.codes.spread[:2])
    found = ImageModel(2, 2, narrow, full.prior)
    x = torch.tensor([[[128, 128], [0, 0]], [[128, 128], [255, 255]]], dtype=torch.uint8)
    inside, outside = found.log_likelihood(x, torch.full((2,), -1)).tolist()
    assert inside == outside
    moved = torch.tensor([[[255, 128], [0, 0]]], dtype=torch.uint8)
    assert found.log_likelihood(moved, torch.tensor([-1])).item() != inside


def test_samples_are_images_with_their_classes():
    x, y = model().sample(300, torch.Generator().manual_seed(0))
    assert (x.dtype, x.shape) == (torch.uint8, (300, 2, 2))
    assert (y == 0).double().mean().item() == pytest.approx(0.3, abs=0.1)
    codes = model().embed(x)
    assert codes.shape == (300, 1)
    assert codes[y == 0].mean() > codes[y == 1].mean()


def test_no_images_give_nothing():
    none, labels = images(0), torch.zeros(0, dtype=torch.int64)
    assert model().log_likelihood(none, labels).shape == (0,)
    assert model().embed(none).shape == (0, 1)
    assert model().sample(0, torch.Generator())[0].shape == (0, 2, 2)


def test_the_residual_decoder_starts_at_the_linear_reconstruction():
    decoder = ResidualDecoder(3, (5,), 4)
    base = torch.rand(2, 4)
    assert torch.equal(decoder(torch.rand(2, 3), base), 8.0 * (base - 0.5))


def test_conditions_are_one_hot_and_nothing_for_no_label():
    found = conditioned(torch.tensor([[0.5], [2.0]], dtype=torch.float64), torch.tensor([1, -1]), 2)
    assert found.tolist() == [[0.5, 0, 1], [2.0, 0, 0]]
    assert model().conditioned(torch.zeros(1, 1), torch.tensor([0])).shape == (1, 3)


@pytest.mark.parametrize("hidden", [None, (), (5, 3)])
def test_a_model_comes_back_from_its_config_and_state(hidden):
    first = model(None if hidden is None else ResidualDecoder(3, hidden, 4).eval())
    if first.decoder is not None:
        torch.nn.init.normal_(first.decoder.decoder.logits.weight)
    config = json.loads(json.dumps(first.config()))
    again = ImageModel.load(config, {name: value.clone() for name, value in first.state().items()})
    for one, other in zip(
        first.sample(20, torch.Generator().manual_seed(0)),
        again.sample(20, torch.Generator().manual_seed(0)),
        strict=True,
    ):
        assert torch.equal(one, other)
    labels = torch.full((5,), -1)
    assert torch.equal(first.log_likelihood(images(), labels), again.log_likelihood(images(), labels))


@pytest.mark.parametrize("decoder", [None, ResidualDecoder(3, (5,), 4)])
def test_the_parts_of_the_evidence_add_up_to_it_and_pixels_are_compared(decoder):
    found, x = model(decoder), images()
    parts = found.parts(x)
    whole = found.log_likelihood(x, torch.full((5,), -1))
    constant = found.codes.spread.log().sum() + 1.5 * math.log(2 * math.pi)
    assert torch.allclose(parts["codes"] + parts["rest"] - constant, whole)
    pixels = x.flatten(1).double() / 255
    codes = found.codes.encode(pixels)
    codes[:, 1:] = 0
    decoded = found.codes.decode(codes)
    if decoder is not None:  # its last layer starts at zero
        decoded = torch.sigmoid(8 * (decoded - 0.5).float()).double()
    assert torch.allclose(parts["pixels"], -(pixels - decoded).square().sum(1))
    assert torch.allclose(parts["distance"].square(), -parts["pixels"])
    assert found.parts(x[:0])["codes"].shape == (0,)
