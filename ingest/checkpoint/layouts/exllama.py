"""ExLlama's weights: EXL2 with other bits for each group of inputs, EXL3 as a trellis of 16 x 16 tiles.

EXL2 (exllamav2/linear.py): q_weight I32 (words, out), q_invperm (in), q_scale, q_scale_max, q_groups.
EXL3 (exllamav3/modules/quant/exl3.py): trellis I16 (in / 16, out / 16, 16 bits), suh (in), svh (out), mcg or mul1.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

TILE = 16
EXL2_AUXILIARY = ("q_invperm", "q_perm", "q_scale", "q_scale_max", "q_groups", "q_group_map")
EXL3_AUXILIARY = ("suh", "svh", "su", "sv", "mcg", "mul1")


def _claims_exl2(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in)."""
    weight = module.parts["q_weight"]
    order = module.parts.get("q_invperm") or module.parts.get("q_perm")
    if order is None or len(weight.shape) != 2:
        module.refuse(f"q_weight {list(weight.shape)} without q_invperm: the number of its inputs is not known")
    if not order.elements or weight.shape[0] > order.elements:
        module.refuse(f"q_weight {list(weight.shape)} has more words than {order.elements} inputs take")
    shape = (weight.shape[1], order.elements)
    return [weight_ref(module, "q_weight", "exl2", shape), *auxiliary_refs(module, EXL2_AUXILIARY, "exl2")]


def _claims_exl3(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in). Raises InputError if the signs of inputs and outputs do not fit the tiles."""
    trellis = module.parts["trellis"]
    if len(trellis.shape) != 3 or trellis.dtype not in ("I16", "U16"):
        module.refuse(f"trellis {trellis.dtype} {list(trellis.shape)}: 16-bit words of three dimensions were expected")
    inputs, outputs = TILE * trellis.shape[0], TILE * trellis.shape[1]
    for suffix, expected in (("suh", inputs), ("svh", outputs)):
        if suffix in module.parts and module.parts[suffix].elements != expected:
            module.refuse(f"{suffix} {list(module.parts[suffix].shape)} does not fit trellis {list(trellis.shape)}")
    bits = trellis.shape[2] // TILE
    return [
        weight_ref(module, "trellis", "exl3", (outputs, inputs), bits=bits),
        *auxiliary_refs(module, EXL3_AUXILIARY, "exl3"),
    ]


LAYOUT_EXL2 = WeightLayout("exl2", _claims_exl2, suffixes=("q_weight",))
LAYOUT_EXL3 = WeightLayout("exl3", _claims_exl3, suffixes=("trellis",))
