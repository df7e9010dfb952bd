"""Units that pruning keeps, in weights that are fused, transposed, have biases, or hold all experts."""

from __future__ import annotations

import pytest

from layerhouse.tests.pruned_models import (
    Kept,
    cut_experts,
    cut_gpt2,
    cut_llama,
    ingest_models,
    kept_by_layer,
    prune,
    state_of,
    tuned,
    unit_rows,
    write_model,
)
from layerhouse.tests.tiny_models import EXPERTS, EXPLICIT, GPT2, GROUPED, HEADS, KV_HEADS, TinyModel


@pytest.mark.parametrize(
    ("tiny", "cut", "groups"),
    [
        (TinyModel("gpt2", {**GPT2, "bos_token_id": 0, "eos_token_id": 0}), cut_gpt2, HEADS),
        (TinyModel("phi3", {**GROUPED, "pad_token_id": 0}), cut_llama, KV_HEADS),
        (TinyModel("qwen2", GROUPED), cut_llama, KV_HEADS),
    ],
    ids=["gpt2, fused and transposed", "phi3, fused", "qwen2, with biases"],
)
def test_kept_units_are_exact_whatever_the_layout(tmp_path, tiny, cut, groups):
    state, config = state_of(tiny)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("lm_head")}
    kept = kept_by_layer(4, groups)
    write_model(tmp_path, "base", state, config)
    write_model(tmp_path, "child", prune(state, kept, cut), config)
    ingest_models(tmp_path, base=tmp_path / "models/base", units=True)
    rows = unit_rows(tmp_path, "child")
    assert len(rows) == 12
    for index, one in kept.items():
        heads = one.groups if groups == HEADS else one.heads
        for kind, expected in (("head", heads), ("kv_group", one.groups), ("neuron", one.neurons)):
            assert (rows[index, kind]["units_kept"], rows[index, kind]["num_exact"]) == (list(expected), len(expected))


def split_experts(state):
    """The weights with a tensor for each expert, as files have them, in place of one tensor for all, as in memory."""
    answer = {}
    for name, tensor in state.items():
        place = name.removesuffix(".mlp.experts.gate_up_proj").removesuffix(".mlp.experts.down_proj")
        for expert in range(len(tensor)) if place != name else ():
            prefix = f"{place}.block_sparse_moe.experts.{expert}"
            if name.endswith("gate_up_proj"):
                answer[f"{prefix}.w1.weight"], answer[f"{prefix}.w3.weight"] = (
                    half.clone() for half in tensor[expert].chunk(2)
                )
            else:
                answer[f"{prefix}.w2.weight"] = tensor[expert].clone()
        if place == name:
            answer[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = tensor
    return answer


@pytest.mark.parametrize("layout", [dict, split_experts], ids=["one tensor for all experts", "a tensor for each"])
def test_kept_experts_are_exact(tmp_path, layout):
    state, config = state_of(TinyModel("mixtral", {**EXPLICIT, "num_local_experts": EXPERTS}))
    kept = {0: Kept(experts=(1, 3)), 1: Kept(experts=(0,)), 2: Kept(experts=(0, 2, 3))}
    pruned = prune(state, kept, cut_experts)
    write_model(tmp_path, "base", layout(state), config)
    write_model(tmp_path, "child", layout(pruned), config)
    write_model(tmp_path, "tuned", layout(tuned(pruned)), config)
    report = ingest_models(tmp_path, base=tmp_path / "models/base", units=True)
    assert report.count("failed") == 0
    pruned_rows, tuned_rows = unit_rows(tmp_path, "child"), unit_rows(tmp_path, "tuned")
    for index in range(4):
        expected = list(kept.get(index, Kept()).experts)
        assert pruned_rows[index, "expert"]["units_kept"] == tuned_rows[index, "expert"]["units_kept"] == expected
        assert (pruned_rows[index, "expert"]["num_exact"], tuned_rows[index, "expert"]["num_similar"]) == (
            len(expected),
            len(expected),
        )
        assert pruned_rows[index, "head"]["units_kept"] == list(range(HEADS))
