"""The plan of a continual release: whom it protects, how long it runs, its filter and its noise, fixed at the start."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomli_w
from pydantic import BaseModel, ConfigDict, Field, model_validator

from privae import files
from privae.continual.means import Scales, spread
from privae.errors import PrivacyRefused, UsageError
from privae.plan import MOST_NUMBERS, Phase, calibrated, check_budget, finite, sampler_delta, settled
from privae.privacy import accountant
from privae.privacy.correlated import SCALE, Stream, square_root
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Charge
from privae.privacy.mechanism import Event
from privae.privacy.sampling import PERSON

Protect = Literal["unit", "step"]

_BANDS = tuple(1 << k for k in range(9))  # of filters that are tried
_STD = 32  # bits of the noise in grid steps, so that rounding contributions is far below it
_FINEST, _COARSEST, _EXACT = 30, 8, 20  # bits of the grid: at most, at least, and without noise
_NOT_COVERED = (
    "the plan: names, bounds, number of steps, the number of units you declared, the names of the steps",
    "that a step was added, and when: add one every day, whatever the data say",
    "files and screens of the data holder: the secret state, error messages about the data, timing",
    "a state folder that is set back to an older copy, where no ledger outside of it notices",
    "the keystream of AES-256-CTR is assumed pseudorandom, and the keys of the operating system secret",
    "facts about groups: what is true of many units may be learned about each of them",
    "other releases of the same data, unless all of them share one ledger",
)


class Choices(BaseModel):
    """What a person chooses.

    bounds: of each number, public. steps: how many the stream has at most. protect: "unit" (with all of its steps) or
    "step" (one step of a unit). units: roughly how many take part in a step, as one would say it in public.
    gaps: whether a unit may lack some numbers; if not, a unit that lacks one does not count in that step.
    window: of how many steps a mean is to be best. who, when: words for a unit and for a step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bounds: dict[str, tuple[float, float]]
    steps: int = Field(ge=1, le=2**20)
    protect: Protect
    epsilon: float
    delta: float = 1e-6
    units: int
    gaps: bool = True
    window: int = Field(default=7, ge=1)
    bands: int | None = Field(default=None, ge=1, le=2**10)
    who: str = Field(default="home", min_length=1)
    when: str = Field(default="day", min_length=1)

    @model_validator(mode="after")
    def _meant(self) -> "Choices":
        check_budget(self.epsilon, self.delta, None)
        if self.units < 1:
            raise ValueError("units must be at least 1: roughly how many take part in a step")
        if not self.bounds or not all(self.bounds):
            raise ValueError("a stream has at least one number, and each has a name")
        if not all(0 < high - low < math.inf for low, high in self.bounds.values()):
            raise ValueError("bounds are finite, the lower one first")
        if self.bands is not None and self.bands > self.steps:
            raise ValueError("a filter has at most as many bands as the stream has steps")
        if self.steps * self.size > MOST_NUMBERS:
            raise ValueError("more noise would be drawn than its share of delta pays for; plan fewer steps")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The numbers, in order."""
        return tuple(self.bounds)

    @property
    def size(self) -> int:
        """Numbers of one release: a sum each, with gaps a count each, and the count of units."""
        return len(self.bounds) * (1 + self.gaps) + 1

    @property
    def period(self) -> int:
        """Steps within which the protected takes part at most once."""
        return 1 if self.protect == "unit" else self.steps


class ContinualPlan(Choices):
    """Every public choice of a stream, with what follows from them: filter, grid and noise. Make it with `planned`.

    levels: grid steps in half of a number's bounds. Its hash is in the ledger.
    Guarantee: `event` is that of the `Stream` which releases the sums, whose sensitivity is `norm` for one step:
        a unit contributes [v, m, c] to a step, integers with |v_j| <= levels, m_j either 0 or `mark` (with gaps
        alone), c = `counted`; or zeros. Its squares sum to at most norm^2 = d levels^2 + (d mark^2 with gaps)
        + counted^2, exactly. Integers are summed, so rounding adds nothing (guarantees.md rule 1).
        Two contributions differ by at most max(norm, 2 levels sqrt(d)) where both have all numbers, and where one
        lacks a number (levels^2 + mark^2 < 4 levels^2) by less; so a unit that is replaced moves each step by
        replace_ratio norm. One step of a unit may be replaced by one of another step: two moves, ratio 2.
    Errors: UsageError from `loads`, also where the noise written down does not reach the epsilon written down.
    """

    bands: int = Field(ge=1, le=2**10)
    noise_multiplier: float = Field(ge=0)
    levels: int = Field(ge=2**_COARSEST, le=2**_FINEST)
    code_version: str

    @model_validator(mode="after")
    def _enough(self) -> "ContinualPlan":
        if math.isfinite(self.epsilon) and not self._reached():
            raise ValueError("the noise multiplier is too small for this epsilon; leave it out")
        if self.noise_multiplier and self.levels & (self.levels - 1):
            raise ValueError("levels are a power of two")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of the plan, the order of its numbers included."""
        return files.digest(finite(self.model_dump(mode="python") | {"names": self.names}))

    @property
    def unit(self) -> str:
        """Whom the guarantee protects, in words."""
        return (
            f"{self.who} with all of its {self.when}s"
            if self.protect == "unit"
            else f"{self.when} of one {self.who}"
        )

    @property
    def mark(self) -> int:
        """What a unit adds to the count of a number that it has: half of its square, near the best for any mean."""
        return math.isqrt(self.levels**2 // 2)

    @property
    def counted(self) -> int:
        """What a unit adds to the count of units: as a mark, or the square root of d times that where it is the only.

        The error of a mean of numbers at m is sqrt((d + w^2)(1 + m^2 / w^2)), least at w^2 = m sqrt(d).
        """
        if self.gaps:
            return self.mark
        return math.isqrt(self.levels**2 * math.isqrt(len(self.bounds) << 40) >> 21)

    @property
    def norm(self) -> float:
        """L2 bound of what a unit contributes to a step."""
        marks = len(self.bounds) * self.mark**2 if self.gaps else 0
        return math.sqrt(len(self.bounds) * self.levels**2 + marks + self.counted**2)

    @property
    def replace_ratio(self) -> float:
        """How far replacing a unit moves a step, over the norm: at most; see the class."""
        exchanged = 2 * self.levels * math.sqrt(len(self.bounds)) / self.norm
        return min(2.0, max(1.0, exchanged) * (1 + 2.0**-40))

    def stream(self, *, independent: bool = False) -> Stream:
        """The mechanism of all steps; independent: the one with the same event and no correlation, to compare."""
        return Stream(
            self.norm,
            self.noise_multiplier,
            grid=1.0,
            unit=self.unit,
            replace_ratio=self.replace_ratio if self.protect == "unit" else 2.0,
            steps=self.steps,
            period=self.period,
            filter=(SCALE,) if independent else square_root(self.bands),
        )

    def event(self) -> Event:
        """What the whole stream costs, together."""
        return self.stream().cost(self.period, self.steps)

    def event_for(self, unit: str) -> Event:
        """What the stream costs in the ledger of a data set that protects each "person", or each "record".

        A person is a unit with all of its steps, and is charged so, whatever the plan protects. A record is one row:
        it comes, goes or changes in one step, where it moves its unit's contribution from one to another, by at most
        replace_ratio norm; a record that is replaced can leave one unit and come to another, twice as much.
        Errors: PrivacyRefused for a ledger of others.
        """
        stream = self.stream()
        if unit == PERSON and self.protect == "unit":
            return self.event()
        if unit == PERSON:
            moved, ratio = replace(stream, period=1), self.replace_ratio
        elif unit == "record":
            moved, ratio = replace(stream, clip_norm=self.norm * self.replace_ratio, period=self.steps), 2.0
        else:
            raise PrivacyRefused("a stream is charged to a ledger of records or of persons; name another one")
        # rounded down by more than the quotient's own error
        multiplier = stream.std / moved.sensitivity() * (1 - 2.0**-47) if stream.std else 0.0
        return Event(multiplier, replace_ratio=ratio)

    def charge_for(self, unit: str, cap: float) -> Charge:
        """The charge of the whole stream to a data set's ledger of this unit, with an epsilon of `cap`."""
        return self._charge(self.event_for(unit), unit, max(self.epsilon, cap))

    def own_charge(self) -> Charge:
        """The charge of the whole stream to the ledger in its own folder."""
        return self._charge(self.event(), self.unit, self.epsilon)

    def _charge(self, event: Event, unit: str, epsilon: float) -> Charge:
        """epsilon: at which the sampler's share of delta is taken."""
        schema = files.digest([[name, *pair] for name, pair in self.bounds.items()])
        return Charge(self.hash, schema, "stream", event, unit=unit, added_delta=sampler_delta(epsilon))

    def guarantee(self) -> Guarantee:
        """The promise that this plan keeps, with epsilon as accounted (at most the one asked for)."""
        rest, sampler = self.delta - sampler_delta(self.epsilon), sampler_delta(self.epsilon)
        return Guarantee(
            epsilon=accountant.epsilon([self.event()], rest),
            delta=self.delta,
            epsilon_replace_one=self._replace_one(),
            accountant=accountant.method([self.event()], rest),
            delta_accountant=rest,
            delta_threshold=0.0,
            delta_sampler=sampler,
            not_covered=(*_NOT_COVERED, *self._also_not_covered()),
            unit=self.unit,
        )

    def standard_error(self, last: int, *, independent: bool = False) -> float:
        """Of a mean over the last steps at the end of the stream, near the middle, in half widths of the bounds.

        A function of public numbers: the noise, its covariance, and the declared number of units.
        """
        stream, last = self.stream(independent=independent), min(last, self.steps)
        noise = stream.std / self.levels * spread(stream.filter, self.steps, last)[-1]
        return float(noise / (last * self.units))

    def scales(self) -> Scales:
        """What turns released integers into numbers, and the noise that is in them."""
        low, high = np.array(list(self.bounds.values())).T
        stream = self.stream()
        return Scales(
            self.names,
            (low + high) / 2,
            (high - low) / 2,
            stream.filter,
            stream.std,
            self.levels,
            self.mark if self.gaps else self.counted,
            self.counted,
            self.gaps,
        )

    def dumps(self) -> str:
        """The TOML text."""
        return tomli_w.dumps(self.model_dump(mode="python"))

    def _reached(self) -> bool:
        rest = self.delta - sampler_delta(self.epsilon)
        return self.noise_multiplier > 0 and accountant.epsilon([self.event()], rest) <= self.epsilon

    def _replace_one(self) -> float:
        """Epsilon if one is replaced."""
        rest = self.delta - sampler_delta(self.epsilon)
        return settled(lambda at: accountant.epsilon([self.event()], at, "replace_one"), rest, self.delta)

    def _also_not_covered(self) -> tuple[str, ...]:
        if self.protect == "unit":
            return ()
        return (
            f"a {self.who} over several {self.when}s: it is protected {self.when} by {self.when}, and a habit that "
            "shows in all of them is not hidden",
            f"data of one {self.when} that are added twice, under two names",
        )


def planned(**choices: Any) -> ContinualPlan:  # noqa: ANN401  those of Choices
    """The plan that choices lead to. Errors: UsageError, naming the choice."""
    return _completed(files.made(Choices, choices, "the stream"))


def loads(text: str, where: str = "the plan") -> ContinualPlan:
    """The plan in a TOML text: a whole one, as `dumps` writes it, or choices alone. Errors: UsageError."""
    try:
        fields: Mapping[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not valid TOML: {error}") from None
    if "noise_multiplier" in fields:
        return files.made(ContinualPlan, fields, where)
    return _completed(files.made(Choices, fields, where))


def load(path: Path) -> ContinualPlan:
    """The plan in a TOML file."""
    return loads(files.text_in(path), path.name)


def _completed(chosen: Choices) -> ContinualPlan:
    """Filter, noise and grid from public choices, each by a public rule."""
    delta = chosen.delta - sampler_delta(chosen.epsilon)
    whole = Phase(name="stream", share=1.0, sensitivity=1.0, replace_ratio=2.0)
    multiplier = calibrated([whole], chosen.epsilon, delta)[0].noise_multiplier
    bands = _best_bands(chosen) if chosen.bands is None else chosen.bands
    fields = chosen.model_dump() | {"bands": bands, "noise_multiplier": multiplier, "levels": 2**_EXACT}
    made = files.made(ContinualPlan, fields | {"code_version": files.code_version()}, "the stream")
    if not multiplier:
        return made
    bits = _EXACT + _STD - math.ceil(math.log2(made.stream().std))
    if bits < _COARSEST:
        raise UsageError("so much noise fits no grid; choose a larger epsilon, fewer steps, or fewer numbers")
    return made.model_copy(update={"levels": 2 ** min(bits, _FINEST)})


def _best_bands(chosen: Choices) -> int:
    """The filter of least error of a mean over the window, among powers of two; it depends on public numbers alone."""
    window = min(chosen.window, chosen.steps)

    def error(bands: int) -> float:
        weights = square_root(bands)
        moved = Stream(steps=chosen.steps, period=chosen.period, filter=weights, clip_norm=1.0).sensitivity()
        return moved * float(spread(weights, chosen.steps, window)[-1])

    tried = [bands for bands in _BANDS if bands <= chosen.steps]
    return min(tried, key=error)
