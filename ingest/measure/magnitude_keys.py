"""16-bit keys of the magnitudes of 32- and 64-bit types: their histogram gives the quantiles.

A float's key is the top 16 bits of its pattern, sign included. An integer's key is made of the exponent and the top 9 bits of
the fraction of its magnitude as a double; 0 has key 0, and every magnitude below 1024 has a key of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES

Array = npt.NDArray[Any]

INTEGER_KEY_BASE = 1022 << 9
"""Subtracted from the top 21 bits of a magnitude as a double, so that the key of 1 is 512."""

_FRACTION_BITS = 43
"""Bits of a double below those in a key."""


def values_and_keys(code: str, chunk: Array) -> tuple[Array, Array]:
    """The values (float32 or float64) of a chunk of a 32- or 64-bit type, and their keys.

    Integers become float64, so one beyond 2**53 is rounded to the nearest double.
    """
    dtype = DTYPES[code]
    if dtype.kind == "float":
        width = dtype.bits // 16
        return chunk.view(f"f{dtype.bits // 8}"), np.ascontiguousarray(chunk.view(np.uint16)[width - 1 :: width])
    values = chunk.view(f"{'i' if dtype.kind == 'int' else 'u'}{dtype.bits // 8}").astype(np.float64)
    keys = (np.abs(values).view(np.uint64) >> np.uint64(_FRACTION_BITS)).astype(np.int64) - INTEGER_KEY_BASE
    return values, np.maximum(keys, 0).astype(np.uint16)


def finite_magnitudes(code: str, keys: Array, counts: Array) -> tuple[Array, Array]:
    """The magnitude in the middle of each key's bucket, and its count, for keys of finite values."""
    dtype = DTYPES[code]
    keys = keys.astype(np.uint64)
    if dtype.kind == "float":
        keys &= np.uint64(0x7FFF)
        is_finite = keys < np.uint64(((1 << dtype.exponent) - 1) << (15 - dtype.exponent))
        keys, counts = keys[is_finite], counts[is_finite]
        patterns = keys << np.uint64(dtype.bits - 16) | np.uint64(1 << (dtype.bits - 17))
        return patterns.astype(f"u{dtype.bits // 8}").view(f"f{dtype.bits // 8}").astype(np.float64), counts
    patterns = (keys + np.uint64(INTEGER_KEY_BASE)) << np.uint64(_FRACTION_BITS)
    is_single = keys < np.uint64(11 * 512)  # below 1024 a bucket is one value
    return np.where(is_single, patterns, patterns | np.uint64(1 << (_FRACTION_BITS - 1))).view(np.float64), counts
