"""Rows, as dictionaries or by column, as Arrow tables with the explicit schema, which is enforced here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from layerhouse.warehouse.storage.schema import COMMIT_COLUMNS, TABLES, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

FLOAT_AMONG_INTEGERS = "a float in a column of integers, which would lose its fraction"

Rows = Sequence[Mapping[str, Any]] | Mapping[str, list[Any]]


def rows_to_arrow(table: str, rows: Rows) -> pa.RecordBatch:
    """Rows, or lists by column, with the explicit types of the schema and without the commit columns.

    A key that a row lacks is null; a column that lists lack is left out. Raises ValueError for an error of the writer: a key
    that is no column, a float in a column of integers.
    """
    import pyarrow as pa

    form = _form_of_rows(table)
    unknown = (set(rows) if isinstance(rows, Mapping) else set().union(*rows)) - form.names
    if unknown:
        raise ValueError(f"table {table} has no column {min(unknown)!r}")
    if isinstance(rows, Mapping):
        fields = [field for name, field in form.fields.items() if name in rows]
        return pa.RecordBatch.from_arrays([_array(rows[field.name], field.type) for field in fields], schema=pa.schema(fields))
    kinds = set(chain.from_iterable(map(type, row.values()) for row in rows))
    if _holds_float(kinds) and any(isinstance(row.get(name), float) for row in rows for name in form.integers):
        raise ValueError(FLOAT_AMONG_INTEGERS)
    try:
        structs = pa.array(rows, form.struct)
    except UnicodeEncodeError:
        structs = pa.array([_clean(row) for row in rows], form.struct)
    return pa.RecordBatch.from_struct_array(structs)


def arrow_table(table: str, rows: Rows | pa.Table, commit_id: str, made_at: datetime) -> pa.Table:
    """Build a table with its explicit schema, commit columns filled in, from rows, lists by column or an Arrow table.

    A missing key or column is null. Raises ValueError for an error of the writer: a key that is no column, a null in a required
    column, a value that the column's type cannot hold exactly.
    """
    import pyarrow as pa

    data = rows if isinstance(rows, pa.Table) else rows_to_arrow(table, rows)
    schema = arrow_schema(table)
    unknown = set(data.column_names) - set(schema.names)
    if unknown:
        raise ValueError(f"table {table} has no column {min(unknown)!r}")
    columns = []
    for column in TABLES[table].columns:
        field = schema.field(column.name)
        if column in COMMIT_COLUMNS:
            array = pa.repeat(pa.scalar(commit_id if column.name == "commit_id" else made_at, field.type), data.num_rows)
        elif column.name in data.column_names:
            array = data.column(column.name)
            if array.type != field.type:  # pyarrow.compute, which casts, is not imported for nothing
                array = array.cast(field.type)
        else:
            array = pa.nulls(data.num_rows, field.type)
        if column.required and array.null_count:
            raise ValueError(f"table {table}: column {column.name!r} is required, and a row has none")
        columns.append(array)
    return pa.Table.from_arrays(columns, schema=schema)


@dataclass(frozen=True)
class _RowForm:
    """A table's columns: all names, the fields without those of the commit, the type of a row, and the columns of integers."""

    names: frozenset[str]
    fields: dict[str, pa.Field]
    struct: pa.StructType
    integers: tuple[str, ...]


@cache
def _form_of_rows(table: str) -> _RowForm:
    import pyarrow as pa

    schema = arrow_schema(table)
    commit_columns = {column.name for column in COMMIT_COLUMNS}
    fields = {field.name: field for field in schema if field.name not in commit_columns}
    integers = tuple(name for name, field in fields.items() if pa.types.is_integer(field.type))
    return _RowForm(frozenset(schema.names), fields, pa.struct([*fields.values()]), integers)


def _array(values: list[Any], arrow_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_integer(arrow_type) and _holds_float({*map(type, values)}):
        raise ValueError(FLOAT_AMONG_INTEGERS)
    try:
        return pa.array(values, arrow_type)
    except UnicodeEncodeError:
        return pa.array([_clean(value) for value in values], arrow_type)


def _holds_float(kinds: set[type]) -> bool:
    """Whether a float is among values of these types. Arrow would cut off its fraction in a column of integers."""
    return any(issubclass(kind, float) for kind in kinds)


def _clean(value: Any) -> Any:
    """Text without lone surrogates, which JSON strings may contain and UTF-8 cannot; each becomes a visible escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_clean(item) for item in value)
    return value
