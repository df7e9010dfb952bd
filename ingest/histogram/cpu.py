"""Loops over the bytes of tensors, compiled by numba; each lets go of Python's lock, so that threads count side by side.

The compiled code is kept in NUMBA_CACHE_DIR, by default `$XDG_CACHE_HOME/layerhouse/numba` or `~/.cache/layerhouse/numba`.
Where nothing can be written it is compiled anew in each process (some seconds).
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

if "numba" not in sys.modules:
    _cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    os.environ.setdefault("NUMBA_CACHE_DIR", os.path.join(_cache_home, "layerhouse", "numba"))  # noqa: PTH118

import numba

Array = npt.NDArray[Any]
Loop = TypeVar("Loop", bound=Callable[..., Any])

SUB_BLOCK = 4096
"""Elements whose sums make one row of moments; sub-blocks are aligned to the element's index in the tensor."""

ROW = 6
"""Numbers in a row of moments: count, exponent, sum, sum of magnitudes, sum of squares, squared deviations from the mean."""

LEAST_EXPONENT = -1000
"""Lower bound of a row's exponent, so that 2**-exponent is a finite double."""

_LARGEST = sys.float_info.max


def compiled(loop: Loop) -> Loop:
    """`loop` as machine code, with the types of the Python function."""
    try:
        return cast(Loop, numba.njit(nogil=True, cache=True, error_model="numpy")(loop))
    except RuntimeError:  # numba found no folder that it may write its cache to
        return cast(Loop, numba.njit(nogil=True, error_model="numpy")(loop))


@compiled
def count_bytes(codes: Array, tables: Array) -> None:
    """Add 8-bit patterns to four uint32 tables in turn, shape (4, 256): an increment need not wait for the one before it."""
    whole = codes.size // 4 * 4
    one = np.uint32(1)
    for i in range(0, whole, 4):
        tables[0, codes[i]] += one
        tables[1, codes[i + 1]] += one
        tables[2, codes[i + 2]] += one
        tables[3, codes[i + 3]] += one
    for i in range(whole, codes.size):
        tables[0, codes[i]] += one


@compiled
def count_words(words: Array, rest: Array, tables: Array) -> None:
    """Add 16-bit patterns, four to a uint64 word and then the rest, to two uint32 tables in turn, shape (2, 65536).

    Two tables of the patterns that weights have fit into the first-level cache, four do not. Words of zeros are counted apart,
    as each would wait for the one before it.
    """
    low = np.uint64(0xFFFF)
    one = np.uint32(1)
    zeros = np.uint32(0)
    for word in words:
        if word == np.uint64(0):
            zeros += np.uint32(4)
        else:
            tables[0, word & low] += one
            tables[1, (word >> np.uint64(16)) & low] += one
            tables[0, (word >> np.uint64(32)) & low] += one
            tables[1, word >> np.uint64(48)] += one
    for code in rest:
        tables[0, code] += one
    tables[0, 0] += zeros


@compiled
def drain(tables: Array, codes: Array, counts: Array) -> int:
    """Move what the tables hold to (codes, counts), patterns ascending, and clear them. Returns how many there were."""
    found = 0
    for code in range(tables.shape[1]):
        total = np.int64(0)
        for lane in range(tables.shape[0]):
            total += np.int64(tables[lane, code])
            tables[lane, code] = 0
        if total:
            codes[found] = code
            counts[found] = total
            found += 1
    return found


@compiled
def count_few(codes: Array, table: Array, found_codes: Array, counts: Array) -> int:
    """Distinct patterns of a short array by their first place, and their counts; `table` is zeros before and after."""
    found = 0
    for code in codes:
        if table[code] == 0:
            found_codes[found] = code
            found += 1
        table[code] += np.uint32(1)
    for i in range(found):
        counts[i] = table[found_codes[i]]
        table[found_codes[i]] = 0
    return found


@compiled
def describe_codes(
    codes: Array, counts: Array, values: Array, near_zero: float, percents: Array, found: Array, ends: Array, quantiles: Array
) -> None:
    """Count the zeros, near zeros, NaNs, infinities and finite values (`found`, uint64) of patterns with their counts (uint64).

    `codes` ascend in magnitude, `values` are by code. Widens `ends` (min, max); sets `quantiles` to the finite magnitudes at
    rank ceil(percent * n / 100).
    """
    for i in range(codes.size):
        value = values[codes[i]]
        size = abs(value)
        if size <= _LARGEST:
            ends[0] = min(ends[0], value)
            ends[1] = max(ends[1], value)
            if size == 0.0:
                found[0] += counts[i]
            if size <= near_zero:
                found[1] += counts[i]
            found[4] += counts[i]
        elif math.isnan(value):
            found[2] += counts[i]
        else:
            found[3] += counts[i]
    hundreds, rest = found[4] // np.uint64(100), found[4] % np.uint64(100)
    running = np.uint64(0)
    i = -1
    for k in range(percents.size):
        rank = percents[k] * hundreds + (percents[k] * rest + np.uint64(99)) // np.uint64(100)
        while running < rank:
            i += 1
            running += counts[i]
        quantiles[k] = abs(values[codes[max(i, 0)]])


