"""Tasks as columns of the performance table, their means, and the standard errors of scores."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerhouse.warehouse.errors import NotFoundError, UsageError
from layerhouse.warehouse.export.columns import presented_field
from layerhouse.warehouse.export.kinds import NUMBER, RATIO
from layerhouse.warehouse.query import MODEL_COLUMN, own_sql, run_sql

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
"""The tasks that have a column of their own, by the metric of `task_metric` in SQL."""

_SCORES = "other_scores"
_REPLACED = ("mean_accuracy", "n_tasks", _SCORES)
_ERROR_SUFFIX = "_stderr"


@dataclass(frozen=True)
class Score:
    """One stored score of a model. Scores of another number of shots or cap on the documents are of another measure."""

    model_id: str
    task: str
    metric: str
    value: float
    stderr: float | None
    higher_is_better: bool | None
    is_fraction: bool
    n_shot: int | None
    sample_limit: float | None


@dataclass(frozen=True)
class _Task:
    """A column to be: its name, task and metric, and its values by model."""

    name: str
    task: str
    metric: str | None
    values: Mapping[str, float]


def promote_tasks(
    connection: duckdb.DuckDBPyConnection, table: pa.Table, globs: Sequence[str], metrics: Sequence[str]
) -> pa.Table:
    """The performance table with a column for each task like a glob, in place of its seven tasks and its other scores.

    A task outside the seven has a column `task/metric` for each of its metrics; with `metrics`, every task has one for each of
    those, and a model without that metric a null there. `mean_score` is over all these columns, null where one is missing,
    `n_tasks` counts those that are there. Both are left out where a mean would say nothing: the columns hold a task twice or
    other things than fractions. Raises NotFoundError for a glob that no task is like.
    """
    import pyarrow as pa

    if _SCORES not in table.column_names:
        raise UsageError("--tasks and --metrics are for tables with tasks: performance")
    scores = _scores(connection)
    models = table[MODEL_COLUMN].to_pylist()
    found = _chosen(globs, _tasks(table, scores, metrics))
    rows = [[task.values.get(model) for task in found] for model in models]
    fields = [_field(task, scores) for task in found]
    at = table.column_names.index(TASKS[0])
    table = table.drop_columns([*TASKS, *_REPLACED])
    for index, field in enumerate(fields):
        table = table.add_column(at + index, field, pa.array([row[index] for row in rows], pa.float64()))
    is_fair = len({task.task for task in found}) == len(found) and all(_is_fraction(task, scores) for task in found)
    if not is_fair:
        return table
    means = [None if None in row else sum(value for value in row if value is not None) / len(row) for row in rows]
    counts = [sum(value is not None for value in row) for row in rows]
    field = presented_field(pa.field("mean_score", pa.float64()), kind=RATIO, better="higher")
    table = table.add_column(at + len(fields), field, pa.array(means, pa.float64()))
    field = presented_field(pa.field("n_tasks", pa.int64()), total=len(found))
    return table.add_column(at + len(fields) + 1, field, pa.array(counts, pa.int64()))


def add_errors(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> pa.Table:
    """The table with a column of standard errors after each column of a task: of the value that is shown, null if not known."""
    import pyarrow as pa

    columns = [name for name in table.column_names if name in TASKS or "/" in name]
    if MODEL_COLUMN not in table.column_names or not columns:
        raise UsageError("--stderr is for tables with tasks: performance")
    errors: dict[tuple[str, str, float], set[float | None]] = {}
    for score in _scores(connection):
        for task in (score.task, f"{score.task}/{score.metric}"):
            errors.setdefault((score.model_id, task, score.value), set()).add(score.stderr)
    models = table[MODEL_COLUMN].to_pylist()
    for name in columns:
        known = [
            errors.get((model, name.partition(" ")[0], value), {None})
            for model, value in zip(models, table[name].to_pylist(), strict=True)
        ]
        field = presented_field(pa.field(name + _ERROR_SUFFIX, pa.float64()), kind=_kind_of(table.schema.field(name)))
        at = table.column_names.index(name) + 1
        values = [next(iter(found)) if len(found) == 1 else None for found in known]
        table = table.add_column(at, field, pa.array(values, pa.float64()))
    return table


def _kind_of(field: pa.Field) -> Any:
    from layerhouse.warehouse.export.columns import describe_field

    return RATIO if describe_field(field).kind.name == "ratio" else NUMBER


def _scores(connection: duckdb.DuckDBPyConnection) -> list[Score]:
    """What model_results hold of tasks, newest run first."""
    with own_sql():
        rows = run_sql(
            connection,
            f"""
            SELECT
                {MODEL_COLUMN},
                task,
                concat(metric, CASE WHEN coalesce(filter, 'none') <> 'none' THEN concat(',', filter) END) AS metric,
                value,
                stderr,
                higher_is_better,
                coalesce(unit = 'fraction', FALSE) AS is_fraction,
                n_shot,
                sample_limit
            FROM model_results
            WHERE suite IN ('zeroshot', 'fewshot') AND value IS NOT NULL AND is_group IS DISTINCT FROM TRUE
            ORDER BY run_at DESC NULLS LAST, commit_id DESC, value
            """,
        ).to_pylist()
    return [Score(**row) for row in rows]


def _tasks(table: pa.Table, scores: Iterable[Score], metrics: Sequence[str]) -> list[_Task]:
    """Every column that a task can have, those of the seven first."""
    models = table[MODEL_COLUMN].to_pylist()
    if metrics:
        wanted = [score for score in scores if score.metric.partition(",")[0] in metrics and score.model_id in models]
        return sorted(_measured(wanted), key=lambda task: TASKS.index(task.task) if task.task in TASKS else len(TASKS))
    own = [_Task(name, name, None, _by_model(models, table[name].to_pylist())) for name in TASKS]
    others: dict[str, dict[str, float]] = {}
    for model, entries in zip(models, table[_SCORES].to_pylist(), strict=True):
        for key, value in entries or ():
            others.setdefault(key, {})[model] = value
    for key in sorted(others):
        task, _, metric = key.rpartition("/")
        own.append(_Task(key, task, metric, others[key]))
    return own


def _measured(scores: Iterable[Score]) -> Iterator[_Task]:
    """A column a task, metric and, where those differ, number of shots and cap: of each model the newest value."""
    by_measure: dict[tuple[str, str], dict[tuple[int | None, float | None], dict[str, float]]] = {}
    for score in scores:
        variants = by_measure.setdefault((score.task, score.metric), {})
        variants.setdefault((score.n_shot, score.sample_limit), {}).setdefault(score.model_id, score.value)
    for (task, metric), variants in sorted(by_measure.items()):
        for (shots, cap), values in sorted(variants.items(), key=lambda variant: repr(variant[0])):
            told = f" {'?' if shots is None else shots}-shot" if len({shots for shots, _ in variants}) > 1 else ""
            if len({cap for _, cap in variants}) > 1:
                told += " of all" if cap is None else f" capped {cap:g}"
            yield _Task(f"{task}/{metric}{told}", task, metric, values)


def _by_model(models: Sequence[str], values: Sequence[float | None]) -> dict[str, float]:
    return {model: value for model, value in zip(models, values, strict=True) if value is not None}


def _chosen(globs: Sequence[str], tasks: Sequence[_Task]) -> list[_Task]:
    found: dict[str, _Task] = {}
    for glob in globs:
        like = [task for task in tasks if fnmatch.fnmatchcase(task.task, glob) or fnmatch.fnmatchcase(task.name, glob)]
        if not like:
            raise NotFoundError("task", glob, tuple(dict.fromkeys(task.task for task in tasks)))
        found |= {task.name: task for task in like}
    return list(found.values())


def _of(task: _Task, scores: Iterable[Score]) -> list[Score]:
    return [score for score in scores if score.task == task.task and score.metric == task.metric]


def _is_fraction(task: _Task, scores: Iterable[Score]) -> bool:
    own = _of(task, scores)
    return task.metric is None or (own != [] and all(score.is_fraction for score in own))


def _field(task: _Task, scores: Iterable[Score]) -> pa.Field:
    """The column's field, noting its kind and direction where all results of it agree."""
    import pyarrow as pa

    if task.metric is None:
        return pa.field(task.name, pa.float64())
    directions = {score.higher_is_better for score in _of(task, scores)}
    better = "higher" if directions == {True} else "lower" if directions == {False} else None
    kind = RATIO if _is_fraction(task, scores) else NUMBER
    return presented_field(pa.field(task.name, pa.float64()), kind=kind, better=better)
