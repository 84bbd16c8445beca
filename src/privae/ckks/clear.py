"""The clear twin of `scheme.Evaluation`: the same circuits on plain numbers, with levels, scales and predicted noise.

A value is held several times: once exact, and in a few draws of the noise that its ciphertext would have. The noise of
each operation is normal with the deviation that ring elements of the scheme have there, so a draw follows the whole
circuit, squares and correlations included, and no data and no key is needed to know how exact it will be.
Source of the deviations: Cheon, Kim, Kim, Song 2017, https://eprint.iacr.org/2016/421, section 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from privae.ckks.backend import check_alike, check_scale
from privae.ckks.parameters import Parameters

Array = NDArray[np.float64]

DRAWS = 12
DEVIATIONS = 10.0  # what a bound is, in deviations of the draws
_GAUSS = 3.2  # deviation of an encryption's error, in each coefficient
_SECRET = 2.0 / 3.0  # mean square of a ternary secret's coefficient


@dataclass(frozen=True)
class Twin:
    """Plain numbers in the place of a ciphertext: values [1 + draws, slots], the exact ones first."""

    values: Array
    level: int
    scale: float
    parts: int = 2

    @property
    def exact(self) -> Array:
        """The numbers without noise: [slots]."""
        numbers: Array = self.values[0]
        return numbers

    @property
    def error(self) -> Array:
        """A bound of the error of each number: ten deviations of its draws, the draws of all slots together."""
        off = self.values[1:] - self.values[0]
        least = DEVIATIONS * math.sqrt(float((off**2).mean()))
        bound: Array = np.maximum(DEVIATIONS * np.sqrt((off**2).mean(0)), least)
        return bound


@dataclass(frozen=True)
class Plain:
    """A plaintext: numbers [slots], the deviation of what encoding rounds, and its scale."""

    values: Array
    deviation: float
    factor: float


class Clear:
    """What `scheme.Evaluation` computes, on plain numbers; and what `scheme.Holder.encrypt` makes of numbers.

    primes: those of the ciphertexts; by default the powers of two that they are close to. slots: fewer than N / 2 where
    nothing rotates.
    """

    def __init__(
        self, parameters: Parameters, primes: Sequence[int] = (), slots: int | None = None, seed: int = 0
    ) -> None:
        self.parameters = parameters
        self.primes = tuple(primes) or tuple(2**bits for bits in parameters.bits[:-1])
        self.slots = slots or parameters.slots
        self._random = np.random.default_rng(seed)
        degree = parameters.degree
        root = math.sqrt(degree)  # a coefficient's deviation becomes a slot's
        self._coded = root * math.sqrt(1 / 12)
        self._fresh = root * _GAUSS + self._coded
        self._rescaled = root * math.sqrt((1 + _SECRET * degree) / 12)
        # the library's digits are not centered: their mean, half a prime in each coefficient, weighs on slots whose
        # root is near one
        ratio = max(self.primes) / 2.0 ** parameters.bits[-1] * math.sqrt(len(self.primes))
        digits = np.hypot(math.sqrt(degree / 12), 1 / _from_one(degree)[: self.slots])
        self._switched = root * _GAUSS * ratio * digits + self._rescaled

    def least_noise(self, scale: float) -> float:
        """The deviation of the noise that any ciphertext of this scale has at least, however it came to be."""
        return min(self._fresh, self._rescaled) / scale

    def encrypt(self, values: Array, scale: float) -> Twin:
        """A fresh value, zeros beyond the numbers given."""
        wide = np.zeros((1 + DRAWS, self.slots))
        wide[:, : len(values)] = values
        return self._noisy(Twin(wide, self.parameters.levels, scale), self._fresh / scale)

    def add(self, left: Twin, right: Twin) -> Twin:
        """Sum of two values of the same level and scale."""
        check_alike(left, right)
        return replace(left, values=left.values + right.values, parts=max(left.parts, right.parts))

    def multiply(self, left: Twin, right: Twin) -> Twin:
        """Product of two values of the same level."""
        assert left.level == right.level, "levels differ"
        return Twin(left.values * right.values, left.level, left.scale * right.scale, 3)

    def square(self, value: Twin) -> Twin:
        """Square of a value."""
        return self.multiply(value, value)

    def relinearize(self, value: Twin) -> Twin:
        """The same numbers in two parts."""
        return self._noisy(replace(value, parts=2), self._switched / value.scale)

    def rescale(self, value: Twin, scale: float) -> Twin:
        """Divide by the last prime."""
        assert value.parts == 2, "rescaled before relinearized: rounding would meet the secret's square"
        assert value.level > 0, "no level is left"
        check_scale(value.scale / self.primes[self.parameters.base + value.level - 1], scale)
        return self._noisy(replace(value, level=value.level - 1, scale=scale), self._rescaled / scale)

    def lowered(self, value: Twin, level: int) -> Twin:
        """The same numbers at a lower level."""
        assert 0 <= level <= value.level, "levels only go down"
        return replace(value, level=level)

    def rotate(self, value: Twin, steps: int) -> Twin:
        """Slot i gets what slot i + steps had."""
        if steps == 0:
            return value
        moved = replace(value, values=np.roll(value.values, -steps, 1))
        return self._noisy(moved, self._switched / value.scale)

    def encode(self, values: Array, scale: float, level: int) -> Plain:  # noqa: ARG002  as `Evaluation.encode`
        """A plaintext for `times`."""
        return Plain(values, self._coded / scale, scale)

    def times(self, value: Twin, plain: Plain) -> Twin:
        """Product with a plaintext, slot by slot."""
        numbers = np.tile(plain.values, (len(value.values), 1))
        numbers[1:] += plain.deviation * self._random.standard_normal(numbers[1:].shape)
        return replace(value, values=value.values * numbers, scale=value.scale * plain.factor)

    def plus(self, value: Twin, numbers: Array) -> Twin:
        """Sum with plain numbers, slot by slot."""
        return self._noisy(replace(value, values=value.values + numbers), self._coded / value.scale)

    def combine(self, values: Sequence[Twin], weights: Array, scale: float, bias: Array) -> list[Twin]:
        """Integer combinations [m, n] of values of one level, plus a bias [m]; they then have the scale `scale`."""
        assert len({value.level for value in values}) == 1, "levels differ"
        ratio = weights * np.array([value.scale / scale for value in values])
        stacked = np.stack([value.values for value in values])
        found = np.tensordot(ratio, stacked, 1) + bias[:, None, None]
        parts = max(value.parts for value in values)
        return [Twin(numbers, values[0].level, scale, parts) for numbers in found]

    def _noisy(self, value: Twin, deviation: float | Array) -> Twin:
        """The value, each draw with noise of its own."""
        values = value.values.copy()
        values[1:] += deviation * self._random.standard_normal(values[1:].shape)
        return replace(value, values=values)


@lru_cache(maxsize=8)
def _from_one(degree: int) -> Array:
    """How far the root of unity that each slot is read at lies from one: [N / 2]. Slot j has the root to the 3^j."""
    powers = np.ones(degree // 2, np.int64)
    for j in range(1, len(powers)):
        powers[j] = powers[j - 1] * 3 % (2 * degree)
    found: Array = 2 * np.abs(np.sin(np.pi * powers / (2 * degree)))
    return found
