"""A family, a head and a number of heads only on enough evidence; null otherwise."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.ingest.model.family_files import load_families
from layerhouse.ingest.model.layer_rows import layer_rows
from layerhouse.ingest.model.parameters import count_parameters
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.tests.family_models import MODELS
from layerhouse.tests.tiny_models import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    VOCAB,
    Width,
    build,
    llama_shapes,
    save,
    shape_refs,
    state_refs,
)

LLAMA = {
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": HEAD_DIM,
    "hidden_size": HIDDEN,
}
CHECKPOINT = "SELECT family, params, lm_head_params, embedding_params, tied_embeddings, macs_per_token FROM current_checkpoints"


def checkpoint(tmp_path, folder):
    lh.ingest([folder], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        (row,) = wh.sql(CHECKPOINT).to_dicts()
    return row


@pytest.mark.parametrize("name", ["embedding.weight", "model.embed_tokens.weight", "tok_embeddings.weight", "shared.weight"])
def test_one_embedding_alone_is_of_no_family(tmp_path, name):
    (tmp_path / "model").mkdir()
    save_file({name: torch.randn(10, 8).half()}, tmp_path / "model/model.safetensors")
    row = checkpoint(tmp_path, tmp_path / "model")
    assert row == {"params": 80, **dict.fromkeys(row.keys() - {"params"})}
    assert not [family.name for family in load_families() if place_tensors(shape_refs({name: (10, 8)}), None).family]


def test_names_without_blocks_tell_a_family_by_three_of_them():
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    assert place_tensors(shape_refs(shapes), None).family is None
    assert place_tensors(shape_refs(shapes), {"model_type": "llama"}).family == "llama"
    assert place_tensors(shape_refs(shapes | {"lm_head.weight": (VOCAB, HIDDEN)}), None).family == "llama"


@pytest.mark.parametrize(("extra", "family"), [(1, "llama"), (4, "llama"), (5, None), (40, None)])
def test_an_architecture_that_no_family_declares_fits_by_two_thirds_of_its_names(extra, family):
    shapes = llama_shapes({0: Width()}) | {f"model.layers.0.novel.part{part}.x": (4,) for part in range(extra + 1)}
    assert place_tensors(shape_refs(shapes), {"model_type": "novel"}).family == family
    assert place_tensors(shape_refs(shapes), {"model_type": "llama"}).family == "llama"


def test_a_vision_tower_never_passes_for_a_model_whose_text_is_unknown():
    refs, config = shape_refs({}), {"model_type": "llava", "text_config": {"model_type": "novel"}, "vision_config": {}}
    model = build(MODELS["llava"][0])
    state = {
        name.replace("layers.", "units.") if "language_model" in name else name: tensor
        for name, tensor in model.state_dict().items()
    }
    refs = state_refs(state)
    assert place_tensors(refs, config).family is None
    assert place_tensors(state_refs(model.state_dict()), config).family == "llava"


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("has_root", [True, False])
def test_no_head_is_invented_for_a_bare_bert(tmp_path, number, has_root):
    model = build(MODELS["bert"][number])
    refs, config = save(model.bert if number == 0 or not has_root else model, tmp_path / "bert")
    config.pop("architectures")
    (tmp_path / "bert/config.json").write_text(json.dumps(config))
    row = checkpoint(tmp_path, tmp_path / "bert")
    assert (row["family"], row["lm_head_params"], row["tied_embeddings"]) == ("bert", 0, None)
    assert count_parameters(place_tensors(refs, config), config).virtual is None


def test_no_head_is_invented_for_the_encoder_of_an_encoder_and_decoder():
    model = build(MODELS["t5"][0])
    refs = [ref for ref in state_refs(model.state_dict()) if not ref.name.startswith(("decoder.", "lm_head"))]
    totals = count_parameters(place_tensors(refs, {"model_type": "t5"}), {"model_type": "t5"})
    assert (totals.tied_embeddings, totals.lm_head_params, totals.virtual) == (None, 0, None)
    assert totals.params == sum(p.numel() for p in model.get_encoder().parameters())


@pytest.mark.parametrize("family", ["llama", "bert", "t5", "gpt2"])
def test_a_tied_head_that_a_file_leaves_out_is_known_without_architectures(tmp_path, family):
    tied = next(model for model in MODELS[family] if build(model).config.tie_word_embeddings)
    refs, config = save(build(tied), tmp_path / "model")
    config.pop("architectures")
    totals = count_parameters(place_tensors(refs, config), config)
    assert (totals.tied_embeddings, totals.virtual is not None) == (True, True)


def gated(rows, config=LLAMA):
    shapes = llama_shapes({0: Width()}) | {"model.layers.0.self_attn.q_proj.weight": (rows, HIDDEN)}
    (row,), notes = layer_rows(place_tensors(shape_refs(shapes), config), config)
    return row["num_heads"], [note["text"] for note in notes]


def test_twice_as_many_query_rows_are_no_heads():
    """An output gate has as many rows as the queries. A family that has one says so; of others the heads are not known."""
    heads, notes = gated(2 * HEADS * HEAD_DIM)
    assert heads is None
    assert notes == ["layer 0: q_proj has 128 rows, twice the 64 inputs of o_proj: with an output gate, or of more heads"]
    assert gated(HEADS * HEAD_DIM) == (HEADS, [])


def test_the_gate_of_a_family_with_gates_is_half_of_the_query_rows():
    config = {**LLAMA, "model_type": "qwen3_5_text"}
    assert gated(2 * HEADS * HEAD_DIM, config)[0] == HEADS
    heads, notes = gated(3 * HEAD_DIM, config)
    assert heads is None
    assert notes[0] == "layer 0: 48 query and gate rows are no multiple of 2 x head_dim 16"
    assert gated(40, config)[0] is None
    assert gated(HEADS * HEAD_DIM, config)[0] == HEADS


def adapter(folder, modules, layers, declared):
    """A LoRA adapter as PEFT writes it."""
    folder.mkdir(parents=True)
    parts = {"lora_A": (4, HIDDEN), "lora_B": (HIDDEN, 4)}
    names = [
        f"base_model.model.{module.format(layer)}.{part}.weight" for module in modules for layer in layers for part in parts
    ]
    save_file({name: torch.ones(parts[name.split(".")[-2]]) for name in names}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **declared}))
    return folder


LLAMA_TARGETS = ("model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.v_proj")
GPT2_TARGETS = ("transformer.h.{}.attn.c_attn",)


@pytest.mark.parametrize(
    ("targets", "base", "family"),
    [
        (LLAMA_TARGETS, "meta-llama/Llama-2-7b-hf", "llama"),
        (LLAMA_TARGETS, "meta-llama/Llama-3.2-1B-Instruct", "llama"),
        (LLAMA_TARGETS, "mistralai/Mistral-7B-v0.1", "mistral"),
        (LLAMA_TARGETS, "Qwen/Qwen2.5-7B-Instruct", "qwen2"),
        (LLAMA_TARGETS, "google/gemma-2-2b", "gemma2"),
        (LLAMA_TARGETS, "some-org/our-model", None),
        (LLAMA_TARGETS, "meta-llama/Llama-3.2-11B-Vision", None),
        (LLAMA_TARGETS, "Qwen/Qwen3-30B-A3B", None),
        (LLAMA_TARGETS, "gpt2", None),
        (LLAMA_TARGETS, None, None),
        (GPT2_TARGETS, "openai-community/gpt2-medium", "gpt2"),
        (GPT2_TARGETS, "gpt2", "gpt2"),
        (GPT2_TARGETS, "meta-llama/Llama-2-7b-hf", None),
        (GPT2_TARGETS, "ours", None),
    ],
)
def test_the_family_of_an_adapter_is_that_of_its_declared_base(tmp_path, targets, base, family):
    folder = adapter(tmp_path / "adapter", targets, range(4), {} if base is None else {"base_model_name_or_path": base})
    row = checkpoint(tmp_path, folder)
    assert (row["family"], row["lm_head_params"], row["macs_per_token"]) == (family, 0, None)
    assert row["params"] == len(targets) * 4 * 8 * HIDDEN
    with lh.open(tmp_path / "w") as wh:
        texts = [note["text"] for note in wh.sql("SELECT notes FROM current_checkpoints").item()]
    assert any("base is not known" in text for text in texts) is (family is None)


@pytest.mark.parametrize(("library", "family"), [("mistral", "mistral"), ("qwen3", "qwen3"), ("novel", None)])
def test_the_library_of_the_bases_class_tells_its_family(tmp_path, library, family):
    mapping = {"base_model_class": "X", "parent_library": f"transformers.models.{library}.modeling_{library}"}
    declared = {"auto_mapping": mapping, "base_model_name_or_path": "meta-llama/Llama-2-7b-hf"}
    assert checkpoint(tmp_path, adapter(tmp_path / "adapter", LLAMA_TARGETS, (0, 1), declared))["family"] == family


def test_layers_without_an_adapter_are_not_missing(tmp_path):
    declared = {"base_model_name_or_path": "meta-llama/Llama-2-7b-hf", "layers_to_transform": [1, 3]}
    lh.ingest([adapter(tmp_path / "adapter", LLAMA_TARGETS, (1, 3), declared)], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        notes = wh.sql("SELECT notes FROM current_checkpoints").item()
        rows = wh.layers().to_dicts()
    assert [note["code"] for note in notes] == []
    assert [(row["layer_index"], row["num_heads"], row["is_zero_layer"]) for row in rows] == [(1, None, None), (3, None, None)]
