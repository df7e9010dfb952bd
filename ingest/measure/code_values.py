"""What the patterns of a type of at most 16 bits mean, and exact sums over counted patterns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES, decoded
from layerhouse.ingest.measure.kernels import cpu

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CodeValues:
    """The values of a type, by pattern.

    value = significand * 2**(lifts[group] - unit). The significand is an integer of at most `precision` bits, 0 where the value
    is not finite. The group is the exponent field of a float (at most 2**precision patterns share one), and 0 for integers.
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
def code_values(code: str) -> CodeValues:
    """The table of a type of at most 16 bits. BOOL: any byte but 0 is 1."""
    dtype = DTYPES[code]
    values = decoded(code)
    if dtype.kind != "float":
        values = np.minimum(values, 1.0) if dtype.kind == "bool" else values
        ranks = np.abs(values).astype(np.uint16)
        return CodeValues(values, ranks, values.astype(np.int32), np.zeros(len(values), np.uint16), (0,), 0, dtype.bits)
    has_sign = dtype.special != "e8m0"
    patterns = np.arange(len(values), dtype=np.uint16)
    ranks = patterns & np.uint16(len(values) // 2 - 1) if has_sign else patterns
    groups = np.arange(len(values)) >> dtype.mantissa & ((1 << dtype.exponent) - 1)
    subnormal = 1 if has_sign else 0  # exponent field 0 has the unit of field 1
    lifts = np.maximum(np.arange(1 << dtype.exponent) - subnormal, 0)
    unit = dtype.bias + dtype.mantissa - subnormal
    finite = np.where(np.isfinite(values), values, 0.0)
    significands = np.ldexp(finite, unit - lifts[groups]).astype(np.int32)
    return CodeValues(values, ranks, significands, groups.astype(np.uint16), tuple(lifts.tolist()), unit, dtype.mantissa + 1)


def exact_sums(table: CodeValues, codes: Array, counts: Array, count: int) -> tuple[int, int, int]:
    """Sums of the values and of the magnitudes in units of 2**-unit, and of the squares in units of 2**(-2 * unit).

    `codes` (uint16) occur `counts` (uint64) times each; `count` is the number of finite values. Groups are summed in int64. If
    `count` is so large that the squares might not fit, the counts are cut into parts of 63 - 3 * precision bits: 2**precision
    patterns of that many bits, squared, take up the other bits.
    """
    fits = count >> (63 - 2 * table.precision) == 0
    part_bits = 63 if fits else 63 - 3 * table.precision
    total = size_total = square_total = 0
    for shift in range(0, 1 if fits else count.bit_length(), part_bits):
        sums = np.zeros((len(table.lifts), 3), np.int64)
        parts = counts if fits else counts >> np.uint64(shift) & np.uint64((1 << part_bits) - 1)
        cpu.sum_codes(codes, parts, table.significands, table.groups, sums)
        used = np.flatnonzero(sums[:, 1])
        for group, (value, size, square) in zip(used.tolist(), sums[used].tolist(), strict=True):
            lift = table.lifts[group]
            total += value << (lift + shift)
            size_total += size << (lift + shift)
            square_total += square << (2 * lift + shift)
    return total, size_total, square_total
