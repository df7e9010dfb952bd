"""Sparse tensors of every layout are measured as the dense ones that they stand for; inconsistent ones are errors."""

from __future__ import annotations

import pytest
import torch

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers import torch_sparse, torch_storages
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.ingest.measure.io import sparse
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.measurement import Job
from layerhouse.ingest.measure.scheduler import measure
from layerhouse.tests.test_layouts import rows_of
from layerhouse.tests.weight_files import (
    p_call,
    p_dict,
    p_int,
    p_tensor,
    p_text,
    p_tuple,
    torch_values,
    torch_zip_bytes,
)

pytestmark = [pytest.mark.filterwarnings("ignore:Sparse"), pytest.mark.filterwarnings("ignore:.*Sparse")]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int8, torch.bool, torch.complex64]


def saved(path, state, *, is_zip=True):
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    return {ref.name: ref for ref in read_weight_file(path, path.name).tensors}


def dense_bytes(ref, start=0, stop=None) -> bytes:
    with TensorReader(1) as reader:
        return b"".join(bytes(chunk) for chunk in reader.chunks(ref, start, stop))


def masked(*shape, share=0.1):
    torch.manual_seed(1)
    return torch.where(torch.rand(*shape) < share, torch.randn(*shape), 0.0)


def uncoalesced(dtype=torch.float32):
    """Shape (64, 64), 100 entries: many places more than once, one stored zero, one sum of zero."""
    torch.manual_seed(2)
    indices = torch.randint(2, 9, (2, 97))
    indices = torch.cat((indices, torch.tensor([[0, 1, 1], [0, 1, 1]])), dim=1)
    values = torch.cat((torch.randint(1, 9, (97,)) / 3, torch.tensor([0.0, 2.0, -2.0])))
    return torch.sparse_coo_tensor(indices, values.to(dtype), (64, 64))


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_layout_and_type_reads_as_torch_makes_it_dense(tmp_path, dtype, is_zip):
    whole = masked(64, 64).to(dtype)
    state = {"coo": uncoalesced(dtype), "coalesced": whole.to_sparse()}
    if dtype in (torch.float32, torch.bfloat16):
        state |= {"csr": whole.to_sparse_csr(), "csc": whole.to_sparse_csc()}
        state |= {"bsr": whole.to_sparse_bsr((4, 8)), "bsc": whole.to_sparse_bsc((4, 8))}
        state["hybrid"] = torch.sparse_coo_tensor(torch.tensor([[1, 1, 5]]), torch.ones(3, 4, dtype=dtype), (6, 4))
        state["parameter"] = torch.nn.Parameter(state["coalesced"])
        state["empty"] = torch.zeros(5, 7, dtype=dtype).to_sparse()
    refs = saved(tmp_path / "m.pt", state, is_zip=is_zip)
    assert list(refs) == list(state)
    for name, tensor in state.items():
        assert refs[name].shape == tuple(tensor.shape)
        assert dense_bytes(refs[name]) == torch_values(tensor.to_dense())


