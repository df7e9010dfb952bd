"""Marks for the rows and columns of a matrix that hold a value, and for how many values its groups hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.measure.kernels import cpu

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Marks:
    """What is known of the values of a matrix of type `code`; an element is zero if its bits under `mask` are.

    `rows` and `columns` (uint8) are 1 where a value was seen. `fullest` (int64, of 4, of 8) are the most values in an aligned
    group along a row.
    """

    code: str
    mask: int
    rows: Array
    columns: Array
    fullest: Array


def value_mask(code: str) -> int:
    """The bits that make an element of a type other than zero: all but the signs, in types that have negative zeros."""
    dtype = DTYPES[code]
    everything = (1 << dtype.bits) - 1
    if dtype.special in ("fnuz", "e8m0"):
        return everything
    signs = {"complex": (1 << 31) | (1 << 63), "float": 1 << (dtype.bits - 1)}.get(dtype.kind, 0)
    return everything & ~signs


def mark_on_cpu(chunks: Iterable[Array], start: int, marks: Marks) -> None:
    """Mark what chunks of bytes hold that follow each other from element `start` on.

    Rows of 16- and 32-bit types whose width is a multiple of eight go a 64-bit word at a time: their columns are marked in a
    row of words, and moved to `columns` at the end.
    """
    size = DTYPES[marks.code].bits // 8
    is_by_words = size in (2, 4) and marks.columns.size % 8 == 0 and start % 8 == 0
    flags = np.zeros(marks.columns.size * size // 8 if is_by_words else 0, np.uint64)
    if is_by_words:
        flags.view(f"u{size}")[:] = marks.columns.astype(f"u{size}") << (8 * size - 1)
    masks, tops = (
        np.uint64(sum(bits << place for place in range(0, 64, 8 * size))) for bits in (marks.mask, 1 << (8 * size - 1))
    )
    for chunk in chunks:
        words = chunk.view(np.uint64) if is_by_words and chunk.size % (8 * size) == 0 else None
        if words is not None and words.flags.aligned:
            cpu.mark_nonzero_words(words, masks, tops, start, marks.rows, flags, marks.fullest)
        else:
            patterns = chunk.view(f"u{size}")
            cpu.mark_nonzeros(patterns, np.uint64(marks.mask), start, marks.rows, marks.columns, marks.fullest)
        start += chunk.size // size
    if is_by_words:
        np.bitwise_or(marks.columns, flags.view(f"u{size}") != 0, out=marks.columns)
