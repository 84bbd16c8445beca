"""Tables: every action of a schema in one pass, enciphered columns turned back, and what a fit refuses to learn.

This removes what names people. It is no guarantee: who somebody is may follow from all that is left together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from privae.actions import dates
from privae.actions.ff1 import ALPHABETS, enciphered, least_length
from privae.actions.mask import masked
from privae.actions.rule import KEYED, SUPPRESSED, Days, Shown, Surrogate, Token
from privae.actions.surrogates import surrogates
from privae.actions.tokens import derived, offsets, tokens
from privae.data.codec import acted, acted_table
from privae.data.column import Column, check_action
from privae.data.schema import Schema, check_actions
from privae.data.values import canonical, distinct, means_missing
from privae.deidentify import detect
from privae.errors import DataError, PrivacyRefused, UsageError
from privae.training.watch import Silent, Watch

Change = Callable[[Sequence[str]], Sequence[str | None]]
"""Texts to what becomes of them."""


def needs_key(schema: Schema) -> bool:
    """Whether an action of the schema follows from the secret of pseudonyms."""
    return any(column.action in KEYED for column in schema.columns)


def check_ready(schema: Schema) -> None:
    """Raise UsageError for an action that the schema does not say, or nobody has confirmed; bounds may be missing."""
    check_actions(schema)
    for column in schema.columns:
        check_action(column)
    if schema.person is not None and schema.person not in {column.name for column in schema.columns}:
        raise UsageError(
            f"the schema does not say what is to become of the person column '{schema.person}'; describe it, "
            'with action = "pseudonymize" or "drop"'
        )


def deidentified(
    frame: pd.DataFrame,
    schema: Schema,
    key: bytes | None,
    mask_text: Change | None = None,
    watch: Watch | None = None,
) -> tuple[pd.DataFrame, Schema]:
    """The table with the action of every column done, and the schema of what came out.

    key: the secret that tokens, surrogates and shifts follow from, where the schema `needs_key`. mask_text: masks what
        looks like an identifier in free text.
    Shapes: n records -> n records in the same order, without the columns that are dropped.
    Guarantee: a record's values follow from the schema, the key and this record alone. There is no promise about who
        can be told from what is left.
    Edges: a gap stays a gap; what an action cannot read becomes "*". In the new schema, what is learned is kept as it
        is now, and all else is not learned.
    Errors: UsageError for a schema that does not say what is to be done; DataError for a table that does not fit it, or
        values that cannot be enciphered.
    """
    check_ready(schema)
    frame, ordered = _fitting(frame, schema)
    if key is None and needs_key(schema):
        raise UsageError("the schema has actions that need a key; give the secret of pseudonyms")
    seen = Silent() if watch is None else watch
    seen.phase("de-identifying", len(ordered.columns))
    done: dict[str, pd.Series] = {}
    for column in ordered.columns:
        if column.name in frame.columns and column.action != "drop":
            done[column.name] = _done(column, frame, schema, key or b"", mask_text)
        seen.advance(1)
    return pd.DataFrame(done, index=frame.index), _after(schema, list(done))


def restored(frame: pd.DataFrame, schema: Schema, key: bytes) -> pd.DataFrame:
    """A de-identified table with the values of its reversible columns as they were; all other columns as they are.

    Errors: DataError for a table that does not fit the schema; UsageError where nothing can be turned back.
    """
    ways = [(c, c.rule) for c in schema.columns if isinstance(c.rule, Token) and c.rule.reversible]
    if not ways:
        raise UsageError("no column is pseudonymized with reversible = true, so nothing can be turned back")
    frame = _fitting(frame, schema)[0]
    changed = {
        column.name: _each(frame[column.name], _cipher(column, rule, key, back=True))
        for column, rule in ways
        if column.name in frame.columns
    }
    return frame.assign(**changed)


def check_learned(frame: pd.DataFrame, schema: object, ok: Sequence[str] = ()) -> None:
    """Refuse a table one of whose learned columns names people, by its cells, before anything is spent.

    ok: columns that a person says are none. Schemas of other records than tables are not looked at.
    Errors: PrivacyRefused, which tells of cells: for the data holder's own terminal (guarantees.md rule 21).
    """
    if isinstance(schema, Schema):
        check_declared(schema, ok)
        frame = acted_table(frame, schema)
        for column in _asked(schema, ok):
            if column.name in frame.columns:
                _refuse(column, frame[column.name])


def check_declared(schema: Schema, ok: Sequence[str] = ()) -> None:
    """Refuse a learned column that names people by its name or its declared categories; no cell is read.

    Errors: PrivacyRefused; UsageError for a name in `ok` that is no learned column.
    """
    if unknown := [name for name in ok if name not in [column.name for column in schema.kept]]:
        raise UsageError(f"the schema has no learned column '{unknown[0]}' that could be confirmed")
    for column in _asked(schema, ok):
        _refuse(column, pd.Series(list(column.texts) if column.kind != "numeric" else [], dtype=object))


def _asked(schema: Schema, ok: Sequence[str]) -> list[Column]:
    return [column for column in schema.kept if column.name not in ok]


def _refuse(column: Column, values: pd.Series) -> None:
    # the name of a column says what it was before its action, so of one that has an action the values tell
    name = column.name if column.action == "keep" else "x"
    found = detect.identifiers(pd.DataFrame({name: values}), [name])
    if name in found:
        raise PrivacyRefused(
            f"column '{column.name}' looks like {found[name]}; give it an action in the schema (privae schema "
            f"proposes one), or say that it is none: --identifier-ok {column.name} (a site: identifier_ok in site.toml)"
        )


def _fitting(frame: pd.DataFrame, schema: Schema) -> tuple[pd.DataFrame, Schema]:
    header = [str(name) for name in frame.columns]
    return frame.set_axis(header, axis=1), schema.ordered(header)


def _done(
    column: Column, frame: pd.DataFrame, schema: Schema, key: bytes, mask_text: Change | None
) -> pd.Series:
    """One column after its action."""
    values, rule = frame[column.name], column.rule
    if column.learned:
        changed = acted(column, values)
        return changed if column.action in ("keep", "generalize") else _as_read(changed, values)
    if isinstance(rule, Shown):
        if rule.text and mask_text is None:
            raise UsageError(
                f"column '{column.name}': free text is masked by what looks for identifiers in it"
            )
        return _each(values, mask_text if rule.text and mask_text else lambda texts: masked(rule, texts))
    if isinstance(rule, Token):
        if rule.reversible:
            return _each(values, _cipher(column, rule, key))
        return _each(values, lambda texts: tokens(key, rule.domain or column.name, texts))
    if isinstance(rule, Surrogate):
        return _each(values, lambda texts: surrogates(key, rule, texts))
    assert isinstance(rule, Days)
    whose = rule.by or schema.person
    if whose not in frame.columns:
        raise DataError(f"the table has no column '{whose}', by which the dates of '{column.name}' are moved")
    return _shifted(values, frame[str(whose)], rule, key)


def _each(values: pd.Series, change: Change) -> pd.Series:
    """A column with each distinct text changed once; gaps and empty texts stay."""
    places, texts = distinct(values)
    told = [place for place, text in enumerate(texts) if text]
    result: list[Any] = [*texts, None]
    for place, text in zip(told, change([texts[place] for place in told]), strict=True):
        result[place] = text
    return pd.Series(result, dtype=object).iloc[places].set_axis(values.index)


def _cipher(column: Column, rule: Token, key: bytes, *, back: bool = False) -> Change:
    """FF1 over the rule's alphabet, tweaked by the domain. Errors: DataError where a text cannot be enciphered."""
    alphabet, tweak = ALPHABETS[rule.alphabet], (rule.domain or column.name).encode()

    def change(texts: Sequence[str]) -> list[str]:
        found = enciphered(texts, derived(key, "ff1"), tweak, alphabet, back=back)
        done = [text for text in found if text is not None]
        if len(done) < len(texts):
            raise DataError(
                f"column '{column.name}' holds values that FF1 cannot encipher: each needs at least "
                f"{least_length(len(alphabet))} characters of {rule.alphabet}, and no other letters or digits; choose "
                "another alphabet, or leave out reversible"
            )
        return done

    return change


