"""What an attack found: a value with its interval, what it could have shown at most, and what that means."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Literal

from privae.errors import ArtifactError

Channel = Literal["data", "parameters", "samples"]
"""Where the attacker looks: what a fit's transcript shows, the model's parameters, or generated samples."""

Language = Literal["en", "zh"]
Text = Mapping[Language, str]
"""The same words in English and Chinese."""

CHANNELS: dict[Channel, Text] = {
    "data": {"en": "Training data", "zh": "训练数据"},
    "parameters": {"en": "Model parameters", "zh": "模型参数"},
    "samples": {"en": "Generated samples", "zh": "生成样本"},
}


@dataclass(frozen=True)
class Attack:
    """What is the same for every finding of an attack.

    name: short and stable, a key of the JSON. measure: what `value` is, as "AUC" or "epsilon lower bound".
    title, meaning: in both languages; `meaning` is one sentence with the fields of a finding in braces:
    {value}, {low}, {high}, {power}, {confidence}, and whatever the finding's details hold.
    source: arXiv id, or where the attack is described.
    public: it reads releases and synthetic canaries only, so its findings may be published (guarantees.md rule 22).
    """

    name: str
    channel: Channel
    measure: str
    title: Text
    meaning: Text
    source: str
    public: bool = False

    def found(
        self,
        value: float,
        interval: tuple[float, float],
        confidence: float,
        *,
        power: float | None = None,
        failed: bool = False,
        **details: Any,  # noqa: ANN401  any JSON value
    ) -> "Finding":
        """A finding of this attack; `details` are JSON: figures for the sentence, and curves for the report."""
        low, high = interval
        shown = {"value": value, "low": low, "high": high, "power": power, **details}
        bound = {"value"} if self.measure == "epsilon lower bound" else set()
        words = {key: _shown(item, key in _DOWN | bound, key in _UP) for key, item in shown.items()}
        words["confidence"] = sure(confidence)
        meaning = {language: text.format(**words) for language, text in self.meaning.items()}
        return Finding(
            self.name,
            self.channel,
            self.measure,
            value,
            low,
            high,
            confidence,
            power,
            failed,
            self.public,
            dict(self.title),
            meaning,
            self.source,
            details,
        )


@dataclass(frozen=True)
class Finding:
    """One figure of an audit. [low, high] holds at `confidence`, which is corrected over all findings of the audit.

    power: the largest epsilon lower bound that this attack could have shown, had every guess been right; None where
    it bounds no epsilon. failed: it contradicts the guarantee, or shows copies. public: see `Attack`.
    """

    attack: str
    channel: Channel
    measure: str
    value: float
    low: float
    high: float
    confidence: float
    power: float | None
    failed: bool
    public: bool
    title: dict[Language, str]
    meaning: dict[Language, str]
    source: str
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an infinite number is the text "inf" or "-inf", and what is no number is null."""
        return {key: _jsonable(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Finding":
        """Inverse of `to_dict`. Errors: ArtifactError for other fields."""
        try:
            numbers = ("value", "low", "high", "confidence", "power")
            values: dict[str, Any] = {k: _number(k, v) if k in numbers else v for k, v in fields.items()}
            return cls(**values)
        except (TypeError, ValueError, AttributeError):
            raise ArtifactError("a finding has other fields than this privae knows; audit again") from None


@dataclass(frozen=True)
class Skipped:
    """An attack that did not run, and why, in both languages."""

    attack: str
    channel: Channel
    reason: dict[Language, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def sure(confidence: float) -> str:
    """A confidence in percent, never more than it is.

    >>> sure(0.999), sure(0.99999936)
    ('99.9 %', '99.999936 %')
    """
    floored = Context(prec=8, rounding=ROUND_FLOOR).multiply(Decimal(str(confidence)), Decimal(100))
    return f"{floored.normalize():f} %"


_DOWN, _UP = {"low", "bound", "power"}, {"high", "epsilon"}
"""Numbers of a sentence that are rounded to the side that claims less."""


def _shown(value: Any, down: bool, up: bool) -> Any:  # noqa: ANN401
    """A number as a sentence says it; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return "inf" if value == math.inf else f"{value:.3g}"
    rounding = ROUND_FLOOR if down else ROUND_CEILING if up else ROUND_HALF_EVEN
    decimal = Context(prec=3, rounding=rounding).create_decimal(str(value))  # 1.1 is not 1.11, rounded up
    return f"{float(decimal):.3g}"


def _jsonable(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _number(name: str, value: Any) -> float | None:  # noqa: ANN401
    if value is None:
        return None if name == "power" else math.nan
    return float(value)
