"""Rules: what the action of a column needs to know, as the schema's TOML says it; all of it public.

[columns.age]
kind = "ordinal"
action = "generalize"
rule = { width = 10, low = 0, high = 90 }
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from privae.actions.dates import pattern_of
from privae.errors import first_fault

Action = Literal["keep", "drop", "mask", "pseudonymize", "generalize", "shift", "round", "code", "surrogate"]
LEARNED = frozenset({"keep", "generalize", "round", "code"})
"""Actions that leave meaning in a column; all others keep an identity or a text, or nothing, and are not learned."""
KEYED = frozenset({"pseudonymize", "shift", "surrogate"})
"""Actions whose results follow from a secret key."""
SUPPRESSED = "*"
"""What stands for a value that an action cannot read: never the value itself."""

MOST_VALUES, MOST_EDGES = 100_000, 1_000  # of a hierarchy; of bands
_MOST_TEXT = 200  # letters of one value or group of a hierarchy
_LARGEST = 1e15
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _readable(given: str | None) -> str | None:
    """A format of dates. Errors: ValueError for one that is none."""
    pattern_of(given)
    return given


Number = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
Step = Annotated[float, Field(gt=1e-12, le=_LARGEST)]
Format = Annotated[str | None, AfterValidator(_readable)]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Provider = Literal[
    "name",
    "first_name",
    "last_name",
    "address",
    "city",
    "postcode",
    "phone_number",
    "company",
    "email",
    "job",
]


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @property
    def words(self) -> str:
        """What becomes of the values, for a person."""
        raise NotImplementedError


class Bands(_Rule):
    """Numbers to bands that hold their lower end: of one width, or between edges.

    low, high: ends of the bands of a width; below is "<low", from high on "high+".
    """

    width: Step | None = None
    low: Number | None = None
    high: Number | None = None
    edges: tuple[Number, ...] | None = Field(default=None, min_length=1, max_length=MOST_EDGES)

    @model_validator(mode="after")
    def _whole(self) -> "Bands":
        if (self.width is None) == (self.edges is None):
            raise ValueError("bands have a width, or edges: one of the two")
        if self.edges is not None and (self.low is not None or self.high is not None):
            raise ValueError("low and high go with a width; edges have ends of their own")
        if self.edges is not None and list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges rise, each above the one before")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low is below high")
        if self.width is not None and self.low is not None and self.high is not None:
            count = (self.high - self.low) / self.width
            if count > MOST_EDGES:
                raise ValueError(f"low, high and width make more than {MOST_EDGES} bands")
        return self

    @property
    def words(self) -> str:
        """What becomes of the values."""
        return "generalized to bands" if self.width is None else f"generalized to bands of {self.width:g}"


class DatePart(_Rule):
    """Dates to their year, quarter, month, or day of the week. format: "%d.%m.%Y", where the year is not first."""

    date: Literal["year", "quarter", "month", "weekday"]
    format: Format = None

    @property
    def words(self) -> str:
        """What becomes of the values."""
        return f"generalized: dates to their {self.date}"


class Prefix(_Rule):
    """Texts to their first letters and one "*", which hides how long the rest is."""

    prefix: int = Field(ge=0, le=32)

    @property
    def words(self) -> str:
        """What becomes of the values."""
        return f"generalized to the first {self.prefix} characters"


class Groups(_Rule):
    """Values to groups: listed here, or in a hierarchy file beside the schema, whose level `level` is taken.

    empty: what an empty group in the file means: "refuse" the file, or "*". Values in no group become "*".
    """

    groups: dict[str, tuple[str, ...]] | None = Field(default=None, max_length=MOST_VALUES)
    hierarchy: str | None = Field(default=None, min_length=1, max_length=255)
    level: int = Field(default=1, ge=1, le=64)
    empty: Literal["refuse", "*"] = "refuse"

    @model_validator(mode="after")
    def _tree(self) -> "Groups":
        if (self.groups is None) == (self.hierarchy is None):
            raise ValueError("groups are listed, or a hierarchy is named: one of the two")
        values = [value for held in (self.groups or {}).values() for value in held]
        if len(values) > MOST_VALUES:
            raise ValueError(f"groups hold more than {MOST_VALUES} values")
        if any(len(text) > _MOST_TEXT for text in (*values, *(self.groups or {}))):
            raise ValueError(f"a value or group has more than {_MOST_TEXT} characters")
        if len(set(values)) < len(values):
            raise ValueError("a value is in two groups, or twice in one")
        # a value that already is a group stays what it is, so no group is a value of another one
        if any(self.group_of.get(name, name) != name for name in self.groups or {}):
            raise ValueError("a group is itself a value of another group")
        return self

    @cached_property
    def group_of(self) -> dict[str, str]:
        """The group of each value."""
        return {value: name for name, held in (self.groups or {}).items() for value in held}

    @property
    def words(self) -> str:
        """What becomes of the values."""
        return "generalized to groups"


class Multiple(_Rule):
    """Numbers to the nearest multiple of `to`; of two, the even one."""

    to: Step

    @property
    def words(self) -> str:
        """What becomes of the values."""
        return f"rounded to multiples of {self.to:g}"


class Limits(_Rule):
    """Numbers beyond a bound to the bound: top- and bottom-coding."""

    low: Number | None = None
    high: Number | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Limits":
        if self.low is None and self.high is None:
            raise ValueError("code needs low, high, or both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low is below high")
        return self

    @property
    def words(self) -> str:
        """What becomes of the values."""
        low = [] if self.low is None else [f"below {self.low:g} to it"]
        return f"coded: {', '.join([*low, *([] if self.high is None else [f'above {self.high:g} to it'])])}"


class Shown(_Rule):
    """Texts masked but for their first and last characters, or for what follows the last `after` ("@").

    length: "hidden" writes three signs whatever was there, "shown" one a character. text: the cell is free text, of
    which only what looks like an identifier is masked.
    """

    first: int = Field(default=0, ge=0, le=16)
    last: int = Field(default=0, ge=0, le=16)
    after: str | None = Field(default=None, min_length=1, max_length=8)
    sign: str = Field(default="*", min_length=1, max_length=1)
    length: Literal["hidden", "shown"] = "hidden"
    text: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> "Shown":
        if self.text and self.model_fields_set - {"text"}:
            raise ValueError("text = true masks what looks like an identifier; nothing goes with it")
        if not self.sign.isprintable():
            raise ValueError("the sign is a character that can be seen")
        return self

    @property
    def words(self) -> str:
        """What becomes of the values."""
        if self.text:
            return "masked where its text looks like an identifier"
        kept = {"first": self.first, "last": self.last}
        parts = [f"the {name} {count}" for name, count in kept.items() if count]
        parts += [] if self.after is None else [f"what follows '{self.after}'"]
        return f"masked but for {' and '.join(parts)}" if parts else "masked"


class Token(_Rule):
    """Keyed tokens: the same for the same value in all columns and tables of one domain (by default the column's name).

    reversible: enciphered by FF1 instead, each character of the alphabet to one of it; others stay where they are.
    """

    domain: Name | None = None
    reversible: bool = False
    alphabet: Literal[
        "digits", "lower", "upper", "letters", "digits+lower", "digits+upper", "alphanumeric", "hex"
    ] = "digits"

    @model_validator(mode="after")
    def _used(self) -> "Token":
        if self.alphabet != "digits" and not self.reversible:
            raise ValueError("an alphabet is for reversible = true")
        return self

    @property
    def words(self) -> str:
        """What becomes of the values."""
        way = (
            f"enciphered by FF1 over {self.alphabet}" if self.reversible else "pseudonymized by keyed tokens"
        )
        return way if self.domain is None else f"{way}, domain {self.domain}"


class Days(_Rule):
    """Dates moved by a secret number of days, not 0, the same for all dates of a person.

    days: at most so many, to either side. by: the column that says whose the row is; by default the table's person.
    """

    days: int = Field(ge=1, le=36_500)
    by: str | None = None
    format: Format = None

    @property
    def words(self) -> str:
        """What becomes of the values."""
        return f"dates shifted by up to {self.days} days, alike for all of a person"


class Surrogate(_Rule):
    """Made-up values of a kind, the same for the same value."""

    provider: Provider
    locale: Literal["en_US", "zh_CN"] = "en_US"

    @property
    def words(self) -> str:
        """What becomes of the values."""
        return f"replaced by made-up values ({self.provider}, {self.locale})"


Rule = Bands | DatePart | Prefix | Groups | Multiple | Limits | Shown | Token | Days | Surrogate
_OF: Mapping[str, tuple[type[Rule], ...]] = {
    "generalize": (Bands, DatePart, Prefix, Groups),
    "round": (Multiple,),
    "code": (Limits,),
    "mask": (Shown,),
    "pseudonymize": (Token,),
    "shift": (Days,),
    "surrogate": (Surrogate,),
}
_ASKS = {
    "generalize": "a width or edges, date, prefix, groups or hierarchy",
    "round": "to",
    "code": "low, high, or both",
    "shift": "days",
    "surrogate": "a provider",
}


def rule_of(action: str, given: object) -> Rule | None:
    """The rule of an action from what the schema says, or the action's own where it says nothing.

    Errors: ValueError, in one line that holds no value of the rule.
    """
    kinds = _OF.get(action, ())
    if isinstance(given, _Rule):
        return _own(given, kinds, action)
    if given is not None and not isinstance(given, Mapping):
        raise ValueError("rule is a table: rule = { ... }")
    if not kinds:
        if given is not None:
            raise ValueError(f'action = "{action}" takes no rule')
        return None
    if given is None and action in _ASKS:
        raise ValueError(f'action = "{action}" needs a rule that says {_ASKS[action]}')
    facts = dict(given or {})
    try:
        return _fitting(kinds, facts).model_validate(facts)
    except ValidationError as error:
        raise ValueError(_first(error)) from None


def _own(given: _Rule, kinds: Sequence[type[Rule]], action: str) -> Rule:
    for kind in kinds:
        if isinstance(given, kind):
            return given
    raise ValueError(f'the rule is not one of action = "{action}"')


def _fitting(kinds: Sequence[type[Rule]], facts: Mapping[str, Any]) -> type[Rule]:
    """Of the kinds of rule that an action may have, the one that knows most of the keys."""
    return max(kinds, key=lambda kind: len(set(kind.model_fields) & set(facts)))


def _first(error: ValidationError) -> str:
    at, said = first_fault(error)
    # a key may be a value of a hierarchy: only those of the rule itself are named
    return f"rule{f'.{at[0]}' if at else ''}: {said}"
