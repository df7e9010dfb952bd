"""GPTQ and AWQ: the weight's codes in 32-bit words in `qweight`, with `qzeros`, `scales` and, for GPTQ, `g_idx`.

GPTQ (AutoGPTQ, qlinear_cuda.py): qweight (in / 32 * bits, out), qzeros (groups, out / 32 * bits), scales (groups, out).
AWQ (AutoAWQ, modules/linear/gemm.py): qweight (in, out / 32 * bits), qzeros (groups, out / 32 * bits), scales (groups, out).
The bits of a value follow from these shapes alone.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

AUXILIARY = ("qzeros", "scales", "g_idx", "perm", "workspace")


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in) that is packed in qweight. Raises InputError if the shapes do not fit each other."""
    parts = module.parts
    weight = parts["qweight"]
    if "qzeros" not in parts or "scales" not in parts:
        module.refuse("qweight without qzeros and scales: its bits are not known")
    zeros, scales = parts["qzeros"].shape, parts["scales"].shape
    if weight.dtype not in ("I32", "U32") or not len(weight.shape) == len(zeros) == len(scales) == 2:
        module.refuse(f"qweight is {weight.dtype} {list(weight.shape)}: 32-bit words of two dimensions were expected")
    outputs = scales[1]
    bits, rest = divmod(32 * zeros[1], outputs) if outputs else (0, 1)
    is_awq = weight.shape[1] == zeros[1] and weight.shape[1] != outputs
    if rest or not 1 <= bits <= 16 or not (is_awq or weight.shape[1] == outputs):
        shapes = f"qweight {list(weight.shape)}, qzeros {list(zeros)}, scales {list(scales)}"
        module.refuse(f"{shapes} are of no GPTQ or AWQ weight")
    inputs, rest = (weight.shape[0], 0) if is_awq else divmod(weight.shape[0] * 32, bits)
    if rest:
        module.refuse(f"qweight {list(weight.shape)}: its words hold no whole number of {bits}-bit values")
    if not is_awq and "g_idx" in parts and parts["g_idx"].elements not in (0, inputs):
        module.refuse(f"g_idx has {parts['g_idx'].elements} inputs, qweight {inputs}")
    scheme = "awq" if is_awq else "gptq"
    return [weight_ref(module, "qweight", scheme, (outputs, inputs), bits=bits), *auxiliary_refs(module, AUXILIARY, scheme)]


LAYOUT = WeightLayout("gptq and awq", _claims, suffixes=("qweight",))
