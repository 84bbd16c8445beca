"""A study: who fits together, under which terms, and what each site lets happen. Two TOML files, both public in kind.

study.toml is the same at every place and names the plan by its hash; site.toml is a site's own, and only narrows.

Noise. The plan's noise of standard deviation s is shared: each of n sites adds s / sqrt(n - colluders - dropouts),
rounded on the grid of its numbers. However up to `dropouts` sites vanish and up to `colluders` take their own share
away, what is left has a variance of at least s^2 (guarantees.md rule 23), so the plan's epsilon holds against the
outside, the coordinator, and every such coalition. A share of at least 4 grid steps is asserted: the sum of n rounded
Gaussians is then, up to a total variation of 2^n exp(-pi^2 4^2) < 2^(n - 227) a number, a post-processing of the
Gaussian of their joint variance. Sketch: what rounding adds to N is a function of the fraction of N; given the sum of
all N_i, the fractions are uniform up to the Fourier coefficients of a wrapped Gaussian, exp(-2 pi^2 (s_i / grid)^2)
each, so their sum depends on the sum of the N_i alone, by a law that moves along with whole grid steps.
Without masking each site's numbers are seen one by one, so each adds all of s: the sum has sqrt(n) times the noise.
"""

import hashlib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import tomli_w
from pydantic import BaseModel, ConfigDict, Field, model_validator

from privae import files
from privae.ckks.bits import parameters_for
from privae.data.images import ImageSchema
from privae.data.ratings import RatingSchema
from privae.data.schema import Schema
from privae.errors import PrivacyRefused, UsageError
from privae.evaluate import released
from privae.evaluate.released import Evaluation
from privae.federated.round import Circle
from privae.plan import MOST_NUMBERS, Plan
from privae.privacy import accountant
from privae.privacy.sampling import CLIENT
from privae.recipes.modality import Facts, recipe_of
from privae.recipes.modality import Recipe as Fit
from privae.recipes.phases import budget_of, check_plan
from privae.series.schema import SeriesSchema, read_schema

Share = Literal["all", "decoder"]
Way = Literal["masked", "encrypted"]
Recipe = Fit | Evaluation
_MOST_SITES = 64
FROZEN = ConfigDict(frozen=True, extra="forbid")
_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"


