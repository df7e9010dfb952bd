"""A model and its base: whether the warehouse has compared the two, and the picture of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import duckdb

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.vocabulary import SourceKind, UnitKind
from layerhouse.warehouse.answers.query import (
    model_names,
    own_sql,
    run_sql,
    study_rows,
)
from layerhouse.warehouse.answers.sql_text import quote_literal
from layerhouse.warehouse.render.picture import layer_picture
from layerhouse.warehouse.storage.schema import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

BASE_NAMES = """
SELECT models.model_id, coalesce(min(bases.model_id), min(checkpoints.declared_name), min(checkpoints.source_uri)) AS base_name
FROM models
LEFT JOIN models AS bases ON bases.checkpoint_id = models.base_checkpoint_id
LEFT JOIN checkpoints ON checkpoints.checkpoint_id = models.base_checkpoint_id
WHERE models.base_checkpoint_id <> models.checkpoint_id
GROUP BY models.model_id
ORDER BY models.model_id
"""


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
UNIT_TEXTS = {UnitKind.HEAD: "heads", UnitKind.KV_GROUP: "KV groups", UnitKind.NEURON: "neurons", UnitKind.EXPERT: "experts"}


def pictures(
    connection: duckdb.DuckDBPyConnection, globs: Sequence[str], *, is_unicode: bool, base_name: str | None = None
) -> list[str]:
    """The picture of each model that matches a glob and has a base other than itself, in the order of names.

    `base_name` is the base of all of them if it is named.
    """
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
            base_name=base_name or base_names[model["model_id"]] or "its base",
            is_unicode=is_unicode,
        )
        for model in models
        if base_name is not None or model["model_id"] in base_names
    ]


def require_base(connection: duckdb.DuckDBPyConnection, model: str) -> None:
    """Raise NotFoundError for an unknown model, and UsageError with advice unless it was compared with a base."""
    own = pair_side(connection, model)
    if own["base_checkpoint_id"] is None:
        raise UsageError(f"{model} has no base; compare it with one by: layerhouse ingest {model} --base BASE")
    if own["base_checkpoint_id"] == own["checkpoint_id"]:
        raise UsageError(f"{model} is a base itself; name a model that was made from it")


def pair_side(connection: duckdb.DuckDBPyConnection, model: str, kind: str = "model") -> dict[str, Any]:
    """What a comparison has to know of a model's checkpoint. Raises NotFoundError for an unknown model, of this kind in the
    message, and UsageError for one whose layers are not known."""
    names = model_names(connection)
    if model not in names:
        raise NotFoundError(kind, model, names)
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
