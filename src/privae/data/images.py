"""Images as one npz file: x, uint8 [n, h, w], and optionally y, one label an image."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, field_validator

from privae import files
from privae.data.column import FROZEN
from privae.data.values import canonical, category_codes, column_of, distinct
from privae.errors import DataError, UsageError

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
)


class ImageSchema(BaseModel):
    """The public facts of images: their shape, and the classes of their labels.

    `classes` is a tuple of texts, "bought" if they are to be bought, or None for images without labels.

    >>> ImageSchema.with_class_count(28, 28, 3).classes
    ('0', '1', '2')
    """

    model_config = FROZEN

    height: int
    width: int
    classes: tuple[str, ...] | Literal["bought"] | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _classes_as_text(cls, given: Any) -> Any:  # noqa: ANN401  pydantic hands over whatever was written
        return tuple(canonical(one) for one in given) if isinstance(given, list | tuple) else given

    @classmethod
    def with_class_count(cls, height: int, width: int, count: int) -> Self:
        """The classes "0" to "count - 1"."""
        return cls(height=height, width=width, classes=tuple(str(one) for one in range(count)))

    def with_classes(self, values: Sequence[str]) -> Self:
        """The schema after its classes were bought; they are sorted, numbers by size."""
        known = sorted(
            set(values), key=lambda text: (not text.isdecimal(), len(text) * text.isdecimal(), text)
        )
        return self.model_copy(update={"classes": tuple(known)})

    def check(self) -> None:
        """Raise UsageError for an image without pixels, or classes that are none or alike."""
        if self.height < 1 or self.width < 1:
            raise UsageError("an image is at least 1 pixel high and wide")
        if isinstance(self.classes, tuple) and (
            not self.classes or len(set(self.classes)) < len(self.classes)
        ):
            raise UsageError("the classes must be at least one, and all different")

    @property
    def hash(self) -> str:
        """SHA-256 of the schema."""
        return files.digest(self.model_dump(mode="json"))


def read_images(path: str | Path) -> tuple[NDArray[np.uint8], NDArray[np.object_] | None]:
    """Images, and their labels as text (None for a gap), or None for a file without y.

    Shapes: uint8 [n, h, w], labels [n].
    Errors: UsageError for a file that cannot be opened; DataError for a damaged one, or for other types or
        shapes. Pickled objects are never read.
    """
    path = Path(path)
    try:
        with files.opened(path) as file, np.load(file, allow_pickle=False) as archive:
            names = archive.files
            x, y = archive["x"] if "x" in names else None, archive["y"] if "y" in names else None
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; check the path") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UsageError(f"{path} cannot be read: {str(error.strerror).lower()}") from None
    except _DAMAGED:
        raise DataError(
            f"{path.name} is not an npz file, or it is damaged; write it again with numpy.savez"
        ) from None
    images = _images(path.name, x)
    return images, None if y is None else _labels(path.name, y, len(images))


def write_images(
    path: str | Path, x: NDArray[np.uint8], y: Sequence[str] | NDArray[Any] | None = None
) -> None:
    """Write an npz file with x and perhaps y, whole or not at all; y is int64 if all labels are whole.

    Shapes: x [n, h, w], y [n].
    """
    path = Path(path)
    if files.inner(path).suffix.lower() != ".npz":
        raise UsageError(f"{path.name} does not end in .npz; images are written to an npz file")
    arrays = {"x": x} if y is None else {"x": x, "y": _shortest(list(y))}
    files.write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def label_codes(labels: Sequence[str] | NDArray[Any], classes: Sequence[str]) -> NDArray[np.int64]:
    """Place of each label among the classes; -1 for a gap and for a label that is no class.

    Shapes: labels [n] -> [n].

    >>> label_codes(["1", "7", "0"], ["0", "1"])
    array([ 1, -1,  0])
    """
    places, texts = distinct(column_of(labels))
    return np.append(category_codes(texts, classes), -1)[places]


def _images(name: str, x: NDArray[Any] | None) -> NDArray[np.uint8]:
    if x is None:
        raise DataError(f"{name} has no member x; save the images with numpy.savez(path, x=images, y=labels)")
    if x.dtype != np.uint8:
        raise DataError(f"{name}: x is of type {x.dtype}; images are uint8, 0 to 255")
    if x.ndim != 3 or 0 in x.shape[1:]:
        raise DataError(
            f"{name}: x must have the shape [n, height, width]; color and other layouts are not read"
        )
    return x


def _labels(name: str, y: NDArray[Any], count: int) -> NDArray[np.object_]:
    if y.ndim != 1 or len(y) != count:
        raise DataError(f"{name}: y must hold one label an image, shape [n]")
    if y.dtype.kind not in "biufUS":
        raise DataError(f"{name}: y must hold whole numbers or text")
    places, texts = distinct(column_of(y))
    known: NDArray[np.object_] = np.array([*texts, None], dtype=object)
    return known[places]


def _shortest(labels: list[Any]) -> NDArray[Any]:
    texts = [str(label) for label in labels]
    if all(
        text.isascii() and text.removeprefix("-").isdecimal() and str(int(text)) == text for text in texts
    ):
        return np.array([int(text) for text in texts], dtype=np.int64)
    return np.array(texts, dtype=str)
