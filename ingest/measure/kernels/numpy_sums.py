"""Sums of wide types, in a fixed order of additions: the reference in numpy of the C loops of the same names.

The C loops sum in lanes, element i in lane i % lanes, each lane in order, and add the lanes at the end. Here a lane is a column
of an array, and `np.add.reduce` over the first axis adds one row after the other: numpy sums pairwise only along the axis that
is contiguous in memory. So all sums are those of C to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.measure.kernels.moments import SUB_BLOCK
from layerhouse.ingest.measure.kernels.numpy_counts import add_ones

Array = npt.NDArray[Any]

FLAT = 0.01
"""Share of the sum of squares below which squared deviations are summed around the mean: a subtraction would cost digits."""

LEAST_EXPONENT = -1000
"""Lower bound of a row's exponent, so that 2**-exponent is a finite double."""

BLOCKS_AT_ONCE = 16
"""Sub-blocks that are summed side by side: 512 KiB of float64, which fit a processor's second cache."""

FLOAT_STEP = 16
"""float32 values that are summed to FLOAT_LANES numbers before they are added to their lanes."""

FLOAT_LANES = 4
DOUBLE_LANES = 2
DIFFERENCE_LANES = 8
SIGN_LANES = 64


def moments(values: Array, near_zero: float, counts: Array, ends: Array, rows: Array) -> None:
    """Count float64 values and sum the finite ones, a row of `rows` for each SUB_BLOCK of them.

    Adds to `counts` (zeros, NaNs, infinities, magnitudes up to near_zero) and widens `ends` (min, max). A row's sums are of
    x * 2**-exponent, whose magnitudes are at most 1, so that squares neither overflow nor lose digits to underflow, whatever
    the values. Squared deviations are summed in a second pass around the sub-block's own mean.
    """
    for first in range(0, len(rows), BLOCKS_AT_ONCE):
        part = values[first * SUB_BLOCK : (first + BLOCKS_AT_ONCE) * SUB_BLOCK]
        _scan(part, near_zero, counts, ends, rows[first : first + BLOCKS_AT_ONCE])


def moments_of_floats(values: Array, near_zero: float, counts: Array, ends: Array, rows: Array, tables: Array) -> None:
    """`moments` of float32 values; also counts the top halves of their patterns in uint32 tables, as count_words does.

    Sub-blocks of finite values have exponent 0, as squares of float32 neither over- nor underflow as doubles.
    """
    add_ones(tables[0], values.view(np.uint32) >> np.uint32(16))
    whole = values.size // SUB_BLOCK
    for first in range(0, whole, BLOCKS_AT_ONCE):
        last = min(first + BLOCKS_AT_ONCE, whole)
        blocks = values[first * SUB_BLOCK : last * SUB_BLOCK].reshape(-1, SUB_BLOCK)
        _scan_floats(blocks, near_zero, counts, ends, rows[first:last])
    if whole < len(rows):
        _scan_floats(values[np.newaxis, whole * SUB_BLOCK :], near_zero, counts, ends, rows[whole:])


def add_up(terms: Array, sums: Array) -> None:
    """The sum of each row of float64 `terms`, with about twice the digits of a double before it is rounded.

    The rounding error of each addition is summed separately (Knuth's two-sum, TAOCP 4.2.2).
    """
    totals = np.add.accumulate(terms, axis=1)
    before = np.zeros_like(totals)
    before[:, 1:] = totals[:, :-1]
    added = totals - before
    errors = np.add.accumulate((before - (totals - added)) + (terms - added), axis=1)
    sums[:] = totals[:, -1] + errors[:, -1] if terms.shape[1] else 0.0


