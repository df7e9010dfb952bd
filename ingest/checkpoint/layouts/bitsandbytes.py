"""bitsandbytes: 4-bit weights as bytes, with the shape in a small JSON tensor, and int8 weights with row scales in `SCB`.

bitsandbytes/functional.py, QuantState.as_dict: weight U8 (n / 2, 1), weight.absmax, weight.quant_map, weight.nested_absmax,
weight.nested_quant_map, weight.quant_state.bitsandbytes__nf4 (or __fp4) = {"shape", "dtype", "blocksize", "quant_type", ...}.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import CODES, TensorRef

STATES = {f"weight.quant_state.bitsandbytes__{kind}": kind for kind in ("nf4", "fp4")}


def _claims_4bit(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight in the shape that its quant_state gives. Raises InputError if the weight's bytes do not fit that shape."""
    weight = module.parts.get("weight")
    state = next((suffix for suffix in STATES if suffix in module.parts), None)
    if weight is None or state is None:
        module.refuse("weight.absmax without the weight and its quant_state: its shape is not known")
    quant_state = module.read_json(state)
    shape = quant_state.get("shape") if isinstance(quant_state, dict) else None
    if not isinstance(shape, list) or not all(type(extent) is int and 0 <= extent < 2**40 for extent in shape):
        module.refuse("the quant_state gives no shape")
    ref = weight_ref(module, "weight", f"bitsandbytes {STATES[state]}", tuple(shape), bits=4)
    if -(-ref.elements // 2) != weight.logical_bytes:
        module.refuse(f"the quant_state gives shape {shape}, the weight has {weight.logical_bytes} bytes of two values")
    others = tuple(suffix for suffix in module.parts if suffix.startswith("weight."))
    return [ref, *auxiliary_refs(module, others, "bitsandbytes")]


def _claims_8bit(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight in int8, with its row scales in SCB."""
    weight = module.parts.get("weight")
    if weight is None or weight.dtype not in ("I8", "U8"):
        return []
    return [
        weight_ref(module, "weight", "bitsandbytes int8", weight.shape, values=CODES),
        *auxiliary_refs(module, ("SCB", "weight_format"), "bitsandbytes int8"),
    ]


LAYOUT_4BIT = WeightLayout("bitsandbytes 4-bit", _claims_4bit, suffixes=("weight.absmax",))
LAYOUT_8BIT = WeightLayout("bitsandbytes int8", _claims_8bit, suffixes=("SCB",))
