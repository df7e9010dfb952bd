"""Which part of a query's table is shown: models, rows and columns, in what order. Values and types are not changed."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

import duckdb

from layerhouse.errors import UsageError
from layerhouse.warehouse.answers.leaderboard import (
    MEAN_RANK,
    NUM_RANKED,
    add_differences,
    complete_rows,
    rank_rows,
    unranked_tasks,
)
from layerhouse.warehouse.answers.naming.columns import SHORT_NAMES, find_column, find_name, question, resolve_columns
from layerhouse.warehouse.answers.naming.condition import aliases, as_where, fraction_hints, parse_condition
from layerhouse.warehouse.answers.query import (
    MODEL_COLUMN,
    MODEL_NAMES,
    own_sql,
    query_text,
    run_query,
    run_sql,
)
from layerhouse.warehouse.answers.reach import beyond_reading, lock, memory_limit, new_connection
from layerhouse.warehouse.answers.sql_text import quote_identifier
from layerhouse.warehouse.answers.task_columns import (
    VARIANT_COLUMN,
    Run,
    Task,
    TaskTable,
    Values,
    add_errors,
    has_tasks,
    promote_tasks,
    runs_of,
    zero_shot_table,
)
from layerhouse.warehouse.render.cells import mark_groups

if TYPE_CHECKING:
    import pyarrow as pa

_LAYER_COLUMNS = frozenset({"layer_index", "base_layer_index"})
"""A table with one of these has rows of layers."""

_BASE_COLUMNS = ("base_model_id",)
"""Columns of the query against_base that are of the model, whichever run of it the row shows."""
_UNKNOWN_COLUMN = re.compile(r'Referenced column "(.+)" not found')


def ignore(_: str) -> None:
    """Take no notice of a hint."""


@dataclass(frozen=True)
class Selection:
    """What to show of a table.

    `by` is what kept shares are counted in. `where` is an SQL condition on the table's columns; `sort` names columns, with `-`
    before a descending one; `tasks` are globs. Without `columns` all are shown. `group` names columns; rows that are equal in
    them are put together. Columns are named as find_column finds them, and may be those of the view models. `is_complete` keeps
    rows that have every task, `is_ranked` ranks the rows that `where` and `is_complete` keep, and `has_differences` adds what
    each task differs by from the base. `language` is that of headings; `on_hint` is called with each hint on the condition.
    """

    models: tuple[str, ...] = ()
    by: str | None = None
    where: str | None = None
    sort: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    shows_errors: bool = False
    is_against_base: bool = False
    is_complete: bool = False
    is_ranked: bool = False
    has_differences: bool = False
    language: str = field(default="en", compare=False)
    on_hint: Callable[[str], None] = field(default=ignore, compare=False)

    @property
    def group_columns(self) -> tuple[str, ...]:
        """The columns of `group`, with short names resolved."""
        return tuple(SHORT_NAMES.get(name, name) for name in self.group)

    @property
    def option_of_tasks(self) -> str | None:
        """The first of its options that only tables with tasks have."""
        options = {
            "--tasks": self.tasks,
            "--metrics": self.metrics,
            "--stderr": self.shows_errors,
            "--complete": self.is_complete,
            "--rank": self.is_ranked,
            "--delta": self.has_differences,
        }
        return next((option for option, is_given in options.items() if is_given), None)

    def asked_sql(self, name: str) -> str:
        """The SQL of all views that the selected part of a query's table takes."""
        parts = [query_text(name)]
        if replace(self, models=(), by=None) != Selection():
            parts += ["SELECT * FROM models", "SELECT * FROM run_measures"]
        if self.models:
            parts.append(MODEL_NAMES)
        if self.is_against_base or self.has_differences:
            parts.append(query_text("against_base"))
        return "\n".join(parts)


@dataclass(frozen=True)
class Answer:
    """The selected part of a table of models, and what is to be said of it.

    `runs` are those of the rows; `tasks` are its columns of tasks with their `values`, if an option asked for them;
    `num_left_out` counts the rows that lack a task; `unranked` are the tasks that have no ranks.
    """

    table: pa.Table
    runs: tuple[Run, ...] = ()
    tasks: tuple[Task, ...] = ()
    values: Mapping[str, Values] = field(default_factory=dict)
    num_left_out: int = 0
    unranked: tuple[str, ...] = ()


def select_table(connection: duckdb.DuckDBPyConnection, name: str, selection: Selection) -> pa.Table:
    """The selected part of a query's table. Raises NotFoundError and UsageError, which list the choices."""
    return select_answer(connection, name, selection).table


def select_answer(connection: duckdb.DuckDBPyConnection, name: str, selection: Selection) -> Answer:
    """The selected part of a query's table and what is to be said of it. Raises NotFoundError and UsageError."""
    return _select(connection, run_query(connection, name, selection.models, by=selection.by), selection)


def select_rows(connection: duckdb.DuckDBPyConnection, table: pa.Table, selection: Selection) -> pa.Table:
    """The selected part of a table of models, except for `models`. Raises UsageError, which lists the columns."""
    return _select(connection, table, selection).table


