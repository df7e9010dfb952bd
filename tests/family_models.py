"""The tiny models of every family that the tests build, and the sizes that their layers are to be measured as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerhouse.tests.tiny_models import (
    COMMON,
    EXPERTS,
    EXPLICIT,
    GPT2,
    GROUPED,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KV_HEADS,
    LAYERS,
    VOCAB,
    TinyModel,
)

OPT = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "ffn_dim": INTERMEDIATE,
    "max_position_embeddings": 32,
}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
EXPERT_SIZE = 48
FALCON = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
MLA = {
    **COMMON,
    **MOE,
    "num_key_value_heads": HEADS,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
SSM = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "state_size": 8}
SEQUENCES = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "encoder_layers": 3,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": INTERMEDIATE,
    "decoder_ffn_dim": INTERMEDIATE,
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "d_kv": HEAD_DIM,
    "d_ff": INTERMEDIATE,
    "num_layers": 3,
    "num_decoder_layers": LAYERS,
    "num_heads": HEADS,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
QWEN_TOWER = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
QWEN3_TOWER = {
    **QWEN_TOWER,
    "hidden_size": 32,
    "out_hidden_size": HIDDEN,
    "intermediate_size": 48,
    "deepstack_visual_indexes": [0, 1],
    "num_position_embeddings": 16,
}
LLAMA4_TOWER = {
    **TOWER,
    "intermediate_size": 128,
    "patch_size": 4,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "pixel_shuffle_ratio": 0.5,
}
LLAMA4 = {
    **EXPLICIT,
    "intermediate_size": EXPERT_SIZE,
    "intermediate_size_mlp": INTERMEDIATE,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2,
    "pad_token_id": 0,
}
MASKED, SEQUENCE, IMAGE, BASE, CLASSIFIER = (
    f"AutoModel{suffix}"
    for suffix in (
        "ForMaskedLM",
        "ForSeq2SeqLM",
        "ForImageTextToText",
        "",
        "ForSequenceClassification",
    )
)
ALL_HEADS = {"num_kv_heads": HEADS}
EXPERT_LAYER = {"num_experts": EXPERTS, "intermediate_size": EXPERT_SIZE}
NO_HEADS: dict[str, int | None] = {"num_heads": 0, "num_kv_heads": 0, "head_dim": None}
SSM_LAYER = {**NO_HEADS, "intermediate_size": 0}
COMPRESSED = {"num_kv_heads": HEADS, "head_dim": 24}
TOWER_LAYER = {"num_heads": 2, "num_kv_heads": 2, "head_dim": 16, "intermediate_size": 48, "hidden_size": 32}


def _image(
    model_type: str, text: Mapping[str, Any], vision: Mapping[str, Any], tower: Mapping[str, int | None], **more: Any
) -> TinyModel:
    sizes = more.pop("sizes", {})
    layers = more.pop("layers", {})
    arguments = {"text_config": dict(text), "vision_config": dict(vision), **more}
    return TinyModel(model_type, arguments, sizes, layers, auto=IMAGE, others={"vision": (2, tower)})


CLIP = {**TOWER, "model_type": "clip_vision_model"}
SIGLIP = {**TOWER, "model_type": "siglip_vision_model"}
PIXTRAL = {**TOWER, "model_type": "pixtral"}
PLAIN_LLAMA, PLAIN_MISTRAL = ({**EXPLICIT, "model_type": name} for name in ("llama", "mistral"))
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
}
"""Linear attention in every other layer."""
NO_ATTENTION = {0: NO_HEADS, 2: NO_HEADS}
VISION = {"auto": BASE, "stack": "vision", "num_layers": 2}

MODELS: dict[str, tuple[TinyModel, ...]] = {
    "llama": (
        TinyModel("llama", EXPLICIT),
        TinyModel("llama", {**EXPLICIT, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        TinyModel("llama", {**EXPLICIT, "hidden_size": 40}, {"hidden_size": 40}),
    ),
    "mistral": (TinyModel("mistral", EXPLICIT), TinyModel("ministral", EXPLICIT)),
    "granite": (TinyModel("granite", GROUPED),),
    "qwen2": (TinyModel("qwen2", GROUPED), TinyModel("qwen2", {**GROUPED, "tie_word_embeddings": True})),
    "qwen2_moe": (
        TinyModel(
            "qwen2_moe",
            {**GROUPED, **MOE, "num_experts": EXPERTS, "shared_expert_intermediate_size": 80, "mlp_only_layers": [1]},
            EXPERT_LAYER,
            {1: {"num_experts": None, "intermediate_size": INTERMEDIATE}},
        ),
    ),
    "qwen3": (TinyModel("qwen3", EXPLICIT),),
    "qwen3_moe": (
        TinyModel(
            "qwen3_moe",
            {**EXPLICIT, **MOE, "num_experts": EXPERTS, "mlp_only_layers": [0]},
            EXPERT_LAYER,
            {0: {"num_experts": None, "intermediate_size": INTERMEDIATE}},
        ),
    ),
    "qwen3_next": (
        TinyModel(
            "qwen3_next",
            {**EXPLICIT, **MOE, **DELTA, "num_experts": EXPERTS, "shared_expert_intermediate_size": 80},
            EXPERT_LAYER,
            NO_ATTENTION,
        ),
        TinyModel("qwen3_5_text", {**EXPLICIT, **DELTA}, {}, NO_ATTENTION),
        TinyModel(
            "qwen3_5_moe_text",
            {**EXPLICIT, **MOE, **DELTA, "num_experts": EXPERTS, "shared_expert_intermediate_size": 80},
            EXPERT_LAYER,
            NO_ATTENTION,
        ),
    ),
    "starcoder2": (TinyModel("starcoder2", GROUPED),),
    "apertus": (TinyModel("apertus", GROUPED),),
    "minimax": (
        TinyModel(
            "minimax",
            {
                **EXPLICIT,
                "num_local_experts": EXPERTS,
                "num_experts_per_tok": 2,
                "layer_types": ["full_attention", "linear_attention"] * 2,
            },
            {"num_experts": EXPERTS},
            {1: NO_HEADS, 3: NO_HEADS},
        ),
    ),
    "gemma4": (
        TinyModel(
            "gemma4_text",
            {
                **EXPLICIT,
                "hidden_size_per_layer_input": 8,
                "vocab_size_per_layer_input": VOCAB,
                "num_kv_shared_layers": 0,
                "per_layer_config": {},
                "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            },
        ),
    ),
    "gemma": (TinyModel("gemma", EXPLICIT),),
    "gemma2": (TinyModel("gemma2", EXPLICIT), TinyModel("gemma3_text", EXPLICIT)),
    "gemma3": (_image("gemma3", {**EXPLICIT, "model_type": "gemma3_text"}, SIGLIP, TOWER_LAYER, mm_tokens_per_image=1),),
    "phi": (TinyModel("phi", COMMON, ALL_HEADS),),
    "phi3": (TinyModel("phi3", {**GROUPED, "pad_token_id": 0}),),
    "mixtral": (
        TinyModel("mixtral", {**EXPLICIT, "num_local_experts": EXPERTS, "num_experts_per_tok": 2}, {"num_experts": EXPERTS}),
    ),
    "gpt2": (TinyModel("gpt2", {**GPT2, "bos_token_id": 0, "eos_token_id": 0}, ALL_HEADS),),
    "gpt_bigcode": (
        TinyModel("gpt_bigcode", GPT2, {"num_kv_heads": 1}),
        TinyModel("gpt_bigcode", {**GPT2, "multi_query": False}, ALL_HEADS),
    ),
    "gptj": (TinyModel("gptj", {**{k: v for k, v in GPT2.items() if k != "n_positions"}, "rotary_dim": 8}, ALL_HEADS),),
    "opt": (
        TinyModel("opt", OPT, ALL_HEADS),
        TinyModel("opt", {**OPT, "word_embed_proj_dim": 32}, ALL_HEADS),
    ),
    "gpt_neox": (TinyModel("gpt_neox", COMMON, ALL_HEADS),),
    "bloom": (
        TinyModel(
            "bloom",
            {"vocab_size": VOCAB, "hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS},
            {**ALL_HEADS, "intermediate_size": 256},
        ),
    ),
    "falcon": (
        TinyModel("falcon", FALCON, {"num_kv_heads": 1, "intermediate_size": 256}),
        TinyModel("falcon", {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}, {"intermediate_size": 256}),
        TinyModel(
            "falcon",
            {**FALCON, "alibi": True, "multi_query": False, "bias": True, "parallel_attn": False},
            {**ALL_HEADS, "intermediate_size": 256},
        ),
    ),
    "mpt": (
        TinyModel(
            "mpt",
            {"vocab_size": VOCAB, "d_model": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS},
            {**ALL_HEADS, "intermediate_size": 256},
        ),
    ),
    "stablelm": (
        TinyModel("stablelm", GROUPED),
        TinyModel("stablelm", {**GROUPED, "qk_layernorm": True, "use_qkv_bias": True}),
    ),
    "olmo": (TinyModel("olmo", GROUPED),),
    "olmo2": (TinyModel("olmo2", GROUPED), TinyModel("olmo3", GROUPED)),
    "olmoe": (TinyModel("olmoe", {**GROUPED, "num_experts": EXPERTS, "num_experts_per_tok": 2}, {"num_experts": EXPERTS}),),
    "cohere": (
        TinyModel("cohere", GROUPED),
        TinyModel("cohere", {**GROUPED, "use_qk_norm": True}),
        TinyModel("cohere2", EXPLICIT),
    ),
    "deepseek": (
        TinyModel(
            "deepseek_v2",
            {**MLA, "q_lora_rank": None, "topk_method": "greedy"},
            {**COMPRESSED, **EXPERT_LAYER},
            {0: {"num_experts": None, "intermediate_size": INTERMEDIATE}},
        ),
        TinyModel(
            "deepseek_v3",
            {**MLA, "q_lora_rank": 20, "n_group": 2, "topk_group": 1},
            {**COMPRESSED, **EXPERT_LAYER},
            {0: {"num_experts": None, "intermediate_size": INTERMEDIATE}},
        ),
        TinyModel(
            "deepseek_v32",
            {
                **MLA,
                "q_lora_rank": 20,
                "n_group": 2,
                "topk_group": 1,
                "index_n_heads": 2,
                "index_head_dim": 16,
                "mlp_layer_types": ["dense", *["sparse"] * 3],
            },
            {**COMPRESSED, **EXPERT_LAYER},
            {0: {"num_experts": None, "intermediate_size": INTERMEDIATE}},
        ),
    ),
    "dbrx": (
        TinyModel(
            "dbrx",
            {
                "vocab_size": VOCAB,
                "d_model": HIDDEN,
                "n_layers": LAYERS,
                "n_heads": HEADS,
                "max_seq_len": 32,
                "attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 8, "rope_theta": 1e4},
                "ffn_config": {
                    "ffn_hidden_size": INTERMEDIATE,
                    "moe_num_experts": EXPERTS,
                    "moe_top_k": 2,
                    "hidden_size": HIDDEN,
                },
            },
            {"num_experts": EXPERTS},
        ),
    ),
    "gpt_oss": (
        TinyModel("gpt_oss", {**EXPLICIT, "num_local_experts": EXPERTS, "num_experts_per_tok": 2}, {"num_experts": EXPERTS}),
    ),
    "granitemoe": (
        TinyModel("granitemoe", {**GROUPED, "num_local_experts": EXPERTS, "num_experts_per_tok": 2}, {"num_experts": EXPERTS}),
    ),
    "granitemoehybrid": (
        TinyModel(
            "granitemoeshared",
            {**GROUPED, "num_local_experts": EXPERTS, "num_experts_per_tok": 2, "shared_intermediate_size": 80},
            {"num_experts": EXPERTS},
        ),
        TinyModel(
            "granitemoehybrid",
            {
                **GROUPED,
                "num_local_experts": EXPERTS,
                "num_experts_per_tok": 2,
                "shared_intermediate_size": 80,
                "layer_types": ["mamba", "attention", "mamba", "attention"],
                "mamba_n_heads": 4,
                "mamba_d_head": 32,
                "mamba_d_state": 8,
                "mamba_expand": 2,
                "mamba_n_groups": 1,
            },
            {"num_experts": EXPERTS},
            {0: NO_HEADS, 2: NO_HEADS},
        ),
    ),
    "glm": (TinyModel("glm", {**EXPLICIT, "pad_token_id": 0}), TinyModel("glm4", {**EXPLICIT, "pad_token_id": 0})),
    "glm4_moe": (
        TinyModel(
            "glm4_moe",
            {
                **EXPLICIT,
                **MOE,
                "pad_token_id": 0,
                "n_routed_experts": EXPERTS,
                "n_shared_experts": 1,
                "first_k_dense_replace": 1,
                "use_qk_norm": True,
                "n_group": 1,
                "topk_group": 1,
            },
            EXPERT_LAYER,
            {0: {"num_experts": None, "intermediate_size": INTERMEDIATE}},
        ),
    ),
    "mamba": (TinyModel("mamba", SSM, SSM_LAYER), TinyModel("falcon_mamba", SSM, SSM_LAYER)),
    "mamba2": (TinyModel("mamba2", {**SSM, "num_heads": 4, "head_dim": 32, "n_groups": 1}, SSM_LAYER),),
    "nemotron_h": (
        TinyModel(
            "nemotron_h",
            {
                **{key: value for key, value in EXPLICIT.items() if key != "num_hidden_layers"},
                **MOE,
                "layers_block_type": ["mamba", "attention", "moe", "mlp"],
                "mamba_num_heads": 4,
                "mamba_head_dim": 32,
                "ssm_state_size": 8,
                "n_groups": 1,
                "n_routed_experts": EXPERTS,
                "n_shared_experts": 1,
                "moe_shared_expert_intermediate_size": 80,
            },
            {},
            {0: SSM_LAYER, 1: {"intermediate_size": 0}, 2: {**NO_HEADS, **EXPERT_LAYER}, 3: NO_HEADS},
        ),
    ),
    "bert": (
        TinyModel("bert", {**COMMON, "max_position_embeddings": 32}, ALL_HEADS, auto=MASKED, stack="encoder"),
        TinyModel("bert", {**COMMON, "max_position_embeddings": 32}, ALL_HEADS, auto=CLASSIFIER, stack="encoder"),
    ),
    "t5": tuple(
        TinyModel(kind, {**T5, **more}, ALL_HEADS, auto=SEQUENCE, stack="decoder", others={"encoder": (3, ALL_HEADS)})
        for kind, more in (("t5", {}), ("mt5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}))
    ),
    "bart": (
        TinyModel(
            "bart",
            {**SEQUENCES, "max_position_embeddings": 32},
            ALL_HEADS,
            auto=SEQUENCE,
            stack="decoder",
            others={"encoder": (3, ALL_HEADS)},
        ),
    ),
    "whisper": (
        TinyModel(
            "whisper",
            {**SEQUENCES, "max_source_positions": 32, "max_target_positions": 32, "pad_token_id": 0, "num_mel_bins": 8},
            ALL_HEADS,
            auto="AutoModelForSpeechSeq2Seq",
            stack="decoder",
            others={"encoder": (3, ALL_HEADS)},
        ),
    ),
    "clip_vision": (TinyModel("clip_vision_model", TOWER, TOWER_LAYER, **VISION),),
    "siglip_vision": (TinyModel("siglip_vision_model", TOWER, TOWER_LAYER, **VISION),),
    "pixtral_vision": (TinyModel("pixtral", TOWER, TOWER_LAYER, **VISION),),
    "llava": (
        _image("llava", PLAIN_LLAMA, CLIP, TOWER_LAYER, image_token_index=1),
        _image("llava_next", PLAIN_MISTRAL, CLIP, TOWER_LAYER, image_token_index=1),
        _image("mistral3", PLAIN_MISTRAL, PIXTRAL, TOWER_LAYER),
    ),
    "qwen2_vl": (
        _image(
            "qwen2_vl",
            {**GROUPED, "model_type": "qwen2_vl_text"},
            {**QWEN_TOWER, "embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2},
            {**TOWER_LAYER, "intermediate_size": 64},
        ),
    ),
    "qwen2_5_vl": (
        _image(
            "qwen2_5_vl",
            {**GROUPED, "model_type": "qwen2_5_vl_text"},
            {**QWEN_TOWER, "hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 48, "fullatt_block_indexes": [1]},
            TOWER_LAYER,
        ),
    ),
    "qwen3_vl": (
        _image(
            "qwen3_vl",
            {**EXPLICIT, "model_type": "qwen3_vl_text"},
            QWEN3_TOWER,
            TOWER_LAYER,
        ),
        _image(
            "qwen3_5",
            {**EXPLICIT, **DELTA, "model_type": "qwen3_5_text"},
            {key: value for key, value in QWEN3_TOWER.items() if key != "deepstack_visual_indexes"},
            TOWER_LAYER,
            layers=NO_ATTENTION,
        ),
        _image(
            "qwen3_5_moe",
            {
                **EXPLICIT,
                **MOE,
                **DELTA,
                "num_experts": EXPERTS,
                "shared_expert_intermediate_size": 80,
                "model_type": "qwen3_5_moe_text",
            },
            {key: value for key, value in QWEN3_TOWER.items() if key != "deepstack_visual_indexes"},
            TOWER_LAYER,
            sizes=EXPERT_LAYER,
            layers=NO_ATTENTION,
        ),
        _image(
            "qwen3_vl_moe",
            {**EXPLICIT, **MOE, "num_experts": EXPERTS, "model_type": "qwen3_vl_moe_text"},
            QWEN3_TOWER,
            TOWER_LAYER,
            sizes=EXPERT_LAYER,
        ),
    ),
    "llama4_text": (
        TinyModel(
            "llama4_text", LLAMA4, EXPERT_LAYER, {i: {"num_experts": None, "intermediate_size": INTERMEDIATE} for i in (0, 2)}
        ),
    ),
    "llama4": (
        _image(
            "llama4",
            LLAMA4,
            LLAMA4_TOWER,
            {**TOWER_LAYER, "intermediate_size": 128},
            sizes=EXPERT_LAYER,
            layers={i: {"num_experts": None, "intermediate_size": INTERMEDIATE} for i in (0, 2)},
            boi_token_index=1,
            eoi_token_index=2,
            image_token_index=3,
        ),
    ),
}
"""Models of each family that together have every tensor of its file that is not optional."""
