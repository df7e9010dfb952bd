"""Weights that a pickle keeps inside of other things than a dict or a module of tensors, as tensors with names of their own.

- A tensor of a class of torchao becomes the tensors that torchao writes to safetensors (torchao/prototype/safetensors).
- Parameters that torch has packed for a quantised module become its weight and bias (torch/ao/nn/quantized/modules: linear.py,
  embedding_ops.py).
- A module of HQQ (hqq/core/quantize.py) is a dict of tensors and of values that describe them.

Whatever describes tensors and is none itself goes into `descriptions`, by the name of the tensor that holds the weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from layerhouse.ingest.checkpoint.pickle.values import (
    AnyTensor,
    PickledDict,
    QuantizedStub,
    ShapeStub,
    SparseStub,
    Stub,
    SubclassStub,
    TensorStub,
)

SCRIPT_OBJECT = "torch.ScriptObject"
PACKED_NAMES = ("_packed_params._packed_params", "_packed_params._packed_weight")
PACKED_DTYPE = "_packed_params.dtype"
"""What torch calls packed parameters, and their type, in the state dict of a quantised module."""
TORCHAO_CODES = ("I8", "F8_E4M3", "F8_E5M2")
TORCHAO_PARTS = ("qdata", "scale", "zero_point", "act_pre_scale")
HQQ_CODES = "W_q"
HQQ_SHAPES = ("shape", "meta")
HQQ_VALUES = ("shape", "nbits", "axis", "group_size", "packing", "view_as_float", "quant_scale", "quant_zero")
HQQ_NESTED = ("meta_scale", "meta_zero")
MAX_DESCRIBED = 64
"""Characters of a text, and numbers of a list, in a description."""


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor of the model with its name in the model's state_dict. `served` is the name of the weight that it only serves, as
    its scale."""

    name: str
    tensor: TensorStub | SparseStub | ShapeStub | QuantizedStub
    is_buffer: bool = False
    served: str | None = None


@dataclass(frozen=True)
class Parts:
    """Tensors that stand for one entry. `quantized` is the module whose weight torch has quantised."""

    tensors: list[NamedTensor]
    descriptions: Mapping[str, Any] = field(default_factory=dict)
    quantized: str | None = None


def parts_of(name: str, entry: Any, *, is_buffer: bool) -> Parts | None:
    """The tensors of an entry of a state dict; None if it is no tensor, or of a form that is not read."""
    if isinstance(entry, TensorStub | SparseStub | ShapeStub):
        return Parts([NamedTensor(name, entry, is_buffer)])
    if isinstance(entry, SubclassStub):
        return _subclass_parts(name, entry, is_buffer=is_buffer)
    if name.endswith(PACKED_NAMES):
        return _packed_parts(name, entry)
    if isinstance(entry, QuantizedStub):
        return Parts([NamedTensor(name, entry, is_buffer)], quantized=name.rpartition(".")[0])
    return None


def is_packed(entry: Any) -> bool:
    """Whether an entry holds parameters as torch packs them: in an object of C++, or in a tuple with a quantised tensor."""
    if isinstance(entry, Stub):
        return entry.class_path == SCRIPT_OBJECT
    return isinstance(entry, list | tuple) and any(isinstance(part, QuantizedStub) for part in entry[:8])


def is_hqq(value: Any) -> bool:
    """Whether a value is a dict of modules as HQQ saves it, one of which has codes and their shape."""
    return isinstance(value, PickledDict) and any(is_hqq_module(entry) for entry in value.by_text.values())


def hqq_size(entry: PickledDict) -> int:
    """How many entries of a module of HQQ are looked at."""
    members = entry.by_text
    inner = members.get("meta")
    nested = [inner.by_text if isinstance(inner, PickledDict) else {}, members]
    parts = [level[key] for level in nested for key in HQQ_NESTED if isinstance(level.get(key), PickledDict)]
    return len(entry) + len(nested[0]) + sum(map(len, parts))


def hqq_parts(module: str, entry: PickledDict) -> Parts:
    """The tensors of one module of HQQ: codes, scales and zero points, and others beside them."""
    members = entry.by_text
    inner = members.get("meta")
    if isinstance(inner, PickledDict):
        members = {**members, **inner.by_text}
    tensors = [NamedTensor(f"{module}.{key}", value) for key, value in members.items() if isinstance(value, TensorStub)]
    for key in HQQ_NESTED:
        if isinstance(nested := members.get(key), PickledDict):
            served = ((part, value) for part, value in nested.by_text.items() if isinstance(value, TensorStub))
            tensors += [NamedTensor(f"{module}.{key}.{part}", value, served=f"{module}.weight") for part, value in served]
    return Parts(tensors, {f"{module}.{HQQ_CODES}": _description(members, HQQ_VALUES)})


