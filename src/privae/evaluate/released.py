"""How strange a released model finds records that it may never have seen, told with noise so that anybody may know.

The one release is a histogram of scores by class: a record falls into one cell, so it moves the counts by 1 (sqrt(2)
where it is exchanged), whatever the model and the edges are. All figures follow from these noisy counts. Everything
else in this folder is for the data holder only; this is a recipe like that of a fit, so it is planned, charged, and
run by one place or by several.

Proof that one record moves one cell: a score is that of the record alone, computed by itself, for in a batch its last
bits depend on its neighbors and could carry another record over an edge (guarantees.md rule 1). Edges follow from
the model, by its own samples.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from privae import files
from privae.data.images import ImageSchema, label_codes
from privae.data.schema import Schema
from privae.errors import ArtifactError, UsageError
from privae.fitted.anomalies import FittedDetection
from privae.fitted.kinds import Fitted
from privae.fitted.ratings import FittedRatings
from privae.fitted.table import FittedTable
from privae.fitted.units import Units
from privae.plan import Plan
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Ledger
from privae.recipes.modality import from_members, needs_network
from privae.recipes.phases import Budget, Draft, Run, plan_of, statistics
from privae.training.watch import Watch

Floats = NDArray[np.float64]

PHASE, RECIPE = "scores", "evaluation"
OTHER = "(no class)"
"""The class of records whose label is none of the declared ones."""
SHARES = (0.01, 0.05, 0.1)
"""Shares of strange records that thresholds are told for."""

_LEVELS = (0.001, 0.003, *SHARES, *(step / 20 for step in range(3, 20)), 0.99)
_TAIL = (1, 2, 4, 8, 16, 64, 256, 4096)  # edges below the lowest level, in distances from it to the median
_EDGES = len(_TAIL) + len(_LEVELS)
_OWN_SAMPLES = 10_000
_TIMES = 400  # draws of what noise and chance may have done
_CROWD = 0.01
_EVERY = 500  # records between steps of a progress bar
_SURE = 4.0  # standard deviations of noise that a number of records has to pass


def load_members(content: bytes, name: str) -> Fitted:
    """The model in the bytes of a model file. Errors: ArtifactError, UsageError; both name `name`."""
    members = files.members_of(content, name)
    try:
        if needs_network(members):
            raise UsageError(f"{name} was fitted with a network of one's own, which no plan ships")
        found = from_members(members, safetensors.torch.load(members["weights.safetensors"]))
    except (KeyError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError):
        raise ArtifactError(f"{name} lacks a part or holds one that does not read; restore a copy") from None
    if isinstance(found, FittedRatings | Units):
        raise UsageError(
            f"{name} is a model of {found.kind}; those of tables and images are evaluated between sites"
        )
    return found


def planned(model: Path, epsilon: float, delta: float, rows: int | None) -> Plan:
    """The plan to evaluate a model file: it names the model by its hash. Reads no record.

    rows: roughly how many records there will be. Errors: UsageError, ArtifactError.
    """
    content = read(model)
    fitted = load_members(content, str(model))
    budget = Budget(epsilon, delta, rows)
    _ascending({"edges": torch.from_numpy(edges_of(fitted))})  # a model without scores is told now
    recipe = Evaluation(fitted.schema, hashlib.sha256(content).hexdigest())
    return plan_of(recipe.draft(budget), budget, fitted.schema.hash, files.code_version())


def read(model: Path) -> bytes:
    """The bytes of a model file. Errors: UsageError."""
    try:
        return files.content(model)
    except OSError:
        raise UsageError(f"{model} cannot be read; name the model to evaluate") from None


def class_names(schema: Schema | ImageSchema) -> tuple[str, ...]:
    """The declared classes: those of the images, or the cells of the label; () where there are none."""
    if isinstance(schema, ImageSchema):
        return schema.classes if isinstance(schema.classes, tuple) else ()
    label = next((column for column in schema.kept if column.name == schema.label), None)
    if label is None:
        return ()
    texts = label.texts or tuple(f"bin {place + 1}" for place in range(label.size - int(label.missing)))
    return (*texts, "(missing)") if label.missing else texts


def shown_names(schema: Schema | ImageSchema) -> list[str]:
    """The names under which classes are told, `OTHER` the last; each once, whatever the classes are called."""
    names: list[str] = []
    for name in (*class_names(schema), OTHER):
        while name in names:
            name += "*"
        names.append(name)
    return names


@dataclass(frozen=True)
class Evaluation:
    """The recipe: one noisy histogram of scores, [classes + 1, bins].

    digest: SHA-256 of the model file. content: the file, where it is at hand; other places are told it.
    """

    schema: Schema | ImageSchema
    digest: str
    content: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, schema: Schema | ImageSchema, plan: Plan, content: bytes | None = None) -> "Evaluation":
        """The recipe of a plan."""
        return cls(schema, str(plan.settings.get("model")), content)

    @property
    def shape(self) -> tuple[int, int]:
        """Classes, with that of no class, and bins."""
        return len(class_names(self.schema)) + 1, _EDGES + 1

    def draft(self, budget: Budget) -> Draft:
        """The one phase. Errors: PrivacyRefused for a schema with a person column; UsageError with strict."""
        self.schema.check()
        if isinstance(self.schema, Schema):
            self.schema.check_records()
        if budget.strict:
            raise UsageError("strict is for fits: every record has a score")
        classes, bins = self.shape
        return Draft(
            recipe="evaluation",
            phases=(statistics(PHASE, 1.0, 1.0, math.sqrt(2.0), size=classes * bins),),
            settings={"model": self.digest, "classes": classes, "bins": bins},
            rows_needed=lambda noisy: 10 * _SURE * noisy[0].noise_multiplier * math.sqrt(bins),
            seconds=2.0 + 1e-3 * (budget.rows or 10_000),
            megabytes=400,
        )

    def check(self, data: Any, labels: NDArray[Any] | None, strict: bool) -> None:  # noqa: ANN401, ARG002
        """Refuse, before anything is charged, images of another form, or without labels where classes are."""
        if isinstance(self.schema, ImageSchema):
            if data.ndim != 3 or data.shape[1:] != (self.schema.height, self.schema.width):
                raise UsageError(f"images must be uint8 [n, {self.schema.height}, {self.schema.width}]")
            if class_names(self.schema) and (labels is None or len(labels) != len(data)):
                raise UsageError("classes are declared: there must be one label an image")

    def fit(self, run: Run, data: Any, labels: NDArray[Any] | None = None) -> "Evaluated":  # noqa: ANN401
        """Score the records one by one, and release how many fall into each cell."""
        fitted = self._fitted(run.agreed("model", self._model))
        edges = _ascending(run.agreed("edges", lambda: {"edges": torch.from_numpy(edges_of(fitted))}))
        classes, scores = _scores(fitted, data, labels)
        counts = np.zeros(self.shape, dtype=np.int64)
        run.watch.phase("scoring the records, one by one", len(classes))
        found = np.fromiter(_watched(scores, run.watch), np.float64, len(classes))
        # a score that is no number is as strange as can be
        places = np.where(np.isnan(found), 0, np.searchsorted(edges, found, side="right"))
        np.add.at(counts, (classes, places), 1)
        noisy = run.release(PHASE, [(counts, 1.0)])[0]
        return Evaluated(self.schema, self.digest, edges, np.asarray(noisy, np.float64), run.deviation(PHASE))

    def _model(self) -> dict[str, torch.Tensor]:
        if self.content is None:
            raise UsageError("the model to evaluate is not at hand; name it in the study: model = ...")
        return {"model": torch.from_numpy(np.frombuffer(self.content, np.uint8).copy())}

    def _fitted(self, told: Mapping[str, torch.Tensor]) -> Fitted:
        """The model as told. Errors: ArtifactError for another one than planned."""
        content = told["model"].numpy().tobytes() if "model" in told else b""
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise ArtifactError("the model to evaluate is not the one that the plan names by its hash")
        fitted = load_members(content, "the model")
        if fitted.schema.hash != self.schema.hash:
            raise ArtifactError("the model to evaluate has another schema than was agreed on")
        return fitted


def _ascending(told: Mapping[str, torch.Tensor]) -> Floats:
    found = told.get("edges", torch.empty(0))
    # the shape first: more than that would be made wide for nothing
    edges = found.double().numpy() if found.shape == (_EDGES,) else np.full(1, np.nan)
    if not np.isfinite(edges).all() or (np.diff(edges) < 0).any():
        raise ArtifactError("the edges of the scores are none: they are finite numbers that ascend")
    return edges


def edges_of(fitted: Fitted) -> Floats:
    """The edges of the bins of scores: levels of the model's own samples, and a tail below them; ascending."""
    without_label: Any = pd.DataFrame()
    own = fitted.sampled_scores(_OWN_SAMPLES, without_label)
    levels = np.quantile(own, _LEVELS)
    wide = np.median(own) - levels[0]
    return np.concatenate([levels[0] - wide * np.array(_TAIL[::-1]), levels])


