"""HQQ: codes in `W_q`, with `scale`, `zero`, and values that say how they are packed: `shape`, `nbits`, `axis`, ...

hqq/core/quantize.py and bitpack.py: value = (code - zero) * scale. The weight's values in C order are the rows of a matrix,
(groups, group) for axis 1 and (group, groups) for axis 0, with a scale and a zero point for each group. Codes are packed along
the rows of the matrix: in bytes (8, 4, 2 and 1 bits), the first slice of rows in the high bits, or ten slices in 32-bit words
(3 bits).

In a pickle the values beside the tensors are plain ones (pickle.parts), in safetensors they are tensors of integers.
"""

from __future__ import annotations

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
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

PACKINGS = {8: ("U8", 1), 4: ("U8", 2), 3: ("I32", 10), 2: ("U8", 4), 1: ("U8", 8)}
"""The type of what is stored and the codes in one of it, by the bits of a code."""
FLOATS = ("F16", "BF16", "F32")
CODES_NAME, PLAIN_PARTS = "W_q", ("bias",)


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in). Raises InputError if nothing says its shape, or if the codes are too few for it."""
    codes = module.parts[CODES_NAME]
    described = module.metadata.get(f"{module.name}.{CODES_NAME}")
    description = described if isinstance(described, Mapping) else None
    shape = tuple(_integers(module, description, "shape"))
    if len(shape) != 2 or min(shape) <= 0:
        module.refuse("packed by hqq, and nothing says the shape of this module")
    bits = _integer(module, description, "nbits")
    ref = weight_ref(module, CODES_NAME, "hqq", shape, bits=bits)
    if bits is not None and 8 * codes.logical_bytes < ref.elements * bits:
        module.refuse(f"W_q of {codes.logical_bytes} bytes is too short for shape {list(shape)} of {bits} bits")
    if bits in PACKINGS:
        ref = _read_as_codes(module, ref, bits, _integer(module, description, "axis"))
    others = [suffix for suffix in module.parts if suffix not in (CODES_NAME, *PLAIN_PARTS)]
    return [ref, *auxiliary_refs(module, others, "hqq")]


def _read_as_codes(module: ModuleTensors, ref: TensorRef, bits: int, axis: int | None) -> TensorRef:
    """The weight with how its codes are read, if codes, scales and zero points have the forms that HQQ writes."""
    codes, scale, zero = (module.parts.get(name) for name in (CODES_NAME, "scale", "zero"))
    dtype, per_stored = PACKINGS[bits]
    if codes is None or scale is None or zero is None or len(codes.shape) != 2 or not codes.elements or axis not in (0, 1):
        return ref
    codes = as_integers(codes, dtype)
    columns = codes.shape[1] if codes is not None else 0
    if codes is None or not columns or ref.elements % columns:
        return ref
    rows = ref.elements // columns
    is_packed = codes.shape[0] == -(-rows // per_stored) if bits == 3 else codes.shape[0] * per_stored == rows
    groups = rows if axis == 1 else columns
    has_groups = scale.elements == zero.elements == groups and scale.dtype == zero.dtype and scale.dtype in FLOATS
    if not is_packed or not has_groups:
        return ref
    wide = "U16" if bits == 8 else "U8"
    ref = unpacked_ref(ref, "hqq", [codes, scale, zero], dtype=wide, bits=bits, axis=axis, matrix_columns=columns)
    if ref.shape[1] % columns and columns % ref.shape[1]:
        return ref
    parts = {"codes": codes, "scales": scale, "zeros": zero}
    return decoded_ref(ref, "hqq_values", parts, bits=bits, axis=axis, matrix_columns=columns)


def _integers(module: ModuleTensors, description: Mapping[str, Any] | None, key: str) -> list[int]:
    """One or several integers that describe the codes; none if they are not there."""
    if description is not None:
        value = description.get(key)
        values: list[Any] = value if isinstance(value, list) else [value]
        return values if all(type(item) is int for item in values) else []
    is_read = key in module.parts and module.parts[key].dtype in ("I32", "I64")
    return module.read_integers(key) if is_read else []


def _integer(module: ModuleTensors, description: Mapping[str, Any] | None, key: str) -> int | None:
    values = _integers(module, description, key)
    return values[0] if len(values) == 1 else None


LAYOUT = WeightLayout("hqq", _claims, suffixes=(CODES_NAME,))
