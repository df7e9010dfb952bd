"""What became of each tensor of a base: from stored rows, and from the values of both sides if they can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import layerhouse as lh
from layerhouse.ingest.compare.match_tensors import relate_tensors
from layerhouse.tests.running import layerhouse as run_command
from layerhouse.tests.tiny_models import EXPLICIT, TinyModel, build

PROJECTION = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny Llama of four layers in bfloat16."""
    folder = tmp_path_factory.mktemp("zoo") / "base"
    build(TinyModel("llama", EXPLICIT)).to(torch.bfloat16).save_pretrained(folder)
    return folder


def derive(base: Path, folder: Path, change) -> Path:
    """A model made of the base's tensors by `change`, which gets them by name and changes them in place."""
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def halve(tensors):
    for name, tensor in tensors.items():
        if "_proj" in name:
            tensor[torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1)) < 0.5] = 0


def scale(tensors):
    tensors[PROJECTION] *= 1.5


def cast(tensors):
    for name in tensors:
        tensors[name] = tensors[name].to(torch.float16)


def cut(tensors):
    for part in ("gate_proj", "up_proj"):
        tensors[f"model.layers.1.mlp.{part}.weight"] = tensors[f"model.layers.1.mlp.{part}.weight"][:120]
    tensors["model.layers.1.mlp.down_proj.weight"] = tensors["model.layers.1.mlp.down_proj.weight"][:, :120]


def drop_block(tensors):
    for name in [name for name in tensors if name.startswith("model.layers.1.")]:
        del tensors[name]
    for index in (2, 3):
        for name in [name for name in tensors if name.startswith(f"model.layers.{index}.")]:
            tensors[name.replace(f".{index}.", f".{index - 1}.", 1)] = tensors.pop(name)


def add_bias(tensors):
    tensors["model.layers.0.self_attn.o_proj.bias"] = torch.ones(64, dtype=torch.bfloat16)


CHANGES = {"halved": halve, "scaled": scale, "cast": cast, "cut": cut, "dropped": drop_block, "biased": add_bias, "same": len}


@pytest.fixture(scope="module")
def zoo(base) -> Path:
    for name, change in CHANGES.items():
        derive(base, base.parent / name, change)
    return base.parent


@pytest.fixture(scope="module")
def wh(zoo, tmp_path_factory):
    warehouse = tmp_path_factory.mktemp("wh") / "wh"
    report = lh.ingest([zoo], base=zoo / "base", warehouse=warehouse)
    assert report.count("failed") == 0
    return lh.open(warehouse)


def verdicts(wh) -> dict[str, tuple]:
    return {row[0].rpartition("/")[2]: row[1:] for row in wh.query("changes").rows()}


def test_each_change_has_its_verdict(wh, zoo):
    base, child = (load_file(zoo / name / "model.safetensors") for name in ("base", "halved"))
    halved = sum(int((base[name] != child[name]).sum()) for name in base)
    changes = {name: row[1] for name, row in verdicts(wh).items()}
    assert changes == {
        "halved": f"masked: {halved:,} values set to zero in 28 tensors",
        "scaled": "tuned: other values in 1 tensor",
        "cast": "cast to another type, values within rounding",
        "cut": "sliced: 3 tensors",
        "dropped": "block removed: 1",
        "biased": "added: 1 tensor, 64 parameters",
        "same": "identical to the base",
    }


def test_relations_are_those_of_the_tensors(wh, zoo):
    frame = wh.sql("SELECT c.model_id, t.* FROM tensor_matches AS t JOIN current_checkpoints AS c USING (checkpoint_id)")
    named = [(row["model_id"].rpartition("/")[2], row) for row in frame.to_dicts()]
    rows = {(model, row["name"]): row for model, row in named if row["name"]}
    original = load_file(zoo / "base" / "model.safetensors")[PROJECTION].double()
    masked = rows["halved", PROJECTION]
    child = load_file(zoo / "halved" / "model.safetensors")[PROJECTION].double()
    assert (masked["relation"], masked["changed"]) == ("masked", int((child != original).sum()))
    assert masked["relative_difference"] == pytest.approx(float((child - original).norm() / original.norm()), rel=1e-9)
    assert masked["cosine"] == pytest.approx(float((child * original).sum() / child.norm() / original.norm()), rel=1e-9)
    assert rows["halved", "model.norm.weight"]["relation"] == "identical"
    assert rows["scaled", PROJECTION]["relation"] == "changed"
    assert rows["cut", PROJECTION] | {"commit_id": 0, "ingested_at": 0} == rows["cut", PROJECTION] | {
        "relation": "sliced",
        "changed": None,
        "cosine": None,
        "commit_id": 0,
        "ingested_at": 0,
    }
    assert rows["dropped", "model.layers.1.mlp.up_proj.weight"]["base_name"] == "model.layers.2.mlp.up_proj.weight"
    gone = [row for model, row in named if model == "dropped" and row["relation"] == "removed"]
    assert [row["name"] for row in gone] == [None] * 9
    assert {row["base_name"].split(".")[2] for row in gone} == {"1"}
    assert rows["biased", "model.layers.0.self_attn.o_proj.bias"]["relation"] == "added"


