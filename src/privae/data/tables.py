"""Tables as files: CSV (commas, UTF-8, a header) and Parquet; clear faults, whole writes.

privacy: no message holds a value of a cell or a count; column names and line numbers are all that is said.
"""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from privae import files
from privae.errors import DataError, UsageError

_SUFFIXES = (".csv", ".parquet")
_BLOCK = 1 << 22
_LONGEST_FIELD = 1 << 26
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_INDEX = re.compile(r"__index_level_\d+__")
_WHOLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}


@dataclass(frozen=True)
class _Source:
    """A file that is read several times. clear: what is in a sealed one, which is opened once, in memory."""

    path: Path
    clear: bytes | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def parquet(self) -> bool:
        return _suffix(self.path) == ".parquet"

    def open(self) -> BinaryIO:
        return self.path.open("rb") if self.clear is None else BytesIO(self.clear)

    def for_arrow(self) -> Any:  # noqa: ANN401  what pyarrow reads
        return self.path if self.clear is None else pa.BufferReader(self.clear)


def read_header(path: str | Path) -> tuple[str, ...]:
    """The names of the columns of a table, reading no record.

    Errors: UsageError for a file that is absent or of another suffix; DataError for an empty file, a wrong
        delimiter, columns without a name or with the same one.
    """
    return _header(_readable(Path(path)))


def _header(source: _Source) -> tuple[str, ...]:
    names = _parquet_names(source) if source.parquet else _csv_names(source)
    if not names:
        raise DataError(f"{source.name} is empty: it has no header")
    if len(names) == 1:
        for sign, word in _DELIMITERS.items():
            if sign in names[0]:
                raise DataError(
                    f"{source.name}: the header is separated by {word}; save the table with commas"
                )
    if "" in names:
        raise DataError(f"{source.name}: column {names.index('') + 1} has no name; name it or remove it")
    double = [name for name, times in Counter(names).items() if times > 1]
    if double:
        raise DataError(f"{source.name} has two columns named '{double[0]}'; rename one")
    return names


def read_table(path: str | Path) -> pd.DataFrame:
    """The records of a table: from CSV every cell as text, from Parquet typed.

    Edges: a header alone gives no records; an index that pandas wrote to Parquet without a name is left out.
    Errors: as `read_header`; DataError for a line with more or fewer fields than the header, text that is not
        UTF-8, NUL bytes, an open quote, or a damaged Parquet file.
    """
    source = _readable(Path(path))
    names = _header(source)
    return _read_parquet(source, names) if source.parquet else _read_csv(source, names)


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write records to .csv or .parquet, whole or not at all; the index is not written.

    Errors: UsageError for another suffix or a folder that cannot be written; ResourceError for a full disk.
    """
    path = Path(path)
    if _suffix(path) == ".csv":
        files.write_atomically(path, lambda file: frame.to_csv(file, index=False, lineterminator="\n"))
    else:
        files.write_atomically(path, lambda file: frame.to_parquet(file, index=False))


def _suffix(path: Path) -> str:
    suffix = files.inner(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"{path.name} is neither .csv nor .parquet; name a file with one of these endings")
    return suffix


def _readable(path: Path) -> _Source:
    _suffix(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    try:
        with files.opened(path) as file:
            return _Source(path, file.getvalue() if isinstance(file, BytesIO) else None)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {(error.strerror or 'unknown reason').lower()}") from None


def _csv_names(source: _Source) -> tuple[str, ...]:
    try:
        return tuple(name.strip() for name in next(_rows(source), (0, []))[1])
    except UnicodeDecodeError:
        _check_text(source)  # says the line; the header may lie in the same buffer as a later fault
        raise
    except csv.Error:
        raise DataError(f"{source.name}: the header does not read as CSV; check its quotes") from None


def _rows(source: _Source, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of the line that it ends on."""
    csv.field_size_limit(_LONGEST_FIELD)
    with TextIOWrapper(source.open(), "utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=strict)
        for row in reader:
            if row:
                yield reader.line_num, row


def _check_text(source: _Source) -> bool:
    """Raise DataError for NUL bytes and text that is not UTF-8, naming the line; whether quotes pair up."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, quotes = 1, 0
    with source.open() as file:
        while True:
            block = file.read(_BLOCK)
            if (place := block.find(b"\0")) >= 0:
                line += block.count(b"\n", 0, place)
                raise DataError(f"{source.name}: line {line} holds a NUL byte; save the table as UTF-8 text")
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += block.count(b"\n", 0, error.start)
                raise DataError(
                    f"{source.name}: line {line} is not UTF-8 text; save the table as UTF-8"
                ) from None
            if not block:
                return quotes % 2 == 0
            quotes += block.count(b'"')
            line += block.count(b"\n")


def _read_csv(source: _Source, names: tuple[str, ...]) -> pd.DataFrame:
    if not _check_text(source):
        _check_quotes(source)
    records = _rows(source)
    next(records, None)
    if next(records, None) is None:
        return pd.DataFrame({name: pd.Series(dtype="str") for name in names})
    ragged: list[int] = []

    def skip(row: Any) -> str:  # noqa: ANN401  pyarrow.csv.InvalidRow
        ragged.append(row.actual_columns)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            source.for_arrow(),
            pyarrow.csv.ReadOptions(column_names=list(names), skip_rows_after_names=1, block_size=_BLOCK),
            pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, check_utf8=False
            ),
        )
    except pa.ArrowException:
        _name_ragged_line(source, len(names))
        raise DataError(f"{source.name} does not read as CSV; check its quotes and its line ends") from None
    if ragged:
        _name_ragged_line(source, len(names))
        raise DataError(f"{source.name} has lines with more or fewer fields than the header")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _check_quotes(source: _Source) -> None:
    """Raise DataError for a quote that is never closed; a lone one inside an unquoted field is text."""
    line = 0
    try:
        for last, _ in _rows(source, strict=True):
            line = last
    except csv.Error:
        raise DataError(
            f"{source.name}: a quote opened after line {line} does not close rightly; mend it"
        ) from None


def _name_ragged_line(source: _Source, width: int) -> None:
    """Raise DataError for the first line whose fields are not as many as the header's, if there is one."""
    try:
        for line, row in _rows(source):
            if len(row) != width:
                more = "more" if len(row) > width else "fewer"
                raise DataError(
                    f"{source.name}: line {line} has {more} fields than the header; check its commas"
                )
    except csv.Error:
        raise DataError(f"{source.name} does not read as CSV; check its quotes") from None


def _parquet_names(source: _Source) -> tuple[str, ...]:
    try:
        names = pyarrow.parquet.read_schema(source.for_arrow()).names
    except (pa.ArrowException, OSError, ValueError):
        raise DataError(f"{source.name} is not a Parquet file, or it is damaged; write it again") from None
    return tuple(name.strip() for name in names if not _INDEX.fullmatch(name))


def _read_parquet(source: _Source, names: tuple[str, ...]) -> pd.DataFrame:
    try:
        # not read_table: it would read the names of folders as columns
        table = pyarrow.parquet.ParquetFile(source.for_arrow()).read()
        kept = [place for place, name in enumerate(table.column_names) if not _INDEX.fullmatch(name)]
        # privacy: whole numbers keep their type beside a gap, so that no record changes how another one reads
        frame: pd.DataFrame = table.select(kept).to_pandas(ignore_metadata=True, types_mapper=_WHOLE.get)
    except (pa.ArrowException, OSError, ValueError, NotImplementedError):
        raise DataError(
            f"{source.name} is a damaged Parquet file, or one that pandas cannot hold; write it again"
        ) from None
    return frame.set_axis(list(names), axis=1)
