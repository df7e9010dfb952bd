"""Which rows and columns of a matrix hold a value, and how many values its groups hold: the reference of the C loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.measure.kernels.runs import runs

Array = npt.NDArray[Any]

TOPS_OF_16 = 0x8000_8000_8000_8000
"""The top bit of each 16-bit pattern in a uint64 word."""


def mark_nonzeros(patterns: Array, mask: int, start: int, row_used: Array, column_used: Array, fullest: Array) -> None:
    """Mark the rows and columns of a matrix in C order that hold a value; element 0 of `patterns` is element `start` of it.

    A pattern is zero if its bits under `mask` are. `fullest` (int64, of 4, of 8) rises to the most values in an aligned group
    along a row, for groups that divide the row. The C loop stops raising it once no N:M pattern is left (over 2, over 4).
    """
    is_used = (patterns & patterns.dtype.type(mask)) != 0
    _mark(is_used, start, row_used, column_used)
    for place, group in enumerate((4, 8)):
        if column_used.size % group == 0:
            fullest[place] = max(fullest[place], _fullest(is_used, group))


def mark_nonzero_words(
    words: Array, mask: int, top: int, start: int, row_used: Array, column_flags: Array, fullest: Array
) -> None:
    """mark_nonzeros for 16- or 32-bit patterns, four or two to a uint64 word, of a matrix whose rows are whole groups of eight.

    `mask` and `top` are the mask and the top bit of every pattern in a word, `start` a multiple of eight. `column_flags` has
    the columns as a row of words; the top bit of each pattern is set where its column holds a value. `fullest` rises to what
    decides which N:M patterns are left: 1, 2, or 3 for any more of four; 4, or 5 for any more of eight.
    """
    bits = 16 if int(top) == TOPS_OF_16 else 32
    patterns, flags = (array.view(f"u{bits // 8}") for array in (words, column_flags))
    is_used = (patterns & patterns.dtype.type(int(mask) & ((1 << bits) - 1))) != 0
    columns = np.zeros(flags.size, np.uint8)
    _mark(is_used, start, row_used, columns)
    flags |= columns.astype(flags.dtype) << (bits - 1)
    if is_used.any():
        fullest[0] = max(fullest[0], min(_fullest(is_used, 4), 3))
        fullest[1] = max(fullest[1], min(max(_fullest(is_used, 8), 4), 5))


def _mark(is_used: Array, start: int, row_used: Array, column_used: Array) -> None:
    for run in runs(start, is_used.size, column_used.size):
        part = is_used[run.position : run.position + run.rows * run.width].reshape(run.rows, run.width)
        row_used[run.row + np.flatnonzero(part.any(axis=1))] = 1  # not `|=`: a read would race with other threads
        column_used[run.column : run.column + run.width] |= part.any(axis=0)


def _fullest(is_used: Array, group: int) -> int:
    """The most True values in an aligned group of 4 or 8: the bits that are set in a word of as many bytes."""
    return int(np.bitwise_count(is_used.view(f"u{group}")).max(initial=0))
