"""Parts of a model, and weights in a form that is not read, are refused by name: they never pass for a smaller model."""

from __future__ import annotations

import argparse
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.tests.dcp_files import write_dcp
from layerhouse.tests.test_layouts import CONFIG, SHAPES, plain, rows_of, write

WEIGHTS = {"model.layers.0.mlp.up_proj.weight": torch.ones(8, 4)}


def outcome(root: Path, warehouse: Path) -> list[tuple[str, str]]:
    """What was taken and what failed, with why."""
    report = lh.ingest([root], warehouse=warehouse)
    return [(str(event.kind), event.what) for event in report.events if event.kind in ("taken", "failed")]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"),
            "2 tensor-parallel ranks (Megatron-LM) of one model (mp_rank_00 to mp_rank_01)",
        ),
        (("mp_rank_01/model_optim_rng.pt",), "1 tensor-parallel ranks (Megatron-LM)"),
        (("mp_rank_00_000/a.pt", "mp_rank_00_001/a.pt", "mp_rank_01_000/a.pt"), "3 tensor-parallel ranks (Megatron-LM)"),
        (("tp_rank_00_pp_rank_000/a.pt", "tp_rank_01_pp_rank_000/a.pt"), "2 tensor-parallel ranks (NeMo)"),
        (("tp_rank_00/a.pt", "tp_rank_01/a.pt"), "2 tensor-parallel ranks (NeMo)"),
        (("ep_rank_0/a.pt", "ep_rank_1/a.pt"), "2 parallel ranks of one model"),
        (("rank_0/m.safetensors", "rank_1/m.safetensors"), "2 parts of one model (rank_0 to rank_1)"),
        (("rank0/a/b/m.safetensors", "rank1/a/b/m.safetensors", "rank10/a.md"), "2 parts of one model (rank0 to rank1)"),
        (("tp0/m.safetensors", "tp1/m.safetensors"), "2 parallel ranks of one model (tp0 to tp1)"),
        (("tp_0/m.safetensors", "tp_1/m.safetensors"), "2 parallel ranks of one model (tp_0 to tp_1)"),
        (("pp0/m.safetensors", "pp1/m.safetensors", "pp2/m.safetensors"), "3 parallel ranks of one model (pp0 to pp2)"),
        (("tp0_pp0/a.pt", "tp0_pp1/a.pt", "tp1_pp0/a.pt", "tp1_pp1/a.pt"), "4 parallel ranks of one model"),
        (("rank_0/w.th", "rank_1/w.th"), "2 parts of one model (rank_0 to rank_1)"),
        (("shard_1/m.safetensors", "shard_2/m.safetensors"), "2 parts of one model (shard_1 to shard_2)"),
        (("part1/m.safetensors", "part2/m.safetensors"), "2 parts of one model (part1 to part2)"),
        (("stage_0/m.safetensors", "stage_1/m.safetensors"), "2 parts of one model (stage_0 to stage_1)"),
        (("model_part_0/m.safetensors", "model_part_1/m.safetensors"), "2 parts of one model"),
        (("model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"), "2 FSDP ranks of one model"),
        (("model_world_size_2_rank_0.pt",), "1 FSDP ranks of one model"),
        (("rank0.safetensors", "rank1.safetensors"), "2 tensor-parallel ranks (TensorRT-LLM)"),
        (("rank1.safetensors",), "1 tensor-parallel ranks (TensorRT-LLM)"),
        (("consolidated.03.pth",), "1 model-parallel ranks (Meta)"),
        (("model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors"), "2 tensor-parallel ranks (vLLM)"),
        (
            ("shard-00001-model-00001-of-00001.safetensors", "shard-00002-model-00001-of-00001.safetensors"),
            "2 ranks (torch.distributed.checkpoint)",
        ),
        (("shard-00002-model-00001-of-00001.safetensors",), "1 ranks (torch.distributed.checkpoint)"),
        (("layer_00-model_00-model_states.pt", "layer_01-model_00-model_states.pt"), "2 layers of one model, a file each"),
        (("layer_00-model_00-model_states.pt", "mp_rank_00_model_states.pt"), "1 layers of one model, a file each"),
        (("pytorch_model.rank0.bin", "pytorch_model.rank1.bin"), "2 parts of one model"),
        (("model-part1.safetensors", "model-part2.safetensors"), "2 parts of one model"),
        (("ep0-ba1-rank0.pt", "ep0-ba1-rank1.pt"), "2 parts of one model"),
        (("consolidated.00.pth", "consolidated.01.pth"), "2 model-parallel ranks (Meta)"),
        (("mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"), "2 tensor-parallel ranks (DeepSpeed)"),
    ],
)
def test_ranks_are_refused_with_their_set_and_what_to_do(tmp_path, names, said):
    for name in names:
        path = tmp_path / "m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file(WEIGHTS, path)
        elif name.endswith(".md"):
            path.write_text("notes")
        else:
            torch.save({"model": WEIGHTS}, path)
    ((kind, what),) = outcome(tmp_path / "m", tmp_path / "w")
    assert (kind, said in what, "merge them first" in what) == ("failed", True, True)
    for number, name in enumerate(name for name in names if not name.endswith(".md")):  # nor is any of them by its own path
        path = tmp_path / "m" / name
        for place in (path, path.parent):
            ((kind, what),) = outcome(place, tmp_path / f"w{number}{place.name}")
            assert (kind, "merge them first" in what) == ("failed", True)


