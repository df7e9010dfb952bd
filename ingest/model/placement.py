"""Tensor names -> what each tensor is: module, role, layer, expert, and which of its axes are inputs and residual stream.

The family whose templates place most tensors is taken; the numbers are taken out of a name and the rest is looked up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.memory import MAX_REMEMBERED_TENSORS, Memory
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.model.choose_family import choose_family
from layerhouse.ingest.model.config import Config
from layerhouse.ingest.model.family import (
    NUMBER_MARK,
    STACKS,
    Family,
    Template,
)
from layerhouse.ingest.model.family_files import load_families

TEXT = "text"
MTP = "mtp"
OTHER, QUANT_AUX, ADAPTER = "other", "quant_aux", "adapter"
LINEAR_MODULES = frozenset({"attention", "mlp", "expert", "ssm", "router", "lm_head", "head", "projector"})
BLOCK_MODULES = frozenset({"attention", "mlp", "expert", "ssm"})
"""What a block does its work with: one that has nothing of these is empty."""

LEADING_WRAPPERS = ("module.", "base_model.model.", "state_dict.")
INNER_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
NUMBER = re.compile(r"(?<![^.])([0-9]{1,9})(?![^.])")
LAYER_WORD = r"(?:^|\.)(?:layers|h|blk|blocks?|layer)\."
LAYER = re.compile(LAYER_WORD + r"([0-9]{1,9})(?=\.)")
LAYER_IN_KEY = re.compile(LAYER_WORD + r"(?=\{\}\.)")
EXPERT = re.compile(r"\.(?:local_)?experts\.([0-9]{1,9})\.")


@dataclass(slots=True)
class Placed:
    """One tensor and what it is. Nothing changes one; it is not frozen, since that takes five times as long to make.

    `stack` is None for a tensor of which nothing says where it belongs. `part` is weight, bias or buffer; for a tensor of
    module other, the last piece of its name. `input_axis` is the axis that inputs index, for weights of two or three dimensions
    of linear modules; `residual_axis` the one that the hidden size indexes. `is_virtual`: the output head of a tied model whose
    file has none; it shares the embedding's bytes and has none of its own. `params` are its elements, of a parameter.
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
    params: int = field(init=False)

    def __post_init__(self) -> None:
        self.params = self.ref.elements if self.is_parameter else 0

    @property
    def is_prunable(self) -> bool:
        """Whether pruning aims at it: a linear weight of attention, MLP, an expert or a state-space mixer, of two axes up."""
        is_linear = self.template is None or self.template.linear
        is_weight = self.part == "weight" and self.module in BLOCK_MODULES and is_linear
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
    def unique(self) -> tuple[Placed, ...]:
        """The tensors, those that share their bytes once."""
        return tuple(unique_tensors(self.placed))

    @cached_property
    def unplaced(self) -> tuple[Placed, ...]:
        """What no template names."""
        return tuple(tensor for tensor in self.placed if tensor.module == OTHER)

    @cached_property
    def main_stack(self) -> str:
        """The stack whose layers stand for the model: text, else the decoder, else the encoder, and so on."""
        found = {tensor.stack for tensor in self.placed if tensor.layer_index is not None}
        return next((stack for stack in STACKS if stack in found), TEXT)


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
    number_at: int | None
    input_axis: int | None
    residual_axis: int | None


def place_tensors(refs: Sequence[TensorRef], config: Config | None, families: Iterable[Family] | None = None) -> Placement:
    """Place every tensor; what no template of the family names is kept as module other.

    Of checkpoints of one family with the same names, such as one model pruned in many ways, the first alone is looked at: the
    others' tensors have its places.
    """
    known = load_families() if families is None else tuple(families)
    if len(refs) > MAX_REMEMBERED_TENSORS or any(ref.layout is not None for ref in refs):
        parts = _parts_of([ref.name if ref.layout is None else ref.layout.weight_name for ref in refs])
        return _placed_anew(refs, parts, choose_family(parts[1], [ref.shape for ref in refs], config, known))
    names = tuple([ref.name for ref in refs])
    parts = _PARTS.get(names) or _PARTS.keep(names, _parts_of(names))
    family = choose_family(parts[1], [ref.shape for ref in refs], config, known)
    looks = names, tuple([(len(ref.shape), ref.dtype, ref.is_buffer) for ref in refs])
    earlier = _PLACES.get(looks)
    if earlier is None or earlier[0] is not family:
        placement = _placed_anew(refs, parts, family)
        _PLACES.keep(looks, (family, tuple(map(_as_said, placement.placed))))
        return placement
    placed = [Placed(ref, *what) for ref, what in zip(refs, earlier[1], strict=True)]
    return Placement(family.name if family else None, tuple(placed), family, _notes(family, placed))


def _as_said(placed: Placed) -> tuple[Any, ...]:
    """Everything of a placed tensor but the tensor, in the order of its fields."""
    return tuple(getattr(placed, name) for name in _SAID)


def _parts_of(names: Sequence[str]) -> _Parts:
    plain = [strip_wrappers(name) for name in names]
    pieces = [NUMBER.split(name) for name in plain]
    return plain, ["{}".join(split[::2]) for split in pieces], [split[1::2] for split in pieces]


