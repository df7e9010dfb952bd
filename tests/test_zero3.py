"""ZeRO-3 checkpoints of DeepSpeed: the weights are joined from the parts of all ranks, and no rank alone is a model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint_rows import open_weights, weight_files_of
from layerhouse.ingest.measure.io import assembled
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.model_files import fingerprint_of
from layerhouse.tests.test_layouts import CONFIG, rows_of
from layerhouse.tests.tiny_models import Width, llama_shapes
from layerhouse.tests.weight_files import torch_values

FORMATS = Path(__file__).parents[2] / "shared/data/formats"
SHAPES = llama_shapes({0: Width(), 1: Width(queries=32, keys=16, intermediate=96)})
ODD = {"odd.a": (3, 5), "odd.b": (7,), "odd.c": (), "odd.d": (0, 4), "odd.e": (1,)}
"""Shapes that no number of ranks divides, among them a scalar and a tensor without elements."""
MODEL, VALUES = "zero_pp_rank_{}_mp_rank_00_model_states.pt", "bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"
State = dict[str, Any]


def partition(tensor: torch.Tensor, world: int) -> list[torch.Tensor]:
    """The parts of all ranks: flat, padded to as many values each."""
    count = -(-tensor.numel() // world)
    padded = torch.full((count * world,), 77.0, dtype=tensor.dtype)
    padded[: tensor.numel()] = tensor.reshape(-1)
    return [part.clone() for part in padded.split(count)] if count else [padded.clone()] * world


def states(
    trained: Mapping[str, torch.Tensor], world: int, *, frozen: Mapping[str, torch.Tensor] | None = None, groups: int = 1
) -> tuple[list[State], list[State]]:
    """The model states and optimizer states of all ranks, as DeepSpeed 0.19 saves them."""
    frozen = frozen or {}
    parts = {name: partition(tensor, world) for name, tensor in trained.items()}
    kept = {name: partition(tensor, world) for name, tensor in frozen.items()}
    placeholders = {name: torch.empty(0, dtype=torch.bfloat16) for name in (*trained, *frozen)}
    names = [*trained]
    models, values = [], []
    for rank in range(world):
        flat = torch.cat([parts[name][rank] for name in names])
        size = -(-flat.numel() // groups)
        models.append(
            {
                "module": {**placeholders, "rope.inv_freq": torch.ones(3)},
                "buffer_names": ["rope.inv_freq"],
                "param_shapes": halves({name: trained[name].shape for name in names}),
                "frozen_param_shapes": {name: tensor.shape for name, tensor in frozen.items()},
                "frozen_param_fragments": {name: kept[name][rank] for name in frozen},
                "shared_params": {},
                "dp_world_size": world,
            }
        )
        groups_of_rank = [part.clone() for part in flat.split(size)]
        values.append({"optimizer_state_dict": {"zero_stage": 3, "fp32_flat_groups": groups_of_rank}})
    return models, values


def halves(shapes: dict[str, Any]) -> list[dict[str, Any]]:
    names = [*shapes]
    middle = len(names) // 2
    return [{name: shapes[name] for name in part} for part in (names[:middle], names[middle:])]


def save(folder: Path, models: list[State], values: list[State], config: Mapping[str, Any] | None = CONFIG) -> Path:
    """The folder of a step, in that of a run with its config."""
    step = folder / "global_step1"
    step.mkdir(parents=True, exist_ok=True)
    for rank, state in enumerate(models):
        torch.save(state, step / MODEL.format(rank))
    for rank, state in enumerate(values):
        torch.save(state, step / VALUES.format(rank))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return step


def read(step: Path) -> Any:
    return rows_of(step, "*model_states.pt")


def llama() -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    weights = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    weights["model.layers.0.mlp.up_proj.weight"][3] = 0
    return weights


@pytest.mark.parametrize(("world", "groups"), [(1, 1), (2, 1), (3, 1), (2, 3), (5, 4)])
def test_the_weights_of_all_ranks_are_those_of_the_model(tmp_path, world, groups):
    torch.manual_seed(5)
    weights = {**llama(), **{name: torch.randn(shape) for name, shape in ODD.items()}}
    step = save(tmp_path / "run", *states(weights, world, groups=groups))
    plain = tmp_path / "plain"
    plain.mkdir()
    torch.save(weights, plain / "m_model_states.pt")
    (plain / "config.json").write_text(json.dumps(CONFIG))
    (checkpoint, tensors, layers), (expected, rows, expected_layers) = read(step), read(plain)
    equal = ("params", "zeros", "prunable_zeros", "family", "num_layers", "layer_params", "embedding_params")
    assert {key: checkpoint[key] for key in equal} == {key: expected[key] for key in equal}
    assert {*tensors} == {*rows, "rope.inv_freq"}
    for name, row in rows.items():
        different = {key for key in row if row[key] != tensors[name][key]} - {"checkpoint_id", "stored_bytes"}
        assert different == set(), name
        assert tensors[name]["stored_bytes"] == 4 * world * -(-math.prod(row["shape"]) // world)
    assert tensors["rope.inv_freq"]["is_parameter"] is False
    without_id = [{key: row[key] for key in row if key != "checkpoint_id"} for row in layers]
    assert without_id == [{key: row[key] for key in row if key != "checkpoint_id"} for row in expected_layers]
    assert layers[0]["num_heads"] == 4
    assert any(note["text"].startswith(f"joined from the parts of {world} ranks") for note in checkpoint["notes"])


def test_any_part_of_a_joined_weight_is_read_in_pieces_of_any_size(tmp_path, monkeypatch):
    weight = torch.randn(37, 11)
    step = save(tmp_path, *states({"a": torch.randn(5), "w": weight}, 4, groups=5))
    ref = next(
        ref for ref in open_weights(step, sorted(step.glob("*model_states.pt")), "m").contents.tensors if ref.name == "w"
    )
    raw = torch_values(weight)
    monkeypatch.setattr(assembled, "_Assembler", lambda *arguments: rows_at_once(assembler(*arguments), 3))
    with TensorReader() as reader:
        for start, stop in ((0, len(raw)), (4, 8), (400, 1204), (len(raw) - 4, len(raw))):
            assert b"".join(chunk.tobytes() for chunk in reader.chunks(ref, start, stop)) == raw[start:stop]


assembler = assembled._Assembler


def rows_at_once(assembler: Any, count: int) -> Any:
    assembler._rows_at_once = count
    return assembler


def test_frozen_and_shared_weights_are_read(tmp_path):
    trained, frozen = {"a.weight": torch.randn(4, 3)}, {"b.weight": torch.randn(5, 3).bfloat16()}
    models, values = states(trained, 2, frozen=frozen)
    for state in models:
        state["module"]["c.weight"] = torch.empty(0)
        state["shared_params"] = {"c.weight": "a.weight", "d.weight": "b.weight"}
    checkpoint, tensors, _ = read(save(tmp_path, models, values))
    assert {name: (row["dtype"], row["shape"], row["params"]) for name, row in tensors.items()} == {
        "a.weight": ("F32", [4, 3], 12),
        "b.weight": ("BF16", [5, 3], 15),
        "c.weight": ("F32", [4, 3], 0),
        "d.weight": ("BF16", [5, 3], 0),
        "rope.inv_freq": ("F32", [3], 0),
    }
    assert checkpoint["params"] == 27
    plain = tmp_path / "plain"
    plain.mkdir()
    torch.save({**trained, **frozen}, plain / "m_model_states.pt")
    rows = read(plain)[1]
    assert all(tensors[name]["content_hash"] == rows[name]["content_hash"] for name in rows)


def test_a_run_is_one_model_of_an_ingest_and_its_optimizer_files_belong_to_it(tmp_path):
    step = save(tmp_path / "run", *states(llama(), 2))
    report = lh.ingest([tmp_path / "run"], warehouse=tmp_path / "w")
    assert [(str(event.kind), event.where) for event in report.events if event.kind in ("taken", "failed")] == [
        ("taken", "run/global_step1")
    ]
    assert lh.ingest([tmp_path / "run"], warehouse=tmp_path / "w").count("taken") == 0
    models = sorted(step.glob("*model_states.pt"))
    before = fingerprint_of(weight_files_of(models))
    for path in (step / VALUES.format(1), tmp_path / "run/config.json"):
        path.write_bytes(path.read_bytes() + b" ")
        after = fingerprint_of(weight_files_of(models))
        assert after != before
        before = after


def broken(change: str) -> tuple[list[State], list[State]]:
    """The states of two ranks with one thing wrong."""
    models, values = states({"a.weight": torch.randn(4, 3), "b.weight": torch.randn(5)}, 2)
    flat = [state["optimizer_state_dict"] for state in values]
    match change:
        case "a rank less":
            models.pop()
        case "a rank's values less":
            values.pop()
        case "another world":
            models[0]["dp_world_size"] = models[1]["dp_world_size"] = 1
        case "no world":
            models[0]["dp_world_size"] = "2"
        case "huge world":
            models[0]["dp_world_size"] = 10**30
        case "other shapes":
            models[1]["param_shapes"] = [{"a.weight": torch.Size((3, 4))}]
        case "too few values":
            flat[0]["fp32_flat_groups"] = flat[1]["fp32_flat_groups"] = [torch.ones(8)]
        case "values of another rank":
            flat[1]["fp32_flat_groups"] = [torch.ones(8)]
        case "values of another type":
            flat[0]["fp32_flat_groups"] = [flat[0]["fp32_flat_groups"][0].half()]
        case "no values":
            flat[0]["fp32_flat_groups"] = []
        case "a shape of text":
            models[0]["param_shapes"] = [{"a.weight": "4x3"}]
        case "a negative shape":
            models[0]["param_shapes"] = [{"a.weight": (-4, -3)}]
        case "a huge shape":
            models[0]["param_shapes"] = [{"a.weight": (2**40, 2**40)}]
        case "a weight twice":
            models[0]["param_shapes"] = [{"a.weight": torch.Size((2,))}] * 2
        case "no shapes":
            del models[0]["param_shapes"]
        case "a weight without a shape":
            for state in models:
                state["module"]["c.weight"] = torch.empty(0)
        case "a part less of a frozen weight":
            models[0]["frozen_param_shapes"] = {"f": torch.Size((4,))}
        case "a longer part of a frozen weight":
            for state in models:
                state |= {"frozen_param_shapes": {"f": torch.Size((4,))}, "frozen_param_fragments": {"f": torch.ones(3)}}
        case "shared with no weight":
            models[0]["shared_params"] = {"a.weight": "z"}
            models[0]["module"]["c.weight"] = torch.empty(0)
        case "a list of states":
            models[0] = [models[0]]
    return models, values


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("a rank less", r"rank 1 of a ZeRO-3 run of 2 ranks is missing: zero_pp_rank_1_mp_rank_00_model_states\.pt; fetch it"),
        ("a rank's values less", r"rank 1 of .* is missing: \*zero_pp_rank_1_mp_rank_00_optim_states\.pt; fetch it"),
        ("another world", r"2 ranks of a ZeRO-3 run that says it has 1: zero_pp_rank_1_.* is not of it"),
        ("no world", "no dp_world_size in it"),
        ("huge world", "rank 2 of a ZeRO-3 run of 10+ ranks is missing"),
        ("other shapes", "other weights or ranks than in zero_pp_rank_0"),
        ("too few values", "the weights take 9 values of each rank, which has 8"),
        ("values of another rank", "other numbers of values than in the first rank"),
        ("values of another type", "are not flat tensors of float32"),
        ("no values", "no fp32_flat_groups in it"),
        ("a shape of text", "no shape of tensor 'a.weight'"),
        ("a negative shape", "no shape of tensor 'a.weight'"),
        ("a huge shape", "no shape of tensor 'a.weight'"),
        ("a weight twice", "param_shapes names a weight twice"),
        ("no shapes", "no param_shapes in it"),
        ("a weight without a shape", "no shape of tensor 'c.weight'"),
        ("a part less of a frozen weight", "no part of the frozen weight 'f' in it"),
        ("a longer part of a frozen weight", "the parts of the frozen weight 'f' are not 2 values of one type each"),
        ("shared with no weight", "no shape of tensor 'c.weight'"),
        ("a list of states", "no dict of states in it"),
    ],
)
def test_a_run_that_is_not_whole_is_refused_by_what_is_missing(tmp_path, change, what):
    with pytest.raises(InputError, match=what) as caught:
        read(save(tmp_path, *broken(change)))
    assert "\n" not in str(caught.value)


def test_tensor_parallel_ranks_and_other_weights_beside_a_run_are_refused(tmp_path):
    step = save(tmp_path, *states({"a.weight": torch.randn(4, 3)}, 2))
    (step / MODEL.format(1).replace("mp_rank_00", "mp_rank_01")).write_bytes((step / MODEL.format(1)).read_bytes())
    with pytest.raises(InputError, match=r"2 parts of one model .*; merge them first"):
        read(step)
    (step / MODEL.format(1).replace("mp_rank_00", "mp_rank_01")).unlink()
    torch.save({"w": torch.ones(2)}, step / "layer_0_expert_0_mp_rank_00_model_states.pt")
    with pytest.raises(InputError, match="3 weight files without an index"):
        read(step)


def test_a_whole_model_beside_the_ranks_is_taken(tmp_path):
    step = save(tmp_path, *states({"a.weight": torch.randn(4, 3)}, 2))
    torch.save({"a.weight": torch.ones(4, 3)}, step / "pytorch_model.bin")
    checkpoint, _, _ = rows_of(step, "*[ln].[bp]*")
    assert checkpoint["params"] == 12


@pytest.mark.parametrize("name", [MODEL.format(0), "renamed.pt"])
def test_a_rank_alone_is_no_model(tmp_path, name):
    step = save(tmp_path / "run", *states({"a.weight": torch.randn(4, 3)}, 2))
    path = tmp_path / "one" / name
    path.parent.mkdir()
    path.write_bytes((step / MODEL.format(0)).read_bytes())
    for root in (path, path.parent):
        report = lh.ingest([root], warehouse=tmp_path / f"w{root.name}")
        ((kind, what),) = [(str(event.kind), event.what) for event in report.events if event.kind in ("taken", "failed")]
        assert (kind, "ZeRO-3 run" in what) == ("failed", True)


@pytest.mark.skipif(not FORMATS.is_dir(), reason=f"no checkpoints in {FORMATS}, which is not part of the project")
def test_every_weight_of_a_run_of_deepspeed_has_its_zeros():
    expected = json.loads((FORMATS / "deepspeed-zero3/expected.json").read_text())
    checkpoint, tensors, layers = read(FORMATS / "deepspeed-zero3/global_step1")
    assert checkpoint["params"] == expected["params"]
    assert {name: tensors[name]["zeros"] for name in expected["zeros_by_weight"]} == expected["zeros_by_weight"]
    assert (layers[0]["num_heads"], layers[0]["head_dim"]) == (expected["num_heads"], expected["head_dim"])
