"""The printed guarantee: what was promised, to whom, counted how, and what is not covered."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Context
from typing import Any

from privae.errors import ArtifactError

NOT_PRIVATE = "NOT PRIVATE"
REFUSED = "that a fit was refused: for the size of its data, a file that did not read, or a column that names people"
"""What no epsilon covers, for it is decided by what is read before anything is released."""

_BEFORE = {"that a fit was refused for the size of its data, or because a file did not read": REFUSED}


def rounded_up(value: float, digits: int = 4) -> str:
    """A bound in a few digits, never below its value; the last unit of a float64 is not counted.

    >>> rounded_up(2.0005), rounded_up(3 - 1e-16), rounded_up(1.0)
    ('2.001', '3', '1')
    """
    if not math.isfinite(value):
        return "inf"
    decimal = Context(prec=digits, rounding=ROUND_CEILING).create_decimal_from_float(value * (1 - 1e-14))
    return f"{decimal.normalize():f}"


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta)-differential privacy of everything released, with its fine print.

    delta = delta_accountant + delta_threshold + delta_sampler: the accountant's share, the chance that a bought
    category belongs to one unit alone, and the noise sampler's distance from the ideal Gaussian
    (guarantees.md rules 5 and 9). epsilon is that of add-or-remove; epsilon_replace_one that of changing one unit.
    """

    epsilon: float
    delta: float
    epsilon_replace_one: float
    accountant: str
    delta_accountant: float
    delta_threshold: float
    delta_sampler: float
    not_covered: tuple[str, ...]
    unit: str = "record"
    relation: str = "add_or_remove"

    @property
    def holds(self) -> bool:
        """Whether anything is promised at all."""
        return math.isfinite(self.epsilon)

    def sentence(self) -> str:
        """The guarantee in one sentence."""
        if not self.holds:
            return (
                f"{NOT_PRIVATE}: this model was fitted without noise (epsilon = inf) and may reveal its data."
            )
        return (
            f"Adding or removing one {self.unit} changes the probability of any outcome by at most a factor "
            f"e^{rounded_up(self.epsilon)} plus {self.delta:.3g} "
            f"(replacing one: e^{rounded_up(self.epsilon_replace_one)} plus {self.delta:.3g})."
        )

    def __str__(self) -> str:
        """The sentence, then one line a fact."""
        if not self.holds:
            return self.sentence()
        facts = {
            "epsilon, delta": f"{rounded_up(self.epsilon)}, {self.delta:.3g}",
            "unit": f"one {self.unit}",
            "neighboring relation": self.relation.replace("_", " "),
            "epsilon if one is replaced": rounded_up(self.epsilon_replace_one),
            "accountant": self.accountant,
            "delta is made of": (
                f"accountant {self.delta_accountant:.3g} + category threshold {self.delta_threshold:.3g} "
                f"+ noise sampler {self.delta_sampler:.1g}"
            ),
        }
        lines = [self.sentence(), *(f"  {name}: {value}" for name, value in facts.items())]
        return "\n".join([*lines, "  not covered:", *(f"    - {item}" for item in self.not_covered)])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an infinite epsilon is the text "inf"."""
        return {k: "inf" if v == math.inf else v for k, v in asdict(self).items()} | {
            "not_covered": list(self.not_covered)
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Guarantee":
        """Inverse of `to_dict`. Errors: ArtifactError for other fields."""
        try:
            values: dict[str, Any] = {k: math.inf if v == "inf" else v for k, v in fields.items()}
            # older files say less of it, when less was refused
            values["not_covered"] = tuple(_BEFORE.get(item, item) for item in fields["not_covered"])
            return cls(**values)
        except (TypeError, KeyError):
            raise ArtifactError(
                "the guarantee has other fields than this privae knows; use its version"
            ) from None
