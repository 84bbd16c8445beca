"""Rules of recurrent layers: RNN, GRU and LSTM, and their cells.

What a cell adds up before its nonlinearities has two parts, from the input and from the last state; the
gradients at the two give those of all parameters, for all steps in one term. Torch does not show them, so the
layer is written anew from its states: the gates of many steps are formed at once, and in the backward pass the
gradient at a state is a linear function of the next one's, with slopes that are known beforehand. That takes
three operations a step, and none that adds over records.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from privae.errors import PrivacyRefused
from privae.layers.rule import Rule, Spot, trains
from privae.layers.term import Outer, Rows, Term

State = tuple[Tensor, ...]
"""What a cell remembers, each [n, h]: the hidden state, and the memory of an LSTM."""
Parts = tuple[Tensor, Tensor]
"""What is added before the nonlinearities: from the input, from the hidden state; [..., gates * h] each."""
Back = Callable[..., tuple[Tensor, ...]]
"""Gradients at the hidden states [T, n, h] (and at the last memory) -> gradients at the gates and the first state.

At the gates: [T, n, gates, h]. Those of the part from the input stand last in it, those of the part from the state
first; of these again the last `turned` gates of the layer's own order stand before the others.
"""
_PIECE: Final = 2**18  # numbers of gates at a time


@dataclass(frozen=True)
class Course:
    """What is known of one pass over T steps.

    Shapes: x [T, n, d]; before [T, n, h], the hidden state that each step starts from; weights [gates * h, d] and
    [gates * h, h] and biases (None = none) of the parts from the input and from the state.
    """

    x: Float[Tensor, "steps n d"]
    before: Float[Tensor, "steps n h"]
    weights: tuple[Float[Tensor, "sums d"], Float[Tensor, "sums h"]]
    biases: tuple[Float[Tensor, "sums"] | None, Float[Tensor, "sums"] | None]

    @property
    def blocks(self) -> list[slice]:
        """Pieces of the course whose gates stay in the cache."""
        steps, n, _ = self.x.shape
        size = max(1, _PIECE // max(n * len(self.weights[0]), 1))
        return [slice(start, min(start + size, steps)) for start in range(0, steps, size)]

    def parts(self, block: slice) -> Parts:
        """What is added before the nonlinearities at these steps."""
        incoming = functional.linear(self.x[block], self.weights[0], self.biases[0])
        return incoming, functional.linear(self.before[block], self.weights[1], self.biases[1])


@dataclass(frozen=True)
class Kind:
    """A recurrent cell. step: (parts, state) -> next state. turned: see `Back`.

    back: (course, first state) -> what else the last state holds, and how gradients go back.
    """

    step: Callable[[Parts, State], State]
    back: Callable[[Course, State], tuple[State, Back]]
    turned: int = 0


class CellRule:
    """RNNCell, GRUCell and LSTMCell: one step a call."""

    def covers(self, layer: nn.RNNCellBase) -> bool:  # noqa: ARG002
        """Every cell is covered."""
        return True

    def spots(
        self,
        layer: nn.RNNCellBase,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,  # noqa: ANN401
    ) -> tuple[Any, list[Spot]]:
        """Two spots: the parts from the input and from the state. An input without a row axis is one row."""
        source, given = _arguments(args, kwargs)
        outputs = _tuple(output)
        first = [torch.zeros_like(x) for x in outputs] if given is None else _tuple(given)
        source, known, *first = (x.reshape(1, -1, x.shape[-1]) for x in (source, outputs[0], *first))
        states, last, spots = _pass(
            _kind(layer), (layer, ""), source, tuple(x[0] for x in first), known.detach()
        )
        found = [x.view_as(old) for x, old in zip((states[0], *last[1:]), outputs, strict=True)]
        return tuple(found) if isinstance(output, tuple) else found[0], spots


class SequenceRule:
    """RNN, GRU and LSTM of any depth and direction, over sequences of one length."""

    def covers(self, layer: nn.RNNBase) -> bool:
        """No dropout between layers, which draws from torch's generator, and no projection."""
        return layer.dropout == 0 and layer.proj_size == 0

    def spots(
        self, layer: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Any, Any]
    ) -> tuple[Any, list[Spot]]:
        """Two spots a layer and direction: the parts from the input and from the states.

        Errors: PrivacyRefused for packed sequences.
        """
        source, given = _arguments(args, kwargs)
        if not isinstance(source, Tensor):
            raise PrivacyRefused(
                f"{type(layer).__name__} is called with packed sequences, which do not keep one row a record; "
                "pad them to one length"
            )
        ends = _tuple(output[1])
        first = [torch.zeros_like(x) for x in ends] if given is None else _tuple(given)
        turned = layer.batch_first and source.ndim == 3
        x, known = ((x.transpose(0, 1) if turned else x) for x in (source, output[0].detach()))
        x, known, *first = (x if source.ndim == 3 else x.unsqueeze(1) for x in (x, known, *first))
        x, last, spots = _levels(layer, x, first, known)
        x = (x.transpose(0, 1) if turned else x).reshape(output[0].shape)
        last = [new.reshape(old.shape) for new, old in zip(last, ends, strict=True)]
        return (x, tuple(last) if isinstance(output[1], tuple) else last[0]), spots


