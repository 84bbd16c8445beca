"""For users of SDMetrics: the metadata that its reports read, from the schema alone."""

from typing import Any

from privae.data.schema import Schema

_TYPES = {"numeric": "numerical", "category": "categorical", "ordinal": "categorical", "boolean": "boolean"}


def sdmetrics_metadata(schema: Schema) -> dict[str, Any]:
    """Metadata of one table, as SDMetrics reads it: {"columns": {name: {"sdtype": ...}}}.

    Only the columns of the synthetic table; a person's column is not one of them. Bounds and categories are left
    out, although SDMetrics would read them (`range_min`, `range_max`, `range_values`): they tell exact ranges.
    Reports over several tables, and those of SDMetrics 0.32 on, want {"tables": {"table": ...}} around it.
    Source: docs.sdv.dev/sdmetrics, "Single Table Metadata"; tried with SDMetrics 0.32.0.
    """
    return {"columns": {column.name: {"sdtype": _TYPES[column.kind]} for column in schema.kept}}
