"""From a person's data to a recipe and back: what a table and a set of images each bring to the front door."""

import copy
import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from privae.data.codec import Codec, acted_table
from privae.data.images import ImageSchema, label_codes
from privae.data.ratings import RatingSchema
from privae.data.schema import Schema
from privae.data.values import column_of
from privae.errors import DataError, UsageError
from privae.fitted.anomalies import FittedDetection, FittedImageDetection
from privae.fitted.images import FittedImages
from privae.fitted.kinds import AnyFitted, belongs
from privae.fitted.ratings import FittedRatings
from privae.fitted.series import FittedSeries, FittedSeriesNetwork
from privae.fitted.table import FittedTable
from privae.fitted.tensors import no_labels, unit
from privae.models.image import ImageModel
from privae.models.latent import LatentModel
from privae.models.likelihoods import Categorical, of_pixels
from privae.models.preferences import PreferenceModel, PreferenceNetwork
from privae.models.scores import DetectionModel
from privae.models.table import TableModel
from privae.plan import Plan
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Ledger
from privae.recipes import detection, gradients, image, ratings, table
from privae.recipes.detection import DetectionRecipe, ImageDetectionRecipe
from privae.recipes.gradients import Training
from privae.recipes.phases import Budget, Draft, Run, joined
from privae.recipes.series import SeriesRecipe, trained
from privae.series.schema import SeriesSchema


@dataclass(frozen=True)
class TableRecipe:
    """How a table is fitted: by its statistics, or by gradients alone."""

    schema: Schema
    by_gradients: bool = False
    training: Training = field(default_factory=Training)
    network: nn.Module | None = None

    def draft(self, budget: Budget) -> Draft:
        """The phases of the fit. Errors: UsageError or PrivacyRefused for a schema that cannot be fitted."""
        gradients.check_plain(self.training)
        self.schema.check()
        self.schema.check_records()
        if len(self.schema.kept) < 2:
            raise UsageError("a table needs at least two kept columns; a histogram serves one")
        if self.network is not None and not self.by_gradients:
            raise UsageError('a network of your own is for recipe="gradients"')
        if budget.strict and self.schema.bought:
            raise UsageError('strict asks for declared values; it is not combined with categories = "bought"')
        if not (self.by_gradients or budget.fidelity):
            drafted = table.draft(self.schema, budget)
            return replace(drafted, settings=drafted.settings | gradients.styled(self.training))
        if self.schema.bought:
            raise UsageError('categories = "bought" are not combined with gradients; declare them')
        codec = Codec(self.schema)
        trained = gradients.draft(int(codec.offsets[-1]), 1, self._network(codec), self.training, budget)
        if self.by_gradients:
            return _noted(trained, self.network)
        return joined(table.draft(self.schema, budget), trained)

    def check(self, data: pd.DataFrame, labels: NDArray[Any] | None, strict: bool) -> None:  # noqa: ARG002
        """With strict, refuse values outside the schema before anything is charged."""
        if strict:
            Codec(self.schema).encode(data, strict=True)

    def fit(self, run: Run, data: pd.DataFrame, labels: NDArray[Any] | None = None) -> FittedTable:  # noqa: ARG002
        """Fit as the plan says."""
        schema = self.schema
        if schema.bought:
            schema = table.buy_categories(run, data, schema)
        codec = Codec(schema)
        codes = codec.encode(data, strict=run.plan.strict)
        if self.by_gradients:
            likelihood = Categorical(tuple(codec.sizes.tolist()))
            records = (codec.onehot(codes), no_labels(len(codes)).numpy())
            return FittedTable(schema, gradients.fit(run, records, likelihood, 1, self._network(codec)))
        released = table.counted(run, codes, codec)
        fitted = cache(lambda: table.mixture(run, released))
        sizes = tuple(codec.sizes.tolist())
        network = gradients.default_network(sum(sizes), 1, self.training)

        def warm() -> dict[str, torch.Tensor]:
            drawn = table.with_label(fitted().model, released.layout, gradients.WARM_ROWS, 0)
            samples = codec.onehot(drawn)
            return gradients.warm_start(network, samples, sizes, codec.label, run.watch).state_dict()

        network.load_state_dict(run.agreed("warm start", warm))
        if run.plan.phase(gradients.GRADIENTS) is not None:
            gradients.refine(run, network, codec.onehot(codes), Categorical(sizes), self.training.share)
        return FittedTable(schema, TableModel(fitted().model, network.eval(), sizes, released.layout.label))

    def _network(self, codec: Codec) -> nn.Module:
        return copy.deepcopy(self.network) or gradients.default_network(
            int(codec.offsets[-1]), 1, self.training
        )