def _levels(
    layer: nn.RNNBase, x: Tensor, first: list[Tensor], known: Tensor
) -> tuple[Tensor, list[Tensor], list[Spot]]:
    """All layers and directions in turn: states [T, n, h], last states by part, spots."""
    directions = 2 if layer.bidirectional else 1
    single = layer.num_layers * directions == 1
    last: list[State] = []
    spots: list[Spot] = []
    for level in range(layer.num_layers):
        ways = []
        for way in range(directions):
            state = tuple(part[len(last)] for part in first)
            owner = (layer, f"_l{level}" + "_reverse" * way)
            turned = x.flip(0) if way else x
            states, end, found = _pass(_kind(layer), owner, turned, state, known if single else None)
            ways.append(states.flip(0) if way else states)
            last.append(end)
            spots += found
        x = torch.cat(ways, dim=-1) if len(ways) > 1 else ways[0]
    return x, [torch.stack(parts) for parts in zip(*last, strict=True)], spots


def _pass(
    kind: Kind, owner: tuple[nn.Module, str], x: Tensor, first: State, known: Tensor | None
) -> tuple[Tensor, State, list[Spot]]:
    """One layer in one direction over [T, n, d]: hidden states [T, n, h], last state, spots."""
    layer, suffix = owner
    names = [(f"weight_{part}{suffix}", f"bias_{part}{suffix}") for part in ("ih", "hh")]
    into, onto = (getattr(layer, weight).detach() for weight, _ in names)
    biases = [_bias(layer, bias) for _, bias in names]
    source = x.detach().contiguous()
    with torch.no_grad():
        if known is None:
            known = _run(kind, functional.linear(source, into, biases[0]), first, onto, biases[1])
        before = torch.cat([first[0][None], known[:-1]])
        course = Course(source, before, (into, onto), (biases[0], biases[1]))
        others, back = kind.back(course, first)
    # only their gradients are asked for: the parts are formed where they are needed, block by block
    parts = [x.new_zeros(1).expand(*x.shape[:2], len(into)).requires_grad_() for _ in names]
    adjoint = partial(_gradients, course, back, x.requires_grad)
    found: State = _Known.apply(adjoint, (known, *others), x, *parts, *first)  # type: ignore[no-untyped-call]
    turns = (0, kind.turned * before.shape[-1])
    spots = [
        Spot(at, _terms(layer, pair, rows, turn))
        for at, pair, rows, turn in zip(parts, names, (source, before), turns, strict=True)
    ]
    return found[0], (found[0][-1], *found[1:]), spots


def _terms(
    layer: nn.Module, names: tuple[str, str], source: Tensor, turn: int
) -> Callable[[Tensor], dict[str, Term]]:
    """Terms of a part from its gradient [T, n, sums], in which the last `turn` sums stand before the others."""
    weight, bias = names
    arrange = partial(torch.roll, shifts=-turn, dims=-2) if turn else None

    def terms(gradient: Tensor) -> dict[str, Term]:
        found: dict[str, Term] = {}
        if trains(layer, weight):
            found[weight] = Outer(gradient.transpose(0, 1), source.transpose(0, 1), arrange)
        if trains(layer, bias):
            found[bias] = Rows(gradient.sum(0).roll(-turn, -1))
        return found

    return terms


