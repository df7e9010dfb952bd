"""Mapped windows of files: off until the program asks, and right or an error whatever happens to the file meanwhile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io import file_window
from layerhouse.ingest.measure.io.file_window import LEAST_BYTES, PIECE_BYTES, FileWindow, use_mappings
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.measurement import Job
from layerhouse.ingest.measure.scheduler import measure

if sys.platform != "linux":
    pytest.skip("windows exist on Linux only", allow_module_level=True)
if file_window.pages is None and not shutil.which("cc"):
    pytest.skip("the C extension is not installed", allow_module_level=True)

MIB = 1 << 20


@pytest.fixture(autouse=True)
def mappings(monkeypatch):
    """Windows are in use during each test, and not after it."""
    monkeypatch.setattr(file_window, "_are_mappings_used", False)
    assert use_mappings()  # where there is a compiler, the extension must be installed


@pytest.fixture
def data():
    return np.random.default_rng(0).integers(0, 256, 3 * PIECE_BYTES + 12_345, np.uint8)


@pytest.fixture
def file(tmp_path, data):
    """An open file whose bytes are in the page cache."""
    (tmp_path / "w").write_bytes(data.tobytes())
    number = os.open(tmp_path / "w", os.O_RDWR)
    yield number
    os.close(number)


@pytest.fixture(scope="session")
def before_cachestat(tmp_path_factory):
    """The extension as it behaves on a system without cachestat."""
    source, built = Path(file_window.__file__).with_name("_file_window.c"), tmp_path_factory.mktemp("built") / "_file_window.so"
    if not (shutil.which("cc") and source.exists()):  # a wheel has no C source
        return None
    include = ["-I", sysconfig.get_paths()["include"]]
    subprocess.run(["cc", "-O1", "-fPIC", "-shared", "-DWITHOUT_CACHESTAT", *include, source, "-o", built], check=True)
    spec = importlib.util.spec_from_file_location("_file_window", built)
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    return pages


@pytest.fixture(params=["as built", "before cachestat"])
def window(request, before_cachestat):
    pages = file_window.pages if request.param == "as built" else before_cachestat
    if pages is None and request.param != "as built":
        pytest.skip("no C compiler, or no source to compile")
    with mock.patch.object(file_window, "pages", pages):
        window = FileWindow.of(2 * MIB)
        assert window is not None
        yield window
        window.close()


@pytest.mark.parametrize("offset", [0, 8, 4096, 4104, 2 * MIB - 8, PIECE_BYTES - MIB, PIECE_BYTES + 2 * MIB + 16])
@pytest.mark.parametrize("size", [LEAST_BYTES, MIB + 12_345, 2 * MIB])
def test_a_window_maps_the_bytes_of_the_file(window, file, data, offset, size):
    mapped = window.map(file, offset, size)
    assert mapped.tobytes() == data[offset : offset + size].tobytes()
    assert window.is_intact(file)


def test_parts_are_mapped_one_after_the_other_to_the_end(window, file, data):
    for offset in range(8, data.size - LEAST_BYTES, 2 * MIB):
        size = min(2 * MIB, data.size - offset)
        assert window.map(file, offset, size).tobytes() == data[offset : offset + size].tobytes()
    assert window.is_intact(file)


def test_another_file_after_the_first_is_unmapped(window, file, data, tmp_path):
    assert window.map(file, 0, MIB)[0] == data[0]
    window.unmap()
    (tmp_path / "other").write_bytes(bytes(data[::-1]))
    with (tmp_path / "other").open("rb") as other:
        assert window.map(other.fileno(), 0, MIB).tobytes() == data[::-1][:MIB].tobytes()


def test_small_and_unaligned_parts_are_not_mapped(window, file):
    assert window.map(file, 0, LEAST_BYTES - 1) is None
    assert window.map(file, 4, MIB) is None


def test_bytes_that_are_not_in_the_page_cache_are_not_mapped(window, file, data, tmp_path):
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.preadv(file, [bytearray(1)], PIECE_BYTES, os.RWF_NOWAIT)
        pytest.skip("this file system keeps its files in memory")
    except BlockingIOError:
        assert window.map(file, PIECE_BYTES, MIB) is None
    os.pread(file, MIB, PIECE_BYTES)
    assert window.map(file, PIECE_BYTES, MIB).tobytes() == data[PIECE_BYTES : PIECE_BYTES + MIB].tobytes()


def test_bytes_past_the_end_are_not_mapped(window, file, data):
    assert window.map(file, data.size // 8 * 8 - MIB, 2 * MIB) is None
    assert window.map(file, PIECE_BYTES * 5, MIB) is None


@pytest.mark.parametrize("left", [0, 4096, MIB])
def test_a_file_that_is_truncated_while_mapped_reads_as_zeros_and_is_reported(window, file, data, left):
    mapped = window.map(file, 0, 2 * MIB)
    os.ftruncate(file, left)
    assert mapped[:left].tobytes() == data[:left].tobytes()
    assert not mapped[left:].any()
    assert not window.is_intact(file)
    os.ftruncate(file, data.size)
    os.pwrite(file, data.tobytes(), 0)
    assert not window.is_intact(file)  # the bytes that were read before are still wrong
    assert window.map(file, 0, 2 * MIB).tobytes() == data[: 2 * MIB].tobytes()
    assert window.is_intact(file)


def test_a_file_that_is_truncated_within_a_page_is_reported_although_nothing_faults(window, file):
    mapped = window.map(file, 0, MIB)
    os.ftruncate(file, MIB - 5)
    assert not mapped[-5:].any()
    assert not window.is_intact(file)


def test_the_number_of_windows_is_limited(file, data):
    windows = [FileWindow.of(MIB) for _ in range(257)]
    assert [window is None for window in windows] == [False] * 256 + [True]
    assert windows[255].map(file, 0, MIB).tobytes() == data[:MIB].tobytes()
    for window in windows[:256]:
        window.close()
        window.close()
    again = FileWindow.of(MIB)
    assert again is not None
    again.close()


def test_a_larger_chunk_has_a_larger_window(file, data):
    window = FileWindow.of(2 * PIECE_BYTES)
    assert window.map(file, MIB, 2 * PIECE_BYTES).tobytes() == data[MIB : MIB + 2 * PIECE_BYTES].tobytes()
    window.close()


def test_wrong_arguments_are_refused(window, file):
    pages = file_window.pages
    for arguments in [(-1, file, 0, MIB), (300, file, 0, MIB), (0, file, -8, MIB), (0, file, 0, 1 << 40), (0, file, 0, 0)]:
        with pytest.raises(ValueError, match="window"):
            pages.map_bytes(*arguments)
    with pytest.raises(TypeError):
        pages.map_bytes(0, file)
    with pytest.raises(ValueError, match="2 MiB"):
        pages.open_window(bytearray(100))
    assert pages.map_bytes(0, 9999, 0, MIB) == -1


CRASH = """
import mmap, os, sys
import numpy as np
from layerhouse.ingest.measure.io.file_window import FileWindow, use_mappings

