"""What one raw value says, whatever its type: its text, its number, and the bin that a number falls into.

Text in a CSV file and typed values in a data frame or a Parquet file must lead to the same codes, and the
reading of one record must never depend on another. So every value is read by rules that see this value alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MISSING_TEXTS = frozenset({"", "na", "nan", "<na>", "nat", "n/a", "null", "none", "?"})
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_WORDS = {
    "true": 1.0,
    "false": 0.0,
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in ("inf", "infinity")},
}
EXACT = 2.0**53  # float64 holds every whole number below
_NONE = 2.0**62
_BLANKS = " \t\r\n\v\f\u00a0"  # one list, for Python and Arrow differ on the rest


def canonical(value: Any) -> str | None:  # noqa: ANN401  any object may stand in a cell
    """The text of one raw value, or None for a gap; text is trimmed, whole numbers lose their ".0".

    Edges: never raises; a value that cannot be written as text is a gap.

    >>> canonical(1.0), canonical(" a "), canonical(True), canonical(None)
    ('1', 'a', 'True', None)
    """
    try:
        if isinstance(value, str):
            return _trimmed(value)
        if isinstance(value, (bool, np.bool_)):
            return str(bool(value))
        if isinstance(value, (float, np.floating)):
            return _number_text(value)
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return None
        return _trimmed(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))
    except Exception:  # noqa: BLE001  a value may be any object, and its __str__ may raise anything
        return None


def means_missing(text: str) -> bool:
    """Whether a text stands for a gap: empty, NA, NaN, null, None, N/A or "?", in any letter case."""
    return text.casefold() in MISSING_TEXTS


def column_of(values: Sequence[Any] | NDArray[Any] | pd.Series | pd.Index) -> pd.Series:
    """The values as a column, each as it is: typed where their array is, else objects.

    Shapes: values [n] -> [n], in their order, with a plain index.
    Guarantee: no type is guessed over all values, so that 0.5 beside 2^53 + 1 does not round it.

    >>> column_of([0.5, 2**53 + 1]).tolist()
    [0.5, 9007199254740993]
    """
    if isinstance(values, pd.Series | pd.Index):
        return pd.Series(values.array, dtype=values.dtype)
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
        return pd.Series(values, dtype=values.dtype)
    return pd.Series(list(values), dtype=object)


def distinct(column: pd.Series) -> tuple[NDArray[np.int64], list[str]]:
    """The distinct texts of a column, and for each of its n values the place of its text in that list.

    Shapes: column [n] -> places [n] with -1 for a gap, and the texts.
    Guarantee: the text of a value is a function of this value (and of the column's dtype) alone.
    Edges: never raises, whatever the column holds.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        merged, named = distinct(column_of(column.cat.categories))
        return _take(merged, column.cat.codes.to_numpy().astype(np.int64), -1), named
    places, found = _told_apart(column)
    texts = [canonical(value) for value in found]
    named = [text for text in dict.fromkeys(texts) if text is not None]
    order: dict[str | None, int] = {text: place for place, text in enumerate(named)}
    merged = np.array([order.get(text, -1) for text in texts], dtype=np.int64)
    return (merged if places is None else _take(merged, places, -1)), named


def numbers(column: pd.Series) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The numbers that a column says, and which of its values are gaps.

    Shapes: column [n] -> float64 [n], with NaN for a gap or a value that is no number; bool [n].
    Edges: True is 1; "inf" is infinite; a float32 0.7 is 0.7, as it would be written in a CSV file.
    """
    kind = getattr(column.dtype, "numpy_dtype", column.dtype)
    if isinstance(kind, np.dtype) and kind.kind in "biuf":
        wide = kind if kind.kind == "f" else np.dtype(np.float64)
        found = widened(column.to_numpy(dtype=wide, na_value=np.nan))
        return found, np.isnan(found)
    places, texts = _found(column)
    values, gaps = _said(texts)
    return _take(values, places, np.nan), _take(gaps, places, True)


def parsed(texts: Sequence[str]) -> NDArray[np.float64]:
    """The number that each text says, NaN where it says none; true and false are 1 and 0.

    >>> parsed(["1.50", "-2e3", "true", "1_000", "0x1"])
    array([ 1.5e+00, -2.0e+03,  1.0e+00,      nan,      nan])
    """
    return _said(pa.array(texts, pa.large_string()))[0]


def widened(values: NDArray[Any]) -> NDArray[np.float64]:
    """Numbers as float64; short floats by their shortest decimal text, so that float32 0.7 becomes 0.7.

    Shapes: [n] -> float64 [n].
    """
    if values.dtype.kind != "f" or values.dtype.itemsize >= 8:
        return values.astype(np.float64)
    found, places = np.unique(values, return_inverse=True)
    wide: NDArray[np.float64] = found.astype(str).astype(np.float64)[places]
    return wide


def category_codes(texts: Sequence[str], categories: Sequence[str]) -> NDArray[np.int64]:
    """Place of each text among the categories, -1 where it is none of them.

    A text is the category that is spelled alike, or else the only one that is the same number: "1.0" is "1".

    >>> category_codes(["b", "1.0", "c"], ["1", "b"])
    array([ 1,  0, -1])
    """
    places = {text: place for place, text in enumerate(categories)}
    found = np.array([places.get(text, -1) for text in texts], dtype=np.int64)
    unknown = np.flatnonzero(found < 0).tolist()
    by_number = _places_by_number(categories)
    said = parsed([texts[place] for place in unknown]).tolist() if by_number else []
    for place, number in zip(unknown, said, strict=False):
        found[place] = by_number.get(number, -1)
    return found


def _places_by_number(categories: Sequence[str]) -> dict[float, int]:
    said = parsed(categories)
    known, first, counts = np.unique(said, return_index=True, return_counts=True)
    alone = (counts == 1) & (np.abs(known) < EXACT)  # NaN and infinity compare false
    return dict(zip(known[alone].tolist(), first[alone].tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Bins:
    """b half-open bins [e_0, e_1), ..., [e_(b-1), e_b]; the last one is closed.

    `edges` [b + 1] rise; `step`, if any, is the distance of the values that may come back (multiples of it,
    shown with `digits` decimals); `dtype` is the numpy type in which they come back.
    """

    edges: NDArray[np.float64]
    step: float | None
    digits: int | None
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        """How many bins."""
        return len(self.edges) - 1

    def place(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Bin of each number, clipped to the first and the last; -1 for NaN.

        Shapes: [n] -> [n].
        """
        found = np.searchsorted(self.edges, values, side="right") - 1
        return np.where(np.isnan(values), -1, np.clip(found, 0, len(self) - 1)).astype(np.int64)

    def draw(self, places: NDArray[np.int64], rng: np.random.Generator) -> NDArray[Any]:
        """A number for each bin: uniform among those that the bin holds, so that `place` gives the bin back.

        Shapes: [n] -> [n], of type `dtype`.
        """
        low, high = self.limits[0][places], self.limits[1][places]
        if self.step is not None:
            return self._shown(rng.integers(low, high, endpoint=True).astype(np.float64)).astype(self.dtype)
        start, end = self.edges[places], self.edges[places + 1]
        drawn = (start + rng.random(len(places)) * (end - start)).astype(self.dtype)
        return np.asarray(np.clip(drawn, low, high))

    @cached_property
    def limits(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The smallest and the largest number of each bin, [b] each; as multiples of a `step`."""
        return self._multiples() if self.step is not None else self._neighbors()

    def fault(self) -> str | None:
        """What is wrong with these bins, in words, or None."""
        if not np.isfinite(self.edges).all() or not np.isfinite(self.edges[-1] - self.edges[0]):
            return "its bounds or edges are not finite"
        if len(self.edges) < 2 or not (np.diff(self.edges) > 0).all():
            return "its edges do not rise; give fewer bins, wider bounds or rising edges"
        if not self._fits():
            return "its dtype cannot hold its bounds; give another dtype"
        if (self.limits[0] > self.limits[1]).any():
            return "one of its bins holds no multiple of its unit; give fewer bins or other edges"
        return None

    def _fits(self) -> bool:
        kind = self.dtype.kind
        top = np.iinfo(self.dtype).max if kind in "iu" else np.finfo(self.dtype).max
        bottom = np.iinfo(self.dtype).min if kind in "iu" else -top
        return bool(np.ceil(self.edges[0]) >= float(bottom) and np.floor(self.edges[-1]) <= float(top))

    def _shown(self, multiples: NDArray[np.float64]) -> NDArray[np.float64]:
        values = multiples * (self.step or 1.0)
        rounded = values if self.digits is None else np.round(values, self.digits)
        return widened(rounded.astype(self.dtype)) if self.dtype.kind == "f" else rounded

    def _multiples(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        low, low_values = self._around(self.edges[:-1])
        high, high_values = self._around(self.edges[1:])
        inside = high_values < self.edges[1:, None]
        inside[-1] |= high_values[-1] == self.edges[-1]
        first = np.where(low_values >= self.edges[:-1, None], low, _NONE).min(axis=1)
        last = np.where(inside, high, -_NONE).max(axis=1)
        return first.astype(np.int64), last.astype(np.int64)

    def _around(self, edges: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        near = np.round(edges / (self.step or 1.0))[:, None] + np.arange(-2.0, 3.0)
        return near, self._shown(near.ravel()).reshape(near.shape)

    def _neighbors(self) -> tuple[NDArray[Any], NDArray[Any]]:
        low, high = self.edges[:-1].astype(self.dtype), self.edges[1:].astype(self.dtype)
        up, down = np.array(np.inf, self.dtype), np.array(-np.inf, self.dtype)
        low = np.where(widened(low) < self.edges[:-1], np.nextafter(low, up), low)
        beyond = widened(high) >= self.edges[1:]
        beyond[-1] = widened(high)[-1] > self.edges[-1]
        return low, np.where(beyond, np.nextafter(high, down), high)


def _found(column: pd.Series) -> tuple[NDArray[np.int64], Any]:
    """`distinct` for numbers: as an Arrow array, which for a column of text never passes through Python."""
    if (spelled := _spelled(column)) is not None:
        return spelled[0], pc.utf8_trim(spelled[1], characters=_BLANKS)
    places, texts = distinct(column)
    return places, pa.array(texts, pa.large_string())


def _told_apart(column: pd.Series) -> tuple[NDArray[np.int64] | None, Sequence[Any]]:
    """Distinct values, and the place of each value among them, -1 for a gap; None where each is its own.

    privacy: pandas hashes raw text by its bytes up to a NUL, or by how it prints, and so takes distinct texts
    for one, spelled as the first record does. So text is told apart by Arrow or Python, only typed numbers and
    times by pandas.
    """
    if (spelled := _spelled(column)) is not None:
        return spelled[0], spelled[1].to_pylist()
    kind = column.dtype.kind
    plain: Any = getattr(column.dtype, "numpy_dtype", column.dtype)
    # another library's type may say that it holds numbers, and know neither to give nor to compare them
    typed = isinstance(plain, np.dtype | pd.DatetimeTZDtype)
    if typed and kind == "f":
        return _factorized(pd.Series(widened(column.to_numpy(dtype=plain, na_value=np.nan))))
    if typed and kind in "biumM":
        return _factorized(column)
    return _apart(column.to_numpy(dtype=object).tolist())


def _factorized(column: pd.Series) -> tuple[NDArray[np.int64], Sequence[Any]]:
    places, found = pd.factorize(column)
    return places.astype(np.int64), list(found)


def _spelled(column: pd.Series) -> tuple[NDArray[np.int64], Any] | None:
    """For a column of text in Arrow memory, its distinct texts as an Arrow array; None for any other."""
    if not (isinstance(column.dtype, pd.StringDtype | pd.ArrowDtype) and column.dtype.kind in "OU"):
        return None
    try:
        texts = pa.array(column.array)
        if texts.type not in (pa.string(), pa.large_string(), pa.string_view()):
            return None
        texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
        encoded = texts.cast(pa.large_string()).dictionary_encode()
    except (pa.ArrowException, ValueError):
        return None  # text that is no Unicode; read value by value, it is mended
    places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return places.astype(np.int64), encoded.dictionary


def _said(texts: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:  # noqa: ANN401  a pyarrow array
    """The number that each text says, or NaN, and whether it says that there is a gap."""
    valid = pc.match_substring_regex(texts, _NUMBER)
    values = np.array(pc.cast(pc.if_else(valid, texts, None), pa.float64()).to_numpy(zero_copy_only=False))
    gaps = np.zeros(len(values), dtype=bool)
    others = np.flatnonzero(~valid.to_numpy(zero_copy_only=False))
    for place, text in zip(others.tolist(), texts.take(others).to_pylist(), strict=True):
        values[place] = _WORDS.get(text.casefold(), np.nan)
        gaps[place] = means_missing(text)
    return values.astype(np.float64), gaps


def _apart(values: Sequence[Any]) -> tuple[NDArray[np.int64] | None, Sequence[Any]]:
    """`_told_apart` for objects: by Python's equality, where no values of two types can be equal."""
    kinds = set(map(type, values))
    if not kinds <= {str, int, float, bool, type(None)} or len(kinds & {int, float, bool}) > 1:
        return None, values  # 1, 1.0 and True are equal, but do not read alike
    order = {value: place for place, value in enumerate(dict.fromkeys(values))}
    return np.array([order[value] for value in values], dtype=np.int64), list(order)


def _take(values: NDArray[Any], places: NDArray[np.int64], gap: float) -> NDArray[Any]:
    return np.append(values, np.array([gap], dtype=values.dtype))[places]


def _trimmed(text: str) -> str:
    text = text.strip(_BLANKS)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _number_text(value: float | np.floating) -> str | None:
    number = float(value)
    if np.isnan(number):
        return None
    return str(int(number)) if abs(number) < EXACT and number.is_integer() else str(value)
