"""Preferences: items bought or declared, popularity, and one Gram matrix of the popular ones; everything else follows.

Every phase is a sum over persons, each of whom adds a vector of norm at most 1 (`sums.likes`), so the unit is the
person, with however many rows.
"""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from privae.data.ratings import RatingSchema, profiles
from privae.data.values import distinct
from privae.errors import DataError, UsageError
from privae.models.likelihoods import Categorical
from privae.models.preferences import BINS, CODES, PreferenceModel, PreferenceNetwork
from privae.plan import Phase, Plan, Setting
from privae.privacy import accountant
from privae.privacy.sampling import PERSON
from privae.recipes import gradients
from privae.recipes.gradients import Training
from privae.recipes.phases import CATEGORIES, Budget, Draft, Released, Run, statistics
from privae.recipes.table import BOUGHT, threshold
from privae.sums import likes as sums
from privae.sums.likes import UNIT, Gram

POPULARITY, GRAM, LENGTHS = "popularity", "gram matrix", "lengths"
_POPULARITY_SHARE, _LENGTH_SHARE = 0.15, 0.02
_MOST_BOUGHT = 2**17  # items of one person that are looked at where the catalogue is bought
_MOST_MODELED = 4096  # items of a Gram matrix
_FEWEST_MODELED = 100  # of a large catalogue, however few persons there are
_UNDECLARED = 400  # modeled where nobody said how many persons there are
_ITEMS_A_PERSON = 3.0  # n mu over the modeled items, at which the Gram matrix of a large catalogue is best
_NEEDED = 15.0  # n mu over the items, or 100 popular ones, from which half of their Gram matrix is signal
_WORTH_TRYING = 3.0  # n mu over these items, from which popularity alone is not better
_RIDGES = (4.0, 8.0)  # times the edge of the noise, of up to 100 modeled items, and of more
_CERTAIN = 5.0
_SUPPOSED = 8.0  # items that a person likes, where nothing tells
_BETA = 0.2  # of the network's ELBO: best of those that Liang et al. tried


@dataclass(frozen=True)
class Sizes:
    """Public sizes of a fit.

    modeled: items of the Gram matrix, at most. whole: whether these are the catalogue. personal: whether there is such
    a matrix; for few persons the plan buys popularity alone.
    Rules from Jester, MovieLens-100k and Last.fm (research notes); public constants for every other data set.
    """

    modeled: int
    whole: bool
    ridge: float
    personal: bool


def sizes_for(schema: RatingSchema, budget: Budget) -> Sizes:
    """The public sizes, from the declared catalogue and the declared number of persons."""
    known = len(schema.items) if schema.items != "bought" else None
    most, told = _UNDECLARED, math.inf
    if math.isinf(budget.epsilon):
        most = _MOST_MODELED
    elif budget.rows is not None:
        told = budget.rows * accountant.gaussian_mu(budget.epsilon, budget.accountant_delta)
        most = int(min(max(told / _ITEMS_A_PERSON, _FEWEST_MODELED), _MOST_MODELED))
    modeled = most if known is None else min(most, known)
    personal = told >= _WORTH_TRYING * min(modeled, _FEWEST_MODELED)
    return Sizes(modeled, modeled == known, _RIDGES[modeled > _FEWEST_MODELED], personal)


