"""The bytes that tensors read, and no others, are prefetched into the page cache."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import fcntl
import mmap
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import accumulate, islice
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import xxhash

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.tensor_ref import SparseParts, TensorRef
from layerhouse.ingest.measure.io import prefetch
from layerhouse.ingest.measure.io.prefetch import (
    GAP_BYTES,
    PIECE_BYTES,
    Piece,
    Prefetch,
    pieces_of,
)
from layerhouse.ingest.measure.measurement import Job
from layerhouse.ingest.measure.scheduler import BLOCK_BYTES, measure

MIB = 1 << 20


@pytest.fixture(autouse=True)
def end_deadlocks():
    """A deadlock ends the run and prints where each thread waits."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def ref_of(path, offset, size):
    return TensorRef(f"at {offset}", "U8", (size,), path, offset, size)


def test_tensors_beside_each_other_are_one_piece(tmp_path):
    refs = [ref_of(tmp_path, 100, 50), ref_of(tmp_path, 150, 50), ref_of(tmp_path, 200 + GAP_BYTES, 7)]
    assert list(pieces_of(refs)) == [Piece(0, tmp_path, 100, 107 + GAP_BYTES)]


@pytest.mark.parametrize("offset", [GAP_BYTES + 201, 0])
def test_distant_tensors_and_other_files_are_other_pieces(tmp_path, offset):
    refs = [ref_of(tmp_path, 100, 100), ref_of(tmp_path, offset, 10), ref_of(tmp_path / "other", 110, 5)]
    expected = [Piece(0, tmp_path, 100, 100), Piece(100, tmp_path, offset, 10), Piece(110, tmp_path / "other", 110, 5)]
    assert list(pieces_of(refs)) == expected


def test_the_same_bytes_twice_are_one_piece(tmp_path):
    assert list(pieces_of([ref_of(tmp_path, 8, 100)] * 2)) == [Piece(0, tmp_path, 8, 100)]
    refs = [ref_of(tmp_path, 0, 3 * GAP_BYTES), ref_of(tmp_path, 10, 20), ref_of(tmp_path, 3 * GAP_BYTES, 7)]
    assert list(pieces_of(refs)) == [Piece(0, tmp_path, 0, 3 * GAP_BYTES + 7)]


def test_long_runs_are_split(tmp_path):
    refs = [ref_of(tmp_path, 8, PIECE_BYTES + 5), ref_of(tmp_path, PIECE_BYTES + 13, PIECE_BYTES)]
    assert list(pieces_of(refs)) == [
        Piece(0, tmp_path, 8, PIECE_BYTES),
        Piece(PIECE_BYTES, tmp_path, 8 + PIECE_BYTES, PIECE_BYTES),
        Piece(2 * PIECE_BYTES, tmp_path, 8 + 2 * PIECE_BYTES, 5),
    ]


def test_tensors_that_are_not_one_run_of_their_storage_are_left_out(tmp_path):
    whole = TensorRef("w", "F32", (10, 20), tmp_path, 64, 4000, storage_offset=100)
    refs = [
        replace(whole, shape=(20, 10), strides=(1, 20)),
        replace(whole, storage_offset=801),
        replace(whole, storage_offset=-1),
        replace(whole, storage_offset=1 << 70),
        replace(whole, shape=(0, 20)),
        replace(whole, sparse=SparseParts("coo", (), whole, (10, 20))),
        whole,
    ]
    assert list(pieces_of(refs)) == [Piece(5 * 800, tmp_path, 64 + 400, 800)]


@pytest.fixture
def file(tmp_path):
    """A file of 80 MiB that is not in the page cache, and its path."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells what is in the page cache")
    path = tmp_path / "w"
    path.write_bytes(np.random.default_rng(0).bytes(80 * MIB))
    number = os.open(path, os.O_RDONLY)
    os.fsync(number)
    os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    if is_cached(number, 40 * MIB):
        pytest.skip("this file system keeps its files in memory")
    yield number, path
    os.close(number)


def is_cached(file, offset):
    """Whether a page is in the page cache, by mincore, which reads nothing; the file is the user's own."""
    with mmap.mmap(file, 0, prot=mmap.PROT_READ) as mapped:
        pages = np.frombuffer(mapped, np.uint8)
        resident = ctypes.create_string_buffer(1)
        page = pages.ctypes.data + offset // mmap.PAGESIZE * mmap.PAGESIZE
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(page), ctypes.c_size_t(1), resident) == 0
        del pages
        return bool(resident.raw[0] & 1)


