"""The public facts of a table, as one TOML file: kinds, bounds, categories, gaps, which column is the label.

Nothing here is read from private data. What is not declared is refused, never inferred in silence.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError

from privae import files
from privae.actions.hierarchy import embedded
from privae.actions.rule import Days, Groups
from privae.data.column import FROZEN, Column, check_column, one_bin_a_value
from privae.data.values import canonical
from privae.errors import DataError, PrivacyRefused, UsageError, first_fault

_TABLE_KEYS = ("label", "rows", "person", "max_rows", "origin", "quasi", "sensitive")
_COLUMN_KEYS = tuple(name for name in Column.model_fields if name != "name")
_Model = TypeVar("_Model", bound=BaseModel)


class _Read(Protocol):
    """What is read from a TOML text."""

    @classmethod
    def loads(cls, text: str) -> Self:
        """The one in a text."""
        ...

    def beside(self, folder: Path) -> Self:
        """This one, with the files that it names in its folder read into it."""
        ...


_Kind = TypeVar("_Kind", bound=_Read)


class Declared(BaseModel):
    """Public facts of records that a TOML file declares, and a table's columns are read by."""

    model_config = FROZEN

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The schema in a TOML file. Errors: UsageError for a file that cannot be read, or is none."""
        return loaded(cls, path, text_of(path))

    @classmethod
    def loads(cls, text: str) -> Self:
        """The schema in a TOML text."""
        raise NotImplementedError

    def beside(self, folder: Path) -> Self:  # noqa: ARG002
        """This schema: it names no files."""
        return self

    def dumps(self) -> str:
        """The TOML text; `loads` gives the same schema back."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the TOML file, whole or not at all."""
        files.write_atomically(Path(path), lambda file: file.write(self.dumps().encode()))

    @property
    def hash(self) -> str:
        """SHA-256 of the schema."""
        return files.digest(self.model_dump(mode="json"))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are read."""
        raise NotImplementedError

    def ordered(self, header: Sequence[str], source: str = "the table") -> Self:
        """This schema, for a table with these columns; others are not read. Errors: DataError for one that lacks."""
        for name in self.columns:
            if list(header).count(name) != 1:
                found = "no" if name not in header else "more than one"
                raise DataError(f"{source} has {found} column '{name}', which the schema declares")
        return self


class Schema(BaseModel):
    """The public facts of a table; columns in the order of the file.

    `rows` is a rough public figure, `person` the column that says who a row is about, `max_rows` how many
    rows one person may have; `origin` is "public" when bounds and categories were read from public data. `quasi` names
    columns that together may tell who a row is about, `sensitive` those that nobody is to learn of a person: what
    `privae deidentify` measures.
    """

    model_config = FROZEN

    columns: tuple[Column, ...]
    label: str | None = None
    rows: int | None = None
    person: str | None = None
    max_rows: int | None = None
    origin: Literal["declared", "public"] = "declared"
    quasi: tuple[str, ...] = ()
    sensitive: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The schema in a TOML file.

        Hierarchies that it names are read, and part of it from then on.
        Errors: UsageError for a file that cannot be read or is no schema; unknown keys with the nearest.
        """
        return loaded(cls, path, text_of(path))

    def beside(self, folder: Path) -> Self:
        """The schema with the groups of its hierarchies, which lie in this folder, in place of their names.

        So the hash of the schema covers them, and a model file needs nothing beside it.
        Errors: UsageError for a hierarchy that cannot be read.
        """
        named = [c for c in self.columns if isinstance(c.rule, Groups) and c.rule.hierarchy is not None]
        made = {c.name: _embedded(c, folder) for c in named}
        return self.model_copy(update={"columns": tuple(made.get(c.name, c) for c in self.columns)})

    @classmethod
    def loads(cls, text: str) -> Self:
        """The schema in a TOML text."""
        read = parsed(text)
        known_keys(read, ("table", "columns"), "the schema")
        table, columns = section(read, "table"), section(read, "columns")
        known_keys(table, _TABLE_KEYS, "[table]")
        for name in columns:
            known_keys(section(columns, name), _COLUMN_KEYS, f"[columns.{name}]")
        built = tuple(
            validated(Column, {"name": n, **facts}, f"[columns.{n}]") for n, facts in columns.items()
        )
        return validated(cls, {"columns": built, **table}, "[table]")

    def to_dict(self) -> dict[str, Any]:
        """The schema as its TOML says it, {"table": ..., "columns": {name: ...}}, without defaults."""
        table = self.model_dump(exclude_defaults=True, exclude={"columns"})
        columns = {column.name: _facts(column) for column in self.columns}
        return {"table": table, "columns": columns} if table else {"columns": columns}

    def dumps(self) -> str:
        """The TOML text; `Schema.loads` gives the same schema back."""
        facts = self.to_dict()
        sections = {"table": facts["table"]} if "table" in facts else {}
        sections |= {f"columns.{toml_key(name)}": of for name, of in facts["columns"].items()}
        written = (
            "\n".join([f"[{section}]", *(f"{key} = {toml_value(value)}" for key, value in of.items())])
            for section, of in sections.items()
        )
        return "\n\n".join(written) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the TOML file, whole or not at all."""
        files.write_atomically(Path(path), lambda file: file.write(self.dumps().encode()))

    @property
    def hash(self) -> str:
        """SHA-256 of the schema, the order of its columns included."""
        facts = self.to_dict()
        return files.digest({**facts, "columns": [[name, of] for name, of in facts["columns"].items()]})

    @property
    def kept(self) -> tuple[Column, ...]:
        """The columns that the model learns, in order."""
        return tuple(column for column in self.columns if column.learned)

    @property
    def bought(self) -> tuple[str, ...]:
        """Names of the kept columns whose categories are still to be bought."""
        return tuple(column.name for column in self.kept if column.categories == "bought")

    def check(self) -> None:
        """Raise UsageError for the first thing that is undeclared, unconfirmed or contradictory."""
        _check_table(self)
        check_actions(self)
        for column in self.columns:
            check_column(column)
        if self.label is not None:
            _check_label(self.label, {column.name: column for column in self.columns})

    def check_records(self) -> None:
        """Raise PrivacyRefused where rows are not units of their own, for whoever charges them as records."""
        if self.person is not None:
            raise PrivacyRefused(
                "the schema declares a person column, and rows charged as records would understate what a person "
                "loses; keep one row a person and remove `person`"
            )

    def ordered(self, header: Sequence[str], source: str = "the table") -> Self:
        """The schema with its columns in the order of a file's header.

        Edges: a dropped column may be absent from the file, and the person column need not be described.
        Errors: DataError for a column that the schema does not declare, that the file lacks, or twice there.
        """
        if double := _first_double(header):
            raise DataError(f"{source} has two columns named '{double}'; rename one")
        known = {column.name: column for column in self.columns}
        for name in header:
            if name not in known and name != self.person:
                hint = _nearest(name, list(known))
                raise DataError(
                    f"{source} has a column '{name}' that the schema does not declare{hint}; "
                    'add it, with action = "drop" if it is not to be learned'
                )
        for column in self.kept:
            if column.name not in header:
                raise DataError(f"{source} has no column '{column.name}', which the schema declares")
        present = [known[name] for name in header if name in known]
        absent = [column for column in self.columns if column.name not in header]
        return self.model_copy(update={"columns": (*present, *absent)})

    def with_categories(self, name: str, values: Sequence[str]) -> Self:
        """The schema after the categories of one column were bought; they are sorted, so that no order leaks.

        Edges: where nothing was released, the column has the single category "other".
        """
        if name not in self.bought:
            raise UsageError(f"the categories of '{name}' are not to be bought")
        return self.model_copy(
            update={"columns": tuple(_filled(c, values) if c.name == name else c for c in self.columns)}
        )


def text_of(path: str | Path) -> str:
    """The text of a schema file. Errors: UsageError for one that cannot be read."""
    try:
        return files.text(Path(path), "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error.strerror).lower() if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the schema {path} cannot be read: {reason}") from None


def loaded(kind: type[_Kind], path: str | Path, text: str) -> _Kind:
    """The schema of a kind in the text of a file. Errors: those of its `loads`, naming the file."""
    try:
        return kind.loads(text).beside(Path(path).parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def parsed(text: str) -> dict[str, Any]:
    """What a TOML text says. Errors: UsageError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the schema is not valid TOML: {str(error).lower()}") from None