assert use_mappings()
with open(sys.argv[1], "w+b") as file:
    file.truncate(1 << 21)
    window = FileWindow.of(1 << 20)
    if sys.argv[2] == "closed":
        window.close()
    mapped = np.frombuffer(mmap.mmap(file.fileno(), 1 << 21, prot=mmap.PROT_READ), np.uint8)
    file.truncate(0)
    print("before", flush=True)
    mapped.sum()
    print("after", flush=True)
"""


@pytest.mark.parametrize("state", ["open", "closed"])
@pytest.mark.parametrize("options", [[], ["-X", "faulthandler"]])
def test_a_fault_outside_of_windows_ends_the_process_as_usual(tmp_path, state, options):
    command = [sys.executable, *options, "-c", CRASH, tmp_path / "w", state]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, "before\n")
    assert ("Fatal Python error: Bus error" in ended.stderr) == bool(options)


OTHER = """
import os, signal, sys
from layerhouse.ingest.measure.io.file_window import FileWindow, use_mappings

assert use_mappings()
with open(sys.argv[1], "w+b") as file:
    file.write(bytes(1 << 21))
    file.flush()
    window = FileWindow.of(1 << 20)
    print(window.map(file.fileno(), 0, 1 << 20) is not None)
    signal.signal(signal.SIGBUS, lambda *_: None)
    print(window.map(file.fileno(), 0, 1 << 20) is not None)
    window.close()
    print(signal.getsignal(signal.SIGBUS) != signal.SIG_DFL)
