"""Copies in generated data: whole rows, near rows, values that one person holds, smallest and largest numbers.

Black box: members, hold-out and generated records are all that is read; there need not be a model. Where nothing
is claimed, "contradicts the claim" means: there is any difference between members and hold-out at all.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from sklearn.metrics import pairwise_distances_argmin

from privae.attacks import bounds
from privae.attacks.bounds import Bools, Floats, Places
from privae.attacks.finding import Attack, Channel, Finding, Skipped, Text
from privae.attacks.world import Records, World, drawn, joint
from privae.data.column import Column
from privae.data.values import category_codes, distinct, means_missing, numbers

Hits = tuple[int, int]
"""Hits and trials."""

COPIED = 0.01
"""Exact copies fail above this difference of shares, whatever is claimed."""
NEAR = 0.1
"""Near copies and extremes fail above this difference of shares, whatever is claimed."""

_MOST = 2_000  # members, and as many others, that a search for neighbors looks at
_POOL = 10_000  # generated records that it looks among
_RATE = 0.01  # of hold-out records that count as near
_SHOWN = 5  # places that are told, for pictures
_DIGITS = 12  # of a distance: equal ones differ by less
_ENOUGH = 100  # see `exact_copies`
_TAIL = 10  # hold-out values at each end of a column that the ends of generated data are held against


def _attack(
    name: str, channel: Channel, measure: str, *texts: str, source: str = "arXiv:2312.05114"
) -> Attack:
    """An attack with its title and its meaning, each in English and Chinese."""
    title, meaning = ({"en": en, "zh": zh} for en, zh in (texts[:2], texts[2:]))
    return Attack(name, channel, measure, cast("Text", title), cast("Text", meaning), source)


DUPLICATES = _attack(
    "duplicates",
    "data",
    "share of rows",
    "Rows that occur more than once",
    "重复出现的行",
    "{repeated} of {members} training rows occur more than once, and {shared} of {others} hold-out rows equal a "
    "training row; such rows blur what attacks on membership measure.",
    "{members} 条训练行中有 {repeated} 条重复出现，{others} 条留出行中有 {shared} 条与某训练行相同；"
    "这些行会模糊成员推断攻击的结果。",
)
EXACT = _attack(
    "copies-exact",
    "samples",
    "share of members",
    "Exact copies of training rows",
    "训练行的完全复制",
    "{hits} of {trials} training rows stand unchanged among the generated ones, against {control_hits} of "
    "{control_trials} rows that were never used (what chance gives); more than chance means that real people's "
    "rows are handed out.",
    "{trials} 条训练行中有 {hits} 条原样出现在生成数据中，而从未使用过的 {control_trials} 条中有 {control_hits} 条"
    "（即偶然水平）；超过偶然水平意味着真实个人的行被泄露。",
)
_EXACT_ALONE = _attack(
    "copies-exact",
    "samples",
    "share of generated rows",
    "Exact copies of training rows",
    "训练行的完全复制",
    "{copies} of {generated} generated rows equal a training row; as often as training rows repeat, about {chance} "
    "of them would by chance. Without a hold-out only much more than that can be called copies.",
    "{generated} 条生成行中有 {copies} 条与某训练行相同；按训练行自身的重复程度，约有 {chance} 出于偶然。"
    "没有留出数据时，只有明显超过该比例才能称为复制。",
)
NEARLY = _attack(
    "copies-near",
    "samples",
    "share of members",
    "Near copies of training records",
    "训练记录的近似复制",
    "{hits} of {trials} training records have a generated record nearer than all but {control_hits} of "
    "{control_trials} unused records have (a share of {value}, 0.01 by chance). This detects copying; that it "
    "finds none does not show privacy.",
    "{trials} 条训练记录中有 {hits} 条与某生成记录的距离小于几乎所有未使用记录（{control_trials} 条中只有 "
    "{control_hits} 条如此近；比例 {value}，偶然水平为 0.01）。此项只检测复制；未发现复制并不证明隐私安全。",
    source="arXiv:2505.01524, arXiv:2312.05114",
)
RARE = _attack(
    "rare-values",
    "samples",
    "share of values",
    "Values that a single person holds",
    "仅一人持有的取值",
    "Of {undeclared} values that one training record alone holds and the schema does not declare, "
    "{undeclared_found} came out in generated rows ({rows} rows hold the most frequent one): none may. Of "
    "{declared} that the schema declares, {declared_found} came out, against {control_found} of {control} of "
    "unused records.",
    "仅由一条训练记录持有且模式未声明的 {undeclared} 个取值中，有 {undeclared_found} 个出现在生成数据中"
    "（最多的一个出现在 {rows} 行）：一个都不应出现。模式已声明的 {declared} 个中出现 {declared_found} 个，"
    "未使用记录的 {control} 个中出现 {control_found} 个。",
    source="arXiv:2405.10994",
)
EXTREMES = _attack(
    "extremes",
    "samples",
    "share of ends",
    "Smallest and largest values",
    "最小值与最大值",
    "At {hits} of {trials} ends of numeric columns the generated data end exactly at a value that one training "
    "record alone holds; of {control_trials} values near the ends that other records hold, {control_hits} occur "
    "there at all. With so few ends only gross leaks show.",
    "在数值列的 {trials} 个端点中，有 {hits} 个生成数据的端点恰好等于仅一条训练记录持有的取值；其他记录靠近端点的 "
    "{control_trials} 个取值中只有 {control_hits} 个出现在生成数据中。端点数量少，只能发现严重泄漏。",
    source="arXiv:2405.10994",
)
_REASONS = {
    "holdout": ("needs records that were kept out of the fit", "需要未参与训练的记录"),
    "empty": ("one of the tables is empty", "其中一个表为空"),
    "columns": ("needs a table of two columns or more", "需要至少两列的表"),
}


def lacking(attack: Attack, world: World, columns: int = 1, holdout: bool = True) -> Skipped | None:
    """What an attack cannot do without and does not find, or None."""
    held, tables = world.holdout_records, (world.member_records, world.synthetic_records)
    reason = "holdout" if holdout and (held is None or not len(held)) else None
    if not all(len(table) for table in tables):
        reason = "empty"
    elif tables[0].values.shape[1] < columns:
        reason = "columns"
    if reason is None:
        return None
    return Skipped(attack.name, attack.channel, {"en": _REASONS[reason][0], "zh": _REASONS[reason][1]})


def cleaned(records: Records | None) -> Records:
    """Records whose cells that are no numbers are gaps, so that distances are numbers; -0 is 0."""
    assert records is not None  # `lacking` has seen to it
    return Records(np.nan_to_num(records.values, nan=-1.0) + 0.0, records.numeric, records.names)


def contradicted(inside: Hits, outside: Hits, world: World, confidence: float) -> tuple[float, bool]:
    """`bounds.excess` under what the world claims; where nothing is claimed, under epsilon 0."""
    claim = (0.0, 0.0) if world.epsilon is None else (world.epsilon, world.delta)
    return bounds.excess(inside, outside, *claim, confidence)


def _compared(
    attack: Attack,
    world: World,
    confidence: float,
    sides: tuple[Hits, Hits],
    most: float,
    **details: Any,  # noqa: ANN401  any JSON value
) -> Finding:
    """The share of hits of members, against others; it fails above what is claimed, and above a difference."""
    level = bounds.corrected(2, confidence)  # an interval and a test
    above, failed = contradicted(*sides, world, level)
    found = bounds.share(*sides[0], level)
    names = ("hits", "trials", "control_hits", "control_trials")
    tally = dict(zip(names, (*sides[0], *sides[1]), strict=True))
    interval, failed = (found.low, found.high), failed or above > most
    return attack.found(found.value, interval, confidence, failed=failed, above=above, **tally, **details)


def duplicates(world: World, confidence: float) -> Finding:
    """Share of member rows that occur more than once, and how many hold-out rows equal a member row; never fails.

    The interval is the value itself: it is a fact of these rows, no estimate.
    """
    held = world.member_records[:0] if world.holdout_records is None else world.holdout_records
    rows, others = _rows(world.member_records, held)
    repeated, shared = int(_repeated(rows).sum()), int(np.isin(others, rows).sum())
    value = repeated / max(len(rows), 1)
    counts: dict[str, Any] = {
        "members": len(rows),
        "repeated": repeated,
        "others": len(others),
        "shared": shared,
    }
    return DUPLICATES.found(value, (value, value), confidence, **counts)


def exact_copies(world: World, confidence: float) -> Finding | Skipped:
    """Share of distinct member rows that are generated unchanged, against the share of distinct hold-out rows.

    As many members as hold-out rows are compared, by lot, and rows in both are left out: then neither side holds
    more frequent rows, which are generated by chance more often.
    failed: the members' share surely contradicts the claim, or surely exceeds the hold-out's by more than 0.01.
    Without a hold-out, the value is the share of generated rows that equal a member row. It fails where there are
    at least 100 members and the share is surely more than 0.1 above what chance explains: by Good and Turing, a new
    row of the same population is among the members about as often as a member's row occurs more than once.
    """
    if lacking(EXACT, world):
        return lacking(EXACT, world, holdout=False) or _copies_alone(world, confidence)
    members, others, made = _rows(
        world.member_records, cleaned(world.holdout_records), world.synthetic_records
    )
    kept, left = bounds.balanced(len(members), len(others), world.rng)
    inside, outside = np.unique(members[kept]), np.unique(others[left])
    both = np.intersect1d(inside, outside)
    own, control = (_hits(np.setdiff1d(side, both), made) for side in (inside, outside))
    counts = {"copies": int(np.isin(made, members).sum()), "generated": len(made)}
    return _compared(EXACT, world, confidence, (own, control), COPIED, **counts)


def _copies_alone(world: World, confidence: float) -> Finding:
    members, made = _rows(world.member_records, world.synthetic_records)
    copies, judged = int(np.isin(made, members).sum()), len(members) >= _ENOUGH
    # Good and Turing: a new record of the same population equals one of the members about so often
    chance = float(_repeated(members).mean())
    found = bounds.share(copies, len(made), confidence)
    failed = judged and found.low > chance + NEAR
    details = {"copies": copies, "generated": len(made), "judged": judged, "chance": chance}
    return _EXACT_ALONE.found(found.value, (found.low, found.high), confidence, failed=failed, **details)


def near_copies(world: World, confidence: float) -> Finding | Skipped:
    """Share of members whose nearest generated record is nearer than for all but 1 % of hold-out records.

    At most 2,000 of each, and 10,000 generated records, by lot. Distances: numbers in units of their declared
    range, 1 between two texts. details: the AUC of the distances, and up to 5 `places` (member, generated record,
    distance) of the nearest among those members, for the data holder's eyes.
    failed: the share surely contradicts the claim, or surely exceeds the hold-out's by more than 0.1.
    Not a measure of privacy, only of copying: distances to the closest record miss leaks.
    Source: arXiv 2505.01524, 2312.05114 say why it is no headline.
    """
    return lacking(NEARLY, world) or _near_copies(world, confidence)


def _near_copies(world: World, confidence: float) -> Finding:
    sets = [cleaned(each) for each in (world.member_records, world.holdout_records, world.synthetic_records)]
    places = [
        drawn(len(each), most, world.rng) for each, most in zip(sets, (_MOST, _MOST, _POOL), strict=True)
    ]
    members, others, made = (each[rows] for each, rows in zip(sets, places, strict=True))
    neighbors = nearest((members, others), made)
    inside, outside = (distances(each, made[n]) for each, n in zip((members, others), neighbors, strict=True))
    threshold = np.sort(outside)[int(_RATE * len(outside))]
    own, control = ((int((side < threshold).sum()), len(side)) for side in (inside, outside))
    third = bounds.corrected(3, confidence)  # of the AUC; the other two are for the shares
    area = bounds.auc_interval(-inside, -outside, third)
    order = np.argsort(inside, kind="stable")[: min(own[0], _SHOWN)]
    shown = [[int(places[0][i]), int(places[2][neighbors[0][i]]), float(inside[i])] for i in order]
    auc = {"value": area.value, "low": area.low, "high": area.high}
    rest = 1 - 2 * (1 - third)
    return _compared(NEARLY, world, rest, (own, control), NEAR, auc=auc, places=shown)


def nearest(sets: Sequence[Records], made: Records) -> list[Places]:
    """Place of the nearest generated record, for every record of each set: [n_i] each."""
    *points, pool = joint(*sets, made)
    return [pairwise_distances_argmin(each, pool) if len(each) else np.zeros(0, np.int64) for each in points]


def distances(one: Records, other: Records) -> Floats:
    """Distances of records to those at the same places of another set, [n]; exactly 0 for equal ones."""
    apart = one.values - other.values
    found: Floats = np.round(np.sqrt(np.where(one.numeric, apart * apart, apart != 0).sum(1)), _DIGITS)
    return found


def rare_values(world: World, confidence: float) -> Finding:
    """Texts that one member alone holds (no other member, no hold-out record): how many of them are generated.

    Control: texts that one hold-out record alone holds. Without a schema nothing is declared.
    failed: any undeclared one is generated, for the generator has it from nobody else. Only where undeclared ones
    of the hold-out are generated, too, do undeclared values come from elsewhere; then, and for declared ones, the
    members' share must surely contradict the claim. All at `confidence` together.
    Edges: gaps and booleans are left out; a table without such values gives a share of nothing, [0, 1].
    """
    found = [single for name in _named(world, numeric=False) for single in _singles(world, name)]
    foreign, known = ((_tally(found, (True, told)), _tally(found, (False, told))) for told in (False, True))
    level = bounds.corrected(3, confidence)  # two tests and an interval
    failed = any(contradicted(*sides, world, level)[1] for sides in (foreign, known))
    leaked = [single for single in found if single[0] == (True, False) and single[2]]
    share = bounds.share(foreign[0][0] + known[0][0], foreign[0][1] + known[0][1], level)
    names = ("undeclared", "undeclared_control", "declared", "control")
    tally = dict(zip(names, (*foreign, *known), strict=True))
    return RARE.found(
        share.value,
        (share.low, share.high),
        confidence,
        failed=failed or (foreign[0][0] > 0 and foreign[1][0] == 0),
        rows=max((rows for _, _, rows in leaked), default=0),
        columns=sorted({name for _, name, _ in leaked}),
        **{name: trials for name, (_, trials) in tally.items()},
        **{f"{name}_found": hits for name, (hits, _) in tally.items()},
    )


_Single = tuple[tuple[bool, bool], str, int]  # (a member's, declared), column, generated rows that hold it


def _tally(found: Sequence[_Single], kind: tuple[bool, bool]) -> Hits:
    rows = [count for each, _, count in found if each == kind]
    return sum(count > 0 for count in rows), len(rows)


def _singles(world: World, name: str) -> list[_Single]:
    column, found = _facts(world, name), []
    inside, outside, made = (_counts(each, name) for each in (world.members, world.holdout, world.synthetic))
    if column is not None and column.kind == "boolean":
        return []
    for member, own, others in ((True, inside, outside), (False, outside, inside)):
        texts = [t for t, count in own.items() if count == 1 and t not in others and not means_missing(t)]
        declared = category_codes(texts, () if column is None else column.texts) >= 0
        pairs = zip(texts, declared.tolist(), strict=True)
        found += [((member, told), name, made.get(text, 0)) for text, told in pairs]
    return found


def _counts(table: Any, name: str) -> dict[str, int]:  # noqa: ANN401  a DataFrame or None
    if table is None:
        return {}
    places, texts = distinct(table[name])
    return dict(zip(texts, np.bincount(places[places >= 0], minlength=len(texts)).tolist(), strict=True))


def extremes(world: World, confidence: float) -> Finding:
    """At how many ends of numeric columns the generated data end exactly where the members do.

    An end counts where one member alone holds its value, no hold-out record does, and it is no declared bound.
    Control: the 10 outermost values of the hold-out at each end, under the same conditions, and whether they are
    generated anywhere, which chance does rather more often than it hits an end. Without a hold-out, those next to
    the members' own ends stand in, so a whole copy does not show here.
    failed: the members' share surely contradicts the claim, or surely exceeds the control's by more than 0.1.
    Edges: few ends have little power; no ends give a share of nothing, [0, 1].
    """
    none = np.zeros(0, bool)
    ends = [(name, *_end(world, name, sign)) for name in _named(world, numeric=True) for sign in (1, -1)]
    own, control = (np.concatenate([none, *(end[side] for end in ends)]) for side in (1, 2))
    sides = (int(own.sum()), len(own)), (int(control.sum()), len(control))
    columns = sorted({name for name, hits, _ in ends if hits.any()})
    return _compared(EXTREMES, world, confidence, sides, NEAR, columns=columns)


def _end(world: World, name: str, sign: int) -> tuple[Bools, Bools]:
    """Whether generated values end where the members' do (no or one answer), and which control values they hold."""
    tables = (world.members, world.holdout, world.synthetic)
    members, others, made = (sign * _finite(table, name) for table in tables)
    if not len(members) or not len(made):
        return np.zeros(0, bool), np.zeros(0, bool)
    column = _facts(world, name)
    limits = (
        np.zeros(0) if column is None else sign * np.array([*(column.bounds or ()), *(column.edges or ())])
    )
    singles = _held_once(members, others, limits)
    first = singles[:1][singles[:1] == members.min()]
    control = _held_once(others, members, limits) if len(others) else np.setdiff1d(singles, first)
    return first == made.min(), np.isin(control[:_TAIL], made)


