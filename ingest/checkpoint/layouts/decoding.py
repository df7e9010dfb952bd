"""How the values of packed and scaled weights are made: which stored tensor is which part, and what shares a scale.

A form is decoded only where all of it is known. Where the stored shapes leave open which inputs share a scale, the config says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.tensor_ref import Assembly, TensorRef

SCALE_TYPES = frozenset(("F16", "BF16", "F32", "F8_E4M3", "F8_E5M2", "F8_E8M0"))
"""Types of scales, all of whose values a float32 holds."""
POINT_TYPES = frozenset(("I8", "U8", "I16", "I32", *SCALE_TYPES))
SCALES = frozenset(("scales", "points", "biases", "shifts", "zeros", "weight_scale", "weight_divisor", "column_scales"))
"""Parts that are numbers to calculate with."""
MAX_CONFIG_GROUPS = 100


def decoded_ref(ref: TensorRef, kind: str, parts: Mapping[str, TensorRef | None], **parameters: Any) -> TensorRef:
    """A weight with how its values are made; see measure.io.decoded. Parts that are None are left out.

    A weight of other than two dimensions, and one with scales of a type that is not known, stay as they are.
    """
    present = {name: part for name, part in parts.items() if part is not None}
    types = {part.dtype for name, part in present.items() if name in SCALES and name != "points"}
    if ref.layout is None or len(ref.shape) != 2 or not ref.elements or not types <= SCALE_TYPES:
        return ref
    sources = tuple(present.values())
    if not all(source.elements for source in sources):
        return ref
    assembly = Assembly(kind, sources, ref.shape, "F32", {**parameters, "parts": tuple(present)})
    return replace(ref, layout=replace(ref.layout, decoded=assembly))


def as_powers_of_two(scale: TensorRef) -> TensorRef:
    """Scales whose bytes are exponents (E8M0), as the containers that lack this type store them."""
    return replace(scale, dtype="F8_E8M0") if scale.dtype == "U8" else scale


def block_of(config: QuantizationConfig, shape: tuple[int, ...], numbers: TensorRef) -> tuple[int, int] | None:
    """The block of (rows, columns) of a matrix that has one of the numbers, such as a scale; None if that is not known.

    It is the whole matrix, a row, a group of a row's inputs, or a tile whose size the config declares. ModelOpt stores the
    numbers of tiles as (rows, 1, columns, 1).
    """
    if len(shape) != 2:
        return None
    (rows, columns), stored = shape, numbers.shape
    if numbers.elements == 1:
        return rows, columns
    if stored in ((rows,), (rows, 1)):
        return 1, columns
    if len(stored) == 2 and stored[0] == rows and (size := group_size(config, columns, stored[1])):
        return 1, size
    if len(stored) == 4 and numbers.elements and stored[1] == stored[3] == 1:
        fitting = {(rows // stored[0], columns // stored[2])} if not rows % stored[0] and not columns % stored[2] else set()
    else:
        declared = (block for block in _declared_tiles(config) if _tiles(shape, block) == stored)
        fitting = {(min(height, rows), min(width, columns)) for height, width in declared}
    return fitting.pop() if len(fitting) == 1 else None


def group_size(config: QuantizationConfig, columns: int, groups: int, module: str = "") -> int | None:
    """How many of a row's inputs share a scale: as the config declares, or else equally many; None if neither fits."""
    if groups <= 1:
        return max(1, columns) if groups else None
    sizes = {size for size in _declared_sizes(config, module) if size > 0 and -(-columns // size) == groups}
    if columns % groups == 0 and (not sizes or columns // groups in sizes):
        return columns // groups
    return sizes.pop() if len(sizes) == 1 else None


def fp4_group_size(columns: int, groups: int) -> int | None:
    """The inputs that share a scale of FP4 values: 16 or 32."""
    return next((size for size in (16, 32) if -(-columns // size) == groups), None)


def are_points_of_groups(weight: TensorRef, points: TensorRef) -> bool:
    """Whether zero points of 8 bits are one for each of equal groups of a row's inputs."""
    if len(weight.shape) != 2 or points.dtype not in ("I8", "U8") or points.elements % max(1, weight.shape[0]):
        return False
    groups = points.elements // max(1, weight.shape[0])
    return points.shape[0] == weight.shape[0] and groups > 0 and weight.shape[1] % groups == 0


def _tiles(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    return tuple(-(-extent // size) for extent, size in zip(shape, block, strict=True))


def _declared_sizes(config: QuantizationConfig, module: str) -> Iterator[int]:
    """Every group size that the config declares."""
    own = config.declared.get(module) if module else None
    for block in (own, config.declared, *_weights_of_groups(config)):
        size = block.get("group_size") if isinstance(block, Mapping) else None
        if type(size) is int:
            yield size


def _declared_tiles(config: QuantizationConfig) -> Iterator[tuple[int, int]]:
    """Every block of rows and columns that the config declares."""
    blocks = [config.declared.get("weight_block_size")]
    blocks += [weights.get("block_structure") for weights in _weights_of_groups(config)]
    for block in blocks:
        sizes = block if isinstance(block, list) else []
        if len(sizes) == 2 and all(type(size) is int and size > 0 for size in sizes):
            yield sizes[0], sizes[1]


def _weights_of_groups(config: QuantizationConfig) -> Iterator[Mapping[str, Any]]:
    """What compressed-tensors' config groups declare of weights."""
    groups = config.declared.get("config_groups")
    for group in list(groups.values())[:MAX_CONFIG_GROUPS] if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            yield weights
