"""compressed-tensors' packed weights: `weight_packed` with `weight_scale`, and with `weight_shape` for integers.

pack-quantized (compressors/pack_quantized/base.py): 32-bit words (out, ceil(in / (32 / bits))); `weight_shape` has
the weight's own shape.
nvfp4 and mxfp4 (compressors/nvfp4/base.py): bytes (out, in / 2) of two values each.
"""

from __future__ import annotations

from collections.abc import Mapping

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
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


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight in weight_packed. Raises InputError if its shape is unknown or does not fit the packed words."""
    weight = module.parts["weight_packed"]
    if "scale_packed" in module.parts or "meta" in module.parts:
        module.refuse("marlin-24: the weight's own shape is not stored, and not known")
    if len(weight.shape) < 2:
        module.refuse(f"weight_packed has shape {list(weight.shape)}: two dimensions or more were expected")
    if weight.dtype == "U8":
        shape, bits, scheme = (*weight.shape[:-1], 2 * weight.shape[-1]), 4, "fp4-pack"
    elif weight.dtype in ("I32", "U32"):
        shape, bits = _integers(config, module, weight)
        scheme = "pack-quantized"
    else:
        module.refuse(f"weight_packed is {weight.dtype}: words or bytes were expected")
    ref = weight_ref(module, "weight_packed", scheme, shape, bits=bits)
    if weight.dtype == "U8":
        scale = module.parts.get("weight_scale")
        is_nvfp4 = scale is not None and scale.dtype == "F8_E4M3" and scale.shape[:-1] == weight.shape[:-1]
        ref = unpacked_ref(ref, "fp4_pairs", [weight, scale if is_nvfp4 else None], dtype="F8_E4M3")
    elif len(shape) == 2 and bits < 8 and _fit_zero_points(module, shape, bits):
        parts = module.parts
        ref = unpacked_ref(ref, "word_integers", [weight, *_zero_points(parts)], bits=bits)
    return [ref, *auxiliary_refs(module, AUXILIARY, scheme)]


def _zero_points(parts: Mapping[str, TensorRef]) -> list[TensorRef | None]:
    return [parts["weight_zero_point"], parts.get("weight_g_idx")] if "weight_zero_point" in parts else []


def _fit_zero_points(module: ModuleTensors, shape: tuple[int, ...], bits: int) -> bool:
    """Whether there are no zero points, or they are words along the outputs for groups of inputs."""
    points = module.parts.get("weight_zero_point")
    if points is None:
        return True
    rows = -(-shape[0] // (32 // bits))
    return points.dtype in ("I32", "U32") and len(points.shape) == 2 and points.shape[0] == rows and points.shape[1] > 0


def _integers(config: QuantizationConfig, module: ModuleTensors, weight: TensorRef) -> tuple[tuple[int, ...], int]:
    """Shape of a weight in 32-bit words, and bits of a value. Words and weight_shape, if there is one, have to agree."""
    declared = config.group_bits(module.name)
    words = weight.shape[-1]
    if "weight_shape" not in module.parts:
        if declared is None or not 1 <= declared <= 16:
            module.refuse("weight_packed without weight_shape, and no group of the config says its bits")
        return (*weight.shape[:-1], words * (32 // declared)), declared
    shape = tuple(module.read_integers("weight_shape"))
    fitting = [bits for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16) if shape and -(-shape[-1] // (32 // bits)) == words]
    if shape[:-1] != weight.shape[:-1] or not fitting:
        module.refuse(f"weight_shape {list(shape)[:8]} does not fit weight_packed {list(weight.shape)}")
    return shape, declared if declared in fitting else fitting[-1]


LAYOUT = WeightLayout("compressed-tensors packed", _claims, suffixes=("weight_packed",))
