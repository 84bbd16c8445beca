"""Check digits of identifiers, over whole columns at once: Luhn, MOD 97, MOD 11-2, MOD 31, and real dates.

All take symbols [n, w] as `symbols` reads them: one value a row, 0 to 9 for digits, 10 to 35 for letters, -1 where
the value has ended. Loops run over the w places of a value, never over the n values.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.int64]
Marks = NDArray[np.bool_]

_VALUES = np.full(129, -1, dtype=np.int64)
_VALUES[ord("0") : ord("9") + 1] = np.arange(10)
_VALUES[ord("A") : ord("Z") + 1] = _VALUES[ord("a") : ord("z") + 1] = np.arange(10, 36)
_X = int(_VALUES[ord("X")])
_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"  # GB 32100-2015: without I, O, S, V and Z
_OF_31 = np.full(37, -1, dtype=np.int64)
_OF_31[_VALUES[[ord(sign) for sign in _ALPHABET]]] = np.arange(len(_ALPHABET))
_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def symbols(texts: Sequence[str], width: int) -> Symbols:
    """The symbols of texts without separators.

    Shapes: texts [n] -> [n, width]; what is longer is cut, and a sign that is no digit and no letter is -1.

    >>> symbols(["1a"], 3)
    array([[ 1, 10, -1]])
    """
    signs = np.array(texts, dtype=f"U{width}").view(np.uint32).reshape(len(texts), width)
    read: Symbols = _VALUES[np.minimum(signs, 128)]
    return read


def lengths(values: Symbols) -> NDArray[np.int64]:
    """How many symbols each value has. Shapes: [n, w] -> [n]."""
    counts: NDArray[np.int64] = (values >= 0).sum(axis=1)
    return counts


def number(values: Symbols, start: int, stop: int) -> NDArray[np.int64]:
    """The whole number that the digits at places start to stop - 1 write. Shapes: [n, w] -> [n]."""
    powers = 10 ** np.arange(stop - start - 1, -1, -1, dtype=np.int64)
    said: NDArray[np.int64] = values[:, start:stop] @ powers
    return said


def luhn(values: Symbols) -> Marks:
    """Whether the last digit of each number is its Luhn digit; of random digits, one in ten passes.

    Shapes: [n, w] -> [n]. Source: ISO/IEC 7812-1, annex B.

    >>> luhn(symbols(["4111111111111111", "4111111111111112"], 19)).tolist()
    [True, False]
    """
    from_right = lengths(values)[:, None] - 1 - np.arange(values.shape[1])
    doubled = np.where(from_right % 2 == 1, 2 * values, values)
    summed = np.where(values >= 0, doubled - 9 * (doubled > 9), 0).sum(axis=1)
    return np.asarray(summed % 10 == 0)


def mod_97(values: Symbols) -> Marks:
    """Whether the number that an IBAN writes, its first four signs moved to its end, is 1 modulo 97.

    Shapes: [n, w] -> [n]. Source: ISO 13616-1, ISO/IEC 7064 MOD 97-10.

    >>> mod_97(symbols(["GB82WEST12345698765432", "GB82WEST12345698765423"], 34)).tolist()
    [True, False]
    """
    rest = np.zeros(len(values), dtype=np.int64)
    for place in (*range(4, values.shape[1]), 0, 1, 2, 3):
        sign = values[:, place]
        rest = np.where(sign < 0, rest, (rest * np.where(sign > 9, 100, 10) + sign) % 97)
    return np.asarray(rest == 1)


def mod_11_2(values: Symbols) -> Marks:
    """Whether the last of 18 signs is the check sign of the first 17 digits; X stands for ten.

    Shapes: [n, 18] -> [n]. Source: GB 11643-1999, ISO/IEC 7064 MOD 11-2.

    >>> mod_11_2(symbols(["11010519491231002X", "110105194912310021"], 18)).tolist()
    [True, False]
    """
    last = np.where(values[:, 17] == _X, 10, values[:, 17])
    weights = np.array([2 ** (17 - place) % 11 for place in range(17)])
    return np.asarray((values[:, :17] @ weights + last) % 11 == 1)


def mod_31(values: Symbols) -> Marks:
    """Whether the last of 18 signs is the check sign of the first 17, of an alphabet of 31.

    Shapes: [n, 18] -> [n]. Edges: a sign that is not of the alphabet does not pass. Source: GB 32100-2015, 4.5.

    >>> mod_31(symbols(["91350100M000100Y43", "91350100M000100Y34"], 18)).tolist()
    [True, False]
    """
    placed = _OF_31[values]
    weights = np.array([pow(3, place, 31) for place in range(17)] + [1])
    return np.asarray((placed >= 0).all(axis=1) & (placed @ weights % 31 == 0))


def real_dates(values: Symbols, start: int) -> Marks:
    """Whether eight digits from a place on are a date of the calendar, from 1850 on, and not to come.

    Shapes: [n, w] -> [n].

    >>> real_dates(symbols(["20000229", "19000229"], 8), 0).tolist()
    [True, False]
    """
    year, month, day = (number(values, start + a, start + b) for a, b in ((0, 4), (4, 6), (6, 8)))
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    most = _DAYS[np.where((month >= 1) & (month <= 12), month, 0)] + (leap & (month == 2))
    today = int(str(np.datetime64("today")).replace("-", ""))
    said = (year * 100 + month) * 100 + day
    return np.asarray((day >= 1) & (day <= most) & (year >= 1850) & (said <= today))
