"""Placing tensors by their names, with and without wrappers and families; ties; parameter totals."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerhouse.ingest.model import placement as placing
from layerhouse.ingest.model.family_files import load_families
from layerhouse.ingest.model.layer_rows import layer_rows
from layerhouse.ingest.model.parameters import count_parameters
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.ingest.model.places import strip_wrappers
from layerhouse.tests.tiny_models import (
    HIDDEN,
    VOCAB,
    Width,
    llama_shapes,
    shape_refs,
)

STUDY = Path(__file__).parents[2] / "shared/data/llama3-8b/results/HGSP_2000/analysis"
TIED, UNTIED = ({"model_type": "llama", "tie_word_embeddings": tied} for tied in (True, False))
TABLE = VOCAB * HIDDEN
LLAMA3 = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}


def place(shapes, config=None):
    return place_tensors(shape_refs(shapes), config)


def placed_by_name(shapes, config=None):
    return {tensor.ref.name: tensor for tensor in place(shapes, config).placed}


@pytest.mark.parametrize(
    ("name", "stripped"),
    [
        ("module.model.norm.weight", "model.norm.weight"),
        ("_orig_mod.model.norm.weight", "model.norm.weight"),
        ("module._orig_mod.module.model.norm.weight", "model.norm.weight"),
        ("base_model.model.model.norm.weight", "model.norm.weight"),
        ("base_model.model.lm_head.weight", "lm_head.weight"),
        ("model.layers.0._orig_mod.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module.x", "model.layers.0.x"),
        ("model.layers.0._checkpoint_wrapped_module.x", "model.layers.0.x"),
        ("model.module.x", "model.module.x"),
        ("submodule.x", "submodule.x"),
        ("not_orig_mod.x", "not_orig_mod.x"),
        ("", ""),
    ],
)
def test_wrappers_are_no_part_of_a_name(name, stripped):
    assert strip_wrappers(name) == stripped


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_a_wrapped_checkpoint_is_placed_as_the_bare_one(wrapper):
    shapes = llama_shapes({0: Width(), 1: Width()})
    placement = place({f"{wrapper}{name}": shape for name, shape in shapes.items()})
    bare = place(shapes)
    assert (placement.family, placement.unplaced, placement.notes) == ("llama", (), ())
    assert [tensor.canonical_name for tensor in placement.placed] == [tensor.canonical_name for tensor in bare.placed]
    assert [tensor.ref.name for tensor in placement.placed] == [f"{wrapper}{name}" for name in shapes]


def test_canonical_names_have_stack_layer_module_role_and_part():
    placed = placed_by_name(
        {
            **llama_shapes({7: Width()}),
            "model.layers.7.self_attn.q_proj.bias": (64,),
            "model.layers.7.self_attn.rotary_emb.inv_freq": (8,),
            "model.layers.7.self_attn.strange": (3,),
            "vision_tower.encoder.layers.2.fc1.weight": (8, 8),
        }
    )
    assert {name: tensor.canonical_name for name, tensor in placed.items() if "proj" in name and "mlp" not in name} == {
        "model.layers.7.self_attn.q_proj.weight": "text.7.attention.q_proj.weight",
        "model.layers.7.self_attn.q_proj.bias": "text.7.attention.q_proj.bias",
        "model.layers.7.self_attn.k_proj.weight": "text.7.attention.k_proj.weight",
        "model.layers.7.self_attn.v_proj.weight": "text.7.attention.v_proj.weight",
        "model.layers.7.self_attn.o_proj.weight": "text.7.attention.o_proj.weight",
    }
    assert placed["model.embed_tokens.weight"].canonical_name == "text.embedding.embed_tokens.weight"
    assert placed["model.layers.7.self_attn.rotary_emb.inv_freq"].canonical_name == "text.7.buffer.inv_freq"
    assert placed["model.layers.7.self_attn.strange"].canonical_name == "text.7.other.self_attn.strange"
    assert placed["vision_tower.encoder.layers.2.fc1.weight"].canonical_name == "other.vision_tower.encoder.layers.2.fc1.weight"


def test_experts_have_their_number():
    names = [
        f"model.layers.3.block_sparse_moe.experts.{expert}.{part}.weight" for expert in (0, 11) for part in ("w1", "w2", "w3")
    ]
    placed = placed_by_name(dict.fromkeys(names, (4, 4)), {"model_type": "mixtral"})
    assert [(t.layer_index, t.expert_index, t.module, t.role) for t in placed.values()] == [
        (3, expert, "expert", role) for expert in (0, 11) for role in ("gate_proj", "down_proj", "up_proj")
    ]
    assert placed[names[3]].canonical_name == "text.3.expert.11.gate_proj.weight"


def test_buffers_masks_and_indices_are_no_parameters():
    shapes = {
        "h.0.attn.bias": (1, 1, 32, 32),
        "h.0.attn.masked_bias": (),
        "h.0.attn.c_attn.weight": (64, 192),
        "h.0.attn.c_attn.bias": (192,),
    }
    placed = placed_by_name(shapes)
    assert [tensor.params for tensor in placed.values()] == [0, 0, 64 * 192, 192]
    refs = [replace(ref, dtype="I64") for ref in shape_refs({"model.embeddings.position_ids": (1, 32)})]
    refs += [replace(ref, is_buffer=True) for ref in shape_refs({"model.norm.weight": (64,), "model.norm.scale": (64,)})]
    assert [tensor.is_parameter for tensor in place_tensors(refs, {"model_type": "llama"}).placed] == [False, False, False]


def test_tensors_that_no_template_describes_are_kept_and_counted():
    shapes = {
        **llama_shapes({0: Width()}),
        "model.layers.0.self_attn.q_proj.lora_A.weight": (8, HIDDEN),
        "model.layers.0.mlp.experts.5.odd": (3, 3),
        "whatever": (2, 2),
    }
    placement = place(shapes)
    assert [(t.ref.name, t.module, t.role, t.layer_index, t.expert_index, t.stack) for t in placement.unplaced] == [
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "other", None, 0, None, "text"),
        ("model.layers.0.mlp.experts.5.odd", "other", None, 0, 5, "text"),
        ("whatever", "other", None, None, None, None),
    ]
    assert [note["code"] for note in placement.notes] == ["unplaced"]
    totals = count_parameters(placement, TIED)
    assert totals.params == count_parameters(place(llama_shapes({0: Width()})), TIED).params + 8 * HIDDEN + 9 + 4


def test_tensors_of_no_known_family_are_counted_without_roles():
    placement = place({f"blocks.{index}.mixer.in_proj.weight": (8, 4) for index in range(3)})
    totals = count_parameters(placement, {"model_type": "unheard_of"})
    assert (placement.family, len(placement.unplaced)) == (None, 3)
    assert (totals.params, totals.layer_params, totals.prunable_params, totals.embedding_params) == (96, 96, None, None)
    assert [note["code"] for note in placement.notes] == ["family"]
    rows, notes = layer_rows(placement, None)
    assert [(row["params"], row["attention_params"], row["is_zero_layer"], row["num_heads"]) for row in rows] == [
        (32, None, None, None)
    ] * 3
    assert notes == []


def test_two_names_for_one_place_are_noted():
    shapes = llama_shapes({0: Width()})
    placement = place({**shapes, "module.model.norm.weight": (HIDDEN,)})
    assert [note["text"] for note in placement.notes] == [
        "two names for one place in the model, and both are counted: model.norm.weight and module.model.norm.weight"
    ]


@given(st.lists(st.text("model.layers0123456789h_{}qproj weight.", max_size=60), max_size=12, unique=True))
def test_no_tensor_is_ever_lost(names):
    placement = place(dict.fromkeys(names, (2, 3)))
    assert [tensor.ref.name for tensor in placement.placed] == names
    assert count_parameters(placement, None).params_stored == 6 * len(names)
    layer_rows(placement, None)


def test_a_number_too_long_is_no_layer_number():
    placed = placed_by_name(dict.fromkeys(("model.layers.99999999999.x", "model.layers.999999999.x"), (1,)))
    assert [tensor.layer_index for tensor in placed.values()] == [None, 999_999_999]


def steps(call):
    """How many functions a call runs, built-in ones included."""
    count = 0

    def on_event(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def test_names_are_looked_up_and_not_searched():
    """Steps grow with the names alone, and are far fewer for each than its family has templates."""

    def refs(layers):
        return shape_refs(
            {
                f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}.weight": (4, 4)
                for layer in range(layers)
                for expert in range(240)
                for part in ("w1", "w2", "w3")
            }
        )

    few, many = refs(10), refs(70)
    assert len(many) == 50_400
    assert (place_tensors(many, None).family, place_tensors(many, None).unplaced) == ("mixtral", ())
    more_steps = steps(lambda: place_tensors(many, None)) - steps(lambda: place_tensors(few, None))
    assert more_steps < 60 * (len(many) - len(few))


def test_checkpoints_with_equal_names_share_cached_places(monkeypatch):
    shapes = llama_shapes({0: Width(), 1: Width()})
    first = place(shapes, UNTIED)
    before = placing._find_places_cached.cache_info()
    again = place({name: tuple(2 * size for size in shape) for name, shape in shapes.items()}, UNTIED)
    assert placing._find_places_cached.cache_info().hits == before.hits + 1
    assert [tensor.canonical_name for tensor in again.placed] == [tensor.canonical_name for tensor in first.placed]
    assert [tensor.ref.shape for tensor in again.placed] == [tuple(2 * size for size in shape) for shape in shapes.values()]
    monkeypatch.setattr(placing, "MAX_CACHED_TENSORS", len(shapes) - 1)
    assert [tensor.canonical_name for tensor in place(shapes, UNTIED).placed] == [t.canonical_name for t in first.placed]
    assert placing._find_places_cached.cache_info().hits == before.hits + 1


def test_the_cache_distinguishes_families_of_one_name():
    refs = shape_refs(llama_shapes({0: Width()}))
    families = load_families()
    shorter = [
        replace(family, templates=tuple(template for template in family.templates if template.role != "up_proj"))
        for family in families
    ]
    assert place_tensors(refs, UNTIED, families).unplaced == ()
    unplaced = place_tensors(refs, UNTIED, shorter).unplaced
    assert [tensor.ref.name for tensor in unplaced] == ["model.layers.0.mlp.up_proj.weight"]
    assert place_tensors(refs, UNTIED, families).unplaced == ()


def _shared(refs):
    """The same references with the head on the embedding's bytes."""
    embedding = next(ref for ref in refs if ref.name == "model.embed_tokens.weight")
    return [replace(embedding, name=ref.name) if ref.name == "lm_head.weight" else ref for ref in refs]


