"""Tensor names -> what each tensor is: stack, layer, module, role, expert, and its input and residual axes.

The family whose templates place most tensors is chosen. The numbers are then cut out of each name and the rest is looked up in
the family's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.checkpoint.layouts.factors import FACTOR_PARTS, LEFT, RIGHT
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.model.adapter_base import holds_adapter_alone
from layerhouse.ingest.model.choose_family import CACHED_MODELS, choose_family, has_unknown_type
from layerhouse.ingest.model.config import model_types
from layerhouse.ingest.model.family import Family, Template
from layerhouse.ingest.model.family_files import load_families
from layerhouse.ingest.model.places import NameParts, Place, Traits, find_places, split_names
from layerhouse.ingest.model.prefixes import without_prefix
from layerhouse.vocabulary import Module, Stack

BLOCK_MODULES = frozenset({Module.ATTENTION, Module.MLP, Module.EXPERT, Module.SSM})
"""The modules that do a block's work: a block without any of them is empty."""

LINEAR_PARTS = frozenset({"weight", *FACTOR_PARTS})
"""The parts that are matrices of a linear layer: its weight, or the two factors of it."""

MAX_CACHED_TENSORS = 5_000
"""Tensors of a checkpoint whose placement is cached; bounds the memory of the caches."""

MAX_NAMED = 3
"""Tensors that a note names."""


