"""Where the parts of a layer's units lie: which rows or columns of which weights, by templates and measured sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import NO_VALUES, PLAIN, TensorRef
from layerhouse.ingest.model.layer_sizes import Sizes
from layerhouse.ingest.model.placement import Placed
from layerhouse.vocabulary import FusedLayout, Module, Role, UnitKind

Array = npt.NDArray[Any]

KIND_OF_PART = {
    "q": UnitKind.HEAD,
    "o": UnitKind.HEAD,
    "k": UnitKind.KV_GROUP,
    "v": UnitKind.KV_GROUP,
    "gate": UnitKind.NEURON,
    "up": UnitKind.NEURON,
    "down": UnitKind.NEURON,
}


MAX_VECTORS = 1 << 20
"""Limit on the rows or columns of a matrix; of an MLP they are some ten thousands."""


class UnknownUnitsError(Exception):
    """The shapes do not determine where units lie; the text says why."""


@dataclass(frozen=True)
class Part:
    """One part (`name`) of consecutive units, of which the first is number `first_unit`.

    `ref` is a matrix, or a vector for a bias; `axis` is the axis that counts its vectors; `vectors` are the indices of the
    vectors of each unit, shape (units, vectors of a unit).
    """

    kind: UnitKind
    name: str
    ref: TensorRef
    axis: int
    vectors: Array
    first_unit: int = 0
    is_bias: bool = False


def find_parts(tensors: Sequence[Placed], sizes: Sizes) -> tuple[list[Part], list[str]]:
    """The parts of a layer's units, and for each kind of unit that is not known the reason."""
    parts: list[Part] = []
    reasons: list[str] = []
    for modules, find, plural in (
        ((Module.ATTENTION,), _attention_parts, "heads"),
        ((Module.MLP,), _mlp_parts, "neurons"),
        ((Module.EXPERT, Module.ROUTER), _expert_parts, "experts"),
    ):
        own = [tensor for tensor in tensors if tensor.module in modules and tensor.part in ("weight", "bias")]
        if not any(tensor.module == modules[0] and tensor.part == "weight" for tensor in own):
            continue
        try:
            _refuse_packed(own)
            parts += list(find(own, sizes))
        except UnknownUnitsError as error:
            reasons.append(f"{plural} are not known: {error}")
    return parts, reasons


def _refuse_packed(tensors: Sequence[Placed]) -> None:
    for tensor in tensors:
        layout, dtype = tensor.ref.layout, DTYPES[tensor.ref.dtype]
        if layout is not None and layout.values == NO_VALUES:
            raise UnknownUnitsError(f"{tensor.role} has no values that are read")
        if (layout is not None and layout.values != PLAIN) or dtype.bits < 8:
            raise UnknownUnitsError(f"{tensor.role} is kept as packed or quantised codes")
        if dtype.kind == "complex":
            raise UnknownUnitsError(f"{tensor.role} is complex")


def _attention_parts(tensors: Sequence[Placed], sizes: Sizes) -> Iterator[Part]:
    """Rows of q, k and v and columns of o. Raises UnknownUnitsError if one of them is missing."""
    heads, groups, size = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim
    if heads is None or groups is None or size is None:
        raise UnknownUnitsError("the shapes do not give the heads")
    weights = {str(tensor.role): tensor for tensor in tensors if tensor.part == "weight" and tensor.input_axis is not None}
    names: set[str] = set()
    for role, tensor in weights.items():
        if role == Role.O_PROJ:
            axis, vectors_by_name = _axis(tensor.input_axis), {"o": _runs(0, heads, size)}
        else:
            axis, vectors_by_name = _axis(tensor.output_axis), _projection_vectors(tensor, heads, groups, size)
        total = sum(vectors.size for vectors in vectors_by_name.values())
        _check(tensor, axis, total)
        biases = [other for other in tensors if other.role == role and other.part == "bias" and role != Role.O_PROJ]
        for name, vectors in vectors_by_name.items():
            yield _part(name, tensor, axis, vectors)
            yield from (_bias(name, bias, vectors, total) for bias in biases)
        names |= vectors_by_name.keys()
    if missing := {"q", "k", "v", "o"} - names:
        raise UnknownUnitsError(f"there is no {', '.join(sorted(missing))} projection")


