"""Public parameters of CKKS, and the proof that they are worth 128 bits.

Source of the limits: Albrecht et al. 2018, Homomorphic Encryption Standard, https://eprint.iacr.org/2019/939, table 1
(ternary secrets, classical attacks).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privae.errors import ArtifactError, UsageError
from privae.files import digest

LIMITS = {4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""The most bits that all primes may have together, for each ring degree, at 128 bits of security."""

LARGEST = 50
"""Bits of a prime that exact float64 arithmetic on residues allows."""
_SPECIAL = 60  # the key-switching prime is never touched by our own arithmetic
_SMALLEST = 20


@dataclass(frozen=True)
class Parameters:
    """The ring degree and the bits of its primes: base primes first, then one a level, the key-switching one last.

    degree: N; a ciphertext holds N / 2 numbers. base: primes that no level takes away.
    Errors: UsageError for anything below 128 bits of security, or that the kernels cannot compute exactly.

    >>> Parameters(8192, (40, 30, 30, 30, 40)).levels
    3
    """

    degree: int
    bits: tuple[int, ...]
    base: int = 1

    def __post_init__(self) -> None:
        if self.degree not in LIMITS:
            raise UsageError(f"a ring degree is one of {', '.join(map(str, LIMITS))}")
        if not 1 <= self.base < len(self.bits):
            raise UsageError("parameters need a base prime, and one for switching keys")
        if not all(_SMALLEST <= bits <= LARGEST for bits in self.bits[:-1]):
            raise UsageError(f"primes have {_SMALLEST} to {LARGEST} bits, so that float64 products are exact")
        if not max(self.bits[:-1]) <= self.bits[-1] <= _SPECIAL:
            raise UsageError(f"the key-switching prime is the largest, and has at most {_SPECIAL} bits")
        if self.total > LIMITS[self.degree]:
            raise UsageError(
                f"primes of {self.total} bits are worth less than 128 bits of security at degree {self.degree}, "
                f"which allows {LIMITS[self.degree]}"
            )

    @property
    def slots(self) -> int:
        """Numbers in a ciphertext."""
        return self.degree // 2

    @property
    def levels(self) -> int:
        """Products that can follow one another."""
        return len(self.bits) - 1 - self.base

    @property
    def total(self) -> int:
        """Bits of all primes together; the smaller, the more secure."""
        return sum(self.bits)

    @property
    def digest(self) -> str:
        """A name for these parameters."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the inverse of `from_dict`."""
        return {"degree": self.degree, "bits": list(self.bits), "base": self.base}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Parameters":
        """Parameters as a file or a peer states them. Errors: ArtifactError for ones that are none, or weak."""
        try:
            degree, bits, base = int(stored["degree"]), tuple(map(int, stored["bits"])), int(stored["base"])
            return cls(degree, bits, base)
        except UsageError as error:
            raise ArtifactError(f"encryption parameters refused: {error}") from None
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ArtifactError("encryption parameters do not read; ask for the file again") from None


def fitting(levels: tuple[int, ...], base: int) -> Parameters:
    """The smallest parameters with these bits a level (last dropped first) and at least `base` bits below them.

    Errors: UsageError where no ring degree holds them at 128 bits of security.
    """
    count = -(-base // LARGEST)
    below = (max(-(-base // count), _SMALLEST),) * count
    largest = max(*levels, *below) if levels else below[0]
    for degree, limit in LIMITS.items():
        room = limit - sum(levels) - sum(below)
        if room >= largest:
            return Parameters(degree, (*below, *levels, min(_SPECIAL, largest + 10, room)), count)
    raise UsageError(
        f"{len(levels)} levels of {sum(levels)} bits over a base of {sum(below)} need more than degree {degree} allows "
        "at 128 bits of security: ask for fewer outputs, less precision, or fit a network of fewer layers"
    )