@dataclass(frozen=True)
class ImageRecipe:
    """How images are fitted: closed form with an optional decoder, or by gradients alone."""

    schema: ImageSchema
    by_gradients: bool = False
    training: Training = field(default_factory=Training)
    network: nn.Module | None = None

    @property
    def classes(self) -> int:
        """Number of declared classes; 1 without labels."""
        return len(self.schema.classes) if isinstance(self.schema.classes, tuple) else 1

    def draft(self, budget: Budget) -> Draft:
        """The phases of the fit."""
        gradients.check_plain(self.training)
        self.schema.check()
        if budget.strict:
            raise UsageError("strict is for tables: every pixel fits, and other labels take no part")
        if self.schema.classes == "bought":
            # privacy: a decoder reads the classes, so its size would follow from what was bought
            if budget.fidelity:
                raise UsageError("a residual decoder needs declared classes: --classes 10, say")
            budget = replace(budget, fidelity=False)
        shape = (self.schema.height, self.schema.width)
        if self.by_gradients:
            if self.schema.classes == "bought":
                raise UsageError('recipe="gradients" needs declared classes: --classes 10, say')
            inputs = shape[0] * shape[1]
            drafted = gradients.draft(inputs, self.classes, self._network(), self.training, budget)
            return _noted(drafted, self.network)
        if gradients.styled(self.training):
            raise UsageError('activations are for recipe="gradients": the other encoder of images is linear')
        drafted = image.draft(shape, self.classes, budget)
        if self.schema.classes != "bought":
            return drafted
        note = "labels are bought: declare them with --classes to spend nothing on them"
        return replace(table.buying(drafted, 1), notes=(*drafted.notes, note))

    def check(self, data: NDArray[np.uint8], labels: NDArray[Any] | None, strict: bool) -> None:  # noqa: ARG002
        """Refuse, before anything is charged, labels that are absent or of another number than the images."""
        if data.ndim != 3 or data.shape[1:] != (self.schema.height, self.schema.width):
            raise UsageError(f"images must be uint8 [n, {self.schema.height}, {self.schema.width}]")
        if self.schema.classes is not None and labels is None:
            raise UsageError("classes are declared, but there are no labels y; fit without --classes")
        if labels is not None and len(labels) != len(data):
            raise UsageError("there must be one label an image")

    def fit(self, run: Run, data: NDArray[np.uint8], labels: NDArray[Any] | None = None) -> FittedImages:
        """Fit as the plan says; labels outside the classes take no part in the class prior."""
        schema = self.schema
        if schema.classes == "bought":
            schema = schema.with_classes(
                table.buy_texts(run, [column_of(() if labels is None else labels)])[0]
            )
            if not schema.classes:
                raise DataError(
                    "no label passed the released threshold at this epsilon; declare the classes, or give more "
                    "images"
                )
        classes = schema.classes if isinstance(schema.classes, tuple) else None
        codes = _codes(labels, classes, len(data))
        x = np.ascontiguousarray(data)
        if not self.by_gradients:
            return FittedImages(schema, image.fit(run, x, codes, len(classes) if classes else 1))
        records = (unit(torch.from_numpy(x)), codes)
        likelihood = of_pixels(schema.height * schema.width, polynomial=self.training.activation == "square")
        return FittedImages(schema, gradients.fit(run, records, likelihood, self.classes, self._network()))

    def _network(self) -> nn.Module:
        size = self.schema.height * self.schema.width
        return copy.deepcopy(self.network) or gradients.default_network(size, self.classes, self.training)


@dataclass(frozen=True)
class RatingRecipe:
    """How ratings are fitted: by items, popularity and one Gram matrix, or by gradients; see `recipes.ratings`."""

    schema: RatingSchema
    by_gradients: bool = False
    training: Training = field(default_factory=Training)

    def draft(self, budget: Budget) -> Draft:
        """The phases of the fit. Errors: UsageError for a schema that cannot be fitted."""
        gradients.check_plain(self.training)
        ratings.check(self.schema, budget)
        if self.by_gradients:
            return ratings.draft_of_network(self.schema, self.training, budget)
        return ratings.draft(self.schema, budget)

    def check(self, data: pd.DataFrame, labels: NDArray[Any] | None, strict: bool) -> None:  # noqa: ARG002
        """Refuse labels, which ratings have not."""
        if labels is not None:
            raise UsageError("ratings have no labels y; name what counts as liked in the schema")

    def fit(self, run: Run, data: pd.DataFrame, labels: NDArray[Any] | None = None) -> FittedRatings:  # noqa: ARG002
        """Fit as the plan says."""
        if self.by_gradients:
            return FittedRatings(self.schema, ratings.fit_network(run, data, self.schema, self.training))
        return FittedRatings(*ratings.fit(run, data, self.schema))