@dataclass(slots=True)
class Placed:
    """One tensor and what it is. Treat as immutable; it is not frozen because creating a frozen one takes five times as long.

    `stack` (of Stack) is None if nothing tells where the tensor belongs. `module` (of Module) and `role` are words that rows
    hold. `part` is weight, bias or buffer; for module other, the last component of the name. `input_axis` is the axis that
    inputs index, for weights of linear modules with two or three dimensions; `residual_axis` the axis that the hidden size
    indexes. `is_virtual`: the output head of a tied model whose file has none; it shares the embedding's bytes and adds none.
    `params` are its elements if it is a parameter, else 0; also 0 if it is unread, whose number of parameters is not known.
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
        self.params = self.ref.elements if self.is_parameter and not self.is_unread else 0

    @property
    def is_unread(self) -> bool:
        """Whether it stores words of a weight whose shape is not known."""
        return self.ref.layout is not None and not self.ref.layout.has_shape

    @property
    def is_prunable(self) -> bool:
        """Whether pruning targets it: a linear weight of attention, MLP, an expert or an SSM mixer, with two or more axes."""
        is_linear = self.template is None or self.template.linear
        is_weight = self.part in LINEAR_PARTS and self.module in BLOCK_MODULES and is_linear
        return is_weight and self.is_parameter and len(self.ref.shape) >= 2

    @property
    def output_axis(self) -> int | None:
        """The axis of a weight that outputs index; the first of three axes counts experts."""
        if self.input_axis is None:
            return None
        dims = len(self.ref.shape)
        return dims - 2 if self.input_axis == dims - 1 else dims - 1


@dataclass(frozen=True)
class Placement:
    """The tensors of a checkpoint with their places, in the order given.

    `family` is None if no family matches the names, and for an adapter whose base is not known: `template_family` is then one
    of several that have its names. `has_lost` is true if the files hold tensors of which nothing was read, so that they are
    not among `placed`.
    """

    family: str | None
    placed: tuple[Placed, ...]
    template_family: Family | None
    notes: tuple[Note, ...]
    has_lost: bool = False

    @cached_property
    def is_complete(self) -> bool:
        """Whether the shape of every weight is known, so that parameters can be counted."""
        return not self.has_lost and not any(tensor.is_unread for tensor in self.placed)

    @cached_property
    def unique(self) -> tuple[Placed, ...]:
        """The tensors, those that share their bytes once."""
        return tuple(unique_tensors(self.placed))

    @cached_property
    def unplaced(self) -> tuple[Placed, ...]:
        """The tensors that no template describes."""
        return tuple(tensor for tensor in self.placed if tensor.module == Module.OTHER)

    @cached_property
    def main_stack(self) -> str:
        """The stack whose layers stand for the model: text, else the decoder, else the encoder, and so on."""
        stacks = {tensor.stack for tensor in self.placed if tensor.layer_index is not None}
        return next((str(stack) for stack in Stack if stack in stacks), str(Stack.TEXT))


def place_tensors(refs: Sequence[TensorRef], config: Config | None, families: Iterable[Family] | None = None) -> Placement:
    """Place every tensor; one that no template of the family describes is kept as module other.

    Checkpoints with the same names and family, such as one model pruned in many ways, are placed once and cached.
    """
    known = load_families() if families is None else tuple(families)
    traits = tuple([(len(ref.shape), ref.dtype, ref.is_buffer) for ref in refs])
    names = tuple([ref.name if ref.layout is None else ref.layout.weight_name for ref in refs])
    types = model_types(config)
    is_cached = len(refs) <= MAX_CACHED_TENSORS
    parts, family = _name_parts(names, [ref.shape for ref in refs], config, known, is_cached=is_cached)
    if is_cached and all(ref.layout is None for ref in refs):
        places = _find_places_cached(tuple(parts.names), traits, family, types)
    else:
        places = find_places(parts, traits, [ref.layout for ref in refs], family, types)
    placed = [Placed(ref, *place) for ref, place in zip(refs, places, strict=True)]
    notes = _placement_notes(family, placed)
    is_declared = family is not None and any(model_type in family.model_types for model_type in types)
    if family is not None and not is_declared and holds_adapter_alone(refs):
        text = "an adapter whose base is not known: it has the names of many families, and none is told"
        return Placement(None, tuple(placed), family, (*notes, note("family", text)))
    return Placement(family.name if family else None, tuple(placed), family, notes)


def _name_parts(
    names: tuple[str, ...],
    shapes: Sequence[tuple[int, ...]],
    config: Config | None,
    known: Sequence[Family],
    *,
    is_cached: bool,
) -> tuple[NameParts, Family | None]:
    """The names, without a prefix of the whole model, and the family that they are of."""
    return without_prefix(
        _split_cached(names) if is_cached else split_names(names),
        lambda keys: choose_family(keys, shapes, config, known),
        has_unknown_type=has_unknown_type(config, known),
    )


@lru_cache(maxsize=CACHED_MODELS)
def _split_cached(names: tuple[str, ...]) -> NameParts:
    return split_names(names)


@lru_cache(maxsize=CACHED_MODELS)
def _find_places_cached(
    names: tuple[str, ...], traits: tuple[Traits, ...], family: Family | None, types: tuple[str, ...]
) -> tuple[Place, ...]:
    return find_places(_split_cached(names), traits, [None] * len(names), family, types)


def unique_tensors(placed: Iterable[Placed]) -> list[Placed]:
    """The tensors, those that share their bytes once: as a parameter if one of them is a parameter."""
    unique: dict[tuple[Any, ...], Placed] = {}
    for tensor in placed:
        place = tensor.ref.place
        known = unique.get(place)
        if known is None or tensor.params > known.params:
            unique[place] = tensor
    return list(unique.values())


def join_factors(tensors: Sequence[Placed]) -> Sequence[Placed]:
    """The tensors of a layer, the two factors of a weight as one tensor of the weight's shape, which is in no file."""
    factors: dict[tuple[Any, ...], dict[str, Placed]] = {}
    for tensor in tensors:
        if tensor.part in FACTOR_PARTS:
            key = tensor.stack, tensor.layer_index, tensor.module, tensor.role, tensor.expert_index
            factors.setdefault(key, {})[tensor.part] = tensor
    if not factors:
        return tensors
    pairs = [(parts[LEFT], parts[RIGHT]) for parts in factors.values() if len(parts) == 2]
    joined = [
        replace(
            left,
            ref=replace(left.ref, shape=(left.ref.shape[0], right.ref.shape[1]), layout=None, strides=None),
            part="weight",
            residual_axis=right.residual_axis if left.residual_axis is None else left.residual_axis,
        )
        for left, right in pairs
    ]
    return [*(tensor for tensor in tensors if tensor.part not in FACTOR_PARTS), *joined]


def _placement_notes(family: Family | None, placed: Sequence[Placed]) -> tuple[Note, ...]:
    notes = []
    other = str(Module.OTHER)
    unplaced = [tensor.ref.name for tensor in placed if tensor.module == other]
    if family is None and placed:
        notes.append(note("family", "no family file names these tensors: they are counted, and their roles unknown"))
    elif family is not None and unplaced:
        rest = f" and {len(unplaced) - MAX_NAMED} more" if len(unplaced) > MAX_NAMED else ""
        notes.append(note("unplaced", f"no template of {family.name} names {', '.join(unplaced[:MAX_NAMED])}{rest}"))
    first: dict[str, TensorRef] = {}
    doubles = []
    for tensor in placed if len({tensor.canonical_name for tensor in placed}) < len(placed) else ():
        earlier = first.setdefault(tensor.canonical_name, tensor.ref)
        if earlier is not tensor.ref and earlier.place != tensor.ref.place:
            doubles.append(f"{earlier.name} and {tensor.ref.name}")
    if doubles:
        rest = f"; and {len(doubles) - MAX_NAMED} more" if len(doubles) > MAX_NAMED else ""
        text = f"two names for one place in the model, and both are counted: {'; '.join(doubles[:MAX_NAMED])}{rest}"
        notes.append(note("duplicate", text))
    return tuple(notes)