def fail(error):
    def raising(*_):
        raise error

    return raising


def refs_of_mib(path, count, first=0):
    return [ref_of(path, start * MIB, MIB) for start in range(first, first + count)]


def test_the_next_bytes_are_prefetched_and_no_more(file, monkeypatch):
    number, path = file
    monkeypatch.setattr(prefetch, "AHEAD_BYTES", 40 * MIB)
    monkeypatch.setattr(prefetch, "PIECE_BYTES", 8 * MIB)
    with closing(Prefetch(refs_of_mib(path, 80))) as ahead:
        ahead.reach(0)
        assert ahead.arrived(path, 0, 40 * MIB, 40 * MIB) == 40 * MIB
        assert all(is_cached(number, at * MIB) for at in range(40))
        assert is_cached(number, 40 * MIB - 1)
        assert not is_cached(number, 79 * MIB)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        ahead.reach(40 * MIB)
        assert ahead.arrived(path, 0, 80 * MIB, 80 * MIB) == 80 * MIB
        assert all(is_cached(number, at * MIB) for at in range(40, 80))
        assert not is_cached(number, 10 * MIB)  # prefetched once already


def test_a_small_pipe_is_enough(file, monkeypatch):
    number, path = file
    monkeypatch.setattr(fcntl, "fcntl", fail(PermissionError(errno.EPERM, "Operation not permitted")))
    with closing(Prefetch([ref_of(path, 5, 9 * MIB)])) as ahead:
        ahead.reach(0)
        assert ahead.arrived(path, 5, 9 * MIB, 9 * MIB) == 9 * MIB
    assert all(is_cached(number, at * MIB) for at in range(10))


@pytest.fixture
def is_left_alone(monkeypatch):
    """A function that tells whether nothing of a file is prefetched."""
    monkeypatch.setattr(os, "splice", lambda *_: pytest.fail("nothing to prefetch"))
    before = threading.active_count()

    def check(path, size):
        with closing(Prefetch([ref_of(path, 5, size - 5)])) as ahead:
            ahead.reach(0)
            return threading.active_count() == before and ahead.arrived(path, 0, size, size) == size

    return check


@pytest.mark.parametrize("is_cachestat_known", [True, False])
def test_bytes_in_the_page_cache_are_not_prefetched(file, is_left_alone, monkeypatch, is_cachestat_known):
    _, path = file
    path.read_bytes()
    if not is_cachestat_known:
        monkeypatch.setattr(prefetch, "is_cached", lambda *_: None)
    assert is_left_alone(path, 80 * MIB)


def test_files_in_memory_are_not_prefetched(is_left_alone):
    if not Path("/dev/shm").is_dir():
        pytest.skip("no file system in memory")
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(5 * MIB))
        file.flush()
        if prefetch.is_cached(file.fileno(), 0, 5 * MIB) is None:
            pytest.skip("Linux before 6.5, or no C extension")
        assert is_left_alone(Path(file.name), 5 * MIB)


@pytest.mark.parametrize(
    ("missing", "is_cachestat_known"), [(0, True), (2 * MIB, True), (5 * MIB - 1, True), (5 * MIB - 1, False)]
)
def test_bytes_partly_in_the_page_cache_are_prefetched(file, monkeypatch, missing, is_cachestat_known):
    number, path = file
    if prefetch.is_cached(number, 0, 1) is None:
        pytest.skip("Linux before 6.5, or no C extension")
    size = 5 * MIB
    os.posix_fadvise(number, 0, 0, os.POSIX_FADV_RANDOM)
    for at in range(0, size, mmap.PAGESIZE):
        if at // mmap.PAGESIZE != missing // mmap.PAGESIZE:
            os.pread(number, 1, at)
    assert not is_cached(number, missing)
    assert prefetch.is_cached(number, missing, size - missing) is False
    with monkeypatch.context() as patch, closing(Prefetch([ref_of(path, 0, size)])) as ahead:
        if not is_cachestat_known:
            patch.setattr(prefetch, "is_cached", lambda *_: None)
        ahead.reach(0)
        assert ahead.arrived(path, 0, size, size) == size
    assert prefetch.is_cached(number, 0, size) is True


