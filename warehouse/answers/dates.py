"""The summary at two times side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from layerhouse.warehouse.answers.query import keep_models, own_sql, run_sql
from layerhouse.warehouse.answers.reach import lock, memory_limit, new_connection

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

MODELS = "SELECT * FROM models"
SIDE_BY_SIDE = """
SELECT
    coalesce(now.model_id, earlier.model_id) AS model_id,
    CASE
        WHEN earlier.model_id IS NULL THEN 'new'
        WHEN now.model_id IS NULL THEN 'gone'
        WHEN now.checkpoint_id IS DISTINCT FROM earlier.checkpoint_id THEN 'other weights'
        WHEN now.base_checkpoint_id IS DISTINCT FROM earlier.base_checkpoint_id THEN 'other base'
        ELSE 'unchanged'
    END AS change,
    earlier.params AS earlier_params,
    now.params,
    now.params - earlier.params AS params_change,
    earlier.reduction_ratio AS earlier_reduction_ratio,
    now.reduction_ratio,
    coalesce(now.stack, earlier.stack) AS stack,
    earlier.num_layers AS earlier_num_layers,
    now.num_layers,
    earlier.removed_layers AS earlier_removed_layers,
    now.removed_layers,
    earlier.sparsity AS earlier_sparsity,
    now.sparsity,
    earlier.strategy AS earlier_strategy,
    now.strategy
FROM now
FULL JOIN earlier ON earlier.model_id = now.model_id
ORDER BY coalesce(now.model_id, earlier.model_id);
"""


def summary_since(earlier: duckdb.DuckDBPyConnection, now: duckdb.DuckDBPyConnection, models: Sequence[str] = ()) -> pa.Table:
    """One row for each model of either session: what it was, what it is now, and how it changed.

    `models` are globs of the models to keep. Raises NotFoundError for a glob that no model matches.
    """
    with own_sql(now):
        tables = {"earlier": run_sql(earlier, MODELS), "now": run_sql(now, MODELS)}
    with new_connection(memory=memory_limit()) as session:
        session.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            session.register(name, table)
        lock(session)
        compared = run_sql(session, SIDE_BY_SIDE)
    return keep_models(compared, compared["model_id"].to_pylist(), models) if models else compared
