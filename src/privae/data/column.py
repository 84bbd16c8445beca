"""The public facts of one column: its kind, its bounds or categories, and the type of what comes back."""

from collections.abc import Sequence
from decimal import Decimal
from functools import cached_property
from math import ceil, floor, isfinite
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.extensions import ExtensionDtype
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from privae.actions.generalize import following
from privae.actions.rule import LEARNED, Action, DatePart, Groups, Limits, Multiple, Rule, rule_of
from privae.data.values import EXACT, Bins, canonical, category_codes
from privae.errors import UsageError

MAX_BINS = 10_000
ONE_BIN_A_VALUE = 32
EQUAL_BINS = 20
BOOLEAN_TEXTS = ("False", "True")
FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

_TEXT = pd.Series(["text"]).dtype  # how this pandas holds text: str, or object before pandas 3
_NUMERIC_FACTS = ("bounds", "unit", "bins", "edges", "integer", "decimals")

Kind = Literal["numeric", "category", "ordinal", "boolean"]
Dtype = np.dtype[Any] | ExtensionDtype


class Column(BaseModel):
    """One column's public facts; `Schema.check` says what is still undeclared.

    action: what is done to its values before anything else, by its rule. Of a column that is learned (`learned`), all
    other facts describe the values after the action; groups that follow from the rule need not be declared again.

    Categories are kept as text; whole numbers and booleans in the TOML also set the dtype of what comes back.
    """

    model_config = FROZEN

    name: str
    kind: Kind
    bounds: tuple[float, float] | None = None
    unit: float | None = None
    bins: int | None = None
    edges: tuple[float, ...] | None = None
    integer: bool | None = None
    decimals: int | None = None
    categories: tuple[str, ...] | Literal["bought"] | None = None
    other: str | None = None
    missing: bool = False
    action: Action = "keep"
    rule: Rule | None = None
    dtype: str | None = None
    confirmed: bool = True

    @model_validator(mode="before")
    @classmethod
    def _categories_as_text(cls, given: Any) -> Any:  # noqa: ANN401  pydantic hands over whatever was written
        if not isinstance(given, dict) or not isinstance(given.get("categories"), list | tuple):
            return given
        values = given["categories"]
        if not all(isinstance(value, str | int | np.integer) for value in values):
            raise ValueError("categories are strings, whole numbers or booleans")
        named = given.get("dtype") is not None or given.get("other") is not None
        guess = None if named else _dtype_of_values(values)
        return {
            **given,
            "categories": tuple(canonical(v) for v in values),
            "dtype": given.get("dtype") or guess,
        }

    @model_validator(mode="before")
    @classmethod
    def _rule_of_action(cls, given: Any) -> Any:  # noqa: ANN401
        action: Any = given.get("action", "keep") if isinstance(given, dict) else None
        if action not in get_args(Action):
            return given  # an action that is none is a fault of its own
        rule = rule_of(action, given.get("rule"))
        follow = {name: fact for name, fact in following(rule, given).items() if given.get(name) is None}
        return {**given, **follow, "rule": rule}

    @field_validator("other")
    @classmethod
    def _other_trimmed(cls, other: str | None) -> str | None:
        return canonical(other)

    @property
    def learned(self) -> bool:
        """Whether a model learns this column: its action leaves a meaning, and no identity or text."""
        return self.action in LEARNED

    @property
    def step(self) -> float | None:
        """Distance of the values that may come back: unit, 1 for whole numbers, a power of ten, or None."""
        if self.unit is not None or self.integer:
            return self.unit if self.unit is not None else 1.0
        return None if self.decimals is None else float(10.0**-self.decimals)

    @property
    def whole(self) -> bool:
        """Whether whole numbers come back: declared so, or the unit and the bounds are whole."""
        if self.integer is not None or self.unit is None:
            return bool(self.integer)
        return all(float(value).is_integer() for value in (self.unit, *(self.bounds or ())))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the cells of a column that is not numeric: categories, then a new `other`."""
        if self.kind == "boolean":
            return BOOLEAN_TEXTS
        known = () if self.categories is None or self.categories == "bought" else self.categories
        return known if self.other is None or self.other in known else (*known, self.other)

    @property
    def size(self) -> int:
        """Number of cells: bins or categories, then other if declared, then missing if declared."""
        shown = len(self.numeric_bins) if self.kind == "numeric" else len(self.texts)
        return shown + int(self.missing)

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest number of a numeric column: its bounds, else its outer edges; 0, 0 undeclared."""
        edges = self.edges or (0.0, 0.0)
        return self.bounds if self.bounds is not None else (float(edges[0]), float(edges[-1]))

    @cached_property
    def numeric_bins(self) -> Bins:
        """The bins of a numeric column: its edges, or equal widths over its bounds, or one bin a value."""
        plain: Any = getattr(self.returned, "numpy_dtype", self.returned)
        return Bins(_edges(self), self.step, _digits(self), plain)

    @property
    def returned(self) -> Dtype:
        """The pandas dtype in which synthetic values come back; it can hold gaps where they are declared."""
        dtype = _default_dtype(self) if self.dtype is None else pd.api.types.pandas_dtype(self.dtype)
        return nullable(dtype) if self.missing else dtype


