"""Maps parts of files that are in the page cache, so that they need not be copied.

A copy out of the page cache takes about as long as counting what was copied. A window is a range of memory that parts of a file
are mapped to, one after the other. Only bytes that are all in the page cache are mapped; others are read with `preadv`, so that
disk errors are errors of a call. A page that disappears after that (the file was cut, the disk failed) raises SIGBUS when it is
read. A signal handler (_file_window.c) then maps zeros there and continues; `is_intact` reports it afterwards.

A signal handler belongs to the whole process, so the library never installs one on its own: no file is mapped until the program
calls `use_mappings` or asks for it in a call of `layerhouse.ingest`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

try:
    from layerhouse.ingest.measure.io import _file_window as pages
except ImportError:  # not Linux, or installed without a compiler
    pages = None  # type: ignore[assignment]

LEAST_BYTES = 1 << 18
"""Fewer bytes are copied faster than they are mapped."""

PIECE_BYTES = 1 << 24
"""Bytes that are mapped for one chunk."""

WINDOW_BYTES = 1 << 25
"""Bytes that one mapping covers, for several chunks: unmapping flushes the TLB on every core that runs this process."""

ALIGN = 1 << 21
"""Windows begin and end at multiples of a huge page, in memory and in the file: one page-table entry can map all of it."""

GRAIN = 8
"""Bytes that do not start at a multiple of this are copied, because numpy's loops need aligned values."""

_are_mappings_used = False


def use_mappings() -> bool:
    """Let readers map files from now on; returns whether they do: False off Linux and without the C extension.

    While a window is open, this process has a handler of SIGBUS. It handles faults in windows and passes others to the handler
    that was there before. With the last window the former handler is restored.
    """
    global _are_mappings_used  # noqa: PLW0603
    _are_mappings_used = pages is not None
    return _are_mappings_used


@contextmanager
def mappings_used() -> Iterator[None]:
    """A context in which readers map files. After it they do as before."""
    global _are_mappings_used  # noqa: PLW0603
    before = _are_mappings_used
    use_mappings()
    try:
        yield
    finally:
        _are_mappings_used = before


def is_cached(file: int, offset: int, size: int) -> bool | None:
    """Whether all of these bytes of an open file are in the page cache; None if the system does not tell.

    Linux tells it since 6.5, for files that the user owns or may write.
    """
    return None if pages is None else pages.is_cached(file, offset, size)


class FileWindow:
    """Maps parts of files of up to `size` bytes, for one thread. An array that `map` returns changes with the next call."""

    def __init__(self, size: int) -> None:
        length = -(-size // ALIGN) * ALIGN + 2 * ALIGN  # room to align both the memory and the part of the file
        self._memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
        self._bytes: npt.NDArray[Any] = np.frombuffer(self._memory, np.uint8)
        self._number = pages.open_window(self._memory)
        self._end = 0

    @classmethod
    def of(cls, size: int) -> Self | None:
        """A window, or None: before `use_mappings`, off Linux, without the C extension, or if too many are open."""
        if pages is None or not _are_mappings_used:
            return None
        window = cls(size)
        return window if window._number >= 0 else None

    def map(self, file: int, offset: int, size: int) -> npt.NDArray[Any] | None:
        """`size` bytes from byte `offset` of an open file on as uint8, or None if they are to be read.

        Call `unmap` before another file.
        """
        if size < LEAST_BYTES or offset % GRAIN:
            return None
        position = pages.map_bytes(self._number, file, offset, size)
        if position < 0:
            return None
        self._end = offset + size
        return self._bytes[position : position + size]

    def is_intact(self, file: int) -> bool:
        """After the mapped bytes were used: whether they were the file's, to the last."""
        return not pages.is_damaged(self._number) and os.fstat(file).st_size >= self._end

    def unmap(self) -> None:
        """Unmap the file."""
        pages.unmap(self._number)

    def close(self) -> None:
        """Close the window."""
        if self._number >= 0:
            pages.close_window(self._number)
            self._number = -1
