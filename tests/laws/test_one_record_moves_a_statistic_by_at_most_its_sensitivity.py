"""Law: with earlier releases held fixed, one record moves each statistic by at most what its phase charges.

Add-or-remove: the weighted L2 distance of the totals is at most the phase's sensitivity; replace-one: at most
replace_ratio times that. Records are arbitrary: garbage cells, images of any pixels, any label.
"""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.data.codec import Codec, text_codes
from privae.data.column import Column
from privae.data.images import ImageSchema
from privae.data.ratings import RatingSchema
from privae.data.schema import Schema
from privae.data.values import distinct
from privae.privacy.noise import NoiseSource
from privae.recipes import detection, gradients, image, ratings, series, table
from privae.recipes.gradients import Training
from privae.recipes.phases import CATEGORIES, Budget, Run, plan_of
from privae.series.clock import DAY
from privae.series.schema import SeriesSchema
from privae.sums.likes import UNIT
from privae.training.watch import Silent

ROUNDING = 1 + 1e-12  # of this test's own norms


class Replay:
    """Stands for a Run: keeps the private totals of every phase, and answers as an earlier run was answered."""

    def __init__(self, plan, answers):
        self.plan, self.answers, self.totals = plan, answers, {}
        self.watch, self.inner = Silent(), Run(plan, lambda *_: None, NoiseSource(bytes(32)), Silent())

    def release(self, name, totals, leaves=None):
        self.totals[name] = totals
        if name not in self.answers:
            self.answers[name] = self.inner.release(name, totals, leaves)
        return self.answers[name]

    def agreed(self, name, make):
        return self.inner.agreed(name, make)

    def deviation(self, name):
        return self.inner.deviation(name)


def distance(one, other):
    """Weighted L2 distance of two lists of blocks, from exact integer differences."""
    return math.sqrt(
        math.fsum(
            float(weight * step) ** 2
            for (a, weight), (b, _) in zip(one, other, strict=True)
            for step in (a.ravel() - b.ravel()).tolist()
        )
    )


def obeys(plan, totals_of, records, taken, put):
    """The law for one more record `put`, and for `put` in place of the record `taken`."""
    rest = [record for place, record in enumerate(records) if place != taken]
    with_one, without, replaced = totals_of(records), totals_of(rest), totals_of([*rest, put])
    for name, totals in without.items():
        phase = plan.phase(name)
        assert distance(with_one[name], totals) <= phase.sensitivity * ROUNDING, name
        assert distance(replaced[name], totals) <= phase.sensitivity * ROUNDING, name
        bound = phase.replace_ratio * phase.sensitivity * ROUNDING
        assert distance(with_one[name], replaced[name]) <= bound, name


# --- tables -----------------------------------------------------------------------------------------------

cell = (
    st.sampled_from(["a", "b", "1", "NA", "", "True", 0, 1, 2.5, math.nan, math.inf, -math.inf, None, True])
    | st.text(max_size=3)
    | st.floats()
    | st.integers()
)
NAMES = ("number", "bare", "choice", "yes", "class")
SCHEMA = Schema(
    columns=(
        Column(name="number", kind="numeric", bounds=(0, 3), unit=1, missing=True),
        Column(name="bare", kind="numeric", edges=(0.0, 0.5, 3)),
        Column(name="choice", kind="category", categories=("1", "a", "b")),
        Column(name="yes", kind="boolean", missing=True),
        Column(name="class", kind="category", categories=("a", "b")),
    ),
    label="class",
)
rows = st.tuples(*[cell] * 4, st.sampled_from(["a", "b", "c", None]) | cell)


def table_plan(schema, budget=None):
    budget = budget or Budget(1.0, 1e-6)
    return plan_of(table.draft(schema, budget), budget, schema.hash, "source")


