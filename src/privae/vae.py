"""The front door: VAE, fitted once with a printed guarantee, then sampled, scored, embedded and saved for free."""

import json
import math
import secrets
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from privae import files
from privae.attacks.finding import Finding
from privae.audit.canaries import recount, trial
from privae.audit.case import Own
from privae.audit.coins import Coins
from privae.audit.suite import Audit, Level, case_of
from privae.audit.suite import audit as run_audit
from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.errors import ArtifactError, UsageError
from privae.fitted.anomalies import heat_of, scores_of
from privae.fitted.kinds import AnyFitted, Fitted
from privae.fitted.ratings import FittedRatings
from privae.fitted.units import Units
from privae.plan import Plan, check_budget
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Ledger
from privae.privacy.noise import NoiseSource
from privae.recipes.gradients import Training
from privae.recipes.modality import (
    AnyRecipe,
    Facts,
    archived,
    as_declared,
    data_of,
    from_members,
    identity,
    name_of,
    needs_network,
    recipe_named,
)
from privae.recipes.phases import Budget, Run, budget_of, check_plan, plan_of
from privae.training.books import Books, Places, charges_of, follows
from privae.training.group import processes
from privae.training.launch import device_of
from privae.training.state import discard
from privae.training.watch import Silent, Watch

DEFAULT_DELTA = 1e-6
_OWN_SAMPLES = 10_000  # samples of the model that set the threshold of `predict`
_DEFAULT_COUNT = 1000


