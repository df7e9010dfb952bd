"""A prefix of every tensor name is no part of a name; names that fit a family keep their own."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import layerhouse as lh
from layerhouse.ingest.model.layer_rows import layer_rows
from layerhouse.ingest.model.parameters import count_parameters
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.tests.family_models import MODELS
from layerhouse.tests.tiny_models import (
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KV_HEADS,
    VOCAB,
    Width,
    build,
    llama_shapes,
    shape_refs,
    state_refs,
)

LLAMA = {"model_type": "llama", "num_attention_heads": HEADS, "hidden_size": HIDDEN, "tie_word_embeddings": False}
SHAPES = llama_shapes({0: Width(), 1: Width()})


def prefixed(prefix, shapes=SHAPES):
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "prefix",
    ["policy.", "student.", "actor.", "_forward_module.", "pretrained_model.", "net.", "model.", "a.b.c.", "policy.module."],
)
@pytest.mark.parametrize("config", [LLAMA, None, {"model_type": "unheard_of"}])
def test_a_prefix_of_the_whole_model_is_no_part_of_a_name(prefix, config):
    placement = place_tensors(shape_refs(prefixed(prefix)), config)
    bare = place_tensors(shape_refs(SHAPES), config)
    assert (placement.family, placement.unplaced, placement.notes) == ("llama", (), ())
    assert [tensor.canonical_name for tensor in placement.placed] == [tensor.canonical_name for tensor in bare.placed]
    assert [tensor.ref.name for tensor in placement.placed] == list(prefixed(prefix))
    assert count_parameters(placement, LLAMA).params == count_parameters(bare, LLAMA).params
    (row, _), _ = layer_rows(placement, LLAMA)
    assert (row["num_heads"], row["num_kv_heads"], row["hidden_size"], row["intermediate_size"]) == (
        HEADS,
        KV_HEADS,
        HIDDEN,
        INTERMEDIATE,
    )


@pytest.mark.parametrize("name", ["gpt2", "bert", "falcon", "gpt_neox", "t5", "mixtral", "qwen3_vl"])
def test_a_model_of_any_family_is_placed_under_a_prefix_as_without(name):
    refs = state_refs((model := build(MODELS[name][0])).state_dict())
    bare = place_tensors(refs, None)
    placement = place_tensors(state_refs({f"policy.{key}": value for key, value in model.state_dict().items()}), None)
    assert (placement.family, placement.unplaced) == (bare.family, ())
    assert Counter(tensor.canonical_name for tensor in placement.placed) == Counter(t.canonical_name for t in bare.placed)


def test_a_prefix_that_belongs_to_the_names_is_kept():
    """GPT-2 without head: every name begins with `transformer.`, and places are those of the model with a head."""
    model = build(MODELS["gpt2"][0])
    body = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("transformer.")}
    placement = place_tensors(state_refs(body), {"model_type": "gpt2"})
    assert (placement.family, placement.unplaced) == ("gpt2", ())


@pytest.mark.parametrize(
    "beside",
    [
        {"loss.weight": (4,)},
        {"v_head.summary.weight": (1, HIDDEN), "v_head.summary.bias": (1,)},
        {"score.0.weight": (HIDDEN, HIDDEN), "score.2.weight": (1, HIDDEN)},
    ],
)
def test_few_tensors_beside_the_model_lack_the_prefix(beside):
    placement = place_tensors(shape_refs(prefixed("model.") | beside), LLAMA)
    assert placement.family == "llama"
    assert [tensor.ref.name for tensor in placement.unplaced] == list(beside)
    assert [note["code"] for note in placement.notes] == ["unplaced"]


@pytest.mark.parametrize("config", [LLAMA, None])
def test_of_two_models_in_one_file_none_passes_for_the_whole(config):
    """Distillation: student and teacher. Both are counted, and no layer is measured as that of one model."""
    shapes = prefixed("student.", llama_shapes({0: Width()})) | prefixed("teacher.")
    placement = place_tensors(shape_refs(shapes), config)
    assert placement.family is None
    larger = prefixed("teacher.", llama_shapes(dict.fromkeys(range(20), Width())))
    placement = place_tensors(shape_refs(prefixed("student.", llama_shapes({0: Width()})) | larger), config)
    assert placement.family is None


@pytest.mark.parametrize("name", ["vision.layers.{}.fc.weight", "vision.parts.{}.fc.weight"])
def test_a_part_with_layers_of_its_own_is_not_left_aside(name):
    layers = 2 if "layers" in name else 9
    shapes = prefixed("text.", llama_shapes(dict.fromkeys(range(20), Width())))
    shapes |= {name.format(number): (8, 8) for number in range(layers)}
    assert place_tensors(shape_refs(shapes), None).family is None


def test_the_own_prefix_of_an_unknown_architecture_is_kept_where_its_head_lacks_it():
    body = prefixed("novel.", llama_shapes({0: Width(), 1: Width()}, head=False))
    shapes = {name.replace(".model.", "."): shape for name, shape in body.items()} | {"novel_head.weight": (4, HIDDEN)}
    assert place_tensors(shape_refs(shapes), {"model_type": "novel"}).family is None


def test_a_lightning_checkpoint_has_the_sizes_of_its_model(tmp_path):
    model = build(MODELS["llama"][0])
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    (tmp_path / "run").mkdir()
    torch.save({"state_dict": state, "epoch": 0, "optimizer_states": []}, tmp_path / "run/epoch=0-step=1.ckpt")
    lh.ingest([tmp_path / "run"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        rows = wh.layers().to_dicts()
        names = wh.sql("SELECT name FROM tensors WHERE name LIKE 'model.model.layers.0.self_attn.q_proj.weight'")
    assert [(row["hidden_size"], row["intermediate_size"], row["num_heads"]) for row in rows] == [
        (HIDDEN, INTERMEDIATE, None)
    ] * 4
    assert names.height == 1


def test_the_config_of_a_deepspeed_run_lies_above_its_steps(tmp_path):
    model = build(MODELS["llama"][0])
    step = tmp_path / "run/global_step1"
    step.mkdir(parents=True)
    model.config.save_pretrained(tmp_path / "run")
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"module": state}, step / "mp_rank_00_model_states.pt")
    lh.ingest([tmp_path / "run"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        heads = [(row["num_heads"], row["num_kv_heads"], row["head_dim"]) for row in wh.layers().to_dicts()]
    assert heads == [(HEADS, KV_HEADS, 16)] * 4
    config = (tmp_path / "run/config.json").read_text()
    (tmp_path / "run/config.json").write_text(config.replace('"head_dim": 16', '"head_dim": 32'))
    report = lh.ingest([tmp_path / "run"], warehouse=tmp_path / "w")
    assert report.count("taken") == 1


def test_the_model_of_a_composer_checkpoint_is_taken_and_its_optimizer_is_not(tmp_path):
    model = build(MODELS["llama"][0])
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    moments = {"state": {0: {"exp_avg": torch.zeros(VOCAB, HIDDEN), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
    document = {"state": {"model": state, "optimizers": {"Adam": moments}, "callbacks": {}}, "rng": [{"torch": torch.zeros(8)}]}
    (tmp_path / "run").mkdir()
    torch.save(document, tmp_path / "run/ep0-ba1-rank0.pt")
    lh.ingest([tmp_path / "run"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        row = wh.sql("SELECT family, params, num_layers FROM current_checkpoints").row(0)
    assert row == ("llama", sum(parameter.numel() for parameter in model.parameters()), 4)
