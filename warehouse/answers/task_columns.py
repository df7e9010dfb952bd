"""Tasks as columns of the performance table, their mean, and the standard errors of scores."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.vocabulary import ZERO_SHOT_TASKS
from layerhouse.warehouse.answers.query import MODEL_COLUMN, own_sql, run_sql
from layerhouse.warehouse.render.columns import annotate_field
from layerhouse.warehouse.render.kinds import NUMBER, RATIO

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_SCORES, _GROUPS = "other_scores", "group_scores"
_REPLACED = ("mean_accuracy", "n_tasks", _SCORES, _GROUPS)
_ERROR_SUFFIX = "_stderr"
_VARIANT = re.compile(r"( (\?|\d+)-shot)?( of all| capped \S+)?( group)?\Z")
GROUP_SUFFIX = " group"
"""Ends the name of a group's column if a task has the same name."""


@dataclass(frozen=True)
class Score:
    """One stored score of a model. Scores with another number of shots or another cap on the documents are another measure.

    `measure` is its key in the maps of the performance table. `metric` includes the answer filter, if any, after a comma.
    """

    model_id: str
    measure: str
    task: str
    metric: str
    value: float
    stderr: float | None
    higher_is_better: bool | None
    is_fraction: bool
    n_shot: int | None
    sample_limit: float | None
    is_group: bool


@dataclass(frozen=True)
class _Facts:
    """What all scores of a task and metric have in common: `directions` are their values of higher_is_better."""

    is_fraction: bool
    directions: frozenset[bool | None]


@dataclass(frozen=True)
class _Task:
    """A column to add: its name, task (or group of tasks), metric (None: the usual one of the task), and values by model."""

    name: str
    task: str
    metric: str | None
    values: Mapping[str, float]
    is_group: bool = False

    def facts(self, facts: Mapping[tuple[str, bool], _Facts]) -> _Facts:
        return facts.get((f"{self.task}/{self.metric}", self.is_group), _Facts(False, frozenset()))

    def is_fraction(self, facts: Mapping[tuple[str, bool], _Facts]) -> bool:
        return self.metric is None or self.facts(facts).is_fraction


def promote_tasks(
    connection: duckdb.DuckDBPyConnection, table: pa.Table, globs: Sequence[str], metrics: Sequence[str]
) -> pa.Table:
    """The performance table with a column for each task that matches a glob, in place of its tasks and other scores.

    The seven zero-shot tasks have one column each, other tasks and groups of tasks a column `task/metric` for each of their
    metrics. With `metrics`, every task has a column for each of these metrics, null for a model without it. `mean_score` is the
    mean over all these columns, null if one is missing, and `n_tasks` counts those with a value. Both are left out if a mean
    would say nothing: a task has two columns, a group is beside tasks that may be its members, or a column is not of fractions.
    Raises NotFoundError for a glob that no task matches.
    """
    import pyarrow as pa

    if _SCORES not in table.column_names:
        raise UsageError("--tasks and --metrics are for tables with tasks: performance")
    facts = _facts(connection)
    models = table[MODEL_COLUMN].to_pylist()
    tasks = _matching(globs, _tasks_by_metric(connection, set(models), metrics) if metrics else _own_tasks(table))
    rows = [[task.values.get(model) for task in tasks] for model in models]
    fields = [_field(task, facts) for task in tasks]
    at = table.column_names.index(ZERO_SHOT_TASKS[0])
    table = table.drop_columns([*ZERO_SHOT_TASKS, *_REPLACED])
    for index, field in enumerate(fields):
        table = table.add_column(at + index, field, pa.array([row[index] for row in rows], pa.float64()))
    is_fair = len({task.task for task in tasks}) == len(tasks) and all(task.is_fraction(facts) for task in tasks)
    if not is_fair or (len(tasks) > 1 and any(task.is_group for task in tasks)):
        return table
    means = [None if None in row else sum(value for value in row if value is not None) / len(row) for row in rows]
    counts = [sum(value is not None for value in row) for row in rows]
    field = annotate_field(pa.field("mean_score", pa.float64()), kind=RATIO, better="higher")
    table = table.add_column(at + len(fields), field, pa.array(means, pa.float64()))
    field = annotate_field(pa.field("n_tasks", pa.int64()), total=len(tasks))
    return table.add_column(at + len(fields) + 1, field, pa.array(counts, pa.int64()))


