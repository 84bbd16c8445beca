"""Circuits: what a server computes of encrypted records, as a list of steps, and the schedule that makes them fit.

A circuit has three kinds of steps: an affine map of earlier values, a square, and an inner product. A schedule says on
which level each value lies, at which scale, how large it can become, and so which parameters hold it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privae.ckks.parameters import Parameters, fitting
from privae.errors import UsageError

Array = NDArray[np.float64]

PRECISION: Mapping[str, int] = {"fast": 26, "standard": 30, "precise": 40}
"""Bits of the scale, and of the prime of every level."""
_ROOM = 2  # bits: one for the sign, one for noise


@dataclass(frozen=True)
class Affine:
    """Sum of matrices [m, n] times earlier values, plus a bias [m]. terms: (value, matrix); value 0 is the input."""

    terms: tuple[tuple[int, Array], ...]
    bias: Array


@dataclass(frozen=True)
class Square:
    """The square of every number of an earlier value."""

    source: int


@dataclass(frozen=True)
class Inner:
    """One number: the inner product of two earlier values, plus a row [n] times another, plus a constant."""

    left: int
    right: int
    rest: tuple[int, Array]
    bias: float


Step = Affine | Square | Inner


@dataclass(frozen=True)
class Circuit:
    """Steps from records [n, inputs] to named outputs; value 0 is the input, value i the result of steps[i - 1].

    low, high: public bounds of every number of a record. outputs: name -> which value.
    """

    low: Array
    high: Array
    steps: tuple[Step, ...]
    outputs: Mapping[str, int]

    @property
    def inputs(self) -> int:
        """Numbers of a record."""
        return len(self.low)

    def width(self, value: int) -> int:
        """Numbers of a value."""
        if value == 0:
            return self.inputs
        step = self.steps[value - 1]
        if isinstance(step, Affine):
            return len(step.bias)
        return self.width(step.source) if isinstance(step, Square) else 1

    def evaluate(self, records: Array) -> dict[str, Array]:
        """Every output of records [n, inputs], in the clear and in float64: [n, width] each."""
        values = [records]
        for step in self.steps:
            values.append(_computed(step, values))
        return {name: values[value] for name, value in self.outputs.items()}

    def depth(self, value: int) -> int:
        """Products that lie one upon another in a value."""
        return 0 if value == 0 else 1 + max(map(self.depth, sources(self.steps[value - 1])))

    def consumers(self, value: int) -> list[Step]:
        """Steps that read a value."""
        return [step for step in self.steps if value in sources(step)]

    def largest(self) -> list[float]:
        """The largest magnitude that any number of each value can have, for records within their bounds."""
        ranges = [(self.low, self.high)]
        for step in self.steps:
            ranges.append(_range(step, ranges))
        return [float(max(np.abs(low).max(), np.abs(high).max())) for low, high in ranges]


def sources(step: Step) -> tuple[int, ...]:
    """Which values a step reads."""
    if isinstance(step, Affine):
        return tuple(source for source, _ in step.terms)
    return (step.source,) if isinstance(step, Square) else (step.left, step.right, step.rest[0])


def _computed(step: Step, values: Sequence[Array]) -> Array:
    if isinstance(step, Affine):
        total: Array = sum((values[source] @ matrix.T for source, matrix in step.terms), start=step.bias)
        return total
    if isinstance(step, Square):
        return values[step.source] ** 2
    product: Array = (values[step.left] * values[step.right]).sum(1, keepdims=True)
    source, row = step.rest
    return product + (values[source] @ row)[:, None] + step.bias


def _range(step: Step, ranges: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Interval arithmetic of one step."""
    if isinstance(step, Affine):
        spans = [_mapped(matrix, *ranges[source]) for source, matrix in step.terms]
        return step.bias + sum(low for low, _ in spans), step.bias + sum(high for _, high in spans)
    if isinstance(step, Square):
        low, high = ranges[step.source]
        return np.where((low < 0) & (high > 0), 0.0, np.minimum(low**2, high**2)), np.maximum(low**2, high**2)
    corners = [a * b for a in ranges[step.left] for b in ranges[step.right]]
    source, row = step.rest
    low, high = _mapped(row[None], *ranges[source])
    least, most = np.minimum.reduce(corners).sum(), np.maximum.reduce(corners).sum()
    return low + least + step.bias, high + most + step.bias


def _mapped(matrix: Array, low: Array, high: Array) -> tuple[Array, Array]:
    middle, reach = matrix @ ((low + high) / 2), np.abs(matrix) @ ((high - low) / 2)
    return middle - reach, middle + reach


@dataclass(frozen=True)
class Schedule:
    """A circuit with its parameters: the level and the scale of every value, before and after its rescaling.

    Guarantee: for records within the circuit's bounds, no number of any value passes the modulus of its level.
    """

    circuit: Circuit
    parameters: Parameters
    primes: tuple[int, ...]
    scale: float
    levels: tuple[int, ...] = field(init=False)
    scales: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        circuit, count = self.circuit, len(self.circuit.steps) + 1
        levels = tuple(self.parameters.levels - circuit.depth(value) for value in range(count))
        object.__setattr__(self, "levels", levels)
        scales = [self.scale]
        for value, step in enumerate(circuit.steps, 1):
            prime = self.prime(levels[value])
            if isinstance(step, Square):
                scales.append(scales[step.source] ** 2 / prime)
            else:
                scales.append(
                    scales[step.left] * scales[step.right] / prime if isinstance(step, Inner) else self.scale
                )
        object.__setattr__(self, "scales", tuple(scales))

    def lowest(self, value: int) -> int:
        """The lowest level that still holds a value, so that an answer is as small as it can be."""
        needed = math.log2(max(self.circuit.largest()[value], 1.0) * self.scales[value]) + _ROOM
        held = np.cumsum([math.log2(prime) for prime in self.primes])[self.parameters.base - 1 :]
        return min(int(np.argmax(held >= needed)), self.levels[value])

    def prime(self, level: int) -> int:
        """The prime that a rescaling to this level divides by."""
        return self.primes[self.parameters.base + level]


def parameters_for(circuit: Circuit, precision: str = "standard") -> Parameters:
    """The smallest parameters that hold a circuit.

    Errors: UsageError for a precision that is none, or a circuit that no ring degree holds at 128 bits of security.
    """
    if precision not in PRECISION:
        raise UsageError(f"precision is one of {', '.join(PRECISION)}")
    bits = PRECISION[precision]
    depth = max(circuit.depth(value) for value in range(len(circuit.steps) + 1))
    base = bits
    for value, most in enumerate(circuit.largest()):
        level = depth - circuit.depth(value)
        needed = math.ceil(math.log2(max(most, 1.0))) + _ROOM + bits - bits * level
        base = max(base, needed)
    return fitting((bits,) * depth, base)


def scale_of(parameters: Parameters) -> float:
    """The scale that fresh ciphertexts of these parameters have: that of their levels' primes."""
    bits = parameters.bits[parameters.base] if parameters.levels else parameters.bits[0]
    return 2.0**bits