"""


def test_after_another_handler_is_set_nothing_is_mapped_and_that_handler_stays(tmp_path):
    ended = subprocess.run([sys.executable, "-c", OTHER, tmp_path / "w"], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True", "False", "True"]


def ref_of(path, elements, offset=0):
    return TensorRef("w", "BF16", (elements,), path, offset, elements * 2)


@pytest.mark.parametrize("offset", [0, 8, 4104, 5])
def test_a_reader_in_place_yields_the_bytes_of_one_that_copies(file, data, tmp_path, offset):
    ref = ref_of(tmp_path / "w", (data.size - offset) // 2, offset)
    with TensorReader(MIB, in_place=True) as reader, mock.patch.object(reader, "_fill", wraps=reader._fill) as fill:
        content = b"".join(bytes(chunk) for chunk in reader.chunks(ref))
    assert content == data.tobytes()[offset : offset + ref.elements * 2]
    chunks = -(-ref.elements * 2 // MIB)
    assert fill.call_count == (chunks if offset == 5 else 1)  # the last chunk is small


def test_a_reader_in_place_reads_what_is_not_in_the_page_cache(file, data, tmp_path):
    os.pread(file, 3 * MIB, PIECE_BYTES)
    os.fsync(file)
    os.posix_fadvise(file, 0, PIECE_BYTES + MIB, os.POSIX_FADV_DONTNEED)
    with TensorReader(1 << 16, in_place=True) as reader:
        parts = [bytes(chunk) for chunk in reader.chunks(ref_of(tmp_path / "w", data.size // 2))]
    assert b"".join(parts) == data[: data.size // 2 * 2].tobytes()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_reader_takes_the_bytes_that_have_arrived(file, data, tmp_path, in_place):
    requests = []

    def arrived(path, offset, size, least):
        requests.append((path, offset, size, least))
        return min(size, least + 12_000)

    with TensorReader(MIB, in_place=in_place, arrived=arrived) as reader:
        parts = [bytes(chunk) for chunk in reader.chunks(ref_of(tmp_path / "w", (data.size - 8) // 2, 8))]
    whole = data.tobytes()[8 : 8 + (data.size - 8) // 2 * 2]
    assert b"".join(parts) == whole
    assert {len(part) for part in parts[:-1]} == {MIB}
    assert [(path, offset) for path, offset, _, _ in requests] == [(tmp_path / "w", 8 + at) for at in range(0, len(whole), MIB)]
    assert {least for *_, least in requests} == {MIB}
    assert requests[0][2] == (PIECE_BYTES if in_place else MIB)


@pytest.mark.parametrize("left", [MIB, MIB + 100])
def test_a_file_that_is_truncated_during_a_read_is_an_error(file, data, tmp_path, left):
    with TensorReader(2 * MIB, in_place=True) as reader:
        chunks = reader.chunks(ref_of(tmp_path / "w", data.size // 2))
        next(chunks)
        os.ftruncate(file, left)
        with pytest.raises(InputError, match=f"w: tensor 'w': the file ends at byte {left}, before byte {2 * MIB}"):
            next(chunks)


def test_a_file_that_was_truncated_and_restored_during_a_read_is_an_error(file, data, tmp_path):
    with TensorReader(2 * MIB, in_place=True) as reader:
        chunks = reader.chunks(ref_of(tmp_path / "w", data.size // 2))
        chunk = next(chunks)
        os.ftruncate(file, 0)
        assert not chunk.any()
        os.pwrite(file, data.tobytes(), 0)
        with pytest.raises(InputError, match="the file changed while it was read; ingest it again"):
            next(chunks)


def test_a_file_that_is_truncated_while_counted_is_an_error_of_its_tensor(file, data, tmp_path):
    shutil.copy(tmp_path / "w", tmp_path / "whole")
    (tmp_path / "whole").read_bytes()
    jobs = [Job(ref_of(tmp_path / name, data.size // 2)) for name in ("w", "whole")]

    def cut(reader, ref, offset, size):
        if ref.path.name == "w":
            os.ftruncate(file, MIB)
        return check(reader, ref, offset, size)

    check = TensorReader._check_mapped
    with mock.patch.object(TensorReader, "_check_mapped", cut):
        measured = dict(measure(jobs, threads=2))
    assert isinstance(measured[0], InputError)
    assert "the file ends at byte 1048576" in str(measured[0])
    assert measured[1] == dict(measure(jobs[1:], threads=1))[0]


@pytest.mark.parametrize(("name", "value"), [("pages", None), ("_are_mappings_used", False)])
def test_without_windows_the_measurements_are_the_same(file, data, tmp_path, monkeypatch, name, value):
    jobs = [Job(ref_of(tmp_path / "w", data.size // 2))]
    with mock.patch.object(TensorReader, "_check_mapped", autospec=True, side_effect=TensorReader._check_mapped) as checked:
        mapped = dict(measure(jobs, threads=2))
        assert checked.called
    monkeypatch.setattr(file_window, name, value)
    with mock.patch.object(TensorReader, "_check_mapped") as checked:
        assert dict(measure(jobs, threads=2)) == mapped
        assert not checked.called


def test_without_the_extension_mappings_are_not_used(monkeypatch):
    monkeypatch.setattr(file_window, "pages", None)
    assert use_mappings() is False
    assert FileWindow.of(MIB) is None


HANDLER = """
import ctypes, signal

