"""The cost of a token, compared with what the modules of real models compute for one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from layerhouse.ingest.model.layer_rows import layer_rows
from layerhouse.ingest.model.parameters import count_parameters
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.ingest.model.token_cost import compute_bits, model_kv_bytes, model_macs
from layerhouse.tests.family_models import MODELS
from layerhouse.tests.tiny_models import (
    EXPLICIT,
    TinyModel,
    Width,
    build,
    llama_shapes,
    save,
    shape_refs,
)

DENSE = ["llama", "gpt2", "phi3", "opt", "gpt_neox", "gemma2", "qwen2", "falcon", "bloom", "gptj", "cohere", "mpt"]
COPIED = {"falcon"}
"""Families for which transformers caches a key once for each query head that shares it."""


def run_one_token(model):
    """Multiply-accumulates of the linear modules for one token, and its bytes in the KV cache."""
    counted = []

    def count(module, inputs, output):
        counted.append(inputs[0].numel() // inputs[0].shape[-1] * module.weight.numel())

    handles = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    with torch.no_grad():
        cache = model(input_ids=torch.tensor([[1]]), use_cache=True).past_key_values
    for handle in handles:
        handle.remove()
    kept = sum(tensor.numel() * tensor.element_size() for layer in cache.layers for tensor in (layer.keys, layer.values))
    return sum(counted), kept


def costs(model, folder):
    refs, config = save(model, folder)
    placement = place_tensors(refs, config)
    rows, _ = layer_rows(placement, config)
    return model_macs(placement, config, count_parameters(placement, config), rows), model_kv_bytes(placement, config, rows)


@pytest.mark.parametrize(("name", "number"), [(name, number) for name in DENSE for number in range(len(MODELS[name]))])
def test_costs_are_those_of_the_modules(name, number, tmp_path):
    model = build(MODELS[name][number]).eval()
    macs, kept = costs(model, tmp_path)
    macs_run, kept_run = run_one_token(model)
    assert macs == macs_run
    assert kept == kept_run or (name in COPIED and kept_run % kept == 0)


def test_a_token_goes_through_some_of_the_experts(tmp_path):
    tiny = TinyModel("mixtral", {**EXPLICIT, "num_local_experts": 4, "num_experts_per_tok": 2})
    model = build(tiny).eval()
    through_modules, kept = run_one_token(model)
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    routers = sum(p.numel() for name, p in model.named_parameters() if ".gate.weight" in name and ".experts." not in name)
    linear = {id(p) for module in model.modules() if isinstance(module, nn.Linear) for p in module.parameters()}
    outside = 0 if any(id(p) in linear for name, p in model.named_parameters() if ".gate.weight" in name) else routers
    assert costs(model, tmp_path) == (through_modules + outside + experts // 2, kept)


def expert_costs(experts, per_token, widths=None):
    """MACs of a Mixtral layer with these experts of 16 x 8 (or other widths), of which a token is routed to some."""
    shapes = {"model.layers.0.block_sparse_moe.gate.weight": (experts, 8)}
    for number in range(experts):
        width = (widths or {}).get(number, 16)
        prefix = f"model.layers.0.block_sparse_moe.experts.{number}"
        shapes |= {f"{prefix}.w1.weight": (width, 8), f"{prefix}.w3.weight": (width, 8), f"{prefix}.w2.weight": (8, width)}
    config = {"model_type": "mixtral", "num_experts_per_tok": per_token}
    ((row,), _) = layer_rows(place_tensors(shape_refs(shapes), config), config)
    return row["macs_per_token"]


@pytest.mark.parametrize(("experts", "per_token", "active"), [(4, 2, 2), (2, 2, 2), (1, 2, 1), (3, 8, 3)])
def test_a_token_goes_through_no_more_experts_than_pruning_left(experts, per_token, active):
    assert expert_costs(experts, per_token) == active * 3 * 16 * 8 + experts * 8


def test_the_cost_of_unequal_experts_is_not_known():
    assert expert_costs(3, 2, {1: 12}) is None
    assert expert_costs(3, None) is None


@pytest.mark.parametrize(
    ("dtype", "config", "bits"),
    [
        ("F32", {"torch_dtype": "bfloat16"}, 32),
        ("F16", None, 16),
        ("F8_E4M3", {"torch_dtype": "torch.bfloat16"}, 16),
        ("F8_E4M3", {"torch_dtype": "float16"}, 16),
        ("I32", {"dtype": "float32", "torch_dtype": "float16"}, 32),
        ("I32", {"dtype": "float64"}, 64),
        ("F8_E4M3", {"dtype": "float8_e4m3fn"}, None),
        ("I32", None, None),
    ],
)
def test_the_model_computes_in_the_dtype_of_its_parameters_or_else_in_the_configs(dtype, config, bits):
    placement = place_tensors(shape_refs(llama_shapes({0: Width()}), dtype), None)
    assert compute_bits(placement.placed, config) == bits


def test_the_dtype_of_most_parameters_decides():
    shapes = llama_shapes({0: Width()})
    norms = {name: shape for name, shape in shapes.items() if "norm" in name}
    rest = {name: shape for name, shape in shapes.items() if "norm" not in name}
    placement = place_tensors([*shape_refs(norms, "F32"), *shape_refs(rest, "F16")], None)
    assert compute_bits(placement.placed, None) == 16


def test_the_cost_of_a_model_is_not_known_if_that_of_one_layer_is_not():
    config = {"model_type": "mixtral", "num_experts_per_tok": 2, "architectures": ["Model"]}
    costs_by_width = {}
    for width in (16, 12):
        shapes = {}
        for layer, widths in ((0, (16, 16)), (1, (16, width))):
            prefix = f"model.layers.{layer}.block_sparse_moe"
            shapes[f"{prefix}.gate.weight"] = (2, 8)
            for number, size in enumerate(widths):
                for part, shape in (("w1", (size, 8)), ("w3", (size, 8)), ("w2", (8, size))):
                    shapes[f"{prefix}.experts.{number}.{part}.weight"] = shape
        placement = place_tensors(shape_refs(shapes), config)
        rows, _ = layer_rows(placement, config)
        costs_by_width[width] = model_macs(placement, config, count_parameters(placement, config), rows)
    assert costs_by_width == {16: 2 * (2 * 3 * 16 * 8 + 2 * 8), 12: None}