Recipe = TableRecipe | ImageRecipe | DetectionRecipe | ImageDetectionRecipe
"""How tables and images are fitted."""
AnyRecipe = Recipe | RatingRecipe | SeriesRecipe
NAMES = ("auto", "gradients", detection.RECIPE)
"""What a person may ask for: statistics first, gradients alone, or statistics for anomaly scores."""
Facts = Schema | ImageSchema | RatingSchema | SeriesSchema


def as_declared(schema: Facts, plan: Plan) -> Facts:
    """A fitted schema as it was before anything of it was bought."""
    if isinstance(schema, RatingSchema):
        return ratings.as_declared(schema, plan)
    return table.as_declared(schema, plan) if isinstance(schema, Schema) else schema


def data_of(x: Any, y: Any, schema: Facts | None, classes: int | tuple[str, ...] | None) -> tuple[Any, Facts]:  # noqa: ANN401
    """The records in the form that a recipe takes, and their public facts. Errors: UsageError, DataError."""
    if isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 3:
        if isinstance(schema, Schema | RatingSchema | SeriesSchema):
            raise UsageError("the schema is that of a table, but the data are images")
        return x, schema or image_schema(x.shape[1:], classes, labelled=y is not None)
    if isinstance(schema, RatingSchema | SeriesSchema):
        if not isinstance(x, pd.DataFrame):
            raise DataError("ratings and series must be a pandas DataFrame, one row a rating or a time")
        return x, schema.ordered([str(name) for name in x.columns])
    return _table(x, y, schema)


def image_schema(
    shape: tuple[int, ...], classes: int | tuple[str, ...] | None, *, labelled: bool
) -> ImageSchema:
    """The public facts of images: their shape, and classes declared, to be bought (labels without), or none."""
    height, width = int(shape[0]), int(shape[1])
    if isinstance(classes, int):
        if classes < 1:
            raise UsageError("classes must be at least 1: how many different labels there are")
        return ImageSchema.with_class_count(height, width, classes)
    return ImageSchema(height=height, width=width, classes=classes or ("bought" if labelled else None))


def _table(x: Any, y: Any, schema: Facts | None) -> tuple[pd.DataFrame, Schema]:  # noqa: ANN401
    """A DataFrame with its label, and the schema in the order of its columns."""
    if isinstance(schema, Schema) and isinstance(x, np.ndarray) and x.ndim == 2:
        names = [column.name for column in schema.kept][: x.shape[1]]
        if len(names) < x.shape[1]:
            raise UsageError("the array has more columns than the schema keeps; give a DataFrame")
        x = pd.DataFrame(x, columns=names)
    if not isinstance(x, pd.DataFrame):
        raise DataError("the data must be a pandas DataFrame, or images as a uint8 array [n, height, width]")
    if not isinstance(schema, Schema):
        raise UsageError("a table needs a schema; draft one with: privae schema patients.csv")
    if y is not None and schema.label is not None and schema.label not in x.columns:
        if len(y) != len(x):
            raise UsageError("there must be one label y a row")
        x = x.assign(**{schema.label: column_of(y).set_axis(x.index)})
    x = x.set_axis([str(name) for name in x.columns], axis=1)
    return acted_table(x, schema), schema.ordered(list(x.columns))


def to_members(fitted: AnyFitted) -> tuple[dict[str, bytes], dict[str, torch.Tensor]]:
    """What a model file stores of a fitted model: JSON members, and tensors."""
    declared = fitted.schema
    schema = declared.model_dump_json() if isinstance(declared, ImageSchema) else declared.dumps()
    config = {"kind": fitted.kind, "model": type(fitted.model).__name__, "config": fitted.model.config()}
    members = {"schema": schema.encode(), "model.json": json.dumps(config).encode()}
    return members, fitted.model.state()


def archived(fitted: AnyFitted, plan: Plan, guarantee: Guarantee, ledger: Ledger) -> dict[str, bytes]:
    """The members of a model file: model, schema, plan, guarantee and ledger."""
    members, state = to_members(fitted)
    return members | {
        "plan.toml": plan.dumps().encode(),
        "guarantee.json": json.dumps(guarantee.to_dict()).encode(),
        "ledger.jsonl": ledger.dumps().encode(),
        "weights.safetensors": safetensors.torch.save({k: v.contiguous() for k, v in state.items()}),
    }


