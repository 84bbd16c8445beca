import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from privae.errors import PrivacyRefused, UsageError
from privae.layers import capture as layers
from privae.layers import term
from privae.privacy import gradients
from privae.privacy.gradients import (
    Summation,
    clipped_gradient_sum,
    refuse_mixing,
    slack,
    supported,
    trainable,
)


def squared_error(model, parts):
    x, y = parts
    return (model(x) - y).square().sum(-1)


def pair(n: int = 4, width: int = 3, outputs: int = 2):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, width, generator=generator), torch.randn(n, outputs, generator=generator)


class Scaled(nn.Module):
    """Uses a parameter of its own, outside every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.linear(x) * self.scale


class Reused(nn.Module):
    """Uses a layer's weight outside the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return functional.linear(self.linear(x), self.linear.weight)[..., :2]


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))[..., :2]


class InPlace(nn.Module):
    """Changes a layer's output in place, so that the captured tensor is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x).tanh_()


class Positions(nn.Module):
    """Calls an embedding on places, not on records."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.places = nn.Linear(3, 2), nn.Embedding(1, 2)

    def forward(self, x):
        return self.linear(x) + self.places(torch.zeros(1, dtype=torch.int64))[0]


def test_the_gradient_of_a_hand_computed_record():
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0), model.bias.fill_(0.0)
    parts = (torch.tensor([[2.0]]), torch.tensor([[0.5]]))  # error 1.5: weight gradient 6, bias gradient 3
    for path in ("by rule", "vmap"):
        whole = clipped_gradient_sum(model, squared_error, parts, math.inf, Summation(path, micro_batch=2))
        clipped = clipped_gradient_sum(model, squared_error, parts, math.sqrt(45) / 2, Summation(path))
        assert whole.tolist() == [6.0, 3.0]
        assert clipped.tolist() == pytest.approx([3.0, 1.5])


@pytest.mark.parametrize("path", ["by rule", "vmap"])
def test_the_sum_is_flat_float64_in_the_order_of_the_trainable_parameters(path):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    total = clipped_gradient_sum(model, squared_error, pair(), math.inf, Summation(path))
    model.zero_grad()
    squared_error(model, pair()).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in trainable(model)])
    assert total.dtype == torch.float64
    assert total.shape == (4 + 8 + 2,)
    assert torch.allclose(total.float(), expected, atol=1e-4)


@pytest.mark.parametrize("path", ["by rule", "vmap"])
def test_the_caller_may_have_switched_gradients_off(path):
    model = nn.Linear(3, 2)
    expected = clipped_gradient_sum(model, squared_error, pair(), 1.0, Summation(path))
    with torch.no_grad():
        assert torch.equal(clipped_gradient_sum(model, squared_error, pair(), 1.0, Summation(path)), expected)


@pytest.mark.parametrize("path", ["by rule", "vmap"])
def test_nothing_is_left_on_the_model_also_after_an_exception(path):
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fails(model, parts):
        model(parts[0])
        raise RuntimeError("planted")

    clipped_gradient_sum(model, squared_error, pair(), 1.0, Summation(path))
    with pytest.raises(RuntimeError, match="planted"):
        clipped_gradient_sum(model, fails, pair(), 1.0, Summation(path))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert list(model.state_dict()) == list(before)


def test_float32_sums_are_close_to_proved_ones():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    proved, quick = (
        clipped_gradient_sum(model, squared_error, pair(9), 1.0, Summation("by rule", precision, 4))
        for precision in ("proved", "float32")
    )
    assert torch.allclose(proved, quick.double(), atol=1e-5)


def test_a_layer_that_the_loss_does_not_reach_has_no_gradient():
    model = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])

    def first_only(model, parts):
        model[1](parts[0])
        with torch.no_grad():
            model[1](parts[0])
        return squared_error(model[0], parts)

    total = clipped_gradient_sum(model, first_only, pair(), 1.0, Summation("by rule"))
    assert total[8:].eq(0).all()
    assert total[:8].ne(0).any()


def test_a_loss_that_does_not_depend_on_the_model_has_no_gradient():
    model = nn.Linear(3, 2)
    assert not clipped_gradient_sum(
        model, lambda _, parts: parts[0].sum(-1), pair(), 1.0, Summation("by rule")
    ).any()


def test_a_layer_may_be_called_by_keyword():
    model = nn.Linear(3, 2)

    def by_keyword(model, parts):
        return (model(input=parts[0]) - parts[1]).square().sum(-1)

    expected = clipped_gradient_sum(model, squared_error, pair(), 1.0, Summation("by rule"))
    assert torch.equal(clipped_gradient_sum(model, by_keyword, pair(), 1.0, Summation("by rule")), expected)


def test_large_layers_are_summed_a_few_records_at_a_time(monkeypatch):
    x, y = torch.randn(5, 4, 3), torch.randn(5, 2)
    model = nn.Linear(3, 2)

    def pooled(model, parts):
        return (model(parts[0]).mean(-2) - parts[1]).square().sum(-1)

    whole = [
        clipped_gradient_sum(model, pooled, (x, y), 0.5, Summation(path)) for path in ("by rule", "vmap")
    ]
    monkeypatch.setattr(term, "CHUNK", 16)
    monkeypatch.setattr(term, "KEPT", 16)
    monkeypatch.setattr(gradients, "_CELLS", 16)
    parts = [
        clipped_gradient_sum(model, pooled, (x, y), 0.5, Summation(path)) for path in ("by rule", "vmap")
    ]
    for total in (*whole[1:], *parts):
        assert torch.allclose(total, whole[0], atol=1e-6)


