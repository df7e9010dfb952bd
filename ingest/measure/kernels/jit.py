"""The loops of cpu.py compiled by numba, for where the C extension could not be built; they say what its functions do.

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

from layerhouse.ingest.measure.kernels.moments import SUB_BLOCK

Array = npt.NDArray[Any]
Loop = TypeVar("Loop", bound=Callable[..., Any])

LANES = 4
"""Sums that a row of float32 values is added up in, side by side, for a loop that takes several values at once."""

FLAT = 0.01
"""Share of the sum of squares under which squared deviations are added up around the mean: to subtract would cost digits."""

LEAST_EXPONENT = -1000
"""Lower bound of a row's exponent, so that 2**-exponent is a finite double."""

_LARGEST = sys.float_info.max
_DIFFERENCE_LANES = 8  # element i belongs to lane i % 8 of each sum, and lanes are added up in order
_SPAN = 256  # ranks of 16 bits are looked up by their high byte, then by their low one


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
    as each would wait for the one before it; zeros stand in the first table. The sum of the tables is what counts; drain takes
    it.
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
    tables[0, 0] += zeros + tables[1, 0]
    tables[1, 0] = np.uint32(0)


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
def magnitude_at(rank: int, high: int, codes: Array, counts: Array, values: Array, ranks: Array) -> float:
    """The magnitude at a rank, from 1 on, among the finite ones whose rank of magnitude has so many 256s."""
    found = np.zeros(_SPAN, np.uint64)
    magnitudes = np.zeros(_SPAN)
    for i in range(codes.size):
        size = abs(values[codes[i]])
        if ranks[codes[i]] // _SPAN == high and size <= _LARGEST:
            found[ranks[codes[i]] % _SPAN] += counts[i]
            magnitudes[ranks[codes[i]] % _SPAN] = size
    low = 0
    while low < _SPAN - 1 and found[low] < rank:
        rank -= found[low]
        low += 1
    return magnitudes[low]  # type: ignore[no-any-return]


@compiled
def describe_codes(
    codes: Array,
    counts: Array,
    values: Array,
    ranks: Array,
    near_zero: float,
    percents: Array,
    found: Array,
    ends: Array,
    quantiles: Array,
) -> None:
    """Count the zeros, near zeros, NaNs, infinities and finite values (`found`, uint64) of patterns with their counts (uint64).

    `codes` are uint16, in any order; `values` and `ranks` are by code, ranks (uint16) ascending as finite magnitudes do. Widens
    `ends` (min, max); sets `quantiles` to the finite magnitudes at rank ceil(percent * n / 100), where there are any.
    """
    by_rank = np.zeros(_SPAN, np.uint64)
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
            by_rank[ranks[codes[i]] // _SPAN] += counts[i]
        elif math.isnan(value):
            found[2] += counts[i]
        else:
            found[3] += counts[i]
    hundreds, rest = found[4] // np.uint64(100), found[4] % np.uint64(100)
    for k in range(percents.size):
        rank = percents[k] * hundreds + (percents[k] * rest + np.uint64(99)) // np.uint64(100)
        high = 0
        while high < _SPAN - 1 and by_rank[high] < rank:
            rank -= by_rank[high]
            high += 1
        quantiles[k] = magnitude_at(rank, high, codes, counts, values, ranks)


@compiled
def sum_codes(codes: Array, counts: Array, significands: Array, groups: Array, sums: Array) -> None:
    """Add count times significand, its magnitude and its square (int64) to the row of `sums` of each code's group.

    `codes` are uint16; `significands` (int32) and `groups` (uint16) are by code.
    """
    for i in range(codes.size):
        code = codes[i]
        significand = np.int64(significands[code])
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
def add_up(terms: Array, sums: Array) -> None:
    """The sum of each row of float64 `terms`, with about twice the digits of a double before it is rounded.

    What each addition rounds off is added up beside (Knuth's two-sum, TAOCP 4.2.2).
    """
    for row in range(terms.shape[0]):
        high = low = 0.0
        for term in terms[row]:
            total = high + term
            added = total - high
            low += (high - (total - added)) + (term - added)
            high = total
        sums[row] = high + low


@compiled
def joined(lanes: Array) -> float:
    """The sum of LANES numbers."""
    return float((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]))


