import json
import math

import pytest
import torch

from privae.models.networks import Network, NetworkConfig
from privae.models.priors import ProductMixture
from privae.models.table import UNKNOWN, TableModel, onehot


def model(label=1):
    """Columns of 2, 2 (the label) and 3 cells."""
    cells = torch.tensor([[[0.9, 0.1, 0.2, 0.3, 0.5]], [[0.5, 0.5, 0.1, 0.1, 0.8]]], dtype=torch.float64)
    sizes = torch.tensor([2, 3])
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64)
    if label is None:
        cells, weights, sizes = (
            torch.full((1, 1, 7), 0.5).double(),
            weights[:1] / 0.6,
            torch.tensor([2, 2, 3]),
        )
    network = Network(NetworkConfig(inputs=7, latent=2, hidden=(3,))).eval()
    return TableModel(ProductMixture(weights, cells.log(), sizes), network, (2, 2, 3), label)


def test_likelihoods_by_hand():
    codes = torch.tensor([[0, 0, 2], [0, 1, 2], [0, -1, 2], [-1, 0, 2]])
    found = model().log_likelihood(codes).exp().tolist()
    assert found == pytest.approx([0.6 * 0.45, 0.4 * 0.4, 0.6 * 0.45 + 0.4 * 0.4, 0.6 * 0.5 * UNKNOWN])


def test_an_unknown_value_makes_a_record_stranger():
    known, unknown = model().log_likelihood(torch.tensor([[1, 0, 0], [-1, 0, 0]])).tolist()
    assert unknown < known - 0.5 * math.log(1 / UNKNOWN)


def test_samples_put_the_label_back_in_its_column():
    codes = model().sample(4000, torch.Generator().manual_seed(0))
    assert codes.shape == (4000, 3)
    assert (codes < torch.tensor([2, 2, 3])).all()
    assert (codes[:, 1] == 0).double().mean().item() == pytest.approx(0.6, abs=0.04)
    assert (codes[codes[:, 1] == 0, 0] == 0).double().mean().item() == pytest.approx(0.9, abs=0.04)
    assert model().columns == [0, 2]
    assert model(None).sample(3, torch.Generator()).shape == (3, 3)


def test_codes_become_cells():
    cells = onehot(torch.tensor([[0, -1], [1, 2]]), torch.tensor([2, 3]))
    assert cells.tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 1]]


@pytest.mark.parametrize("label", [1, None])
def test_a_model_comes_back_from_its_config_and_state(label):
    first = model(label)
    config = json.loads(json.dumps(first.config()))
    again = TableModel.load(config, {name: value.clone() for name, value in first.state().items()})
    codes = torch.tensor([[0, 1, 2], [1, -1, -1]])
    assert torch.equal(first.log_likelihood(codes), again.log_likelihood(codes))
    assert torch.equal(first.embed(codes), again.embed(codes))
    assert first.embed(codes).shape == (2, 2)
    drawn = [m.sample(50, torch.Generator().manual_seed(1)) for m in (first, again)]
    assert torch.equal(*drawn)
