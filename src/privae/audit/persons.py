"""Audits of preferences: a record is a person, with what they like of the modeled items.

Persons are attacked as images are, as rows of zeros and ones; canaries are made-up persons, and are read off the
released sums of likes by whoever knows all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from privae.attacks.world import Records
from privae.audit.case import Case, Own, case_of_units
from privae.audit.coins import Coins
from privae.audit.readings import Reading, deviation, joint
from privae.data.ratings import RatingSchema, persons_in, profiles
from privae.errors import DataError, UsageError
from privae.fitted.ratings import FittedRatings, blocks
from privae.plan import Plan
from privae.recipes.phases import Released
from privae.recipes.ratings import GRAM, POPULARITY
from privae.sums import likes
from privae.sums.likes import UNIT

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]

UNDECLARED = "canary persons like items of a declared catalogue; declare items, or fit with --audit quick"
_LIKED = 8  # items that a canary likes
_MOST = 10_000  # persons, about
_MOST_ITEMS = 2_000


@dataclass(frozen=True)
class Attacked:
    """A model of preferences as attacks use it: of persons as rows [n, k] of the items that are modeled."""

    fitted: FittedRatings = field(repr=False)

    @property
    def kept(self) -> NDArray[np.int64]:
        """Places of the items that persons are shown with: those modeled, at most 2,000, the most popular first."""
        found: NDArray[np.int64] = self.fitted.model.kept.numpy()
        popular = getattr(self.fitted.model, "popularity", None)
        if len(found) <= _MOST_ITEMS or popular is None:
            return found[:_MOST_ITEMS]
        return np.sort(found[np.argsort(-popular.numpy()[found], kind="stable")[:_MOST_ITEMS]])

    def rows(self, liked: csr_array) -> Bytes:
        """Persons [n, m] as rows [n, k]."""
        return np.asarray(liked[:, self.kept].astype(np.uint8).toarray())

    def score(self, data: Bytes) -> Floats:
        """Log-likelihood of every person, [n]."""
        return self.fitted.model.log_likelihood(self._likes(data))

    def embed(self, data: Bytes) -> Floats:
        """Codes of every person, [n, l]."""
        return self.fitted.model.embed(self._likes(data))

    def parts(self, data: Bytes) -> dict[str, Floats]:
        """What is known of every person, each higher for one that is known better, [n].

        likelihood: `score`. speaks: mean weight by which what a person likes speaks for what they like, less that by
        which it speaks for the rest. distance: minus that of the row from its best scaled recommendation.
        """
        found = [self._parts(data[rows]) for rows in blocks(len(data))]
        own, apart = (np.concatenate([np.zeros(0), *(part[i] for part in found)]) for i in range(2))
        return {"likelihood": self.score(data), "speaks": own, "distance": -apart}

    def records(self, data: Bytes) -> Records:
        """Rows as points: zeros and ones."""
        size = data.shape[1]
        names = tuple(f"item {i}" for i in range(size))
        return Records(data.astype(np.float64), np.ones(size, bool), names)

    def _parts(self, data: Bytes) -> tuple[Floats, Floats]:
        scores = self.fitted.model.recommend(self._likes(data))[:, self.kept]
        mine = data.astype(np.float64)
        own = (scores * mine).sum(1) / np.maximum(mine.sum(1), 1.0)
        rest = (scores * (1 - mine)).sum(1) / np.maximum((1 - mine).sum(1), 1.0)
        scale = (scores * mine).sum(1) / np.maximum((scores**2).sum(1), 1e-300)
        return own - rest, np.sqrt(((mine - scale[:, None] * scores) ** 2).sum(1))

    def _likes(self, data: Bytes) -> csr_array:
        row, place = np.nonzero(data)
        shape = len(data), self.fitted.model.known
        return csr_array((np.ones(len(row), np.int64), (row, self.kept[place])), shape=shape)


def case_of(own: Own, data: pd.DataFrame, holdout: Any, coins: Coins | None, seed: int) -> Case:  # noqa: ANN401
    """The case of a model of preferences. holdout: ratings of other persons, or None.

    Persons that coins kept out of the fit are no members, and are the hold-out where none is given. Of many, each is
    looked at by a coin of its own, whether it took part or not, so about 10,000 are.
    Errors: DataError without persons; UsageError for a hold-out that is no table, or of the same persons.
    """
    assert isinstance(own.fitted, FittedRatings)
    model, schema = Attacked(own.fitted), own.fitted.schema
    read = profiles(data, schema, own.fitted.items)
    if not len(read):
        raise DataError("the data hold no persons; give those that the model was fitted to")
    present, part = taking_part(coins, read.persons), coins.kept_out if coins is not None else 0.0
    seen, others = by_lot(len(read), seed), None
    if holdout is not None:
        others = _others(holdout, schema, read.persons, own.fitted.items)
        others = others[np.flatnonzero(by_lot(others.shape[0], seed + 1))]
    elif part:
        others = read.likes[np.flatnonzero(seen & ~present)]
    members = model.rows(read.likes[np.flatnonzero(seen & present)])
    made = model.rows(own.fitted.model.sample(len(members), torch.Generator().manual_seed(seed)))
    held = None if others is None else model.rows(others)
    return case_of_units(own, model, (members, made, held), part if holdout is None else None, seed)


def by_lot(count: int, seed: int) -> Bools:
    """Which of so many persons are looked at: independent of one another, and of who took part."""
    chosen: Bools = np.random.default_rng(seed).random(count) < _MOST / max(count, 1)
    return chosen


def taking_part(coins: Coins | None, persons: tuple[str, ...] | list[str]) -> Bools:
    """Whether each person takes part in a fit: a function of the key and of the person's name alone, [persons]."""
    if coins is None:
        return np.ones(len(persons), np.bool_)
    return coins.taking_part(pd.DataFrame({"person": np.array(persons, dtype=object)}))


