"""Tensor names -> places in the model, by the templates of a family. Nothing here depends on where a tensor's bytes are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.layouts.adapters import SCHEME as ADAPTER_SCHEME
from layerhouse.ingest.checkpoint.layouts.factors import FACTOR_PARTS, LEFT, RIGHT
from layerhouse.ingest.checkpoint.layouts.factors import SCHEME as LOW_RANK_SCHEME
from layerhouse.ingest.checkpoint.tensor_ref import NO_VALUES, Layout
from layerhouse.ingest.model.buffers import BufferNames
from layerhouse.ingest.model.family import INPUTS, NUMBER_MARK, OUTPUTS, Family, Template
from layerhouse.vocabulary import Module, Stack

LINEAR_MODULES = frozenset(
    {
        Module.ATTENTION,
        Module.MLP,
        Module.EXPERT,
        Module.SSM,
        Module.ROUTER,
        Module.LM_HEAD,
        Module.HEAD,
        Module.PROJECTOR,
    }
)
LEADING_WRAPPERS = ("module.", "base_model.model.", "state_dict.")
INNER_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
NUMBER = re.compile(r"(?<![^.])([0-9]{1,9})(?![^.])")
LAYER_WORD = r"(?:^|\.)(?:layers|h|blk|blocks?|layer)\."
LAYER = re.compile(LAYER_WORD + r"([0-9]{1,9})(?=\.)")
LAYER_IN_KEY = re.compile(LAYER_WORD + r"(?=\{\}\.)")
EXPERT = re.compile(r"\.(?:local_)?experts\.([0-9]{1,9})\.")


class Place(NamedTuple):
    """The placement of a tensor, without the tensor: the fields of Placed after `ref`, in their order."""

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


class NameParts(NamedTuple):
    """Of each tensor: its name without wrappers, that name with `{}` for each number, and the numbers."""

    names: list[str]
    keys: list[str]
    numbers: list[list[str]]


@dataclass(frozen=True)
class Slot:
    """What tensors have in common whose names differ in numbers only.

    `place` is the place of all of them, with placeholders in its canonical name. `layer_at`, `expert_at` and `number_at` are
    the positions, among a name's numbers, of those that fill the placeholders.
    """

    place: Place
    layer_at: int | None
    expert_at: int | None
    number_at: int | None


Traits = tuple[int, str, bool]
"""What a tensor's place depends on besides its name: number of dimensions, dtype, and whether the file marks it as a buffer."""


def strip_wrappers(name: str) -> str:
    """The name without the prefixes that data-parallel, compiled, checkpointed and adapter wrappers add to modules."""
    if "_mod" in name:
        name = INNER_WRAPPERS.sub("", name)
    stripped = True
    while stripped:
        stripped = False
        for wrapper in LEADING_WRAPPERS:
            if name.startswith(wrapper):
                name, stripped = name[len(wrapper) :], True
    return name


def split_names(names: Sequence[str]) -> NameParts:
    """Cut the numbers out of tensor names."""
    plain = [strip_wrappers(name) for name in names]
    pieces = [NUMBER.split(name) for name in plain]
    return NameParts(plain, ["{}".join(split[::2]) for split in pieces], [split[1::2] for split in pieces])


def find_places(
    parts: NameParts,
    traits: Sequence[Traits],
    layouts: Sequence[Layout | None],
    family: Family | None,
    types: Sequence[str] = (),
) -> tuple[Place, ...]:
    """The place of every tensor. `layouts` are those of tensors that stand for a weight, `types` the declared model types."""
    buffers = BufferNames(parts.names, [dims for dims, _, _ in traits], types)
    stack_of_prefix = _stacks_by_prefix(Counter(parts.keys), family)
    slots: dict[tuple[str, str, int], Slot] = {}
    places = []
    for name, key, numbers, (dims, dtype, is_buffer), layout in zip(*parts, traits, layouts, strict=True):
        match = None if family is None else family.match_name(key, numbers)
        if match is None:
            is_number = DTYPES[dtype].kind in ("float", "complex")
            place = _place_unknown(name, stack_of_prefix.get(_layer_prefix(key)), is_number and not is_buffer)
            place = _as_buffer(place) if name in buffers else place
        else:
            slot_key = (match[0].name, match[1], dims)
            slot = slots.get(slot_key)
            if slot is None:
                slot = slots[slot_key] = _slot(*match, dims)
            place = _fill_slot(slot, numbers, is_buffer)
        places.append(place if layout is None else _place_by_layout(place, layout))
    return tuple(_move_mtp_layers(places))


