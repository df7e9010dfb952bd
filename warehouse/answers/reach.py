"""What SQL may reach: a session that is locked to the files of one warehouse, and the test that a statement only reads.

DuckDB's own lock is not enough: it lets a session write wherever it may read, and a SELECT may contain a COPY or an INSERT as a
common table expression. So the statement's parsed form is tested before it runs.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

import duckdb

from layerhouse.errors import QueryError, WarehouseError
from layerhouse.warehouse.storage.commits import Snapshot

MEMORY_LIMIT = 4 << 30
"""Bytes of memory that a locked session takes at most, and at most half of the machine's; it then uses its temporary folder."""
TEMPORARY_LIMIT = "8GB"
"""Size of the temporary files of a locked session."""
MOST_ROWS_PER_BYTE = 1_000
"""Rows that a byte of a data file may stand for. Rows of a warehouse differ in ids and hashes, and need bytes for that."""
READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
READING_TABLE_FUNCTIONS = frozenset(
    {
        *(
            "unnest",
            "range",
            "generate_series",
            "repeat",
            "repeat_row",
            "json_each",
            "json_tree",
            "histogram",
            "histogram_values",
        ),
        *("duckdb_columns", "duckdb_constraints", "duckdb_databases", "duckdb_functions", "duckdb_keywords", "duckdb_schemas"),
        *("duckdb_settings", "duckdb_tables", "duckdb_types", "duckdb_variables", "duckdb_views"),
        *(
            "icu_calendar_names",
            "pg_timezone_names",
            "pragma_collations",
            "pragma_platform",
            "pragma_show",
            "pragma_table_info",
        ),
        *("pragma_version", "summary", "test_all_types"),
    }
)
"""Table functions that read no files and change nothing; all others are refused, those of later versions of DuckDB too."""
REFUSED_FUNCTIONS = frozenset(
    {"getenv", "json_serialize_plan", "nextval", "setseed", "setval", "sleep_ms", "write_log", "write_parquet"}
)
"""Functions of values that change something, wait, or tell of the environment."""
FILE_NAME = re.compile(r"[./\\\\]")
"""What the name of a file has that DuckDB would read in place of a table, and the name of a table has not."""
EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?", re.IGNORECASE)
INSTEAD = "give one SELECT over tables and views; without --safe (safe=True), sql also reads and writes files"


_connections: WeakSet[duckdb.DuckDBPyConnection] = WeakSet()


def new_connection(*, memory: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory database whose temporary files, if it needs any, are in a folder that it makes for itself alone.

    DuckDB may always read and write its temporary folder, so it must not be one that others use. `memory` limits the bytes of
    memory and the temporary files too.
    """
    folder = Path(tempfile.gettempdir()) / f"layerhouse-{os.getpid()}-{secrets.token_hex(8)}"
    config: dict[str, str | bool | int | float | list[str]] = {"temp_directory": str(folder)}
    if memory is not None:
        config |= {"memory_limit": f"{memory}B", "max_temp_directory_size": TEMPORARY_LIMIT}
    connection = duckdb.connect(config=config)
    _connections.add(connection)
    return connection


def interrupt_queries() -> None:
    """End the queries that run, each with an error."""
    for connection in _connections:
        with suppress(duckdb.Error):  # It is closed.
            connection.interrupt()


def require_plausible_sizes(snapshot: Snapshot) -> None:
    """Raise WarehouseError for a file that claims more rows than its bytes can be: reading it would take without end."""
    for file in (file for commit in snapshot.commits for file in commit.files):
        if file.rows > MOST_ROWS_PER_BYTE * file.size:
            raise WarehouseError(
                f"{snapshot.root / file.path}: limit exceeded: {file.rows} rows in {file.size} bytes; the warehouse is "
                "damaged, or made to be: ingest its models into a new one"
            )


def memory_limit() -> int:
    """MEMORY_LIMIT, or half of the machine's memory if that is less."""
    try:
        return min(MEMORY_LIMIT, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    except (ValueError, OSError, AttributeError):
        return MEMORY_LIMIT


def lock(connection: duckdb.DuckDBPyConnection, folders: Sequence[Path] = ()) -> None:
    """Let a session reach the files below these folders and no others, not even through links; for good."""
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET autoload_known_extensions = false")
    connection.execute("SET allowed_directories = ?", [[f"{str(folder).rstrip('/')}/" for folder in folders]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def require_reading(sql: str) -> None:
    """Raise QueryError unless the SQL is one statement that only reads tables and views: no files, no settings, no changes."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    if len(statements) != 1:
        raise QueryError(f"{len(statements)} statements: {INSTEAD}")
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        name = "PIVOT without IN" if kind == duckdb.StatementType.MULTI else kind.name.replace("_", " ")
        raise QueryError(f"{name} is refused: {INSTEAD}")
    select = sql if kind == duckdb.StatementType.SELECT else EXPLAIN.sub("", sql, count=1)
    if reason := beyond_reading(select):
        raise QueryError(f"{reason} is refused: {INSTEAD}")


def beyond_reading(select: str) -> str | None:
    """What in a SELECT may do more than read tables: a file, a statement that writes, a function that changes something."""
    parsed = parse_select(select)
    if parsed is None:
        return "SQL that is nested so deeply"
    try:
        return f"what is no SELECT ({parsed['error_message']})" if parsed["error"] else next(_reasons(parsed), None)
    except RecursionError:
        return "SQL that is nested so deeply"


def parse_select(select: str) -> dict[str, Any] | None:
    """The parsed form of a SELECT, as DuckDB serializes it; one with `error` for other SQL, None where it is nested too
    deeply."""
    with new_connection() as parser:
        lock(parser)
        ((answer,),) = parser.execute("SELECT json_serialize_sql(CAST(? AS VARCHAR))", [select]).fetchall()
    try:
        parsed: dict[str, Any] = json.loads(answer)
    except RecursionError:
        return None
    return parsed


def _reasons(node: Any) -> Iterator[str]:
    """What in a parsed statement may do more than read tables."""
    if isinstance(node, list):
        for item in node:
            yield from _reasons(item)
    if not isinstance(node, dict):
        return
    kind = str(node.get("type", ""))
    if kind.endswith("_NODE") and kind not in READING_NODES:
        yield kind.removesuffix("_NODE").removesuffix("_QUERY")
    name = str(node.get("function_name", "")).lower()
    if kind == "TABLE_FUNCTION":
        called = str((node.get("function") or {}).get("function_name", "")).lower()
        if called not in READING_TABLE_FUNCTIONS:
            yield f"the table function {called!r}"
    elif name in REFUSED_FUNCTIONS or name.startswith("__internal"):
        yield f"the function {name!r}"
    if kind == "BASE_TABLE" and FILE_NAME.search(str(node.get("table_name", ""))):
        yield f"the file name {node['table_name']!r}"
    for value in node.values():
        yield from _reasons(value)