def recipe_of(schema: Schema | ImageSchema, plan: Plan) -> Recipe:
    """The recipe that a plan was made with, for networks of privae's own."""
    found = recipe_named(name_of(plan), schema, Training.of(plan))
    assert not isinstance(found, RatingRecipe | SeriesRecipe)
    return found


def name_of(plan: Plan) -> str:
    """What a person calls the recipe of a plan."""
    return plan.recipe if plan.recipe in NAMES else NAMES[0]


def recipe_named(
    name: str, schema: Facts, training: Training | None = None, network: nn.Module | None = None
) -> AnyRecipe:
    """The recipe of that name for these records. Errors: UsageError for another name, or what does not go together."""
    if name not in NAMES:
        raise UsageError(f"recipe is one of {', '.join(NAMES)}")
    if name == detection.RECIPE:
        return _of_detection(schema, training, network)
    if isinstance(schema, RatingSchema | SeriesSchema):
        if network is not None:
            raise UsageError("ratings and series take no network of your own; leave it out")
        if isinstance(schema, SeriesSchema):
            return SeriesRecipe(schema, name == "gradients", trained(training))
        return RatingRecipe(schema, name == "gradients", training or Training())
    made = ImageRecipe if isinstance(schema, ImageSchema) else TableRecipe
    return made(schema, name == "gradients", training or Training(), network)  # type: ignore[arg-type]


def _of_detection(
    schema: Facts, training: Training | None, network: nn.Module | None
) -> DetectionRecipe | ImageDetectionRecipe:
    if isinstance(schema, RatingSchema | SeriesSchema):
        raise UsageError('recipe "detection" is for tables and images; "auto" scores all others, too')
    if (training is not None and gradients.styled(training)) or network is not None:
        raise UsageError('a network is for recipe="gradients"; detection trains none')
    return DetectionRecipe(schema) if isinstance(schema, Schema) else ImageDetectionRecipe(schema)


def identity(fitted: AnyFitted, ledger_head: str) -> str:
    """A name for one fit, of its ledger and its numbers: fits of the same plan on one day have the same ledger."""
    hashed = hashlib.sha256(ledger_head.encode())
    for name, tensor in sorted(fitted.model.state().items()):
        hashed.update(name.encode())
        hashed.update(tensor.contiguous().numpy().tobytes())
    return hashed.hexdigest()


def needs_network(members: dict[str, bytes]) -> bool:
    """Whether the model was fitted with a network of one's own, whose class no file can hold."""
    stored = json.loads(members["model.json"])
    return stored["model"] == "LatentModel" and stored["config"]["network"] is None


def from_members(
    members: dict[str, bytes], state: dict[str, torch.Tensor], network: nn.Module | None = None
) -> AnyFitted:
    """Inverse of `to_members`; a network of one's own must be given again."""
    stored = json.loads(members["model.json"])
    loads: dict[str, Any] = {
        model.__name__: model.load for model in (TableModel, ImageModel, PreferenceModel, PreferenceNetwork)
    }
    loads["LatentModel"] = lambda config, tensors: LatentModel.load(config, tensors, network)
    loads["DetectionModel"] = DetectionModel.load
    model, schema = loads[stored["model"]](stored["config"], state), members["schema"]
    if stored["kind"] == "table":
        made = FittedDetection if isinstance(model, DetectionModel) else FittedTable
        fitted: AnyFitted = made(Schema.loads(schema.decode()), model)
    elif stored["kind"] == "ratings":
        fitted = FittedRatings(RatingSchema.loads(schema.decode()), model)
    elif stored["kind"] == "series":
        of = FittedSeries if isinstance(model, DetectionModel) else FittedSeriesNetwork
        fitted = of(SeriesSchema.loads(schema.decode()), model)
    else:
        shown = FittedImageDetection if isinstance(model, DetectionModel) else FittedImages
        fitted = shown(ImageSchema.model_validate_json(schema), model)
    if not belongs(fitted):
        raise ValueError("a model of other records than its schema describes")
    return fitted


def _noted(draft: Draft, network: nn.Module | None) -> Draft:
    """The draft, saying whether the network is the caller's own.

    Errors: UsageError for an encoder that would stay at its first weights.
    """
    if draft.settings.get("share") == "decoder":
        raise UsageError(
            'share = "decoder" needs an encoder that was released: leave out recipe = "gradients" and ask for fidelity'
        )
    return draft if network is None else replace(draft, settings=draft.settings | {"own_network": True})


def _codes(labels: NDArray[Any] | None, classes: tuple[str, ...] | None, count: int) -> NDArray[np.int64]:
    """Class codes [n]; without classes, every image belongs to the one group."""
    if classes is None:
        return np.zeros(count, dtype=np.int64)
    assert labels is not None
    return label_codes(labels, classes)