@compiled
def sum_lanes(values: Array, sums: Array, sizes: Array, squares: Array, row: Array) -> None:
    """Fill a row of moments, of exponent 0, from finite float32 values, whose squares neither over- nor underflow as doubles.

    The scratch is LANES long each. Of every four times LANES values in turn the four that are LANES apart are added up and then
    to their lane, and the lanes pairwise at the end: one order on every machine.
    """
    sums[:] = 0.0
    sizes[:] = 0.0
    squares[:] = 0.0
    whole = values.size // (4 * LANES) * (4 * LANES)
    for start in range(0, whole, 4 * LANES):
        part = values[start : start + 4 * LANES]
        for k in range(LANES):
            a, b = np.float64(part[k]), np.float64(part[k + LANES])
            c, d = np.float64(part[k + 2 * LANES]), np.float64(part[k + 3 * LANES])
            sums[k] += (a + b) + (c + d)
            sizes[k] += (abs(a) + abs(b)) + (abs(c) + abs(d))
            squares[k] += (a * a + b * b) + (c * c + d * d)
    for i in range(whole, values.size):
        value = np.float64(values[i])
        sums[i % LANES] += value
        sizes[i % LANES] += abs(value)
        squares[i % LANES] += value * value
    row[0] = values.size
    row[1] = 0.0
    row[2] = joined(sums)
    row[3] = joined(sizes)
    row[4] = joined(squares)
    mean = row[2] / values.size if values.size else 0.0
    row[5] = row[4] - row[2] * mean
    if row[5] < FLAT * row[4]:
        squares[:] = 0.0
        for i in range(values.size):
            apart = np.float64(values[i]) - mean
            squares[i % LANES] += apart * apart
        row[5] = joined(squares)


@compiled
def scan_block(values: Array, near_zero: float, scratch: Array, counts: Array, ends: Array, row: Array) -> None:
    """Count values of a sub-block one by one and fill its row of moments with the finite ones; see moments."""
    finite = 0
    top = 0.0
    for i in range(values.size):
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
    sum_row(scratch[:finite], top, row)


def moments(values: Array, near_zero: float, counts: Array, ends: Array, rows: Array) -> None:
    """Count float64 values and sum the finite ones, a row of `rows` for each SUB_BLOCK of them.

    Adds to `counts` (zeros, NaNs, infinities, magnitudes up to near_zero) and widens `ends` (min, max). A row's sums are of
    x * 2**-exponent, whose magnitudes are at most 1: no square over- or underflows to the harm of a sum, whatever the values.
    Squared deviations are summed in a second loop, around the sub-block's own mean.
    """
    scan_blocks(values, near_zero, np.empty(SUB_BLOCK), counts, ends, rows)


@compiled
def scan_blocks(values: Array, near_zero: float, scratch: Array, counts: Array, ends: Array, rows: Array) -> None:
    """`moments` with its scratch."""
    for row in range(rows.shape[0]):
        scan_block(values[row * SUB_BLOCK : (row + 1) * SUB_BLOCK], near_zero, scratch, counts, ends, rows[row])


def moments_of_floats(values: Array, near_zero: float, counts: Array, ends: Array, rows: Array, tables: Array) -> None:
    """`moments` of float32 values, and the top halves of their patterns added to two uint32 tables in turn, block by block.

    Tops of zero stand in the first table. Blocks of finite values take loops over several values at once.
    """
    patterns, signed, scratch, lanes = values.view(np.uint32), values.view(np.int32), np.empty(SUB_BLOCK), np.empty((3, LANES))
    extremes = np.array([-1, np.iinfo(np.int32).min, np.iinfo(np.int32).max])
    scan_floats(values, patterns, signed, near_zero, scratch, lanes, counts, ends, extremes, rows, tables)
    most, greatest, least = extremes.tolist()
    if most < 0:
        return
    # As integers, patterns of values under zero have a sign and grow with the magnitude.
    found = most if least < 0 else least, greatest if greatest >= 0 else least
    low, high = np.array([end & 0xFFFFFFFF for end in found], np.uint32).view(np.float32).tolist()
    ends[0], ends[1] = min(ends[0], low), max(ends[1], high)