def test_an_unchanged_copy_is_reported_as_the_base(wh):
    notes = dict(wh.sql("SELECT model_id, status_note FROM models").rows())
    names = {name.rpartition("/")[2]: text for name, text in notes.items()}
    assert names["same"].endswith("/base")
    assert "identical to" in names["same"]
    assert "cast to another type, values within rounding" in names["cast"]


def test_with_rows_alone_relations_that_need_values_are_null(zoo, tmp_path):
    """Compared by rows, no file is read; values can be added later."""
    lh.ingest([zoo / "halved", zoo / "cut", zoo / "base"], warehouse=tmp_path / "wh", base="none")
    lh.ingest([zoo / "halved", zoo / "cut"], base=zoo / "base", warehouse=tmp_path / "wh", compare="rows")
    changes = verdicts(lh.open(tmp_path / "wh"))
    assert changes["halved"][1] == "unknown: 28 tensors (values not compared)"
    assert changes["cut"][1] == "sliced: 3 tensors"
    lh.ingest([zoo / "halved", zoo / "cut"], base=zoo / "base", warehouse=tmp_path / "wh", compare="values")
    wh = lh.open(tmp_path / "wh")
    assert verdicts(wh)["halved"][1].startswith("masked: ")
    commits = wh.sql("SELECT count(DISTINCT commit_id) FROM tensor_matches").item()
    lh.ingest([zoo / "halved", zoo / "cut"], base=zoo / "base", warehouse=tmp_path / "wh", compare="values")
    assert lh.open(tmp_path / "wh").sql("SELECT count(DISTINCT commit_id) FROM tensor_matches").item() == commits
    assert wh.scan("tensor_matches").collect().height == wh.sql("SELECT * FROM tensor_matches").height


def test_a_base_that_is_named_after_the_fact_is_compared_by_values_while_the_files_are_there(zoo, tmp_path):
    lh.ingest([zoo / "halved", zoo / "cut", zoo / "base"], warehouse=tmp_path / "wh")
    report = lh.ingest([zoo / "halved", zoo / "cut"], base=f"{zoo.name}/base", warehouse=tmp_path / "wh")
    assert {event.kind for event in report.events} == {"unchanged"}
    assert verdicts(lh.open(tmp_path / "wh"))["halved"][1].startswith("masked: ")


def test_without_the_bases_files_relations_that_need_values_are_null_and_a_line_says_so(zoo, tmp_path):
    for name in ("base", "halved"):
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            (tmp_path / "zoo" / name / file).write_bytes((zoo / name / file).read_bytes())
    lh.ingest([tmp_path / "zoo/base"], warehouse=tmp_path / "wh")
    (tmp_path / "zoo/base/model.safetensors").unlink()
    report = lh.ingest([tmp_path / "zoo/halved"], base="zoo/base", warehouse=tmp_path / "wh")
    assert any("28 tensors differ from the base's is not known: the files of zoo/base" in event.what for event in report.events)
    assert verdicts(lh.open(tmp_path / "wh"))["halved"][1] == "unknown: 28 tensors (values not compared)"


