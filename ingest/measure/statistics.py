"""Exact numbers of a tensor from its value histogram.

Types of at most 16 bits: everything follows from how often each pattern occurs. Sums of values and of squares are exact
integers in units of the smallest subnormal and its square. Each number is rounded once, at the end (a square root twice), so it
is the same on every machine.

32- and 64-bit types: zeros, NaNs, infinities, min and max are exact (an integer beyond 2**53 is rounded to the nearest double).
Sums come from rows of moments (sub-blocks of 4096 elements), joined at twice the digits of a double: within 1e-12 of sum(|x|).
Quantiles come from a histogram of keys of magnitude. A quantile is the middle of a key's bucket, at most abs_max; one that is
zero is exactly zero. Errors: F32 relative 2**-8 (below 2**-126 absolute 2**-134), F64 relative 2**-5 (below 2**-1022 absolute
2**-1027), integers none below 1024, relative 2**-10 above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.measure.code_values import code_values, exact_sums
from layerhouse.ingest.measure.kernels import cpu
from layerhouse.ingest.measure.ladder import ladder_of_codes, ladder_of_keys
from layerhouse.ingest.measure.magnitude_keys import finite_magnitudes
from layerhouse.ingest.measure.tally import Tally

Array = npt.NDArray[Any]

QUANTILES = (1, 5, 25, 50, 75, 95, 99)
"""Quantiles of the magnitudes, in per cent."""

_PERCENTS = np.array(QUANTILES, dtype=np.uint64)


@dataclass(frozen=True)
class Statistics:
    """Numbers of one tensor, named as the columns of the tensors table that hold them.

    The ladder is that of the module of this name; one without elements is ().

    An empty tensor has zeros 0, an empty ladder and nothing else. A tensor without finite values has its counts; the rest is
    None. C64 has zeros
    (both parts), nans (either part) and infs only. BOOL has the values 0 and 1, any byte but 0 being 1. Packed words that are
    not decoded have nothing.
    """

    zeros: int | None = None
    near_zeros: int | None = None
    nans: int | None = None
    infs: int | None = None
    min: float | None = None
    max: float | None = None
    abs_max: float | None = None
    mean: float | None = None
    std: float | None = None
    l1_norm: float | None = None
    l2_norm: float | None = None
    abs_quantiles: tuple[float, ...] | None = None
    ladder_first: int | None = None
    ladder_counts: tuple[int, ...] | None = None


EMPTY = Statistics(0, ladder_counts=())
"""What is known of a tensor without elements."""


def statistics_from_counts(code: str, counts: Sequence[int] | Array, near_zero: float | None = None) -> Statistics:
    """Statistics of a type of at most 16 bits; `counts[pattern]` is how often each pattern occurs, up to 2**63 in all."""
    table = np.asarray(counts, dtype=np.uint64)
    codes = np.flatnonzero(table)
    return _from_codes(code, codes.astype(np.uint16), table[codes], near_zero)


def statistics_from_tally(code: str, tally: Tally, near_zero: float | None = None) -> Statistics:
    """Statistics of a tensor of any type from its tally; `near_zero` is the threshold that the tally was made with."""
    if DTYPES[code].bits <= 16:
        return _from_codes(code, tally.codes.astype(np.uint16, copy=False), tally.counts.view(np.uint64), near_zero)
    if DTYPES[code].kind == "complex":
        return Statistics(tally.zeros, nans=tally.nans, infs=tally.infs)
    if tally.rows is None:
        return EMPTY
    first, bins = ladder_of_keys(code, tally)
    near_zeros = None if near_zero is None else tally.near_zeros
    total = join_rows(tally.rows)
    count, exponent = int(total[0]), int(total[1])
    if count == 0:
        return Statistics(tally.zeros, near_zeros, tally.nans, tally.infs, ladder_first=first, ladder_counts=bins)
    least, greatest = tally.least + 0.0, tally.greatest + 0.0  # no negative zero
    abs_max = max(greatest, -least)
    return Statistics(
        zeros=tally.zeros,
        near_zeros=near_zeros,
        nans=tally.nans,
        infs=tally.infs,
        min=least,
        max=greatest,
        abs_max=abs_max,
        mean=min(max(scale_up(total[2] / count, exponent), least), greatest),
        std=0.0 if least == greatest else scale_up(math.sqrt(total[5] / count), exponent),
        l1_norm=scale_up(total[3], exponent),
        l2_norm=scale_up(math.sqrt(total[4]), exponent),
        abs_quantiles=_quantiles(code, tally, abs_max),
        ladder_first=first,
        ladder_counts=bins,
    )


def join_rows(rows: Array) -> Array:
    """Join rows of moments to one (layout: moments.ROW); the result depends only on the rows and their order.

    Squared deviations are those around each row's mean plus count * (mean - joint mean)**2 (Chan, Golub, LeVeque 1979).
    """
    if len(rows) == 1:
        return np.asarray(rows[0])
    if not rows[:, 0].all():
        rows = rows[rows[:, 0] > 0]
    if len(rows) == 0:
        return np.zeros(6)
    exponent = rows[:, 1].max()
    scale = np.ldexp(1.0, (rows[:, 1] - exponent).astype(np.int64))
    count = rows[:, 0].sum()
    scaled = np.multiply(rows[:, 2:].T, scale, order="C")
    scaled[2:] *= scale
    total, size, square, within = row_sums(scaled)
    offsets = scaled[0] / rows[:, 0] - total / count
    (between,) = row_sums((rows[:, 0] * offsets * offsets)[np.newaxis])
    return np.array([count, exponent, total, size, square, within + between])


def row_sums(terms: Array) -> list[float]:
    """The sum of each row of float64, with twice the digits of a double before it is rounded."""
    sums = np.empty(len(terms))
    cpu.add_up(terms, sums)
    return sums.tolist()


def scale_up(value: float, exponent: int) -> float:
    """value * 2**exponent; infinite where that is beyond a double."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def _from_codes(code: str, codes: Array, counts: Array, near_zero: float | None) -> Statistics:
    """From the patterns that occur (uint16, any order) and how often (uint64)."""
    if len(codes) == 0:
        return EMPTY
    first, bins = ladder_of_codes(code, codes, counts)
    table = code_values(code)
    threshold = -1.0 if near_zero is None else near_zero
    zeros, near, nans, infs, count, least, greatest, quantiles = cpu.describe_codes(
        codes, counts, table.values, table.ranks, threshold, _PERCENTS
    )
    near_zeros = None if near_zero is None else near
    if count == 0:
        return Statistics(zeros, near_zeros, nans, infs, ladder_first=first, ladder_counts=bins)
    least, greatest = least + 0.0, greatest + 0.0  # no negative zero
    total, size_total, square_total = exact_sums(table, codes, counts, count)
    unit = table.unit
    return Statistics(
        zeros=zeros,
        near_zeros=near_zeros,
        nans=nans,
        infs=infs,
        min=least,
        max=greatest,
        abs_max=max(greatest, -least),
        mean=total / (count << unit),
        std=math.sqrt((count * square_total - total * total) / (count * count << 2 * unit)),
        l1_norm=size_total / (1 << unit),
        l2_norm=math.sqrt(square_total / (1 << 2 * unit)),
        abs_quantiles=quantiles,
        ladder_first=first,
        ladder_counts=bins,
    )


def _quantiles(code: str, tally: Tally, abs_max: float) -> tuple[float, ...]:
    """The magnitudes at rank ceil(q * n) of all n finite values, for each of QUANTILES."""
    sizes, counts = finite_magnitudes(code, tally.codes, tally.counts)
    order = np.argsort(sizes, kind="stable")
    running = np.cumsum(counts[order])
    ranks = [-(-percent * int(running[-1]) // 100) for percent in QUANTILES]
    quantiles = sizes[order][np.searchsorted(running, ranks)].tolist()
    return tuple(0.0 if rank <= tally.zeros else min(size, abs_max) for rank, size in zip(ranks, quantiles, strict=True))
