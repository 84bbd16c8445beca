"""PNG and JPEG written anew from their pixels alone, and a search for text that is burned into pixels."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from privae.errors import DataError

MOST_PIXELS = 2**26
"""Of one image; a file that says more is refused before it is unpacked."""

Box = tuple[int, int, int, int]
"""Rows and columns of a rectangle: top, bottom, left, right; the ends are not in it."""

_SIGNS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
_KNOWN = {
    "exif": "EXIF",
    "icc_profile": "ICC profile",
    "xmp": "XMP",
    "xml:com.adobe.xmp": "XMP",
    "photoshop": "Photoshop and IPTC",
    "comment": "comment",
    "mp": "further images",
    "transparency": "transparency",
}
_TECHNICAL = {
    "jfif", "jfif_version", "jfif_unit", "jfif_density", "adobe", "adobe_transform", "dpi", "progressive",
    "progression", "gamma", "srgb", "interlace", "aspect", "chromaticity", "default_image",
    "bits", "icclist", "mpoffset",
}  # fmt: skip
# text: strokes brighter or darker than so many shares of the range, in marks of so many pixels
_LEVELS = (0.5, 0.7, 0.9)
_SMALLEST, _TALLEST, _WIDEST = 5, 96, 1.6  # pixels, pixels, widths over the height of a line
_MARKS, _CONTRAST, _FULL = 4, 0.3, 0.9  # marks a line; over what surrounds a mark; of its box a mark may fill
_RIM, _STRAY = 2, 0.1  # pixels around a mark, and the share of them that may be bright above and below
_GAP = 1.2  # heights between two marks of a line


@dataclass(frozen=True)
class Opened:
    """An image of which only pixels and allowed facts are left.

    pixels: [h, w] or [h, w, 3]. black: the value that shows as black. removed: names of what is gone, never values.
    doubts: why its own header makes text in the pixels likely. says: what the header says of burned-in text.
    view: pixels to gray, uint8 [h, w]. write: pixels, and what the new header says of text, to a file's bytes.
    """

    ending: str
    pixels: NDArray[Any]
    black: int
    removed: tuple[str, ...]
    doubts: tuple[str, ...]
    says: str | None
    view: Callable[[NDArray[Any]], NDArray[np.uint8]]
    write: Callable[[NDArray[Any], str | None], bytes]


@dataclass(frozen=True)
class Layout:
    """How DICOM lays out pixels. allocated, stored: bits of a value; colors: as DICOM names them."""

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    planar: bool
    colors: str


def kind_of(content: bytes) -> str | None:
    """What a file is by its first bytes: "PNG", "JPEG", or None."""
    return next((kind for sign, kind in _SIGNS.items() if content.startswith(sign)), None)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Let Pillow open nothing larger than `MOST_PIXELS`, and no library warn: a warning may quote what it read."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = MOST_PIXELS
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def read(content: bytes) -> Opened:
    """A PNG or JPEG, turned as its orientation says; it is written as PNG, without loss.

    Edges: of a file with several images (MPO) the first; an opaque picture, for transparency is dropped and what it
        hid shows; 16 bits stay where they are gray. Errors: DataError, in one line, without a name.
    Guarantee: the written file holds pixels, their size and their depth, and nothing else of the input.
    """
    try:
        with limited(), Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
            if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
                raise DataError("holds several frames; save each as a file of its own")
            image.load()
            pixels, removed = _pixels(ImageOps.exif_transpose(image)), _removed(image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"says that it has more than {MOST_PIXELS:,} pixels; it is not unpacked") from None
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  privacy: Pillow raises of many kinds, and its texts may quote the file
        raise DataError("is a damaged or truncated PNG or JPEG; restore a copy") from None
    return Opened(".png", pixels, 0, removed, (), None, gray, lambda made, _: _png(made))


def gray(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Brightness of uint8 or uint16 pixels, [h, w] or [h, w, 3] -> uint8 [h, w]; colors weigh as in ITU-R BT.601."""
    if pixels.ndim == 3:
        weighed: NDArray[Any] = pixels.astype(np.uint32) @ np.array([299, 587, 114], dtype=np.uint32)
        pixels = ((weighed + 500) // 1000).astype(pixels.dtype)
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def unpacked(data: bytes, layout: Layout, order: Literal["<", ">"]) -> NDArray[Any]:
    """Pixels of bytes that are not compressed, [h, w] or [h, w, 3]. Errors: DataError for too few."""
    depth = layout.allocated // 8
    count = layout.rows * layout.columns * layout.samples
    if len(data) < count * depth:
        raise DataError("holds fewer pixels than it says; it is truncated")
    kind = np.dtype(f"{'i' if layout.signed else 'u'}{depth}")
    flat = np.frombuffer(data, dtype=kind.newbyteorder(order), count=count).astype(kind)
    if layout.samples == 1:
        return flat.reshape(layout.rows, layout.columns)
    if layout.planar:
        return np.ascontiguousarray(np.moveaxis(flat.reshape(3, layout.rows, layout.columns), 0, -1))
    return flat.reshape(layout.rows, layout.columns, 3)


def shown(
    pixels: NDArray[Any], layout: Layout, window: tuple[float, float] | None, line: tuple[float, float]
) -> NDArray[np.uint8]:
    """Gray, uint8 [h, w], through a window (center, width), or else the range of the bits; each image by itself.

    line: slope and intercept from stored values to those of the window. Source: DICOM PS3.3 C.11.2.1.2.1.
    """
    if layout.samples == 3:
        light = layout.colors == "YBR_FULL"
        return gray(np.ascontiguousarray(pixels[..., 0]) if light else pixels)
    values = pixels.astype(np.float64)
    if window is not None and window[1] > 1:
        seen = (line[0] * values + line[1] - window[0] + 0.5) / (window[1] - 1) + 0.5
    else:
        seen = (values + (2 ** (layout.stored - 1) if layout.signed else 0)) / (2**layout.stored - 1)
    seen = seen.clip(0, 1)
    return ((1 - seen if layout.colors == "MONOCHROME1" else seen) * 255).round().astype(np.uint8)


def blackened(pixels: NDArray[Any], boxes: tuple[Box, ...], black: int) -> NDArray[Any]:
    """A copy of pixels in which boxes are black."""
    made = pixels.copy()
    for top, bottom, left, right in boxes:
        made[top:bottom, left:right] = black
    return made


def find_text(pixels: NDArray[Any]) -> tuple[Box, ...]:
    """Where pixels look like a line of text: sharp marks of about one height side by side. Shapes: [h, w] or [h, w, 3].

    No promise: it knows no letters, and misses faint, tiny, handwritten, turned or short text (under four marks).
    What looks like a line of marks, such as a scale, is found, too.
    """
    planes = [pixels] if pixels.ndim == 2 else [pixels.min(axis=-1), pixels.max(axis=-1)]
    found = [box for plane in planes for box in _lines_of_text(plane.astype(np.float32))]
    return _merged(found, pixels.shape[:2])


def _pixels(image: Image.Image) -> NDArray[Any]:
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 0xFFFF:
            raise DataError("has gray levels of more than 16 bits; save it with 16")
        return deep.astype(np.uint16)
    if image.mode in ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        return np.asarray(image.convert("RGB"))
    raise DataError("is neither gray nor in color as PNG and JPEG are; save it anew")


def _removed(image: Image.Image) -> tuple[str, ...]:
    """What kinds of metadata are gone.

    privacy: the key of a text chunk may be a name, so that all of them are called text.
    """
    keys = {str(key).lower() for key in image.info} - _TECHNICAL
    return tuple(sorted({_KNOWN.get(key, "text") for key in keys}))


def _png(pixels: NDArray[Any]) -> bytes:
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, format="PNG")
    return made.getvalue()


