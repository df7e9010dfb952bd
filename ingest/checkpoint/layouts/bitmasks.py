"""compressed-tensors' sparse layouts: the non-zero values in `compressed`, their positions in `bitmask`, and the `shape`.

sparse-24-bitmask (sparse_24_bitmask.py): compressed (rows, cols / 2), bitmask U8 (rows, ceil(cols / 8)).
sparse-bitmask (sparse_bitmask.py): compressed flat, the same bitmask, row_offsets (rows): index of each row's
first value.
"""

from __future__ import annotations

import math
from dataclasses import replace

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import block_of, decoded_ref
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import (
    BITMASK,
    CODES,
    PLAIN,
    Assembly,
    TensorRef,
)

SCALES = ("weight_scale", "weight_zero_point", "input_scale", "output_scale")


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The dense weight. Raises InputError if its parts do not fit each other."""
    prefix = "weight." if "weight.compressed" in module.parts else ""
    names = {part: f"{prefix}{part}" for part in ("compressed", "bitmask", "shape", "row_offsets")}
    if names["bitmask"] not in module.parts or names["shape"] not in module.parts:
        return []
    values, bits = (module.parts[names[part]] for part in ("compressed", "bitmask"))
    shape = tuple(module.read_integers(names["shape"]))
    if len(shape) != 2 or min(shape) <= 0 or bits.dtype != "U8" or bits.shape != (shape[0], -(-shape[1] // 8)):
        module.refuse(f"shape {list(shape)[:8]} does not fit the bitmask {bits.dtype} {list(bits.shape)}")
    sources = [values, bits]
    if names["row_offsets"] in module.parts:
        offsets = module.parts[names["row_offsets"]]
        if offsets.dtype != "I64" or offsets.elements != shape[0]:
            module.refuse(f"row_offsets {offsets.dtype} {list(offsets.shape)} are not one for each of {shape[0]} rows")
        sources.append(offsets)
        scheme = "sparse-bitmask"
    elif 2 * values.elements == math.prod(shape):
        scheme = "sparse-24-bitmask"
    else:
        module.refuse(f"{values.elements} compressed values without row_offsets are not half of shape {list(shape)}")
    kind = CODES if "weight_scale" in module.parts else PLAIN
    weight = weight_ref(module, names["compressed"], scheme, shape, values=kind)
    dense = replace(weight, assembly=Assembly(BITMASK, tuple(sources), shape), strides=None, storage_offset=0)
    if kind == CODES:
        dense = _with_values(config, module, dense)
    others = (*(names[part] for part in ("bitmask", "shape", "row_offsets")), *SCALES)
    return [dense, *auxiliary_refs(module, others, scheme)]


def _with_values(config: QuantizationConfig, module: ModuleTensors, dense: TensorRef) -> TensorRef:
    """A weight of codes with how its values are made, if its scales fit it."""
    scale, block = module.parts["weight_scale"], None
    if dense.dtype in ("I8", "F8_E4M3", "F8_E5M2") and "weight_zero_point" not in module.parts:
        block = block_of(config, dense.shape, scale)
    named = {"codes": replace(dense, layout=None), "scales": scale}
    return decoded_ref(dense, "scaled_values", named, block=block, times=1) if block is not None else dense


LAYOUT = WeightLayout("compressed-tensors bitmask", _claims, suffixes=("compressed", "weight.compressed"))
