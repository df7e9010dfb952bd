"""Tensors that are no parameters by their names: statistics, caches, masks, scores. Counts are those of torch."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.ingest.model.buffers import BufferNames
from layerhouse.ingest.model.parameters import count_parameters
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.tests.test_layouts import rows_of, write
from layerhouse.tests.tiny_models import Width, llama_shapes, shape_refs

LLAMA = {"model_type": "llama", "tie_word_embeddings": False}
SHAPES = llama_shapes(dict.fromkeys(range(4), Width()))
BLOCK_LINEARS = [name for name in SHAPES if name.endswith("proj.weight")]
HEAD = ("BF16", SHAPES["lm_head.weight"], b"\x3c" * (2 * 96 * 64))
"""A head of other values than the embedding, which the files have as zeros."""


def params(shapes, config=LLAMA):
    return count_parameters(place_tensors(shape_refs(shapes, "F32"), config), config).params


@pytest.mark.parametrize("suffix", ["mask_scores", "mask", "weight_mask", "weight_scores"])
def test_scores_and_masks_of_a_weight_are_none(suffix):
    """Movement pruning keeps a score for every element of a weight beside it."""
    scores = {name.replace(".weight", f".{suffix}"): SHAPES[name] for name in BLOCK_LINEARS}
    placement = place_tensors(shape_refs(SHAPES | scores, "F32"), LLAMA)
    totals = count_parameters(placement, LLAMA)
    assert (totals.params, totals.prunable_params) == (184_896, 172_032)
    assert (placement.family, placement.notes) == ("llama", ())
    assert {tensor.module for tensor in placement.placed if suffix in tensor.ref.name} == {"buffer"}
    placed = {tensor.ref.name: tensor.canonical_name for tensor in placement.placed}
    assert placed[f"model.layers.2.mlp.up_proj.{suffix}"] == f"text.2.buffer.mlp.up_proj.{suffix}"


def test_a_name_of_scores_without_its_weight_is_a_parameter():
    assert params({"a.mask_scores": (4, 4)}, None) == 16
    assert params({"a.weight": (4, 4), "a.score": (4,), "a.mask": (4, 4)}, None) == 20
    assert params({"quant.scale": (1,), "quant.zero_point": (1,), "norm.scale": (5,)}, None) == 5


def test_a_codebook_that_is_a_running_mean_is_none():
    codebook = {"q.codebook.embed": (32, 16), "q.codebook.embed_avg": (32, 16), "q.codebook.cluster_size": (32,)}
    assert params({"a.weight": (3, 3), **codebook, "q.codebook.inited": (1,)}, None) == 9
    assert params({"a.weight": (3, 3), "q.codebook.embed": (32, 16)}, None) == 9 + 512


def test_masks_that_are_learned_beside_a_model_are_none():
    masks = {"l0_module.masks.head.z_loga": (4, 4), "l0_module.lambdas.lambda_1_head": ()}
    assert params(SHAPES | masks) == 184_896
    assert params({f"model.{name}": shape for name, shape in (SHAPES | masks).items()}) == 184_896


def test_a_model_of_no_family_counts_as_in_torch(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, bias=False), torch.nn.BatchNorm2d(16))
    assert sum(parameter.numel() for parameter in model.parameters()) == 464
    for name, save in (("state.pt", torch.save), ("model.safetensors", save_file)):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        save(model.state_dict(), folder / name)
    lh.ingest([tmp_path], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        counts = wh.sql("SELECT DISTINCT params FROM models").rows()
        buffers = wh.sql("SELECT DISTINCT name FROM tensors WHERE module = 'buffer' ORDER BY 1").rows()
    assert counts == [(464,)]
    assert buffers == [("1.num_batches_tracked",), ("1.running_mean",), ("1.running_var",)]


@pytest.mark.parametrize(
    "name",
    [
        "bn.running_mean",
        "x.rotary_emb.cos_cached",
        "x.rotary_emb.sin_cached",
        "rotary_emb.inv_freq",
        "freqs_cis",
        "model.layers.0.self_attn.slope_rate",
        "x.attn.masked_bias",
        "mlp.gate.e_score_correction_bias",
        "final_logits_bias",
        "layers.0.fc.activation_post_process.min_val",
        "layers.0.fc.weight_fake_quant.scale",
        "vision.pixel_mean",
    ],
)
def test_buffers_are_told_by_their_names(name):
    assert name in BufferNames([name], [1], ())
    assert params({"a.weight": (3, 3), name: (7,)}, None) == 9


@pytest.mark.parametrize(
    "name",
    [
        "norm.beta",
        "layer_scalar",
        "moe_statics.e_score_correction_bias",
        "experts.e_score_correction_bias",
        "position_embedding",
        "attn.bias",
        "x.running_mean_net.weight",
        "mask_token",
    ],
)
def test_names_that_some_models_have_for_parameters_are_parameters(name):
    assert name not in BufferNames([name], [1], ())
    assert params({"a.weight": (3, 3), name: (7,)}, None) == 16


def test_some_names_are_buffers_in_some_model_types():
    shapes = {"a.weight": (3, 3), "x.layers.0.layer_scalar": (1,), "x.mlp.act_fn.beta": ()}
    assert params(shapes, {"model_type": "gemma4_text"}) == 10
    assert params(shapes, {"model_type": "gemma4", "text_config": {"model_type": "gemma4_text"}}) == 10
    assert params(shapes, {"model_type": "apertus"}) == 10
    assert params(shapes, {"model_type": "novel"}) == 11


def test_a_causal_mask_has_four_dimensions():
    assert params({"h.attn.weight": (3, 3), "h.attn.bias": (1, 1, 8, 8)}, None) == 9
    assert params({"h.attn.weight": (3, 3), "h.attn.bias": (3,)}, None) == 12


def test_scales_beside_codes_are_none_and_axes_are_turned_back(tmp_path):
    """EETQ keeps a weight as int8 of shape (inputs, outputs)."""
    entries = {}
    for name, shape in SHAPES.items():
        is_packed = name in BLOCK_LINEARS
        entries[name] = ("I8" if is_packed else "BF16", shape[::-1] if is_packed else shape, None)
        if is_packed:
            entries[name.replace(".weight", ".weight_scales")] = ("F16", (shape[0],), None)
    entries["lm_head.weight"] = HEAD
    config = {**LLAMA, "quantization_config": {"quant_method": "eetq"}}
    checkpoint, tensors, layers = rows_of(write(tmp_path / "eetq", entries, config))
    assert (checkpoint["params"], layers[0]["intermediate_size"]) == (184_896, 160)
    row = tensors["model.layers.0.mlp.up_proj.weight"]
    assert (row["weight_shape"] or row["shape"]) == [160, 64]


def test_inner_tensors_of_float8_subclasses_are_one_weight(tmp_path):
    entries = {}
    for name, shape in SHAPES.items():
        if name in BLOCK_LINEARS:
            stem = name.removesuffix("weight")
            entries[f"{stem}_weight_qdata"] = ("F8_E4M3", shape, None)
            entries[f"{stem}_weight_scale"] = ("F32", (shape[0], 1), None)
        else:
            entries[name] = ("BF16", shape, None)
    entries["lm_head.weight"] = HEAD
    config = {**LLAMA, "quantization_config": {"quant_method": "torchao"}}
    checkpoint, _, layers = rows_of(write(tmp_path / "float8", entries, config))
    assert (checkpoint["params"], layers[0]["intermediate_size"]) == (184_896, 160)
