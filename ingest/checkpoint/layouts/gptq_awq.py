"""GPTQ and AWQ: the weight's codes in 32-bit words in `qweight`, with `qzeros`, `scales` and, for GPTQ, `g_idx`.

GPTQ (AutoGPTQ, qlinear_cuda.py): qweight (in / 32 * bits, out), qzeros (groups, out / 32 * bits), scales (groups, out).
AWQ (AutoAWQ, modules/linear/gemm.py): qweight (in, out / 32 * bits), qzeros (groups, out / 32 * bits), scales (groups, out).
The bits of a value follow from these shapes alone; AWQ has 4.
AWQ GEMV (modules/linear/gemv.py): qweight I32 (out, in / 8), qzeros (out, padded), scales (out, padded).
AWQ GEMV_FAST (modules/linear/gemv_fast.py): qweight I16 (out / 4, in), qzeros and scales F16 (padded groups, out).
GPTQ Marlin (auto_gptq, qlinear_marlin.py): B I32 (in / 16, out * bits / 2), s (groups, out), workspace.
"""

from __future__ import annotations

from typing import Any

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import decoded_ref, group_size
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, turned, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

READ_BITS = (2, 3, 4, 8)
AUXILIARY = ("qzeros", "scales", "g_idx", "perm", "workspace")


def _claims(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in) that is packed in qweight. Raises InputError if the shapes do not fit each other."""
    parts = module.parts
    weight = parts["qweight"]
    if "qzeros" not in parts or "scales" not in parts:
        module.refuse("qweight without qzeros and scales: its bits are not known")
    zeros, scales = parts["qzeros"].shape, parts["scales"].shape
    if config.declared.get("version") in ("gemv", "gemv_fast") or weight.dtype in ("I16", "U16"):
        return _claims_gemv(config, module)
    if weight.dtype not in ("I32", "U32") or not len(weight.shape) == len(zeros) == len(scales) == 2:
        module.refuse(f"qweight is {weight.dtype} {list(weight.shape)}: 32-bit words of two dimensions were expected")
    outputs = scales[1]
    bits, rest = divmod(32 * zeros[1], outputs) if outputs else (0, 1)
    is_awq = weight.shape[1] == zeros[1] and weight.shape[1] != outputs
    if rest or not 1 <= bits <= 16 or not (is_awq or weight.shape[1] == outputs):
        shapes = f"qweight {list(weight.shape)}, qzeros {list(zeros)}, scales {list(scales)}"
        module.refuse(f"{shapes} are of no GPTQ or AWQ weight")
    if is_awq and bits != 4:
        module.refuse(f"qweight {list(weight.shape)} and scales {list(scales)} are {bits} bits a value, and AWQ has 4")
    inputs, rest = (weight.shape[0], 0) if is_awq else divmod(weight.shape[0] * 32, bits)
    if rest:
        module.refuse(f"qweight {list(weight.shape)}: its words hold no whole number of {bits}-bit values")
    if not is_awq and "g_idx" in parts and parts["g_idx"].elements not in (0, inputs):
        module.refuse(f"g_idx has {parts['g_idx'].elements} inputs, qweight {inputs}")
    scheme = "awq" if is_awq else "gptq"
    ref = weight_ref(module, "qweight", scheme, (outputs, inputs), bits=bits)
    if zeros[0] == scales[0]:
        ref = _read_awq(config, module, ref) if is_awq else _read_gptq(config, module, ref, bits)
    return [ref, *auxiliary_refs(module, AUXILIARY, scheme)]


def _read_awq(config: QuantizationConfig, module: ModuleTensors, ref: TensorRef) -> TensorRef:
    """An AWQ weight with how it is read, if it has 4 bits."""
    weight, points, scales = (module.parts[name] for name in ("qweight", "qzeros", "scales"))
    size = group_size(config, ref.shape[1], scales.shape[0], module.name)
    if size is None or ref.shape[0] != 8 * weight.shape[1]:
        return ref
    form: dict[str, Any] = {"group_size": size, "is_reordered": True}
    ref = unpacked_ref(ref, "awq", [turned(weight), turned(points)], **form)
    named = {"codes": turned(weight), "points": turned(points), "scales": turned(scales)}
    return decoded_ref(ref, "awq_values", named, **form, is_signed=False)


def _read_gptq(config: QuantizationConfig, module: ModuleTensors, ref: TensorRef, bits: int) -> TensorRef:
    """A GPTQ weight with how it is read, if the groups of its inputs are known."""
    weight, points, scales = (module.parts[name] for name in ("qweight", "qzeros", "scales"))
    order = module.parts.get("g_idx")
    order = order if order is not None and order.elements else None
    size = group_size(config, ref.shape[1], scales.shape[0], module.name)
    if bits not in READ_BITS or (size is None and order is None):
        return ref
    form: dict[str, Any] = {"bits": bits, "added": 0 if _has_true_zeros(config) else 1, "group_size": size or 0}
    words = turned(points)
    ref = unpacked_ref(ref, "gptq", [turned(weight), words, order], dtype="U16" if bits == 8 else "U8", **form)
    named = {"codes": turned(weight), "points": words, "scales": turned(scales), "groups": order}
    return decoded_ref(ref, "gptq_values", named, **form)


def _has_true_zeros(config: QuantizationConfig) -> bool:
    """Whether qzeros holds the zero points themselves, and not one less, as GPTQ's first version of the format does."""
    formats = (config.declared.get("checkpoint_format"), config.declared.get("format"))
    return "gptq_v2" in formats or config.declared.get("packing_format") == "auto_round"