def flat_hqq(entries: Mapping[str, Any]) -> dict[str, Any]:
    """What the plain values of a state dict, `NAME.shape` beside `NAME.W_q`, say of the modules of HQQ in it."""
    descriptions = {}
    for name in entries:
        prefix, _, key = name.rpartition(".")
        if key == HQQ_CODES and isinstance(entries.get(f"{prefix}.shape"), list | tuple):
            descriptions[name] = _description({key: entries.get(f"{prefix}.{key}") for key in HQQ_VALUES}, HQQ_VALUES)
    return descriptions


def serving_parts(tensors: Iterable[NamedTensor], quantized: set[str]) -> list[NamedTensor]:
    """The tensors, among them those that say how the outputs of a quantised module are quantised as serving its weight."""
    outputs = {f"{module}.{key}": f"{module}.weight" for module in quantized for key in ("scale", "zero_point")}
    return [
        NamedTensor(named.name, named.tensor, named.is_buffer, outputs[named.name])
        if named.name in outputs and isinstance(named.tensor, TensorStub)
        else named
        for named in tensors
    ]


def is_hqq_module(entry: Any) -> bool:
    """Whether a value is a module of HQQ with quantised weights."""
    if not isinstance(entry, PickledDict):
        return False
    members = entry.by_text
    return isinstance(members.get(HQQ_CODES), TensorStub) and any(key in members for key in HQQ_SHAPES)


def _packed_parts(name: str, entry: Any) -> Parts | None:
    """The weight and bias that are packed for a quantised module; None for packed parameters of another kind of module."""
    ending = next(ending for ending in PACKED_NAMES if name.endswith(ending))
    module = name.removesuffix(ending).removesuffix(".")
    if isinstance(entry, Stub):
        state = entry.state
        entry = state[0] if isinstance(state, tuple) and len(state) == 2 else None
    tensors: list[Any]
    match entry:
        case QuantizedStub():
            tensors = [entry]
        case (QuantizedStub() | TensorStub(), TensorStub() | None):
            tensors = list(entry)
        case (int(), [QuantizedStub()], *_):
            tensors = entry[1]
        case _:
            return None
    names = [f"{module}.{part}".removeprefix(".") for part in ("weight", "bias")]
    found = [NamedTensor(part, tensor) for part, tensor in zip(names, tensors, strict=False) if tensor is not None]
    return Parts(found, quantized=module)


def _subclass_parts(name: str, entry: SubclassStub, *, is_buffer: bool) -> Parts:
    """The tensors in which a tensor of another class keeps its values, if they are read; else the tensor as its shape alone."""
    path, members, shape = entry.class_name.path, entry.members.by_text, entry.outside.shape
    local = members.get("_local_tensor")
    if path.startswith("torch.distributed.") and isinstance(local, TensorStub) and local.shape == shape:
        return Parts([NamedTensor(name, local, is_buffer)])
    module, _, part = name.rpartition(".")
    codes, scale = members.get("qdata"), members.get("scale")
    is_read = isinstance(codes, TensorStub) and codes.shape == shape and codes.dtype in TORCHAO_CODES
    if not (path.startswith("torchao.") and part == "weight" and is_read and isinstance(scale, TensorStub)):
        return Parts([NamedTensor(name, entry.outside, is_buffer)])
    prefix = f"{module}._weight_" if module else "_weight_"
    tensors = [
        NamedTensor(f"{prefix}{key}", value, served=None if key in TORCHAO_PARTS else name)
        for key, value in members.items()
        if isinstance(value, TensorStub)
    ]
    return Parts(tensors, {name: {"_type": entry.class_name.name, "_data": _description(members, ("block_size",))}})


def _description(members: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The plain values of some of the members: numbers, short texts, short lists of integers."""
    plain: dict[str, Any] = {}
    for key in keys:
        value = members.get(key)
        if isinstance(value, list | tuple) and len(value) <= MAX_DESCRIBED and all(type(item) is int for item in value):
            plain[key] = list(value)
        elif isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= MAX_DESCRIBED):
            plain[key] = value
    return plain


def has_tensor_inside(value: Any, seen: set[int]) -> bool:
    """Whether a tensor is anywhere in a value. Each container is looked at once, and those in `seen` not again."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, AnyTensor):
            return True
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, list | tuple):
            waiting += part
        elif isinstance(part, PickledDict):
            waiting += part.flat
        elif isinstance(part, Stub):
            waiting += [part.arguments, part.state, part.items, part.pairs]
    return False