def test_a_tied_head_counts_once_however_it_is_stored():
    both, without = (llama_shapes({0: Width()}, head=head) for head in (True, False))
    equal = {"lm_head.weight": "aa", "model.embed_tokens.weight": "aa"}
    cases = [
        (shape_refs(without), TIED, None, "config", 0),
        (_shared(shape_refs(both)), TIED, None, "shared storage", 0),
        (shape_refs(both), TIED, equal, "equal bytes", TABLE),
        (shape_refs(both), {"model_type": "llama"}, equal, "equal bytes", TABLE),
        (shape_refs(both), TIED, None, "config", TABLE),
    ]
    params = {count_parameters(place_tensors(refs, config), config, hashes).params for refs, config, hashes, *_ in cases}
    assert params == {TABLE + 64 * 64 * 2 + 32 * 64 * 2 + 3 * 160 * 64 + 3 * 64}
    for refs, config, hashes, evidence, copies in cases:
        totals = count_parameters(place_tensors(refs, config), config, hashes)
        assert (totals.tied_embeddings, totals.tie_evidence, totals.notes) == (True, evidence, ())
        assert (totals.params_stored - totals.params, totals.lm_head_params) == (copies, TABLE)


def test_a_head_that_is_left_out_is_a_row_without_bytes():
    placement = place(llama_shapes({0: Width()}, head=False))
    virtual = count_parameters(placement, TIED).virtual
    assert virtual is not None
    assert (virtual.is_virtual, virtual.ref.name, virtual.ref.storage_bytes) == (True, "lm_head.weight", 0)
    assert (virtual.module, virtual.canonical_name, virtual.ref.shape) == (
        "lm_head",
        "text.lm_head.lm_head.weight",
        (VOCAB, HIDDEN),
    )


