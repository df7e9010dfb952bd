"""Weights of 8 bits with scales: compressed-tensors' int, float and naive-quantized formats, DeepSeek's FP8 blocks, ModelOpt's
FP8 and INT8 with smoothing, and ComfyUI's scaled FP8 (`scale_weight`, `scale_input`).

The stored shape is the weight's own. Code zero is the value zero unless there are zero points.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import CODES, PACKED, TensorRef

TYPES = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
AUXILIARY = (
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "weight_g_idx",
    "input_scale",
    "output_scale",
    "pre_quant_scale",
    "scale_weight",
    "scale_input",
)


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight, its scales and zero points."""
    weight = module.parts.get("weight")
    if weight is None or weight.dtype not in TYPES:
        return []
    values = PACKED if "weight_zero_point" in module.parts else CODES
    scheme = f"scaled {weight.dtype}"
    return [
        weight_ref(module, "weight", scheme, weight.shape, values=values, bits=8),
        *auxiliary_refs(module, AUXILIARY, scheme),
    ]


LAYOUT = WeightLayout("scaled 8-bit", _claims, suffixes=("weight_scale", "weight_scale_inv", "scale_weight"))
