"""Tensor names -> what each tensor is: module, role, layer, expert, and which of its axes are inputs and residual stream.

The family whose templates place most tensors is taken; the numbers are taken out of a name and the rest is looked up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from layerhouse.ingest.declared import Config, model_types
from layerhouse.ingest.dtypes import DTYPES
from layerhouse.ingest.family_files import Family, Template, load_families
from layerhouse.ingest.tensors import TensorRef

TEXT = "text"
OTHER, QUANT_AUX, ADAPTER = "other", "quant_aux", "adapter"
LINEAR_MODULES = frozenset({"attention", "mlp", "expert", "router", "lm_head"})
PRUNABLE_MODULES = frozenset({"attention", "mlp", "expert"})

LEADING_WRAPPERS = ("module.", "base_model.model.", "state_dict.")
INNER_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
NUMBER = re.compile(r"(?<![^.])([0-9]{1,9})(?![^.])")
LAYER_WORD = r"(?:^|\.)(?:layers|h|blk|blocks?|layer)\."
LAYER = re.compile(LAYER_WORD + r"([0-9]{1,9})(?=\.)")
LAYER_IN_KEY = re.compile(LAYER_WORD + r"(?=\{\}\.)")
EXPERT = re.compile(r"\.(?:local_)?experts\.([0-9]{1,9})\.")

Note = dict[str, str]


def note(code: str, text: str) -> Note:
    """A remark on a checkpoint, as the notes columns hold it."""
    return {"code": code, "text": text}


@dataclass(frozen=True, slots=True)
class Placed:
    """One tensor and what it is.

    `stack` is None for a tensor that lies outside of the text model. `part` is weight, bias or buffer; for a tensor of module
    other, the last piece of its name. `input_axis` is the axis that inputs index, for weights of two or three dimensions of
    linear modules; `residual_axis` the one that the hidden size indexes. `is_virtual`: the output head of a tied model whose
    file has none; it shares the embedding's bytes and has none of its own.
    """

    ref: TensorRef
    canonical_name: str
    stack: str | None
    module: str
    role: str | None
    part: str
    layer_index: int | None
    expert_index: int | None
    is_parameter: bool
    input_axis: int | None = None
    residual_axis: int | None = None
    template: Template | None = None
    is_virtual: bool = False

    @property
    def params(self) -> int:
        return self.ref.elements if self.is_parameter else 0

    @property
    def is_prunable(self) -> bool:
        """Whether pruning aims at it: a weight of two or more dimensions of attention, MLP or an expert."""
        is_weight = self.part == "weight" and self.module in PRUNABLE_MODULES
        return is_weight and self.is_parameter and len(self.ref.shape) >= 2

    @property
    def output_axis(self) -> int | None:
        """The other axis than the inputs' of a weight, experts left aside."""
        if self.input_axis is None:
            return None
        dims = len(self.ref.shape)
        return dims - 2 if self.input_axis == dims - 1 else dims - 1


@dataclass(frozen=True)
class Placement:
    """The tensors of a checkpoint, each with its place, in the order given. `family` is None where no family's names fit."""

    family: str | None
    placed: tuple[Placed, ...]
    template_family: Family | None
    notes: tuple[Note, ...]

    @cached_property
    def unplaced(self) -> tuple[Placed, ...]:
        """What no template names."""
        return tuple(tensor for tensor in self.placed if tensor.module == OTHER)


@dataclass(frozen=True)
class Slot:
    """What all tensors share whose names differ in numbers only.

    `pattern` is their canonical name with the numbers left open; `layer_at` and `expert_at` say which of them is which.
    """

    template: Template
    part: str
    pattern: str
    layer_at: int | None
    expert_at: int | None
    input_axis: int | None
    residual_axis: int | None