@pytest.mark.parametrize("split", [True, False])
@settings(max_examples=40, deadline=None)
@given(records=st.lists(rows, min_size=1, max_size=5), put=rows, taken=st.integers(0, 4))
def test_pair_tables_of_any_cells(split, records, put, taken):
    schema = SCHEMA if split else SCHEMA.model_copy(update={"label": None})
    plan, codec = table_plan(schema), Codec(schema)
    layout = table.layout_of(schema, codec.sizes, None)
    assert (layout.label is not None) == split

    def totals_of(chosen):
        run = Replay(plan, {})
        frame = pd.DataFrame(chosen, columns=list(NAMES), dtype=object)
        table.released_tables(run, codec.encode(frame), layout)
        return run.totals

    obeys(plan, totals_of, records, min(taken, len(records) - 1), put)


def test_a_whole_record_uses_up_the_sensitivity_of_the_pair_tables():
    plan, codec = table_plan(SCHEMA), Codec(SCHEMA)
    layout = table.layout_of(SCHEMA, codec.sizes, None)
    run = Replay(plan, {})
    table.released_tables(run, np.zeros((1, 5), np.int32), layout)
    assert math.sqrt(float((run.totals["pair tables"][0][0] ** 2).sum())) == plan.phases[0].sensitivity


@settings(max_examples=40, deadline=None)
@given(
    records=st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=5),
    put=st.tuples(cell, cell, cell),
    taken=st.integers(0, 4),
)
def test_category_counts_of_any_texts(records, put, taken):
    """The texts of two data sets differ, so their counts are laid out by text before they are compared."""
    names = ("x", "y", "z")
    schema = Schema(
        columns=(
            *(Column(name=name, kind="category", categories="bought") for name in names),
            Column(name="yes", kind="boolean"),
        )
    )
    plan = table_plan(schema)
    everything = pd.DataFrame([*records, put], columns=list(names), dtype=object)
    texts = {name: text_codes(everything[name])[1] for name in names}

    def totals_of(chosen):
        run = Replay(plan, {})
        frame = pd.DataFrame(chosen, columns=list(names), dtype=object)
        table.buy_categories(run, frame, schema)
        counts, weight = run.totals[CATEGORIES][0]
        counts, aligned = list(counts), []
        for name in names:
            held = dict(zip(text_codes(frame[name])[1], counts, strict=False))
            counts = counts[len(held) :]
            aligned += [held.get(text, 0) for text in texts[name]]
        return {CATEGORIES: [(np.array(aligned, np.int64), weight)]}

    obeys(plan, totals_of, records, min(taken, len(records) - 1), put)


# --- anomaly detection ------------------------------------------------------------------------------------

DETECTION = Schema(
    columns=(
        *SCHEMA.columns[:2],
        Column(name="choice", kind="category", categories=("1", "a", "b"), missing=True),
        Column(name="third", kind="numeric", bounds=(-1000, 1000), unit=1e-3),
    )
)
records_of_detection = st.tuples(*[cell] * 4)


@pytest.fixture(scope="module")
def detected():
    """A plan with the releases of an ordinary fit, which every other fit here is answered with."""
    budget = Budget(2.0, 1e-6)
    plan = plan_of(detection.DetectionRecipe(DETECTION).draft(budget), budget, DETECTION.hash, "source")
    rng, first = np.random.default_rng(0), Replay(plan, {})
    detection_fit(first, [(a, b, "a", c) for a, b, c in rng.uniform(0, 3, (3000, 3))])
    return plan, first.answers


def detection_fit(run, chosen):
    frame = pd.DataFrame(chosen, columns=[c.name for c in DETECTION.columns], dtype=object)
    detection.DetectionRecipe(DETECTION).fit(run, frame)
    return run.totals


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(records_of_detection, min_size=1, max_size=5),
    put=records_of_detection,
    taken=st.integers(0, 4),
)
def test_trees_and_moments_of_any_cells(detected, records, put, taken):
    plan, answers = detected
    obeys(
        plan,
        lambda chosen: detection_fit(Replay(plan, answers), chosen),
        records,
        min(taken, len(records) - 1),
        put,
    )


def test_some_record_uses_up_the_sensitivity_of_trees_and_moments(detected):
    plan, answers = detected
    none, full = (detection_fit(Replay(plan, answers), chosen) for chosen in ([], [(0, 0, "a", 1000.0)]))
    assert distance(full["bounds"], none["bounds"]) == pytest.approx(
        plan.phase("bounds").sensitivity, rel=1e-12
    )
    assert distance(full["moments"], none["moments"]) >= 1.12


