"""Which rows and columns are a head's: by what real models compute from them, and by what pruning one away shows."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import layerhouse as lh
from layerhouse.ingest.model.layer_sizes import declared_head_dim, measure_layer
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.ingest.model.unit_parts import find_parts
from layerhouse.tests.family_models import FALCON
from layerhouse.tests.pruned_models import ingest_models, unit_rows, write_model
from layerhouse.tests.tiny_models import (
    COMMON,
    EXPLICIT,
    GPT2,
    GROUPED,
    HEAD_DIM,
    HIDDEN,
    INTERMEDIATE,
    VOCAB,
    TinyModel,
    build,
    shape_refs,
    state_refs,
)

BLOOM = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "n_layer": 2, "n_head": 4}
FALCON_40B = {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}
FALCON_RW = {**FALCON, "alibi": True, "multi_query": False, "bias": True, "parallel_attn": False}
GROUPED_QKV = {
    "gpt_neox": TinyModel("gpt_neox", COMMON),
    "bloom": TinyModel("bloom", BLOOM),
    "falcon, one KV group": TinyModel("falcon", FALCON),
    "falcon, several KV groups": TinyModel("falcon", FALCON_40B),
    "falcon, all heads": TinyModel("falcon", FALCON_RW),
    "gpt_bigcode, one KV group": TinyModel("gpt_bigcode", GPT2),
    "gpt_bigcode, all heads": TinyModel("gpt_bigcode", {**GPT2, "multi_query": False}),
}
OTHER_LAYOUTS = {
    "llama": TinyModel("llama", EXPLICIT),
    "phi3": TinyModel("phi3", {**GROUPED, "pad_token_id": 0}),
    "gpt2": TinyModel("gpt2", {**GPT2, "bos_token_id": 0, "eos_token_id": 0}),
    "qwen3_5, with a gate": TinyModel("qwen3_5_text", {**EXPLICIT, "layer_types": ["full_attention"] * 2}),
    "mpt": TinyModel("mpt", {"vocab_size": VOCAB, "d_model": HIDDEN, "n_layers": 2, "n_heads": 4}),
}
TWO_LAYERS = {"num_hidden_layers": 2, "n_layer": 2, "n_layers": 2}


def built(tiny):
    """The model with two layers, in eval mode, with weights and biases large enough for every change to show."""
    arguments = {**tiny.arguments, **{key: count for key, count in TWO_LAYERS.items() if key in tiny.arguments}}
    model = build(TinyModel(tiny.model_type, arguments)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and "ln_" not in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model, json.loads(model.config.to_json_string(use_diff=False))


# What models compute


def parts_of_first_layer(model, config):
    placement = place_tensors(state_refs(model.state_dict()), config)
    tensors = [tensor for tensor in placement.placed if tensor.layer_index == 0]
    sizes = measure_layer(tensors, declared_head_dim(config, placement.template_family))
    parts, reasons = find_parts(tensors, sizes)
    assert reasons == []
    return {part.name: part for part in parts}, sizes


def read_by_output(model, name):
    """What the output projection of this weight reads of a prompt, one row for each token."""
    seen = []
    module = model.get_submodule(name.removesuffix(".weight"))
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 17, 3, 60, 42]]), use_cache=False)
    handle.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])


def changed_columns(model, part, unit, output):
    """Columns of what the output projection reads that differ once a part of a unit is set to zero."""
    before = read_by_output(model, output)
    tensor = model.state_dict()[part.ref.name]
    kept = tensor.clone()
    tensor.index_fill_(part.axis, torch.from_numpy(part.vectors[unit]), 0)
    changed = (read_by_output(model, output) != before).any(0).nonzero().flatten().tolist()
    tensor.copy_(kept)
    return changed


@pytest.mark.parametrize("tiny", [*GROUPED_QKV.values(), *OTHER_LAYOUTS.values()], ids=[*GROUPED_QKV, *OTHER_LAYOUTS])
def test_parts_of_a_head_change_what_its_columns_of_the_output_projection_read_and_nothing_else(tiny):
    model, config = built(tiny)
    parts, sizes = parts_of_first_layer(model, config)
    outputs = parts["o"]
    ratio = sizes.num_heads // sizes.num_kv_heads
    for head in range(sizes.num_heads):
        assert changed_columns(model, parts["q"], head, outputs.ref.name) == outputs.vectors[head].tolist()
    for group in range(sizes.num_kv_heads):
        columns = outputs.vectors[group * ratio : (group + 1) * ratio].flatten().tolist()
        for name in ("k", "v"):
            assert changed_columns(model, parts[name], group, outputs.ref.name) == columns


@pytest.mark.parametrize("tiny", [GROUPED_QKV["falcon, all heads"], GROUPED_QKV["bloom"]], ids=["falcon", "bloom"])
def test_the_bias_of_a_head_is_that_of_its_rows(tiny):
    model, config = built(tiny)
    parts, sizes = parts_of_first_layer(model, config)
    for name in ("q", "v"):
        for head in range(sizes.num_heads):
            columns = parts["o"].vectors[head].tolist()
            assert changed_columns(model, parts[f"{name}_bias"], head, parts["o"].ref.name) == columns


def test_heads_that_do_not_share_the_groups_evenly_are_not_known():
    fused, output = (f"transformer.h.0.self_attention.{name}.weight" for name in ("query_key_value", "dense"))
    placed = place_tensors(shape_refs({fused: ((3 + 2 + 2) * HEAD_DIM, HIDDEN), output: (HIDDEN, 3 * HEAD_DIM)}), FALCON_40B)
    sizes = measure_layer(placed.placed, declared_head_dim(FALCON_40B, placed.template_family))
    assert (placed.family, sizes.num_heads, sizes.num_kv_heads) == ("falcon", 3, 2)
    assert find_parts(placed.placed, sizes) == ([], ["heads are not known: 3 query heads do not share 2 KV heads evenly"])


# What pruning shows


def without_heads(state, removed, heads, groups):
    """The model without query heads, by layer; a KV group without a query head is removed too.

    Blocks of (queries, key, value) for each group, as the models' own code splits them.
    """
    answer = dict(state)
    for name, tensor in state.items():
        layer = next((int(piece) for piece in name.split(".") if piece.isdigit()), None)
        gone = removed.get(layer, ())
        ratio = heads // groups
        queries = [head for head in range(heads) if head not in gone]
        kept_groups = sorted({head // ratio for head in queries})
        if any(word in name for word in ("query_key_value", "c_attn")):
            blocks = tensor.reshape(groups, ratio + 2, HEAD_DIM, *tensor.shape[1:])
            rows = [
                blocks[group, slot]
                for group in kept_groups
                for slot in range(ratio + 2)
                if slot >= ratio or group * ratio + slot not in gone
            ]
            answer[name] = torch.cat(rows)
        elif any(word in name for word in ("dense.weight", "attn.c_proj.weight")) and "mlp" not in name:
            answer[name] = torch.cat([tensor[:, head * HEAD_DIM : (head + 1) * HEAD_DIM] for head in queries], 1)
    return answer


@pytest.mark.parametrize(
    ("name", "groups", "removed"),
    [
        ("gpt_neox", 4, {0: (2,), 1: (0, 3)}),
        ("bloom", 4, {0: (1,), 1: (3,)}),
        ("falcon, all heads", 4, {0: (0,), 1: (1, 2)}),
        ("gpt_bigcode, all heads", 4, {0: (3,)}),
        ("falcon, one KV group", 1, {0: (2,), 1: (0, 3)}),
        ("gpt_bigcode, one KV group", 1, {0: (1,)}),
        ("falcon, several KV groups", 2, {0: (1, 2), 1: (0, 1)}),
    ],
)
def test_a_head_that_is_pruned_away_is_removed_and_no_other(tmp_path, name, groups, removed):
    model, config = built(GROUPED_QKV[name])
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(("lm_head", "embed_out"))}
    write_model(tmp_path, "base", state, config)
    write_model(tmp_path, "child", without_heads(state, removed, 4, groups), config)
    report = ingest_models(tmp_path, base=tmp_path / "models/base", units=True)
    assert report.count("failed") == 0
    rows = unit_rows(tmp_path, "child")
    for layer in range(2):
        gone = removed.get(layer, ())
        ratio = 4 // groups
        gone_groups = [group for group in range(groups) if {*range(group * ratio, (group + 1) * ratio)} <= {*gone}]
        head, group = rows[layer, "head"], rows[layer, "kv_group"]
        assert (head["units_removed"], head["num_exact"]) == (list(gone), 4 - len(gone))
        assert (group["units_removed"], group["num_exact"]) == (gone_groups, groups - len(gone_groups))


def test_gpt_neox_has_a_kv_group_for_each_of_its_heads(tmp_path):
    model, config = built(TinyModel("gpt_neox", {**COMMON, "num_attention_heads": 8}))
    write_model(tmp_path, "neox", model.state_dict(), config)
    ingest_models(tmp_path, units=True)
    with lh.open(tmp_path / "w") as wh:
        counts = wh.sql("SELECT layer_index, kind, count(*) FROM units GROUP BY ALL ORDER BY ALL").rows()
        status_note = wh.sql("SELECT status_note FROM models").item()
    kinds = {"head": 8, "kv_group": 8, "neuron": INTERMEDIATE}
    assert counts == [(layer, kind, count) for layer in range(2) for kind, count in kinds.items()]
    assert status_note is None or "not known" not in status_note


def test_the_units_of_internlm2_are_those_of_a_llama_of_the_same_weights(tmp_path):
    """InternLM2's own converter to Llama: wqkv is (KV groups, queries + key + value, head_dim, hidden)."""
    model, config = built(TinyModel("llama", {**EXPLICIT, "tie_word_embeddings": False}))
    write_model(tmp_path, "llama", model.state_dict(), config)
    state = load_file(tmp_path / "models/llama/model.safetensors")
    names = {"embed_tokens": "tok_embeddings", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2"}
    names |= {"mlp.up_proj": "feed_forward.w3", "lm_head": "output"}
    converted = {}
    for name, tensor in state.items():
        if not any(role in name for role in ("q_proj", "k_proj", "v_proj")):
            old = next((old for old in names if old in name), "model")
            converted[name.replace(old, names.get(old, "model"))] = tensor
    for layer in range(2):
        q, k, v = (state[f"model.layers.{layer}.self_attn.{role}_proj.weight"].view(2, -1, HEAD_DIM, HIDDEN) for role in "qkv")
        converted[f"model.layers.{layer}.attention.wqkv.weight"] = torch.cat([q, k, v], 1).reshape(-1, HIDDEN)
    write_model(tmp_path, "internlm2", converted, {**config, "model_type": "internlm2", "bias": False})
    ingest_models(tmp_path, units=True)
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql("SELECT DISTINCT family FROM checkpoints ORDER BY 1").rows() == [("internlm2",), ("llama",)]
        hashes = wh.sql(
            "SELECT layer_index, kind, unit_index, list_sort(map_entries(part_hashes)) AS parts, count(*) FROM units"
            " GROUP BY ALL HAVING kind <> 'neuron'"
        ).rows()
    assert {row[-1] for row in hashes} == {2}
    assert len(hashes) == 2 * (4 + 2)