def fed(
    coins: Coins, data: pd.DataFrame, schema: RatingSchema, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame, Bools]:
    """The rows of the persons that take part, those of all canaries, and which rows of these are planted.

    Errors: UsageError for a catalogue that is bought.
    """
    if coins.canaries and schema.items == "bought":
        raise UsageError(UNDECLARED)
    frame = data.set_axis([str(name) for name in data.columns], axis=1)[list(schema.columns)]
    who, persons = persons_in(frame[schema.person])
    present = np.append(taking_part(coins, persons), True)
    return frame.loc[present[who]], *_canaries(coins, schema, rng)


def _canaries(coins: Coins, schema: RatingSchema, rng: np.random.Generator) -> tuple[pd.DataFrame, Bools]:
    """Persons who like eight items of the catalogue by lot, and whose rows are planted."""
    assert schema.items != "bought" or not coins.canaries
    items = np.array([] if schema.items == "bought" else schema.items, dtype=object)
    each = min(_LIKED, len(items))
    chosen = [rng.choice(len(items), each, replace=False, shuffle=False) for _ in range(coins.canaries)]
    liked = np.array(chosen, np.int64).reshape(coins.canaries, each)
    names = np.array([f"canary {rng.bytes(8).hex()}" for _ in range(coins.canaries)], dtype=object)
    columns = {schema.person: names.repeat(each), schema.item: items[liked.ravel()]}
    if schema.value is not None:
        columns[schema.value] = np.full(liked.size, schema.like)
    if schema.time is not None:
        columns[schema.time] = np.full(liked.size, None, dtype=object)
    return pd.DataFrame(columns, columns=list(schema.columns)), coins.planted().repeat(each)


def reading(
    plan: Plan, fitted: FittedRatings, transcript: Mapping[str, Released], records: tuple[Any, Any]
) -> Floats | None:
    """What every canary person reads of popularity and the Gram matrix, all others known: [canaries].

    records: the ratings of the real persons, and of the canaries. None where neither was released.
    """
    known, mine = (fitted.profiles(frame).likes for frame in records)
    parts = []
    if POPULARITY in transcript:
        left = (transcript[POPULARITY][0] - likes.popularity(known)) / UNIT
        unit = _unit(mine)
        parts.append((unit @ left, (unit @ unit.T).toarray(), deviation(plan, POPULARITY)))
    if GRAM in transcript:
        parts.append(_of_gram(transcript[GRAM], (known, mine), fitted, deviation(plan, GRAM)))
    return joint(parts) if parts else None


def _of_gram(
    released: Released, persons: tuple[csr_array, csr_array], fitted: FittedRatings, noise: float
) -> Reading:
    kept = fitted.model.kept.numpy()
    known, mine = (part[:, kept].tocsr() for part in persons)
    own = likes.gram(known)
    rest = likes.unpacked(released[0] - own[0], released[1] - own[1], noise).matrix
    unit = _unit(mine)
    return (unit.multiply(unit @ rest)).sum(1), (unit @ unit.T).toarray() ** 2, noise


def _unit(liked: csr_array) -> csr_array:
    """Rows of norm 1; an empty one stays empty."""
    counts = np.maximum(np.diff(liked.indptr), 1)
    return (diags_array(1 / np.sqrt(counts)) @ liked).tocsr()


def _others(
    holdout: Any,  # noqa: ANN401
    schema: RatingSchema,
    persons: tuple[str, ...],
    items: tuple[str, ...],
) -> csr_array:
    if not isinstance(holdout, pd.DataFrame):
        raise UsageError("the hold-out must have the form of the data: a table of ratings")
    read = profiles(holdout, schema, items)
    check_others(read.persons, persons, "persons")
    return read.likes


def check_others(others: Sequence[str], known: Sequence[str], what: str) -> None:
    """Refuse a hold-out of which more than half are those of the data again."""
    if len(others) and len(set(others) & set(known)) > len(others) / 2:
        raise UsageError(
            f"the hold-out holds the {what} of the data again; give {what} that the fit never saw"
        )
