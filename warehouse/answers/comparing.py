"""A model and its base: whether the warehouse has compared the two, and the picture of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.warehouse.answers.query import (
    counted_by,
    keep_models,
    model_names,
    own_sql,
    run_sql,
)
from layerhouse.warehouse.render.picture import layer_picture

MODELS = "SELECT * FROM models ORDER BY model_id"
BASE_NAMES = """
SELECT models.model_id, coalesce(min(bases.model_id), min(checkpoints.declared_name), min(checkpoints.source_uri)) AS base_name
FROM models
LEFT JOIN models AS bases ON bases.checkpoint_id = models.base_checkpoint_id
LEFT JOIN checkpoints ON checkpoints.checkpoint_id = models.base_checkpoint_id
WHERE models.base_checkpoint_id <> models.checkpoint_id
GROUP BY models.model_id
ORDER BY models.model_id
"""


LAYERS = """
SELECT
    layer_pruning.*,
    kept_measure(
        count(layer_pruning.nonzero_retention) OVER (PARTITION BY layer_pruning.model_id),
        count(layer_pruning.retention) OVER (PARTITION BY layer_pruning.model_id)
    ) AS kept_by,
    by_measure(kept_by, retention, nonzero_retention, bytes_retention, macs_retention) AS kept_share,
    layer_level(
        is_removed,
        is_zero_layer,
        by_measure(
            kept_by,
            reduction_ratio,
            reduction(base_nonzero_params, nonzero_params),
            reduction(base_logical_bytes, logical_bytes),
            reduction(base_macs_per_token, macs_per_token)
        )
    ) AS kept_level,
    layer_changes.changes,
    layer_changes.is_unchanged
FROM layer_pruning
LEFT JOIN layer_changes
    ON layer_changes.model_id = layer_pruning.model_id
    AND layer_changes.stack = layer_pruning.stack
    AND layer_changes.layer_index = layer_pruning.layer_index
ORDER BY
    layer_pruning.model_id,
    stack_rank(layer_pruning.stack),
    layer_pruning.stack,
    layer_pruning.base_layer_index NULLS LAST,
    layer_pruning.layer_index NULLS LAST
"""
"""The layers of every model as they are drawn; what each picture is counted in is chosen for itself."""
PICTURE_SQL = "\n".join((MODELS, BASE_NAMES, LAYERS))
"""All SQL of a picture: what a session has to make views for."""


def pictures(
    connection: duckdb.DuckDBPyConnection, globs: Sequence[str], *, is_unicode: bool, by: str | None = None
) -> list[str]:
    """The picture of each model that matches a glob and has a base other than itself, in the order of names.

    `by` is what they count in, of KeptBy; without it parameters that are not zero where these are known of all layers.
    """
    with own_sql(connection), counted_by(connection, by):
        base_names = dict(run_rows(connection, BASE_NAMES))
        models = keep_models(connection, run_sql(connection, MODELS), globs or ("*",)).to_pylist()
        layers = keep_models(connection, run_sql(connection, LAYERS), globs or ("*",)).to_pylist()
    by_model: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        by_model.setdefault(layer["model_id"], []).append(layer)
    return [
        layer_picture(
            model | {"kept_by": by_model[model["model_id"]][0]["kept_by"]},
            by_model[model["model_id"]],
            base_name=base_names[model["model_id"]] or "its base",
            is_unicode=is_unicode,
        )
        for model in models
        if model["model_id"] in base_names and model["model_id"] in by_model
    ]


def require_pair(connection: duckdb.DuckDBPyConnection, model: str, base: str | None) -> None:
    """Raise NotFoundError for an unknown model or base, and UsageError with advice unless the two were compared last."""
    names = model_names(connection)
    for name, kind in ((model, "model"), (base, "base")):
        if name is not None and name not in names:
            raise NotFoundError(kind, name, names)
    with own_sql(connection):
        models = run_sql(connection, "SELECT model_id, checkpoint_id, base_checkpoint_id FROM models").to_pylist()
    rows = {row["model_id"]: row for row in models}
    own = rows[model]
    remedy = f"layerhouse ingest {model} --base {base or 'BASE'}"
    if base is not None and rows[base]["checkpoint_id"] != own["base_checkpoint_id"]:
        raise UsageError(f"{model} is not compared with {base}; compare them with: {remedy}")
    if own["base_checkpoint_id"] is None:
        raise UsageError(f"{model} has no base; compare it with one by: {remedy}")
    if own["base_checkpoint_id"] == own["checkpoint_id"]:
        raise UsageError(f"{model} is a base itself; name a model that was made from it")


def run_rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in run_sql(connection, sql).to_pylist()]
