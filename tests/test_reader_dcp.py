"""Checkpoints of torch.distributed.checkpoint: chunks are one tensor, optimizer states no weights, and nothing is believed."""

from __future__ import annotations

import math
import pickle
import resource
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers import dcp as reader
from layerhouse.ingest.checkpoint.containers.dcp import read_dcp
from layerhouse.ingest.checkpoint.tensor_ref import Contents
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.tests.dcp_files import write_dcp
from layerhouse.tests.tiny_models import Width, llama_shapes
from layerhouse.tests.weight_files import torch_values

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def values(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(shape, generator=generator) * 20).to(dtype)


def bytes_of(contents: Contents, chunk_bytes: int = 1 << 15) -> dict[str, bytes]:
    with TensorReader(chunk_bytes) as tensors:
        return {ref.name: b"".join(chunk.tobytes() for chunk in tensors.chunks(ref)) for ref in contents.tensors}


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_dcp(folder, "m")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("shape", "cuts"),
    [
        ((), ()),
        ((1,), ((),)),
        ((0, 4), ((), ())),
        ((101,), ((7, 50),)),
        ((64, 48), ((), ())),
        ((64, 48), ((13, 40), ())),
        ((64, 48), ((), (5, 6))),
        ((64, 48), ((1, 63), (16, 32))),
        ((1, 40_000), ((), (3, 20_000))),
        ((3, 5, 9000), ((1,), (2, 4), (4000,))),
        ((2, 3, 4, 5, 6), ((1,), (), (1, 2), (4,), (3,))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8])
def test_a_grid_of_chunks_along_any_axes_is_the_tensor(tmp_path, shape, cuts, dtype):
    tensor = values(*shape, dtype=dtype)
    folder = write_dcp(tmp_path / "m", {"w": tensor, "v": values(8, 8)}, {"w": cuts}, files=3)
    if shape:  # torch's own reader reads the same of what the builder writes
        state = {"w": torch.zeros_like(tensor)}
        dcp.load(state, checkpoint_id=folder, no_dist=True)
        assert torch.equal(state["w"], tensor)
    contents = read_dcp(folder, "m")
    refs = {ref.name: ref for ref in contents.tensors}
    assert (refs["w"].shape, refs["w"].elements) == (shape, math.prod(shape))
    assert contents.container == "dcp"
    assert bytes_of(contents)["w"] == torch_values(tensor)


def test_parts_of_a_tensor_of_chunks_are_read_from_any_byte_on(tmp_path):
    tensor = values(7, 11, 3000, dtype=torch.float32)
    folder = write_dcp(tmp_path / "m", {"w": tensor}, {"w": ((2, 5), (4,), (1000, 1001))}, files=2)
    (ref,) = read_dcp(folder, "m").tensors
    whole = torch_values(tensor)
    with TensorReader(1 << 15) as tensors:
        for start, stop in ((0, 4), (8, 12_000), (35_996, 36_004), (132_000, 132_004), (100_000, 900_000), (923_996, 924_000)):
            assert b"".join(chunk.tobytes() for chunk in tensors.chunks(ref, start, stop)) == whole[start:stop]


def test_a_thousand_chunks_are_read_with_few_open_files(tmp_path):
    tensor = values(1000, 4)
    contents = read_dcp(write_dcp(tmp_path / "m", {"w": tensor}, {"w": (range(1, 1000), ())}, files=2), "m")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        read = bytes_of(contents)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read["w"] == torch_values(tensor)


def test_what_torch_saves_of_a_model_and_its_optimizer_is_the_model(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "train_state": {"step": torch.tensor(3)}}
    dcp.save({"app": state}, checkpoint_id=tmp_path / "m", no_dist=True)
    contents = read_dcp(tmp_path / "m", "m")
    assert bytes_of(contents) == {name: torch_values(tensor) for name, tensor in model.state_dict().items()}
    assert contents.skipped == ("not taken: 12 tensors of optimizer", "not taken: 1 tensors of train_state")


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("model.a.weight", "optimizer.state.exp_avg.a.weight", "optim.b", "train_state.step"), {"model.a.weight"}),
        (("decoder.a.weight", "chained_0.optimizer.state.exp_avg.a.weight"), {"decoder.a.weight"}),
        (("model.optim_head.weight", "model.scaler.weight"), {"model.optim_head.weight", "model.scaler.weight"}),
    ],
)
def test_states_of_an_optimizer_are_told_by_flat_names_too(tmp_path, names, taken):
    folder = write_dcp(tmp_path / "m", {name: values(4, 4) for name in names}, edit=lambda m: setattr(m, "planner_data", None))
    assert {ref.name for ref in read_dcp(folder, "m").tensors} == taken


