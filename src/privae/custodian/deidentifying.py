"""The verb that de-identifies a table: every action of its schema, once, before anybody learns from it."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from privae import files
from privae.cli import app, examples
from privae.cli import options as given
from privae.cli.terminal import Terminal, aligned
from privae.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from privae.custody.pseudonyms import PseudonymKey
    from privae.data.schema import Schema
    from privae.deidentify.measures import Measures
    from privae.deidentify.table import Change
    from privae.training.watch import Watch


class Language(StrEnum):
    """The language of free text."""

    EN = "en"
    ZH = "zh"


SchemaFile = Annotated[
    Path, given.option("--schema", text="The table's schema, with an action for each column.")
]
KeyFile = Annotated[
    Path | None,
    given.option(
        "--key",
        text="The file of the secret that tokens, shifts and made-up values follow from. Default: your own, in "
        "$PRIVAE_PSEUDONYM_KEY_FILE or the settings' folder; made when first needed.",
    ),
]
Figures = Annotated[
    Path | None,
    given.option("--report", text="Write k-anonymity and the like here (.json), for the data holder only."),
]
Context = Annotated[
    Language | None,
    given.option(
        "--context",
        text="Where free text is masked, weigh the words around numbers, too, English or Chinese: by Presidio, extra "
        "text. Default: forms and checksums alone.",
    ),
]
Reverse = Annotated[
    bool, given.option("--reverse", text="Turn what is reversible back, with the key that was used.")
]
_ENDINGS = (".csv", ".parquet")
_NOT_COVERED = (
    "this removes what names people. Who somebody is may still follow from what is left: it is no guarantee"
)


@app.command(
    epilog=examples(
        "privae deidentify patients.csv --schema patients.schema.toml -o clean.csv",
        "privae deidentify visits.parquet --schema visits.toml --key study.key -o clean.parquet --report figures.json",
        "privae deidentify clean.csv --schema patients.schema.toml --reverse -o back.csv",
        "privae fit clean.csv --schema clean.schema.toml --epsilon 1",
    )
)
def deidentify(  # noqa: PLR0913  one parameter an option
    table: given.Table,
    schema: SchemaFile,
    output: given.Output,
    key: KeyFile = None,
    report: Figures = None,
    context: Context = None,
    reverse: Reverse = False,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Drop, mask, pseudonymize, generalize: each column as its schema says. Writes the result's schema, too."""
    out = Terminal(quiet, as_json)
    with out.progress(f"reading {table.name}") as watch:
        from privae.data.schema import Schema
        from privae.data.tables import read_header, read_table
        from privae.deidentify import table as acting

        described = files.inner(output).with_suffix(".schema.toml")
        _check_outputs((output, described, report), [table, schema, key], reverse=reverse)
        declared = Schema.load(schema)
        acting.check_ready(declared)
        if report is not None and not declared.quasi:
            raise UsageError(
                "--report measures quasi-identifiers; name them in the schema: [table] quasi = [...]"
            )
        declared = declared.ordered(read_header(table), table.name)
        secret, mask = _secret(declared, key, reverse=reverse), _text_masker(declared, context)
        watch.phase(f"reading {table.name}", 1)
        figures = _write(
            (output, described, report), read_table(table), declared, (secret, mask), watch, reverse=reverse
        )
    if reverse:
        out.report(f"wrote {output}: it names people again", {"output": output})
    else:
        _say(out, (output, described, report), declared, secret, figures)


def _write(
    outputs: tuple[Path, Path, Path | None],
    frame: "pd.DataFrame",
    schema: "Schema",
    by: "tuple[PseudonymKey | None, Change | None]",
    watch: "Watch",
    *,
    reverse: bool,
) -> "dict[str, Measures] | None":
    """Write what becomes of a table, and the schema of that; what was measured, if anything was.

    by: the secret, and what masks free text, where an action needs them.
    """
    from privae.data.tables import write_table
    from privae.deidentify import table as acting

    output, described, report = outputs
    key, mask = by
    secret = None if key is None else key.secret
    if reverse:
        write_table(acting.restored(frame, schema, secret or b""), output)
        return None
    done, after = acting.deidentified(frame, schema, secret, mask, watch)
    figures = _measured((frame, done), (schema, after), report, watch)
    write_table(done, output)
    after.save(described)
    return figures