@compiled
def scan_floats(
    values: Array,
    patterns: Array,
    signed: Array,
    near_zero: float,
    scratch: Array,
    lanes: Array,
    counts: Array,
    ends: Array,
    extremes: Array,
    rows: Array,
    tables: Array,
) -> None:
    """`moments_of_floats` with other views of the values and its scratch; `lanes` has the shape (3, LANES).

    Blocks of finite values widen `extremes` (int64): the greatest pattern as uint32, the greatest and the least as int32.
    """
    one = np.uint32(1)
    for row in range(rows.shape[0]):
        start, stop = row * SUB_BLOCK, min((row + 1) * SUB_BLOCK, values.size)
        part, plain, sign = values[start:stop], patterns[start:stop], signed[start:stop]
        most, greatest, least = plain[0], sign[0], sign[0]
        for i in range(plain.size):
            most = max(most, plain[i])
            greatest = max(greatest, sign[i])
            least = min(least, sign[i])
        is_finite = most < np.uint32(0xFF800000) and greatest < np.int32(0x7F800000)
        for i in range(plain.size):
            tables[i & 1, plain[i] >> np.uint32(16)] += one
        if not is_finite:
            scan_block(part, near_zero, scratch, counts, ends, rows[row])
            continue
        extremes[0] = max(extremes[0], np.int64(most))
        extremes[1] = max(extremes[1], np.int64(greatest))
        extremes[2] = min(extremes[2], np.int64(least))
        zeros = 0
        for i in range(part.size):
            zeros += part[i] == np.float32(0)
        counts[0] += zeros
        if near_zero >= 0:
            for i in range(part.size):
                counts[3] += abs(np.float64(part[i])) <= near_zero
        sum_lanes(part, lanes[0], lanes[1], lanes[2], rows[row])
    tables[0, 0] += tables[1, 0]
    tables[1, 0] = 0


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
def held_of(word: np.uint64, top: np.uint64) -> np.uint64:
    """The top bit of each pattern in a word, set where the pattern is not zero; `top` has those bits alone."""
    return np.uint64((((word & ~top) + ~top) | word) & top)


@compiled
def fullest_of_words(words: Array, mask: np.uint64, top: np.uint64, fullest: Array) -> None:
    """Raise `fullest` by groups of four 16-bit patterns, a word each, and of eight."""
    over_1 = over_2 = over_4 = np.uint64(0)
    for i in range(0, words.size, 2):
        left, right = held_of(words[i] & mask, top), held_of(words[i + 1] & mask, top)
        # A byte for each of the two groups in every 16 bits, added up to two counts in the lowest 16.
        both = (left >> np.uint64(15)) | (right >> np.uint64(7))
        both += both >> np.uint64(32)
        both += both >> np.uint64(16)
        in_left, in_right = both & np.uint64(7), (both >> np.uint64(8)) & np.uint64(7)
        over_1 |= (in_left + np.uint64(6)) | (in_right + np.uint64(6))
        over_2 |= (in_left + np.uint64(5)) | (in_right + np.uint64(5))
        over_4 |= in_left + in_right + np.uint64(11)
    raise_fullest(over_1, over_2, over_4, fullest)


@compiled
def fullest_of_pairs(words: Array, mask: np.uint64, top: np.uint64, fullest: Array) -> None:
    """Raise `fullest` by groups of four 32-bit patterns, two words each, and of eight."""
    over_1 = over_2 = over_4 = np.uint64(0)
    for i in range(0, words.size, 4):
        left = (held_of(words[i] & mask, top) >> np.uint64(31)) + (held_of(words[i + 1] & mask, top) >> np.uint64(31))
        right = (held_of(words[i + 2] & mask, top) >> np.uint64(31)) + (held_of(words[i + 3] & mask, top) >> np.uint64(31))
        in_left = (left + (left >> np.uint64(32))) & np.uint64(7)
        in_right = (right + (right >> np.uint64(32))) & np.uint64(7)
        over_1 |= (in_left + np.uint64(6)) | (in_right + np.uint64(6))
        over_2 |= (in_left + np.uint64(5)) | (in_right + np.uint64(5))
        over_4 |= in_left + in_right + np.uint64(11)
    raise_fullest(over_1, over_2, over_4, fullest)