@pytest.mark.parametrize(
    "names",
    [
        ("rank_8/a.safetensors", "rank_16/a.safetensors"),
        ("rank_0/a.safetensors", "rank_8/a.safetensors"),
        ("rank_1/a.safetensors", "rank_2/a.safetensors"),
        ("tp0/a.safetensors", "tp1/notes.md"),
        ("tp2/a.safetensors", "tp4/a.safetensors"),
        ("ep0/a.safetensors", "ep1/a.safetensors"),
        ("stage_1/a.safetensors", "stage_2/a.safetensors"),
        ("a/lora_rank8.safetensors", "b/lora_rank16.safetensors"),
        ("part_0/llama/a.safetensors", "part_1/mistral/a.safetensors"),
        ("rank_0/a.safetensors", f"rank_{10**60}/a.safetensors"),
    ],
)
def test_folders_with_other_numbers_are_models(tmp_path, names):
    for name in names:
        path = tmp_path / "m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(WEIGHTS, path) if name.endswith(".safetensors") else path.write_text("x")
    weights = [name for name in names if name.endswith(".safetensors")]
    assert [kind for kind, _ in outcome(tmp_path / "m", tmp_path / "w")] == ["taken"] * len(weights)


@pytest.mark.parametrize(
    ("run", "key"),
    [
        ({"args": argparse.Namespace(tensor_model_parallel_size=2)}, "tensor_model_parallel_size"),
        ({"args": argparse.Namespace(pipeline_model_parallel_size=4)}, "pipeline_model_parallel_size"),
        ({"mp_world_size": 2}, "mp_world_size"),
    ],
)
def test_one_rank_alone_that_says_that_it_is_of_several_is_no_model(tmp_path, run, key):
    path = tmp_path / "m/mp_rank_00/model_optim_rng.pt"
    path.parent.mkdir(parents=True)
    torch.save({"model": WEIGHTS, **run}, path)
    ((kind, what),) = outcome(tmp_path / "m", tmp_path / "w")
    assert (kind, f"parallel ranks of one model, as its {key} says" in what) == ("failed", True)
    whole = {name: argparse.Namespace(**dict.fromkeys(vars(value), 1)) if name == "args" else 1 for name, value in run.items()}
    torch.save({"model": WEIGHTS, **whole}, path)
    assert [kind for kind, _ in outcome(tmp_path / "m", tmp_path / "w2")] == ["taken"]


def test_one_file_of_tensorrt_llm_is_a_rank_if_the_config_says_so(tmp_path):
    (tmp_path / "m").mkdir()
    save_file(WEIGHTS, tmp_path / "m/rank0.safetensors")
    for size, expected in ((1, "taken"), (2, "failed")):
        (tmp_path / "m/config.json").write_text(json.dumps({"mapping": {"world_size": size, "tp_size": size}}))
        ((kind, _),) = outcome(tmp_path / "m", tmp_path / f"w{size}")
        assert kind == expected


def test_one_rank_of_torchs_safetensors_is_told_by_where_its_tensors_begin(tmp_path):
    for number, offsets in enumerate(([0, 0], [0, 10], [8, 0])):
        sharding = json.dumps({name: {"saved_offsets": offsets} for name in WEIGHTS})
        save_file(WEIGHTS, tmp_path / f"{number}.safetensors", {"DCP_SHARDING_INFO": sharding})
        ((kind, what),) = outcome(tmp_path / f"{number}.safetensors", tmp_path / f"w{number}")
        assert (kind, "one rank of a distributed checkpoint" in what) == (("failed", True) if number else ("taken", False))


