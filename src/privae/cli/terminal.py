"""What a person at a terminal sees: results on stdout, progress on stderr, one line for an error.

privacy: progress knows phases, public counts and the ledger's epsilon; an error that is not ours is named by its
type alone, for its text and its traceback may hold values of the data. Of several processes (torchrun) the first
speaks, and another one only of an error that is its own.
"""

import contextlib
import dataclasses
import errno
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from privae.errors import PrivaeError, ResourceError, UsageError
from privae.training.launch import Place, place, told
from privae.training.watch import Silent, Watch

INTERRUPTED = 130
_LAST_WORD = 5.0  # seconds in which the first process says why; torchrun ends the others when it is done
_EVERY = 10.0  # seconds between lines of a long phase, where there is no terminal to draw on
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# typer brings its own click or uses the installed one, by version; the error of a wrong call is this one in both
_CALL = cast("type[Exception]", typer.BadParameter.__mro__[1])


@dataclasses.dataclass(frozen=True)
class Terminal:
    """Where a verb speaks, in the first process of its job: the others are silent.

    quiet: only the result itself; as_json: one object on stdout and nothing else there.
    """

    quiet: bool = False
    as_json: bool = False

    def note(self, text: str) -> None:
        """A line beside the result, on stderr."""
        if _speaks() and not (self.quiet or self.as_json):
            typer.echo(text, err=True)

    def report(self, text: str, fields: Mapping[str, Any]) -> None:
        """What a verb did: text for a person unless --quiet, or its JSON object."""
        if self.as_json or not self.quiet:
            self.answer(text, fields)

    def answer(self, text: str, fields: Mapping[str, Any]) -> None:
        """What a verb was asked for: printed with --quiet too."""
        if _speaks():
            typer.echo(json.dumps(jsonable(fields), ensure_ascii=False) if self.as_json else text)

    @contextlib.contextmanager
    def progress(self, start: str) -> Iterator[Watch]:
        """A watch that shows phases on stderr; silent with --quiet or --json, and in all processes but the first.

        A terminal shows `start` at once; a log gets no line for it, so that a refused input is one line there.
        """
        if self.quiet or self.as_json or not _speaks():
            yield Silent()
        elif not sys.stderr.isatty():
            yield Lines()
        else:
            with Progress(*_columns(), console=Console(stderr=True)) as drawn:
                bars = Bars(drawn)
                bars.phase(start, 1)
                yield bars
                bars.done()


class Bars:
    """A watch that draws one bar a phase: steps, rate, time left, epsilon so far."""

    def __init__(self, drawn: Progress) -> None:
        self._drawn = drawn
        self._task = drawn.add_task("starting", total=None, epsilon="", visible=False)
        self._total = 1

    def phase(self, name: str, total: int) -> None:
        """Begin a bar; one step alone pulses."""
        self.done()
        self._total = total
        self._task = self._drawn.add_task(name, total=total if total > 1 else None, epsilon="")

    def advance(self, count: int, epsilon: float | None = None) -> None:
        """Move the bar."""
        shown = {} if epsilon is None else {"epsilon": f"epsilon {epsilon:.3g}"}
        self._drawn.update(self._task, advance=count, **cast("dict[str, Any]", shown))

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._drawn.console.print(text, markup=False, highlight=False)

    def aside(self, text: str) -> None:
        """A line above the bars, which a person watches."""
        self.note(text)

    def done(self) -> None:
        """Fill the bar of the phase that ended."""
        self._drawn.update(self._task, total=self._total, completed=self._total)