def test_a_checkpoint_of_an_optimizer_alone_is_no_model(tmp_path):
    dcp.save({"optimizer": {"state": {"a": {"exp_avg": values(4, 4)}}}}, checkpoint_id=tmp_path / "m", no_dist=True)
    assert refusal(tmp_path / "m") == "m/.metadata: no weights of a model, but the state of a training run (optimizer)"


def test_several_models_in_one_checkpoint_are_refused(tmp_path):
    dcp.save({"actor": {"a": values(4, 4)}, "critic": {"a": values(4, 4)}}, checkpoint_id=tmp_path / "m", no_dist=True)
    assert "several models in one file, which one is meant is not known: actor, critic" in refusal(tmp_path / "m")


def test_objects_beside_tensors_are_noted(tmp_path):
    folder = write_dcp(tmp_path / "m", {"w": values(4, 4), "extra_state": {"a": 1}})
    assert read_dcp(folder, "m").skipped == ("not a tensor: extra_state (torch.distributed.checkpoint.object)",)


def test_files_of_an_earlier_and_larger_run_are_named(tmp_path):
    folder = write_dcp(tmp_path / "m", {"w": values(4, 4), "extra": {"a": 1}}, files=2)
    for number in range(2, 9):
        (folder / f"__{number}_0.distcp").write_bytes(b"x")
    strays = [f"not read, as nothing refers to it: __{number}_0.distcp" for number in range(2, 7)]
    assert read_dcp(folder, "m").skipped[:6] == (*strays, "and 2 more such files")


