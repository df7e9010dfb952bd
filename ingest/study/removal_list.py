"""layers_to_remove.json: which blocks of the base were removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.study.json_reader import MAX_LAYERS, JsonReader


@dataclass(frozen=True)
class Removal:
    """The removed blocks of the base, in ascending order, and the base's number of layers if the file states it."""

    layers: tuple[int, ...]
    original_num_layers: int | None


def read_removal(document: Any, display_path: str) -> Removal:
    """Read `{layers_to_remove, n_remove?, original_num_layers?}`. Raises InputError if the numbers contradict each other."""
    top = JsonReader(display_path, document)
    layers = [item.integer(MAX_LAYERS) for item in top.required("layers_to_remove").items()]
    if len(set(layers)) < len(layers):
        raise InputError(display_path, "layers_to_remove: a layer stands twice")
    stated = top.optional_integer("n_remove")
    if stated is not None and stated != len(layers):
        raise InputError(display_path, f"n_remove is {stated}, and layers_to_remove lists {len(layers)}")
    original_num_layers = top.optional_integer("original_num_layers", MAX_LAYERS)
    if original_num_layers is not None and layers and max(layers) >= original_num_layers:
        place = f"layer {max(layers)} of a model of {original_num_layers} layers (0 is the first)"
        raise InputError(display_path, f"layers_to_remove: {place}")
    return Removal(tuple(sorted(layers)), original_num_layers)
