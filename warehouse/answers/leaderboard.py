"""Rows of the performance table beside each other: which have every task, their ranks, their differences from the base.

Values count as the decimal numbers that csv shows; ranks and differences of them are exact until they are rounded once.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from layerhouse.errors import UsageError
from layerhouse.warehouse.answers.query import MODEL_COLUMN, run_query
from layerhouse.warehouse.answers.task_columns import (
    ERROR_SUFFIX,
    VARIANT_COLUMN,
    Run,
    Task,
    TaskTable,
    TaskValue,
    Values,
    add_after,
    read_values,
    runs_of,
)
from layerhouse.warehouse.render.columns import annotate_field

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MEAN_RANK, NUM_RANKED = "mean_rank", "n_ranked"
DELTA_SUFFIX, BEYOND_SUFFIX = "_delta", "_beyond_2se"
_BASE_COLUMN = "base_model_id"
_Difference = tuple[float | None, float | None, bool | None]
"""A difference, its standard error, and whether it is more than two of them; None where not known."""
_UNKNOWN: _Difference = (None, None, None)


def complete_rows(table: pa.Table, tasks: Sequence[Task]) -> pa.Table:
    """The rows that have a value of every task."""
    import pyarrow as pa

    columns = [table[task.name].to_pylist() for task in tasks]
    return table.filter(pa.array([None not in row for row in zip(*columns, strict=True)], pa.bool_()))


def rank_rows(table: pa.Table, tasks: Sequence[Task]) -> pa.Table:
    """The table with `mean_rank` and `n_ranked` after the model, from the tasks of which it is known what is better.

    Rank 1 is the best value of a task; equal values share the mean of their ranks; a row without a value has no rank there.
    Raises UsageError if there is no task to rank by.
    """
    import pyarrow as pa

    ranked = [task for task in tasks if task.better is not None]
    if not ranked:
        raise UsageError("--rank: of no task shown it is known whether more or less of it is better")
    doubled = [_doubled_ranks(table[task.name].to_pylist(), task) for task in ranked]
    rows = [[rank for rank in row if rank is not None] for row in zip(*doubled, strict=True)]
    means = [sum(row) / (2 * len(row)) if row else None for row in rows]
    at = table.column_names.index(MODEL_COLUMN) + 1
    table = table.add_column(at, pa.field(MEAN_RANK, pa.float64()), pa.array(means, pa.float64()))
    field = annotate_field(pa.field(NUM_RANKED, pa.int64()), total=len(ranked))
    return table.add_column(at + 1, field, pa.array([len(row) for row in rows], pa.int64()))


def unranked_tasks(tasks: Iterable[Task]) -> tuple[str, ...]:
    """Tasks that have no ranks, as no file says, or files contradict each other, whether more or less of it is better."""
    return tuple(task.name for task in tasks if task.better is None)


def _doubled_ranks(values: Sequence[float | None], task: Task) -> list[int | None]:
    """Twice the rank of each value, which is an integer also for the mean rank of equal values."""
    sign = -1 if task.higher_is_better else 1
    ordered = sorted(sign * value for value in values if value is not None)
    return [
        None if value is None else bisect_left(ordered, sign * value) + bisect_right(ordered, sign * value) + 1
        for value in values
    ]


def add_differences(connection: duckdb.DuckDBPyConnection, shown: TaskTable) -> pa.Table:
    """The table with columns after each task, and after their mean: the difference from the base, its standard error, and
    whether it is beyond two of them.

    A plain run is compared with the plain run of its base in the same variant, by the same measure; all other rows have null.
    Errors of own value and base count as independent. The mean has an error where every task has.
    """
    table, runs = shown.table, runs_of(shown.table)
    bases = _base_runs(connection, runs)
    base_values = read_values(connection, shown.tasks, bases.values(), is_plain=True)
    pairs = {task.name: _pairs(shown.values[task.name], base_values[task.name], bases, runs) for task in shown.tasks}
    for task in shown.tasks:
        found = [_difference([pair]) for pair in pairs[task.name]]
        table = _with_differences(table, task, found, has_errors=task.name + ERROR_SUFFIX in table.column_names)
    if shown.mean is not None:
        rows = list(zip(*pairs.values(), strict=True))
        mean = replace(shown.tasks[0], name=shown.mean, is_fraction=True, higher_is_better=True)
        table = _with_differences(table, mean, [_difference(row) for row in rows], has_errors=False)
    return table


def _base_runs(connection: duckdb.DuckDBPyConnection, runs: Sequence[Run]) -> dict[Run, Run]:
    """The run of its base that each plain run is compared with; a model that is its own base has none."""
    compared = run_query(connection, "against_base").select([MODEL_COLUMN, VARIANT_COLUMN, _BASE_COLUMN]).to_pylist()
    bases = {(row[MODEL_COLUMN], row[VARIANT_COLUMN]): row[_BASE_COLUMN] for row in compared}
    return {run: (bases[run], run[1]) for run in runs if run in bases and bases[run] != run[0]}


_Pair = tuple[TaskValue, TaskValue] | None


def _pairs(own: Values, base: Values, bases: Mapping[Run, Run], runs: Sequence[Run]) -> list[_Pair]:
    """Own value and base's of each run, where both are known and of one measure."""
    pairs: list[_Pair] = []
    for run in runs:
        value, other = own.get(run), base.get(bases[run]) if run in bases else None
        pairs.append((value, other) if value and other and value.measure_key == other.measure_key else None)
    return pairs


def _difference(pairs: Sequence[_Pair]) -> _Difference:
    """The mean difference over tasks, of all of which both values have to be known."""
    known = [pair for pair in pairs if pair is not None and all(math.isfinite(value.value) for value in pair)]
    if len(known) < len(pairs):
        return _UNKNOWN
    total = sum((_exact(own.value) - _exact(base.value) for own, base in known), Fraction(0))
    errors = [value.stderr for pair in known for value in pair]
    stated = [error for error in errors if error is not None and math.isfinite(error)]
    if len(stated) < len(errors):
        return float(total / len(known)), None, None
    variance = sum((_exact(error) ** 2 for error in stated), Fraction(0))
    return float(total / len(known)), math.hypot(*stated) / len(known), total**2 > 4 * variance


def _exact(value: float) -> Fraction:
    return Fraction(repr(value))


def _with_differences(table: pa.Table, task: Task, found: Sequence[_Difference], *, has_errors: bool) -> pa.Table:
    """The table with the three columns of a task's differences after its own."""
    import pyarrow as pa

    deltas, errors, are_beyond = zip(*found, strict=True) if found else ((), (), ())
    name = task.name + DELTA_SUFFIX
    at = table.column_names.index(task.name) + (2 if has_errors else 1)
    field = annotate_field(pa.field(name, pa.float64()), kind=task.kind, better=task.better, is_signed=True)
    table = table.add_column(at, field, pa.array(deltas, pa.float64()))
    table = add_after(table, name, name + ERROR_SUFFIX, errors, task.kind)
    return table.add_column(at + 2, task.name + BEYOND_SUFFIX, pa.array(are_beyond, pa.bool_()))
