"""Every table and column of a warehouse, and the Arrow schema that they make. No other module states them."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING

from layerhouse.warehouse.storage.checkpoint_tables import CHECKPOINTS, LAYERS, TENSORS, UNITS
from layerhouse.warehouse.storage.columns import COMMIT_COLUMNS, NOTES, TAGS, Column, Table
from layerhouse.warehouse.storage.descent_tables import BASE_CHOICES, DESCENTS
from layerhouse.warehouse.storage.match_tables import LAYER_MATCHES, TENSOR_MATCHES, UNIT_MATCHES
from layerhouse.warehouse.storage.result_tables import LINKS, REMOVALS, RESULTS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "COMMIT_COLUMNS",
    "LAYERS",
    "MEASURE_COLUMNS",
    "RESULTS",
    "TABLES",
    "Column",
    "Table",
    "arrow_schema",
    "schema_digest",
]

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        CHECKPOINTS,
        TENSORS,
        LAYERS,
        UNITS,
        LAYER_MATCHES,
        UNIT_MATCHES,
        TENSOR_MATCHES,
        DESCENTS,
        BASE_CHOICES,
        RESULTS,
        LINKS,
        REMOVALS,
    )
}


def _arrow_type(sql_type: str) -> pa.DataType:
    import pyarrow as pa

    return {
        "VARCHAR": pa.string(),
        "BIGINT": pa.int64(),
        "INTEGER": pa.int32(),
        "SMALLINT": pa.int16(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
        "VARCHAR[]": pa.list_(pa.string()),
        "BIGINT[]": pa.list_(pa.int64()),
        "INTEGER[]": pa.list_(pa.int32()),
        "DOUBLE[]": pa.list_(pa.float64()),
        "FLOAT[]": pa.list_(pa.float32()),
        "FLOAT[64]": pa.list_(pa.float32(), 64),
        TAGS: pa.map_(pa.string(), pa.string()),
        "MAP(VARCHAR, BIGINT)": pa.map_(pa.string(), pa.int64()),
        NOTES: pa.list_(pa.struct([("code", pa.string()), ("text", pa.string())])),
    }[sql_type]


MEASURE_COLUMNS = (
    "harness",
    "suite",
    "task",
    "subset",
    "metric",
    "filter",
    "unit",
    "n_shot",
    "dataset",
    "split",
    "language",
    "chat_template",
    "seq_len",
    "stride",
    "batch_size",
    "hardware",
    "sample_limit",
    "is_group",
)
"""What makes two values of one run the same measure; measure_id is the hash of those that a row has."""


@cache
def arrow_schema(table_name: str) -> pa.Schema:
    """The explicit Arrow schema with which every Parquet file of a table is written."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(column.name, _arrow_type(column.type), nullable=not column.required) for column in TABLES[table_name].columns]
    )


@cache
def schema_digest() -> str:
    """16 hex digits over every table, column and type: two versions with the same digest write the same files."""
    text = "\n".join(
        f"{table.name} {column.name} {column.type} {column.required}" for table in TABLES.values() for column in table.columns
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
