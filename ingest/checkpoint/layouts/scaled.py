"""Weights in 8 bits beside their scales: compressed-tensors' int, float and naive-quantized formats, DeepSeek's FP8 blocks.

The weight has its own shape. A code of zero is the value zero unless a zero point moves it.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.layouts.modules import (
    Module,
    Quantization,
    auxiliaries,
    main,
)
from layerhouse.ingest.checkpoint.tensor_ref import CODES, PACKED, TensorRef

TYPES = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
AUXILIARY = ("weight_scale", "weight_scale_inv", "weight_zero_point", "weight_g_idx", "input_scale", "output_scale")


def scaled(module: Module, quantization: Quantization) -> list[TensorRef]:
    """The weight and what scales it."""
    weight = module.parts.get("weight")
    if weight is None or weight.dtype not in TYPES:
        return []
    values = PACKED if "weight_zero_point" in module.parts else CODES
    scheme = f"scaled {weight.dtype}"
    return [main(module, "weight", scheme, weight.shape, values=values, bits=8), *auxiliaries(module, AUXILIARY, scheme)]
