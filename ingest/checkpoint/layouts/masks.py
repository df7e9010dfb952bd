"""Masks of torch.nn.utils.prune that were not made permanent: the weight is the product of `NAME_orig` and `NAME_mask`."""

from __future__ import annotations

from dataclasses import replace

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import (
    MASKED,
    PLAIN,
    Assembly,
    TensorRef,
)

ORIGINAL, MASK = "_orig", "_mask"


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """Every masked parameter of the module. Raises InputError if mask and parameter differ in shape."""
    refs: list[TensorRef] = []
    for suffix in module.parts:
        name = suffix.removesuffix(ORIGINAL)
        if name == suffix or f"{name}{MASK}" not in module.parts:
            continue
        original, mask = module.parts[suffix], module.parts[f"{name}{MASK}"]
        if original.shape != mask.shape:
            module.refuse(f"{suffix} has shape {list(original.shape)}, its mask {list(mask.shape)}")
        weight = weight_ref(module, suffix, "mask", original.shape, values=PLAIN, weight=name)
        refs += [
            replace(weight, assembly=Assembly(MASKED, (original, mask), original.shape), strides=None, storage_offset=0),
            auxiliary_ref(module, f"{name}{MASK}", "mask", weight=name),
        ]
    return refs


LAYOUT = WeightLayout("torch pruning mask", _claims, suffixes=("weight_mask", "bias_mask"))
