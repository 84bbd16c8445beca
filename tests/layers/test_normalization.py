"""Normalizing layers and scales: by rule, each record's gradient is the one of the record alone."""

import pytest
import torch
from torch import nn

from privae.errors import PrivacyRefused
from privae.layers.capture import capture, covered
from privae.layers.normalization import Affine

LAYERS = {
    "layer": (lambda: nn.LayerNorm(5), (5,)),
    "layer at places": (lambda: nn.LayerNorm(5), (2, 3, 5)),
    "layer of matrices": (lambda: nn.LayerNorm((4, 5), eps=0.1), (3, 4, 5)),
    "layer without bias": (lambda: nn.LayerNorm((4, 5), bias=False), (4, 5)),
    "root mean square": (lambda: nn.RMSNorm(6), (3, 6)),
    "root mean square of matrices": (lambda: nn.RMSNorm((2, 6), eps=0.1), (2, 6)),
    "group": (lambda: nn.GroupNorm(2, 6), (6, 3, 4)),
    "group without places": (lambda: nn.GroupNorm(3, 6), (6,)),
    "instance 1d": (lambda: nn.InstanceNorm1d(3, affine=True), (3, 7)),
    "instance 2d": (lambda: nn.InstanceNorm2d(3, affine=True), (3, 7, 2)),
    "instance 3d": (lambda: nn.InstanceNorm3d(3, affine=True), (3, 2, 2, 3)),
    "affine": (lambda: Affine(4), (4,)),
    "affine at places": (lambda: Affine(4), (3, 2, 4)),
}


def randoms(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(name):
    """The layer in float64, its scales and biases away from one and zero."""
    make, shape = LAYERS[name]
    layer = make().double()
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(1 + randoms(*parameter.shape, seed=number))
    return layer, shape


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_a_scale_gives_each_record_the_gradient_of_the_record_alone(check, name, n):
    layer, shape = made(name)
    check(layer, randoms(n, *shape))


@pytest.mark.parametrize("name", LAYERS)
def test_several_calls_and_several_rows_of_a_record_add_up(check, waves, name):
    layer, shape = made(name)

    def loss(model, parts):
        rows = parts[0].flatten(0, 1)
        found = waves(model, (rows,)) + waves(model, (rows.cos() * 2,))
        return found.unflatten(0, (-1, 4)).sum(1).square()

    check(layer, randoms(3, 4, *shape), loss=loss)


@pytest.mark.parametrize("name", ["layer", "layer of matrices", "instance 2d", "affine"])
def test_an_input_without_a_row_axis_is_one_row(check, waves, name):
    layer, shape = made(name)
    check(layer, randoms(1, *shape), loss=lambda model, parts: waves(model, (parts[0][0],)).sum()[None]
          if len(shape) > 1 else model(parts[0][0]).square().sum()[None])  # fmt: skip
    with pytest.raises(PrivacyRefused, match="same number of rows"):
        capture(
            layer, lambda model, parts: model(parts[0][0]).square().sum().expand(2), (randoms(2, *shape),)
        )


def test_inputs_may_be_named(check):
    layer, _ = made("root mean square")
    check(layer, randoms(3, 2, 6), loss=lambda model, parts: model(x=parts[0]).square().sum((1, 2)))
    layer, _ = made("layer")
    check(layer, randoms(3, 5), loss=lambda model, parts: model(input=parts[0]).cos().sum(1))


def test_affine_is_the_identity_at_first_and_then_scales_and_moves_each_number():
    layer, x = Affine(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert torch.equal(layer(x), x)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 3.0]))
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
    assert torch.equal(layer(x), torch.tensor([[3.0, 5.0], [7.0, 11.0]]))
    # the loss is the sum of the outputs: scales get the inputs, biases get ones
    terms = capture(layer, lambda model, parts: model(*parts).sum(1), (x,))
    assert torch.equal(terms[layer.weight].rows(slice(None)), x)
    assert torch.equal(terms[layer.bias].rows(slice(None)), torch.ones(2, 2))


def test_only_what_trains_has_terms(waves):
    layer, _ = made("group")
    layer.weight.requires_grad_(False)
    assert set(capture(layer, waves, (randoms(2, 6, 3, 4),))) == {layer.bias}


def test_statistics_of_the_batch_or_of_the_past_are_not_covered():
    assert covered(nn.InstanceNorm1d(3, affine=True))
    assert not covered(nn.InstanceNorm1d(3, affine=True, track_running_stats=True))
    assert not any(
        covered(layer(3)) for layer in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    )


def test_a_network_of_norms_is_summed_by_rule_as_clipped_record_by_record(check_sum):
    def loss(model, parts):
        return (model(*parts) - 0.3).square().sum(-1)

    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), Affine(6), nn.RMSNorm(6), nn.Linear(6, 2)]
    model, records = nn.Sequential(*layers).double(), randoms(5, 4)
    check_sum(model, records, loss=loss)
