"""The public facts of time series: the clock, the windows, whom the promise protects, and the channels."""

from pathlib import Path
from typing import Any, Literal, Self

from privae import files
from privae.data.column import Column, check_column
from privae.data.ratings import RatingSchema
from privae.data.schema import (
    Declared,
    Schema,
    known_keys,
    loaded,
    parsed,
    section,
    text_of,
    toml_key,
    toml_value,
    validated,
)
from privae.errors import UsageError
from privae.series.clock import DAY, check_timezone, seconds_of

Unit = Literal["household", "device", "day", "window"]
Condition = Literal["hour", "weekday", "kind"]
OF_AN_ID = ("household", "device")
"""Units that are all rows of one id."""
_MOST_STEPS = 4096  # of a window
_MOST_OVERLAP = 64  # windows that a reading may be in
_CHANNEL_KEYS = tuple(
    name for name in Column.model_fields if name not in ("name", "action", "rule", "confirmed")
)
_OWN = {"score", "expected"}


class SeriesSchema(Declared):
    """The public facts of time series.

    time, id: names of the columns that say when, and of which household or device; kind: of one that says what kind of
    device it is. series: of a unit with several, the column that says which: a meter, a room, a device of a household.
    channel, value: of a long table, with one reading a row, the columns that say of what and how much; a
    table without them has a column a channel.
    unit: whom the promise protects: a household or device with all its rows, or one day, or one window, of one id.
    step, window, stride: durations ("15min"): of the clock that readings are brought to, of a window, and between
    the starts of two windows (that of a window by default). Windows are counted from a Monday's midnight.
    resample: what becomes of several readings in a step. hold: how long a reading stands where none follows, within a
    window. filled: the least share of a window's steps that must have readings.
    conditions: what a window's values are modeled given: the hour that it starts, its weekday, the kind of device.
    threshold: what `predict` compares scores with: those of the model's own samples, or their distribution among units,
    which is released by a phase of its own.
    kinds: the declared kinds. windows: about how many a unit has, as synthetic units do. rows: about how many *units*.
    """

    time: str
    channels: tuple[Column, ...]
    step: str
    window: str
    stride: str | None = None
    unit: Unit = "household"
    id: str | None = None
    kind: str | None = None
    kinds: tuple[str, ...] = ()
    series: str | None = None
    channel: str | None = None
    value: str | None = None
    timezone: str | None = None
    resample: Literal["mean", "sum", "min", "max", "last"] = "mean"
    hold: str | None = None
    filled: float = 0.5
    conditions: tuple[Condition, ...] = ()
    threshold: Literal["samples", "released"] = "samples"
    windows: int | None = None
    rows: int | None = None

    @classmethod
    def loads(cls, text: str) -> Self:
        """The schema in a TOML text: [series], and [channels.NAME] for every channel."""
        read = parsed(text)
        known_keys(read, ("series", "channels"), "the schema of time series")
        facts, channels = section(read, "series"), section(read, "channels")
        known_keys(facts, tuple(name for name in cls.model_fields if name != "channels"), "[series]")
        for name in channels:
            known_keys(section(channels, name), _CHANNEL_KEYS, f"[channels.{name}]")
        built = [
            validated(Column, {"name": name, **own}, f"[channels.{name}]") for name, own in channels.items()
        ]
        return validated(cls, {**facts, "channels": tuple(built)}, "[series]")

    def dumps(self) -> str:
        """The TOML text; `loads` gives the same schema back."""
        facts = self.model_dump(exclude_defaults=True, exclude={"channels"})
        lines = ["[series]", *(f"{key} = {toml_value(value)}" for key, value in facts.items())]
        for column in self.channels:
            own = column.model_dump(exclude_defaults=True, exclude={"name"})
            lines += ["", f"[channels.{toml_key(column.name)}]"]
            lines += [f"{key} = {toml_value(value)}" for key, value in own.items()]
        return "\n".join([*lines, ""])

    def to_dict(self) -> dict[str, Any]:
        """The facts by section, without defaults: {"table": ..., "columns": {channel: ...}}."""
        facts = self.model_dump(mode="json", exclude_defaults=True, exclude={"channels"})
        channels = (column.model_dump(mode="json", exclude_defaults=True) for column in self.channels)
        return {"table": facts, "columns": {own.pop("name"): own for own in channels}}

    @property
    def hash(self) -> str:
        """SHA-256 of the schema; channels have no rule, and the key is younger than schemas that were agreed on."""
        return files.digest(self.model_dump(mode="json", exclude={"channels": {"__all__": {"rule"}}}))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are read."""
        wide = (self.channel, self.value) if self.long else tuple(column.name for column in self.channels)
        return tuple(name for name in (self.id, self.series, self.kind, self.time, *wide) if name is not None)

    @property
    def long(self) -> bool:
        """Whether a row is one reading of one channel."""
        return self.channel is not None

    @property
    def seconds(self) -> tuple[int, int, int]:
        """Seconds of a step, of a window, and between the starts of two windows."""
        step, window = seconds_of(self.step, "step"), seconds_of(self.window, "window")
        return step, window, window if self.stride is None else seconds_of(self.stride, "stride")

    @property
    def steps(self) -> int:
        """Steps of a window."""
        step, window, _ = self.seconds
        return window // step

    def check(self) -> None:
        """Raise UsageError for the first thing that is undeclared or contradictory."""
        self._check_names()
        self._check_clock()
        self._check_unit()
        self._check_conditions()
        for column in self.channels:
            if column.action != "keep" or column.categories == "bought":
                raise UsageError(f"channel '{column.name}': declare its categories, or leave the channel out")
            check_column(column)
        if not 0 < self.filled <= 1:
            raise UsageError("[series] filled is a share above 0 and at most 1")
        if self.rows is not None and self.rows < 1:
            raise UsageError("[series] rows must be at least 1: roughly how many units there are")
        if self.windows is not None and not 1 <= self.windows <= 1000:
            raise UsageError("[series] windows, of a unit, must lie between 1 and 1000")

    def _check_names(self) -> None:
        if not self.channels:
            raise UsageError("a series needs a channel: [channels.power], say, with kind and bounds")
        if (self.channel is None) != (self.value is None):
            raise UsageError("[series] channel and value go together: of what, and how much")
        named = (*self.columns, *(column.name for column in self.channels if self.long))
        if len(set(named)) < len(named):
            raise UsageError("[series] names one column or channel twice")
        if taken := sorted(_OWN & set(named)):
            raise UsageError(
                f"[series] a column may not be named {taken[0]}, as one of results is; rename it"
            )

    def _check_clock(self) -> None:
        step, window, stride = self.seconds
        if window % step or stride % step:
            raise UsageError("[series] window and stride must be whole numbers of steps")
        if not 2 <= window // step <= _MOST_STEPS:
            raise UsageError(f"[series] a window has 2 to {_MOST_STEPS} steps; change step or window")
        if -(-window // stride) > _MOST_OVERLAP:
            raise UsageError(
                f"[series] a reading may be in at most {_MOST_OVERLAP} windows; give a longer stride"
            )
        if self.hold is not None:
            seconds_of(self.hold, "hold")
        if self.timezone is not None:
            check_timezone(self.timezone)

    def _check_unit(self) -> None:
        _, window, stride = self.seconds
        if self.unit in OF_AN_ID and self.id is None:
            raise UsageError(
                f'[series] unit = "{self.unit}" needs id, the column that says whose rows these are. One '
                'household alone has nobody to hide among: unit = "day" protects each of its days'
            )
        if self.unit == "window" and stride < window:
            # privacy: a reading would be in several windows, and be promised what one of them is
            raise UsageError('[series] unit = "window" needs windows that do not overlap: leave stride out')
        if self.unit == "day" and (window > DAY or (DAY % stride and stride % DAY)):
            raise UsageError('[series] unit = "day" needs windows within a day, at the same hours every day')

    def _check_conditions(self) -> None:
        _, window, stride = self.seconds
        if len(set(self.conditions)) < len(self.conditions):
            raise UsageError("[series] conditions has one name twice")
        if "hour" in self.conditions and stride % DAY == 0:
            raise UsageError("[series] all windows start at the same hour; take it out of conditions")
        if "weekday" in self.conditions and (window > DAY or stride % (7 * DAY) == 0):
            raise UsageError("[series] a window of more than a day has no weekday; take it out of conditions")
        if ("kind" in self.conditions) != bool(self.kinds) or bool(self.kinds) != (self.kind is not None):
            raise UsageError(
                "[series] kind (a column), kinds (its values) and the condition kind go together"
            )
        if self.kinds and not 2 <= len(set(self.kinds)) == len(self.kinds):
            raise UsageError("[series] kinds are at least two different names")


AnySchema = Schema | RatingSchema | SeriesSchema


def read_schema(path: str | Path) -> AnySchema:
    """The schema in a TOML file: of series or of ratings by its sections, else of a table. Errors: UsageError."""
    text = text_of(path)
    try:
        named: Any = parsed(text)
    except UsageError:
        named = {}  # `Schema.loads` says what is wrong
    if "series" in named:
        return loaded(SeriesSchema, path, text)
    return loaded(RatingSchema, path, text) if "ratings" in named else loaded(Schema, path, text)
