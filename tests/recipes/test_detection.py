import math

import numpy as np
import pandas as pd
import pytest

from privae import VAE
from privae.data.column import Column
from privae.data.ratings import RatingSchema
from privae.data.schema import Schema
from privae.errors import DataError, PrivacyRefused, ResourceError, UsageError
from privae.fitted.anomalies import FittedDetection, reading_of
from privae.models.scores import SCORES
from privae.privacy.noise import NoiseSource
from privae.recipes import detection
from privae.recipes.detection import DetectionRecipe, basis_of
from privae.recipes.phases import Budget, plan_of
from privae.training.watch import Silent

COLUMNS = {
    "age": {"kind": "numeric", "bounds": (0, 120), "unit": 1, "missing": True},
    "amount": {"kind": "numeric", "bounds": (0, 100_000), "unit": 1, "dtype": "float64"},
    "way": {"kind": "category", "categories": ("card", "cash"), "missing": True},
    "new": {"kind": "boolean"},
}
SCHEMA = Schema(columns=tuple(Column(name=name, **facts) for name, facts in COLUMNS.items()))
BOUGHT = SCHEMA.model_copy(
    update={
        "columns": (
            *SCHEMA.columns[:2],
            Column(name="way", kind="category", categories="bought", missing=True),
            SCHEMA.columns[3],
        )
    }
)
NUMBERS = SCHEMA.model_copy(update={"columns": SCHEMA.columns[:2]})


def shoppers(count, seed=0):
    """Amounts grow with age; one in ten ages is a gap."""
    rng = np.random.default_rng(seed)
    age = rng.normal(50, 10, count).round()
    frame = pd.DataFrame({"age": age, "amount": (20 * age + rng.normal(0, 30, count)).round()})
    frame["way"] = rng.choice(["card", "cash"], count, p=[0.9, 0.1])
    frame["new"] = rng.random(count) < 0.5
    frame.loc[rng.random(count) < 0.1, "age"] = np.nan
    return frame


def vae(epsilon=2.0, schema=SCHEMA, **options):
    return VAE(epsilon, 1e-6, recipe="detection", schema=schema, **options)


def fitted(frame, epsilon=2.0, schema=SCHEMA, **options):
    return vae(epsilon, schema, **options).fit(frame, noise=NoiseSource(bytes(32)))


@pytest.fixture(scope="module")
def model():
    return fitted(shoppers(4000))


def one(**values):
    return pd.DataFrame([{"age": 50, "amount": 1000.0, "way": "card", "new": True} | values])


def test_the_plan_charges_a_one_a_level_and_a_one_a_category_column():
    plan = vae(rows=5000).plan()
    bounds, moments = plan.phases
    levels = [5, 8]  # 4 * 120 and 4 * 100,000 cells, 4^8 at most, in powers of four
    assert reading_of(SCHEMA).layout.grid.levels.tolist() == levels
    assert (bounds.name, bounds.sensitivity) == ("bounds", math.sqrt(sum(levels) + 2))
    assert bounds.replace_ratio == math.sqrt(2)
    assert (moments.name, moments.size) == ("moments", 3 + 2 + 1)
    assert bounds.share + moments.share == 1
    assert (plan.recipe, plan.rows_needed < 5000) == ("detection", True)
    assert plan.guarantee().epsilon == pytest.approx(2.0)
    assert any("category columns" in note for note in plan.notes)
    assert vae(schema=NUMBERS).plan().notes == ()


def test_the_plan_warns_of_too_few_declared_rows():
    needed = vae(0.5).plan().rows_needed
    assert any(note.startswith("weak:") for note in vae(0.5, rows=needed - 1).plan().notes)
    assert not any(note.startswith("weak:") for note in vae(0.5, rows=needed).plan().notes)
    wide = Schema(columns=tuple(Column(name=f"x{i}", kind="numeric", bounds=(0, 1)) for i in range(60)))
    assert vae(0.5, wide).plan().rows_needed > 5 * needed
    assert vae(math.inf).plan().rows_needed == 1


def test_scores_find_what_is_rare_and_what_breaks_the_relation(model):
    usual = model.decision_function(shoppers(500, 1))
    strange = pd.concat([one(amount=90_000.0), one(age=75, amount=400.0), one(age=119), one(amount=math.inf)])
    assert (model.decision_function(strange) > np.quantile(usual, 0.97)).all()
    broken = model.decision_function(one(age=70, amount=600.0), "mahalanobis")
    apart = model.decision_function(one(age=70, amount=600.0), "diagonal")
    assert broken > 3 * apart
    assert model.decision_function(one(way="bitcoin"), "tail") > model.decision_function(one(), "tail") + 2
    for name in ("mahalanobis", "diagonal"):
        assert model.decision_function(one(way="bitcoin"), name) == model.decision_function(one(), name)


