"""Tasks as columns of the performance table: their values, their mean, and the standard errors of scores.

A column holds values of one measure, as the view measure_keys defines it. A row is a run: a model, and the variant in which it
was loaded (null for the plain model).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerhouse.errors import NotFoundError
from layerhouse.vocabulary import ZERO_SHOT_TASKS, MeasureKind
from layerhouse.warehouse.answers.query import MODEL_COLUMN, own_sql, run_sql
from layerhouse.warehouse.answers.sql_text import quote_literal
from layerhouse.warehouse.render.columns import annotate_field
from layerhouse.warehouse.render.kinds import NUMBER, RATIO, Kind

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Run = tuple[str, str | None]
"""A model and the variant in which it was loaded, None for the plain model."""
VARIANT_COLUMN = "variant"
MEAN_ACCURACY, MEAN_SCORE = "mean_accuracy", "mean_score"
ERROR_SUFFIX = "_stderr"
GROUP_SUFFIX = " group"
"""Ends the name of a group's column if a task has the same name."""
_SCORES = "other_scores"
_REPLACED = (MEAN_ACCURACY, "n_tasks", _SCORES, "group_scores")
_KINDS = (MeasureKind.TASK, MeasureKind.SCORE, MeasureKind.GROUP)
IS_ASKED = f"""
    SEMI JOIN asked_runs
        ON asked_runs.{MODEL_COLUMN} = run_measures.{MODEL_COLUMN}
        AND asked_runs.{VARIANT_COLUMN} IS NOT DISTINCT FROM run_measures.{VARIANT_COLUMN}
"""
"""Leaves the rows of run_measures that are of the runs asked for; see of_runs."""
_KNOWN_VALUES = f"""
    run_measures {IS_ASKED}
    WHERE kind IN ({", ".join(map(quote_literal, _KINDS))}) AND value IS NOT NULL AND NOT is_doubtful
"""


@dataclass(frozen=True)
class Task:
    """The column of a task, or of a group of tasks.

    `sources` are pairs of kind and key of the view run_measures, whose values the column holds. `measure` is the measure's text
    where the name says less. `higher_is_better` is None where no file says it, or files contradict each other.
    """

    name: str
    task: str
    sources: frozenset[tuple[str, str]]
    measure: str
    is_fraction: bool
    higher_is_better: bool | None
    is_group: bool = False

    @property
    def kind(self) -> Kind:
        """How its values are presented."""
        return RATIO if self.is_fraction else NUMBER

    @property
    def better(self) -> str | None:
        """The word for the better of two values, if known."""
        return {True: "higher", False: "lower", None: None}[self.higher_is_better]


@dataclass(frozen=True)
class TaskValue:
    """A value of a run; values of one measure have the same key. `condition` is what the column's name does not say of it."""

    value: float
    stderr: float | None
    measure_key: str
    condition: str | None


Values = Mapping[Run, TaskValue]


@dataclass(frozen=True)
class TaskTable:
    """A table, its columns of tasks with their values, and the column of their mean, if it has one."""

    table: pa.Table
    tasks: tuple[Task, ...]
    values: Mapping[str, Values]
    mean: str | None


def runs_of(table: pa.Table) -> list[Run]:
    """The run of each row; a table without variants has plain models."""
    models = table[MODEL_COLUMN].to_pylist()
    has_variants = VARIANT_COLUMN in table.column_names
    variants = table[VARIANT_COLUMN].to_pylist() if has_variants else [None] * len(models)
    return list(zip(models, variants, strict=True))


def has_tasks(table: pa.Table) -> bool:
    """True for the tables of performance."""
    return MODEL_COLUMN in table.column_names and _SCORES in table.column_names


