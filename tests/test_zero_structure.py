"""Zero rows, zero columns and N:M patterns of every type, whichever way the matrix is stored."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerhouse.ingest.measure import scheduler
from layerhouse.ingest.measure.marks import Marks, mark_on_cpu
from layerhouse.tests.measuring import job_of, measure_matrix, measure_one, raw_of

NORMAL = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
TWO_OF_FOUR = NORMAL * torch.tensor([1.0, 0, 0, 1]).repeat(16)
FOUR_OF_EIGHT = NORMAL * torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]).repeat(8)
ONE_OF_FOUR = NORMAL * torch.tensor([0.0, 0, 0, 1]).repeat(16)
HALF = NORMAL * (torch.rand(64, 64, generator=torch.Generator().manual_seed(1)) < 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.float8_e5m2])
@pytest.mark.parametrize(
    ("weight", "pattern"),
    [
        (TWO_OF_FOUR, "2:4"),
        (ONE_OF_FOUR, "1:4"),
        (FOUR_OF_EIGHT, "4:8"),
        (FOUR_OF_EIGHT[:, :60], None),
        (TWO_OF_FOUR[:, :60], "2:4"),
        (TWO_OF_FOUR[:, :62], "not applicable"),
        (HALF[:, :62], "not applicable"),
        (torch.zeros(64, 64), "trivial"),
        (torch.zeros(64, 62), "trivial"),
        (HALF, None),
        (torch.roll(TWO_OF_FOUR, 1, 1), "2:4"),
        (torch.roll(FOUR_OF_EIGHT, 1, 1), "4:8"),
        (torch.roll(FOUR_OF_EIGHT, 2, 1), "2:4"),
        (torch.roll(FOUR_OF_EIGHT, 4, 1), "4:8"),
    ],
)
def test_patterns_run_along_the_inputs(tmp_path, weight, pattern, dtype):
    weight = (weight * 40).to(dtype) if dtype != torch.int8 else torch.where(weight != 0, 3, 0).to(dtype)
    assert measure_matrix(tmp_path / "w", weight).nm_pattern == pattern
    assert measure_matrix(tmp_path / "w", weight.T.contiguous(), input_axis=0).nm_pattern == pattern
    assert measure_matrix(tmp_path / "w", weight, input_axis=None).nm_pattern is None
    with mock.patch.multiple(scheduler, BLOCK_BYTES=1 << 15, BATCH_BYTES=0):
        assert measure_matrix(tmp_path / "w", weight.repeat(40, 1), threads=3).nm_pattern == pattern


def test_a_pattern_across_the_inputs_is_none(tmp_path):
    assert measure_matrix(tmp_path / "w", TWO_OF_FOUR, input_axis=0).nm_pattern is None
    assert measure_matrix(tmp_path / "w", NORMAL).nm_pattern is None


@pytest.mark.parametrize(("code", "kind", "sign"), [("F16", np.uint16, 0x8000), ("F32", np.uint32, 0x8000_0000)])
@pytest.mark.parametrize("most", range(1, 9))
def test_marking_by_words_gives_the_marks_by_values(most, code, kind, sign):
    """Rows of groups of eight with up to `most` values in each, with zero rows and columns, in chunks of several lengths."""
    rng = np.random.default_rng(most)
    patterns = np.zeros((40, 56), kind)
    for group in patterns.reshape(-1, 8):
        group[rng.permutation(8)[: rng.integers(0, most + 1)]] = rng.integers(1, sign, dtype=kind)
    patterns[::3], patterns[:, 5:9] = 0, sign  # negative zeros
    counts = []
    for width in (56, 52):  # 52 is no multiple of eight, so it is marked value by value
        matrix = np.ascontiguousarray(patterns[:, :width])
        raw = matrix.reshape(-1).view(np.uint8)
        cuts = [0, 32, 32 * 11, 32 * 12, raw.size]
        rows, columns, fullest = np.zeros(40, np.uint8), np.zeros(width, np.uint8), np.zeros(2, np.int64)
        mark_on_cpu((raw[a:b] for a, b in pairwise(cuts)), 0, Marks(code, sign - 1, rows, columns, fullest))
        values = matrix & kind(sign - 1)
        assert np.array_equal(rows, values.any(1))
        assert np.array_equal(columns, values.any(0))
        counts.append(fullest.tolist())
    fours, eights = ((patterns & kind(sign - 1)).reshape(-1, size).astype(bool).sum(1).max() for size in (4, 8))
    assert counts[0] == [min(max(fours, 1), 3), 4 if eights <= 4 else 5]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([torch.float16, torch.float64, torch.uint8, torch.float8_e4m3fnuz]),
    st.tuples(st.integers(1, 70), st.integers(1, 700)),
    st.data(),
)
def test_zero_rows_and_columns(tmp_path_factory, dtype, shape, data):
    path = tmp_path_factory.getbasetemp() / "rows"
    weight = torch.ones(shape)
    weight[data.draw(st.lists(st.integers(0, shape[0] - 1), max_size=5)), :] = 0
    weight[:, data.draw(st.lists(st.integers(0, shape[1] - 1), max_size=5))] = 0
    weight[0, data.draw(st.integers(0, shape[1] - 1))] = data.draw(st.sampled_from([0.0, 1.0]))
    expected = int((weight == 0).all(1).sum()), int((weight == 0).all(0).sum())
    with mock.patch.multiple(scheduler, BLOCK_BYTES=1 << 15, BATCH_BYTES=data.draw(st.sampled_from([0, 1 << 15]))):
        measured = measure_matrix(path, weight.to(dtype), threads=2)
        assert (measured.zero_rows, measured.zero_cols) == expected
        measured = measure_matrix(path, weight.T.contiguous().to(dtype), input_axis=0)
        assert (measured.zero_rows, measured.zero_cols) == expected
        measured = measure_matrix(path, weight.to(dtype), input_axis=None)
        assert (measured.zero_rows, measured.zero_cols) == ((None, None) if measured.zeros else (0, 0))


@pytest.mark.parametrize("shape", [(8, 12), (12, 8)])
def test_a_single_zero_row_or_column_is_seen(tmp_path, shape):
    weight = torch.ones(shape)
    weight[:, 3] = 0
    assert (measure_matrix(tmp_path / "w", weight).zero_rows, measure_matrix(tmp_path / "w", weight).zero_cols) == (0, 1)
    assert (measure_matrix(tmp_path / "w", weight.T).zero_rows, measure_matrix(tmp_path / "w", weight.T).zero_cols) == (1, 0)


def test_negative_zero_is_zero_and_in_fnuz_it_is_nan(tmp_path):
    codes = np.tile(np.array([0, 0x80, 0x80, 0x31], np.uint8), (8, 1))
    for code, zeros, columns in (("F8_E4M3", 24, 3), ("F8_E5M2FNUZ", 8, 1)):
        measured = measure_one(job_of(tmp_path / "w", code, (8, 4), codes.tobytes(), input_axis=1))
        assert (measured.zeros, measured.zero_cols) == (zeros, columns)


def test_no_thread_loses_the_columns_of_another(tmp_path):
    weight = torch.zeros(16, 1 << 17, dtype=torch.bfloat16)
    weight[torch.arange(1 << 17) % 16, torch.arange(1 << 17)] = 1
    job = job_of(tmp_path / "w", "BF16", (16, 1 << 17), raw_of(weight), input_axis=1)
    with mock.patch.multiple(scheduler, BLOCK_BYTES=1 << 18, BATCH_BYTES=0):
        assert {(measure_one(job, threads=4).zero_rows, measure_one(job, threads=4).zero_cols) for _ in range(20)} == {(0, 0)}
