"""Rows as dictionaries, or in columns already, -> Arrow tables of the one schema, which is enforced here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from layerhouse.warehouse.storage.schema import COMMIT_COLUMNS, TABLES, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

Rows = Sequence[Mapping[str, Any]] | Mapping[str, list[Any]]


def arrow_table(table: str, rows: Rows | pa.Table, commit_id: str, made_at: datetime) -> pa.Table:
    """Build a table with its explicit schema, commit columns filled in, from rows, lists by column or an Arrow table.

    A missing key or column is null. Raises ValueError for a writer's fault: a key that is no column, a null in a required
    column, a value that the column's type cannot hold exactly.
    """
    import pyarrow as pa

    schema = arrow_schema(table)
    if isinstance(rows, pa.Table):
        named, count = set(rows.column_names), rows.num_rows
    elif isinstance(rows, Mapping):
        named, count = set(rows), len(next(iter(rows.values()), ()))
    else:
        named, count = set().union(*rows), len(rows)
    unknown = named - set(schema.names)
    if unknown:
        raise ValueError(f"table {table} has no column {min(unknown)!r}")
    columns = []
    for column in TABLES[table].columns:
        field = schema.field(column.name)
        if column in COMMIT_COLUMNS:
            array = pa.repeat(pa.scalar(commit_id if column.name == "commit_id" else made_at, field.type), count)
        elif column.name not in named:
            array = pa.nulls(count, field.type)
        elif isinstance(rows, pa.Table):
            array = rows.column(column.name).cast(field.type)
        else:
            values = rows[column.name] if isinstance(rows, Mapping) else _values(rows, column.name)
            array = _array(values, field.type)
        if column.required and array.null_count:
            raise ValueError(f"table {table}: column {column.name!r} is required, and a row has none")
        columns.append(array)
    return pa.Table.from_arrays(columns, schema=schema)


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    try:
        return [*map(itemgetter(name), rows)]
    except KeyError:
        return [row.get(name) for row in rows]


def _array(values: list[Any], arrow_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_integer(arrow_type) and any(issubclass(kind, float) for kind in {*map(type, values)}):
        raise ValueError("a float in a column of integers, which would lose its fraction")
    if pa.types.is_map(arrow_type):
        different = {id(value): value for value in values if value is not None}  # rows may share one
        pairs = {key: list(value.items()) for key, value in different.items()}
        values = [pairs.get(id(value)) for value in values]
    try:
        return pa.array(values, arrow_type)
    except UnicodeEncodeError:
        return pa.array([_clean(value) for value in values], arrow_type)


def _clean(value: Any) -> Any:
    """Text that is no Unicode (half a surrogate pair in a JSON string) with the odd part as a visible escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_clean(item) for item in value)
    return value
