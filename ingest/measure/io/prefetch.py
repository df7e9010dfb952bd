"""Has the system read the bytes of tensors before they are counted, by threads that wait for the disk and do nothing else.

Threads that read and count by turns leave a disk idle, and every tensor that they come to is a new start for the system's
reading ahead. Hints (posix_fadvise, WILLNEED) keep a disk busy, but Linux answers them with single pages of 4 KiB, which take a
disk many small requests and a processor a step each. So what follows in the order of the tensors is drawn through a pipe to
/dev/null (splice): nothing is copied, and long runs come as large requests into large pages. Who counts waits for what is on
its way (`Prefetch.arrived`) and does not read in between.

Where there is no splice, or it fails, the same bytes are read when they are asked for, and who reads them says what is wrong.
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
from layerhouse.ingest.measure.io.tensor_reader import bytes_in_file

AHEAD_BYTES = 1 << 27
"""Bytes that are drawn before those that are counted now."""

STREAMS = 4
"""Threads that draw, each a piece of its own, which takes them hardly any processor time."""

PIECE_BYTES = 1 << 25
"""Bytes in a row that one thread draws; a new start costs some MiB of small pages."""

MOST_PIECES = 64
"""Pieces on their way at once, where tensors lie far apart."""

STEP_BYTES = 1 << 20
"""What is asked of the system at once: the most that anyone's pipe may hold by default. Linux asks the disk for all of it,
however little that is set to read ahead."""

GAP_BYTES = 1 << 16
"""Bytes between two tensors that are read along."""


class Piece(NamedTuple):
    """A part of a file, and how many bytes of tensors come before it."""

    position: int
    path: Path
    offset: int
    size: int


def pieces_of(refs: Iterable[TensorRef]) -> Iterator[Piece]:
    """What tensors read of files, in their order, at most PIECE_BYTES each; those that lie beside each other are one.

    Nothing of a tensor that is put together from others or not in one run.
    """
    position = start = low = high = 0
    path: Path | None = None
    for ref in refs:
        found = bytes_in_file(ref)
        if found is not None:
            offset, size = found
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
    """A piece on its way: its bytes before the byte `front` of the file are there."""

    def __init__(self, piece: Piece) -> None:
        self.path, self.front, self.end = piece.path, piece.offset, piece.offset + piece.size


class Prefetch:
    """Draws the bytes of tensors into the system's cache as they come nearer; for any threads. To be closed at the end."""

    def __init__(self, refs: Iterable[TensorRef]) -> None:
        self._pieces = pieces_of(refs) if hasattr(os, "splice") and hasattr(os, "RWF_NOWAIT") else iter(())
        self._next = next(self._pieces, None)
        self._choice = threading.Lock()
        self._turn = threading.Condition()
        self._waiting: deque[_Arrival] = deque()
        self._on_way: list[_Arrival] = []
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def close(self) -> None:
        """End what is on its way at the next step; nobody waits for it any more."""
        self._end()
        for thread in self._threads:
            thread.join()

    @property
    def has_drawn(self) -> bool:
        """Whether anything so far was not there and had to be drawn."""
        return bool(self._threads)

    def reach(self, position: int) -> None:
        """Say that what has `position` bytes of tensors before it is read now."""
        with self._choice:
            due: list[_Arrival] = []
            while self._next is not None and self._next.position < position + AHEAD_BYTES:
                if len(self._on_way) + len(due) >= MOST_PIECES:
                    break
                if not _is_there(self._next):
                    due.append(_Arrival(self._next))
                self._next = next(self._pieces, None)
            if due:
                try:
                    self._send(due)
                except RuntimeError:  # no more threads may be started
                    self._end()

    def arrived(self, path: Path, offset: int, size: int, least: int) -> int:
        """Wait until at least `least` of `size` bytes of a file, from byte `offset` on, are not on their way any more.

        Returns how many are not, of those in a row from `offset` on: they are there, or nobody draws them.
        """
        with self._turn:
            while True:
                end = offset + size
                for piece in self._on_way:
                    if piece.path == path and piece.front < end and piece.end > offset:
                        end = max(piece.front, offset)
                if self._is_closed:
                    return size
                if end - offset >= min(size, least):
                    return end - offset
                self._turn.wait()

    def _send(self, due: list[_Arrival]) -> None:
        with self._turn:
            while len(self._threads) < STREAMS and not self._is_closed:
                thread = threading.Thread(target=self._draw, name=f"draw-{len(self._threads)}", daemon=True)
                thread.start()
                self._threads.append(thread)
            self._on_way.extend(due)
            self._waiting.extend(due)
            self._turn.notify_all()

    def _end(self) -> None:
        with self._turn:
            self._is_closed = True
            self._turn.notify_all()

    def _draw(self) -> None:
        """Draw pieces until closed; the body of a thread."""
        try:
            with suppress(OSError), _Drain() as drain:  # no more files may be open
                while (piece := self._take()) is not None:
                    self._draw_piece(piece, drain)
                    with self._turn:
                        self._on_way.remove(piece)
                        self._turn.notify_all()
        finally:
            self._end()  # whatever ended it, nobody may wait for what does not come

    def _take(self) -> _Arrival | None:
        with self._turn:
            while not self._waiting and not self._is_closed:
                self._turn.wait()
            return None if self._is_closed else self._waiting.popleft()

    def _draw_piece(self, piece: _Arrival, drain: _Drain) -> None:
        with suppress(OSError, OverflowError, ValueError):
            file = os.open(piece.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while piece.front < piece.end and not self._is_closed:
                    count = drain.draw(file, piece.front, min(STEP_BYTES, piece.end - piece.front))
                    if count == 0:
                        return
                    with self._turn:
                        piece.front += count
                        self._turn.notify_all()
            finally:
                os.close(file)


class _Drain:
    """A pipe, and /dev/null at its end."""

    def __init__(self) -> None:
        import fcntl

        with ExitStack() as stack:
            self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, self._null)
            self._out, self._into = os.pipe()
            stack.callback(os.close, self._out)
            stack.callback(os.close, self._into)
            with suppress(OSError):  # a user with very many pipes gets small ones
                fcntl.fcntl(self._into, fcntl.F_SETPIPE_SZ, STEP_BYTES)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def draw(self, file: int, offset: int, size: int) -> int:
        """Read some of so many bytes of a file and forget them; how many, 0 at its end."""
        count = left = os.splice(file, self._into, size, offset)
        while left:
            left -= os.splice(self._out, self._null, left)
        return count


def _is_there(piece: Piece) -> bool:
    """Whether the bytes are there to be read without waiting, or at least the last, where no more is to be known.

    Where not even that is, as of NFS before Linux 6.5, they are not.
    """
    with suppress(OSError, OverflowError, ValueError):
        file = os.open(piece.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            said = is_cached(file, piece.offset, piece.size)
            return os.preadv(file, [bytearray(1)], piece.offset + piece.size - 1, os.RWF_NOWAIT) == 1 if said is None else said
        finally:
            os.close(file)
    return False
