"""The verbs of a stream: open it with one charge, add a day, show the means of the last days."""

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from privae.cli import examples, streams
from privae.cli import options as given
from privae.cli.terminal import Terminal, aligned
from privae.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from privae.continual.plan import ContinualPlan
    from privae.continual.release import Continual


class Protect(StrEnum):
    """Whom a stream protects: a unit with all of its steps, or one step of a unit."""

    UNIT = "unit"
    STEP = "step"


Stream = Annotated[Path, given.argument("FOLDER", "The folder of the stream.")]
Day = Annotated[Path, given.argument("DATA", "The rows of one step: a table (.csv or .parquet).")]
Bounds = Annotated[
    list[str] | None,
    given.option(
        "--bounds",
        text="A number and its public bounds: power=0:5. Once for each number; never read off the data.",
    ),
]
Agreed = Annotated[
    Path | None, given.option("--plan", text="Instead of the options: their choices in a file (.toml).")
]
Steps = Annotated[int | None, given.option("--steps", text="How many steps the stream has at most: 365.")]
Protected = Annotated[
    Protect | None,
    given.option(
        "--protect",
        text="unit: a home with all of its days, however long; much noise. step: one day of a home; little "
        "noise, but a habit that shows every day is not hidden. No default.",
    ),
]
Units = Annotated[
    int | None,
    given.option("--units", text="Roughly how many homes a step has, as you would say it in public."),
]
Gaps = Annotated[
    bool | None,
    given.option(
        "--gaps/--no-gaps",
        text="Whether a home may lack some numbers (default). Without, it counts whole or not at all: less noise.",
    ),
]
Window = Annotated[
    int | None,
    given.option("--best-for", text="Of how many steps a mean is to have least noise. Default: 7."),
]
Who = Annotated[str | None, given.option("--who", text="What a unit is called. Default: home.")]
When = Annotated[str | None, given.option("--when", text="What a step is called. Default: day.")]
Unit = Annotated[str, given.option("--unit", text="The column that names the home or device.")]
Named = Annotated[
    str | None,
    given.option(
        "--day", text="The public name of the step. Default: the name of the file, without its ending."
    ),
]
Moved = Annotated[str | None, given.option("--ledger", text="Where the data set's ledger is, if it moved.")]
Last = Annotated[int, given.option("--last", text="How many steps a mean is over. Default: 7.")]
Plot = Annotated[Path | None, given.option("--plot", text="Draw the means with their error, as a PNG.")]


