"""Pairs of ideal normal numbers, rounded to integers: in float64 with a proved window, else digit by digit."""

import importlib
import math
from functools import cache
from types import ModuleType

import numpy as np
import torch
from mpmath import libmp
from numpy.typing import NDArray

WORD = 64  # bits
SLACK = bytes(16)  # some versions of `update_into` want a longer buffer than they fill

_WORTH_COMPILING = 2**28  # numbers of one source: in arrays they take as long as the compiler
_UNIT = 2.0**-53  # the relative error of one float64 rounding
_LOW, _HIGH, _WINDOW = 2.0**-9, 5.5, 2048 * _UNIT  # radii for which one window serves; see `candidates`
# mpmath remembers its constants, but not safely among threads: with these known, nobody writes them again
libmp.mpf_pi(2**10), libmp.mpf_ln2(2**10)


class Desk:
    """Room for the digits and the temporaries of up to `most` pairs, of which the next `pairs` are at hand."""

    def __init__(self, most: int) -> None:
        self.raw = bytearray(16 * most) + SLACK
        self._radius, self._ideal = np.empty(most), np.empty(2 * most)
        self.lay_out(most)

    def lay_out(self, pairs: int) -> None:
        """Make room for this many pairs; what lay there is lost."""
        self.uniform, self.turn = np.frombuffer(self.raw, np.int64, 2 * pairs).reshape(2, pairs)
        self.radius, self.ideal = self._radius[:pairs], self._ideal[: 2 * pairs].reshape(2, pairs)


@cache
def _loops() -> ModuleType | None:
    """The module of compiled loops; None where numba is not installed, or does not give what arrays give."""
    try:
        found = importlib.import_module("privae.gaussian.loops")
        return found if _gives_the_same(found) else None
    except Exception:  # noqa: BLE001  whatever a compiler can fail with, arrays do the work
        return None


def _gives_the_same(loops: ModuleType) -> bool:
    """Whether compiled loops give the numbers of arrays for some words that are no secret."""
    words = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, (2, 2000), np.int64)
    desks, rounded = (Desk(2000), Desk(2000)), np.empty((2, 2, 2000))
    for way, desk, out in zip((None, loops), desks, rounded, strict=True):
        desk.uniform[:], desk.turn[:] = words
        out[:, candidates(desk, 2.0**20, out, way)] = np.nan
    sure = np.isfinite(rounded).all(axis=(0, 1))
    noise, same = rounded[0][:, sure].ravel(), np.array_equal(*rounded[:, :, sure])
    for kind in (np.float32, np.float64):
        total = noise.astype(kind)
        expected = ((np.rint(total * 0.25) + noise) * 0.75).astype(kind)
        fits = loops.noisy(total, 0.25, noise, 0.75, 2.0**52, total)
        same = same and bool(fits) and np.array_equal(total, expected)
    return bool(same and sure.mean() > 0.9)


def compiled(drawn: int) -> ModuleType | None:
    """Compiled loops, if some source of this process has `drawn` so much that compiling them pays."""
    return _loops() if drawn >= _WORTH_COMPILING or _loops.cache_info().currsize else None


def candidates(
    desk: Desk, std: float, rounded: NDArray[np.float64], loops: ModuleType | None = None
) -> NDArray[np.intp]:
    """Round the pairs of a desk, [2, n]; returns the pairs that are not certain. Leaves their distance in `ideal`.

    Proof of the windows, with v = 2^-53. Assumed of torch: log, cos and sin err by at most 16 units in the last
    place of their result (SLEEF, SVML and MKL document 4 or less; a test measures), that is 32 v relatively, and
    sqrt by one. A word k leaves X open in [k, k + 1] 2^-63, the other word T alike. Let |k| >= 2^20, and let r be
    the exact radius sqrt(-2 ln u) of the float64 u that |k| 2^-63 is rounded to.
    Digits: u differs from |X| by a factor within 1 +- (v + 1/|k|) 1.0001, so -2 ln by 2.001 (v + 1/|k|), and since
        |a - b| <= |a^2 - b^2| / a, the ideal radius differs from r by at most 2.001 (v + 1/|k|) / r.
    Radius, relative to r: log 32 v and two products 2 v, halved by the root, whose own error is 2 v: 19.1 v.
    Wave, relative to 1: the angle 3 v pi (two roundings and pi) and pi 2^-63 for its digits, cos or sin 32 v:
        41.6 v. Their product adds v. All together |computed - y| <= std (62 v r + 2.01 (v + 1/|k|) / r).
    Subtracting the nearest integer n is exact (Sterbenz): y rounds to n if 1/2 - |computed - n| is larger.
    One window for a block: 1/|k| <= 1.01 v 2^-10 e^(r^2/2) makes the bound convex in r, so it is largest at the
        ends of [2^-9, 5.5]: 1031 v and 1680 v. The window takes 2048 v std, which for std >= 2^-7 also pays for
        computing it. Where it fails (in one block of 25 at std 2^17, in two of three at 2^26), a second look
        takes std (64 v r + 3 (v + 1/|k|) / r) + v for each such pair.
    Comparisons with nan are false, and then a pair is not certain.
    """
    window = 0.5 - std * _WINDOW, std * _LOW, std * _HIGH
    if loops is None:
        certain = _in_arrays(desk, std, window, rounded)
    else:
        views = desk.radius, desk.ideal, rounded
        certain = not loops.candidates(desk.uniform, desk.turn, std, window, *views)
    return np.empty(0, np.intp) if certain else _uncertain(desk, std, _outside(desk, window))


