"""ModelOpt's INT4 weights: `weight` U8 (out / 2, in), whose bytes have rows 2r and 2r + 1, with `weight_scale` (out, groups).

modelopt/torch/export/quant_utils.py, pack_int4_in_uint8: W4A16_AWQ and W4A8_AWQ.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import decoded_ref
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

AUXILIARY = ("weight_scale", "weight_scale_2", "pre_quant_scale", "input_scale", "output_scale")


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in), which has twice as many rows as are stored."""
    weight, scale = module.parts.get("weight"), module.parts.get("weight_scale")
    if weight is None or scale is None or weight.dtype != "U8" or len(weight.shape) != 2 or len(scale.shape) != 2:
        return []
    outputs, inputs = scale.shape[0], weight.shape[1]
    if not weight.shape[0] or outputs != 2 * weight.shape[0] or not scale.shape[1] or inputs % scale.shape[1]:
        return []
    scheme = "modelopt int4"
    ref = unpacked_ref(weight_ref(module, "weight", scheme, (outputs, inputs), bits=4), "row_pairs", [weight])
    if "weight_scale_2" not in module.parts and module.has_column_scales("pre_quant_scale", inputs):
        named = {"codes": weight, "scales": scale, "column_scales": module.parts.get("pre_quant_scale")}
        ref = decoded_ref(ref, "row_pairs_values", named, group_size=inputs // scale.shape[1])
    return [ref, *auxiliary_refs(module, AUXILIARY, scheme)]


LAYOUT = WeightLayout("modelopt int4", _claims, suffixes=("weight_scale",))
