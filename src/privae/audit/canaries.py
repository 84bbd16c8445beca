"""Canaries: made-up records, each planted by a secret fair coin, whose presence is then read off what was released.

A canary is a record like any other, so what is promised to records is promised to it: whoever guesses the coins well
has proved a lower bound of epsilon (Steinke et al. 2023, arXiv:2305.08846). Three readers guess here:
- *reading*: the released sums less the real records' own sums, which the data holder knows and the strongest adversary
  might: noise and canaries are left. The tightest, and for the data holder only (guarantees.md rule 22);
- *release*: the released tables less those of the fitted mixture: what an outsider can do;
- *loss*: the fitted model's score of every canary; and *categories*: whether a canary's own text came out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from privae.attacks.bounds import CONFIDENCE, corrected, guessed, guesses_about, one_run_bound, one_run_power
from privae.attacks.finding import Attack, Channel, Finding, Text
from privae.audit import persons, units
from privae.audit.coins import Coins
from privae.audit.readings import deviation, joint, likely, moment_reading, of_detection
from privae.data.codec import Codec
from privae.data.images import ImageSchema, label_codes
from privae.data.ratings import RatingSchema
from privae.data.schema import Schema
from privae.data.values import widened
from privae.errors import UsageError
from privae.fitted.anomalies import Anomalies
from privae.fitted.images import FittedImages
from privae.fitted.kinds import AnyFitted
from privae.fitted.ratings import FittedRatings
from privae.fitted.table import FittedTable
from privae.fitted.units import Units
from privae.models.priors import ProductMixture
from privae.models.table import TableModel, onehot
from privae.plan import Plan
from privae.recipes import detection, image, table
from privae.recipes.modality import Facts
from privae.recipes.phases import Released
from privae.series.schema import SeriesSchema
from privae.sums import moments
from privae.training.launch import place

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

FINDINGS = 4
"""Most findings about canaries of one fit."""

SHARE = 0.75
"""Part of an audit's error that findings about canaries have; all others share the rest."""

_MANY = 10**6  # canaries of a finding that is believed
_SOURCE = "arXiv:2305.08846"
_MEANING: Text = {
    "en": "Of {guesses} guesses about which made-up records took part, {right} were right: this attack shows that "
    "epsilon is at least {value} ({confidence} sure); had all guesses been right, it would have shown {power}.",
    "zh": "对虚构记录是否参与训练的 {guesses} 次猜测中，{right} 次正确：该攻击以 {confidence} 的置信度表明 epsilon "
    "至少为 {value}；即使全部猜对，最多也只能表明 {power}。",
}


def _attack(name: str, channel: Channel, titles: tuple[str, str], *, public: bool) -> Attack:
    title: Text = {"en": titles[0], "zh": titles[1]}
    return Attack(name, channel, "epsilon lower bound", title, _MEANING, _SOURCE, public)


READING = _attack(
    "canary reading",
    "data",
    (
        "Canaries read off the released sums, all other records known",
        "已知其余全部记录，从发布的统计量中识别虚构记录",
    ),
    public=False,
)
RELEASE = _attack(
    "canary release",
    "data",
    ("Canaries read off the released tables", "从发布的列联表中识别虚构记录"),
    public=True,
)
CATEGORIES = _attack(
    "canary categories",
    "data",
    ("Canaries' own texts among the bought categories", "虚构记录独有的文本是否出现在购得的类别中"),
    public=True,
)
LOSS = _attack(
    "canary loss",
    "parameters",
    ("Canaries told by the model's score", "通过模型评分识别虚构记录"),
    public=True,
)


@dataclass(frozen=True)
class Canaries:
    """The canaries of a fit. data, labels: all of them, in the form of the fit's data; planted: which took part.

    texts: each canary's own text for the columns whose categories are bought, [canaries].
    """

    data: Any = field(repr=False)
    labels: NDArray[Any] | None = field(repr=False)
    planted: Bools = field(repr=False)
    texts: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.planted)


@dataclass(frozen=True)
class _Fit:
    """What readers look at: the plan, the fitted model, what was released, and the real records."""

    plan: Plan
    fitted: AnyFitted
    transcript: Mapping[str, Released]
    data: Any
    labels: Any


