"""Tensors that files keep in several others, as the dense bytes that they stand for: masks, sparse bitmasks, grids of chunks,
and packed weights as codes (io.unpacked) and as values (io.decoded).

The result is what a plain copy of the weight would hold, so that statistics, hashes and comparisons need no special case. A few
rows are assembled at a time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import BITMASK, CHUNKS, JOINED, MASKED, Assembly, TensorRef
from layerhouse.ingest.measure.io.decoded import DECODERS, decode_rows
from layerhouse.ingest.measure.io.unpacked import UNPACKERS

Array = npt.NDArray[Any]

MAX_DENSE_BYTES = 1 << 26
"""A view that does not run along the rows is copied from the whole dense tensor, which may have no more bytes."""


SAMPLED_BYTES = 1 << 24
"""Bytes of values that are decoded at once of a sample of rows, so that most samples take one pass over a transposed matrix."""

PICKED_BYTES = 1 << 22
"""Bytes of a transposed matrix that are read at once."""


class ElementReader(Protocol):
    """What the assembler needs of a tensor_reader.TensorReader, which passes itself."""

    def another(self) -> Self: ...

    def elements(self, ref: TensorRef, first: int, last: int) -> Array: ...

    def close(self) -> None: ...


def assembled_chunks(ref: TensorRef, start: int, stop: int, chunk_bytes: int, reader: ElementReader) -> Iterator[Array]:
    """The dense bytes `start` to `stop` of an assembled tensor or of a view of one, as uint8 arrays of one chunk, the last
    shorter.

    Each array is overwritten by the next. Every part is read by a reader of its own, but for joined parts and chunks, of which
    there may be thousands: they share one. Raises InputError if the parts do not fit each other.
    """
    buffer = np.empty(min(chunk_bytes, max(stop - start, 0)), np.uint8)
    filled = 0
    with ExitStack() as stack:
        assert ref.assembly is not None
        parts = ref.assembly.sources
        count = 1 if ref.assembly.kind in (JOINED, CHUNKS) else len(parts)
        readers = [stack.enter_context(closing(reader.another())) for _ in range(count)]
        sources = [_Source(part, readers[number % count]) for number, part in enumerate(parts)]
        for piece in _Assembler(ref, ref.assembly, sources, chunk_bytes).pieces(start, stop):
            taken = 0
            while taken < piece.size:
                count = min(piece.size - taken, buffer.size - filled)
                buffer[filled : filled + count] = piece[taken : taken + count]
                taken, filled = taken + count, filled + count
                if filled == buffer.size:
                    yield buffer
                    filled = 0
    if filled:
        yield buffer[:filled]


class _Source:
    """One part of an assembly and its reader."""

    def __init__(self, ref: TensorRef, reader: ElementReader) -> None:
        self.ref, self._reader = ref, reader

    def elements(self, first: int, last: int) -> Array:
        """Elements `first` to before `last` as unsigned integers of their size."""
        return self._reader.elements(self.ref, first, last)

    def rows(self, numbers: Array, columns: int) -> Array:
        """Some rows of the part as a matrix of so many columns, (n, columns); row numbers ascend, each of them once.

        Evenly spaced rows are one read. Those of a transposed matrix are picked while all of it is read, once.
        """
        first, steps, ref = int(numbers[0]), np.diff(numbers), self.ref
        if (steps == 1).all():
            return self.elements(first * columns, (int(numbers[-1]) + 1) * columns).reshape(-1, columns)
        if ref.strides == (1, ref.shape[0]) and ref.shape[1] == columns:
            return self._picked(numbers)
        if (steps == steps[0]).all() and ref.strides is None:
            strides, offset = (int(steps[0]) * columns, 1), ref.storage_offset + first * columns
            view = replace(ref, shape=(len(numbers), columns), strides=strides, storage_offset=offset)
            return self._reader.elements(view, 0, view.elements).reshape(-1, columns)
        return np.concatenate([self.elements(row * columns, (row + 1) * columns) for row in numbers.tolist()]).reshape(
            -1, columns
        )

    def _picked(self, numbers: Array) -> Array:
        """Rows of a matrix whose columns are stored one after the other."""
        rows, columns = self.ref.shape
        stored = replace(self.ref, shape=(columns, rows), strides=None)
        parts = []
        step = max(1, PICKED_BYTES * 8 // (rows * DTYPES[self.ref.dtype].bits))
        for low in range(0, columns, step):
            high = min(low + step, columns)
            parts.append(self._reader.elements(stored, low * rows, high * rows).reshape(-1, rows)[:, numbers].T)
        return np.concatenate(parts, axis=1)


class _Assembler:
    """Assembles whole rows of one tensor, and cuts the bytes of its view from them."""

    def __init__(self, ref: TensorRef, assembly: Assembly, sources: list[_Source], chunk_bytes: int) -> None:
        self._ref, self._shape, self._sources = ref, assembly.shape, sources
        self._kind = assembly.kind
        self._size = DTYPES[ref.dtype].bits // 8
        self._elements = math.prod(assembly.shape)
        axis = _row_axis(assembly.shape, chunk_bytes // self._size) if assembly.kind == CHUNKS else 0
        self._columns = math.prod(assembly.shape[axis + 1 :])
        self._rows_at_once = max(1, chunk_bytes // (self._columns * self._size))

    def pieces(self, start: int, stop: int) -> Iterator[Array]:
        """The bytes `start` to `stop` of the view, in arrays of any size."""
        ref, size = self._ref, self._size
        if ref.strides is None:
            yield from self._dense(start, stop)
        elif self._is_sample():
            yield from self._sample(start, stop)
        elif len(ref.shape) == 2 and ref.strides[1] == 1:
            width = ref.shape[1] * size
            for row in range(start // width, -(-stop // width)):
                first = (ref.storage_offset + row * ref.strides[0]) * size
                low, high = max(start - row * width, 0), min(stop - row * width, width)
                yield from self._dense(first + low, first + high)
        else:
            yield self._whole_view()[start:stop]

    def _is_sample(self) -> bool:
        """Whether the view has whole rows of a weight of which single rows can be decoded."""
        ref, columns = self._ref, self._columns
        if self._kind not in DECODERS or len(self._shape) != 2 or len(ref.shape) != 2 or ref.strides is None:
            return False
        is_row = ref.shape[1] == columns and ref.strides[1] == 1
        return is_row and ref.strides[0] > 0 and ref.strides[0] % columns == ref.storage_offset % columns == 0

    def _sample(self, start: int, stop: int) -> Iterator[Array]:
        """The bytes `start` to `stop` of a view of whole rows, as many of which are decoded at once as SAMPLED_BYTES hold."""
        assert self._ref.strides is not None
        width = self._columns * self._size
        first, step = self._ref.storage_offset // self._columns, self._ref.strides[0] // self._columns
        at_once, last = max(1, SAMPLED_BYTES // width), -(-stop // width)
        for low in range(start // width, last, at_once):
            numbers = first + step * np.arange(low, min(low + at_once, last))
            decoded = self._rows(numbers).reshape(-1).view(np.uint8)
            begin = low * width
            yield decoded[max(start - begin, 0) : min(stop - begin, decoded.size)]

    def _rows(self, numbers: Array) -> Array:
        """Rows of the dense tensor: any if it is decoded, else a range."""
        if self._kind in DECODERS:
            return decode_rows(self._ref, self._sources, numbers, self._columns)
        low, high = int(numbers[0]), int(numbers[-1]) + 1
        return ASSEMBLERS[self._kind](self._ref, self._sources, low, high, self._columns)

    def _whole_view(self) -> Array:
        ref, size = self._ref, self._size
        dense_bytes = self._elements * size
        if dense_bytes > MAX_DENSE_BYTES:
            raise InputError(
                str(ref.path), f"limit exceeded: tensor {ref.name!r} of {dense_bytes} dense bytes is kept across its rows"
            )
        flat = np.concatenate([piece.copy() for piece in self._dense(0, dense_bytes)]).view(f"u{size}")
        assert ref.strides is not None
        strides = [stride * size for stride in ref.strides]
        view = np.lib.stride_tricks.as_strided(flat[ref.storage_offset :], ref.shape, strides)
        return np.ascontiguousarray(view).reshape(-1).view(np.uint8)

    def _dense(self, start: int, stop: int) -> Iterator[Array]:
        """The bytes `start` to `stop` of the dense tensor in C order."""
        if start >= stop:
            return
        width = self._columns * self._size
        last = -(-stop // width)
        for low in range(start // width, min(self._elements // self._columns, last), self._rows_at_once):
            high = min(low + self._rows_at_once, last)
            dense = self._rows(np.arange(low, high)).reshape(-1).view(np.uint8)
            begin = low * width
            yield dense[max(start - begin, 0) : min(stop - begin, dense.size)]


def _row_axis(shape: tuple[int, ...], most: int) -> int:
    """The first axis below which a tensor has at most so many elements: what lies below one of its indices is a row."""
    return next((axis for axis in range(len(shape) - 1) if math.prod(shape[axis + 1 :]) <= most), len(shape) - 1)


def _masked(ref: TensorRef, sources: list[_Source], low: int, high: int, columns: int) -> Array:
    """`weight_orig * weight_mask`, as torch.nn.utils.prune computes it: zeros keep their sign, infinity times 0 is NaN."""
    values, mask = (source.elements(low * columns, high * columns) for source in sources)
    is_kept = _kept(ref, sources[1].ref.dtype, mask)
    dtype = DTYPES[ref.dtype]
    if dtype.kind != "float":
        return np.asarray(values * is_kept)
    sign = values.dtype.type(1 << (dtype.bits - 1))
    exponent = values.dtype.type(((1 << dtype.exponent) - 1) << dtype.mantissa)
    quiet = values.dtype.type(1 << (dtype.mantissa - 1))
    zeroed = np.where(values & exponent == exponent, values | quiet, values & sign)
    return np.asarray(np.where(is_kept, values, zeroed))


def _kept(ref: TensorRef, code: str, mask: Array) -> Array:
    """Where a mask is one. Raises InputError if it has values other than zero and one."""
    dtype = DTYPES[code]
    one = (dtype.bias << dtype.mantissa) if dtype.kind == "float" else 1
    is_kept: Array = mask == one
    sign = mask.dtype.type(1 << (dtype.bits - 1)) if dtype.kind == "float" else mask.dtype.type(0)
    if not np.all(is_kept | ((mask & ~sign) == 0)):
        raise InputError(str(ref.path), f"tensor {ref.name!r}: its mask has values other than 0 and 1")
    return is_kept


def _bitmask(ref: TensorRef, sources: list[_Source], low: int, high: int, columns: int) -> Array:
    """compressed-tensors' sparse-bitmask and sparse-24-bitmask: stored values, in order, where a bit is 1, and zeros elsewhere.

    Bit i of byte b of a row is column 8 * b + i. Without row offsets all rows have the same number of values.
    """
    values, bits = sources[0], sources[1]
    row_bytes = -(-columns // 8)
    packed = bits.elements(low * row_bytes, high * row_bytes).reshape(high - low, row_bytes)
    is_stored = np.unpackbits(packed, axis=1, count=columns, bitorder="little").astype(bool)
    stored = values.ref.elements
    rows = bits.ref.elements // row_bytes
    if len(sources) > 2:
        offsets = sources[2].elements(low, min(high + 1, rows)).astype(np.uint64).tolist()
        starts = offsets if high < rows else [*offsets, stored]
    else:
        starts = [row * (stored // rows) for row in range(low, high + 1)]
    counts = is_stored.sum(axis=1)
    if starts[-1] > stored or [after - before for before, after in pairwise(starts)] != counts.tolist():
        raise InputError(str(ref.path), f"tensor {ref.name!r}: its bitmask of rows {low} to {high - 1} does not fit its values")
    dense = np.zeros((high - low, columns), f"u{DTYPES[ref.dtype].bits // 8}")
    dense[is_stored] = values.elements(starts[0], starts[-1])
    return dense


def _joined(ref: TensorRef, sources: list[_Source], low: int, high: int, columns: int) -> Array:
    """The values of a tensor that is split over the ranks of a run.

    Each rank has flat tensors that follow each other and begin at `bounds`. It holds `count` values from `first` on, the last
    ones padding behind the tensor's own values.
    """
    assert ref.assembly is not None
    parameters = ref.assembly.parameters
    first, count, bounds = parameters["first"], parameters["count"], parameters["bounds"]
    per_rank = len(bounds) - 1
    at, end = low * columns, high * columns
    parts = []
    while at < end:
        rank, place = divmod(at, count)
        group = bisect_right(bounds, first + place) - 1
        begin = first + place - bounds[group]
        size = min(end - at, count - place, bounds[group + 1] - bounds[group] - begin)
        parts.append(sources[rank * per_rank + group].elements(begin, begin + size))
        at += size
    return np.concatenate(parts)


def _chunks(ref: TensorRef, sources: list[_Source], low: int, high: int, columns: int) -> Array:
    """Rows `low` to before `high` of a tensor that is a grid of chunks, in C order of their first indices (`origins`).

    A row is what lies below one index of the first axis that has so many columns below it. It may be of several chunks.
    """
    assert ref.assembly is not None
    shape, origins = ref.assembly.shape, ref.assembly.parameters["origins"]
    axis = next(axis for axis in range(len(shape)) if math.prod(shape[axis + 1 :]) == columns)
    rows = np.empty((high - low, *shape[axis + 1 :]), f"u{DTYPES[ref.dtype].bits // 8}")
    filled, row = 0, low
    while row < high:
        outer, first = divmod(row, shape[axis])
        last = min(shape[axis], first + high - row)
        index = tuple(int(at) for at in np.unravel_index(outer, shape[:axis])) if axis else ()
        for number in _in_reach(origins, *((index[0], index[0] + 1) if index else (first, last))):
            source, origin = sources[number], origins[number]
            run = _run_of(source.ref.shape, origin, index, first, last)
            if run is None:
                continue
            begin, top, count = run
            block = source.ref.shape[axis + 1 :]
            values = source.elements(begin, begin + count * math.prod(block)).reshape(count, *block)
            target = row - first + top - low
            around = zip(origin[axis + 1 :], block, strict=True)
            rows[(slice(target, target + count), *(slice(at, at + size) for at, size in around))] = values
            filled += values.size
        row += last - first
    if filled != rows.size:
        raise InputError(str(ref.path), f"tensor {ref.name!r}: its chunks do not fill it")
    return rows


def _in_reach(origins: tuple[tuple[int, ...], ...], first: int, last: int) -> range:
    """The numbers of the chunks that may hold indices `first` to before `last` of the first axis."""
    band = origins[max(0, bisect_right(origins, first, key=lambda origin: origin[0]) - 1)][0]
    begin = bisect_left(origins, band, key=lambda origin: origin[0])
    return range(begin, bisect_left(origins, last, key=lambda origin: origin[0]))


def _run_of(
    shape: tuple[int, ...], origin: tuple[int, ...], index: tuple[int, ...], first: int, last: int
) -> tuple[int, int, int] | None:
    """Of a chunk, the elements below `index` from `first` to before `last` of the next axis, which are one run of it.

    Returns its first element, the first index that it has, and how many; None if it has none.
    """
    axis = len(index)
    inside = [at - begin for at, begin in zip(index, origin, strict=False)]
    if any(not 0 <= at < size for at, size in zip(inside, shape, strict=False)):
        return None
    top, end = max(first, origin[axis]), min(last, origin[axis] + shape[axis])
    if top >= end:
        return None
    begin = 0
    for at, size in zip([*inside, top - origin[axis]], shape, strict=False):
        begin = begin * size + at
    return begin * math.prod(shape[axis + 1 :]), top, end - top


ASSEMBLERS: dict[str, Callable[[TensorRef, list[_Source], int, int, int], Array]] = {
    MASKED: _masked,
    BITMASK: _bitmask,
    JOINED: _joined,
    CHUNKS: _chunks,
    **UNPACKERS,
}