def test_a_sparse_tensor_has_the_measurements_of_the_dense_one(tmp_path):
    coo, weight = uncoalesced(), masked(64, 64)
    nonzeros = {"coo": int((coo.to_dense() != 0).sum()), "csr": int((weight != 0).sum())}
    refs = saved(tmp_path / "sparse.pt", {"coo": coo, "csr": weight.to_sparse_csr()})
    others = saved(tmp_path / "dense.pt", {"coo": coo.to_dense(), "csr": weight})
    for name in refs:
        jobs = [Job(refs[name], 1, 1), Job(others[name], 1, 1), Job(refs[name], 0, 0), Job(others[name], 0, 0)]
        measured = dict(measure(jobs, threads=2))
        assert measured[0] == measured[1]
        assert measured[2] == measured[3]
        assert (refs[name].elements, 4096 - measured[0].zeros) == (4096, nonzeros[name])
        assert refs[name].logical_bytes == others[name].logical_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_large_tensor_in_order_is_read_by_windows(tmp_path, monkeypatch, dtype):
    whole = masked(96, 70).to(dtype)
    state = {"coo": whole.to_sparse(), "csr": whole.to_sparse_csr(), "bsr": whole.to_sparse_bsr((6, 7))}
    state["hybrid"] = whole.reshape(96, 7, 10).to_sparse(2)
    monkeypatch.setattr(torch_sparse, "DENSE_BYTES", 1 << 12)
    monkeypatch.setattr(sparse, "DENSE_BYTES", 1 << 12)
    monkeypatch.setattr(sparse, "WINDOW_BYTES", 1000)
    monkeypatch.setattr(sparse, "BATCH_ELEMENTS", 64)
    state |= {
        "csc": whole.to_sparse_csc(),
        "loose": torch.sparse_coo_tensor(torch.tensor([[1, 1], [2, 2]]), whole[0, :2], (96, 70)),
    }
    torch.save(state, tmp_path / "m.pt")
    contents = read_weight_file(tmp_path / "m.pt", "m.pt")
    size = whole.numel() * dtype.itemsize
    assert contents.skipped[:2] == (
        f"values of sparse tensor not read: csc: limit exceeded: {size} logical bytes, over 4096, and csc goes by columns",
        f"values of sparse tensor not read: loose: limit exceeded: {size} logical bytes, over 4096, "
        "and the order of its entries is not given",
    )
    assert [ref.name for ref in contents.tensors] == ["coo", "csr", "bsr", "hybrid", "csc", "loose"]
    assert {(ref.shape, ref.storage_bytes) for ref in contents.tensors[4:]} == {((96, 70), 0)}
    checkpoint, rows, _ = rows_of(tmp_path, "*.pt")
    assert checkpoint["params"] == 6 * 96 * 70
    assert [row["zeros"] is None for row in rows.values()] == [False] * 4 + [True] * 2
    expected = torch_values(whole)
    for ref in contents.tensors[:4]:
        assert dense_bytes(ref) == expected
        assert dense_bytes(ref, 1000, 6000) == expected[1000:6000]


def coo_file(shape, indices, values, *, ordered: bytes = b"", blocks) -> bytes:
    """A zip with one COO tensor of any shape, indices and values, whether or not they fit each other."""
    layout = p_call("torch.serialization", "_get_layout", p_text("torch.sparse_coo"))
    size = p_call("torch", "Size", p_tuple(*map(p_int, shape)))
    tensor = p_call("torch._utils", "_rebuild_sparse_tensor", layout, p_tuple(indices, values, size, ordered or b"\x89"))
    return torch_zip_bytes(p_dict({"good": p_tensor(), "w": tensor}), blocks)


LONGS = ("torch", "LongStorage")


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little", signed=True) for value in values)


@pytest.mark.parametrize(
    ("shape", "entries", "what"),
    [
        (
            (1 << 20, 1 << 20),
            2,
            "values of sparse tensor not read: w: limit exceeded: 4398046511104 logical bytes, over 67108864, and the order of",
        ),
        ((4, 5, 6), 2, "sparse tensor unsupported: tensor w: coo indices [2, 2] and values [2] do not fit the shape [4, 5, 6]"),
    ],
)
def test_a_tensor_over_a_limit_counts_by_its_shape_and_an_inconsistent_one_is_no_smaller_model(tmp_path, shape, entries, what):
    indices = p_tensor((2, entries), (entries, 1), key="1", numel=2 * entries, storage=LONGS)
    path = tmp_path / "m.bin"
    blocks = {"0": bytes(24), "1": numbers(*[0] * 2 * entries)}
    path.write_bytes(coo_file(shape, indices, p_tensor((entries,), (1,)), blocks=blocks))
    contents = read_weight_file(path, "m.bin")
    assert contents.skipped[0].startswith(what)
    if "unsupported" in what:
        assert [ref.name for ref in contents.tensors] == ["good"]
        checkpoint, _, _ = rows_of(tmp_path, "*.bin")
        (text,) = (note["text"] for note in checkpoint["notes"] if note["code"] == "unread")
        assert (checkpoint["params"], "sparse tensor unsupported: tensor w" in text) == (None, True)
    else:
        assert {ref.name: ref.shape for ref in contents.tensors} == {"good": (2, 3), "w": shape}
        assert rows_of(tmp_path, "*.bin")[0]["params"] == 6 + (1 << 40)


