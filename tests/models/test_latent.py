import json
import math

import pytest
import torch
from torch import nn

from privae.models.latent import LatentModel
from privae.models.likelihoods import Bernoulli, Categorical, Gappy, Gaussian
from privae.models.networks import Network, NetworkConfig
from privae.models.priors import draw_classes
from privae.models.windows import WindowConfig, WindowNetwork


def model(likelihood=None, classes=1):
    likelihood = likelihood or Bernoulli(4)
    config = NetworkConfig(
        inputs=likelihood.size, latent=2, condition=classes if classes > 1 else 0, hidden=(3,)
    )
    network = Network.from_config(config.model_dump(), torch.Generator().manual_seed(0)).eval()
    return LatentModel(network, likelihood, torch.full((classes,), 1 / classes).double(), 2)


def test_pixels_are_means_and_cells_are_one_hot():
    pixels, classes = model(classes=3).sample(200, torch.Generator().manual_seed(0))
    assert ((pixels > 0) & (pixels < 1)).all()
    assert set(classes.tolist()) == {0, 1, 2}
    cells, _ = model(Categorical((2, 3))).sample(50, torch.Generator().manual_seed(0))
    assert (cells[:, :2].sum(1) == 1).all()
    assert (cells[:, 2:].sum(1) == 1).all()


def test_the_bound_lies_below_the_evidence_and_repeats():
    """The evidence of a Bernoulli VAE is at most the best probability of the record."""
    found = model()
    x = torch.eye(4)
    labels = torch.full((4,), -1)
    first = found.log_likelihood(x, labels)
    assert first.shape == (4,)
    assert torch.equal(first, found.log_likelihood(x, labels))
    assert (first < 0).all()
    one_by_one = torch.cat([found.log_likelihood(x[i : i + 1], labels[:1]) for i in range(4)])
    assert torch.allclose(first, one_by_one)


def test_without_a_signal_the_bound_is_the_likelihood_of_the_prior():
    found = model()
    for parameter in found.network.parameters():
        nn.init.zeros_(parameter)
    bound = found.log_likelihood(torch.eye(4), torch.full((4,), -1))
    assert bound.tolist() == pytest.approx([4 * math.log(0.5)] * 4)


def test_conditions():
    assert model().condition(torch.tensor([0])) is None
    assert model(classes=2).condition(torch.tensor([1, -1])).tolist() == [[0, 1], [0, 0]]


def test_no_records_give_nothing():
    none, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert model().embed(none, labels).shape == (0, 2)
    assert model().log_likelihood(none, labels).shape == (0,)


def test_embeddings_are_posterior_means():
    found = model()
    x = torch.rand(5, 4)
    assert torch.equal(found.embed(x, torch.full((5,), -1)), found.network.encode(x)[0])


@pytest.mark.parametrize(
    ("likelihood", "classes"),
    [(Bernoulli(4), 3), (Categorical((2, 3)), 1), (Gaussian(4, 0.3), 2), (Gappy(4, 0.2), 1)],
)
def test_a_model_comes_back_from_its_config_and_state(likelihood, classes):
    first = model(likelihood, classes)
    config = json.loads(json.dumps(first.config()))
    again = LatentModel.load(config, {k: v.clone() for k, v in first.state().items()}, None)
    drawn = [m.sample(20, torch.Generator().manual_seed(1)) for m in (first, again)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert again.likelihood == likelihood


def test_a_sample_of_none_is_empty():
    assert model().sample(0, torch.Generator())[0].shape == (0, 4)
    assert model(Categorical((2, 3))).sample(0, torch.Generator())[0].shape == (0, 5)


@pytest.mark.parametrize(
    ("likelihood", "classes"), [(Bernoulli(4), 3), (Categorical((2, 2)), 1), (Gaussian(4), 1)]
)
def test_the_parts_of_a_bound_add_up_to_it(likelihood, classes):
    found = model(likelihood, classes)
    x = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]])
    labels = torch.tensor([0, -1, classes - 1])
    parts = found.parts(x, labels)
    assert list(parts) == ["reconstruction", "kl", "norm", "distance"]
    assert torch.allclose(parts["reconstruction"] + parts["kl"], found.log_likelihood(x, labels))
    assert torch.allclose(parts["norm"], -found.embed(x, labels).square().sum(1).double())


