"""The values that a pickle becomes: plain data, tensors as claims about a storage, and inert stubs for everything else.

Nothing that a pickle names is imported, looked up or called. A call of a name on an allow-list (pickle.rebuild) gives a tensor
or a container of this module, a call of anything else a Stub that holds the name and the arguments.

Values may be shared and contain themselves, as the pickle says: walk them with a stack, by identity, never recursively.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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


@dataclass(frozen=True, eq=False, slots=True)
class ShapeStub:
    """A tensor of known type and shape whose values are not in the file, or not in a form that is read; `form` says which."""

    dtype: str | None
    dtype_name: str
    shape: tuple[int, ...]
    form: str


@dataclass(frozen=True, eq=False, slots=True)
class QuantizedStub:
    """A quantised tensor of torch as the pickle claims it: value = (code - zero_point) * scale.

    `codes` has the type of the stored integers; `bits` is the width of one code, and codes of 4 and 2 bits share bytes. For
    `per_tensor_affine`, scale and zero point are numbers; for `per_channel_affine`, tensors with one for every index of `axis`.
    They are None in any other form.
    """

    codes: TensorStub
    scheme: str
    bits: int
    scale: float | TensorStub | None = None
    zero_point: int | TensorStub | None = None
    axis: int | None = None


@dataclass(frozen=True, eq=False, slots=True)
class SubclassStub:
    """A tensor of a class of its own, which keeps its values in other tensors: the `members`, with whatever else describes it.

    `outside` is what the class shows to the rest of torch.
    """

    class_name: Global
    outside: ShapeStub
    members: PickledDict


AnyTensor = TensorStub | SparseStub | ShapeStub | QuantizedStub | SubclassStub
