"""The registry of layouts: which stored tensors make up a weight that is quantised, packed, masked or an adapter's.

The tensors of a module are looked at together, since a `qweight` is meaningless without its `scales`. A tensor that no layout
claims is stored plainly. Shapes are taken from the tensors wherever these determine them, and from the config otherwise.

A built-in layout is a module here that defines a WeightLayout, and a line in BUILT_IN. Another package adds one by an entry
point of the group `layerhouse.layouts` that names a WeightLayout (see layouts.weight_layout); what its function needs is in
layouts.module_tensors, checkpoint.config_json, checkpoint.tensor_ref and checkpoint.dtypes. Such layouts are asked of modules
that no built-in layout claims, and not at all for a checkpoint whose names and config are those of plain weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.checkpoint.config_json import Config, QuantizationConfig, quantization_config
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.layouts import (
    bitmasks,
    bitnet,
    bitsandbytes,
    codebooks,
    compressed_tensors,
    exllama,
    fp4,
    gptq_awq,
    hqq,
    masks,
    mlx,
    modelopt,
    mxfp4,
    quark,
    scaled,
    tensor_subclasses,
    transposed,
)
from layerhouse.ingest.checkpoint.layouts.adapters import SCHEME as ADAPTER_SCHEME
from layerhouse.ingest.checkpoint.layouts.adapters import WORDS as ADAPTER_WORDS
from layerhouse.ingest.checkpoint.layouts.adapters import adapter_part
from layerhouse.ingest.checkpoint.layouts.factors import FACTOR_PARTS, HAS_CHILDREN, factor_refs
from layerhouse.ingest.checkpoint.layouts.factors import SCHEME as LOW_RANK_SCHEME
from layerhouse.ingest.checkpoint.layouts.factors import WORDS as FACTOR_WORDS
from layerhouse.ingest.checkpoint.layouts.module_tensors import (
    LayoutError,
    ModuleTensors,
    auxiliary_ref,
    auxiliary_refs,
    fused_part,
    split_name,
    unread_refs,
)
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.limits import MAX_REMEMBERED_TENSORS
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.checkpoint.tensor_ref import CODES, NO_VALUES, PACKED, Layout, TensorRef
from layerhouse.plugins import call_plugin, load_plugins

GROUP = "layerhouse.layouts"

BUILT_IN: tuple[WeightLayout, ...] = (
    fp4.LAYOUT_ROTATED,
    gptq_awq.LAYOUT,
    gptq_awq.LAYOUT_MARLIN,
    compressed_tensors.LAYOUT,
    bitsandbytes.LAYOUT_4BIT,
    bitsandbytes.LAYOUT_8BIT,
    bitmasks.LAYOUT,
    masks.LAYOUT,
    codebooks.LAYOUT_AQLM,
    codebooks.LAYOUT_QUIP,
    codebooks.LAYOUT_HIGGS,
    codebooks.LAYOUT_VPTQ,
    exllama.LAYOUT_EXL2,
    exllama.LAYOUT_EXL3,
    hqq.LAYOUT,
    tensor_subclasses.LAYOUT_QUANTO,
    tensor_subclasses.LAYOUT_TORCHAO,
    transposed.LAYOUT,
    mlx.LAYOUT,
    mxfp4.LAYOUT,
    bitnet.LAYOUT,
    fp4.LAYOUT,
    modelopt.LAYOUT,
    quark.LAYOUT,
    scaled.LAYOUT,
)
"""In the order in which they are asked; the first that claims any tensor of a module has it. Each has suffixes, by which plain
weights are told apart without looking at every module."""

KV_SCALES = frozenset(
    ("k_scale", "v_scale", "q_scale", "kv_scale", "input_scale", "output_scale", "k_zero_point", "v_zero_point")
)
MARKS = KV_SCALES | {suffix for layout in BUILT_IN for suffix in layout.suffixes}
"""Every module that is not stored plainly has one of these suffixes."""
FUSED_WORDS = ("_proj_scale", "_proj_packed", "_proj_weight_scale")
"""Words in the names of packed weights of all experts."""
WORDS = (*ADAPTER_WORDS, *FACTOR_WORDS, *FUSED_WORDS, *(mark.rpartition(".")[2] for mark in sorted(MARKS)))
"""Every checkpoint with a weight that is not stored plainly has one of these words in a name, or factors under HAS_CHILDREN."""
PLAIN_SUFFIXES = (".weight", ".bias", ".inv_freq")
"""Suffixes of tensors that belong to no layout."""

UNSUPPORTED_TENSOR = " unsupported: tensor "
"""A word of the notes on pickled tensors that are not read."""

UNKNOWN_SCHEME = "unknown"
"""The scheme of weights in a form that is not read, where no quantisation method is declared."""

REMEMBERED_CHECKPOINTS = 8


@dataclass(frozen=True)
class LaidOut:
    """The tensors of a checkpoint in the given order, each with its layout if it has one, and notes.

    A note has the code `quantised` for values that are packed or codes, `no_values` for tensors without values, else `layout`.
    """

    tensors: tuple[TensorRef, ...]
    notes: tuple[Note, ...]


def assign_layouts(
    tensors: Sequence[TensorRef], config: Config | None, display_path: str, metadata: Mapping[str, Any] | None = None
) -> LaidOut:
    """Find the weights that are not stored plainly. `metadata` is that of the files, which may describe tensors.

    Where the tensors of a module contradict each other, or do not tell what they store, all of them are parts of a weight whose
    shape is not known. Raises InputError if a layout of another package cannot be asked.
    """
    names = tuple([tensor.name for tensor in tensors])
    classify = _classify if len(names) <= MAX_REMEMBERED_TENSORS else _classify.__wrapped__
    has_marks, has_odd_suffixes = classify(names)
    quantization = quantization_config(config)
    further = _further_layouts(display_path) if has_odd_suffixes or quantization.declared else ()
    if not has_marks and not further and all(tensor.layout is None for tensor in tensors):
        return LaidOut(tuple(tensors), ())
    modules: dict[str, dict[str, TensorRef]] = {}
    fused: dict[str, dict[str, TensorRef]] = {}
    claimed = factor_refs(tensors)
    for tensor in tensors:
        if tensor.layout is not None or tensor.name in claimed:
            continue
        adapter = adapter_part(tensor)
        if adapter is not None:
            claimed[tensor.name] = adapter
            continue
        prefix, suffix = split_name(tensor.name)
        modules.setdefault(prefix, {})[suffix] = tensor
        if (part := fused_part(tensor.name)) is not None:
            fused.setdefault(part[0], {})[part[1]] = tensor
    for name, parts in modules.items():
        module = ModuleTensors(name, parts, display_path, metadata or {})
        try:
            refs = [] if MARKS.isdisjoint(parts) else _claim(quantization, module)
            refs = refs or _claim_by_plugins(further, quantization, module) or _claim_scales(module)
        except LayoutError as error:
            refs = list(unread_refs(parts.values(), quantization.method or UNKNOWN_SCHEME, error.what))
        claimed.update({ref.name: ref for ref in refs})
    for name, parts in fused.items():
        module = ModuleTensors(name, parts, display_path, metadata or {})
        claimed.update({ref.name: ref for ref in _claim_fused(quantization, module)})
    laid_out = tuple(claimed.get(tensor.name, tensor) for tensor in tensors)
    return LaidOut(laid_out, tuple(_notes(laid_out)))


def unread_texts(skipped: Sequence[str]) -> tuple[str, ...]:
    """Those of the remarks on what was not read that are about weights: pickled tensors of unsupported kinds."""
    return tuple(text for text in skipped if UNSUPPORTED_TENSOR in text)


@lru_cache(REMEMBERED_CHECKPOINTS)
def _classify(names: tuple[str, ...]) -> tuple[bool, bool]:
    """Whether names suggest a layout of ours, and whether any has another suffix than those of plain weights."""
    text = "\n".join(names)
    is_marked = any(word in text for word in WORDS) or HAS_CHILDREN.search(text) is not None
    return is_marked, not all(name.endswith(PLAIN_SUFFIXES) for name in names)


def _further_layouts(display_path: str) -> tuple[WeightLayout, ...]:
    """The layouts of other packages. Raises InputError if one cannot be loaded."""
    try:
        return load_plugins(GROUP, WeightLayout, BUILT_IN)
    except UsageError as error:
        raise InputError(display_path, str(error)) from error


def _claim(config: QuantizationConfig, module: ModuleTensors) -> Sequence[TensorRef]:
    """What the built-in layouts claim."""
    for layout in BUILT_IN:
        if layout.may_claim(module) and (refs := layout.claims(config, module)):
            return refs
    return ()


def _claim_fused(config: QuantizationConfig, module: ModuleTensors) -> Iterable[TensorRef]:
    """What the built-in layouts claim of the weight of all experts and its parts, as if it were a module.

    Of parts that none claims, the weight is one that is not read, unless it is stored plainly.
    """
    weight, others = module.parts.get("weight"), [suffix for suffix in module.parts if suffix != "weight"]
    if not others:
        return
    try:
        refs = list(_claim(config, module))
        if not refs and weight is not None and DTYPES[weight.dtype].kind == "float":
            refs = auxiliary_refs(module, others, "plain")
        elif not refs:
            module.refuse(
                f"{', '.join(sorted(module.parts))[:200]}: parts of the weight of all experts in no form that is read"
            )
    except LayoutError as error:
        refs = list(unread_refs(module.parts.values(), config.method or UNKNOWN_SCHEME, error.what))
    for ref in refs:
        assert ref.layout is not None
        yield replace(ref, layout=replace(ref.layout, weight_name=module.name))


def _claim_by_plugins(
    layouts: Sequence[WeightLayout], config: QuantizationConfig, module: ModuleTensors
) -> Sequence[TensorRef]:
    """What layouts of other packages claim. Raises InputError if one returns anything but tensors of the module."""
    for layout in layouts:
        if not layout.may_claim(module):
            continue
        refs = call_plugin(module.display_path, f"layout {layout.name!r}", layout.claims, config, module)
        refs = list(refs) if isinstance(refs, Iterable) else [refs]
        names = {ref.name for ref in module.parts.values()}
        if not all(isinstance(ref, TensorRef) and ref.layout is not None and ref.name in names for ref in refs):
            what = f"layout {layout.name!r} claims something else than tensors of the module, each with a layout"
            raise InputError(f"{module.display_path}: {module.name[:80]}", what)
        if refs:
            return refs
    return ()


def _claim_scales(module: ModuleTensors) -> Sequence[TensorRef]:
    """Scales of activations and of the KV cache, which quantisers add to modules of any layout."""
    return [auxiliary_ref(module, suffix, "scale") for suffix in module.parts if suffix in KV_SCALES]


def _is_bias_of_factors(layout: Layout) -> bool:
    return layout.scheme == LOW_RANK_SCHEME and layout.part not in FACTOR_PARTS


def _notes(tensors: Iterable[TensorRef]) -> Iterable[Note]:
    """One line for each storage scheme: how many weights, and what is therefore unknown."""
    counts: Counter[tuple[str, int | None, str, bool]] = Counter()
    for ref in tensors:
        if ref.layout is not None and not ref.layout.is_aux and ref.layout.has_shape and not _is_bias_of_factors(ref.layout):
            counts[ref.layout.scheme, ref.layout.bits, ref.layout.values, ref.layout.decoded is not None] += 1
    for (scheme, bits, values, is_decoded), count in sorted(counts.items(), key=str):
        if values == PACKED:
            width = "" if bits is None else f" of {bits} bits"
            unknown = "zeros" if is_decoded else "values"
            text = f"{count} weights are packed by {scheme}{width}: counted by their own shape, their {unknown} are not known"
            yield note("quantised", text)
        elif values == CODES:
            what = "a profile of their values is kept, other numbers are not" if is_decoded else "other values are not known"
            text = f"{count} weights are codes of {scheme}: zeros are counted, {what}"
            yield note("quantised", text)
        elif values == NO_VALUES:
            text = (
                f"{count} tensors without values that are read ({scheme}): counted by their shape, their values are not known"
            )
            yield note("no_values", text)
        elif scheme == LOW_RANK_SCHEME:
            yield note("layout", f"{count} tensors are factors of low rank, two for a weight")
        elif scheme != ADAPTER_SCHEME:
            yield note("layout", f"{count} weights are kept by {scheme}: measured as the weights that they stand for")