@dataclass(frozen=True)
class Trial:
    """What a fit is fed, (data, labels); its real records alone; and its canaries, if it has any."""

    fed: tuple[Any, Any] = field(repr=False)
    real: tuple[Any, Any] = field(repr=False)
    canaries: Canaries | None = field(default=None, repr=False)

    def read(self, plan: Plan, fitted: AnyFitted, transcript: Mapping[str, Released]) -> list[Finding]:
        """Every reader's finding about the canaries of the fit."""
        if self.canaries is None or len(self.canaries) < 2:
            return []
        fit = _Fit(plan, fitted, transcript, *self.real)
        scored = [(attack, reader(self.canaries, fit)) for attack, reader in _READERS]
        return [
            judged(attack, scores, self.canaries.planted, plan)
            for attack, scores in scored
            if scores is not None
        ]


def trial(coins: Coins | None, x: Any, y: Any, schema: Facts) -> Trial:  # noqa: ANN401
    """What a fit is fed under these coins: the records that take part, then the canaries that were planted.

    Guarantee: who takes part depends on the coins alone. For real records the promise of the fit is unchanged: canaries
    are the same in neighboring data.
    Errors: UsageError for several processes, which would not share the coins, and for a catalogue that is bought.
    """
    if coins is None:
        return Trial((x, y), (x, y))
    if place().size > 1:
        raise UsageError("canaries are planted by one process; audit without them, or fit in one process")
    planted = coins.planted()
    rng = np.random.default_rng(coins.source("values").words(4).tolist())
    if isinstance(schema, RatingSchema | SeriesSchema):
        if isinstance(schema, RatingSchema):
            real, made, rows = persons.fed(coins, x, schema, rng)
        else:
            real, made, rows = units.fed(coins, x, schema, rng)
        return Trial((_joined(real, made.loc[rows]), None), (real, None), Canaries(made, None, planted))
    present = coins.taking_part(x)
    if isinstance(schema, Schema):
        frame, texts = _rows(schema, coins.canaries, rng)
        real = x.loc[:, [c.name for c in schema.kept if c.name in x.columns]]
        real = real if present.all() else real.loc[present]
        fed = _joined(real, frame.loc[planted, list(real.columns)])
        return Trial((fed, None), (real, None), Canaries(frame, None, planted, texts))
    pixels, labels, texts = _images(schema, coins.canaries, rng)
    kept = None if y is None else np.asarray(y, dtype=object)[present]
    named = None if kept is None else np.concatenate([kept, labels[planted]])
    images = np.concatenate([x[present], pixels[planted]])
    return Trial((images, named), (x[present], kept), Canaries(pixels, labels, planted, texts))


