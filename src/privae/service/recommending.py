"""The verbs of preferences: the schema of ratings, and what a model of them recommends."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from privae.cli import app, examples
from privae.cli import options as given
from privae.cli.terminal import Terminal, aligned
from privae.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from privae.fitted.ratings import FittedRatings
    from privae.vae import VAE

Person = Annotated[str, given.option("--person", text="The column that says who.")]
Item = Annotated[str, given.option("--item", text="The column that says what.")]
Value = Annotated[str | None, given.option("--value", text="The column that says how much; needs --like.")]
Like = Annotated[float | None, given.option("--like", text="From which value on a row counts as liked.")]
Time = Annotated[
    str | None, given.option("--time", text="The column that says when: of several rows the latest counts.")
]
Persons = Annotated[
    int | None, given.option("--rows", text="Roughly how many persons, as you would say it in public.")
]
Catalogue = Annotated[
    Path | None,
    given.option("--items", text="The public catalogue: a text file, one item a line. Default: bought."),
]
Profile = Annotated[
    Path | None,
    given.option("--profile", text="What is liked: a table, of one person or of many. It is sent nowhere."),
]
Alike = Annotated[str | None, given.option("--like-item", text="Instead: what is most like this item.")]
Many = Annotated[int, given.option("-n", text="How many items for each person. Default: 10.")]
Seen = Annotated[bool, given.option("--seen", text="Also what is in the profile already.")]


@app.command(
    "ratings",
    epilog=examples(
        "privae ratings plays.csv --person user --item film --value stars --like 4 --rows 20000 -o plays.schema.toml",
        "privae fit plays.csv --schema plays.schema.toml --epsilon 3 -o plays.privae",
    ),
)
def schema_of_ratings(  # noqa: PLR0913  one parameter an option
    table: given.Table,
    person: Person,
    item: Item,
    output: given.Output,
    value: Value = None,
    like: Like = None,
    time: Time = None,
    rows: Persons = None,
    items: Catalogue = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Declare a table of ratings: who, what, and what counts as liked. Reads the header and no row."""
    out = Terminal(quiet, as_json)
    with out.progress(f"reading the header of {table.name}"):
        from privae import files
        from privae.cli import request
        from privae.data.ratings import RatingSchema
        from privae.data.tables import read_header

        request.check_outputs(output, (".toml",), [table, items], replace=False)
        lines = "" if items is None else files.text_in(items).removeprefix("\ufeff")
        names = tuple(filter(None, map(str.strip, lines.splitlines())))
        declared: Any = "bought" if items is None else names
        made = RatingSchema(
            person=person, item=item, value=value, like=like, time=time, items=declared, rows=rows
        )
        made.check()
        made.ordered(read_header(table), table.name).save(output)
    then = f"privae plan {table} --schema {output} --epsilon 1"
    out.report(f"wrote {output}; see what a fit would cost:\n  {then}", {"schema": made.model_dump()})


@app.command(
    epilog=examples(
        "privae recommend plays.privae --profile mine.csv",
        "privae recommend plays.privae --profile customers.parquet -n 20 -o recommended.parquet",
        'privae recommend plays.privae --like-item "Alien"',
    )
)
def recommend(  # noqa: PLR0913  one parameter an option
    model: given.Model,
    profile: Profile = None,
    like_item: Alike = None,
    count: Many = 10,
    seen: Seen = False,
    output: given.MaybeOutput = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Recommend items to persons who need not have been in the fit; their profile stays on this machine."""
    out = Terminal(quiet, as_json)
    if (profile is None) == (like_item is None):
        raise UsageError("name either --profile, what somebody likes, or --like-item, one item")
    with out.progress(f"loading {model.name}") as watch:
        from privae.cli import request
        from privae.data.tables import write_table

        request.check_outputs(output, request.TABLES, [model, profile])
        fitted = request.load(model)
        fitted.of_ratings()
        watch.phase("ranking", 1)
        found = fitted.nearest(like_item, count) if profile is None else _ranked(fitted, profile, count, seen)
        if output is not None:
            write_table(found, output)
    promise = "" if fitted.guarantee.holds else f"{fitted.guarantee.sentence()}\n"
    if output is None:
        rows = [
            (str(name) for name in found.columns),
            *(map(_shown, row) for row in found.itertuples(index=False)),
        ]
        out.answer(promise + aligned([tuple(row) for row in rows]), {"items": found.to_dict("records")})
        return
    out.report(f"{promise}wrote {output}", {"output": output, "rows": len(found)})


def _ranked(fitted: "VAE", path: Path, count: int, seen: bool) -> "pd.DataFrame":
    """What is recommended for the persons of a file; without a column of persons, for the one whose items it has."""
    from privae.data.tables import read_table

    schema, frame = fitted.of_ratings().schema, read_table(path)
    if schema.item not in frame.columns:
        raise UsageError(f"{path.name} has no column '{schema.item}', which names what is liked")
    named = schema.person in frame.columns
    if not named and not len(frame):
        return fitted.recommend([], count, exclude_seen=not seen)
    found = fitted.recommend(_own(frame, fitted.of_ratings()), count, exclude_seen=not seen)
    return found if named else found.drop(columns=schema.person)


def _own(frame: "pd.DataFrame", fitted: "FittedRatings") -> "pd.DataFrame":
    """The table, with what its schema asks for besides: one person, a liked value, one time."""
    schema = fitted.schema
    missing: dict[str, Any] = {name: "1" for name in schema.columns if name not in frame.columns}
    if schema.value in missing:
        missing[str(schema.value)] = schema.like
    return frame.assign(**missing)


def _shown(value: Any) -> str:  # noqa: ANN401  a cell
    return f"{value:.4f}" if isinstance(value, float) else str(value)