def count_differences(values: Array, base: Array, rounded: Array, counts: Array, sums: Array) -> None:
    """Compare floats with those of the base and with the same rounded to the type that the values were stored in.

    Adds to `counts`: values that differ from the base; and of those that differ from it rounded: zero now, zero there, neither.
    Adds to `sums`, over elements that are finite in both: squared difference, squares of both, their product.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        value, there, near = (array.astype(np.float64) for array in (values, base, rounded))
        is_changed = ~((value == there) | (np.isnan(value) & np.isnan(there)))
        is_apart = is_changed & ~((value == near) | (np.isnan(value) & np.isnan(near)))
        is_zero, was_zero = is_apart & (value == 0), is_apart & (there == 0)
        kinds = (is_changed, is_zero, was_zero, is_apart & ~is_zero & ~was_zero)
        counts += np.array([np.count_nonzero(kind) for kind in kinds])
        is_finite = np.isfinite(value) & np.isfinite(there)
        value, there = (np.where(is_finite, array, 0.0) for array in (value, there))
        apart = value - there
        for place, terms in enumerate((apart * apart, value * value, there * there, value * there)):
            for lane in _lanes(terms, DIFFERENCE_LANES).tolist():
                sums[place] += lane


def add_squares(values: Array, start: int, run: int, squares: Array) -> None:
    """Add x * x of each value of a float matrix in C order to the entry of its column (run 1) or of its row (run: its width).

    Element 0 of `values` is element `start` of the matrix.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        terms = np.square(values.astype(np.float64))
        period = squares.size if run == 1 else run
        position, entry = 0, start // run % squares.size
        while position < terms.size:
            if run == 1:
                part = terms[position : position + period - entry]
                squares[entry : entry + part.size] += part
                entry = 0
            else:
                part = terms[position : position + period - (start + position) % period]
                squares[entry] = np.add.accumulate(np.concatenate((squares[entry : entry + 1], part)))[-1]
                entry = (entry + 1) % squares.size
            position += part.size