def test_each_score_has_a_name_and_the_default_is_the_combined_one(model):
    frame = shoppers(50, 1)
    found = model.fitted_.scores(frame)
    assert tuple(found) == SCORES
    for name in SCORES:
        assert (model.decision_function(frame, name) == found[name]).all()
    assert (model.decision_function(frame) == found["combined"]).all()
    assert (model.score_samples(frame) == -found["combined"]).all()
    with pytest.raises(UsageError, match="choose among combined, mahalanobis, diagonal, tail"):
        model.decision_function(frame, "ecod")
    parts = model.fitted_.parts(frame)
    assert set(parts) == {*SCORES, "distance"}


def test_codes_are_scored_by_numbers_drawn_from_their_bins(model):
    frame = pd.concat([one(), one(amount=90_000.0)])
    found = model.fitted_.score_codes(model.fitted_.codec.encode(frame))
    assert found.shape == (2,)
    assert found[0] > found[1]


def test_another_model_has_one_score(tiny, people, facts):
    other = VAE(math.inf).fit(people(300), schema=facts)
    with pytest.raises(UsageError, match="one score"):
        other.decision_function(people(3), "tail")


def test_the_threshold_is_a_quantile_of_the_models_own_samples(model):
    assert model.predict(shoppers(4000, 2)).mean() == pytest.approx(0.05, abs=0.03)
    assert model.predict(one(amount=90_000.0)).tolist() == [1]
    assert model.predict(shoppers(4000, 2), contamination=0.3).mean() > 0.2


def test_codes_are_whitened(model):
    codes = model.transform(shoppers(4000, 3))
    assert codes.shape == (4000, 2)
    assert np.abs(np.corrcoef(codes.T)[0, 1]) < 0.1
    assert np.diag(np.cov(codes.T)) == pytest.approx([1, 1], rel=0.7)  # clipped rows narrow the covariance


def test_samples_speak_the_schema(model):
    made = model.sample(3000, seed=0)
    assert list(made) == list(COLUMNS)
    assert [str(dtype) for dtype in made.dtypes[:2]] == ["Int64", "float64"]
    real = shoppers(4000)
    assert made["age"].median() == pytest.approx(real["age"].median(), abs=3)
    assert made["age"].isna().mean() == pytest.approx(0.1, abs=0.05)
    assert made["amount"].quantile([0.1, 0.9]).tolist() == pytest.approx(
        real["amount"].quantile([0.1, 0.9]).tolist(), rel=0.15
    )
    assert made[["age", "amount"]].dropna().astype(float).corr().iloc[0, 1] > 0.6
    assert (made["way"] == "cash").mean() == pytest.approx(0.1, abs=0.05)
    assert len(model.sample(0, seed=0)) == 0
    assert model.sample(5, seed=1).equals(model.sample(5, seed=1))


def test_a_saved_model_scores_the_same(model, tmp_path):
    model.save(tmp_path / "m.privae")
    again = VAE.load(tmp_path / "m.privae")
    frame = shoppers(50, 1)
    assert again.recipe == "detection"
    for name in SCORES:
        assert (again.decision_function(frame, name) == model.decision_function(frame, name)).all()
    assert again.sample(5, seed=1).equals(model.sample(5, seed=1))
    assert again.guarantee == model.guarantee


def test_arrays_of_numbers_are_taken_in_the_order_of_the_schema():
    frame = shoppers(2000)[["age", "amount"]]
    model = fitted(frame.to_numpy(), schema=NUMBERS)
    assert (model.decision_function(frame.to_numpy()) == model.decision_function(frame)).all()
    with pytest.raises(UsageError, match="DataFrame"):
        model.decision_function(frame.to_numpy()[:, :1])


def test_edges_alone_declare_bounds_too():
    columns = (Column(name="x", kind="numeric", edges=(0.0, 1.0, 5.0)),)
    layout = reading_of(Schema(columns=columns)).layout
    assert (layout.grid.low.tolist(), layout.grid.width.tolist()) == ([0.0], [5.0])
    frame = pd.DataFrame({"x": np.random.default_rng(0).uniform(0, 5, 2000)})
    made = fitted(frame, schema=Schema(columns=columns)).sample(500, seed=0)
    assert made["x"].between(0, 5).all()