@pytest.mark.parametrize("path", ["by rule", "vmap"])
def test_a_loss_summed_over_the_batch_is_a_usage_error_by_rule(path):
    model = nn.Linear(3, 2)
    with pytest.raises((UsageError, RuntimeError)):
        clipped_gradient_sum(model, lambda m, p: (m(p[0]) - p[1]).square(), pair(), 1.0, Summation(path))


def test_the_probe_refuses_a_mean_over_the_batch():
    with pytest.raises(UsageError, match="one number a record"):
        refuse_mixing(nn.Linear(3, 2), lambda m, p: squared_error(m, p).mean(), pair())


@pytest.mark.parametrize(
    "parts", [(), (torch.zeros(2, 3), torch.zeros(3, 2)), (torch.tensor(1.0), torch.tensor(1.0))]
)
def test_parts_that_are_not_records_are_a_usage_error(parts):
    with pytest.raises(UsageError, match="same n"):
        clipped_gradient_sum(nn.Linear(3, 2), squared_error, parts, 1.0)


def test_a_model_without_trainable_parameters_is_a_usage_error():
    with pytest.raises(UsageError, match="no trainable parameter"):
        clipped_gradient_sum(nn.Linear(3, 2).requires_grad_(False), squared_error, pair(), 1.0)


def test_a_micro_batch_of_nothing_is_a_usage_error():
    with pytest.raises(UsageError, match="micro_batch"):
        Summation(micro_batch=0)


def test_the_slack_of_proved_sums_is_small_and_of_float32_sums_uncharged():
    assert 0 < Summation().slack == slack("proved", 512) < 1e-3
    assert slack("float32", 512) == 2**-14
    assert slack("float32", 512, bfloat16=True) == 2**-7 + 2**-14


@pytest.mark.parametrize(
    "model", [nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), Tied()]
)
def test_layers_with_rules_go_by_rule(model):
    assert supported(model, squared_error, pair()) == "by rule"


@pytest.mark.parametrize("model", [Scaled(), Reused(), InPlace(), Positions()])
def test_everything_that_capture_could_get_wrong_goes_by_vmap(model):
    assert supported(model, squared_error, pair()) == "vmap"


def test_a_zero_last_layer_hides_nothing_from_the_comparison():
    model = nn.Sequential(InPlace(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.zero_()
    assert supported(model, squared_error, pair()) == "vmap"


@pytest.mark.parametrize("probe", [supported, refuse_mixing])
def test_a_probe_of_one_record_is_a_usage_error(probe):
    with pytest.raises(UsageError, match="two records"):
        probe(nn.Linear(3, 2), squared_error, pair(1))


def test_gradients_that_are_not_finite_prove_nothing():
    x, y = pair()
    with pytest.raises(PrivacyRefused, match="one record at a time"):
        supported(nn.Linear(3, 2), squared_error, (x / 0, y))


class Unbatched(nn.Module):
    """Calls a layer on all records as if they were one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x.unsqueeze(0)).squeeze(0)


def test_a_layer_that_sees_the_batch_as_one_record_goes_by_vmap():
    assert supported(Unbatched(), squared_error, pair()) == "vmap"
    with pytest.raises(PrivacyRefused, match="same number of rows"):
        clipped_gradient_sum(Unbatched(), squared_error, pair(), 1.0, Summation("by rule"))


def test_a_loss_with_branches_on_values_is_refused():
    def branches(model, parts):
        return squared_error(model, parts) if float(parts[0].sum()) > 0 else squared_error(model, parts) * 2

    with pytest.raises(PrivacyRefused, match="one record at a time"):
        supported(nn.Linear(3, 2), branches, pair())


@pytest.mark.parametrize(
    "table",
    [
        nn.Embedding(5, 2, max_norm=1.0),
        nn.Embedding(5, 2, scale_grad_by_freq=True),
    ],
)
def test_tables_that_look_at_the_batch_have_no_rule(table):
    assert not layers.covered(table)


def test_subclasses_of_layers_have_no_rule():
    class Other(nn.Linear):
        pass

    assert layers.covered(nn.Linear(2, 2))
    assert not layers.covered(Other(2, 2))


class Idle(nn.Module):
    """Has a layer that no call reaches, before and after one that is used."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.linear, self.after = (nn.Linear(3, 2) for _ in range(3))

    def forward(self, x):
        return self.linear(x)


@pytest.mark.parametrize("precision", ["proved", "float32"])
@pytest.mark.parametrize("reached", [True, False])
def test_what_no_call_reaches_is_zero_also_where_a_result_is_written_over(precision, reached):
    model, summation = Idle(), Summation("by rule", precision, 64)
    loss = squared_error if reached else lambda model, parts: parts[1].sum(-1)
    stale = torch.full((24,), torch.nan, dtype=summation.dtype)
    total = clipped_gradient_sum(model, loss, pair(), 1.0, summation, out=stale)
    assert total is stale
    assert bool(total[8:16].any()) == reached
    assert not total[:8].any()
    assert not total[16:].any()
