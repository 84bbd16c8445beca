"""The verb that declares time series: the clock, the windows, whom the promise protects, and the channels."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from privae.cli import app, examples
from privae.cli import options as given
from privae.cli.terminal import Terminal
from privae.errors import UsageError

if TYPE_CHECKING:
    from privae.data.column import Column


_KEYS = "time id series unit step window stride channel value timezone windows rows"


class Protects(StrEnum):
    """Whom the promise protects."""

    HOUSEHOLD = "household"
    DEVICE = "device"
    DAY = "day"
    WINDOW = "window"


Time = Annotated[
    str, given.option("--time", text="The column that says when: ISO 8601, or seconds since 1970.")
]
Id = Annotated[str | None, given.option("--id", text="The column that says of which household or device.")]
Several = Annotated[
    str | None,
    given.option("--series", text="Of a unit with several: the column that says which, a meter or a room."),
]
Whom = Annotated[
    Protects,
    given.option(
        "--unit", text="Whom the promise protects: all rows of a household or device, a day, a window."
    ),
]
Step = Annotated[
    str, given.option("--step", text="The step of the clock that readings are brought to: 15min, 1h.")
]
Long = Annotated[str, given.option("--window", text="How long a window is: 1d, 6h.")]
Stride = Annotated[
    str | None, given.option("--stride", text="Between the starts of two windows. Default: that of a window.")
]
Channels = Annotated[
    list[str],
    given.option(
        "--channel", text="NAME=LOW:HIGH, public bounds, or NAME=A,B,C, its states; once a channel."
    ),
]
Names = Annotated[
    str | None,
    given.option("--names", text="Of a table with one reading a row: the column that says of what."),
]
Values = Annotated[
    str | None, given.option("--values", text="Of such a table: the column that says how much.")
]
Zone = Annotated[str | None, given.option("--timezone", text="Where the clock hangs: Europe/Rome.")]
Conditions = Annotated[
    list[str] | None,
    given.option("--given", text="What windows are modeled given: hour, or weekday; once each."),
]
Units = Annotated[
    int | None, given.option("--rows", text="Roughly how many units, as you would say it in public.")
]
EachHas = Annotated[
    int | None, given.option("--windows", text="About how many windows a unit has, as made-up units do.")
]


@app.command(
    "series",
    epilog=examples(
        "privae series homes.csv --time time --id home --step 1h --window 1d --channel power=0:5 --rows 1000 -o s.toml",
        "privae series house.csv --time date --unit day --step 10min --window 1d --channel co2=300:2500 -o s.toml",
        "privae fit homes.csv --schema s.toml --epsilon 1 -o homes.privae",
    ),
)
def schema_of_series(  # noqa: PLR0913  one parameter an option
    table: given.Table,
    time: Time,
    step: Step,
    window: Long,
    channel: Channels,
    output: given.Output,
    id_column: Id = None,
    series: Several = None,
    unit: Whom = Protects.HOUSEHOLD,
    stride: Stride = None,
    names: Names = None,
    values: Values = None,
    timezone: Zone = None,
    conditions: Conditions = None,
    windows: EachHas = None,
    rows: Units = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Declare a table of readings: clock, windows, channels, and whom to protect. Reads the header and no row."""
    out = Terminal(quiet, as_json)
    with out.progress(f"reading the header of {table.name}"):
        from privae.cli import request
        from privae.data.tables import read_header
        from privae.series.schema import SeriesSchema

        request.check_outputs(output, (".toml",), [table], replace=False)
        whose = time, id_column, series, unit.value
        cut = step, window, stride, names, values, timezone, windows, rows
        facts = dict(zip(_KEYS.split(), (*whose, *cut), strict=True)) | {
            "conditions": tuple(conditions or ())
        }
        made = _made(SeriesSchema, facts, [_column(text) for text in channel])
        made.ordered(read_header(table), table.name)
        made.save(output)
    protected = f"one {made.unit}" if made.unit in ("household", "device") else f"one {made.unit} of each id"
    fit = f"privae fit {table} --schema {output} --epsilon 1"
    text = f"wrote {output}: it protects {protected}; see that it is right, then:\n  {fit}"
    out.report(text, {"schema": made.to_dict(), "output": output})


def _made(kind: Any, facts: dict[str, Any], channels: "list[Column]") -> Any:  # noqa: ANN401
    from privae.data.schema import validated

    made = validated(
        kind, {**{k: v for k, v in facts.items() if v is not None}, "channels": tuple(channels)}, "series"
    )
    made.check()
    return made


def _column(text: str) -> "Column":
    """A channel from "power=0:5" or "door=open,shut". Errors: UsageError."""
    from privae.cli.request import named_bounds
    from privae.data.column import Column

    name, _, facts = text.rpartition("=")
    if not name.strip() or not facts:
        raise UsageError("--channel is NAME=LOW:HIGH or NAME=A,B,C: power=0:5, door=open,shut")
    if ":" not in facts:
        states = tuple(part.strip() for part in facts.split(","))
        return Column(name=name.strip(), kind="category", categories=states)
    name, bounds = named_bounds(text, "--channel")
    return Column(name=name, kind="numeric", bounds=bounds)
