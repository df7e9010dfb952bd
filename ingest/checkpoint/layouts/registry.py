"""Weights that are kept quantised, packed, masked or as adapters: which stored tensors make up one weight, and of what shape.

A module's tensors are looked at together: `qweight` means nothing without its `scales`. Each way of storing is a module here
with one function, registered below under the suffix that shows it; what no layout claims stays the tensor that it is. Shapes
are taken from the tensors wherever they give them, and the config is only asked where they do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from layerhouse.ingest.checkpoint.layouts.adapters import SCHEME as ADAPTER_SCHEME
from layerhouse.ingest.checkpoint.layouts.adapters import WORDS as ADAPTER_WORDS
from layerhouse.ingest.checkpoint.layouts.adapters import adapter_part
from layerhouse.ingest.checkpoint.layouts.bitmasks import bitmask
from layerhouse.ingest.checkpoint.layouts.bitsandbytes import eight_bit, four_bit
from layerhouse.ingest.checkpoint.layouts.compressed_tensors import packed
from layerhouse.ingest.checkpoint.layouts.gptq_awq import words
from layerhouse.ingest.checkpoint.layouts.masks import masked
from layerhouse.ingest.checkpoint.layouts.mlx import affine
from layerhouse.ingest.checkpoint.layouts.modules import (
    Module,
    Quantization,
    auxiliary,
    quantization_of,
    split_name,
)
from layerhouse.ingest.checkpoint.layouts.mxfp4 import blocks
from layerhouse.ingest.checkpoint.layouts.scaled import scaled
from layerhouse.ingest.checkpoint.memory import MAX_REMEMBERED_TENSORS, Memory
from layerhouse.ingest.checkpoint.tensor_ref import CODES, PACKED, TensorRef
from layerhouse.ingest.model.config import Config

Claim = Callable[[Module, Quantization], Iterable[TensorRef]]

LAYOUTS: tuple[tuple[str, Claim], ...] = (
    ("qweight", words),
    ("weight_packed", packed),
    ("weight.absmax", four_bit),
    ("SCB", eight_bit),
    ("compressed", bitmask),
    ("weight.compressed", bitmask),
    ("weight_mask", masked),
    ("bias_mask", masked),
    ("scales", affine),
    ("_blocks", blocks),
    ("weight_scale", scaled),
    ("weight_scale_inv", scaled),
)
"""The suffix that shows a layout, and its function: the module's tensors -> those that it claims, with their layout. The first
whose suffix is there and that claims anything is taken."""

KV_SCALES = frozenset(
    ("k_scale", "v_scale", "q_scale", "kv_scale", "input_scale", "output_scale", "k_zero_point", "v_zero_point")
)
MARKS = KV_SCALES | {suffix for suffix, _ in LAYOUTS}
"""Suffixes of which a module has one if it is not stored plainly."""
WORDS = (*ADAPTER_WORDS, *(mark.rpartition(".")[2] for mark in sorted(MARKS)))
"""Parts of names of which one is there where any weight is not stored plainly."""

_ARE_PLAIN: Memory[tuple[str, ...], bool] = Memory()


@dataclass(frozen=True)
class Laid:
    """The tensors of a checkpoint, each with its layout where it has one, in the order given, and remarks of one line."""

    tensors: tuple[TensorRef, ...]
    notes: tuple[str, ...]


def lay_out(tensors: Sequence[TensorRef], config: Config | None, shown: str) -> Laid:
    """Find the weights that are not stored plainly. Raises InputError where what a module stores contradicts itself."""
    names = tuple([tensor.name for tensor in tensors])
    are_plain = _ARE_PLAIN.get(names)
    if are_plain is None:
        text = "\n".join(names)
        are_plain = not any(word in text for word in WORDS)
        if len(names) <= MAX_REMEMBERED_TENSORS:
            _ARE_PLAIN.keep(names, are_plain)
    if are_plain and all(tensor.layout is None for tensor in tensors):
        return Laid(tuple(tensors), ())
    quantization = quantization_of(config)
    modules: dict[str, dict[str, TensorRef]] = {}
    claimed: dict[str, TensorRef] = {}
    for tensor in tensors:
        if tensor.layout is not None:
            continue
        adapter = adapter_part(tensor)
        if adapter is not None:
            claimed[tensor.name] = adapter
            continue
        prefix, suffix = split_name(tensor.name)
        modules.setdefault(prefix, {})[suffix] = tensor
    for name, parts in modules.items():
        if MARKS.isdisjoint(parts):
            continue
        module = Module(name, parts, shown)
        for ref in _claim(module, quantization):
            claimed[ref.name] = ref
    laid = tuple(claimed.get(tensor.name, tensor) for tensor in tensors)
    return Laid(laid, tuple(_notes(laid)))


def _claim(module: Module, quantization: Quantization) -> Iterable[TensorRef]:
    for suffix, claim in LAYOUTS:
        if suffix in module.parts and (found := [*claim(module, quantization)]):
            return found
    return [auxiliary(module, suffix, "scale") for suffix in module.parts if suffix in KV_SCALES]


def _notes(tensors: Iterable[TensorRef]) -> Iterable[str]:
    """One line a scheme: how many weights, and what is therefore not known."""
    counts: Counter[tuple[str, int | None, str]] = Counter()
    for ref in tensors:
        if ref.layout is not None and not ref.layout.is_aux:
            counts[ref.layout.scheme, ref.layout.bits, ref.layout.values] += 1
    for (scheme, bits, values), count in sorted(counts.items(), key=str):
        if values == PACKED:
            width = "" if bits is None else f" of {bits} bits"
            yield f"{count} weights are packed by {scheme}{width}: counted by their own shape, their values are not known"
        elif values == CODES:
            yield f"{count} weights are codes of {scheme}: zeros are counted, other values need the scales and are not known"
        elif scheme != ADAPTER_SCHEME:
            yield f"{count} weights are kept by {scheme}: measured as the weights that they stand for"
