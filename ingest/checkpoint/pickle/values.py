"""What a pickle turns into here: plain data, tensors as claims about a storage, and inert stubs for everything else.

Nothing of a pickle is imported, looked up or called. The names that are understood are the ones that torch writes
(torch/_utils.py, torch/_tensor.py, torch/serialization.py) and the containers of the standard library; a call of one of
them makes one of the values below, a call of any other name a Stub that keeps what it was given.

These values share and contain each other as the pickle says, cycles included: walk them with a stack and by identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from layerhouse.ingest.checkpoint.dtypes import TORCH_DTYPES, TORCH_STORAGES


@dataclass(frozen=True, eq=False, slots=True)
class Global:
    """A name that the pickle asks for: text, never an object. One a name and pickle, so that identity is equality."""

    module: str
    name: str
    path: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", f"{self.module}.{self.name}")


@dataclass(eq=False, repr=False, slots=True)
class Stub:
    """An object or a call that stayed inert. `target` is the class or function, mostly a Global; `is_call` tells a call, which
    would have run a function, from the making of an object. `state` is what BUILD gave, `items` and `pairs` what was put in."""

    target: Any
    arguments: Any
    is_call: bool
    keywords: Any = None
    state: Any = None
    items: list[Any] | None = None
    pairs: list[Any] | None = None

    def add_items(self, values: list[Any]) -> None:
        self.items = values if self.items is None else self.items
        if self.items is not values:
            self.items.extend(values)

    def add_pairs(self, flat: list[Any]) -> None:
        self.pairs = flat if self.pairs is None else self.pairs
        if self.pairs is not flat:
            self.pairs.extend(flat)

    @property
    def class_path(self) -> str:
        """The class or function by its full name; of one that the pickle computes, the function that would have made it."""
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
"""What dill calls with (metaclass, name, bases, namespace) for a class that is in no module."""


def _dill_class(target: Any) -> str:
    """The name of a class that dill wrote down whole, where its arguments say it."""
    arguments = target.arguments if isinstance(target, Stub) else ()
    if not isinstance(arguments, tuple) or len(arguments) != 4 or not isinstance(arguments[1], str):
        return f"result of {DILL_CLASSES[0]}"
    module = arguments[3].by_text.get("__module__") if isinstance(arguments[3], PickledDict) else None
    return f"{module if isinstance(module, str) else '__main__'}.{arguments[1]}"


@dataclass(eq=False, repr=False, slots=True)
class PickledDict:
    """A dict in its order, keys and values in turn in `flat`. Its keys are not hashed while the pickle runs: the hash of a
    tuple of tuples of shared tuples takes time exponential in its depth."""

    flat: list[Any] = field(default_factory=list)
    state: Any = None
    _by_text: dict[str, Any] | None = None

    @property
    def by_text(self) -> dict[str, Any]:
        """The entries whose key is text; of two with one key the last. To be asked for when the pickle has been read."""
        if self._by_text is None:
            pairs = zip(self.flat[::2], self.flat[1::2], strict=True)
            self._by_text = {key: value for key, value in pairs if isinstance(key, str)}
        return self._by_text

    @property
    def other_keys(self) -> int:
        """How many keys are no text."""
        return sum(not isinstance(key, str) for key in self.flat[::2])

    def __len__(self) -> int:
        return len(self.flat) // 2


@dataclass(eq=False, repr=False, slots=True)
class PickledSet:
    """A set or frozenset as the list of what was put in, not hashed, for the same reason."""

    items: list[Any] | tuple[Any, ...]


@dataclass(frozen=True, eq=False, slots=True)
class StorageStub:
    """A block of bytes of the file: member `key`, `elements` of the storage class's type, as the pickle claims. `view` is the
    part of it that is meant, first element and count, as torch before 0.4 told of storages that share memory."""

    key: str
    class_path: str
    dtype: str | None
    elements: int
    view: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class TensorStub:
    """A view of a storage as the pickle claims it; shape and strides are in elements. `dtype` is None if `dtype_name` is not
    one of the dtype table."""

    storage: StorageStub
    dtype: str | None
    dtype_name: str
    storage_offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool


@dataclass(frozen=True, eq=False, slots=True)
class SparseStub:
    """A tensor that stores its non-zero entries alone, as the pickle claims it. `layout` is coo, csr, csc, bsr or bsc;
    `indices` one tensor (coo) or two (compressed and plain indices). `is_ordered`: the pickle says that no entry is repeated
    and that they lie in C order."""

    layout: str
    indices: tuple[TensorStub, ...]
    values: TensorStub
    shape: tuple[int, ...]
    is_ordered: bool


UNKNOWN: Any = object()
"""What a rebuild gives that does not know its arguments: the call then stays a Stub."""

MAX_VIEW_DIMENSIONS = 128
"""A claim of more dimensions is not looked at; any over 64 is refused where the tensor's name is known."""

STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
REBUILD_FROM_TYPE = (
    "torch._tensor._rebuild_from_type_v2",
    "torch._tensor._rebuild_from_type",
    "torch.tensor._rebuild_from_type_v2",
    "torch.tensor._rebuild_from_type",
)


def make_storage(persistent_id: Any) -> Any:
    """torch's persistent id ("storage", class, key, location, elements), in old files with a view behind it."""
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
    """Whether this is ("module", class, source file, source), as torch's older files name the class of a module."""
    return (
        isinstance(persistent_id, tuple)
        and len(persistent_id) == 4
        and persistent_id[0] == "module"
        and isinstance(persistent_id[1], Global | Stub)
    )


def rebuild(target: Any, arguments: Any) -> Any:
    """What a call of one of the understood names makes; UNKNOWN for another name, or for arguments that do not fit it."""
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


def is_understood(name: Global) -> bool:
    """Whether the name is one of plain data, so that there is nothing to report about it."""
    if name.module in STORAGE_MODULES and name.name in TORCH_STORAGES:
        return True
    if name.module == "torch" and name.name in TORCH_DTYPES:
        return True
    return name.path in TENSORS or name.path in CONTAINERS or name.path in OPAQUE or name.path in REBUILD_FROM_TYPE


def _tensor(view: tuple[Any, ...], dtype_name: str | None = None) -> Any:
    """From (storage, offset, shape, strides, requires_grad); values are checked where the tensor's name is known."""
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
    display_path = storage.class_path if dtype_name is None else f"torch.{dtype_name}"
    return TensorStub(storage, dtype, display_path, offset, shape, strides, requires_grad is True)


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
    """torch.serialization._get_layout("torch.sparse_coo") and the like: the layout's name."""
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
    """Empty, or of pairs as Python 2 pickles them."""
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
# Data that nothing here looks into: it stays a Stub without a remark.
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