@pytest.fixture(scope="module")
def seen(pictures):
    """A plan for anomalies of images with the releases of an ordinary fit, which every other fit is answered with."""
    recipe, budget = detection.ImageDetectionRecipe(ImageSchema(height=4, width=4)), Budget(2.0, 1e-6)
    plan = plan_of(recipe.draft(budget), budget, recipe.schema.hash, "source")
    first = Replay(plan, {})
    recipe.fit(first, pictures(3000)[0])

    def totals(chosen):
        run = Replay(plan, first.answers)
        recipe.fit(run, np.array(chosen, np.uint8).reshape(len(chosen), 4, 4))
        return run.totals

    return plan, totals


pixels = st.one_of(
    st.binary(min_size=16, max_size=16).map(lambda raw: np.frombuffer(raw, np.uint8)),
    st.integers(0, 255).map(lambda value: np.full(16, value, np.uint8)),
    st.integers(0, 15).map(lambda place: (np.arange(16) == place).astype(np.uint8)),
)


@settings(max_examples=40, deadline=None)
@given(records=st.lists(pixels, min_size=1, max_size=4), put=pixels, taken=st.integers(0, 3))
def test_trees_and_moments_of_any_images(seen, records, put, taken):
    plan, totals = seen
    obeys(plan, totals, records, min(taken, len(records) - 1), put)


def test_some_image_uses_up_the_sensitivity_of_trees(seen):
    plan, totals = seen
    none, full = totals([]), totals([np.arange(16) * 16])
    assert distance(full["bounds"], none["bounds"]) == pytest.approx(
        plan.phase("bounds").sensitivity, rel=1e-12
    )
    assert distance(full["moments"], none["moments"]) >= 0.9


# --- images -----------------------------------------------------------------------------------------------

picture = st.one_of(
    st.binary(min_size=16, max_size=16).map(lambda raw: np.frombuffer(raw, np.uint8)),
    st.integers(0, 255).map(lambda value: np.full(16, value, np.uint8)),
    st.integers(1, 15).map(lambda place: (np.arange(16) < place).astype(np.uint8) * 255),
    st.integers(0, 15).map(lambda place: (np.arange(16) == place).astype(np.uint8) * 255),
)
labelled = st.tuples(picture, st.integers(-1, 1))


@pytest.fixture(scope="module")
def answered(pictures):
    """A plan with the releases of an ordinary fit, which every other fit here is answered with."""
    budget = Budget(2.0, 1e-6, fidelity=False)
    plan = plan_of(image.draft((4, 4), 2, budget), budget, "schema", "source")
    first = Replay(plan, {})
    image.fit(first, *pictures(3000), 2)
    return plan, first.answers


def image_totals(answered, chosen):
    plan, answers = answered
    run = Replay(plan, answers)
    pixels = np.array([x for x, _ in chosen], np.uint8).reshape(len(chosen), 4, 4)
    image.fit(run, pixels, np.array([y for _, y in chosen], np.int64), 2)
    return run.totals


@settings(max_examples=40, deadline=None)
@given(records=st.lists(labelled, min_size=1, max_size=4), put=labelled, taken=st.integers(0, 3))
def test_norms_axes_and_class_moments_of_any_images(answered, records, put, taken):
    taken = min(taken, len(records) - 1)
    obeys(answered[0], lambda chosen: image_totals(answered, chosen), records, taken, put)


@settings(max_examples=40, deadline=None)
@given(x=picture, other=picture, label=st.integers(0, 1))
def test_a_changed_label_is_a_replaced_record(answered, x, other, label):
    one = image_totals(answered, [(other, 0), (x, label)])
    moved = image_totals(answered, [(other, 0), (x, 1 - label)])
    phase = answered[0].phase("class prior")
    assert (
        distance(one["class prior"], moved["class prior"])
        <= phase.replace_ratio * phase.sensitivity * ROUNDING
    )
    for name in ("norms", "axes"):
        assert distance(one[name], moved[name]) == 0