def _select(connection: duckdb.DuckDBPyConnection, table: pa.Table, selection: Selection) -> Answer:
    if selection.is_against_base:
        table = _with_base(table, run_query(connection, "against_base"))
    if (option := selection.option_of_tasks) is not None and not has_tasks(table):
        raise UsageError(f"{option} is for tables with tasks: performance")
    shown = _task_table(connection, table, selection)
    tasks, table = shown.tasks, shown.table
    if selection.shows_errors:
        table = add_errors(shown)
    if selection.has_differences:
        table = add_differences(connection, replace(shown, table=table))
    own_columns = [*table.column_names]
    table = _with_named_columns(connection, table, selection)
    in_condition = parse_condition(selection.where or "").columns
    is_of_ranks = selection.is_ranked and any(_is_rank(name, selection.language) for name in in_condition)
    if not is_of_ranks:
        table = _filtered(table, selection)
    num_rows = table.num_rows
    if selection.is_complete:
        table = complete_rows(table, tasks)
    num_left_out = num_rows - table.num_rows
    if selection.is_ranked:
        table = rank_rows(table, tasks)
        own_columns[1:1] = [MEAN_RANK, NUM_RANKED]
        if is_of_ranks:
            table = _filtered(table, selection)
    unranked = unranked_tasks(tasks) if selection.is_ranked else ()
    table = _sorted(table, selection)
    runs = tuple(runs_of(table)) if MODEL_COLUMN in table.column_names else ()
    return Answer(_shown_columns(table, own_columns, selection), runs, tasks, shown.values, num_left_out, unranked)


def _task_table(connection: duckdb.DuckDBPyConnection, table: pa.Table, selection: Selection) -> TaskTable:
    """The table with the columns of tasks that are asked for; their values are read if an option needs them."""
    if selection.tasks or selection.metrics:
        return promote_tasks(connection, table, selection.tasks or ("*",), selection.metrics)
    if selection.option_of_tasks is not None:
        return zero_shot_table(connection, table)
    return TaskTable(table, (), {}, None)


def _with_named_columns(connection: duckdb.DuckDBPyConnection, table: pa.Table, selection: Selection) -> pa.Table:
    """The table with those columns of its models that the selection names and the table lacks. Raises UsageError.

    In a table of layers, headings are those of its own columns: `retention` is that of a mean over the layers of a model.
    """
    language = selection.language
    named = {"--columns": selection.columns, "--group": selection.group}
    named["--sort"] = tuple(name.removeprefix("-") for name in selection.sort)
    in_condition = parse_condition(selection.where or "").columns
    asked = {*chain(*named.values()), *in_condition}
    unknown = {name for name in asked if find_column(table.schema, name, language) is None}
    later = {name for name in unknown if selection.is_ranked and _is_rank(name, language)}
    of_models: list[str] = []
    if unknown > later and MODEL_COLUMN in table.column_names:
        with own_sql(connection):
            schema = run_sql(connection, "SELECT * FROM models LIMIT 0").schema
            of_models = schema.names
            is_of_layers = not _LAYER_COLUMNS.isdisjoint(table.column_names)
            found = {
                find_name(schema, name) if is_of_layers else find_column(schema, name, language) for name in unknown - later
            }
            found -= {None, *table.column_names}
            if found:
                columns = ", ".join(quote_identifier(name) for name in of_models if name in {MODEL_COLUMN, *found})
                table = _joined(table, run_sql(connection, f"SELECT {columns} FROM models"))
    for option, names in named.items():
        resolve_columns(table.schema, option, [name for name in names if name not in later], language, of_models)
    return table


def _is_rank(name: str, language: str) -> bool:
    """Whether a column is one of those that ranking adds."""
    import pyarrow as pa

    return find_column(pa.schema([(MEAN_RANK, pa.float64()), (NUM_RANKED, pa.int64())]), name, language) is not None


def _filtered(table: pa.Table, selection: Selection) -> pa.Table:
    if selection.where is None:
        return table
    kept = filter_rows(table, selection.where, selection.language)
    for hint in fraction_hints(table, selection.where, selection.language):
        selection.on_hint(hint)
    return kept


def _sorted(table: pa.Table, selection: Selection) -> pa.Table:
    """The table in its order; of groups, it also says in its metadata where each starts."""
    sort = selection.sort or ((MEAN_RANK,) if selection.is_ranked else ())
    groups = resolve_columns(table.schema, "--group", selection.group, selection.language)
    table = sort_rows(table, sort, groups, selection.language) if sort or groups else table
    return mark_groups(table, groups) if groups else table


def _shown_columns(table: pa.Table, own_columns: Sequence[str], selection: Selection) -> pa.Table:
    """The columns that are asked for, or else the table's own after those of the groups."""
    if selection.columns:
        return table.select([*resolve_columns(table.schema, "--columns", selection.columns, selection.language)])
    first = [name for name in own_columns[:1] if name == MODEL_COLUMN]
    groups = resolve_columns(table.schema, "--group", selection.group, selection.language)
    return table.select(list(dict.fromkeys([*first, *groups, *own_columns])))