def _held_once(own: Floats, others: Floats, limits: Floats) -> Floats:
    found, counts = np.unique(own, return_counts=True)
    kept: Floats = found[(counts == 1) & ~np.isin(found, others) & ~np.isin(found, limits)]
    return kept


def _finite(table: Any, name: str) -> Floats:  # noqa: ANN401  a DataFrame or None
    values = np.zeros(0) if table is None else numbers(table[name])[0]
    kept: Floats = values[np.isfinite(values)]
    return kept


def _facts(world: World, name: str) -> Column | None:
    columns = () if world.schema is None else world.schema.kept
    return next((column for column in columns if column.name == name), None)


def _named(world: World, numeric: bool) -> list[str]:
    """Names of the columns of a kind; images have none."""
    table, records = isinstance(world.members, pd.DataFrame), world.member_records
    return [n for n, kind in zip(records.names, records.numeric, strict=True) if table and kind == numeric]


def _rows(*sets: Records) -> list[Places]:
    """A number for each row, the same for equal rows of all sets: [n_i] each."""
    values = np.ascontiguousarray(np.concatenate([cleaned(each).values for each in sets]))
    if not values.size:
        return [np.zeros(len(each), np.int64) for each in sets]
    whole = values.view(np.dtype((np.void, values.itemsize * values.shape[1]))).ravel()
    found = np.unique(whole, return_inverse=True)[1].reshape(-1)
    return np.split(found, np.cumsum([len(each) for each in sets])[:-1])


def _repeated(rows: Places) -> Bools:
    more: Bools = np.bincount(rows)[rows] > 1
    return more


def _hits(rows: Places, made: Places) -> Hits:
    return int(np.isin(rows, made).sum()), len(rows)
