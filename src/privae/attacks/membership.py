"""Membership inference: can records that were used be told from records of the same kind that were not?

Every attack gives each record a score, higher for "was used"; `from_scores` says what those scores prove.
"""

from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import linalg
from sklearn.neighbors import NearestNeighbors

from privae.attacks import bounds
from privae.attacks.bounds import Floats, Places
from privae.attacks.finding import Attack, Finding, Language
from privae.attacks.world import World, drawn, joint
from privae.errors import UsageError

Claim = tuple[float | None, float, float]
"""Epsilon (None where none is claimed), delta, and the chance at which coins kept a record out (0: no coins did)."""

FEWEST = 8
"""Records that must have been used, and as many not, for any membership attack."""

_MOST = 10_000  # records of a kind that an attack looks at
_RATES = (0.001, 0.01)  # false positive rates at which members are counted
# shares of a finding's error: the AUC's interval, each of two TPRs, the bound
_ERRORS = (1 / 4, 1 / 8, 1 / 2)
_SUSPECT = 0.6  # an AUC surely above this is a failure where nothing is claimed
_AXES = 50  # principal components that distances are measured in
_SAMPLE = 2_000  # records that principal components are found from
_NEIGHBORS = 3
_SLACK = 1e-6  # distances are computed to about 1e-8
_CHUNK = 1_000

_TAIL = {
    "en": "picks the right one {value} of the time (0.5 is a coin flip; at {confidence} confidence between {low} "
    "and {high}); with one false alarm in a hundred, {found} of the used records are recognized; ",
    "zh": "猜对的比例为 {value}（0.5 等于抛硬币；置信度 {confidence} 下介于 {low} 与 {high} 之间）；"
    "在百分之一的误报率下，用过的记录中有 {found} 被认出；",
}
_BY_COINS: dict[Language, str] = {
    "en": "and epsilon is shown to be at least {bound}, where this test could have shown {power} at most.",
    "zh": "由此证明 epsilon 至少为 {bound}，而本测试最多只能证明到 {power}。",
}
_AS_GIVEN: dict[Language, str] = {
    "en": "any difference between the two files shows in this, too, so it bounds no epsilon.",
    "zh": "两个文件之间的任何差异也会体现在其中，因此不能给出 epsilon 的下界。",
}


def membership(
    name: str,
    channel: Literal["parameters", "samples"],
    titles: tuple[str, str],
    how: tuple[str, str],
    source: str,
) -> Attack:
    """A membership attack, whose sentence says how a record is recognized; texts in English and Chinese."""
    head = (
        "Shown one record that was used and one that was not, an attacker who " + how[0],
        "面对一条用过的记录和一条没有用过的记录，攻击者" + how[1],
    )
    meaning: dict[Language, str] = {
        "en": f"{head[0]} {_TAIL['en']}{_BY_COINS['en']}",
        "zh": f"{head[1]}，{_TAIL['zh']}{_BY_COINS['zh']}",
    }
    return Attack(name, channel, "AUC", {"en": titles[0], "zh": titles[1]}, meaning, source)


