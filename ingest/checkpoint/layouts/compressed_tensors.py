"""compressed-tensors' packed weights: `weight_packed` beside `weight_scale`, and `weight_shape` for integers.

pack-quantized (compressors/pack_quantized/base.py): 32-bit words (out, ceil(in / (32 / bits))), `weight_shape` the shape.
nvfp4 and mxfp4 (compressors/nvfp4/base.py): bytes (out, in / 2), two values each.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.layouts.modules import (
    Module,
    Quantization,
    auxiliaries,
    main,
)
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

AUXILIARY = (
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "weight_global_scale",
    "input_global_scale",
    "input_scale",
    "output_scale",
)


def packed(module: Module, quantization: Quantization) -> list[TensorRef]:
    """The weight that weight_packed holds. Raises InputError where its shape is not known or cannot be true."""
    weight = module.parts["weight_packed"]
    if "scale_packed" in module.parts or "meta" in module.parts:
        module.refuse("marlin-24: the weight's own shape is not stored, and not known")
    if len(weight.shape) < 2:
        module.refuse(f"weight_packed has shape {list(weight.shape)}: two dimensions or more were expected")
    if weight.dtype == "U8":
        shape, bits, scheme = (*weight.shape[:-1], 2 * weight.shape[-1]), 4, "fp4-pack"
    elif weight.dtype in ("I32", "U32"):
        shape, bits = _integers(module, weight, quantization)
        scheme = "pack-quantized"
    else:
        module.refuse(f"weight_packed is {weight.dtype}: words or bytes were expected")
    return [main(module, "weight_packed", scheme, shape, bits=bits), *auxiliaries(module, AUXILIARY, scheme)]


def _integers(module: Module, weight: TensorRef, quantization: Quantization) -> tuple[tuple[int, ...], int]:
    """Shape and bits of a weight in words; what weight_shape claims has to fill the words that are there."""
    declared = quantization.group_bits(module.name)
    words = weight.shape[-1]
    if "weight_shape" not in module.parts:
        if declared is None or not 1 <= declared <= 16:
            module.refuse("weight_packed without weight_shape, and no group of the config says its bits")
        return (*weight.shape[:-1], words * (32 // declared)), declared
    shape = tuple(module.integers("weight_shape"))
    fitting = [bits for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16) if shape and -(-shape[-1] // (32 // bits)) == words]
    if shape[:-1] != weight.shape[:-1] or not fitting:
        module.refuse(f"weight_shape {list(shape)[:8]} does not fit weight_packed {list(weight.shape)}")
    return shape, declared if declared in fitting else fitting[-1]
