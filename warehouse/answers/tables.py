"""What a warehouse contains: its tables and views with their sizes, and the columns of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import NotFoundError
from layerhouse.warehouse.answers.query import own_sql
from layerhouse.warehouse.answers.session import connect
from layerhouse.warehouse.answers.sql_text import quote_identifier, sql_files
from layerhouse.warehouse.answers.view_columns import VIEW_COLUMNS
from layerhouse.warehouse.storage.schema import TABLES, Column

if TYPE_CHECKING:
    import pyarrow as pa


def list_tables(root: Path) -> pa.Table:
    """Every stored table and view: kind, number of rows in SQL, files, bytes on disk, and description."""
    import pyarrow as pa

    connection, snapshot = connect(root, asked=" ".join(_descriptions()))
    rows: list[dict[str, Any]] = []
    with connection, own_sql(connection):
        for name, text in _descriptions().items():
            count = connection.execute(f"SELECT count(*) FROM {quote_identifier(name)}").fetchall()[0][0]
            files = [file for commit in snapshot.commits for file in commit.files if file.table == name]
            is_stored = name in TABLES
            rows.append(
                {
                    "name": name,
                    "kind": "table" if is_stored else "view",
                    "num_rows": count,
                    "num_files": len(files) if is_stored else None,
                    "size_bytes": sum(file.size for file in files) if is_stored else None,
                    "description": text,
                }
            )
    types = [("name", pa.string()), ("kind", pa.string()), ("num_rows", pa.int64()), ("num_files", pa.int64())]
    return pa.Table.from_pylist(rows, pa.schema([*types, ("size_bytes", pa.int64()), ("description", pa.string())]))


def list_columns(root: Path, name: str) -> pa.Table:
    """The columns of a table or view: type, unit and description. Raises NotFoundError."""
    import pyarrow as pa

    if name not in _descriptions():
        raise NotFoundError("table or view", name, tuple(_descriptions()))
    documented = documented_columns(name)
    connection, _ = connect(root, asked=name)
    with connection:
        columns = connection.execute(f"DESCRIBE {quote_identifier(name)}").fetchall()
    rows = []
    for column_name, column_type, *_ in columns:
        column = documented.get(column_name)
        rows.append(
            {
                "column": column_name,
                "type": column_type,
                "unit": column.unit if column else None,
                "description": column.text if column else None,
            }
        )
    fields = [(field, pa.string()) for field in ("column", "type", "unit", "description")]
    return pa.Table.from_pylist(rows, pa.schema(fields))


def documented_columns(name: str) -> dict[str, Column]:
    """Descriptions of columns by name for a table, a view or a query; there may be more than it has columns.

    A view's column that has no description of its own has that of the stored column of its name, preferably one never null.
    """
    if name in TABLES:
        return {column.name: column for column in TABLES[name].columns}
    stored = [column for table in reversed(TABLES.values()) for column in table.columns]
    documented = {column.name: column for column in sorted(stored, key=lambda column: column.required)}
    own = {key: column for key, column in VIEW_COLUMNS.items() if key.startswith(f"{name}.")}
    return documented | VIEW_COLUMNS | {column.name: column for column in own.values()}


def _descriptions() -> dict[str, str]:
    """The description of every table and view; that of a view is the comment at the head of its file."""
    described = {name: table.text for name, table in TABLES.items()}
    for stem, sql in sql_files("warehouse.views").items():
        number, _, name = stem.partition("_")
        if number != "00":
            lines = [line.removeprefix("--").strip() for line in sql.split("CREATE", 1)[0].splitlines()]
            described[name] = " ".join(lines)
    return described
