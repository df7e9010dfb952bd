"""What `layerhouse compare` and `wh.compare` do: two models of a warehouse beside each other, by their stored rows.

A comparison that the warehouse has is shown as it is, with what its values told. Any other is made of the rows of both
checkpoints, and nothing of it is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from layerhouse.errors import UsageError
from layerhouse.ingest.compare.match_layers import compare_layers
from layerhouse.ingest.compare.match_tensors import RelatedTensor, relate_tensors, settle_packed
from layerhouse.ingest.compare.match_units import match_units
from layerhouse.ingest.compare_with_base import COMPARED_COLUMNS, UNIT_COLUMNS, ComparedCheckpoint
from layerhouse.ingest.study.layer_map import match_by_blocks, match_by_position
from layerhouse.version import RULES_VERSION
from layerhouse.vocabulary import LayerMatch, Relation
from layerhouse.warehouse.answers.comparing import checkpoint_table, is_pair_stored, pair_side, require_base
from layerhouse.warehouse.answers.pair_rows import PairRows

if TYPE_CHECKING:
    import duckdb

    from layerhouse.warehouse.answers.handle import Warehouse

Row = dict[str, Any]
Side = dict[str, Any]

ASKED = "model_names models current_checkpoints checkpoints layers tensors units layer_matches"
"""The tables and views that making a comparison reads."""
LAYER_COLUMNS = ("stack", "layer_index")
MAP_COLUMNS = ("base_checkpoint_id", "stack", "layer_index", "base_layer_index", "match", "match_confidence")


@contextmanager
def compared(wh: Warehouse, model: str, base: str | None) -> Iterator[tuple[Warehouse, list[str]]]:
    """The warehouse with the comparison of two of its models in place of all others, and texts on what is not known of it.

    Without a `base`, the warehouse as it is, with the stored comparison of the model. Raises NotFoundError for an unknown
    model, and UsageError with the reason for models that cannot be compared.
    """
    connection = wh.connection_for(ASKED)
    if base is None:
        require_base(connection, model)
        yield wh, []
        return
    own, other = pair_side(connection, model), pair_side(connection, base, "base")
    model, base = own["model_id"], other["model_id"]
    if model == base:
        raise UsageError(f"{model}: name another model to compare it with")
    ids = own["checkpoint_id"], other["checkpoint_id"]
    if ids[0] == ids[1]:
        raise UsageError(f"{model} and {base} are one checkpoint: whatever was read of both is equal")
    rows, texts = ({}, []) if is_pair_stored(connection, *ids) else pair_rows(connection, own, other)
    shown = wh.with_pair(PairRows(*ids, rows))
    try:
        yield shown, texts
    finally:
        shown.close()


def pair_rows(connection: duckdb.DuckDBPyConnection, own: Side, other: Side) -> tuple[dict[str, Any], list[str]]:
    """The rows of the tables of matches for two models, and texts on what they leave open. Raises UsageError."""
    checkpoints = [_checkpoint(connection, side) for side in (own, other)]
    for checkpoint in checkpoints:
        _require_comparable(checkpoint)
    checkpoint, base = checkpoints
    if not (checkpoint.tensors and base.tensors):
        return _rows_of_numbers(connection, own, other)
    matches, notes = compare_layers(checkpoint.tensors, base.tensors)
    if fit := next((entry["text"] for entry in notes if entry["code"] == "fit"), None):
        reason = fit.removeprefix("base does not fit: ")
        raise UsageError(f"{checkpoint.model_id} is not comparable with {base.model_id}: {reason}")
    texts = [entry["text"] for entry in notes]
    if any(row["match"] == LayerMatch.NONE for row in matches) and (mapped := _rows_of_maps(connection, own, other)):
        matches, texts = mapped, []
    related = relate_tensors(checkpoint.tensors, base.tensors, matches)
    settle_packed(related)
    _mark_added(related, checkpoint, matches)
    if count := sum(entry.relation is None and entry.has_open_values for entry in related):
        command = f"layerhouse ingest {checkpoint.model_id} --base {base.model_id}"
        texts.append(f"how {count} tensors differ, only their values tell; they are read by: {command}")
    rows: dict[str, Any] = {
        "layer_matches": matches,
        "tensor_matches": [{**entry.as_row(), "rules_version": RULES_VERSION} for entry in related],
    }
    if checkpoint.units is not None and base.units is not None:
        layer_map = [
            (row["stack"], row["layer_index"], row["base_layer_index"])
            for row in matches
            if row["layer_index"] is not None and row["base_layer_index"] is not None
        ]
        rows["unit_matches"], remarks = match_units(checkpoint.units, base.units, layer_map)
        texts += remarks
    return rows, texts


def _mark_added(related: list[RelatedTensor], checkpoint: ComparedCheckpoint, matches: list[Row]) -> None:
    """Mark the tensors of layers that the other model is known not to have."""
    new_layers = {
        (row["stack"], row["layer_index"])
        for row in matches
        if row["base_layer_index"] is None and row["match"] != LayerMatch.NONE
    }
    names = {row["name"] for row in checkpoint.tensors if (row["stack"], row["layer_index"]) in new_layers}
    for entry in related:
        if entry.relation is None and entry.row is not None and entry.row["name"] in names:
            entry.relation = Relation.ADDED


def _checkpoint(connection: duckdb.DuckDBPyConnection, side: Side) -> ComparedCheckpoint:
    checkpoint_id = side["checkpoint_id"]
    tensors = checkpoint_table(connection, "tensors", checkpoint_id, COMPARED_COLUMNS).to_pylist()
    units = checkpoint_table(connection, "units", checkpoint_id, UNIT_COLUMNS)
    return ComparedCheckpoint(side["model_id"], checkpoint_id, tensors, units=units if len(units) else None)


def _require_comparable(checkpoint: ComparedCheckpoint) -> None:
    """Raise UsageError for a checkpoint that is compared with no other."""
    if checkpoint.is_adapter:
        raise UsageError(f"{checkpoint.model_id} is an adapter: it adds to a base, and is compared with no model")
    if checkpoint.tensors and checkpoint.is_hollow:
        raise UsageError(f"{checkpoint.model_id} has placeholder shapes: an incomplete export is compared with no model")


def _rows_of_maps(connection: duckdb.DuckDBPyConnection, own: Side, other: Side) -> list[Row]:
    """The layer map of two models by the blocks of a base that both are compared with; empty if some layer has none."""
    layers = [_layers(connection, side) for side in (own, other)]
    return match_by_blocks(*layers, *(_map_to(connection, side, own["base_checkpoint_id"]) for side in (own, other)))


def _rows_of_numbers(connection: duckdb.DuckDBPyConnection, own: Side, other: Side) -> tuple[dict[str, Any], list[str]]:
    """The rows for two models of which at least one is known by its analysis alone: by a base that both have, else by position
    if they have equally many layers."""
    layers = [_layers(connection, side) for side in (own, other)]
    for side, rows in zip((own, other), layers, strict=True):
        if not rows:
            raise UsageError(f"{side['model_id']}: the warehouse has no layers of this model")
    if matches := _rows_of_maps(connection, own, other):
        return {"layer_matches": matches}, []
    matches = match_by_position(*layers)
    is_known = all(row["match"] != LayerMatch.NONE for row in matches)
    return {"layer_matches": matches}, [] if is_known else ["which layer is which is not known: no file says it"]


def _layers(connection: duckdb.DuckDBPyConnection, side: Side) -> list[Row]:
    rows: list[Row] = checkpoint_table(connection, "layers", side["checkpoint_id"], LAYER_COLUMNS).to_pylist()
    return rows


def _map_to(connection: duckdb.DuckDBPyConnection, side: Side, base_id: str | None) -> list[Row]:
    """The rows that say which block of a base each layer of a model is; for the base itself, each layer is its own block."""
    checkpoint_id = side["checkpoint_id"]
    if base_id is None:
        return []
    if checkpoint_id == base_id:
        own = {"match": LayerMatch.EXACT, "match_confidence": 1.0}
        return [{**row, "base_layer_index": row["layer_index"], **own} for row in _layers(connection, side)]
    rows = checkpoint_table(connection, "layer_matches", checkpoint_id, MAP_COLUMNS).to_pylist()
    return [row for row in rows if row["base_checkpoint_id"] == base_id]
