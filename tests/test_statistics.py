"""Statistics from counts are exact, for every type and for the largest counts."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerhouse.ingest.checkpoint.dtypes import DTYPES, decoded
from layerhouse.ingest.measure.counter import Counter
from layerhouse.ingest.measure.statistics import (
    QUANTILES,
    Statistics,
    join_rows,
    statistics_from_counts,
    statistics_from_tally,
)

NARROW = [code for code, dtype in DTYPES.items() if dtype.bits <= 16 and code != "BOOL"]
INTEGERS = {"I32": np.int32, "U32": np.uint32, "I64": np.int64, "U64": np.uint64}


def tally_of(code, values, near_zero=None):
    counter = Counter()
    counter.begin(code, values.size, near_zero)
    counter.add(values.view(np.uint8))
    return counter.finish()


def square_root(value: Fraction) -> float:
    """The root of an exact fraction that may be beyond the range of floats, to within one unit in the last place."""
    return math.isqrt(value.numerator * value.denominator << 200) / (value.denominator << 100)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(NARROW),
    st.dictionaries(
        st.integers(0, 65535), st.one_of(st.integers(1, 9), st.integers(1 << 24, 1 << 55)), min_size=1, max_size=40
    ),
    st.sampled_from([None, 0.0, 0.5, 300.0, math.inf]),
)
def test_all_numbers_are_those_of_exact_fractions(code, chosen, near_zero):
    values = decoded(code)
    counts = [0] * len(values)
    for pattern, count in chosen.items():
        counts[pattern % len(values)] = count
    statistics = statistics_from_counts(code, counts, near_zero)
    finite = [(Fraction(float(v)), c) for v, c in zip(values, counts, strict=True) if c and math.isfinite(v)]
    total = sum(c for _, c in finite)
    assert statistics.nans == sum(c for v, c in zip(values, counts, strict=True) if math.isnan(v))
    assert statistics.infs == sum(c for v, c in zip(values, counts, strict=True) if math.isinf(v))
    assert statistics.zeros == sum(c for v, c in finite if v == 0)
    assert statistics.near_zeros == (None if near_zero is None else sum(c for v, c in finite if abs(v) <= near_zero))
    if total == 0:
        assert statistics.mean is statistics.std is statistics.min is statistics.abs_quantiles is None
        return
    mean = sum(v * c for v, c in finite) / total
    assert (statistics.min, statistics.max) == (min(finite)[0], max(finite)[0])
    assert statistics.abs_max == max(abs(v) for v, _ in finite)
    assert statistics.mean == float(mean)
    assert statistics.l1_norm == float(sum(abs(v) * c for v, c in finite))
    assert statistics.std == pytest.approx(square_root(sum((v - mean) ** 2 * c for v, c in finite) / total), rel=4e-16)
    assert statistics.l2_norm == pytest.approx(square_root(sum(v * v * c for v, c in finite)), rel=4e-16)
    running, quantiles = 0, []
    for size, count in sorted((abs(v), c) for v, c in finite):
        running += count
        while len(quantiles) < 7 and running * 100 >= QUANTILES[len(quantiles)] * total:
            quantiles.append(size)
    assert statistics.abs_quantiles == tuple(quantiles)


def test_counts_beyond_what_doubles_hold_are_exact():
    counts = np.zeros(65536, np.uint64)
    counts[0x3F80], counts[0xBF80], counts[0x0000] = 2**60 + 1, 2**60, 2**53 + 1  # 1.0, -1.0, 0.0
    statistics = statistics_from_counts("BF16", counts)
    assert statistics.zeros == 2**53 + 1
    assert statistics.mean == 1 / (2**61 + 1 + 2**53 + 1)
    assert statistics.l1_norm == float(2**61 + 1)
    assert statistics == statistics_from_counts("BF16", [int(count) for count in counts])


def test_quantiles_are_those_of_numpy():
    for size in (1, 2, 3, 99, 100, 101, 1000):
        values = np.random.default_rng(size).integers(-128, 128, size).astype(np.int8)
        expected = np.quantile(np.abs(values.astype(float)), np.array(QUANTILES) / 100, method="inverted_cdf")
        statistics = statistics_from_counts("I8", np.bincount(values.view(np.uint8), minlength=256))
        assert statistics.abs_quantiles == tuple(expected)


def test_statistics_of_empty_and_non_finite_counts():
    assert statistics_from_counts("F16", [0] * 65536) == Statistics(zeros=0, ladder_counts=())
    assert statistics_from_counts("F8_E4M3FNUZ", [0] * 128 + [7] + [0] * 127, 0.1) == Statistics(
        0, 0, nans=7, infs=0, ladder_counts=()
    )


def test_types_without_a_negative_zero_or_a_zero():
    one_of_each = [1] * 256
    assert statistics_from_counts("F8_E4M3", one_of_each).zeros == statistics_from_counts("F8_E5M2", one_of_each).zeros == 2
    for code in ("F8_E4M3FNUZ", "F8_E5M2FNUZ"):
        statistics = statistics_from_counts(code, one_of_each)
        assert (statistics.zeros, statistics.nans, statistics.infs) == (1, 1, 0)
    statistics = statistics_from_counts("F8_E8M0", one_of_each)
    assert (statistics.zeros, statistics.nans, statistics.min, statistics.max) == (0, 1, 2.0**-127, 2.0**127)


def test_the_least_power_of_two_is_summed():
    statistics = statistics_from_counts("F8_E8M0", [5, *[0] * 255])
    assert (statistics.mean, statistics.l1_norm, statistics.l2_norm) == (2.0**-127, 5 * 2.0**-127, math.sqrt(5) * 2.0**-127)


def test_infinities_are_never_near_zero():
    for code, infinity in (("F8_E5M2", 0x7C), ("F16", 0x7C00), ("BF16", 0xFF80)):
        counts = [0] * len(decoded(code))
        counts[0], counts[1], counts[infinity] = 2, 3, 4
        assert statistics_from_counts(code, counts, math.inf).near_zeros == 5
    values = np.array([0, 1, np.inf], np.float32)
    assert statistics_from_tally("F32", tally_of("F32", values, math.inf), math.inf).near_zeros == 2


def test_any_byte_but_zero_is_true():
    statistics = statistics_from_counts("BOOL", [3, 4, 0, 1, *[0] * 252])
    assert (statistics.zeros, statistics.max, statistics.mean, statistics.l1_norm) == (3, 1.0, 0.625, 5.0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["F32", "F64"]), st.integers(0, 2**32), st.integers(1, 9000), st.integers(-38, 36), st.floats(-10, 10))
def test_sums_of_wide_floats_are_within_1e_12(code, seed, size, power, shift):
    rng = np.random.default_rng(seed)
    values = ((rng.standard_normal(size) + shift) * 10.0**power).astype(
        code.replace("F", "f").replace("32", "4").replace("64", "8")
    )
    values[rng.random(size) < 0.3] = 0
    statistics = statistics_from_tally(code, tally_of(code, values, 0.5), 0.5)
    exact = values.astype(float)
    scale = float(np.abs(exact).max()) or 1.0
    l1_norm = math.fsum(np.abs(exact))
    assert statistics.zeros == np.count_nonzero(values == 0)
    assert statistics.near_zeros == np.count_nonzero(np.abs(exact) <= 0.5)
    assert (statistics.min, statistics.max) == (exact.min(), exact.max())
    assert abs(statistics.mean - math.fsum(exact) / size) <= 1e-12 * l1_norm / size
    assert statistics.l1_norm == pytest.approx(l1_norm, rel=1e-12)
    assert statistics.l2_norm == pytest.approx(math.sqrt(math.fsum((exact / scale) ** 2)) * scale, rel=1e-12)
    deviations = exact / scale - math.fsum(exact / scale) / size
    assert abs(statistics.std - math.sqrt(math.fsum(deviations**2) / size) * scale) <= 1e-12 * scale
    error = {"F32": 2.0**-8, "F64": 2.0**-5}[code]
    expected = np.quantile(np.abs(exact), np.array(QUANTILES) / 100, method="inverted_cdf")
    assert np.all(np.abs(np.array(statistics.abs_quantiles) - expected) <= error * expected + 2.0**-134)


@pytest.mark.parametrize("power", [-320, -308, -160, 0, 160, 300])
def test_no_square_over_or_underflows(power):
    values = np.array([3.0, -4.0, 0.0, np.nan, np.inf]) * np.float64(f"1e{power}")
    statistics = statistics_from_tally("F64", tally_of("F64", values))
    assert statistics.l2_norm == pytest.approx(5 * float(f"1e{power}"), rel=1e-12, abs=5e-324)
    assert (statistics.nans, statistics.infs, statistics.zeros) == (1, 1, 1)


def test_a_sum_beyond_doubles_is_infinite_and_the_mean_is_not():
    values = np.full(10, 1.7e308)
    statistics = statistics_from_tally("F64", tally_of("F64", values))
    assert (statistics.l1_norm, statistics.mean, statistics.std) == (math.inf, 1.7e308, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(INTEGERS)), st.integers(0, 2**32), st.integers(1, 6000), st.integers(1, 62))
def test_wide_integers(code, seed, size, bits):
    dtype = np.dtype(INTEGERS[code])
    low, high = (-(1 << bits), 1 << bits) if dtype.kind == "i" else (0, 1 << bits)
    info = np.iinfo(dtype)
    values = np.random.default_rng(seed).integers(max(low, info.min), min(high, info.max), size, dtype=dtype, endpoint=True)
    values[0] = info.min
    statistics = statistics_from_tally(code, tally_of(code, values))
    exact = [int(value) for value in values]
    l1_norm = sum(map(abs, exact))
    assert statistics.zeros == exact.count(0)
    assert (statistics.min, statistics.max) == (float(min(exact)), float(max(exact)))
    assert abs(Fraction(statistics.mean) * size - sum(exact)) <= Fraction(1e-12) * l1_norm
    assert statistics.l1_norm == pytest.approx(float(l1_norm), rel=1e-12)
    expected = np.quantile(np.abs(values.astype(float)), np.array(QUANTILES) / 100, method="inverted_cdf")
    error = np.where(expected < 1024, 0, 2.0**-10)
    assert np.all(np.abs(np.array(statistics.abs_quantiles) - expected) <= error * expected)


def test_joining_rows_is_deterministic_and_any_grouping_agrees_up_to_rounding():
    values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    rows = tally_of("F32", values).rows
    assert len(rows) == 13
    assert join_rows(rows).tolist() == join_rows(rows.copy()).tolist()
    halves = np.stack([join_rows(rows[:5]), join_rows(rows[5:])])
    assert join_rows(halves) == pytest.approx(join_rows(rows), rel=1e-12)
    assert join_rows(rows[:0]).tolist() == [0.0] * 6