def zero_shot_table(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> TaskTable:
    """The table as it is, with the values of the seven tasks that it shows."""
    runs = runs_of(table)
    tasks = _own_tasks(_measures(connection, runs))[: len(ZERO_SHOT_TASKS)]
    return TaskTable(table, tuple(tasks), read_values(connection, tasks, runs), MEAN_ACCURACY)


def promote_tasks(
    connection: duckdb.DuckDBPyConnection, table: pa.Table, globs: Sequence[str], metrics: Sequence[str]
) -> TaskTable:
    """The performance table with a column for each task that matches a glob, in place of its tasks and other scores.

    The seven zero-shot tasks have one column each, other tasks and groups of tasks a column for each of their measures. With
    `metrics`, every task has a column for each of these metrics, null for a run without it: `task/metric` if that is one
    measure in the table, else a column a measure. `mean_score` is the mean over all these columns, null if one is missing,
    and `n_tasks` counts those with a value. Both are left out if a mean would say nothing: a task has two columns, a group is
    beside tasks that may be its members, or a column is not of fractions. Raises NotFoundError for a glob that no task matches.
    """
    import pyarrow as pa

    runs = runs_of(table)
    measures = _measures(connection, runs)
    tasks = _matching(globs, _tasks_by_metric(measures, metrics) if metrics else _own_tasks(measures))
    values = read_values(connection, tasks, runs)
    columns = [[_value(values[task.name].get(run)) for run in runs] for task in tasks]
    at = table.column_names.index(ZERO_SHOT_TASKS[0])
    table = table.drop_columns([*ZERO_SHOT_TASKS, *_REPLACED])
    for index, (task, column) in enumerate(zip(tasks, columns, strict=True)):
        field = annotate_field(pa.field(task.name, pa.float64()), kind=task.kind, better=task.better)
        table = table.add_column(at + index, field, pa.array(column, pa.float64()))
    is_fair = len({task.task for task in tasks}) == len(tasks) and all(task.is_fraction for task in tasks)
    if not is_fair or (len(tasks) > 1 and any(task.is_group for task in tasks)):
        return TaskTable(table, tuple(tasks), values, None)
    rows = list(zip(*columns, strict=True))
    means = [None if None in row else sum(value for value in row if value is not None) / len(row) for row in rows]
    counts = [sum(value is not None for value in row) for row in rows]
    field = annotate_field(pa.field(MEAN_SCORE, pa.float64()), kind=RATIO, better="higher")
    table = table.add_column(at + len(tasks), field, pa.array(means, pa.float64()))
    field = annotate_field(pa.field("n_tasks", pa.int64()), total=len(tasks))
    table = table.add_column(at + len(tasks) + 1, field, pa.array(counts, pa.int64()))
    return TaskTable(table, tuple(tasks), values, MEAN_SCORE)


def add_errors(shown: TaskTable) -> pa.Table:
    """The table with a column of standard errors after each column of a task, null where the error is not known."""
    table, runs = shown.table, runs_of(shown.table)
    for task in shown.tasks:
        values = [shown.values[task.name].get(run) for run in runs]
        errors = [None if value is None else value.stderr for value in values]
        table = add_after(table, task.name, task.name + ERROR_SUFFIX, errors, task.kind)
    return table


def add_after(table: pa.Table, name: str, new_name: str, values: Sequence[float | None], kind: Kind) -> pa.Table:
    """The table with a column of numbers after a named one."""
    import pyarrow as pa

    field = annotate_field(pa.field(new_name, pa.float64()), kind=kind)
    return table.add_column(table.column_names.index(name) + 1, field, pa.array(values, pa.float64()))


def read_values(
    connection: duckdb.DuckDBPyConnection, tasks: Sequence[Task], runs: Iterable[Run], *, is_plain: bool = False
) -> Mapping[str, Values]:
    """The values that runs have of tasks, by name and run; with `is_plain`, of plain runs alone.

    Conflicts and values of doubtful scale are none.
    """
    values: dict[str, dict[Run, TaskValue]] = {task.name: {} for task in tasks}
    columns = {source: task.name for task in tasks for source in task.sources}
    if not columns:
        return values
    rows = of_runs(
        connection,
        runs,
        f"""
        SELECT
            {MODEL_COLUMN}, {VARIANT_COLUMN}, kind, measure_key, value, stderr,
            coalesce(condition, CASE WHEN n_shot IS NULL AND measure = concat(task, '/', metric) THEN 'shots not stated' END)
        FROM {_KNOWN_VALUES} AND measure_key IN ({", ".join(map(quote_literal, sorted({key for _, key in columns})))})
            AND {"is_plain" if is_plain else "TRUE"}
        """,
    )
    for model, variant, kind, key, value, stderr, condition in rows:
        if (kind, key) in columns:
            values[columns[kind, key]][model, variant] = TaskValue(value, stderr, key, condition)
    return values


def of_runs(connection: duckdb.DuckDBPyConnection, runs: Iterable[Run], sql: str) -> list[tuple[Any, ...]]:
    """The rows of an SQL statement in which `asked_runs` are the given runs. Raises WarehouseError."""
    import pyarrow as pa

    names = (MODEL_COLUMN, VARIANT_COLUMN)
    rows = [dict(zip(names, run, strict=True)) for run in dict.fromkeys(runs)]
    connection.register("asked_runs", pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in names])))
    try:
        with own_sql(connection):
            table = run_sql(connection, sql)
    finally:
        connection.unregister("asked_runs")
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _value(value: TaskValue | None) -> float | None:
    return None if value is None else value.value


