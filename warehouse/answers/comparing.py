"""A model and its base: whether the warehouse has compared the two, and the picture of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.warehouse.answers.query import (
    model_names,
    own_sql,
    run_sql,
    study_rows,
)
from layerhouse.warehouse.render.picture import layer_picture

BASE_NAMES = """
SELECT models.model_id, coalesce(min(bases.model_id), min(checkpoints.declared_name), min(checkpoints.source_uri)) AS base_name
FROM models
LEFT JOIN models AS bases ON bases.checkpoint_id = models.base_checkpoint_id
LEFT JOIN checkpoints ON checkpoints.checkpoint_id = models.base_checkpoint_id
WHERE models.base_checkpoint_id <> models.checkpoint_id
GROUP BY models.model_id
ORDER BY models.model_id
"""


def pictures(connection: duckdb.DuckDBPyConnection, globs: Sequence[str], *, is_unicode: bool) -> list[str]:
    """The picture of each model that matches a glob and has a base other than itself, in the order of names."""
    with own_sql(connection):
        base_names = dict(run_rows(connection, BASE_NAMES))
    models, layers = study_rows(connection, globs)
    by_model: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        by_model.setdefault(layer["model_id"], []).append(layer)
    return [
        layer_picture(
            model,
            by_model.get(model["model_id"], []),
            base_name=base_names[model["model_id"]] or "its base",
            is_unicode=is_unicode,
        )
        for model in models
        if model["model_id"] in base_names
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
