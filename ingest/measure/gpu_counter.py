"""Counting on a device of torch, with the results of the CPU to the bit.

The device counts types of 8 and 16 bits in tensors that are not small (counter.fits_device), and marks the zeros of their rows,
columns and groups. The CPU counts the rest: small tensors take longer to send than to count; sums of 32- and 64-bit types have
a fixed order of additions, and a device adds in another one; packed and complex types are rare.

Bytes are collected in two page-locked buffers in turn. Each has its own stream, on which its copy and count run while the
thread reads, hashes and collects into the other one. The table has several lanes, chosen by the element's index, so that equal
neighbours (zeros above all) increment different entries and need not wait for each other; integer additions give the same sum
in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.measure.content_hash import ContentHash
from layerhouse.ingest.measure.counter import Counter, fits_device
from layerhouse.ingest.measure.device_errors import device_errors
from layerhouse.ingest.measure.kernels.runs import runs
from layerhouse.ingest.measure.marks import Marks
from layerhouse.ingest.measure.tally import Tally

Array = npt.NDArray[Any]

STAGE_BYTES = 1 << 23
"""Bytes that are sent and counted at once."""

TABLE_BITS = 19
"""A table has 2**19 entries: 8 lanes of 16-bit patterns, or 2048 lanes of 8-bit ones; 2 MiB, which stay in a GPU's cache."""

LOW_16_BITS = 0xFFFF


class DeviceCounter:
    """Counts on a device, for one thread. Memory: under 300 MiB on the device; 16 MiB of page-locked memory on the host."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._cpu = Counter()
        self._is_on_cpu = True
        self._bits = 16
        with self._device_errors():
            self._stages = [_Stage(self.device), _Stage(self.device)]
            self._table = torch.zeros(1 << TABLE_BITS, dtype=torch.int32, device=self.device)
            self._one = torch.ones(1, dtype=torch.int32, device=self.device)
            places = torch.arange(STAGE_BYTES, device=self.device, dtype=torch.int64)
            self._lanes = {bits: (places[: STAGE_BYTES * 8 // bits] << bits) & ((1 << TABLE_BITS) - 1) for bits in (8, 16)}
            _synchronize(self.device)

    def begin(self, code: str, elements: int, near_zero: float | None) -> None:
        """Start with the next `elements` elements of a type: under 2**31, the range of the table's entries."""
        self._bits = DTYPES[code].bits
        self._is_on_cpu = not fits_device(code, elements)
        if self._is_on_cpu:
            self._cpu.begin(code, elements, near_zero)
            return
        with self._device_errors():
            self._discard()
            self._table.zero_()
            _synchronize(self.device)

    def add(self, chunk: Array, content: ContentHash | None = None) -> None:
        """Count a chunk of bytes, which may be overwritten afterwards, and mix it into its content hash."""
        if self._is_on_cpu:
            self._cpu.add(chunk, content)
            return
        if content is not None:
            content.update(chunk)
        with self._device_errors():
            while chunk.size:
                stage = self._stages[0]
                chunk = chunk[stage.collect(chunk) :]
                if stage.filled == STAGE_BYTES:
                    stage.send(self._count)
                    self._stages.reverse()
                    self._stages[0].wait()

    def finish(self) -> Tally:
        """The tally of all that was added since `begin`."""
        if self._is_on_cpu:
            return self._cpu.finish()
        with self._device_errors():
            self._stages[0].send(self._count)
            for stage in self._stages:
                stage.wait()
            counts = self._table.view(-1, 1 << self._bits).sum(0, dtype=torch.int64).cpu().numpy()
        codes = np.flatnonzero(counts)
        return Tally(codes.astype(np.uint16), counts[codes])

    def mark_nonzeros(self, chunks: Iterable[Array], start: int, marks: Marks) -> bool:
        """Do what mark_on_cpu does; False, with nothing done, for matrices that the device does not count."""
        if not fits_device(marks.code, marks.rows.size * marks.columns.size):
            return False
        bits = DTYPES[marks.code].bits
        with self._device_errors():
            self._discard()
            marker = _Marker(marks, self.device)
            _synchronize(self.device)
            for piece in _pieces(chunks):
                stage = self._stages[0]
                stage.collect(piece)
                elements = stage.filled * 8 // bits
                stage.send(partial(marker.mark, start=start))
                stage.wait()
                start += elements
            marker.finish()
        return True

    def _discard(self) -> None:
        """Discard what an unfinished tensor left in the buffers."""
        for stage in self._stages:
            stage.wait()
            stage.filled = 0

    def _count(self, data: torch.Tensor) -> None:
        keys = data.to(torch.int64) if self._bits == 8 else data.view(torch.int16).to(torch.int64) & LOW_16_BITS
        keys += self._lanes[self._bits][: keys.numel()]
        self._table.scatter_add_(0, keys, self._one.expand(keys.numel()))

    def _device_errors(self) -> AbstractContextManager[None]:
        return device_errors(str(self.device), "count")


