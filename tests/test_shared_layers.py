"""Layers that share their tensors by name, and models of which some layers have experts and others have none."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file, save_model

import layerhouse as lh
from layerhouse.tests.tiny_models import GROUPED, TinyModel, build

QWEN2_MOE = {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "mlp_only_layers": [0]}


def answer(folder, sql: str) -> list[tuple]:
    wh = lh.open(folder)
    return wh.connection_for(sql).sql(sql).fetchall()


def test_layers_that_share_their_tensors_are_all_there_and_counted_once(tmp_path):
    """safetensors writes the names that it leaves out into the metadata."""
    model = build(TinyModel("llama", GROUPED))
    model.model.layers[1], model.model.layers[3] = model.model.layers[0], model.model.layers[2]
    (tmp_path / "shared").mkdir()
    save_model(model, str(tmp_path / "shared" / "model.safetensors"))
    (tmp_path / "shared" / "config.json").write_text(json.dumps(model.config.to_dict()), "utf-8")
    lh.ingest([tmp_path / "shared"], warehouse=tmp_path / "wh")
    params = sum(parameter.numel() for parameter in model.parameters())
    layer = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    found = answer(tmp_path / "wh", "SELECT num_layers, params, layer_params FROM models")
    assert found == [(4, params, 2 * layer)]
    assert answer(tmp_path / "wh", "SELECT layer_index, params FROM layers ORDER BY ALL") == [(at, layer) for at in range(4)]
    [(note,)] = answer(tmp_path / "wh", "SELECT status_note FROM models")
    assert "missing" not in note


@pytest.mark.parametrize("metadata", [{"format": "lm_head.weight"}, {"a": "pt", "b": "lm_head.weight.x"}])
def test_other_metadata_names_no_tensor(metadata, tmp_path):
    model = build(TinyModel("llama", GROUPED))
    (tmp_path / "m").mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "m" / "model.safetensors", metadata=metadata)
    lh.ingest([tmp_path / "m"], warehouse=tmp_path / "wh")
    assert answer(tmp_path / "wh", "SELECT count(*) FROM tensors") == [(len(state),)]


def test_dense_layers_of_a_model_with_experts_are_named_and_the_others_counted(tmp_path):
    build(TinyModel("qwen2_moe", QWEN2_MOE)).save_pretrained(tmp_path / "zoo" / "mixed")
    build(TinyModel("llama", GROUPED)).save_pretrained(tmp_path / "zoo" / "dense")
    lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "wh")
    table = lh.open(tmp_path / "wh").query("structure")
    columns = ("model_id", "num_experts", "num_experts_min", "num_experts_max", "dense_layers")
    assert table.select(columns).rows() == [("zoo/dense", None, None, None, None), ("zoo/mixed", 4, 4, 4, [0])]


def test_gaps_in_the_numbers_of_experts_are_named(tmp_path):
    build(TinyModel("mixtral", {**GROUPED, "num_local_experts": 6})).save_pretrained(tmp_path / "full")
    state = load_file(tmp_path / "full" / "model.safetensors")
    (tmp_path / "cut").mkdir()
    kept = {name: tensor for name, tensor in state.items() if not any(f".experts.{at}." in name for at in (1, 3, 4))}
    save_file(kept, tmp_path / "cut" / "model.safetensors")
    (tmp_path / "cut" / "config.json").write_bytes((tmp_path / "full" / "config.json").read_bytes())
    lh.ingest([tmp_path / "cut"], warehouse=tmp_path / "wh")
    [(experts, note)] = answer(tmp_path / "wh", "SELECT min(num_experts), any_value(status_note) FROM layers, models")
    assert experts == 3
    assert "layers 0 to 3: 3 experts up to number 5, without 1 3 4" in note
