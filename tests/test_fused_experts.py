"""Packed weights of all experts of a layer, which are no module of their own, count as the plain ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from layerhouse.tests.test_layouts import Entry, plain, rows_of, write

EXPERTS, HIDDEN, WIDTH = 4, 64, 32
MODULE = "model.layers.0.mlp.experts"
FUSED = {f"{MODULE}.gate_up_proj": (EXPERTS, 2 * WIDTH, HIDDEN), f"{MODULE}.down_proj": (EXPERTS, HIDDEN, WIDTH)}
OTHERS = {
    "model.embed_tokens.weight": (96, HIDDEN),
    "model.layers.0.input_layernorm.weight": (HIDDEN,),
    "model.layers.0.post_attention_layernorm.weight": (HIDDEN,),
    "model.layers.0.mlp.gate.weight": (EXPERTS, HIDDEN),
    **{f"model.layers.0.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"},
    "model.norm.weight": (HIDDEN,),
}
Pack = Callable[[str, tuple[int, ...]], Iterator[tuple[str, Entry]]]


def fp8(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Entry]]:
    yield name, ("F8_E4M3", shape, b"\0" * HIDDEN + b"\x38" * (math.prod(shape) - HIDDEN))
    yield f"{name}_scale_inv", ("F32", (shape[0], 1, 1), None)


def fp8_of_other_names(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Entry]]:
    for part, entry in fp8(name, shape):
        yield {name: f"{name}_weight", f"{name}_scale_inv": f"{name}_weight_scale"}[part], entry


def pack_quantized(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Entry]]:
    yield f"{name}_packed", ("I32", (*shape[:-1], shape[-1] // 8), None)
    yield f"{name}_scale", ("BF16", (*shape[:-1], 1), None)
    yield f"{name}_shape", ("I64", (3,), b"".join(extent.to_bytes(8, "little") for extent in shape))


def nf4(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Entry]]:
    elements = math.prod(shape)
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": shape}).encode()
    yield name, ("U8", (elements // 2, 1), None)
    yield f"{name}.absmax", ("F32", (elements // 64,), None)
    yield f"{name}.quant_map", ("F32", (16,), None)
    yield f"{name}.quant_state.bitsandbytes__nf4", ("U8", (len(state),), state)


FORMS: dict[str, tuple[Pack, str]] = {
    "fp8": (fp8, "fp8"),
    "fp8 of other names": (fp8_of_other_names, "fp8"),
    "pack-quantized": (pack_quantized, "compressed-tensors"),
    "nf4": (nf4, "bitsandbytes"),
}


def config_of(family: str, method: str | None) -> dict[str, Any]:
    sizes = {"hidden_size": HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
    quantization = {} if method is None else {"quantization_config": {"quant_method": method}}
    return {"model_type": family, **sizes, **quantization}


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
@pytest.mark.parametrize("form", FORMS)
def test_they_have_the_counts_and_sizes_of_plain_experts(tmp_path, form, family):
    pack, method = FORMS[form]
    entries = plain(OTHERS)
    for name, shape in FUSED.items():
        entries |= dict(pack(name, shape))
    whole, _, (whole_layer,) = rows_of(write(tmp_path / "whole", plain({**OTHERS, **FUSED}), config_of(family, None)))
    checkpoint, tensors, (layer,) = rows_of(write(tmp_path / "m", entries, config_of(family, method)))
    assert checkpoint["params"] == whole["params"]
    for word in ("params", "mlp_params", "num_experts", "intermediate_size", "num_heads", "hidden_size", "role_params"):
        assert layer[word] == whole_layer[word], word
    rows = {row["canonical_name"]: row for row in tensors.values() if row["module"] == "expert"}
    assert {row["params"] for row in rows.values()} == {math.prod(shape) for shape in FUSED.values()}
    own = [row["name"] for row in rows.values()]
    aside = [row for name, row in tensors.items() if name not in {**OTHERS, **FUSED} and name not in own]
    assert {(row["module"], row["is_parameter"]) for row in aside} == {("quant_aux", False)}
    if form.startswith("fp8"):
        assert {row["zeros"] for row in rows.values()} == {HIDDEN}


def test_experts_whose_parts_contradict_each_other_have_no_size(tmp_path):
    entries = plain(OTHERS)
    for name, shape in FUSED.items():
        entries |= dict(pack_quantized(name, shape))
    del entries[f"{MODULE}.down_proj_shape"]
    checkpoint, _, (layer,) = rows_of(write(tmp_path / "m", entries, config_of("qwen3_moe", "compressed-tensors")))
    assert (checkpoint["params"], layer["mlp_params"], layer["num_experts"]) == (None, None, None)
    assert layer["num_heads"] == 4


@pytest.mark.parametrize("missing", ["_packed", "_scale"])
def test_experts_without_one_of_their_parts_have_no_other_size(tmp_path, missing):
    """Scales without words, and words without scales, whose shape is stored beside them."""
    entries = plain(OTHERS)
    for name, shape in FUSED.items():
        entries |= dict(pack_quantized(name, shape))
    rest = {name: entry for name, entry in entries.items() if not name.endswith(f"_proj{missing}")}
    checkpoint, _, (layer,) = rows_of(write(tmp_path / "m", rest, config_of("qwen3_moe", None)))
    whole, _, _ = rows_of(write(tmp_path / "whole", entries, config_of("qwen3_moe", None)))
    assert checkpoint["params"] == (None if missing == "_packed" else whole["params"])
    assert layer["num_experts"] == (None if missing == "_packed" else EXPERTS)


def test_plain_experts_beside_other_packed_weights_stay_plain(tmp_path):
    entries = plain({**OTHERS, **FUSED})
    name = "model.layers.0.self_attn.q_proj.weight"
    entries |= {name: ("F8_E4M3", OTHERS[name], None), f"{name}_scale_inv": ("F32", (1, 1), None)}
    checkpoint, tensors, _ = rows_of(write(tmp_path / "m", entries, config_of("qwen3_moe", "fp8")))
    whole, _, _ = rows_of(write(tmp_path / "whole", plain({**OTHERS, **FUSED}), config_of("qwen3_moe", None)))
    assert checkpoint["params"] == whole["params"]
    assert {tensors[expert]["mean"] is not None for expert in FUSED} == {True}
