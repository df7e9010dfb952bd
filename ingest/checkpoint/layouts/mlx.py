"""MLX's affine quantisation: `weight` U32 (out, in / 32 * bits) with `scales` and `biases` (out, in / group_size)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import decoded_ref
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

BITS = (2, 3, 4, 5, 6, 8)
FLOATS = ("F16", "BF16", "F32")
SCALES_OF_BYTES = {"mxfp4": (4, 32, "F8_E8M0"), "nvfp4": (4, 16, "F8_E4M3"), "mxfp8": (8, 32, "F8_E8M0")}
"""By mode: bits, inputs that share a scale, and the scale's type."""


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (..., out, in). Its width follows from the config's bits or group size. Raises InputError if neither fits."""
    weight = module.parts.get("weight")
    if weight is None or weight.dtype != "U32":
        return []
    scales = module.parts["scales"].shape
    if weight.shape[:-1] != scales[:-1] or not weight.shape:
        module.refuse(f"weight {list(weight.shape)} and scales {list(scales)} do not fit each other")
    bits, group_size = (config.number(key, module.name) for key in ("bits", "group_size"))
    if group_size is None and bits is None:
        module.refuse("weight in 32-bit words with scales, and no config that says its bits or group size")
    inputs = scales[-1] * group_size if group_size is not None else weight.shape[-1] * 32 // (bits or 1)
    fitting_bits = weight.shape[-1] * 32 // inputs if inputs else 0
    if fitting_bits not in BITS or inputs * fitting_bits != weight.shape[-1] * 32 or bits not in (None, fitting_bits):
        shapes = f"weight {list(weight.shape)} and scales {list(scales)}"
        module.refuse(f"{shapes} are not {bits} bits in groups of {group_size}, as the config says")
    ref = weight_ref(module, "weight", "mlx", (*weight.shape[:-1], inputs), bits=fitting_bits)
    return [_read_as_codes(config, module, ref), *auxiliary_refs(module, ("scales", "biases"), "mlx")]


def _read_as_codes(config: QuantizationConfig, module: ModuleTensors, ref: TensorRef) -> TensorRef:
    """The weight with how it is read: affine with biases, else (scales of bytes) FP4 or FP8."""
    weight, scales, biases = module.parts["weight"], module.parts["scales"], module.parts.get("biases")
    bits = ref.layout.bits if ref.layout else None
    size, rest = divmod(ref.shape[-1], scales.shape[-1]) if scales.shape[-1] else (0, 1)
    if rest:
        return ref
    if biases is not None and biases.shape == scales.shape and biases.dtype == scales.dtype and scales.dtype in FLOATS:
        ref = unpacked_ref(ref, "affine", [weight, scales, biases], dtype="U16" if bits == 8 else "U8", bits=bits)
        return decoded_ref(ref, "affine_values", {"codes": weight, "scales": scales, "biases": biases}, bits=bits)
    if biases is not None or scales.dtype != "U8" or bits not in (4, 8):
        return ref
    ref = unpacked_ref(ref, "word_pairs" if bits == 4 else "word_floats", [weight], dtype="F8_E4M3")
    form = SCALES_OF_BYTES.get(_mode(config, module.name))
    if form is None or form[:2] != (bits, size):
        return ref
    typed = replace(scales, dtype=form[2])
    return decoded_ref(ref, f"word_fp{bits}_values", {"codes": weight, "scales": typed}, group_size=size)


def _mode(config: QuantizationConfig, module: str) -> str:
    """The form that the config declares, for the module or for all."""
    for block in (config.declared.get(module), config.declared):
        mode = block.get("mode") if isinstance(block, Mapping) else None
        if isinstance(mode, str):
            return mode
    return ""


LAYOUT = WeightLayout("mlx", _claims, suffixes=("scales",))