def _projection_vectors(tensor: Placed, heads: int, groups: int, size: int) -> dict[str, Array]:
    """The rows of each head's queries and each KV group's keys and values in a projection, separate or fused."""
    rows = {"q": heads * size, "k": groups * size}
    match (None if tensor.template is None else tensor.template.fused), tensor.role:
        case None, Role.Q_PROJ:
            return {"q": _runs(0, heads, size)}
        case FusedLayout.Q_GATE, Role.Q_PROJ:
            return {"q": _runs(0, heads, 2 * size)}
        case None, Role.K_PROJ:
            return {"k": _runs(0, groups, size)}
        case None, Role.V_PROJ:
            return {"v": _runs(0, groups, size)}
        case ((FusedLayout.QKV | FusedLayout.QKV_THIRDS), _):
            values = rows["q"] + rows["k"]
            return {"q": _runs(0, heads, size), "k": _runs(rows["q"], groups, size), "v": _runs(values, groups, size)}
        case FusedLayout.QKV_GROUPED, _:
            return _grouped_vectors(heads, groups, size)
        case _:
            raise UnknownUnitsError(f"{tensor.role} is laid out in another way")


def _grouped_vectors(heads: int, groups: int, size: int) -> dict[str, Array]:
    """The rows of q, k and v if each KV group has its queries, its key and its value next to each other.

    GPT-NeoX, BLOOM: one query head for each group. Falcon, InternLM2: several. Falcon 7B, GPT-BigCode: one group of all heads.
    """
    if groups == 0 or heads % groups:
        raise UnknownUnitsError(f"{heads} query heads do not share {groups} KV heads evenly")
    queries = heads // groups
    _check_count(groups * (queries + 2) * size)
    blocks = np.arange(groups * (queries + 2) * size).reshape(groups, queries + 2, size)
    return {"q": blocks[:, :queries].reshape(heads, size), "k": blocks[:, queries], "v": blocks[:, queries + 1]}


def _mlp_parts(tensors: Sequence[Placed], sizes: Sizes) -> Iterator[Part]:
    width = sizes.intermediate_size
    weights = [tensor for tensor in tensors if tensor.part == "weight"]
    if width is None:
        raise UnknownUnitsError("the shapes do not give one width")
    for tensor in weights:
        for name, axis, start in _neuron_places(tensor, width):
            vectors = _runs(start, width, 1)
            yield _part(name, tensor, axis, vectors)
            if axis == tensor.output_axis:
                biases = (other for other in tensors if other.role == tensor.role and other.part == "bias")
                yield from (_bias(name, bias, vectors, tensor.ref.shape[axis]) for bias in biases)


def _neuron_places(tensor: Placed, width: int) -> Iterator[tuple[str, int, int]]:
    """Name, axis and first vector of each part of neurons that an MLP weight has."""
    fused = tensor.template.fused if tensor.template is not None else None
    if tensor.role == Role.DOWN_PROJ and fused is None:
        _check(tensor, _axis(tensor.input_axis), width)
        yield "down", _axis(tensor.input_axis), 0
    elif tensor.role in (Role.GATE_PROJ, Role.UP_PROJ) and fused is None:
        _check(tensor, _axis(tensor.output_axis), width)
        yield tensor.role.removesuffix("_proj"), _axis(tensor.output_axis), 0
    elif fused == FusedLayout.GATE_UP:
        _check(tensor, _axis(tensor.output_axis), 2 * width)
        yield "gate", _axis(tensor.output_axis), 0
        yield "up", _axis(tensor.output_axis), width
    else:
        raise UnknownUnitsError(f"{tensor.role} is laid out in another way")


