"""Parts of a model, and weights in a form that is not read, are refused by name: they never pass for a smaller model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.tests.test_layouts import CONFIG, SHAPES, plain, rows_of, write

WEIGHTS = {"model.layers.0.mlp.up_proj.weight": torch.ones(8, 4)}


def outcome(root: Path, warehouse: Path) -> list[tuple[str, str]]:
    """What was taken and what failed, with why."""
    report = lh.ingest([root], warehouse=warehouse)
    return [(str(event.kind), event.what) for event in report.events if event.kind in ("taken", "failed")]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"), "one of 2 parallel ranks of one model"),
        (("model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"), "2 FSDP ranks of one model"),
        (("model_world_size_2_rank_0.pt",), "1 FSDP ranks of one model"),
        (("rank0.safetensors", "rank1.safetensors"), "2 tensor-parallel ranks (TensorRT-LLM)"),
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
        else:
            torch.save({"model": WEIGHTS}, path)
    found = outcome(tmp_path / "m", tmp_path / "w")
    assert {kind for kind, _ in found} == {"failed"}
    assert all(said in what and "merge them first" in what for _, what in found)


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
    "names", [("model-00000-of-00001",), ("m-000001-of-000002", "m-000002-of-000002"), ("s-0-of-2", "s-1-of-2")]
)
def test_shards_may_be_numbered_from_zero_and_with_any_width(tmp_path, names):
    for number, name in enumerate(names):
        folder = write(tmp_path / "m", plain(dict([*SHAPES.items()][number :: len(names)])), CONFIG, name)
    assert {*rows_of(folder)[1]} >= {*SHAPES}


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
