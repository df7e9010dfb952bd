"""The content hash is that of the xxhash library, also when the loop that counts the bytes mixes them in."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import xxhash

from layerhouse.ingest.measure import content_hash
from layerhouse.ingest.measure.content_hash import ContentHash
from layerhouse.ingest.measure.counter import Counter
from layerhouse.ingest.measure.kernels import cpu

SIZES = [
    241,
    256,
    300,
    1023,
    1024,
    1025,
    1088,
    2048,
    4096 * 16,
    65_537,
    98_309,
    65_536 + 63,
    65_536 + 64,
    (1 << 20) + 1,
    3 << 20,
]
CODES = {1: ["U8", "F8_E4M3", "BOOL"], 2: ["BF16", "I16"], 4: ["F32", "I32"], 8: ["F64", "C64"]}


@pytest.fixture
def by_loop():
    """The loops hash contents of every length that they can, however short."""
    if not cpu.IS_BUILT:
        pytest.skip("the C extension is not installed")
    with mock.patch.object(content_hash, "LEAST_BYTES", 241):
        yield


def data_of(size, share_of_zeros=0.0):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    data[: int(size * share_of_zeros)] = 0
    return data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [1024, 1 << 15, 1 << 22])
def test_updates_give_the_hash_of_the_library(by_loop, size, chunk):
    data = data_of(size)
    content = ContentHash(size)
    assert content.state is not None
    for start in range(0, size, chunk):
        content.update(data[start : start + chunk])
    assert content.digest() == xxhash.xxh3_128_digest(data.data)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [1 << 15, 1 << 22])
@pytest.mark.parametrize("share_of_zeros", [0.0, 0.7])
def test_counting_also_hashes_and_the_counts_are_the_same(by_loop, size, chunk, share_of_zeros):
    for width, codes in CODES.items():
        data = data_of(size // width * width, share_of_zeros)
        for code in codes if data.size > 240 else ():
            tallies = []
            for content in (ContentHash(data.size), None):
                counter = Counter()
                counter.begin(code, data.size // width, None)
                with np.errstate(invalid="ignore"):
                    for start in range(0, data.size, chunk):
                        counter.add(data[start : start + chunk], content)
                tally = counter.finish()
                tallies.append([tally.codes.tolist(), tally.counts.tolist(), tally.zeros, tally.nans, tally.infs])
                if content is not None:
                    assert content.digest() == xxhash.xxh3_128_digest(data.data), code
            assert tallies[0] == tallies[1]


@pytest.mark.parametrize("narrow", ["-DNARROW", "-DNARROW -U__SSE2__ -U__SSE__"])
def test_machines_without_wide_vectors_hash_and_count_the_same(by_loop, tmp_path, narrow):
    source, built = Path(cpu.__file__).with_name("_loops.c"), tmp_path / "_loops.so"
    if not (shutil.which("cc") and source.exists()):
        pytest.skip("no C compiler, or no source to compile: a wheel has none")
    include = sysconfig.get_paths()["include"]
    subprocess.run(["cc", "-O1", "-fPIC", "-shared", *narrow.split(), "-I", include, source, "-o", built, "-lm"], check=True)
    spec = importlib.util.spec_from_file_location("_loops", built)
    loops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loops)
    for size in (300, 98_310, 3 << 17):
        for share_of_zeros in (0.0, 0.7):
            data, tables = data_of(size, share_of_zeros), np.zeros((2, 1 << 16), np.uint32)
            mixed, counted = ContentHash(size), ContentHash(size)
            words = data[: size // 8 * 8].view(np.uint64)
            loops.mix(data, mixed.state)
            loops.count_words(words, data[words.nbytes :].view(np.uint16), tables, counted.state)
            expected = xxhash.xxh3_128_digest(data.data)
            assert (loops.digest(mixed.state), loops.digest(counted.state)) == (expected, expected)
            assert tables.sum(axis=0).tolist() == np.bincount(data.view(np.uint16), minlength=1 << 16).tolist()


@pytest.mark.parametrize("is_built", [True, False])
@pytest.mark.parametrize("size", [0, 1, 240, content_hash.LEAST_BYTES - 1, content_hash.LEAST_BYTES])
def test_the_library_hashes_short_contents_and_all_without_the_extension(is_built, size):
    if is_built and not cpu.IS_BUILT:
        pytest.skip("the C extension is not installed")
    with mock.patch.object(cpu, "IS_BUILT", is_built):
        content = ContentHash(size)
        assert (content.state is None) == (not is_built or size < content_hash.LEAST_BYTES)
        content.update(data_of(size)) if size else None
        assert content.digest() == xxhash.xxh3_128_digest(data_of(size).data)


def test_chunks_that_would_give_another_hash_are_refused(by_loop):
    data = data_of(5000)
    content = ContentHash(5000)
    with pytest.raises(ValueError, match="sizes"):
        content.update(data[:1000])
    with pytest.raises(ValueError, match="sizes"):
        content.digest()
    content.update(data[:4096])
    with pytest.raises(ValueError, match="sizes"):
        content.update(data[:1024])
    with pytest.raises(ValueError, match="sizes"):
        cpu.count_words(
            data[4096:4896].view(np.uint64), data[:104].view(np.uint16), np.zeros((2, 1 << 16), np.uint32), content.state
        )
    content.update(data[4096:])
    assert content.digest() == xxhash.xxh3_128_digest(data.data)
    with pytest.raises(ValueError, match="sizes"):
        content.update(data[:1024])
    with pytest.raises(ValueError, match="sizes"):
        cpu.mix(data, content.state[:-1])
    with pytest.raises(ValueError, match="up to 240 bytes"):
        cpu.begin(240)
