"""Fitted preferences: tables of ratings in, and out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from privae.data.ratings import Profiles, RatingSchema, named, persons_in, profiles, table_of
from privae.data.values import canonical, category_codes
from privae.errors import UsageError
from privae.fitted.tensors import Floats
from privae.models.preferences import PreferenceModel, PreferenceNetwork, nearest

_PERSONS = 256  # whose scores of all items are held at once


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
        parts = [self._ranked(read, rows, count, exclude_seen) for rows in blocks(len(read))]
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


def blocks(count: int) -> Iterator[slice]:
    """Consecutive places of so many persons, few enough to hold their scores of all items at once."""
    return (slice(start, min(start + _PERSONS, count)) for start in range(0, count, _PERSONS))
