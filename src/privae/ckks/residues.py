"""Exact arithmetic on the residues of ciphertexts: products with plain matrices by float64 BLAS, sums, and checks.

A CKKS ciphertext is polynomials modulo a few primes, and a sum of plain integers times ciphertexts is the same sum of
their residues, prime by prime, in any form that is linear. So a plain matrix times a layer of ciphertexts is a matrix
product of residues. Residues are cut into limbs so short that every float64 product is an exact integer.
Source: Bae, Cheon, Hanrot, Park, Stehle 2025, arXiv:2503.16080.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Residues = NDArray[np.uint64]
Array = NDArray[np.float64]

_EXACT = 53  # bits of the integers that float64 holds
_COLUMNS = 1024  # residues of every ciphertext that are multiplied at a time; they stay in the cache
_LIFT = np.uint64(
    0x4330000000000000
)  # the bits of 2^52: put before an integer below 2^52, they make it a float64


def product(
    parts: Sequence[Residues], weights: Array, primes: Sequence[int], added: Sequence[int] = ()
) -> Residues:
    """Integer combinations of ciphertexts: weights [m, n] of n residues [parts, primes, N] -> [m, parts, primes, N].

    weights: integers, in float64. primes: below 2^50. added: an integer for each output, added to all of its slots: a
    constant polynomial has equal residues everywhere.
    Errors: OverflowError for weights so large that not even limbs of one bit would be exact.
    """
    count, levels, degree = parts[0].shape
    span = min(_COLUMNS, degree)
    out = np.empty((len(weights), count, levels, degree), np.uint64)
    whole, digits = (np.empty((len(parts), span), np.uint64) for _ in range(2))
    total, next_, spare = (np.empty((len(weights), span)) for _ in range(3))
    for level, prime in enumerate(primes):
        limbs, width = limbs_of(weights, prime)
        for part in range(count):
            for start in range(0, degree, span):
                for row, residues in zip(whole, parts, strict=True):
                    row[:] = residues[part, level, start : start + span]
                for limb in reversed(range(limbs)):
                    np.matmul(weights, _digit(whole, digits, limb * width, width), out=next_)
                    if limb < limbs - 1:
                        _lift(total, spare, prime, width)
                        next_ += total
                    total, next_ = next_, total
                _near(total, spare, prime)
                out[:, part, level, start : start + span] = _within(total.astype(np.int64), prime)
        if added:
            constants = np.array([number % prime for number in added], np.uint64)
            out[:, 0, level] = plus(out[:, 0, level], constants[:, None], prime)
    return out


def limbs_of(weights: Array, prime: int) -> tuple[int, int]:
    """How many limbs a residue is cut into, and of how many bits, so that all sums stay exact."""
    largest = float(np.abs(weights).sum(1).max(initial=0.0))
    room = _EXACT - 1 - max(1, math.ceil(math.log2(largest + 1)))
    if room < 1:
        raise OverflowError("weights too large for exact products")
    limbs = -(-prime.bit_length() // room)
    return limbs, -(-prime.bit_length() // limbs)


def _digit(whole: Residues, digits: Residues, low: int, width: int) -> Array:
    """Bits low to low + width of integers, as float64, without a slow conversion."""
    np.right_shift(whole, np.uint64(low), out=digits)
    digits &= np.uint64((1 << width) - 1)
    digits |= _LIFT
    found = digits.view(np.float64)
    found -= 2.0**52
    return found


def _near(values: Array, spare: Array, prime: int) -> None:
    """Integers below 2^53 in magnitude become congruent ones in [-prime, 2 prime)."""
    np.multiply(values, 1.0 / prime, out=spare)
    np.floor(spare, out=spare)
    spare *= prime
    values -= spare


def _lift(values: Array, spare: Array, prime: int, width: int) -> None:
    """Integers become congruent to themselves times 2^width, below 2^52 in magnitude: few bits at a time."""
    _near(values, spare, prime)
    step = _EXACT - 2 - prime.bit_length()
    while width > 0:
        moved = min(step, width)
        values *= 2.0**moved
        width -= moved
        if width > 0 or moved == step:
            _near(values, spare, prime)


def _within(values: NDArray[np.int64], prime: int) -> NDArray[np.int64]:
    """Integers off by at most one prime, brought into [0, prime)."""
    values += np.where(values < 0, prime, 0)
    values -= np.where(values >= prime, prime, 0)
    return values


def multiplied(left: Residues, right: Residues, prime: int) -> Residues:
    """Products of residues modulo a prime below 2^50, number by number.

    The quotient in float64 is right up to one, and what wraps around in 64 bits wraps back.
    """
    quotient = (left.astype(np.float64) * right.astype(np.float64) / prime).astype(np.uint64)
    rest = (left * right - quotient * np.uint64(prime)).view(np.int64)
    return _within(rest, prime).view(np.uint64)


def plus(left: Residues, right: Residues, prime: int) -> Residues:
    """Sums of residues modulo a prime."""
    return _within((left + right).view(np.int64), prime).view(np.uint64)


def minus(left: Residues, right: Residues, prime: int) -> Residues:
    """Differences of residues modulo a prime."""
    return _within((left - right).view(np.int64), prime).view(np.uint64)


def bytes_of(prime: int) -> int:
    """Bytes that a residue is written in."""
    return -(-prime.bit_length() // 8)


def written(residues: Residues, primes: Sequence[int]) -> bytes:
    """Residues [parts, primes, N] in as few whole bytes as their primes need, prime by prime."""
    raw = np.ascontiguousarray(residues, dtype="<u8").view(np.uint8).reshape(*residues.shape, 8)
    return b"".join(raw[:, i, :, : bytes_of(prime)].tobytes() for i, prime in enumerate(primes))


def written_size(parts: int, degree: int, primes: Sequence[int]) -> int:
    """Bytes of what `written` gives."""
    return parts * degree * sum(map(bytes_of, primes))


def read(content: bytes, parts: int, degree: int, primes: Sequence[int]) -> Residues:
    """Inverse of `written`. Errors: ValueError for another size, or numbers that are no residues."""
    if len(content) != written_size(parts, degree, primes):
        raise ValueError("ciphertext of another size")
    out, start = np.zeros((parts, len(primes), degree), np.uint64), 0
    for i, prime in enumerate(primes):
        size = bytes_of(prime)
        end = start + parts * degree * size
        raw = np.frombuffer(content, np.uint8, end - start, start).reshape(parts, degree, size)
        out[:, i].view(np.uint8).reshape(parts, degree, 8)[:, :, :size] = raw
        if (out[:, i] >= prime).any():
            raise ValueError("ciphertext holds numbers that are no residues")
        start = end
    return out
