"""The two models of a comparison file as whole structures, though the file lists only some layers of the longer one."""

from __future__ import annotations

from dataclasses import replace

from layerhouse.ingest.study.json_reader import MAX_LAYERS
from layerhouse.ingest.study.structures import Comparison, Layer, Structure


def pruned_structure(comparison: Comparison) -> Structure:
    """The pruned model. Its number of layers is known if the listed layers add up to its layer_params."""
    pruned = comparison.pruned
    listed = _listed_params(pruned)
    is_complete = pruned.layer_params is None or listed == pruned.layer_params
    return replace(pruned, num_layers=len(pruned.layers) if is_complete else None, layer_params=pruned.layer_params or listed)


def base_structure(comparison: Comparison, declared_num_layers: int | None) -> Structure:
    """The original model. Layers that are not listed get the size of the listed ones if all layers then add up to its
    layer_params, else they have no size."""
    base = comparison.original
    single = base.layers[0] if len({layer.size for layer in base.layers}) == 1 else None
    num_layers = _base_num_layers(base, single, declared_num_layers)
    layers = list(base.layers)
    if num_layers is not None and num_layers > len(layers):
        is_even = single is not None and single.params is not None and single.params * num_layers == base.layer_params
        listed = {layer.index for layer in layers}
        layers += [
            replace(single, index=index) if is_even and single is not None else Layer(index, None, None, None)
            for index in range(num_layers)
            if index not in listed
        ]
    return replace(base, num_layers=num_layers, layers=tuple(sorted(layers, key=lambda layer: layer.index)))


def _base_num_layers(base: Structure, single: Layer | None, declared: int | None) -> int | None:
    """The declared number of layers; else layer_params over the size of a layer, if all listed layers are alike and the
    division leaves no rest; else the number of listed layers, if they add up to layer_params. `single` is a listed layer if
    all are alike."""
    count = declared
    if count is None and single is not None and single.params and base.layer_params is not None:
        count = base.layer_params // single.params if base.layer_params % single.params == 0 else None
    if count is not None and count > MAX_LAYERS:
        count = None
    if count is None and base.layer_params == _listed_params(base):
        count = len(base.layers)
    return count


def _listed_params(structure: Structure) -> int:
    return sum(layer.params or 0 for layer in structure.layers)