def add_errors(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> pa.Table:
    """The table with a column of standard errors after each column of a task, null where the error is not known."""
    import pyarrow as pa

    columns = [name for name in table.column_names if name in ZERO_SHOT_TASKS or "/" in name]
    if MODEL_COLUMN not in table.column_names or not columns:
        raise UsageError("--stderr is for tables with tasks: performance")
    errors: dict[tuple[str, str, float], set[float | None]] = {}
    for score in _scores(connection):
        for name in {score.task, score.measure, f"{score.task}/{score.metric}"}:
            errors.setdefault((score.model_id, name, score.value), set()).add(score.stderr)
    models = table[MODEL_COLUMN].to_pylist()
    for name in columns:
        known = [
            errors.get((model, name, value)) or errors.get((model, _VARIANT.sub("", name), value), {None})
            for model, value in zip(models, table[name].to_pylist(), strict=True)
        ]
        field = annotate_field(pa.field(name + _ERROR_SUFFIX, pa.float64()), kind=_kind_of(table.schema.field(name)))
        at = table.column_names.index(name) + 1
        values = [next(iter(candidates)) if len(candidates) == 1 else None for candidates in known]
        table = table.add_column(at, field, pa.array(values, pa.float64()))
    return table


def _kind_of(field: pa.Field) -> Any:
    from layerhouse.warehouse.render.columns import describe_field

    return RATIO if describe_field(field).kind.name == "ratio" else NUMBER


def _scores(connection: duckdb.DuckDBPyConnection) -> list[Score]:
    """The scores of tasks in model_results, newest run first."""
    with own_sql(connection):
        rows = run_sql(
            connection,
            f"""
            SELECT
                {MODEL_COLUMN},
                score_key(task, metric, filter, n_shot, sample_limit) AS measure,
                task,
                concat(metric, CASE WHEN coalesce(filter, 'none') <> 'none' THEN concat(',', filter) END) AS metric,
                value,
                stderr,
                higher_is_better,
                coalesce(unit = 'fraction', FALSE) AS is_fraction,
                n_shot,
                sample_limit,
                coalesce(is_group, FALSE) AS is_group
            FROM model_results
            WHERE suite IN ('zeroshot', 'fewshot') AND value IS NOT NULL
            ORDER BY run_at DESC NULLS LAST, commit_id DESC, value
            """,
        ).to_pylist()
    return [Score(**row) for row in rows]


def _facts(connection: duckdb.DuckDBPyConnection) -> dict[tuple[str, bool], _Facts]:
    """By `task/metric`, with and without number of shots and cap, and whether it is a group."""
    with own_sql(connection):
        rows = run_sql(
            connection,
            """
            WITH scores AS (
                SELECT
                    score_key(task, metric, filter, NULL, NULL) AS name,
                    score_key(task, metric, filter, n_shot, sample_limit) AS measure,
                    coalesce(is_group, FALSE) AS is_group,
                    coalesce(unit = 'fraction', FALSE) AS is_fraction,
                    higher_is_better
                FROM results
                SEMI JOIN result_links ON result_links.result_id = results.result_id
                WHERE suite IN ('zeroshot', 'fewshot') AND value IS NOT NULL
            ),
            named AS (
                SELECT DISTINCT name, is_group, is_fraction, higher_is_better FROM scores
                UNION
                SELECT DISTINCT measure AS name, is_group, is_fraction, higher_is_better FROM scores
            )
            SELECT
                name,
                is_group,
                bool_and(is_fraction) AS is_fraction,
                list(DISTINCT higher_is_better) AS directions
            FROM named
            GROUP BY name, is_group
            """,
        ).to_pylist()
    return {(row["name"], row["is_group"]): _Facts(row["is_fraction"], frozenset(row["directions"])) for row in rows}


def _own_tasks(table: pa.Table) -> list[_Task]:
    """Every column that a task can have, those of the zero-shot tasks first."""
    models = table[MODEL_COLUMN].to_pylist()
    own = [_Task(name, name, None, _by_model(models, table[name].to_pylist())) for name in ZERO_SHOT_TASKS]
    others, groups = (_by_key(models, table[column].to_pylist()) for column in (_SCORES, _GROUPS))
    for key in sorted(others):
        task, _, metric = key.rpartition("/")
        own.append(_Task(key, task, metric, others[key]))
    for key in sorted(groups):
        task, _, metric = key.rpartition("/")
        own.append(_Task(f"{key}{GROUP_SUFFIX}" if key in others else key, task, metric, groups[key], is_group=True))
    return own


def _by_key(models: Sequence[str], maps: Iterable[Iterable[tuple[str, float]] | None]) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, float]] = {}
    for model, entries in zip(models, maps, strict=True):
        for key, value in entries or ():
            values.setdefault(key, {})[model] = value
    return values


