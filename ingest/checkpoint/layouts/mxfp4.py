"""gpt-oss' experts in MXFP4: `NAME_blocks` U8 (experts, out, groups, 16), two values a byte, beside `NAME_scales`."""

from __future__ import annotations

from layerhouse.ingest.checkpoint.layouts.modules import (
    Module,
    Quantization,
    auxiliaries,
    main,
)
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

GROUP_BYTES = 16


def blocks(module: Module, quantization: Quantization) -> list[TensorRef]:
    """The weight of all experts. Plain ones are (experts, in, out), so that is the shape here."""
    stored = module.parts["_blocks"]
    if stored.dtype != "U8" or len(stored.shape) != 4 or stored.shape[3] != GROUP_BYTES or "_scales" not in module.parts:
        return []
    experts, outputs, groups, _ = stored.shape
    if module.parts["_scales"].shape != (experts, outputs, groups):
        module.refuse(f"_scales {list(module.parts['_scales'].shape)} do not fit _blocks {list(stored.shape)}")
    shape = (experts, groups * 2 * GROUP_BYTES, outputs)
    return [main(module, "_blocks", "mxfp4", shape, bits=4, weight=""), *auxiliaries(module, ("_scales",), "mxfp4", weight="")]
