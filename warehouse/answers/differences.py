"""Two warehouses side by side: the models, structures, layers and scores that differ, one row for each difference.

Models are the same if their names are. Of a model that only one warehouse has its content is shown, by which a renamed model
is found, and nothing further; a layer or score of one side alone is one row. Values are compared as their exact texts, so that
no count is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import duckdb

from layerhouse.warehouse.answers.query import keep_models, own_sql, run_sql
from layerhouse.warehouse.answers.reach import lock, memory_limit, new_connection

if TYPE_CHECKING:
    import pyarrow as pa

STRUCTURE_COLUMNS = (
    *("checkpoint_id", "source_kind", "params", "zeros", "nonzero_params", "embedding_params", "lm_head_params"),
    *("num_layers", "layer_params", "logical_bytes", "base_checkpoint_id", "base_params", "removed_layers"),
)
LAYER_COLUMNS = (
    *("params", "attention_params", "mlp_params", "norm_params", "zeros", "num_heads", "num_kv_heads", "head_dim"),
    *("intermediate_size", "num_experts", "hidden_size"),
)
SCORE_COLUMNS = ("value", "stderr")

MODELS = """
SELECT
    models.model_id,
    'structure' AS subject,
    CAST(NULL AS VARCHAR) AS item,
    0 AS position,
    models.checkpoint_id,
    models.source_kind,
    models.params,
    current_checkpoints.zeros,
    models.nonzero_params,
    models.embedding_params,
    models.lm_head_params,
    models.num_layers,
    models.layer_params,
    current_checkpoints.logical_bytes,
    models.base_checkpoint_id,
    models.base_params,
    models.removed_layers
FROM models
LEFT JOIN current_checkpoints ON current_checkpoints.model_id = models.model_id
"""
LAYERS = """
SELECT
    current_checkpoints.model_id,
    'layer' AS subject,
    concat(layers.stack, ' ', layers.layer_index) AS item,
    layers.layer_index AS position,
    layers.* EXCLUDE (layer_index)
FROM layers
JOIN current_checkpoints ON current_checkpoints.checkpoint_id = layers.checkpoint_id
"""
SCORES = """
SELECT
    model_id,
    'score' AS subject,
    concat_ws(' ', kind, measure, '[' || variant || ']') AS item,
    0 AS position,
    value,
    stderr
FROM measures
"""
PARTS = ((MODELS, STRUCTURE_COLUMNS), (LAYERS, LAYER_COLUMNS), (SCORES, SCORE_COLUMNS))
VALUES = """
SELECT
    model_id,
    subject,
    item,
    position,
    unnest({names}) AS field,
    unnest({values}) AS value
FROM ({part})
"""
DIFFERENCES = """
WITH models_of_both AS MATERIALIZED (
    SELECT DISTINCT first_rows.model_id
    FROM first_rows
    JOIN second_rows ON second_rows.model_id = first_rows.model_id
),
first_items AS MATERIALIZED (
    SELECT DISTINCT
        model_id,
        subject,
        coalesce(item, '') AS item,
        position
    FROM first_rows
),
second_items AS MATERIALIZED (
    SELECT DISTINCT
        model_id,
        subject,
        coalesce(item, '') AS item,
        position
    FROM second_rows
),
absent_items AS (
    SELECT
        coalesce(first_items.model_id, second_items.model_id) AS model_id,
        coalesce(first_items.subject, second_items.subject) AS subject,
        coalesce(first_items.item, second_items.item) AS item,
        coalesce(first_items.position, second_items.position) AS position,
        second_items.model_id IS NULL AS is_in_first
    FROM first_items
    FULL JOIN second_items
        ON second_items.model_id = first_items.model_id
        AND second_items.subject = first_items.subject
        AND second_items.item = first_items.item
    WHERE first_items.model_id IS NULL OR second_items.model_id IS NULL
),
differences AS (
    SELECT
        absent_items.model_id,
        absent_items.subject,
        absent_items.item,
        absent_items.position,
        CASE WHEN absent_items.is_in_first THEN 'only in first' ELSE 'only in second' END AS difference,
        CAST(NULL AS VARCHAR) AS field,
        CAST(NULL AS VARCHAR) AS first_value,
        CAST(NULL AS VARCHAR) AS second_value
    FROM absent_items
    SEMI JOIN models_of_both ON models_of_both.model_id = absent_items.model_id
    UNION ALL
    SELECT
        absent_items.model_id,
        'model' AS subject,
        CAST(NULL AS VARCHAR) AS item,
        0 AS position,
        CASE WHEN absent_items.is_in_first THEN 'only in first' ELSE 'only in second' END AS difference,
        'checkpoint_id' AS field,
        first_rows.value AS first_value,
        second_rows.value AS second_value
    FROM absent_items
    LEFT JOIN first_rows
        ON first_rows.model_id = absent_items.model_id
        AND first_rows.field = 'checkpoint_id'
    LEFT JOIN second_rows
        ON second_rows.model_id = absent_items.model_id
        AND second_rows.field = 'checkpoint_id'
    WHERE
        absent_items.subject = 'structure'
        AND absent_items.model_id NOT IN (SELECT model_id FROM models_of_both)
    UNION ALL
    SELECT
        first_rows.model_id,
        first_rows.subject,
        first_rows.item,
        first_rows.position,
        'differs' AS difference,
        first_rows.field,
        first_rows.value AS first_value,
        second_rows.value AS second_value
    FROM first_rows
    JOIN second_rows
        ON second_rows.model_id = first_rows.model_id
        AND second_rows.subject = first_rows.subject
        AND second_rows.item IS NOT DISTINCT FROM first_rows.item
        AND second_rows.field = first_rows.field
    WHERE second_rows.value IS DISTINCT FROM first_rows.value
)
SELECT
    model_id,
    subject,
    item,
    difference,
    field,
    first_value,
    second_value
FROM differences
ORDER BY
    model_id,
    list_position(['model', 'structure', 'layer', 'score'], subject),
    position,
    item,
    list_position({fields}, field)
"""


def asked_of_each() -> str:
    """All SQL that comparing asks of a warehouse."""
    return "\n".join(part for part, _ in PARTS)


def differences(first: duckdb.DuckDBPyConnection, second: duckdb.DuckDBPyConnection, models: Sequence[str] = ()) -> pa.Table:
    """The differences between two warehouses, of models that match one of the globs. Raises NotFoundError for a glob that no
    model of either matches."""
    sides = {"first_rows": first, "second_rows": second}
    tables = {}
    for name, connection in sides.items():
        with own_sql(connection):
            tables[name] = run_sql(connection, "\nUNION ALL\n".join(_values(*part) for part in PARTS))
    fields = [*dict.fromkeys((*STRUCTURE_COLUMNS, *LAYER_COLUMNS, *SCORE_COLUMNS))]
    with new_connection(memory=memory_limit()) as session:
        for name, table in tables.items():
            session.register(name, table)
        lock(session)
        compared = run_sql(session, DIFFERENCES.format(fields=fields))
    names = {name for table in tables.values() for name in table["model_id"].unique().to_pylist()}
    return keep_models(compared, names, models) if models else compared


def _values(part: str, columns: Sequence[str]) -> str:
    """The rows of a part in long form: a row for each column, with its value as text."""
    values = ", ".join(f"CAST({column} AS VARCHAR)" for column in columns)
    return VALUES.format(part=part, names=[*columns], values=f"[{values}]")
