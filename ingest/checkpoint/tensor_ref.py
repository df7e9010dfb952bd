"""References to tensors: what each is and where in which file its bytes lie. Holding one takes no memory for weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.dtypes import byte_count

PLAIN, CODES, PACKED, NO_VALUES = "plain", "codes", "packed", "no_values"
"""What the stored elements are: the values themselves; codes, each a value up to a scale, where code zero is the value zero;
words with several values packed into them, of which only the hash can be compared; or bytes that are not read at all, which
have neither a hash nor zeros, such as those of a tensor on torch's `meta` device."""


@dataclass(frozen=True)
class Layout:
    """What a stored tensor is to a weight that is quantised, packed or split over several tensors.

    `weight_name` is the name of the weight if it were stored plainly, `part` the role of this tensor in it (`qweight`,
    `scales`, ...), `scheme` the storage scheme (`gptq`, ...), `stored_shape` the shape in the file. `values` is PLAIN, CODES,
    PACKED or NO_VALUES; `bits` the width of one packed value; `type_name` the container's own name of the element type, if it
    has one. `is_aux` marks scales, zero points, indices and masks, which are not parameters. `unpacked` says how packed values
    are read as codes, one an element; their `values` are CODES. `decoded` says how the weight's values are made, as F32, of
    codes or packed values; None where that is not known. `unread_reason` is set for words whose weight has a shape that is not
    known: the tensor's shape is then the stored one, and the weight's number of parameters is not known.
    """

    weight_name: str
    part: str
    scheme: str
    stored_shape: tuple[int, ...]
    values: str = PACKED
    is_aux: bool = False
    bits: int | None = None
    type_name: str | None = None
    unpacked: Assembly | None = None
    decoded: Assembly | None = None
    unread_reason: str | None = None

    @property
    def has_shape(self) -> bool:
        """Whether the shape of the weight is known."""
        return self.unread_reason is None


MASKED, BITMASK, JOINED, CHUNKS = "masked", "bitmask", "joined", "chunks"


@dataclass(frozen=True)
class Assembly:
    """Several tensors that are read as one of the given shape; `kind` says how they combine.

    It is MASKED, BITMASK, JOINED, CHUNKS or the name of a function of measure.io.unpacked or measure.io.decoded, which may need
    `parameters`; what that makes has this `dtype`. The sources of CHUNKS are a grid of blocks, and its parameter `origins` has
    the first index of each.
    """

    kind: str
    sources: tuple[TensorRef, ...]
    shape: tuple[int, ...]
    dtype: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


DENSE_BYTES = 1 << 26
"""A sparse tensor of at most so many logical bytes is made dense as a whole, a larger one window by window, which takes entries
in C order."""

MAX_ENTRY_ELEMENTS = 1 << 20
"""Limit on the elements of one entry of a sparse tensor: of a block, or of the dense dimensions behind the sparse ones."""


@dataclass(slots=True)
class TensorRef:
    """One tensor of a checkpoint. Treated as immutable, but not frozen: creating a frozen dataclass takes five times as long.

    `dtype` is a code of the table of dtypes, `shape` the tensor's shape; that of a tensor with a `layout` is the weight's.
    `offset` is the byte of `path` at which the tensor's storage begins, `storage_bytes` the size of the storage. The tensor
    begins `storage_offset` elements into it and has these `strides`, in elements (None: C order). `is_buffer` marks a buffer of
    a pickled module. `layout` says what the tensor is to a weight that is not stored plainly.

    With an `assembly` the bytes are the ones assembled from other tensors, and `strides` and `storage_offset` refer to them.
    With `sparse` parts the tensor stands for a dense one of this shape; `storage_bytes` are those of its indices and values,
    and `offset` is that of the values.

    `elements` is the number of elements of `shape`, `logical_bytes` the size of the tensor in C order, as it is stored or
    assembled. `place` identifies the bytes: two names with one place are one (tied) tensor.
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
        """The shape in the file."""
        return self.shape if self.layout is None else self.layout.stored_shape

    @property
    def as_stored(self) -> TensorRef:
        """The tensor to be read, without its layout: as the file stores it, or as it is assembled or unpacked."""
        if self.layout is None:
            return self
        if self.layout.unpacked is not None:
            return self._assembled(self.layout.unpacked)
        return replace(self, shape=self.shape if self.assembly else self.layout.stored_shape, layout=None)

    @property
    def as_values(self) -> TensorRef | None:
        """The tensor to be read as the weight's values; None if how they are made is not known."""
        if self.layout is None or self.layout.values == PLAIN:
            return self.as_stored
        return None if self.layout.decoded is None else self._assembled(self.layout.decoded)

    def _assembled(self, assembly: Assembly) -> TensorRef:
        ref = replace(self, dtype=assembly.dtype, shape=assembly.shape, layout=None, assembly=assembly)
        return replace(ref, strides=None, storage_offset=0)


@dataclass(frozen=True)
class SparseParts:
    """The tensors that store a sparse tensor of `shape`. `layout` is coo, csr, csc, bsr or bsc.

    coo: `indices` (sparse dimensions, entries), `values` (entries, dense dimensions). The others: compressed indices
    (rows + 1), plain indices (entries), and values (entries), or (entries, height, width) where entries are blocks. The values
    of entries with equal indices add up.
    """

    layout: str
    indices: tuple[TensorRef, ...]
    values: TensorRef
    shape: tuple[int, ...]

    @property
    def entry_elements(self) -> int:
        """Elements of one entry: of a block, or of the dense dimensions."""
        return math.prod(self.values.shape[1:])

    @property
    def place(self) -> tuple[Any, ...]:
        """What identifies the bytes of indices and values."""
        return (self.layout, *(part.place for part in (*self.indices, self.values)))


@dataclass(frozen=True)
class Contents:
    """What one weight file holds. `container` names its format, `metadata` is the file's own, as declared.

    Of a whole pickled model, `class_path` is the class, and `config` the plain values of the config object inside it.
    `skipped` says, in one line each, what was not read, such as objects of classes that were not executed. `descriptions` say
    of some tensors, by their names, how they hold the values of a weight. `entry_names` are the names of the file for tensors
    that are kept inside of other entries.
    """

    container: str
    tensors: tuple[TensorRef, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    class_path: str | None = None
    config: dict[str, Any] | None = None
    skipped: tuple[str, ...] = ()
    descriptions: Mapping[str, Any] = field(default_factory=dict)
    entry_names: Mapping[str, str] = field(default_factory=dict)
