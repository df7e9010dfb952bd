"""compressed-tensors' packed weights: `weight_packed` with `weight_scale`, and with `weight_shape` for integers.

pack-quantized (compressors/pack_quantized/base.py): 32-bit words (out, ceil(in / (32 / bits))); `weight_shape` has
the weight's own shape.
nvfp4 and mxfp4 (compressors/nvfp4/base.py): bytes (out, in / 2) of two values each.
"""

from __future__ import annotations

from typing import Any

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import as_powers_of_two, decoded_ref, fp4_group_size, group_size
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

INTEGER_PARTS = ("weight_packed", "weight_zero_point", "weight_g_idx", "weight_scale")
AUXILIARY = (
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "weight_global_scale",
    "input_global_scale",
    "input_scale",
    "output_scale",
)


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight in weight_packed. Raises InputError if its shape is unknown or does not fit the packed words."""
    weight = module.parts["weight_packed"]
    if "scale_packed" in module.parts or "meta" in module.parts:
        module.refuse("marlin-24: the weight's own shape is not stored, and not known")
    if len(weight.shape) < 2:
        module.refuse(f"weight_packed has shape {list(weight.shape)}: two dimensions or more were expected")
    if weight.dtype == "U8":
        shape, bits, scheme = (*weight.shape[:-1], 2 * weight.shape[-1]), 4, "fp4-pack"
    elif weight.dtype in ("I32", "U32"):
        shape, bits = _integers(config, module, weight)
        scheme = "pack-quantized"
    else:
        module.refuse(f"weight_packed is {weight.dtype}: words or bytes were expected")
    ref = weight_ref(module, "weight_packed", scheme, shape, bits=bits)
    if weight.dtype == "U8":
        ref = _read_fp4(module, ref)
    elif len(shape) == 2 and bits <= 8:
        ref = _read_integers(config, module, ref, bits)
    return [ref, *auxiliary_refs(module, AUXILIARY, scheme)]


def _read_fp4(module: ModuleTensors, ref: TensorRef) -> TensorRef:
    """A weight of FP4 with how it is read: scales of 8 bits, divided by one of the whole weight if they are floats."""
    weight, scale, whole = (module.parts.get(name) for name in ("weight_packed", "weight_scale", "weight_global_scale"))
    assert weight is not None
    size = None
    if scale is not None and scale.shape[:-1] == weight.shape[:-1]:
        size = fp4_group_size(ref.shape[-1], scale.shape[-1])
        if len(ref.shape) > 2 and size is not None and ref.shape[-1] % size:
            return ref
    is_nvfp4 = scale is not None and scale.dtype == "F8_E4M3" and size is not None
    ref = unpacked_ref(ref, "fp4_pairs", [weight, scale if is_nvfp4 else None], dtype="F8_E4M3", group_size=size)
    is_mxfp4 = scale is not None and scale.dtype in ("U8", "F8_E8M0") and size is not None
    is_known = is_nvfp4 if whole is not None and whole.elements == 1 else is_mxfp4 and whole is None
    if scale is None or not is_known:
        return ref
    named = {"codes": weight, "scales": as_powers_of_two(scale), "weight_divisor": whole}
    return decoded_ref(ref, "fp4_values", named, group_size=size)


def _read_integers(config: QuantizationConfig, module: ModuleTensors, ref: TensorRef, bits: int) -> TensorRef:
    """A weight of integers with how it is read, as far as zero points and scales fit it.

    Zero points are words along the outputs, (out / per word, groups); scales are (out, groups), (out) or one.
    """
    weight, points, order, scale = (module.parts.get(name) for name in INTEGER_PARTS)
    assert weight is not None
    (outputs, inputs), rows = ref.shape, -(-ref.shape[0] // (32 // bits))
    if points is not None and (points.dtype not in ("I32", "U32") or points.shape[:-1] != (rows,) or not points.shape[-1]):
        return ref
    scale_groups = 1 if scale is None or len(scale.shape) < 2 else scale.shape[-1]
    groups = scale_groups if points is None else points.shape[-1]
    size = group_size(config, inputs, groups, module.name)
    form: dict[str, Any] = {"bits": bits, "group_size": size or 0}
    has_groups = size is not None or order is not None
    if points is None or has_groups:
        sources = [weight] if points is None else [weight, points, order]
        ref = unpacked_ref(ref, "word_integers", sources, dtype="U16" if bits == 8 else "U8", **form)
    shapes = ((outputs, groups), (outputs,), (1,), ()) if groups == 1 else ((outputs, groups),)
    if scale is None or scale.shape not in shapes or not has_groups:
        return ref
    named = {"codes": weight, "scales": scale, "points": points, "groups": order}
    return decoded_ref(ref, "integer_values", named, **form)


def _integers(config: QuantizationConfig, module: ModuleTensors, weight: TensorRef) -> tuple[tuple[int, ...], int]:
    """Shape of a weight in 32-bit words, and bits of a value. Words and weight_shape, if there is one, have to agree."""
    declared = config.group_bits(module.name)
    words = weight.shape[-1]
    if "weight_shape" not in module.parts:
        if declared is None or not 1 <= declared <= 16:
            module.refuse("weight_packed without weight_shape, and no group of the config says its bits")
        return (*weight.shape[:-1], words * (32 // declared)), declared
    shape = tuple(module.read_integers("weight_shape"))
    fitting = [bits for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16) if shape and -(-shape[-1] // (32 // bits)) == words]
    if shape[:-1] != weight.shape[:-1] or not fitting:
        module.refuse(f"weight_shape {list(shape)[:8]} does not fit weight_packed {list(weight.shape)}")
    return shape, declared if declared in fitting else fitting[-1]


LAYOUT = WeightLayout("compressed-tensors packed", _claims, suffixes=("weight_packed",))
