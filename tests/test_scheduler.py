"""Measurements equal those of torch and numpy for every type, do not depend on threads or chunks, and can be stopped."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
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
from layerhouse.ingest.measure import scheduler, tensor_task
from layerhouse.ingest.measure.counter import Counter
from layerhouse.ingest.measure.io import prefetch
from layerhouse.ingest.measure.kernels.moments import SUB_BLOCK
from layerhouse.ingest.measure.measurement import Job, Measurement
from layerhouse.ingest.measure.scheduler import measure
from layerhouse.ingest.measure.statistics import statistics_from_tally
from layerhouse.tests.measuring import TORCH, job_of, measure_one, raw_of

FLOATS = [code for code in TORCH if DTYPES[code].kind == "float"]
BLOCK = 1 << 16


def patterns(code: str, seed: int, size: int) -> bytes:
    """Random values with zeros of both signs, infinities, NaNs and subnormals among them; for every third seed random bytes."""
    rng = np.random.default_rng(seed)
    dtype = DTYPES[code]
    width = dtype.bits // 8
    words = np.frombuffer(rng.bytes(size * width), f"u{width}").copy()
    if code == "BOOL":
        words &= 1
    elif dtype.kind == "float" and seed % 3 and dtype.special != "e8m0":
        words[rng.random(size) < 0.9] &= np.array(((1 << dtype.bits) - 1) ^ (1 << (dtype.bits - 2)), words.dtype)  # under 2
        sign, top = 1 << (dtype.bits - 1), ((1 << dtype.exponent) - 1) << dtype.mantissa
        special = np.array([0, sign, 1, sign | 1, top, sign | top, top | 1], dtype=np.uint64).astype(words.dtype)
        places = rng.random(size) < 0.3
        words[places] = rng.choice(special, int(places.sum()))
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
    with mock.patch.multiple(scheduler, BLOCK_BYTES=BLOCK, BATCH_BYTES=1000):
        measured = measure_one(job, near_zero=0.25, chunk_bytes=chunk, threads=threads)
        assert measured == measure_one(job, near_zero=0.25)
    values = torch.frombuffer(bytearray(raw), dtype=TORCH[code]).to(torch.float64).numpy()
    finite = values[np.isfinite(values)]
    assert measured.content_hash == content_hash(raw, BLOCK)
    assert measured.zeros == np.count_nonzero(values == 0)
    assert measured.nans == np.count_nonzero(np.isnan(values))
    assert measured.infs == np.count_nonzero(np.isinf(values))
    assert measured.near_zeros == np.count_nonzero(np.abs(finite) <= 0.25)
    if finite.size == 0:
        assert measured.max is measured.std is measured.abs_quantiles is None
        return
    top = float(np.abs(finite).max()) or 1.0
    scaled = finite / top
    assert (measured.min, measured.max, measured.abs_max) == (finite.min(), finite.max(), np.abs(finite).max())
    assert measured.mean / top == pytest.approx(scaled.mean(), abs=1e-12)
    assert measured.std / top == pytest.approx(scaled.std(), abs=1e-12)
    with np.errstate(over="ignore"):  # beyond the range of doubles a norm is infinite
        assert measured.l1_norm == pytest.approx(np.abs(scaled).sum() * top, rel=1e-11, abs=1e-320)
        assert measured.l2_norm == pytest.approx(np.sqrt((scaled**2).sum()) * top, rel=1e-11, abs=1e-320)


@pytest.mark.parametrize("code", [code for code in FLOATS if DTYPES[code].special == "ieee"])
def test_both_zeros_are_zeros_and_subnormals_are_not(tmp_path, code):
    dtype = DTYPES[code]
    sign, top = 1 << (dtype.bits - 1), ((1 << dtype.exponent) - 1) << dtype.mantissa
    word = f"u{dtype.bits // 8}"
    raw = np.repeat(np.array([0, sign, 1, top | 1, top, dtype.bias << dtype.mantissa], np.uint64).astype(word), 10).tobytes()
    measured = measure_one(job_of(tmp_path / "w", code, (60,), raw))
    assert (measured.zeros, measured.nans, measured.infs, measured.min, measured.max) == (20, 10, 10, 0.0, 1.0)
    assert measured.near_zeros is None
    assert measure_one(job_of(tmp_path / "w", code, (60,), raw), near_zero=1e-3).near_zeros == 30


@pytest.mark.parametrize(("code", "shape"), [("F4", (2, 8)), ("F4", (3, 5)), ("F6_E2M3", (7,)), ("F6_E3M2", (333, 301))])
def test_packed_floats_are_unpacked_low_bits_first(tmp_path, code, shape):
    elements, bits = int(np.prod(shape)), DTYPES[code].bits
    codes = np.random.default_rng(0).integers(0, 1 << bits, elements)
    stream = sum(int(value) << (bits * i) for i, value in enumerate(codes[:16])) if elements <= 16 else None
    packed = np.packbits((codes[:, None] >> np.arange(bits) & 1).astype(np.uint8).ravel(), bitorder="little").tobytes()
    assert stream is None or packed == stream.to_bytes(-(-elements * bits // 8), "little")
    job = job_of(tmp_path / "w", code, shape, packed)
    with mock.patch.multiple(scheduler, BLOCK_BYTES=1 << 15, BATCH_BYTES=0):
        measured = measure_one(job, threads=2, chunk_bytes=1)
        assert measured.content_hash == content_hash(packed, 1 << 15)
    assert measured == measure_one(job) if len(packed) <= 1 << 15 else measured.zeros == measure_one(job).zeros
    assert measured.zeros == np.count_nonzero(codes & ((1 << (bits - 1)) - 1) == 0)
    if code == "F4":
        values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])[codes]
        assert (measured.mean, measured.l1_norm) == (pytest.approx(values.mean()), np.abs(values).sum())


def test_complex_numbers_have_counts_only(tmp_path):
    values = np.array([0, -0.0, 1j, np.nan, complex(np.inf, 1), complex(np.inf, np.nan)], np.complex64)
    measured = measure_one(job_of(tmp_path / "w", "C64", (6,), values.tobytes()), near_zero=0.1)
    assert (measured.zeros, measured.nans, measured.infs, measured.near_zeros, measured.max) == (2, 2, 1, None, None)


@pytest.mark.parametrize("code", ["F32", "BF16", "U8", "I64", "BOOL", "F4", "F6_E2M3", "C64"])
def test_an_empty_tensor_has_no_zeros_and_nothing_else(tmp_path, code):
    measured = measure_one(job_of(tmp_path / "w", code, (0, 5), b"", input_axis=1, residual_axis=1), near_zero=0.1)
    assert measured == Measurement(zeros=0, ladder_counts=(), content_hash=xxhash.xxh3_128_hexdigest(b""))


def test_a_scalar_is_measured(tmp_path):
    measured = measure_one(job_of(tmp_path / "w", "F32", (), np.float32(-2.5).tobytes()))
    assert (measured.min, measured.mean, measured.std, measured.abs_max, measured.l2_norm) == (-2.5, -2.5, 0.0, 2.5, 2.5)
    assert measured.abs_quantiles == (2.5,) * 7


@pytest.mark.parametrize("code", ["U8", "F16"])
def test_counts_beyond_2_to_the_24_are_exact(tmp_path, code):
    elements, width = 20_000_003, DTYPES[code].bits // 8
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.truncate(elements * width)
        file.seek(elements * width - width)
        file.write(np.array([1], f"u{width}").tobytes())
    measured = measure_one(Job(TensorRef("w", code, (elements,), path, 0, elements * width)), threads=2)
    assert measured.zeros == elements - 1
    assert measured.mean == measured.max / elements


@pytest.mark.parametrize("near_zero", [None, 0.01])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (3, 2, 1, 5, 4, 0), (4,), (2, 3), (5, 5)])
def test_blocks_of_floats_of_every_kind(order, near_zero):
    """Blocks of normal values, of many zeros, of zeros of both signs, with non-finite values, all negative, all near one."""
    rng = np.random.default_rng(7)
    blocks = rng.standard_normal((6, SUB_BLOCK)).astype(np.float32)
    blocks[1, rng.random(SUB_BLOCK) < 0.5] = 0
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
    measured = statistics_from_tally("F32", tally)
    assert measured.mean == pytest.approx(math.fsum(finite) / finite.size, abs=1e-12 * np.abs(finite).mean())
    assert measured.l2_norm == pytest.approx(math.sqrt(math.fsum(finite * finite)), rel=1e-12)
    assert measured.std == pytest.approx(np.std(finite), rel=1e-9)


def test_views_are_measured_as_their_copies(tmp_path):
    base = torch.randn(700, 900, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    base[:, 7] = 0
    (tmp_path / "base").write_bytes(raw_of(base))
    for view in (base.T, base[3:, 5:-1:2], base[9], base[:, 7].expand(4, 700), base.reshape(70, 10, 900).transpose(0, 1)):
        axes = {"input_axis": 1, "residual_axis": 1} if view.dim() == 2 else {}
        size = base.numel() * 2
        place = (0, size, view.storage_offset(), tuple(view.stride()))
        strided = Job(TensorRef("w", "BF16", tuple(view.shape), tmp_path / "base", *place), **axes)
        assert measure_one(strided) == measure_one(job_of(tmp_path / "copy", "BF16", tuple(view.shape), raw_of(view), **axes))


def test_unreadable_tensors_are_errors_of_their_jobs(tmp_path):
    jobs = [job_of(tmp_path / f"w{i}", "F16", (40_000,), bytes(80_000), input_axis=None) for i in range(6)]
    os.truncate(tmp_path / "w1", 50_000)
    (tmp_path / "w4").unlink()
    counted: list[int] = []
    with mock.patch.multiple(scheduler, BLOCK_BYTES=1 << 15, BATCH_BYTES=1000):
        for threads in (1, 3):
            measured = dict(measure(jobs, threads=threads, on_bytes=counted.append))
            assert sorted(measured) == list(range(6))
            assert {index for index, outcome in measured.items() if isinstance(outcome, InputError)} == {1, 4}
            assert str(measured[1]).startswith(f"{tmp_path / 'w1'}: tensor 'w1': the file ends at byte 50000")
    assert sum(counted) == 2 * 6 * 80_000
    measured = dict(measure(jobs, threads=2))
    assert {index for index, outcome in measured.items() if isinstance(outcome, InputError)} == {1, 4}


@pytest.mark.parametrize("code", ["F16", "U8", "F32"])
def test_counts_of_a_truncated_tensor_are_discarded(tmp_path, code):
    elements = 120_000 // (DTYPES[code].bits // 8)
    cut = job_of(tmp_path / "cut", code, (elements,), b"\x11" * 120_000)
    whole = job_of(tmp_path / "whole", code, (elements,), b"\x22" * 120_000)
    os.truncate(tmp_path / "cut", 100_000)
    measured = dict(measure([cut, whole], threads=1, chunk_bytes=1))
    assert isinstance(measured[0], InputError)
    assert measured[1] == measure_one(whole)


def test_a_bug_in_a_thread_reaches_the_caller(tmp_path):
    job = job_of(tmp_path / "w", "U8", (5,), bytes(5))
    with mock.patch.object(tensor_task, "read_profile", side_effect=ZeroDivisionError), pytest.raises(ZeroDivisionError):
        list(measure([job], threads=2))


@pytest.mark.parametrize("code", ["BF16", "F6_E2M3"])
def test_closing_stops_the_threads_at_their_next_chunk(tmp_path, code):
    small = job_of(tmp_path / "small", "U8", (5,), bytes(5))
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    big = Job(TensorRef("big", code, ((1 << 34) * 8 // DTYPES[code].bits,), path, 0, 1 << 34))
    counted: list[int] = []
    add_bytes = scheduler._Run._add_bytes

    def record(run, count):
        counted.append(count)
        add_bytes(run, count)

    with mock.patch.object(scheduler._Run, "_add_bytes", record):
        running = measure([small, big], threads=2)
        assert next(running)[0] == 0
        running.close()
    assert sum(counted) < 1 << 33
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("measure-")]


def test_the_last_tensors_are_measured_the_largest_first(tmp_path):
    sizes = [30_000, 900, 20_000, 20_000, 70_000, 800, 30_000]
    jobs = [job_of(tmp_path / f"w{i}", "U8", (size,), bytes(size)) for i, size in enumerate(sizes)]

    def order(threads: int, tail: int, cold_tail: int | None = None) -> list[int]:
        tails = {"TAIL_BYTES": tail, "COLD_TAIL_BYTES": cold_tail or 0}
        with (
            mock.patch.multiple(scheduler, BLOCK_BYTES=1 << 15, BATCH_BYTES=1000, **tails),
            mock.patch.object(prefetch, "_is_in_cache", lambda piece: cold_tail is None),
        ):
            run = scheduler._Run(jobs, scheduler._Options(None, "cpu", 1 << 15, threads))
            run.work()
            run.stop()
        return [index for _ in range(run.outcomes.qsize()) for index, _ in run.outcomes.get()]

    assert order(1, 1 << 20) == list(range(7))  # a single thread needs no order
    assert order(2, 0) == list(range(7))
    assert order(2, 120_800 // 2) == [0, 1, 2, 6, 3, 4, 5]  # two blocks of 4 come before 6, its rest after 3
    assert order(2, 1 << 20) == [0, 6, 2, 3, 4, 1, 5]
    assert order(3, 1 << 18) == order(2, 1 << 20)
    assert order(2, 1 << 20, 0) == list(range(7))  # the disk delivers them in this order
    assert order(2, 1 << 20, 120_800 // 2) == [0, 1, 2, 6, 3, 4, 5]
    assert order(2, 120_800 // 2, 1 << 20) == [0, 1, 2, 6, 3, 4, 5]


def test_many_small_tensors_in_any_number_of_threads(tmp_path):
    values = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    job_of(tmp_path / "w", "F32", (2000,), values.tobytes())
    jobs = [Job(TensorRef(str(i), "F32", (20,), tmp_path / "w", 3 + 4 * i, 80)) for i in range(1500)]
    measured = [dict(measure(jobs, threads=threads)) for threads in (1, 4)]
    assert measured[0] == measured[1]
    assert [measured[0][i].min for i in range(1500)] == [float(values[i : i + 20].min()) for i in range(1500)]
    assert list(measure([], threads=2)) == []


MEMORY = """
import sys
from pathlib import Path
from layerhouse.ingest.measure.measurement import Job
from layerhouse.ingest.measure.scheduler import measure
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

path, half = Path(sys.argv[1]), 1 << 30
shape = (16384, 32768)
jobs = [
    Job(TensorRef("a", "BF16", shape, path, 0, half), 1, 1),
    Job(TensorRef("b", "F32", (half // 4,), path, half, half)),
    Job(TensorRef("c", "BF16", (32768, 1024), path, half, half, 7, (1, 32768)), 0, 0),
]
measured = dict(measure(jobs, threads=2))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(measured[0].zeros, measured[0].zero_rows, measured[1].zeros, measured[2].zeros, int(peak.split()[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_memory_does_not_grow_with_the_tensors(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2 << 30)
        file.write(b"\x01" * 4096)
    output = subprocess.run([sys.executable, "-c", MEMORY, path], check=True, capture_output=True, text=True).stdout
    zeros, zero_rows, wide_zeros, view_zeros, peak_mib = map(int, output.split())
    assert (zeros, zero_rows, wide_zeros, view_zeros) == ((1 << 29) - 2048, 16383, 1 << 28, 1 << 25)
    assert peak_mib < 300
