"""Which block of the base each layer is, as far as analysis files state it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layerhouse.ingest.checkpoint.notes import Note
from layerhouse.ingest.study.disagreements import disagreement
from layerhouse.ingest.study.file_names import REMOVAL_NAME
from layerhouse.ingest.study.removal_list import Removal
from layerhouse.vocabulary import LayerMatch, Stack

Row = dict[str, Any]
SURENESS = (LayerMatch.EXACT, LayerMatch.SIMILAR, LayerMatch.DECLARED, LayerMatch.POSITIONAL)
"""The rules that say which block a layer is, the surest first."""


def match_layers(indices: list[int], base_num_layers: int | None, removal: Removal | None) -> tuple[list[Row], list[Note]]:
    """Rows of layer_matches, without the ids of the checkpoints, and notes.

    `indices` are the numbers of the model's layers in ascending order. A list of removed blocks that fits gives the map; else
    equal numbers of layers give it by position; else no layer has a block. Blocks of the base that are no layer any more have
    rows too.
    """
    notes: list[Note] = []
    if removal is not None and removal.original_num_layers not in (None, base_num_layers):
        stated = f"{REMOVAL_NAME} says {removal.original_num_layers} layers of the base"
        notes.append(disagreement(f"{stated}, and it has {base_num_layers}"))
    if removal is not None and base_num_layers is not None:
        removed = set(removal.layers)
        kept = [index for index in range(base_num_layers) if index not in removed]
        if len(kept) == len(indices) and (not removal.layers or removal.layers[-1] < base_num_layers):
            rows = [_row(index, base_index, LayerMatch.DECLARED) for index, base_index in zip(indices, kept, strict=True)]
            return [*rows, *(_row(None, base_index, LayerMatch.DECLARED) for base_index in removal.layers)], notes
    if removal is not None and len(indices) != base_num_layers:
        counts = f"{len(indices)} layers of {base_num_layers if base_num_layers is not None else 'an unknown number'}"
        notes.append(disagreement(f"{REMOVAL_NAME} names {len(removal.layers)} layers, and the model has {counts}"))
    if base_num_layers == len(indices):
        return [_row(index, position, LayerMatch.POSITIONAL) for position, index in enumerate(indices)], notes
    unmatched = [_row(index, None, LayerMatch.NONE) for index in indices]
    return [*unmatched, *(_row(None, base_index, LayerMatch.NONE) for base_index in range(base_num_layers or 0))], notes


def match_by_blocks(
    layers: Sequence[Row], base_layers: Sequence[Row], blocks: Sequence[Row], base_blocks: Sequence[Row]
) -> list[Row]:
    """Rows of layer_matches, without the ids of the checkpoints, for two models that were compared with one base.

    `blocks` and `base_blocks` say which block of that base each layer of the two is: layers of one block are the same. There
    are no rows if that is not known of all layers.
    """
    rows: list[Row] = []
    for stack, indices, base_indices in _stacks(layers, base_layers):
        places, base_places = (_places(side, stack) for side in (blocks, base_blocks))
        if places.keys() != {*indices} or base_places.keys() != {*base_indices}:
            return []
        rows += _rows_by_blocks(places, base_places, stack)
    return rows


def match_by_position(layers: Sequence[Row], base_layers: Sequence[Row]) -> list[Row]:
    """Rows of layer_matches for two models of which nothing but numbers is known: by position where these are equally many."""
    rows: list[Row] = []
    for stack, indices, base_indices in _stacks(layers, base_layers):
        if len(indices) == len(base_indices):
            pairs = zip(indices, base_indices, strict=True)
            rows += [_row(index, base_index, LayerMatch.POSITIONAL, stack=stack) for index, base_index in pairs]
        else:
            rows += [_row(index, None, LayerMatch.NONE, stack=stack) for index in indices]
            rows += [_row(None, base_index, LayerMatch.NONE, stack=stack) for base_index in base_indices]
    return rows


def _stacks(layers: Sequence[Row], base_layers: Sequence[Row]) -> Iterator[tuple[str, list[int], list[int]]]:
    """Each stack of either side, and the numbers of its layers on both."""
    for stack in sorted({row["stack"] for row in (*layers, *base_layers)}):
        indices, base_indices = (
            sorted(row["layer_index"] for row in side if row["stack"] == stack) for side in (layers, base_layers)
        )
        yield stack, indices, base_indices


def _places(rows: Sequence[Row], stack: str) -> dict[int, Row]:
    """The row that says the block of each layer of a stack."""
    return {
        row["layer_index"]: row
        for row in rows
        if row["stack"] == stack and row["layer_index"] is not None and row["base_layer_index"] is not None
    }


def _rows_by_blocks(places: Mapping[int, Row], base_places: Mapping[int, Row], stack: str) -> list[Row]:
    """The rows of a stack whose layers have a block of one third model on both sides; a row is as sure as the less sure of
    the two."""
    by_block = {row["base_layer_index"]: row for row in base_places.values()}
    rows = []
    for index, row in sorted(places.items()):
        base_row = by_block.get(row["base_layer_index"])
        base_index = None if base_row is None else base_row["layer_index"]
        rows.append(_row(index, base_index, *_less_sure(row, base_row or row), stack=stack))
    kept = {row["base_layer_index"] for row in rows}
    removed = [row for index, row in sorted(base_places.items()) if index not in kept]
    return [*rows, *(_row(None, row["layer_index"], *_less_sure(row, row), stack=stack) for row in removed)]


def _less_sure(first: Row, second: Row) -> tuple[LayerMatch, float | None]:
    """The less sure rule of two rows, and their lesser confidence if both have one."""
    confidences = [row["match_confidence"] for row in (first, second)]
    rule = max(first["match"], second["match"], key=SURENESS.index)
    return LayerMatch(rule), None if None in confidences else min(confidences)


def _row(
    layer_index: int | None,
    base_layer_index: int | None,
    match: LayerMatch,
    confidence: float | None = None,
    *,
    stack: str = Stack.TEXT,
) -> Row:
    row = {"stack": stack, "layer_index": layer_index, "base_layer_index": base_layer_index, "match": match}
    return row if confidence is None else {**row, "match_confidence": confidence}
