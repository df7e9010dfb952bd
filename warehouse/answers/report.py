"""What a report shows: the answers of named queries over some models, one row a model and run, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerhouse.errors import UsageError
from layerhouse.warehouse.answers.query import MODEL_NAMES, model_names, query_text, run_of_models, run_query
from layerhouse.warehouse.render.report.page import ReportContent

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

QUERIES = ("summary", "performance", "against_base", "per_layer", "changes", "unit_pruning", "trade_off")
"""The queries that a report answers; it shows their SQL."""

BASES = "SELECT model_id, base_checkpoint_id FROM models ORDER BY model_id"
OF_ALL = ("is_on_front", "dominated_by", "reduction_ratio")
"""Columns of the trade-off that hold for all models together; the page finds the front of those that it shows."""
LEFT_OUT = ("other_scores", "group_scores", "speeds")
"""Columns of the performance table that put many values into one: the results of each model have them one by one."""
RESULTS = """\
SELECT
    model_id,
    variant,
    suite,
    task,
    subset,
    metric,
    value,
    CASE WHEN abs(value_integer) > 9007199254740992 THEN value_integer END AS value_integer,
    stderr,
    unit,
    n_shot,
    n_samples,
    seq_len,
    batch_size,
    hardware,
    status,
    doubt,
    harness,
    source_uri
FROM model_results
ORDER BY model_id, variant NULLS FIRST, harness, suite, task, subset, metric, measure_id
"""
UNITS = ("model_id", "stack", "base_layer_index", "layer_index", "kind", "num_base_units", "num_units", "units_removed")


def asked_of_report() -> str:
    """All SQL that a report runs, for which the session has to have views."""
    return "\n".join((*map(query_text, QUERIES), BASES, RESULTS, MODEL_NAMES))


def report_content(connection: duckdb.DuckDBPyConnection, models: Sequence[str] = ()) -> ReportContent:
    """The tables of a report. `models` are names or globs of the models to keep.

    Raises UsageError for a warehouse without models, and NotFoundError for a glob that no model matches.
    """
    names = model_names(connection)
    if not names:
        raise UsageError("the warehouse has no models, so there is nothing to report")
    answers = {name: run_query(connection, name, models) for name in QUERIES}
    bases, results = (run_of_models(connection, sql, models) for sql in (BASES, RESULTS))
    tables = {
        "models": _models_table(answers["summary"], answers["performance"].drop_columns([*LEFT_OUT]), answers["against_base"]),
        "layers": answers["per_layer"],
        "trade_off": _joined(answers["trade_off"].drop_columns([*OF_ALL]), bases, ("model_id",)),
        "changes": answers["changes"],
        "units": _units_table(answers["unit_pruning"]),
        "results": results,
    }
    return ReportContent(tables, names, {name: query_text(name) for name in QUERIES})


def _models_table(summary: pa.Table, performance: pa.Table, against_base: pa.Table) -> pa.Table:
    """One row for each model, or for each run of a model without a plain one, with the columns of three queries."""
    import pyarrow as pa

    runs = performance.select(["model_id", "variant"])
    counted = runs["model_id"].to_pylist()
    missing = [name for name in summary["model_id"].to_pylist() if name not in {*counted}]
    lacking = pa.table({"model_id": pa.array(missing, pa.string()), "variant": pa.nulls(len(missing), runs["variant"].type)})
    rows = pa.concat_tables([runs.cast(lacking.schema), lacking]).sort_by([("model_id", "ascending")])
    for table, keys in (
        (summary, ("model_id",)),
        (performance, ("model_id", "variant")),
        (against_base, ("model_id", "variant")),
    ):
        rows = _joined(rows, table, keys)
    names = [name for name in rows.column_names if name != "variant"]
    return rows.select([names[0], "variant", *names[1:]])


def _joined(left: pa.Table, right: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The rows of a table with the columns that it lacks from the row of another one with the same keys, or null."""
    positions: dict[tuple[Any, ...], int] = {}
    for position, key in enumerate(_keys(right, keys)):
        positions.setdefault(key, position)
    import pyarrow as pa

    taken = right.take(pa.array([positions.get(key) for key in _keys(left, keys)], pa.int64()))
    for field in right.schema:
        if field.name not in left.column_names:
            left = left.append_column(field, taken[field.name])
    return left


def _keys(table: pa.Table, names: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def _units_table(units: pa.Table) -> pa.Table:
    """Units that a block has few of: neurons, thousands a block, are counted in the layers alone."""
    import pyarrow.compute as pc

    return units.filter(pc.not_equal(units["kind"], "neuron")).select(UNITS)