def _scores(fitted: Fitted, data: Any, labels: Any) -> tuple[NDArray[np.int64], Iterator[float]]:  # noqa: ANN401
    """Class codes [n], and each record's score, computed by itself; a table's label plays no part in it."""
    names = class_names(fitted.schema)
    if isinstance(fitted, FittedDetection):  # it has no label, and reads numbers finer than their bins
        return np.full(len(data), len(names)), _each(fitted.score, data)
    if isinstance(fitted, FittedTable):
        codes, label = fitted.codec.encode(data), fitted.codec.label
        classes = np.full(len(codes), -1) if label is None else codes[:, label].astype(np.int64)
        if label is not None:
            codes[:, label] = -1
        scores = _each(fitted.score_codes, codes)
    else:
        images = np.ascontiguousarray(data)
        classes = label_codes(labels, names) if names and labels is not None else np.full(len(images), -1)
        scores = _each(fitted.score, images)
    return np.where(classes < 0, len(names), classes), scores


def _each(score: Callable[[Any], Floats], records: Any) -> Iterator[float]:  # noqa: ANN401
    """Each record's score by itself; nan where there is none.

    privacy: a model that a stranger made may fail on some records, and an error would tell that one of them is here.
    """
    for place in range(len(records)):
        try:
            yield float(score(records[place : place + 1])[0])
        except Exception:  # noqa: BLE001
            yield math.nan


