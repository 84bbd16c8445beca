"""Nothing is bound to the CPU: a step runs on a pretended card, whose tensors may not meet tensors in memory.

The card's tensors say "cuda:0" and torch takes them for its "meta" device, but their numbers lie in memory, so that no
GPU is needed. An operation on a tensor of the card and one in memory (but a scalar, or an index) fails, as it would.
"""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

from privae.layers.normalization import Affine
from privae.privacy.clipping import Clipping, Quantile
from privae.privacy.gradients import (
    Summation,
    clipped_gradient_sum,
    refuse_mixing,
    refuse_mixing_in_blocks,
)
from privae.privacy.mechanism import Mechanism, for_gradients
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Poisson
from privae.training.bound import Rule
from privae.training.loop import Hands, Objective, Release, Schedule, train

CARD = torch.device("cuda", 0)
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
INDEXES = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class OnCard(Tensor):
    """A tensor of the card; `elem` has its numbers."""

    @staticmethod
    def __new__(cls, elem):
        made = Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), dtype=elem.dtype, device="meta"
        )
        made.elem = elem
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return ran(func, args, kwargs or {})

    device = property(lambda self: CARD)
    data = property(lambda self: self.detach(), lambda self, other: setattr(self, "elem", other.elem))

    def data_ptr(self):
        return self.elem.data_ptr()

    def __deepcopy__(self, memo):
        return nn.Parameter(OnCard(self.elem.clone()), self.requires_grad)