def test_a_checkpoint_of_many_chunks_has_the_rows_of_the_plain_one(tmp_path):
    torch.manual_seed(0)
    state = {name: torch.randn(shape).bfloat16() for name, shape in llama_shapes({0: Width(), 1: Width()}).items()}
    name = "model.layers.1.mlp.up_proj.weight"
    state[name][:, ::2] = 0
    (tmp_path / "zoo/plain").mkdir(parents=True)
    torch.save(state, tmp_path / "zoo/plain/pytorch_model.bin")
    cuts = {key: ((tensor.shape[0] // 3,), *[(5,)] * (tensor.dim() - 1)) for key, tensor in state.items()}
    write_dcp(tmp_path / "zoo/run/step-100", state, cuts, files=4)
    report = lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w")
    assert report.count("failed") == 0
    columns = "params, zeros, nonzero_params, num_layers, checkpoint_id"
    with lh.open(tmp_path / "w") as wh:
        rows = wh.sql(f"SELECT model_id, container, {columns} FROM current_checkpoints ORDER BY model_id").rows()
    (plain, plain_container, *numbers), (chunked, container, *others) = rows
    assert (plain, plain_container, chunked, container) == ("zoo/plain", "torch zip", "zoo/run/step-100", "dcp")
    assert numbers == others
    assert numbers[1] == state[name].numel() // 2


def test_every_number_of_tensors_of_chunks_is_that_of_plain_ones(tmp_path):
    torch.manual_seed(0)
    state = {name: torch.randn(shape).bfloat16() for name, shape in llama_shapes({0: Width(), 1: Width()}).items()}
    cuts = {key: ((tensor.shape[0] // 3,), *[(5,)] * (tensor.dim() - 1)) for key, tensor in state.items()}
    answers = []
    for name, some in (("plain", {}), ("chunks", cuts)):
        write_dcp(tmp_path / name, state, some, files=3)
        lh.ingest([tmp_path / name], warehouse=tmp_path / f"w {name}", units=True, stats="spectral", near_zero=1e-3)
        with lh.open(tmp_path / f"w {name}") as wh:
            tables = [wh.sql(f"SELECT * FROM {table} ORDER BY ALL").to_dicts() for table in ("tensors", "units", "layers")]
        left_out = {"stored_bytes", "ingested_at", "commit_id"}
        answers.append([[{key: row[key] for key in row.keys() - left_out} for row in rows] for rows in tables])
    assert all(answers[0])
    assert answers[0] == answers[1]


# What is not believed.


def chunk(origin: tuple[int, ...], shape: tuple[int, ...]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(origin), torch.Size(shape))


def info(metadata, at: int = 0):
    return [*metadata.storage_data.values()][at]


EDITS = {
    "a chunk is missing: 1 chunks of 32 elements, the tensor has 64": lambda m: m.state_dict_metadata["w"].chunks.pop(),
    "chunks overlap: 3 chunks of 96 elements": lambda m: m.state_dict_metadata["w"].chunks.append(chunk((2, 0), (4, 8))),
    "two chunks at [0, 0], [4, 8] and [2, 8]": lambda m: m.state_dict_metadata["w"].chunks.append(chunk((0, 0), (2, 8))),
    "its chunks overlap or are no grid": lambda m: m.state_dict_metadata["w"].chunks.__setitem__(1, chunk((2, 0), (4, 8))),
    "a chunk of 1 dimensions at 1 of 2": lambda m: m.state_dict_metadata["w"].chunks.append(chunk((0,), (8,))),
    "its chunk at [4, 0] is in no file": lambda m: m.storage_data.pop([*m.storage_data][1]),
    "the metadata says BF16 [8, 8]": lambda m: m.state_dict_metadata["w"].__setattr__("chunks", [chunk((0, 0), (8, 8))]),
    "is in '../__0_0.distcp', no plain file name": lambda m: setattr(info(m), "relative_path", "../__0_0.distcp"),
    "is in '/etc/passwd', no plain file name": lambda m: setattr(info(m), "relative_path", "/etc/passwd"),
    "no such file": lambda m: setattr(info(m), "relative_path", "__9_0.distcp"),
    "cut off: tensor 'w': its chunk ends at byte": lambda m: setattr(info(m, 1), "length", 10**6),
    "its chunk ends at byte 100000000000": lambda m: setattr(info(m, 1), "offset", 10**15),
    "where its chunk lies is not said": lambda m: setattr(info(m, 1), "offset", 10**500),
    "its chunk overlaps one of 'w'": lambda m: setattr(info(m, 1), "offset", info(m).offset),
    "its chunk is no torch zip": lambda m: (
        setattr(info(m, 1), "offset", info(m, 1).offset + info(m, 1).length - 9) or setattr(info(m, 1), "length", 9)
    ),
    "lies is not said": lambda m: setattr(info(m), "offset", -1),
    "its chunks are transformed by zstd": lambda m: setattr(info(m), "transform_descriptors", ["zstd"]),
    "its size are no whole numbers": lambda m: setattr(m.state_dict_metadata["w"], "size", (8, -8)),
    "limit exceeded: over 9223372036854775807 elements": lambda m: setattr(m.state_dict_metadata["w"], "size", (2**40, 2**40)),
    "no storage_data in the metadata": lambda m: setattr(m, "storage_data", None),
    "distributed checkpoint of version 2.0.0: only 1.x is read": lambda m: setattr(m, "version", "2.0.0"),
    "limit exceeded: a tensor name of over": lambda m: m.state_dict_metadata.update({"n" * 5000: m.state_dict_metadata["w"]}),
}


@pytest.mark.parametrize("said", EDITS)
def test_metadata_that_cannot_be_true_is_refused_in_one_line(tmp_path, said):
    def edit(metadata) -> None:
        EDITS[said](metadata)

    folder = write_dcp(tmp_path / "m", {"w": values(8, 8)}, {"w": ((4,), ())}, edit=edit)
    assert said in refusal(folder)


def test_a_metadata_file_that_is_none_is_refused(tmp_path):
    folder = write_dcp(tmp_path / "m", {"w": values(8, 8)})
    raw = (folder / ".metadata").read_bytes()
    for content, said in (
        (pickle.dumps({"a": 1}), "no Metadata of torch.distributed.checkpoint"),
        (raw + b"x", "1 bytes after its end"),
        (raw[:-20], "cut off"),
        (b"", "the pickle has no end"),
    ):
        (folder / ".metadata").write_bytes(content)
        assert said in refusal(folder)


def test_what_a_metadata_file_calls_is_not_run(tmp_path):
    class Touch:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    folder = write_dcp(tmp_path / "m", {"w": values(8, 8)}, edit=lambda m: setattr(m, "storage_meta", Touch()))
    assert read_dcp(folder, "m").skipped == ("skipped, not executed: pathlib.Path.touch",)
    assert not (tmp_path / "touched").exists()


def test_a_chunk_that_is_no_plain_tensor_is_refused(tmp_path):
    folder = write_dcp(tmp_path / "m", {"w": values(8, 8)})
    blob = torch.save({"w": values(8, 8)}, tmp_path / "blob")
    assert blob is None
    raw = (tmp_path / "blob").read_bytes()
    (folder / "__0_0.distcp").write_bytes(raw)
    metadata = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - written above
    info(metadata).length = len(raw)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert "its chunk is no plain tensor, but a dict of 1: w" in refusal(folder)


def test_a_file_that_links_out_of_the_folder_is_not_read(tmp_path):
    folder = write_dcp(tmp_path / "m", {"w": values(8, 8)})
    (folder / "__0_0.distcp").rename(tmp_path / "outside.distcp")
    (folder / "__0_0.distcp").symlink_to(tmp_path / "outside.distcp")
    report = lh.ingest([folder], warehouse=tmp_path / "w")
    assert report.count("taken") == 0
    assert any("leads out" in event.what for event in report.events if event.kind == "failed")


def test_there_is_a_limit_on_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_CHUNKS", 7)
    folder = write_dcp(tmp_path / "m", {"w": values(8, 8)}, {"w": (range(1, 8), ())})
    assert "limit exceeded: 8 chunks, over 7" in refusal(folder)


def test_a_small_tensor_that_describes_others_is_not_read_from_one_of_its_chunks(tmp_path):
    entries = {
        "a.q_proj.weight": torch.zeros(1024, 1, dtype=torch.uint8),
        "a.q_proj.weight.absmax": torch.zeros(32),
        "a.q_proj.weight.quant_map": torch.zeros(16),
        "a.q_proj.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(b'{"shape": [32, 64], "blocksize": 64}')).byte(),
    }
    folder = write_dcp(tmp_path / "m", entries, {"a.q_proj.weight.quant_state.bitsandbytes__nf4": ((12,),)})
    lh.ingest([folder], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        ((params, note),) = wh.sql("SELECT params, status_note FROM models").rows()
    assert params is None
    assert "weight.quant_state.bitsandbytes__nf4 is kept in several parts, and what it says of the weight is not read" in note


# In a folder.


def test_metadata_and_files_belong_together(tmp_path):
    folder = write_dcp(tmp_path / "m", {"w": values(8, 8)})
    report = lh.ingest([folder / "__0_0.distcp"], warehouse=tmp_path / "w")
    assert [event.what for event in report.events if event.kind == "failed"] == [
        "one file of a distributed checkpoint; name its folder instead"
    ]
    (folder / ".metadata").unlink()
    report = lh.ingest([folder], warehouse=tmp_path / "w")
    assert [event.what for event in report.events if event.kind == "failed"] == [
        "__0_0.distcp is a part of a distributed checkpoint whose hidden file .metadata is missing; copy it too, or save the "
        "checkpoint again"
    ]


def test_a_whole_model_beside_distributed_files_is_taken(tmp_path):
    folder = write_dcp(tmp_path / "m", {"w": values(8, 8)})
    torch.save({"args": {"tensor_model_parallel_size": 2}}, folder / "common.pt")
    for container in ("dcp", "torch zip"):
        report = lh.ingest([folder], warehouse=tmp_path / container)
        assert report.count("failed") == 0
        with lh.open(tmp_path / container) as wh:
            assert wh.sql("SELECT container FROM current_checkpoints").rows() == [(container,)]
        torch.save({"w": values(8, 8)}, folder / "pytorch_model.bin")


def test_a_changed_metadata_file_is_a_changed_model(tmp_path):
    folder = write_dcp(tmp_path / "m", {"w": values(8, 8), "v": values(4, 4)})
    lh.ingest([folder], warehouse=tmp_path / "w")
    metadata = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - written above
    metadata.state_dict_metadata.pop("v")
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    report = lh.ingest([folder], warehouse=tmp_path / "w")
    assert report.count("taken") == 1