def test_all_is_prefetched_from_file_systems_that_do_not_tell_what_is_cached(file, monkeypatch):
    number, path = file

    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(prefetch, "is_cached", lambda *_: None)
    monkeypatch.setattr(os, "preadv", refuse)
    with closing(Prefetch([ref_of(path, 8 * MIB, 3 * MIB)])) as ahead:
        ahead.reach(0)
        assert ahead.arrived(path, 8 * MIB, 3 * MIB, 3 * MIB) == 3 * MIB
    assert is_cached(number, 8 * MIB)
    assert is_cached(number, 11 * MIB - 1)


@pytest.fixture
def stepwise(file, monkeypatch):
    """The path of the file, and a semaphore that lets one step of the prefetch continue at a time."""
    turn, read = threading.Semaphore(0), prefetch._Drain.read

    def wait_and_read(drain, *place):
        assert turn.acquire(timeout=300)
        return read(drain, *place)

    monkeypatch.setattr(prefetch._Drain, "read", wait_and_read)
    yield file[1], turn
    turn.release(1000)


def test_readers_wait_for_bytes_on_their_way(stepwise):
    path, turn = stepwise
    with closing(Prefetch([ref_of(path, 8 * MIB, 10 * MIB)])) as ahead, ThreadPoolExecutor(1) as pool:
        ahead.reach(0)
        waiting = pool.submit(ahead.arrived, path, 8 * MIB, 6 * MIB, 2 * MIB)
        turn.release()
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        turn.release()
        assert waiting.result(30) == 2 * MIB
        assert ahead.arrived(path, 8 * MIB, MIB, 2 * MIB) == MIB  # no more bytes are wanted
        assert ahead.arrived(path, 9 * MIB, 6 * MIB, MIB) == MIB
        assert ahead.arrived(path, 7 * MIB, 6 * MIB, 3 * MIB) == 3 * MIB  # bytes that are not prefetched count as arrived
        assert ahead.arrived(path, 18 * MIB, 6 * MIB, 6 * MIB) == 6 * MIB
        assert ahead.arrived(path.with_name("other"), 8 * MIB, 6 * MIB, 6 * MIB) == 6 * MIB
        rest = pool.submit(ahead.arrived, path, 10 * MIB, 8 * MIB, 8 * MIB)
        turn.release(7)
        with pytest.raises(TimeoutError):
            rest.result(0.2)
        turn.release()
        assert rest.result(30) == 8 * MIB


def test_nobody_waits_after_closing(stepwise):
    path, turn = stepwise
    with ThreadPoolExecutor(1) as pool:
        with closing(Prefetch([ref_of(path, 0, 10 * MIB)])) as ahead:
            ahead.reach(0)
            waiting = pool.submit(ahead.arrived, path, 0, 6 * MIB, 6 * MIB)
            with pytest.raises(TimeoutError):
                waiting.result(0.1)
            turn.release(2)  # two of ten steps; a third is in progress
            threading.Timer(0.2, turn.release, [1000]).start()
        assert waiting.result(30) == 6 * MIB
    before = threading.active_count()
    ahead.reach(0)
    assert ahead.arrived(path, 0, 6 * MIB, 6 * MIB) == 6 * MIB
    assert threading.active_count() == before


def test_the_number_of_pieces_on_their_way_is_limited(stepwise, monkeypatch):
    path, turn = stepwise
    monkeypatch.setattr(prefetch, "MOST_PIECES", 3)
    monkeypatch.setattr(prefetch, "_is_in_cache", lambda _: False)  # whatever the kernel's readahead brings
    apart = [ref_of(path, 2 * start * MIB, MIB) for start in range(8)]
    with closing(Prefetch(apart)) as ahead:
        ahead.reach(0)
        assert len(ahead._on_way) == 3
        turn.release(3)
        for start in range(3):
            assert ahead.arrived(path, 2 * start * MIB, MIB, MIB) == MIB
        while ahead._on_way:
            time.sleep(0.01)
        ahead.reach(3 * MIB)
        assert [piece.end for piece in ahead._on_way] == [7 * MIB, 9 * MIB, 11 * MIB]