@streams.command(
    "open",
    epilog=examples(
        "privae stream open fleet --bounds power=0:5 --bounds indoor=5:35 --steps 365 --epsilon 1 --units 1000 "
        "--protect step",
        "privae stream open fleet --plan stream.toml --ledger homes.ledger",
    ),
)
def open_stream(  # noqa: PLR0913  one parameter an option
    folder: Stream,
    bounds: Bounds = None,
    plan: Agreed = None,
    steps: Steps = None,
    epsilon: given.Epsilon = None,
    delta: given.Delta = None,
    units: Units = None,
    protect: Protected = None,
    gaps: Gaps = None,
    best_for: Window = None,
    who: Who = None,
    when: When = None,
    ledger: given.Charged = None,
    grant: given.Granted = "",
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Open a stream in a new folder: all of its steps are charged now, once, before anything is released.

    Each step releases noisy sums and counts over all homes. FOLDER/released.csv is for everybody. FOLDER/secret.state
    takes the noise away: keep it as secret as the data, and do not restore it from a backup.
    """
    out = Terminal(quiet, as_json)
    options: dict[str, Any] = {
        "steps": steps,
        "epsilon": epsilon,
        "delta": delta,
        "units": units,
        "gaps": gaps,
    }
    options |= {"protect": protect and str(protect), "window": best_for, "who": who, "when": when}
    with out.progress("choosing the noise"):
        from privae.log import store

        made = _planned(plan, bounds, {name: value for name, value in options.items() if value is not None})
        opened = _charged(folder, made, ledger, grant)
    text, fields = _opened(folder, made)
    out.report(text, fields | {"folder": opened.folder, "ledger": ledger and store.shown(ledger)})


def _charged(folder: Path, made: "ContinualPlan", ledger: str | None, grant: str) -> "Continual":
    """The stream, opened, and charged to the ledger or to a grant of it."""
    from privae.continual.release import Continual
    from privae.custody import budgets
    from privae.training.group import ALONE

    return Continual.open(folder, made, budgets.to_charge(ledger, grant, ALONE))


@streams.command("add", epilog=examples("privae stream add fleet 2026-03-01.csv --unit home"))
def add_step(  # noqa: PLR0913  one parameter an option
    folder: Stream,
    data: Day,
    unit: Unit,
    day: Named = None,
    ledger: Moved = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Release the next step from a table of one row a home; of several rows, their mean counts.

    A cell that does not read as a number is a gap, and values beyond the bounds count as the bounds. Add every day,
    also an empty one: that a day is missing is seen. A day may be added again after a kill: it is released once.
    """
    out = Terminal(quiet, as_json)
    with out.progress(f"reading {data.name}") as watch:
        from privae import files
        from privae.continual import contributions
        from privae.continual.release import Continual
        from privae.data.tables import read_table

        stream = Continual.load(folder, ledger)
        values, units = contributions.from_table(stream.plan, read_table(data), unit)
        watch.phase("releasing", 1)
        before, name = stream.step, files.inner(data).stem if day is None else day
        step = stream.add(values, units, name)
    again = step <= before
    did = f"'{name}' was released before, as" if again else f"released '{name}',"
    when = stream.plan.when
    out.report(
        f"{did} {when} {step} of {stream.plan.steps}: {folder / 'released.csv'}",
        {"step": step, "steps": stream.plan.steps, "day": name, "again": again},
    )


@streams.command(
    "show",
    epilog=examples(
        "privae stream show fleet", "privae stream show fleet --last 30 -o means.csv --plot means.png"
    ),
)
def show_stream(
    folder: Stream,
    last: Last = 7,
    output: given.MaybeOutput = None,
    plot: Plot = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Show the mean of every number over the last steps, its standard error, and the total since the beginning.

    All of it follows from what was released: looking costs nothing. The error is that of the noise alone, known from
    the plan; a mean is told where its count is clearly above none. -o and --plot hold every step.
    """
    out = Terminal(quiet, as_json)
    with out.progress(f"reading {folder.name}"):
        from privae.cli import request
        from privae.continual.release import Continual
        from privae.data.tables import write_table

        request.check_outputs(output, request.TABLES, [])
        request.check_outputs(plot, (".png",), [])
        stream = Continual.load(folder)
        means, totals = stream.means(last), stream.totals()
        if output is not None:
            write_table(means, output)
        if plot is not None:
            _draw(stream, means, last, plot)
    latest = means.tail(len(stream.plan.names)).merge(
        totals.rename(columns={"standard_error": "total_error"}), on=["step", "day", "name"]
    )
    fields = {"step": stream.step, "steps": stream.plan.steps, "last": last, "unit": stream.plan.unit}
    found = {"means": latest.to_dict("records"), "output": output, "plot": plot}
    out.answer(_shown(stream, latest, last), fields | found)


def _planned(path: Path | None, bounds: list[str] | None, options: dict[str, Any]) -> "ContinualPlan":
    from privae.continual import plan as plans

    if path is not None:
        if bounds or options:
            name = "bounds" if bounds else next(iter(options))
            name = "best-for" if name == "window" else name
            raise UsageError(f"--{name} is fixed by the plan; change it there, or leave out --plan")
        return plans.load(path)
    if not bounds:
        raise UsageError("name each number and its public bounds: --bounds power=0:5")
    for name, why in (
        ("epsilon", "privacy is decided. 1 is strong, 10 weak, inf none at all"),
        ("protect", "unit protects a home with all of its days, step one day of a home"),
        ("steps", "all of them are charged at once: 365 for a year of days"),
        ("units", "roughly how many homes a step has, as you would say it in public"),
    ):
        if name not in options:
            raise UsageError(f"--{name} has no default: {why}")
    return plans.planned(bounds=_bounds(bounds), **options)


def _opened(folder: Path, plan: "ContinualPlan") -> tuple[str, dict[str, Any]]:
    """What was promised, and how much noise that is."""
    windows = sorted({1, min(7, plan.steps), min(30, plan.steps), plan.steps})
    errors, promise = {last: plan.standard_error(last) for last in windows}, plan.guarantee()
    text = (
        f"{promise}\nwrote {folder}\n{_errors(plan, errors)}\n"
        f"add a {plan.when}: privae stream add {folder} {plan.when}.csv --unit {plan.who}"
    )
    fields = {"plan": plan.model_dump(), "guarantee": promise.to_dict(), "standard_errors": errors}
    return text, fields


def _bounds(texts: list[str]) -> dict[str, tuple[float, float]]:
    from privae.cli.request import named_bounds

    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, limits = named_bounds(text, "--bounds")
        if name in found:
            raise UsageError(f"--bounds {text}: each number has a name of its own")
        found[name] = limits
    return found


def _errors(plan: "ContinualPlan", errors: dict[int, float]) -> str:
    """What the noise will do to a mean, in the widths of the bounds."""
    rows = [("mean over", "standard error, in % of the width of the bounds")]
    rows += [
        (f"{last} {plan.when}{'' if last == 1 else 's'}", f"{50 * error:.3g}")
        for last, error in errors.items()
    ]
    return f"with about {plan.units:,} {plan.who}s, the noise alone gives\n{aligned(rows)}"


def _shown(stream: "Continual", latest: "pd.DataFrame", last: int) -> str:
    plan = stream.plan
    promise = "" if plan.guarantee().holds else f"{plan.guarantee().sentence()}\n"
    if not stream.step:
        return f"{promise}nothing was released yet, of {plan.steps} {plan.when}s"
    count = f"{plan.who}s"
    rows: list[tuple[str, ...]] = [("number", "mean", "+-", count, "total", "+-")]
    for row in latest.to_dict("records"):
        cells = [row[key] for key in ("mean", "standard_error", "count", "total", "total_error")]
        rows.append((row["name"], *("too few" if math.isnan(cell) else f"{cell:,.4g}" for cell in cells)))
    over = min(last, stream.step)
    head = f"{plan.when} {stream.step} of {plan.steps} ('{stream.days[-1]}'), means over the last {over}"
    return (
        f"{promise}{head}\n{aligned(rows)}\n  +- is one standard error of the noise; protected: {plan.unit}"
    )


def _draw(stream: "Continual", means: "pd.DataFrame", last: int, path: Path) -> None:
    from privae.report.picture import course

    if not stream.step:
        raise UsageError("nothing was released yet; add a step before drawing")
    plan = stream.plan
    title = f"Mean over {last} {plan.when}s, epsilon {plan.epsilon:g} for each {plan.unit}"
    course(means, path, title, plan.when)
