"""What the calls in a pickle give: an allow-list of functions and classes, each with what it would make, without calling it.

The list has what torch writes (torch/_utils.py, torch/_tensor.py, torch/serialization.py) and the containers of the standard
library. A call of any other name, or with arguments that do not fit, stays a Stub.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from layerhouse.ingest.checkpoint.dtypes import QUANTIZED_STORAGES, TORCH_DTYPES, TORCH_STORAGES
from layerhouse.ingest.checkpoint.pickle.values import (
    AnyTensor,
    Global,
    PickledDict,
    PickledSet,
    QuantizedStub,
    ShapeStub,
    SparseStub,
    StorageStub,
    Stub,
    SubclassStub,
    TensorStub,
)

UNKNOWN: Any = object()
"""The result of a rebuild function for arguments that it does not accept; the call then becomes a Stub."""

MAX_VIEW_DIMENSIONS = 128
"""A tensor of more dimensions stays a Stub; one of over 64 is refused later, when its name is known."""

META = "on torch's meta device"
WRAPPER_SUBCLASS = "torch._utils._rebuild_wrapper_subclass"
QUANTIZED_NAMES = (
    *("qint8", "quint8", "qint32", "quint4x2", "quint2x4"),
    *(f"per_{what}_{how}" for what in ("tensor", "channel") for how in ("affine", "symmetric", "affine_float_qparams")),
)
"""Types and schemes of quantised tensors."""
FLOATS = ("F64", "F32", "F16", "BF16", "C64", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")

STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
REBUILD_FROM_TYPE = (
    "torch._tensor._rebuild_from_type_v2",
    "torch._tensor._rebuild_from_type",
    "torch.tensor._rebuild_from_type_v2",
    "torch.tensor._rebuild_from_type",
)


def make_storage(persistent_id: Any) -> Any:
    """The storage of a persistent id of torch: ("storage", class, key, location, elements), in old files followed by a view."""
    if not isinstance(persistent_id, tuple) or len(persistent_id) not in (5, 6) or persistent_id[0] != "storage":
        return UNKNOWN
    _, storage_class, key, _, elements = persistent_id[:5]
    if not isinstance(storage_class, Global) or not isinstance(key, str) or type(elements) is not int:
        return UNKNOWN
    view = persistent_id[5] if len(persistent_id) == 6 else None
    if view is not None:
        if not isinstance(view, tuple) or len(view) != 3 or set(map(type, view[1:])) != {int}:
            return UNKNOWN
        view = (view[1], view[2])
    dtype = TORCH_STORAGES.get(storage_class.name) if storage_class.module in STORAGE_MODULES else None
    return StorageStub(key, storage_class.path, dtype, elements, view)


def is_module_class(persistent_id: Any) -> bool:
    """Whether this persistent id names the class of a module, as older torch files do: ("module", class, file, source)."""
    return (
        isinstance(persistent_id, tuple)
        and len(persistent_id) == 4
        and persistent_id[0] == "module"
        and isinstance(persistent_id[1], Global | Stub)
    )


def rebuild(target: Any, arguments: Any) -> Any:
    """The result of a call of a name on the allow-list; UNKNOWN for any other name, or for arguments that do not fit."""
    if not isinstance(target, Global) or not isinstance(arguments, tuple):
        return UNKNOWN
    if target.path in REBUILD_FROM_TYPE:
        inner = arguments[0] if arguments else None
        position = 2 if len(arguments) > 2 else len(arguments)
        if isinstance(inner, Global) and inner.path == WRAPPER_SUBCLASS:
            return _subclass(arguments)
        if not isinstance(inner, Global) or inner.path not in TENSORS or position >= len(arguments):
            return UNKNOWN
        made = TENSORS[inner.path](arguments[position]) if isinstance(arguments[position], tuple) else UNKNOWN
        return _of_class(made, arguments[1], arguments[3]) if len(arguments) == 4 else made
    function = TENSORS.get(target.path) or CONTAINERS.get(target.path)
    return UNKNOWN if function is None or not isinstance(arguments, tuple) else function(arguments)


def is_allowed(name: Global) -> bool:
    """Whether a name is on the allow-list of plain data, so that there is nothing to report about it."""
    if name.module in STORAGE_MODULES and name.name in TORCH_STORAGES:
        return True
    if name.module == "torch" and name.name in (*TORCH_DTYPES, *QUANTIZED_STORAGES, *QUANTIZED_NAMES):
        return True
    return name.path in TENSORS or name.path in CONTAINERS or name.path in OPAQUE or name.path in REBUILD_FROM_TYPE


def _tensor(view: tuple[Any, ...], dtype_name: str | None = None) -> Any:
    """From (storage, offset, shape, strides, requires_grad). Values are checked later, when the tensor's name is known."""
    storage, offset, shape, strides, requires_grad = view
    if not isinstance(storage, StorageStub) or type(offset) is not int:
        return UNKNOWN
    if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) + len(strides) > 2 * MAX_VIEW_DIMENSIONS:
        return UNKNOWN
    if set(map(type, shape + strides)) - {int}:
        return UNKNOWN
    if storage.view is not None:
        offset += storage.view[0]
    dtype = storage.dtype if dtype_name is None else TORCH_DTYPES.get(dtype_name)
    full_dtype_name = storage.class_path if dtype_name is None else f"torch.{dtype_name}"
    return TensorStub(storage, dtype, full_dtype_name, offset, shape, strides, requires_grad is True)


