"""Sub-layers that a config drops while their weights stay in the file (LLM-Drop): stored, not active, and no cost."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.ingest.model.inactive import inactive_tensors
from layerhouse.ingest.model.layer_rows import layer_rows
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.tests.tiny_models import HIDDEN, Width, llama_shapes, shape_refs

CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "intermediate_size": 160,
    "head_dim": 16,
    "tie_word_embeddings": False,
}
SHAPES = llama_shapes(dict.fromkeys(range(4), Width()))
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "input_layernorm")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "post_attention_layernorm")
ATTENTION_PARAMS, MLP_PARAMS = 2 * 64 * 64 + 2 * 32 * 64 + HIDDEN, 3 * 160 * 64 + HIDDEN


def names(layers, modules):
    return {f"model.layers.{layer}.{module}.weight" for layer in layers for module in modules}


def inactive(shapes, config):
    found, notes = inactive_tensors(place_tensors(shape_refs(shapes), config), config)
    return set(found), [(note["code"], note["text"]) for note in notes]


@pytest.mark.parametrize("layers", [[1, 3], [False, True, False, True]], ids=["numbers", "a boolean for each layer"])
def test_attention_that_the_config_drops_is_inactive_and_so_is_the_norm_before_it(layers):
    found, notes = inactive(SHAPES, {**CONFIG, "drop_attn_list": layers})
    assert found == names((1, 3), ATTENTION)
    text = f"drop_attn_list drops layers 1, 3, whose {2 * ATTENTION_PARAMS} parameters are stored and not used"
    assert notes == [("inactive", text)]


def test_an_mlp_that_the_config_drops_is_inactive_and_so_is_the_norm_before_it():
    found, notes = inactive(SHAPES, {**CONFIG, "drop_mlp_list": [2]})
    assert found == names((2,), MLP)
    assert notes == [("inactive", f"drop_mlp_list drops layer 2, whose {MLP_PARAMS} parameters are stored and not used")]


def test_both_lists_drop_each_its_own():
    found, notes = inactive(SHAPES, {**CONFIG, "drop_attn_list": [0], "drop_mlp_list": [0, 1]})
    assert found == names((0,), ATTENTION) | names((0, 1), MLP)
    assert [text.split(",")[0] for _, text in notes] == ["drop_attn_list drops layer 0", "drop_mlp_list drops layers 0"]


def test_experts_and_their_router_are_dropped_with_the_mlp():
    experts = {f"model.layers.0.block_sparse_moe.experts.{number}.w{part}.weight" for number in (0, 1) for part in (1, 2, 3)}
    router, attention = "model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.self_attn.q_proj.weight"
    shapes = {**dict.fromkeys(experts, (8, 8)), router: (2, 8), attention: (8, 8)}
    assert inactive(shapes, {"model_type": "mixtral", "drop_mlp_list": [0]})[0] == {*experts, router}


@pytest.mark.parametrize(
    "config",
    [
        None,
        CONFIG,
        {**CONFIG, "drop_attn_list": []},
        {**CONFIG, "drop_attn_list": [False] * 4},
        {**CONFIG, "drop_attn_list": "1"},
        {**CONFIG, "drop_attn_list": [4, -1, 0.5, "2", None]},
    ],
    ids=["no config", "no list", "empty", "no layer", "no list at all", "no layer number"],
)
def test_nothing_is_inactive_unless_a_list_names_a_layer(config):
    assert inactive(SHAPES, config) == (set(), [])


def test_lists_are_of_the_text_model_and_drop_nothing_of_a_vision_tower():
    tower = {f"vision_tower.vision_model.encoder.layers.1.self_attn.{role}_proj.weight": (32, 32) for role in "qkv"}
    text = {f"language_model.{name}": shape for name, shape in SHAPES.items()}
    config = {"model_type": "llava", "text_config": {**CONFIG, "drop_attn_list": [1]}, "vision_config": {}}
    placement = place_tensors(shape_refs({**text, **tower}), config)
    assert {tensor.stack for tensor in placement.placed if tensor.ref.name in tower} == {"vision"}
    found, _ = inactive_tensors(placement, config)
    assert found == {f"language_model.{name}" for name in names((1,), ATTENTION)}


def test_what_is_inactive_counts_as_parameters_and_costs_nothing():
    config = {**CONFIG, "drop_attn_list": [1], "drop_mlp_list": [2]}
    rows, notes = layer_rows(place_tensors(shape_refs(SHAPES), config), config)
    full = rows[0]
    assert [row["params"] for row in rows] == [full["params"]] * 4
    assert [row["macs_per_token"] for row in rows] == [
        full["macs_per_token"],
        full["mlp_params"],
        full["attention_params"],
        full["macs_per_token"],
    ]
    assert [row["kv_values_per_token"] for row in rows] == [64, 0, 64, 64]
    assert [row["inactive_part"] for row in rows] == [None, "attention", "mlp", None]
    assert len({row["logical_bytes"] for row in rows}) == 1
    assert [note["code"] for note in notes] == ["inactive", "inactive"]


def test_layers_that_differ_in_what_is_inactive_alone_have_rows_of_their_own():
    config = {**CONFIG, "drop_attn_list": [3]}
    rows, _ = layer_rows(place_tensors(shape_refs(SHAPES), config), config)
    assert len({row["macs_per_token"] for row in rows[:3]}) == 1
    assert rows[3]["macs_per_token"] < rows[0]["macs_per_token"]


def test_the_warehouse_has_inactive_tensors_and_says_so(tmp_path):
    folder = tmp_path / "models/dropped"
    folder.mkdir(parents=True)
    save_file({name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in SHAPES.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "drop_attn_list": [1], "drop_mlp_list": [3]}))
    lh.ingest(tmp_path / "models", warehouse=tmp_path / "w", threads=1)
    with lh.open(tmp_path / "w") as wh:
        found = {name for (name,) in wh.sql("SELECT name FROM tensors WHERE NOT is_active").rows()}
        status_note = wh.sql("SELECT status_note FROM models").item()
    assert found == names((1,), ATTENTION) | names((3,), MLP)
    assert f"drop_attn_list drops layer 1, whose {ATTENTION_PARAMS} parameters are stored and not used" in status_note
