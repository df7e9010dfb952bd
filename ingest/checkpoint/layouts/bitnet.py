"""BitNet's ternary weights: `weight` U8 (out / 4, in), four rows a byte, with one `weight_scale`.

transformers, integrations/bitnet.py, pack_weights: codes 0, 1, 2 for the values -1, 0, 1.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import decoded_ref
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

ROWS_A_BYTE = 4
LINEAR_CLASSES = ("bitlinear", "autobitlinear")
"""The modules that the config names, the first by default; one divides by the scale, the other multiplies."""


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in), where the config says that it is ternary."""
    weight, scale = module.parts.get("weight"), module.parts.get("weight_scale")
    if config.method != "bitnet" or weight is None or scale is None or weight.dtype != "U8":
        return []
    if len(weight.shape) != 2 or scale.elements != 1:
        module.refuse(f"weight {list(weight.shape)} with weight_scale {list(scale.shape)} is no packed weight of BitNet")
    shape = (ROWS_A_BYTE * weight.shape[0], weight.shape[1])
    ref = unpacked_ref(weight_ref(module, "weight", "bitnet", shape, bits=2), "bitnet", [weight])
    kind = config.declared.get("linear_class", "bitlinear")
    if kind in LINEAR_CLASSES:
        ref = decoded_ref(ref, "bitnet_values", {"codes": weight, "scales": scale}, is_divided=kind == "bitlinear")
    return [ref, *auxiliary_refs(module, ("weight_scale",), "bitnet")]


LAYOUT = WeightLayout("bitnet", _claims, suffixes=("weight_scale",))
