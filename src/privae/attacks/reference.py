"""Membership calibrated by reference models: each record's score compared with what it is when used, and when not.

A record that is ordinary scores high whether it was used or not; reference models, fitted alike with and without it,
say how high, and so what remains is what its use did.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats
from sklearn.utils.parallel import Parallel, delayed

from privae.attacks import bounds
from privae.attacks.bounds import Bools, Floats
from privae.attacks.finding import Attack, Finding
from privae.attacks.membership import claimed, from_scores, membership, played, taken
from privae.attacks.world import Model, World
from privae.errors import UsageError
from privae.training.watch import Silent, Watch

MODELS = 8
_LEAST = 4  # two models with every record and two without it, for a variance

LIRA = membership(
    "membership-lira",
    "parameters",
    ("Membership by likelihood ratio of reference models (LiRA)", "基于参考模型似然比的成员推断（LiRA）"),
    (
        "has fitted {models} models of the same kind, half of them with each of the two, and knows how the model "
        "scores each when it was used and when it was not",
        "另外训练了 {models} 个同类模型，其中一半用到两者中的每一条，因而知道每条记录用过与未用过时的得分",
    ),
    "arXiv:2112.03570",
)
RMIA = membership(
    "membership-rmia",
    "parameters",
    ("Membership by pairwise likelihood ratio (RMIA)", "基于成对似然比的成员推断（RMIA）"),
    (
        "has fitted {models} models of the same kind, and compares each record's gain over them with the gains of "
        "all other records",
        "另外训练了 {models} 个同类模型，并将每条记录相对于这些模型的增益与所有其他记录的增益作比较",
    ),
    "arXiv:2312.03262",
)


@dataclass(frozen=True)
class References:
    """Scores of n records under the model that is audited, and under K reference models.

    Shapes: target [n], scores [K, n], inside [K, n] (fitted with the record or not), member [n]. About half of the
    records are members; every record is inside half of the models.
    """

    target: Floats = field(repr=False)
    scores: Floats = field(repr=False)
    inside: Bools = field(repr=False)
    member: Bools = field(repr=False)


def calibrated(
    world: World,
    confidence: float,
    rng: np.random.Generator,
    models: int = MODELS,
    workers: int = 1,
    watch: Watch | None = None,
) -> list[Finding]:
    """LiRA and RMIA from the same reference models, each finding at `confidence`; see `fitted`."""
    found = fitted(world, rng, models, workers, watch)
    return [measure(world, found, confidence, rng) for measure in (lira, rmia)]


def fitted(
    world: World,
    rng: np.random.Generator,
    models: int = MODELS,
    workers: int = 1,
    watch: Watch | None = None,
) -> References:
    """Fit the reference models, each on half of the records that are played for, and score all records by all.

    As many members as hold-out records are played for; the other members are part of every fit, so that a reference
    model sees as many records as the audited one. Models come in pairs, whose halves complement each other. The
    first is timed, and the watch is told what the others will take, before they start.
    workers: processes at once, for which `world.refit` must be picklable by cloudpickle.
    Errors: UsageError without a model, a way to refit or a hold-out; or for an odd number of models, or under 4.
    """
    if world.refit is None or world.model is None:
        raise UsageError("reference models are fits of the same plan, and there is no model to fit again")
    if models < _LEAST or models % 2 or workers < 1:
        raise UsageError(
            f"reference models come in pairs: an even number, at least {_LEAST}; workers at least 1"
        )
    known, pool, member = _pool(world, rng)
    inside = _halves(len(member), models, rng)
    told: Watch = watch or Silent()
    told.phase("reference models", models)
    target = world.model.score(pool)
    scores = list(_all_scores(partial(_scores, world.refit, known, pool), inside, workers, told))
    return References(target, np.stack(scores), inside, member)


def lira(world: World, found: References, confidence: float, rng: np.random.Generator) -> Finding:
    """LiRA, online: Gaussians of each record's score with and without it, one variance each for all records."""
    return _finding(LIRA, world, (found, likelihood_ratios(found)), confidence, rng)


def rmia(world: World, found: References, confidence: float, rng: np.random.Generator) -> Finding:
    """RMIA: the share of records whose gain over the reference models a record's own gain dominates."""
    return _finding(RMIA, world, (found, dominated(found)), confidence, rng)