def split_names(text: str) -> tuple[str, ...]:
    """Names separated by commas; a name that contains a comma is in double quotes, as in csv. Raises UsageError."""
    try:
        return tuple(name for name in next(csv.reader([text], skipinitialspace=True), []) if name)
    except csv.Error:
        raise UsageError(f"{text[:200]!r}: not names between commas; put a name with a line break in double quotes") from None


def filter_rows(table: pa.Table, condition: str, language: str = "en") -> pa.Table:
    """The rows for which an SQL condition over the columns holds. It cannot reach files, other tables or a second statement.

    A column may be named by its heading in double quotes. Raises UsageError with DuckDB's reason and the columns.
    """
    with _condition_session(table, f"--where {condition!r}", condition, language) as (relation, row):
        kept = relation.filter(condition).project(row).fetchall()
    return table.take(_positions(sorted(number for (number,) in kept)))


def judge_rows(table: pa.Table, condition: str) -> list[bool | None]:
    """For every row whether an SQL condition over the columns holds; None where it is null. See filter_rows."""
    with _condition_session(table, repr(condition), condition) as (relation, row):
        judged = relation.project(f"CAST((\n{condition}\n) AS BOOLEAN), {row}").fetchall()
    return [is_met for is_met, _ in sorted(judged, key=lambda pair: pair[1])]


@contextmanager
def _condition_session(
    table: pa.Table, option: str, condition: str, language: str = "en"
) -> Iterator[tuple[duckdb.DuckDBPyRelation, str]]:
    """A locked session for a condition, which may name columns by their headings; see _locked_session."""
    named = table
    for name, column in aliases(table.schema, condition, language).items():
        named = named.append_column(name, table[column])
    with _locked_session(named, option, table.schema) as session:
        _require_condition(condition)
        yield session


def _require_condition(condition: str) -> None:
    """Raise DuckDB's ParserException unless a text is one condition, which can only read the row."""
    select = as_where(condition)
    statements = duckdb.extract_statements(select)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise duckdb.ParserException("it is not one condition")
    if reason := beyond_reading(select):
        raise duckdb.ParserException(f"{reason} is refused")


def sort_rows(table: pa.Table, names: Sequence[str], groups: Sequence[str] = (), language: str = "en") -> pa.Table:
    """The rows sorted by columns, with `-` before a descending one; null and NaN come last, and equal rows keep their order.

    `groups` are columns to sort by first; rows without a group, such as bases, come before all others.
    """
    keys = []
    for name in names:
        (column,) = resolve_columns(table.schema, "--sort", [name.removeprefix("-")], language)
        keys.append((column, "DESC" if name.startswith("-") else "ASC"))
    with _locked_session(table, "--sort", table.schema) as (relation, row):
        order = [f"{quote_identifier(name)} NULLS FIRST" for name in groups]
        for name, direction in keys:
            column = quote_identifier(name)
            if relation.types[relation.columns.index(name)] in ("DOUBLE", "FLOAT"):
                order.append(f"isnan({column}) NULLS LAST")
            order.append(f"{column} {direction} NULLS LAST")
        rows = relation.order(", ".join([*order, row])).project(row).fetchall()
    return table.take(_positions([number for (number,) in rows]))


@contextmanager
def _locked_session(table: pa.Table, option: str, schema: pa.Schema) -> Iterator[tuple[duckdb.DuckDBPyRelation, str]]:
    """The table as the only relation of a locked session, and the quoted name of a column that numbers its rows.

    An error of DuckDB is a UsageError with the names in the schema, of which the nearest to an unknown one come first.
    """
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
            unknown = _UNKNOWN_COLUMN.search(reason)
            near = question(schema, unknown[1]) if unknown else ""
            raise UsageError(f"{option}: {reason}; {near}the columns are {', '.join(schema.names)}") from None


def _positions(numbers: list[int]) -> pa.Array:
    import pyarrow as pa

    return pa.array(numbers, pa.int64())


def _with_base(table: pa.Table, against_base: pa.Table) -> pa.Table:
    """A table with the columns of the query against_base; differences stand beside the run that was compared, else null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    compared = set(runs_of(against_base))
    is_compared = pa.array([run in compared for run in runs_of(table)], pa.bool_())
    added = [name for name in against_base.column_names if name not in (*table.column_names, VARIANT_COLUMN, *_BASE_COLUMNS)]
    table = _joined(table, against_base.drop_columns([VARIANT_COLUMN]))
    for name in added:
        values = pc.if_else(is_compared, table[name], None)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), values)
    return table


def _joined(table: pa.Table, models: pa.Table) -> pa.Table:
    """A table of models with the columns that it lacks of another table, which has one row a model."""
    import pyarrow.compute as pc

    positions = pc.index_in(table[MODEL_COLUMN], models[MODEL_COLUMN])
    for name in models.column_names:
        if name not in table.column_names:
            table = table.append_column(models.schema.field(name), models[name].take(positions))
    return table
