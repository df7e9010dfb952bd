"""The dense bytes of a sparse tensor, a window at a time: zeros, and the sum of the entries that fall into the window.

Up to DENSE_BYTES the window is the whole tensor, whose entries may then be in any order. A larger tensor has windows of
WINDOW_BYTES; its entries are found by their order, which is checked. Entries at one place are added in the order in which they
are stored, and rounded to the type each time, as torch does. A zero of either sign becomes +0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import DENSE_BYTES, SparseParts, TensorRef
from layerhouse.ingest.measure.kernels.cpu import add_bfloat16

Array = npt.NDArray[Any]
ReadElements = Callable[[TensorRef, int, int], Array]
"""TensorReader.elements: the elements of a part from one to before another, as a fresh array of unsigned integers."""

WINDOW_BYTES = 1 << 24
BATCH_ELEMENTS = 1 << 17
"""Elements of entries, or rows, that are processed together."""


class DenseWindow:
    """The dense bytes of one sparse tensor. Memory: a window, and some arrays of BATCH_ELEMENTS or of an entry."""

    def __init__(self, ref: TensorRef, parts: SparseParts, read: ReadElements) -> None:
        self.parts, self._read, self._where = parts, read, str(ref.path)
        self._name, self._dtype = ref.name, DTYPES[ref.dtype]
        self._size = self._dtype.bits // 8
        self._elements = math.prod(parts.shape)
        total = self._elements * self._size
        self._is_whole = total <= DENSE_BYTES
        self._step = self._elements if self._is_whole else WINDOW_BYTES // self._size
        self._entries = parts.values.shape[0]
        self._offsets = self._entry_offsets()
        self._low = self._high = 0
        self._dense: Array = np.empty(0, np.uint8)

    def fill(self, target: Array, position: int) -> None:
        """Copy dense bytes from byte `position` on to an array of bytes."""
        done = 0
        while done < target.size:
            element = (position + done) // self._size
            if not self._low <= element < self._high:
                self._load(element // self._step * self._step)
            start = position + done - self._low * self._size
            part = self._dense[start : start + target.size - done]
            target[done : done + part.size] = part
            done += part.size

    def _load(self, low: int) -> None:
        """Make the window that begins at element `low`."""
        high = min(low + self._step, self._elements)
        self._low = self._high = 0
        if self._dense.size != (high - low) * self._size:
            self._dense = np.empty((high - low) * self._size, np.uint8)
        self._dense[:] = 0
        for first, begin, end in self._batches(low, high):
            values = self._read(self.parts.values, begin * self._offsets.size, end * self._offsets.size)
            places = (first[:, np.newaxis] + self._offsets).ravel() - low
            if not self._is_whole:
                is_inside = (places >= 0) & (places < high - low)
                places, values = places[is_inside], values[is_inside]
            self._add(places, values)
        self._low, self._high = low, high

    def _entry_offsets(self) -> Array:
        """The distance of each element of an entry from its first element, in the dense tensor."""
        if self.parts.layout in ("bsr", "bsc"):
            height, width = self.parts.values.shape[1:]
            rows = np.arange(height, dtype=np.int64)[:, np.newaxis] * self.parts.shape[1]
            return np.asarray((rows + np.arange(width, dtype=np.int64)).ravel())
        return np.arange(self.parts.entry_elements, dtype=np.int64)

    def _batches(self, low: int, high: int) -> Iterator[tuple[Array, int, int]]:
        """Entries that reach into the window, in batches: the first element of each, and the range of their numbers."""
        return self._coo(low, high) if self.parts.layout == "coo" else self._compressed(low, high)

    def _coo(self, low: int, high: int) -> Iterator[tuple[Array, int, int]]:
        """Batches of a layout that stores the coordinates of each entry."""
        block = self._offsets.size
        begin, end = 0, self._entries
        least, most = 0, self._elements // max(block, 1)
        if not self._is_whole:
            least, most = low // block, -(-high // block)
            begin, end = self._search(least), self._search(most)
            if end < begin or (high == self._elements and end != self._entries):
                self._fail_order()
        previous = least - 1
        step = max(1, BATCH_ELEMENTS // max(block, 1))
        for first in range(begin, end, step):
            last = min(first + step, end)
            lines = self._lines(first, last)
            if not self._is_whole:
                if lines[0] <= previous or lines[-1] >= most or np.any(lines[1:] <= lines[:-1]):
                    self._fail_order()
                previous = int(lines[-1])
            yield lines * block, first, last

    def _search(self, line: int) -> int:
        """The number of the first entry at or after a line, by bisection."""
        begin, end = 0, self._entries
        while begin < end:
            middle = (begin + end) // 2
            if int(self._lines(middle, middle + 1)[0]) < line:
                begin = middle + 1
            else:
                end = middle
        return begin

    def _lines(self, begin: int, end: int) -> Array:
        """Positions of entries in C order over the sparse dimensions."""
        (indices,) = self.parts.indices
        strides = indices.strides or (indices.shape[1], 1)
        lines = np.zeros(end - begin, np.int64)
        for axis in range(indices.shape[0]):
            row = replace(
                indices,
                shape=indices.shape[1:],
                strides=strides[1:],
                storage_offset=indices.storage_offset + axis * strides[0],
            )
            lines *= self.parts.shape[axis]
            lines += self._indices(row, begin, end, self.parts.shape[axis])
        return lines

    def _compressed(self, low: int, high: int) -> Iterator[tuple[Array, int, int]]:
        """Batches of a layout by rows (csr, bsr) or by columns (csc, bsc) of blocks of 1 x 1 or more."""
        is_by_rows = self.parts.layout in ("csr", "bsr")
        block = self.parts.values.shape[1:] or (1, 1)
        width = self.parts.shape[1]
        compressed, plain = self.parts.indices
        outer = compressed.shape[0] - 1
        extent = self.parts.shape[1 if is_by_rows else 0] // block[1 if is_by_rows else 0]
        band = block[0] * width
        first, last = (0, outer) if self._is_whole else (low // band, -(-high // band))
        outer_step, inner_step = (band, block[1]) if is_by_rows else (block[1], band)
        step = max(1, BATCH_ELEMENTS // self._offsets.size)
        for row in range(first, last, BATCH_ELEMENTS):
            stop = min(row + BATCH_ELEMENTS, last)
            bounds = self._indices(compressed, row, stop + 1, self._entries + 1)
            is_open = (row == 0 and bounds[0] != 0) or (stop == outer and bounds[-1] != self._entries)
            if is_open or np.any(bounds[1:] < bounds[:-1]):
                self._fail(f"its compressed indices do not run from 0 to {self._entries}")
            for begin in range(int(bounds[0]), int(bounds[-1]), step):
                end = min(begin + step, int(bounds[-1]))
                rows = np.searchsorted(bounds, np.arange(begin, end), side="right") - 1 + row
                yield rows * outer_step + self._indices(plain, begin, end, extent) * inner_step, begin, end
        if outer == 0 and self._entries:
            self._fail("it has entries and no rows")

    def _indices(self, ref: TensorRef, begin: int, end: int, extent: int) -> Array:
        """Indices `begin` to before `end`, which must be from 0 to before `extent`."""
        indices = self._read(ref, begin, end).view("i4" if ref.dtype == "I32" else "i8").astype(np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < extent):
            wrong = int(indices[(indices < 0) | (indices >= extent)][0])
            self._fail(f"index {wrong} is not from 0 to {extent - 1}")
        return indices

    def _add(self, places: Array, values: Array) -> None:
        """Add patterns to those at their places, in order."""
        kind, bits = self._dtype.kind, self._dtype.bits
        patterns = self._dense.view(values.dtype)
        if self._dtype.code == "BF16":
            add_bfloat16(patterns, places, values)
        elif kind == "bool":
            np.bitwise_or.at(patterns, places, values)
        elif bits == 8 and kind == "float":
            self._place(patterns, places, values)
        else:
            code = f"{'c' if kind == 'complex' else kind[0]}{bits // 8}"
            with np.errstate(over="ignore", invalid="ignore"):
                np.add.at(patterns.view(code), places, values.view(code))

    def _place(self, patterns: Array, places: Array, values: Array) -> None:
        """Store patterns of a float type of 8 bits, which has no addition here: at most one entry other than zero per place."""
        if self._dtype.special != "fnuz":
            values = np.where(values == 0x80, 0, values)
        places, values = places[values != 0], values[values != 0]
        if np.unique(places).size != places.size or np.any(patterns[places]):
            self._fail(f"entries of {self._dtype.code} at one place cannot be added")
        patterns[places] = values

    def _fail_order(self) -> NoReturn:
        self._fail("its entries are not in order, though it is marked as coalesced")

    def _fail(self, reason: str) -> NoReturn:
        raise InputError(self._where, f"tensor {self._name!r}: sparse: {reason}")
