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

from privae.data.codec import Codec
from privae.data.images import ImageSchema, label_codes
from privae.data.schema import Schema
from privae.data.values import column_of
from privae.errors import DataError, PrivacyRefused, UsageError
from privae.models.image import ImageModel
from privae.models.latent import LatentModel
from privae.models.likelihoods import Categorical, of_pixels
from privae.models.table import TableModel
from privae.plan import Plan
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Ledger
from privae.recipes import gradients, image, table
from privae.recipes.gradients import Training
from privae.recipes.phases import CATEGORIES, Budget, Draft, Run, statistics

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FittedTable:
    """A table's model: DataFrames in and out."""

    schema: Schema
    model: TableModel | LatentModel
    kind: str = "table"

    @property
    def codec(self) -> Codec:
        """The codec of the final schema."""
        return Codec(self.schema)

    def sample(self, count: int, seed: int) -> pd.DataFrame:
        """`count` new rows: the schema's columns, order and dtypes."""
        return self.codec.decode(self._codes(count, seed), np.random.default_rng(seed))

    def score(self, data: pd.DataFrame) -> Floats:
        """Log-likelihood bound of every row, [n]."""
        return self.score_codes(self.codec.encode(data))

    def embed(self, data: pd.DataFrame) -> Floats:
        """Latent codes of every row, [n, k]; the label is not used."""
        codes = self.codec.encode(data)
        if self.codec.label is not None:
            codes[:, self.codec.label] = -1
        if isinstance(self.model, TableModel):
            return _array(self.model.embed(torch.from_numpy(codes.astype(np.int64))))
        return _array(self.model.embed(self.codec.onehot(codes), _none(len(codes))))

    def parts(self, data: pd.DataFrame) -> dict[str, Floats]:
        """What a network's bound of every row is made of, [n] each; see `LatentModel.parts`."""
        codes, vae = self.codec.encode(data), self.model
        if isinstance(vae, TableModel):
            likelihood, size = Categorical(vae.sizes), vae.network.config.latent
            vae = LatentModel(vae.network, likelihood, torch.ones(1, dtype=torch.float64), size)
        return _arrays(vae.parts(self.codec.onehot(codes), _none(len(codes))))

    def sampled_scores(self, count: int, data: pd.DataFrame) -> Floats:
        """Scores of the model's own samples, without a label if `data` has none."""
        codes = self._codes(count, 0)
        label = self.codec.label
        if label is not None and self.schema.label not in data.columns:
            codes[:, label] = -1
        return self.score_codes(codes)

    def score_codes(self, codes: NDArray[np.int32]) -> Floats:
        """`score` of encoded rows, int32 [n, m] -> [n]; a label of -1 is not given."""
        if isinstance(self.model, TableModel):
            return _array(self.model.log_likelihood(torch.from_numpy(codes.astype(np.int64))))
        return _array(self.model.log_likelihood(self.codec.onehot(codes), _none(len(codes))))

    def _codes(self, count: int, seed: int) -> NDArray[np.int32]:
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.model, TableModel):
            return self.model.sample(count, generator).numpy().astype(np.int32)
        onehot, _ = self.model.sample(count, generator)
        blocks = torch.split(onehot, self.codec.sizes.tolist(), 1)
        return torch.stack([block.argmax(1) for block in blocks], 1).numpy().astype(np.int32)