def add_signed(values: Array, start: int, lanes: Array) -> None:
    """Add the floats of a sample to 64 `lanes`, each with a sign: element i goes to lane j = i % 64, and is negative if bit j
    of output i // 64 of SplitMix64 from seed 0 is set (Steele, Lea, Flood 2014).

    Element 0 of `values` is element `start` of the sample. A lane's values are added in their order.
    """
    index = np.arange(start, start + values.size, dtype=np.uint64)
    z = (index // np.uint64(SIGN_LANES) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    is_negative = z >> index % np.uint64(SIGN_LANES) & np.uint64(1) == 1
    with np.errstate(over="ignore", invalid="ignore"):
        terms = np.where(is_negative, -values.astype(np.float64), values.astype(np.float64))
        around = (start % SIGN_LANES, -(start + values.size) % SIGN_LANES)
        rows = np.pad(terms, around, constant_values=-0.0).reshape(-1, SIGN_LANES)  # adding -0.0 changes nothing
        lanes[:] = np.add.accumulate(np.concatenate((lanes[np.newaxis], rows)), axis=0)[-1]


def project(profile: Array, signs: Array, out: Array) -> None:
    """Add profile @ signs (int8, a row for each entry of the profile) to `out`, in the order of the rows."""
    terms = profile[:, np.newaxis] * signs[: profile.size]
    out[:] = np.add.accumulate(np.concatenate((out[np.newaxis], terms)), axis=0)[-1]


def add_bfloat16(sums: Array, places: Array, values: Array) -> None:
    """Add bfloat16 patterns (uint16) to those of `sums` at int64 `places`, in order, each sum rounded to the nearest even.

    Values are added in rounds: the first of each place, then the second, and so on.
    """
    order = np.argsort(places, kind="stable")
    is_first = np.ones(places.size, bool)
    is_first[1:] = places[order[1:]] != places[order[:-1]]
    starts = np.flatnonzero(is_first)
    turns = np.arange(places.size) - np.repeat(starts, np.diff(starts, append=places.size))
    by_turn = order[np.argsort(turns, kind="stable")]
    position = 0
    for size in np.bincount(turns).tolist():
        chosen = by_turn[position : position + size]
        there = places[chosen]
        sums[there] = _add_patterns(sums[there], values[chosen])
        position += size


def _add_patterns(left: Array, right: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        total = _widened(left) + _widened(right)
    bits = total.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(total), np.uint16(0x7FC0), rounded.astype(np.uint16))


def _widened(patterns: Array) -> Array:
    return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _scan_floats(blocks: Array, near_zero: float, counts: Array, ends: Array, rows: Array) -> None:
    """Count float32 values, shape (blocks, values of one), and fill a row of moments for each block."""
    is_finite = np.isfinite(blocks).all(axis=1)
    for place in np.flatnonzero(~is_finite).tolist():
        with np.errstate(invalid="ignore"):  # a signalling NaN
            values = blocks[place].astype(np.float64)
        _scan(values, near_zero, counts, ends, rows[place : place + 1])
    if is_finite.any():
        finite = blocks if is_finite.all() else blocks[is_finite]
        _count_finite(finite, near_zero, counts, ends)
        rows[is_finite] = _float_rows(finite)


def _float_rows(blocks: Array) -> Array:
    """Rows of moments of finite float32 values, shape (blocks, values of one)."""
    number, length = blocks.shape
    whole = length // FLOAT_STEP * FLOAT_STEP
    steps = np.array(blocks[:, :whole].reshape(number, -1, FLOAT_STEP).transpose(1, 2, 0), np.float64, order="C")
    rest = blocks[:, whole:].astype(np.float64)
    sums = []
    for terms, tail in ((steps, rest), (np.abs(steps), np.abs(rest)), (np.square(steps), np.square(rest))):
        a, b, c, d = (terms[:, place : place + FLOAT_LANES] for place in range(0, FLOAT_STEP, FLOAT_LANES))
        lanes = np.add.reduce((a + b) + (c + d), axis=0, initial=0.0)
        for place in range(length - whole):
            lanes[place % FLOAT_LANES] += tail[:, place]
        sums.append(_joined(lanes))
    total, size, square = sums
    mean = total / length
    deviation = square - total * mean
    for place in np.flatnonzero(deviation < FLAT * square).tolist():
        apart = blocks[place].astype(np.float64) - mean[place]
        deviation[place] = _joined(_lanes(apart * apart, FLOAT_LANES))
    return np.stack((np.full(number, float(length)), np.zeros(number), total, size, square, deviation), axis=1)


def _scan(values: Array, near_zero: float, counts: Array, ends: Array, rows: Array) -> None:
    """Count float64 values and fill a row of moments with the finite ones of each sub-block."""
    blocks = np.zeros((len(rows), SUB_BLOCK))
    blocks.reshape(-1)[: values.size] = values
    lengths = np.minimum(values.size - SUB_BLOCK * np.arange(len(rows)), SUB_BLOCK)
    is_finite = np.isfinite(values)
    if not is_finite.all():
        nans = np.count_nonzero(np.isnan(values))
        counts[1] += nans
        counts[2] += values.size - np.count_nonzero(is_finite) - nans
        for place in np.flatnonzero(~np.isfinite(blocks).all(axis=1)).tolist():
            block = blocks[place, : lengths[place]]
            kept = block[np.isfinite(block)]
            lengths[place] = kept.size
            blocks[place] = 0.0
            blocks[place, : kept.size] = kept
        values = values[is_finite]
    _count_finite(values, near_zero, counts, ends)
    rows[:] = _double_rows(blocks, lengths)


def _count_finite(values: Array, near_zero: float, counts: Array, ends: Array) -> None:
    counts[0] += values.size - np.count_nonzero(values)
    if near_zero >= 0:
        counts[3] += np.count_nonzero(np.abs(values.astype(np.float64)) <= near_zero)
    if values.size:
        ends[0], ends[1] = min(ends[0], float(values.min())), max(ends[1], float(values.max()))


def _double_rows(blocks: Array, lengths: Array) -> Array:
    """Rows of moments of finite float64 values, shape (blocks, SUB_BLOCK), each block zeros after its length."""
    tops = np.abs(blocks).max(axis=1, initial=0.0)
    exponents = np.where(tops > 0, np.maximum(np.frexp(tops)[1], LEAST_EXPONENT), LEAST_EXPONENT)
    blocks = blocks * np.ldexp(1.0, -exponents)[:, np.newaxis]
    steps = np.array(blocks.reshape(len(blocks), -1, DOUBLE_LANES).transpose(1, 2, 0), order="C")
    total, size, square = (
        np.add.reduce(np.add.reduce(terms, axis=0, initial=0.0), axis=0) for terms in (steps, np.abs(steps), np.square(steps))
    )
    mean = total / np.maximum(lengths, 1)
    steps -= mean
    for place in np.flatnonzero(lengths < SUB_BLOCK).tolist():
        whole, half = divmod(int(lengths[place]), DOUBLE_LANES)
        steps[whole + half :, :, place] = 0.0
        steps[whole : whole + half, half:, place] = 0.0
    deviation = np.add.reduce(np.add.reduce(np.square(steps), axis=0, initial=0.0), axis=0)
    return np.stack((lengths.astype(np.float64), exponents.astype(np.float64), total, size, square, deviation), axis=1)


def _lanes(terms: Array, lanes: int) -> Array:
    """The sum of every lane of terms in a row."""
    padded = np.zeros(-(-terms.size // lanes) * lanes)
    padded[: terms.size] = terms
    return np.asarray(np.add.reduce(padded.reshape(-1, lanes), axis=0, initial=0.0))


def _joined(lanes: Array) -> Any:
    """The sums of FLOAT_LANES lanes, in the order of the C loop."""
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
