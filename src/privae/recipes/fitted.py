"""Fitted models and the records that they speak: DataFrames of a table or of ratings, arrays of images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from privae.data.codec import Codec
from privae.data.images import ImageSchema
from privae.data.ratings import Profiles, RatingSchema, named, persons_in, profiles, table_of
from privae.data.schema import Schema
from privae.data.values import canonical, category_codes
from privae.errors import UsageError
from privae.models.image import ImageModel
from privae.models.latent import LatentModel
from privae.models.likelihoods import Categorical
from privae.models.preferences import PreferenceModel, PreferenceNetwork, nearest
from privae.models.table import TableModel

Floats = NDArray[np.float64]
_PERSONS = 256  # whose scores of all items are held at once


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
        return _array(self.model.embed(self.codec.onehot(codes), no_labels(len(codes))))

    def parts(self, data: pd.DataFrame) -> dict[str, Floats]:
        """What a network's bound of every row is made of, [n] each; see `LatentModel.parts`."""
        codes, vae = self.codec.encode(data), self.model
        if isinstance(vae, TableModel):
            likelihood, size = Categorical(vae.sizes), vae.network.config.latent
            vae = LatentModel(vae.network, likelihood, torch.ones(1, dtype=torch.float64), size)
        return _arrays(vae.parts(self.codec.onehot(codes), no_labels(len(codes))))

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
        return _array(self.model.log_likelihood(self.codec.onehot(codes), no_labels(len(codes))))

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
            return _array(self.model.log_likelihood(unit(x), no_labels(len(x))))
        return _array(self.model.log_likelihood(x, no_labels(len(x))))

    def embed(self, data: NDArray[np.uint8]) -> Floats:
        """Latent codes of every image, [n, k]."""
        x = torch.from_numpy(self._checked(data))
        if isinstance(self.model, LatentModel):
            return _array(self.model.embed(unit(x), no_labels(len(x))))
        return _array(self.model.embed(x))

    def parts(self, data: NDArray[np.uint8]) -> dict[str, Floats]:
        """What the bound of every image is made of, [n] each; see `LatentModel.parts` and `ImageModel.parts`."""
        x = torch.from_numpy(self._checked(data))
        if isinstance(self.model, LatentModel):
            return _arrays(self.model.parts(unit(x), no_labels(len(x))))
        return _arrays(self.model.parts(x))

    def sampled_scores(self, count: int, data: NDArray[np.uint8]) -> Floats:  # noqa: ARG002
        """Scores of the model's own samples."""
        return self.score(self.sample(count, 0)[0])

    def _checked(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        shape = self.schema.height, self.schema.width
        if data.ndim != 3 or data.shape[1:] != shape or data.dtype != np.uint8:
            raise UsageError(f"images must be uint8 [n, {shape[0]}, {shape[1]}] as in the fit")
        return np.ascontiguousarray(data)


@dataclass(frozen=True)
class FittedRatings:
    """A model of preferences: tables of ratings in, and out. A record is a person, in order of first appearance."""

    schema: RatingSchema
    model: PreferenceModel | PreferenceNetwork
    kind: str = "ratings"

    @property
    def items(self) -> tuple[str, ...]:
        """The catalogue."""
        assert self.schema.items != "bought"
        return self.schema.items

    def profiles(self, data: pd.DataFrame) -> Profiles:
        """What each person of a table likes."""
        return profiles(data, self.schema, self.items)

    def persons(self, data: pd.DataFrame) -> list[str]:
        """The names of the persons of a table."""
        return persons_in(data[self.schema.person])[1]

    def sample(self, count: int, seed: int) -> pd.DataFrame:
        """What `count` new persons like, one row a like."""
        return table_of(self.model.sample(count, torch.Generator().manual_seed(seed)), self.schema)

    def score(self, data: pd.DataFrame) -> Floats:
        """Log-likelihood of what every person likes, given how many items, [persons]."""
        return self.model.log_likelihood(self.profiles(data).likes)

    def embed(self, data: pd.DataFrame) -> Floats:
        """Codes of every person, [persons, k]."""
        return self.model.embed(self.profiles(data).likes)

    def sampled_scores(self, count: int, data: pd.DataFrame) -> Floats:  # noqa: ARG002
        """Scores of the model's own persons."""
        return self.model.log_likelihood(self.model.sample(count, torch.Generator().manual_seed(0)))

    def item_codes(self) -> pd.DataFrame:
        """The codes of the modeled items, with their names: [k, 1 + l]."""
        names = np.array(self.items, dtype=object)[self.model.kept.numpy()]
        codes = {f"z{i}": column for i, column in enumerate(self.model.loadings.numpy().T)}
        return pd.DataFrame({self.schema.item: names, **codes})

    def recommend(self, profile: Any, count: int, *, exclude_seen: bool) -> pd.DataFrame:  # noqa: ANN401
        """The first `count` items for one person, or for every person of a table; see `VAE.recommend`.

        Edges: where fewer items are left, fewer come.
        """
        if count < 1:
            raise UsageError("the number of items to recommend must be at least 1")
        table = named(profile, self.schema)
        read = self.profiles(table)
        parts = [self._ranked(read, rows, count, exclude_seen) for rows in _blocks(len(read))]
        empty = np.zeros(0, np.int64)
        who, rank, what = (np.concatenate([empty, *(p[i] for p in parts)]) for i in range(3))
        score = np.concatenate([np.zeros(0), *(p[3] for p in parts)])
        persons, items = (np.array(names, dtype=object) for names in (read.persons, self.items))
        names = {self.schema.person: persons[who]} if table is profile else {}
        return pd.DataFrame({**names, "rank": rank, self.schema.item: items[what], "score": score})

    def nearest(self, item: Any, count: int) -> pd.DataFrame:  # noqa: ANN401  the name of one
        """The items most like one: item, likeness (a cosine). Errors: UsageError for one that is not modeled."""
        place = int(category_codes([canonical(item) or ""], self.items)[0])
        alike = nearest(self.model, place)
        if count < 1:
            raise UsageError("the number of items must be at least 1")
        if place < 0 or np.isnan(alike[place]):
            raise UsageError(
                "this item is not among the items that the model knows one by one; the popular ones are"
            )
        if not self.model.personal:
            raise UsageError("noise hides which items go together: this model knows popularity alone")
        order = np.argsort(-alike, kind="stable")
        order = order[(order != place) & ~np.isnan(alike[order])][:count]
        names = np.array(self.items, dtype=object)[order]
        return pd.DataFrame({self.schema.item: names, "likeness": alike[order]})

    def _ranked(self, read: Profiles, rows: slice, count: int, exclude_seen: bool) -> tuple[Any, ...]:
        """Of some persons: who, rank, item and score, one after another."""
        likes = read.likes[rows]
        scores = self.model.recommend(likes)
        if exclude_seen:
            who = np.repeat(np.arange(likes.shape[0]), np.diff(likes.indptr))
            scores[who, likes.indices] = -np.inf
        count = min(count, scores.shape[1])
        first = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
        found = np.take_along_axis(scores, first, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        order, found = np.take_along_axis(first, order, 1), np.take_along_axis(found, order, 1)
        who, rank = np.nonzero(np.isfinite(found))
        return who + rows.start, rank + 1, order[who, rank], found[who, rank]


Fitted = FittedTable | FittedImages
"""A fitted model together with the public schema that its records are read by."""
AnyFitted = Fitted | FittedRatings


def belongs(fitted: AnyFitted) -> bool:
    """Whether a model takes the records of its schema, so that none makes it fail or fill the memory."""
    if isinstance(fitted, FittedRatings):
        try:
            fitted.schema.check()
        except UsageError:
            return False
        known = isinstance(fitted.model, PreferenceModel | PreferenceNetwork)
        return known and fitted.schema.items != "bought" and len(fitted.schema.items) == fitted.model.known
    if isinstance(fitted, FittedTable):
        table, sizes = fitted.model, tuple(fitted.codec.sizes.tolist())
        if isinstance(table, TableModel):
            return table.sizes == sizes and table.label in (None, fitted.codec.label)
        return isinstance(table.likelihood, Categorical) and table.likelihood.sizes == sizes
    model, pixels = fitted.model, fitted.schema.height * fitted.schema.width
    return pixels == (model.likelihood.size if isinstance(model, LatentModel) else model.height * model.width)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _PERSONS, count)) for start in range(0, count, _PERSONS))


def unit(images: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1]: uint8 [n, h, w] -> float32 [n, h w]."""
    return images.flatten(1).float() / 255.0


def no_labels(count: int) -> torch.Tensor:
    """Labels that are not given: [n]."""
    return torch.full((count,), -1, dtype=torch.int64)


def _arrays(parts: dict[str, torch.Tensor]) -> dict[str, Floats]:
    return {name: _array(part) for name, part in parts.items()}


def _array(values: torch.Tensor) -> Floats:
    return values.double().numpy()