# --- few rows ---------------------------------------------------------------------------------------------


def test_the_rule_of_the_basis_reads_n_mu_over_d():
    assert [basis_of(signal) for signal in (20.0, 19.9, 5.0, 4.9)] == [
        "covariance",
        "diagonal",
        "diagonal",
        "public",
    ]


@pytest.mark.parametrize(
    ("epsilon", "basis", "words"),
    [(math.inf, "covariance", "how the numbers"), (0.6, "diagonal", "below 20"), (0.18, "public", "below 5")],
)
def test_what_scores_rest_on_is_said(epsilon, basis, words):
    notes = []

    class Watch(Silent):
        def note(self, text):
            notes.append(text)

    wide = Schema(
        columns=tuple(Column(name=f"x{i}", kind="numeric", bounds=(-5, 5), unit=5) for i in range(12))
    )
    frame = pd.DataFrame(
        np.random.default_rng(0).normal(size=(1000, 12)), columns=[f"x{i}" for i in range(12)]
    )
    model = vae(epsilon, wide).fit(frame, noise=NoiseSource(bytes(32)), watch=Watch())
    assert model.fitted_.model.basis == basis
    assert words in model.fitted_.notes[0]
    assert notes == ([] if basis == "covariance" else [model.fitted_.notes[0]])
    assert np.isfinite(model.decision_function(frame)).all()
    assert len(model.sample(10, seed=0)) == 10


def test_without_enough_signal_scores_are_those_before_any_fit():
    rng, names = np.random.default_rng(0), [f"x{i}" for i in range(12)]
    wide = Schema(columns=tuple(Column(name=x, kind="numeric", bounds=(-5, 15), unit=5) for x in names))
    model = fitted(pd.DataFrame(rng.normal(size=(1000, 12)), columns=names), 0.18, wide)
    assert model.fitted_.model.basis == "public"
    frame = pd.DataFrame(rng.uniform(0, 10, (5, 12)), columns=names)
    expected = (((frame.to_numpy() - 5) / 10) ** 2).sum(1)
    assert model.decision_function(frame) == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [1.0, math.inf])
@pytest.mark.parametrize("count", [0, 1])
def test_no_row_and_one_row_are_refused_by_the_released_count(epsilon, count):
    with pytest.raises(DataError, match="released row count"):
        fitted(shoppers(count), epsilon)


# --- bad input --------------------------------------------------------------------------------------------


def test_constant_columns_have_finite_scores():
    frame = shoppers(2000).assign(age=40, amount=7.0, way="card", new=True)
    model = fitted(frame)
    usual, strange = (
        model.decision_function(frame),
        model.decision_function(frame[:1].assign(amount=50_000.0)),
    )
    assert np.isfinite(usual).all()
    assert strange > usual.max()
    assert model.sample(100, seed=0)["amount"].median() == pytest.approx(7.0, abs=2)


def test_texts_and_gaps_in_numbers_are_gaps_and_values_outside_count_at_the_bound():
    frame = shoppers(3000).astype(object)
    frame.loc[:299, "amount"] = "secret-words"
    frame.loc[300:399, "amount"] = 1e300
    model = fitted(frame)
    assert model.fitted_.model.quantiles.gaps[1] == pytest.approx(0.1, abs=0.03)
    found = model.decision_function(pd.concat([one(amount="?"), one(amount=1e300), one(amount=200_000.0)]))
    assert np.isfinite(found).all()
    assert found[0] < found[1] == found[2]


def test_a_column_of_gaps_alone_is_named_unless_gaps_are_declared():
    frame = shoppers(3000)
    with pytest.raises(DataError, match="column 'amount': the released counts hold hardly any number"):
        fitted(frame.assign(amount="x"))
    model = fitted(frame.assign(age=np.nan))
    assert model.fitted_.model.quantiles.gaps[0] == pytest.approx(1, abs=0.05)
    assert np.isfinite(model.decision_function(frame)).all()
    assert model.sample(50, seed=0)["age"].isna().mean() > 0.8


@pytest.mark.parametrize(
    ("schema", "error", "words"),
    [
        (SCHEMA.model_copy(update={"label": "new"}), UsageError, "label 'new' takes no part"),
        (SCHEMA.model_copy(update={"columns": SCHEMA.columns[2:]}), UsageError, "needs a numeric column"),
        (SCHEMA.model_copy(update={"person": "who", "max_rows": 2}), PrivacyRefused, "person column"),
    ],
)
def test_schemas_that_cannot_be_meant_are_refused_before_anything_is_spent(schema, error, words):
    with pytest.raises(error, match=words):
        vae(schema=schema).plan()


