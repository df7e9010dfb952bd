"""Sums of bfloat16 values, which numpy has no type for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.histogram.cpu import compiled

Array = npt.NDArray[Any]


def add_bfloat16(sums: Array, places: Array, values: Array) -> None:
    """Add bfloat16 patterns (uint16) to those of `sums` at int64 `places`, in order, each sum rounded to the nearest even."""
    pair = np.zeros(2, np.float32)
    _add(sums, places, values, pair, pair.view(np.uint32))


@compiled
def _add(sums: Array, places: Array, values: Array, pair: Array, bits: Array) -> None:
    """`bits` is the memory of the two floats in `pair` as uint32."""
    for i in range(places.size):
        at = places[i]
        bits[0] = np.uint32(sums[at]) << np.uint32(16)
        bits[1] = np.uint32(values[i]) << np.uint32(16)
        pair[0] += pair[1]
        pattern = bits[0]
        if pattern & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
            sums[at] = np.uint16(0x7FC0)
        else:
            sums[at] = np.uint16((pattern + np.uint32(0x7FFF) + (pattern >> np.uint32(16) & np.uint32(1))) >> np.uint32(16))
