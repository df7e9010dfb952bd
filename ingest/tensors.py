"""A tensor as a reference into a file: what it is and where its bytes lie. Holding one costs no weight bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerhouse.ingest.dtypes import byte_count

DENSE_BYTES = 1 << 26
"""A sparse tensor of at most so many logical bytes is made dense as a whole; a larger one by windows, its entries in order."""

MAX_ENTRY_ELEMENTS = 1 << 20
"""Elements that one entry of a sparse tensor (a block, or the dense dimensions behind the sparse ones) may have."""


@dataclass(frozen=True)
class TensorRef:
    """One tensor of a checkpoint.

    `dtype` is safetensors' spelling. `offset` is the byte in `path` where the storage starts that holds it, `storage_bytes` its
    size; the tensor starts `storage_offset` elements into it and has these `strides` (elements; None: C order).
    Two tensors with the same path, offset, storage_offset, shape and strides are one (tied).

    A `sparse` one stands for the dense tensor of this shape: `storage_bytes` are those of its indices and values, `offset` is
    where the values' storage starts.
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
    sparse: SparseParts | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def logical_bytes(self) -> int:
        return byte_count(self.dtype, self.elements)

    @property
    def place(self) -> tuple[Any, ...]:
        """Identity of the bytes: equal places are one tensor under two names."""
        strided = (self.path, self.offset, self.storage_offset, self.shape, self.strides)
        return strided if self.sparse is None else (*strided, *self.sparse.place)


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
