"""A tensor as a reference into a file: what it is and where its bytes lie. Holding one costs no weight bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerhouse.ingest.dtypes import byte_count


@dataclass(frozen=True)
class TensorRef:
    """One tensor of a checkpoint.

    `dtype` is safetensors' spelling. `offset` is the byte in `path` where the storage starts that holds it, `storage_bytes` its
    size; the tensor starts `storage_offset` elements into it and has these `strides` (elements; None: C order).
    Two tensors with the same path, offset, storage_offset, shape and strides are one (tied).
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

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def logical_bytes(self) -> int:
        return byte_count(self.dtype, self.elements)

    @property
    def place(self) -> tuple[Any, ...]:
        """Identity of the bytes: equal places are one tensor under two names."""
        return (self.path, self.offset, self.storage_offset, self.shape, self.strides)


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
