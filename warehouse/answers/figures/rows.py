"""The rows behind figures, as far as they are not those of a named query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.warehouse.answers.comparing import LAYERS
from layerhouse.warehouse.answers.query import MODEL_NAMES, counted_by, own_sql, run_of_models, run_sql
from layerhouse.warehouse.answers.selection import Selection, select_rows, select_table
from layerhouse.warehouse.answers.sql_text import quote_identifier, quote_literal

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Rows = list[dict[str, Any]]


class Source(Protocol):
    """What rows are asked of: a warehouse that is open."""

    def connection_for(self, sql: str | None = None) -> duckdb.DuckDBPyConnection:
        """The session with the views that some SQL needs."""


MODELS = """
SELECT
    model_id,
    method,
    base_checkpoint_id,
    stack,
    retention_mean,
    nonzero_retention_mean,
    bytes_retention_mean,
    macs_retention_mean,
    prunable_sparsity
FROM models
ORDER BY model_id
"""

MEAN_COLUMNS = {
    "params": "retention_mean",
    "nonzero": "nonzero_retention_mean",
    "bytes": "bytes_retention_mean",
    "macs": "macs_retention_mean",
}
"""The mean over the layers of what is kept, by what it is counted in."""

UNITS = """
WITH counts AS (
    SELECT
        model_id,
        stack,
        base_layer_index,
        layer_index,
        match,
        unnest(
            [
                {'kind': 'head', 'own': num_heads, 'base': base_num_heads},
                {'kind': 'kv_group', 'own': num_kv_heads, 'base': base_num_kv_heads},
                {'kind': 'neuron', 'own': intermediate_size, 'base': base_intermediate_size},
                {'kind': 'expert', 'own': num_experts, 'base': NULL}
            ],
            recursive := TRUE
        )
    FROM layer_pruning
)
SELECT
    counts.model_id,
    counts.stack,
    counts.base_layer_index,
    counts.layer_index,
    counts.match,
    counts.kind,
    coalesce(kept_units.num_units, counts.own) AS num_units,
    coalesce(kept_units.num_base_units, counts.base) AS num_base_units,
    kept_units.units_kept
FROM counts
LEFT JOIN kept_units
    ON kept_units.model_id = counts.model_id
    AND kept_units.stack = counts.stack
    AND kept_units.base_layer_index = counts.base_layer_index
    AND kept_units.layer_index IS NOT DISTINCT FROM counts.layer_index
    AND kept_units.kind = counts.kind
ORDER BY
    counts.model_id,
    stack_rank(counts.stack),
    counts.stack,
    counts.base_layer_index NULLS LAST,
    counts.layer_index NULLS LAST,
    counts.kind
