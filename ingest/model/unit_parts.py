"""Where the parts of a layer's units lie: which rows or columns of which weights, told from templates and measured sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import PLAIN, TensorRef
from layerhouse.ingest.model.layer_sizes import Sizes
from layerhouse.ingest.model.placement import Placed

Array = npt.NDArray[Any]

HEAD, KV_GROUP, NEURON, EXPERT = "head", "kv_group", "neuron", "expert"
UNITS_OF = {"q": HEAD, "o": HEAD, "k": KV_GROUP, "v": KV_GROUP, "gate": NEURON, "up": NEURON, "down": NEURON}


class UnknownUnitsError(Exception):
    """The shapes do not say where units lie; the text says why."""


@dataclass(frozen=True)
class Part:
    """One part of units in a row, the first of which is `first_unit`.

    `ref` is a matrix, or a vector for a bias; `axis` the one that counts its vectors; `vectors` which of them each unit has,
    shape (units, vectors of one).
    """

    kind: str
    name: str
    ref: TensorRef
    axis: int
    vectors: Array
    first_unit: int = 0
    is_bias: bool = False


def find_parts(tensors: Sequence[Placed], sizes: Sizes) -> tuple[list[Part], list[str]]:
    """The parts of a layer's units, and the reasons why some kinds of unit are not known."""
    parts: list[Part] = []
    reasons: list[str] = []
    for modules, find, kinds in (
        (("attention",), _attention_parts, "heads"),
        (("mlp",), _mlp_parts, "neurons"),
        (("expert", "router"), _expert_parts, "experts"),
    ):
        own = [tensor for tensor in tensors if tensor.module in modules and tensor.part in ("weight", "bias")]
        if not any(tensor.module == modules[0] and tensor.part == "weight" for tensor in own):
            continue
        try:
            _refuse_packed(own)
            parts += list(find(own, sizes))
        except UnknownUnitsError as error:
            reasons.append(f"{kinds} are not known: {error}")
    return parts, reasons


def _refuse_packed(tensors: Sequence[Placed]) -> None:
    for tensor in tensors:
        layout, dtype = tensor.ref.layout, DTYPES[tensor.ref.dtype]
        if (layout is not None and layout.values != PLAIN) or dtype.bits < 8:
            raise UnknownUnitsError(f"{tensor.role} is kept as packed or quantised codes")
        if dtype.kind == "complex":
            raise UnknownUnitsError(f"{tensor.role} is complex")


def _attention_parts(tensors: Sequence[Placed], sizes: Sizes) -> Iterator[Part]:
    heads, groups, size = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim
    if heads is None or groups is None or size is None:
        raise UnknownUnitsError("the shapes do not give the heads")
    weights = {str(tensor.role): tensor for tensor in tensors if tensor.part == "weight" and tensor.input_axis is not None}
    rows = {"q": heads * size, "k": groups * size, "v": groups * size}
    starts = {
        "qkv": {"q": (0, size), "k": (rows["q"], size), "v": (rows["q"] + rows["k"], size)},
        "qkv_thirds": {"q": (0, size), "k": (rows["q"], size), "v": (rows["q"] + rows["k"], size)},
        "qkv_interleaved": {"q": (0, 3 * size), "k": (size, 3 * size), "v": (2 * size, 3 * size)},
    }
    roles = {"q_proj": {"q": (0, size)}, "k_proj": {"k": (0, size)}, "v_proj": {"v": (0, size)}}
    seen: set[str] = set()
    for role, tensor in weights.items():
        fused = tensor.template.fused if tensor.template is not None else None
        if role == "o_proj":
            _check(tensor, _axis(tensor.input_axis), rows["q"])
            yield _part("o", tensor, _axis(tensor.input_axis), _runs(0, size, heads, size))
            seen.add("o")
            continue
        places = starts.get(fused, {}) if fused is not None else roles.get(role, {})
        if not places:
            raise UnknownUnitsError(f"{role} is laid out in another way")
        _check(tensor, _axis(tensor.output_axis), sum(rows[name] for name in places))
        biases = [one for one in tensors if one.role == role and one.part == "bias"]
        for name, (start, step) in places.items():
            index = _runs(start, step, heads if name == "q" else groups, size)
            yield _part(name, tensor, _axis(tensor.output_axis), index)
            yield from (_bias(name, bias, index, sum(rows[one] for one in places)) for bias in biases)
        seen |= places.keys()
    if missing := {"q", "k", "v", "o"} - seen:
        raise UnknownUnitsError(f"there is no {', '.join(sorted(missing))} projection")


