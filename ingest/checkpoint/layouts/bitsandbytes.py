"""bitsandbytes: 4-bit weights as bytes, with the shape in a small JSON tensor, and int8 weights with row scales in `SCB`.

bitsandbytes/functional.py, QuantState.as_dict: weight U8 (n / 2, 1), weight.absmax, weight.quant_map, weight.nested_absmax,
weight.nested_quant_map, weight.quant_state.bitsandbytes__nf4 (or __fp4) = {"shape", "dtype", "blocksize", "quant_type", ...}.
With bnb_4bit_quant_storage the bytes of the weight are kept as those of floats.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import decoded_ref
from layerhouse.ingest.checkpoint.layouts.module_tensors import (
    ModuleTensors,
    as_integers,
    auxiliary_refs,
    unpacked_ref,
    weight_ref,
)
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import CODES, PACKED, TensorRef

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
    return [_read_as_codes(module, ref, quant_state), *auxiliary_refs(module, others, "bitsandbytes")]


def _read_as_codes(module: ModuleTensors, ref: TensorRef, state: Mapping[str, Any]) -> TensorRef:
    """The weight with how its codes are read: zero is a code that the quant_map says, or a block of absmax zero."""
    parts = {name: module.parts.get(f"weight.{name}") for name in ("absmax", "quant_map", "nested_absmax", "nested_quant_map")}
    absmax, book, size = parts["absmax"], parts["quant_map"], state.get("blocksize")
    if absmax is None or book is None or book.dtype != "F32" or book.elements != 16 or type(size) is not int or size < 1:
        return ref
    values = struct.unpack("<16f", module.read_bytes("weight.quant_map"))
    is_nested = absmax.dtype == "U8" and _is_nested(parts, state)
    if not (absmax.dtype == "F32" or is_nested) or absmax.elements * size < ref.elements:
        return ref
    nested_parts = [parts["nested_quant_map"], parts["nested_absmax"]] if is_nested else []
    codes = as_integers(module.parts["weight"], "U8")
    if codes is None:
        return ref
    sources = [codes, absmax, *nested_parts]
    form: dict[str, Any] = {"quant_map": values, "blocksize": min(size, max(1, ref.elements))}
    if is_nested:
        form["nested_blocksize"] = min(state["nested_blocksize"], max(1, absmax.elements))
        form["nested_offset"] = state["nested_offset"]
    ref = unpacked_ref(ref, "bitsandbytes", sources, **form)
    named = dict(zip(("codes", "absmax", "nested_quant_map", "nested_absmax"), sources, strict=False))
    return decoded_ref(ref, "bitsandbytes_values", named, **form)


def _is_nested(parts: Mapping[str, TensorRef | None], state: Mapping[str, Any]) -> bool:
    """Whether absmax is quantised itself, in a form that is read."""
    absmax, book, nested = parts["absmax"], parts["nested_quant_map"], parts["nested_absmax"]
    size, offset = state.get("nested_blocksize"), state.get("nested_offset")
    if absmax is None or book is None or nested is None or type(size) is not int or size < 1 or type(offset) is not float:
        return False
    has_types = (absmax.dtype, book.dtype, nested.dtype) == ("U8", "F32", "F32")
    return has_types and book.elements == 256 and nested.elements * size >= absmax.elements


def _claims_8bit(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight in int8, with its row scales in SCB. A weight_format of other than 0 is an order that is not read."""
    weight = module.parts.get("weight")
    if weight is None or weight.dtype not in ("I8", "U8"):
        return []
    is_by_row = "weight_format" not in module.parts or not any(module.read_bytes("weight_format"))
    values = CODES if is_by_row else PACKED
    ref, scales = weight_ref(module, "weight", "bitsandbytes int8", weight.shape, values=values), module.parts["SCB"]
    if weight.dtype == "I8" and is_by_row and len(weight.shape) == 2 and scales.elements == weight.shape[0]:
        named = {"codes": weight, "scales": scales}
        ref = decoded_ref(ref, "scaled_values", named, block=(1, weight.shape[1]), times=1 / 127)
    return [ref, *auxiliary_refs(module, ("SCB", "weight_format"), "bitsandbytes int8")]


LAYOUT_4BIT = WeightLayout("bitsandbytes 4-bit", _claims_4bit, suffixes=("weight.absmax",))
LAYOUT_8BIT = WeightLayout("bitsandbytes int8", _claims_8bit, suffixes=("SCB",))
