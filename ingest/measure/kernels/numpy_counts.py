"""How often each pattern occurs, and what follows from that: the reference in numpy of the C loops of the same names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Description = tuple[int, int, int, int, int, float, float, tuple[float, ...]]
"""Zeros, near zeros, NaNs, infinities, finite values, minimum, maximum, quantiles of the magnitudes."""

STEP = 1 << 15
"""Patterns that are converted to indices at a time, so that the indices stay in the processor's cache."""

_ONE = np.uint32(1)


def add_ones(table: Array, codes: Array) -> None:
    """Add 1 to the entry of each pattern in a uint32 table. `np.add.at` releases the GIL, `np.bincount` does not."""
    for start in range(0, codes.size, STEP):
        np.add.at(table, codes[start : start + STEP].astype(np.intp), _ONE)


def count_bytes(codes: Array, tables: Array) -> None:
    """Count 8-bit patterns in uint32 tables, shape (4, 256).

    The counts are the sums of the tables: the C loop writes to the tables in turn, so that equal neighbours increment different
    entries; here the first table takes all.
    """
    add_ones(tables[0], codes)


def count_words(words: Array, rest: Array, tables: Array) -> None:
    """Count 16-bit patterns, four to a uint64 word and then the rest, in uint32 tables, shape (2, 65536).

    The counts are the sums of the tables, except that zeros are counted in the first one alone.
    """
    add_ones(tables[0], words.view(np.uint16))
    add_ones(tables[0], rest)


def drain(tables: Array, codes: Array, counts: Array) -> int:
    """Move the counts to (codes, counts), patterns ascending, and clear the tables. Returns the number of distinct patterns."""
    totals = tables.sum(axis=0, dtype=np.int64)
    tables[:] = 0
    distinct = np.flatnonzero(totals)
    codes[: distinct.size] = distinct
    counts[: distinct.size] = totals[distinct]
    return distinct.size


def count_few(codes: Array, table: Array, distinct: Array, counts: Array) -> int:
    """Fill (distinct, counts) with the patterns of a short array, in any order. Returns how many are distinct.

    The C loop uses `table` as scratch: zeros before and after.
    """
    patterns, sizes = np.unique(codes, return_counts=True)
    distinct[: patterns.size] = patterns
    counts[: patterns.size] = sizes
    return patterns.size


def describe_codes(codes: Array, counts: Array, values: Array, ranks: Array, near_zero: float, percents: Array) -> Description:
    """Describe the values of distinct patterns (uint16, any order) that occur `counts` (uint64) times.

    `values` (float64) and `ranks` (uint16) are by pattern; ranks ascend as finite magnitudes do. Near zeros are magnitudes up
    to `near_zero`. Minimum and maximum are (inf, -inf) without finite values. The quantile of a percentage p is the finite
    magnitude at rank ceil(p * n / 100), 0.0 without finite values.
    """
    chosen = values[codes]
    is_finite, is_nan = np.isfinite(chosen), np.isnan(chosen)
    finite, weights = chosen[is_finite], counts[is_finite]
    sizes = np.abs(finite)
    total = int(weights.sum())
    nans = int(counts[is_nan].sum())
    order = np.argsort(ranks[codes[is_finite]], kind="stable")
    running = np.cumsum(weights[order])
    targets = np.array([-(-int(percent) * total // 100) for percent in percents], np.uint64)
    quantiles = sizes[order][np.searchsorted(running, targets)].tolist() if total else [0.0] * percents.size
    return (
        int(weights[sizes == 0].sum()),
        int(weights[sizes <= near_zero].sum()),
        nans,
        int(counts.sum()) - total - nans,
        total,
        float(finite.min(initial=np.inf)),
        float(finite.max(initial=-np.inf)),
        tuple(quantiles),
    )


def sum_codes(codes: Array, counts: Array, significands: Array, groups: Array, sums: Array) -> None:
    """Add count times significand, its magnitude and its square to the row of `sums` (int64, three columns) of each group.

    `codes` are distinct patterns (uint16); `significands` (int32) and `groups` (uint16) are by pattern.
    """
    factors, places = significands[codes].astype(np.int64), groups[codes].astype(np.intp)
    products = factors * counts.astype(np.int64)
    for column, terms in enumerate((products, np.abs(products), factors * products)):
        np.add.at(sums[:, column], places, terms)