def canonical_name(
    template: Template, part: str, layer: str | None = None, expert: str | None = None, number: str | None = None
) -> str:
    """`stack.layer.module.expert.role.number.part`, without the components that a tensor lacks."""
    part_name = None if template.is_buffer else part
    components = (template.stack, layer, template.module, expert, template.role, number, part_name)
    return ".".join(component for component in components if component is not None)


def _stacks_by_prefix(keys: Counter[str], family: Family | None) -> dict[str | None, str]:
    """Name up to the layer number -> stack, as templates give it. If they give none, the most frequent prefix is text."""
    placed: dict[str | None, str] = {}
    others: Counter[str] = Counter()
    for key, count in keys.items():
        prefix = _layer_prefix(key)
        if prefix is None:
            continue
        matches = () if family is None else family.table.get(key, ())
        if matches:
            placed.setdefault(prefix, str(matches[0][0].stack))
        else:
            others[prefix] += count
    return placed or {prefix: str(Stack.TEXT) for prefix, _ in others.most_common(1)}


def _layer_prefix(key: str) -> str | None:
    match = LAYER_IN_KEY.search(key)
    return None if match is None else key[: match.end()]


def _slot(template: Template, part: str, dims: int) -> Slot:
    marks = [mark[1] for mark in NUMBER_MARK.finditer(template.name)]
    positions = {kind: position for position, kind in enumerate(marks) if kind is not None}
    layer, expert, number = (f"{{{kind}}}" if kind in positions else None for kind in ("layer", "expert", "number"))
    input_axis, residual_axis = _find_axes(template, part, dims)
    place = Place(
        canonical_name=canonical_name(template, part, layer, expert, number),
        stack=str(template.stack),
        module=str(template.module),
        role=template.role,
        part=part,
        layer_index=None,
        expert_index=None,
        is_parameter=not template.is_buffer,
        input_axis=input_axis,
        residual_axis=residual_axis,
        template=template,
    )
    return Slot(place, positions.get("layer"), positions.get("expert"), positions.get("number"))


def _fill_slot(slot: Slot, numbers: Sequence[str], is_buffer: bool) -> Place:
    layer_index, expert_index, number = (
        None if at is None else int(numbers[at]) for at in (slot.layer_at, slot.expert_at, slot.number_at)
    )
    pattern, stack, module, role, part, _, _, is_parameter, inputs, residual, template = slot.place
    name = pattern.format(layer=layer_index, expert=expert_index, number=number)
    is_parameter = is_parameter and not is_buffer
    return Place(name, stack, module, role, part, layer_index, expert_index, is_parameter, inputs, residual, template)


def _move_mtp_layers(places: list[Place]) -> list[Place]:
    """The places, with all tensors of a multi-token prediction layer moved from the stack text to the stack mtp.

    Such a layer is recognised by the tensors that only it has, which templates place in the stack mtp.
    """
    text, mtp = str(Stack.TEXT), str(Stack.MTP)
    layers = {place.layer_index for place in places if place.stack == mtp} - {None}
    if not layers:
        return places
    return [
        place._replace(stack=mtp, canonical_name=f"{mtp}.{place.canonical_name.partition('.')[2]}")
        if place.layer_index in layers and place.stack == text
        else place
        for place in places
    ]