@compiled
def raise_fullest(over_1: np.uint64, over_2: np.uint64, over_4: np.uint64, fullest: Array) -> None:
    """From sums whose bit 3 (bit 4 of the last) is set where a group holds over one, over two, or over four of eight."""
    four = 3 if over_2 & np.uint64(8) else 2 if over_1 & np.uint64(8) else 1
    fullest[0] = max(fullest[0], four)
    fullest[1] = max(fullest[1], 5 if over_4 & np.uint64(16) else 4)


@compiled
def mark_nonzero_words(
    words: Array, mask: np.uint64, top: np.uint64, start: int, row_used: Array, column_flags: Array, fullest: Array
) -> None:
    """mark_nonzeros for 16- or 32-bit patterns, four or two to a uint64 word, of a matrix whose rows are whole groups of eight.

    `mask` and `top` are the mask and the top bit of every pattern in a word, `start` a multiple of eight. `column_flags` has
    the columns as a row of words; the top bit of each pattern is set where its column holds a value. `fullest` rises to what
    decides which N:M patterns are left: 1, 2, or 3 for any more of four; 4, or 5 for any more of eight.
    """
    is_by_four = top == np.uint64(0x8000800080008000)
    per_row, first_word = column_flags.size, start // (4 if is_by_four else 2)
    position = 0
    while position < words.size:
        row = (first_word + position) // per_row
        first = first_word + position - row * per_row
        length = min(per_row - first, words.size - position)
        part = words[position : position + length]
        flags = column_flags[first : first + length]
        used = np.uint64(0)
        for i in range(length):
            held = held_of(part[i] & mask, top)
            flags[i] |= held
            used |= held
        if used:
            row_used[row] = 1
            if fullest[0] <= 2 or fullest[1] <= 4:
                if is_by_four:
                    fullest_of_words(part, mask, top, fullest)
                else:
                    fullest_of_pairs(part, mask, top, fullest)
        position += length


@compiled
def count_differences(values: Array, base: Array, rounded: Array, counts: Array, sums: Array) -> None:
    """Compare floats with those of the base and with the same rounded to the type that the values were stored in.

    Adds to counts: values that differ from the base; and of those that differ from it rounded: zero now, zero there, neither.
    Adds to sums, of what is finite in both: squared difference, squares of both, their product.
    """
    apart, own = np.zeros(_DIFFERENCE_LANES), np.zeros(_DIFFERENCE_LANES)
    of_base, product = np.zeros(_DIFFERENCE_LANES), np.zeros(_DIFFERENCE_LANES)
    for i in range(values.size):
        value, there, near = np.float64(values[i]), np.float64(base[i]), np.float64(rounded[i])
        if not (value == there or (math.isnan(value) and math.isnan(there))):
            counts[0] += 1
            if not (value == near or (math.isnan(value) and math.isnan(near))):
                counts[1 if value == 0 else 2 if there == 0 else 3] += 1
        if abs(value) <= _LARGEST and abs(there) <= _LARGEST:
            lane = i % _DIFFERENCE_LANES
            apart[lane] += (value - there) * (value - there)
            own[lane] += value * value
            of_base[lane] += there * there
            product[lane] += value * there
    for lane in range(_DIFFERENCE_LANES):
        sums[0] += apart[lane]
        sums[1] += own[lane]
        sums[2] += of_base[lane]
        sums[3] += product[lane]


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


def add_bfloat16(sums: Array, places: Array, values: Array) -> None:
    """Add bfloat16 patterns (uint16) to those of `sums` at int64 `places`, in order, each sum rounded to the nearest even."""
    pair = np.zeros(2, np.float32)
    add_patterns(sums, places, values, pair, pair.view(np.uint32))


@compiled
def add_patterns(sums: Array, places: Array, values: Array, pair: Array, bits: Array) -> None:
    """`add_bfloat16`, where `bits` is the memory of the two floats in `pair` as uint32."""
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


def announce() -> None:
    """Log, at level INFO, that the first call will compile, if no compiled code is kept for these loops."""
    kept = Path(cast(Any, count_words).stats.cache_path or os.devnull)
    if not any(kept.glob("jit.*.nbi")):
        logging.getLogger(__name__).info("compiling the counting kernels, once per machine")
