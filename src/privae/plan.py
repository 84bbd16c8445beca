"""Plan: one frozen, TOML-readable record of every public choice of a run, fixed before the first release."""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privae import files
from privae.errors import UsageError
from privae.privacy import accountant
from privae.privacy.clipping import Kind
from privae.privacy.gradients import Precision, slack
from privae.privacy.guarantee import REFUSED, Guarantee
from privae.privacy.mechanism import Event, Mechanism, for_gradients, for_sums
from privae.privacy.noise import NoiseSource

Recipe = Literal["table", "image", "ratings", "series", "detection", "gradients", "evaluation"]
Setting = int | float | str | bool | None

MOST_NUMBERS = 2**36  # noise numbers a run may draw; the sampler's share of delta is charged for all of them
THRESHOLD_SHARE = 0.1  # of delta, where categories are bought
MICRO_BATCH = (64, 1024)  # least and most records of a block of a gradient sum
PLACES = (
    "a record's own gradient may depend on its place in the batch through rounding, which a kink of a network "
    "can enlarge"
)
_FROZEN = ConfigDict(frozen=True, extra="forbid")


class Phase(BaseModel):
    """One query: how much a unit may contribute, how often and how noisily its sum is released.

    share: part of mu^2 (the budget as a Gaussian mechanism) that a statistics phase takes; gradients take the rest.
    sensitivity: L2 bound of one unit's contribution (clip_norm for gradients). size: numbers in one release.
    Of gradients only: precision and bfloat16 (see `Summation`), clipping (see `Clipping`), and quantile: the share
    of gradients that the clip norm follows, from the sensitivity on, by released votes; None keeps it.
    """

    model_config = _FROZEN

    name: str
    kind: Literal["statistics", "gradients"] = "statistics"
    share: float = Field(ge=0, le=1)
    sensitivity: float = Field(gt=0)
    replace_ratio: float = Field(gt=0, le=2)
    noise_multiplier: float = Field(default=0.0, ge=0)
    sampling_rate: float = Field(default=1.0, ge=0, le=1)
    steps: int = Field(default=1, ge=1)
    size: int = Field(default=1, ge=1)
    precision: Precision = "proved"
    bfloat16: bool = False
    clipping: Kind = "flat"
    quantile: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _whole_statistics(self) -> "Phase":
        """Statistics sum over every record, once: a smaller rate would be charged and not be true."""
        if self.kind == "statistics" and (self.sampling_rate, self.steps) != (1.0, 1):
            raise ValueError("a statistics phase has sampling_rate 1 and one step")
        return self

    def mechanism(self) -> Mechanism:
        """The mechanism of every release of this phase."""
        if self.kind == "gradients":
            margin = max(slack(self.precision, block, bfloat16=self.bfloat16) for block in MICRO_BATCH)
            clip_norm = self.sensitivity if self.noise_multiplier else math.inf
            return for_gradients(clip_norm, self.noise_multiplier, self.size, margin)
        if self.noise_multiplier == 0:
            return Mechanism(self.sensitivity, replace_ratio=self.replace_ratio)
        return for_sums(self.sensitivity, self.noise_multiplier, self.replace_ratio)

    def event(self) -> Event:
        """What the whole phase costs."""
        return self.mechanism().event(self.steps, self.sampling_rate)


