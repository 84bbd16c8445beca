"""Convolutions: by rule, each record's gradient is the one that autograd gives for the record alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from privae.errors import PrivacyRefused
from privae.layers import convolution
from privae.layers.capture import capture, covered
from privae.layers.convolution import Patched, Window, patches
from privae.layers.term import Outer, Weights

LAYERS = {
    "plain": (lambda: nn.Conv2d(3, 4, 3), (3, 7, 9)),
    "uneven": (lambda: nn.Conv2d(3, 4, (2, 3), (2, 1), (1, 2), (2, 1)), (3, 9, 8)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, 2, 1, groups=2), (4, 7, 7)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False), (4, 5, 6)),
    "same": (lambda: nn.Conv2d(4, 8, 3, padding="same", dilation=2), (4, 7, 6)),
    "same, even": (lambda: nn.Conv2d(2, 3, (2, 4), padding="same"), (2, 7, 6)),
    "valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 7, 6)),
    "one by one": (lambda: nn.Conv2d(8, 3, 1), (8, 3, 3)),
    "whole image": (lambda: nn.Conv2d(3, 5, (4, 6)), (3, 4, 6)),
    "few places": (lambda: nn.Conv2d(6, 20, 3, 2), (6, 5, 5)),
    "wide": (lambda: nn.Conv2d(1, 2, 3), (1, 4, 30)),
    "skipped rows": (lambda: nn.Conv2d(2, 3, 2, 3), (2, 7, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), (3, 5, 4)),
    "transposed, uneven": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, True, (1, 1)),
        (4, 4, 5),
    ),
    "transposed, dilated": (lambda: nn.ConvTranspose2d(2, 3, 3, 1, 1, dilation=2, bias=False), (2, 5, 5)),
    "transposed to one channel": (lambda: nn.ConvTranspose2d(8, 1, 4, 2, 1), (8, 7, 7)),
    "signal": (lambda: nn.Conv1d(3, 5, 4, 2, 1, 2), (3, 17)),
    "signal, same": (lambda: nn.Conv1d(4, 4, 3, padding="same", groups=4), (4, 9)),
    "signal, transposed": (lambda: nn.ConvTranspose1d(4, 6, 5, 3, 2, 2, 2, True, 2), (4, 6)),
}


def randoms(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_a_convolution_gives_each_record_the_gradient_of_the_record_alone(check, name, n):
    layer, shape = LAYERS[name]
    check(layer().double(), randoms(n, *shape))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_kernel_step_and_spread_is_exact(check, data):
    def pair(least, most):
        return data.draw(st.tuples(st.integers(least, most), st.integers(least, most)))

    kernel, stride, dilation, groups = pair(1, 3), pair(1, 3), pair(1, 2), data.draw(st.integers(1, 2))
    options = {"stride": stride, "dilation": dilation, "padding": pair(0, 2), "groups": groups}
    if data.draw(st.booleans()):
        extra = [min(1, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]
        layer = nn.ConvTranspose2d(2, 4, kernel, output_padding=tuple(extra), **options)
    else:
        layer = nn.Conv2d(2, 4, kernel, **options)
    check(layer.double(), randoms(2, 2, *pair(5, 7)))


@pytest.mark.parametrize("last", [True, False])
def test_patches_are_those_of_torch_unfold(last):
    image = randoms(2, 3, 7, 8)
    window = Window((3, 2), (2, 1), (1, 2), (1, 2), (4, 10))
    found = patches(image[:, None], window, last=last)[:, 0]
    expected = functional.unfold(image, (3, 2), (1, 2), (1, 2), (2, 1)).mT
    if last:
        expected = expected.unflatten(2, (3, 6)).transpose(2, 3).flatten(2)
    assert torch.equal(found, expected)


def test_few_places_go_by_products_and_many_are_formed_piece_by_piece(check, monkeypatch):
    few, many = (LAYERS[name][0]().double() for name in ("few places", "plain"))
    assert isinstance(check(few, randoms(5, 6, 5, 5))[0], Outer)
    assert isinstance(check(many, randoms(5, 3, 7, 9))[0], Patched)
    monkeypatch.setattr(convolution, "_PIECE", 1)
    check(many, randoms(5, 3, 7, 9))
    monkeypatch.setattr(convolution, "KEPT", 0)
    check(many, randoms(5, 3, 7, 9))


def test_images_that_are_channels_last_in_memory_are_the_same_images(check, close):
    layer = nn.Conv2d(3, 4, 3).double()
    images = randoms(3, 3, 6, 6)
    turned = images.contiguous(memory_format=torch.channels_last)
    (weight, _), (same, _) = check(layer, images), check(layer, turned)
    assert close(weight.rows(slice(None)), same.rows(slice(None)))


@pytest.mark.parametrize("name", ["few places", "plain"])
def test_a_layer_called_on_images_of_two_sizes_adds_both(check, waves, name):
    make, (channels, *_) = LAYERS[name]

    def loss(model, parts):
        return waves(model, parts[:1]) + waves(model, parts[1:]).sin()

    check(make().double(), randoms(3, channels, 5, 5), randoms(3, channels, 6, 9), loss=loss)


@pytest.mark.parametrize("name", ["few places", "plain", "groups", "signal"])
def test_several_rows_of_a_record_add_up(check, waves, name):
    make, shape = LAYERS[name]

    def loss(model, parts):
        return waves(model, (parts[0].flatten(0, 1),)).unflatten(0, (-1, 4)).sum(1).square()

    check(make().double(), randoms(3, 4, *shape), loss=loss)


def test_an_image_without_a_row_axis_is_one_row(check, waves):
    layer = nn.Conv2d(3, 4, 3).double()
    check(layer, randoms(1, 3, 6, 6), loss=lambda model, parts: waves(model, (parts[0][0],)).sum()[None])
    with pytest.raises(PrivacyRefused, match="same number of rows"):
        capture(
            layer, lambda model, parts: model(parts[0][0]).square().sum().expand(2), (randoms(2, 3, 6, 6),)
        )


def test_a_record_that_is_not_finite_leaves_the_others_alone(close, waves):
    layer, images = nn.Conv2d(2, 3, 3, padding=1).double(), randoms(4, 2, 6, 6)
    clean = capture(layer, waves, (images,))
    images = images.clone()
    images[1, 0, 0, 0], images[2, 1, 5, 5] = torch.nan, torch.inf
    dirty = capture(layer, waves, (images,))
    for parameter in layer.parameters():
        expected, found = clean[parameter].squared_norms(), dirty[parameter].squared_norms()
        assert torch.equal(found.isfinite(), torch.tensor([True, False, False, True]))
        assert torch.equal(found[[0, 3]], expected[[0, 3]])
        total = torch.zeros_like(parameter, requires_grad=False)
        dirty[parameter].add_to(total, Weights(found.isfinite().double()))
        assert close(total, clean[parameter].rows(slice(None))[[0, 3]].sum(0))


def test_only_what_trains_has_terms(waves):
    layer = nn.Conv2d(2, 3, 3)
    layer.weight.requires_grad_(False)
    assert set(capture(layer, waves, (randoms(2, 2, 5, 5).float(),))) == {layer.bias}


def test_padding_by_anything_but_zeros_is_not_covered():
    assert covered(nn.Conv2d(1, 1, 3, padding=1))
    assert not covered(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    assert not covered(nn.Conv3d(1, 1, 3))


def test_an_autoencoder_of_convolutions_is_summed_by_rule_as_clipped_record_by_record(check_sum):
    def loss(model, parts):
        return (model(*parts) - 0.3).square().sum((-3, -2, -1))

    torch.manual_seed(0)
    down = [nn.Conv2d(1, 4, 4, 2, 1), nn.Tanh(), nn.Conv2d(4, 6, 4, 2, 1), nn.Tanh()]
    up = [nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.Tanh(), nn.ConvTranspose2d(4, 1, 4, 2, 1)]
    model, images = nn.Sequential(*down, *up).double(), (randoms(5, 1, 12, 12),)
    check_sum(model, *images, loss=loss)