class _Marker:
    """Marks of one search, columns and groups on the device until `finish`."""

    def __init__(self, marks: Marks, device: torch.device) -> None:
        self._marks, self._is_byte = marks, DTYPES[marks.code].bits == 8
        self._columns = torch.zeros(marks.columns.size, dtype=torch.bool, device=device)
        self._fullest = torch.zeros(2, dtype=torch.int64, device=device)

    def mark(self, data: torch.Tensor, start: int) -> None:
        """Mark a run of bytes that begins at element `start` of the matrix."""
        patterns = data if self._is_byte else data.view(torch.int16)
        is_used = (patterns & _as_signed(self._marks.mask, patterns.dtype)) != 0
        width = self._marks.columns.size
        for run in runs(start, is_used.numel(), width):
            part = is_used[run.position : run.position + run.rows * run.width].view(run.rows, run.width)
            columns = self._columns[run.column : run.column + run.width]
            columns |= part.any(0)
            used_rows = np.flatnonzero(part.any(1).cpu().numpy())
            self._marks.rows[run.row + used_rows] = 1  # not `|=`: a read would race with threads that set other rows
        for place, group in enumerate((4, 8)):
            if width % group == 0:
                most = is_used.view(-1, group).sum(1, dtype=torch.int64).max()
                self._fullest[place] = torch.maximum(self._fullest[place], most)

    def finish(self) -> None:
        """Copy the marks of columns and groups to the host."""
        columns, fullest = self._marks.columns, self._marks.fullest
        np.bitwise_or(columns, self._columns.cpu().numpy().view(np.uint8), out=columns)
        np.maximum(fullest, self._fullest.cpu().numpy(), out=fullest)


class _Stage:
    """One of the two buffers: page-locked memory on the host, its copy on the device, and a stream for both."""

    def __init__(self, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self._host = torch.empty(STAGE_BYTES, dtype=torch.uint8, pin_memory=is_cuda)
        self._host_view = self._host.numpy()
        self._copy = torch.empty(STAGE_BYTES, dtype=torch.uint8, device=device)
        self._stream = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]
        self.filled = 0

    def collect(self, chunk: Array) -> int:
        """Copy as much of a chunk as there is room for; returns how many bytes."""
        count = min(chunk.size, STAGE_BYTES - self.filled)
        self._host_view[self.filled : self.filled + count] = chunk[:count]
        self.filled += count
        return count

    def send(self, use: Callable[[torch.Tensor], None]) -> None:
        """Copy the collected bytes to the device and use them there, both in the order of the stream."""
        if not self.filled:
            return
        scope: AbstractContextManager[Any] = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with scope:
            data = self._copy[: self.filled]
            data.copy_(self._host[: self.filled], non_blocking=True)
            use(data)
        self.filled = 0

    def wait(self) -> None:
        """Return when the stream is idle, so that both buffers may be filled again."""
        if self._stream is not None:
            self._stream.synchronize()


def _pieces(chunks: Iterable[Array]) -> Iterator[Array]:
    """The chunks, cut so that each fits a stage."""
    for chunk in chunks:
        for low in range(0, chunk.size, STAGE_BYTES):
            yield chunk[low : low + STAGE_BYTES]


def _as_signed(mask: int, dtype: torch.dtype) -> int:
    """A mask of 16 bits as the int16 that torch takes."""
    return mask - (1 << 16) if dtype == torch.int16 and mask >> 15 else mask


def _synchronize(device: torch.device) -> None:
    """Wait for the thread's default stream, so that other streams see its results."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
