"""Weights as indices into codebooks, whose shapes are known and whose values are not read.

AQLM (aqlm/inference.py): codes (out / og, in / ig, books), codebooks (books, size, og, ig), scales.
QuIP# (quip-sharp, lib/linear/quantized_linear.py): Qidxs, SU (in), SV (out), Wscale, codebook_id.
HIGGS (transformers, integrations/higgs.py): weight I16 (out * bits / 16, in), scales (out, groups), tables, tables2.
VPTQ (vptq/layers/vqlinear.py): indices, centroids.weight, ...; `config_for_layers` of the config has in and out features.
"""

from __future__ import annotations

from collections.abc import Mapping

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

QUIP_AUXILIARY = ("SU", "SV", "Wscale", "codebook_id", "A", "B", "rcp", "grid_packed_abs", "tlut")
HIGGS_AUXILIARY = ("scales", "tables", "tables2", "workspace")
VPTQ_AUXILIARY = (
    *(f"{prefix}centroids.weight" for prefix in ("", "res_", "outlier_")),
    *("res_indices", "outlier_indices", "perm", "weight_scale", "weight_bias"),
)


def _claims_aqlm(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in). Raises InputError if codes and codebooks do not fit each other."""
    codes, books = module.parts.get("codes"), module.parts["codebooks"]
    if codes is None or len(codes.shape) != 3 or len(books.shape) != 4 or codes.shape[2] != books.shape[0]:
        shapes = f"codes {None if codes is None else list(codes.shape)} and codebooks {list(books.shape)}"
        module.refuse(f"{shapes} are of no AQLM weight")
    shape = (codes.shape[0] * books.shape[2], codes.shape[1] * books.shape[3])
    return [weight_ref(module, "codes", "aqlm", shape), *auxiliary_refs(module, ("codebooks", "scales"), "aqlm")]


def _claims_quip(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in), whose extents are those of the signs of outputs and inputs."""
    inputs, outputs = module.parts.get("SU"), module.parts.get("SV")
    if inputs is None or outputs is None:
        module.refuse("Qidxs without SU and SV: the weight's shape is not known")
    shape, words = (outputs.elements, inputs.elements), module.parts["Qidxs"].shape
    if len(words) != 2 or words[0] != shape[0] or not words[1] or shape[1] % words[1]:
        module.refuse(f"Qidxs {list(words)} do not fit {shape[0]} signs of outputs (SV) and {shape[1]} of inputs (SU)")
    return [weight_ref(module, "Qidxs", "quip#", shape), *auxiliary_refs(module, QUIP_AUXILIARY, "quip#")]


def _claims_higgs(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in). Raises InputError if its words do not fit the scales."""
    weight, scales = module.parts.get("weight"), module.parts.get("scales")
    if weight is None or scales is None or weight.dtype not in ("I16", "U16") or len(weight.shape) != 2:
        return []
    outputs, inputs = scales.shape[0] if scales.shape else 0, weight.shape[1]
    bits, rest = divmod(16 * weight.shape[0], outputs) if outputs else (0, 1)
    if rest or not 1 <= bits <= 8:
        module.refuse(f"weight {list(weight.shape)} and scales {list(scales.shape)} do not fit each other")
    ref = weight_ref(module, "weight", "higgs", (outputs, inputs), bits=bits)
    return [ref, *auxiliary_refs(module, HIGGS_AUXILIARY, "higgs")]


def _claims_vptq(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in), as the config says. Raises InputError if it does not."""
    if "centroids.weight" not in module.parts:
        return []
    layers = config.declared.get("config_for_layers")
    layer = layers.get(module.name) if isinstance(layers, Mapping) else None
    features = [layer.get(key) if isinstance(layer, Mapping) else None for key in ("out_features", "in_features")]
    if not all(type(extent) is int and 0 < extent < 2**40 for extent in features):
        module.refuse("indices of VPTQ, and the config does not say in and out features of this module")
    outputs, inputs = (int(extent) for extent in features if isinstance(extent, int))
    return [
        weight_ref(module, "indices", "vptq", (outputs, inputs)),
        *auxiliary_refs(module, VPTQ_AUXILIARY, "vptq"),
    ]


LAYOUT_AQLM = WeightLayout("aqlm", _claims_aqlm, suffixes=("codebooks",))
LAYOUT_QUIP = WeightLayout("quip#", _claims_quip, suffixes=("Qidxs",))
LAYOUT_HIGGS = WeightLayout("higgs", _claims_higgs, suffixes=("tables2",))
LAYOUT_VPTQ = WeightLayout("vptq", _claims_vptq, suffixes=("indices",))
