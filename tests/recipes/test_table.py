import math

import numpy as np
import pandas as pd
import pytest

from privae.data.codec import Codec
from privae.data.column import Column
from privae.data.schema import Schema
from privae.errors import DataError, ResourceError
from privae.models.networks import Network, NetworkConfig
from privae.models.table import TableModel
from privae.privacy.noise import NoiseSource
from privae.recipes import table
from privae.recipes.phases import CATEGORIES, Budget, Run, plan_of
from privae.recipes.table import Layout, as_declared, layout_of, pair_tables, released_tables, threshold
from privae.training.watch import Silent

pytestmark = pytest.mark.usefixtures("tiny")


def fit_of(run, codes, codec):
    released = table.counted(run, codes, codec)
    return table.mixture(run, released), released.layout


def planned(schema, epsilon=3.0, rows=None):
    budget = Budget(epsilon, 1e-6, rows)
    return plan_of(table.draft(schema, budget), budget, schema.hash, "source")


def started(schema, **options):
    return Run(planned(schema, **options), lambda *_: None, NoiseSource(bytes(32)), Silent())


def categories(*sizes, label=None, bought=()):
    columns = [
        Column(name=f"c{i}", kind="category", categories=tuple(map(str, range(size))))
        for i, size in enumerate(sizes)
    ]
    bought = [Column(name=name, kind="category", categories="bought") for name in bought]
    return Schema(columns=(*columns, *bought), label=label)


def sizes(schema):
    return np.array([column.size for column in schema.kept])


def test_the_label_splits_the_tables_where_rows_and_classes_allow():
    schema = categories(3, 4, 2, label="c2")
    split = layout_of(schema, sizes(schema), None)
    assert (split.label, split.classes, split.columns.tolist(), split.pairs) == (2, 2, [0, 1], 1)
    assert layout_of(schema, sizes(schema), 1000).label == 2
    for other in (
        layout_of(schema, sizes(schema), 999),  # fewer than 500 declared rows a class
        layout_of(
            categories(3, 11, label="c1"), np.array([3, 11]), None
        ),  # more than ten classes, two columns
        layout_of(categories(3, 4), np.array([3, 4]), None),
        layout_of(schema, sizes(schema), None, split=False),
    ):
        assert (other.label, other.classes, other.pairs) == (
            None,
            1,
            len(other.columns) * (len(other.columns) - 1) / 2,
        )


def test_the_plan_charges_the_square_root_of_the_number_of_pairs():
    plan = planned(categories(2, 2, 2, 2))
    assert [(p.name, p.sensitivity, p.replace_ratio) for p in plan.phases] == [
        ("pair tables", math.sqrt(6), math.sqrt(2))
    ]
    plan = planned(categories(2, 2, bought=("x", "y")))
    assert [(p.name, p.sensitivity) for p in plan.phases] == [
        (CATEGORIES, math.sqrt(2)),
        ("pair tables", math.sqrt(6)),
    ]


def test_pair_tables_by_hand():
    layout = Layout(np.array([0, 2]), np.array([2, 2]), 1, 2)
    codes = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0], [1, -1, 0], [-1, 1, 0]], np.int32)
    first, second = pair_tables(codes, layout)
    assert first.tolist() == [[0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0]]
    assert second.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_each_number_of_the_tables_is_released_once_and_mirrored():
    schema = categories(2, 3, 2)
    run = started(schema)
    layout = layout_of(schema, sizes(schema), None)
    codes = np.zeros((10, 3), np.int32)
    tables = released_tables(run, codes, layout)
    assert run.noise.numbers_drawn == 2 * 3 + 2 * 2 + 3 * 2
    assert (tables == tables.transpose(0, 2, 1)).all()
    assert (np.diagonal(tables[0]) == 0).all()
    assert tables[0, 0, 1] == 0