def _mlp_parts(tensors: Sequence[Placed], sizes: Sizes) -> Iterator[Part]:
    width = sizes.intermediate_size
    weights = [tensor for tensor in tensors if tensor.part == "weight"]
    if width is None:
        raise UnknownUnitsError("the shapes do not give one width")
    for tensor in weights:
        for name, axis, start in _neuron_places(tensor, width):
            index = _runs(start, 1, width, 1)
            yield _part(name, tensor, axis, index)
            if axis == tensor.output_axis:
                biases = (one for one in tensors if one.role == tensor.role and one.part == "bias")
                yield from (_bias(name, bias, index, tensor.ref.shape[axis]) for bias in biases)


def _neuron_places(tensor: Placed, width: int) -> Iterator[tuple[str, int, int]]:
    """Name, axis and first vector of the parts of neurons that an MLP weight holds."""
    fused = tensor.template.fused if tensor.template is not None else None
    if tensor.role == "down_proj" and fused is None:
        _check(tensor, _axis(tensor.input_axis), width)
        yield "down", _axis(tensor.input_axis), 0
    elif tensor.role in ("gate_proj", "up_proj") and fused is None:
        _check(tensor, _axis(tensor.output_axis), width)
        yield tensor.role.removesuffix("_proj"), _axis(tensor.output_axis), 0
    elif fused == "gate_up":
        _check(tensor, _axis(tensor.output_axis), 2 * width)
        yield "gate", _axis(tensor.output_axis), 0
        yield "up", _axis(tensor.output_axis), width
    else:
        raise UnknownUnitsError(f"{tensor.role} is laid out in another way")


def _expert_parts(tensors: Sequence[Placed], sizes: Sizes) -> Iterator[Part]:
    """Parts of experts, each a whole matrix, from a tensor for each expert or one of three dimensions for all; and the rows of
    the router, if it has one for each."""
    if sizes.num_experts is None:
        raise UnknownUnitsError("the shapes do not give their number")
    for tensor in tensors:
        if tensor.module == "router":
            if tensor.part == "weight" and tensor.input_axis is not None and len(tensor.ref.shape) == 2:
                outputs = _axis(tensor.output_axis)
                if tensor.ref.shape[outputs] == sizes.num_experts:
                    yield _part("router", tensor, outputs, _runs(0, 1, sizes.num_experts, 1), EXPERT)
        elif tensor.part == "weight":
            axis = tensor.input_axis if tensor.role == "down_proj" else tensor.output_axis
            if axis is None:
                raise UnknownUnitsError(f"{tensor.role} has shape {list(tensor.ref.shape)}")
            for expert, ref in _expert_matrices(tensor):
                at = axis - (len(tensor.ref.shape) - 2)
                index = np.arange(ref.shape[at])[None, :]
                yield Part(EXPERT, str(tensor.role).removesuffix("_proj"), ref, at, index, expert)


def _expert_matrices(tensor: Placed) -> Iterator[tuple[int, TensorRef]]:
    ref = tensor.ref.as_stored
    if len(ref.shape) == 2:
        if tensor.expert_index is None:
            raise UnknownUnitsError(f"{tensor.role} names no expert")
        yield tensor.expert_index, ref
        return
    strides = ref.strides or tuple(math.prod(ref.shape[axis + 1 :]) for axis in range(3))
    for expert in range(ref.shape[0]):
        offset = ref.storage_offset + expert * strides[0]
        yield expert, replace(ref, shape=ref.shape[1:], strides=strides[1:], storage_offset=offset)


def _part(name: str, tensor: Placed, axis: int, index: Array, kind: str | None = None) -> Part:
    if len(tensor.ref.shape) != 2:
        raise UnknownUnitsError(f"{tensor.role} has shape {list(tensor.ref.shape)}")
    return Part(kind or UNITS_OF[name], name, tensor.ref.as_stored, axis, index)


def _bias(name: str, tensor: Placed, index: Array, expected: int) -> Part:
    if tensor.ref.shape != (expected,):
        raise UnknownUnitsError(f"the bias of {tensor.role} has shape {list(tensor.ref.shape)}")
    return Part(UNITS_OF[name], f"{name}_bias", tensor.ref.as_stored, 0, index, is_bias=True)


def _runs(start: int, step: int, count: int, size: int) -> Array:
    """Indices of `count` runs of `size` vectors, the first of which begin at start, start + step, ..."""
    return start + np.arange(count)[:, None] * step + np.arange(size)[None, :]


def _check(tensor: Placed, axis: int, expected: int) -> None:
    if tensor.ref.shape[axis] != expected:
        raise UnknownUnitsError(f"{tensor.role} has {tensor.ref.shape[axis]} vectors, and {expected} were expected")


def _axis(axis: int | None) -> int:
    if axis is None:
        raise UnknownUnitsError("a weight has no two dimensions")
    return axis