def _rebuild_tensor(arguments: tuple[Any, ...]) -> Any:
    return _tensor((*arguments, False)) if len(arguments) == 4 else UNKNOWN


def _rebuild_tensor_v2(arguments: tuple[Any, ...]) -> Any:
    return _tensor(arguments[:5]) if len(arguments) in (6, 7) else UNKNOWN


def _rebuild_tensor_v3(arguments: tuple[Any, ...]) -> Any:
    if len(arguments) not in (7, 8) or not isinstance(arguments[6], Global) or arguments[6].module != "torch":
        return UNKNOWN
    return _tensor(arguments[:5], arguments[6].name)


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Any:
    """From (tensor, requires_grad, hooks[, attributes])."""
    if len(arguments) not in (3, 4) or not isinstance(arguments[0], AnyTensor | Stub):
        return UNKNOWN
    return _with_attributes(arguments[0], arguments[3]) if len(arguments) == 4 else arguments[0]


def _of_class(made: Any, name: Any, attributes: Any) -> Any:
    """A tensor of a class of its own over a storage.

    Integers of such a class are codes whose meaning is not known; those of int8 are one for each element.
    """
    made = _with_attributes(made, attributes)
    is_plain = isinstance(name, Global) and name.module.partition(".")[0] == "torch"
    is_packed = isinstance(made, TensorStub) and made.dtype not in (*FLOATS, "I8", "BOOL")
    return UNKNOWN if is_packed and not is_plain else made


def _with_attributes(tensor: Any, attributes: Any) -> Any:
    """A tensor with Python attributes. A `quant_state` of bitsandbytes has the shape of the weight that the bytes stand for."""
    if isinstance(attributes, tuple) and attributes:
        attributes = attributes[0]
    packing = attributes.by_text.get("quant_state") if isinstance(attributes, PickledDict) else None
    if packing is None:
        return tensor
    described = packing.state.by_text if isinstance(packing, Stub) and isinstance(packing.state, PickledDict) else {}
    return _shape(described.get("dtype"), described.get("shape"), "packed by bitsandbytes")


def _layout(arguments: tuple[Any, ...]) -> Any:
    """torch.serialization._get_layout("torch.sparse_coo"): the layout's name without its prefix."""
    name = arguments[0] if len(arguments) == 1 else None
    return name.removeprefix("torch.sparse_") if isinstance(name, str) and name in SPARSE_LAYOUTS else UNKNOWN


def _rebuild_sparse(arguments: tuple[Any, ...]) -> Any:
    """From (layout, (indices, values, size[, is coalesced])), or (layout, (compressed, plain indices, values, size))."""
    if len(arguments) != 2 or not isinstance(arguments[0], str) or not isinstance(arguments[1], tuple):
        return UNKNOWN
    layout, data = arguments
    count = 1 if layout == "coo" else 2
    if f"torch.sparse_{layout}" not in SPARSE_LAYOUTS or len(data) not in ((3, 4) if count == 1 else (4,)):
        return UNKNOWN
    *parts, shape = data[: count + 2]
    if not _is_shape(shape):
        return UNKNOWN
    if not all(isinstance(part, TensorStub) for part in parts):
        return UNKNOWN
    is_ordered = data[3] is True if count == 1 and len(data) == 4 else layout in ("csr", "bsr")
    return SparseStub(layout, tuple(parts[:-1]), parts[-1], shape, is_ordered)


def _rebuild_meta(arguments: tuple[Any, ...]) -> Any:
    """From (dtype, shape, strides, requires_grad): a tensor on the device `meta`, which has no values."""
    return _shape(arguments[0], arguments[1], META) if len(arguments) == 4 else UNKNOWN


def _rebuild_on_device(arguments: tuple[Any, ...]) -> Any:
    """From (tensor or array, dtype, device, requires_grad). A tensor of that dtype is what it becomes on the device."""
    if len(arguments) != 4 or not isinstance(arguments[1], Global):
        return UNKNOWN
    data, dtype = arguments[:2]
    if isinstance(data, TensorStub):
        is_same = dtype.module == "torch" and data.dtype == TORCH_DTYPES.get(dtype.name)
        return data if is_same else _shape(dtype, data.shape, "converted when loaded")
    state = data.state if isinstance(data, Stub) and data.class_path.endswith("._reconstruct") else None
    shape = state[1] if isinstance(state, tuple) and len(state) == 5 else None
    return _shape(dtype, shape, "kept in an array of NumPy")


