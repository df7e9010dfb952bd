"""EETQ's int8 weights, stored (in, out) with `weight_scales` (out).

EETQ, python/eetq/modules/qlinear.py. Code zero is the value zero.
"""

from __future__ import annotations

from dataclasses import replace

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import CODES, TensorRef


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in), read with its axes turned back. Raises InputError if the scales are not one for each output."""
    weight, scales = module.parts.get("weight"), module.parts["weight_scales"]
    if weight is None or weight.dtype != "I8":
        return []
    if len(weight.shape) != 2 or scales.elements != weight.shape[1] or weight.strides is not None:
        module.refuse(f"weight {list(weight.shape)} and weight_scales {list(scales.shape)} do not fit each other")
    inputs, outputs = weight.shape
    turned = replace(weight, shape=(outputs, inputs), strides=(1, outputs))
    parts = ModuleTensors(module.name, {**module.parts, "weight": turned}, module.display_path)
    return [
        weight_ref(parts, "weight", "eetq", (outputs, inputs), values=CODES, bits=8),
        *auxiliary_refs(module, ("weight_scales",), "eetq"),
    ]


LAYOUT = WeightLayout("eetq", _claims, suffixes=("weight_scales",))