def _expert_parts(tensors: Sequence[Placed], sizes: Sizes) -> Iterator[Part]:
    """Parts of experts, each a whole matrix; and the rows of the router, if it has one for each expert.

    The experts have a tensor each, or one tensor of three dimensions for all.
    """
    if sizes.num_experts is None:
        raise UnknownUnitsError("the shapes do not give their number")
    for tensor in tensors:
        if tensor.module == Module.ROUTER:
            if tensor.part == "weight" and tensor.input_axis is not None and len(tensor.ref.shape) == 2:
                outputs = _axis(tensor.output_axis)
                if tensor.ref.shape[outputs] == sizes.num_experts:
                    yield _part("router", tensor, outputs, _runs(0, sizes.num_experts, 1), UnitKind.EXPERT)
        elif tensor.part == "weight":
            axis = tensor.input_axis if tensor.role == Role.DOWN_PROJ else tensor.output_axis
            if axis is None:
                raise UnknownUnitsError(f"{tensor.role} has shape {list(tensor.ref.shape)}")
            for expert, ref in _expert_matrices(tensor):
                if not ref.elements:
                    raise UnknownUnitsError(f"{tensor.role} has shape {list(tensor.ref.shape)}, and no elements")
                matrix_axis = axis - (len(tensor.ref.shape) - 2)
                vectors = _runs(0, 1, ref.shape[matrix_axis])
                yield Part(UnitKind.EXPERT, str(tensor.role).removesuffix("_proj"), ref, matrix_axis, vectors, expert)


def _expert_matrices(tensor: Placed) -> Iterator[tuple[int, TensorRef]]:
    """Each expert's number and its matrix."""
    ref = tensor.ref.as_stored
    if len(ref.shape) == 2:
        if tensor.expert_index is None:
            raise UnknownUnitsError(f"{tensor.role} names no expert")
        yield tensor.expert_index, ref
        return
    _check_count(ref.shape[0])
    strides = ref.strides or tuple(math.prod(ref.shape[axis + 1 :]) for axis in range(3))
    for expert in range(ref.shape[0]):
        offset = ref.storage_offset + expert * strides[0]
        yield expert, replace(ref, shape=ref.shape[1:], strides=strides[1:], storage_offset=offset)


def _part(name: str, tensor: Placed, axis: int, vectors: Array, kind: UnitKind | None = None) -> Part:
    if len(tensor.ref.shape) != 2:
        raise UnknownUnitsError(f"{tensor.role} has shape {list(tensor.ref.shape)}")
    if vectors.size and not tensor.ref.elements:
        raise UnknownUnitsError(f"{tensor.role} has shape {list(tensor.ref.shape)}, and no elements")
    return Part(kind or KIND_OF_PART[name], name, tensor.ref.as_stored, axis, vectors)


def _bias(name: str, tensor: Placed, vectors: Array, expected: int) -> Part:
    if tensor.ref.shape != (expected,):
        raise UnknownUnitsError(f"the bias of {tensor.role} has shape {list(tensor.ref.shape)}")
    return Part(KIND_OF_PART[name], f"{name}_bias", tensor.ref.as_stored, 0, vectors, is_bias=True)


def _runs(start: int, units: int, size: int) -> Array:
    """Indices of consecutive units of `size` vectors, shape (units, size). Raises UnknownUnitsError for too many of them."""
    _check_count(units * size)
    return start + np.arange(units * size).reshape(units, size)


def _check_count(vectors: int) -> None:
    """Only a tensor without elements can claim more vectors than these."""
    if vectors > MAX_VECTORS:
        raise UnknownUnitsError(f"{vectors} vectors are over the limit of {MAX_VECTORS}")


def _check(tensor: Placed, axis: int, expected: int) -> None:
    if tensor.ref.shape[axis] != expected:
        raise UnknownUnitsError(f"{tensor.role} has {tensor.ref.shape[axis]} vectors, and {expected} were expected")


def _axis(axis: int | None) -> int:
    if axis is None:
        raise UnknownUnitsError("a weight has no two dimensions")
    return axis