def test_the_distance_is_that_to_the_nearest_decoded_draw():
    """Without a signal every pixel is decoded as one half: the distance of four pixels of 0 or 1 is 1."""
    found = model()
    for parameter in found.network.parameters():
        nn.init.zeros_(parameter)
    parts = found.parts(torch.eye(4), torch.full((4,), -1))
    assert parts["distance"].tolist() == [-1.0] * 4
    assert found.parts(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))["distance"].shape == (0,)


def test_a_file_names_its_likelihood_only_where_it_is_gaussian():
    """Files of the others stay, byte for byte, what they were."""
    assert list(model().config()) == list(model(Categorical((2, 2))).config())
    assert list(model().config()) == ["network", "blocks", "pixels", "latent"]
    assert model(Gaussian(4, 0.3)).config() == model().config() | {"variance": 0.3}


def test_gaussian_pixels_are_means_too():
    found = model(Gaussian(4))
    drawn, _ = found.sample(5, torch.Generator().manual_seed(0))
    z = torch.randn(5, 2, generator=seeded_past_classes())
    assert torch.equal(drawn, found.network.decode(z))


def seeded_past_classes() -> torch.Generator:
    """A generator as `sample` has it after it drew the classes of five records."""
    generator = torch.Generator().manual_seed(0)
    draw_classes(torch.ones(1).double(), 5, generator)
    return generator


def windows(kind="convolution", count=2):
    config = WindowConfig(kind=kind, windows=count, steps=8, latent=3, hidden=(4, 4))
    network = WindowNetwork.from_config(config.model_dump(), torch.Generator().manual_seed(0)).eval()
    return LatentModel(network, Gappy(config.inputs, 0.1), torch.ones(1).double(), config.codes)


@pytest.mark.parametrize(("kind", "count"), [("convolution", 2), ("recurrent", 1)])
def test_a_model_of_windows_comes_back_from_its_config_and_state(kind, count):
    first = windows(kind, count)
    again = LatentModel.load(
        json.loads(json.dumps(first.config())), {k: v.clone() for k, v in first.state().items()}, None
    )
    drawn = [m.sample(20, torch.Generator().manual_seed(1))[0] for m in (first, again)]
    assert torch.equal(*drawn)
    values, marks = drawn[0].chunk(2, 1)
    assert torch.equal(values == 0, marks == 0)
    labels = torch.full((20,), -1)
    assert torch.equal(*(m.log_likelihood(drawn[0], labels) for m in (first, again)))
    assert torch.equal(*(m.embed(drawn[0], labels) for m in (first, again)))
    parts = again.parts(drawn[0], labels)
    assert torch.allclose(parts["reconstruction"] + parts["kl"], again.log_likelihood(drawn[0], labels))
    assert (again.likelihood, again.latent) == (first.likelihood, 3 * count)
    assert not again.network.training
    assert again.log_likelihood(drawn[0][:0], labels[:0]).shape == (0,)


@pytest.mark.parametrize(
    "sizes",
    [
        {"windows": 10**12},
        {"windows": 10**30},
        {"steps": 10**9},
        {"latent": 10**12},
        {"channels": 10**12},
        {"hidden": [4] * 7},
        {"hidden": [4] * 1000},
        {"hidden": [4, 10**9]},
        {"hidden": None},
        {"kind": ["recurrent"]},
        {"kind": "recurrent"},
        {"windows": 1},
    ],
)
def test_sizes_in_a_file_cost_nothing_before_its_weights_bear_them_out(sizes):
    first = windows()
    stored = first.config()
    network = stored["network"] | sizes
    numbers = [network[name] for name in ("windows", "steps", "channels", "latent")]
    claimed = {"pixels": 2 * math.prod(numbers[:3]), "latent": numbers[0] * numbers[3]}
    for more in ({}, claimed):
        with pytest.raises((ValueError, TypeError, RuntimeError)):
            LatentModel.load(stored | {"network": network} | more, first.state(), None)