def _find_axes(template: Template, part: str, dims: int) -> tuple[int | None, int | None]:
    """The axis that inputs index and the axis that the hidden size indexes; None if there is none."""
    is_norm = template.module == Module.NORM
    if part == "bias" or is_norm:
        is_residual = template.residual == (INPUTS if is_norm else OUTPUTS)
        return None, 0 if is_residual and dims == 1 else None
    if dims not in (2, 3) or not template.linear:
        return None, None
    inputs, outputs = (dims - 2, dims - 1) if template.transposed else (dims - 1, dims - 2)
    residual = {INPUTS: inputs, OUTPUTS: outputs, None: None}[template.residual]
    return (inputs if template.module in LINEAR_MODULES else None), residual


def _place_unknown(name: str, stack: str | None, is_parameter: bool) -> Place:
    """The place of a tensor that no template describes.

    A tensor that does not hold real numbers (indices, masks, packed words) is no parameter.
    """
    other = str(Module.OTHER)
    layer, expert = LAYER.search(name), EXPERT.search(name)
    return Place(
        canonical_name=f"{stack}.{layer[1]}.{other}{name[layer.end() :]}" if layer and stack else f"{other}.{name}",
        stack=stack,
        module=other,
        role=None,
        part=name.rpartition(".")[2],
        layer_index=int(layer[1]) if layer else None,
        expert_index=int(expert[1]) if expert else None,
        is_parameter=is_parameter,
    )


def _as_buffer(place: Place) -> Place:
    """The place of a tensor that its name alone tells to be a buffer."""
    name = re.sub(rf"(?<![^.]){Module.OTHER}\.", f"{Module.BUFFER}.", place.canonical_name, count=1)
    return place._replace(canonical_name=name, module=str(Module.BUFFER), part="buffer", is_parameter=False)


def _place_factor(place: Place, part: str) -> Place:
    """The place of a factor: the right one, (rank, in), reads the weight's inputs, the left one, (out, rank), has its outputs.

    Both are stored as linear layers, also where the weight would be transposed.
    """
    residual = None if place.template is None else place.template.residual
    is_residual = (part, residual) in ((RIGHT, INPUTS), (LEFT, OUTPUTS))
    name = ".".join([*place.canonical_name.split(".")[:-1], part])
    axis = {LEFT: 0, RIGHT: 1}[part] if is_residual else None
    return place._replace(
        canonical_name=name, part=part, input_axis=None if place.input_axis is None else 1, residual_axis=axis
    )


def _place_by_layout(place: Place, layout: Layout) -> Place:
    """The place of a tensor that serves a weight: that of the weight, of an adapter's addition to it, or of its scales.

    A tensor without values, which could be either, is a parameter or a buffer as it would be with values.
    """
    if not layout.has_shape:
        name = ".".join([*place.canonical_name.split(".")[:-1], layout.part])
        return place._replace(
            canonical_name=name, part=layout.part, is_parameter=True, input_axis=None, residual_axis=None, template=None
        )
    if layout.values == NO_VALUES and layout.bits is None and layout.type_name is None and not layout.is_aux:
        return place
    if layout.scheme == LOW_RANK_SCHEME:
        return _place_factor(place, layout.part) if layout.part in FACTOR_PARTS else place
    if not layout.is_aux and layout.scheme != ADAPTER_SCHEME:
        return place._replace(is_parameter=True)
    module = str(Module.QUANT_AUX if layout.is_aux else Module.ADAPTER)
    components = place.canonical_name.split(".")
    if place.module != Module.OTHER:
        at = 1 if place.layer_index is None else 2
        components = [*components[:at], module, *components[at + 1 : -1]]
    return place._replace(
        canonical_name=".".join([*components, layout.part]),
        module=module,
        part=layout.part,
        is_parameter=not layout.is_aux,
        input_axis=None,
        residual_axis=None,
        template=None,
    )
