"""One record, or a few: all features of a record in one ciphertext, maps by diagonals, baby steps and giant steps.

Slot t * lanes + s holds feature t of record s, so that a rotation by k * lanes moves every record's features by k, and
the ring of slots closes for all of them. Where features leave room, a record is repeated, each time moved further, and
each repetition does its share of the diagonals. Every later value repeats with the period of its width.
Sources: Halevi, Shoup 2014, https://eprint.iacr.org/2014/106 (diagonals); 2018, .../2018/244 (baby and giant steps).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privae.ckks.backend import Backend, Value
from privae.encrypted.circuit import Affine, Circuit, Inner, Schedule, sources

Array = NDArray[np.float64]
_LEAST = 2.0**-20  # a weight that is as good as none, and is encoded as one
_TIMES = 0.05  # work of a product with a plaintext, in key switches

Places = NDArray[np.int64]
Moved = dict[tuple[int, int, int], Value]
"""Values already rotated, by which value, at which level, and by how much."""


def power(width: int) -> int:
    """The power of two that holds a width."""
    return 1 << max(width - 1, 0).bit_length()


def most_lanes(circuit: Circuit, slots: int) -> int:
    """How many records fit a ciphertext, the widest value of each in the slots of one; 0 where none does."""
    return slots // max(power(circuit.width(value)) for value in range(len(circuit.steps) + 1))


@dataclass(frozen=True)
class Layout:
    """Where the features of `lanes` records lie in a ciphertext; lanes is a power of two.

    moved: features that each repetition of a record is moved by.
    """

    slots: int
    lanes: int
    width: int
    moved: int

    @classmethod
    def of(cls, circuit: Circuit, slots: int, lanes: int) -> "Layout":
        """The layout in which the first map of a circuit has the fewest diagonals."""
        width, rows = power(circuit.inputs), slots // lanes
        assert lanes <= most_lanes(circuit, slots), "more features than slots"
        first = [step for step in circuit.steps if isinstance(step, Affine) and step.terms[0][0] == 0]
        outputs = min(power(len(first[0].bias)), width) if first else 1
        return cls(slots, lanes, width, max(1, outputs * width // rows))

    @property
    def rows(self) -> int:
        """Slots of one record, its repetitions included."""
        return self.slots // self.lanes

    @property
    def source(self) -> Places:
        """Which feature lies in each of a record's slots: [rows]."""
        place = np.arange(self.rows)
        return (place + self.moved * (place // self.width)) % self.width

    def packed(self, records: Array) -> Array:
        """Slots of at most `lanes` records [n, inputs]; those of records that are not there hold zero."""
        wide = np.zeros((self.lanes, self.width))
        wide[: len(records), : records.shape[1]] = records
        out: Array = np.ascontiguousarray(wide[:, self.source].T).reshape(-1)
        return out

    def read(self, slots: Array, width: int, count: int) -> Array:
        """The first `count` records' numbers of a value: [count, width]."""
        table: Array = slots.reshape(self.rows, self.lanes)[:width, :count].T
        return table


@dataclass(frozen=True)
class Diagonals:
    """One matrix as diagonals over the slots of a source, and the folds that finish its sums.

    diagonals [c, rows]: the product is the sum over k of diagonals[k] times the source moved by k. folds: by how many
    features sums are then moved and added.
    """

    diagonals: Array
    folds: tuple[int, ...]

    @property
    def babies(self) -> int:
        """Moves that are shared by all giant steps: a power of two near the root of the number of diagonals."""
        return min(1 << ((len(self.diagonals).bit_length()) // 2), len(self.diagonals))

    def steps(self) -> set[int]:
        """Moves that need a key."""
        giants = range(0, len(self.diagonals), self.babies)
        return {*range(1, self.babies), *giants[1:], *self.folds}


def diagonals_of(matrix: Array, source: Places, period: int, few: int) -> Diagonals:
    """Diagonals of a matrix [m, n] over a source of features [rows] that repeats with `period`.

    few: how many diagonals may do; as many again are taken until each pair of output and feature meets.
    """
    outputs, width = power(len(matrix)), power(matrix.shape[1])
    wide = np.zeros((outputs, width))
    wide[: len(matrix), : matrix.shape[1]] = matrix
    span = max(period, outputs)  # slots after which everything repeats
    place, count = np.arange(span), max(few, 1)
    while True:
        feature = source[(place + np.arange(count)[:, None]) % len(source)]  # [count, span]
        met = np.zeros((outputs, width))
        np.add.at(met, (np.broadcast_to(place % outputs, feature.shape), feature), 1.0)
        if met.all():
            break
        assert count < 2 * width, "the source does not bring every feature past every output"
        count += max(few, 1)
    chosen = wide[place % outputs, feature] / met[place % outputs, feature]
    if not chosen.any():  # the library computes on no ciphertext that is a constant
        chosen[0] = _LEAST
    folds = tuple(outputs << i for i in range((span // outputs).bit_length() - 1))
    return Diagonals(np.tile(chosen, (1, len(source) // span)), folds)


def partial_sums(row: Array, source: Places, period: int, width: int) -> Diagonals:
    """One row [n] as `width` outputs whose sum is its product with the source: one diagonal."""
    span = max(period, width)
    wide = np.zeros(power(len(row)))
    wide[: len(row)] = row
    feature = source[np.arange(span) % len(source)]
    chosen = wide[feature] / np.bincount(feature, minlength=len(wide))[feature]
    folds = tuple(width << i for i in range((span // width).bit_length() - 1))
    return Diagonals(np.tile(chosen, (1, len(source) // span)), folds)


@dataclass(frozen=True)
class Program:
    """A circuit in one layout: diagonals of every map, encoded when they are first used and then kept."""

    schedule: Schedule
    layout: Layout
    maps: dict[tuple[int, int], Diagonals] = field(init=False)
    _encoded: dict[tuple[int, int, int], Value] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        maps = {}
        assert all(
            isinstance(step, Affine) or 0 not in (sources(step)[:2]) for step in self.schedule.circuit.steps
        ), "repetitions of the input are moved, so it is mapped before it is squared"
        for value, step in enumerate(self.schedule.circuit.steps, 1):
            if isinstance(step, Affine):
                for term, (source, matrix) in enumerate(step.terms):
                    maps[value, term] = self._diagonals(source, matrix)
            elif isinstance(step, Inner):
                width = power(self.schedule.circuit.width(step.left))
                maps[value, 0] = partial_sums(step.rest[1], *self._source(step.rest[0]), width)
        object.__setattr__(self, "maps", maps)

    def _source(self, value: int) -> tuple[Places, int]:
        """Which feature of a value lies in each of a record's slots, and after how many slots that repeats."""
        if value == 0:
            return self.layout.source, self.layout.rows
        width = power(self.schedule.circuit.width(value))
        return np.arange(self.layout.rows) % width, width

    def _diagonals(self, source: int, matrix: Array) -> Diagonals:
        few = self.layout.moved if source == 0 else min(map(power, matrix.shape))
        return diagonals_of(matrix, *self._source(source), few)

    def rotations(self) -> set[int]:
        """Steps of all rotations: the Galois keys that a server needs for this program, and no others."""
        moves = set().union(*(diagonals.steps() for diagonals in self.maps.values()))
        for step in self.schedule.circuit.steps:
            if isinstance(step, Inner):
                moves |= set(_folds(power(self.schedule.circuit.width(step.left))))
        return {move * self.layout.lanes for move in moves}

    def cost(self) -> float:
        """Work of one ciphertext, in key switches of a fresh one."""
        count, total = len(self.schedule.primes), 0.0
        for (value, _), diagonals in self.maps.items():
            share = (self.schedule.levels[value] + 1 + self.schedule.parameters.base) / count
            giants = -(-len(diagonals.diagonals) // diagonals.babies)
            total += (diagonals.babies + giants + len(diagonals.folds) - 2) * share**2
            total += _TIMES * len(diagonals.diagonals) * share
        return total + len(self.schedule.circuit.steps)

    def run(self, backend: Backend, record: Value, wanted: Sequence[str]) -> dict[str, Value]:
        """Outputs of one ciphertext of records. backend: as for `samples.run`."""
        circuit, values = self.schedule.circuit, [record]
        moved: Moved = {}
        last = max(circuit.outputs[name] for name in wanted)
        for value, step in enumerate(circuit.steps[:last], 1):
            top = self.schedule.levels[value] + 1
            if isinstance(step, Affine):
                total = self._affine(backend, values, value, moved)
            elif isinstance(step, Inner):
                total = self._inner(backend, values, value, moved)
            else:
                total = backend.relinearize(backend.square(backend.lowered(values[step.source], top)))
            values.append(backend.rescale(total, self.schedule.scales[value]))
        return {name: values[circuit.outputs[name]] for name in wanted}

    def _affine(self, backend: Backend, values: Sequence[Value], value: int, moved: Moved) -> Value:
        step = self.schedule.circuit.steps[value - 1]
        assert isinstance(step, Affine)
        target = self.schedule.scales[value] * self.schedule.prime(self.schedule.levels[value])
        total = None
        for term, (source, _) in enumerate(step.terms):
            made = self._mapped(backend, (value, term), (values, source, target), moved)
            total = made if total is None else backend.add(total, made)
        bias = np.zeros(power(len(step.bias)))
        bias[: len(step.bias)] = step.bias
        return backend.plus(total, self._spread(bias))

    def _inner(self, backend: Backend, values: Sequence[Value], value: int, moved: Moved) -> Value:
        step, top = self.schedule.circuit.steps[value - 1], self.schedule.levels[value] + 1
        assert isinstance(step, Inner)
        left, right = (backend.lowered(values[source], top) for source in (step.left, step.right))
        total = backend.relinearize(backend.multiply(left, right))
        rest = self._mapped(backend, (value, 0), (values, step.rest[0], total.scale), moved)
        total = backend.add(total, rest)
        for fold in _folds(power(self.schedule.circuit.width(step.left))):
            total = backend.add(total, backend.rotate(total, fold * self.layout.lanes))
        return backend.plus(total, np.full(self.layout.slots, step.bias))

    def _mapped(
        self,
        backend: Backend,
        name: tuple[int, int],
        what: tuple[Sequence[Value], int, float],
        moved: Moved,
    ) -> Value:
        """One matrix times one value, by baby steps (kept for other matrices) and giant steps, then folded."""
        values, source, target = what
        level, lanes = self.schedule.levels[name[0]] + 1, self.layout.lanes
        value, diagonals = backend.lowered(values[source], level), self.maps[name]
        factor, total = target / value.scale, None
        for start in range(0, len(diagonals.diagonals), diagonals.babies):
            part = None
            for k in range(min(diagonals.babies, len(diagonals.diagonals) - start)):
                if (source, level, k) not in moved:
                    moved[source, level, k] = backend.rotate(value, k * lanes)
                if not diagonals.diagonals[start + k].any():
                    continue
                plain = self._plain(backend, (*name, start + k), (start, factor, level))
                made = backend.times(moved[source, level, k], plain)
                part = made if part is None else backend.add(part, made)
            if part is None:
                continue
            part = backend.rotate(part, start * lanes)
            total = part if total is None else backend.add(total, part)
        for fold in diagonals.folds:
            total = backend.add(total, backend.rotate(total, fold * lanes))
        return total

    def _plain(self, backend: Backend, name: tuple[int, int, int], how: tuple[int, float, int]) -> Value:
        """A diagonal, moved back by its giant step, encoded."""
        if name not in self._encoded:
            start, factor, level = how
            diagonal = np.roll(self.maps[name[:2]].diagonals[name[2]], start)
            self._encoded[name] = backend.encode(np.repeat(diagonal, self.layout.lanes), factor, level)
        return self._encoded[name]

    def _spread(self, numbers: Array) -> Array:
        """Numbers [a power of two] repeated over all slots."""
        return np.repeat(np.tile(numbers, self.layout.rows // len(numbers)), self.layout.lanes)


def _folds(width: int) -> list[int]:
    return [1 << i for i in range(width.bit_length() - 1)]