class Lines:
    """A watch for logs: one line a phase, and one every ten seconds of a long one."""

    def __init__(self) -> None:
        self._name, self._total, self._done, self._epsilon = "", 1, 0, ""
        self._last = time.monotonic()

    def phase(self, name: str, total: int) -> None:
        """Name the phase."""
        self._name, self._total, self._done, self._last = name, total, 0, time.monotonic()
        self.note(f"{name} ...")

    def advance(self, count: int, epsilon: float | None = None) -> None:
        """Say how far a long phase is."""
        self._done += count
        self._epsilon = self._epsilon if epsilon is None else f", epsilon so far {epsilon:.3g}"
        if time.monotonic() - self._last > _EVERY:
            self._last = time.monotonic()
            self.note(f"{self._name}: {self._done} of {self._total}{self._epsilon}")

    def note(self, text: str) -> None:
        """A line."""
        typer.echo(text, err=True)

    def aside(self, text: str) -> None:
        """Nothing."""
        # privacy: what is no terminal may be a log that others read


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        """Nothing for a phase of one step."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed and (task.total or 0) > 1 else "", style="cyan")


class _Clock(ProgressColumn):
    """Time left, where it can be told; else the time that a phase has taken."""

    def render(self, task: Task) -> Text:
        """Minutes and seconds."""
        left = None if task.finished else task.time_remaining
        seconds = int((task.finished_time or task.elapsed or 0) if left is None else left)
        return Text(f"{'' if left is None else '-'}{seconds // 60}:{seconds % 60:02d}", style="yellow")


def _columns() -> list[ProgressColumn]:
    return [
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        _Rate(Column(no_wrap=True)),
        _Clock(Column(no_wrap=True)),
        TextColumn("{task.fields[epsilon]}", table_column=Column(no_wrap=True)),
    ]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as columns, the first row being their names.

    >>> print(aligned([("phase", "noise"), ("norms", "26.4")]))
      phase  noise
      norms  26.4
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def jsonable(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """The value as JSON can say it: inf as "inf", NaN as null, paths and dates as text.

    >>> jsonable({"epsilon": math.inf, "score": math.nan})
    {'epsilon': 'inf', 'score': None}
    """
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def fail(error: BaseException, *, as_json: bool) -> int:
    """Say in one line on stderr what went wrong, and return the exit code (design.md section 8)."""
    if isinstance(error, BrokenPipeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)  # the reader left; nobody is to be told
        os.dup2(nowhere, sys.stdout.fileno())
        return 1
    kind, message, code = _described(error)
    mine = _speaks()
    if not mine and _is_told(error):
        time.sleep(_LAST_WORD)
        return code
    if os.environ.get("PRIVAE_DEBUG") == "1":
        traceback.print_exception(error)
    typer.echo(f"privae: {message}" if mine else f"privae: process {place().rank}: {message}", err=True)
    if as_json and mine:
        fields = {"type": kind, "message": message, "exit_code": code}
        with contextlib.suppress(OSError):
            typer.echo(json.dumps({"error": fields}, ensure_ascii=False))
    return code


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Take SIGTERM, by which schedulers and shutdowns end a program, as Ctrl-C is taken at that moment.

    So a fit ends between two blocks, and can go on. Left as it is where somebody else sees to it, and under torchrun,
    which ends the other processes by it when one of them failed and said why.
    """

    def end(number: int, frame: FrameType | None) -> None:
        pressed = signal.getsignal(signal.SIGINT)
        if not callable(pressed):  # a script's job in the background ignores Ctrl-C
            raise KeyboardInterrupt
        pressed(number, frame)

    main = threading.current_thread() is threading.main_thread()
    ours = main and _place().size == 1 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _place() -> Place:
    with contextlib.suppress(UsageError):  # a place that does not read is an error of its own, and said
        return place()
    return Place()


def _speaks() -> bool:
    """Whether this process is the one of its job that speaks."""
    return _place().first


def _is_told(error: BaseException) -> bool:
    """Whether the first process says it, too: what it raised or met itself, a wrong call, an interrupt of all."""
    return told(error) or isinstance(error, (_CALL, KeyboardInterrupt))


def _described(error: BaseException) -> tuple[str, str, int]:
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted; no file was half-written, and what a ledger was charged stays charged"
        return "Interrupted", text, INTERRUPTED
    if isinstance(error, _CALL):
        return UsageError.__name__, _wrong_call(error), UsageError.exit_code
    ours = error if isinstance(error, PrivaeError) else _resource(error)
    if ours is not None:
        return type(ours).__name__, " ".join(str(ours).split()), ours.exit_code
    # privacy: the text of a foreign error may quote a cell, so only its type is named
    text = f"unexpected {type(error).__name__}; please report it. PRIVAE_DEBUG=1 shows where (it may show data, too)"
    return type(error).__name__, text, 1


def _wrong_call(error: Any) -> str:  # noqa: ANN401  click's UsageError, whichever click it is
    context = getattr(error, "ctx", None)
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    return message + (f"; see: {context.command_path} --help" if context else "")


def _resource(error: BaseException) -> ResourceError | None:
    out_of_memory = isinstance(error, RuntimeError) and "not enough memory" in str(error)  # torch says it so
    if isinstance(error, MemoryError) or out_of_memory:
        return ResourceError(
            "memory is not enough; nothing was half-written. Declare fewer bins, or use a larger machine"
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return ResourceError("the disk is full; nothing was half-written. Free some space and run again")
    return None
