"""A model and its base: whether the warehouse has compared the two, and the picture of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import duckdb

from layerhouse.errors import UsageError
from layerhouse.vocabulary import SourceKind, UnitKind
from layerhouse.warehouse.answers.query import (
    MODEL_NAMES,
    counted_by,
    model_names,
    own_sql,
    run_of_models,
    run_sql,
    the_model,
)
from layerhouse.warehouse.answers.sql_text import quote_literal
from layerhouse.warehouse.render.picture import layer_picture
from layerhouse.warehouse.storage.schema import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

MODELS = """
SELECT models.*, checkpoint_changes.verdict
FROM models
LEFT JOIN checkpoint_changes
    ON checkpoint_changes.checkpoint_id = models.checkpoint_id
    AND checkpoint_changes.base_checkpoint_id = models.base_checkpoint_id
ORDER BY models.model_id
"""
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
PICTURE_SQL = "\n".join((MODELS, BASE_NAMES, LAYERS, MODEL_NAMES))
"""All SQL of a picture: what a session has to make views for."""


RELATION_COUNTS = """
SELECT tensor_matches.relation, count(*) AS num_tensors
FROM tensor_matches
JOIN current_checkpoints
    ON current_checkpoints.checkpoint_id = tensor_matches.checkpoint_id
    AND current_checkpoints.base_checkpoint_id = tensor_matches.base_checkpoint_id
WHERE current_checkpoints.model_id = {model}
GROUP BY tensor_matches.relation
ORDER BY num_tensors DESC, relation NULLS LAST
"""
RELATION_TEXTS = {None: "whose relation is not known without their values"}
UNIT_COUNTS = """
SELECT
    kind,
    CAST(sum(num_base_units) AS BIGINT) AS num_base_units,
    CAST(sum(num_exact) AS BIGINT) AS num_exact,
    CAST(sum(num_similar) AS BIGINT) AS num_similar,
    CAST(sum(num_unknown) AS BIGINT) AS num_unknown
FROM kept_units
WHERE model_id = {model}
GROUP BY kind
ORDER BY kind
"""
PAIR_SQL = f"{RELATION_COUNTS}\n{UNIT_COUNTS}"
"""All SQL of pair_lines."""
UNIT_TEXTS = {UnitKind.HEAD: "heads", UnitKind.KV_GROUP: "KV groups", UnitKind.NEURON: "neurons", UnitKind.EXPERT: "experts"}


def pictures(
    connection: duckdb.DuckDBPyConnection,
    globs: Sequence[str],
    *,
    is_unicode: bool,
    by: str | None = None,
    base_name: str | None = None,
    width: int | None = None,
) -> list[str]:
    """The picture of each model that matches a glob and has a base other than itself, in the order of names.

    `by` is what they count in, of KeptBy; without it parameters that are not zero where these are known of all layers.
    `base_name` is the base of all of them if it is named, and `width` the width of the terminal that they are for.
    """
    with own_sql(connection), counted_by(connection, by):
        base_names = dict(run_rows(connection, BASE_NAMES))
        models = run_of_models(connection, MODELS, globs).to_pylist()
        layers = run_of_models(connection, LAYERS, globs).to_pylist()
    by_model: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        by_model.setdefault(layer["model_id"], []).append(layer)
    return [
        layer_picture(
            model | {"kept_by": by_model[model["model_id"]][0]["kept_by"]},
            by_model[model["model_id"]],
            base_name=base_name or base_names[model["model_id"]] or "its base",
            is_unicode=is_unicode,
            width=width,
        )
        for model in models
        if (base_name is not None or model["model_id"] in base_names) and model["model_id"] in by_model
    ]


def require_base(connection: duckdb.DuckDBPyConnection, model: str) -> None:
    """Raise NotFoundError for an unknown model, and UsageError with advice unless it was compared with a base."""
    own = pair_side(connection, model)
    model = own["model_id"]
    if own["base_checkpoint_id"] is None:
        raise UsageError(f"{model} has no base; compare it with one by: layerhouse ingest {model} --base BASE")
    if own["base_checkpoint_id"] == own["checkpoint_id"]:
        raise UsageError(f"{model} is a base itself; name a model that was made from it")


def pair_side(connection: duckdb.DuckDBPyConnection, model: str, kind: str = "model") -> dict[str, Any]:
    """What a comparison has to know of a model's checkpoint. Raises NotFoundError for an unknown model, of this kind in the
    message, and UsageError for an ending of several names and a model whose layers are not known."""
    model = the_model(model_names(connection), model, kind)
    columns = "model_id, checkpoint_id, base_checkpoint_id, source_kind, params_source, status_note"
    with own_sql(connection):
        (side,) = run_sql(connection, f"SELECT {columns} FROM models WHERE model_id = {quote_literal(model)}").to_pylist()
        key = quote_literal(side["checkpoint_id"] or "")
        codes = "list_distinct(flatten(list([note.code FOR note IN notes])))"
        sql = f"SELECT {codes} AS codes FROM checkpoints WHERE checkpoint_id = {key}"
        (notes,) = run_sql(connection, sql).to_pylist()
    if side["checkpoint_id"] is None:
        raise UsageError(f"{model}: the warehouse has only results of this model, no structure to compare")
    if side["source_kind"] == SourceKind.WEIGHTS and side["params_source"] != SourceKind.WEIGHTS:
        reason = "unread" if "unread" in (notes["codes"] or ()) else "not known"
        raise UsageError(f"{model} is not comparable: its parameters are {reason}, {side['status_note']}")
    return dict(side)


def is_pair_stored(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, base_checkpoint_id: str) -> bool:
    """Whether the warehouse has compared two checkpoints, at whatever time."""
    ids = (quote_literal(checkpoint_id), quote_literal(base_checkpoint_id))
    where = f"checkpoint_id = {ids[0]} AND base_checkpoint_id = {ids[1]}"
    with own_sql(connection):
        return bool(run_sql(connection, f"SELECT 1 AS one FROM layer_matches WHERE {where} LIMIT 1").num_rows)


def checkpoint_table(connection: duckdb.DuckDBPyConnection, table: str, checkpoint_id: str, columns: Sequence[str]) -> pa.Table:
    """The rows of a checkpoint in a stored table, with the types of the schema."""
    import pyarrow as pa

    schema = arrow_schema(table)
    where = f"checkpoint_id = {quote_literal(checkpoint_id)}"
    with own_sql(connection):
        rows = run_sql(connection, f"SELECT {', '.join(columns)} FROM {table} WHERE {where}")
    return rows.cast(pa.schema([schema.field(column).with_nullable(True) for column in columns]))


def pair_lines(connection: duckdb.DuckDBPyConnection, model: str) -> list[str]:
    """What became of the base's tensors and units, a line each, for a model that is compared with one."""
    name = quote_literal(model)
    with own_sql(connection):
        relations = run_rows(connection, RELATION_COUNTS.format(model=name))
        units = run_rows(connection, UNIT_COUNTS.format(model=name))
    lines = []
    if relations:
        counts = [f"{count:,} {RELATION_TEXTS.get(relation, relation)}" for relation, count in relations]
        lines.append(f"tensors: {', '.join(counts)}")
    for kind, base_units, exact, similar, unknown in units:
        others = ((similar, "similar"), (unknown, "of unknown origin"))
        further = "".join(f", {count:,} {text}" for count, text in others if count)
        lines.append(f"{UNIT_TEXTS.get(kind, kind)}: {exact:,} of {base_units:,} unchanged{further}")
    return lines


def run_rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in run_sql(connection, sql).to_pylist()]
