"""What circuits ask of ciphertexts, the whole door: `scheme.Evaluation` answers by SEAL, `clear.Clear` on numbers.

Another library (OpenFHE, for bootstrapping or threshold keys) serves once it answers these.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privae.ckks.parameters import Parameters

Array = NDArray[np.float64]
Value = Any
"""A ciphertext or its twin: `level` (products that may follow), `scale` and `parts` (2, or 3 after a product)."""
Plaintext = Any
"""What `encode` made."""


class Backend(Protocol):
    """Arithmetic on values of N / 2 slots. primes: base primes, then the primes of levels, dropped last first."""

    parameters: Parameters
    primes: tuple[int, ...]

    def add(self, left: Value, right: Value) -> Value:
        """Sum of two values of the same level and scale."""
        ...

    def multiply(self, left: Value, right: Value) -> Value:
        """Product of two values of the same level: three parts, the product of their scales."""
        ...

    def square(self, value: Value) -> Value:
        """Square of a value: three parts, the square of its scale."""
        ...

    def relinearize(self, value: Value) -> Value:
        """The same numbers in two parts."""
        ...

    def rescale(self, value: Value, scale: float) -> Value:
        """Divide by the last prime, which must make the scale `scale`; one level is gone."""
        ...

    def lowered(self, value: Value, level: int) -> Value:
        """The same numbers at a lower level."""
        ...

    def rotate(self, value: Value, steps: int) -> Value:
        """Slot i gets what slot i + steps had."""
        ...

    def encode(self, values: Array, scale: float, level: int) -> Plaintext:
        """A plaintext of N / 2 numbers, for `times`."""
        ...

    def times(self, value: Value, plain: Plaintext) -> Value:
        """Product with a plaintext, slot by slot; scales multiply."""
        ...

    def plus(self, value: Value, numbers: Array) -> Value:
        """Sum with plain numbers, slot by slot."""
        ...

    def combine(self, values: Sequence[Value], weights: Array, scale: float, bias: Array) -> list[Any]:
        """Integer combinations [m, n] of values of one level, plus a bias [m]; they then have the scale `scale`."""
        ...


def check_alike(left: Value, right: Value) -> None:
    """What may be added has one level and one scale."""
    assert left.level == right.level, "levels differ"
    check_scale(left.scale, right.scale)


def check_scale(found: float, wanted: float) -> None:
    """Scales are exact up to float64."""
    assert abs(found / wanted - 1) < 1e-9, "scales differ"
