"""The verbs that apply a model to records: score, whole tables or reading by reading, and encode."""

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from privae.cli import app, examples
from privae.cli import options as given
from privae.cli.terminal import Terminal, aligned
from privae.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from privae.fitted.series import FittedSeries
    from privae.vae import VAE

_TOP, _MOST_DRAWN, _MOST_WINDOWS = 20, 48, 6
_LONGEST = 1 << 20  # characters of a line

MaybeData = Annotated[
    Path | None, given.argument("[DATA]", "A table, or images (.npz); without it, --follow reads lines.")
]
Follow = Annotated[
    bool,
    given.option(
        "--follow",
        text="Of series: read CSV from standard input, and answer every line with one line: its score, that of the "
        "window so far, and the share of the model's own windows that are as strange there.",
    ),
]
Points = Annotated[
    bool,
    given.option(
        "--points", text="Of series: a score for every step, and what was expected, beside windows."
    ),
]


@app.command(
    epilog=examples(
        "privae score patients.privae new.csv -o scores.csv",
        "privae score patients.privae new.csv --top 20 --by tail     (a model of recipe detection)",
        "privae score scans.privae new.npz --heat-map strange.png    (a model of recipe detection, or of series)",
        "privae score homes.privae new.csv --points -o points.csv    (a model of series)",
        "tail -f -n +1 meter.csv | privae score homes.privae --follow",
    )
)
def score(  # noqa: PLR0913  one parameter an option
    model: given.Model,
    data: MaybeData = None,
    top: given.Top = None,
    by: given.ScoreBy = None,
    heat_map: given.HeatMap = None,
    points: Points = False,
    follow: Follow = False,
    output: given.MaybeOutput = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Score records: higher is stranger. Scores tell about your records, so keep them as you keep those."""
    out = Terminal(quiet, as_json)
    others = any(value is not None for value in (data, top, by, heat_map, output)) or points
    _check(data, top, (follow, others))
    if data is None:
        _follow(out, model)
        return

    def computed(fitted: "VAE", x: Any) -> Any:  # noqa: ANN401
        if points:
            return _of_points(fitted, x, (by, heat_map))
        scores = fitted.decision_function(x, by)
        if heat_map is not None:
            _draw(fitted, x, (scores, top), (heat_map, [model, data]))
        return scores

    names, scores = _applied(out, (model, data, output), computed, named=not points)
    import pandas as pd

    if heat_map is not None:
        out.note(f"wrote {heat_map}: the strangest, and where they are strange")
    frame = scores if points else pd.DataFrame({**names, "score": scores})
    _tell(out, frame, top, output)


def _check(data: Path | None, top: int | None, following: tuple[bool, bool]) -> None:
    """Raise UsageError for options that do not go together. following: whether asked for, and beside other options."""
    if top is not None and top < 1:
        raise UsageError("--top must be at least 1")
    if all(following):
        raise UsageError("--follow reads lines and writes lines; leave out all but the model")
    if data is None and not following[0]:
        raise UsageError("name the records to score, or read them line by line with --follow")


def _tell(out: Terminal, frame: "pd.DataFrame", top: int | None, output: Path | None) -> None:
    """Scores to a file, or the strangest ones to the screen."""
    if top is not None or output is None:
        frame = frame.sort_values("score", ascending=False, kind="stable").head(top or _TOP)
    head = [str(name) for name in frame.columns]
    if output is None:
        shown = [tuple(map(_shown, row)) for row in frame.itertuples(index=False, name=None)]
        out.answer(aligned([tuple(head), *shown]), {"scores": frame.astype(object).to_dict("records")})
        return
    from privae.data.tables import write_table

    write_table(frame, output)
    first = " (the first is 1)" if head[0] == "row" else ""
    rest = ", ".join(head[1:]).replace("score", "score (higher = stranger)", 1)
    out.report(f"wrote {output}: {head[0]}{first}, {rest}", {"output": output})


def _shown(value: Any) -> str:  # noqa: ANN401
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@app.command(epilog=examples("privae encode patients.privae new.csv -o codes.parquet"))
def encode(
    model: given.Model,
    data: given.Data,
    output: given.Output,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Write latent codes, one row a record. They tell about your records, so keep them as you keep those."""
    out = Terminal(quiet, as_json)
    names, codes = _applied(out, (model, data, output), lambda fitted, x: fitted.transform(x))
    import pandas as pd

    from privae.data.tables import write_table

    width = codes.shape[1]
    frame = pd.DataFrame(codes, columns=[f"z{i}" for i in range(width)])
    if "row" not in names:
        frame = pd.concat([pd.DataFrame(names), frame], axis=1)
    write_table(frame, output)
    out.report(f"wrote {output}: {width} codes a record", {"output": output, "codes": width})


def _of_points(fitted: "VAE", x: "pd.DataFrame", others: tuple[str | None, Path | None]) -> "pd.DataFrame":
    from privae.fitted.following import points

    if others != (None, None):
        raise UsageError("--points has one score; leave out --by and --heat-map")
    return points(_series(fitted), x)


def _series(fitted: "VAE") -> "FittedSeries":
    from privae.fitted.series import FittedSeries

    if not isinstance(fitted.fitted_, FittedSeries):
        raise UsageError(
            "readings are scored one by one by a model of series, of recipe auto; fit one with a schema of [series]"
        )
    return fitted.fitted_


def _draw(
    fitted: "VAE",
    x: Any,  # noqa: ANN401
    what: tuple[Any, int | None],
    target: tuple[Path, list[Path]],
) -> None:
    """The strangest images, or windows, as a picture. what: scores, how many; target: the PNG, and what is read."""
    import numpy as np

    from privae.cli import request
    from privae.fitted.following import explained
    from privae.fitted.series import FittedSeries
    from privae.report import picture

    path, sources = target
    request.check_outputs(path, (".png",), sources)
    fitted.heat_map(x[:0])  # refuses a model that has none, before anything is computed
    scores, top = what
    order = np.argsort(-scores, kind="stable")
    if isinstance(fitted.fitted_, FittedSeries):
        chosen = order[: min(top or _MOST_WINDOWS, _MOST_WINDOWS)]
        picture.windows(explained(fitted.fitted_, x, (chosen, scores)), path)
        return
    first = order[: min(top or _TOP, _MOST_DRAWN)]
    names = [f"image {place + 1}: {scores[place]:.3g}" for place in first]
    picture.heats(x[first], fitted.heat_map(x[first]), names, path)


def _follow(out: Terminal, model: Path) -> None:
    """Read CSV lines, and answer each with one line. What does not read as a row is answered with empty scores."""
    with out.progress(f"loading {model.name}"):
        from privae.cli import request
        from privae.fitted.following import Follower

        fitted = _series(request.load(model))
        follower = Follower(fitted)
    schema = fitted.schema
    named = [name for name in (schema.id, schema.series, schema.time) if name is not None]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    rows = _rows(sys.stdin)
    header = next(rows, None)
    if header is None:
        raise DataError("standard input is empty: the first line must be the header")
    schema.ordered(header, "standard input")
    writer.writerow([*named, "score", "window", "share"])
    sys.stdout.flush()
    for cells in rows:
        row = dict(zip(header, cells, strict=False))
        whole = len(cells) == len(header)
        found = follower.push(row) if whole else dict.fromkeys(("score", "window", "share"))
        told = ["" if value is None else f"{value:.4g}" for value in found.values()]
        writer.writerow([*(row.get(name, "") for name in named), *told])
        sys.stdout.flush()


def _rows(lines: TextIO) -> Iterator[list[str]]:
    """The cells of every line that is not blank. Errors: DataError for a line that is too long, or no text."""
    csv.field_size_limit(_LONGEST)  # of the whole process, which may have set another one
    try:
        # no more of a line than can be a row is ever held
        while line := lines.readline(_LONGEST + 1):
            if len(line) > _LONGEST:
                raise DataError("a line of standard input is too long for a row of readings")
            if line.strip():
                yield next(csv.reader([line.lstrip("\ufeff").strip("\r\n")]))
    except UnicodeDecodeError:
        raise DataError("standard input is not UTF-8 text") from None
    except csv.Error:
        raise DataError("a line of standard input does not read as CSV; check its quotes") from None
    except BrokenPipeError:
        raise typer.Exit from None


def _applied(
    out: Terminal,
    paths: tuple[Path, Path, Path | None],
    compute: Callable[["VAE", Any], Any],
    *,
    named: bool = True,
) -> tuple[dict[str, Any], Any]:
    """What a model computes of the records in a file, and how these are named; the output is checked first."""
    model, data, output = paths
    with out.progress(f"loading {model.name}") as watch:
        from privae.cli import request

        request.check_outputs(output, request.TABLES, [model, data])
        fitted = request.load(model)
        request.check_kind(fitted, data, "reads")
        watch.phase(f"reading {data.name}", 1)
        x, _ = request.read(data)
        watch.phase("computing", 1)
        return request.names_of(fitted, x) if named else {}, compute(fitted, x)