class Study(BaseModel):
    """Who fits together, and how; the same text at every place.

    sites: names and public keys (base64), in the order of the roster. plan: its hash. schema_text: the schema that
    all agreed on, TOML for a table, JSON for images. min_sites: fewest sites in a sum. dropouts: how many may vanish
    from a sum. colluders: how many may tell the coordinator what they know. masking: whether a site is hidden in sums.
    sum: how: under masks, or on ciphertexts under a key that the sites share and that `consortium` names. groups: sums
    are formed in so many groups, and the median of their sums is taken. share: what gradients train. sites_a_person:
    how many sites may hold a record of one person. attempt: a plan that is run again is a new spend of every site.
    """

    model_config = FROZEN

    name: str = Field(pattern=_NAME)
    sites: dict[str, str]
    coordinator: str
    plan: str = Field(pattern=r"^[0-9a-f]{64}$")
    schema_text: str
    min_sites: int = Field(ge=2)
    dropouts: int = Field(default=0, ge=0)
    colluders: int = Field(default=0, ge=0)
    masking: bool = True
    sum: Way = "masked"
    consortium: str = ""
    groups: int = Field(default=1, ge=1)
    share: Share = "decoder"
    sites_a_person: int = Field(default=1, ge=1)
    attempt: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        smallest = len(self.sites) // self.groups
        if len({*self.sites.values(), self.coordinator}) <= len(self.sites):
            raise ValueError("each site, and the coordinator, needs a key of its own")
        if self.sites_a_person > len(self.sites):
            raise ValueError("sites_a_person is at most the number of sites")
        if not 2 <= len(self.sites) <= _MOST_SITES or smallest < 2:
            raise ValueError(f"a study has 2 to {_MOST_SITES} sites, and each group at least 2")
        if self.encrypted and not self.masking:
            raise ValueError(
                'masking = false has each site seen by itself; leave it out, or sum = "encrypted"'
            )
        left = smallest - self.dropouts
        if self.masking and not self.encrypted and left < max(_threshold(smallest, self.colluders), 1):
            raise ValueError(
                f"of {smallest} sites that sum together, {self.dropouts} may not vanish while {self.colluders} "
                "collude: more than (sites + colluders) / 2 must be left; lower dropouts or colluders"
            )
        if left - self.colluders < 1 or self.min_sites > left:
            raise ValueError(
                "min_sites may be at most the number of sites that sum together, less the dropouts"
            )
        return self

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything in it; what earlier versions did not know counts where it is said."""
        later = set() if self.encrypted else {"sum", "consortium"}
        return files.digest(self.model_dump(mode="json", exclude=later))

    @property
    def encrypted(self) -> bool:
        """Whether sums are formed on ciphertexts."""
        return self.sum == "encrypted"

    @property
    def schema_of(self) -> Schema | ImageSchema:
        """The schema that all agreed on."""
        if self.schema_text.lstrip().startswith("{"):
            return ImageSchema.model_validate_json(self.schema_text)
        return Schema.loads(self.schema_text)

    @property
    def no_records(self) -> tuple[Any, Any]:
        """What the coordinator runs the recipe on: no records, in the form of the schema."""
        schema = self.schema_of
        if isinstance(schema, ImageSchema):
            labels = None if schema.classes is None else np.empty(0, dtype=object)
            return np.empty((0, schema.height, schema.width), np.uint8), labels
        return pd.DataFrame({column.name: [] for column in schema.kept}, dtype=object), None

    def facts(self, plan: Plan, rounds: str) -> dict[str, Any]:
        """What a model file says of how several sites fitted it: public numbers of the study, and what they cost."""
        person = plan.group_epsilon(self.sites_a_person) if self.sites_a_person > 1 else None
        return {
            **self.model_dump(exclude={"name", "sites", "coordinator", "plan", "schema_text"}),
            "epsilon_for_a_person": "inf" if person == math.inf else person,
            "not_covered": self._not_covered(),
            "study": self.hash,
            "name": self.name,
            "sites": list(self.sites),
            "rounds": rounds,
            "noise_over_central": self.cost,
            "epsilon_against_coalitions": {
                str(k): "inf" if math.isinf(v) else v for k, v in self.coalitions(plan).items()
            },
        }

    def _not_covered(self) -> list[str]:
        """What the guarantee of a model of several sites does not cover, in words."""
        few = f"more than {self.colluders} sites" if self.colluders else "a site"
        hidden = f"{few} that use, or tell the coordinator, what they know of their own noise"
        lines = [
            "a person with records at several sites: the guarantee is for one record at one site"
            if self.sites_a_person == 1
            else f"a person with records at {self.sites_a_person} sites, who has an epsilon of their own beside this "
            "one, or at more sites, or with several at one",
            f"{hidden}: epsilon is told for each number of them"
            if self.masking
            else "that sums of one site are seen, noised",
            "sites that send wrong numbers: clipping bounds what one record does, not what a site does",
        ]
        if self.encrypted:
            lines += [
                "the coordinator together with any site, and a site that reads what others send it: all sites hold "
                "one key, which opens each site's own numbers, with its share of the noise alone; epsilon against a "
                "coalition of 1 is told",
                "a coordinator that has different sites decrypt sums over different sets, where sites may vanish",
            ]
        return [*lines, "a site whose state was set back to an earlier day, or whose signing key others hold"]

    def circles(self, query: int) -> tuple[Circle, ...]:
        """Who sums together in one sum: one circle a group."""
        names = tuple(self.sites)
        made = []
        for group in range(self.groups):
            mine = names[group :: self.groups]
            need = max(len(mine) - self.dropouts, self.min_sites)
            context = f"{self.hash}/{query}/{group}"
            publics = {name: self.sites[name] for name in mine}
            made.append(Circle(mine, publics, _threshold(len(mine), self.colluders), need, context))
        return tuple(made)

    def circle_of(self, name: str, query: int) -> Circle:
        """The circle that a site is in."""
        return next(circle for circle in self.circles(query) if name in circle.names)

    def shared(self, circle: Circle, std: float) -> float:
        """Standard deviation of one site's share of noise of `std`."""
        if not self.masking:
            return std
        return std / math.sqrt(len(circle.names) - self.colluders - self.dropouts)

    @property
    def cost(self) -> float:
        """Standard deviation of the noise in what is told of all sites, over the plan's: 1 is a central fit's.

        Of several groups, the median of their sums times how many they are is told; the spread of a median of three
        or more is bounded by sqrt(pi / 2) times that of a mean.
        """
        noisy = [len(c.names) for c in self.circles(0)]
        one = math.sqrt(max(n / (n - self.colluders - self.dropouts) if self.masking else n for n in noisy))
        return one * math.sqrt(self.groups * (math.pi / 2 if self.groups > 2 else 1.0))

    def coalitions(self, plan: Plan) -> dict[int, float]:
        """Epsilon against the coordinator together with so many sites, `dropouts` having vanished.

        Without masking every number is noised in full where it arises, so no coalition changes anything.
        """
        smallest = min(len(c.names) for c in self.circles(0))
        rest = plan.delta - plan.delta_sampler - plan.delta_threshold
        found = {}
        # up to five, and the least number that opens a site's own numbers: more cost no more than that
        for bad in sorted({*range(6), self._opening()} & {*range(smallest - self.dropouts)}):
            left = (smallest - self.dropouts - bad) / (smallest - self.dropouts - self.colluders)
            # so many open a site's own numbers, which have its share of the noise alone: as many as the threshold, or,
            # where sites may be missing, as many as can sign two sets with half of the others each
            open_to = self.masking and bad >= self._opening()
            left = 1 / (smallest - self.dropouts - self.colluders) if open_to else left
            scale = math.sqrt(left) if self.masking else 1.0
            events = [replace(e, noise_multiplier=e.noise_multiplier * scale) for e in plan.events]
            found[bad] = accountant.epsilon(events, rest, fine=False)
        return found

    def _opening(self) -> int:
        """How many sites, with the coordinator, can open one's own numbers: each, where they share one key."""
        if self.encrypted:
            return 1
        sizes = [(len(c.names), c.threshold) for c in self.circles(0)]
        return min(2 * t - n if self.dropouts else t for n, t in sizes)

    def check(self, plan: Plan) -> None:
        """Refuse a plan that is another one than agreed, whose bounds do not hold, or that several sites cannot fit.

        Errors: UsageError, PrivacyRefused.
        """
        if plan.hash != self.plan:
            raise UsageError(
                "the plan is not the one that the study names by its hash; plan again, or agree anew"
            )
        if plan.schema_hash != self.schema_of.hash:
            raise UsageError(
                "the plan was made for another schema than the study's; plan with: privae plan SCHEMA.toml"
            )
        if self.encrypted:
            parameters_for(max(len(circle.names) for circle in self.circles(0)))
        if plan.settings.get("own_network"):
            raise UsageError("a network of one's own is code, which no study ships; plan without it")
        # privacy: the noise of every sum rests on the bounds that the plan states, so they are the recipe's own
        check_plan(plan, recipe_for(self, plan).draft(budget_of(plan)))
        if sum(phase.steps * phase.size for phase in plan.phases) > MOST_NUMBERS // len(self.sites):
            raise UsageError(
                "more noise would be drawn than delta is charged for; plan fewer steps or parameters"
            )
        self._check_client(plan)
        self._check_gradients(plan)

    def _check_client(self, plan: Plan) -> None:
        if plan.unit != CLIENT:
            return
        if plan.rows != len(self.sites):
            raise UsageError(
                f"where each site is one unit, rows is how many there are: --rows {len(self.sites)}"
            )
        if self.sites_a_person > 1:
            raise UsageError(
                "where each site is one unit, sites_a_person is 1: the bound is for a whole site"
            )
        if any(phase.kind == "statistics" for phase in plan.phases):
            raise PrivacyRefused(
                "where each site is one unit, gradients are all that is released; plan without more"
            )

    def _check_gradients(self, plan: Plan) -> None:
        trains = [phase for phase in plan.phases if phase.kind == "gradients"]
        if any(phase.quantile is not None for phase in trains):
            raise UsageError(
                "a clip norm that follows a quantile is not summed between sites; plan without it"
            )
        whole = plan.settings.get("share", "all") == "all" and plan.recipe != "image"
        if trains and whole and self.share != "all":
            raise PrivacyRefused(
                "the plan trains the whole network, and the study shares its decoder only; "
                'plan with share = "decoder", or agree on share = "all"'
            )

    def dumps(self) -> str:
        """The TOML text; `loads` gives the same study back."""
        return tomli_w.dumps(self.model_dump(mode="json"), multiline_strings=True)

    @classmethod
    def loads(cls, text: str) -> "Study":
        """The study in a TOML text. Errors: UsageError."""
        return files.validated(cls, text, "study")


