"""Has the system read the bytes of tensors before they are asked for.

Threads that read and count by turns leave a disk idle, and the system's own guesses start small at each tensor. What follows in
the order of the tensors is therefore announced AHEAD_BYTES before (posix_fadvise). All of it are hints: where there are none,
or they fail, the same bytes are read later.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from layerhouse.ingest.streaming import bytes_in_file
from layerhouse.ingest.tensors import TensorRef

AHEAD_BYTES = 1 << 26
"""Bytes that are announced before those that are read now."""

HINT_BYTES = 1 << 20
"""What one hint announces: Linux drops what is beyond the larger of a disk's reading ahead and its largest request."""

PIECE_BYTES = 1 << 23
"""Bytes of which the last is looked for in the system's cache: if it is there, all of them count as being there."""

GAP_BYTES = 1 << 16
"""Bytes between two tensors that are read along."""


class Piece(NamedTuple):
    """A part of a file, and how many bytes of tensors come before it."""

    position: int
    path: Path
    offset: int
    size: int


def pieces(refs: Iterable[TensorRef]) -> Iterator[Piece]:
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


class Prefetch:
    """Announces the bytes of tensors to the system as they come nearer; for any threads."""

    def __init__(self, refs: Iterable[TensorRef]) -> None:
        self._pieces = pieces(refs) if hasattr(os, "posix_fadvise") and hasattr(os, "RWF_NOWAIT") else iter(())
        self._next = next(self._pieces, None)
        self._lock = threading.Lock()

    def reach(self, position: int) -> None:
        """Say that what has `position` bytes of tensors before it is read now."""
        due = []
        with self._lock:
            while self._next is not None and self._next.position < position + AHEAD_BYTES:
                due.append(self._next)
                self._next = next(self._pieces, None)
        for path, parts in groupby(due, key=lambda piece: piece.path):
            announce(path, [(piece.offset, piece.size) for piece in parts])


def announce(path: Path, parts: Iterable[tuple[int, int]]) -> None:
    """Have the system begin to read parts of a file (offset, size) that are not in its cache."""
    with suppress(OSError, OverflowError):  # hints; whoever reads the bytes says what is wrong
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for start, size in parts:
                if not _is_cached(file, start + size - 1):
                    for offset in range(start, start + size, HINT_BYTES):
                        os.posix_fadvise(file, offset, min(HINT_BYTES, start + size - offset), os.POSIX_FADV_WILLNEED)
        finally:
            os.close(file)


def _is_cached(file: int, offset: int) -> bool:
    """Whether a byte is there to be read without waiting; where a file system cannot say so, as NFS, it is not."""
    try:
        os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT)
    except OSError:
        return False
    return True