def _rows(schema: Schema, count: int, rng: np.random.Generator) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows uniform over the cells of every declared column, with a text of their own where categories are bought."""
    bought, texts = schema.bought, _texts(count, rng)
    for name in bought:
        schema = schema.with_categories(name, ["canary"])
    codec = Codec(schema)
    codes = np.stack([rng.integers(0, max(int(size), 1), count) for size in codec.sizes], 1)
    frame = codec.decode(codes, rng)
    for name in bought:
        frame[name] = pd.Series(texts, dtype=object)
    return frame, texts if bought else ()


def _images(
    schema: ImageSchema, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[Any], tuple[str, ...]]:
    """Images of random low frequencies at full contrast, of random classes."""
    size = min(100, schema.height * schema.width)
    basis = moments.low_pass_basis(schema.height, schema.width, size) / 2.0**20
    fields = rng.standard_normal((count, size)) @ basis.T
    pixels = np.where(fields > 0, 255, 0).astype(np.uint8).reshape(count, schema.height, schema.width)
    if isinstance(schema.classes, tuple):
        return pixels, rng.choice(np.array(schema.classes, dtype=object), count), ()
    texts = _texts(count, rng)
    return pixels, np.array(texts, dtype=object), texts if schema.classes else ()


def _texts(count: int, rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(f"canary {rng.bytes(8).hex()}" for _ in range(count))


def _joined(rows: pd.DataFrame, canaries: pd.DataFrame) -> pd.DataFrame:
    """Rows above canaries; a column whose types differ becomes one of objects, so that no value is rounded."""
    columns = {}
    for name in rows.columns:
        parts = [rows[name], canaries[name]]
        if parts[0].dtype != parts[1].dtype or not len(rows):
            parts = [_objects(part) for part in parts]
        columns[name] = pd.concat(parts, ignore_index=True)
    return pd.DataFrame(columns)


def _objects(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """The same values as objects; short floats by their shortest decimal text, as the codec reads them."""
    kind = getattr(column.dtype, "numpy_dtype", column.dtype)
    if not isinstance(kind, np.dtype) or kind.kind != "f" or kind.itemsize >= 8:
        return column.astype(object)
    wide = widened(column.to_numpy(kind, na_value=np.nan)).astype(object)
    wide[column.isna().to_numpy(bool)] = None
    return pd.Series(wide)


def judged(attack: Attack, scores: Floats, planted: Bools, plan: Plan) -> Finding:
    """The finding that scores of canaries give, beside the epsilon of a plan."""
    guesses = guesses_about(len(planted))
    return counted(attack, guessed(scores, planted, guesses), len(planted), plan)


def counted(attack: Attack, right: int, canaries: int, plan: Plan) -> Finding:
    """The finding that so many right guesses about so many canaries give: everything in it follows from these."""
    guarantee, guesses = plan.guarantee(), guesses_about(canaries)
    confidence = corrected(FINDINGS, 1 - SHARE * (1 - CONFIDENCE))
    numbers = guesses, canaries, guarantee.delta, confidence
    bound, power = one_run_bound(right, *numbers), one_run_power(*numbers)
    details = {"right": right, "guesses": guesses, "canaries": canaries, "epsilon": guarantee.epsilon}
    failed = bound > guarantee.epsilon
    return attack.found(bound, (bound, np.inf), confidence, power=power, failed=failed, **details)


def most(canaries: int, delta: float) -> float:
    """The largest epsilon that so many canaries can show."""
    confidence = corrected(FINDINGS, 1 - SHARE * (1 - CONFIDENCE))
    return one_run_power(guesses_about(canaries), canaries, delta, confidence)


def recount(finding: Finding, plan: Plan) -> Finding | None:
    """The same finding, counted anew from its right guesses; None if it may not be published, or shows other figures.

    Its words are those of this version, whoever wrote it.
    """
    attack = next((a for a in (RELEASE, CATEGORIES, LOSS) if a.name == finding.attack), None)
    right, count = finding.details.get("right"), finding.details.get("canaries")
    if attack is None or type(right) is not int or type(count) is not int or not 0 < count <= _MANY:
        return None
    if not 0 <= right <= guesses_about(count):
        return None
    anew = counted(attack, right, count, plan)
    said = replace(finding, title=anew.title, meaning=anew.meaning, source=anew.source)
    return anew if said.to_dict() == anew.to_dict() else None


def _reading(canaries: Canaries, fit: _Fit) -> Floats | None:
    if isinstance(fit.fitted, FittedRatings):
        return persons.reading(fit.plan, fit.fitted, fit.transcript, (fit.data, canaries.data))
    if isinstance(fit.fitted, FittedTable) and table.TABLES in fit.transcript:
        return _read_tables(canaries, fit, fit.fitted)
    if isinstance(fit.fitted, Anomalies) and detection.MOMENTS in fit.transcript:
        return of_detection(fit.plan, fit.fitted, fit.transcript, (fit.data, canaries.data))
    if isinstance(fit.fitted, FittedImages) and image.AXES in fit.transcript:
        return _read_images(canaries, fit, fit.fitted)
    return None


def _release(canaries: Canaries, fit: _Fit) -> Floats | None:
    if not isinstance(fit.fitted, FittedTable) or not isinstance(fit.fitted.model, TableModel):
        return None
    wide, classes, layout = _cells(canaries.data, fit, fit.fitted)
    released = table.mirrored(fit.transcript[table.TABLES][0], layout)
    expected = _mixture_tables(fit.fitted.model.mixture, released)
    noise = deviation(fit.plan, table.TABLES)
    # a cell tells of canaries where little else is expected in it
    weight = 1 / (noise**2 + expected + (0.05 * expected) ** 2 + 1e-9)
    return _over_pairs(wide, classes, (released - expected) * weight)


def _categories(canaries: Canaries, fit: _Fit) -> Floats | None:
    if not canaries.texts:
        return None
    schema = fit.fitted.schema
    assert not isinstance(schema, RatingSchema | SeriesSchema)
    columns = [c.texts for c in schema.kept] if isinstance(schema, Schema) else [schema.classes or ()]
    known = {text for texts in columns for text in texts}
    return np.array([text in known for text in canaries.texts], dtype=np.float64)


def _loss(canaries: Canaries, fit: _Fit) -> Floats:
    if isinstance(fit.fitted, Units):
        attacked = units.Attacked(fit.fitted)
        return attacked.score(attacked.rows(canaries.data))
    return fit.fitted.score(canaries.data)


def _read_tables(canaries: Canaries, fit: _Fit, fitted: FittedTable) -> Floats:
    wide, classes, layout = _cells(canaries.data, fit, fitted)
    rest = table.mirrored(fit.transcript[table.TABLES][0], layout)
    rest -= table.pair_tables(fitted.codec.encode(fit.data), layout)
    shared = wide @ wide.T
    overlaps = np.where(classes[:, None] == classes, shared * (shared - 1) / 2, 0.0)
    return likely(_over_pairs(wide, classes, rest), overlaps, deviation(fit.plan, table.TABLES))


def _cells(data: pd.DataFrame, fit: _Fit, fitted: FittedTable) -> tuple[Floats, Integers, table.Layout]:
    """One-hot cells of records inside the pair tables [n, cells], the class of each [n], and the layout."""
    codec = fitted.codec
    split = bool(fit.plan.settings.get("split_by_label"))
    layout = table.layout_of(fitted.schema, codec.sizes, fit.plan.rows, split=split)
    codes = codec.encode(data).astype(np.int64)
    inside = onehot(torch.from_numpy(codes[:, layout.columns]), torch.from_numpy(layout.sizes))
    classes = codes[:, layout.label] if layout.label is not None else np.zeros(len(codes), np.int64)
    return inside.double().numpy(), classes, layout


def _over_pairs(wide: Floats, classes: Integers, tables: Floats) -> Floats:
    """The sum of each record's own cells of the pair tables of its class: [n, cells], [n], [c, cells, cells] -> [n]."""
    sums = np.zeros(len(wide))
    for c, cells in enumerate(tables):
        mine = classes == c
        sums[mine] = ((wide[mine] @ cells) * wide[mine]).sum(1) / 2
    return sums