LOSS = membership(
    "membership-loss",
    "parameters",
    ("Membership by the model's likelihood", "基于模型似然的成员推断"),
    ("reads from the model how ordinary it finds each of them", "查看模型认为哪一条更寻常"),
    "arXiv:1709.01604",
)
PARTS = membership(
    "membership-parts",
    "parameters",
    ("Membership by the parts of the likelihood bound", "基于似然下界各组成部分的成员推断"),
    (
        "reads from the model how well each is reconstructed and where its latent code lies, and has learned from "
        "other records which of these tells most",
        "查看模型对两者的重建程度和隐变量编码的位置，并已从其他记录得知哪一项最能说明问题",
    ),
    "arXiv:1906.03006, section 4; arXiv:1709.01604",
)
MONTE_CARLO = membership(
    "membership-monte-carlo",
    "samples",
    ("Membership by counting generated records nearby", "基于邻近生成样本计数的成员推断"),
    ("counts the generated records that resemble each of them", "数一数与两者各自相似的生成记录"),
    "arXiv:1906.03006",
)
RECONSTRUCTION = membership(
    "membership-reconstruction",
    "parameters",
    ("Membership by reconstruction", "基于重建的成员推断"),
    ("lets the model encode and decode each of them", "让模型对两者进行编码和解码"),
    "arXiv:1906.03006",
)
DOMIAS = membership(
    "membership-density-ratio",
    "samples",
    ("Membership by density ratio (DOMIAS)", "基于密度比的成员推断（DOMIAS）"),
    (
        "compares how many generated records and how many records of the same population lie around each of them",
        "比较两者周围生成记录的密度与同一人群记录的密度",
    ),
    "arXiv:2302.12580",
)


@runtime_checkable
class Opened(Protocol):
    """A model that shows what its bound of a record is made of; see `recipes.modality`."""

    def parts(self, data: Any) -> dict[str, Floats]:  # noqa: ANN401
        """Numbers of every record by name, [n] each; "distance" is minus the distance to its reconstruction."""
        ...


def from_scores(
    attack: Attack,
    members: Floats,
    others: Floats,
    claim: Claim,
    confidence: float,
    rng: np.random.Generator,
    **details: Any,  # noqa: ANN401  any JSON value
) -> Finding:
    """What scores [n] of members and [m] of other records prove: AUC, TPR at 0.1 % and 1 % FPR, epsilon at least.

    Guarantee: its statements hold at `confidence` together (Bonferroni): the interval of the AUC takes a quarter of
    the error, that of each TPR, given its threshold, an eighth, and the epsilon bound a half, for its power hangs on
    it. Only where coins decided who was used is there a bound: a hold-out that was given may differ in any way.
    failed: the bound is above the claimed epsilon; without a claim, the AUC is surely above 0.6, a rule of thumb.
    Edges: a score that is no number counts as the lowest.
    Source: the bound, arXiv:2305.08846, Theorem 5.2, on members thinned until each was used by a fair coin.
    """
    members, others = (np.where(np.isnan(each), -np.inf, each) for each in (members, others))
    levels = [1 - (1 - confidence) * part for part in _ERRORS]
    area = bounds.auc_interval(members, others, levels[0])
    tpr = [(rate, bounds.tpr_at_fpr(members, others, rate, levels[1])) for rate in _RATES]
    shown: dict[str, Any] = {}
    failed, power = claim[0] is None and area.low > _SUSPECT, None
    if claim[2]:
        shown, power = _bound(members, others, claim, levels[2], rng)
        failed = failed or (claim[0] is not None and shown["bound"] > claim[0])
    return (attack if claim[2] else _as_given(attack)).found(
        area.value,
        (area.low, area.high),
        confidence,
        power=power,
        failed=failed,
        found=tpr[-1][1].value,
        tpr=[{"fpr": rate, "value": of.value, "low": of.low, "high": of.high} for rate, of in tpr],
        members=len(members),
        others=len(others),
        roc=bounds.roc(members, others),
        **shown,
        **details,
    )


def _as_given(attack: Attack) -> Attack:
    """The attack, whose sentence speaks of a hold-out that no coin decided."""
    said = {k: text.removesuffix(_BY_COINS[k]) + _AS_GIVEN[k] for k, text in attack.meaning.items()}
    return replace(attack, meaning=said)


def _bound(
    members: Floats, others: Floats, claim: Claim, level: float, rng: np.random.Generator
) -> tuple[dict[str, Any], float]:
    """The epsilon lower bound with its right guesses and guesses, and its power."""
    kept = members[bounds.thinned(len(members), claim[2], rng)]
    scores = np.concatenate([kept, others])
    included = np.arange(len(scores)) < len(kept)
    # ties are broken by place, which must know nothing of membership
    order = rng.permutation(len(scores))
    bound, power, right, guesses = bounds.scores_bound(scores[order], included[order], claim[1], level)
    return {"bound": bound, "right": right, "guesses": guesses}, power


