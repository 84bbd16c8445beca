"""FF1, format-preserving encryption: what is enciphered looks like what it was, and comes back with the key.

Source: NIST SP 800-38G, algorithms 7 and 8, and its sample vectors; the least domain is that of SP 800-38G Rev. 1 (2nd
draft): a million. Fewer texts than that could be tried out (Durak and Vaudenay 2017).
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from numpy.typing import NDArray

ALPHABETS = {
    "digits": "0123456789",
    "hex": "0123456789abcdef",
    "lower": "abcdefghijklmnopqrstuvwxyz",
    "upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "letters": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
    "digits+lower": "0123456789abcdefghijklmnopqrstuvwxyz",
    "digits+upper": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "alphanumeric": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
}
LEAST_DOMAIN = 1_000_000
_ROUNDS, _BLOCK = 10, 16
_MOST = 256  # characters enciphered of one text
_MOST_RADIX = 2**16
_BATCH = 2**14  # texts at a time

Numerals = Sequence[int]


def least_length(radix: int) -> int:
    """The fewest characters of an alphabet of `radix` that make a domain of a million."""
    return next(length for length in range(2, 64) if radix**length >= LEAST_DOMAIN)


def enciphered(
    texts: Sequence[str], key: bytes, tweak: bytes, alphabet: str, *, back: bool = False
) -> list[str | None]:
    """Each text with its characters of the alphabet enciphered (back: deciphered); signs between them stay in place.

    So the length of a text, and where its hyphens and blanks are, can be seen.
    Edges: None for a text with fewer characters of the alphabet than `least_length`, with more than 256, or with a
        letter or digit that is not of it: that would stay as it is.

    >>> enciphered(["01234-56789"], bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"), b"", "0123456789")
    ['24334-77484']
    """
    order = {sign: place for place, sign in enumerate(alphabet)}
    radix, least = len(alphabet), least_length(len(alphabet))
    inside = [[order[sign] for sign in text if sign in order] for text in texts]
    fits = [
        least <= len(own) <= _MOST and not any(sign not in order and sign.isalnum() for sign in text)
        for text, own in zip(texts, inside, strict=True)
    ]
    done: list[str | None] = [None] * len(texts)
    for length in sorted({len(own) for own, fit in zip(inside, fits, strict=True) if fit}):
        places = [i for i, own in enumerate(inside) if fits[i] and len(own) == length]
        for start in range(0, len(places), _BATCH):
            some = places[start : start + _BATCH]
            for place, own in zip(
                some, ff1(key, tweak, radix, [inside[i] for i in some], back=back), strict=True
            ):
                done[place] = _placed(texts[place], own, alphabet)
    return done


def ff1(
    key: bytes, tweak: bytes, radix: int, numerals: Sequence[Numerals], *, back: bool = False
) -> list[list[int]]:
    """FF1 of texts of one length, as numbers below the radix, all under one tweak; with `back`, its inverse.

    Shapes: [k][n] -> [k][n].
    Errors: ValueError for a radix, a length or a number that FF1 has not, or a domain below a million.
    """
    length = len(numerals[0]) if numerals else 0
    if not numerals:
        return []
    if not 2 <= radix <= _MOST_RADIX or length < 2 or radix**length < LEAST_DOMAIN:
        raise ValueError("FF1 needs a radix of 2 to 65536 and a domain of a million at least")
    if any(len(own) != length or not all(0 <= one < radix for one in own) for own in numerals):
        raise ValueError("numerals of one length, each at least 0 and below the radix")
    u = length // 2
    a, b = (
        [_number(part, radix) for part in half]
        for half in zip(*((o[:u], o[u:]) for o in numerals), strict=True)
    )
    sizes = radix**u, radix ** (length - u)
    prf = _Prf(key, tweak, radix, length)
    for turn in range(_ROUNDS - 1, -1, -1) if back else range(_ROUNDS):
        size = sizes[turn % 2]
        if back:
            a, b = [(y - x) % size for x, y in zip(prf(turn, a), b, strict=True)], a
        else:
            a, b = b, [(x + y) % size for x, y in zip(a, prf(turn, b), strict=True)]
    return [[*_digits(x, radix, u), *_digits(y, radix, length - u)] for x, y in zip(a, b, strict=True)]


class _Prf:
    """The round function of texts of one length under one key and tweak: numbers to numbers."""

    def __init__(self, key: bytes, tweak: bytes, radix: int, length: int) -> None:
        self._aes = Cipher(AES(key), ECB()).encryptor()  # noqa: S305  the raw block cipher, as the standard asks
        half = length - length // 2
        self._bytes = ceil((radix**half - 1).bit_length() / 8)
        self._wanted = 4 * ceil(self._bytes / 4) + 4
        head = bytes([1, 2, 1]) + radix.to_bytes(3, "big") + bytes([_ROUNDS, length // 2 % 256])
        first = head + length.to_bytes(4, "big") + len(tweak).to_bytes(4, "big")
        self._first = np.frombuffer(self._aes.update(first), np.uint8)
        self._tweak = tweak + bytes((-len(tweak) - self._bytes - 1) % _BLOCK)

    def __call__(self, turn: int, numbers: Sequence[int]) -> list[int]:
        """One number below 256^d for each."""
        own = np.frombuffer(b"".join(number.to_bytes(self._bytes, "big") for number in numbers), np.uint8)
        ahead = np.frombuffer(self._tweak + bytes([turn]), np.uint8)
        texts = np.hstack([np.tile(ahead, (len(numbers), 1)), own.reshape(len(numbers), -1)])
        state = np.tile(self._first, (len(numbers), 1))
        for start in range(0, texts.shape[1], _BLOCK):
            state = self._blocks(state ^ texts[:, start : start + _BLOCK])
        wide = [state]
        for count in range(1, ceil(self._wanted / _BLOCK)):
            counter = np.frombuffer(count.to_bytes(_BLOCK, "big"), np.uint8)
            wide.append(self._blocks(state ^ counter))
        whole = np.hstack(wide)[:, : self._wanted].tobytes()
        starts = range(0, len(whole), self._wanted)
        return [int.from_bytes(whole[start : start + self._wanted], "big") for start in starts]

    def _blocks(self, blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """AES of each row. Shapes: [k, 16] -> [k, 16]."""
        return np.frombuffer(self._aes.update(blocks.tobytes()), np.uint8).reshape(-1, _BLOCK)


def _number(numerals: Numerals, radix: int) -> int:
    whole = 0
    for one in numerals:
        whole = whole * radix + one
    return whole


def _digits(number: int, radix: int, length: int) -> list[int]:
    found = [0] * length
    for place in range(length - 1, -1, -1):
        number, found[place] = divmod(number, radix)
    return found


def _placed(text: str, numerals: Numerals, alphabet: str) -> str:
    own = iter(numerals)
    return "".join(alphabet[next(own)] if sign in alphabet else sign for sign in text)
