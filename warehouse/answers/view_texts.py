"""The SQL that makes the views of a warehouse, and which view stands on which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from layerhouse.warehouse.answers.sql_text import sql_files
from layerhouse.warehouse.storage.commits import Snapshot
from layerhouse.warehouse.storage.schema import TABLES, Table

MACROS = "macros"
_NAME = re.compile(r"[a-z_]+")
_COMMENT = re.compile(r"--.*")


def view_statements(snapshot: Snapshot, only: Mapping[str, str] | None = None) -> dict[str, str]:
    """The SQL that makes each view, by name and in order: stored tables, then macros and views in the order of their files.

    `only` has a condition for a stored table of which not all rows are to be seen, which calls them `rows`.
    """
    by_name = snapshot.tables_of_other_columns()
    tables = {
        table.name: _table_view(
            table, snapshot.absent_columns(table.name), is_by_name=table.name in by_name, only=(only or {}).get(table.name)
        )
        for table in TABLES.values()
    }
    return tables | {stem.partition("_")[2]: text for stem, text in sql_files("warehouse.views").items()}


def reading_kept(text: str, kept: Iterable[str]) -> str:
    """The SQL of a view without the CTEs that have the names of kept views, so that it reads these in their place.

    A view has such a CTE so that it stands on another one once: DuckDB plans a view wherever it is used.
    """
    for view in kept:
        text = re.sub(rf"^(WITH )?{view} AS \(\n(?: .*\n)+\),\n", lambda match: match[1] or "", text, flags=re.MULTILINE)
        text = re.sub(rf",\n{view} AS \(\n(?: .*\n)+\)\n", "\n", text)
    return text


def mentioned(sql: str, names: Iterable[str]) -> set[str]:
    """Those of some names that SQL has outside of its comments."""
    return {*_NAME.findall(without_comments(sql))}.intersection(names)


def without_comments(sql: str) -> str:
    """SQL of layerhouse's own, in which no text has two dashes, without its comments."""
    return _COMMENT.sub("", sql)


def _table_view(table: Table, absent_columns: frozenset[str], *, is_by_name: bool, only: str | None) -> str:
    """A stored table as a view: the rows that were committed until `as_of`. A column that no file has yet is null; a table
    that no file has yet is empty.

    Of a fact that several commits hold, only the rows of the first commit, or of the newest if the table says so. Columns are
    matched `is_by_name` only where files differ in them, as DuckDB then opens every file for every view that reads the table.
    """
    if len(absent_columns) == len(table.columns):
        nulls = ",\n".join(f"    CAST(NULL AS {column.type}) AS {column.name}" for column in table.columns)
        return f"CREATE OR REPLACE VIEW {table.name} AS\nSELECT\n{nulls}\nWHERE FALSE;"
    by_name = "union_by_name = true, " if is_by_name else ""
    scan = f"read_parquet(getvariable('files').{table.name}, {by_name}hive_partitioning = false)"
    seen = "rows.ingested_at <= coalesce(getvariable('as_of'), CAST('infinity' AS TIMESTAMPTZ))"
    seen += f"\n    AND {only}" if only else ""
    columns = ",\n".join(
        f"    CAST({'NULL' if column.name in absent_columns else f'rows.{column.name}'} AS {column.type}) AS {column.name}"
        if column.name in absent_columns or column.is_array
        else f"    rows.{column.name}"
        for column in table.columns
    )
    statement = f"CREATE OR REPLACE VIEW {table.name} AS\nSELECT\n{columns}\nFROM {scan} AS rows\n"
    if table.fact_key:
        keys, chosen = ", ".join(table.fact_key), "max" if table.is_newest_shown else "min"
        join = " AND ".join(f"chosen.{column} = rows.{column}" for column in (*table.fact_key, "commit_id"))
        statement += (
            f"SEMI JOIN (\n    SELECT {keys}, {chosen}(commit_id) AS commit_id\n    FROM {scan} AS rows\n    WHERE {seen}\n"
            f"    GROUP BY {keys}\n) AS chosen ON {join}\n"
        )
    return f"{statement}WHERE {seen};"
