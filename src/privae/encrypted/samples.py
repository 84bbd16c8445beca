"""Many records: one ciphertext a feature, one slot a record. Affine maps are exact BLAS products of residues.

No rotation is needed, so no Galois key; only squares and inner products switch keys. A batch costs the same for one
record as for N / 2.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privae.ckks.backend import Backend, Value
from privae.encrypted.circuit import Affine, Circuit, Inner, Schedule, Square, sources

Array = NDArray[np.float64]
_PRODUCT = 1.5e-3  # of a weight with a ciphertext's residues, in key switches
_RESCALING = 0.2

Layer = list[Value]
"""The ciphertexts of one value, one a feature, of one level and scale."""


def run(backend: Backend, schedule: Schedule, inputs: Layer, wanted: Sequence[str]) -> dict[str, Layer]:
    """Outputs of encrypted records. backend: `ckks.scheme.Evaluation`, or `ckks.clear.Clear` for its twin."""
    circuit, values = schedule.circuit, [inputs]
    needed = _needed(circuit, wanted)
    for value, step in enumerate(circuit.steps, 1):
        if value not in needed:
            values.append([])
        elif isinstance(step, Affine):
            values.append(_affine(backend, schedule, values, value))
        elif isinstance(step, Square):
            squares = [backend.square(v) for v in values[step.source]]
            values.append(
                squares
                if _waits(circuit, value)
                else [_settled(backend, schedule, s, value) for s in squares]
            )
        else:
            values.append([_inner(backend, schedule, values, value)])
    return {name: values[circuit.outputs[name]] for name in wanted}


def _needed(circuit: Circuit, wanted: Sequence[str]) -> set[int]:
    """Which values the wanted outputs rest on."""
    open_, found = [circuit.outputs[name] for name in wanted], {0}
    while open_:
        value = open_.pop()
        if value in found:
            continue
        found.add(value)
        open_ += sources(circuit.steps[value - 1])
    return found


def _waits(circuit: Circuit, value: int) -> bool:
    """Whether squares are relinearized only after the one affine map that reads them: it has fewer outputs."""
    readers = circuit.consumers(value)
    if len(readers) != 1 or value in circuit.outputs.values():
        return False
    reader = readers[0]
    return isinstance(reader, Affine) and len(reader.bias) < circuit.width(value)


def _affine(backend: Backend, schedule: Schedule, values: Sequence[Layer], value: int) -> Layer:
    step, level = schedule.circuit.steps[value - 1], schedule.levels[value]
    assert isinstance(step, Affine)
    waiting = any(values[source][0].parts == 3 for source, _ in step.terms)
    top = level + (2 if waiting else 1)
    target = schedule.scales[value] * math.prod(schedule.prime(i) for i in range(level, top))
    layers = [[backend.lowered(v, top) for v in values[source]] for source, _ in step.terms]
    made = _combined(backend, layers, [matrix for _, matrix in step.terms], target, step.bias)
    return [_settled(backend, schedule, v, value) for v in made]


def _combined(
    backend: Backend, layers: Sequence[Layer], matrices: Sequence[Array], scale: float, bias: Array
) -> Layer:
    """Matrices [m, n] times layers, and a bias [m], at one scale: one product of all layers side by side."""
    weights = [
        np.rint(matrix * (scale / layer[0].scale)) for layer, matrix in zip(layers, matrices, strict=True)
    ]
    # the library computes on no ciphertext that is a constant: an output without weights gets the least one
    weights[0][~np.any(np.hstack(weights), 1), 0] = 1.0
    made: Layer = backend.combine([v for layer in layers for v in layer], np.hstack(weights), scale, bias)
    return made


def _settled(backend: Backend, schedule: Schedule, value: Value, index: int) -> Value:
    """In two parts, and rescaled to the level and scale that the schedule has for it."""
    if value.parts == 3:
        value = backend.relinearize(value)
    while value.level > schedule.levels[index]:
        value = backend.rescale(value, value.scale / schedule.prime(value.level - 1))
    return value


def _inner(backend: Backend, schedule: Schedule, values: Sequence[Layer], value: int) -> Value:
    step, top = schedule.circuit.steps[value - 1], schedule.levels[value] + 1
    assert isinstance(step, Inner)
    left = [backend.lowered(v, top) for v in values[step.left]]
    right = [backend.lowered(v, top) for v in values[step.right]]
    total = backend.multiply(left[0], right[0])
    for a, b in zip(left[1:], right[1:], strict=True):
        total = backend.add(total, backend.multiply(a, b))
    source, row = step.rest
    layer = [backend.lowered(v, top) for v in values[source]]
    rest = _combined(backend, [layer], [row[None]], total.scale, np.array([step.bias]))[0]
    return _settled(backend, schedule, backend.add(backend.relinearize(total), rest), value)


def cost(schedule: Schedule) -> float:
    """Work of a batch, in key switches of a fresh ciphertext: squares and products, and the products of residues."""
    circuit, total = schedule.circuit, 0.0
    for value, step in enumerate(circuit.steps, 1):
        share = _share(schedule, value)
        if isinstance(step, Affine):
            maps = sum(len(step.bias) * circuit.width(source) for source, _ in step.terms)
            total += maps * _PRODUCT * share + len(step.bias) * _RESCALING * share
        else:
            switched = 1 if isinstance(step, Inner) else circuit.width(step.source)
            total += switched * share**2
    return total


def _share(schedule: Schedule, value: int) -> float:
    """Primes that a step works on, as a share of those of a fresh ciphertext."""
    return (schedule.levels[value] + 1 + schedule.parameters.base) / len(schedule.primes)