def loss(world: World, confidence: float, rng: np.random.Generator) -> Finding:
    """White box: the model's log-likelihood bound. Errors: UsageError without a model or a hold-out."""
    inside, outside = played(world, rng)
    if world.model is None:
        raise UsageError("membership by likelihood reads a model, and only generated records were given")
    members, others = (
        world.model.score(taken(data, places))
        for data, places in ((world.members, inside), (world.holdout, outside))
    )
    return from_scores(LOSS, members, others, claimed(world), confidence, rng)


def parts(world: World, confidence: float, rng: np.random.Generator) -> Finding:
    """White box: the best of the bound's parts, chosen on one half of the records by lot, measured on the other.

    Errors: UsageError without a model that shows its parts, or without a hold-out.
    """
    members, others = _shown(world, rng)
    chosen, measured = zip(*(_halves(len(each["distance"]), rng) for each in (members, others)), strict=True)
    names = [name for name in members if name != "distance"]
    areas = [bounds.auc(members[name][chosen[0]], others[name][chosen[1]]) for name in names]
    best = int(np.abs(np.array(areas) - 0.5).argmax())
    sign = 1.0 if areas[best] >= 0.5 else -1.0
    scores = [
        sign * each[names[best]][places] for each, places in zip((members, others), measured, strict=True)
    ]
    return from_scores(
        PARTS, scores[0], scores[1], claimed(world), confidence, rng, part=names[best], higher=sign > 0
    )


def reconstruction(world: World, confidence: float, rng: np.random.Generator) -> Finding:
    """White box: how near a record is to the nearest decoding of draws from its posterior.

    Errors: UsageError without a model that shows its parts, or without a hold-out.
    """
    members, others = _shown(world, rng)
    scores = (members["distance"], others["distance"])
    return from_scores(RECONSTRUCTION, *scores, claimed(world), confidence, rng)


def monte_carlo(world: World, confidence: float, rng: np.random.Generator) -> Finding:
    """Black box: the share of generated records within a distance, the median of the smallest distances.

    Distances are Euclidean in principal components of the generated records. Errors: UsageError without a hold-out.
    """
    inside, outside = played(world, rng)
    made, members, others = _points(world, inside, outside, rng)
    made, records = components(made, made, np.concatenate([members, others]), rng=rng)
    radius = float(np.median(nearest(records, made, 1)))
    scores = _within(records, made, radius + _SLACK)
    split = len(inside)
    return from_scores(
        MONTE_CARLO, scores[:split], scores[split:], claimed(world), confidence, rng, radius=radius
    )


def domias(world: World, confidence: float, rng: np.random.Generator) -> Finding:
    """Black box: density of the generated records over that of the population, by nearest neighbors.

    One half of the hold-out by lot stands for the population, the other half for records that were not used.
    Errors: UsageError without a hold-out.
    """
    inside, outside = played(world, rng)
    made, members, held = _points(world, inside, outside, rng)
    known, played_for = _halves(len(held), rng)
    around = np.concatenate([made, held[known]])
    records = np.concatenate([members, held[played_for]])
    made, known_records, records = components(around, made, held[known], records, rng=rng)
    scores = _radius(records, known_records) - _radius(records, made)
    split = len(inside)
    return from_scores(
        DOMIAS, scores[:split], scores[split:], claimed(world), confidence, rng, reference=len(known)
    )


def claimed(world: World) -> Claim:
    """What the world's maker claims."""
    return world.epsilon, world.delta, world.kept_out