@compiled
def sum_codes(codes: Array, counts: Array, values: Array, significands: Array, groups: Array, sums: Array) -> None:
    """Add count times significand, its magnitude and its square (int64) to the row of `sums` of each code's group.

    `values`, `significands` and `groups` are by code; a code without a finite value is left out.
    """
    for i in range(codes.size):
        code = codes[i]
        if abs(values[code]) <= _LARGEST:
            significand = significands[code]
            product = significand * np.int64(counts[i])
            group = groups[code]
            sums[group, 0] += product
            sums[group, 1] += abs(product)
            sums[group, 2] += significand * product


@compiled
def sum_row(values: Array, top: float, row: Array) -> None:
    """Fill a row of moments from finite float64 values of magnitude up to `top`; overwrites them."""
    exponent = max(math.frexp(top)[1], LEAST_EXPONENT) if top > 0.0 else LEAST_EXPONENT
    scale = math.ldexp(1.0, -exponent)
    even = values.size // 2 * 2
    sum_0 = sum_1 = size_0 = size_1 = square_0 = square_1 = 0.0
    for i in range(0, even, 2):
        a = values[i] * scale
        b = values[i + 1] * scale
        values[i] = a
        values[i + 1] = b
        sum_0 += a
        sum_1 += b
        size_0 += abs(a)
        size_1 += abs(b)
        square_0 += a * a
        square_1 += b * b
    for i in range(even, values.size):
        a = values[i] * scale
        values[i] = a
        sum_0 += a
        size_0 += abs(a)
        square_0 += a * a
    total = sum_0 + sum_1
    mean = total / values.size if values.size else 0.0
    deviation_0 = deviation_1 = 0.0
    for i in range(0, even, 2):
        a = values[i] - mean
        b = values[i + 1] - mean
        deviation_0 += a * a
        deviation_1 += b * b
    for i in range(even, values.size):
        a = values[i] - mean
        deviation_0 += a * a
    row[0] = values.size
    row[1] = exponent
    row[2] = total
    row[3] = size_0 + size_1
    row[4] = square_0 + square_1
    row[5] = deviation_0 + deviation_1


@compiled
def moments(values: Array, near_zero: float, scratch: Array, counts: Array, ends: Array, rows: Array) -> None:
    """Count float32 or float64 values and sum the finite ones, a row of `rows` for each SUB_BLOCK of them.

    Adds to `counts` (zeros, NaNs, infinities, magnitudes up to near_zero) and widens `ends` (min, max). A row's sums are of
    x * 2**-exponent, whose magnitudes are at most 1: no square over- or underflows to the harm of a sum, whatever the values.
    Squared deviations are summed in a second loop, around the sub-block's own mean.
    """
    for row in range(rows.shape[0]):
        finite = 0
        top = 0.0
        for i in range(row * SUB_BLOCK, min((row + 1) * SUB_BLOCK, values.size)):
            value = np.float64(values[i])
            size = abs(value)
            if size <= _LARGEST:
                scratch[finite] = value
                finite += 1
                top = max(top, size)
                counts[0] += size == 0.0
                counts[3] += size <= near_zero
                ends[0] = min(ends[0], value)
                ends[1] = max(ends[1], value)
            elif math.isnan(value):
                counts[1] += 1
            else:
                counts[2] += 1
        sum_row(scratch[:finite], top, rows[row])


@compiled
def mark_nonzeros(patterns: Array, mask: np.uint64, start: int, row_used: Array, column_used: Array, fullest: Array) -> None:
    """Mark the rows and columns of a matrix in C order that hold a value; element 0 of `patterns` is element `start` of it.

    A pattern is zero if its bits under `mask` are. `fullest` (of 4, of 8) rises to the most values found in an aligned group
    of so many along a row; groups are looked for where they divide the row, and until no N:M pattern is left.
    """
    width = column_used.size
    zero = patterns.dtype.type(0)
    bits = patterns.dtype.type(mask)
    position = 0
    while position < patterns.size:
        row = (start + position) // width
        first = start + position - row * width
        length = min(width - first, patterns.size - position)
        part = patterns[position : position + length]
        columns = column_used[first : first + length]
        used = np.uint8(0)
        for i in range(length):
            mark = np.uint8((part[i] & bits) != zero)
            columns[i] |= mark
            used |= mark
        if used:
            row_used[row] = 1
            if width % 8 == 0 and (fullest[0] <= 2 or fullest[1] <= 4):
                four, eight = 0, 0
                for i in range(0, length, 8):
                    left, right = 0, 0
                    for k in range(4):
                        left += (part[i + k] & bits) != zero
                        right += (part[i + 4 + k] & bits) != zero
                    four = max(four, left, right)
                    eight = max(eight, left + right)
                fullest[0] = max(fullest[0], four)
                fullest[1] = max(fullest[1], eight)
            elif width % 4 == 0 and fullest[0] <= 2:
                for i in range(0, length, 4):
                    left = 0
                    for k in range(4):
                        left += (part[i + k] & bits) != zero
                    fullest[0] = max(fullest[0], left)
        position += length