def _shifted(values: pd.Series, persons: pd.Series, rule: Days, key: bytes) -> pd.Series:
    """Dates, each moved by the days of whose it is; "*" for nobody's, and for what is no date."""
    (who, names), (what, texts) = distinct(persons), distinct(values)
    days = offsets(key, names, rule.days)
    pairs, places = np.unique(np.stack([who, what], 1), axis=0, return_inverse=True)
    moved: list[str | None] = []
    for person, place in pairs.tolist():
        text = texts[place] if place >= 0 else None
        if text is None or means_missing(text):
            moved.append(text)
        else:
            known = person >= 0 and names[person] != ""
            later = dates.moved(text, days[person], rule.format) if known else None
            moved.append(SUPPRESSED if later is None else later)
    result = pd.Series([*moved, None], dtype=object).iloc[places.reshape(-1)].set_axis(values.index)
    return _as_read(result, values)


def _as_read(done: pd.Series, values: pd.Series) -> pd.Series:
    """What became of a column in the type that it had: text, whole numbers, or times; text where it cannot be."""
    plain = getattr(values.dtype, "numpy_dtype", values.dtype)
    kind = getattr(plain, "kind", "O")
    if kind == "M":
        found = pd.to_datetime(done, format="ISO8601", errors="coerce", utc=True)
        zone = getattr(values.dtype, "tz", None)
        return found.dt.tz_convert(zone) if zone is not None else found.dt.tz_localize(None)
    if done.dtype.kind != "f" and done.dtype != object:
        return done
    if kind in "iu" and done.dtype.kind == "f" and bool((done.isna() | (done % 1 == 0)).all()):
        return done.astype("Int64")
    if kind in "iuf":
        return done
    return pd.Series([canonical(value) for value in done], index=done.index, dtype=object)


def _after(schema: Schema, names: Sequence[str]) -> Schema:
    """The schema of a table after its actions, of which these columns are left."""
    left = {column.name: column for column in schema.columns if column.name in names}
    columns = tuple(_plain(column) for column in left.values())
    facts: dict[str, Any] = {
        "columns": columns,
        "quasi": tuple(name for name in schema.quasi if name in left),
        "sensitive": tuple(name for name in schema.sensitive if name in left),
    }
    if schema.person not in left:
        facts |= {"person": None, "max_rows": None}
    if schema.label not in left:
        facts |= {"label": None}
    return schema.model_copy(update=facts)


def _plain(column: Column) -> Column:
    if column.learned:
        return column.model_copy(update={"action": "keep", "rule": None})
    return Column(name=column.name, kind="category", action="drop")