class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("rest", ctypes.c_char * 256)]

def handler():
    '''The handler of SIGBUS that the system has, whether or not Python set it.'''
    action = Action()
    assert ctypes.CDLL(None).sigaction(int(signal.SIGBUS), None, ctypes.byref(action)) == 0
    return action.handler

"""
LIBRARY = (
    HANDLER
    + """
import os, sys
from pathlib import Path

before = handler()
import layerhouse
import layerhouse.cli
from layerhouse.ingest.measure.io import file_window
from layerhouse.ingest.measure.io.file_window import FileWindow, is_cached, use_mappings
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.measurement import Job
from layerhouse.ingest.measure.scheduler import measure
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

path = Path(sys.argv[1])
path.write_bytes(bytes(1 << 22))
job = Job(TensorRef("w", "BF16", (1 << 21,), path, 0, 1 << 22))
seen = []

def look(_):
    seen.append(handler())

check = TensorReader._check_mapped
TensorReader._check_mapped = lambda *arguments: (seen.append("mapped"), check(*arguments))
dict(measure([job], threads=1, on_bytes=look))
with path.open("rb") as file:
    is_cached(file.fileno(), 0, 4096)
assert FileWindow.of(1 << 20) is None
assert seen and set(seen) == {before} and handler() == before, "the library installed a handler"
seen.clear()
assert use_mappings()
assert handler() == before, "a handler without a window"
dict(measure([job], threads=1, on_bytes=look))
assert "mapped" in seen
assert handler() == before, "the handler stayed after the last window"
window = FileWindow.of(1 << 20)
assert handler() != before
window.close()
assert handler() == before
print("done")
"""
)


def test_the_library_leaves_the_handler_of_sigbus_alone_until_mappings_are_asked_for(tmp_path):
    """Importing and measuring install no handler; after use_mappings there is one only while a window is open."""
    run = subprocess.run([sys.executable, "-c", LIBRARY, tmp_path / "w"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr
