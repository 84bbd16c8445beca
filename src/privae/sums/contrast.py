"""Images as a few numbers: low frequencies as shares of an image's own contrast, and how much detail is left.

A public transform of one record: it costs no privacy. Brightness and contrast, which tell devices and exposures apart
rather than findings, are gone: every model of pixels that was measured on chest images gained by it
(docs/explain/detection.md).
"""

import math

import numpy as np
from numpy.typing import NDArray

from privae.sums import moments
from privae.sums.quantiles import Grid, Layout, grid

Array = NDArray[np.float64]

UNIT = 0.01  # a meaningful difference of a share
MOST_PIXELS = 2**23  # squares of pixels, times their number, stay below 2^63
MOST_SIDE = 2**12  # a basis is chosen among as many waves as a side is long
_AT_ONCE = 2**24  # pixels
_SHIFT = 12  # coefficients are held in 1/256 of a pixel step: 2^20 basis units / 2^12
_STEPS = 256.0
_CONTRAST = 0.25 * 255.0  # standard deviation of a picture of nothing but its low frequencies


def readable(height: int, width: int) -> bool:
    """Whether images of this shape can be read: 4 to 2^23 pixels, neither side longer than 4,096."""
    return 4 <= height * width <= MOST_PIXELS and max(height, width) <= MOST_SIDE


def layout(size: int) -> Layout:
    """Where `size` numbers of an image are counted: shares in -1 to 1, and detail in 0 to 1."""
    return Layout(bounds(size), np.zeros(0, np.int64))


def bounds(size: int) -> Grid:
    """The public bounds of `size` numbers."""
    low = np.append(np.full(size - 1, -1.0), 0.0)
    return grid(low, np.ones(size), np.full(size, UNIT))


def numbers(images: NDArray[np.uint8], size: int) -> Array:
    """`size` numbers of each image: its lowest frequencies but the zeroth, each over its contrast, then its detail.

    Shapes: uint8 [n, h, w] -> [n, size]. A share is a coefficient of the orthonormal DCT of the centered image over
    the norm of that; detail is the root of the share of its energy that the others do not have.
    Guarantee: each row is a function of that image alone, bit for bit: integer sums, then one root and one division
    a number, which are rounded alike wherever they are done (guarantees.md rule 1).
    Edges: an image of one color has no contrast: all zeros.
    """
    basis = _basis(images.shape[1:], size)
    step = max(1, min(moments.CHUNK, _AT_ONCE // max(math.prod(images.shape[1:]), 1)))
    parts = [_numbers(images[i : i + step], basis) for i in range(0, len(images), step)]
    return np.concatenate([np.zeros((0, size)), *parts])


def _numbers(images: NDArray[np.uint8], basis: NDArray[np.int64]) -> Array:
    flat = images.reshape(len(images), -1).astype(np.int64)
    pixels, total = flat.shape[1], flat.sum(1)
    energy = (
        pixels * np.einsum("ij,ij->i", flat, flat) - total**2
    )  # exact: pixels times that of the centered image
    length = np.sqrt(energy.astype(np.float64) / pixels) * _STEPS
    length = np.where(energy > 0, length, np.inf)[:, None]
    coded = moments.project(flat, basis, _SHIFT)
    rest = 1.0 - (coded**2).sum(1)[:, None].astype(np.float64) / length**2
    detail = np.where(np.isinf(length), 0.0, np.sqrt(np.clip(rest, 0.0, 1.0)))
    return np.concatenate([coded / length, detail], 1)


def picture(values: Array, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Images of the low frequencies alone, at one brightness and contrast: [n, size] -> uint8 [n, h, w]."""
    fields = values[:, :-1] @ _basis(shape, values.shape[1]).T / 2.0**20
    pixels = 127.5 + _CONTRAST * math.sqrt(math.prod(shape)) * fields
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).reshape(-1, *shape)


def spread_out(values: Array, shape: tuple[int, int]) -> Array:
    """The fields that low frequencies stand for, [n, size - 1] -> [n, h, w]; products of fields sum as of values."""
    fields = values @ _basis(shape, values.shape[1] + 1).T / 2.0**20
    return np.asarray(fields.reshape(-1, *shape))


def _basis(shape: tuple[int, ...], size: int) -> NDArray[np.int64]:
    """The lowest frequencies but the zeroth: [pixels, size - 1]."""
    return moments.low_pass_basis(shape[0], shape[1], size)[:, 1:]
