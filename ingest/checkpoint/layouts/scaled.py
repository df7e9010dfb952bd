"""Weights of 8 bits with scales: compressed-tensors' int, float and naive-quantized formats, DeepSeek's FP8 blocks, ModelOpt's
FP8 and INT8 with smoothing, and ComfyUI's scaled FP8 (`scale_weight`, `scale_input`).

The stored shape is the weight's own. Code zero is the value zero; where there are zero points, a code that is its own is.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import (
    POINT_TYPES,
    are_points_of_groups,
    as_powers_of_two,
    block_of,
    decoded_ref,
)
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import CODES, PACKED, TensorRef

TYPES = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
SCALES = ("weight_scale", "weight_scale_inv", "scale_weight")
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
    ref = _with_values(config, module, weight_ref(module, "weight", scheme, weight.shape, values=values, bits=8))
    points = module.parts.get("weight_zero_point")
    if points is not None and _are_own_points(config, module, weight, points):
        ref = unpacked_ref(ref, "pointed", [weight, points])
    return [ref, *auxiliary_refs(module, AUXILIARY, scheme)]


def _are_own_points(config: QuantizationConfig, module: ModuleTensors, weight: TensorRef, points: TensorRef) -> bool:
    """Whether zero points are of the codes' type, one for each of equal groups of consecutive inputs."""
    if points.dtype != weight.dtype or "weight_g_idx" in module.parts or not are_points_of_groups(weight, points):
        return False
    size = weight.shape[1] * weight.shape[0] // points.elements
    return block_of(config, weight.shape, points) in ((1, size), weight.shape)


def _with_values(config: QuantizationConfig, module: ModuleTensors, ref: TensorRef) -> TensorRef:
    """The weight with how its values are made, if it has one kind of scales, and they fit it."""
    parts = module.parts
    weight, points = parts["weight"], parts.get("weight_zero_point")
    scales = [parts[name] for name in SCALES if name in parts]
    is_signed_as_stored = weight.dtype != "U8" or (points is not None and points.dtype == "U8")
    if len(scales) != 1 or not is_signed_as_stored or "weight_g_idx" in parts:
        return ref
    scale = as_powers_of_two(scales[0]) if weight.dtype.startswith("F8") else scales[0]
    block = block_of(config, ref.shape, scale)
    has_points = points is None or (points.dtype in POINT_TYPES and points.shape == scale.shape)
    if block is None or not has_points or not module.has_column_scales("pre_quant_scale", ref.shape[1]):
        return ref
    named = {"codes": weight, "scales": scale, "points": points, "column_scales": parts.get("pre_quant_scale")}
    return decoded_ref(ref, "scaled_values", named, block=block, times=1)


LAYOUT = WeightLayout("scaled 8-bit", _claims, suffixes=SCALES)
