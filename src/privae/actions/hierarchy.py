"""Hierarchy files: a value, and ever more general groups of it, one line a value; commas or semicolons, no header.

A file is public, and a person's own, but it may come from anywhere: it is read with suspicion.
"""

import csv
import os
import stat
from pathlib import Path

from pydantic import ValidationError

from privae.actions.rule import MOST_VALUES, SUPPRESSED, Groups
from privae.errors import UsageError, first_fault

_MOST_BYTES = 2**24
_MOST_FIELD = 2**12


def embedded(rule: Groups, folder: Path) -> Groups:
    """The rule with the groups of the level that it names, read from its file beside the schema, and no file.

    Errors: UsageError for a path out of the folder, what is no regular file, a file that is too large or does not
        read, and groups that make no hierarchy.
    """
    if rule.hierarchy is None:
        return rule
    where = f"the hierarchy {rule.hierarchy!r}"
    rows = _rows(_text(folder, rule.hierarchy, where), where)
    groups: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UsageError(f"{where}: line {number} has another number of fields than the first")
        if rule.level >= len(row):
            raise UsageError(f"{where} has {len(row) - 1} levels; the rule asks for level {rule.level}")
        if not row[0] or ("" in row and rule.empty == "refuse"):
            raise UsageError(f'{where}: line {number} has an empty field; fill it, or say empty = "*"')
        groups.setdefault(row[rule.level] or SUPPRESSED, []).append(row[0])
    _check_levels(rows, where)
    made = {name: tuple(held) for name, held in groups.items()}
    try:
        return Groups(groups=made)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_fault(error)[1]}") from None


def _check_levels(rows: list[list[str]], where: str) -> None:
    """Refuse groups of one level that fall apart on the next: then it is no tree, and no level is more general."""
    for level in range(1, len(rows[0]) - 1):
        above: dict[str, str] = {}
        for number, row in enumerate(rows, 1):
            if row[level] and above.setdefault(row[level], row[level + 1]) != row[level + 1]:
                raise UsageError(
                    f"{where}: line {number}: a group of level {level} is in two of level {level + 1}"
                )


def _rows(text: str, where: str) -> list[list[str]]:
    if "\0" in text:
        raise UsageError(f"{where} holds a NUL byte; save it as UTF-8 text")
    lines = text.rstrip().splitlines()
    if len(lines) > MOST_VALUES:
        raise UsageError(f"{where} has more than {MOST_VALUES} lines")
    first = next(iter(lines), "")
    if any(len(line) > _MOST_FIELD for line in lines):
        raise UsageError(f"{where} has a line of more than {_MOST_FIELD} characters")
    sign = ";" if first.count(";") > first.count(",") else ","
    try:
        rows = [[field.strip() for field in row] for row in csv.reader(lines, delimiter=sign, strict=True)]
    except csv.Error:
        raise UsageError(f"{where} does not read as CSV; check its quotes") from None
    if not rows or len(rows[0]) < 2:
        raise UsageError(f"{where} needs a value and a group a line, between commas or semicolons")
    return rows


def _text(folder: Path, name: str, where: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise UsageError(f"{where} must lie in the folder of the schema; give its name there")
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{where} leads out of the folder of the schema; put the file itself there")
        # a link may be put in the file's place at any moment; a pipe would be waited for
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError in some versions
        reason = (getattr(error, "strerror", None) or type(error).__name__).lower()
        raise UsageError(f"{where} cannot be read beside the schema: {reason}") from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UsageError(f"{where} is no regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(_MOST_BYTES + 1)
    finally:
        os.close(handle)
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{where} is larger than {_MOST_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{where} is not UTF-8 text") from None