class Plan(BaseModel):
    """Every public choice of a run. Its hash is in the ledger; `fit` does what it says or refuses.

    rows: declared roughly, or None; nothing is ever derived from the true number of records.
    rows_needed: from how many records on this epsilon is expected to work. settings: the recipe's public sizes.
    seconds, megabytes: rough estimates for two processor cores, from public sizes only.
    """

    model_config = _FROZEN

    recipe: Recipe
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    rows: int | None = Field(default=None, ge=1)
    strict: bool = False
    phases: tuple[Phase, ...]
    settings: dict[str, Setting] = Field(default_factory=dict)
    schema_hash: str
    rows_needed: int
    seconds: float
    megabytes: float
    delta_threshold: float = 0.0
    notes: tuple[str, ...] = ()
    code_version: str

    @property
    def hash(self) -> str:
        """SHA-256 of the plan."""
        return files.digest(finite(self.model_dump(mode="python")))

    @property
    def delta_sampler(self) -> float:
        """Share of delta for the noise sampler, (1 + e^epsilon) * numbers * TV; 0 without noise."""
        return sampler_delta(self.epsilon)

    @property
    def events(self) -> tuple[Event, ...]:
        """What the phases cost, in order."""
        return tuple(phase.event() for phase in self.phases)

    @property
    def unit(self) -> str:
        """Whom the guarantee protects: a record, a person, or a client (all records of one site)."""
        return unit_of(self.settings)

    def phase(self, name: str) -> Phase | None:
        """The phase of that name, if the plan has it."""
        return next((phase for phase in self.phases if phase.name == name), None)

    def guarantee(self) -> Guarantee:
        """The promise that this plan keeps, with epsilon as accounted (at most the one asked for)."""
        rest = self.delta - self.delta_sampler - self.delta_threshold
        return Guarantee(
            epsilon=accountant.epsilon(self.events, rest),
            delta=self.delta,
            epsilon_replace_one=self._replace_one(rest),
            accountant=accountant.method(self.events, rest),
            delta_accountant=rest,
            delta_threshold=self.delta_threshold,
            delta_sampler=self.delta_sampler,
            not_covered=_not_covered(self),
            unit=self.unit,
        )

    def group_epsilon(self, size: int) -> float:
        """Epsilon for a person with one record at each of `size` sites, at this plan's delta."""
        rest = self.delta - self.delta_sampler - size * self.delta_threshold
        if rest <= 0:
            return math.inf
        return self._settled(lambda delta: accountant.group_epsilon(self.events, delta, size), rest, size)

    def _replace_one(self, delta: float) -> float:
        """Epsilon if one record is replaced, at no more than the accountant's delta."""
        # privacy: a record replaced can both lose and bring a rare category
        return self._settled(lambda at: accountant.epsilon(self.events, at, "replace_one"), delta, 2)

    def _settled(self, cost: Callable[[float], float], delta: float, thresholds: int) -> float:
        """Epsilon = cost(delta) at which so many thresholds' and the sampler's shares fit into this plan's delta."""
        return settled(cost, delta, self.delta - thresholds * self.delta_threshold)

    def dumps(self) -> str:
        """The TOML text; `Plan.loads` gives the same plan back."""
        return tomli_w.dumps(
            _without_none(self.model_dump(mode="json", exclude={"epsilon"}) | {"epsilon": self.epsilon})
        )

    def save(self, path: FilePath) -> None:
        """Write the TOML file, whole or not at all."""
        files.write_atomically(path, lambda file: file.write(self.dumps().encode()))

    @classmethod
    def loads(cls, text: str) -> "Plan":
        """The plan in a TOML text. Errors: UsageError for anything else."""
        try:
            return cls.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError:
            raise UsageError(
                "the plan is not valid TOML; write it again with: privae plan ... -o plan.toml"
            ) from None
        except ValidationError as error:
            place = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise UsageError(
                f"the plan's '{place}' is missing, unknown or out of range; plan again"
            ) from None

    @classmethod
    def load(cls, path: FilePath) -> "Plan":
        """The plan in a TOML file."""
        try:
            text = files.text(path)
        except (OSError, UnicodeDecodeError):
            raise UsageError(
                f"the plan {path} cannot be read; write it with: privae plan ... -o {path.name}"
            ) from None
        return cls.loads(text)


def unit_of(settings: Mapping[str, Setting]) -> str:
    """Whom a plan with these settings protects."""
    return str(settings.get("unit") or "record")


def check_budget(epsilon: float, delta: float, rows: int | None) -> None:
    """Raise UsageError for an epsilon, delta or number of rows that cannot be meant."""
    if math.isnan(epsilon) or epsilon <= 0:
        raise UsageError(
            "epsilon must be greater than 0: 0.1 to 10 in practice, or inf for no privacy at all"
        )
    if not 0 < delta < 1:
        raise UsageError(
            "delta must lie between 0 and 1; it is added to every probability, so keep it far below 1 / rows: 1e-6, say"
        )
    if rows is not None and rows < 1:
        raise UsageError(
            "rows must be at least 1: roughly how many records there are, as you would say it in public"
        )
    if math.isfinite(epsilon) and sampler_delta(epsilon) > delta / 100:
        raise UsageError("epsilon is too large to mean anything at this delta; choose a smaller one, or inf")


