import json

from privae.data.column import Column
from privae.data.schema import Schema
from privae.evaluate.export import sdmetrics_metadata


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
    found = sdmetrics_metadata(schema)
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
