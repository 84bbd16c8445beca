import json

import numpy as np

from privae.data.codec import Codec
from privae.data.column import Column
from privae.data.schema import Schema
from privae.evaluate import columns


def shown(schema, real, synthetic):
    real, synthetic = (
        np.asarray(one, dtype=np.int32).reshape(-1, len(schema.kept)) for one in (real, synthetic)
    )
    return columns.beside(real, synthetic, np.full(len(schema.kept), 0.01), Codec(schema))


def test_every_column_has_shares_with_names_for_a_reader(facts) -> None:
    found = shown(facts, [[0, 0, 0, 0], [4, 2, 2, 1]], [[0, 0, 0, 0]] * 2)
    age, job, height, ill = found
    assert age["labels"] == ["0 to 24", "25 to 49", "50 to 74", "75 to 100", "(missing)"]
    assert age["real"] == [0.5, 0, 0, 0, 0.5]
    assert age["synthetic"] == [1, 0, 0, 0, 0]
    assert (age["name"], age["kind"], age["tv"], age["baseline"]) == ("age", "numeric", 0.5, 0.01)
    assert job["labels"] == ["nurse", "cook", "else"]
    assert height["labels"] == ["1 to 1.4", "1.41 to 1.8", "1.81 to 2.2"]
    assert ill["labels"] == ["False", "True"]


def test_what_the_schema_has_no_cell_for_is_shown_where_it_occurs() -> None:
    schema = Schema(columns=(Column(name="a", kind="category", categories=("x", "y")),))
    (found,) = shown(schema, [0, 1, -1, -1], [0, 0, 0, 1])
    assert found["labels"] == ["x", "y", "(outside the schema)"]
    assert found["real"] == [0.25, 0.25, 0.5]
    assert found["synthetic"] == [0.75, 0.25, 0]


def test_of_many_categories_the_commonest_are_shown_and_the_rest_together() -> None:
    schema = Schema(
        columns=(Column(name="a", kind="category", categories=tuple(f"c{i}" for i in range(30))),)
    )
    (found,) = shown(schema, [29] * 10 + [5] * 5 + list(range(30)), [7] * 20)
    assert len(found["labels"]) == columns.MOST_TEXTS
    assert found["labels"][-1] == "(all other)"
    assert {"c5", "c7", "c29"} < set(found["labels"])
    assert found["labels"][:-1] == sorted(found["labels"][:-1], key=lambda name: int(name[1:]))
    assert abs(sum(found["real"]) - 1) < 1e-5
    assert sum(found["synthetic"]) == 1


def test_of_many_bins_ranges_are_shown() -> None:
    schema = Schema(
        columns=(Column(name="a", kind="numeric", bounds=(0, 100), bins=100, integer=True, missing=True),)
    )
    (found,) = shown(schema, np.arange(101), np.zeros(4))
    assert found["labels"][:2] == ["0 to 4", "5 to 9"]
    assert len(found["labels"]) == 21
    assert found["synthetic"][0] == 1


def test_one_value_a_bin_and_bins_without_a_unit_are_named() -> None:
    one = Column(name="a", kind="numeric", bounds=(0, 2), integer=True)
    free = Column(name="b", kind="numeric", edges=(0.0, 1234.5678, 1e6))
    found = shown(Schema(columns=(one, free)), [[0, 0]], [[1, 1]])
    assert found[0]["labels"] == ["0", "1", "2"]
    assert found[1]["labels"] == ["0 to 1235", "1235 to 1000000"]


def test_labels_of_images_are_a_column() -> None:
    found = columns.label_beside(
        ("cat", "dog"), np.array([0, 0, 1, 1]), np.array([0, 0, 0, -1]), np.array([0, 1])
    )
    assert found["labels"] == ["cat", "dog", "(outside the schema)"]
    assert found["real"] == [0.5, 0.5, 0]
    assert (found["tv"], found["baseline"]) == (0.5, 0)


def test_metadata_for_sdmetrics_names_the_types_of_the_kept_columns() -> None:
    schema = Schema(
        columns=(
            Column(name="pid", kind="numeric", bounds=(0, 9), bins=1, action="drop"),
            Column(name="age", kind="numeric", bounds=(3.25, 77.5)),
            Column(name="stage", kind="ordinal", categories=("low", "high")),
            Column(name="ward", kind="category", categories=("cardiology",), other="other"),
            Column(name="smoker", kind="boolean"),
        ),
        person="pid",
        max_rows=2,
    )
    found = columns.sdmetrics_metadata(schema)
    assert found == {
        "columns": {
            "age": {"sdtype": "numerical"},
            "stage": {"sdtype": "categorical"},
            "ward": {"sdtype": "categorical"},
            "smoker": {"sdtype": "boolean"},
        }
    }
    assert "77" not in json.dumps(found)
    assert "cardiology" not in json.dumps(found)
