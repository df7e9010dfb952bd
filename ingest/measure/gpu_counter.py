"""Counting on a device of torch, with the same outcome to the bit as on the CPU.

Counted there: types of 8 and 16 bits in tensors that are not small (histogram.fits_device), and the zeros of their rows,
columns and groups. The rest goes to the CPU's counter: small tensors cost more to send than to count; 32- and 64-bit types have
sums in a fixed order of additions, which a device gives in another; packed and complex types are rare.

Bytes are collected in two page-locked buffers in turn. Each has a stream of its own, on which its copy and its count run while
the thread reads, hashes and collects into the other one. A count adds ones to a table of a lane for every few elements, so
that equal neighbours (zeros above all) do not wait for each other; integer additions give the same in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from layerhouse.errors import UsageError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.measure.content_hash import ContentHash
from layerhouse.ingest.measure.counter import (
    Array,
    Counter,
    Tally,
    fits_device,
)

STAGE_BYTES = 1 << 23
"""Bytes that are sent and counted at once."""

TABLE_BITS = 19
"""A table has 2^19 entries: 8 lanes of 16-bit patterns, or 2048 of 8-bit ones; 2 MiB, which stays in a GPU's cache."""

MASK = 0xFFFF


class DeviceCounter:
    """A Counter that counts on a device, for one thread. Memory there: under 300 MiB; page-locked memory here: 16 MiB."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._cpu = Counter()
        self._on_cpu = True
        self._bits = 16
        with _refusals(self.device):
            self._stages = [_Stage(self.device), _Stage(self.device)]
            self._table = torch.zeros(1 << TABLE_BITS, dtype=torch.int32, device=self.device)
            self._one = torch.ones(1, dtype=torch.int32, device=self.device)
            places = torch.arange(STAGE_BYTES, device=self.device, dtype=torch.int64)
            self._lanes = {bits: (places[: STAGE_BYTES * 8 // bits] << bits) & ((1 << TABLE_BITS) - 1) for bits in (8, 16)}
            _finish(self.device)

    def begin(self, code: str, elements: int, near_zero: float | None) -> None:
        """Start with the next `elements` elements of a type; under 2^31, the range of the table."""
        self._bits = DTYPES[code].bits
        self._on_cpu = not fits_device(code, elements)
        if self._on_cpu:
            self._cpu.begin(code, elements, near_zero)
            return
        with _refusals(self.device):
            self._give_up()
            self._table.zero_()
            _finish(self.device)

    def add(self, chunk: Array, content: ContentHash | None = None) -> None:
        """Count a chunk of bytes, which may be overwritten afterwards, and mix it into the hash of its content."""
        if self._on_cpu:
            self._cpu.add(chunk, content)
            return
        if content is not None:
            content.update(chunk)
        with _refusals(self.device):
            while chunk.size:
                stage = self._stages[0]
                chunk = chunk[stage.collect(chunk) :]
                if stage.filled == STAGE_BYTES:
                    stage.send(self._count)
                    self._stages.reverse()
                    self._stages[0].wait()

    def finish(self) -> Tally:
        """The tally of all that was added since `begin`."""
        if self._on_cpu:
            return self._cpu.finish()
        with _refusals(self.device):
            self._stages[0].send(self._count)
            for stage in self._stages:
                stage.wait()
            counts = self._table.view(-1, 1 << self._bits).sum(0, dtype=torch.int64).cpu().numpy()
        codes = np.flatnonzero(counts)
        return Tally(codes.astype(np.uint16), counts[codes])

    def mark_nonzeros(
        self, chunks: Iterable[Array], code: str, mask: int, start: int, rows: Array, columns: Array, fullest: Array
    ) -> bool:
        """What histogram.mark_on_cpu does, on the device; False, with nothing done, for types that it does not take."""
        bits, width = DTYPES[code].bits, columns.size
        if not fits_device(code, rows.size * width):
            return False
        with _refusals(self.device):
            self._give_up()
            found = torch.zeros(width, dtype=torch.bool, device=self.device)
            most = torch.zeros(2, dtype=torch.int64, device=self.device)
            _finish(self.device)

            def look(data: torch.Tensor) -> None:
                patterns = data if bits == 8 else data.view(torch.int16)
                used = (patterns & _signed(mask, patterns.dtype)) != 0
                self._mark(used, start, rows, found)
                for place, group in enumerate((4, 8)):
                    if width % group == 0:
                        full = used.view(-1, group).sum(1, dtype=torch.int64).max()
                        most[place] = torch.maximum(most[place], full)

            for piece in self._pieces(chunks):
                stage = self._stages[0]
                stage.collect(piece)
                count = stage.filled * 8 // bits
                stage.send(look)
                stage.wait()
                start += count
            columns |= found.cpu().numpy().view(np.uint8)
            np.maximum(fullest, most.cpu().numpy(), out=fullest)
        return True

    def _give_up(self) -> None:
        """Drop what an unfinished tensor left."""
        for stage in self._stages:
            stage.wait()
            stage.filled = 0

    def _count(self, data: torch.Tensor) -> None:
        keys = data.to(torch.int64) if self._bits == 8 else data.view(torch.int16).to(torch.int64) & MASK
        keys += self._lanes[self._bits][: keys.numel()]
        self._table.scatter_add_(0, keys, self._one.expand(keys.numel()))

    @staticmethod
    def _mark(used: torch.Tensor, start: int, rows: Array, found: torch.Tensor) -> None:
        """Mark rows (here) and columns (there) of a run of elements that begins at element `start` of the matrix."""
        width = found.numel()
        position = 0
        while position < used.numel():
            row, first = divmod(start + position, width)
            whole = (used.numel() - position) // width if first == 0 else 0
            count = whole * width if whole else min(width - first, used.numel() - position)
            part = used[position : position + count].view(max(whole, 1), -1)
            columns = found[first : first + part.shape[1]]
            columns |= part.any(0)
            marked = np.flatnonzero(part.any(1).cpu().numpy())
            rows[row + marked] = 1  # set and never read back, as another thread may have set it
            position += count

    def _pieces(self, chunks: Iterable[Array]) -> Iterator[Array]:
        for chunk in chunks:
            for low in range(0, chunk.size, STAGE_BYTES):
                yield chunk[low : low + STAGE_BYTES]


class _Stage:
    """One of the two buffers: page-locked memory here, its copy there, and a stream on which both are used."""

    def __init__(self, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self._here = torch.empty(STAGE_BYTES, dtype=torch.uint8, pin_memory=is_cuda)
        self._view = self._here.numpy()
        self._there = torch.empty(STAGE_BYTES, dtype=torch.uint8, device=device)
        self._stream = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]
        self.filled = 0

    def collect(self, chunk: Array) -> int:
        """Copy as much of a chunk as there is room for; how many bytes that was."""
        count = min(chunk.size, STAGE_BYTES - self.filled)
        self._view[self.filled : self.filled + count] = chunk[:count]
        self.filled += count
        return count

    def send(self, use: Callable[[torch.Tensor], None]) -> None:
        """Copy what was collected to the device and use it there, both after whatever runs on the stream."""
        if not self.filled:
            return
        scope: AbstractContextManager[Any] = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with scope:
            data = self._there[: self.filled]
            data.copy_(self._here[: self.filled], non_blocking=True)
            use(data)
        self.filled = 0

    def wait(self) -> None:
        """Return once nothing runs on the stream, so that both buffers may be filled again."""
        if self._stream is not None:
            self._stream.synchronize()


def _signed(mask: int, dtype: torch.dtype) -> int:
    """A mask of 16 bits as the int16 that torch takes."""
    return mask - (1 << 16) if dtype == torch.int16 and mask >> 15 else mask


def _finish(device: torch.device) -> None:
    """Wait for what runs on the thread's default stream, so that other streams see it."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


@contextmanager
def _refusals(device: torch.device) -> Iterator[None]:
    """What the device refuses (memory, a lost driver) as one line."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"device {str(device)!r}: {reason}; count on the CPU with --device cpu") from error
