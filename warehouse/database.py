"""An in-memory DuckDB session over the files of a warehouse: no database file, no lock, nothing to keep in step."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from layerhouse.warehouse.errors import UsageError, WarehouseError
from layerhouse.warehouse.kept import are_kept, is_large, kept_files, read_kept, write_kept
from layerhouse.warehouse.schema import TABLES, Table
from layerhouse.warehouse.sql_text import quote_literal, sql_files
from layerhouse.warehouse.store import Snapshot, list_commits, open_store


def connect(
    root: Path, *, as_of: datetime | None = None, computes_all: bool = False
) -> tuple[duckdb.DuckDBPyConnection, Snapshot]:
    """Open a warehouse for reading.

    The views are made over files without rows and see the committed ones afterwards: file lists are session variables, so
    making the views reads no data. `as_of` hides every row that was committed later. Answers that were kept (kept.py) are
    taken from there unless `computes_all`. Raises WarehouseError.
    """
    snapshot = list_commits(open_store(root))
    connection = duckdb.connect(config={"temp_directory": tempfile.gettempdir()})
    empty_files = snapshot.empty_files()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        for name in TABLES:
            connection.execute(f"SET VARIABLE {name}_files = ?", [[empty_files[name]]])
        for statement in view_statements(snapshot):
            connection.execute(statement)
        for name in TABLES:
            connection.execute(f"SET VARIABLE {name}_files = ?", [snapshot.files(name)])
        if as_of is not None:
            connection.execute("SET VARIABLE as_of = CAST(? AS TIMESTAMPTZ)", [as_of.isoformat()])
        elif not computes_all and are_kept(files := answer_files(snapshot)):
            read_kept(connection, files)
    except duckdb.Error as error:
        raise WarehouseError(f"{root}: {str(error).splitlines()[0]}") from None
    return connection, snapshot


def keep_answers(root: Path) -> None:
    """Write down the answers that a large warehouse is asked for most (kept.py), where they are not there yet.

    Whoever commits results, links or other names calls it; without it every session computes them. Raises WarehouseError.
    """
    if not are_kept(answer_files(list_commits(open_store(root)))):
        connection, snapshot = connect(root)
        with connection:
            connection.execute("SET memory_limit = '512MB'")
            write_kept(connection, answer_files(snapshot))


def answer_files(snapshot: Snapshot) -> dict[str, Path]:
    """Where each kept answer of this state is, or would be; none in a warehouse that is not large."""
    return kept_files(snapshot, "\n".join(view_statements(snapshot))) if is_large(snapshot) else {}


def init_script(root: Path, *, as_of: datetime | None = None) -> str:
    """SQL text after which any DuckDB session sees what `connect` shows."""
    snapshot = list_commits(open_store(root))
    snapshot.empty_files()
    lines = [f"-- layerhouse warehouse {' '.join(str(snapshot.root).split())}", "SET TimeZone = 'UTC';"]
    for name in TABLES:
        paths = ",\n    ".join(quote_literal(path) for path in snapshot.files(name))
        lines.append(f"SET VARIABLE {name}_files = [\n    {paths}\n];")
    if as_of is not None:
        lines.append(f"SET VARIABLE as_of = CAST({quote_literal(as_of.isoformat())} AS TIMESTAMPTZ);")
    lines.extend(view_statements(snapshot))
    return "\n".join(lines) + "\n"


def export_database(root: Path, target: Path, *, as_of: datetime | None = None) -> None:
    """Write a self-contained DuckDB database: the tables' rows and the views over them. Refuses an existing file."""
    if target.exists():
        raise UsageError(f"{target}: exists already; name a new file or remove it first")
    connection, _ = connect(root, as_of=as_of)
    temporary = target.with_name(f".{target.name}.tmp")
    with connection:
        try:
            temporary.unlink(missing_ok=True)
            connection.execute(f"ATTACH {quote_literal(str(temporary))} AS exported")
            for name in TABLES:
                connection.execute(f"CREATE TABLE exported.{name} AS SELECT * FROM {name}")
            connection.execute("DETACH exported")
        except (duckdb.Error, OSError) as error:
            raise UsageError(f"{target}: cannot be written: {str(error).splitlines()[0]}") from None
    with duckdb.connect(temporary) as exported:
        for statements in sql_files("warehouse.views").values():
            exported.execute(statements)
    temporary.replace(target)


def view_statements(snapshot: Snapshot) -> Iterator[str]:
    """The statements that make every view, in order: stored tables first, then the view files in name order."""
    for table in TABLES.values():
        yield _table_view(table, snapshot.absent_columns(table.name))
    yield from sql_files("warehouse.views").values()


def parse_as_of(text: str) -> datetime:
    """A time such as `2026-01-31` (its end, UTC) or `2026-01-31T12:00` (UTC unless it names a zone). Raises UsageError."""
    try:
        moment = datetime.fromisoformat(text)
        if len(text) <= 10:
            moment = moment.replace(hour=23, minute=59, second=59, microsecond=999999)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"--as-of {text!r}: not a time; write 2026-01-31 or 2026-01-31T12:00:00") from None


def _table_view(table: Table, absent_columns: frozenset[str]) -> str:
    """A stored table as a view: what was committed by `as_of`; of a fact that several commits hold, the rows of the
    first, or of the newest where the table says so.

    A column that no file has yet is null.
    """
    scan = f"read_parquet(getvariable('{table.name}_files'), union_by_name = true, hive_partitioning = false)"
    until = "ingested_at <= coalesce(getvariable('as_of'), CAST('infinity' AS TIMESTAMPTZ))"
    columns = ",\n".join(
        f"    CAST(NULL AS {column.type}) AS {column.name}" if column.name in absent_columns else f"    rows.{column.name}"
        for column in table.columns
    )
    statement = f"CREATE OR REPLACE VIEW {table.name} AS\nSELECT\n{columns}\nFROM {scan} AS rows\n"
    if table.fact_key:
        keys, chosen = ", ".join(table.fact_key), "max" if table.is_newest_shown else "min"
        join = " AND ".join(f"chosen.{column} = rows.{column}" for column in (*table.fact_key, "commit_id"))
        statement += (
            f"SEMI JOIN (\n    SELECT {keys}, {chosen}(commit_id) AS commit_id\n    FROM {scan}\n    WHERE {until}\n"
            f"    GROUP BY {keys}\n) AS chosen ON {join}\n"
        )
    return f"{statement}WHERE {until.replace('ingested_at', 'rows.ingested_at')};"
