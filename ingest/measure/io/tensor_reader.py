"""The bytes of a tensor in C order, a chunk at a time, read with `preadv` into buffers that are used again.

A reader that is told to looks at bytes of the system's cache in place (file_window.FileWindow). A file that shrinks or a disk
that fails meanwhile is an InputError either way, where a mapping alone would kill the process. Memory is
a chunk for a tensor that lies in C order; a strided view takes a tile of STRIDED_BYTES and a span of SPAN_BYTES more, a sparse
tensor a window (sparse.DenseWindow) of at most 64 MiB.
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
from layerhouse.ingest.measure.io.file_window import PIECE_BYTES, WINDOW_BYTES, FileWindow
from layerhouse.ingest.measure.io.sparse import DenseWindow

Array = npt.NDArray[Any]
Dimension = tuple[int, int]
"""Size and stride, both in elements."""

Arrived = Callable[[Path, int, int, int], int]
"""Path, offset, size, least: how many of so many bytes are there, in a row from `offset` on, once these are `least` or more."""

GRAIN_BYTES = 1 << 15
"""Chunks are a multiple of this, so that each starts at a whole sub-block of 4096 elements of any type of whole bytes."""

STRIDED_BYTES = 1 << 24
"""Logical bytes that are gathered at once from a strided view: a transposed matrix is read in as few sweeps as this allows."""

SPAN_BYTES = 1 << 20
"""Bytes of the file that one read takes at most for a strided view."""

GAP_BYTES = 4096
"""Unwanted bytes between two runs that are cheaper to read than a call is: a page of the file cache."""


def dimensions(ref: TensorRef) -> tuple[Dimension, ...]:
    """Size and stride of every dimension of over one element, joined where two are one run; C order is ((n, 1),)."""
    strides = ref.strides
    if strides is None:
        return ((ref.elements, 1),)
    joined: list[Dimension] = []
    for size, stride in zip(ref.shape, strides, strict=True):
        if size == 1:
            continue
        if joined and joined[-1][1] == size * stride:
            joined[-1] = (joined[-1][0] * size, stride)
        else:
            joined.append((size, stride))
    return tuple(joined) or ((1, 1),)


def bytes_in_file(ref: TensorRef) -> tuple[int, int] | None:
    """Where a tensor's bytes begin in its file, and how many they are; None where they are not one run of its storage."""
    if ref.assembly is not None or ref.sparse is not None or ref.elements == 0:
        return None
    start = ref.storage_offset * DTYPES[ref.dtype].bits // 8
    if dimensions(ref) != ((ref.elements, 1),) or not 0 <= start <= ref.storage_bytes - ref.logical_bytes:
        return None
    return ref.offset + start, ref.logical_bytes


