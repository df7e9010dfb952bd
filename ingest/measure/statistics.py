"""Exact numbers of a tensor from its value histogram.

Types of at most 16 bits: everything follows from how often each pattern occurs. Sums of values and of squares are exact
integers in units of the smallest subnormal and its square; each number is rounded once, at the end (a square root twice), so it
is the same on every machine. 32- and 64-bit types: zeros, NaNs, infinities, min and max are exact (an integer beyond 2^53 is
rounded to the nearest double); sums come from rows of moments (blocks of 4096 elements) joined at twice the digits, within
1e-12 of sum(|x|); quantiles come from a histogram of keys.

Quantiles of 32- and 64-bit types are the middle of a key's bucket, at most abs_max. Their errors: F32 relative 2^-8 (below
2^-126 absolute 2^-134), F64 relative 2^-5 (below 2^-1022 absolute 2^-1027), integers none below 1024, relative 2^-10 above. A
quantile that is zero is exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES, decoded
from layerhouse.ingest.measure.counter import INTEGER_KEY_BASE, Tally, counted_by_code

Array = npt.NDArray[Any]

QUANTILES = (1, 5, 25, 50, 75, 95, 99)
"""Quantiles of the magnitudes, in per cent."""

_PERCENTS = np.array(QUANTILES, dtype=np.uint64)


@dataclass(frozen=True)
class Statistics:
    """Numbers of one tensor, named as the columns of the tensors table that hold them.

    An empty tensor has zeros 0 and nothing else. Of a tensor without finite values the counts are known, the rest is None.
    C64: zeros (both parts), nans (either part) and infs only. BOOL: 0 and 1, any byte but 0 being true. Of packed words, whose
    values nobody decoded, nothing is known.
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


def statistics_from_counts(code: str, counts: Sequence[int] | Array, near_zero: float | None = None) -> Statistics:
    """Statistics of a type of at most 16 bits; `counts[pattern]` says how often each pattern occurs, up to 2^63 in all."""
    table = np.asarray(counts, dtype=np.uint64)
    codes = np.flatnonzero(table)
    return _from_codes(code, codes.astype(np.uint16), table[codes], near_zero)


def statistics_from_tally(code: str, tally: Tally, near_zero: float | None = None) -> Statistics:
    """Statistics of a tensor of any type from its tally; `near_zero` is the threshold that the tally was made with."""
    if counted_by_code(code):
        return _from_codes(code, tally.codes.astype(np.uint16, copy=False), tally.counts.view(np.uint64), near_zero)
    if DTYPES[code].kind == "complex":
        return Statistics(tally.zeros, nans=tally.nans, infs=tally.infs)
    if tally.rows is None:
        return Statistics(0)
    near_zeros = None if near_zero is None else tally.near_zeros
    total = join_rows(tally.rows)
    count, exponent = int(total[0]), int(total[1])
    if count == 0:
        return Statistics(tally.zeros, near_zeros, tally.nans, tally.infs)
    least, greatest = tally.least + 0.0, tally.greatest + 0.0
    abs_max = max(greatest, -least)
    constant = least == greatest
    return Statistics(
        zeros=tally.zeros,
        near_zeros=near_zeros,
        nans=tally.nans,
        infs=tally.infs,
        min=least,
        max=greatest,
        abs_max=abs_max,
        mean=min(max(_ldexp(total[2] / count, exponent), least), greatest),
        std=0.0 if constant else _ldexp(math.sqrt(total[5] / count), exponent),
        l1_norm=_ldexp(total[3], exponent),
        l2_norm=_ldexp(math.sqrt(total[4]), exponent),
        abs_quantiles=tuple(
            0.0 if rank <= tally.zeros else min(size, abs_max) for rank, size in _ranked_keys(code, tally.codes, tally.counts)
        ),
    )


