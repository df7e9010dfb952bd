"""MLX's affine quantisation: `weight` U32 (out, in / 32 * bits) beside `scales` and `biases` (out, in / group_size)."""

from __future__ import annotations

from layerhouse.ingest.checkpoint.layouts.modules import (
    Module,
    Quantization,
    auxiliaries,
    main,
)
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

BITS = (2, 3, 4, 5, 6, 8)


def affine(module: Module, quantization: Quantization) -> list[TensorRef]:
    """The weight (..., out, in). The group size, of which the config speaks, makes the bits known. Raises InputError if not."""
    weight = module.parts.get("weight")
    if weight is None or weight.dtype != "U32":
        return []
    scales = module.parts["scales"].shape
    if weight.shape[:-1] != scales[:-1] or not weight.shape:
        module.refuse(f"weight {list(weight.shape)} and scales {list(scales)} do not fit each other")
    bits, group_size = (quantization.number(key, module.name) for key in ("bits", "group_size"))
    if group_size is None and bits is None:
        module.refuse("weight in 32-bit words with scales, and no config that says its bits or group size")
    inputs = scales[-1] * group_size if group_size is not None else weight.shape[-1] * 32 // (bits or 1)
    found = weight.shape[-1] * 32 // inputs if inputs else 0
    if found not in BITS or inputs * found != weight.shape[-1] * 32 or bits not in (None, found):
        shapes = f"weight {list(weight.shape)} and scales {list(scales)}"
        module.refuse(f"{shapes} are not {bits} bits in groups of {group_size}, as the config says")
    ref = main(module, "weight", "mlx", (*weight.shape[:-1], inputs), bits=found)
    return [ref, *auxiliaries(module, ("scales", "biases"), "mlx")]