def _watched(scores: Iterator[float], watch: Watch) -> Iterator[float]:
    for done, score in enumerate(scores, 1):
        if done % _EVERY == 0:
            watch.advance(_EVERY)
        yield score


@dataclass(frozen=True)
class Evaluated:
    """Noisy counts of scores by class, [classes + 1, bins], and the standard deviation of their noise."""

    schema: Schema | ImageSchema
    model: str
    edges: Floats
    counts: Floats
    std: float

    def figures(self) -> dict[str, Any]:
        """What the counts say, with 95 % intervals over noise and chance; JSON-ready.

        records: how many, by class. stranger_than_own: the share that is stranger than all but so many of the model's
        own samples. thresholds: the score below which so many of the records lie. auc: how well the score tells a
        class from the other declared ones, where there are two or more: 1 where all of it is the stranger.
        Edges: None where the noise drowns the records, or a threshold may lie beyond the bins.
        """
        names, draws, total = shown_names(self.schema), self._draws(), self.counts.sum(0)
        known, drawn = self.counts[:-1].sum(0), draws[:, :-1].sum(1)
        every, found = draws.sum(1), {}
        for name, one, ones in zip(names, self.counts, draws.swapaxes(0, 1), strict=True):
            values = _auc(one, known - one), _auc(ones, drawn - ones)
            found[name] = self._interval(*values, (one, known - one), _crowded(one, known - one))
        found.pop(names[-1])
        thresholds = _thresholds(np.vstack([total, every]), self.edges)
        return {
            "records": {n: self._amount(h) for n, h in zip(names, self.counts, strict=True)},
            "stranger_than_own": {
                str(s): self._interval(_below(total, s), _below(every, s), (total,)) for s in SHARES
            },
            "thresholds": {str(s): self._within(t, total) for s, t in zip(SHARES, thresholds, strict=True)},
            "auc": found if len(found) > 1 else {},
        }

    @classmethod
    def parse(cls, schema: Schema | ImageSchema, fields: Mapping[str, Any]) -> "Evaluated":
        """What a document says was counted. Errors: ArtifactError."""
        try:
            edges, counts = (np.array(fields[name], dtype=np.float64) for name in ("edges", "counts"))
            found = cls(schema, str(fields["model"]), edges, counts, float(fields["noise_std"]))
        except (KeyError, TypeError, ValueError):
            raise ArtifactError("the evaluation lacks a part or holds one that does not read") from None
        if counts.shape != (len(class_names(schema)) + 1, _EDGES + 1) or not np.isfinite(counts).all():
            raise ArtifactError("the evaluation has other classes or bins than its schema")
        return found

    def document(self, plan: Plan, promise: Guarantee, ledger: Ledger, facts: Mapping[str, Any]) -> bytes:
        """All of it as JSON: figures, counts, plan, guarantee, ledger, and who took part."""
        made = {
            "model": self.model,
            "classes": shown_names(self.schema),
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
            "noise_std": self.std,
            "figures": self.figures(),
            "guarantee": promise.to_dict(),
            "plan": plan.dumps(),
            "ledger": ledger.dumps(),
            "federation": dict(facts),
        }
        return json.dumps(made, indent=1, allow_nan=False).encode()

    def _draws(self) -> Floats:
        """What other records of the same population and other noise might have given, [times, classes + 1, bins].

        The same everywhere, up to the last digits: uniform numbers from a hash, not from a library's generator.
        """
        shape = (_TIMES, *self.counts.shape)
        bits = np.frombuffer(hashlib.shake_256(b"draws").digest(8 * math.prod(shape)), "<u8")
        normal = ndtri(((bits >> np.uint64(11)) + 0.5) / 2.0**53).reshape(shape)
        made: Floats = self.counts + np.sqrt(np.maximum(self.counts, 0.0) + self.std**2) * normal
        return made

    def _amount(self, row: Floats) -> dict[str, float]:
        return {
            "value": round(float(row.sum()), 1),
            "noise_95": round(1.96 * self.std * math.sqrt(row.size), 1),
        }

    def _enough(self, row: Floats) -> bool:
        return bool(row.sum() > max(_SURE * self.std * math.sqrt(row.size), 0.0))

    def _interval(
        self, value: Floats, draws: Floats, rows: Sequence[Floats], crowded: float = 0.0
    ) -> dict[str, float] | None:
        """A share and its interval; None unless the rows that it rests on are enough. crowded: how far ties may err."""
        if not all(self._enough(row) for row in rows):
            return None
        low, high = np.nanquantile(draws, [0.025, 0.975])
        ends = np.clip([value, min(low, value) - crowded, max(high, value) + crowded], 0.0, 1.0)
        return dict(zip(("value", "low", "high"), ends.round(4).tolist(), strict=True))

    def _within(self, found: Floats, row: Floats) -> dict[str, float] | None:
        """A threshold, and its interval as far as the edges around it; unless it may lie beyond the bins."""
        low, high = np.quantile(found[1:], [0.025, 0.975])
        if not self._enough(row) or low <= self.edges[0] or high >= self.edges[-1]:
            return None
        under = self.edges[np.searchsorted(self.edges, min(low, found[0]), side="right") - 1]
        ends = found[0], under, self.edges[np.searchsorted(self.edges, max(high, found[0]))]
        return {name: round(float(v), 6) for name, v in zip(("value", "low", "high"), ends, strict=True)}


