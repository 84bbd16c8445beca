"""Recurrent layers: outputs stay torch's, and by rule each record's gradient is the one of the record alone."""

from functools import partial

import pytest
import torch
from torch import nn

from privae.errors import PrivacyRefused
from privae.layers import recurrent
from privae.layers.capture import capture, covered
from privae.layers.recurrent import RULES

OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "deep, both directions": {"bidirectional": True, "num_layers": 2, "bias": False},
}
LAYERS = {
    f"{layer.__name__}, {name}, {'records' if first else 'time'} first": (
        layer,
        {**options, "batch_first": first},
    )
    for layer in (nn.GRU, nn.LSTM, nn.RNN)
    for name, options in OPTIONS.items()
    for first in (True, False)
} | {"RNN, relu": (nn.RNN, {"nonlinearity": "relu", "batch_first": True})}
CELLS = {
    "GRU": nn.GRUCell(3, 4),
    "LSTM": nn.LSTMCell(3, 4),
    "RNN": nn.RNNCell(3, 4),
    "RNN, relu": nn.RNNCell(3, 4, nonlinearity="relu"),
    "GRU, no bias": nn.GRUCell(3, 4, bias=False),
}


def randoms(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(name):
    layer, options = LAYERS[name]
    torch.manual_seed(0)
    return layer(3, 4, **options).double()


def flat(found):
    """All tensors of an output in one list."""
    return [found] if isinstance(found, torch.Tensor) else [x for part in found for x in flat(part)]


def led(x, layer):
    """A sequence [n, T, d] as the layer wants it, or its output back."""
    return x if layer.batch_first else x.transpose(0, 1)


class Reading(nn.Module):
    """Starts a layer from a state that the record gives, and reads all steps and all last states."""

    def __init__(self, layer, width=6):
        super().__init__()
        self.layer, self.start = layer, nn.Linear(width, 4).double()

    def forward(self, x):
        layer = self.layer
        count = layer.num_layers * (2 if layer.bidirectional else 1)
        state = torch.stack([(self.start(x.flatten(1)[:, :6]) * (k + 1)).tanh() for k in range(count)])
        steps, ends = layer(led(x, layer), hx=(state, 2 * state) if isinstance(layer, nn.LSTM) else state)
        ends = [(k + 1) * end.transpose(0, 1).flatten(1) for k, end in enumerate(flat(ends))]
        return torch.cat([led(steps, layer).flatten(1), *ends], dim=1)


class Stepping(nn.Module):
    """Calls a cell step by step, from a given state or none, and reads every state."""

    def __init__(self, cell, given=True):
        super().__init__()
        self.cell, self.given = cell, given

    def forward(self, x):
        state = None
        if self.given:
            state = x[:, 0, :1].expand(-1, 4) / 2
            state = (state, state.cos()) if isinstance(self.cell, nn.LSTMCell) else state
        seen = []
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
            seen += flat(state)
        return torch.cat(seen, dim=1)


@pytest.fixture
def check(check):
    """The norm of a record without gradient, as a cell that is switched off gives it, is 2^-400 instead of 0."""
    return partial(check, least=1e-200)


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_a_recurrence_gives_each_record_the_gradient_of_the_record_alone(check, name, n):
    check(Reading(made(name)), randoms(n, 6, 3))


@pytest.mark.parametrize("name", [f"{layer}, plain, records first" for layer in ("GRU", "LSTM", "RNN")])
def test_steps_taken_block_by_block_are_the_same_steps(check, monkeypatch, name):
    for numbers in (1, 130):
        monkeypatch.setattr(recurrent, "_PIECE", numbers)
        check(Reading(made(name)), randoms(5, 7, 3))


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_those_of_torch_in_the_same_form(name):
    layer = made(name)
    for x in (randoms(5, 6, 3), randoms(6, 3)):
        expected = layer(led(x, layer) if x.ndim == 3 else x)
        found, spots = RULES[type(layer)].spots(layer, (led(x, layer) if x.ndim == 3 else x,), {}, expected)
        assert isinstance(found[1], tuple) == isinstance(expected[1], tuple)
        for one, other in zip(flat(found), flat(expected), strict=True):
            assert one.shape == other.shape
            assert (one - other).abs().max() < 1e-12
        assert len(spots) == 2 * layer.num_layers * (2 if layer.bidirectional else 1)


@pytest.mark.parametrize("name", [name for name in LAYERS if "plain" in name or "deep" in name])
def test_zeros_are_the_first_state_and_the_last_state_alone_may_be_read(check, name):
    def loss(model, parts):
        _, ends = model(led(parts[0], model))
        return torch.cat([end.transpose(0, 1).flatten(1) for end in flat(ends)], 1).cos().sum(1)

    for steps in (1, 6):
        check(made(name), randoms(5, steps, 3), loss=loss)


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_called_step_by_step_is_exact(check, name, given, n):
    check(Stepping(CELLS[name].double(), given), randoms(n, 4, 3))


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_without_a_row_axis_is_one_row(check, name):
    def loss(model, parts):
        first = model(parts[0][0, 0])
        return torch.cat(flat(model(parts[0][0, 1], hx=first))).cos().sum()[None]

    cell = CELLS[name].double()
    check(cell, randoms(1, 2, 3), loss=loss)
    with pytest.raises(PrivacyRefused, match="same number of rows"):
        capture(
            cell, lambda model, parts: flat(model(parts[0][0, 0]))[0].sum().expand(2), (randoms(2, 2, 3),)
        )


def test_several_rows_of_a_record_add_up(check, waves):
    def loss(model, parts):
        return waves(model, (parts[0].flatten(0, 1),)).unflatten(0, (-1, 4)).sum(1).square()

    for name in ("GRU, two layers, time first", "LSTM, plain, records first"):
        check(Reading(made(name)), randoms(3, 4, 6, 3), loss=loss)


def test_recurrences_on_recurrences_and_layers_called_twice_are_exact(check):
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.GRU(3, 3, batch_first=True), nn.LSTM(3, 3, batch_first=True)
            self.out = nn.Linear(3, 2)

        def forward(self, x):
            once = self.first(x)[0]
            twice = self.first(once.flip(1), once[:, -1][None])[0]
            return self.out(self.second(once + twice)[0])

    torch.manual_seed(0)
    check(Tower().double(), randoms(5, 6, 3))


def test_only_what_trains_has_terms(check):
    model = made("GRU, plain, records first")
    model.weight_ih_l0.requires_grad_(False)
    model.bias_hh_l0.requires_grad_(False)
    check(model, randoms(5, 6, 3), loss=lambda model, parts: model(*parts)[0].cos().sum((1, 2)))


@pytest.mark.parametrize("layer", ["GRU", "LSTM", "RNN"])
def test_outputs_may_be_changed_in_place(check, layer):
    def loss(model, parts):
        steps, ends = model(*parts)
        changed = [x.mul_(2.0).add_(1.0) for x in (steps, *flat(ends))]
        return sum(x.cos().sum((1, 2) if x is steps else (0, 2)) for x in changed)

    check(made(f"{layer}, plain, records first"), randoms(5, 6, 3), loss=loss)


@pytest.mark.parametrize("name", ["GRU", "LSTM"])  # torch itself keeps an RNN cell's output for its gradient
def test_states_of_a_cell_may_be_changed_in_place(check, name):
    def loss(model, parts):
        changed = [state.mul_(2.0).add_(1.0) for state in flat(model(parts[0][:, 0]))]
        return torch.cat(changed, dim=1).cos().sum(1)

    check(CELLS[name].double(), randoms(5, 1, 3), loss=loss)


def test_a_record_that_is_not_finite_leaves_the_others_alone(waves):
    model, records = Reading(made("GRU, plain, records first")), randoms(4, 6, 3)
    clean = capture(model, waves, (records,))
    records = records.clone()
    records[2, 3, 1] = torch.nan
    dirty = capture(model, waves, (records,))
    for parameter, term in clean.items():
        expected, found = term.squared_norms(), dirty[parameter].squared_norms()
        assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])
        assert not found[2].isfinite()


def test_packed_sequences_are_refused():
    layer = made("GRU, plain, records first")
    packed = nn.utils.rnn.pack_padded_sequence(randoms(2, 6, 3), torch.tensor([6, 4]), batch_first=True)
    with pytest.raises(PrivacyRefused, match="packed"):
        capture(layer, lambda model, parts: model(packed)[1].sum((0, 2)), (randoms(2, 6, 3),))


def test_dropout_between_layers_and_projections_are_not_covered():
    assert covered(nn.GRU(3, 4, num_layers=2))
    assert not covered(nn.GRU(3, 4, num_layers=2, dropout=0.1))
    assert not covered(nn.LSTM(3, 4, proj_size=2))


@pytest.mark.parametrize("name", ["GRU, plain, records first", "LSTM, both directions, time first"])
def test_a_recurrence_is_summed_by_rule_as_clipped_record_by_record(check_sum, name):
    model, records = Reading(made(name)), randoms(5, 6, 3)
    check_sum(model, records)