def _shape(dtype: Any, shape: Any, form: str) -> Any:
    """A tensor of which only type and shape are known; UNKNOWN if these are none."""
    if not isinstance(dtype, Global) or dtype.module != "torch" or not _is_shape(shape):
        return UNKNOWN
    return ShapeStub(TORCH_DTYPES.get(dtype.name), dtype.path, shape, form)


def _subclass(arguments: tuple[Any, ...]) -> Any:
    """From (_rebuild_wrapper_subclass, class, (class, dtype, shape, ...), members[, and slots])."""
    if len(arguments) != 4 or not isinstance(arguments[1], Global):
        return UNKNOWN
    _, name, claims, members = arguments
    if isinstance(members, tuple) and members:
        members = members[0]
    if not isinstance(claims, tuple) or len(claims) < 3 or not isinstance(members, PickledDict):
        return UNKNOWN
    is_distributed = name.module.startswith("torch.distributed")
    outside = _shape(claims[1], claims[2], "parts of a tensor of several devices" if is_distributed else name.path)
    return outside if outside is UNKNOWN else SubclassStub(name, outside, members)


def _rebuild_quantized(arguments: tuple[Any, ...]) -> Any:
    """From (storage, offset, shape, strides, quantizer, requires_grad, hooks)."""
    if len(arguments) != 7 or not isinstance(arguments[0], StorageStub):
        return UNKNOWN
    storage, quantizer = arguments[0], arguments[4]
    module, _, name = storage.class_path.rpartition(".")
    if module not in STORAGE_MODULES or name not in QUANTIZED_STORAGES or not isinstance(quantizer, tuple) or not quantizer:
        return UNKNOWN
    dtype, bits = QUANTIZED_STORAGES[name]
    codes = _tensor((replace(storage, dtype=dtype), *arguments[1:4], False))
    if codes is UNKNOWN or not isinstance(quantizer[0], Global):
        return UNKNOWN
    scheme = quantizer[0].name
    types = [type(value) for value in quantizer[1:]]
    if scheme == "per_tensor_affine" and types == [float, int]:
        return QuantizedStub(codes, scheme, bits, quantizer[1], quantizer[2])
    if scheme == "per_channel_affine" and types == [TensorStub, TensorStub, int]:
        return QuantizedStub(codes, scheme, bits, *quantizer[1:])
    return QuantizedStub(codes, scheme, bits)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and len(shape) <= MAX_VIEW_DIMENSIONS and not set(map(type, shape)) - {int}


def _ordered_dict(arguments: tuple[Any, ...]) -> Any:
    """Without arguments, or with a list of pairs as in pickles of Python 2."""
    if not arguments:
        return PickledDict()
    pairs = arguments[0]
    if len(arguments) > 1 or not isinstance(pairs, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        return UNKNOWN
    return PickledDict([part for pair in pairs for part in pair])


def _default_dict(arguments: tuple[Any, ...]) -> Any:
    return PickledDict() if len(arguments) <= 1 else UNKNOWN


def _set(arguments: tuple[Any, ...]) -> Any:
    if not arguments:
        return PickledSet([])
    return PickledSet(arguments[0]) if len(arguments) == 1 and isinstance(arguments[0], list | tuple) else UNKNOWN


def _size(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else UNKNOWN


Rebuild = Callable[[tuple[Any, ...]], Any]
"""What a function of the allow-list gives for its arguments, or UNKNOWN."""

SPARSE_LAYOUTS = tuple(f"torch.sparse_{layout}" for layout in ("coo", "csr", "csc", "bsr", "bsc"))
TENSORS: dict[str, Rebuild] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_sparse_tensor": _rebuild_sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _rebuild_sparse,
    "torch._utils._rebuild_qtensor": _rebuild_quantized,
    "torch._utils._rebuild_meta_tensor_no_storage": _rebuild_meta,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _rebuild_on_device,
    "torch._utils._rebuild_device_tensor_from_numpy": _rebuild_on_device,
    "torch._utils._rebuild_xla_tensor": _rebuild_on_device,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
CONTAINERS: dict[str, Rebuild] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "__builtin__.set": _set,
    "__builtin__.frozenset": _set,
    "torch.Size": _size,
    "torch.serialization._get_layout": _layout,
}
OPAQUE = {
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "torch.device",
    WRAPPER_SUBCLASS,
    "_codecs.encode",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    *(f"builtins.{name}" for name in ("object", "bytearray", "complex", "bytes", "slice")),
    *(f"__builtin__.{name}" for name in ("object", "bytearray", "complex", "bytes", "slice")),
    *(f"{module}.multiarray.scalar" for module in ("numpy.core", "numpy._core")),
    *(f"{module}.multiarray._reconstruct" for module in ("numpy.core", "numpy._core")),
    "numpy.dtype",
    "numpy.ndarray",
}
"""Plain data that is not read: it becomes a Stub, and is not reported as skipped."""