def place_tensors(refs: Sequence[TensorRef], config: Config | None, families: Iterable[Family] | None = None) -> Placement:
    """Place every tensor; what no template of the family names is kept as module other.

    A family is taken if it places at least half of the tensors, or any of them while the config's model_type is its own.
    """
    names = [strip_wrappers(ref.name if ref.layout is None else ref.layout.weight_name) for ref in refs]
    pieces = [NUMBER.split(name) for name in names]
    keys = ["{}".join(split[::2]) for split in pieces]
    counts = Counter(keys)
    family = _choose_family(counts, model_types(config), load_families() if families is None else families)
    table = family.table if family else {}
    prefixes = _text_prefixes(counts, table)
    slots: dict[tuple[str, int], Slot] = {}
    placed = []
    for ref, name, split, key in zip(refs, names, pieces, keys, strict=True):
        match = table.get(key)
        if match is None:
            placed.append(_laid_out(_unplaced(ref, name, _prefix(key) in prefixes)))
            continue
        dims = len(ref.shape)
        slot = slots.get((key, dims))
        if slot is None:
            slot = slots[key, dims] = _slot(*match, dims)
        placed.append(_laid_out(_place(ref, slot, split[1::2])))
    return Placement(family.name if family else None, tuple(placed), family, _notes(family, placed))


def strip_wrappers(name: str) -> str:
    """The name without what data-parallel, compiled, checkpointed and adapter wrappers put around modules."""
    if "_mod" in name:
        name = INNER_WRAPPERS.sub("", name)
    stripped = True
    while stripped:
        stripped = False
        for wrapper in LEADING_WRAPPERS:
            if name.startswith(wrapper):
                name, stripped = name[len(wrapper) :], True
    return name


def unique_tensors(placed: Iterable[Placed]) -> list[Placed]:
    """The tensors, those that share their bytes once: as a parameter where one of them is one."""
    unique: dict[tuple[Any, ...], Placed] = {}
    for tensor in placed:
        known = unique.get(tensor.ref.place)
        if known is None or tensor.params > known.params:
            unique[tensor.ref.place] = tensor
    return list(unique.values())


def canonical_name(template: Template, part: str, layer: str | None = None, expert: str | None = None) -> str:
    """`stack.layer.module.role.part`, with the expert's number after the module; what a tensor has none of is left out."""
    pieces = (TEXT, layer, template.module, expert, template.role, None if template.is_buffer else part)
    return ".".join(piece for piece in pieces if piece is not None)


def _choose_family(keys: Counter[str], types: Sequence[str], families: Iterable[Family]) -> Family | None:
    """The family that places most. Of equals: the declared one, the one with fewest required tensors missing, with most there,
    then the one that the others extend (files of one layout that declare nothing).
    """
    best: Family | None = None
    best_score = (0, False, 0, 0, 0)
    for family in families:
        found = [(key, match) for key in keys if (match := family.table.get(key)) is not None]
        placed = sum(keys[key] for key, _ in found)
        is_declared = any(model_type in family.model_types for model_type in types)
        if placed == 0 or (2 * placed < keys.total() and not is_declared):
            continue
        present = family.required & {(template.name, part) for _, (template, part) in found}
        score = (placed, is_declared, len(present) - len(family.required), len(present), -family.depth)
        if best is None or score > best_score:
            best, best_score = family, score
    return best


def _text_prefixes(keys: Counter[str], table: Mapping[str, object]) -> frozenset[str]:
    """What stands before a layer's number in the text model: as placed tensors have it, else the most frequent one."""
    placed: set[str] = set()
    others: Counter[str] = Counter()
    for key, count in keys.items():
        prefix = _prefix(key)
        if prefix is None:
            continue
        if key in table:
            placed.add(prefix)
        else:
            others[prefix] += count
    return frozenset(placed or (prefix for prefix, _ in others.most_common(1)))


def _prefix(key: str) -> str | None:
    found = LAYER_IN_KEY.search(key)
    return None if found is None else key[: found.end()]


def _slot(template: Template, part: str, dims: int) -> Slot:
    at = {kind: position for position, kind in enumerate(template.placeholders)}
    layer, expert = (f"{{{kind}}}" if kind in at else None for kind in ("layer", "expert"))
    pattern = canonical_name(template, part, layer, expert)
    return Slot(template, part, pattern, at.get("layer"), at.get("expert"), *_axes(template, part, dims))