def test_measuring_reports_the_positions_that_it_reaches(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(bytes(MIB))
    with path.open("r+b") as sparse_file:
        sparse_file.truncate(BLOCK_BYTES + 9 * MIB)
    sizes = [100, BLOCK_BYTES + MIB, 200, 3 * MIB]
    starts = [0, *accumulate(sizes[:-1])]
    jobs = [Job(ref_of(path, *place)) for place in zip(starts, sizes, strict=True)]
    with (
        mock.patch.object(Prefetch, "reach", autospec=True) as reach,
        mock.patch.object(Prefetch, "arrived", autospec=True, side_effect=lambda _, path, offset, size, least: size) as arrived,
    ):
        assert len(list(measure(jobs, threads=1))) == 4
    first, large, small, last = starts
    assert [call.args[1] for call in reach.call_args_list] == [first, large, large + BLOCK_BYTES, small, last]
    assert {call.args[1] for call in arrived.call_args_list} == {path}
    assert {call.args[2] for call in arrived.call_args_list} >= {first, large, large + BLOCK_BYTES, small, last}


@pytest.mark.parametrize("wanted", [1, 3])
def test_threads_end_with_the_measurement(file, wanted):
    jobs = [Job(ref) for ref in [ref_of(file[1], 0, 2 * MIB), *refs_of_mib(file[1], 70, 2)]]
    outcomes = measure(jobs, threads=2)
    assert len(list(islice(outcomes, wanted))) == wanted
    assert any(thread.name.startswith("prefetch-") for thread in threading.enumerate())
    outcomes.close()
    assert not any(thread.name.startswith(("prefetch-", "measure-")) for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ((os, "splice"), OSError(errno.EINVAL, "Invalid argument")),
        ((os, "pipe"), OSError(errno.EMFILE, "Too many open files")),
        pytest.param(
            (prefetch.Prefetch, "_read_piece"),
            MemoryError(),
            marks=pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
        ),
        ((prefetch.Prefetch, "_send"), RuntimeError("can't start new thread")),
    ],
)
def test_bytes_that_cannot_be_prefetched_are_still_read(file, monkeypatch, place, error):
    number, path = file
    jobs = [Job(ref) for ref in [ref_of(path, 0, 70 * MIB), *refs_of_mib(path, 10, 70)]]
    measured = dict(measure(jobs, threads=2))
    os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    monkeypatch.setattr(*place, fail(error))
    assert dict(measure(jobs, threads=2)) == measured


@pytest.mark.parametrize("chunk", [1 << 15, 100_000, 2 * MIB])
def test_measurements_of_uncached_and_cached_files_are_the_same(file, chunk):
    number, path = file
    jobs = [Job(ref_of(path, *place)) for place in ((8, 3 * MIB), (3 * MIB + 8, 65 * MIB + 4), (68 * MIB + 12, 9 * MIB))]
    jobs = [Job(replace(job.ref, dtype="BF16", shape=(job.ref.elements // 2,))) for job in jobs]
    cold = dict(measure(jobs, threads=2, chunk_bytes=chunk))
    assert is_cached(number, 40 * MIB)
    assert dict(measure(jobs, threads=1)) == cold
    content = path.read_bytes()[8 : 3 * MIB + 8]
    assert cold[0].content_hash == xxhash.xxh3_128_hexdigest(content)
    assert cold[0].zeros == int((np.frombuffer(content, np.uint16) & 0x7FFF == 0).sum())


def test_missing_bytes_are_left_to_the_reader(tmp_path):
    (tmp_path / "short").write_bytes(bytes(100))
    places = [
        (tmp_path / "gone", 0),
        (tmp_path, 0),
        (tmp_path / "short", 200),
        (tmp_path / "short", 1 << 70),
        (tmp_path / "short", (1 << 63) - 50),
    ]
    refs = [ref_of(path, offset, 100) for path, offset in places]
    with closing(Prefetch(refs)) as ahead:
        ahead.reach(0)
        assert [ahead.arrived(ref.path, ref.offset, 100, 100) for ref in refs] == [100] * 5
    measured = dict(measure([Job(ref) for ref in refs[:3]], threads=1))
    assert all(isinstance(error, InputError) for error in measured.values())
    assert "No such file" in str(measured[0])


def test_without_splice_the_measurements_are_the_same(tmp_path, monkeypatch):
    (tmp_path / "w").write_bytes(bytes(range(256)) * 4096 * 3)
    jobs = [Job(ref_of(tmp_path / "w", 0, 3 * MIB))]
    measured = list(measure(jobs, threads=1))
    monkeypatch.delattr(os, "splice", raising=False)
    monkeypatch.setattr(prefetch, "_is_in_cache", lambda *_: pytest.fail("nothing is prefetched"))
    assert list(measure(jobs, threads=1)) == measured
