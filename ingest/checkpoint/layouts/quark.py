"""Quark's INT4 and UINT4 weights: `weight` I32 (in, out / 8), with `weight_scale` (in / group, out) and `weight_zero_point`.

quark/torch/export/nn/modules/qparamslinear.py: the words of AWQ under other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import decoded_ref, group_size
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, turned, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

AUXILIARY = ("weight_scale", "weight_zero_point", "input_scale", "input_zero_point", "output_scale")


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in). Raises InputError if the words do not fit the scales."""
    weight, scale = module.parts.get("weight"), module.parts.get("weight_scale")
    if weight is None or scale is None or weight.dtype not in ("I32", "U32"):
        return []
    if len(weight.shape) != 2 or len(scale.shape) != 2 or scale.shape[1] != 8 * weight.shape[1]:
        module.refuse(f"weight {weight.dtype} {list(weight.shape)} and weight_scale {list(scale.shape)} do not fit each other")
    shape = (scale.shape[1], weight.shape[0])
    export = config.declared.get("export")
    is_reordered = isinstance(export, Mapping) and export.get("pack_method") == "reorder"
    zeros = module.parts.get("weight_zero_point")
    ref = weight_ref(module, "weight", "quark int4", shape, bits=4)
    size = group_size(config, shape[1], scale.shape[0], module.name)
    if size is not None and (zeros is None or zeros.shape == (scale.shape[0], weight.shape[1])):
        codes, points = turned(weight), None if zeros is None else turned(zeros)
        form: dict[str, Any] = {"is_reordered": is_reordered, "group_size": size}
        ref = unpacked_ref(ref, "awq", [codes, points], **form)
        dtype = _declared_dtype(config)
        if dtype == "int4" or (dtype == "uint4" and zeros is not None):
            named = {"codes": codes, "points": points, "scales": turned(scale)}
            ref = decoded_ref(ref, "awq_values", named, **form, is_signed=dtype == "int4")
    return [ref, *auxiliary_refs(module, AUXILIARY, "quark int4")]


def _declared_dtype(config: QuantizationConfig) -> str | None:
    """The type of all quantised weights; None where some layers have another one."""
    if config.declared.get("layer_quant_config") or config.declared.get("layer_type_quant_config"):
        return None
    quantized = config.declared.get("global_quant_config")
    weight = quantized.get("weight") if isinstance(quantized, Mapping) else None
    dtype = weight.get("dtype") if isinstance(weight, Mapping) else None
    return dtype if isinstance(dtype, str) else None


LAYOUT = WeightLayout("quark int4", _claims, suffixes=("weight_scale",))
