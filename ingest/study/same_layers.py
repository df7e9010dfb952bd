"""Whether two descriptions are of one model: what both of them state is equal. Names, and classes of modules, are aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from layerhouse.ingest.study.structures import Layer, Structure


def are_same(first: Structure, second: Structure) -> bool:
    """Whether two structures may be of one model: they have equal parameters, and all that both state of layers is equal.

    Structures that have no layer in common are the same if their names are.
    """
    totals = (
        (first.params, second.params),
        (first.layer_params, second.layer_params),
        (first.num_layers, second.num_layers),
        (first.embedding_params, second.embedding_params),
        (first.lm_head_params, second.lm_head_params),
    )
    if first.params != second.params or any(_differ(*pair) for pair in totals):
        return False
    layers, others = ({layer.index: layer for layer in side.layers} for side in (first, second))
    if _has_outsiders(first, others) or _has_outsiders(second, layers):
        return False
    common = [index for index in layers.keys() & others.keys() if layers[index].params is not None]
    if not common:
        return first.name is not None and first.name == second.name
    return all(_are_layers_same(layers[index], others[index]) for index in layers.keys() & others.keys())


def are_all_same(structures: Iterable[Structure]) -> bool:
    """Whether any two of several structures may be of one model."""
    distinct = {replace(item, name=None).structure_id: item for item in structures}
    return all(are_same(*pair) for pair in combinations(distinct.values(), 2))


def differing_layers(first: Structure, second: Structure) -> list[int]:
    """The indices of layers that both list, and of which they state different numbers."""
    others = {layer.index: layer for layer in second.layers}
    return [layer.index for layer in first.layers if layer.index in others and not _are_layers_same(layer, others[layer.index])]


def num_facts(structure: Structure) -> int:
    """How much a structure states."""
    totals = (structure.layer_params, structure.num_layers, structure.embedding_params, structure.lm_head_params)
    return sum(total is not None for total in totals) + sum(
        len(layer.role_params) + sum(number is not None for number in _numbers(layer)) for layer in structure.layers
    )


def _has_outsiders(structure: Structure, layers: Mapping[int, Layer]) -> bool:
    """Whether the other side has layers of a number that a structure with consecutive layers cannot have."""
    count = structure.num_layers
    is_consecutive = count is not None and [layer.index for layer in structure.layers] == [*range(count)]
    return is_consecutive and any(index >= len(structure.layers) for index in layers)


def _are_layers_same(first: Layer, second: Layer) -> bool:
    if any(_differ(*pair) for pair in zip(_numbers(first), _numbers(second), strict=True)):
        return False
    return all(first.role_params[role] == second.role_params[role] for role in first.role_params.keys() & second.role_params)


def _numbers(layer: Layer) -> tuple[int | None, ...]:
    sizes = (layer.params, layer.attention_params, layer.mlp_params, layer.norm_params)
    return (*sizes, layer.num_heads, layer.num_kv_heads, layer.head_dim, layer.intermediate_size)


def _differ(first: Any, second: Any) -> bool:
    return first is not None and second is not None and first != second
