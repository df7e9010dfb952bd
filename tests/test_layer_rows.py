"""Layers by their shapes: different widths, heads that do not divide, contradicting configs, placeholder exports."""

from __future__ import annotations

import pytest

from layerhouse.ingest.model.layer_rows import layer_rows
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.tests.tiny_models import Width, llama_shapes, shape_refs
from layerhouse.warehouse.storage.schema import LAYERS

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "intermediate_size": 160,
    "head_dim": 16,
}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 3, "n_inner": None}


def measure(shapes, config=None, zeros=None):
    """Rows and the notes' texts."""
    rows, notes = layer_rows(place_tensors(shape_refs(shapes), config), config, zeros)
    return rows, [note["text"] for note in notes]


def column(rows, name):
    return [row[name] for row in rows]


def test_rows_are_those_of_the_layers_table():
    rows, notes = measure(llama_shapes(dict.fromkeys(range(4), Width())), CONFIG)
    names = set(LAYERS.column_names)
    assert all(set(row) <= names for row in rows)
    assert rows[2] == {
        "stack": "text",
        "layer_index": 2,
        "params": 43136,
        "attention_params": 12288,
        "mlp_params": 30720,
        "norm_params": 128,
        "other_params": 0,
        "role_params": {
            "q_proj": 4096,
            "k_proj": 2048,
            "v_proj": 2048,
            "o_proj": 4096,
            "gate_proj": 10240,
            "up_proj": 10240,
            "down_proj": 10240,
        },
        "zeros": None,
        "attention_zeros": None,
        "mlp_zeros": None,
        "logical_bytes": 86272,
        "has_experts": False,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "intermediate_size": 160,
        "num_experts": None,
        "hidden_size": 64,
        "macs_per_token": 43008,
        "kv_values_per_token": 64,
        "is_zero_layer": False,
        "inactive_part": None,
    }
    assert notes == []


def test_every_layer_has_its_own_widths():
    widths = {0: Width(), 1: Width(48, 48, 120), 2: Width(32, 16, 40), 3: Width(64, 32, 159)}
    rows, notes = measure(llama_shapes(widths), CONFIG)
    assert column(rows, "num_heads") == [4, 3, 2, 4]
    assert column(rows, "num_kv_heads") == [2, 3, 1, 2]
    assert column(rows, "intermediate_size") == [160, 120, 40, 159]
    by = ", with head_dim 16 by the config's head_dim"
    assert notes == [
        f"num_attention_heads is 4 in the config, and 2 to 3 in the shapes of layers 1, 2{by}",
        f"num_key_value_heads is 2 in the config, and 1 to 3 in the shapes of layers 1, 2{by}",
        "intermediate_size is 160 in the config, and 40 to 159 in the shapes of layers 1 to 3",
        "layer 1: 3 query heads to 3 KV heads, and 4 to 2 in the config",
    ]


def test_widths_that_the_config_lists_by_layer_are_compared_by_layer():
    widths = {0: Width(), 1: Width(intermediate=120), 2: Width(intermediate=100)}
    config = {**CONFIG, "num_hidden_layers": 3}
    assert measure(llama_shapes(widths), {**config, "intermediate_size": [160, 120, 100]})[1] == []
    assert measure(llama_shapes(widths), {**config, "intermediate_size": [160, 120]})[1] == []
    assert measure(llama_shapes(widths), {**config, "intermediate_size": [160, 160, 100]})[1] == [
        "intermediate_size is 160 in the config, and 120 in the shapes of layer 1"
    ]


def test_an_explicit_head_dim_is_not_hidden_size_over_heads():
    rows, notes = measure(llama_shapes({0: Width()}, hidden=40), {**CONFIG, "hidden_size": 40, "num_hidden_layers": 1})
    assert (rows[0]["num_heads"], rows[0]["head_dim"], rows[0]["hidden_size"], notes) == (4, 16, 40, [])