def test_the_fit_is_a_model_of_the_table(facts, people):
    run, codec = started(facts, epsilon=math.inf), Codec(facts)
    codes = codec.encode(people(2000))
    fitted, layout = fit_of(run, codes, codec)
    made = table.with_label(fitted.model, layout, 3000, 0)
    assert made.shape == (3000, 4)
    assert ((made >= 0) & (made < codec.sizes)).all()
    assert made[:, 3].mean() == pytest.approx(0.4, abs=0.05)
    assert (made[made[:, 3] == 1, 1] == 0).mean() == pytest.approx(0.8, abs=0.12)
    network = Network(NetworkConfig(inputs=13, latent=2, hidden=()))
    model = TableModel(fitted.model, network, tuple(codec.sizes.tolist()), layout.label)
    assert model.columns == layout.columns.tolist()


@pytest.mark.parametrize("count", [0, 1, 20])
def test_too_few_records_are_refused_by_the_released_count(facts, people, count):
    codec = Codec(facts)
    run = started(facts, epsilon=0.5)
    with pytest.raises(DataError, match="released row count"):
        fit_of(run, codec.encode(people(count)), codec)
    assert run.noise.numbers_drawn > 0


def test_a_column_outside_its_schema_is_named(facts, people):
    codec = Codec(facts)
    frame = people(5000).assign(height="tall")
    with pytest.raises(DataError, match="column 'height'"):
        fit_of(started(facts, epsilon=5.0), codec.encode(frame), codec)


def test_too_many_cells_are_refused_by_the_plan():
    with pytest.raises(ResourceError, match="too many cells"):
        planned(categories(20_000, 20_000))


def bought(frame, epsilon=3.0, **columns):
    schema = categories(2, bought=tuple(columns or frame))
    run = started(schema, epsilon=epsilon)
    return table.buy_categories(run, frame, schema), run


def test_frequent_texts_are_bought_and_rare_ones_stay():
    frame = pd.DataFrame({"x": ["common"] * 500 + ["rare"], "y": [None] * 250 + ["often"] * 251})
    schema, run = bought(frame)
    assert {c.name: c.categories for c in schema.kept[1:]} == {"x": ("common",), "y": ("often",)}
    assert run.noise.numbers_drawn == 3
    assert schema.bought == ()


def test_without_noise_every_text_is_bought():
    schema, _ = bought(pd.DataFrame({"x": ["b", "a"]}), epsilon=math.inf)
    assert schema.kept[1].categories == ("a", "b")


def test_where_nothing_passes_one_other_category_is_left():
    for frame in (
        pd.DataFrame({"x": ["a", "b"]}),
        pd.DataFrame({"x": []}, dtype=str),
        pd.DataFrame({"x": [None]}),
    ):
        schema, _ = bought(frame)
        assert schema.kept[1].texts == ("other",)


def test_a_bought_label_is_fitted_as_planned(people, facts):
    """Its classes are unknown to the plan, so it splits nothing, neither there nor in the fit."""
    columns = [c.model_copy(update={"categories": "bought", "kind": "category"}) for c in facts.columns[3:]]
    schema = facts.model_copy(update={"columns": (*facts.columns[:3], *columns)})
    run = started(schema, epsilon=5.0)
    frame = people(3000)
    final = table.buy_categories(run, frame, schema)
    _, layout = fit_of(run, Codec(final).encode(frame), Codec(final))
    assert layout.label is None
    assert run.plan.phase("pair tables").sensitivity == math.sqrt(layout.pairs)


def test_the_threshold_is_one_without_noise_and_rises_with_the_cells():
    assert threshold(0.0, 3, 1e-6) == 1
    assert threshold(10.0, 1, 1e-6) < threshold(10.0, 2, 1e-6) < threshold(10.0, 10, 1e-6)
    assert threshold(10.0, 1, 1e-6) == math.ceil(1.5 + 47.534)


def test_more_noise_needs_more_rows():
    schema = categories(5, 5, 5)
    assert planned(schema, epsilon=0.1).rows_needed > 5 * planned(schema, epsilon=1.0).rows_needed


def test_a_fitted_schema_is_as_it_was_declared_before_its_categories_were_bought(facts):
    job = facts.columns[1].model_copy(update={"categories": "bought"})
    schema = facts.model_copy(update={"columns": (facts.columns[0], job, *facts.columns[2:])})
    completed = schema.with_categories("job", ["cook", "nurse"])
    assert completed != schema
    assert as_declared(completed, planned(schema)) == schema
    assert as_declared(facts, planned(facts)) == facts