def played(world: World, rng: np.random.Generator) -> tuple[Places, Places]:
    """Places of the members and of the hold-out records that an attack looks at, at most 10,000 each, by lot.

    Errors: UsageError where there are too few of either.
    """
    held = 0 if world.holdout_records is None else len(world.holdout_records)
    if min(held, len(world.member_records)) < FEWEST:
        raise UsageError(
            f"membership is tested on records that were kept out: give at least {FEWEST} with --holdout, beside "
            "as many that were used"
        )
    return drawn(len(world.member_records), _MOST, rng), drawn(held, _MOST, rng)


def taken(data: Any, places: NDArray[Any]) -> Any:  # noqa: ANN401  a DataFrame, or an array of images
    """Records by their places."""
    return data.iloc[places] if isinstance(data, pd.DataFrame) else data[places]


def components(basis: Floats, *sets: Floats, rng: np.random.Generator) -> list[Floats]:
    """Sets of points [n_i, d] along the strongest principal axes of `basis` [n, d], at most 50: [n_i, k] each.

    The axes are exact for a sample of the basis, of 2,000 by lot.
    """
    sample = basis[drawn(len(basis), _SAMPLE, rng)]
    mean = sample.mean(0)
    centered = sample - mean
    wide = centered.shape[1] > len(centered)  # then the smaller of the two Gram matrices has the same values
    gram = centered @ centered.T if wide else centered.T @ centered
    values, vectors = linalg.eigh(gram, subset_by_index=(max(0, len(gram) - _AXES), len(gram) - 1))
    kept = values > 1e-10 * max(values[-1], 1e-300)
    axes = vectors[:, kept]
    if wide:
        axes = centered.T @ axes / np.sqrt(values[kept])
    projected: list[Floats] = [(each - mean) @ axes for each in sets]
    return projected


def nearest(records: Floats, made: Floats, count: int) -> Floats:
    """Distances of records [n, k] to their nearest `count` of the points [m, k], nearest first: [n, count]."""
    found = NearestNeighbors(n_neighbors=min(count, len(made)), algorithm="brute").fit(made)
    distances: Floats = found.kneighbors(records)[0]
    return distances


def _within(records: Floats, made: Floats, radius: float) -> Floats:
    """Share of the points [m, k] within a distance of every record [n, k]: [n]."""
    squares = (made * made).sum(1)
    limit = radius * radius
    counts = []
    for rows in np.split(records, range(_CHUNK, len(records), _CHUNK)):
        apart = rows @ (-2 * made.T)
        apart += squares
        counts.append((apart <= limit - (rows * rows).sum(1)[:, None]).sum(1) / len(made))
    return np.concatenate(counts)


def _radius(records: Floats, made: Floats) -> Floats:
    """Mean logarithm of the distances to the nearest three points: minus a log-density, up to scale and constant."""
    distances = nearest(records, made, _NEIGHBORS)
    logarithms: Floats = np.log(distances + max(1e-3 * float(np.median(distances)), _SLACK)).mean(1)
    return logarithms


def _points(
    world: World, inside: Places, outside: Places, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Generated records, members and hold-out records as points of one space."""
    assert world.holdout_records is not None
    made = world.synthetic_records[drawn(len(world.synthetic_records), _MOST, rng)]
    if not len(made):
        raise UsageError("membership by generated records needs some; generate as many as there are data")
    points = joint(made, world.member_records[inside], world.holdout_records[outside])
    return points[0], points[1], points[2]


def _shown(world: World, rng: np.random.Generator) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The parts of the bound of members, and of hold-out records."""
    inside, outside = played(world, rng)
    model: Any = world.model
    if not isinstance(model, Opened):
        raise UsageError(
            "this attack reads the parts of a privae model; without one, audit generated records"
        )
    return model.parts(taken(world.members, inside)), model.parts(taken(world.holdout, outside))


def _halves(count: int, rng: np.random.Generator) -> tuple[Places, Places]:
    order = rng.permutation(count)
    return order[: count // 2], order[count // 2 :]
