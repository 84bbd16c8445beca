"""Whole numbers in exactly as many bits as they need, one after another: how integers and their sums travel encrypted.

The bits of a number follow those of the one before, the least significant first. 64 numbers of w bits fill w words of
64 bits, so numbers are packed in 64 columns at a time, all groups of 64 at once.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from privae.ckks.exact import uniform
from privae.ckks.parameters import LARGEST, Parameters
from privae.ckks.residues import Residues
from privae.ckks.scheme import primes_of
from privae.errors import ProtocolError, UsageError

DEGREE, HALF = 4096, 2**31
ERROR = 21
"""The largest error of one ciphertext: 21 coins minus 21 coins."""
CHECKS = 3
"""Checks that a ciphertext carries, modulo the prime."""
_GROUP = 64


def packed_size(count: int, width: int) -> int:
    """Bytes of `count` numbers of `width` bits."""
    return -(-count * width // 8)


def packed(numbers: Residues, width: int) -> bytes:
    """Numbers below 2^width [n] in ceil(n width / 8) bytes; width: 1 to 64.

    >>> packed(np.array([1, 2, 3], np.uint64), 4).hex()
    '2103'
    """
    count = len(numbers)
    padded = np.zeros((-(-count // _GROUP), _GROUP), np.uint64)
    padded.reshape(-1)[:count] = numbers
    columns, words = np.ascontiguousarray(padded.T), np.zeros((width, len(padded)), np.uint64)
    for i, column in enumerate(columns):
        word, shift = divmod(i * width, 64)
        words[word] |= column << np.uint64(shift)
        if shift + width > 64:
            words[word + 1] |= column >> np.uint64(64 - shift)
    return np.ascontiguousarray(words.T, dtype="<u8").tobytes()[: packed_size(count, width)]


def unpacked(content: bytes, count: int, width: int) -> Residues:
    """Inverse of `packed`. Errors: ValueError for another number of bytes, or bits behind the last number."""
    if len(content) != packed_size(count, width):
        raise ValueError("packed numbers of another size")
    if count * width % 8 and content[-1] >> count * width % 8:
        raise ValueError("packed numbers go on behind the last one")
    groups = -(-count // _GROUP)
    whole = content.ljust(groups * width * 8, b"\0")
    words = np.ascontiguousarray(np.frombuffer(whole, "<u8").reshape(groups, width).T)
    columns, kept = np.empty((_GROUP, groups), np.uint64), np.uint64(2**width - 1)
    for i in range(_GROUP):
        word, shift = divmod(i * width, 64)
        np.right_shift(words[word], np.uint64(shift), out=columns[i])
        if shift + width > 64:
            columns[i] |= words[word + 1] << np.uint64(64 - shift)
        columns[i] &= kept
    return columns.T.reshape(-1)[:count]


@lru_cache(maxsize=8)
def parameters_for(parties: int) -> Parameters:
    """The fewest bits that hold the sum of so many parties' 32-bit integers, exactly and always.

    Errors: UsageError for more parties than the largest prime holds.

    >>> parameters_for(10).bits
    (45, 45)
    """
    # the largest sum times the factor, its noise, and as much below zero
    room = 2 * (factor_of(parties) * parties * HALF + ERROR * parties)
    for width in range(room.bit_length(), LARGEST + 1):
        found = Parameters(DEGREE, (width, width))
        if primes_of(found)[0] > room:
            return found
    raise UsageError(f"sums of {parties} sites do not fit ciphertexts; sum under masks, or in groups")


def factor_of(parties: int) -> int:
    """What integers are multiplied by: twice the largest noise of the sum, and one."""
    return 2 * ERROR * parties + 1


@dataclass(frozen=True)
class Form:
    """How `count` words of 4 or 8 bytes of so many parties travel."""

    parties: int
    count: int
    word: int

    @cached_property
    def parameters(self) -> Parameters:
        """Ring and prime."""
        return parameters_for(self.parties)

    @cached_property
    def prime(self) -> int:
        """The prime that residues are of."""
        return primes_of(self.parameters)[0]

    @property
    def numbers(self) -> int:
        """Coefficients in use: of halves of words, and of checks."""
        return self.count * self.word // 4 + CHECKS

    @property
    def blocks(self) -> int:
        """Polynomials."""
        return -(-self.numbers // DEGREE)

    def written(self, residues: Residues) -> bytes:
        """Residues as they travel."""
        return packed(residues, self.prime.bit_length())

    def read(self, body: bytes) -> Residues:
        """Inverse of `written`. Errors: ProtocolError for another size, or what are no residues."""
        try:
            found = unpacked(body, self.numbers, self.prime.bit_length())
        except ValueError:
            raise ProtocolError("a ciphertext is of another size than the sum") from None
        if (found >= self.prime).any():
            raise ProtocolError("a ciphertext holds numbers that are no residues")
        return found

    def random(self, seed: bytes) -> Residues:
        """The uniform half of ciphertexts, transformed, that follows from a seed: [blocks, N]."""
        return uniform(seed, self.prime, self.blocks * DEGREE).reshape(self.blocks, DEGREE)