def likelihood_ratios(found: References) -> Floats:
    """Log-density of the target's score if the record was used, less that if it was not: [n].

    Source: Carlini et al. 2022, arXiv:2112.03570, Algorithm 1, with a global variance as for few models (section
    VI-C); the error of a mean of K / 2 scores is added to it.
    """
    target, *scores = _finite(found.target, *found.scores)
    used, unused = (_log_density(target, np.stack(scores), mask) for mask in (found.inside, ~found.inside))
    return used - unused


def dominated(found: References) -> Floats:
    """Share of all records z with p(x | target) / p(x) >= p(z | target) / p(z), p averaged over the models: [n].

    Source: Zarifzadeh et al. 2024, arXiv:2312.03262, with gamma = 1: the population is the same for all records, so
    any other gamma only makes ties.
    """
    target, *scores = _finite(found.target, *found.scores)
    gain = target - special.logsumexp(np.stack(scores), axis=0) + np.log(len(scores))
    shares: Floats = np.searchsorted(np.sort(gain), gain, side="right") / len(gain)
    return shares


def _finding(
    kind: Attack, world: World, scored: tuple[References, Floats], confidence: float, rng: np.random.Generator
) -> Finding:
    found, scores = scored
    split = scores[found.member], scores[~found.member]
    return from_scores(kind, *split, claimed(world), confidence, rng, models=len(found.scores))


def _log_density(target: Floats, scores: Floats, mask: Bools) -> Floats:
    """Normal log-density of the target's scores, given those of the models in `mask`: [n], [K, n], [K, n] -> [n]."""
    counts = mask.sum(0)
    mean = np.where(mask, scores, 0.0).sum(0) / counts
    variance = np.where(mask, np.square(scores - mean), 0.0).sum() / (counts - 1).sum()
    density: Floats = stats.norm.logpdf(target, mean, np.sqrt(max(variance, 1e-12) * (1 + 1 / counts)))
    return density


def _finite(*scores: Floats) -> list[Floats]:
    """Scores where what is no finite number is the lowest of all finite ones."""
    low = min((float(each[np.isfinite(each)].min(initial=0.0)) for each in scores), default=0.0)
    return [np.where(np.isfinite(each), each, low) for each in scores]


def _pool(world: World, rng: np.random.Generator) -> tuple[Any, Any, Bools]:
    """Members that are known to the attacker, records that are played for, and which of these are members."""
    inside, outside = played(world, rng)
    if world.kept_out:
        chosen, held = bounds.thinned(len(inside), world.kept_out, rng), np.arange(len(outside))
    else:
        chosen, held = bounds.balanced(len(inside), len(outside), rng)
    members = inside[chosen]
    known = np.setdiff1d(np.arange(len(world.member_records)), members)
    pool = _together(taken(world.members, members), taken(world.holdout, outside[held]))
    return taken(world.members, known), pool, np.arange(len(members) + len(held)) < len(members)


def _halves(count: int, models: int, rng: np.random.Generator) -> Bools:
    """Which records each model is fitted with, [models, count]: a random half, and in the next model the other."""
    ranks = np.stack([rng.permutation(count) for _ in range(models // 2)])
    first: Bools = ranks < count // 2
    return np.stack([first, ~first], 1).reshape(models, count)


def _all_scores(
    score: Callable[[Bools], Floats], inside: Bools, workers: int, watch: Watch
) -> Iterator[Floats]:
    """Scores of the pool under each reference model in turn, [n] each."""
    start = time.monotonic()
    yield score(inside[0])
    each, left = time.monotonic() - start, len(inside) - 1
    watch.advance(1)
    watch.aside(f"{left} more reference models will take about {_duration(each * -(-left // workers))}")
    if workers == 1:
        rest = map(score, inside[1:])
    else:
        # privacy: max_nbytes=None, or joblib would write the records into temporary files for its workers
        share = Parallel(n_jobs=workers, max_nbytes=None, return_as="generator")
        rest = share(delayed(score)(mask) for mask in inside[1:])
    for scores in rest:
        watch.advance(1)
        yield scores


def _scores(refit: Callable[[Any], Model], known: Any, pool: Any, mask: Bools) -> Floats:  # noqa: ANN401
    model = refit(_together(known, taken(pool, np.flatnonzero(mask))))
    return model.score(pool)


def _together(first: Any, second: Any) -> Any:  # noqa: ANN401
    """Records of two sets in one."""
    if not len(first):
        return second
    if isinstance(first, pd.DataFrame):
        return pd.concat([first, second], ignore_index=True)
    return np.concatenate([first, second])


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
