"""Secret coins: an AES-256-CTR keystream, and exactly rounded Gaussian integers drawn from it."""

import math
import os
import threading
from functools import cache
from typing import ClassVar, NoReturn

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from jaxtyping import Bool, Float64, Int64
from mpmath.ctx_iv import MPIntervalContext
from mpmath.ctx_mp import MPContext
from numpy.typing import NDArray
from torch import Tensor

from privae.errors import PrivacyRefused, ResourceError, UsageError

_BLOCK = 2**14  # pairs drawn at a time, so that the temporaries stay in the cache
_DIGIT = 63  # bits of a word that are used: int64 -> float64 is one machine instruction, uint64 is not
_MAX_WORDS = 2**41  # two words an AES block


class NoiseSource:
    """A stream of secret coins under one fresh 256-bit key.

    The key comes from the operating system unless a test passes one; `fixed` tells which. It is never stored
    on the object, printed, pickled or copied. The counter starts at 0 and only moves on, so no part of the
    keystream is used twice; a forked child, which would repeat its parent's coins, is refused.

    Guarantee: integers are distributed as an ideal Gaussian rounded half up, up to a total variation of
        TV_PER_NUMBER each (see `gaussian_integers`), if the keystream is uniform. Assumed, not proved: that
        AES-256 is a pseudorandom permutation. Its counter mode then differs from uniform by at most
        b^2 / 2^129 over b blocks; the source refuses to go beyond 2^40 blocks (16 TiB), that is 2^-49.
        How long a draw takes is not protected.
    Errors: UsageError for a key that is not 32 bytes; PrivacyRefused in a forked process and on any attempt
        to copy or pickle; ResourceError when the keystream of one key is used up.

    >>> NoiseSource(bytes(32))
    NoiseSource(fixed=True, numbers_drawn=0)
    """

    TV_PER_NUMBER: ClassVar[float] = 2.0**-100

    def __init__(self, key: bytes | None = None) -> None:
        if key is not None and len(key) != 32:
            raise UsageError("the key of a NoiseSource is 32 bytes; leave it out to draw a secret one")
        self.fixed = key is not None
        self.numbers_drawn = 0
        self._stream = Cipher(AES256(os.urandom(32) if key is None else key), CTR(bytes(16))).encryptor()
        self._words_drawn = 0
        self._process = os.getpid()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"NoiseSource(fixed={self.fixed}, numbers_drawn={self.numbers_drawn})"

    def __reduce__(self) -> NoReturn:
        # privacy: a copy would draw the same coins again.
        raise PrivacyRefused("a NoiseSource is never copied or written to disk; make a new one instead")

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` words of the keystream, [count]."""
        if os.getpid() != self._process:
            # privacy: parent and child hold the same key and counter.
            raise PrivacyRefused("a NoiseSource does not survive a fork; make one inside each process")
        with self._lock:
            if self._words_drawn + count > _MAX_WORDS:
                raise ResourceError("the keystream of this NoiseSource is used up; make a new one")
            self._words_drawn += count
            return np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Odd multiples of 2^-53 inside (0, 1), equally likely, [count]. Never to make noise from."""
        return ((self.words(count) >> 12).astype(np.float64) + 0.5) * 2.0**-52

    def bernoulli(self, count: int, rate: float) -> NDArray[np.bool_]:
        """Independent coins, each true with probability floor(rate 2^64) / 2^64, [count].

        Guarantee: the probability is never above `rate`, and the comparison is exact, so Poisson sampling
        includes a unit no more often than was charged (amplification is monotone in the rate).
        Edges: rate 0 -> all false; rate 1 -> all true.
        Errors: UsageError for a rate outside [0, 1].
        """
        if not 0 <= rate <= 1:
            raise UsageError("a sampling rate lies between 0 and 1")
        words = self.words(count)
        if rate == 1:
            return np.ones(count, dtype=np.bool_)
        return words < np.uint64(int(rate * 2.0**64))

    def gaussian_integers(self, count: int, std: float) -> NDArray[np.int64]:
        """Independent draws of floor(Y + 1/2) with Y ~ N(0, std^2), [count].

        Guarantee: exact. A pair of ideal normals is y = std sqrt(-2 ln U) (cos, sin)(2 pi V) with U, V
            uniform on the real interval (0, 1), whose binary digits are keystream bits, drawn only as far as
            they are needed. Float64 gives a candidate and a window that contains y whatever the digits not
            yet drawn (proof at `_candidates`). If no half-integer lies in the window, every continuation of
            the digits rounds to the candidate. Otherwise digits are added until an outward-rounded interval
            of the *same* y holds no half-integer, which ends with probability 1. So the result is a function
            of the ideal pair alone: there is no tail cut, no gap and no floating-point law to account for.
            TV_PER_NUMBER pays for |Y| > 40 std, which need not fit in 64 bits (less than e^-799).
        Edges: std 0 -> zeros; the exact path takes about 0.2 ms a pair, and is taken for a share of about
            std 2^-43 of the numbers, so a std above 2^36 is slow, not wrong.
        Errors: UsageError for a negative or non-finite std, or one with 40 std >= 2^62.
        Source: lazy digits: Karney 2013, arXiv:1303.6257.

        >>> NoiseSource(bytes(32)).gaussian_integers(5, 3.0)
        array([-3, -3, -2,  1, -1])
        """
        if not 0 <= std * 40 < 2.0**62:
            raise UsageError("a noise std lies between 0 and 2^56 grid steps; choose a coarser grid")
        if std == 0:
            return np.zeros(count, dtype=np.int64)
        with self._lock:
            self.numbers_drawn += count
        pairs = (count + 1) // 2
        blocks = [self._block(min(_BLOCK, pairs - start), std) for start in range(0, pairs, _BLOCK)]
        return np.concatenate([np.empty(0, np.int64), *blocks])[:count]

    def _block(self, pairs: int, std: float) -> NDArray[np.int64]:
        digits = (self.words(3 * pairs) >> 1).view(np.int64).reshape(3, pairs)
        candidates, decided = _candidates(torch.from_numpy(digits), std)
        values = candidates.numpy()
        for pair in np.flatnonzero(~decided.all(dim=0).numpy()):
            first, second, angle = (int(digit) for digit in digits[:, pair])
            values[:, pair] = self._resolved(first << _DIGIT | second, angle, std)
        return values.ravel()

    def _resolved(self, uniform: int, angle: int, std: float) -> tuple[int, int]:
        """Both integers of a pair, from as many further digits of its uniform and angle as it takes."""
        length, pair = 1, None
        while pair is None:
            more = self.words(2) >> 1
            uniform, angle = uniform << _DIGIT | int(more[0]), angle << _DIGIT | int(more[1])
            length += 1
            pair = _rounded(uniform, angle, length, std)
        return pair


def _candidates(digits: Int64[Tensor, "3 n"], std: float) -> tuple[Int64[Tensor, "2 n"], Bool[Tensor, "2 n"]]:
    """Rounded pairs, and whether they are already certain.

    Proof of the window, with v = 2^-53. Assumed of the library: sqrt, log, cos and sin err by at most 16
    units in the last place of their result (glibc, SLEEF, SVML and MKL document 4 or less; a test measures).
    U lies in [k, k + 1) 2^-126 with k >= 2^63. Its float64 form errs by 2.02 v relatively: two conversions
    and a sum, both parts rounded relatively, so that small U keep their exponent, and the digits not drawn,
    2^-63. Hence -2 ln U moves by at most 4.1 v, and |a - b| <= |a^2 - b^2| / b makes that 4.1 v / r in the
    radius r. Relative to r: log 32 v, sqrt 32 v. Relative to 1, times r: cos or sin 32 v, its angle 20 v
    (2 pi times three roundings, and 2 pi 2^-63 for the digits not drawn), two products 2 v. Together below
    119 v r + 4.1 v / r; the window takes 128 v r + 8 v / r, and 2^-50 for the distance itself. A pair with
    k < 2^63 is never certain, nor is anything that overflowed: every comparison with nan or with an infinite
    window is false.
    """
    first, second, angle = digits.to(torch.float64)
    uniform = first * 2.0**-63 + second * 2.0**-126
    radius = uniform.log().mul(2).abs().sqrt()  # abs, for -2 ln 1 is -0.0, whose reciprocal is -inf
    angle = angle * (2 * math.pi * 2.0**-63)
    ideal = std * radius * torch.stack([angle.cos(), angle.sin()])
    low, fraction = _split(ideal)
    window = std * (radius * 2.0**-46 + 2.0**-50 / radius) + 2.0**-50
    decided = ((fraction - 0.5).abs() > window) & (first > 0)
    return (low + (fraction >= 0.5)).to(torch.int64), decided


def _split(values: Float64[Tensor, "2 n"]) -> tuple[Float64[Tensor, "2 n"], Float64[Tensor, "2 n"]]:
    low = values.floor()
    return low, values - low


def _rounded(uniform: int, angle: int, length: int, std: float) -> tuple[int, int] | None:
    """Rounded pair for U in [uniform, uniform + 1] 2^-63(length+1), V in [angle, angle + 1] 2^-63 length.

    None when the interval of either number still holds a half-integer.
    """
    if uniform == 0:
        return None
    intervals, points = _arithmetic(length)
    u = intervals.mpf([uniform, uniform + 1]) / 2 ** (_DIGIT * (length + 1))
    turn = intervals.mpf([angle, angle + 1]) / 2 ** (_DIGIT * length)
    radius = intervals.mpf(std) * intervals.sqrt(-2 * intervals.log(u))
    theta = 2 * intervals.pi * turn
    pair = []
    for wave in (intervals.cos(theta), intervals.sin(theta)):
        shifted = radius * wave + intervals.mpf(0.5)
        low, high = (int(points.floor(points.mpf(end))) for end in (shifted.a, shifted.b))
        if low != high:
            return None
        pair.append(low)
    return pair[0], pair[1]


@cache
def _arithmetic(length: int) -> tuple[MPIntervalContext, MPContext]:
    """Outward-rounded interval arithmetic that resolves `length` digits, and a context to read its ends."""
    intervals, points = MPIntervalContext(), MPContext()
    intervals.prec = _DIGIT * length + 192
    points.prec = 2 * intervals.prec
    return intervals, points
