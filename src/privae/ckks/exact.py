"""Integers as coefficients of ciphertexts: their sums and inner products are exact, and half of a fresh one is a seed.

A polynomial of N integers times a public factor is added to an encryption of zero. While the noise stays below half of
the factor, rounding gives back the very integers: what is decrypted is a function of the plaintexts alone, so that
decryptions may be shared (the attack of Li and Micciancio 2020, https://eprint.iacr.org/2020/1533, needs the noise).
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privae.ckks import residues as kernel
from privae.ckks.parameters import Parameters
from privae.ckks.residues import Residues
from privae.ckks.scheme import Ciphertext, Holder, Public, primes_of, transformed
from privae.errors import ArtifactError
from privae.privacy.noise import keystream

SEED = 32
"""Bytes of a seed."""


def encrypted(key: Holder | Public, integers: NDArray[np.int64], factor: int) -> Ciphertext:
    """A ciphertext whose coefficients are at most N integers times `factor`, which may be wider than 64 bits."""
    parameters, primes = key.parameters, key.primes
    wide = np.zeros(parameters.degree, np.int64)
    wide[: len(integers)] = integers
    factors = [np.array([factor % prime], np.uint64) for prime in primes]
    coefficients = np.stack(
        [
            kernel.multiplied((wide % prime).astype(np.uint64), share, prime)
            for share, prime in zip(factors, primes, strict=True)
        ]
    )
    message = transformed(parameters, coefficients[None], forward=True)[0]
    zero = key.zero().residues.copy()
    for i, prime in enumerate(primes):
        zero[0, i] = kernel.plus(zero[0, i], message[i], prime)
    return Ciphertext(parameters, float(factor), raw=zero)


def added(values: Sequence[Ciphertext]) -> Ciphertext:
    """The sum of ciphertexts of one form, exactly."""
    total = values[0].residues.copy()
    for value in values[1:]:
        for i, prime in enumerate(_primes(value)):
            total[:, i] = kernel.plus(total[:, i], value.residues[:, i], prime)
    return Ciphertext(values[0].parameters, values[0].scale, raw=total)


def phase(holder: Holder, value: Ciphertext) -> Residues:
    """What a ciphertext hides, noise included, in transformed residues: [primes, N]."""
    out: Residues = value.residues[0].copy()
    for i, prime in enumerate(_primes(value)):
        power = holder.residues[i]
        for part in value.residues[1:]:
            out[i] = kernel.plus(out[i], kernel.multiplied(part[i], power, prime), prime)
            power = kernel.multiplied(power, holder.residues[i], prime)
    return out


def decrypted(holder: Holder, value: Ciphertext) -> NDArray[np.int64]:
    """All coefficients over the factor, rounded: [N]. For one or several primes; the integers must fit 63 bits."""
    primes = _primes(value)
    coefficients = transformed(holder.parameters, phase(holder, value)[None], forward=False)[0]
    factor = round(value.scale)
    if len(primes) == 1:
        whole = coefficients[0].astype(np.int64)
        whole -= np.where(whole > primes[0] // 2, primes[0], 0)
        found: NDArray[np.int64] = (whole + factor // 2) // factor
        return found
    columns = coefficients.T.tolist()
    return np.array([_rounded(_centered(column, primes), factor) for column in columns], dtype=np.int64)


def _centered(remainders: Sequence[int], primes: Sequence[int]) -> int:
    """The integer of least magnitude with these remainders."""
    modulus, found = math.prod(primes), 0
    for remainder, prime in zip(remainders, primes, strict=True):
        rest = modulus // prime
        found += remainder * rest * pow(rest, -1, prime)
    found %= modulus
    return found - modulus if found > modulus // 2 else found


def _rounded(value: int, factor: int) -> int:
    return (value + factor // 2) // factor


def _primes(value: Ciphertext) -> tuple[int, ...]:
    return primes_of(value.parameters)[: value.residues.shape[1]]


def uniform(seed: bytes, prime: int, count: int) -> Residues:
    """`count` uniform residues that follow from a seed: words of a keystream, without those that are too large."""
    bits = prime.bit_length()
    wanted = count + 64 + math.ceil(1.1 * count * ((1 << bits) / prime - 1))
    while True:
        words = keystream(seed, prime, wanted) & np.uint64((1 << bits) - 1)
        found: Residues = words[words < prime][:count]
        if len(found) == count:
            return found
        wanted *= 2


@dataclass(frozen=True)
class Seeded:
    """A fresh ciphertext of a secret key in half the room: its first part [primes, N], and the seed of its second."""

    first: Residues
    seed: bytes
    scale: float

    @classmethod
    def of(cls, holder: Holder, value: Ciphertext) -> "Seeded":
        """A fresh ciphertext (c0, c1) with a second part a that follows from a new seed: (c0 + (c1 - a) s, a).

        Guarantee: it is distributed as a fresh encryption of the same numbers with the same error, for a uniform.
        """
        seed, first = secrets.token_bytes(SEED), value.residues[0].copy()
        if value.parts != 2:
            raise ArtifactError("only fresh ciphertexts are seeded")
        for i, prime in enumerate(_primes(value)):
            moved = kernel.minus(value.residues[1, i], uniform(seed, prime, first.shape[1]), prime)
            first[i] = kernel.plus(first[i], kernel.multiplied(moved, holder.residues[i], prime), prime)
        return cls(first, seed, value.scale)

    def expanded(self, parameters: Parameters) -> Ciphertext:
        """The whole ciphertext again."""
        primes = primes_of(parameters)[: len(self.first)]
        raw = np.empty((2, len(primes), parameters.degree), np.uint64)
        raw[0] = self.first
        for i, prime in enumerate(primes):
            raw[1, i] = uniform(self.seed, prime, parameters.degree)
        return Ciphertext(parameters, self.scale, raw=raw)
