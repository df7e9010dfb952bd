"""Ladders: how many elements of a tensor have a magnitude in each of 8 bins an octave, for questions such as what a threshold
would prune.

Bin b holds the magnitudes from 2**(b // 8) * (1 + b % 8 / 8) to before the next bin's, which are those with one exponent and
the same top three bits of the fraction: so the counts are exact. Zeros, NaNs and infinities are in no bin.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.measure.code_values import code_values
from layerhouse.ingest.measure.magnitude_keys import finite_magnitudes
from layerhouse.ingest.measure.tally import Tally

Array = npt.NDArray[Any]
Ladder = tuple[int | None, tuple[int, ...] | None]
"""The first bin and the counts from it to the last bin that is not empty; (None, ()) if there is no element to count, and
(None, None) if the counts are not known."""

BINS = 8
NOTHING: Ladder = (None, ())
UNKNOWN: Ladder = (None, None)
LEAST_KEY = 8
"""From this key on a float's bucket, of a subnormal too, lies within one bin."""
_IN_NO_BIN = -(1 << 15)


def ladder_of_codes(code: str, codes: Array, counts: Array) -> Ladder:
    """The ladder of a type of at most 16 bits, from the patterns that occur (uint16) and how often (uint64)."""
    bins = _bins_of_type(code)[codes]
    is_counted = bins != _IN_NO_BIN
    return _joined(bins[is_counted], counts[is_counted])


def ladder_of_keys(code: str, tally: Tally) -> Ladder:
    """The ladder of a 32- or 64-bit type from the keys of its magnitudes. Unknown for floats below 2**-130 (F32) or 2**-1023
    (F64), whose keys have too few bits, and for complex numbers.
    """
    dtype = DTYPES[code]
    if dtype.kind == "complex":
        return UNKNOWN
    keys, counts = tally.codes, tally.counts
    if dtype.kind == "float":
        magnitudes = keys.astype(np.int64) & 0x7FFF
        is_small = magnitudes < LEAST_KEY
        if int(counts[is_small].sum()) > tally.zeros:
            return UNKNOWN
        keys, counts = keys[~is_small], counts[~is_small]
    else:
        keys, counts = keys[keys > 0], counts[keys > 0]  # key 0 is zero
    sizes, counts = finite_magnitudes(code, keys, counts)
    return _joined(_bins(sizes), counts)


def _joined(bins: Array, counts: Array) -> Ladder:
    if len(bins) == 0:
        return NOTHING
    first = int(bins.min())
    joined = np.zeros(int(bins.max()) - first + 1, np.int64)
    np.add.at(joined, bins - first, counts.astype(np.int64))
    return first, tuple(joined.tolist())


def _bins(sizes: Array) -> Array:
    """The bins of finite magnitudes above 0."""
    fractions, exponents = np.frexp(sizes)  # sizes = fractions * 2**exponents, fractions from 0.5 to before 1
    steps = ((2 * fractions - 1) * BINS).astype(np.int64)
    return np.asarray((exponents.astype(np.int64) - 1) * BINS + steps)


@cache
def _bins_of_type(code: str) -> Array:
    """The bin of each pattern; _IN_NO_BIN for zero and what is not finite."""
    sizes = np.abs(code_values(code).values)
    is_counted = np.isfinite(sizes) & (sizes > 0)
    bins = np.full(len(sizes), _IN_NO_BIN, np.int64)
    bins[is_counted] = _bins(sizes[is_counted])
    return bins
