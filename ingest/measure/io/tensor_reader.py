"""Reads the bytes of a tensor in C order, a chunk at a time.

Bytes are read with `preadv` into reused buffers. On request, and after file_window.use_mappings, bytes that are in the page
cache are not copied but mapped (file_window.FileWindow). Either way, a file that shrinks or a disk that fails meanwhile is an
InputError. Memory: a chunk for a tensor in C order; a tile of STRIDED_BYTES and a span of SPAN_BYTES more for a strided view; a
window (sparse.DenseWindow) of at most 64 MiB more for a sparse tensor.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io.assembled import assembled_chunks
from layerhouse.ingest.measure.io.file_window import PIECE_BYTES, WINDOW_BYTES, FileWindow
from layerhouse.ingest.measure.io.files import open_file, read_at
from layerhouse.ingest.measure.io.sparse import DenseWindow
from layerhouse.ingest.measure.io.strides import Dimension, boxes, dimensions, volume

Array = npt.NDArray[Any]

Arrived = Callable[[Path, int, int, int], int]
"""Prefetch.arrived: (path, offset, size, least) -> how many of the bytes from `offset` on have arrived, at least `least`."""

GRAIN_BYTES = 1 << 15
"""Chunks are a multiple of this, so that each starts at a whole sub-block of 4096 elements of any type of whole bytes."""

STRIDED_BYTES = 1 << 24
"""Logical bytes of a strided view that are gathered at once: few passes over a transposed matrix, and bounded memory."""

SPAN_BYTES = 1 << 20
"""Bytes of the file that one read of a strided view takes at most."""

GAP_BYTES = 4096
"""Unwanted bytes between two runs that are read along, which is cheaper than another system call."""


class TensorReader:
    """Reads tensors for one thread. The arrays that `chunks` yields are overwritten by the next chunk.

    `in_place`: bytes in the page cache are mapped where file windows are in use. The caller must then consume `chunks` to the
    end: only the step after a chunk reports that the file changed under it. `arrived` waits for bytes that are being
    prefetched.
    """

    def __init__(self, chunk_bytes: int = 1 << 20, *, in_place: bool = False, arrived: Arrived | None = None) -> None:
        self._chunk = max(GRAIN_BYTES, -(-chunk_bytes // GRAIN_BYTES) * GRAIN_BYTES)
        self._buffer = np.empty(self._chunk, np.uint8)
        self._tile: Array | None = None
        self._span: Array = np.empty(0, np.uint8)
        self._path: Path | None = None
        self._file = -1
        self._dense: DenseWindow | None = None
        self._parts: TensorReader | None = None
        self._arrived = arrived
        self._piece = max(self._chunk, PIECE_BYTES)
        self._window = FileWindow.of(max(self._piece, WINDOW_BYTES)) if in_place else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file that the last read left open, and the window onto it."""
        self._leave_file()
        if self._window is not None:
            self._window.close()
            self._window = None
        if self._parts is not None:
            self._parts.close()

    def another(self) -> TensorReader:
        """A reader with the same chunk size and buffers of its own."""
        return TensorReader(self._chunk)

    def elements(self, ref: TensorRef, first: int, last: int) -> Array:
        """Elements `first` to before `last` of a type of whole bytes, as unsigned integers of its size, in fresh memory."""
        size = DTYPES[ref.dtype].bits // 8
        raw = np.empty((last - first) * size, np.uint8)
        filled = 0
        for chunk in self.chunks(ref, first * size, last * size):
            raw[filled : filled + chunk.size] = chunk
            filled += chunk.size
        return raw.view(f"u{size}")

    def chunks(self, ref: TensorRef, start: int = 0, stop: int | None = None) -> Iterator[Array]:
        """The tensor's logical bytes from `start` (a whole element) to `stop`, as uint8 arrays of one chunk, the last shorter.

        In place, chunks have up to PIECE_BYTES, still multiples of GRAIN_BYTES except for the last. Raises InputError if the
        file does not hold the bytes.
        """
        stop = ref.logical_bytes if stop is None else stop
        if start >= stop:
            return
        if ref.assembly is not None:
            yield from assembled_chunks(ref, start, stop, self._chunk, self)
            return
        dims = dimensions(ref)
        self._check(ref, dims)
        self._open(ref)
        if len(dims) == 1 and dims[0][1] == 1:
            yield from self._run(ref, start, stop)
        else:
            yield from self._strided(ref, dims, start, stop)

    def _run(self, ref: TensorRef, start: int, stop: int) -> Iterator[Array]:
        """The bytes of a tensor that is one run of its storage."""
        bits = DTYPES[ref.dtype].bits
        first = ref.offset + ref.storage_offset * bits // 8
        piece = self._piece if 8 <= bits <= 32 else self._chunk  # other types are converted, in as much memory again
        position, in_place = start, self._window is not None
        while position < stop:
            size = self._wait(ref, first + position, min(piece if in_place else self._chunk, stop - position))
            mapped = self._map(ref, first + position, size) if in_place else None
            if mapped is not None:
                yield mapped
                self._check_mapped(ref, first + position, size)
                position += size
                continue
            in_place = False  # after one read from disk, the system reads ahead for further ones
            chunk = self._buffer[: min(self._chunk, size)]
            self._fill(ref, chunk, first + position)
            yield chunk
            position += chunk.size

    def _strided(self, ref: TensorRef, dims: Sequence[Dimension], start: int, stop: int) -> Iterator[Array]:
        """The bytes of a strided view, gathered a tile at a time."""
        size = DTYPES[ref.dtype].bits // 8
        if self._tile is None:
            self._tile = np.empty(STRIDED_BYTES, np.uint8)
            self._span = np.empty(SPAN_BYTES, np.uint8)
        for position in range(start, stop, STRIDED_BYTES):
            tile = self._tile[: min(STRIDED_BYTES, stop - position)]
            elements = tile.view(f"u{size}")
            filled = 0
            for origin, box in boxes(dims, position // size, (position + tile.size) // size):
                target = elements[filled : filled + volume(box)].reshape([length for length, _ in box])
                self._gather(ref, ref.storage_offset + origin, box, target)
                filled += target.size
            for low in range(0, tile.size, self._chunk):
                yield tile[low : low + self._chunk]

    def _gather(self, ref: TensorRef, origin: int, box: Sequence[Dimension], target: Array) -> None:
        """Copy a box of elements to an array of its shape: one read for the near dimensions, a loop over the far ones."""
        size = target.itemsize
        order = sorted(range(len(box)), key=lambda axis: box[axis][1])
        near: list[int] = []
        span = 1
        for axis in order:
            length, stride = box[axis]
            if (stride - span) * size > GAP_BYTES:
                break
            if (span + (length - 1) * stride) * size > SPAN_BYTES:
                step = max(1, (SPAN_BYTES // size - span) // stride + 1)
                for low in range(0, length, step):
                    part = [*box[:axis], (min(step, length - low), stride), *box[axis + 1 :]]
                    where = (*(slice(None),) * axis, slice(low, low + step))
                    self._gather(ref, origin + low * stride, part, target[where])
                return
            near.append(axis)
            span += (length - 1) * stride
        far = [axis for axis in order if axis not in near]
        if len(far) > 1:
            outer = max(far, key=lambda axis: box[axis][1])
            slabs = np.moveaxis(target, outer, 0)
            for i in range(box[outer][0]):
                self._gather(ref, origin + i * box[outer][1], [*box[:outer], *box[outer + 1 :]], slabs[i])
            return
        raw = self._span[: span * size]
        shape, strides = [box[axis][0] for axis in near], [box[axis][1] * size for axis in near]
        values = np.lib.stride_tricks.as_strided(raw.view(target.dtype), shape, strides)
        placed = target.transpose([*far, *near])
        length, stride = box[far[0]] if far else (1, 0)
        for i in range(length):
            self._fill(ref, raw, ref.offset + (origin + i * stride) * size)
            placed[i if far else ...] = values

    def _check(self, ref: TensorRef, dims: Sequence[Dimension]) -> None:
        """Refuse a view that leaves its storage, and one of packed elements that is strided or starts within a byte."""
        bits = DTYPES[ref.dtype].bits
        last = ref.storage_offset + sum((size - 1) * stride for size, stride in dims)
        storage_bits = ref.storage_bytes * 8 if ref.sparse is None else math.prod(ref.sparse.shape) * bits
        if ref.storage_offset < 0 or any(stride < 0 for _, stride in dims) or (last + 1) * bits > storage_bits:
            raise InputError(
                str(ref.path), f"tensor {ref.name!r}: its view reaches out of a storage of {ref.storage_bytes} bytes"
            )
        if bits % 8 and (ref.storage_offset * bits % 8 or len(dims) > 1 or dims[0][1] != 1):
            raise InputError(str(ref.path), f"tensor {ref.name!r}: a strided or shifted view of {ref.dtype} cannot be read")

    def _open(self, ref: TensorRef) -> None:
        if ref.sparse is not None:
            if self._dense is None or self._dense.parts is not ref.sparse:
                if self._parts is None:
                    self._parts = self.another()
                self._dense = DenseWindow(ref, ref.sparse, self._parts.elements)
            return
        if self._path == ref.path:
            return
        self._leave_file()
        try:
            self._file = open_file(ref.path)
        except OSError as error:
            raise InputError(str(ref.path), f"tensor {ref.name!r}: {error.strerror}") from error
        self._path = ref.path

    def _leave_file(self) -> None:
        self._dense = None
        if self._path is not None:
            if self._window is not None:
                self._window.unmap()
            os.close(self._file)
            self._path = None

    def _wait(self, ref: TensorRef, offset: int, size: int) -> int:
        """Wait until a chunk at least of `size` bytes from the file's byte `offset` on has arrived; returns how many have."""
        if self._arrived is None or ref.sparse is not None:
            return size
        arrived = self._arrived(ref.path, offset, size, self._chunk)
        return size if arrived == size else arrived - arrived % GRAIN_BYTES

    def _map(self, ref: TensorRef, offset: int, size: int) -> Array | None:
        if self._window is None or ref.sparse is not None:
            return None
        return self._window.map(self._file, offset, size)

    def _check_mapped(self, ref: TensorRef, offset: int, size: int) -> None:
        """After mapped bytes were used: raise InputError if they were not the file's."""
        if self._window is None or self._window.is_intact(self._file):
            return
        for low in range(offset, offset + size, self._chunk):  # raises an exact error if the bytes are still missing
            self._fill(ref, self._buffer[: min(self._chunk, offset + size - low)], low)
        raise InputError(str(ref.path), f"tensor {ref.name!r}: the file changed while it was read; ingest it again")

    def _fill(self, ref: TensorRef, target: Array, offset: int) -> None:
        """Fill an array of bytes from the file's byte `offset` on; for a sparse tensor, from that byte of its dense bytes."""
        if ref.sparse is not None and self._dense is not None:
            self._dense.fill(target, offset - ref.offset)
            return
        done = 0
        while done < target.size:
            try:
                count = read_at(self._file, target[done:], offset + done)
            except OSError as error:
                raise InputError(str(ref.path), f"tensor {ref.name!r}: {error.strerror} at byte {offset + done}") from error
            if count == 0:
                ends, needed = os.fstat(self._file).st_size, offset + target.size
                raise InputError(
                    str(ref.path),
                    f"tensor {ref.name!r}: the file ends at byte {ends}, before byte {needed}; copy the file again",
                )
            done += count
