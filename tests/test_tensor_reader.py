"""Bytes in C order of any view that torch can make, of any part of it; and files that lack bytes are errors."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io import files, tensor_reader
from layerhouse.ingest.measure.io.strides import boxes, dimensions
from layerhouse.ingest.measure.io.tensor_reader import TensorReader

TYPES = {torch.uint8: "U8", torch.int16: "I16", torch.float32: "F32", torch.complex64: "C64"}


def file_of(path: Path, tensor: torch.Tensor, offset: int) -> tuple[Path, int]:
    storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().tobytes()
    path.write_bytes(b"\xee" * offset + storage + b"\xdd" * 5)
    return path, len(storage)


def ref_of(view: torch.Tensor, path: Path, offset: int, storage_bytes: int) -> TensorRef:
    return TensorRef(
        "w", TYPES[view.dtype], tuple(view.shape), path, offset, storage_bytes, view.storage_offset(), tuple(view.stride())
    )


def read(ref: TensorRef, start: int = 0, stop: int | None = None, chunk: int = 1) -> bytes:
    with TensorReader(chunk) as reader:
        return b"".join(bytes(part) for part in reader.chunks(ref, start, stop))


@st.composite
def views(draw) -> torch.Tensor:
    """A view of a new storage by up to four operations: transpose, slice with a step, select, unsqueeze and expand."""
    dtype = draw(st.sampled_from(list(TYPES)))
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    view = torch.from_numpy(np.random.default_rng(0).integers(0, 256, int(np.prod(shape)) * 8, dtype=np.uint8))
    view = view[: int(np.prod(shape)) * dtype.itemsize].clone().view(dtype).reshape(shape)
    for _ in range(draw(st.integers(0, 4))):
        if view.dim() == 0:
            break
        axis = draw(st.integers(0, view.dim() - 1))
        kind = draw(st.sampled_from(["transpose", "slice", "select", "expand"]))
        if kind == "transpose":
            view = view.transpose(axis, draw(st.integers(0, view.dim() - 1)))
        elif kind == "slice":
            low = draw(st.integers(0, view.shape[axis] - 1))
            view = view.narrow(axis, low, view.shape[axis] - low)
            view = view[(slice(None),) * axis + (slice(None, None, draw(st.integers(1, 3))),)]
        elif kind == "select":
            view = view.select(axis, draw(st.integers(0, view.shape[axis] - 1)))
        else:
            view = view.unsqueeze(axis).expand(*view.shape[:axis], 3, *view.shape[axis:])
    return view


@settings(max_examples=150, deadline=None)
@given(views(), st.data(), st.sampled_from([0, 8, 4096]), st.sampled_from([16, 64, 1 << 20]))
def test_every_view_is_read_in_c_order(tmp_path_factory, view, data, gap, span):
    path, size = file_of(tmp_path_factory.getbasetemp() / "view.bin", view, offset=3)
    ref = ref_of(view, path, 3, size)
    expected = view.numpy().tobytes()
    start = data.draw(st.integers(0, view.numel())) * view.dtype.itemsize
    stop = data.draw(st.integers(start // view.dtype.itemsize, view.numel())) * view.dtype.itemsize
    with mock.patch.multiple(tensor_reader, GAP_BYTES=gap, SPAN_BYTES=span, STRIDED_BYTES=64):
        assert read(ref) == expected
        assert read(ref, start, stop) == expected[start:stop]


@pytest.mark.parametrize(
    "view",
    [
        torch.arange(3_000_000, dtype=torch.int32).view(torch.float32).reshape(1500, 2000).T,
        torch.arange(4_000_000, dtype=torch.int16).reshape(400, 10_000)[7:, 100:2500],
        torch.arange(4_000_000, dtype=torch.int16)[5::7],
        torch.arange(3000, dtype=torch.int16).expand(4000, 3000),
    ],
    ids=["transposed", "columns", "steps", "broadcast"],
)
def test_large_views_take_several_chunks_of_equal_size(tmp_path, view):
    path, size = file_of(tmp_path / "w.bin", view, 128)
    with TensorReader(100_000) as reader:
        parts = [bytes(part) for part in reader.chunks(ref_of(view, path, 128, size))]
    assert b"".join(parts) == view.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    assert {len(part) % tensor_reader.GRAIN_BYTES for part in parts[:-1]} == {0}
    assert max(map(len, parts)) <= 131_072


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_boxes_cover_a_range_once_and_in_order(shape, data):
    dims = tuple((size, int(np.prod(shape[axis + 1 :]))) for axis, size in enumerate(shape))
    total = int(np.prod(shape))
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    covered = [
        origin + sum(i * stride for i, (_, stride) in zip(index, box, strict=True))
        for origin, box in boxes(dims, start, stop)
        for index in np.ndindex(*(size for size, _ in box))
    ]
    assert covered == list(range(start, stop))


def test_dimensions_that_are_one_run_are_joined():
    def joined(shape, strides):
        return dimensions(TensorRef("w", "F32", shape, Path("x"), 0, 0, 0, strides))

    assert joined((2, 3, 4), None) == joined((2, 3, 4), (12, 4, 1)) == ((24, 1),)
    assert joined((2, 1, 4), (4, 99, 1)) == ((8, 1),)
    assert joined((3, 4), (8, 1)) == ((3, 8), (4, 1))
    assert joined((), ()) == joined((1, 1), (5, 5)) == ((1, 1),)


def test_empty_tensors_need_no_file(tmp_path):
    assert read(TensorRef("w", "F32", (0, 5), tmp_path / "absent", 0, 0)) == b""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"offset": 92}, "file ends at byte 100, before byte 108"),
        ({"storage_offset": 1}, "out of a storage of 16 bytes"),
        ({"storage_offset": -1}, "out of a storage"),
        ({"strides": (5, 1)}, "out of a storage"),
        ({"strides": (-2, 1)}, "out of a storage"),
        ({"dtype": "F4", "strides": (1, 2)}, "view of F4 cannot be read"),
        ({"dtype": "F4", "storage_offset": 1}, "view of F4 cannot be read"),
    ],
)
def test_a_view_that_cannot_be_read_is_an_input_error(tmp_path, change, text):
    path = tmp_path / "w.bin"
    path.write_bytes(bytes(100))
    fields = {"name": "w", "dtype": "F32", "shape": (2, 2), "path": path, "offset": 0, "storage_bytes": 16, **change}
    with pytest.raises(InputError, match=text) as error:
        read(TensorRef(**fields))
    assert str(error.value).startswith(f"{path}: tensor 'w': ")


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["absent", "folder"])
def test_a_path_that_is_not_a_file_is_an_input_error(tmp_path, make):
    make(tmp_path / "w.bin")
    with pytest.raises(InputError, match=r"No such file|is a folder"):
        read(TensorRef("w", "U8", (4,), tmp_path / "w.bin", 0, 4))


@pytest.mark.parametrize("has_preadv", [True, False])
def test_files_are_read_with_and_without_preadv(tmp_path, monkeypatch, has_preadv):
    if not has_preadv:
        monkeypatch.delattr(os, "preadv", raising=False)
    content = np.random.default_rng(0).bytes(300_000)
    path = tmp_path / "w.bin"
    path.write_bytes(b"\r\n" + content)
    ref = TensorRef("w", "U8", (300_000,), path, 2, 300_000)
    assert read(ref) == content
    assert read(ref, 40_000, 290_000) == content[40_000:290_000]
    file = files.open_file(path)
    target = np.zeros(10, np.uint8)
    assert files.read_at(file, target, 299_995) == 7
    assert target.tobytes() == content[-7:] + bytes(3)
    assert files.read_at(file, target, 400_000) == 0
    os.close(file)


def test_elements_are_in_fresh_memory_as_unsigned_integers(tmp_path):
    values = np.arange(-500, 500, dtype=np.int16)
    (tmp_path / "w").write_bytes(values.tobytes())
    with TensorReader(1) as reader:
        ref = TensorRef("w", "I16", (1000,), tmp_path / "w", 0, 2000)
        first, second = reader.elements(ref, 0, 600), reader.elements(ref, 600, 1000)
        assert reader.elements(ref, 5, 5).size == 0
    assert first.dtype == np.uint16
    assert np.array_equal(np.concatenate((first, second)).view(np.int16), values)