def _claims_gemv(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in) in AWQ's layouts for products with a vector, of 4 bits. Raises InputError for other shapes."""
    weight, zeros, scales = (module.parts[suffix] for suffix in ("qweight", "qzeros", "scales"))
    shape = None
    if len(weight.shape) == len(zeros.shape) == len(scales.shape) == 2:
        if weight.dtype in ("I32", "U32") and weight.shape[0] == zeros.shape[0] == scales.shape[0]:
            shape = (weight.shape[0], 8 * weight.shape[1])
        elif weight.dtype in ("I16", "U16") and 4 * weight.shape[0] == zeros.shape[1] == scales.shape[1]:
            shape = (4 * weight.shape[0], weight.shape[1])
    if shape is None:
        shapes = f"qweight {weight.dtype} {list(weight.shape)}, qzeros {list(zeros.shape)}, scales {list(scales.shape)}"
        module.refuse(f"{shapes} are of no AWQ weight for products with a vector")
    ref, size = weight_ref(module, "qweight", "awq", shape, bits=4), config.declared.get("group_size")
    if type(size) is int and size > 0 and shape[1] % 64 == 0:
        size = min(size, shape[1])
        kind = "awq_gemv" if weight.shape[0] == shape[0] else "awq_gemv_fast"
        has_all = 8 * zeros.shape[1] * size >= shape[1] if kind == "awq_gemv" else zeros.shape == scales.shape
        has_all &= kind == "awq_gemv" or zeros.shape[0] * size >= shape[1]
        if has_all and kind == "awq_gemv":
            ref = unpacked_ref(ref, kind, [weight, zeros], group_size=size)
            has_scales = scales.shape[1] * size >= shape[1]
            named = {"codes": weight, "points": zeros, "scales": scales}
            ref = decoded_ref(ref, "gemv_values", named, group_size=size) if has_scales else ref
        elif has_all:
            ref = unpacked_ref(ref, kind, [weight, turned(scales), turned(zeros)], group_size=size)
            named = {"codes": weight, "scales": turned(scales), "zeros": turned(zeros)}
            ref = decoded_ref(ref, "gemv_fast_values", named, group_size=size)
    return [ref, *auxiliary_refs(module, AUXILIARY, "awq")]


def _claims_marlin(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in) in Marlin's order. Raises InputError if words and scales do not fit each other."""
    words, scales = module.parts.get("B"), module.parts.get("s")
    if words is None or scales is None:
        return []
    outputs = scales.shape[1] if len(scales.shape) == 2 else 0
    bits, rest = divmod(2 * words.shape[1], outputs) if outputs and len(words.shape) == 2 else (0, 1)
    if rest or bits not in (4, 8):
        module.refuse(f"B {words.dtype} {list(words.shape)} and s {list(scales.shape)} are of no Marlin weight")
    shape = (outputs, 16 * words.shape[0])
    ref = weight_ref(module, "B", "gptq marlin", shape, bits=bits)
    return [ref, *auxiliary_refs(module, ("s", "workspace"), "gptq marlin")]


LAYOUT = WeightLayout("gptq and awq", _claims, suffixes=("qweight",))
LAYOUT_MARLIN = WeightLayout("gptq marlin", _claims_marlin, suffixes=("workspace",))
