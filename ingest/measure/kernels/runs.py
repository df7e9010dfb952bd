"""A range of elements of a matrix as few rectangles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Run(NamedTuple):
    """A rectangle of a matrix that is one run in C order: several whole rows, or a part of one."""

    position: int
    row: int
    column: int
    rows: int
    width: int


def runs(start: int, size: int, width: int) -> Iterator[Run]:
    """Split `size` elements from element `start` of a matrix on into at most three runs; positions count from `start`."""
    position = 0
    while position < size:
        row, column = divmod(start + position, width)
        rows = (size - position) // width if column == 0 else 0
        length = rows * width if rows else min(width - column, size - position)
        yield Run(position, row, column, max(rows, 1), length // max(rows, 1))
        position += length