def _mixture_tables(mixture: ProductMixture, released: Floats) -> Floats:
    """The pair tables that the mixture expects, in counts: [classes, cells, cells]."""
    cells = mixture.log_cells.double().exp()
    joint = (torch.bmm(cells.mT, cells) / cells.shape[1]).numpy()
    owner = np.repeat(np.arange(len(mixture.sizes)), mixture.sizes.numpy())
    apart = owner[:, None] != owner
    pairs = len(mixture.sizes) * (len(mixture.sizes) - 1)
    counts = np.maximum(released.sum((1, 2)) / pairs, 0.0)
    expected: Floats = joint * counts[:, None, None] * apart
    return expected


def _read_images(canaries: Canaries, fit: _Fit, fitted: FittedImages) -> Floats:
    """Both phases of moments at once: each is weighted by its own noise, and the overlaps add up likewise."""
    schema, transcript = fitted.schema, fit.transcript
    pixels = schema.height * schema.width
    sizes = image.sizes_for(fit.plan.epsilon, pixels)
    ball = image.ball_of(transcript[image.NORMS][0], pixels, sizes.quantile)
    known = [image.bounded(image.frequencies(x, sizes), ball) for x in (fit.data, canaries.data)]
    first = image.unpacked(transcript[image.AXES], sizes.basis)
    axes = image.axes_of(first[0], deviation(fit.plan, image.AXES), (schema.height, schema.width))
    classes = [
        _classes(schema, y, len(x)) for y, x in ((fit.labels, fit.data), (canaries.labels, canaries.data))
    ]
    one = [np.zeros(len(part), np.int64) for part in known]
    codes = [image.latent_codes(part, *axes, sizes) for part in known]
    second = image.unpacked(transcript[image.CLASSES], sizes.latent)
    parts = [
        moment_reading(first, known, one, deviation(fit.plan, image.AXES)),
        moment_reading(second, codes, classes, deviation(fit.plan, image.CLASSES)),
    ]
    return joint(parts)


def _classes(schema: ImageSchema, labels: Any, count: int) -> Integers:  # noqa: ANN401
    if not isinstance(schema.classes, tuple) or labels is None:
        return np.zeros(count, np.int64)
    return label_codes(labels, schema.classes)


_READERS: tuple[tuple[Attack, Callable[[Canaries, _Fit], Floats | None]], ...] = (
    (READING, _reading),
    (RELEASE, _release),
    (CATEGORIES, _categories),
    (LOSS, _loss),
)
