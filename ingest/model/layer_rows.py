"""Placed tensors -> one row for each layer: parameters by module and role, and heads and widths from the shapes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.model.adapter_base import holds_adapter_alone
from layerhouse.ingest.model.config import declared_number
from layerhouse.ingest.model.family import Family
from layerhouse.ingest.model.inactive import inactive_tensors
from layerhouse.ingest.model.layer_notes import (
    absent_layers_note,
    added_biases,
    declared_notes,
    group_notes,
    incomplete_notes,
    number_notes,
)
from layerhouse.ingest.model.layer_sizes import (
    MLP_MODULES,
    Sizes,
    declared_head_dim,
    has_unnamed_weights,
    measure_layer,
    unread_modules,
)
from layerhouse.ingest.model.placeholders import are_placeholders, is_block_weight
from layerhouse.ingest.model.placement import BLOCK_MODULES, Placed, Placement, unique_tensors
from layerhouse.ingest.model.token_cost import layer_kv_values, layer_macs
from layerhouse.vocabulary import Gone, Module, Stack

Row = dict[str, Any]
Zeros = Mapping[str, int]

INT32_MAX = 2**31 - 1
SIZE_WORDS = ("num_heads", "num_kv_heads", "head_dim", "intermediate_size", "num_experts", "hidden_size")
UNCOUNTED_MODULES = frozenset({Module.NORM, Module.BUFFER, Module.OTHER})
"""Modules whose roles are left out of `role_params`."""


@dataclass(frozen=True)
class _Layer:
    """What equal layers share: all of a row but the layer number, the bytes and the counts of zeros.

    `block_params` are the parameters of the modules that do the block's work.
    """

    sizes: Sizes
    notes: tuple[Note, ...]
    row: Row
    block_params: int


@dataclass(frozen=True)
class _Checkpoint:
    """What the rows of every stack are made from."""

    placement: Placement
    config: Config | None
    zeros: Zeros | None
    inactive: frozenset[str]
    has_placeholders: bool

    @property
    def has_shapes(self) -> bool:
        """Whether the tensors have roles and shapes, from which sizes can be told."""
        return self.family is not None and not self.has_placeholders and not self.placement.has_lost

    @property
    def family(self) -> Family | None:
        return self.placement.template_family


def layer_rows(placement: Placement, config: Config | None, zeros: Zeros | None = None) -> tuple[list[Row], list[Note]]:
    """Rows of `layers` without checkpoint_id, by stack and number, and notes on what is unusual or contradicts the config.

    `zeros` are zero elements by tensor name, if values were counted; a layer whose weights are all zero is a zero layer.
    """
    block_shapes = (t.ref.shape for t in placement.placed if is_block_weight(t.layer_index, t.module, t.part))
    has_placeholders = are_placeholders(block_shapes)
    inactive, notes = inactive_tensors(placement, config)
    notes = [note("placeholder", "placeholder shapes: incomplete export")] * has_placeholders + notes
    checkpoint = _Checkpoint(placement, config, zeros, inactive, has_placeholders)
    stacks = {tensor.stack for tensor in placement.placed if tensor.layer_index is not None}
    if not stacks:
        notes += absent_layers_note(placement, config)
    notes += incomplete_notes(placement, config)
    rows: list[Row] = []
    for stack in map(str, Stack):
        if stack in stacks:
            stack_rows, stack_notes = _stack_rows(stack, checkpoint)
            rows += stack_rows
            is_main = stack == placement.main_stack
            notes += [entry if is_main else note(entry["code"], f"{stack}: {entry['text']}") for entry in stack_notes]
    return rows, notes


def _stack_rows(stack: str, checkpoint: _Checkpoint) -> tuple[list[Row], list[Note]]:
    placement, config, family = checkpoint.placement, checkpoint.config, checkpoint.family
    layers: dict[int, list[Placed]] = defaultdict(list)
    for tensor in placement.placed:
        if tensor.layer_index is not None and tensor.stack == stack:
            layers[tensor.layer_index].append(tensor)
    head_dim = declared_head_dim(config, family, stack)
    rows: list[Row] = []
    sizes: dict[int, Sizes] = {}
    layer_notes: list[tuple[int, Note]] = []
    distinct: dict[tuple[Any, ...], _Layer] = {}
    shares_bytes = len(placement.unique) < len(placement.placed)
    for index in sorted(layers):
        tensors = layers[index]
        unique = unique_tensors(tensors) if shares_bytes else tensors
        is_plain = len(unique) == len(tensors)
        key = tuple([_row_key(tensor, checkpoint.inactive) for tensor in tensors]) if is_plain else (index,)
        layer = distinct.get(key)
        if layer is None:
            measured = measure_layer(tensors, head_dim) if checkpoint.has_shapes else Sizes()
            layer = distinct[key] = _describe_layer(stack, tensors, unique, measured, checkpoint)
        sizes[index] = layer.sizes
        layer_notes += [(index, entry) for entry in layer.notes]
        is_zero = _is_zero(unique, layer, checkpoint)
        counts = {**_zeros_by_part(unique, layer.row, checkpoint.zeros), "logical_bytes": _count_bytes(unique, checkpoint)}
        rows.append({**layer.row, "layer_index": index, **counts, "is_zero_layer": is_zero})
    has_all = stack != Stack.MTP and not holds_adapter_alone(tensor.ref for tensor in placement.placed)
    notes = number_notes(stack, sorted(layers), config, family) if has_all else []
    notes += group_notes(layer_notes)
    return rows, [*notes, *declared_notes(stack, sizes, head_dim, config, family)]


def _has_experts(tensors: Sequence[Placed], checkpoint: _Checkpoint) -> bool | None:
    """Whether a layer has weights of experts; None if that is not known."""
    if any(tensor.module == Module.EXPERT for tensor in tensors):
        return True
    is_known = checkpoint.has_shapes and not has_unnamed_weights(tensors) and not unread_modules(tensors)
    return False if is_known else None


def _row_key(tensor: Placed, inactive: frozenset[str]) -> tuple[Any, ...]:
    """All that a layer's row depends on, except values: layers with equal keys have identical rows apart from the number."""
    return (
        tensor.module,
        tensor.role,
        tensor.part,
        tensor.expert_index,
        tensor.is_parameter,
        tensor.ref.shape,
        tensor.input_axis,
        tensor.residual_axis,
        id(tensor.template),
        tensor.ref.name in inactive,
        tensor.is_unread,
    )