def draft(schema: RatingSchema, budget: Budget) -> Draft:
    """The phases of a fit, before their noise is known."""
    sizes, root = sizes_for(schema, budget), math.sqrt(2.0)
    known = len(schema.items) if schema.items != "bought" else _MOST_BOUGHT
    first: list[Phase] = []
    notes: tuple[str, ...] = ()
    if schema.items == "bought":
        first = [statistics(CATEGORIES, _POPULARITY_SHARE, 1.0, root, size=known)]
        notes = ("items are bought: declare the catalogue to spend nothing on their names",)
    elif sizes.personal and not sizes.whole:
        first = [statistics(POPULARITY, _POPULARITY_SHARE, 1.0, root, size=known)]
    rest = 1.0 - sum(phase.share for phase in first)
    last, size = (GRAM, sizes.modeled * (sizes.modeled + 1) // 2) if sizes.personal else (POPULARITY, known)
    if not sizes.personal:
        notes += ("few persons for this epsilon: popularity alone is bought, and recommends to all alike",)
    phases = (
        *first,
        statistics(last, (1.0 - _LENGTH_SHARE) * rest, 1.0, root, size=size),
        statistics(LENGTHS, _LENGTH_SHARE * rest, 1.0, root, size=BINS),
    )
    return Draft(
        recipe="ratings",
        phases=phases,
        settings={"unit": PERSON, "modeled": sizes.modeled, "ridge": sizes.ridge, **_bought(schema)},
        rows_needed=lambda noisy: _NEEDED * min(sizes.modeled, _FEWEST_MODELED) * noisy[-2].mechanism().std,
        seconds=3.0 + 4e-10 * sizes.modeled**3 + 1e-4 * (budget.rows or 10_000),
        megabytes=300 + 60e-6 * sizes.modeled**2 + 2e-3 * (budget.rows or 10_000),
        notes=notes,
    )


def _bought(schema: RatingSchema) -> dict[str, Setting]:
    return {BOUGHT: "items"} if schema.items == "bought" else {}


def as_declared(schema: RatingSchema, plan: Plan) -> RatingSchema:
    """A fitted schema as it was before its items were bought."""
    return schema.model_copy(update={"items": "bought"}) if plan.settings.get(BOUGHT) else schema


def fit(run: Run, frame: pd.DataFrame, schema: RatingSchema) -> tuple[RatingSchema, PreferenceModel]:
    """The schema with its catalogue, and the model; what plan and schema say, in the order of the plan's phases.

    Errors: DataError when *released* numbers say that there is next to nothing to learn from.
    """
    popular = None
    if schema.items == "bought":
        schema, popular = buy_items(run, frame, schema)
    assert schema.items != "bought"
    liked = profiles(frame, schema, schema.items).likes
    sums.check_persons(liked)
    size, ridge = run.plan.settings["modeled"], run.plan.settings["ridge"]
    modeled = min(int(size or 0), len(schema.items))
    if run.plan.phase(POPULARITY) is not None:
        popular = _released_popularity(run, liked)
    kept = np.arange(modeled) if popular is None else np.sort(np.argsort(-popular, kind="stable")[:modeled])
    mine = liked[:, kept]
    if run.plan.phase(GRAM) is None:
        assert popular is not None
        _check_told(float(popular.sum()), run.deviation(POPULARITY), len(popular))
        released = _independent(popular[kept], run.deviation(POPULARITY))
    else:
        released = _released_gram(run, mine)
    shares = _released_lengths(run, mine, released)
    known = np.zeros(len(schema.items)) if popular is None else np.maximum(popular, 0.0)
    # how many persons like a modeled item is told best by its row of the Gram matrix
    known[kept] = known.max() + np.maximum(released.matrix.sum(1), 0.0)
    return schema, _model(released, (kept, known, shares), float(ridge or 0.0))


def buy_items(
    run: Run, frame: pd.DataFrame, schema: RatingSchema
) -> tuple[RatingSchema, NDArray[np.float64]]:
    """The schema with the items whose noisy popularity passes a threshold, and that popularity, in persons.

    An item that one person alone likes adds at most 1 (in persons) to its sum, and one person fills at most 2^17 items;
    the threshold is that of `table.buy_categories`, so such an item passes with probability at most delta_t.
    """
    # privacy: sorted, so that which of very many items of one person are looked at does not depend on others' rows
    texts = sorted(set(distinct(frame[schema.item])[1]) - {""})
    found = _bounded(profiles(frame, schema, texts).likes)
    deviation = run.deviation(CATEGORIES) * UNIT
    least = threshold(deviation, _MOST_BOUGHT, run.plan.delta_threshold, UNIT)

    def passing(noisy: Released) -> Released:
        chosen = sorted((texts[i], float(noisy[0][i])) for i in np.flatnonzero(noisy[0] >= least))
        return [np.frombuffer(json.dumps(chosen).encode(), np.uint8)]

    run.watch.phase(CATEGORIES, 1)
    # privacy: how many different items there are is not released, so nothing but those that pass is kept
    released = run.release(CATEGORIES, [(sums.popularity(found), 1.0 / UNIT)], passing)[0]
    run.watch.advance(1)
    bought: list[tuple[str, float]] = json.loads(released.tobytes())
    if len(bought) < 2:
        raise DataError(
            "fewer than two items passed the released threshold at this epsilon; declare the catalogue, or give "
            "more persons"
        )
    return schema.with_items([name for name, _ in bought]), np.array([n for _, n in bought]) / UNIT


def _bounded(liked: csr_array) -> csr_array:
    """Profiles of at most 2^17 items each: of a longer one, those first in the alphabet."""
    counts = np.diff(liked.indptr)
    if not len(counts) or counts.max() <= _MOST_BOUGHT:
        return liked
    place = np.arange(len(liked.indices)) - np.repeat(liked.indptr[:-1], counts)
    row = np.repeat(np.arange(len(counts)), counts)
    kept = place < _MOST_BOUGHT
    return csr_array((liked.data[kept], (row[kept], liked.indices[kept])), shape=liked.shape)


def draft_of_network(schema: RatingSchema, training: Training, budget: Budget) -> Draft:
    """The phases of a multinomial VAE by gradients of persons: for very many of them. Errors: UsageError."""
    if schema.items == "bought" or len(schema.items) > _MOST_MODELED:
        raise UsageError(
            f"gradients need a declared catalogue of at most {_MOST_MODELED} items; see recipe auto"
        )
    if training.share != "all" or training.local is not None:
        raise UsageError(
            "gradients of ratings train the whole network, at one place; leave out share and local"
        )
    network = gradients.default_network(len(schema.items), 1, training)
    drafted = gradients.draft(len(schema.items), 1, network, training, budget)
    lengths = statistics(LENGTHS, _LENGTH_SHARE, 1.0, math.sqrt(2.0), size=BINS)
    return replace(drafted, phases=(lengths, *drafted.phases), settings={**drafted.settings, "unit": PERSON})


def fit_network(run: Run, frame: pd.DataFrame, schema: RatingSchema, training: Training) -> PreferenceNetwork:
    """Train the network on profiles; a row of these is all that a person gives, so rows are units."""
    assert schema.items != "bought"
    liked = profiles(frame, schema, schema.items).likes
    run.watch.phase(LENGTHS, 1)
    counts = run.release(LENGTHS, [(sums.lengths(liked), 1.0)])[0].astype(np.float64)
    run.watch.advance(1)
    known = np.maximum(np.where(counts > 3.0 * run.deviation(LENGTHS), counts, 0.0), 0.0)
    known = known if known.any() else np.eye(BINS)[int(counts[: len(schema.items).bit_length()].argmax())]
    x = torch.from_numpy(liked.astype(np.float32).toarray())
    network = gradients.default_network(len(schema.items), 1, training)
    likelihood = Categorical((len(schema.items),))  # of several ones in a block: the multinomial
    vae = gradients.fit(run, (x, np.zeros(len(x), np.int64)), likelihood, 1, network, _BETA)
    return PreferenceNetwork(vae, torch.from_numpy(known / known.sum()))


def _released_popularity(run: Run, liked: csr_array) -> NDArray[np.float64]:
    run.watch.phase(POPULARITY, 1)
    released = run.release(POPULARITY, [(sums.popularity(liked), 1.0 / UNIT)])[0]
    run.watch.advance(1)
    found: NDArray[np.float64] = released / UNIT
    return found


def _independent(popular: NDArray[np.float64], deviation: float) -> Gram:
    """The Gram matrix that popularity lets one expect, if items are liked independently, and a few by each person."""
    known = np.maximum(popular, 1e-9)
    share = known / known.sum()
    persons = float(known.sum()) / math.sqrt(_SUPPOSED)
    matrix = np.outer(share, share) * persons * (_SUPPOSED - 1.0)
    np.fill_diagonal(matrix, share * persons)
    return Gram(matrix, deviation)


def _check_told(persons: float, deviation: float, numbers: int) -> None:
    """Refuse what the released sums show to be empty (post-processing; guarantees.md rules 15 and 20)."""
    if persons <= max(_CERTAIN * deviation * math.sqrt(numbers), 1.0):
        raise DataError(
            "the released number of persons cannot be told from none at this epsilon: too few persons, or hardly any "
            "row is liked; give more persons, a larger epsilon, or mend the schema"
        )


def _released_gram(run: Run, liked: csr_array) -> Gram:
    """Errors: DataError where as few persons as it tells could be none: its trace counts those who like anything."""
    run.watch.phase(GRAM, 1)
    diagonal, above = sums.gram(liked)
    blocks = run.release(GRAM, [(diagonal, 1.0 / UNIT), (above, math.sqrt(2.0) / UNIT)])
    run.watch.advance(1)
    released = sums.unpacked(blocks[0], blocks[1], run.deviation(GRAM))
    _check_told(released.persons, released.deviation, len(released.matrix))
    return released


def _released_lengths(run: Run, liked: csr_array, released: Gram) -> NDArray[np.float64]:
    """Shares of persons by how many items they like; where noise drowns them, all like the mean number."""
    run.watch.phase(LENGTHS, 1)
    counts = run.release(LENGTHS, [(sums.lengths(liked), 1.0)])[0].astype(np.float64)
    run.watch.advance(1)
    known = np.where(counts > 3.0 * run.deviation(LENGTHS), counts, 0.0)
    if not known.any():
        mean = min(max(float(released.matrix.sum()) / released.persons, 1.0), float(len(released.matrix)))
        known[int(math.log2(mean))] = 1.0
    found: NDArray[np.float64] = known / known.sum()
    return found


def _model(released: Gram, known: tuple[Any, Any, Any], ridge: float) -> PreferenceModel:
    """Everything that follows from releases. known: places of the modeled items, popularity, shares of lengths."""
    kept, popular, shares = known
    shrunk = len(kept) <= _FEWEST_MODELED
    weights = sums.autoencoder(released, ridge, shrink=shrunk)
    # 2 / k is one deviation of what noise alone would have; what is not shrunk must pass three of them
    told = released.signal >= (2.0 if shrunk else 6.0) / len(kept)
    weights = weights if told else np.zeros_like(weights)
    log_shares, loadings = sums.factors(released, CODES if told else 0)
    parts = (
        kept,
        popular,
        weights.astype(np.float32),
        log_shares,
        loadings,
        shares,
        _within(released, shares),
    )
    return PreferenceModel(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


def _within(released: Gram, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far up in bins of 1, 2 to 3, 4 to 7, ... the mean number of likes lies; whole numbers are half below."""
    mean = float(released.matrix.sum()) / released.persons + 0.5 * (1.0 - shares[0])
    return np.array(np.clip(mean / float(shares @ 2.0 ** np.arange(len(shares))) - 1.0, 0.0, 1.0))


def check(schema: RatingSchema, budget: Budget) -> None:
    """Errors: UsageError for a schema or a budget that ratings cannot be fitted with."""
    schema.check()
    if budget.strict:
        raise UsageError("strict is for tables: of ratings, rows about other items take no part")
    if budget.fidelity:
        raise UsageError("fidelity is for tables and images; ratings have no decoder to refine")