def toml_key(name: str) -> str:
    """A key as TOML writes it, quoted where it must be."""
    return tomli_w.dumps({name: 0}).removesuffix(" = 0\n")


def toml_value(value: object) -> str:
    """A value as TOML writes it, lists and tables on one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")


def _check_table(schema: Schema) -> None:
    named = {column.name: column for column in schema.columns}
    if double := _first_double([column.name for column in schema.columns]):
        raise UsageError(f"the schema declares the column '{double}' twice")
    if not schema.kept:
        raise UsageError("the schema keeps no column; there is nothing to learn")
    if any(value is not None and value < 1 for value in (schema.rows, schema.max_rows)):
        raise UsageError("[table] rows and max_rows must be at least 1")
    if schema.max_rows is not None and schema.person is None:
        raise UsageError("[table] max_rows needs person, the column that says who a row is about")
    if schema.person in named and named[schema.person].learned:
        raise UsageError(
            f"the person column '{schema.person}' is not to be learned; give it action = 'drop', or 'pseudonymize'"
        )


def check_actions(schema: Schema) -> None:
    """Raise UsageError for the first thing that actions need and that the schema does not say."""
    names = [column.name for column in schema.columns] + ([schema.person] if schema.person else [])
    for key in ("quasi", "sensitive"):
        if unknown := [name for name in getattr(schema, key) if name not in names]:
            raise UsageError(f"[table] {key} names no column '{unknown[0]}'{_nearest(unknown[0], names)}")
    shifts = [(column, column.rule) for column in schema.columns if isinstance(column.rule, Days)]
    for column, rule in shifts:
        if (rule.by or schema.person) not in names:
            raise UsageError(
                f"column '{column.name}': whose dates are moved alike? name the person column in [table] person, "
                "or in rule.by"
            )
    if len({rule.days for _, rule in shifts}) > 1:
        raise UsageError("all dates of a person move alike, so every shift has the same days")


def _embedded(column: Column, folder: Path) -> Column:
    assert isinstance(column.rule, Groups)
    facts = column.model_dump(exclude={"rule"}, exclude_defaults=True)
    try:
        return Column.model_validate({**facts, "rule": embedded(column.rule, folder)})
    except UsageError as error:
        raise UsageError(f"column '{column.name}': {error}") from None


def _check_label(label: str, named: Mapping[str, Column]) -> None:
    column = named.get(label)
    if column is None or not column.learned:
        raise UsageError(
            f"the label '{label}' is not a kept column of the schema{_nearest(label, list(named))}"
        )
    binned = column.bins is not None or column.edges is not None or one_bin_a_value(column)
    if column.kind == "numeric" and column.bounds is not None and not binned:
        raise UsageError(f"the label '{label}' is numeric; give it bins or edges, or make it a category")


def _filled(column: Column, values: Sequence[str]) -> Column:
    texts = tuple(sorted({text for text in map(canonical, values) if text}))
    other = column.other if texts or column.other is not None else "other"
    return column.model_copy(update={"categories": texts, "other": other})


def _facts(column: Column) -> dict[str, Any]:
    facts = column.model_dump(exclude_defaults=True, exclude={"name"})
    return {name: plain(value) for name, value in facts.items()}


def plain(value: Any) -> Any:  # noqa: ANN401  any TOML value
    """A value as a person writes it in TOML: lists for tuples, 3 for 3.0, within tables too."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


def section(read: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of what was read, empty where it lacks. Errors: UsageError."""
    section = read.get(name, {})
    if not isinstance(section, dict):
        raise UsageError(f"'{name}' is not a section of the schema; write [{name}]")
    return section


def known_keys(read: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise UsageError for a key that is none of the known ones, naming the nearest."""
    for key in read:
        if key not in known:
            raise UsageError(f"{where} has an unknown key '{key}'{_nearest(key, known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def validated(model: type[_Model], facts: Mapping[str, Any], where: str) -> _Model:
    """The model of these facts. Errors: UsageError, naming where and the key."""
    try:
        return model.model_validate(facts)
    except ValidationError as error:
        at, said = first_fault(error)
        key = next((part for part in at if isinstance(part, str)), "")
        raise UsageError(f"{where} {key}: {said}".replace(" :", ":")) from None


def _first_double(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
