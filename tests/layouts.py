"""Names and shapes of families that transformers cannot build, written by hand after the families' own code or files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layerhouse.tests.tiny_models import (
    EXPERTS,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KV_HEADS,
    SIZES,
    VOCAB,
)

Shapes = dict[str, tuple[int, ...]]
ROWS, KV_ROWS = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
GROUPED = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "num_hidden_layers": 2}


@dataclass(frozen=True)
class Layout:
    """A checkpoint's config and shapes, and the sizes of layers that are expected of it."""

    config: Mapping[str, Any]
    shapes: Shapes
    layers: tuple[Mapping[str, int | None], ...]


def _blocks(pattern: str, block: Shapes, count: int = 2) -> Shapes:
    return {f"{pattern.format(index)}{name}": shape for index in range(count) for name, shape in block.items()}


def _two(**differences: int | None) -> tuple[Mapping[str, int | None], ...]:
    return ({**SIZES, **differences},) * 2


QWEN = Layout(
    {
        "model_type": "qwen",
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "kv_channels": HEAD_DIM,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * INTERMEDIATE,
        "tie_word_embeddings": False,
    },
    {
        "transformer.wte.weight": (VOCAB, HIDDEN),
        **_blocks(
            "transformer.h.{}.",
            {
                "ln_1.weight": (HIDDEN,),
                "attn.c_attn.weight": (3 * ROWS, HIDDEN),
                "attn.c_attn.bias": (3 * ROWS,),
                "attn.c_proj.weight": (HIDDEN, ROWS),
                "ln_2.weight": (HIDDEN,),
                "mlp.w1.weight": (INTERMEDIATE, HIDDEN),
                "mlp.w2.weight": (INTERMEDIATE, HIDDEN),
                "mlp.c_proj.weight": (HIDDEN, INTERMEDIATE),
            },
        ),
        "transformer.ln_f.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    },
    _two(num_kv_heads=HEADS),
)
PHI_MSFT = Layout(
    {"model_type": "phi-msft", "n_layer": 2, "n_head": HEADS, "n_embd": HIDDEN, "n_inner": None},
    {
        "transformer.embd.wte.weight": (VOCAB, HIDDEN),
        **_blocks(
            "transformer.h.{}.",
            {
                **{f"ln.{part}": (HIDDEN,) for part in ("weight", "bias")},
                "mixer.Wqkv.weight": (3 * ROWS, HIDDEN),
                "mixer.Wqkv.bias": (3 * ROWS,),
                "mixer.out_proj.weight": (HIDDEN, ROWS),
                "mixer.out_proj.bias": (HIDDEN,),
                "mlp.fc1.weight": (256, HIDDEN),
                "mlp.fc1.bias": (256,),
                "mlp.fc2.weight": (HIDDEN, 256),
                "mlp.fc2.bias": (HIDDEN,),
            },
        ),
        "lm_head.ln.weight": (HIDDEN,),
        "lm_head.ln.bias": (HIDDEN,),
        "lm_head.linear.weight": (VOCAB, HIDDEN),
        "lm_head.linear.bias": (VOCAB,),
    },
    _two(num_kv_heads=HEADS, intermediate_size=256),
)
INTERNLM2 = Layout(
    {"model_type": "internlm2", **GROUPED, "intermediate_size": INTERMEDIATE, "bias": False, "tie_word_embeddings": False},
    {
        "model.tok_embeddings.weight": (VOCAB, HIDDEN),
        **_blocks(
            "model.layers.{}.",
            {
                "attention_norm.weight": (HIDDEN,),
                "attention.wqkv.weight": (ROWS + 2 * KV_ROWS, HIDDEN),
                "attention.wo.weight": (HIDDEN, ROWS),
                "ffn_norm.weight": (HIDDEN,),
                "feed_forward.w1.weight": (INTERMEDIATE, HIDDEN),
                "feed_forward.w3.weight": (INTERMEDIATE, HIDDEN),
                "feed_forward.w2.weight": (HIDDEN, INTERMEDIATE),
            },
        ),
        "model.norm.weight": (HIDDEN,),
        "output.weight": (VOCAB, HIDDEN),
    },
    _two(),
)
BAICHUAN = Layout(
    {
        "model_type": "baichuan",
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 2,
        "intermediate_size": INTERMEDIATE,
        "tie_word_embeddings": False,
    },
    {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        **_blocks(
            "model.layers.{}.",
            {
                "input_layernorm.weight": (HIDDEN,),
                "self_attn.W_pack.weight": (3 * ROWS, HIDDEN),
                "self_attn.o_proj.weight": (HIDDEN, ROWS),
                "post_attention_layernorm.weight": (HIDDEN,),
                "mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
                "mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
                "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
            },
        ),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    },
    _two(num_kv_heads=HEADS),
)
CHATGLM = Layout(
    {
        "model_type": "chatglm",
        "num_layers": 2,
        "num_attention_heads": HEADS,
        "multi_query_group_num": KV_HEADS,
        "kv_channels": HEAD_DIM,
        "hidden_size": HIDDEN,
        "ffn_hidden_size": INTERMEDIATE,
        "add_qkv_bias": True,
        "tie_word_embeddings": False,
    },
    {
        "transformer.embedding.word_embeddings.weight": (VOCAB, HIDDEN),
        **_blocks(
            "transformer.encoder.layers.{}.",
            {
                "input_layernorm.weight": (HIDDEN,),
                "self_attention.query_key_value.weight": (ROWS + 2 * KV_ROWS, HIDDEN),
                "self_attention.query_key_value.bias": (ROWS + 2 * KV_ROWS,),
                "self_attention.dense.weight": (HIDDEN, ROWS),
                "post_attention_layernorm.weight": (HIDDEN,),
                "mlp.dense_h_to_4h.weight": (2 * INTERMEDIATE, HIDDEN),
                "mlp.dense_4h_to_h.weight": (HIDDEN, INTERMEDIATE),
            },
        ),
        "transformer.encoder.final_layernorm.weight": (HIDDEN,),
        "transformer.rotary_pos_emb.inv_freq": (HEAD_DIM // 4,),
        "transformer.output_layer.weight": (VOCAB, HIDDEN),
    },
    _two(),
)
TRTLLM = Layout(
    {
        "architecture": "LlamaForCausalLM",
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_size": HEAD_DIM,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
    },
    {
        "transformer.vocab_embedding.weight": (VOCAB, HIDDEN),
        **_blocks(
            "transformer.layers.{}.",
            {
                "input_layernorm.weight": (HIDDEN,),
                "attention.qkv.weight": (ROWS + 2 * KV_ROWS, HIDDEN),
                "attention.dense.weight": (HIDDEN, ROWS),
                "post_layernorm.weight": (HIDDEN,),
                "mlp.fc.weight": (INTERMEDIATE, HIDDEN),
                "mlp.gate.weight": (INTERMEDIATE, HIDDEN),
                "mlp.proj.weight": (HIDDEN, INTERMEDIATE),
            },
        ),
        "transformer.ln_f.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    },
    _two(),
)
META = Layout(
    {
        "dim": HIDDEN,
        "n_layers": 2,
        "n_heads": HEADS,
        "n_kv_heads": KV_HEADS,
        "hidden_dim": INTERMEDIATE,
        "head_dim": HEAD_DIM,
    },
    {
        "tok_embeddings.weight": (VOCAB, HIDDEN),
        **_blocks(
            "layers.{}.",
            {
                "attention_norm.weight": (HIDDEN,),
                "attention.wq.weight": (ROWS, HIDDEN),
                "attention.wk.weight": (KV_ROWS, HIDDEN),
                "attention.wv.weight": (KV_ROWS, HIDDEN),
                "attention.wo.weight": (HIDDEN, ROWS),
                "ffn_norm.weight": (HIDDEN,),
                "feed_forward.w1.weight": (INTERMEDIATE, HIDDEN),
                "feed_forward.w3.weight": (INTERMEDIATE, HIDDEN),
                "feed_forward.w2.weight": (HIDDEN, INTERMEDIATE),
            },
        ),
        "rope.freqs": (HEAD_DIM // 2,),
        "norm.weight": (HIDDEN,),
        "output.weight": (VOCAB, HIDDEN),
    },
    _two(),
)
DECI = Layout(
    {
        "model_type": "deci",
        **GROUPED,
        "num_hidden_layers": 4,
        "num_key_value_heads": None,
        "intermediate_size": None,
        "tie_word_embeddings": False,
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"no_op": True}, "ffn": {"intermediate_size": 100}},
            {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}},
            {"attention": {"replace_with_linear": True}, "ffn": {"replace_with_linear": True}},
        ],
    },
    {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.layers.0.input_layernorm.weight": (HIDDEN,),
        "model.layers.0.self_attn.q_proj.weight": (ROWS, HIDDEN),
        "model.layers.0.self_attn.k_proj.weight": (KV_ROWS, HIDDEN),
        "model.layers.0.self_attn.v_proj.weight": (KV_ROWS, HIDDEN),
        "model.layers.0.self_attn.o_proj.weight": (HIDDEN, ROWS),
        "model.layers.0.post_attention_layernorm.weight": (HIDDEN,),
        "model.layers.0.mlp.gate_proj.weight": (256, HIDDEN),
        "model.layers.0.mlp.up_proj.weight": (256, HIDDEN),
        "model.layers.0.mlp.down_proj.weight": (HIDDEN, 256),
        "model.layers.1.post_attention_layernorm.weight": (HIDDEN,),
        "model.layers.1.mlp.gate_proj.weight": (100, HIDDEN),
        "model.layers.1.mlp.up_proj.weight": (100, HIDDEN),
        "model.layers.1.mlp.down_proj.weight": (HIDDEN, 100),
        "model.layers.2.input_layernorm.weight": (HIDDEN,),
        "model.layers.2.self_attn.q_proj.weight": (ROWS, HIDDEN),
        "model.layers.2.self_attn.k_proj.weight": (HEAD_DIM, HIDDEN),
        "model.layers.2.self_attn.v_proj.weight": (HEAD_DIM, HIDDEN),
        "model.layers.2.self_attn.o_proj.weight": (HIDDEN, ROWS),
        "model.layers.3.input_layernorm.weight": (HIDDEN,),
        "model.layers.3.self_attn.linear_attn.weight": (HIDDEN, HIDDEN),
        "model.layers.3.post_attention_layernorm.weight": (HIDDEN,),
        "model.layers.3.mlp.linear_mlp.weight": (HIDDEN, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    },
    (
        {**SIZES, "intermediate_size": 256},
        {**SIZES, "num_heads": 0, "num_kv_heads": 0, "head_dim": None, "intermediate_size": 100},
        {**SIZES, "num_kv_heads": 1, "intermediate_size": 0},
        {**SIZES, "num_heads": 0, "num_kv_heads": 0, "head_dim": None, "intermediate_size": 0},
    ),
)
OPENELM = Layout(
    {
        "model_type": "openelm",
        "num_transformer_layers": 2,
        "model_dim": HIDDEN,
        "head_dim": HEAD_DIM,
        "num_query_heads": [4, 6],
        "num_kv_heads": [1, 2],
        "ffn_multipliers": [0.5, 1.0],
    },
    {
        "transformer.token_embeddings.weight": (VOCAB, HIDDEN),
        **{
            f"transformer.layers.{index}.{name}": shape
            for index, (heads, kv_heads, width) in enumerate(((4, 1, 32), (6, 2, 64)))
            for name, shape in {
                "attn_norm.weight": (HIDDEN,),
                "attn.qkv_proj.weight": ((heads + 2 * kv_heads) * HEAD_DIM, HIDDEN),
                "attn.q_norm.weight": (HEAD_DIM,),
                "attn.k_norm.weight": (HEAD_DIM,),
                "attn.out_proj.weight": (HIDDEN, heads * HEAD_DIM),
                "ffn_norm.weight": (HIDDEN,),
                "ffn.proj_1.weight": (2 * width, HIDDEN),
                "ffn.proj_2.weight": (HIDDEN, width),
            }.items()
        },
        "transformer.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    },
    (
        {**SIZES, "num_kv_heads": 1, "intermediate_size": 32},
        {**SIZES, "num_heads": 6, "num_kv_heads": 2, "intermediate_size": 64},
    ),
)
GGUF_ATTENTION: Shapes = {
    "attn_norm.weight": (HIDDEN,),
    "attn_q.weight": (ROWS, HIDDEN),
    "attn_k.weight": (KV_ROWS, HIDDEN),
    "attn_v.weight": (KV_ROWS, HIDDEN),
    "attn_output.weight": (HIDDEN, ROWS),
    "ffn_norm.weight": (HIDDEN,),
}
GGUF_KEYS = {
    "block_count": 2,
    "embedding_length": HIDDEN,
    "feed_forward_length": INTERMEDIATE,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
}
GGUF = Layout(
    GGUF_KEYS,
    {
        "token_embd.weight": (VOCAB, HIDDEN),
        **_blocks(
            "blk.{}.",
            {
                **GGUF_ATTENTION,
                "ffn_gate.weight": (INTERMEDIATE, HIDDEN),
                "ffn_up.weight": (INTERMEDIATE, HIDDEN),
                "ffn_down.weight": (HIDDEN, INTERMEDIATE),
            },
        ),
        "rope_freqs.weight": (HEAD_DIM // 2,),
        "output_norm.weight": (HIDDEN,),
        "output.weight": (VOCAB, HIDDEN),
    },
    _two(),
)
GGUF_EXPERTS = Layout(
    {**GGUF_KEYS, "expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": 48},
    {
        "token_embd.weight": (VOCAB, HIDDEN),
        **_blocks(
            "blk.{}.",
            {
                **GGUF_ATTENTION,
                "ffn_gate_inp.weight": (EXPERTS, HIDDEN),
                "ffn_gate_exps.weight": (EXPERTS, 48, HIDDEN),
                "ffn_up_exps.weight": (EXPERTS, 48, HIDDEN),
                "ffn_down_exps.weight": (EXPERTS, HIDDEN, 48),
            },
        ),
        "output_norm.weight": (HIDDEN,),
    },
    _two(num_experts=EXPERTS, intermediate_size=48),
)

MIXTRAL_MODULES = Layout(
    {
        "model_type": "mixtral",
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
    },
    {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        **_blocks(
            "model.layers.{}.",
            {
                "input_layernorm.weight": (HIDDEN,),
                "post_attention_layernorm.weight": (HIDDEN,),
                "self_attn.q_proj.weight": (ROWS, HIDDEN),
                "self_attn.k_proj.weight": (KV_ROWS, HIDDEN),
                "self_attn.v_proj.weight": (KV_ROWS, HIDDEN),
                "self_attn.o_proj.weight": (HIDDEN, ROWS),
                "block_sparse_moe.gate.weight": (EXPERTS, HIDDEN),
                **{
                    f"block_sparse_moe.experts.{expert}.{role}.weight": shape
                    for expert in range(EXPERTS)
                    for role, shape in (
                        ("gate_proj", (INTERMEDIATE, HIDDEN)),
                        ("up_proj", (INTERMEDIATE, HIDDEN)),
                        ("down_proj", (HIDDEN, INTERMEDIATE)),
                    )
                },
            },
        ),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    },
    _two(num_experts=EXPERTS),
)
"""The names that llm-compressor gives to experts that it has unfused."""

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "mixtral": (MIXTRAL_MODULES,),
    "qwen": (QWEN,),
    "phi_msft": (PHI_MSFT,),
    "internlm2": (INTERNLM2,),
    "baichuan": (BAICHUAN,),
    "chatglm": (CHATGLM,),
    "meta": (META,),
    "trtllm": (TRTLLM,),
    "deci": (DECI, Layout({**DECI.config, "model_type": "nemotron-nas"}, DECI.shapes, DECI.layers)),
    "openelm": (OPENELM,),
    "gguf": (GGUF, GGUF_EXPERTS),
}
