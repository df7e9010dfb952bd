"""The counts of a part of a tensor, and how those of its parts are joined."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tally:
    """What was counted in a part of a tensor.

    `codes` are the distinct patterns (types of at most 16 bits) or keys of magnitude (other types, see magnitude_keys), in any
    order; `counts` (int64) how often each occurs. The other fields are of 32- and 64-bit types only: near_zeros is 0 without a
    threshold; `least` and `greatest` are over finite values, inf and -inf if there are none; `rows` are rows of moments.
    """

    codes: Array
    counts: Array
    zeros: int = 0
    nans: int = 0
    infs: int = 0
    near_zeros: int = 0
    least: float = np.inf
    greatest: float = -np.inf
    rows: Array | None = None


class Total:
    """Joins the tallies of a tensor's blocks in the order of the blocks, so that the result does not depend on the threads.

    Not thread-safe: callers hold a lock.
    """

    def __init__(self, code: str, blocks: int) -> None:
        self._tallies: list[Tally | None] = [None] * blocks
        self._counts = np.zeros(1 << min(DTYPES[code].bits, 16), np.int64) if blocks > 1 else None

    def add(self, block: int, tally: Tally) -> None:
        """Add the tally of one block, whose rows of moments are joined to one row."""
        if self._counts is not None:
            self._counts[tally.codes] += tally.counts
            empty = np.empty(0, np.int64)
            tally = replace(tally, codes=empty, counts=empty)
        self._tallies[block] = tally

    def tally(self) -> Tally:
        """The tally of the tensor, after the last block."""
        tallies = [tally for tally in self._tallies if tally is not None]
        if self._counts is None:
            return tallies[0]
        codes = np.flatnonzero(self._counts)
        rows = [tally.rows for tally in tallies if tally.rows is not None]
        return Tally(
            codes,
            self._counts[codes],
            sum(tally.zeros for tally in tallies),
            sum(tally.nans for tally in tallies),
            sum(tally.infs for tally in tallies),
            sum(tally.near_zeros for tally in tallies),
            min(tally.least for tally in tallies),
            max(tally.greatest for tally in tallies),
            np.concatenate(rows) if rows else None,
        )