def ran(func, args, kwargs):
    """The operation on the numbers, its results put where torch would put them."""
    seen: list[Tensor] = []
    tree_map(lambda x: seen.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
    there = [x for x in seen if isinstance(x, OnCard)]
    here = [x for x in seen if not isinstance(x, OnCard) and (x.ndim or x.is_meta)]
    if there and here and func not in MOVES + INDEXES:
        raise AssertionError(f"{func} of tensors on the card and in memory")
    asked = kwargs.get("device")
    plain = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
    with _disable_current_modes():
        out = func(*tree_map(numbers, args), **tree_map(numbers, plain))
    written = [
        given
        for one, given in [*zip(func._schema.arguments, args, strict=False)]
        if one.alias_info is not None and one.alias_info.is_write
    ]
    if written:
        return written[0] if len(func._schema.returns) == 1 else None
    on_card = there if asked is None else torch.device(asked).type == "meta"
    return tree_map(lambda x: OnCard(x) if on_card and isinstance(x, Tensor) else x, out)


def numbers(x):
    return x.elem if isinstance(x, OnCard) else x


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return ran(func, args, kwargs or {})


class _Names(TorchFunctionMode):
    """What calls "cuda", torch calls "meta"; lists as indices become tensors before torch makes empty ones."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], tuple):
            key = tuple(torch.tensor(i) if isinstance(i, list) else i for i in args[1])
            args = (args[0], key, *args[2:])
        return func(*map(_named, args), **{key: _named(value) for key, value in (kwargs or {}).items()})


def _named(x):
    return torch.device("meta") if isinstance(x, torch.device) and x == CARD else x


@contextmanager
def pretended():
    """While there is a card; a function of torch's calls its own with the last mode off, hence two."""
    with _Names(), _Names(), _Operations():
        yield


def card(x):
    """A tensor, or a copy of a model, on the card."""
    if isinstance(x, Tensor):
        return x.to(CARD)
    x = copy.deepcopy(x)
    for module in x.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = nn.Parameter(parameter.detach().to(CARD))
        if isinstance(module, nn.RNNBase):
            module._flat_weights = list(module._parameters.values())
    return x


class Steps(nn.Module):
    """A cell over the steps of its input; the last state."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


class Last(nn.Module):
    def forward(self, x):
        return x[1][0][0]


def squared(model, parts):
    return model(parts[0]).flatten(1).square().sum(1)


def noisy(model, parts):
    return (model(parts[0] + parts[2]) - parts[1]).square().sum(-1)


def normal(*shape) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


TOKENS = torch.arange(55).remainder(7).view(11, 5)
MODELS = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), normal(11, 6)),
    "places": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), normal(11, 4, 6)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)),
        normal(11, 1, 6, 6),
    ),
    "transposed": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2), normal(11, 2, 4)),
    "scales": (
        lambda: nn.Sequential(nn.LayerNorm(8), nn.GroupNorm(2, 8), Affine(8), nn.RMSNorm(8)),
        normal(11, 8),
    ),
    "tokens": (lambda: nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 2)), TOKENS),
    "cell": (lambda: Steps(nn.GRUCell(3, 4)), normal(11, 3, 3)),
    "recurrent": (lambda: nn.Sequential(nn.LSTM(3, 4, batch_first=True), Last()), normal(11, 5, 3)),
}


def model_of(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return MODELS[name][0]()


def test_the_card_refuses_what_lies_in_memory():
    with pretended():
        x = card(torch.ones(2, 2))
        assert x.device == (x @ x).device == torch.zeros(1, device=x.device).device == CARD
        with pytest.raises(AssertionError, match="on the card and in memory"):
            x @ torch.ones(2, 2)


@pytest.mark.parametrize(
    ("name", "kind", "precision"),
    [
        *((name, "flat", "proved") for name in MODELS),
        ("linear", "automatic", "float32"),
        ("places", "per layer", "float32"),
    ],
)
def test_a_clipped_sum_on_a_card_is_that_in_memory(name, kind, precision):
    model, records, norms = model_of(name), MODELS[name][1], []
    how = (Clipping(0.5, kind), Summation("by rule", precision, 4))
    alone = clipped_gradient_sum(model, squared, (records,), *how)
    with pretended():
        there = clipped_gradient_sum(card(model), squared, (card(records),), *how, norms.append)
    assert {there.device, *(found.device for found in norms)} == {CARD}
    torch.testing.assert_close(there.elem, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "conv", "recurrent"])
def test_a_model_on_a_card_is_probed_there(name):
    with pretended():
        model, probe = card(model_of(name).double()), (card(MODELS[name][1][:4]),)
        refuse_mixing(model, squared, probe)
        refuse_mixing_in_blocks(model, squared, probe, Summation("by rule", "proved", 6))


@pytest.mark.parametrize("mechanism", [for_gradients(1.0, 0.5, 6, 0.0), Mechanism()], ids=["noise", "none"])
def test_a_release_lies_where_its_total_lay(mechanism):
    total = torch.ones(6, dtype=torch.float64)
    alone = mechanism.release(total, NoiseSource(bytes(32)), 3.0)
    with pretended():
        there = mechanism.release(card(total), NoiseSource(bytes(32)), 3.0)
    assert there.device == CARD
    assert torch.equal(there.elem, alone)


def fitted(model: nn.Module, device: torch.device, optimizer: str, quantile: Quantile | None) -> nn.Module:
    summation, size = Summation("by rule", "proved", 8), sum(p.numel() for p in model.parameters())
    mechanism, rule = for_gradients(0.5, 0.8, size, summation.slack), Rule("flat", quantile)
    release = Release(Poisson(0.3), mechanism, NoiseSource(bytes(32)), lambda _: None, rule)
    schedule = Schedule(4, 12.0, 1e-2, optimizer, 0.5 if optimizer == "sgd" else 0.0, average=0.5)
    records = (normal(40, 6), normal(40, 3))
    train(model, Objective(noisy, 6, summation), records, release, schedule, hands=Hands(device=device))
    return model


@pytest.mark.parametrize(
    ("optimizer", "quantile"),
    [("sgd", Quantile(0.5, 0.2, 4.0, 0.5)), ("adam", None), ("adam corrected", None)],
)
def test_training_on_a_card_is_training_in_memory(optimizer, quantile):
    first = model_of("linear")
    alone = fitted(copy.deepcopy(first), torch.device("cpu"), optimizer, quantile)
    with pretended():
        there = fitted(card(first), CARD, optimizer, quantile)
    for one, other, before in zip(there.parameters(), alone.parameters(), first.parameters(), strict=True):
        assert one.device == CARD
        torch.testing.assert_close(one.elem, other.detach(), rtol=1e-5, atol=1e-6)
        assert not torch.equal(other, before)
