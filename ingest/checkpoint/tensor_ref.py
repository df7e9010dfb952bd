"""A tensor as a reference into a file: what it is and where its bytes lie. Holding one costs no weight bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.dtypes import byte_count

PLAIN, CODES, PACKED = "plain", "codes", "packed"
"""What the stored elements are: the values themselves; codes, each a value but for a scale, the code zero being zero; words
that hold parts of one or several values, of which nothing but the hash means anything."""


@dataclass(frozen=True)
class Layout:
    """How a stored tensor serves a weight that is kept quantised, packed or in several tensors.

    `weight_name` is the name that the weight would have if it were stored plainly, `part` what this tensor is of it, `scheme`
    the way of storing (gptq, ...), `stored_shape` the shape in the file. `is_aux`: scales, zero points, indices and masks,
    which are no parameters. `values` is PLAIN, CODES or PACKED; `bits` those of one value where packed; `type_name` the element
    type where the container has a name of its own for it.
    """

    weight_name: str
    part: str
    scheme: str
    stored_shape: tuple[int, ...]
    values: str = PACKED
    is_aux: bool = False
    bits: int | None = None
    type_name: str | None = None


MASKED, BITMASK = "masked", "bitmask"


@dataclass(frozen=True)
class Assembly:
    """The tensors that together are one of the given shape; `kind` says how (assemblies.ASSEMBLERS)."""

    kind: str
    sources: tuple[TensorRef, ...]
    shape: tuple[int, ...]


DENSE_BYTES = 1 << 26
"""A sparse tensor of at most so many logical bytes is made dense as a whole; a larger one by windows, its entries in order."""

MAX_ENTRY_ELEMENTS = 1 << 20
"""Elements that one entry of a sparse tensor (a block, or the dense dimensions behind the sparse ones) may have."""


@dataclass(slots=True)
class TensorRef:
    """One tensor of a checkpoint. Nothing changes one; it is not frozen, since that takes five times as long to make.

    `dtype` is safetensors' spelling. `offset` is the byte in `path` where the storage starts that holds it, `storage_bytes` its
    size; the tensor starts `storage_offset` elements into it and has these `strides` (elements; None: C order).
    Two tensors with the same path, offset, storage_offset, shape and strides are one (tied). With a `layout` the shape is that
    of the weight, and the file's own is in the layout. With an `assembly` the bytes are those that its parts stand for, and
    strides and storage_offset are of these. A `sparse` one stands for the dense tensor of this shape: `storage_bytes` are those
    of its indices and values, `offset` is where the values' storage starts. `logical_bytes` are those of its elements in C
    order, as they are stored or as assembled. `place` is the identity of the bytes: equal places are one tensor of two names.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    storage_bytes: int
    storage_offset: int = 0
    strides: tuple[int, ...] | None = None
    is_buffer: bool = False
    layout: Layout | None = None
    assembly: Assembly | None = None
    sparse: SparseParts | None = None
    elements: int = field(init=False, repr=False, compare=False)
    logical_bytes: int = field(init=False, repr=False, compare=False)
    place: tuple[Any, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        place = (str(self.path), self.offset, self.storage_offset, self.shape, self.strides)
        self.elements = elements = math.prod(self.shape)
        if self.layout is not None and self.assembly is None:
            elements = math.prod(self.layout.stored_shape)
        self.logical_bytes = byte_count(self.dtype, elements)
        self.place = place if self.sparse is None else (*place, *self.sparse.place)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape in the file."""
        return self.shape if self.layout is None else self.layout.stored_shape

    @property
    def as_stored(self) -> TensorRef:
        """The tensor to be read, without regard to what it serves: as the file has it, or as its parts stand for it."""
        if self.layout is None:
            return self
        return replace(self, shape=self.shape if self.assembly else self.layout.stored_shape, layout=None)


@dataclass(frozen=True)
class SparseParts:
    """What a sparse tensor of `shape` stores. `layout` is coo, csr, csc, bsr or bsc.

    coo: `indices` (sparse dimensions, entries), `values` (entries, dense dimensions). The others: compressed indices
    (rows + 1), plain indices (entries), values (entries), or (entries, height, width) in blocks. Entries at one place add up.
    """

    layout: str
    indices: tuple[TensorRef, ...]
    values: TensorRef
    shape: tuple[int, ...]

    @property
    def entry_elements(self) -> int:
        return math.prod(self.values.shape[1:])

    @property
    def place(self) -> tuple[Any, ...]:
        return (self.layout, *(part.place for part in (*self.indices, self.values)))


@dataclass(frozen=True)
class Contents:
    """What one weight file holds. `container` names how; `metadata` is what the file declares of itself.

    `class_path` is that of a whole pickled model; `config` the plain values of a config object inside it; `skipped` lists
    what was not taken, such as globals that stayed inert stubs.
    """

    container: str
    tensors: tuple[TensorRef, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    class_path: str | None = None
    config: dict[str, Any] | None = None
    skipped: tuple[str, ...] = ()
