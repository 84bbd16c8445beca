import json

import numpy as np
import pandas as pd
import pytest

from privae.data.codec import Codec
from privae.data.column import Column
from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.errors import DataError, UsageError
from privae.evaluate import learners, utility

SECTIONS = ["marginals", "pairs", "correlation", "train_on_synthetic", "frechet", "detection", "columns"]
IMAGES = ImageSchema.with_class_count(4, 4, 2)


def strict(found):
    """As a strict JSON reader reads it: no NaN, no numpy."""
    return json.loads(json.dumps(found, allow_nan=False))


@pytest.fixture(autouse=True, scope="module")
def _few_rounds():
    """A tenth of the boosting, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learners, "_ROUNDS", 10)
        yield


@pytest.fixture(scope="module")
def good(people, facts):
    return strict(utility.measured(people(600, 1), people(300, 2), people(500, 3), facts))


def test_all_sections_are_there_and_are_json(good) -> None:
    assert list(good) == ["kind", "note", "rows", *SECTIONS]
    assert good["kind"] == "table"
    assert good["note"] == "computed on real data: for the data holder only"
    assert good["rows"] == {"real": 600, "synthetic": 500, "test": 300, "compared": 300}
    assert not [name for name in SECTIONS[:-1] if "reason" in good[name]]


def test_a_perfect_synthesizer_reaches_the_baseline(good) -> None:
    """300 rows of one population against 300 others, twice: the same figures but for chance; seeds are fixed."""
    assert good["marginals"]["mean"] == pytest.approx(good["marginals"]["baseline"]["mean"], abs=0.05)
    assert good["pairs"]["mean"] == pytest.approx(good["pairs"]["baseline"]["mean"], abs=0.06)
    assert good["correlation"]["mean_difference"] < 0.1
    assert good["frechet"]["value"] < 0.02
    assert abs(good["detection"]["boosting"] - 0.5) < 0.12
    for model in good["train_on_synthetic"]["models"].values():
        assert model["synthetic"] == pytest.approx(model["real"], abs=0.05)
        assert model["synthetic"] > 0.75


def test_the_matrix_of_pairs_has_a_name_a_row(good) -> None:
    names, matrix = good["pairs"]["names"], np.array(good["pairs"]["tv"])
    assert names == ["age", "job", "height", "ill"]
    assert matrix.shape == (4, 4)
    first, second = (names.index(name) for name in good["pairs"]["worst_names"])
    assert matrix[first, second] == good["pairs"]["worst"] == np.tril(matrix, -1).max()
    tv = [column["tv"] for column in good["columns"]]
    assert np.diag(matrix).tolist() == tv
    assert good["marginals"]["worst"] == max(tv)


def test_shuffled_columns_keep_marginals_and_lose_the_rest(people, facts, good) -> None:
    rng = np.random.default_rng(0)
    synthetic = people(500, 3).apply(lambda column: rng.permutation(column.to_numpy()))
    found = utility.measured(people(600, 1), people(300, 2), synthetic, facts)
    assert found["marginals"]["mean"] < 0.1
    assert found["pairs"]["worst"] > good["pairs"]["worst"] + 0.1
    assert found["correlation"]["mean_difference"] > good["correlation"]["mean_difference"] + 0.1
    assert found["detection"]["boosting"] > 0.7


def test_what_synthetic_rows_teach_is_tested_on_real_ones(people, facts) -> None:
    synthetic = people(300, 3)
    synthetic["ill"] = ~synthetic["ill"]
    models = utility.measured(people(300, 1), people(300, 2), synthetic, facts)["train_on_synthetic"][
        "models"
    ]
    assert all(scores["synthetic"] < 0.2 < 0.8 < scores["real"] for scores in models.values())


def test_the_same_seed_gives_the_same_figures(people, facts) -> None:
    sets = people(80, 1), None, people(80, 2)
    assert utility.measured(*sets, facts, seed=3) == utility.measured(*sets, facts, seed=3)


def test_without_a_holdout_half_of_the_real_rows_tests(people, facts) -> None:
    found = utility.measured(people(200, 1), None, people(200, 2), facts)
    assert found["train_on_synthetic"]["tested_on"] == "half of the real rows"
    assert found["rows"]["test"] is None
    empty = utility.measured(people(200, 1), people(0), people(200, 2), facts)
    assert empty["train_on_synthetic"] == found["train_on_synthetic"]


def test_more_rows_than_the_cap_are_drawn_by_lot(people, facts, monkeypatch) -> None:
    monkeypatch.setattr(utility, "ROWS", 50)
    found = utility.measured(people(300, 1), None, people(300, 2), facts)
    assert found["rows"] == {"real": 300, "synthetic": 300, "test": None, "compared": 50}


def test_without_a_label_nothing_is_predicted(people, facts) -> None:
    schema = facts.model_copy(update={"label": None})
    found = utility.measured(people(60, 1), None, people(60, 2), schema)["train_on_synthetic"]
    assert found["value"] is None
    assert found["reason"] == "no column is the label, so there is nothing to predict"
    assert found["reason_zh"]
    with pytest.raises(UsageError, match="names no label"):
        utility.table_scores(*[Codec(schema).encode(people(9))] * 2, Codec(schema))


def test_synthetic_rows_of_one_label_are_said_to_be(people, facts) -> None:
    synthetic = people(60, 2).assign(ill=True)
    found = utility.measured(people(60, 1), None, synthetic, facts)
    assert found["train_on_synthetic"]["value"] is None
    assert "synthetic rows do not hold two labels" in found["train_on_synthetic"]["reason"]
    assert found["marginals"]["worst_name"] == "ill"
    codes = Codec(facts).encode(synthetic)
    with pytest.raises(UsageError, match="two labels"):
        utility.table_scores(codes, codes, Codec(facts))


@pytest.mark.parametrize("which", [0, 1])
def test_real_rows_of_one_label_are_said_to_be(people, facts, which) -> None:
    sets = [people(60, 1), people(60, 2)]
    sets[which] = sets[which].assign(ill=True)
    found = utility.measured(sets[0], sets[1], people(60, 3), facts)["train_on_synthetic"]
    assert found["reason"].startswith("the real rows to")


@pytest.mark.parametrize(("real", "synthetic"), [(100, 0), (100, 9), (19, 100), (0, 0)])
def test_too_few_rows_are_said_to_be(people, facts, real, synthetic) -> None:
    found = strict(utility.measured(people(real), None, people(synthetic), facts))
    assert found["columns"] == []
    assert all(found[name]["value"] is None and found[name]["reason"] for name in SECTIONS[:-1])


def test_the_fewest_rows_are_enough(people, facts) -> None:
    found = strict(utility.measured(people(20, 1), None, people(10, 2), facts))
    assert found["detection"]["boosting"] is not None


def test_values_outside_the_schema_gaps_and_constant_columns_are_measured(people, facts) -> None:
    real = people(80, 1).assign(height=1.5)
    synthetic = people(80, 2).assign(age=np.nan, job=None, height=1.5)
    strange = people(80, 3).assign(ill="maybe", height="tall", age=np.inf)
    for made in (synthetic, strange):
        found = strict(utility.measured(real, None, made, facts))
        assert 0 < found["marginals"]["mean"] <= 1
    assert found["columns"][3]["labels"][-1] == "(outside the schema)"
    assert "synthetic rows" in found["train_on_synthetic"]["reason"]


def test_a_label_of_many_values_is_measured_by_accuracy(people, facts) -> None:
    schema = facts.model_copy(update={"label": "age"})
    found = utility.measured(people(200, 1), people(200, 2), people(200, 3), schema)["train_on_synthetic"]
    assert found["measure"] == "accuracy"
    assert 0.2 < found["guess"] < found["models"]["logistic"]["real"] <= 1


def test_rows_whose_label_is_missing_take_no_part(people, facts) -> None:
    ill = facts.columns[3].model_copy(update={"missing": True})
    schema = facts.model_copy(update={"columns": (*facts.columns[:3], ill)})
    codec = Codec(schema)
    assert utility.measure(codec) == "AUC"
    whole = codec.encode(people(300, 1))
    gaps = codec.encode(people(100, 2).assign(ill=None))
    assert utility.table_scores(np.concatenate([whole, gaps]), whole, codec, ("logistic",)) == pytest.approx(
        utility.table_scores(whole, whole, codec, ("logistic",))
    )


@pytest.mark.parametrize("label", [None, "a"])
def test_a_table_of_one_column_is_measured(label) -> None:
    schema = Schema(columns=(Column(name="a", kind="boolean"),), label=label)
    real, synthetic = (pd.DataFrame({"a": [True, False] * count}) for count in (20, 15))
    found = strict(utility.measured(real, None, synthetic, schema))
    assert found["pairs"]["value"] is None
    assert found["correlation"]["value"] is None
    assert found["train_on_synthetic"]["value"] is None
    assert found["marginals"]["mean"] < 0.5
    if label:
        with pytest.raises(UsageError, match="only column"):
            utility.table_scores(*[Codec(schema).encode(real)] * 2, Codec(schema))


def test_a_category_column_of_very_many_cells_is_measured() -> None:
    names = tuple(f"c{i}" for i in range(400))
    schema = Schema(
        columns=(Column(name="a", kind="category", categories=names), Column(name="b", kind="boolean")),
        label="b",
    )
    rng = np.random.default_rng(0)
    real, made = (pd.DataFrame({"a": rng.choice(names, 100), "b": rng.random(100) < 0.5}) for _ in range(2))
    found = strict(utility.measured(real, None, made, schema))
    assert len(found["columns"][0]["labels"]) == 12


def test_of_very_wide_tables_the_first_columns_are_paired(monkeypatch, people, facts) -> None:
    monkeypatch.setattr(utility.sections, "MOST_COLUMNS", 3)
    found = utility.measured(people(60, 1), None, people(60, 2), facts)
    assert found["pairs"]["names"] == ["age", "job", "height"]
    assert found["pairs"]["left_out"] == 1
    assert len(found["columns"]) == 4


def test_progress_is_told(people, facts) -> None:
    class Told:
        def __init__(self):
            self.steps = []

        def phase(self, name, total):
            self.steps.append(total)

        def advance(self, count):
            self.steps.append(count)

    told = Told()
    utility.measured(people(40, 1), None, people(40, 2), facts, watch=told)
    assert told.steps == [len(SECTIONS), *[1] * len(SECTIONS)]


def test_images_are_measured_alike(pictures) -> None:
    (x, y), new = pictures(200, 1), pictures(100, 2)
    made_x, made_y = pictures(150, 3)
    found = strict(utility.measured((x, y), new, (made_x, made_y.astype(str).astype(object)), IMAGES))
    assert list(found) == ["kind", "note", "rows", *SECTIONS]
    assert found["kind"] == "image"
    assert found["rows"]["compared"] == 100
    assert found["pairs"]["value"] is None
    assert found["train_on_synthetic"]["models"] == {"logistic": {"synthetic": 1.0, "real": 1.0}}
    assert found["frechet"]["space"].startswith("16 lowest frequencies of the 2-D DCT")
    assert found["frechet"]["value"] < 0.05
    assert found["columns"][0]["labels"] == ["0", "1"]
    assert found["marginals"]["mean"] == pytest.approx(found["marginals"]["baseline"]["mean"], abs=0.05)


def test_bad_images_measure_badly(pictures) -> None:
    x, y = pictures(200, 1)
    noise = np.random.default_rng(0).integers(0, 256, (200, 4, 4), dtype=np.uint8)
    found = utility.measured((x, y), None, (noise, y), IMAGES)
    wrong = utility.measured((x, y), None, (x, 1 - y), IMAGES)
    assert found["detection"]["boosting"] > 0.9
    assert found["frechet"]["value"] > 10 * found["frechet"]["baseline"]
    assert wrong["train_on_synthetic"]["models"]["logistic"] == {"synthetic": 0.0, "real": 1.0}


def test_images_without_labels_or_pixels_to_compare_say_so(pictures) -> None:
    x, y = pictures(60, 1)
    bare = strict(utility.measured((x, None), (x, y), (x, None), ImageSchema(height=4, width=4)))
    assert "no column is the label" in bare["train_on_synthetic"]["reason"]
    assert bare["columns"] == []
    one = strict(utility.measured((x, y), None, (x, [None] * 60), IMAGES))
    assert "synthetic rows do not hold" in one["train_on_synthetic"]["reason"]
    dot = strict(utility.measured((x[:, :1, :1], y), None, (x[:, :1, :1], y), IMAGES))
    assert dot["correlation"]["value"] is None
    none = utility.measured((x, y), None, (x[:0], y[:0]), IMAGES)
    assert none["marginals"]["value"] is None


def test_wrong_arguments_are_refused_in_one_line(people, facts, pictures) -> None:
    x, y = pictures(30)
    with pytest.raises(UsageError, match="different sizes"):
        utility.measured((x, y), None, (x[:, :2], y), IMAGES)
    with pytest.raises(UsageError, match="as a pair"):
        utility.measured(people(30), None, people(30), IMAGES)
    with pytest.raises(UsageError, match="as DataFrames"):
        utility.measured((x, y), None, (x, y), facts)
    with pytest.raises(UsageError, match="real and a synthetic"):
        utility.measured(people(30), None, None, facts)
    with pytest.raises(UsageError, match="real and synthetic images"):
        utility.measured(None, None, (x, y), IMAGES)
    with pytest.raises(DataError, match="no column 'job'"):
        utility.measured(people(30), None, people(30).drop(columns="job"), facts)