@compiled
def mark_nonzero_words(words: Array, mask: np.uint64, start: int, row_used: Array, column_flags: Array, fullest: Array) -> None:
    """mark_nonzeros for 16-bit patterns, four to a uint64 word, of a matrix whose rows are whole groups of eight.

    `mask` is that of all four patterns, `start` a multiple of eight. `column_flags` has a word for every four columns; the top
    bit of each pattern in it is set where its column holds a value. `fullest` rises to what decides which N:M patterns are
    left: 1, 2, or 3 for any more of four; 4, or 5 for any more of eight.
    """
    per_row = column_flags.size
    top, rest = np.uint64(0x8000800080008000), np.uint64(0x7FFF7FFF7FFF7FFF)
    position = 0
    while position < words.size:
        row = (start // 4 + position) // per_row
        first = start // 4 + position - row * per_row
        length = min(per_row - first, words.size - position)
        part = words[position : position + length]
        flags = column_flags[first : first + length]
        used = np.uint64(0)
        for i in range(length):
            word = part[i] & mask
            held = (((word & rest) + rest) | word) & top
            flags[i] |= held
            used |= held
        if used:
            row_used[row] = 1
            if fullest[0] <= 2 or fullest[1] <= 4:
                over_1 = over_2 = over_4 = np.uint64(0)
                for i in range(0, length, 2):
                    left, right = part[i] & mask, part[i + 1] & mask
                    left = (((left & rest) + rest) | left) & top
                    right = (((right & rest) + rest) | right) & top
                    # A byte for each of the two groups in every 16 bits, added up to two counts in the lowest 16.
                    both = (left >> np.uint64(15)) | (right >> np.uint64(7))
                    both += both >> np.uint64(32)
                    both += both >> np.uint64(16)
                    in_left, in_right = both & np.uint64(7), (both >> np.uint64(8)) & np.uint64(7)
                    over_1 |= (in_left + np.uint64(6)) | (in_right + np.uint64(6))
                    over_2 |= (in_left + np.uint64(5)) | (in_right + np.uint64(5))
                    over_4 |= in_left + in_right + np.uint64(11)
                four = 3 if over_2 & np.uint64(8) else 2 if over_1 & np.uint64(8) else 1
                fullest[0] = max(fullest[0], four)
                fullest[1] = max(fullest[1], 5 if over_4 & np.uint64(16) else 4)
        position += length


@compiled
def count_differences(values: Array, base: Array, rounded: Array, counts: Array, sums: Array) -> None:
    """Compare floats with those of the base and with the same rounded to the type that the values were stored in.

    Adds to counts: values that differ from the base; and of those that differ from it rounded: zero now, zero there, neither.
    Adds to sums, of what is finite in both: squared difference, squares of both, their product.
    """
    changed = zeroed = filled = other = 0
    apart = own = of_base = product = 0.0
    for i in range(values.size):
        value, there, near = np.float64(values[i]), np.float64(base[i]), np.float64(rounded[i])
        if not (value == there or (math.isnan(value) and math.isnan(there))):
            changed += 1
            if not (value == near or (math.isnan(value) and math.isnan(near))):
                if value == 0:
                    zeroed += 1
                elif there == 0:
                    filled += 1
                else:
                    other += 1
        if abs(value) <= _LARGEST and abs(there) <= _LARGEST:
            apart += (value - there) * (value - there)
            own += value * value
            of_base += there * there
            product += value * there
    counts[0] += changed
    counts[1] += zeroed
    counts[2] += filled
    counts[3] += other
    sums[0] += apart
    sums[1] += own
    sums[2] += of_base
    sums[3] += product


@compiled
def add_squares(values: Array, start: int, run: int, squares: Array) -> None:
    """Add x * x of each value of a float matrix in C order to the entry of its column (run 1) or of its row (run: its width).

    Element 0 of `values` is element `start` of the matrix.
    """
    entry, left = start // run % squares.size, run - start % run
    done = 0
    while done < values.size:
        if run == 1:
            part = values[done : done + squares.size - entry]
            sums = squares[entry : entry + part.size]
            for i in range(part.size):
                value = np.float64(part[i])
                sums[i] += value * value
            entry = 0
        else:
            part = values[done : done + left]
            total = squares[entry]
            for i in range(part.size):
                value = np.float64(part[i])
                total += value * value
            squares[entry] = total
            entry, left = (entry + 1) % squares.size, run
        done += part.size


@compiled
def project(profile: Array, signs: Array, out: Array) -> None:
    """Add profile @ signs (int8, a row for each entry of the profile) to `out`, in the order of the rows."""
    for i in range(profile.size):
        for k in range(out.size):
            out[k] += profile[i] * signs[i, k]


def announce() -> None:
    """Log, at level INFO, that the first call will compile, if no compiled code is kept for these loops."""
    kept = Path(cast(Any, count_words).stats.cache_path or os.devnull)
    if not any(kept.glob("cpu.*.nbi")):
        logging.getLogger(__name__).info("compiling the counting kernels, once per machine")