def _check_outputs(
    outputs: tuple[Path, Path, Path | None], sources: list[Path | None], *, reverse: bool
) -> None:
    from privae.cli import request

    output, described, report = outputs
    request.check_outputs(output, _ENDINGS, sources)
    if reverse and report is not None:
        raise UsageError("--report measures what de-identifying leaves; leave it out with --reverse")
    if not reverse:
        request.check_outputs(described, (".toml",), sources, replace=False)
    request.check_outputs(report, (".json",), [*sources, output, described])


def _secret(schema: "Schema", path: Path | None, *, reverse: bool) -> "PseudonymKey | None":
    """The secret, where an action needs it; made if it is the first time, but not to turn anything back."""
    from privae.custody.pseudonyms import pseudonym_key
    from privae.deidentify.table import needs_key

    return pseudonym_key(path, make=not reverse) if reverse or needs_key(schema) else None


def _masks_text(schema: "Schema") -> bool:
    from privae.actions.rule import Shown

    return any(isinstance(column.rule, Shown) and column.rule.text for column in schema.columns)


def _text_masker(schema: "Schema", context: Language | None) -> "Change | None":
    """What masks identifiers in free text, where a column asks for it. Errors: UsageError, before anything is read."""
    from privae.deidentify import text

    if not _masks_text(schema):
        if context is not None:
            raise UsageError(
                "--context is for free text, and no column is masked with rule = { text = true }"
            )
        return None
    if context is None:
        return text.masked
    text.analyzer()  # says now if the extra is missing
    return partial(text.masked, language=context.value, context=True)


def _measured(
    tables: "tuple[pd.DataFrame, pd.DataFrame]",
    schemas: "tuple[Schema, Schema]",
    report: Path | None,
    watch: "Watch",
) -> "dict[str, Measures] | None":
    """How alike rows are before and after, where the schema names quasi-identifiers; {"before", "after"}."""
    import json

    if not schemas[0].quasi:
        return None
    from privae.deidentify.measures import measured

    watch.phase("measuring", 2)
    found = {}
    for name, table, schema in zip(("before", "after"), tables, schemas, strict=True):
        found[name] = measured(table, list(schema.quasi), list(schema.sensitive))
        watch.advance(1)
    if report is not None:
        content = {name: measures.to_dict() for name, measures in found.items()}
        files.write_secretly(report, json.dumps(content, indent=2).encode())
    return found


def _say(
    out: Terminal,
    written: tuple[Path, Path, Path | None],
    schema: "Schema",
    secret: "PseudonymKey | None",
    figures: "dict[str, Measures] | None",
) -> None:
    from privae.deidentify.measures import report as compared
    from privae.deidentify.text import UNFOUND

    output, described, report = written
    words = {column.name: _words(column) for column in schema.columns}
    rows = [("column", "what was done"), *words.items()]
    lines = [aligned(rows), ""]
    if _masks_text(schema):
        lines += [UNFOUND, ""]
    if figures is not None:
        lines += [compared(figures["before"], figures["after"]), ""]
    if secret is not None:
        made = "a new key was made and is kept in" if secret.created else "the key is that in"
        lines += [
            f"{made} {secret.path}; who has it can tell whose a token is, so keep it from whoever gets the table"
        ]
    lines += [f"wrote {output} and {described}; {_NOT_COVERED}"]
    fields = {
        "output": output,
        "schema": described,
        "columns": words,
        "key": None if secret is None else secret.path,
        "key_made": secret is not None and secret.created,
        "measures": {name: measures.to_dict() for name, measures in (figures or {}).items()} or None,
        "report": report,
    }
    out.report("\n".join(lines), fields)


def _words(column: Any) -> str:  # noqa: ANN401  a Column
    plain = {"keep": "kept as it is", "drop": "dropped"}
    return plain.get(column.action) or str(column.rule.words)