@pytest.mark.parametrize("name", ["_fsdp_wrapped_module._flat_param", "layers.0.flat_param_0"])
def test_flat_parameters_of_fsdp_are_no_model(tmp_path, name):
    write_dcp(tmp_path / "dcp", {name: torch.ones(100)}, {name: ((50,),)})
    (tmp_path / "zip").mkdir()
    torch.save({name: torch.ones(50)}, tmp_path / "zip/pytorch_model.bin")
    for folder in ("dcp", "zip"):
        ((kind, what),) = outcome(tmp_path / folder, tmp_path / f"w {folder}")
        assert (kind, what.startswith("FSDP's flat parameters")) == ("failed", True)


@pytest.mark.parametrize("name", ["mp_rank_00/model_optim_rng.pt", "mp_rank_00_model_states.pt", "rank0.safetensors"])
def test_the_only_rank_of_a_run_is_a_model(tmp_path, name):
    path = tmp_path / "m" / name
    path.parent.mkdir(parents=True)
    if name.endswith(".safetensors"):
        save_file(WEIGHTS, path)
    else:
        torch.save({"module": WEIGHTS}, path)
        torch.save({"state": {}}, path.with_name("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"))
        torch.save({"state": {}}, path.with_name("optim_world_size_1_rank_0.pt"))
    assert [kind for kind, _ in outcome(tmp_path / "m", tmp_path / "w")] == ["taken"]


def test_a_shard_by_its_path_is_no_model(tmp_path):
    for number in (1, 2):
        folder = write(tmp_path / "m", plain(dict([*SHAPES.items()][number::2])), CONFIG, f"model-{number:05}-of-00002")
    ((kind, what),) = outcome(folder / "model-00001-of-00002.safetensors", tmp_path / "w")
    assert (kind, what) == ("failed", "shard 1 of 2 of a model; name its folder instead")


@pytest.mark.parametrize(
    "names",
    [
        ("model-00000-of-00001",),
        ("m-000001-of-000002", "m-000002-of-000002"),
        ("s-0-of-2", "s-1-of-2"),
        ("model_00001-of-00002", "model_00002-of-00002"),
        ("model.00001-of-00002", "model.00002-of-00002"),
        ("model_00001_of_00002", "model_00002_of_00002"),
        ("m-1of2", "m-2of2"),
    ],
)
def test_shards_may_be_numbered_from_zero_and_with_any_width(tmp_path, names):
    for number, name in enumerate(names):
        folder = write(tmp_path / "m", plain(dict([*SHAPES.items()][number :: len(names)])), CONFIG, name)
    assert {*rows_of(folder)[1]} >= {*SHAPES}


@pytest.mark.parametrize("name", ["model.safetensors-0000{}-of-00002", "model-{}-of-2.sft", "m_{}of2.weights"])
def test_shards_may_have_any_suffix(tmp_path, name):
    (tmp_path / "m").mkdir()
    for number in (1, 2):
        weights = {key: torch.ones(shape) for key, shape in [*SHAPES.items()][number - 1 :: 2]}
        save_file(weights, tmp_path / "m" / name.format(number))
    ((kind, what),) = outcome(tmp_path / "m", tmp_path / "w")
    assert (kind, what.startswith("weights (2 files")) == ("taken", True)
    ((kind, what),) = outcome(tmp_path / "m" / name.format(1), tmp_path / "w2")
    assert (kind, what) == ("failed", "shard 1 of 2 of a model; name its folder instead")
    (tmp_path / "m" / name.format(1)).unlink()
    ((kind, what),) = outcome(tmp_path / "m", tmp_path / "w3")
    assert (kind, what) == ("failed", f"1 of 2 shards are missing, the first is {name.format(1)!r}; fetch it")


def test_a_shard_that_an_index_names_is_no_model_by_its_path(tmp_path):
    (tmp_path / "m").mkdir()
    for name in ("a.safetensors", "b.safetensors", "c.safetensors"):
        save_file({f"{name}.weight": torch.ones(2)}, tmp_path / "m" / name)
    index = {"weight_map": {"a.safetensors.weight": "a.safetensors", "b.safetensors.weight": "b.safetensors"}}
    (tmp_path / "m/model.safetensors.index.json").write_text(json.dumps(index))
    ((kind, what),) = outcome(tmp_path / "m/a.safetensors", tmp_path / "w")
    assert kind == "failed"
    assert what == "one of 2 shards of a model, as model.safetensors.index.json says; name its folder instead"
    assert [kind for kind, _ in outcome(tmp_path / "m/c.safetensors", tmp_path / "w2")] == ["taken"]