def _in_arrays(
    desk: Desk, std: float, window: tuple[float, float, float], rounded: NDArray[np.float64]
) -> bool:
    """`candidates` by operations on whole arrays; returns whether all are certain."""
    radius, cosine, sine = (torch.from_numpy(numbers) for numbers in (desk.radius, *desk.ideal))
    radius.copy_(torch.from_numpy(desk.uniform))
    np.multiply(desk.radius, 2.0**-63, out=desk.radius)
    np.abs(desk.radius, out=desk.radius)
    torch.log(radius, out=radius)
    np.multiply(desk.radius, -2.0 * std * std, out=desk.radius)
    torch.sqrt(radius, out=radius)
    cosine.copy_(torch.from_numpy(desk.turn))
    np.multiply(desk.ideal[0], math.pi * 2.0**-63, out=desk.ideal[0])
    torch.sin(cosine, out=sine)
    torch.cos(cosine, out=cosine)
    np.multiply(desk.ideal, desk.radius, out=desk.ideal)
    np.rint(desk.ideal, out=rounded)
    np.subtract(desk.ideal, rounded, out=desk.ideal)
    near, inside = _covered(desk, window)
    return bool(near.all() and inside.all())


def _covered(desk: Desk, window: tuple[float, float, float]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which numbers, [2, n], and which radii, [n], one window covers."""
    edge, low, high = window
    near = (desk.ideal > -edge) & (desk.ideal < edge)
    return near, (desk.radius >= low) & (desk.radius <= high)


def _outside(desk: Desk, window: tuple[float, float, float]) -> NDArray[np.intp]:
    """The pairs that one window does not cover."""
    near, inside = _covered(desk, window)
    return np.flatnonzero(~(near.all(axis=0) & inside))


def _uncertain(desk: Desk, std: float, pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Those of some pairs that their own windows leave open (proof at `candidates`)."""
    radius = desk.radius[pairs] / std
    known = np.abs(desk.uniform[pairs].astype(np.float64))
    width = std * (64 * _UNIT * radius + 3 * (_UNIT + 1 / known) / radius) + _UNIT
    certain = 0.5 - np.abs(desk.ideal[:, pairs]).max(axis=0) > width
    return np.asarray(pairs[~(certain & (radius > 0) & (known >= 2.0**20))])


def resolved(uniform: int, turn: int, words: int, std: float) -> tuple[int, int] | None:
    """Rounded pair for |X| in |[uniform, uniform + 1]| 2^(1 - 64 words), T likewise; None where still open.

    Proof: the formula and the bound of `candidates`, with v = 2^(11 - 64 words) for 2^-53: the digits not drawn
    weigh in v as they do there, and the arithmetic, 64 bits longer than the digits, errs by far less than v.
    """
    bits = WORD * words
    if not 2**20 <= abs(uniform) < 1 << bits - 1:
        return None
    precision = bits + WORD
    logarithm = libmp.mpf_log(libmp.from_man_exp(abs(uniform), 1 - bits), precision)
    radius = libmp.mpf_sqrt(libmp.mpf_mul(logarithm, libmp.from_int(-2)), precision)
    angle = libmp.mpf_mul(libmp.mpf_pi(precision), libmp.from_man_exp(turn, 1 - bits))
    scaled = libmp.mpf_mul(radius, libmp.from_float(std))
    values = [libmp.mpf_mul(scaled, wave) for wave in libmp.mpf_cos_sin(angle, precision)]
    fixed = [libmp.to_fixed(value, bits) + (1 << bits - 1) for value in values]
    size, unit = libmp.to_float(radius), math.ldexp(1.0, 11 - bits)
    window = std * (64 * unit * size + 3 * (unit + 1 / abs(uniform)) / size)
    pair = [int(value >> bits) for value in fixed]
    margin, one = int(math.ldexp(window, bits)) + 2, 1 << bits
    clear = all(margin < value % one < one - margin for value in fixed)
    return (pair[0], pair[1]) if clear else None