def _run(kind: Kind, incoming: Tensor, first: State, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Hidden states [T, n, h]."""
    state, states = first, []
    for part in incoming:
        state = kind.step((part, functional.linear(state[0], weight, bias)), state)
        states.append(state[0])
    return torch.stack(states)


class _Known(torch.autograd.Function):
    """Values that are known already as functions of inputs: `adjoint` turns gradients of one into the other's."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        adjoint: Callable[..., tuple[Tensor | None, ...]],
        values: State,
        *inputs: Tensor,  # noqa: ARG004
    ) -> State:
        ctx.adjoint = adjoint
        return tuple(value.detach() for value in values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return None, None, *ctx.adjoint(*gradients)


def _gradients(
    course: Course, back: Back, source_asks: bool, *gradients: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients at the input, at both parts and at the first state."""
    moved, *first = back(*gradients)
    flat, sums = moved.flatten(2), len(course.weights[0])
    incoming, hidden = flat[..., flat.shape[2] - sums :], flat[..., :sums]
    source = (incoming.flatten(0, 1) @ course.weights[0]).view_as(course.x) if source_asks else None
    return source, incoming, hidden, *first


class Slopes(NamedTuple):
    """How the states of a block move: with the gates [b, n, gates, h], see `Back`, and directly with the state before.

    carry [b, n, h]; None = not at all.
    """

    gates: Tensor
    carry: Tensor | None = None


def _back(
    gradient: Tensor, *, course: Course, slopes: Callable[[Parts, Tensor], Slopes], turned: int
) -> tuple[Tensor, Tensor]:
    """See `Back`."""
    steps, n, h = course.before.shape
    sums, weight = len(course.weights[1]), course.weights[1].roll(turned * h, 0)
    moved = gradient.new_empty(steps, n, sums // h + turned, h)
    hidden = moved.flatten(2)[..., :sums]
    current = gradient[-1]
    # what the loss asks of the state before each step
    asked = [torch.zeros_like(current), *gradient[:-1].unbind()]
    for block in reversed(course.blocks):
        found = slopes(course.parts(block), course.before[block])
        for step in range(block.stop - block.start - 1, -1, -1):
            place = block.start + step
            torch.mul(current.unsqueeze(1), found.gates[step], out=moved[place])
            rest = asked[place]
            rest = rest if found.carry is None else torch.addcmul(rest, current, found.carry[step])
            current = torch.addmm(rest, hidden[place], weight)
    return moved, current


def _simple(
    step: Callable[[Parts, State], State], slopes: Callable[[Parts, Tensor], Slopes], turned: int = 0
) -> Kind:
    """A cell whose state is its hidden state."""

    def back(course: Course, first: State) -> tuple[State, Back]:  # noqa: ARG001
        return (), partial(_back, course=course, slopes=slopes, turned=turned)

    return Kind(step, back, turned)


def _rnn(bend: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Kind:
    return _simple(
        lambda parts, _: (bend(parts[0] + parts[1]),),
        lambda parts, _: Slopes(slope(bend(parts[0] + parts[1])).unsqueeze(2)),
    )


def _gru_gates(parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
    """Reset, update and new."""
    (reset, update, new), hidden = (part.chunk(3, dim=-1) for part in parts)
    reset, update = torch.sigmoid(reset + hidden[0]), torch.sigmoid(update + hidden[1])
    return reset, update, torch.tanh(torch.addcmul(new, reset, hidden[2]))


def _gru_step(parts: Parts, state: State) -> State:
    _, update, new = _gru_gates(parts)
    return (torch.lerp(new, state[0], update),)


def _gru_slopes(parts: Parts, before: Tensor) -> Slopes:
    """By the gate `new` of the part from the state, by reset and update, by `new` of the part from the input."""
    reset, update, new = _gru_gates(parts)
    by_new = (1 - update) * (1 - new.square())
    through = by_new * reset
    by_reset = through * (1 - reset) * parts[1].chunk(3, dim=-1)[2]
    by_update = (before - new) * update * (1 - update)
    return Slopes(torch.stack([through, by_reset, by_update, by_new], dim=2), update)


def _lstm_gates(parts: Parts) -> tuple[Tensor, ...]:
    """Input, forget, cell and output."""
    enter, forget, cell, leave = (parts[0] + parts[1]).chunk(4, dim=-1)
    return torch.sigmoid(enter), torch.sigmoid(forget), torch.tanh(cell), torch.sigmoid(leave)


def _lstm_step(parts: Parts, state: State) -> State:
    enter, forget, cell, leave = _lstm_gates(parts)
    memory = torch.addcmul(enter * cell, forget, state[1])
    return leave * torch.tanh(memory), memory


def _lstm_slopes(parts: Parts, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slopes of the memory by three gates, of the state by the fourth and the memory, of the memory by the last.

    Shapes: memories before and after [b, n, h] -> [b, n, 3, h], [b, n, 1, h], [b, n, h], [b, n, h].
    """
    enter, forget, cell, leave = _lstm_gates(parts)
    bent = torch.tanh(after)
    by_enter = cell * enter * (1 - enter)
    by_forget = before * forget * (1 - forget)
    by_cell = enter * (1 - cell.square())
    by_leave = (bent * leave * (1 - leave)).unsqueeze(2)
    through = leave * (1 - bent.square())
    return torch.stack([by_enter, by_forget, by_cell], dim=2), by_leave, through, forget


def _lstm_back(course: Course, first: State) -> tuple[State, Back]:
    memories = [first[1].detach()]
    for block in course.blocks:
        enter, forget, cell, _ = _lstm_gates(course.parts(block))
        for added, kept in zip(enter * cell, forget, strict=True):
            memories.append(torch.addcmul(added, kept, memories[-1]))
    # a copy goes out, which may be changed in place
    return (memories[-1].clone(),), partial(_back_memory, course=course, memories=memories)


def _back_memory(
    gradient: Tensor, flow: Tensor, *, course: Course, memories: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """See `Back`. flow [n, h]: gradient at the last of T + 1 memories."""
    steps, n, h = course.before.shape
    moved = gradient.new_empty(steps, n, 4, h)
    current = gradient[-1]
    asked = [torch.zeros_like(current), *gradient[:-1].unbind()]
    for block in reversed(course.blocks):
        around = torch.stack(memories[block.start : block.stop + 1])
        slopes, by_leave, through, forget = _lstm_slopes(course.parts(block), around[:-1], around[1:])
        for step in range(block.stop - block.start - 1, -1, -1):
            flow = torch.addcmul(flow, current, through[step])
            gates = moved[block.start + step]
            torch.mul(flow.unsqueeze(1), slopes[step], out=gates[:, :3])
            torch.mul(current.unsqueeze(1), by_leave[step], out=gates[:, 3:])
            current = torch.addmm(asked[block.start + step], gates.flatten(1), course.weights[1])
            flow = flow * forget[step]
    return moved, current, flow


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Input and first state (None = zeros) of a call."""
    named = dict(zip(("input", "hx"), args, strict=False)) | kwargs
    return named["input"], named.get("hx")


def _kind(layer: nn.RNNBase | nn.RNNCellBase) -> Kind:
    name = type(layer).__name__.removesuffix("Cell")
    return KINDS[f"RNN_{layer.nonlinearity}" if name == "RNN" else name]


def _tuple(state: Any) -> State:  # noqa: ANN401
    return tuple(state) if isinstance(state, tuple | list) else (state,)


def _bias(layer: nn.Module, name: str) -> Tensor | None:
    parameter = getattr(layer, name, None)
    return None if parameter is None else parameter.detach()


KINDS: Final = {
    "GRU": _simple(_gru_step, _gru_slopes, turned=1),
    "LSTM": Kind(_lstm_step, _lstm_back),
    "RNN_tanh": _rnn(torch.tanh, lambda state: 1 - state.square()),
    "RNN_relu": _rnn(torch.relu, lambda state: (state > 0).to(state.dtype)),
}
RULES: Final[dict[type[nn.Module], Rule]] = {
    **dict.fromkeys((nn.RNN, nn.GRU, nn.LSTM), SequenceRule()),
    **dict.fromkeys((nn.RNNCell, nn.GRUCell, nn.LSTMCell), CellRule()),
}