class VAE(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A variational autoencoder fitted under differential privacy, by scikit-learn's conventions.

    epsilon: the promise; it has no default, and math.inf fits without noise (NOT PRIVATE). delta: its slack.
    rows: roughly how many records there are (of ratings: persons), as you would say in public; gradients need it as
    their divisor.
    recipe: "auto" (statistics first), "gradients" (the whole network by noisy clipped gradients), or "detection"
        (of tables and images: released quantiles and moments, for anomaly scores).
    schema: Schema for a table, RatingSchema for ratings, SeriesSchema for time series (here or in `fit`); images have
        one by their shape, `classes`.
    classes: of images with labels: their number (labels "0", "1", ...), their names, or None to buy them.
    fidelity: train a residual decoder for images; None decides by epsilon. strict: refuse values outside the schema.
    training, network: sizes of, and a network for, recipe="gradients".
    """

    def __init__(  # noqa: PLR0913  scikit-learn reads hyper-parameters off the constructor
        self,
        epsilon: float,
        delta: float = DEFAULT_DELTA,
        rows: int | None = None,
        recipe: str = "auto",
        schema: Facts | None = None,
        classes: int | tuple[str, ...] | None = None,
        fidelity: bool | None = None,
        strict: bool = False,
        training: Training | None = None,
        network: nn.Module | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.rows = rows
        self.recipe = recipe
        self.schema = schema
        self.classes = classes
        self.fidelity = fidelity
        self.strict = strict
        self.training = training
        self.network = network

    def plan(self, schema: Facts | None = None) -> Plan:
        """Every public choice of the fit, its noise included; reads no data.

        Errors: UsageError for arguments or a schema that cannot be meant; PrivacyRefused for a person column.
        """
        chosen = schema or self.schema
        if chosen is None:
            raise UsageError("a table needs a schema; draft one with: privae schema patients.csv")
        rows = self.rows if self.rows is not None or isinstance(chosen, ImageSchema) else chosen.rows
        budget = Budget(float(self.epsilon), float(self.delta), rows, self.strict, self.fidelity)
        check_budget(budget.epsilon, budget.delta, budget.rows)
        recipe = self._recipe(chosen)
        return plan_of(recipe.draft(budget), budget, chosen.hash, files.code_version())

    def fit(  # noqa: PLR0913  the call that spends: everything that could change its outcome is named
        self,
        X: Any,  # noqa: ANN401  scikit-learn's name: a DataFrame, or uint8 images [n, h, w]
        y: Any = None,  # noqa: ANN401
        *,
        schema: Facts | None = None,
        plan: Plan | None = None,
        ledger: Ledger | str | Path | None = None,
        noise: NoiseSource | None = None,
        watch: Watch | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        device: str | torch.device = "cpu",
        coins: Coins | None = None,
    ) -> Self:
        """Spend the budget once; everything afterwards is free.

        X: DataFrame of a table, or uint8 images [n, h, w] with optional labels y [n]. plan: one made by `plan`,
        followed exactly or refused. ledger: a data set's ledger, charged with the whole plan before anything is
        released. noise: for repeatable tests only; the default draws a fresh secret key. device: where gradients
        are computed. Processes that torchrun started fit together.
        checkpoint: a file that the fit is kept in until `save`, so that one that was killed goes on with the same
        call and resume=True, without being charged again; see `training.state.Checkpoint`.
        coins: keep records out and plant canaries for an audit; what these show is in `canary_findings_`.
        Guarantee: `self.guarantee`, for any true number of records, and all lives of a resumed fit together.
        Errors: UsageError for a checkpoint that is there and not to be resumed, or is that of another fit;
            PrivacyRefused where it may not go on.
        """
        data, chosen = self._data(X, y, schema or self.schema)
        agreed = plan or self.plan(chosen)
        if agreed.schema_hash != chosen.hash:
            raise UsageError("the plan was made for another schema; plan again")
        recipe = self._recipe(chosen, agreed)
        recipe.check(data, y, agreed.strict)
        check_plan(agreed, recipe.draft(budget_of(agreed)))
        where = device_of(device)
        source = noise or NoiseSource()
        path = None if checkpoint is None else Path(checkpoint)
        books = Books(agreed, source, Places(ledger, path, resume))
        fed = trial(coins, data, y, chosen)
        with processes(where) as group, ExitStack() as held:
            group.same(lambda: held.enter_context(books.open()))
            seen = watch or Silent()
            books.tell(seen)
            told = (books.charge, source, seen, books.keeper, group, where, books.drawn_before)
            run = Run(agreed, *told, transcript=None if coins is None else {})
            fitted = recipe.fit(run, *fed.fed)
            run.finish()
            own, fixed = group.same(lambda: (books.own, books.fixed))
        self.checkpoint_ = path
        self.canary_findings_ = fed.read(agreed, fitted, run.transcript or {})
        self.federation_: dict[str, Any] = {}
        return self._set(fitted, agreed, own, (FIXED_NOISE,) if fixed else ())

    def sample(self, n: int | None = None, seed: int | None = None) -> Any:  # noqa: ANN401
        """New records in the form of the data: a DataFrame, or images (with their labels, if they had any).

        n: the declared number of rows by default, else 1,000. seed: repeats a sample; None draws a fresh one.
        """
        fitted = self._fitted
        count = n if n is not None else self.plan_.rows or _DEFAULT_COUNT
        if count < 0:
            raise UsageError("n, the number of records to sample, must not be negative")
        made = fitted.sample(count, secrets.randbelow(2**31) if seed is None else seed)
        if isinstance(made, pd.DataFrame):
            return made
        return made[0] if made[1] is None else made

    def score_samples(self, X: Any) -> NDArray[np.float64]:  # noqa: ANN401
        """Log-likelihood bound, or negated anomaly score, of every record [n]; higher is more ordinary (sklearn)."""
        return self._fitted.score(X)

    def decision_function(self, X: Any, score: str | None = None) -> NDArray[np.float64]:  # noqa: ANN401
        """Anomaly score of every record [n]; higher is stranger (PyOD's sign).

        score: of a "detection" model, "combined" (the default of tables), "mahalanobis" (that of images), "diagonal"
            or "tail".
        """
        return -self.score_samples(X) if score is None else scores_of(self._fitted, X, score)

    def heat_map(self, X: Any) -> NDArray[np.float64]:  # noqa: ANN401
        """Where each record is strange: [n, h, w] of images by a "detection" model, [n, t, c] of windows of series.

        See `FittedImageDetection.heat` and `FittedSeries.heat`.
        """
        return heat_of(self._fitted, X)

    def predict(self, X: Any, contamination: float = 0.05) -> NDArray[np.int64]:  # noqa: ANN401
        """1 for an anomaly, else 0, [n]: stranger than all but a share `contamination` of the model's own samples.

        The threshold is a function of the released model alone, never of training scores.
        """
        if not 0 < contamination < 1:
            raise UsageError("contamination is a share between 0 and 1")
        own = -self._fitted.sampled_scores(_OWN_SAMPLES, X)
        return (self.decision_function(X) > np.quantile(own, 1 - contamination)).astype(np.int64)

    def transform(self, X: Any) -> NDArray[np.float64]:  # noqa: ANN401
        """Latent codes (embeddings) of every record: [n, k]."""
        return self._fitted.embed(X)

    def recommend(self, profile: Any, n: int = 10, *, exclude_seen: bool = True) -> pd.DataFrame:  # noqa: ANN401
        """The n items that a person would like most: rank, item, score; of a table's persons: with their names.

        profile: what one person likes, as a list of items, or a DataFrame of ratings of any persons; none of them needs
        to have been in the fit. It is read here and sent nowhere. exclude_seen: leave out what is in the profile.
        Edges: items that the model does not know are left out; who likes none that it knows gets what is popular.
        Errors: UsageError for a model that is not of ratings, or n below 1.
        """
        return self.of_ratings().recommend(profile, n, exclude_seen=exclude_seen)

    def nearest(self, item: Any, n: int = 10) -> pd.DataFrame:  # noqa: ANN401  the name of one
        """The n items most like one of the catalogue: item, likeness."""
        return self.of_ratings().nearest(item, n)

    def of_ratings(self) -> FittedRatings:
        """The fitted model of preferences. Errors: UsageError for a model of anything else."""
        if not isinstance(self._fitted, FittedRatings):
            raise UsageError("only models of ratings recommend; fit one with a RatingSchema")
        return self._fitted

    def audit(  # noqa: PLR0913  what was fitted, what was not, and how hard to try
        self,
        X: Any,  # noqa: ANN401
        y: Any = None,  # noqa: ANN401
        *,
        holdout: Any = None,  # noqa: ANN401
        level: Level = "quick",
        coins: Coins | None = None,
        watch: Watch | None = None,
        seed: int = 0,
    ) -> Audit:
        """Try to break the model, and say how hard was tried. What it finds on records is for the data holder only.

        X, y: the data that `fit` was given. holdout: records of the same population that it was not given, in the
        same form ((images, labels) where there are labels); with the coins of the fit, those that they kept out.
        level: "quick" (seconds), "standard" (minutes), "deep" (fits reference models). seed: of the lots drawn.
        """
        data, schema = self._data(X, y, self._fitted.schema)
        plan, (twin, declared) = self.plan_, self._twin()
        named = self.network is not None or not plan.settings.get("own_network")
        recipe = twin._recipe(declared, plan)
        rows = not isinstance(self.fitted_, FittedRatings | Units)
        again = self._again if named and rows else None
        own = Own(self.fitted_, plan, recipe, again, self.identity, self.federation_)
        recipe.check(data, y, strict=False)
        if isinstance(schema, Schema) and holdout is not None:  # in any form that X and y may have
            x, labels = holdout if isinstance(holdout, tuple) else (holdout, None)
            holdout, _ = self._data(x, labels, schema)
        case = case_of(own, (data, y), holdout, coins, seed)
        return run_audit(case, level, self.canary_findings_, watch or Silent())

    @property
    def guarantee(self) -> Guarantee:
        """What is promised, counted how, and what is not covered."""
        self._fitted  # noqa: B018  raises before the fit
        return self.guarantee_

    @property
    def identity(self) -> str:
        """A name for this very fit, which its coins and its audits bear."""
        return identity(self._fitted, self.ledger_.head)

    @property
    def ledger(self) -> Ledger:
        """Every release of the fit, hash-chained."""
        self._fitted  # noqa: B018
        return self.ledger_

    def save(self, path: str | Path) -> None:
        """Write the model file: a zip of safetensors and JSON with the schema, plan, guarantee and ledger.

        PRIVAE_SEAL_TO seals it. A checkpoint that the fit was kept in is removed when the model is in place.
        """
        members = archived(self._fitted, self.plan_, self.guarantee_, self.ledger_)
        if self.federation_:
            members["federation.json"] = files.canonical_json(self.federation_)
        public = [finding.to_dict() for finding in self.canary_findings_ if finding.public]
        if public:
            members["canaries.json"] = files.canonical_json(public)
        files.write_archive(Path(path), members)
        kept, self.checkpoint_ = getattr(self, "checkpoint_", None), None
        if kept is not None:
            discard(kept, self.ledger_.head)

    @classmethod
    def load(cls, path: str | Path, network: nn.Module | None = None) -> "VAE":
        """A fitted model from its file, after its hashes, ledger and guarantee were checked.

        Errors: ArtifactError for a file that is damaged, changed, or promises what its ledger does not show.
        """
        members = files.read_archive(Path(path))
        if "checkpoint.json" in members:
            raise UsageError(f"{path} is no model yet, but a fit that was interrupted; resume that")
        try:
            plan = Plan.loads(members["plan.toml"].decode())
            ledger = Ledger.parse(members["ledger.jsonl"].decode())
            guarantee = Guarantee.from_dict(json.loads(members["guarantee.json"]))
            state: dict[str, Tensor] = safetensors.torch.load(members["weights.safetensors"])
            federation = json.loads(members.get("federation.json", b"{}"))
            findings = [Finding.from_dict(f) for f in json.loads(members.get("canaries.json", b"[]"))]
            lacking = network is None and needs_network(members)
            fitted = None if lacking else from_members(members, state, network)
        except (KeyError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError):
            raise ArtifactError(
                f"{path} lacks a part or holds one that does not read; restore a copy"
            ) from None
        if fitted is None:
            raise UsageError("this model was fitted with a network of your own; load it with network=...")
        known = (FIXED_NOISE, *federation.get("not_covered", ()))
        extra = tuple(line for line in known if line in guarantee.not_covered)
        if not _charged(ledger, plan) or guarantee != _promised(plan, extra):
            raise ArtifactError(
                f"{path}: its guarantee does not follow from its plan and ledger; do not trust it"
            )
        if isinstance(fitted, Units) and fitted.schema.unit != plan.unit:
            raise ArtifactError(f"{path}: its schema protects others than its plan; do not trust it")
        recounted = [recount(finding, plan) for finding in findings]
        if None in recounted:
            raise ArtifactError(f"{path} holds findings that its canaries do not show; do not trust it")
        model = cls(plan.epsilon, plan.delta, plan.rows, name_of(plan), fitted.schema, strict=plan.strict)
        model.canary_findings_ = [finding for finding in recounted if finding is not None]
        model.federation_ = federation
        return model._set(fitted, plan, ledger, extra)

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle or a copy holds: privacy: no finding on real records."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "canary_findings_" in state:
            state["canary_findings_"] = [finding for finding in self.canary_findings_ if finding.public]
        return state

    def _again(self, data: Any, labels: Any, coins: Coins | None = None) -> tuple[Fitted, list[Finding]]:  # noqa: ANN401
        """The same plan fitted to other data, and what their canaries show; for an audit."""
        plan, (model, declared) = self.plan_, self._twin()
        agreed = plan if declared.hash == plan.schema_hash else None
        model.fit(data, labels, schema=declared, plan=agreed, coins=coins)
        assert not isinstance(model.fitted_, FittedRatings | Units)
        return model.fitted_, model.canary_findings_

    def _twin(self) -> tuple["VAE", Facts]:
        """An unfitted VAE that plans what this one did, and the schema as it was declared."""
        plan, declared = self.plan_, as_declared(self.fitted_.schema, self.plan_)
        model = VAE(plan.epsilon, plan.delta, plan.rows, name_of(plan), declared, network=self.network)
        model.set_params(strict=plan.strict, fidelity=budget_of(plan).fidelity, training=Training.of(plan))
        return model, declared

    def _recipe(self, schema: Facts, plan: Plan | None = None) -> AnyRecipe:
        name = name_of(plan) if plan else self.recipe
        return recipe_named(name, schema, self.training, self.network)

    def _data(self, x: Any, y: Any, schema: Facts | None) -> tuple[Any, Facts]:  # noqa: ANN401
        return data_of(x, y, schema, self.classes)

    def _set(self, fitted: AnyFitted, plan: Plan, ledger: Ledger, extra: tuple[str, ...]) -> Self:
        """Be fitted. extra: what is not covered beyond what follows from the plan."""
        self.fitted_, self.plan_, self.ledger_ = fitted, plan, ledger
        self.guarantee_ = _promised(plan, extra)
        return self

    @property
    def _fitted(self) -> AnyFitted:
        if not hasattr(self, "fitted_"):
            raise NotFittedError("this VAE is not fitted yet; call fit first")
        return self.fitted_


FIXED_NOISE = "a noise key was given by hand: whoever knows it can remove the noise; for tests only"


def _charged(ledger: Ledger, plan: Plan) -> bool:
    """Whether a ledger holds the plan, whole and alone, and what it adds to delta."""
    added = math.fsum(float(entry.event.get("added_delta", 0.0)) for entry in ledger.entries)
    return (
        ledger.cap is None
        and {(entry.plan_hash, entry.delta) for entry in ledger.entries} == {(plan.hash, plan.delta)}
        and follows(charges_of(ledger), plan, whole=True)
        and added == plan.delta_threshold + plan.delta_sampler
    )


def _promised(plan: Plan, extra: tuple[str, ...]) -> Guarantee:
    fresh = plan.guarantee()
    return replace(fresh, not_covered=(*extra, *fresh.not_covered))
