"""EETQ's int8 weights, stored (in, out) with `weight_scales` (out).

EETQ and transformers (integrations/eetq.py) store what `quant_weights` returns: words in the order that the kernel reads, each
code plus 128 (preprocess_weights of FasterTransformer). The order depends on the GPU that they were made for and is not in the
file, so the codes are not read.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in). Raises InputError if the scales are not one for each output."""
    weight, scales = module.parts.get("weight"), module.parts["weight_scales"]
    if weight is None or weight.dtype != "I8":
        return []
    if len(weight.shape) != 2 or scales.elements != weight.shape[1]:
        module.refuse(f"weight {list(weight.shape)} and weight_scales {list(scales.shape)} do not fit each other")
    ref = weight_ref(module, "weight", "eetq", weight.shape[::-1], bits=8)
    return [ref, *auxiliary_refs(module, ("weight_scales",), "eetq")]


LAYOUT = WeightLayout("eetq", _claims, suffixes=("weight_scales",))