def _tasks_by_metric(connection: duckdb.DuckDBPyConnection, models: Set[str], metrics: Sequence[str]) -> list[_Task]:
    """A column for each task and metric, and for each number of shots and cap if those differ, zero-shot tasks first.

    Of each model the newest value counts.
    """
    scores = [score for score in _scores(connection) if score.metric.partition(",")[0] in metrics and score.model_id in models]
    by_measure: dict[tuple[str, str, bool], dict[tuple[int | None, float | None], dict[str, float]]] = {}
    for score in scores:
        variants = by_measure.setdefault((score.task, score.metric, score.is_group), {})
        variants.setdefault((score.n_shot, score.sample_limit), {}).setdefault(score.model_id, score.value)
    tasks = []
    for (task, metric, is_group), variants in sorted(by_measure.items()):
        for (shots, cap), values in sorted(variants.items(), key=lambda variant: repr(variant[0])):
            variant_name = f" {'?' if shots is None else shots}-shot" if len({shots for shots, _ in variants}) > 1 else ""
            if len({cap for _, cap in variants}) > 1:
                variant_name += " of all" if cap is None else f" capped {cap:g}"
            variant_name += GROUP_SUFFIX if is_group and (task, metric, False) in by_measure else ""
            tasks.append(_Task(f"{task}/{metric}{variant_name}", task, metric, values, is_group))
    return sorted(
        tasks, key=lambda task: ZERO_SHOT_TASKS.index(task.task) if task.task in ZERO_SHOT_TASKS else len(ZERO_SHOT_TASKS)
    )


def _by_model(models: Sequence[str], values: Sequence[float | None]) -> dict[str, float]:
    return {model: value for model, value in zip(models, values, strict=True) if value is not None}


def _matching(globs: Sequence[str], tasks: Sequence[_Task]) -> list[_Task]:
    chosen: dict[str, _Task] = {}
    for glob in globs:
        matching = [task for task in tasks if fnmatch.fnmatchcase(task.task, glob) or fnmatch.fnmatchcase(task.name, glob)]
        if not matching:
            raise NotFoundError("task", glob, tuple(dict.fromkeys(task.task for task in tasks)))
        chosen |= {task.name: task for task in matching}
    return list(chosen.values())


def _field(task: _Task, facts: Mapping[tuple[str, bool], _Facts]) -> pa.Field:
    """The column's field, with notes on its kind and direction if all of its results agree."""
    import pyarrow as pa

    if task.metric is None:
        return pa.field(task.name, pa.float64())
    own = task.facts(facts)
    better = "higher" if own.directions == {True} else "lower" if own.directions == {False} else None
    return annotate_field(pa.field(task.name, pa.float64()), kind=RATIO if own.is_fraction else NUMBER, better=better)