def sampler_delta(epsilon: float) -> float:
    """(1 + e^epsilon) times the most numbers drawn times the sampler's distance from the ideal (rule 5)."""
    return (
        (1.0 + math.exp(min(epsilon, 700.0))) * MOST_NUMBERS * NoiseSource.TV_PER_NUMBER
        if math.isfinite(epsilon)
        else 0.0
    )


def settled(cost: Callable[[float], float], most: float, whole: float) -> float:
    """Epsilon = cost(delta) at which the sampler's share fits into `whole` beside a delta of at most `most`."""
    found = cost(most)
    for _ in range(4):
        # privacy: the sampler's share grows with epsilon, so it is taken at a little more than the figure
        # that it is part of
        left = whole - sampler_delta(1.001 * found)
        if left <= 0:
            return math.inf
        before = found
        found = max(found, cost(min(left, most)))
        if found <= 1.001 * before:
            return found
    return math.inf


def calibrated(phases: Sequence[Phase], epsilon: float, delta: float) -> tuple[Phase, ...]:
    """The phases with the noise multipliers that spend (epsilon, delta) exactly and never more (rule 16).

    `delta` is the accountant's part. Statistics take their shares of mu^2 (all of it when there are no gradients);
    gradients get their multiplier from the accountant for what is left.
    """
    if math.isinf(epsilon):
        return tuple(phase.model_copy(update={"noise_multiplier": 0.0}) for phase in phases)
    statistics = [phase for phase in phases if phase.kind == "statistics"]
    gradients = [phase for phase in phases if phase.kind == "gradients"]
    total = sum(phase.share for phase in statistics) if not gradients else 1.0
    mu = accountant.gaussian_mu(epsilon, delta)
    spent = {p.name: _with_noise(p, 1.0 / (mu * math.sqrt(p.share / total))) for p in statistics}
    if gradients:
        known = [phase.event() for phase in spent.values()]

        def events(multiplier: float) -> list[Event]:
            return [*known, *(_with_noise(p, multiplier).event() for p in gradients)]

        multiplier = accountant.calibrate(epsilon, delta, events)
        spent |= {p.name: _with_noise(p, multiplier) for p in gradients}
    elif accountant.epsilon([p.event() for p in spent.values()], delta) > epsilon:
        # privacy: the last bit of a float must not carry the total past what was asked for
        spent = {p.name: _with_noise(p, p.noise_multiplier * (1 + 1e-9)) for p in spent.values()}
    return tuple(spent[phase.name] for phase in phases)


def _with_noise(phase: Phase, multiplier: float) -> Phase:
    return phase.model_copy(update={"noise_multiplier": multiplier})


def _not_covered(plan: Plan) -> tuple[str, ...]:
    items = [
        "the schema, the plan and the number of rows you declared: they are public choices",
        "files and screens of the data holder: error messages about the data, progress, timing",
        "the noise key is assumed secret and its AES-256-CTR keystream pseudorandom",
        "facts about groups: what is true of many records may be learned about each of them",
        "other fits of the same data, unless all of them share one ledger; trying settings out is a fit too",
        REFUSED,
    ]
    if plan.settings.get("own_network"):
        items.append("the code and the first weights of a network of your own")
    if plan.strict:
        items.append("strict: that the fit was not refused says that every value fitted the schema")
    if plan.recipe == "evaluation":
        items.append(
            "how long scoring takes: a model that was made to do so may be slower on some records; evaluate models "
            "that you fitted, or know who did"
        )
    kinds = {phase.precision for phase in plan.phases if phase.kind == "gradients"}
    if "float32" in kinds:
        items.append("floating-point summation of gradients in float32")
    if kinds:
        items.append(PLACES)
    return tuple(items)


def finite(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """The value as JSON gives it back; an infinite number is the text "inf"."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return "inf" if value == math.inf else value


def _without_none(value: Any) -> Any:  # noqa: ANN401  any TOML value
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
