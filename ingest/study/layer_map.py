"""Which block of the base each layer is, as far as analysis files state it."""

from __future__ import annotations

from typing import Any

from layerhouse.ingest.checkpoint.notes import Note
from layerhouse.ingest.study.disagreements import disagreement
from layerhouse.ingest.study.file_names import REMOVAL_NAME
from layerhouse.ingest.study.removal_list import Removal
from layerhouse.vocabulary import LayerMatch, Stack

Row = dict[str, Any]


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


def _row(layer_index: int | None, base_layer_index: int | None, match: LayerMatch) -> Row:
    return {"stack": Stack.TEXT, "layer_index": layer_index, "base_layer_index": base_layer_index, "match": match}
