"""The values that a pickle becomes: plain data, tensors as claims about a storage, and inert stubs for everything else.

Nothing that a pickle names is imported, looked up or called. An allow-list has the functions and classes that torch writes
(torch/_utils.py, torch/_tensor.py, torch/serialization.py) and the containers of the standard library: a call of one of these
gives a value of this module. A call of anything else gives a Stub that holds the name and the arguments.

Values may be shared and contain themselves, as the pickle says: walk them with a stack, by identity, never recursively.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from layerhouse.ingest.checkpoint.dtypes import TORCH_DTYPES, TORCH_STORAGES


@dataclass(frozen=True, eq=False, slots=True)
class Global:
    """A class or function by its name, never the object. One exists for each name in a pickle; compare by identity."""

    module: str
    name: str
    path: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", f"{self.module}.{self.name}")


@dataclass(eq=False, repr=False, slots=True)
class Stub:
    """An object that was not created, or a call that was not made.

    `target` is the class or function, in most cases a Global. `is_call` tells a call of a function from the creation of an
    object. `state` is the operand of BUILD; `items` and `pairs` are what was appended or set (keys and values in turn).
    """

    target: Any
    arguments: Any
    is_call: bool
    keywords: Any = None
    state: Any = None
    items: list[Any] | None = None
    pairs: list[Any] | None = None

    def add_items(self, values: list[Any]) -> None:
        """Append values; the first list is kept itself, without a copy."""
        self.items = values if self.items is None else self.items
        if self.items is not values:
            self.items.extend(values)

    def add_pairs(self, flat: list[Any]) -> None:
        """Add keys and values in turn; the first list is kept itself, without a copy."""
        self.pairs = flat if self.pairs is None else self.pairs
        if self.pairs is not flat:
            self.pairs.extend(flat)

    @property
    def class_path(self) -> str:
        """The full name of the class or function; for a computed target, the function that would have computed it."""
        if isinstance(self.target, Global):
            return self.target.path
        inner = self.target
        for _ in range(8):
            if not isinstance(inner, Stub):
                break
            inner = inner.target
        if not isinstance(inner, Global):
            return "computed class"
        return _dill_class(self.target) if inner.path in DILL_CLASSES else f"result of {inner.path}"


DILL_CLASSES = ("dill._dill._create_type", "dill.dill._create_type")
"""dill's call for a class that it pickles by value: (metaclass, name, bases, namespace)."""


def _dill_class(target: Any) -> str:
    """The full name of a class that dill pickled by value, from the arguments of its call."""
    arguments = target.arguments if isinstance(target, Stub) else ()
    if not isinstance(arguments, tuple) or len(arguments) != 4 or not isinstance(arguments[1], str):
        return f"result of {DILL_CLASSES[0]}"
    module = arguments[3].by_text.get("__module__") if isinstance(arguments[3], PickledDict) else None
    return f"{module if isinstance(module, str) else '__main__'}.{arguments[1]}"


@dataclass(eq=False, repr=False, slots=True)
class PickledDict:
    """A dict: its keys and values in turn, in order, as `flat`.

    Keys are not hashed, since hashing a tuple of shared tuples takes time exponential in the depth.
    """

    flat: list[Any] = field(default_factory=list)
    state: Any = None
    _by_text: dict[str, Any] | None = None

    @property
    def by_text(self) -> dict[str, Any]:
        """The entries whose key is a string; the last one of a duplicate key wins. Only valid after the pickle was read."""
        if self._by_text is None:
            pairs = zip(self.flat[::2], self.flat[1::2], strict=True)
            self._by_text = {key: value for key, value in pairs if isinstance(key, str)}
        return self._by_text

    @property
    def other_keys(self) -> int:
        """How many keys are not strings."""
        return sum(not isinstance(key, str) for key in self.flat[::2])

    def __len__(self) -> int:
        return len(self.flat) // 2


@dataclass(eq=False, repr=False, slots=True)
class PickledSet:
    """A set or frozenset as the list of its members, not hashed for the same reason as keys of a PickledDict."""

    items: list[Any] | tuple[Any, ...]


@dataclass(frozen=True, eq=False, slots=True)
class StorageStub:
    """A storage as the pickle claims it: a block of bytes with a `key`, of so many `elements` of the storage class's dtype.

    `view` is a part of it, first element and count, by which torch before 0.4 described storages that share memory.
    """

    key: str
    class_path: str
    dtype: str | None
    elements: int
    view: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class TensorStub:
    """A strided tensor over a storage, as the pickle claims it; offset and strides are in elements.

    `dtype` is None if the table of dtypes does not have `dtype_name`.
    """

    storage: StorageStub
    dtype: str | None
    dtype_name: str
    storage_offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool


@dataclass(frozen=True, eq=False, slots=True)
class SparseStub:
    """A sparse tensor as the pickle claims it.

    `layout` is coo, csr, csc, bsr or bsc; `indices` is one tensor (coo) or two (compressed and plain indices). `is_ordered` is
    the claim that entries are in C order without duplicates.
    """

    layout: str
    indices: tuple[TensorStub, ...]
    values: TensorStub
    shape: tuple[int, ...]
    is_ordered: bool


UNKNOWN: Any = object()
"""The result of a rebuild function for arguments that it does not accept; the call then becomes a Stub."""

MAX_VIEW_DIMENSIONS = 128
"""A tensor of more dimensions stays a Stub; one of over 64 is refused later, when its name is known."""

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
        if not isinstance(inner, Global) or inner.path not in TENSORS or position >= len(arguments):
            return UNKNOWN
        target, arguments = inner, arguments[position]
    function = TENSORS.get(target.path) or CONTAINERS.get(target.path)
    return UNKNOWN if function is None or not isinstance(arguments, tuple) else function(arguments)


def is_allowed(name: Global) -> bool:
    """Whether a name is on the allow-list of plain data, so that there is nothing to report about it."""
    if name.module in STORAGE_MODULES and name.name in TORCH_STORAGES:
        return True
    if name.module == "torch" and name.name in TORCH_DTYPES:
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
    is_tensor = len(arguments) in (3, 4) and isinstance(arguments[0], TensorStub | SparseStub | Stub)
    return arguments[0] if is_tensor else UNKNOWN


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
    if not isinstance(shape, tuple) or len(shape) > MAX_VIEW_DIMENSIONS or set(map(type, shape)) - {int}:
        return UNKNOWN
    if not all(isinstance(part, TensorStub) for part in parts):
        return UNKNOWN
    is_ordered = data[3] is True if count == 1 and len(data) == 4 else layout in ("csr", "bsr")
    return SparseStub(layout, tuple(parts[:-1]), parts[-1], shape, is_ordered)


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
