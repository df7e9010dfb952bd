"""FP4 (E2M1) weights, two values a byte along the inputs, with a scale for every 16 or 32 of them.

ModelOpt NVFP4 (modelopt/torch/quantization/qtensor/nvfp4_tensor.py): weight U8 (out, in / 2), weight_scale F8_E4M3
(out, in / 16), weight_scale_2 F32. ModelOpt and Quark MXFP4: weight_scale U8 (out, in / 32). DeepSeek's experts: weight I8
(out, in / 2), scale F8_E8M0 (out, in / 32). FP-Quant (fp_quant/module/linear.py): qweight U8 (out, in / 2), scales U8
(out, in / 32), or in / 16 for NVFP4, and two Hadamard matrices; its weights are rotated.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import as_powers_of_two, decoded_ref, fp4_group_size
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

GROUPS = (16, 32)
SCALES = ("F8_E4M3", "U8", "F8_E8M0")
"""Types of scales that only weights of 4 bits have."""
AUXILIARY = ("weight_scale", "weight_scale_2", "scale", "input_scale", "output_scale", "pre_quant_scale", "weight_global_scale")
ROTATED = ("scales", "weight_global_scale", "act_global_scale", "forward_hadamard_matrix", "backward_hadamard_matrix")


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (..., out, in), whose width follows from its bytes if the scales fit two values a byte."""
    weight = module.parts.get("weight")
    scale = module.parts.get("weight_scale") or module.parts.get("scale")
    if weight is None or scale is None or config.group_bits(module.name) == 8:
        return []
    is_e8m0 = weight.dtype == "I8" and scale.dtype == "F8_E8M0"
    if not is_e8m0 and not (weight.dtype == "U8" and scale.dtype in SCALES):
        return []
    if not _are_pairs(weight, scale):
        shapes = f"weight {weight.dtype} {list(weight.shape)} with scales {scale.dtype} {list(scale.shape)}"
        module.refuse(f"{shapes}: not two values a byte with a scale for every 16 or 32")
    scheme = "nvfp4" if scale.dtype == "F8_E4M3" else "mxfp4"
    shape = (*weight.shape[:-1], 2 * weight.shape[-1])
    ref = weight_ref(module, "weight", scheme, shape, bits=4)
    size = fp4_group_size(shape[-1], scale.shape[-1])
    if len(shape) > 2 and size is not None and shape[-1] % size:
        return [ref, *auxiliary_refs(module, AUXILIARY, scheme)]
    ref = unpacked_ref(ref, "fp4_pairs", [weight, scale if scheme == "nvfp4" else None], dtype="F8_E4M3", group_size=size)
    second = module.parts.get("weight_scale_2")
    is_known = (scheme == "nvfp4") == (
        second is not None and second.elements == 1
    ) and "weight_global_scale" not in module.parts
    if is_known and module.has_column_scales("pre_quant_scale", shape[-1]):
        named = {"codes": weight, "scales": as_powers_of_two(scale), "weight_scale": second}
        named["column_scales"] = module.parts.get("pre_quant_scale")
        ref = decoded_ref(ref, "fp4_values", named, group_size=size)
    return [ref, *auxiliary_refs(module, AUXILIARY, scheme)]


def _claims_rotated(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight of FP-Quant."""
    weight, scales = module.parts.get("qweight"), module.parts.get("scales")
    if weight is None or scales is None or weight.dtype != "U8":
        return []
    if scales.dtype not in ("U8", "F8_E4M3", "F8_E8M0") or not _are_pairs(weight, scales):
        module.refuse(f"qweight U8 {list(weight.shape)} and scales {scales.dtype} {list(scales.shape)} do not fit each other")
    shape = (*weight.shape[:-1], 2 * weight.shape[-1])
    return [weight_ref(module, "qweight", "fp-quant", shape, bits=4), *auxiliary_refs(module, ROTATED, "fp-quant")]


def _are_pairs(weight: TensorRef, scale: TensorRef) -> bool:
    """Whether there is a scale for every 16 or 32 values, with two values in a byte of the weight."""
    if len(weight.shape) < 2 or scale.shape[:-1] != weight.shape[:-1]:
        return False
    return any(scale.shape[-1] == -(-2 * weight.shape[-1] // group) for group in GROUPS)


LAYOUT = WeightLayout("fp4", _claims, suffixes=("weight_scale", "scale"))
LAYOUT_ROTATED = WeightLayout("fp-quant", _claims_rotated, suffixes=("forward_hadamard_matrix",))