"""

ROLES = """
WITH chosen_layers AS MATERIALIZED (
    SELECT
        model_id,
        checkpoint_id,
        base_checkpoint_id,
        stack,
        base_layer_index,
        layer_index,
        match,
        is_removed
    FROM layer_pruning
    WHERE model_id = {model}
),
chosen_checkpoints AS MATERIALIZED (
    SELECT checkpoint_id FROM chosen_layers
    UNION
    SELECT base_checkpoint_id AS checkpoint_id FROM chosen_layers
),
weights AS MATERIALIZED (
    SELECT tensors.*
    FROM tensors
    SEMI JOIN chosen_checkpoints ON chosen_checkpoints.checkpoint_id = tensors.checkpoint_id
    WHERE
        tensors.layer_index IS NOT NULL
        AND tensors.module IN ('attention', 'mlp', 'expert', 'ssm', 'router')
        AND tensors.part IS DISTINCT FROM 'bias'
        AND tensors.params > 0
),
sizes AS MATERIALIZED (
    SELECT
        checkpoint_id,
        stack,
        layer_index,
        role,
        sum(params) AS params,
        CASE WHEN count(zeros) = count(*) THEN sum(zeros) END AS zeros,
        sum(logical_bytes) AS logical_bytes,
        CASE
            WHEN count(tensor_macs(module, role, part, params, is_active)) = count(*)
                THEN sum(tensor_macs(module, role, part, params, is_active))
        END AS macs,
        median(alpha) AS alpha,
        median(stable_rank) AS stable_rank,
        median(effective_rank) AS effective_rank,
        median(spectral_norm) AS spectral_norm
    FROM weights
    GROUP BY checkpoint_id, stack, layer_index, role
    UNION ALL BY NAME
    SELECT
        checkpoint_id,
        stack,
        layer_index,
        entry.key AS role,
        entry.value AS params
    FROM (
        SELECT
            checkpoint_id,
            stack,
            layer_index,
            unnest(map_entries(role_params)) AS entry
        FROM layers
        SEMI JOIN chosen_checkpoints ON chosen_checkpoints.checkpoint_id = layers.checkpoint_id
        ANTI JOIN weights ON weights.checkpoint_id = layers.checkpoint_id
    ) AS entries
),
own_sizes AS (
    SELECT
        chosen_layers.*,
        sizes.* EXCLUDE (checkpoint_id, stack, layer_index)
    FROM chosen_layers
    JOIN sizes
        ON sizes.checkpoint_id = chosen_layers.checkpoint_id
        AND sizes.stack = chosen_layers.stack
        AND sizes.layer_index = chosen_layers.layer_index
),
base_sizes AS (
    SELECT
        chosen_layers.*,
        sizes.* EXCLUDE (checkpoint_id, stack, layer_index)
    FROM chosen_layers
    JOIN sizes
        ON sizes.checkpoint_id = chosen_layers.base_checkpoint_id
        AND sizes.stack = chosen_layers.stack
        AND sizes.layer_index = chosen_layers.base_layer_index
),
known_models AS (
    SELECT
        count(*) FILTER (WHERE layer_index IS NOT NULL) AS num_layers,
        (SELECT count(DISTINCT (stack, layer_index)) FROM own_sizes) AS num_sized
    FROM chosen_layers
),
pairs AS (
    SELECT
        coalesce(own.model_id, bases.model_id) AS model_id,
        coalesce(own.stack, bases.stack) AS stack,
        coalesce(own.base_layer_index, bases.base_layer_index) AS base_layer_index,
        coalesce(own.layer_index, bases.layer_index) AS layer_index,
        coalesce(own.match, bases.match) AS match,
        coalesce(own.role, bases.role) AS role,
        coalesce(own.is_removed, bases.is_removed) AS is_removed,
        CASE WHEN own.role IS NULL AND known_models.num_sized > 0 THEN 0 ELSE own.params END AS params,
        own.params - own.zeros AS own_nonzero,
        CASE WHEN own.role IS NULL AND known_models.num_sized > 0 THEN 0 ELSE own_nonzero END AS nonzero,
        CASE WHEN own.role IS NULL AND known_models.num_sized > 0 THEN 0 ELSE own.logical_bytes END AS logical_bytes,
        CASE WHEN own.role IS NULL AND known_models.num_sized > 0 THEN 0 ELSE own.macs END AS macs,
        bases.params AS base_params,
        bases.params - bases.zeros AS base_nonzero,
        bases.logical_bytes AS base_logical_bytes,
        bases.macs AS base_macs,
        own.zeros / own.params AS sparsity,
        own.alpha,
        own.stable_rank,
        own.effective_rank,
        own.spectral_norm
    FROM own_sizes AS own
    FULL JOIN base_sizes AS bases
        ON bases.stack = own.stack
        AND bases.role = own.role
        AND bases.base_layer_index = own.base_layer_index
        AND bases.layer_index IS NOT DISTINCT FROM own.layer_index
    CROSS JOIN known_models
)
SELECT
    model_id,
    stack,
    base_layer_index,
    layer_index,
    match,
    role,
    params,
    sparsity,
    alpha,
    stable_rank,
    effective_rank,
    spectral_norm,
    kept_measure(count(nonzero / nullif(base_nonzero, 0)) OVER (), count(params / nullif(base_params, 0)) OVER ()) AS kept_by,
    by_measure(
        kept_by,
        params / nullif(base_params, 0),
        nonzero / nullif(base_nonzero, 0),
        logical_bytes / nullif(base_logical_bytes, 0),
        macs / nullif(base_macs, 0)
    ) AS kept_share
FROM pairs
ORDER BY
    stack_rank(stack),
    stack,
    base_layer_index NULLS LAST,
    layer_index NULLS LAST,
    role