class TensorReader:
    """Reads tensors for one thread. The arrays that it hands out are overwritten by the next one.

    `in_place`: bytes that the system has in its cache are not copied. Its chunks are then to be read to the last, as only the
    call for the next one says that one was not the file's. `arrived` is what waits for bytes on their way (Prefetch.arrived).
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
        """Close the file that is held open from the last read, and let go of the window that it was shown by."""
        self._leave_file()
        if self._window is not None:
            self._window.close()
            self._window = None
        if self._parts is not None:
            self._parts.close()

    def chunks(self, ref: TensorRef, start: int = 0, stop: int | None = None) -> Iterator[Array]:
        """The tensor's logical bytes from `start` (a whole element) to `stop`, as uint8 arrays of one chunk, the last shorter.

        In place they are of up to PIECE_BYTES, multiples of GRAIN_BYTES too but for the last.

        Raises InputError where the file does not hold them.
        """
        stop = ref.logical_bytes if stop is None else stop
        if start >= stop:
            return
        if ref.assembly is not None:
            from layerhouse.ingest.measure.io.assembled import assembled_chunks

            yield from assembled_chunks(ref, start, stop, self._chunk)
            return
        dims = dimensions(ref)
        bits = DTYPES[ref.dtype].bits
        self._check(ref, dims, bits)
        self._open(ref)
        if len(dims) == 1 and dims[0][1] == 1:
            first = ref.offset + ref.storage_offset * bits // 8
            piece = self._piece if 8 <= bits <= 32 else self._chunk  # other types are taken apart in memory
            position, in_place = start, self._window is not None
            while position < stop:
                size = self._wait(ref, first + position, min(piece if in_place else self._chunk, stop - position))
                shown = self._show(ref, first + position, size) if in_place else None
                if shown is not None:
                    yield shown
                    self._check_shown(ref, first + position, size)
                    position += size
                    continue
                in_place = False  # where the disk is waited for once, it reads ahead for the next `preadv`
                chunk = self._buffer[: min(self._chunk, size)]
                self._fill(ref, chunk, first + position)
                yield chunk
                position += chunk.size
            return
        size = bits // 8
        if self._tile is None:
            self._tile = np.empty(STRIDED_BYTES, np.uint8)
            self._span = np.empty(SPAN_BYTES, np.uint8)
        for position in range(start, stop, STRIDED_BYTES):
            tile = self._tile[: min(STRIDED_BYTES, stop - position)]
            elements = tile.view(f"u{size}")
            filled = 0
            for origin, box in boxes(dims, position // size, (position + tile.size) // size):
                target = elements[filled : filled + _volume(box)].reshape([length for length, _ in box])
                self._gather(ref, ref.storage_offset + origin, box, target)
                filled += target.size
            for low in range(0, tile.size, self._chunk):
                yield tile[low : low + self._chunk]

    def _gather(self, ref: TensorRef, origin: int, box: Sequence[Dimension], target: Array) -> None:
        """Copy a box of elements into an array of its shape: the nearest dimensions by one read, a loop over the others."""
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

    def _check(self, ref: TensorRef, dims: Sequence[Dimension], bits: int) -> None:
        """Refuse a view that leaves its storage, or that needs a byte's parts to be moved."""
        last = ref.storage_offset + sum((size - 1) * stride for size, stride in dims)
        there = ref.storage_bytes * 8 if ref.sparse is None else math.prod(ref.sparse.shape) * bits
        if ref.storage_offset < 0 or any(stride < 0 for _, stride in dims) or (last + 1) * bits > there:
            raise InputError(
                str(ref.path), f"tensor {ref.name!r}: its view reaches out of a storage of {ref.storage_bytes} bytes"
            )
        if bits % 8 and (ref.storage_offset * bits % 8 or len(dims) > 1 or dims[0][1] != 1):
            raise InputError(str(ref.path), f"tensor {ref.name!r}: a strided or shifted view of {ref.dtype} cannot be read")

    def _open(self, ref: TensorRef) -> None:
        if ref.sparse is not None:
            if self._dense is None or self._dense.parts is not ref.sparse:
                self._dense = DenseWindow(ref, ref.sparse, self._read_part)
            return
        if self._path == ref.path:
            return
        self._leave_file()
        try:
            self._file = os.open(ref.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(str(ref.path), f"tensor {ref.name!r}: {error.strerror}") from error
        self._path = ref.path

    def _leave_file(self) -> None:
        self._dense = None
        if self._path is not None:
            if self._window is not None:
                self._window.hide()
            os.close(self._file)
            self._path = None

    def _wait(self, ref: TensorRef, offset: int, size: int) -> int:
        """How many of `size` bytes from the file's byte `offset` on need not be waited for, a chunk at least."""
        if self._arrived is None or ref.sparse is not None:
            return size
        found = self._arrived(ref.path, offset, size, self._chunk)
        return size if found == size else found - found % GRAIN_BYTES

    def _show(self, ref: TensorRef, offset: int, size: int) -> Array | None:
        if self._window is None or ref.sparse is not None:
            return None
        return self._window.show(self._file, offset, size)

    def _check_shown(self, ref: TensorRef, offset: int, size: int) -> None:
        """After bytes were looked at in place: whether they were the file's."""
        if self._window is None or self._window.is_whole(self._file):
            return
        for low in range(offset, offset + size, self._chunk):  # says what is wrong, if it still is
            self._fill(ref, self._buffer[: min(self._chunk, offset + size - low)], low)
        raise InputError(str(ref.path), f"tensor {ref.name!r}: the file changed while it was read; ingest it again")

    def _read_part(self, ref: TensorRef, start: int, stop: int) -> Array:
        """Elements of an index or value tensor, in memory of their own."""
        if self._parts is None:
            self._parts = TensorReader(self._chunk)
        size = DTYPES[ref.dtype].bits // 8
        found = np.empty((stop - start) * size, np.uint8)
        done = 0
        for chunk in self._parts.chunks(ref, start * size, stop * size):
            found[done : done + chunk.size] = chunk
            done += chunk.size
        return found

    def _fill(self, ref: TensorRef, target: Array, offset: int) -> None:
        """Fill an array of bytes from the file's byte `offset` on; of a sparse tensor, from that of its dense bytes."""
        if ref.sparse is not None and self._dense is not None:
            self._dense.fill(target, offset - ref.offset)
            return
        done = 0
        while done < target.size:
            try:
                count = os.preadv(self._file, [target[done:].data], offset + done)
            except OSError as error:
                raise InputError(str(ref.path), f"tensor {ref.name!r}: {error.strerror} at byte {offset + done}") from error
            if count == 0:
                ends, needed = os.fstat(self._file).st_size, offset + target.size
                raise InputError(
                    str(ref.path),
                    f"tensor {ref.name!r}: the file ends at byte {ends}, before byte {needed}; copy the file again",
                )
            done += count


def boxes(dims: Sequence[Dimension], start: int, stop: int) -> Iterator[tuple[int, tuple[Dimension, ...]]]:
    """The elements `start` to `stop` in C order as boxes: offset of the first element from the tensor's, and dimensions."""
    if start >= stop:
        return
    (_, stride), inner = dims[0], dims[1:]
    width = _volume(inner)
    row, column = divmod(start, width)
    if column:
        end = min(stop, (row + 1) * width)
        yield from ((row * stride + offset, box) for offset, box in boxes(inner, column, end - row * width))
        start, row = end, row + 1
    rows = stop // width - row
    if rows > 0:
        yield row * stride, ((rows, stride), *inner)
        row += rows
        start = row * width
    if start < stop:
        yield from ((row * stride + offset, box) for offset, box in boxes(inner, 0, stop - start))


def _volume(dims: Sequence[Dimension]) -> int:
    volume = 1
    for size, _ in dims:
        volume *= size
    return volume
