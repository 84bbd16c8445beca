"""Every target of the engine against the rows that were measured: arithmetic on numbers alone."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Row = dict[str, Any]
Cell = tuple[str, int]
"""A model and a batch size."""

PLAIN, OURS, NO_NOISE = "plain", "privae float32", "privae float32, no noise"
PROVED, BFLOAT16 = "privae proved", "privae bfloat16"
GHOST, HOOKS = "Opacus ghost", "Opacus hooks"
PERCEPTRONS, BATCHES = ("mlp", "tab"), (256, 2048)
_MODELS = (*PERCEPTRONS, "conv", "gru", "items")
_CELLS = [(model, batch) for model in _MODELS for batch in BATCHES if (model, batch) != ("items", 2048)]


class Table:
    """The rows of a run by what they are about. Figures that are not there raise KeyError."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = {self._key(row): row for row in rows if "engine" in row}

    @staticmethod
    def _key(row: Row) -> tuple[Any, ...]:
        return tuple(row.get(field) for field in ("question", "model", "batch", "threads", "engine"))

    def figure(self, question: str, cell: Cell, engine: str, field: str, threads: int = 1) -> float:
        """One measured figure."""
        return float(self._rows[(question, *cell, threads, engine)][field])

    def over_plain(self, cell: Cell, engine: str) -> float:
        """Processor time of a step on one thread, as a multiple of plain torch with default Adam."""
        return self.figure("time", cell, engine, "cpu_ratio")

    def wall_over_plain(self, cell: Cell, engine: str) -> float:
        """The same by the clock, on two threads."""
        return self.figure("time", cell, engine, "wall_ratio", threads=2)

    def faster_than(self, cell: Cell, engine: str, other: str) -> float:
        """How many times less processor time a step of the engine takes than the other's; both are over plain."""
        return self.over_plain(cell, other) / self.over_plain(cell, engine)

    def memory_over_plain(self, cell: Cell, engine: str) -> float:
        """Extra peak memory as a multiple of plain torch's."""
        own, plain = (self.figure("memory", cell, name, "extra_megabytes") for name in (engine, PLAIN))
        return own / plain

    def memory_of_dense(self, cell: Cell, engine: str, items: int, hidden: int) -> float:
        """Extra peak memory as a share of a float32 tensor [batch, items, hidden]."""
        return self.figure("memory", cell, engine, "extra_megabytes") / (4e-6 * cell[1] * items * hidden)

    def noise_share(self, cell: Cell, field: str) -> float:
        """Share of a step that its noise costs: 1 - 1 / (with noise / without), on two threads."""
        return 1.0 - 1.0 / self.figure("noise", cell, OURS, field, threads=2)


@dataclass(frozen=True)
class Target:
    """A bar for one figure; cell, engine and base say whose profile, beyond what, explains a miss."""

    name: str
    cell: Cell
    engine: str
    bar: float
    value: Callable[[Table], float]
    sense: Literal["at_least", "at_most"] = "at_most"
    base: str = PLAIN


def targets(items: int, hidden: int) -> Iterator[Target]:
    """The targets of the issue; items and hidden are the sizes of the model of many items."""
    yield from _against_plain()
    yield from _against_opacus()
    yield from _memory(items, hidden)
    yield from _noise()


def _against_plain() -> Iterator[Target]:
    bars = {("mlp", 256): 1.35, ("tab", 256): 1.35, ("mlp", 2048): 1.15, ("tab", 2048): 1.30}
    bars |= {("conv", batch): 1.35 for batch in BATCHES}
    yield from (_cpu(cell, OURS, bar) for cell, bar in bars.items())
    cells = [(model, batch) for model in PERCEPTRONS for batch in BATCHES]
    yield from (_cpu(cell, NO_NOISE, 1.05) for cell in cells)
    for model in PERCEPTRONS:
        cell = (model, 256)
        yield Target(
            f"{_named(cell)}: {OURS}, wall time over plain, 2 threads",
            cell, OURS, 1.20, lambda table, cell=cell: table.wall_over_plain(cell, OURS),  # type: ignore[misc]
        )  # fmt: skip
    cells += [("conv", batch) for batch in BATCHES]
    yield from (_cpu(cell, PROVED, 2.0 if cell[1] == 256 else 1.7) for cell in cells)
    yield from (_cpu(cell, BFLOAT16, 1.0 if cell[1] == 256 else 0.70) for cell in cells)


def _cpu(cell: Cell, engine: str, bar: float) -> Target:
    name = f"{_named(cell)}: {engine}, processor time over plain, 1 thread"
    return Target(name, cell, engine, bar, lambda table: table.over_plain(cell, engine))


def _against_opacus() -> Iterator[Target]:
    for model in (*PERCEPTRONS, "conv"):
        for batch in BATCHES:
            cell = (model, batch)
            yield _faster(cell, OURS, HOOKS, 5.0 if model == "conv" else 40.0)
            yield _faster(cell, OURS, GHOST, 2.0)
            yield _faster(cell, PROVED, GHOST, 1.0)


def _faster(cell: Cell, engine: str, other: str, bar: float) -> Target:
    name = f"{_named(cell)}: {engine}, times faster than {other}, 1 thread"
    return Target(name, cell, engine, bar, lambda table: table.faster_than(cell, engine, other), "at_least")


def _memory(items: int, hidden: int) -> Iterator[Target]:
    for cell in _CELLS:
        for engine in (OURS, PROVED):
            yield _extra(cell, engine)
    for engine in (OURS, PROVED):
        yield _dense(("items", 256), engine, items, hidden)


def _extra(cell: Cell, engine: str) -> Target:
    name = f"{_named(cell)}: {engine}, extra peak memory over plain's"
    return Target(name, cell, engine, 1.2, lambda table: table.memory_over_plain(cell, engine))


def _dense(cell: Cell, engine: str, items: int, hidden: int) -> Target:
    name = f"{_named(cell)}: {engine}, extra peak memory over a dense [batch, items, hidden] tensor's"
    return Target(name, cell, engine, 0.25, lambda table: table.memory_of_dense(cell, engine, items, hidden))


def _noise() -> Iterator[Target]:
    for batch, bar in ((256, 0.15), (1024, 0.05), (2048, 0.05)):
        yield _share(("mlp", batch), "wall_ratio", bar)
        yield _share(("mlp", batch), "cpu_ratio", 0.35)


def _share(cell: Cell, field: str, bar: float) -> Target:
    what = "wall" if field == "wall_ratio" else "processor"
    name = f"{_named(cell)}: share of {what} time that secure noise costs, 2 threads"
    return Target(name, cell, OURS, bar, lambda table: table.noise_share(cell, field), base=NO_NOISE)


def _named(cell: Cell) -> str:
    return f"{cell[0]} at {cell[1]}"


def profile_of(target: Target, rows: Iterable[Row]) -> Row | None:
    """The profile of the target's engine in its cell beside its base, if there is one."""
    for row in rows:
        about = tuple(row.get(field) for field in ("question", "model", "batch", "engine", "base"))
        if about == ("profile", *target.cell, target.engine, target.base):
            return row
    return None


def reason(profile: Row) -> str:
    """Why a target of time was missed: the operations where a step spends more than its base does."""
    beyond = [(name, own - base) for name, own, base in profile["operations"] if own > base]
    parts = [f"{name} {more:+.1f} ms" for name, more in beyond[:5]]
    return f"beyond {profile['base']}: {', '.join(parts)}" if parts else ""