@pytest.mark.parametrize("index", [-1, 4, 2**62])
def test_an_index_outside_of_the_shape_is_an_error(tmp_path, index):
    indices = p_tensor((2, 2), (2, 1), key="1", numel=4, storage=LONGS)
    path = tmp_path / "m.bin"
    path.write_bytes(coo_file((4, 5), indices, p_tensor((2,), (1,)), blocks={"0": bytes(24), "1": numbers(0, index, 1, 1)}))
    refs = {ref.name: ref for ref in read_weight_file(path, "m.bin").tensors}
    with pytest.raises(InputError, match=rf"tensor 'w': sparse: index {index} is not from 0 to 3"):
        dense_bytes(refs["w"])


def test_many_large_sparse_tensors_in_a_small_file_exceed_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_storages, "SPARSE_SLACK", 0)
    state = {f"w{i}": torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.int64), [], (4096, 4096)) for i in range(8)}
    torch.save(state, tmp_path / "m.pt")
    contents = read_weight_file(tmp_path / "m.pt", "m.pt")
    assert {(ref.shape, ref.storage_bytes) for ref in contents.tensors} == {((4096, 4096), 0)}
    assert len({ref.place for ref in contents.tensors}) == 8
    assert all("limit exceeded: 67108864 logical bytes, 256 times the file" in text for text in contents.skipped)


def coalesced_ref(path, monkeypatch, lines, *, window_bytes, batch_elements=1 << 17):
    """A 4 x 5 tensor of F32 that is marked as coalesced and read by windows; its entries are at these positions in C order."""
    monkeypatch.setattr(torch_sparse, "DENSE_BYTES", 16)
    monkeypatch.setattr(sparse, "DENSE_BYTES", 16)
    monkeypatch.setattr(sparse, "WINDOW_BYTES", window_bytes)
    monkeypatch.setattr(sparse, "BATCH_ELEMENTS", batch_elements)
    count = len(lines)
    indices = p_tensor((2, count), (count, 1), key="1", numel=2 * count, storage=LONGS)
    coordinates = [line // 5 for line in lines] + [line % 5 for line in lines]
    blocks = {"0": bytes(range(24)), "1": numbers(*coordinates)}
    path.write_bytes(coo_file((4, 5), indices, p_tensor((count,), (1,)), ordered=b"\x88", blocks=blocks))
    return next(ref for ref in read_weight_file(path, path.name).tensors if ref.name == "w")


@pytest.mark.parametrize("lines", [(15, 0, 5), (0, 5, 5), (5, 0, 15)])
def test_entries_that_are_wrongly_marked_as_coalesced_are_an_error(tmp_path, monkeypatch, lines):
    ref = coalesced_ref(tmp_path / "m.bin", monkeypatch, lines, window_bytes=16)
    with pytest.raises(InputError, match="its entries are not in order, though it is marked as coalesced"):
        dense_bytes(ref)


@pytest.mark.parametrize("lines", [(0, 5, 3, 7), (0, 5, 5, 7), (1, 2, 0, 19)])
def test_entries_that_are_in_order_only_within_each_batch_are_an_error(tmp_path, monkeypatch, lines):
    ref = coalesced_ref(tmp_path / "m.bin", monkeypatch, lines, window_bytes=1 << 10, batch_elements=2)
    with pytest.raises(InputError, match="its entries are not in order, though it is marked as coalesced"):
        dense_bytes(ref)


def test_entries_that_are_in_order_across_batches_are_read(tmp_path, monkeypatch):
    ref = coalesced_ref(tmp_path / "m.bin", monkeypatch, (0, 5, 6, 19), window_bytes=1 << 10, batch_elements=2)
    expected = [bytes(4)] * 20
    for entry, line in enumerate((0, 5, 6, 19)):
        expected[line] = bytes(range(24))[4 * entry : 4 * entry + 4]
    assert dense_bytes(ref) == b"".join(expected)