def _below(rows: Floats, share: float) -> Floats:
    """Share of records below this quantile of the model's own scores: [..., bins] -> [...]."""
    place = len(_TAIL) + _LEVELS.index(share) + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = rows[..., :place].sum(-1) / rows.sum(-1)
    return found


def _thresholds(rows: Floats, edges: Floats) -> Floats:
    """The scores that `SHARES` of the records are below: [n, bins] -> [shares, n]; between edges, in proportion.

    Noise makes shares fall where they should rise: the mean of what they rise to from below and from above is taken.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.nan_to_num(rows.cumsum(1)[:, :-1] / rows.sum(1, keepdims=True))
    up, down = np.maximum.accumulate(below, 1), np.minimum.accumulate(below[:, ::-1], 1)[:, ::-1]
    return np.array([[np.interp(share, row, edges) for row in (up + down) / 2] for share in SHARES])


def _auc(one: Floats, rest: Floats) -> Floats:
    """P(a record of one class scores lower than one of the rest), ties halved: [..., bins], [..., bins] -> [...].

    Bilinear in the counts, whose noise is independent, so noise adds next to no bias.
    """
    above = np.flip(np.flip(rest, -1).cumsum(-1), -1) - rest / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = (one * above).sum(-1) / (one.sum(-1) * rest.sum(-1))
    return found


def _crowded(one: Floats, rest: Floats) -> float:
    """Half the share of pairs that fall into one bin, of bins with more than a hundredth: ties say nothing of these."""
    pairs = float(one.sum() * rest.sum())
    ties = np.maximum(one, 0.0) * np.maximum(rest, 0.0) / (pairs or 1.0)
    return float(ties[ties > _CROWD].sum()) / 2