@pytest.mark.parametrize(
    ("head", "config", "hashes", "tied", "text"),
    [
        (False, UNTIED, None, False, "declared untied, head missing"),
        (False, {"model_type": "llama"}, None, False, "untied by llama's default, head missing"),
        (False, None, None, None, "no head is stored, and there is no config to say that it is tied"),
        (True, UNTIED, None, False, None),
        (True, None, None, None, None),
        (True, UNTIED, ("a", "b"), False, None),
        (True, UNTIED, ("a", "a"), True, "declared untied, head and embedding are equal"),
        (True, TIED, ("a", "b"), False, "declared tied, head and embedding differ"),
        (True, TIED, ("a", None), True, None),
    ],
)
def test_config_and_bytes_that_disagree_on_a_tie_are_noted(head, config, hashes, tied, text):
    placement = place(llama_shapes({0: Width()}, head=head), config)
    names = ("lm_head.weight", "model.embed_tokens.weight")
    known = {name: value for name, value in zip(names, hashes, strict=True) if value} if hashes else None
    totals = count_parameters(placement, config, known)
    assert (totals.tied_embeddings, [note["text"] for note in totals.notes]) == (tied, [text] if text else [])
    assert totals.virtual is None


def test_a_head_of_another_vocabulary_is_not_tied():
    shapes = llama_shapes({0: Width()}) | {"lm_head.weight": (VOCAB + 4, HIDDEN)}
    totals = count_parameters(place(shapes), TIED)
    assert (totals.tied_embeddings, totals.params) == (False, totals.params_stored)
    assert [note["text"] for note in totals.notes] == ["declared tied, head and embedding differ"]


