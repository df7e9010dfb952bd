"""Pruning that torch.nn.utils.prune has not made permanent: `NAME_orig` dense beside `NAME_mask`, the weight their product."""

from __future__ import annotations

from dataclasses import replace

from layerhouse.ingest.checkpoint.layouts.modules import (
    Module,
    Quantization,
    auxiliary,
    main,
)
from layerhouse.ingest.checkpoint.tensor_ref import (
    MASKED,
    PLAIN,
    Assembly,
    TensorRef,
)

ORIGINAL, MASK = "_orig", "_mask"


def masked(module: Module, quantization: Quantization) -> list[TensorRef]:
    """Each parameter of the module that has a mask. Raises InputError where mask and parameter differ in shape."""
    found: list[TensorRef] = []
    for suffix in module.parts:
        name = suffix.removesuffix(ORIGINAL)
        if name == suffix or f"{name}{MASK}" not in module.parts:
            continue
        original, mask = module.parts[suffix], module.parts[f"{name}{MASK}"]
        if original.shape != mask.shape:
            module.refuse(f"{suffix} has shape {list(original.shape)}, its mask {list(mask.shape)}")
        weight = main(module, suffix, "mask", original.shape, values=PLAIN, weight=name)
        found += [
            replace(weight, assembly=Assembly(MASKED, (original, mask), original.shape), strides=None, storage_offset=0),
            auxiliary(module, f"{name}{MASK}", "mask", weight=name),
        ]
    return found