@pytest.mark.parametrize("head_dim", [16, None])
def test_a_note_on_fewer_heads_than_declared_names_the_source_of_head_dim(head_dim):
    config = {**CONFIG, "num_hidden_layers": 1, "head_dim": head_dim}
    rows, notes = measure(llama_shapes({0: Width(48, 16)}), config)
    assert (rows[0]["num_heads"], rows[0]["num_kv_heads"]) == (3, 1)
    how = "the config's head_dim" if head_dim else "the config's hidden size 64 / 4 heads"
    assert notes == [
        f"num_attention_heads is 4 in the config, and 3 in the shapes of layer 0, with head_dim 16 by {how}",
        f"num_key_value_heads is 2 in the config, and 1 in the shapes of layer 0, with head_dim 16 by {how}",
        "layer 0: 3 query heads to 1 KV heads, and 4 to 2 in the config",
    ]


def test_heads_that_do_not_divide_are_null_with_the_reason():
    rows, notes = measure(llama_shapes({i: Width(55 if i == 3 else 64) for i in range(4)}), CONFIG)
    assert column(rows, "num_heads") == [4, 4, 4, None]
    assert column(rows, "num_kv_heads") == [2, 2, 2, 2]
    assert notes == ["layer 3: 55 query rows are no multiple of head_dim 16"]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (None, "there is no config"),
        ({"model_type": "llama"}, "the config has neither head_dim nor one hidden size and head count"),
        (
            {"model_type": "llama", "hidden_size": "64", "num_attention_heads": True},
            "the config has neither head_dim nor one hidden size and head count",
        ),
        (
            {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 5},
            "the config's hidden size 64 is no multiple of its 5 heads",
        ),
    ],
)
def test_without_a_head_dim_heads_are_unknown(config, why):
    rows, notes = measure(llama_shapes({0: Width(), 1: Width()}), config)
    assert (column(rows, "num_heads"), column(rows, "head_dim")) == ([None, None], [None, None])
    assert notes == [f"layers 0, 1: head_dim is not known: {why}"]
    assert column(rows, "intermediate_size") == [160, 160]


def test_a_norm_over_single_heads_measures_head_dim():
    """Pruning that shrinks every head keeps their number, even if the config still has the old head_dim."""
    shapes = llama_shapes({0: Width(48, 24)})
    shapes |= {f"model.layers.0.self_attn.{name}_norm.weight": (12,) for name in "qk"}
    rows, notes = measure(shapes, {**CONFIG, "model_type": "qwen3", "num_hidden_layers": 1})
    assert (rows[0]["num_heads"], rows[0]["num_kv_heads"], rows[0]["head_dim"]) == (4, 2, 12)
    assert notes == ["head_dim is 16 in the config, and 12 in the shapes of layer 0"]


def test_rows_and_columns_that_disagree_are_noted():
    shapes = llama_shapes({0: Width(), 1: Width()})
    shapes["model.layers.0.mlp.down_proj.weight"] = (64, 158)
    shapes["model.layers.0.self_attn.o_proj.weight"] = (64, 48)
    shapes["model.layers.1.mlp.up_proj.weight"] = (150, 64)
    shapes["model.layers.1.self_attn.v_proj.weight"] = (16, 64)
    rows, notes = measure(shapes, {**CONFIG, "num_hidden_layers": 2})
    assert column(rows, "intermediate_size") == [160, None]
    assert column(rows, "num_heads") == [4, 4]
    assert notes == [
        "layer 0: o_proj has 48 inputs, and 4 heads of 16 give 64",
        "layer 0: gate and up have 160 rows, and down has 158 columns",
        "layer 1: 32 key rows, and 16 value rows",
        "layer 1: gate and up have 150 to 160 rows",
    ]