def test_gpt2_is_tied_by_default():
    shapes = {"wte.weight": (VOCAB, HIDDEN), "wpe.weight": (8, HIDDEN), "ln_f.weight": (HIDDEN,), "ln_f.bias": (HIDDEN,)}
    totals = count_parameters(place(shapes), None)
    assert (totals.tied_embeddings, totals.tie_evidence, totals.lm_head_params) == (True, None, TABLE)
    assert totals.params == TABLE + 10 * HIDDEN


def test_prunable_are_weights_of_attention_mlp_and_experts():
    shapes = {
        **llama_shapes({0: Width()}),
        "model.layers.0.self_attn.o_proj.bias": (HIDDEN,),
        "model.layers.0.attn_shortcut_Q": (HIDDEN, HIDDEN),
    }
    placement = place(shapes)
    totals = count_parameters(placement, UNTIED)
    assert totals.prunable_params == 64 * 64 * 2 + 32 * 64 * 2 + 3 * 160 * 64
    assert totals.params == totals.prunable_params + 2 * TABLE + 3 * HIDDEN + HIDDEN + HIDDEN * HIDDEN
    assert placed_by_name(shapes)["model.layers.0.attn_shortcut_Q"].module == "rotation"


def test_a_storage_counts_once_and_a_view_by_its_own_elements():
    first, second, *_ = shape_refs({"model.norm.weight": (4,), "model.embed_tokens.weight": (2, 4)}, "F32")
    storage = {"offset": 0, "storage_bytes": 400}
    refs = [replace(first, **storage), replace(second, **storage, storage_offset=50)]
    totals = count_parameters(place_tensors(refs, None), None)
    assert (totals.params, totals.logical_bytes, totals.stored_bytes) == (12, 48, 400)


def test_llama_3_8b_has_its_parameters():
    shapes = llama_shapes(dict.fromkeys(range(32), Width(4096, 1024, 14336)), 128256, 4096)
    placement = place(shapes, LLAMA3)
    totals = count_parameters(placement, LLAMA3 | {"tie_word_embeddings": False})
    assert (totals.params, totals.params_stored, totals.embedding_params, totals.lm_head_params) == (
        8_030_261_248,
        8_030_261_248,
        525_336_576,
        525_336_576,
    )
    assert (totals.logical_bytes, totals.stored_bytes) == (2 * 8_030_261_248, 2 * 8_030_261_248)
    rows, notes = layer_rows(placement, LLAMA3)
    assert {(row["params"], row["num_heads"], row["num_kv_heads"], row["head_dim"]) for row in rows} == {
        (218_112_000, 32, 8, 128)
    }
    assert notes == []


def test_pruning_middle_layers_removes_less_than_the_ratio_asked_for():
    full, cut = Width(4096, 4096, 11008), Width(3072, 3072, 8256)
    before, after = (
        count_parameters(
            place(llama_shapes({i: cut if 4 <= i < last else full for i in range(32)}, 32000, 4096)), UNTIED
        ).params
        for last in (4, 30)
    )
    assert (before, after) == (6_738_415_616, 5_422_977_024)


@pytest.mark.skipif(not STUDY.is_dir(), reason="the published study is not here")
def test_a_published_study_counts_the_same():
    study = json.loads((STUDY / "pruned_model_analysis.json").read_text("utf-8"))
    widths = {
        layer["layer_idx"]: Width(
            layer["attention"]["q_proj"] // 4096, layer["attention"]["k_proj"] // 4096, layer["mlp"]["intermediate_size"]
        )
        for layer in study["layers"]
    }
    placement = place(llama_shapes(widths, study["embedding_params"] // 4096, 4096), LLAMA3)
    totals = count_parameters(placement, LLAMA3)
    rows, _ = layer_rows(placement, LLAMA3)
    assert (totals.params, totals.embedding_params, totals.lm_head_params) == (
        study["total_params"],
        study["embedding_params"],
        study["lm_head_params"],
    )
    assert totals.layer_params == study["layer_summary"]["total_layer_params"]
    for row, layer in zip(rows, study["layers"], strict=True):
        assert row["params"] == layer["total"]
        assert (row["attention_params"], row["mlp_params"]) == (layer["attention"]["total"], layer["mlp"]["total"])
        assert (row["norm_params"], row["intermediate_size"]) == (layer["norm"], layer["mlp"]["intermediate_size"])
        parts = {**layer["attention"], **layer["mlp"]}
        assert row["role_params"] == {role: count for role, count in parts.items() if re.fullmatch(r"\w_proj|\w+_proj", role)}
