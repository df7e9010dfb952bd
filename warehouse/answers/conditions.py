"""What is to be said beside the rows of performance: what the values of a column share, and which values are left blank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from layerhouse.warehouse.answers.query import MODEL_COLUMN
from layerhouse.warehouse.answers.selection import Answer
from layerhouse.warehouse.answers.task_columns import GROUP_SUFFIX, IS_ASKED, Run, of_runs

if TYPE_CHECKING:
    import duckdb

_Conditions = Mapping[str, Mapping[str | None, int]]
"""By column, the number of its values for each condition; the condition None is that nothing is to be said of a value."""


def shared_conditions(connection: duckdb.DuckDBPyConnection, answer: Answer) -> tuple[str, ...]:
    """What the names of the columns shown do not say of their values, such as `ppl_wikitext2: context 2048`.

    Columns of one condition are named together. A condition that some values alone have says of how many.
    """
    conditions = {**_of_columns(connection, answer.runs), **_of_tasks(answer)}
    columns: dict[str, list[str]] = {}
    for name in answer.table.column_names:
        counts = conditions.get(name, {})
        total = sum(counts.values())
        for condition, count in sorted((text, count) for text, count in counts.items() if text is not None):
            columns.setdefault(condition if count == total else f"{condition} ({count} of {total})", []).append(name)
    return tuple(f"{', '.join(names)}: {condition}" for condition, names in columns.items())


def count_blanks(connection: duckdb.DuckDBPyConnection, runs: Iterable[Run]) -> tuple[int, int]:
    """How many measures of these runs have several values of one time, and how many are of doubtful scale."""
    sql = f"""
        SELECT count(*) FILTER (WHERE is_conflict), count(*) FILTER (WHERE is_doubtful)
        FROM run_measures {IS_ASKED}
        WHERE is_conflict OR is_doubtful
    """
    [(num_conflicts, num_doubtful)] = of_runs(connection, runs, sql)
    return num_conflicts, num_doubtful


def count_models_with_hidden_runs(connection: duckdb.DuckDBPyConnection, runs: Iterable[Run]) -> int:
    """How many models of these runs have values of other runs, which are in the table of variants alone."""
    sql = f"""
        SELECT count(DISTINCT {MODEL_COLUMN})
        FROM run_measures
        WHERE NOT is_shown AND {MODEL_COLUMN} IN (SELECT {MODEL_COLUMN} FROM asked_runs)
    """
    [(count,)] = of_runs(connection, runs, sql)
    return int(count)


def _of_columns(connection: duckdb.DuckDBPyConnection, runs: Iterable[Run]) -> _Conditions:
    """Of the columns of perplexities and zero-shot tasks."""
    sql = f"""
        SELECT column_name, condition, count(*)
        FROM run_measures {IS_ASKED}
        WHERE column_name IS NOT NULL AND value IS NOT NULL AND NOT is_doubtful
        GROUP BY column_name, condition
    """
    conditions: dict[str, dict[str | None, int]] = {}
    for name, condition, count in of_runs(connection, runs, sql):
        conditions.setdefault(name, {})[condition] = count
    return conditions


def _of_tasks(answer: Answer) -> _Conditions:
    """Of the columns of tasks; a name that is shorter than the text of the measure has that text as a condition."""
    conditions = {}
    for task in answer.tasks:
        known = [value for run in answer.runs if (value := answer.values[task.name].get(run)) is not None]
        is_short = task.name.removesuffix(GROUP_SUFFIX) != task.measure
        texts = [", ".join(filter(None, (task.measure if is_short else None, value.condition))) or None for value in known]
        conditions[task.name] = Counter(texts)
    return conditions