def test_more_cells_than_memory_holds_are_refused_by_the_plan(monkeypatch):
    monkeypatch.setattr(detection, "_MOST_CELLS", 1000)
    with pytest.raises(ResourceError, match="larger units or keep fewer columns"):
        vae().plan()


def test_options_of_other_recipes_are_refused():
    with pytest.raises(UsageError, match="leave out fidelity"):
        vae(fidelity=True).plan()
    with pytest.raises(UsageError, match="is for tables and images"):
        VAE(1.0, recipe="detection", schema=RatingSchema(person="who", item="what", items=("a", "b"))).plan()
    with pytest.raises(UsageError, match="a network is for"):
        vae(network=object()).plan()
    with pytest.raises(UsageError, match="recipe is one of auto, gradients, detection"):
        VAE(1.0, recipe="anomalies", schema=SCHEMA).plan()


def test_categories_are_bought_by_the_phase_of_tables():
    """Texts of many records come out and are scored by their shares; one of few counts like what has no cell."""
    frame = shoppers(4000)
    frame.loc[:2, "way"] = "barter"
    model = fitted(frame, 4.0, BOUGHT)
    assert [phase.name for phase in model.plan_.phases] == ["categories", "bounds", "moments"]
    assert [phase.share for phase in model.plan_.phases] == pytest.approx([0.05, 0.475, 0.475])
    assert model.plan_.phases[0].sensitivity == 1.0
    assert 0 < model.plan_.delta_threshold < model.plan_.delta
    assert model.guarantee.epsilon <= 4.0
    assert model.fitted_.schema.kept[2].categories == ("card", "cash")
    assert model.ledger.epsilon <= 4.0
    common, rare, unseen = (
        model.decision_function(one(way=way), "tail")[0] for way in ("card", "cash", "barter")
    )
    assert common < rare < unseen
    assert set(model.sample(500, seed=0)["way"].dropna()) == {"card", "cash"}
    assert model._twin()[1].hash == BOUGHT.hash


def test_a_column_of_which_nothing_passes_has_one_cell():
    frame = shoppers(3000).assign(way=[f"person {i}" for i in range(3000)])
    model = fitted(frame, 1.0, BOUGHT)
    assert model.fitted_.schema.kept[2].categories == ()
    assert np.isfinite(model.decision_function(frame.head(20))).all()
    assert "person 1" not in repr(model.fitted_.schema)


def test_strict_is_not_combined_with_what_is_bought():
    with pytest.raises(UsageError, match="not combined"):
        vae(schema=BOUGHT, strict=True).plan()


def test_strict_refuses_values_outside_the_schema():
    with pytest.raises(DataError, match="column 'amount' holds values outside the schema"):
        fitted(shoppers(50).assign(amount=-1.0), strict=True)


def test_more_rows_than_the_sums_hold_are_refused(monkeypatch):
    monkeypatch.setattr(detection, "_MOST_ROWS", 99)
    with pytest.raises(ResourceError, match="more records than integer sums"):
        fitted(shoppers(100))


def test_a_model_of_another_schema_is_refused(model, tmp_path):
    other = SCHEMA.model_copy(
        update={"columns": (Column(name="age", kind="numeric", bounds=(0, 99), unit=1), *SCHEMA.columns[1:])}
    )
    assert model.fitted_.belongs()
    assert not FittedDetection(other, model.fitted_.model).belongs()


def test_anomalies_among_the_fitted_rows_hardly_move_the_quantiles():
    clean, odd = shoppers(3000), shoppers(60, 5).assign(amount=90_000.0)
    first, second = fitted(clean), fitted(pd.concat([clean, odd], ignore_index=True))
    for one_model, other in ((first, second),):
        a, b = (m.fitted_.model.standard for m in (one_model, other))
        assert np.abs(a.center - b.center).max() < 30
        assert b.spread == pytest.approx(a.spread, rel=0.15)
    assert second.predict(odd).mean() > 0.9


def test_the_recipe_drafts_what_the_plan_says():
    recipe, budget = DetectionRecipe(SCHEMA), Budget(1.0, 1e-6)
    plan = plan_of(recipe.draft(budget), budget, SCHEMA.hash, "source")
    assert [phase.name for phase in plan.phases] == [detection.QUANTILES, detection.MOMENTS]