def test_some_image_nearly_uses_up_the_sensitivity(answered):
    """Else the law above would hold for a sum that no record can move."""
    none = image_totals(answered, [])
    places = np.arange(16)
    patterns = [
        places >= 0,
        places < 0,
        places < 8,
        places % 2 == 0,
        places % 4 < 2,
        (places // 4 + places) % 2 == 0,
    ]
    moved = [image_totals(answered, [(np.uint8(255) * pattern.astype(np.uint8), 0)]) for pattern in patterns]
    for name, least in (("norms", 1.0), ("axes", 1.12), ("class prior", 1.12)):
        assert max(distance(one[name], none[name]) for one in moved) >= least


# --- label counts -----------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    records=st.lists(st.integers(-1, 2), min_size=1, max_size=6),
    put=st.integers(-1, 2),
    taken=st.integers(0, 5),
)
def test_label_counts(label_plan, records, put, taken):
    def totals_of(chosen):
        run = Replay(label_plan, {gradients.LABELS: [np.array([50.0, 50.0, 50.0])]})
        shares = gradients._label_shares(run, np.array(chosen, np.int64), 3)
        assert torch.allclose(shares, torch.full((3,), 1 / 3, dtype=torch.float64))
        return run.totals

    obeys(label_plan, totals_of, records, min(taken, len(records) - 1), put)


@pytest.fixture(scope="module")
def label_plan():
    training = Training(latent=1, hidden=(), steps=1)
    network = gradients.default_network(2, 3, training)
    budget = Budget(math.inf, 1e-6, 100)
    return plan_of(gradients.draft(2, 3, network, training, budget), budget, "schema", "source")


# --- ratings ----------------------------------------------------------------------------------------------

WORDS = ("a", "b", "c", "d", "e")
rating = st.tuples(st.sampled_from(WORDS) | cell, st.sampled_from([1, 5, 5]) | cell)
person = st.lists(rating, max_size=8)


def rating_table(persons):
    rows = [(who, *row) for who, theirs in enumerate(persons) for row in theirs]
    return pd.DataFrame(rows, columns=["who", "what", "stars"], dtype=object)


@pytest.mark.parametrize("rows", [2, 45])
@pytest.mark.parametrize("items", [WORDS, "bought"])
@settings(max_examples=40, deadline=None)
@given(records=st.lists(person, min_size=1, max_size=4), put=person, taken=st.integers(0, 3))
def test_ratings_of_any_persons(items, rows, records, put, taken):
    """A record is a person, with any number of rows; items are laid out by text before they are compared."""
    schema = RatingSchema(person="who", item="what", value="stars", like=3, items=items)
    budget = Budget(1.0, 1e-6, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ratings, "_FEWEST_MODELED", 3)
        plan = plan_of(ratings.draft(schema, budget), budget, schema.hash, "source")
    assert (plan.phase("gram matrix") is None) == (rows == 2)
    everything = sorted(distinct(rating_table([*records, put])["what"])[1])
    answers = {
        CATEGORIES: [np.frombuffer(json.dumps([(word, 50.0 * UNIT) for word in WORDS]).encode(), np.uint8)],
        "popularity": [np.array([50.0, 10.0, 40.0, 20.0, 30.0]) * UNIT],
        "gram matrix": [np.full(3, 50.0 * UNIT), np.full(3, 20.0 * UNIT)],
        "lengths": [np.full(24, 50.0)],
    }

    def totals_of(chosen):
        run, frame = Replay(plan, dict(answers)), rating_table(chosen)
        ratings.fit(run, frame, schema)
        if items == "bought":
            counts, weight = run.totals[CATEGORIES][0]
            held = dict(zip(sorted(set(distinct(frame["what"])[1]) - {""}), counts, strict=True))
            laid = np.array([held.get(text, 0) for text in everything], np.int64)
            run.totals[CATEGORIES] = [(laid, weight)]
        return run.totals

    obeys(plan, totals_of, records, min(taken, len(records) - 1), put)


