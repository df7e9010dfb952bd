"""Which part of a query's table is shown: models, rows and columns, in what order. Values and types are not changed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from layerhouse.errors import UsageError
from layerhouse.warehouse.answers.query import (
    MODEL_COLUMN,
    own_sql,
    run_query,
    run_sql,
)
from layerhouse.warehouse.answers.reach import beyond_reading, lock, memory_limit, new_connection
from layerhouse.warehouse.answers.sql_text import quote_identifier
from layerhouse.warehouse.answers.task_columns import add_errors, promote_tasks

if TYPE_CHECKING:
    import pyarrow as pa

_MODEL_COLUMNS = ("method", "declared_ratio", "declared_removed_layers", "strategy")
"""Columns of the view models by which every table of models can be filtered, sorted and grouped, even if it lacks them."""

_SHORT_NAMES = {"ratio": "declared_ratio", "model": MODEL_COLUMN}


@dataclass(frozen=True)
class Selection:
    """What to show of a table.

    `where` is an SQL condition on the table's columns; `sort` names columns, with `-` before a descending one; `tasks` are
    globs. Without `columns` all are shown. `group` names columns; rows that are equal in them are put together.
    """

    models: tuple[str, ...] = ()
    where: str | None = None
    sort: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    shows_errors: bool = False
    is_against_base: bool = False

    @property
    def group_columns(self) -> tuple[str, ...]:
        """The columns of `group`, with short names resolved."""
        return tuple(_SHORT_NAMES.get(name, name) for name in self.group)


def select_table(connection: duckdb.DuckDBPyConnection, name: str, selection: Selection) -> pa.Table:
    """The selected part of a query's table. Raises NotFoundError and UsageError, which list the choices."""
    return select_rows(connection, run_query(connection, name, selection.models), selection)


def select_rows(connection: duckdb.DuckDBPyConnection, table: pa.Table, selection: Selection) -> pa.Table:
    """The selected part of a table of models, except for `models`. Raises UsageError, which lists the columns."""
    if selection.is_against_base:
        table = _joined(table, run_query(connection, "against_base"))
    if selection.tasks or selection.metrics:
        table = promote_tasks(connection, table, selection.tasks or ("*",), selection.metrics)
    if selection.shows_errors:
        table = add_errors(connection, table)
    own_columns = [*table.column_names]
    groups = selection.group_columns
    if selection.where is None and not (selection.sort or groups or selection.columns):
        return table
    named = {_SHORT_NAMES.get(name.removeprefix("-"), name.removeprefix("-")) for name in (*selection.sort, *selection.columns)}
    if selection.where is not None or not named.union(groups) <= set(own_columns):
        table = _with_model_columns(connection, table)
    _require(table, "--group", groups)
    if selection.where is not None:
        table = filter_rows(table, selection.where)
    if selection.sort or groups:
        table = sort_rows(table, selection.sort, groups)
    if selection.columns:
        _require(table, "--columns", selection.columns)
        return table.select(list(dict.fromkeys(_SHORT_NAMES.get(name, name) for name in selection.columns)))
    first = [name for name in own_columns[:1] if name == MODEL_COLUMN]
    return table.select(list(dict.fromkeys([*first, *groups, *own_columns])))


def split_names(text: str) -> tuple[str, ...]:
    """Names separated by commas; a name that contains a comma is in double quotes, as in csv. Raises UsageError."""
    try:
        return tuple(name for name in next(csv.reader([text], skipinitialspace=True), []) if name)
    except csv.Error:
        raise UsageError(f"{text[:200]!r}: not names between commas; put a name with a line break in double quotes") from None


def filter_rows(table: pa.Table, condition: str) -> pa.Table:
    """The rows for which an SQL condition over the columns holds. It cannot reach files, other tables or a second statement.

    Raises UsageError with DuckDB's reason and the columns.
    """
    with _locked_session(table, f"--where {condition!r}") as (relation, row):
        select = f"SELECT 1 WHERE (\n{condition}\n)"
        statements = duckdb.extract_statements(select)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise duckdb.ParserException("it is not one condition")
        if reason := beyond_reading(select):
            raise duckdb.ParserException(f"{reason} is refused")
        kept = relation.filter(condition).project(row).fetchall()
    return table.take(_positions(sorted(number for (number,) in kept)))


def sort_rows(table: pa.Table, names: Sequence[str], groups: Sequence[str] = ()) -> pa.Table:
    """The rows sorted by columns, with `-` before a descending one; null and NaN come last, and equal rows keep their order.

    `groups` are columns to sort by first; rows without a group, such as bases, come before all others.
    """
    keys = [(name.removeprefix("-"), "DESC" if name.startswith("-") else "ASC") for name in names]
    keys = [(_SHORT_NAMES.get(name, name), direction) for name, direction in keys]
    _require(table, "--sort", [name for name, _ in keys])
    with _locked_session(table, "--sort") as (relation, row):
        order = [f"{quote_identifier(name)} NULLS FIRST" for name in groups]
        for name, direction in keys:
            column = quote_identifier(name)
            if relation.types[relation.columns.index(name)] in ("DOUBLE", "FLOAT"):
                order.append(f"isnan({column}) NULLS LAST")
            order.append(f"{column} {direction} NULLS LAST")
        rows = relation.order(", ".join([*order, row])).project(row).fetchall()
    return table.take(_positions([number for (number,) in rows]))


@contextmanager
def _locked_session(table: pa.Table, option: str) -> Iterator[tuple[duckdb.DuckDBPyRelation, str]]:
    """The table as the only relation of a locked session, and the quoted name of a column that numbers its rows."""
    import pyarrow as pa

    number = "row_number"
    while number in table.column_names:
        number += "_"
    with new_connection(memory=memory_limit()) as session:
        session.execute("SET TimeZone = 'UTC'")
        session.register("answer", table.append_column(number, pa.array(range(table.num_rows), pa.int64())))
        lock(session)
        try:
            yield session.table("answer"), quote_identifier(number)
        except duckdb.Error as error:
            reason = str(error).splitlines()[0].rstrip("!. ")
            raise UsageError(f"{option}: {reason}; the columns are {', '.join(table.column_names)}") from None


def _positions(numbers: list[int]) -> pa.Array:
    import pyarrow as pa

    return pa.array(numbers, pa.int64())


def _with_model_columns(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> pa.Table:
    """A table of models with the columns of _MODEL_COLUMNS that it lacks."""
    if MODEL_COLUMN not in table.column_names:
        return table
    with own_sql(connection):
        models = run_sql(connection, f"SELECT {MODEL_COLUMN}, {', '.join(_MODEL_COLUMNS)} FROM models")
    return _joined(table, models)


def _joined(table: pa.Table, models: pa.Table) -> pa.Table:
    """A table of models with the columns that it lacks of another table, which has one row a model."""
    import pyarrow.compute as pc

    positions = pc.index_in(table[MODEL_COLUMN], models[MODEL_COLUMN])
    for name in models.column_names:
        if name not in table.column_names:
            table = table.append_column(models.schema.field(name), models[name].take(positions))
    return table


def _require(table: pa.Table, option: str, names: Sequence[str]) -> None:
    for name in names:
        if _SHORT_NAMES.get(name, name) not in table.column_names:
            raise UsageError(f"{option}: no column {name!r}; the columns are {', '.join(table.column_names)}")
