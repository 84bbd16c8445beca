"""Loops over single numbers that numba compiles: one pass where arrays would take twenty. Extra `fast`."""

import math

import numba
import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int64]
Numbers = NDArray[np.float64]
Floats = NDArray[np.float32] | Numbers

_PART = 512  # pairs at a time: their temporaries stay in the first cache
_FRACTION, _ONE, _ROOT_TWO = 0x000F_FFFF_FFFF_FFFF, 1023, 0x0006_A09E_667F_3BCD  # of a float64; of sqrt 2
_LN_2, _TURN = math.log(2.0), math.pi * 2.0**-63

# contract: two operations may become one with one rounding, the only liberty that the proofs leave
_loop = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})


@_loop
def _tangent(z: float) -> float:
    """The series artanh(s) / s in z = s^2 <= 0.0295, to a relative 2^-55."""
    high = ((((z * (1 / 19) + 1 / 17) * z + 1 / 15) * z + 1 / 13) * z + 1 / 11) * z + 1 / 9
    return (((high * z + 1 / 7) * z + 1 / 5) * z + 1 / 3) * z + 1.0


@_loop
def _sine(x: float, z: float) -> float:
    """The series of sin x, z = x^2, |x| <= pi / 4, to 2^-54."""
    high = ((z * (-1 / 1307674368000.0) + 1 / 6227020800.0) * z - 1 / 39916800.0) * z + 1 / 362880.0
    return x + x * z * (((high * z - 1 / 5040.0) * z + 1 / 120.0) * z - 1 / 6.0)


@_loop
def _cosine(z: float) -> float:
    """The series of cos x, z = x^2, |x| <= pi / 4, to 2^-58."""
    high = ((z * (1 / 20922789888000.0) - 1 / 87178291200.0) * z + 1 / 479001600.0) * z - 1 / 3628800.0
    return ((((high * z + 1 / 40320.0) * z - 1 / 720.0) * z + 1 / 24.0) * z - 0.5) * z + 1.0


@_loop
def _radii(uniform: Words, std: float, radius: Numbers) -> None:
    """Std sqrt(-2 ln |uniform| 2^-63)."""
    size = np.empty(_PART)
    bits, scale = size.view(np.int64), -2.0 * std * std
    for start in range(0, len(uniform), _PART):
        words, out = uniform[start : start + _PART], radius[start : start + _PART]
        for i in range(len(words)):
            size[i] = abs(np.float64(words[i]))
        for i in range(len(words)):
            fraction = bits[i] & _FRACTION
            above = 1 if fraction > _ROOT_TWO else 0
            out[i] = np.float64((bits[i] >> 52) + above - (_ONE + 63))
            bits[i] = fraction | ((_ONE - above) << 52)
        for i in range(len(words)):
            s = (size[i] - 1.0) / (size[i] + 1.0)
            out[i] = math.sqrt(scale * (out[i] * _LN_2 + 2.0 * s * _tangent(s * s)))


@_loop
def candidates(  # noqa: PLR0913  two inputs, three outputs, and the window
    uniform: Words,
    turn: Words,
    std: float,
    window: tuple[float, float, float],
    radius: Numbers,
    distance: Numbers,
    rounded: Numbers,
) -> int:
    """`pairs.candidates` in one pass, [n] to [2, n]; returns how many pairs the window does not cover.

    window: largest distance to the rounded number, smallest and largest radius.
    Proof that each error is below what is assumed of torch there, with v = 2^-53. Logarithm 32 v, relatively: |k| is
    2^e m with m in [sqrt 1/2, sqrt 2], and ln m = 2 artanh s, s = (m - 1) / (m + 1), of error 2 v, since m - 1 is
    exact; the series adds 1.5 v, its products 2 v, so 5.5 v |ln m|. e ln 2 errs by 2 v of itself, the sum by v.
    Where e is not 0, |ln m| <= |ln u| and |e| ln 2 <= 2 |ln u|: together 10.5 v. Waves 32 v, of 1: the turn less
    the nearest multiple q of a quarter is its low 62 bits with their sign, at most pi / 4; the series err by less
    than 4 v. No integer operation overflows, which the compiler would be free to take for impossible.
    """
    _radii(uniform, std, radius)
    near, low, high = window
    uncertain = 0
    for i in range(len(uniform)):
        quarter = ((turn[i] >> 61) + 1) >> 1
        x = np.float64((turn[i] << 2) >> 2) * _TURN
        sine, cosine = _sine(x, x * x), _cosine(x * x)
        first = radius[i] * (sine if quarter & 1 else cosine)
        second = radius[i] * (cosine if quarter & 1 else sine)
        first = -first if (quarter + 1) & 2 else first
        second = -second if quarter & 2 else second
        rounded[0, i], rounded[1, i] = np.rint(first), np.rint(second)
        distance[0, i], distance[1, i] = first - rounded[0, i], second - rounded[1, i]
        off = max(abs(distance[0, i]), abs(distance[1, i]))
        uncertain += 0 if (off < near) & (radius[i] >= low) & (radius[i] <= high) else 1
    return uncertain


@_loop
def noisy(
    total: Floats,
    inverse: float,
    noise: Numbers,
    worth: float,
    limit: float,
    out: Floats,
) -> bool:
    """Out = (rint(total inverse) + noise) worth, whether or not out is total; True if all |.| stay below limit."""
    values, large = np.empty(_PART), 0
    for start in range(0, len(total), _PART):
        part, added, place = (
            total[start : start + _PART],
            noise[start : start + _PART],
            out[start : start + _PART],
        )
        for i in range(len(part)):
            steps = np.rint(np.float64(part[i]) * inverse)
            large += 0 if abs(steps) < limit else 1
            values[i] = (steps + added[i]) * worth
        for i in range(len(part)):
            place[i] = values[i]
    return large == 0
