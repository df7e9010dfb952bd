"""Placeholders: the empty or one-element tensors that partitioned training (DeepSpeed ZeRO 3) saves in place of weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from layerhouse.ingest.model.placement import BLOCK_MODULES, LINEAR_PARTS


def is_block_weight(layer_index: int | None, module: str | None, part: str | None) -> bool:
    """Whether a tensor is a weight of attention, MLP, an expert or an SSM mixer."""
    return layer_index is not None and module in BLOCK_MODULES and part in LINEAR_PARTS


def are_placeholders(shapes: Iterable[Sequence[int]]) -> bool:
    """Whether every weight of the blocks is a placeholder, given their shapes; False if there are no such weights."""
    is_any = False
    for shape in shapes:
        if len(shape) != 1 or shape[0] > 1:
            return False
        is_any = True
    return is_any
