"""What the roles of an encrypted fit agree on: how rows lie in ciphertexts, parameters for their sums, messages.

Columns as polynomials: with r rows, p left columns a and q right columns b (N = p q r),
    x(t) = sum of z_ia t^(i + a q r),    y(t) = sum of z_ib t^(b r - i)
have in their product, at t^((a q + b) r), the inner product of the columns a and b, for all p q pairs of them at once:
other pairs come near by less than r. What stands at other places is cross-correlations of rows, and is blinded.

Why sums are exact: integers are encrypted times a factor D, so that a sum of products S arrives as D^2 S + noise. A
fresh error has a deviation of at most e = 3.2 sqrt(1 + 4 N / 3) a coefficient, rows have norm at most R, so the noise
of sums over n rows in m products has at most D e R sqrt(2 n) + e^2 sqrt(N m), plus what switching keys adds. D is so
large that D^2 / 2 is above twelve deviations (a chance of 2^-100 a sum) and the flood that hides the noise, and
rounding gives the very integers, hence a function of the plaintexts alone: what is shared of a decryption tells
nothing of the key (Li and Micciancio 2020, https://eprint.iacr.org/2020/1533). That errors are independent and have
Gaussian tails is assumed, as everywhere in the literature.
Source of inner products as coefficients: Huang et al. 2022 (Cheetah), https://eprint.iacr.org/2022/207, section 3.
"""

import hashlib
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privae.ckks import exact
from privae.ckks import residues as kernel
from privae.ckks.parameters import Parameters
from privae.ckks.residues import Residues
from privae.ckks.scheme import primes_of
from privae.data.images import ImageSchema
from privae.errors import ArtifactError, UsageError
from privae.files import digest
from privae.plan import Plan
from privae.recipes import image
from privae.recipes.image import AXES, CLASSES, DECODER, Sizes
from privae.recipes.modality import ImageRecipe, recipe_of
from privae.recipes.phases import budget_of, check_plan
from privae.sums.moments import BOUND

Integers = NDArray[np.int64]

DEGREE = 16384
LIMB = 24
"""Bits of half a residue: float64 adds 32 products of two halves exactly."""
BITS = 2 * LIMB
"""Bits of a prime; a residue is written in six bytes."""
APART = 40
"""Bits: the key holder's view of a whole fit is within 2^-APART of one made of the sums alone."""
MOST_ROWS = 2**22
"""Rows of all clients together: sums of 64 bits hold no more."""
COUNT_FACTOR = 2**30
_LEAST_ROWS = 32
_ERROR = 3.2  # deviation of an encryption's error
_TAIL = 12.0  # deviations
_CODED = 47.9  # bits that a prime of 48 bits has at least
_PLAY = 24  # bits of noise that are left when primes are dropped, above what rounding adds
_HEAD = 64
_BLOCKS = 8  # whose products of halves float64 adds exactly, four of them each


