"""Where the zeros of a matrix are: zero rows, zero columns, N:M patterns."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.measure.counter import AnyCounter
from layerhouse.ingest.measure.marks import Marks, mark_on_cpu, value_mask
from layerhouse.vocabulary import ZeroPattern

Array = npt.NDArray[Any]


class ZeroStructure:
    """Which rows and columns of a matrix (outputs, inputs) hold no value, and which N:M pattern runs along its inputs.

    Thread-safe: threads may search different parts at once. Rows are shared, as they are only ever set to 1; columns are joined
    under a lock. Memory: a byte for each row, and for each column one byte and one more per thread.
    """

    def __init__(self, code: str, outputs: int, inputs: int) -> None:
        rows, columns = np.zeros(outputs, np.uint8), np.zeros(inputs, np.uint8)
        self._marks = Marks(code, value_mask(code), rows, columns, np.zeros(2, np.int64))
        self._lock = threading.Lock()

    def search(self, chunks: Iterable[Array], start: int, counter: AnyCounter) -> None:
        """Search chunks of bytes that follow each other from element `start` on, a multiple of 8."""
        joint = self._marks
        with self._lock:  # starting from what is known already saves the search for it
            marks = Marks(joint.code, joint.mask, joint.rows, joint.columns.copy(), joint.fullest.copy())
        if not counter.mark_nonzeros(chunks, start, marks):
            mark_on_cpu(chunks, start, marks)
        with self._lock:
            np.bitwise_or(joint.columns, marks.columns, out=joint.columns)
            np.maximum(joint.fullest, marks.fullest, out=joint.fullest)

    @property
    def zero_rows(self) -> int:
        return int(self._marks.rows.size - np.count_nonzero(self._marks.rows))

    @property
    def zero_columns(self) -> int:
        return int(self._marks.columns.size - np.count_nonzero(self._marks.columns))

    @property
    def pattern(self) -> ZeroPattern | None:
        """The first N:M pattern that holds, in the order of the enum; None if none does."""
        four, eight = self._marks.fullest.tolist()
        inputs = self._marks.columns.size
        if inputs % 4:
            return ZeroPattern.NOT_APPLICABLE
        if four <= 2:
            return ZeroPattern.ONE_OF_FOUR if four <= 1 else ZeroPattern.TWO_OF_FOUR
        return ZeroPattern.FOUR_OF_EIGHT if inputs % 8 == 0 and eight <= 4 else None