def _lines_of_text(plane: NDArray[np.float32]) -> list[Box]:
    low, high = float(plane.min()), float(plane.max())
    if high <= low:
        return []
    plane = (plane - low) / (high - low)
    return [
        box
        for side in (plane, 1 - plane)
        for level in _LEVELS
        for line in _lines(_marks(side, level))
        for box in [_around(line)]
    ]


def _marks(plane: NDArray[np.float32], level: float) -> NDArray[np.int64]:
    """Boxes of connected bright spots that could be letters, sorted by their left ends. Shapes: [h, w] -> [m, 4]."""
    bright = plane >= level
    labels = ndimage.label(bright, structure=np.ones((3, 3)))[0]
    places = ndimage.find_objects(labels)
    boxes = np.array([(r.start, r.stop, c.start, c.stop) for r, c in places], np.int64).reshape(-1, 4)
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    fits = (height >= _SMALLEST) & (height <= _TALLEST) & (width <= _WIDEST * height)
    if not fits.any():
        return boxes[:0]
    number = np.bincount(labels.ravel(), minlength=len(boxes) + 1)[1:]
    total = np.bincount(labels.ravel(), weights=plane.ravel(), minlength=len(boxes) + 1)[1:]
    fits &= (number <= _FULL * height * width) | (width <= height / 2)
    boxes, own = boxes[fits], (total / number)[fits]
    sharp = _stands_out(plane, bright, boxes, own)
    return boxes[sharp][np.argsort(boxes[sharp, 2], kind="stable")]


