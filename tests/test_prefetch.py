"""What tensors read of files is announced to the system before it is read, and nothing else of them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import time
from dataclasses import replace
from itertools import accumulate
from unittest import mock

import numpy as np
import pytest

from layerhouse.ingest import measure, prefetch
from layerhouse.ingest.measure import BLOCK_BYTES, Job
from layerhouse.ingest.prefetch import AHEAD_BYTES, GAP_BYTES, PIECE_BYTES, Piece, Prefetch, announce, pieces
from layerhouse.ingest.tensors import SparseParts, TensorRef
from layerhouse.warehouse.errors import InputError

MIB = 1 << 20


def ref_of(path, offset, size):
    return TensorRef(f"at {offset}", "U8", (size,), path, offset, size)


def test_tensors_beside_each_other_are_one_piece(tmp_path):
    refs = [ref_of(tmp_path, 100, 50), ref_of(tmp_path, 150, 50), ref_of(tmp_path, 200 + GAP_BYTES, 7)]
    assert list(pieces(refs)) == [Piece(0, tmp_path, 100, 107 + GAP_BYTES)]


@pytest.mark.parametrize("offset", [GAP_BYTES + 201, 0])
def test_tensors_that_lie_apart_and_other_files_are_others(tmp_path, offset):
    refs = [ref_of(tmp_path, 100, 100), ref_of(tmp_path, offset, 10), ref_of(tmp_path / "other", 110, 5)]
    found = [Piece(0, tmp_path, 100, 100), Piece(100, tmp_path, offset, 10), Piece(110, tmp_path / "other", 110, 5)]
    assert list(pieces(refs)) == found


def test_the_same_bytes_twice_are_announced_once(tmp_path):
    assert list(pieces([ref_of(tmp_path, 8, 100)] * 2)) == [Piece(0, tmp_path, 8, 100)]
    refs = [ref_of(tmp_path, 0, 3 * GAP_BYTES), ref_of(tmp_path, 10, 20), ref_of(tmp_path, 3 * GAP_BYTES, 7)]
    assert list(pieces(refs)) == [Piece(0, tmp_path, 0, 3 * GAP_BYTES + 7)]


def test_long_runs_come_in_parts(tmp_path):
    refs = [ref_of(tmp_path, 8, PIECE_BYTES + 5), ref_of(tmp_path, PIECE_BYTES + 13, PIECE_BYTES)]
    assert list(pieces(refs)) == [
        Piece(0, tmp_path, 8, PIECE_BYTES),
        Piece(PIECE_BYTES, tmp_path, 8 + PIECE_BYTES, PIECE_BYTES),
        Piece(2 * PIECE_BYTES, tmp_path, 8 + 2 * PIECE_BYTES, 5),
    ]


def test_what_is_not_one_run_of_its_storage_is_passed_over(tmp_path):
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
    assert list(pieces(refs)) == [Piece(5 * 800, tmp_path, 64 + 400, 800)]


@pytest.fixture
def file(tmp_path):
    """A file of 80 MiB that is not in the system's cache, and its path."""
    if sys.platform != "linux":
        pytest.skip("what is in the cache is asked as Linux tells it")
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
    """Whether a page is in the cache, asked so that nothing is read (mincore of a file that is one's own)."""
    with mmap.mmap(file, 0, prot=mmap.PROT_READ) as mapped:
        pages = np.frombuffer(mapped, np.uint8)
        found = ctypes.create_string_buffer(1)
        page = pages.ctypes.data + offset // mmap.PAGESIZE * mmap.PAGESIZE
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(page), ctypes.c_size_t(1), found) == 0
        del pages
        return bool(found.raw[0] & 1)


def becomes_cached(file, offset):
    deadline = time.monotonic() + 30
    while not is_cached(file, offset) and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_cached(file, offset)


def test_what_is_announced_is_read_by_the_system(file):
    number, path = file
    announce(path, [(8 * MIB, 3 * MIB), (20 * MIB, 100)])
    assert becomes_cached(number, 11 * MIB - 1)
    assert becomes_cached(number, 8 * MIB)
    assert becomes_cached(number, 20 * MIB)
    assert not is_cached(number, 60 * MIB)


def test_what_comes_next_is_announced_and_no_more(file):
    number, path = file
    ahead = Prefetch([ref_of(path, start * MIB, MIB) for start in range(80)])
    ahead.reach(0)
    assert becomes_cached(number, AHEAD_BYTES - 1)
    assert not is_cached(number, 79 * MIB)
    os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    ahead.reach(30 * MIB)
    assert becomes_cached(number, 80 * MIB - 1)
    assert not is_cached(number, 40 * MIB)  # was announced before


def test_what_is_in_the_cache_needs_no_hint(file, monkeypatch):
    _, path = file
    path.read_bytes()
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: pytest.fail("a hint for nothing"))
    announce(path, [(0, 80 * MIB)])


def test_file_systems_that_cannot_say_what_is_cached_are_told_all(file, monkeypatch):
    number, path = file

    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "preadv", refuse)
    announce(path, [(8 * MIB, 3 * MIB)])
    assert becomes_cached(number, 11 * MIB - 1)
    assert becomes_cached(number, 8 * MIB)


def test_measuring_announces_what_follows(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(bytes(MIB))
    with path.open("r+b") as sparse_file:
        sparse_file.truncate(BLOCK_BYTES + 9 * MIB)
    sizes = [100, BLOCK_BYTES + MIB, 200, 3 * MIB]
    starts = [0, *accumulate(sizes[:-1])]
    jobs = [Job(ref_of(path, *place)) for place in zip(starts, sizes, strict=True)]
    with mock.patch.object(Prefetch, "reach", autospec=True) as reach:
        assert len(list(measure.measure(jobs, threads=1))) == 4
    first, large, small, last = starts
    assert [call.args[1] for call in reach.call_args_list] == [first, large, large + BLOCK_BYTES, small, last]


def test_bytes_that_are_not_there_are_left_to_the_reader(tmp_path):
    announce(tmp_path / "gone", [(0, 100)])
    announce(tmp_path, [(0, 100)])
    (tmp_path / "short").write_bytes(bytes(100))
    announce(tmp_path / "short", [(200, 100), (1 << 70, 100)])
    ((_, error),) = measure.measure([Job(ref_of(tmp_path / "gone", 0, 100))], threads=1)
    assert isinstance(error, InputError)
    assert "No such file" in str(error)


def test_without_hints_all_is_the_same(tmp_path, monkeypatch):
    (tmp_path / "w").write_bytes(bytes(range(256)) * 4096 * 3)
    jobs = [Job(ref_of(tmp_path / "w", 0, 3 * MIB))]
    found = list(measure.measure(jobs, threads=1))
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    monkeypatch.setattr(prefetch, "announce", lambda *_: pytest.fail("a hint where there are none"))
    assert list(measure.measure(jobs, threads=1)) == found