def gpt2_shapes(rows, prefix="", widths=(160, 160, 160)):
    shapes = {f"{prefix}wte.weight": (96, 64), f"{prefix}wpe.weight": (32, 64)}
    for index, (fused, width) in enumerate(zip(rows, widths, strict=True)):
        shapes |= {
            f"{prefix}h.{index}.attn.c_attn.weight": (64, fused),
            f"{prefix}h.{index}.attn.c_attn.bias": (fused,),
            f"{prefix}h.{index}.attn.c_proj.weight": (fused // 3, 64),
            f"{prefix}h.{index}.mlp.c_fc.weight": (64, width),
            f"{prefix}h.{index}.mlp.c_proj.weight": (width, 64),
        }
    return shapes


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_fused_queries_keys_and_values_of_gpt2_are_on_the_last_axis(prefix):
    rows, notes = measure(gpt2_shapes([192, 96, 150], prefix, (160, 120, 80)), GPT2)
    assert column(rows, "num_heads") == column(rows, "num_kv_heads") == [4, 2, None]
    assert column(rows, "intermediate_size") == [160, 120, 80]
    assert column(rows, "hidden_size") == [64, 64, 64]
    assert notes == [
        "layer 2: 150 fused query, key and value rows are no multiple of 3 x head_dim 16",
        "n_head is 4 in the config, and 2 in the shapes of layer 1, with head_dim 16 by the config's hidden size 64 / 4 heads",
    ]


@pytest.mark.parametrize(
    ("fused", "inputs", "heads", "kv_heads", "reason"),
    [
        (128, 64, 4, 2, None),
        (112, 48, 3, 2, "3 query heads do not share 2 KV heads evenly"),
        (120, 64, 4, None, "120 fused rows less 4 query heads of 16 are no multiple of 2 x head_dim 16"),
        (32, 64, 4, None, "32 fused rows less 4 query heads of 16 are no multiple of 2 x head_dim 16"),
        (128, 60, None, None, "60 inputs of o_proj are no multiple of head_dim 16"),
        (128, None, None, None, "128 fused query, key and value rows, and no output projection that gives the query heads"),
    ],
)
def test_fused_heads_of_phi3_are_split_by_the_output_projection(fused, inputs, heads, kv_heads, reason):
    shapes = {"model.layers.0.self_attn.qkv_proj.weight": (fused, 64), "model.layers.0.mlp.gate_up_proj.weight": (301, 64)}
    if inputs is not None:
        shapes["model.layers.0.self_attn.o_proj.weight"] = (64, inputs)
    config = {"model_type": "phi3", "hidden_size": 64, "num_attention_heads": 4}
    rows, notes = measure(shapes, config)
    assert (rows[0]["num_heads"], rows[0]["num_kv_heads"], rows[0]["intermediate_size"]) == (heads, kv_heads, None)
    assert [note for note in notes if "num_attention" not in note] == [
        *([f"layer 0: {reason}"] if reason else []),
        "layer 0: 301 fused gate and up rows are odd",
    ]


def mixtral_shapes(experts, router_rows, widths=None):
    shapes = {
        "model.layers.0.self_attn.q_proj.weight": (64, 64),
        "model.layers.0.block_sparse_moe.gate.weight": (router_rows, 64),
    }
    for expert in experts:
        width = (widths or {}).get(expert, 160)
        prefix = f"model.layers.0.block_sparse_moe.experts.{expert}"
        shapes |= {f"{prefix}.w1.weight": (width, 64), f"{prefix}.w3.weight": (width, 64), f"{prefix}.w2.weight": (64, width)}
    return shapes


def test_experts_are_counted_and_their_router_is_compared():
    config = {**CONFIG, "model_type": "mixtral", "num_local_experts": 4, "num_hidden_layers": 1}
    rows, notes = measure(mixtral_shapes((0, 1, 2), 3), config)
    assert (rows[0]["num_experts"], rows[0]["intermediate_size"]) == (3, 160)
    assert (rows[0]["mlp_params"], rows[0]["other_params"]) == (3 * 3 * 160 * 64, 3 * 64)
    assert notes == ["num_local_experts is 4 in the config, and 3 in the shapes of layer 0"]
    rows, notes = measure(mixtral_shapes((0, 1, 3), 4, {3: 120}), config)
    assert (rows[0]["num_experts"], rows[0]["intermediate_size"]) == (3, None)
    assert notes[:2] == ["layer 0: gate and up have 120 to 160 rows", "layer 0: 3 experts, and a router with 4 rows"]


def test_missing_layer_numbers_are_named():
    rows, notes = measure(llama_shapes(dict.fromkeys((0, 1, 4, 5), Width())), {**CONFIG, "num_hidden_layers": 6})
    assert column(rows, "layer_index") == [0, 1, 4, 5]
    assert notes == [
        "layers 2, 3 missing by number, of layers 0 to 5",
        "num_hidden_layers is 6 in the config, and 4 layers are there",
    ]


def test_renumbered_layers_only_disagree_with_the_config():
    layers = dict.fromkeys(range(4), Width())
    assert measure(llama_shapes(layers), CONFIG)[1] == []
    assert measure(llama_shapes(layers), {**CONFIG, "num_hidden_layers": 6})[1] == [
        "num_hidden_layers is 6 in the config, and 4 layers are there"
    ]


def test_far_apart_layer_numbers_cost_nothing():
    _, notes = measure(llama_shapes({1: Width(), 7: Width(), 999_999_999: Width()}), {**CONFIG, "num_hidden_layers": 3})
    assert notes == ["layers 0, 2 to 6, 8 to 999999998 missing by number, of layers 0 to 999999999"]


def test_a_block_without_attention_and_mlp_is_a_zero_layer():
    shapes = llama_shapes(dict.fromkeys(range(3), Width()))
    kept = {name: shape for name, shape in shapes.items() if not ("layers.1." in name and "proj" in name)}
    kept = {name: shape for name, shape in kept.items() if not ("layers.2." in name and "self_attn" in name)}
    rows, _ = measure(kept, {**CONFIG, "num_hidden_layers": 3})
    assert column(rows, "is_zero_layer") == [False, True, False]
    assert column(rows, "num_heads") == [4, 0, 0]
    assert column(rows, "num_kv_heads") == [2, 0, 0]
    assert column(rows, "intermediate_size") == [160, 0, 160]
    assert column(rows, "attention_params") == [12288, 0, 0]


def test_a_block_of_zeros_is_a_zero_layer_once_values_are_counted():
    shapes = llama_shapes(dict.fromkeys(range(2), Width()))
    refs = {ref.name: ref.elements for ref in shape_refs(shapes)}
    zeros = {name: elements if "layers.1." in name and "proj" in name else 1 for name, elements in refs.items()}
    rows, _ = measure(shapes, CONFIG, zeros)
    assert column(rows, "is_zero_layer") == [False, True]
    assert column(rows, "zeros") == [9, 12288 + 30720 + 2]
    del zeros["model.layers.1.mlp.up_proj.weight"]
    rows, _ = measure(shapes, CONFIG, zeros)
    assert (column(rows, "is_zero_layer"), column(rows, "zeros")) == ([False, None], [9, None])


def test_weights_that_no_template_describes_make_a_module_unknown_and_not_empty():
    shapes = {name: shape for name, shape in llama_shapes({0: Width()}).items() if "mlp" not in name}
    shapes["model.layers.0.mixer.in_proj.weight"] = (64, 64)
    rows, _ = measure(shapes, {**CONFIG, "num_hidden_layers": 1})
    row = rows[0]
    assert (row["attention_params"], row["mlp_params"], row["other_params"]) == (12288, None, None)
    assert (row["num_heads"], row["intermediate_size"], row["is_zero_layer"]) == (4, None, None)


def test_added_biases_are_counted_and_named():
    shapes = llama_shapes(dict.fromkeys(range(4), Width()))
    for index in range(4):
        shapes[f"model.layers.{index}.mlp.down_proj.bias"] = (64,)
    shapes["model.layers.2.self_attn.o_proj.bias"] = (64,)
    rows, notes = measure(shapes, CONFIG)
    assert column(rows, "attention_params") == [12288, 12288, 12352, 12288]
    assert column(rows, "mlp_params") == [30784] * 4
    assert notes == [
        "layers 0 to 3: down_proj.bias of 64 parameters is added: the config's mlp_bias is not true",
        "layer 2: o_proj.bias of 64 parameters is added: the config's attention_bias is not true",
    ]
    assert measure(shapes, {**CONFIG, "attention_bias": True, "mlp_bias": True})[1] == []
    qwen2 = measure({"model.layers.0.self_attn.o_proj.bias": (64,), "model.norm.weight": (64,)}, {"model_type": "qwen2"})
    assert qwen2[1] == ["layer 0: o_proj.bias of 64 parameters is added: the family has none"]


def test_sliced_residual_widths_are_read_where_attention_reads():
    shapes = {name: tuple(44 if size == 64 else size for size in shape) for name, shape in llama_shapes({0: Width(80)}).items()}
    shapes["model.layers.0.self_attn.q_proj.weight"] = (64, 44)
    shapes["model.layers.0.mlp.down_proj.weight"] = (64, 160)
    shapes |= {"model.layers.0.attn_shortcut_Q": (44, 44), "model.layers.0.mlp_shortcut_Q": (44, 44)}
    rows, notes = measure(shapes, {**CONFIG, "num_hidden_layers": 1})
    assert (rows[0]["hidden_size"], rows[0]["other_params"]) == (44, 2 * 44 * 44)
    assert "layer 0: hidden sizes differ: q_proj 44, down_proj 64" in notes
    assert "hidden_size is 64 in the config, and 44 in the shapes of layer 0" in notes


@pytest.mark.parametrize("shape", [(0,), (1,)])
def test_placeholder_shapes_are_an_incomplete_export(shape):
    full = llama_shapes(dict.fromkeys(range(4), Width()))
    placeholders = {name: shape if "layers" in name else full_shape for name, full_shape in full.items()}
    rows, notes = measure(placeholders, CONFIG)
    assert notes == ["placeholder shapes: incomplete export"]
    for name in ("num_heads", "num_kv_heads", "intermediate_size", "hidden_size", "is_zero_layer"):
        assert column(rows, name) == [None] * 4


def test_one_weight_of_an_odd_shape_is_noted():
    shapes = llama_shapes({0: Width()})
    shapes["model.layers.0.mlp.up_proj.weight"] = (0,)
    rows, notes = measure(shapes, {**CONFIG, "num_hidden_layers": 1})
    assert (rows[0]["intermediate_size"], rows[0]["num_heads"]) == (None, 4)
    assert notes == ["layer 0: up_proj has shape [0]"]


def test_a_layer_of_norms_alone_is_a_zero_layer():
    rows, notes = measure({"model.layers.0.input_layernorm.weight": (64,), "model.norm.weight": (64,)})
    assert (rows[0]["params"], rows[0]["num_heads"], rows[0]["intermediate_size"], rows[0]["is_zero_layer"]) == (64, 0, 0, True)
    assert notes == []
    assert measure({}) == ([], [])


def test_sizes_beyond_32_bits_are_null():
    shapes = {"model.layers.0.mlp.up_proj.weight": (2**40, 0), "model.layers.0.mlp.down_proj.weight": (0, 2**40)}
    rows, _ = measure(shapes)
    assert rows[0]["intermediate_size"] is None


def test_parameters_of_a_text_model_inside_another_config_are_found():
    outer = {"model_type": "llava", "text_config": {**CONFIG, "num_hidden_layers": 1}}
    rows, notes = measure(llama_shapes({0: Width()}), outer)
    assert (rows[0]["num_heads"], notes) == (4, [])