def nullable(dtype: Dtype) -> Dtype:
    """The dtype itself if it can hold a gap, else its twin that can: int64 -> Int64, bool -> boolean."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biu":
        return dtype
    twin = {"b": "boolean", "i": f"Int{8 * dtype.itemsize}", "u": f"UInt{8 * dtype.itemsize}"}
    return pd.api.types.pandas_dtype(twin[dtype.kind])


def palette(column: Column) -> Any:  # noqa: ANN401  a pandas array of whichever kind
    """What comes back for each of `column.texts`, in the column's dtype.

    Errors: ValueError, TypeError or OverflowError where the dtype cannot hold the texts.
    """
    dtype: Any = column.returned
    texts = list(column.texts)
    if isinstance(dtype, pd.CategoricalDtype):
        return pd.Categorical(texts, categories=texts, ordered=column.kind == "ordinal")
    plain = getattr(dtype, "numpy_dtype", dtype)
    kind = plain.kind if isinstance(plain, np.dtype) else "O"
    if kind not in "biuf" and not pd.api.types.is_string_dtype(dtype):
        raise TypeError("neither numbers nor text")
    values: list[Any] = [_valued(text, kind) for text in texts]
    if len(set(values)) < len(values):
        raise ValueError("two categories are one value")
    return pd.Series(values, dtype=dtype).array


def check_column(column: Column) -> None:
    """Raise UsageError for the first fact of a column that is undeclared, contradictory or unconfirmed.

    Edges: of a column that is not learned, only that it is unconfirmed: that it is left out was a guess, too.
    """
    fault = (_rule_fault(column) or _fault(column)) if column.learned else None
    if fault:
        raise UsageError(f"column '{column.name}': {fault}")
    check_action(column)


def check_action(column: Column) -> None:
    """Raise UsageError for an action that does not go with its column, or that nobody has confirmed."""
    if fault := _rule_fault(column):
        raise UsageError(f"column '{column.name}': {fault}")
    if not column.confirmed:
        raise UsageError(
            f"column '{column.name}' is unconfirmed: it was guessed from the cells; "
            "see that it is right, then delete the line confirmed = false"
        )


def _fault(column: Column) -> str | None:
    return (
        _foreign_fact(column)
        or (None if column.kind == "numeric" else _category_fault(column))
        or _dtype_fault(column)
        or (_numeric_fault(column) if column.kind == "numeric" else None)
    )


def _rule_fault(column: Column) -> str | None:
    if column.action in ("round", "code"):
        return _numbers_fault(column)
    if column.action != "generalize":
        return None
    if isinstance(column.rule, Groups) and column.rule.groups is None:
        return "its hierarchy lies beside the schema's file; load the schema from there"
    year = isinstance(column.rule, DatePart) and column.rule.date == "year"
    if column.kind == "boolean" or (column.kind == "numeric" and not year):
        return 'what is generalized are groups; make it kind = "category" or "ordinal"'
    if column.kind == "numeric" and not (column.whole and 1000 <= column.ends[0] < column.ends[1] <= 9999):
        return "years are whole numbers of four digits; declare integer = true and such bounds"
    return None


def _numbers_fault(column: Column) -> str | None:
    """What comes back of a column must be numbers that its action leaves as they are."""
    if column.kind != "numeric":
        return f'action = "{column.action}" is for numbers; make it kind = "numeric"'
    if isinstance(column.rule, Multiple) and column.step is not None:
        ratio = column.step / column.rule.to
        if ratio < 0.5 or abs(ratio - round(ratio)) > 1e-9 * ratio:
            return "its unit is no multiple of what it is rounded to; leave the unit out"
    if isinstance(column.rule, Limits):
        low, high = column.rule.low, column.rule.high
        if (low is not None and column.ends[0] < low) or (high is not None and column.ends[1] > high):
            return "its bounds pass the values that it is coded to; declare bounds within them"
    return None


def one_bin_a_value(column: Column) -> bool:
    """Whether each bin of a numeric column is one value, for its bounds hold few multiples of its step."""
    if column.bounds is None or column.step is None or column.edges is not None or column.bins is not None:
        return False
    first, last = _multiples(column.bounds, column.step)
    return 0 <= last - first < ONE_BIN_A_VALUE


def _multiples(bounds: tuple[float, float], step: float) -> tuple[int, int]:
    return ceil(bounds[0] / step - 1e-9), floor(bounds[1] / step + 1e-9)


def _edges(column: Column) -> NDArray[np.float64]:
    if column.edges is not None:
        edges = np.array(column.edges, dtype=np.float64)
        low, high = column.bounds or (edges[0], edges[-1])
        edges[0], edges[-1] = max(edges[0], low), min(edges[-1], high)
        return edges
    if column.bounds is None:
        raise UsageError(f"column '{column.name}': {_UNDECLARED_BOUNDS}")
    if column.step is not None and one_bin_a_value(column):
        first, last = _multiples(column.bounds, column.step)
        return np.asarray((np.arange(first, last + 2) - 0.5) * column.step, dtype=np.float64)
    return np.linspace(*column.bounds, (EQUAL_BINS if column.bins is None else column.bins) + 1)


def _digits(column: Column) -> int | None:
    if column.decimals is not None or column.step is None:
        return column.decimals
    exponent = Decimal(repr(column.step)).as_tuple().exponent
    digits = max(0, -exponent) if isinstance(exponent, int) else 0
    return (
        digits if digits <= 12 else None
    )  # a unit such as 1/3 is no short decimal: leave its multiples alone


def _default_dtype(column: Column) -> Dtype:
    if column.kind == "numeric":
        return np.dtype(np.int64) if column.whole else np.dtype(np.float64)
    return np.dtype(bool) if column.kind == "boolean" else _TEXT


def _dtype_of_values(values: Sequence[object]) -> str | None:
    if values and all(isinstance(value, bool | np.bool_) for value in values):
        return "bool"
    whole = all(
        isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_) for value in values
    )
    return "int64" if values and whole else None


def _valued(text: str, kind: str) -> object:
    if kind not in "biuf":
        return text
    if text in BOOLEAN_TEXTS:
        return text == "True" if kind == "b" else int(text == "True")
    if kind == "b":
        raise ValueError("no boolean")
    return float(text) if kind == "f" else int(text)


_UNDECLARED_BOUNDS = (
    "declare bounds = [low, high] or edges = [...]; these are public facts, not read from the data"
)


def _foreign_fact(column: Column) -> str | None:
    foreign = ("categories", "other") if column.kind == "numeric" else _NUMERIC_FACTS
    if column.kind == "boolean":
        foreign = (*foreign, "categories", "other")
    found = [name for name in foreign if getattr(column, name) is not None]
    return (
        f'{found[0]} does not go with kind = "{column.kind}"; delete it or change the kind' if found else None
    )


def _numeric_fault(column: Column) -> str | None:
    if column.bounds is None and column.edges is None:
        return _UNDECLARED_BOUNDS
    return _bounds_fault(column) or _step_fault(column) or column.numeric_bins.fault()


def _bounds_fault(column: Column) -> str | None:
    if column.bounds is not None and not all(isfinite(bound) for bound in column.bounds):
        return "its bounds are not finite; declare two numbers"
    if column.bounds is not None and column.bounds[0] >= column.bounds[1]:
        return "its lower bound is not below its upper bound"
    if column.edges is not None:
        return _edges_fault(column, column.edges)
    bins = EQUAL_BINS if column.bins is None else column.bins
    return None if 1 <= bins <= MAX_BINS else f"bins must be between 1 and {MAX_BINS}"


def _edges_fault(column: Column, edges: tuple[float, ...]) -> str | None:
    if column.bins is not None:
        return "declare bins or edges, not both"
    if not all(isfinite(edge) for edge in edges):
        return "its edges are not finite; declare numbers"
    if not 2 <= len(edges) <= MAX_BINS + 1:
        return f"edges must hold between 2 and {MAX_BINS + 1} numbers"
    if column.bounds and (edges[0] > column.bounds[0] or edges[-1] < column.bounds[1]):
        return "its edges do not reach its bounds; extend the edges or delete the bounds"
    return None


def _step_fault(column: Column) -> str | None:
    if column.unit is not None and not (isfinite(column.unit) and column.unit > 0):
        return "unit must be a number above zero"
    if column.decimals is not None and not 0 <= column.decimals <= 12:
        return "decimals must be between 0 and 12"
    if column.integer and not float(column.unit or 1.0).is_integer():
        return "integer = true needs a whole unit"
    if (
        column.unit is not None
        and column.decimals is not None
        and round(column.unit, column.decimals) != column.unit
    ):
        return "its unit has more decimals than decimals says"
    if (
        column.step is not None
        and max(map(abs, (*(column.bounds or ()), *(column.edges or ())))) > EXACT * column.step
    ):
        return "its unit is too small for its bounds; give a larger unit"
    return None


def _category_fault(column: Column) -> str | None:
    if column.kind == "boolean" or (column.categories == "bought" and column.kind == "category"):
        return None
    if column.categories == "bought":
        return "the order of ordinal categories cannot be bought; declare them, or make it a category"
    if not column.texts:
        bought = ' or say categories = "bought"' if column.kind == "category" else ", in their order"
        return f"declare categories = [...]{bought}; they are public facts, not read from the data"
    if len(set(column.categories or ())) < len(column.categories or ()):
        return "two of its categories are the same"
    return None


def _dtype_fault(column: Column) -> str | None:
    try:
        dtype = column.returned
    except (TypeError, ValueError, ImportError, AttributeError):
        return "its dtype is not one that pandas knows"
    plain = getattr(dtype, "numpy_dtype", dtype)
    kind = plain.kind if isinstance(plain, np.dtype) else None
    if column.kind == "numeric":
        fits = kind in ("i", "u") if column.whole else kind == "f"
        return (
            None
            if fits or (kind == "f" and column.whole)
            else "its dtype does not go with its unit; give another dtype"
        )
    try:
        back = [str(canonical(value)) for value in palette(column)]
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        return "its dtype cannot hold its categories; give another dtype"
    exact = category_codes(back, column.texts).tolist() == list(range(len(back)))
    return None if exact else "its dtype would change its categories; give another dtype"