def recipe_for(study: Study, plan: Plan, evaluated: bytes | None = None) -> Recipe:
    """What a study's places run: a fit, or an evaluation. evaluated: the model of that, where it is at hand."""
    if plan.recipe == released.RECIPE:
        return Evaluation.of(study.schema_of, plan, evaluated)
    return recipe_of(study.schema_of, plan)


class Terms(BaseModel):
    """The file that a person writes, study.toml: who fits together and under which terms, with paths beside it.

    plan: what `privae plan` wrote. schema: see `declared`. model: instead of a schema, the model that the plan is to
    evaluate; its schema is agreed on. sites: their names, each with the
    public key that the site made, or "" for one that is made for it. colluders: 1 unless said otherwise, so that the
    plan's epsilon holds against each site, which knows its own share of the noise. Everything else as in `Study`.
    """

    model_config = FROZEN

    name: str = Field(pattern=_NAME)
    plan: Path
    schema_file: Path | None = Field(default=None, alias="schema")
    model: Path | None = None
    sites: dict[Annotated[str, Field(pattern=_NAME)], str]
    min_sites: int = 3
    dropouts: int = 0
    colluders: int = 1
    masking: bool = True
    sum: Way = "masked"
    consortium: str = ""
    groups: int = 1
    share: Share = "decoder"
    sites_a_person: int = 1
    attempt: int = 1
    folder: Path = Field(default=Path(), exclude=True)

    @classmethod
    def load(cls, path: Path) -> "Terms":
        """The terms in a file. Errors: UsageError."""
        return files.validated(cls, files.text_in(path), path.name).model_copy(update={"folder": path.parent})

    def plan_of(self) -> Plan:
        """The plan that it names. Errors: UsageError."""
        return Plan.load(self.folder / self.plan)

    def evaluated(self) -> bytes | None:
        """The file of the model to evaluate, if there is one. Errors: UsageError."""
        return None if self.model is None else released.read(self.folder / self.model)

    def schema_of(self) -> Schema | ImageSchema:
        """The schema that it names, or that of the model. Errors: UsageError, ArtifactError."""
        content = self.evaluated()
        if (self.schema_file is None) == (content is None):
            raise UsageError("a study names a schema, or else a model to evaluate: one of the two")
        if content is not None:
            return released.load_members(content, str(self.model)).schema
        found = declared(self.folder / str(self.schema_file))
        if isinstance(found, RatingSchema | SeriesSchema):
            raise UsageError(
                "ratings and series are fitted at one place so far; a study takes tables and images"
            )
        return found

    def study(self, publics: Mapping[str, str], coordinator: str) -> Study:
        """What all places agree on. Errors: UsageError for what does not go together; PrivacyRefused."""
        plan, content = self.plan_of(), self.evaluated()
        named = None if content is None else hashlib.sha256(content).hexdigest()
        if plan.settings.get("model") != named:
            raise UsageError(
                "the plan is not one to evaluate this study's model; make it with: privae plan MODEL"
            )
        fields = self.model_dump(exclude={"plan", "schema_file", "model", "sites", "folder"})
        made = {**fields, "sites": {name: publics[name] for name in self.sites}, "coordinator": coordinator}
        schema = self.schema_of()
        text = schema.dumps() if isinstance(schema, Schema) else schema.model_dump_json()
        study = files.made(Study, {**made, "plan": plan.hash, "schema_text": text}, "study.toml")
        study.check(plan)
        return study


def declared(path: Path) -> Facts:
    """The schema in a file: of a table, of ratings, or of images (height, width, and classes: a number, or names).

    Errors: UsageError for anything else.
    """
    text = files.text_in(path)
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path.name} is not valid TOML: {error}") from None
    if "height" not in fields:
        return read_schema(path)
    if isinstance(fields.get("classes"), int):
        fields["classes"] = [str(number) for number in range(fields["classes"])]
    return files.made(ImageSchema, fields, path.name)


def _threshold(sites: int, colluders: int) -> int:
    """Shares that open a secret: more than (sites + colluders) / 2, so that no two sets are ever both opened."""
    return (sites + colluders) // 2 + 1