def join_rows(rows: Array) -> Array:
    """One row of moments from many (layout: moments.ROW), the same for the same rows in the same order.

    Squared deviations are those around each row's mean plus count * (mean - joint mean)^2 (Chan, Golub, LeVeque 1979).
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
    apart = scaled[0] / rows[:, 0] - total / count
    (between,) = row_sums((rows[:, 0] * apart * apart)[np.newaxis])
    return np.array([count, exponent, total, size, square, within + between])


def row_sums(terms: Array) -> list[float]:
    """The sum of each row of float64, added up at twice the digits of a double."""
    from layerhouse.ingest.measure.kernels import cpu

    found = np.empty(len(terms))
    cpu.add_up(terms, found)
    return found.tolist()


@dataclass(frozen=True)
class _Codes:
    """What the patterns of a type mean, by pattern.

    value = significand * 2^(lifts[group] - unit), the significand an integer of at most `precision` bits, and 0 where the value
    is not finite. The group is the exponent field of a float (at most 2^precision patterns share one), and 0 of an integer.
    Ranks ascend as the magnitudes of finite values do.
    """

    values: Array
    ranks: Array
    significands: Array
    groups: Array
    lifts: tuple[int, ...]
    unit: int
    precision: int


@cache
def _codes_of(code: str) -> _Codes:
    dtype = DTYPES[code]
    values = decoded(code)
    if dtype.kind != "float":
        values = np.minimum(values, 1.0) if dtype.kind == "bool" else values
        ranks = np.abs(values).astype(np.uint16)
        return _Codes(values, ranks, values.astype(np.int32), np.zeros(len(values), np.uint16), (0,), 0, dtype.bits)
    patterns = np.arange(len(values), dtype=np.uint16)
    ranks = patterns if dtype.special == "e8m0" else patterns & np.uint16(len(values) // 2 - 1)  # which has no sign
    groups = np.arange(len(values)) >> dtype.mantissa & ((1 << dtype.exponent) - 1)
    subnormal = 0 if dtype.special == "e8m0" else 1  # the lowest field has the unit of the next
    lifts = np.maximum(np.arange(1 << dtype.exponent) - subnormal, 0)
    unit = dtype.bias + dtype.mantissa - subnormal
    finite = np.where(np.isfinite(values), values, 0.0)
    significands = np.ldexp(finite, unit - lifts[groups]).astype(np.int32)
    return _Codes(values, ranks, significands, groups.astype(np.uint16), tuple(lifts.tolist()), unit, dtype.mantissa + 1)


def _from_codes(code: str, codes: Array, counts: Array, near_zero: float | None) -> Statistics:
    """`codes` are the patterns that occur, uint16, in any order; `counts` (uint64) how often."""
    if len(codes) == 0:
        return Statistics(0)
    from layerhouse.ingest.measure.kernels import cpu

    table = _codes_of(code)
    threshold = -1.0 if near_zero is None else near_zero
    zeros, near, nans, infs, count, least, greatest, quantiles = cpu.describe_codes(
        codes, counts, table.values, table.ranks, threshold, _PERCENTS
    )
    near_zeros = None if near_zero is None else near
    if count == 0:
        return Statistics(zeros, near_zeros, nans, infs)
    least, greatest = least + 0.0, greatest + 0.0  # no negative zero
    total, size_total, square_total = _exact_sums(table, codes, counts, count)
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
    )


def _exact_sums(table: _Codes, codes: Array, counts: Array, count: int) -> tuple[int, int, int]:
    """Sums of the values and magnitudes in units of 2^-unit, and of the squares in units of 2^-2unit.

    Groups are summed in int64. Where `count` is so large that squares may not fit, counts are cut into parts that do: 2^p
    patterns of p bits squared leave 63 - 3p bits to a part.
    """
    from layerhouse.ingest.measure.kernels import cpu

    few = count >> (63 - 2 * table.precision) == 0
    part_bits = 63 if few else 63 - 3 * table.precision
    total = size_total = square_total = 0
    for shift in range(0, 1 if few else count.bit_length(), part_bits):
        sums = np.zeros((len(table.lifts), 3), np.int64)
        parts = counts if few else counts >> np.uint64(shift) & np.uint64((1 << part_bits) - 1)
        cpu.sum_codes(codes, parts, table.significands, table.groups, sums)
        used = np.flatnonzero(sums[:, 1])
        for group, (one, size, square) in zip(used.tolist(), sums[used].tolist(), strict=True):
            lift = table.lifts[group]
            total += one << (lift + shift)
            size_total += size << (lift + shift)
            square_total += square << (2 * lift + shift)
    return total, size_total, square_total


def _ranked_keys(code: str, codes: Array, counts: Array) -> list[tuple[int, float]]:
    """Rank ceil(q * n) of all and the magnitude at that rank, for each of QUANTILES, from keys of magnitude (histogram.key_of).

    Each key stands for the middle of its bucket.
    """
    dtype = DTYPES[code]
    keys = codes.astype(np.uint64)
    if dtype.kind == "float":
        keys &= np.uint64(0x7FFF)
        counted = keys < np.uint64(((1 << dtype.exponent) - 1) << (15 - dtype.exponent))  # above: infinity and NaN
        keys, counts = keys[counted], counts[counted]
        patterns = keys << np.uint64(dtype.bits - 16) | np.uint64(1 << (dtype.bits - 17))
        sizes = patterns.astype(f"u{dtype.bits // 8}").view(f"f{dtype.bits // 8}").astype(np.float64)
    else:
        patterns = (keys + np.uint64(INTEGER_KEY_BASE)) << np.uint64(43)
        middles = np.where(keys < np.uint64(11 * 512), patterns, patterns | np.uint64(1 << 42))  # below 1024 a key is a value
        sizes = middles.view(np.float64)
    order = np.argsort(sizes, kind="stable")
    running = np.cumsum(counts[order])
    ranks = [-(-percent * int(running[-1]) // 100) for percent in QUANTILES]
    return list(zip(ranks, sizes[order][np.searchsorted(running, ranks)].tolist(), strict=True))


def _ldexp(value: float, exponent: int) -> float:
    """value * 2^exponent; infinite where that is beyond a double."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)