def _place(ref: TensorRef, slot: Slot, numbers: Sequence[str]) -> Placed:
    template = slot.template
    layer_index = None if slot.layer_at is None else int(numbers[slot.layer_at])
    expert_index = None if slot.expert_at is None else int(numbers[slot.expert_at])
    return Placed(
        ref=ref,
        canonical_name=slot.pattern.format(layer=layer_index, expert=expert_index),
        stack=TEXT,
        module=template.module,
        role=template.role,
        part=slot.part,
        layer_index=layer_index,
        expert_index=expert_index,
        is_parameter=not (template.is_buffer or ref.is_buffer),
        input_axis=slot.input_axis,
        residual_axis=slot.residual_axis,
        template=template,
    )


def _axes(template: Template, part: str, dims: int) -> tuple[int | None, int | None]:
    """The axes of inputs and of the residual stream; None where there is none."""
    if part == "bias" or template.module == "norm":
        is_residual = template.residual == ("inputs" if template.module == "norm" else "outputs")
        return None, 0 if is_residual and dims == 1 else None
    if dims not in (2, 3):
        return None, None
    inputs, outputs = (dims - 2, dims - 1) if template.transposed else (dims - 1, dims - 2)
    residual = {"inputs": inputs, "outputs": outputs, None: None}[template.residual]
    return (inputs if template.module in LINEAR_MODULES else None), residual


def _unplaced(ref: TensorRef, name: str, is_text: bool) -> Placed:
    """A tensor that no template names. One that holds no real numbers (indices, masks, packed words) is no parameter."""
    layer, expert = LAYER.search(name), EXPERT.search(name)
    where = f"{TEXT}.{layer[1]}.{OTHER}{name[layer.end() :]}" if layer and is_text else f"{OTHER}.{name}"
    return Placed(
        ref=ref,
        canonical_name=where,
        stack=TEXT if is_text else None,
        module=OTHER,
        role=None,
        part=name.rpartition(".")[2],
        layer_index=int(layer[1]) if layer else None,
        expert_index=int(expert[1]) if expert else None,
        is_parameter=not ref.is_buffer and DTYPES[ref.dtype].kind in ("float", "complex"),
    )


def _laid_out(placed: Placed) -> Placed:
    """A tensor that stands in for a weight, as what it is of it: the weight, an adapter's addition to it, or its scales."""
    layout = placed.ref.layout
    if layout is None:
        return placed
    if not layout.is_aux and layout.scheme != ADAPTER:
        return replace(placed, is_parameter=True)
    module = QUANT_AUX if layout.is_aux else ADAPTER
    pieces = placed.canonical_name.split(".")
    if placed.module != OTHER:
        at = 1 if placed.layer_index is None else 2
        pieces = [*pieces[:at], module, *pieces[at + 1 : -1]]
    return replace(
        placed,
        canonical_name=".".join([*pieces, layout.part]),
        module=module,
        part=layout.part,
        is_parameter=not layout.is_aux,
        input_axis=None,
        residual_axis=None,
        template=None,
    )


def _notes(family: Family | None, placed: Sequence[Placed]) -> tuple[Note, ...]:
    notes = []
    unplaced = [tensor.ref.name for tensor in placed if tensor.module == OTHER]
    if family is None and placed:
        notes.append(note("family", "no family file names these tensors: they are counted, and their roles unknown"))
    elif family is not None and unplaced:
        shown = ", ".join(unplaced[:3]) + (f" and {len(unplaced) - 3} more" if len(unplaced) > 3 else "")
        notes.append(note("unplaced", f"no template of {family.name} names {shown}"))
    first: dict[str, TensorRef] = {}
    doubles = []
    for tensor in placed:
        earlier = first.setdefault(tensor.canonical_name, tensor.ref)
        if earlier is not tensor.ref and earlier.place != tensor.ref.place:
            doubles.append(f"{earlier.name} and {tensor.ref.name}")
    if doubles:
        shown = "; ".join(doubles[:3]) + (f"; and {len(doubles) - 3} more" if len(doubles) > 3 else "")
        notes.append(note("duplicate", f"two names for one place in the model, and both are counted: {shown}"))
    return tuple(notes)