def _stands_out(
    plane: NDArray[np.float32], bright: NDArray[np.bool_], boxes: NDArray[np.int64], own: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether what is not bright around a mark is much darker, and hardly anything is bright above and below it.

    In noise it is. own: the mean brightness of each mark.
    """
    counted, lit = _integral(bright), _integral(np.where(bright, 0, plane))
    top, bottom, left, right = boxes.T
    above = np.stack([top - _RIM, top, left, right], axis=1)
    below = np.stack([bottom, bottom + _RIM, left, right], axis=1)
    near = _sums(counted, above) + _sums(counted, below)
    wider = boxes + np.array([-_RIM, _RIM, -_RIM, _RIM])
    dark = _areas(wider, plane.shape) - _sums(counted, wider)
    surround = np.where(dark > 0, _sums(lit, wider) / np.maximum(dark, 1), 1.0)
    found: NDArray[np.bool_] = (near <= _STRAY * 2 * _RIM * (right - left)) & (own - surround >= _CONTRAST)
    return found


def _integral(plane: NDArray[Any]) -> NDArray[np.float64]:
    """Sums of all above and to the left. Shapes: [h, w] -> [h + 1, w + 1]."""
    total = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1))
    np.cumsum(plane, axis=0, out=total[1:, 1:])
    np.cumsum(total[1:, 1:], axis=1, out=total[1:, 1:])
    return total


def _sums(integral: NDArray[np.float64], boxes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over boxes, cut at the borders. Shapes: [h + 1, w + 1], [m, 4] -> [m]."""
    (top, bottom), (left, right) = _cut(boxes, (integral.shape[0] - 1, integral.shape[1] - 1))
    found: NDArray[np.float64] = integral[bottom, right] - integral[top, right]
    found -= integral[bottom, left] - integral[top, left]
    return found


def _areas(boxes: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    (top, bottom), (left, right) = _cut(boxes, shape)
    area: NDArray[np.int64] = (bottom - top) * (right - left)
    return area


def _cut(boxes: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return boxes[:, :2].clip(0, shape[0]).T, boxes[:, 2:].clip(0, shape[1]).T


def _lines(marks: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Marks side by side, of about one height and level, each group being a line of text. Shapes: [m, 4] -> [k, 4]."""
    count = len(marks)
    if count < _MARKS:
        return []
    pairs = [_neighbors(marks, at) for at in range(count)]
    one = np.repeat(np.arange(count), [len(found) for found in pairs])
    links = coo_array((np.ones(len(one)), (one, np.concatenate(pairs))), shape=(count, count))
    group = connected_components(links, directed=False)[1]
    sizes = np.bincount(group)
    return [marks[group == number] for number in np.flatnonzero(sizes >= _MARKS)]


def _neighbors(marks: NDArray[np.int64], at: int) -> NDArray[np.int64]:
    """Places of the marks that follow one in its line."""
    top, bottom, _, right = marks[at]
    end = np.searchsorted(marks[:, 2], right + _GAP * _TALLEST, side="right")
    others = marks[at + 1 : end]
    heights = others[:, 1] - others[:, 0]
    tall, short = np.maximum(heights, bottom - top), np.minimum(heights, bottom - top)
    level = np.minimum(others[:, 1], bottom) - np.maximum(others[:, 0], top) >= 0.6 * short
    alike = level & (tall <= 2 * short) & (others[:, 2] - right <= _GAP * tall)
    return at + 1 + np.flatnonzero(alike)


def _around(line: NDArray[np.int64]) -> Box:
    (top, left), (bottom, right) = line[:, [0, 2]].min(axis=0), line[:, [1, 3]].max(axis=0)
    return int(top), int(bottom), int(left), int(right)


def _merged(boxes: list[Box], shape: tuple[int, ...]) -> tuple[Box, ...]:
    """The rectangles around boxes that touch, each larger than what was found: letters at its ends may be missed."""
    covered = np.zeros(shape, dtype=bool)
    for top, bottom, left, right in boxes:
        rim, side = max(2, (bottom - top) // 2), 2 * (bottom - top)
        covered[max(top - rim, 0) : bottom + rim, max(left - side, 0) : right + side] = True
    places = ndimage.find_objects(ndimage.label(covered)[0])
    return tuple((r.start, r.stop, c.start, c.stop) for r, c in places)
