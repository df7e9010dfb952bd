"""Brings the bytes of tensors into the page cache before they are counted, by threads that only wait for the disk.

Threads that read and count in turn leave the disk idle, and each tensor restarts the kernel's readahead.
posix_fadvise(WILLNEED) keeps a disk busy, but Linux then allocates single pages of 4 KiB: many small requests for the disk, and
one step of the processor for each page. Here the bytes of the next tensors are spliced through a pipe to /dev/null. That copies
nothing, and long runs become large requests into large pages. Threads that count wait for bytes on their way
(`Prefetch.arrived`) and do not read them meanwhile.

Without splice, or if it fails, bytes are read when they are needed, and errors are reported by that read.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, Self

from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io.file_window import is_cached
from layerhouse.ingest.measure.io.files import open_file
from layerhouse.ingest.measure.io.strides import bytes_in_file

AHEAD_BYTES = 1 << 27
"""Bytes that are prefetched ahead of those that are being counted."""

STREAMS = 4
"""Threads, each with a piece of its own; they take hardly any processor time."""

PIECE_BYTES = 1 << 25
"""Bytes in a row that one thread reads; each new start costs some MiB of small pages."""

MOST_PIECES = 64
"""Pieces on their way at once, where tensors lie far apart."""

STEP_BYTES = 1 << 20
"""Bytes of one splice: the greatest pipe that any user may have by default. The disk is asked for all of them at once, whatever
limit of readahead is set."""

GAP_BYTES = 1 << 16
"""Bytes between two tensors that are read along."""


class Piece(NamedTuple):
    """A part of a file, and the number of bytes of tensors before it."""

    position: int
    path: Path
    offset: int
    size: int


def pieces_of(refs: Iterable[TensorRef]) -> Iterator[Piece]:
    """The parts of files that tensors read, in their order, at most PIECE_BYTES each; tensors beside each other share a piece.

    Tensors that are not one run of a file are left out.
    """
    position = start = low = high = 0
    path: Path | None = None
    for ref in refs:
        place = bytes_in_file(ref)
        if place is not None:
            offset, size = place
            if path != ref.path or not low <= offset <= high + GAP_BYTES:
                if path is not None and low < high:
                    yield Piece(start, path, low, high - low)
                path, start, low, high = ref.path, position, offset, offset
            high = max(high, offset + size)
            while high - low > PIECE_BYTES:
                yield Piece(start, ref.path, low, PIECE_BYTES)
                start, low = start + PIECE_BYTES, low + PIECE_BYTES
        position += ref.logical_bytes
    if path is not None and low < high:
        yield Piece(start, path, low, high - low)


class _Arrival:
    """A piece on its way: its bytes before byte `front` of the file have arrived."""

    def __init__(self, piece: Piece) -> None:
        self.path, self.front, self.end = piece.path, piece.offset, piece.offset + piece.size


class Prefetch:
    """Prefetches the bytes of tensors as counting comes near them. Thread-safe; must be closed."""

    def __init__(self, refs: Iterable[TensorRef]) -> None:
        self._pieces = pieces_of(refs) if hasattr(os, "splice") and hasattr(os, "RWF_NOWAIT") else iter(())
        self._next = next(self._pieces, None)
        self._next_lock = threading.Lock()
        self._condition = threading.Condition()
        self._waiting: deque[_Arrival] = deque()
        self._on_way: list[_Arrival] = []
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def close(self) -> None:
        """Stop the threads at their next step, and wake up whoever waits for their bytes."""
        self._end()
        for thread in self._threads:
            thread.join()

    @property
    def has_prefetched(self) -> bool:
        """Whether some bytes so far were not in the page cache."""
        return bool(self._threads)

    def reach(self, position: int) -> None:
        """Report that the bytes after `position` bytes of tensors are being read: starts the pieces up to AHEAD_BYTES
        further."""
        with self._next_lock:
            due: list[_Arrival] = []
            while self._next is not None and self._next.position < position + AHEAD_BYTES:
                if len(self._on_way) + len(due) >= MOST_PIECES:
                    break
                if not _is_in_cache(self._next):
                    due.append(_Arrival(self._next))
                self._next = next(self._pieces, None)
            if due:
                try:
                    self._send(due)
                except RuntimeError:  # the system allows no more threads
                    self._end()

    def arrived(self, path: Path, offset: int, size: int, least: int) -> int:
        """Wait until at least `least` of `size` bytes of a file, from byte `offset` on, are no longer on their way.

        Returns how many bytes in a row from `offset` on are not on their way: they have arrived, or are not prefetched at all.
        """
        with self._condition:
            while True:
                end = offset + size
                for piece in self._on_way:
                    if piece.path == path and piece.front < end and piece.end > offset:
                        end = max(piece.front, offset)
                if self._is_closed:
                    return size
                if end - offset >= min(size, least):
                    return end - offset
                self._condition.wait()

    def _send(self, due: list[_Arrival]) -> None:
        with self._condition:
            while len(self._threads) < STREAMS and not self._is_closed:
                thread = threading.Thread(target=self._work, name=f"prefetch-{len(self._threads)}", daemon=True)
                thread.start()
                self._threads.append(thread)
            self._on_way.extend(due)
            self._waiting.extend(due)
            self._condition.notify_all()

    def _end(self) -> None:
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def _work(self) -> None:
        """Read pieces until closed; the body of a thread."""
        try:
            with suppress(OSError), _Drain() as drain:  # an OSError: no more files may be opened
                while (piece := self._take()) is not None:
                    self._read_piece(piece, drain)
                    with self._condition:
                        self._on_way.remove(piece)
                        self._condition.notify_all()
        finally:
            self._end()  # nobody may wait for bytes that no thread reads any more

    def _take(self) -> _Arrival | None:
        with self._condition:
            while not self._waiting and not self._is_closed:
                self._condition.wait()
            return None if self._is_closed else self._waiting.popleft()

    def _read_piece(self, piece: _Arrival, drain: _Drain) -> None:
        with suppress(OSError, OverflowError, ValueError):
            file = open_file(piece.path)
            try:
                while piece.front < piece.end and not self._is_closed:
                    count = drain.read(file, piece.front, min(STEP_BYTES, piece.end - piece.front))
                    if count == 0:
                        return
                    with self._condition:
                        piece.front += count
                        self._condition.notify_all()
            finally:
                os.close(file)


class _Drain:
    """A pipe that ends in /dev/null."""

    def __init__(self) -> None:
        import fcntl

        with ExitStack() as stack:
            self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, self._null)
            self._read_end, self._write_end = os.pipe()
            stack.callback(os.close, self._read_end)
            stack.callback(os.close, self._write_end)
            with suppress(OSError):  # a user with many pipes gets small ones
                fcntl.fcntl(self._write_end, fcntl.F_SETPIPE_SZ, STEP_BYTES)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, file: int, offset: int, size: int) -> int:
        """Read and discard some of `size` bytes of a file; returns how many, 0 at its end."""
        count = left = os.splice(file, self._write_end, size, offset)
        while left:
            left -= os.splice(self._read_end, self._null, left)
        return count


def _is_in_cache(piece: Piece) -> bool:
    """Whether a piece is in the page cache; where the system does not tell, whether its last byte is.

    False if that is unknown too, as on NFS before Linux 6.5.
    """
    with suppress(OSError, OverflowError, ValueError):
        file = open_file(piece.path)
        try:
            is_all_cached = is_cached(file, piece.offset, piece.size)
            if is_all_cached is not None:
                return is_all_cached
            return os.preadv(file, [bytearray(1)], piece.offset + piece.size - 1, os.RWF_NOWAIT) == 1
        finally:
            os.close(file)
    return False
