"""Counts the bytes of a tensor: how often each pattern occurs, and what does not follow from that.

A tensor is counted in blocks, by any number of threads, a counter each. tally.Total joins the tallies of the blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.measure.content_hash import ContentHash
from layerhouse.ingest.measure.decode import PackedCodes
from layerhouse.ingest.measure.kernels import cpu
from layerhouse.ingest.measure.kernels.moments import ROW, SUB_BLOCK
from layerhouse.ingest.measure.magnitude_keys import values_and_keys
from layerhouse.ingest.measure.marks import Marks, mark_on_cpu
from layerhouse.ingest.measure.tally import Tally

Array = npt.NDArray[Any]

FEW_ELEMENTS = 4096
"""Up to this many elements of 16 bits are counted in a table of which only the touched entries are cleared."""

LEAST_DEVICE_BYTES = 1 << 20
"""Fewer bytes take longer to send to a GPU than to count on the CPU."""


def fits_device(code: str, elements: int) -> bool:
    """Whether a GPU counts a tensor, or a block of one: types of 8 and 16 bits, but no small tensors."""
    bits = DTYPES[code].bits
    return bits in (8, 16) and elements * bits // 8 >= LEAST_DEVICE_BYTES


class AnyCounter(Protocol):
    """Counts the chunks of one tensor at a time, on some device, for one thread."""

    def begin(self, code: str, elements: int, near_zero: float | None) -> None: ...

    def add(self, chunk: Array, content: ContentHash | None = None) -> None: ...

    def finish(self) -> Tally: ...

    def mark_nonzeros(self, chunks: Iterable[Array], start: int, marks: Marks) -> bool: ...


class Counter:
    """Counts on the CPU, for one thread; its tables of 1.2 MiB are reused for the next tensor."""

    def __init__(self) -> None:
        self._tables = {8: np.zeros((4, 1 << 8), np.uint32), 16: np.zeros((2, 1 << 16), np.uint32)}
        self._codes = np.empty(1 << 16, np.uint16)
        self._counts = np.empty(1 << 16, np.int64)
        self._are_tables_used = False
        self.begin("U8", 0, None)

    def begin(self, code: str, elements: int, near_zero: float | None) -> None:
        """Start with the next `elements` elements of a type: under 2**32, the range of a table's entries."""
        self._dtype = DTYPES[code]
        self._is_few = elements <= FEW_ELEMENTS
        self._near_zero = -1.0 if near_zero is None else near_zero
        is_packed = self._dtype.bits < 8
        self._packed = PackedCodes(self._dtype.bits, elements) if is_packed else None
        self._packed_counts = np.zeros(1 << self._dtype.bits if is_packed else 0, np.int64)
        self._is_mixed = self._dtype.bits == 8 or (self._dtype.bits == 16 and not self._is_few) or code == "F32"
        self._few_distinct: int | None = None
        self._wide_counts = np.zeros(4, np.int64)
        self._ends = np.array([np.inf, -np.inf])
        self._rows: list[Array] = []
        if self._are_tables_used:  # the last tensor was not finished
            cpu.drain(self._tables[8], self._codes, self._counts)
            cpu.drain(self._tables[16], self._codes, self._counts)
        self._are_tables_used = False

    def add(self, chunk: Array, content: ContentHash | None = None) -> None:
        """Count a chunk of bytes, and mix it into its content hash. All chunks but the last are a multiple of 32 KiB."""
        dtype = self._dtype
        state: tuple[bytearray, ...] = ()
        if content is not None and content.state is not None and self._is_mixed:
            state = (content.state,)
        elif content is not None:
            content.update(chunk)
        if self._packed is not None:
            self._packed_counts += np.bincount(self._packed.unpack(chunk), minlength=self._packed_counts.size)
        elif dtype.kind == "complex":
            self._add_complex(chunk.view(f"c{dtype.bits // 8}"))
        elif dtype.bits <= 16:
            self._add_codes(chunk.view(f"u{dtype.bits // 8}"), *state)
        elif dtype.code == "F32":
            self._add_floats(chunk, *state)
        else:
            values, keys = values_and_keys(dtype.code, chunk)
            cpu.moments(values, self._near_zero, self._wide_counts, self._ends, self._new_rows(values))
            self._add_codes(keys)

    def finish(self) -> Tally:
        """The tally of all that was added since `begin`."""
        if self._packed is not None:
            codes = np.flatnonzero(self._packed_counts)
            return Tally(codes, self._packed_counts[codes])
        codes, counts = self._distinct_codes()
        if self._dtype.bits <= 16:
            return Tally(codes, counts)
        zeros, nans, infs, near_zeros = self._wide_counts.tolist()
        rows = np.concatenate(self._rows) if self._rows else None
        return Tally(codes, counts, zeros, nans, infs, near_zeros, float(self._ends[0]), float(self._ends[1]), rows)

    def mark_nonzeros(self, chunks: Iterable[Array], start: int, marks: Marks) -> bool:
        """See mark_on_cpu; always True, as the CPU marks every type."""
        mark_on_cpu(chunks, start, marks)
        return True

    def _distinct_codes(self) -> tuple[Array, Array]:
        """The patterns or keys that were counted and their counts; clears the tables."""
        number = self._few_distinct
        if number is None:
            table = self._tables[min(self._dtype.bits, 16)]
            number = cpu.drain(table, self._codes, self._counts) if self._are_tables_used else 0
            self._are_tables_used = False
        return self._codes[:number].copy(), self._counts[:number].copy()

    def _add_codes(self, codes: Array, *state: bytearray) -> None:
        if self._is_few and codes.itemsize == 2:
            self._few_distinct = cpu.count_few(codes, self._tables[16][0], self._codes, self._counts)
            return
        self._are_tables_used = True
        if codes.itemsize == 1:
            cpu.count_bytes(codes, self._tables[8], *state)
        else:
            whole = codes.size // 4 * 4
            cpu.count_words(codes[:whole].view(np.uint64), codes[whole:], self._tables[16], *state)

    def _add_floats(self, chunk: Array, *state: bytearray) -> None:
        values = chunk.view(np.float32)
        self._are_tables_used = True
        rows = self._new_rows(values)
        cpu.moments_of_floats(values, self._near_zero, self._wide_counts, self._ends, rows, self._tables[16], *state)

    def _add_complex(self, values: Array) -> None:
        with np.errstate(invalid="ignore"):  # a signalling NaN
            is_zero, is_nan = values == 0, np.isnan(values)
        kinds = (is_zero, is_nan, np.isinf(values) & ~is_nan)
        self._wide_counts[:3] += [np.count_nonzero(kind) for kind in kinds]

    def _new_rows(self, values: Array) -> Array:
        """Rows of moments to be filled from values."""
        rows = np.empty((-(-values.size // SUB_BLOCK), ROW))
        self._rows.append(rows)
        return rows
