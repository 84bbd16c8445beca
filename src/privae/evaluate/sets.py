"""Which rows are compared: halves of the real ones and as many synthetic ones, drawn by lot; rows to learn and test on.

privacy: real records go in and out: for the data holder only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Self, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.data.codec import Codec
from privae.data.values import column_of, distinct
from privae.errors import UsageError
from privae.evaluate.learners import Codes

Set = TypeVar("Set", "Table", "Pictures", "Windows")


@dataclass(frozen=True)
class Table:
    """Rows of a table."""

    frame: pd.DataFrame = field(repr=False)
    codec: Codec

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows: NDArray[np.int64]) -> Self:
        return type(self)(self.frame.iloc[rows], self.codec)

    @cached_property
    def codes(self) -> Codes:
        """Places of cells, [n, m]."""
        return self.codec.encode(self.frame)


@dataclass(frozen=True)
class Pictures:
    """Images [n, h, w], and the place of each one's label among `names`, -1 for a gap; None without labels."""

    x: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] | None = field(repr=False)
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: NDArray[np.int64]) -> Self:
        return type(self)(self.x[rows], None if self.labels is None else self.labels[rows], self.names)


@dataclass(frozen=True)
class Windows:
    """Windows of series, float64 [n, T, C] with NaN for gaps, and the label of each one, or None."""

    x: NDArray[np.float64] = field(repr=False)
    labels: NDArray[Any] | None = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: NDArray[np.int64]) -> Self:
        return type(self)(self.x[rows], None if self.labels is None else self.labels[rows])


def pictures(sets: Sequence[Any]) -> list[Pictures | None]:
    """Images and labels, with one list of label names for all sets; a set without labels has none.

    Errors: UsageError for images that are not [n, h, w], or of different sizes.
    """
    given = [one for one in sets if one is not None]
    if any(x.ndim != 3 for x, _ in given) or len({x.shape[1:] for x, _ in given}) > 1:
        raise UsageError(
            "the sets of images have different sizes; give images of one size, [n, height, width]"
        )
    parts = [list(y) for _, y in given if y is not None]
    places, names = distinct(column_of([label for part in parts for label in part]))
    order = np.argsort(np.array(names, dtype=object)) if names else np.empty(0, dtype=np.int64)
    codes = np.append(np.argsort(order), -1)[places]
    split = iter(np.split(codes, np.cumsum([len(part) for part in parts])[:-1]))
    known = tuple(names[place] for place in order.tolist())
    return [one and Pictures(one[0], None if one[1] is None else next(split), known) for one in sets]


@dataclass(frozen=True)
class Drawn(Generic[Set]):
    """Rows by lot. first, second: halves of the real rows; made: as many synthetic ones.

    train, learned, test: real and synthetic rows to learn from, as many of each, and real ones to test on.
    held_out: whether `test` was given, else it is `second`. counts: of all rows, and of those compared.
    """

    first: Set
    second: Set
    made: Set
    train: Set
    learned: Set
    test: Set
    held_out: bool
    counts: dict[str, Any]


def draw(real: Set, test: Set | None, synthetic: Set, most: int, rng: np.random.Generator) -> Drawn[Set]:
    """At most `most` rows of each set, by lot; at most two times as many real ones."""
    pool, made = _lot(real, 2 * most, rng), _lot(synthetic, most, rng)
    size = min(len(pool) // 2, len(made))
    first, second = pool[np.arange(size)], pool[np.arange(len(pool) - size, len(pool))]
    held_out = test is not None and len(test) > 0
    tests = _lot(test, most, rng) if held_out and test is not None else second
    learning = min(len(made), len(pool), most) if held_out else size
    counts = {
        "real": len(real),
        "synthetic": len(synthetic),
        "test": None if test is None else len(test),
        "compared": size,
    }
    places = np.arange(learning)
    return Drawn(first, second, made[np.arange(size)], pool[places], made[places], tests, held_out, counts)


def _lot(rows: Set, most: int, rng: np.random.Generator) -> Set:
    return rows[rng.permutation(len(rows))[:most]]