def test_a_person_uses_up_the_sensitivity_of_likes():
    schema = RatingSchema(person="who", item="what", items=WORDS)
    plan = plan_of(ratings.draft(schema, Budget(1.0, 1e-6)), Budget(1.0, 1e-6), schema.hash, "source")
    run = Replay(plan, {"gram matrix": [np.full(5, 50.0 * UNIT), np.full(10, 20.0 * UNIT)]})
    ratings.fit(run, rating_table([[(word, 5) for word in WORDS]]), schema)
    for name, totals in run.totals.items():
        moved = math.sqrt(math.fsum(float(w * c) ** 2 for block, w in totals for c in block.tolist()))
        assert 0.999 < moved <= plan.phase(name).sensitivity, name


# --- time series ------------------------------------------------------------------------------------------

SERIES = SeriesSchema(
    id="id",
    time="t",
    step="6h",
    window="1d",
    filled=0.25,
    kind="type",
    kinds=("a", "b"),
    conditions=("weekday", "kind"),
    channels=(
        Column(name="x", kind="numeric", bounds=(0, 3), missing=True),
        Column(name="on", kind="boolean"),
    ),
)
when = st.sampled_from(["2026-01-05", "2026-01-06 06:00", "soon", None]) | st.integers(0, 60).map(
    lambda h: h * 21_600
)
reading = st.tuples(when, st.sampled_from([0, 3, 3, 1.5]) | cell, cell, st.sampled_from(["a", "b"]) | cell)
home = st.lists(reading, max_size=8)


def series_table(homes):
    rows = [(f"home {who}", *row) for who, theirs in enumerate(homes) for row in theirs]
    return pd.DataFrame(rows, columns=["id", "t", "x", "on", "type"], dtype=object)


def full(days, low=0, high=3):
    """A household of so many whole days between the ends of its bounds."""
    steps = [
        (day * DAY + 21_600 * i, high if (day + i) % 2 else low, i % 2 == 0, "a")
        for day in range(days)
        for i in range(4)
    ]
    return [(4 * DAY + at, x, on, kind) for at, x, on, kind in steps]


@pytest.fixture(scope="module")
def watched():
    """Plans of series, of many units and of few, each with the releases of an ordinary fit that answer every other."""
    made, rng = {}, np.random.default_rng(0)
    ordinary = [
        [(DAY * d + 21_600 * i, x, True, "b") for i, x in enumerate(rng.uniform(0, 3, 4))] for d in range(400)
    ]
    for rows in (4000, 20):
        recipe, budget = series.SeriesRecipe(SERIES), Budget(2.0, 1e-6, rows)
        plan = plan_of(recipe.draft(budget), budget, SERIES.hash, "source")
        first = Replay(plan, {})
        recipe.fit(first, series_table(ordinary))

        def totals(chosen, plan=plan, answers=first.answers, recipe=recipe):
            run = Replay(plan, dict(answers))
            recipe.fit(run, series_table(chosen))
            return run.totals

        made[rows] = plan, totals
    assert [phase.name for phase in made[20][0].phases] == ["count", "moments"]
    return made


@pytest.mark.parametrize("rows", [4000, 20])
@settings(max_examples=25, deadline=None)
@given(records=st.lists(home, min_size=1, max_size=3), put=home, taken=st.integers(0, 2))
def test_sums_of_any_households(watched, rows, records, put, taken):
    """A record is a household, with any number of windows."""
    plan, totals = watched[rows]
    obeys(plan, totals, records, min(taken, len(records) - 1), put)


@pytest.mark.parametrize("rows", [4000, 20])
def test_sums_of_households_of_very_many_windows(watched, rows):
    plan, totals = watched[rows]
    homes = [full(1), full(7), full(1000), full(1000, 3, 3), full(6, 0, 0)]
    for put in (full(300), full(300, 0, 0), []):
        for taken in (0, 2, 3):
            obeys(plan, totals, homes, taken, put)
    none, whole = totals([]), totals([full(1024, 3, 3)])
    for name in none:
        moved = distance(whole[name], none[name])
        assert moved <= plan.phase(name).sensitivity * ROUNDING
        assert moved > 0.5 * plan.phase(name).sensitivity