def _describe_layer(
    stack: str, tensors: Sequence[Placed], unique: Sequence[Placed], measured: Sizes, checkpoint: _Checkpoint
) -> _Layer:
    config, family = checkpoint.config, checkpoint.family
    active = [tensor for tensor in unique if tensor.ref.name not in checkpoint.inactive]
    unread = unread_modules(tensors)
    is_known = checkpoint.has_shapes and not unread
    experts_per_token = declared_number(config, family, "experts_per_token", stack)
    row = _row(stack, unique, measured, family)
    if checkpoint.placement.has_lost or unread:
        row |= _unknown_counts(None if checkpoint.placement.has_lost else unread)
    row["has_experts"] = _has_experts(tensors, checkpoint)
    row["macs_per_token"] = layer_macs(active, measured, experts_per_token) if is_known else None
    row["kv_values_per_token"] = layer_kv_values(active, measured, stack) if is_known else None
    row["inactive_part"] = _inactive_part(unique, active)
    block_params = sum(tensor.params for tensor in unique if tensor.module in BLOCK_MODULES)
    return _Layer(measured, (*measured.notes, *added_biases(tensors, config)), row, block_params)


def _row(stack: str, tensors: Sequence[Placed], sizes: Sizes, family: Family | None) -> Row:
    params: Counter[str] = Counter()
    roles: Counter[str] = Counter()
    for tensor in tensors:
        params[tensor.module] += tensor.params
        if tensor.role is not None and tensor.module not in UNCOUNTED_MODULES:
            roles[tensor.role] += tensor.params
    has_unnamed = has_unnamed_weights(tensors)
    attention, mlp = (
        None if family is None or (has_unnamed and count == 0) else count
        for count in (params[Module.ATTENTION], params[Module.MLP] + params[Module.EXPERT])
    )
    norm = None if family is None else params[Module.NORM]
    is_split = attention is not None and mlp is not None and norm is not None
    return {
        "stack": stack,
        "params": params.total(),
        "attention_params": attention,
        "mlp_params": mlp,
        "norm_params": norm,
        "other_params": params.total() - (attention or 0) - (mlp or 0) - (norm or 0) if is_split else None,
        "role_params": dict(roles) if family is not None else None,
        **{word: size if (size := getattr(sizes, word)) is None or size <= INT32_MAX else None for word in SIZE_WORDS},
    }