# What a training run leaves beside a model.


def passed_over(root: Path, warehouse: Path) -> tuple[int, list[str], dict[str, str]]:
    """How many models were taken, what failed, and what was passed over, by folder."""
    report = lh.ingest([root], warehouse=warehouse)
    passed = {Path(event.where).relative_to(root).as_posix(): event.what for event in report.events if event.kind == "passed"}
    return report.count("taken"), [event.what for event in report.events if event.kind == "failed"], passed


def put(folder: Path, *names: str) -> None:
    """Files of torch.save at these paths, each with weights; `.distcp` as a distributed checkpoint."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".distcp"):
            write_dcp(path.parent, WEIGHTS)
        else:
            torch.save({"module": WEIGHTS}, path)


ZERO_3 = ("zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt")
ZERO_STATES = ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt")


@pytest.mark.parametrize(
    ("folder", "names", "writer"),
    [
        ("global_step10", (*ZERO_3, *ZERO_STATES), "DeepSpeed"),
        ("global_step10", ("mp_rank_00_model_states.pt", *ZERO_STATES), "DeepSpeed"),
        ("global_step10", ("layer_00-model_00-model_states.pt", "mp_rank_00_model_states.pt"), "DeepSpeed"),
        ("pytorch_model_fsdp_0", ("model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"), "FSDP"),
        ("pytorch_model_fsdp_0", ("__0_0.distcp",), "torch.distributed.checkpoint"),
        ("dist", ("__0_0.distcp",), "torch.distributed.checkpoint"),
    ],
)
def test_the_state_of_the_run_that_made_a_model_is_passed_over_in_one_line(tmp_path, folder, names, writer):
    write(tmp_path / "run/checkpoint-10", plain(SHAPES), CONFIG)
    put(tmp_path / "run/checkpoint-10" / folder, *names)
    text = f"the state of the run that made the model above, by {writer}, not another model"
    assert passed_over(tmp_path / "run", tmp_path / "w") == (1, [], {f"checkpoint-10/{folder}": text})


def test_a_checkpoint_of_a_later_step_below_a_model_is_a_model(tmp_path):
    write(tmp_path / "run", plain(SHAPES), CONFIG)
    put(tmp_path / "run", "step-100/__0_0.distcp", "checkpoint_200/__0_0.distcp")
    assert passed_over(tmp_path / "run", tmp_path / "w") == (3, [], {})


def test_the_state_of_an_optimizer_beside_distributed_weights_is_passed_over(tmp_path):
    put(tmp_path / "run/checkpoint-10", "pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp")
    text = "the state of an optimizer or a run, by torch.distributed.checkpoint, not a model"
    assert passed_over(tmp_path / "run", tmp_path / "w") == (1, [], {"checkpoint-10/optimizer_0": text})
    assert passed_over(tmp_path / "run/checkpoint-10/optimizer_0", tmp_path / "w2") == (0, [text], {})


@pytest.mark.parametrize("has_model", [True, False])
def test_a_universal_checkpoint_is_one_line(tmp_path, has_model):
    if has_model:
        write(tmp_path / "run/m", plain(SHAPES), CONFIG)
    for name in SHAPES:
        put(tmp_path / f"run/m/step_universal/zero/{name}", "fp32.pt", "exp_avg.pt", "exp_avg_sq.pt", "step.pt")
    text = "a universal checkpoint of DeepSpeed, one folder a parameter, not a model"
    taken, failed, passed = passed_over(tmp_path / "run", tmp_path / "w")
    assert (taken, passed["m/step_universal/zero"]) == (int(has_model), text)
    assert failed == ([] if has_model else ["no weights, no analysis, no results"])
    folder = tmp_path / "run/m/step_universal/zero"
    assert passed_over(folder, tmp_path / "w2") == (0, [text], {})
    for root in (folder / next(iter(SHAPES)), folder / next(iter(SHAPES)) / "fp32.pt"):
        ((kind, what),) = outcome(root, tmp_path / "w3")
        assert (kind, what.startswith("one parameter of a DeepSpeed universal checkpoint")) == ("failed", True)


def test_a_folder_that_cannot_be_looked_into_leaves_the_others_in(tmp_path):
    """The paths of files in a folder of a very long path are too long for the system."""
    write(tmp_path / "run/m", plain(SHAPES), CONFIG)
    (tmp_path / "run/deep").mkdir()
    here = os.open(tmp_path / "run/deep", os.O_RDONLY)
    length = len(f"{tmp_path}/run/deep")
    while length < 4090:
        name = "rank_0" if length > 3900 else "d" * 200
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, length = inner, length + 1 + len(name)
    os.close(here)
    taken, failed, _ = passed_over(tmp_path / "run", tmp_path / "w")
    assert (taken, [what for what in failed if "unexpected" in what or "cannot be read" in what]) == (1, [])


def test_averaged_weights_beside_a_model_are_ignored_and_alone_they_are_one(tmp_path):
    write(tmp_path / "run/m", plain(SHAPES), CONFIG, "model-a")
    put(tmp_path / "run/m", "ema.pt", "model_ema.pt", "ema-0.9999.bin", "optimizer.pt", "scheduler.bin")
    put(tmp_path / "run/alone", "ema.pt")
    assert passed_over(tmp_path / "run", tmp_path / "w") == (2, [], {})
    with lh.open(tmp_path / "w") as wh:
        (row,) = wh.sql("SELECT notes FROM current_checkpoints WHERE model_id = 'run/m'").rows()
    ignored = {note["text"] for note in row[0] if note["code"] == "ignored"}
    assert {f"{name}: averaged weights beside a model" for name in ("ema.pt", "model_ema.pt", "ema-0.9999.bin")} <= ignored


def write_gguf(path: Path, kind: str | None, architecture: str = "llama") -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    if kind is not None:
        writer.add_type(kind)
    writer.add_tensor("blk.0.attn_q.weight", np.ones((64, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("name", "kind", "architecture"),
    [
        ("mmproj-model.gguf", "mmproj", "clip"),
        ("model.mmproj-f16.gguf", None, "clip"),
        ("vision.gguf", "mmproj", "llama"),
        ("vision.gguf", None, "clip"),
        ("imatrix.gguf", "imatrix", "llama"),
        ("calibration.gguf", "imatrix", "llama"),
    ],
)
def test_companions_of_a_gguf_model_are_no_models(tmp_path, name, kind, architecture):
    write_gguf(tmp_path / "m/model-Q8_0.gguf", "model")
    write_gguf(tmp_path / "m" / name, kind, architecture)
    said = "an importance matrix" if "imatrix" in (kind or "") else "the projector of a multimodal model"
    taken, failed, passed = passed_over(tmp_path / "m", tmp_path / "w")
    assert (taken, failed, [*passed], passed[name].startswith(said)) == (1, [], [name], True)
    (tmp_path / "m/model-Q8_0.gguf").unlink()
    for number, root in enumerate((tmp_path / "m", tmp_path / "m" / name)):
        ((kind, what),) = outcome(root, tmp_path / f"w{number}")
        assert (kind, what.startswith(said)) == ("failed", True)


# Weights under other names, and in files that are not read.


@pytest.mark.parametrize("name", ["w.pth.tar", "w.th", "w.pkl", "w.model", "w.weights", "w"])
@pytest.mark.parametrize("is_old", [True, False])
def test_weights_are_found_by_their_content_whatever_their_suffix(tmp_path, name, is_old):
    (tmp_path / "m").mkdir()
    torch.save(WEIGHTS, tmp_path / "m" / name, _use_new_zipfile_serialization=not is_old)
    for number, root in enumerate((tmp_path / "m", tmp_path / "m" / name)):
        assert [kind for kind, _ in outcome(root, tmp_path / f"w{number}")] == ["taken"]
        with lh.open(tmp_path / f"w{number}") as wh:
            rows = wh.sql("SELECT model_id, container, params FROM current_checkpoints").rows()
        name_of = f"{tmp_path.name}/m" if number == 0 else "m/w"
        assert rows == [(name_of, "torch legacy" if is_old else "torch zip", 32)]


def test_safetensors_under_another_suffix_are_found(tmp_path):
    (tmp_path / "m").mkdir()
    save_file(WEIGHTS, tmp_path / "m/w.sft")
    assert [kind for kind, _ in outcome(tmp_path / "m", tmp_path / "w")] == ["taken"]
    assert [kind for kind, _ in outcome(tmp_path / "m/w.sft", tmp_path / "w2")] == ["taken"]


def test_other_files_beside_weights_stay_out_of_the_model(tmp_path):
    write(tmp_path / "m", plain(SHAPES), CONFIG)
    torch.save(WEIGHTS, tmp_path / "m/old.pkl")
    (tmp_path / "m/tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15" + bytes(20))
    ((kind, what),) = outcome(tmp_path / "m", tmp_path / "w")
    assert (kind, what.startswith("weights (1 file")) == ("taken", True)


def test_weights_under_another_name_that_link_out_of_the_folder_are_not_read(tmp_path):
    (tmp_path / "m").mkdir()
    torch.save(WEIGHTS, tmp_path / "outside.th")
    (tmp_path / "m/w.th").symlink_to(tmp_path / "outside.th")
    assert [kind for kind, _ in outcome(tmp_path / "m", tmp_path / "w")] == ["failed"]


def test_a_blob_of_a_hub_cache_may_be_a_shard(tmp_path):
    cache = tmp_path / "models--org--name"
    (cache / "blobs").mkdir(parents=True)
    save_file(WEIGHTS, cache / "blobs" / ("0123456789abcdef" * 4))
    ((kind, what),) = outcome(next((cache / "blobs").iterdir()), tmp_path / "w")
    assert (kind, what.endswith("name the folder of a snapshot instead")) == ("failed", True)
    (cache / "snapshots/main").mkdir(parents=True)
    (cache / "snapshots/main/model.safetensors").symlink_to(next((cache / "blobs").iterdir()))
    assert [kind for kind, _ in outcome(cache, tmp_path / "w2")] == ["taken"]


def test_the_metadata_of_a_distributed_checkpoint_is_no_model(tmp_path):
    write_dcp(tmp_path / "m", WEIGHTS)
    ((kind, what),) = outcome(tmp_path / "m/.metadata", tmp_path / "w")
    assert (kind, what) == ("failed", "the index of a distributed checkpoint; name its folder instead")


def archive_of(folder: Path, name: str) -> None:
    torch.save(WEIGHTS, folder / "model_weights.ckpt")
    if name.endswith(".zip"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.write(folder / "model_weights.ckpt", "m/model_weights.ckpt")
    else:
        with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as archive:
            archive.add(folder / "model_weights.ckpt", "./model_weights.ckpt")
    (folder / "model_weights.ckpt").unlink()


@pytest.mark.parametrize("name", ["model.nemo", "model.tar", "model.tar.gz", "model.tgz", "model.zip"])
def test_archives_of_a_model_are_named_with_what_to_do(tmp_path, name):
    (tmp_path / "m").mkdir()
    archive_of(tmp_path / "m", name)
    for number, root in enumerate((tmp_path / "m", tmp_path / "m" / name)):
        ((kind, what),) = outcome(root, tmp_path / f"w{number}")
        assert (kind, "unpack it" in what) == ("failed", True)


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("model.onnx", b"\x08\x07\x12\x07pytorch\x1a\x012:\0" + bytes(50), "an ONNX model"),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        ("flax_model.msgpack", b"\x82\xa5model\x81\xa1a\x01" + bytes(20), "msgpack, as Flax saves weights"),
    ],
)
def test_weights_in_formats_that_are_not_read_are_named_with_what_to_do(tmp_path, name, head, said):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_bytes(head)
    for number, root in enumerate((tmp_path / "m", tmp_path / "m" / name)):
        ((kind, what),) = outcome(root, tmp_path / f"w{number}")
        assert (kind, said in what, what.endswith("convert it to safetensors")) == ("failed", True, True)


def test_a_numpy_archive_is_named_with_what_to_do(tmp_path):
    (tmp_path / "m").mkdir()
    np.savez(tmp_path / "m/weights.npz", a=np.ones(3))
    ((kind, what),) = outcome(tmp_path / "m", tmp_path / "w")
    assert (kind, what) == ("failed", "weights.npz: a NumPy archive: not read; convert it to safetensors")


def test_a_model_of_composer_is_found_in_its_run(tmp_path):
    run = {
        "state": {"model": {f"model.{name}": torch.ones(shape) for name, shape in SHAPES.items()}, "optimizers": {}},
        "rng": [],
    }
    (tmp_path / "m").mkdir()
    torch.save(run, tmp_path / "m/ep1.pt")
    torch.save({"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}, tmp_path / "other.pt")
    assert [kind for kind, _ in outcome(tmp_path / "m", tmp_path / "w")] == ["taken"]
    ((kind, what),) = outcome(tmp_path / "other.pt", tmp_path / "w2")
    assert (kind, "the state of an optimizer, not a model" in what) == ("failed", True)
