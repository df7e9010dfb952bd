"""gpt-oss' experts in MXFP4: `NAME_blocks` U8 (experts, out, groups, 16), two values a byte, with `NAME_scales`."""

from __future__ import annotations

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

GROUP_BYTES = 16


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight of all experts, in the shape (experts, in, out) that gpt-oss' plain weights have."""
    stored = module.parts["_blocks"]
    if stored.dtype != "U8" or len(stored.shape) != 4 or stored.shape[3] != GROUP_BYTES or "_scales" not in module.parts:
        return []
    experts, outputs, groups, _ = stored.shape
    if module.parts["_scales"].shape != (experts, outputs, groups):
        module.refuse(f"_scales {list(module.parts['_scales'].shape)} do not fit _blocks {list(stored.shape)}")
    shape = (experts, groups * 2 * GROUP_BYTES, outputs)
    ref = weight_ref(module, "_blocks", "mxfp4", shape, bits=4, weight="")
    stored_order = (experts, outputs, groups * 2 * GROUP_BYTES)
    ref = unpacked_ref(ref, "fp4_pairs", [stored], dtype="F8_E4M3", shape=stored_order)
    return [ref, *auxiliary_refs(module, ("_scales",), "mxfp4", weight="")]


LAYOUT = WeightLayout("gpt-oss mxfp4", _claims, suffixes=("_blocks",))
