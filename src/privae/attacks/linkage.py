"""Singling out, linking and inferring: what a generated table tells about the very records it was made from.

Each attack is played against members and, as a control, against hold-out records, of which the generated table
can only tell what it tells about everybody. Risk: (members' rate - control's) / (1 - control's), not below 0. Its
interval takes two exact intervals (Clopper-Pearson), which hold together at `confidence`.

Every function fails (`failed`) where the members' rate surely contradicts the claimed epsilon and delta, or, where
nothing is claimed, where the risk is surely above 0.1; and is skipped where there is no hold-out. Which columns are
known and which are secret is drawn by lot, for nobody knows beforehand what an attacker will have.
Source: Giomi et al. 2022, arXiv:2211.10459.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

from privae.attacks import bounds
from privae.attacks.bounds import Bools, Floats, Places
from privae.attacks.copies import Hits, cleaned, lacking, nearest
from privae.attacks.finding import Attack, Finding, Skipped, Text
from privae.attacks.world import Records, World, drawn, joint

RISK = 0.1
"""A risk surely above this is a failure where nothing is claimed."""

_MOST = 2_000  # attacks of a kind
_WORK = 20_000_000  # pairs of predicate and record
_POOL = 10_000  # generated records that neighbors are looked for among
_JOINED = 4  # columns of a predicate of several
_TRIES, _SCREEN = 40, 500  # predicates tried for each that is wanted, at first on so many generated records
_SPLITS = 4  # ways to divide the columns between two sources
_SECRETS, _TRAINED = 20, 5  # columns that are secret in turn: for neighbors, for classifiers
_CLASSES = 30  # most frequent texts that a classifier tells apart
_TREES = 10
_TOLERANCE = 0.05  # of a column's standard deviation: a guessed number this near is right
_CHUNK = 64
_COUNTS = ("hits", "trials", "control_hits", "control_trials")
_SLACK = 1e-9  # distances that differ by less are equal
_TOP = np.iinfo(np.int32).max

Codes = NDArray[np.int32]
Guess = Callable[[Records, Records, int, np.random.Generator], tuple[Bools, Bools]]
"""(generated records, targets, place of the secret column) -> right guesses, and right blind guesses."""


def _attack(name: str, titles: tuple[str, str], english: str, chinese: str) -> Attack:
    meaning = (
        f"An attacker who {english} succeeds {{hits}} times of {{trials}} against training records, {{control_hits}} "
        "of {control_trials} against records that were never used, and at a rate of {blind} by guessing blindly; so "
        "the risk of having been used is {value} (between {low} and {high}).",
        f"{chinese}的攻击者，对训练记录 {{trials}} 次中成功 {{hits}} 次，对从未使用过的记录 {{control_trials}} 次中"
        "成功 {control_hits} 次，盲猜的成功率为 {blind}；因此被使用所带来的风险为 {value}"
        "（介于 {low} 与 {high} 之间）。",
    )
    title: Text = {"en": titles[0], "zh": titles[1]}
    return Attack(name, "samples", "risk", title, {"en": meaning[0], "zh": meaning[1]}, "arXiv:2211.10459")


SINGLING = _attack(
    "singling-out",
    ("Singling out by one column", "单列识别个体"),
    "takes a value that one generated record alone holds to point at exactly one person",
    "用仅一条生成记录持有的取值去指认唯一一人",
)
JOINTLY = _attack(
    "singling-out-jointly",
    ("Singling out by several columns", "多列联合识别个体"),
    "takes a combination of values that fits one generated record alone to point at exactly one person",
    "用仅符合一条生成记录的取值组合去指认唯一一人",
)
LINKING = _attack(
    "linkability",
    ("Linking two sources", "关联两个数据源"),
    "knows some columns of a person from one source and the others from another, and joins them where both "
    "resemble the same generated record",
    "分别从两个来源得知某人的部分列，并在两者都最接近同一条生成记录时将其关联",
)
INFERENCE = _attack(
    "inference",
    ("Inferring a value from the nearest generated record", "由最近的生成记录推断取值"),
    "knows all columns of a person but one and reads that one from the most similar generated record",
    "知道某人除一列以外的全部列，并从最相似的生成记录中读取该列",
)
ATTRIBUTE = _attack(
    "attribute-inference",
    ("Inferring a value with a trained classifier", "用训练的分类器推断取值"),
    "knows all columns of a person but one and predicts that one with a classifier trained on generated records",
    "知道某人除一列以外的全部列，并用在生成记录上训练的分类器预测该列",
)


@dataclass(frozen=True)
class Tries:
    """Hits and trials against members, against the hold-out, and of blind guesses against members.

    scale: the control's rate times this is at least the rate that chance gives against members; see `singling_out`.
    """

    members: Hits
    control: Hits
    blind: Hits
    scale: float = 1.0


def risk(
    attack: Attack,
    tries: Tries,
    world: World,
    confidence: float,
    **details: Any,  # noqa: ANN401  any JSON value
) -> Finding:
    """What tries prove, as the head of this module says.

    Edges: no trials give no value, [0, 1]; a control that always succeeds leaves no risk to be seen, 0.
    """
    level = bounds.corrected(3, confidence)  # two intervals and a test
    own, control = bounds.share(*tries.members, level), bounds.share(*tries.control, level)
    blind = tries.blind[0] / tries.blind[1] if tries.blind[1] else math.nan
    low = _excess(own.low, tries.scale * control.high)
    return attack.found(
        _excess(own.value, tries.scale * control.value),
        (low, _excess(own.high, tries.scale * control.low)),
        confidence,
        failed=_failed(tries, low, world, level),
        control_scale=tries.scale,
        blind=blind,
        better_than_blind=own.low > blind,
        **dict(zip(_COUNTS, (*tries.members, *tries.control), strict=True)),
        **details,
    )


def _excess(rate: float, control: float) -> float:
    return 0.0 if control >= 1 else min(max((rate - control) / (1 - control), 0.0), 1.0)


def _failed(tries: Tries, low: float, world: World, confidence: float) -> bool:
    if world.epsilon is None:
        return low > RISK
    epsilon = world.epsilon + math.log(tries.scale)
    return bounds.excess(tries.members, tries.control, epsilon, world.delta, confidence)[1]


@dataclass(frozen=True)
class _Predicates:
    """Conditions low <= code <= high on k columns each. Shapes: [p, k] all three."""

    columns: Places
    low: Codes
    high: Codes

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, rows: Any) -> "_Predicates":  # noqa: ANN401  whatever numpy takes as rows
        return _Predicates(self.columns[rows], self.low[rows], self.high[rows])

    def isolate(self, table: Codes) -> Places:
        """Place of the only record of a table [m, n] that each fits: [p], -1 where it fits none, -2 where several."""
        parts = [self[start : start + _CHUNK]._fits(table) for start in range(0, len(self), _CHUNK)]
        found = [np.where(fits.sum(1) > 1, -2, np.where(fits.any(1), fits.argmax(1), -1)) for fits in parts]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def _fits(self, table: Codes) -> Bools:
        fits = np.ones((len(self), table.shape[1]), bool)
        for columns, low, high in zip(self.columns.T, self.low.T, self.high.T, strict=True):
            codes = table[columns]
            fits &= (codes >= low[:, None]) & (codes <= high[:, None])
        return fits


def singling_out(world: World, confidence: float) -> Finding | Skipped:
    """Predicates on one column that fit one generated record alone: its value, or a minimum or maximum.

    One predicate a generated record. Hits are members that one of them isolates, each counted once, so that hits
    hardly depend on each other; the control, hold-out records, cut by lot to the members' number. Where they are
    fewer by a factor s, their rate counts s-fold: the chance of a record to be isolated falls with the number of
    records, so more records give at most s-fold as many hits; a small hold-out thus hides small risks. Every
    member of n may be hit, so delta counts n-fold.
    """
    return lacking(SINGLING, world) or _singled(SINGLING, world, confidence, 1)


def singling_out_jointly(world: World, confidence: float) -> Finding | Skipped:
    """As `singling_out`, by four columns of a generated record that together fit no other generated record.

    A number above the column's median asks for at least as much, one below for at most as much; texts are equal.
    Edges: where fewer predicates are found than asked for, those are used; `asked` and `trials` tell.
    """
    return lacking(JOINTLY, world, 2) or _singled(JOINTLY, world, confidence, _JOINED)


def _singled(attack: Attack, world: World, confidence: float, joined: int) -> Finding:
    rng, held, members = world.rng, cleaned(world.holdout_records), world.member_records
    joined = min(joined, len(members.names))
    held = held[drawn(len(held), len(members), rng)]
    inside, outside, made = _codes(members, held, world.synthetic_records)
    most = int(np.clip(_WORK // max(len(members), made.shape[1]), 1, min(_MOST, made.shape[1])))
    numeric = members.numeric
    found = _single(made, numeric, rng) if joined == 1 else _isolating(made, numeric, joined, most, rng)
    found = found[drawn(len(found), most, rng)]
    blind = _blind(made, numeric, joined, most, rng)
    pairs = ((found, inside), (found, outside), (blind, inside))
    hits = [(int((np.unique(each.isolate(table)) >= 0).sum()), len(each)) for each, table in pairs]
    tries = Tries(hits[0], hits[1], hits[2], len(members) / len(held))
    counted = replace(world, delta=min(1.0, world.delta * len(members)))
    return risk(attack, tries, counted, confidence, asked=most)


def _codes(*sets: Records) -> list[Codes]:
    """Ranks of values, the same for equal values of all sets, -1 for a gap: [m, n_i] each."""
    values = np.concatenate([cleaned(each).values for each in sets])
    ranks = np.empty(values.shape[::-1], np.int32)
    for place, column in enumerate(values.T):
        known, codes = np.unique(column, return_inverse=True)
        ranks[place] = codes.reshape(-1) - int(known[0] == -1)
    return np.split(ranks, np.cumsum([len(each) for each in sets])[:-1], axis=1)


def _single(made: Codes, numeric: Bools, rng: np.random.Generator) -> _Predicates:
    """A predicate on one column, by lot, for every generated record that one isolates: [p, 1]."""
    found = []
    for place, codes in enumerate(made):
        known, first, counts = np.unique(codes, return_index=True, return_counts=True)
        once, there = counts == 1, known[known >= 0]
        ends = (
            {there[0]: (0, there[0]), there[-1]: (there[-1], _TOP)} if numeric[place] and len(there) else {}
        )
        for code, record in zip(known[once].tolist(), first[once].tolist(), strict=True):
            found += [(place, code, code, record), (place, *ends.get(code, (code, code)), record)]
    table = rng.permutation(np.array(found, dtype=np.int64).reshape(-1, 4))
    table = table[np.unique(table[:, 3], return_index=True)[1]]
    return _Predicates(table[:, :1], table[:, 1:2].astype(np.int32), table[:, 2:3].astype(np.int32))


def _isolating(made: Codes, numeric: Bools, joined: int, most: int, rng: np.random.Generator) -> _Predicates:
    """Predicates on random columns that one generated record alone fits, one a record: at most [2 * most, joined]."""
    columns = _chosen(len(made), joined, _TRIES * most, rng)
    codes = made[columns, rng.integers(made.shape[1], size=(len(columns), 1))]
    found = _toward(columns, codes, codes > np.median(made, axis=1)[columns], numeric)
    some = made[:, drawn(made.shape[1], _SCREEN, rng)]  # what fits two of these is no candidate
    found = found[found.isolate(some) > -2][: 2 * most]
    records, first = np.unique(found.isolate(made), return_index=True)
    return found[first[records >= 0]]


def _blind(made: Codes, numeric: Bools, joined: int, count: int, rng: np.random.Generator) -> _Predicates:
    """Predicates on random columns with a random value of each, in a random direction: [count, joined]."""
    columns = _chosen(len(made), joined, count, rng)
    codes = rng.integers(0, np.maximum(made.max(axis=1), 0)[columns] + 1).astype(np.int32)
    return _toward(columns, codes, rng.random(codes.shape) < 0.5, numeric)


def _chosen(columns: int, joined: int, count: int, rng: np.random.Generator) -> Places:
    return np.argsort(rng.random((count, columns)), axis=1)[:, :joined]


def _toward(columns: Places, codes: Codes, above: Bools, numeric: Bools) -> _Predicates:
    """Numbers at least (above) or at most these, texts and gaps equal."""
    open_ended = numeric[columns] & (codes >= 0)
    low = np.where(open_ended & ~above, 0, codes).astype(np.int32)
    return _Predicates(columns, low, np.where(open_ended & above, _TOP, codes).astype(np.int32))


def linkability(world: World, confidence: float) -> Finding | Skipped:
    """A record's columns are divided in two; a hit is a generated record that is among the nearest to both parts.

    Four divisions by lot, each against other targets. Blind: the second part is another target's.
    Edges: generated records at equal distance are all nearest.
    """
    return lacking(LINKING, world, 2) or _linkability(world, confidence)


def _linkability(world: World, confidence: float) -> Finding:
    rng, (members, others, made), hits = world.rng, _targets(world), np.zeros((3, 2), np.int64)
    for start in range(_SPLITS):
        halves = np.array_split(rng.permutation(len(made.names)), 2)
        own, other = members[start::_SPLITS], others[start::_SPLITS]
        points = [joint(*(_only(each, half) for each in (own, other, made))) for half in halves]
        inside, outside = (_linked(points[0][i], points[1][i], points[0][2], points[1][2]) for i in (0, 1))
        hits += [[int(each.sum()), len(each)] for each in (inside[0], outside[0], inside[1])]
    own_hits, control, blind = ((int(row[0]), int(row[1])) for row in hits)
    return risk(LINKING, Tries(own_hits, control, blind), world, confidence, divisions=_SPLITS)


def _linked(one: Floats, two: Floats, made_one: Floats, made_two: Floats) -> tuple[Bools, Bools]:
    """Whether both parts of each record [n, d] share a nearest generated record, and with parts that do not match."""
    found, blind = [np.zeros(0, bool)], [np.zeros(0, bool)]
    parts = [(each, -2 * made.T, (made * made).sum(1)) for each, made in ((one, made_one), (two, made_two))]
    for start in range(0, len(one), _CHUNK):
        first, second = (_beyond(each[start : start + _CHUNK], *made) for each, *made in parts)
        found.append((first + second).min(1) <= _SLACK)
        blind.append((first + np.roll(second, 1, axis=0)).min(1) <= _SLACK)
    return np.concatenate(found), np.concatenate(blind)


def _beyond(records: Floats, axes: Floats, squares: Floats) -> Floats:
    """How much farther than the nearest each generated record is, squared: [n, m]."""
    apart: Floats = records @ axes
    apart += squares
    apart -= apart.min(1, keepdims=True)
    return apart


def inference(world: World, confidence: float) -> Finding | Skipped:
    """Each column in turn is secret (20 by lot at most), and guessed as that of the nearest generated record.

    A text is right if equal, a number within a twentieth of the column's standard deviation. Every target is
    attacked once, so tries are independent. Blind: the value of a random generated record.
    """
    columns = drawn(world.member_records.values.shape[1], _SECRETS, world.rng)
    return lacking(INFERENCE, world, 2) or _inferred(INFERENCE, world, confidence, columns, _by_neighbor)


def attribute_inference(world: World, confidence: float) -> Finding | Skipped:
    """Five columns, the label first, are secret in turn, and predicted by trees trained on generated records.

    A number is right in its tenth of the generated ones. What the trees know of the hold-out they know of the
    population; only the excess is the members' risk. Blind: the most frequent generated value.
    """
    names, label = world.member_records.names, None if world.schema is None else world.schema.label
    order = sorted(world.rng.permutation(len(names)).tolist(), key=lambda place: names[place] != label)
    secrets = np.array(order[:_TRAINED])
    return lacking(ATTRIBUTE, world, 2) or _inferred(ATTRIBUTE, world, confidence, secrets, _by_trees)


def _inferred(attack: Attack, world: World, confidence: float, columns: Places, guess: Guess) -> Finding:
    rng, (members, others, made) = world.rng, _targets(world)
    secrets, blind = [], [0, 0]
    for start, column in enumerate(columns.tolist()):
        own, other = members[start :: len(columns)], others[start :: len(columns)]
        targets = replace(own, values=np.concatenate([own.values, other.values]))
        right, blindly = guess(made, targets, column, rng)
        inside, outside = right[: len(own)], right[len(own) :]
        blind = [blind[0] + int(blindly[: len(own)].sum()), blind[1] + len(own)]
        secrets.append((members.names[column], int(inside.sum()), len(own), int(outside.sum()), len(other)))
    totals = [sum(secret[place] for secret in secrets) for place in (1, 2, 3, 4)]
    tries = Tries((totals[0], totals[1]), (totals[2], totals[3]), (blind[0], blind[1]))
    return risk(
        attack,
        tries,
        world,
        confidence,
        secrets=[dict(zip(("column", *_COUNTS), each, strict=True)) for each in secrets],
    )


def _by_neighbor(
    made: Records, targets: Records, column: int, rng: np.random.Generator
) -> tuple[Bools, Bools]:
    known = np.delete(np.arange(len(made.names)), column)
    (places,) = nearest((_only(targets, known),), _only(made, known))
    truth, pool = targets.values[:, column], made.values[:, column]
    there = pool[pool >= 0]
    near = _TOLERANCE * float(there.std()) if made.numeric[column] and len(there) else 0.0
    blind = pool[rng.integers(len(pool), size=len(truth))]
    return np.abs(pool[places] - truth) <= near, np.abs(blind - truth) <= near


def _by_trees(made: Records, targets: Records, column: int, rng: np.random.Generator) -> tuple[Bools, Bools]:
    known = np.delete(np.arange(len(made.names)), column)
    classes, truth = _classes(made.values[:, column], targets.values[:, column], bool(made.numeric[column]))
    if not len(truth):
        return np.zeros(0, bool), np.zeros(0, bool)
    trees = ExtraTreesClassifier(_TREES, random_state=int(rng.integers(2**31)))
    said = trees.fit(made.values[:, known], classes).predict(targets.values[:, known])
    kinds, counts = np.unique(classes, return_counts=True)
    return (said == truth) & (truth != -2), (kinds[counts.argmax()] == truth) & (truth != -2)


def _classes(pool: Floats, truth: Floats, numeric: bool) -> tuple[Places, Places]:
    """Tenths of the generated numbers, or the most frequent texts; -1 for a gap, -2 for any other text."""
    if numeric:
        there = pool[pool >= 0]
        edges = np.unique(np.quantile(there, np.arange(1, 10) / 10)) if len(there) else there
        bins = [
            np.where(each == -1, -1, np.searchsorted(edges, each, side="right")) for each in (pool, truth)
        ]
        return bins[0], bins[1]
    known, counts = np.unique(pool, return_counts=True)
    kept = known[np.argsort(-counts, kind="stable")[:_CLASSES]]
    codes = [np.where(np.isin(each, kept), each, -2).astype(np.int64) for each in (pool, truth)]
    return codes[0], codes[1]


def _targets(world: World) -> tuple[Records, Records, Records]:
    """Members and hold-out records that are attacked, in random order, and generated records, each by lot."""
    rng, sets = world.rng, (cleaned(world.member_records), cleaned(world.holdout_records))
    members, others = (each[rng.permutation(len(each))[:_MOST]] for each in sets)
    return members, others, cleaned(world.synthetic_records)[drawn(len(world.synthetic_records), _POOL, rng)]


def _only(records: Records, columns: Places) -> Records:
    names = tuple(records.names[place] for place in columns)
    return Records(records.values[:, columns], records.numeric[columns], names)
