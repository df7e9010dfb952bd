"""Measuring: against torch and numpy for every type, the same to the bit for any threads and chunks, bounded, and stoppable."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure import scheduler as module
from layerhouse.ingest.measure.counter import Counter, mark_on_cpu
from layerhouse.ingest.measure.io import prefetch
from layerhouse.ingest.measure.kernels.moments import SUB_BLOCK
from layerhouse.ingest.measure.scheduler import Job, Measurement, measure
from layerhouse.ingest.measure.statistics import statistics_from_tally

TORCH = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
FLOATS = [code for code in TORCH if DTYPES[code].kind == "float"]
BLOCK = 1 << 16


def raw_of(tensor: torch.Tensor) -> bytes:
    return tensor.flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy().tobytes()


def job_of(path: Path, code: str, shape: tuple[int, ...], raw: bytes, **axes) -> Job:
    path.write_bytes(b"\x01" * 3 + raw)
    return Job(TensorRef(path.name, code, shape, path, 3, len(raw)), **axes)


def one(job: Job, **options) -> Measurement:
    [(index, found)] = measure([job], **{"threads": 1, **options})
    assert index == 0
    assert isinstance(found, Measurement), found
    return found


def matrix(path: Path, tensor: torch.Tensor, input_axis: int | None = 1, **options) -> Measurement:
    code = next(code for code, dtype in TORCH.items() if dtype == tensor.dtype)
    return one(job_of(path, code, tuple(tensor.shape), raw_of(tensor), input_axis=input_axis), **options)


def patterns(code: str, seed: int, size: int) -> bytes:
    """Random values with zeros of both signs, infinities, NaNs and subnormals sown in; every third time any bytes."""
    rng = np.random.default_rng(seed)
    dtype = DTYPES[code]
    width = dtype.bits // 8
    words = np.frombuffer(rng.bytes(size * width), f"u{width}").copy()
    if code == "BOOL":
        words &= 1
    elif dtype.kind == "float" and seed % 3 and dtype.special != "e8m0":
        words[rng.random(size) < 0.9] &= np.array(((1 << dtype.bits) - 1) ^ (1 << (dtype.bits - 2)), words.dtype)  # under 2
        sign, top = 1 << (dtype.bits - 1), ((1 << dtype.exponent) - 1) << dtype.mantissa
        sown = np.array([0, sign, 1, sign | 1, top, sign | top, top | 1], dtype=np.uint64).astype(words.dtype)
        places = rng.random(size) < 0.3
        words[places] = rng.choice(sown, int(places.sum()))
    elif seed % 2:
        words[rng.random(size) < 0.5] = 0
    return words.tobytes()


def content_hash(raw: bytes, block: int) -> str:
    if len(raw) <= block:
        return xxhash.xxh3_128_hexdigest(raw)
    return xxhash.xxh3_128_hexdigest(b"".join(xxhash.xxh3_128_digest(raw[at : at + block]) for at in range(0, len(raw), block)))


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(list(TORCH)),
    st.integers(0, 2**32),
    st.one_of(st.integers(1, 300), st.integers(3000, 90_000)),
    st.integers(1, 200_000),
    st.integers(2, 4),
)
def test_every_type_is_measured_like_torch_and_the_same_for_any_chunks_and_threads(
    tmp_path_factory, code, seed, size, chunk, threads
):
    raw = patterns(code, seed, size)
    job = job_of(tmp_path_factory.getbasetemp() / "measured", code, (size,), raw)
    with mock.patch.multiple(module, BLOCK_BYTES=BLOCK, BATCH_BYTES=1000):
        found = one(job, near_zero=0.25, chunk_bytes=chunk, threads=threads)
        assert found == one(job, near_zero=0.25)
    values = torch.frombuffer(bytearray(raw), dtype=TORCH[code]).to(torch.float64).numpy()
    finite = values[np.isfinite(values)]
    assert found.content_hash == content_hash(raw, BLOCK)
    assert found.zeros == np.count_nonzero(values == 0)
    assert found.nans == np.count_nonzero(np.isnan(values))
    assert found.infs == np.count_nonzero(np.isinf(values))
    assert found.near_zeros == np.count_nonzero(np.abs(finite) <= 0.25)
    if finite.size == 0:
        assert found.max is found.std is found.abs_quantiles is None
        return
    top = float(np.abs(finite).max()) or 1.0
    scaled = finite / top
    assert (found.min, found.max, found.abs_max) == (finite.min(), finite.max(), np.abs(finite).max())
    assert found.mean / top == pytest.approx(scaled.mean(), abs=1e-12)
    assert found.std / top == pytest.approx(scaled.std(), abs=1e-12)
    with np.errstate(over="ignore"):  # beyond the range of doubles a norm is infinite
        assert found.l1_norm == pytest.approx(np.abs(scaled).sum() * top, rel=1e-11, abs=1e-320)
        assert found.l2_norm == pytest.approx(np.sqrt((scaled**2).sum()) * top, rel=1e-11, abs=1e-320)


@pytest.mark.parametrize("code", [code for code in FLOATS if DTYPES[code].special == "ieee"])
def test_both_zeros_are_zeros_and_subnormals_are_not(tmp_path, code):
    dtype = DTYPES[code]
    sign, top = 1 << (dtype.bits - 1), ((1 << dtype.exponent) - 1) << dtype.mantissa
    word = f"u{dtype.bits // 8}"
    raw = np.repeat(np.array([0, sign, 1, top | 1, top, dtype.bias << dtype.mantissa], np.uint64).astype(word), 10).tobytes()
    found = one(job_of(tmp_path / "w", code, (60,), raw))
    assert (found.zeros, found.nans, found.infs, found.min, found.max) == (20, 10, 10, 0.0, 1.0)
    assert found.near_zeros is None
    assert one(job_of(tmp_path / "w", code, (60,), raw), near_zero=1e-3).near_zeros == 30


@pytest.mark.parametrize(("code", "shape"), [("F4", (2, 8)), ("F4", (3, 5)), ("F6_E2M3", (7,)), ("F6_E3M2", (333, 301))])
def test_packed_floats_are_unpacked_low_bits_first(tmp_path, code, shape):
    elements, bits = int(np.prod(shape)), DTYPES[code].bits
    codes = np.random.default_rng(0).integers(0, 1 << bits, elements)
    stream = sum(int(value) << (bits * i) for i, value in enumerate(codes[:16])) if elements <= 16 else None
    packed = np.packbits((codes[:, None] >> np.arange(bits) & 1).astype(np.uint8).ravel(), bitorder="little").tobytes()
    assert stream is None or packed == stream.to_bytes(-(-elements * bits // 8), "little")
    job = job_of(tmp_path / "w", code, shape, packed)
    with mock.patch.multiple(module, BLOCK_BYTES=1 << 15, BATCH_BYTES=0):
        found = one(job, threads=2, chunk_bytes=1)
        assert found.content_hash == content_hash(packed, 1 << 15)
    assert found == one(job) if len(packed) <= 1 << 15 else found.zeros == one(job).zeros
    assert found.zeros == np.count_nonzero(codes & ((1 << (bits - 1)) - 1) == 0)
    if code == "F4":
        values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])[codes]
        assert (found.mean, found.l1_norm) == (pytest.approx(values.mean()), np.abs(values).sum())


def test_complex_numbers_have_counts_only(tmp_path):
    values = np.array([0, -0.0, 1j, np.nan, complex(np.inf, 1), complex(np.inf, np.nan)], np.complex64)
    found = one(job_of(tmp_path / "w", "C64", (6,), values.tobytes()), near_zero=0.1)
    assert (found.zeros, found.nans, found.infs, found.near_zeros, found.max) == (2, 2, 1, None, None)


@pytest.mark.parametrize("code", ["F32", "BF16", "U8", "I64", "BOOL", "F4", "F6_E2M3", "C64"])
def test_an_empty_tensor_has_no_zeros_and_nothing_else(tmp_path, code):
    found = one(job_of(tmp_path / "w", code, (0, 5), b"", input_axis=1, residual_axis=1), near_zero=0.1)
    assert found == Measurement(zeros=0, content_hash=xxhash.xxh3_128_hexdigest(b""))


def test_a_scalar_is_measured(tmp_path):
    found = one(job_of(tmp_path / "w", "F32", (), np.float32(-2.5).tobytes()))
    assert (found.min, found.mean, found.std, found.abs_max, found.l2_norm) == (-2.5, -2.5, 0.0, 2.5, 2.5)
    assert found.abs_quantiles == (2.5,) * 7


@pytest.mark.parametrize("code", ["U8", "F16"])
def test_counts_beyond_2_to_the_24_are_exact(tmp_path, code):
    elements, width = 20_000_003, DTYPES[code].bits // 8
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.truncate(elements * width)
        file.seek(elements * width - width)
        file.write(np.array([1], f"u{width}").tobytes())
    found = one(Job(TensorRef("w", code, (elements,), path, 0, elements * width)), threads=2)
    assert found.zeros == elements - 1
    assert found.mean == found.max / elements


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
    assert matrix(tmp_path / "w", weight).nm_pattern == pattern
    assert matrix(tmp_path / "w", weight.T.contiguous(), input_axis=0).nm_pattern == pattern
    assert matrix(tmp_path / "w", weight, input_axis=None).nm_pattern is None
    with mock.patch.multiple(module, BLOCK_BYTES=1 << 15, BATCH_BYTES=0):
        assert matrix(tmp_path / "w", weight.repeat(40, 1), threads=3).nm_pattern == pattern


@pytest.mark.parametrize("near_zero", [None, 0.01])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (3, 2, 1, 5, 4, 0), (4,), (2, 3), (5, 5)])
def test_blocks_of_floats_of_every_kind(order, near_zero):
    """Blocks of values, of many zeros, of zeros of both signs, with what is not finite, all under zero, all near one."""
    chance = np.random.default_rng(7)
    blocks = chance.standard_normal((6, SUB_BLOCK)).astype(np.float32)
    blocks[1, chance.random(SUB_BLOCK) < 0.5] = 0
    blocks[2], blocks[2, ::2] = 0, -0.0
    blocks[3, :4], blocks[3, 9] = (np.nan, np.inf, -np.inf, -np.nan), 0
    blocks[4] = -np.abs(blocks[4]) - 1e-30
    blocks[5] = 1 + blocks[5] * np.float32(1e-5)
    values = np.concatenate([blocks[place] for place in order] + [blocks[order[-1], :1001]])
    tallies = []
    for blocks_a_chunk in (2, 4, 100):
        counter = Counter()
        counter.begin("F32", values.size, near_zero)
        for start in range(0, values.size, blocks_a_chunk * SUB_BLOCK):
            counter.add(values[start : start + blocks_a_chunk * SUB_BLOCK].view(np.uint8))
        tallies.append(counter.finish())
    tally = tallies[0]
    for other in tallies[1:]:
        assert np.array_equal(other.rows, tally.rows)
    codes, counts = np.unique(values.view(np.uint32) >> 16, return_counts=True)
    assert np.array_equal(tally.codes, codes)
    assert np.array_equal(tally.counts, counts)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert (tally.zeros, tally.nans, tally.infs) == ((values == 0).sum(), np.isnan(values).sum(), np.isinf(values).sum())
    assert tally.near_zeros == (0 if near_zero is None else (np.abs(finite) <= near_zero).sum())
    assert (tally.least, tally.greatest) == (finite.min(), finite.max())
    found = statistics_from_tally("F32", tally)
    assert found.mean == pytest.approx(math.fsum(finite) / finite.size, abs=1e-12 * np.abs(finite).mean())
    assert found.l2_norm == pytest.approx(math.sqrt(math.fsum(finite * finite)), rel=1e-12)
    assert found.std == pytest.approx(np.std(finite), rel=1e-9)


def test_a_pattern_across_the_inputs_is_none(tmp_path):
    assert matrix(tmp_path / "w", TWO_OF_FOUR, input_axis=0).nm_pattern is None
    assert matrix(tmp_path / "w", NORMAL).nm_pattern is None


@pytest.mark.parametrize(("code", "kind", "sign"), [("F16", np.uint16, 0x8000), ("F32", np.uint32, 0x8000_0000)])
@pytest.mark.parametrize("most", range(1, 9))
def test_marks_by_words_are_those_by_values(most, code, kind, sign):
    """Rows of groups of eight with up to `most` values in each, zero rows and columns among them, in chunks of any length."""
    chance = np.random.default_rng(most)
    patterns = np.zeros((40, 56), kind)
    for group in patterns.reshape(-1, 8):
        group[chance.permutation(8)[: chance.integers(0, most + 1)]] = chance.integers(1, sign, dtype=kind)
    patterns[::3], patterns[:, 5:9] = 0, sign  # -0 is zero
    found = []
    for width in (56, 52):  # 52 is no multiple of eight: value by value
        matrix = np.ascontiguousarray(patterns[:, :width])
        raw = matrix.reshape(-1).view(np.uint8)
        cuts = [0, 32, 32 * 11, 32 * 12, raw.size]
        rows, columns, fullest = np.zeros(40, np.uint8), np.zeros(width, np.uint8), np.zeros(2, np.int64)
        mark_on_cpu((raw[a:b] for a, b in pairwise(cuts)), code, sign - 1, 0, rows, columns, fullest)
        values = matrix & kind(sign - 1)
        assert np.array_equal(rows, values.any(1))
        assert np.array_equal(columns, values.any(0))
        found.append(fullest.tolist())
    fours, eights = ((patterns & kind(sign - 1)).reshape(-1, size).astype(bool).sum(1).max() for size in (4, 8))
    assert found[0] == [min(max(fours, 1), 3), 4 if eights <= 4 else 5]


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
    with mock.patch.multiple(module, BLOCK_BYTES=1 << 15, BATCH_BYTES=data.draw(st.sampled_from([0, 1 << 15]))):
        found = matrix(path, weight.to(dtype), threads=2)
        assert (found.zero_rows, found.zero_cols) == expected
        found = matrix(path, weight.T.contiguous().to(dtype), input_axis=0)
        assert (found.zero_rows, found.zero_cols) == expected
        found = matrix(path, weight.to(dtype), input_axis=None)
        assert (found.zero_rows, found.zero_cols) == (0, 0)


@pytest.mark.parametrize("shape", [(8, 12), (12, 8)])
def test_a_single_zero_row_or_column_is_seen(tmp_path, shape):
    weight = torch.ones(shape)
    weight[:, 3] = 0
    assert (matrix(tmp_path / "w", weight).zero_rows, matrix(tmp_path / "w", weight).zero_cols) == (0, 1)
    assert (matrix(tmp_path / "w", weight.T).zero_rows, matrix(tmp_path / "w", weight.T).zero_cols) == (1, 0)


def test_negative_zero_is_zero_and_in_fnuz_it_is_nan(tmp_path):
    codes = np.tile(np.array([0, 0x80, 0x80, 0x31], np.uint8), (8, 1))
    for code, zeros, columns in (("F8_E4M3", 24, 3), ("F8_E5M2FNUZ", 8, 1)):
        found = one(job_of(tmp_path / "w", code, (8, 4), codes.tobytes(), input_axis=1))
        assert (found.zeros, found.zero_cols) == (zeros, columns)


def test_threads_do_not_lose_each_others_columns(tmp_path):
    weight = torch.zeros(16, 1 << 17, dtype=torch.bfloat16)
    weight[torch.arange(1 << 17) % 16, torch.arange(1 << 17)] = 1
    job = job_of(tmp_path / "w", "BF16", (16, 1 << 17), raw_of(weight), input_axis=1)
    with mock.patch.multiple(module, BLOCK_BYTES=1 << 18, BATCH_BYTES=0):
        assert {(one(job, threads=4).zero_rows, one(job, threads=4).zero_cols) for _ in range(20)} == {(0, 0)}


def test_views_are_measured_as_their_copies(tmp_path):
    base = torch.randn(700, 900, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    base[:, 7] = 0
    (tmp_path / "base").write_bytes(raw_of(base))
    for view in (base.T, base[3:, 5:-1:2], base[9], base[:, 7].expand(4, 700), base.reshape(70, 10, 900).transpose(0, 1)):
        axes = {"input_axis": 1, "residual_axis": 1} if view.dim() == 2 else {}
        size = base.numel() * 2
        place = (0, size, view.storage_offset(), tuple(view.stride()))
        strided = Job(TensorRef("w", "BF16", tuple(view.shape), tmp_path / "base", *place), **axes)
        assert one(strided) == one(job_of(tmp_path / "copy", "BF16", tuple(view.shape), raw_of(view), **axes))


def test_unreadable_tensors_are_errors_in_their_place(tmp_path):
    jobs = [job_of(tmp_path / f"w{i}", "F16", (40_000,), bytes(80_000), input_axis=None) for i in range(6)]
    os.truncate(tmp_path / "w1", 50_000)
    (tmp_path / "w4").unlink()
    counted: list[int] = []
    with mock.patch.multiple(module, BLOCK_BYTES=1 << 15, BATCH_BYTES=1000):
        for threads in (1, 3):
            found = dict(measure(jobs, threads=threads, on_bytes=counted.append))
            assert sorted(found) == list(range(6))
            assert {index for index, outcome in found.items() if isinstance(outcome, InputError)} == {1, 4}
            assert str(found[1]).startswith(f"{tmp_path / 'w1'}: tensor 'w1': the file ends at byte 50000")
    assert sum(counted) == 2 * 6 * 80_000
    found = dict(measure(jobs, threads=2))
    assert {index for index, outcome in found.items() if isinstance(outcome, InputError)} == {1, 4}


@pytest.mark.parametrize("code", ["F16", "U8", "F32"])
def test_what_was_counted_of_a_cut_tensor_is_forgotten(tmp_path, code):
    elements = 120_000 // (DTYPES[code].bits // 8)
    cut = job_of(tmp_path / "cut", code, (elements,), b"\x11" * 120_000)
    whole = job_of(tmp_path / "whole", code, (elements,), b"\x22" * 120_000)
    os.truncate(tmp_path / "cut", 100_000)
    found = dict(measure([cut, whole], threads=1, chunk_bytes=1))
    assert isinstance(found[0], InputError)
    assert found[1] == one(whole)


def test_a_bug_in_a_thread_reaches_the_caller(tmp_path):
    job = job_of(tmp_path / "w", "U8", (5,), bytes(5))
    with mock.patch.object(module, "signature", side_effect=ZeroDivisionError), pytest.raises(ZeroDivisionError):
        list(measure([job], threads=2))


@pytest.mark.parametrize("code", ["BF16", "F6_E2M3"])
def test_closing_stops_the_threads(tmp_path, code):
    small = job_of(tmp_path / "small", "U8", (5,), bytes(5))
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    big = Job(TensorRef("big", code, ((1 << 34) * 8 // DTYPES[code].bits,), path, 0, 1 << 34))
    running = measure([small, big], threads=2)
    assert next(running)[0] == 0
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("measure-")]


def test_the_last_tensors_are_taken_the_largest_first(tmp_path):
    sizes = [30_000, 900, 20_000, 20_000, 70_000, 800, 30_000]
    jobs = [job_of(tmp_path / f"w{i}", "U8", (size,), bytes(size)) for i, size in enumerate(sizes)]

    def order(threads: int, tail: int, drawn_tail: int | None = None) -> list[int]:
        tails = {"TAIL_BYTES": tail, "DRAWN_TAIL_BYTES": drawn_tail or 0}
        with (
            mock.patch.multiple(module, BLOCK_BYTES=1 << 15, BATCH_BYTES=1000, **tails),
            mock.patch.object(prefetch, "_is_there", lambda piece: drawn_tail is None),
        ):
            run = module._Run(jobs, None, "cpu", 1 << 15, threads)
            run.work()
            run.stop()
        return [index for _ in range(run.outcomes.qsize()) for index, _ in run.outcomes.get()]

    assert order(1, 1 << 20) == list(range(7))  # one thread waits for nobody
    assert order(2, 0) == list(range(7))
    assert order(2, 120_800 // 2) == [0, 1, 2, 6, 3, 4, 5]  # of 4 the two blocks come before 6, the rest after 3
    assert order(2, 1 << 20) == [0, 6, 2, 3, 4, 1, 5]
    assert order(3, 1 << 18) == order(2, 1 << 20)
    assert order(2, 1 << 20, 0) == list(range(7))  # the disk brings them in this order
    assert order(2, 1 << 20, 120_800 // 2) == [0, 1, 2, 6, 3, 4, 5]
    assert order(2, 120_800 // 2, 1 << 20) == [0, 1, 2, 6, 3, 4, 5]


def test_many_small_tensors_in_any_number_of_threads(tmp_path):
    values = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    job_of(tmp_path / "w", "F32", (2000,), values.tobytes())
    jobs = [Job(TensorRef(str(i), "F32", (20,), tmp_path / "w", 3 + 4 * i, 80)) for i in range(1500)]
    found = [dict(measure(jobs, threads=threads)) for threads in (1, 4)]
    assert found[0] == found[1]
    assert [found[0][i].min for i in range(1500)] == [float(values[i : i + 20].min()) for i in range(1500)]
    assert list(measure([], threads=2)) == []


MEMORY = """
import sys
from pathlib import Path
from layerhouse.ingest.measure.scheduler import Job, measure
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

path, half = Path(sys.argv[1]), 1 << 30
shape = (16384, 32768)
jobs = [
    Job(TensorRef("a", "BF16", shape, path, 0, half), 1, 1),
    Job(TensorRef("b", "F32", (half // 4,), path, half, half)),
    Job(TensorRef("c", "BF16", (32768, 1024), path, half, half, 7, (1, 32768)), 0, 0),
]
found = dict(measure(jobs, threads=2))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(found[0].zeros, found[0].zero_rows, found[1].zeros, found[2].zeros, int(peak.split()[1]) // 1024)
"""


def test_memory_does_not_follow_the_tensors(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2 << 30)
        file.write(b"\x01" * 4096)
    output = subprocess.run([sys.executable, "-c", MEMORY, path], check=True, capture_output=True, text=True).stdout
    zeros, zero_rows, wide_zeros, view_zeros, peak_mib = map(int, output.split())
    assert (zeros, zero_rows, wide_zeros, view_zeros) == ((1 << 29) - 2048, 16383, 1 << 28, 1 << 25)
    assert peak_mib < 300