"""
"""The weights of one model by layer and role, beside those of its base. Removed blocks have rows of the roles of their base."""

SPECTRAL_COLUMNS = ("alpha", "stable_rank", "effective_rank", "spectral_norm")
SPECTRA = """
WITH placed_layers AS (
    SELECT
        layer_pruning.model_id,
        layer_pruning.checkpoint_id,
        layer_pruning.stack,
        layer_pruning.layer_index,
        coalesce(layer_pruning.base_layer_index, layer_pruning.layer_index) AS block
    FROM layer_pruning
    JOIN models
        ON models.model_id = layer_pruning.model_id
        AND models.stack = layer_pruning.stack
    WHERE layer_pruning.layer_index IS NOT NULL
)
SELECT
    placed_layers.model_id,
    placed_layers.block,
    median(tensors.{column}) AS value,
    min(tensors.{column}) AS least,
    max(tensors.{column}) AS greatest
FROM placed_layers
JOIN tensors
    ON tensors.checkpoint_id = placed_layers.checkpoint_id
    AND tensors.stack = placed_layers.stack
    AND tensors.layer_index = placed_layers.layer_index
WHERE tensors.module IN ('attention', 'mlp', 'expert', 'ssm')
GROUP BY placed_layers.model_id, placed_layers.block
ORDER BY placed_layers.model_id, placed_layers.block
"""


def query_rows(wh: Source, name: str, selection: Selection) -> Rows:
    """The selected rows of a named query."""
    rows: Rows = select_table(wh.connection_for(selection.asked_sql(name)), name, selection).to_pylist()
    return rows


def own_rows(wh: Source, sql: str, selection: Selection) -> Rows:
    """The selected rows of SQL of layerhouse itself. Raises NotFoundError and UsageError as a query does."""
    connection = wh.connection_for(f"{sql}\n{MODELS}\n{MODEL_NAMES}")
    with counted_by(connection, selection.by):
        table: pa.Table = run_of_models(connection, sql, selection.models)
    rows: Rows = select_rows(connection, table, selection).to_pylist()
    return rows


def layer_rows(wh: Source, selection: Selection) -> Rows:
    """The layers of models; what is kept is counted in the measure that is known of each model."""
    return own_rows(wh, LAYERS, selection)


def role_rows(wh: Source, model: str, selection: Selection) -> Rows:
    """The weights of a model by layer and role."""
    return own_rows(wh, ROLES.format(model=quote_literal(model)), selection)


def spectrum_rows(wh: Source, column: str, selection: Selection) -> Rows:
    """A number of the spectra by model and block. Raises UsageError for a column that is none."""
    if column not in SPECTRAL_COLUMNS:
        raise UsageError(f"no measure {column!r} of spectra; there is {', '.join(SPECTRAL_COLUMNS)}")
    return own_rows(wh, SPECTRA.format(column=column), selection)


def model_rows(wh: Source) -> dict[str, dict[str, Any]]:
    """What figures need of every model, by its name."""
    return {row["model_id"]: row for row in own_rows(wh, MODELS, Selection())}


def with_columns(wh: Source, rows: Rows, columns: Sequence[str]) -> Rows:
    """Rows of models with those columns of the views performance and models that they lack. Raises NotFoundError.

    A column of performance is that of the same run; a row without a variant has none where its model has several runs.
    """
    missing = [column for column in dict.fromkeys(columns) if rows and column not in rows[0]]
    known: set[str] = {*rows[0]} if rows else set()
    for view, key in (("performance", ("model_id", "variant")), ("models", ("model_id",))):
        if not missing:
            break
        connection = wh.connection_for(f"SELECT * FROM {view}")
        with own_sql(connection):
            names = run_sql(connection, f"SELECT * FROM {view} LIMIT 0").column_names
        known |= {*names}
        chosen = [column for column in missing if column in names]
        missing = [column for column in missing if column not in names]
        if chosen:
            listed = ", ".join(map(quote_identifier, [*key, *chosen]))
            with own_sql(connection):
                found = run_sql(connection, f"SELECT {listed} FROM {view} ORDER BY {', '.join(key)}").to_pylist()
            rows = _joined(rows, found, key, chosen)
    if missing:
        raise NotFoundError("column of models", missing[0], tuple(sorted(known)))
    return rows


def _joined(rows: Rows, found: Rows, key: Sequence[str], columns: Sequence[str]) -> Rows:
    """Rows with columns of the one row found that has the same key, as far as they have it; else with None."""
    shared = [name for name in key if name in rows[0]]
    groups: dict[tuple[Any, ...], Rows] = {}
    for other in found:
        groups.setdefault(tuple(other[name] for name in shared), []).append(other)
    joined = []
    for row in rows:
        matches = groups.get(tuple(row[name] for name in shared), [])
        joined.append({**row, **{column: matches[0][column] if len(matches) == 1 else None for column in columns}})
    return joined