@dataclass(frozen=True)
class _Measure:
    """What all values of a measure have in common, in the order of the query; `kind` and `key` name it."""

    kind: str
    key: str
    measure: str
    task: str
    metric: str
    is_fraction: bool
    directions: tuple[bool, ...]


def _measures(connection: duckdb.DuckDBPyConnection, runs: Sequence[Run]) -> list[_Measure]:
    """The measures of which some run has a value."""
    rows = of_runs(
        connection,
        runs,
        f"""
        SELECT
            kind, measure_key, min(measure), min(task), min(metric), bool_and(coalesce(unit = 'fraction', FALSE)),
            coalesce(list(DISTINCT higher_is_better) FILTER (WHERE higher_is_better IS NOT NULL), [])
        FROM {_KNOWN_VALUES}
        GROUP BY kind, measure_key
        ORDER BY min(measure), kind, measure_key
        """,
    )
    return [_Measure(*row) for row in rows]


def _own_tasks(measures: Sequence[_Measure]) -> list[Task]:
    """Every column that a task can have, those of the zero-shot tasks first, whether or not they have values."""
    of_kind: dict[str, dict[str, list[_Measure]]] = {kind: {} for kind in _KINDS}
    for measure in measures:
        of_kind[measure.kind].setdefault(measure.measure, []).append(measure)
    tasks, scores, groups = (of_kind[kind] for kind in _KINDS)
    own = [_zero_shot_task(name, tasks.get(name, ())) for name in ZERO_SHOT_TASKS]
    own += [_task(name, parts) for name, parts in scores.items()]
    return own + [_task(f"{name}{GROUP_SUFFIX}" if name in scores else name, parts) for name, parts in groups.items()]


def _zero_shot_task(name: str, parts: Sequence[_Measure]) -> Task:
    """One of the seven, of which it is known what is better and that they are fractions."""
    return Task(name, name, frozenset((part.kind, part.key) for part in parts), name, is_fraction=True, higher_is_better=True)


def _task(name: str, parts: Sequence[_Measure]) -> Task:
    first, directions = parts[0], {direction for part in parts for direction in part.directions}
    return Task(
        name=name,
        task=first.task,
        sources=frozenset((part.kind, part.key) for part in parts),
        measure=_own_text(parts),
        is_fraction=all(part.is_fraction for part in parts),
        higher_is_better=next(iter(directions)) if len(directions) == 1 else None,
        is_group=first.kind == MeasureKind.GROUP,
    )


def _own_text(parts: Sequence[_Measure]) -> str:
    """The text of a measure; that of a zero-shot task says its metric, too."""
    plain = f"{parts[0].task}/{parts[0].metric}"
    return next((part.measure for part in parts if part.kind != MeasureKind.TASK), plain)


def _tasks_by_metric(measures: Sequence[_Measure], metrics: Sequence[str]) -> list[Task]:
    """A column for each task and metric, or for each measure of them if there are several, zero-shot tasks first."""
    by_metric: dict[tuple[str, str, bool], dict[str, list[_Measure]]] = {}
    for measure in measures:
        if measure.metric.partition(",")[0] in metrics:
            of_metric = by_metric.setdefault((measure.task, measure.metric, measure.kind == MeasureKind.GROUP), {})
            of_metric.setdefault(measure.key, []).append(measure)
    tasks: list[Task] = []
    for (task, metric, is_group), of_metric in sorted(by_metric.items()):
        suffix = GROUP_SUFFIX if is_group and (task, metric, False) in by_metric else ""
        named = {key: f"{task}/{metric}" if len(of_metric) == 1 else _own_text(parts) for key, parts in of_metric.items()}
        columns = [_task(named[key] + suffix, parts) for key, parts in of_metric.items()]
        tasks += sorted(columns, key=lambda column: column.name)
    order = {name: number for number, name in enumerate(ZERO_SHOT_TASKS)}
    return sorted(tasks, key=lambda task: order.get(task.task, len(order)))


def _matching(globs: Sequence[str], tasks: Sequence[Task]) -> list[Task]:
    chosen: dict[str, Task] = {}
    for glob in globs:
        matching = [task for task in tasks if fnmatch.fnmatchcase(task.task, glob) or fnmatch.fnmatchcase(task.name, glob)]
        if not matching:
            raise NotFoundError("task", glob, tuple(dict.fromkeys(task.task for task in tasks)))
        chosen |= {task.name: task for task in matching}
    return list(chosen.values())
