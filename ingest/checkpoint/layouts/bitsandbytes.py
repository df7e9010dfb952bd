"""bitsandbytes: 4-bit weights as bytes whose shape a small JSON tensor tells, 8-bit ones as they are beside `SCB`.

bitsandbytes/functional.py, QuantState.as_dict: weight U8 (n / 2, 1), weight.absmax, weight.quant_map, weight.nested_absmax,
weight.nested_quant_map, weight.quant_state.bitsandbytes__nf4 (or __fp4) = {"shape", "dtype", "blocksize", "quant_type", ...}.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.layouts.modules import (
    Module,
    Quantization,
    auxiliaries,
    main,
)
from layerhouse.ingest.checkpoint.tensor_ref import CODES, TensorRef

STATES = {f"weight.quant_state.bitsandbytes__{kind}": kind for kind in ("nf4", "fp4")}


def four_bit(module: Module, quantization: Quantization) -> list[TensorRef]:
    """The weight of the shape that its quant_state gives. Raises InputError where that cannot be true."""
    weight = module.parts.get("weight")
    state = next((suffix for suffix in STATES if suffix in module.parts), None)
    if weight is None or state is None:
        module.refuse("weight.absmax without the weight and its quant_state: its shape is not known")
    document = module.document(state)
    shape = document.get("shape") if isinstance(document, dict) else None
    if not isinstance(shape, list) or not all(type(extent) is int and 0 <= extent < 2**40 for extent in shape):
        module.refuse("the quant_state gives no shape")
    ref = main(module, "weight", f"bitsandbytes {STATES[state]}", tuple(shape), bits=4)
    if -(-ref.elements // 2) != weight.logical_bytes:
        module.refuse(f"the quant_state gives shape {shape}, the weight has {weight.logical_bytes} bytes of two values")
    others = tuple(suffix for suffix in module.parts if suffix.startswith("weight."))
    return [ref, *auxiliaries(module, others, "bitsandbytes")]


def eight_bit(module: Module, quantization: Quantization) -> list[TensorRef]:
    """The weight in int8, whose row scales SCB holds."""
    weight = module.parts.get("weight")
    if weight is None or weight.dtype not in ("I8", "U8"):
        return []
    return [
        main(module, "weight", "bitsandbytes int8", weight.shape, values=CODES),
        *auxiliaries(module, ("SCB", "weight_format"), "bitsandbytes int8"),
    ]