def _placed_anew(refs: Sequence[TensorRef], parts: _Parts, family: Family | None) -> Placement:
    prefixes = _stack_prefixes(Counter(parts[1]), family)
    slots: dict[tuple[str, str, int], Slot] = {}
    placed = []
    for ref, name, key, numbers in zip(refs, *parts, strict=True):
        match = None if family is None else family.find(key, numbers)
        if match is None:
            placed.append(_laid_out(_unplaced(ref, name, prefixes.get(_prefix(key)))))
            continue
        dims = len(ref.shape)
        slot_key = (match[0].name, match[1], dims)
        slot = slots.get(slot_key)
        if slot is None:
            slot = slots[slot_key] = _slot(*match, dims)
        placed.append(_laid_out(_place(ref, slot, numbers)))
    placed = _set_apart(placed)
    return Placement(family.name if family else None, tuple(placed), family, _notes(family, placed))


_Parts = tuple[list[str], list[str], list[list[str]]]
"""Of each tensor its name without wrappers, that with `{}` for each number, and the numbers."""

_SAID = tuple(item.name for item in fields(Placed) if item.init and item.name != "ref")

_PARTS: Memory[tuple[str, ...], _Parts] = Memory()
_PLACES: Memory[tuple[Any, ...], tuple[Family | None, tuple[tuple[Any, ...], ...]]] = Memory()


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
        place = tensor.ref.place
        known = unique.get(place)
        if known is None or tensor.params > known.params:
            unique[place] = tensor
    return list(unique.values())


def canonical_name(
    template: Template, part: str, layer: str | None = None, expert: str | None = None, number: str | None = None
) -> str:
    """`stack.layer.module.role.part`, with the expert's number after the module and any other after the role; what a tensor has
    none of is left out."""
    part_name = None if template.is_buffer else part
    pieces = (template.stack, layer, template.module, expert, template.role, number, part_name)
    return ".".join(piece for piece in pieces if piece is not None)


def _stack_prefixes(keys: Counter[str], family: Family | None) -> dict[str | None, str]:
    """The stack of what stands before a layer's number, as placed tensors have it; else the most frequent one is text."""
    placed: dict[str | None, str] = {}
    others: Counter[str] = Counter()
    for key, count in keys.items():
        prefix = _prefix(key)
        if prefix is None:
            continue
        matches = () if family is None else family.table.get(key, ())
        if matches:
            placed.setdefault(prefix, matches[0][0].stack)
        else:
            others[prefix] += count
    return placed or {prefix: TEXT for prefix, _ in others.most_common(1)}


def _prefix(key: str) -> str | None:
    found = LAYER_IN_KEY.search(key)
    return None if found is None else key[: found.end()]


def _slot(template: Template, part: str, dims: int) -> Slot:
    marks = [mark[1] for mark in NUMBER_MARK.finditer(template.name)]
    at = {kind: position for position, kind in enumerate(marks) if kind is not None}
    layer, expert, number = (f"{{{kind}}}" if kind in at else None for kind in ("layer", "expert", "number"))
    pattern = canonical_name(template, part, layer, expert, number)
    return Slot(template, part, pattern, at.get("layer"), at.get("expert"), at.get("number"), *_axes(template, part, dims))


def _place(ref: TensorRef, slot: Slot, numbers: Sequence[str]) -> Placed:
    template = slot.template
    layer_index, expert_index, number = (
        None if at is None else int(numbers[at]) for at in (slot.layer_at, slot.expert_at, slot.number_at)
    )
    return Placed(
        ref=ref,
        canonical_name=slot.pattern.format(layer=layer_index, expert=expert_index, number=number),
        stack=template.stack,
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


def _set_apart(placed: list[Placed]) -> list[Placed]:
    """The tensors, those of layers that predict further tokens (known by tensors of stack mtp) all in that stack."""
    layers = {tensor.layer_index for tensor in placed if tensor.stack == MTP} - {None}
    return [
        replace(tensor, stack=MTP, canonical_name=f"{MTP}.{tensor.canonical_name.partition('.')[2]}")
        if tensor.layer_index in layers and tensor.stack == TEXT
        else tensor
        for tensor in placed
    ]


def _axes(template: Template, part: str, dims: int) -> tuple[int | None, int | None]:
    """The axes of inputs and of the residual stream; None where there is none."""
    if part == "bias" or template.module == "norm":
        is_residual = template.residual == ("inputs" if template.module == "norm" else "outputs")
        return None, 0 if is_residual and dims == 1 else None
    if dims not in (2, 3) or not template.linear:
        return None, None
    inputs, outputs = (dims - 2, dims - 1) if template.transposed else (dims - 1, dims - 2)
    residual = {"inputs": inputs, "outputs": outputs, None: None}[template.residual]
    return (inputs if template.module in LINEAR_MODULES else None), residual


def _unplaced(ref: TensorRef, name: str, stack: str | None) -> Placed:
    """A tensor that no template names. One that holds no real numbers (indices, masks, packed words) is no parameter."""
    layer, expert = LAYER.search(name), EXPERT.search(name)
    where = f"{stack}.{layer[1]}.{OTHER}{name[layer.end() :]}" if layer and stack else f"{OTHER}.{name}"
    return Placed(
        ref=ref,
        canonical_name=where,
        stack=stack,
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
    for tensor in placed if len({tensor.canonical_name for tensor in placed}) < len(placed) else ():
        earlier = first.setdefault(tensor.canonical_name, tensor.ref)
        if earlier is not tensor.ref and earlier.place != tensor.ref.place:
            doubles.append(f"{earlier.name} and {tensor.ref.name}")
    if doubles:
        shown = "; ".join(doubles[:3]) + (f"; and {len(doubles) - 3} more" if len(doubles) > 3 else "")
        notes.append(note("duplicate", f"two names for one place in the model, and both are counted: {shown}"))
    return tuple(notes)