def test_an_expert_that_was_renumbered_is_found_by_its_content(tmp_path):
    folder = tmp_path / "base"
    build(TinyModel("mixtral", {**EXPLICIT, "num_local_experts": 4})).save_pretrained(folder)

    def drop_expert(tensors):
        for name in [name for name in tensors if ".experts.1." in name]:
            del tensors[name]
        for index in (2, 3):
            for name in [name for name in tensors if f".experts.{index}." in name]:
                tensors[name.replace(f".experts.{index}.", f".experts.{index - 1}.")] = tensors.pop(name)
        for name in [name for name in tensors if name.endswith("block_sparse_moe.gate.weight")]:
            tensors[name] = tensors[name][[0, 2, 3]]

    derive(folder, tmp_path / "pruned", drop_expert)
    lh.ingest([tmp_path / "pruned"], base=folder, warehouse=tmp_path / "wh")
    frame = lh.open(tmp_path / "wh").sql("SELECT name, base_name, relation FROM tensor_matches WHERE relation = 'identical'")
    pairs = {(name, other) for name, other, _ in frame.rows() if ".experts." in name}
    experts = "model.layers.0.block_sparse_moe.experts"
    assert (f"{experts}.1.w1.weight", f"{experts}.2.w1.weight") in pairs
    gone = lh.open(tmp_path / "wh").sql("SELECT base_name FROM tensor_matches WHERE relation = 'removed'")
    assert len(gone) == 4 * 3
    assert all(".experts.1." in name for (name,) in gone.rows())


def test_an_adapter_is_not_compared(tmp_path, base):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base"}))
    part = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({part: torch.ones(4, 64)}, folder / "adapter_model.safetensors")
    report = lh.ingest([folder], base=base, warehouse=tmp_path / "wh")
    assert any("an adapter adds to a base" in event.what for event in report.events)
    assert lh.open(tmp_path / "wh").sql("SELECT reduction_ratio FROM models WHERE model_id LIKE '%adapter'").item() is None


def test_the_command_takes_how_to_compare(tmp_path, zoo):
    done = run_command(
        "ingest", str(zoo / "cast"), "--base", str(zoo / "base"), "--compare", "rows", "-w", str(tmp_path / "wh")
    )
    assert done.returncode == 0, done.stderr
    assert verdicts(lh.open(tmp_path / "wh"))["cast"][1] == "unknown: 39 tensors (values not compared)"
    done = run_command("ingest", zoo / "cast", "--compare", "all", "-w", tmp_path / "wh")
    assert done.returncode == 2


# Rows alone


def stored_row(layer, content, module="mlp", role="up_proj"):
    name = f"text.{layer}.{module}.{role}.weight"
    return {
        "name": name,
        "canonical_name": name,
        "stack": "text",
        "module": module,
        "role": role,
        "part": "weight",
        "layer_index": layer,
        "expert_index": None,
        "dtype": "BF16",
        "shape": [8, 8],
        "weight_shape": None,
        "is_parameter": True,
        "content_hash": content,
    }


def layer_match(layer, base_layer, match):
    return {"stack": "text", "layer_index": layer, "base_layer_index": base_layer, "match": match}


def relations(tensors, matches, base_layers=3):
    """(layer, block of the base) -> relation."""
    base = [stored_row(layer, f"base {layer}") for layer in range(base_layers)]
    layers = {row["name"]: row["layer_index"] for row in (*tensors, *base)}
    related = relate_tensors(tensors, base, matches)
    rows = [entry.as_row() for entry in related]
    return {(layers.get(row["name"]), layers.get(row["base_name"])): row["relation"] for row in rows}


@pytest.mark.parametrize(("match", "relation"), [("exact", "removed"), ("similar", "removed"), ("none", None)])
def test_a_block_is_removed_only_if_it_is_known_that_no_layer_is_it(match, relation):
    tensors = [stored_row(0, "base 0"), stored_row(1, "base 2")]
    matches = [layer_match(0, 0, "exact"), layer_match(1, 2, "exact"), layer_match(None, 1, match)]
    assert relations(tensors, matches) == {(0, 0): "identical", (1, 2): "identical", (None, 1): relation}


def test_while_it_is_open_which_block_a_layer_is_nothing_is_added_or_removed():
    tensors = [stored_row(0, "base 0"), stored_row(1, "unlike any"), stored_row(1, "q", "rotation", "mlp_shortcut")]
    matches = [layer_match(0, 0, "exact"), layer_match(1, None, "none"), *(layer_match(None, at, "none") for at in (1, 2))]
    related = relations(tensors[:2], matches)
    assert related == {(0, 0): "identical", (1, None): None, (None, 1): None, (None, 2): None}
    assert relations(tensors[2:], matches)[1, None] == "added"


def test_a_tensor_of_a_known_layer_that_its_block_lacks_is_added():
    matches = [layer_match(0, 2, "similar"), *(layer_match(None, at, "similar") for at in (0, 1))]
    related = relations([stored_row(0, "x", role="down_proj")], matches)
    assert related == {(0, None): "added", **{(None, at): "removed" for at in range(3)}}