@dataclass(frozen=True)
class Tiling:
    """How the columns of a phase lie in ciphertexts: k codes and a constant one, the left ones once a class.

    size: k. groups: classes. rows, left, right: r, p, q. Left column a is code a // groups of class a % groups.
    """

    size: int
    groups: int
    rows: int
    left: int
    right: int

    @property
    def lefts(self) -> int:
        """Ciphertexts of left columns in a block of rows."""
        return -(-(self.size + 1) * self.groups // self.left)

    @property
    def rights(self) -> int:
        """Ciphertexts of right columns in a block of rows."""
        return -(-(self.size + 1) // self.right)

    @cached_property
    def tiles(self) -> list[tuple[int, int]]:
        """Pairs of a left and a right ciphertext whose products are needed: codes j <= l."""
        firsts = [g * self.left // self.groups // self.right for g in range(self.lefts)]
        return [(g, h) for g, first in enumerate(firsts) for h in range(first, self.rights)]

    @property
    def numbers(self) -> int:
        """Coefficients that the key holder sees."""
        return len(self.tiles) * (DEGREE // self.rows)

    def blocks(self, capacity: int) -> int:
        """Blocks of rows that a client sends: a function of its capacity alone."""
        return -(-capacity // self.rows)

    def lefthand(self, rows: Integers, groups: Integers) -> Integers:
        """Left polynomials of at most r rows [n, k + 1] with groups [n] (-1: none of them): [lefts, N]."""
        masked = np.zeros((self.rows, rows.shape[1], self.groups), np.int64)
        masked[: len(rows)] = rows[:, :, None] * (groups[:, None, None] == np.arange(self.groups))
        columns = masked.reshape(self.rows, -1).T
        wide = np.zeros((self.lefts, self.left, self.right, self.rows), np.int64)
        padded = np.zeros((self.lefts * self.left, self.rows), np.int64)
        padded[: len(columns)] = columns
        wide[:, :, 0] = padded.reshape(self.lefts, self.left, self.rows)
        return wide.reshape(self.lefts, DEGREE)

    def righthand(self, rows: Integers) -> Integers:
        """Right polynomials of at most r rows [n, k + 1]: [rights, N]; t^N is -1."""
        padded = np.zeros((self.rights * self.right, self.rows), np.int64)
        padded[: rows.shape[1], : len(rows)] = rows.T
        wide = np.zeros((self.rights, DEGREE), np.int64)
        wide[:, : self.right * self.rows] = padded[:, ::-1].reshape(self.rights, -1)
        wide = np.roll(wide, 1 - self.rows, 1)
        wide[:, DEGREE + 1 - self.rows :] *= -1
        return wide

    def sums(self, seen: NDArray[np.int64]) -> Integers:
        """Statistics as `moments.sums` lays them out, [groups, p], of what the key holder sees, [tiles, N / r]."""
        where = np.full((self.lefts, self.rights), -1)
        where[tuple(np.array(self.tiles).T)] = np.arange(len(self.tiles))
        triangle, codes = np.triu_indices(self.size), np.arange(self.size + 1)
        # products of codes, then those with the constant: first moments, and the count
        row = np.concatenate([triangle[0], codes])
        column = np.concatenate([triangle[1], np.full(self.size + 1, self.size)])
        a = row * self.groups + np.arange(self.groups)[:, None]
        places = a % self.left * self.right + column % self.right
        found: Integers = seen[where[a // self.left, column // self.right], places]
        return found


def tiling(size: int, groups: int, capacities: Sequence[int]) -> Tiling:
    """The tiling with the fewest ciphertexts, sent and released."""

    def made(one: Tiling) -> int:
        return sum(map(one.blocks, capacities)) * (one.lefts + one.rights) + len(one.tiles)

    return min(_tilings(size, groups), key=made)


def _tilings(size: int, groups: int) -> Iterator[Tiling]:
    rows = DEGREE
    while rows >= _LEAST_ROWS:
        left = 1
        while left * rows <= DEGREE:
            yield Tiling(size, groups, rows, left, DEGREE // rows // left)
            left *= 2
        rows //= 2


def multiplied(left: Residues, right: Residues, primes: Sequence[int]) -> Residues:
    """Sum over blocks of products of ciphertexts: [blocks, 2, primes, N] twice -> [3, primes, N].

    Guarantee: exact. Residues are cut in halves, whose products are below 2^48, and float64 adds 32 of them.
    """
    out = np.zeros((3, *left.shape[2:]), np.uint64)
    for start in range(0, len(left), _BLOCKS):
        a, b = (_halves(side[start : start + _BLOCKS]) for side in (left, right))
        pairs = ((a[:, :1], b[:, :1]), (a, b[:, ::-1]), (a[:, 1:], b[:, 1:]))
        for part, (one, other) in enumerate(pairs):
            low = _inner(one[:, :, :1], other[:, :, :1])
            middle = _inner(one, other[:, :, ::-1])
            high = _inner(one[:, :, 1:], other[:, :, 1:])
            for i, prime in enumerate(primes):
                found = _joined((low[i], middle[i], high[i]), prime)
                out[part, i] = kernel.plus(out[part, i], found, prime)
    return out


def _halves(residues: Residues) -> NDArray[np.float64]:
    """[blocks, 2, primes, N] -> [blocks, 2, halves, primes, N], the low ones first."""
    wide = np.empty((*residues.shape[:2], 2, *residues.shape[2:]))
    wide[:, :, 0], wide[:, :, 1] = residues & np.uint64(2**LIMB - 1), residues >> np.uint64(LIMB)
    return wide


def _inner(left: NDArray[np.float64], right: NDArray[np.float64]) -> Residues:
    found: NDArray[np.float64] = np.einsum("bxlpn,bxlpn->pn", left, right)
    return found.astype(np.uint64)


def _joined(parts: tuple[Residues, Residues, Residues], prime: int) -> Residues:
    """Low + 2^24 middle + 2^48 high modulo a prime."""
    low, middle, high = (part % np.uint64(prime) for part in parts)
    step = np.array([2**LIMB], np.uint64)
    upper = kernel.plus(kernel.multiplied(high, step, prime), middle, prime)
    return kernel.plus(kernel.multiplied(upper, step, prime), low, prime)


def masks(primes: Sequence[int], step: int, magnitude: int) -> Residues:
    """Coefficients that hide what is no sum: uniform ones, and at multiples of `step` a flood: [primes, N].

    Guarantee: an integer at a multiple of the step is moved by a uniform one of at most this magnitude.
    """
    seed = secrets.token_bytes(exact.SEED)
    out = np.stack([exact.uniform(seed, prime, DEGREE) for prime in primes])
    drawn = [secrets.randbelow(2 * magnitude + 1) - magnitude for _ in range(DEGREE // step)]
    for row, prime in zip(out, primes, strict=True):
        row[::step] = [number % prime for number in drawn]
    return out


def deviation(factor: int, rows: int, products: int) -> float:
    """Bound of the deviation of the noise in a sum of products over so many rows in all, before primes are dropped."""
    fresh = _fresh()
    mixed = factor * fresh * math.sqrt(BOUND**2 + 1) * math.sqrt(2 * rows)
    switched = _ERROR * math.sqrt(DEGREE * 64 / 3) + math.sqrt(1 + DEGREE)  # of at most 64 primes
    return mixed + fresh**2 * math.sqrt(DEGREE * products) + switched


def _fresh() -> float:
    """Deviation of a fresh encryption's error, at most, in a coefficient."""
    return _ERROR * math.sqrt(1 + 4 * DEGREE / 3)


def flood(noise: float, numbers: int) -> int:
    """Magnitude of a uniform integer that hides noise of such a deviation in so many numbers: 2^-APART together."""
    return math.ceil(noise * numbers) << APART - 1


def fitting(rows: int, products: int, numbers: int) -> tuple[Parameters, int]:
    """Parameters, and the factor, so that sums over so many rows in so many products and numbers are exact."""
    bits = 1
    while 2 ** (2 * bits) < 2.02 * _reach(deviation(2**bits, rows, products), numbers):
        bits += 1
    dropped = max(int((math.log2(deviation(2**bits, rows, products)) - _PLAY) / BITS), 0)
    needed = 2 * bits - _CODED * dropped + math.log2(2 * rows * (BOUND**2 + 1) + 2)
    kept = math.ceil(needed / _CODED)
    return Parameters(DEGREE, (BITS,) * (kept + dropped + 1), kept), 2**bits


def _reach(noise: float, numbers: int) -> float:
    """The most that noise and flood may come to."""
    return flood(noise, numbers) + _TAIL * noise


@dataclass(frozen=True)
class Terms:
    """What all roles of a fit know beforehand; messages are bound to its hash.

    capacities: how many rows each client may have, at most: a public promise, for a client sends as many ciphertexts
    as its capacity says, whatever it has.
    Errors: UsageError for plans of other recipes, or that have gradients; for labels to be bought; for more rows than
    exact sums can hold.
    """

    plan: Plan
    schema: ImageSchema
    capacities: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.plan.recipe != "image" or self.schema.classes == "bought":
            raise UsageError("encrypted statistics are those of images with declared classes, or none")
        if self.plan.phase(DECODER) is not None:
            raise UsageError(
                "a residual decoder needs gradients, which are not encrypted; plan with fidelity=False"
            )
        if self.plan.schema_hash != self.schema.hash:
            raise UsageError("the plan was made for another schema; plan again")
        if not self.capacities or min(self.capacities) < 1 or self.rows > MOST_ROWS:
            raise UsageError(
                "every client has a capacity of at least one image, and all together of at most 2^22"
            )
        check_plan(self.plan, self.recipe.draft(budget_of(self.plan)))

    @property
    def rows(self) -> int:
        """Rows that all clients may have."""
        return sum(self.capacities)

    @property
    def recipe(self) -> ImageRecipe:
        """The recipe that the key holder runs."""
        found = recipe_of(self.schema, self.plan)
        assert isinstance(found, ImageRecipe)
        return found

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.schema.height * self.schema.width

    @property
    def sizes(self) -> Sizes:
        """Public sizes of the fit."""
        return image.sizes_for(self.plan.epsilon, self.pixels)

    @cached_property
    def tilings(self) -> dict[str, Tiling]:
        """How the columns of the two phases of products lie."""
        sizes, capacities = self.sizes, self.capacities
        return {
            AXES: tiling(sizes.basis, 1, capacities),
            CLASSES: tiling(sizes.latent, self.recipe.classes, capacities),
        }

    @cached_property
    def _fitted(self) -> tuple[Parameters, int]:
        return fitting(self.rows, self.products, self.numbers)

    @property
    def parameters(self) -> Parameters:
        """Of all ciphertexts. Levels are the primes that products lose before the key holder gets them."""
        return self._fitted[0]

    @property
    def factor(self) -> int:
        """What codes are multiplied by."""
        return self._fitted[1]

    @property
    def products(self) -> int:
        """Products in a sum, at most."""
        return max(sum(map(one.blocks, self.capacities)) for one in self.tilings.values())

    @property
    def numbers(self) -> int:
        """Coefficients of products that the key holder sees in all."""
        return sum(one.numbers for one in self.tilings.values())

    @cached_property
    def dropped(self) -> int:
        """Product of the primes that products lose."""
        return math.prod(primes_of(self.parameters)[self.parameters.base :])

    @cached_property
    def flood(self) -> int:
        """Magnitude of what the server adds to every sum, so that its noise tells nothing of rows.

        Errors: UsageError where sums with it would not be exact.
        """
        added = math.sqrt(1 + DEGREE) * self.parameters.levels + _fresh()  # by rounding, and with a zero
        noise = deviation(self.factor, self.rows, self.products) / self.dropped + added
        modulus = math.prod(primes_of(self.parameters)[: self.parameters.base])
        largest = self.rows * (BOUND**2 + 1) + 1
        exact = 2 * self.dropped * math.ceil(_reach(noise, self.numbers)) < self.factor**2
        if not exact or 2 * largest * self.factor**2 >= modulus * self.dropped:
            raise UsageError("sums of so many rows would not be exact at these parameters")
        return flood(noise, self.numbers)

    @cached_property
    def hash(self) -> str:
        """A name for these terms."""
        stated = {"capacities": list(self.capacities), "parameters": self.parameters.to_dict()}
        return digest({"plan": self.plan.hash, **stated})


@dataclass(frozen=True)
class Keys:
    """The key holder's public keys: to encrypt, and to switch keys after a product. Pin `identity` out of band."""

    encryption: bytes
    products: bytes

    @cached_property
    def identity(self) -> str:
        """A name for the key pair."""
        return hashlib.blake2b(self.encryption + self.products, digest_size=32).hexdigest()


def packed(terms: Terms, keys: Keys, label: str, residues: Residues) -> bytes:
    """Ciphertexts [parts, primes, N] as a message that is bound to terms, key and place, and noticed if damaged."""
    body = kernel.written(residues, primes_of(terms.parameters)[: residues.shape[1]])
    return _bound(terms, keys, label) + hashlib.blake2b(body, digest_size=32).digest() + body


def unpacked(terms: Terms, keys: Keys, label: str, message: bytes, shape: tuple[int, int]) -> Residues:
    """Inverse of `packed` for ciphertexts of so many parts and primes.

    Errors: ArtifactError for a message of other terms, of another key, of another place, or that is damaged.
    """
    if message[: _HEAD // 2] != _bound(terms, keys, label):
        raise ArtifactError("a message belongs to another fit, key or place; send the one that was asked for")
    body = message[_HEAD:]
    if hashlib.blake2b(body, digest_size=32).digest() != message[_HEAD // 2 : _HEAD]:
        raise ArtifactError("a message was damaged on its way; send it again")
    try:
        return kernel.read(body, shape[0], DEGREE, primes_of(terms.parameters)[: shape[1]])
    except ValueError:
        raise ArtifactError("a message holds no ciphertexts of this fit; encrypt again") from None


def _bound(terms: Terms, keys: Keys, label: str) -> bytes:
    return hashlib.blake2b(f"{terms.hash}/{keys.identity}/{label}".encode(), digest_size=32).digest()