@dataclass(frozen=True)
class FittedImages:
    """A model of images: arrays in and out. Scores and codes use no labels."""

    schema: ImageSchema
    model: ImageModel | LatentModel
    kind: str = "image"

    def sample(self, count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.object_] | None]:
        """`count` new images, uint8 [n, h, w], and their labels as texts, or None."""
        generator = torch.Generator().manual_seed(seed)
        pixels, classes = self.model.sample(count, generator)
        if isinstance(self.model, LatentModel):
            pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        x = pixels.view(-1, self.schema.height, self.schema.width).numpy()
        if not isinstance(self.schema.classes, tuple):
            return x, None
        return x, np.array(self.schema.classes, dtype=object)[classes.numpy()]

    def score(self, data: NDArray[np.uint8]) -> Floats:
        """Log-likelihood bound of every image, [n]."""
        x = torch.from_numpy(self._checked(data))
        if isinstance(self.model, LatentModel):
            return _array(self.model.log_likelihood(_unit(x), _none(len(x))))
        return _array(self.model.log_likelihood(x, _none(len(x))))

    def embed(self, data: NDArray[np.uint8]) -> Floats:
        """Latent codes of every image, [n, k]."""
        x = torch.from_numpy(self._checked(data))
        if isinstance(self.model, LatentModel):
            return _array(self.model.embed(_unit(x), _none(len(x))))
        return _array(self.model.embed(x))

    def parts(self, data: NDArray[np.uint8]) -> dict[str, Floats]:
        """What the bound of every image is made of, [n] each; see `LatentModel.parts` and `ImageModel.parts`."""
        x = torch.from_numpy(self._checked(data))
        if isinstance(self.model, LatentModel):
            return _arrays(self.model.parts(_unit(x), _none(len(x))))
        return _arrays(self.model.parts(x))

    def sampled_scores(self, count: int, data: NDArray[np.uint8]) -> Floats:  # noqa: ARG002
        """Scores of the model's own samples."""
        return self.score(self.sample(count, 0)[0])

    def _checked(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        shape = self.schema.height, self.schema.width
        if data.ndim != 3 or data.shape[1:] != shape or data.dtype != np.uint8:
            raise UsageError(f"images must be uint8 [n, {shape[0]}, {shape[1]}] as in the fit")
        return np.ascontiguousarray(data)


Fitted = FittedTable | FittedImages
"""A fitted model together with the public schema that its records are read by."""


@dataclass(frozen=True)
class TableRecipe:
    """How a table is fitted: by its statistics, or by gradients alone."""

    schema: Schema
    by_gradients: bool = False
    training: Training = field(default_factory=Training)
    network: nn.Module | None = None

    def draft(self, budget: Budget) -> Draft:
        """The phases of the fit. Errors: UsageError or PrivacyRefused for a schema that cannot be fitted."""
        self.schema.check()
        if self.schema.person is not None:
            raise PrivacyRefused(
                "the schema declares a person column, and rows charged as records would understate what a person "
                "loses; keep one row a person and remove `person`"
            )
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
        return gradients.joined(table.draft(self.schema, budget), trained)

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
            records = (codec.onehot(codes), _none(len(codes)).numpy())
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
        bought = statistics(CATEGORIES, table.CATEGORY_SHARE, 1.0, np.sqrt(2.0))
        rest = [p.model_copy(update={"share": p.share * (1 - table.CATEGORY_SHARE)}) for p in drafted.phases]
        note = "labels are bought: declare them with --classes to spend nothing on them"
        return Draft(**{**drafted.__dict__, "phases": (bought, *rest), "notes": (*drafted.notes, note)})

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
        records = (_unit(torch.from_numpy(x)), codes)
        likelihood = of_pixels(schema.height * schema.width, polynomial=self.training.activation == "square")
        return FittedImages(schema, gradients.fit(run, records, likelihood, self.classes, self._network()))

    def _network(self) -> nn.Module:
        size = self.schema.height * self.schema.width
        return copy.deepcopy(self.network) or gradients.default_network(size, self.classes, self.training)


def to_members(fitted: Fitted) -> tuple[dict[str, bytes], dict[str, torch.Tensor]]:
    """What a model file stores of a fitted model: JSON members, and tensors."""
    schema = fitted.schema.dumps() if isinstance(fitted.schema, Schema) else fitted.schema.model_dump_json()
    config = {"kind": fitted.kind, "model": type(fitted.model).__name__, "config": fitted.model.config()}
    members = {"schema": schema.encode(), "model.json": json.dumps(config).encode()}
    return members, fitted.model.state()


def archived(fitted: Fitted, plan: Plan, guarantee: Guarantee, ledger: Ledger) -> dict[str, bytes]:
    """The members of a model file: model, schema, plan, guarantee and ledger."""
    members, state = to_members(fitted)
    return members | {
        "plan.toml": plan.dumps().encode(),
        "guarantee.json": json.dumps(guarantee.to_dict()).encode(),
        "ledger.jsonl": ledger.dumps().encode(),
        "weights.safetensors": safetensors.torch.save({k: v.contiguous() for k, v in state.items()}),
    }


def recipe_of(schema: Schema | ImageSchema, plan: Plan) -> TableRecipe | ImageRecipe:
    """The recipe that a plan was made with, for networks of privae's own."""
    made = ImageRecipe if isinstance(schema, ImageSchema) else TableRecipe
    return made(schema, plan.recipe == "gradients", Training.of(plan))  # type: ignore[arg-type]


def identity(fitted: Fitted, ledger_head: str) -> str:
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
) -> FittedTable | FittedImages:
    """Inverse of `to_members`; a network of one's own must be given again."""
    stored = json.loads(members["model.json"])
    loads: dict[str, Any] = {"TableModel": TableModel.load, "ImageModel": ImageModel.load}
    loads["LatentModel"] = lambda config, tensors: LatentModel.load(config, tensors, network)
    model, schema = loads[stored["model"]](stored["config"], state), members["schema"]
    if stored["kind"] == "table":
        fitted: Fitted = FittedTable(Schema.loads(schema.decode()), model)
    else:
        fitted = FittedImages(ImageSchema.model_validate_json(schema), model)
    if not _belongs(fitted):
        raise ValueError("a model of other records than its schema describes")
    return fitted


def _belongs(fitted: Fitted) -> bool:
    """Whether a model takes the records of its schema, so that none makes it fail or fill the memory."""
    if isinstance(fitted, FittedTable):
        table, sizes = fitted.model, tuple(fitted.codec.sizes.tolist())
        if isinstance(table, TableModel):
            return table.sizes == sizes and table.label in (None, fitted.codec.label)
        return isinstance(table.likelihood, Categorical) and table.likelihood.sizes == sizes
    model, pixels = fitted.model, fitted.schema.height * fitted.schema.width
    return pixels == (model.likelihood.size if isinstance(model, LatentModel) else model.height * model.width)


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


def _unit(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1).float() / 255.0


def _none(count: int) -> torch.Tensor:
    return torch.full((count,), -1, dtype=torch.int64)


def _arrays(parts: dict[str, torch.Tensor]) -> dict[str, Floats]:
    return {name: _array(part) for name, part in parts.items()}


def _array(values: torch.Tensor) -> Floats:
    return values.double().numpy()
