"""A file's bytes where the system holds them already, instead of a copy of them.

Copying out of the system's cache takes about as long as counting what was copied. A window is a range of memory that pages of a
file are mapped to, one part of the file after another. It shows only bytes that are all in the cache or on their way there, so
that a disk is waited for by `preadv`, or for what was asked of it already. Two things make up for the dangers of mappings:
pages that are gone when they are read, as the file was cut or the disk failed, turn into zeros and do not end the process
(_file_window.c), and `is_whole` says afterwards whether they did, or the file has become shorter.
"""

from __future__ import annotations

import mmap
import os
from typing import Any, Self

import numpy as np
import numpy.typing as npt

try:
    from layerhouse.ingest.measure.io import _file_window as pages
except ImportError:  # no Linux, or no compiler when it was installed
    pages = None  # type: ignore[assignment]

LEAST_BYTES = 1 << 18
"""Fewer bytes are copied in less time than they are mapped."""

PIECE_BYTES = 1 << 24
"""Bytes that are shown at once."""

WINDOW_BYTES = 1 << 25
"""Bytes that are mapped at once: what was mapped before ends, which is a word to every processor that this process runs on."""

ALIGN = 1 << 21
"""What a window begins and ends at multiples of, in memory and in the file."""

GRAIN = 8
"""Bytes that do not start at a multiple of this are copied, so that values lie where the loops of numpy want them."""


def is_cached(file: int, offset: int, size: int) -> bool | None:
    """Whether all of these bytes of an open file are in the system's cache; None where it does not say.

    Linux says it since 6.5, of files that are one's own or that one may write.
    """
    return None if pages is None else pages.is_cached(file, offset, size)


def use_mappings() -> bool:
    """Read cached files through memory maps from now on; return whether that is possible here."""
    return pages is not None


class FileWindow:
    """Shows parts of files of up to `size` bytes, to one thread. The arrays that it hands out change with the next one."""

    def __init__(self, size: int) -> None:
        span = -(-size // ALIGN) * ALIGN + 2 * ALIGN  # as neither memory nor what is shown need start at a multiple of it
        self._memory = mmap.mmap(-1, span, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
        self._bytes: npt.NDArray[Any] = np.frombuffer(self._memory, np.uint8)
        self._number = pages.watch(self._memory)
        self._end = 0

    @classmethod
    def of(cls, size: int) -> Self | None:
        """A window, or None where there are none: not on Linux, not built, or too many at once."""
        if pages is None:
            return None
        window = cls(size)
        return window if window._number >= 0 else None

    def show(self, file: int, offset: int, size: int) -> npt.NDArray[Any] | None:
        """`size` bytes from byte `offset` of an open file on as uint8, or None if they are to be copied.

        All until `hide` are to be of one file.
        """
        if size < LEAST_BYTES or offset % GRAIN:
            return None
        at = pages.show(self._number, file, offset, size)
        if at < 0:
            return None
        self._end = offset + size
        return self._bytes[at : at + size]

    def is_whole(self, file: int) -> bool:
        """Whether all that was shown last was the file's, asked after it was read."""
        return not pages.is_torn(self._number) and os.fstat(file).st_size >= self._end

    def hide(self) -> None:
        """Let go of the file that was shown."""
        pages.hide(self._number)

    def close(self) -> None:
        """End the window."""
        if self._number >= 0:
            pages.unwatch(self._number)
            self._number = -1