def _unknown_counts(unread: frozenset[str] | None) -> Row:
    """The counts of a layer that depend on weights whose shapes are not known, in these modules (None: in any), as null."""
    counts = {
        "attention_params": unread is None or Module.ATTENTION in unread,
        "mlp_params": unread is None or bool(MLP_MODULES & unread),
        "norm_params": unread is None or Module.NORM in unread,
    }
    names = ("params", "other_params", "role_params", *(name for name, is_unknown in counts.items() if is_unknown))
    return dict.fromkeys(names)


def _is_zero(tensors: Sequence[Placed], layer: _Layer, checkpoint: _Checkpoint) -> bool | None:
    """Whether a layer has no parameters of attention, MLP or an SSM mixer, or all of them are zero; None if not known."""
    if checkpoint.has_placeholders or layer.row["attention_params"] is None or layer.row["mlp_params"] is None:
        return None
    if layer.block_params == 0 or checkpoint.zeros is None:
        return layer.block_params == 0
    zeros = _count_zeros([tensor for tensor in tensors if tensor.module in BLOCK_MODULES], checkpoint.zeros)
    return None if zeros is None else zeros == layer.block_params


def _inactive_part(tensors: Sequence[Placed], active: Sequence[Placed]) -> Gone | None:
    """Which part of a block the config drops while its weights are stored; None if it drops none."""
    stored, used = (
        {_part(tensor) for tensor in group if tensor.module in BLOCK_MODULES and (tensor.params or tensor.is_unread)}
        for group in (tensors, active)
    )
    dropped = stored - used
    if not dropped or dropped == stored:
        return Gone.BLOCK if dropped else None
    return Gone.ATTENTION_MLP if len(dropped) > 1 else Gone.ATTENTION if Module.ATTENTION in dropped else Gone.MLP


def _part(tensor: Placed) -> str:
    """The module of a block that a tensor is in; experts are an MLP."""
    return str(Module.MLP) if tensor.module == Module.EXPERT else tensor.module


def _zeros_by_part(tensors: Sequence[Placed], row: Row, zeros: Zeros | None) -> Row:
    """Zero parameters of a layer, of its attention and of its MLP; None where they or the part's parameters are not known."""
    counts: Row = {"zeros": _count_zeros(tensors, zeros)}
    for part in (Module.ATTENTION, Module.MLP):
        is_known = row[f"{part}_params"] is not None
        part_tensors = [tensor for tensor in tensors if _part(tensor) == part]
        counts[f"{part}_zeros"] = _count_zeros(part_tensors, zeros) if is_known else None
    return counts


def _count_bytes(tensors: Iterable[Placed], checkpoint: _Checkpoint) -> int | None:
    """Bytes of the tensors, scales and buffers included, as the checkpoint's; None if it has others that were not read."""
    is_known = not (checkpoint.placement.has_lost or checkpoint.has_placeholders)
    return sum(tensor.ref.logical_bytes for tensor in tensors) if is_known else None


def _count_zeros(tensors: Iterable[Placed], zeros: Zeros | None) -> int | None:
    """Zero parameters of the tensors; None unless all were counted."""
    if zeros is None:
        return None
    counts = [zeros.get(tensor.ref.name) for tensor in tensors if tensor.params or tensor.is_unread]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
