"""The rows of many files of a table as one sorted file: DuckDB sorts within a limit of memory, Arrow writes row groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from layerhouse.errors import WarehouseError
from layerhouse.warehouse.answers.sql_text import quote_identifier
from layerhouse.warehouse.storage.commit_file import Commit, DataFile, data_path
from layerhouse.warehouse.storage.data_files import describe_file
from layerhouse.warehouse.storage.own_files import durable_file
from layerhouse.warehouse.storage.schema import TABLES, arrow_schema, schema_digest

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 32_768
"""Rows of a row group. Its statistics tell which groups a question needs, as rows are sorted."""
SORTED_ROWS, SORTED_BYTES = 1 << 19, 128 << 20
"""Rows, and bytes of the files that hold them, that are sorted at a time: DuckDB fails where it has to sort far more than fits
into its memory."""
LEADING = {
    "checkpoints": ("model_id", "commit_id"),
    "results": ("result_id", "commit_id"),
    "links": ("model_id", "commit_id"),
    "removals": ("commit_id",),
}
"""The order of tables that are not asked by checkpoint."""
BY_CHECKPOINT = (
    *("checkpoint_id", "base_checkpoint_id", "commit_id", "stack", "layer_index", "base_layer_index", "name", "base_name"),
    *("kind", "unit_index", "base_unit_index"),
)
"""The order of all other tables, by those of the columns that a table has."""


def row_order(table: str) -> tuple[str, ...]:
    """The columns by which the rows of a table are sorted. Rows that are equal in all of them stay as their commit has them."""
    return LEADING.get(table) or tuple(column for column in BY_CHECKPOINT if column in TABLES[table].column_names)


def write_sorted(
    connection: duckdb.DuckDBPyConnection,
    root: Path,
    table: str,
    commits: Sequence[Commit],
    commit_id: str,
    on_rows: Callable[[int], None],
) -> tuple[DataFile, set[str]]:
    """Write all rows that commits have of a table as the file of another commit; returns it, and the commits of its rows.

    Every row stays as it is; a column that a commit of an earlier version lacks is null. `on_rows` is called with the number of
    rows of each row group. Raises WarehouseError for columns of a later version, which would be lost.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema, target, num_rows, row_commits = arrow_schema(table), data_path(table, commit_id), 0, set[str]()
    files = {str(root / file.path): file for commit in commits for file in commit.files if file.table == table}
    earlier = [
        str(root / file.path)
        for commit in commits
        for file in commit.files
        if file.table == table and commit.schema != schema_digest()
    ]
    columns = _present_columns(root, table, earlier)
    if len(earlier) < len(files):
        columns = {*schema.names}
    connection.execute("SET VARIABLE files = ?", [[*files]])
    batches = _sorted_batches(connection, table, columns, sum(file.size for file in files.values()), is_by_name=bool(earlier))
    (root / table).mkdir(exist_ok=True)
    with durable_file(root / target) as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for group in _groups(batches, schema):
                row_commits |= {*pc.unique(group.column("commit_id")).to_pylist()}
                writer.write_table(group, row_group_size=GROUP_ROWS)
                num_rows += len(group)
                on_rows(len(group))
        file.flush()
        expected = sum(file.rows for file in files.values())
        if num_rows != expected:
            raise WarehouseError(f"{root}: {num_rows} rows of {table} were read, and there are {expected}; nothing was changed")
        written = describe_file(file.fileno(), table, target, num_rows)
    return written, row_commits


def _present_columns(root: Path, table: str, paths: Iterable[str]) -> set[str]:
    """The columns that files of other versions have. Raises WarehouseError where this version does not know one."""
    import pyarrow.parquet as pq

    schema, present = arrow_schema(table), set[str]()
    for path in paths:
        for field in pq.read_schema(path):
            if field.name not in schema.names or field.type != schema.field(field.name).type:
                where = f"{table}/{Path(path).name}"
                raise later_version(root, f"the column {field.name} of {where} is not known to this one")
            present.add(field.name)
    return present


def later_version(root: Path, what: str) -> WarehouseError:
    """The error that a pack would lose what a later version has written."""
    return WarehouseError(f"{root}: written by a later version of layerhouse, which has to pack it: {what}")


def _sorted_batches(
    connection: duckdb.DuckDBPyConnection, table: str, columns: set[str], size: int, *, is_by_name: bool
) -> Iterator[pa.RecordBatch]:
    """All rows in order, sorted a range of the first column at a time. `size` is that of the files, in bytes.

    The number of a row in its file comes last: all rows of a commit are in one file.
    """
    names = ",\n".join(
        f"    {quote_identifier(column.name)}"
        if column.name in columns
        else f"    CAST(NULL AS {column.type}) AS {quote_identifier(column.name)}"
        for column in TABLES[table].columns
    )
    by_name = "union_by_name = true, " if is_by_name else ""
    rows = f"read_parquet(getvariable('files'), {by_name}file_row_number = true, hive_partitioning = false)"
    order = ", ".join(f"{column} ASC NULLS LAST" for column in (*row_order(table), "file_row_number"))
    key = row_order(table)[0]
    counts = connection.sql(f"SELECT {key}, count(*) FROM {rows} GROUP BY {key} ORDER BY {key} ASC NULLS LAST").fetchall()
    for first, last in _ranges(counts, size):
        condition = f"{key} BETWEEN getvariable('first') AND getvariable('last')" if last is not None else f"{key} IS NULL"
        connection.execute("SET VARIABLE first = ?", [first])
        connection.execute("SET VARIABLE last = ?", [last])
        yield from connection.sql(f"SELECT\n{names}\nFROM {rows}\nWHERE {condition}\nORDER BY {order}").to_arrow_reader(
            GROUP_ROWS
        )


def _ranges(counts: Sequence[tuple[str | None, int]], size: int) -> Iterator[tuple[str | None, str | None]]:
    """The first and the last value of each range, which has about SORTED_ROWS rows or SORTED_BYTES at most.

    `counts` are the values with their numbers of rows; null, which comes last, is a range of its own.
    """
    most = min(SORTED_ROWS, SORTED_BYTES * sum(count for _, count in counts) // max(size, 1))
    first, last, num_rows = None, None, 0
    for value, count in counts:
        if first is not None and (value is None or num_rows + count > most):
            yield first, last
            first, num_rows = None, 0
        first, last, num_rows = (value if first is None else first), value, num_rows + count
    if counts:
        yield first, last


def _groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Row groups of one size, but for the last. Each is one chunk a column, so that equal rows are equal bytes."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(map(len, waiting)) >= GROUP_ROWS:
            rows = pa.Table.from_batches(waiting)
            yield rows.slice(0, GROUP_ROWS).combine_chunks().cast(schema)
            waiting = rows.slice(GROUP_ROWS).to_batches()
    if any(map(len, waiting)):
        yield pa.Table.from_batches(waiting).combine_chunks().cast(schema)
