"""Quantised and packed weights and adapters are counted as the weights that they stand for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from layerhouse.ingest.checkpoint.dtypes import byte_count
from layerhouse.ingest.checkpoint_rows import measure_weights, open_weights, weight_rows
from layerhouse.tests.tiny_models import HIDDEN, Width, llama_shapes
from layerhouse.tests.weight_files import safetensors_bytes

Entry = tuple[str, tuple[int, ...], bytes | None]
"""Dtype, shape, and the bytes; None for bytes of 0x5A."""

CONFIG = {"model_type": "llama", "hidden_size": HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
LAYERS = {0: Width(), 1: Width(queries=48, keys=16, intermediate=96)}
SHAPES = llama_shapes(LAYERS)
LINEAR = [name for name in SHAPES if "_proj." in name]


def write(folder: Path, entries: Mapping[str, Entry], config: Mapping[str, Any] | None = CONFIG, name: str = "model") -> Path:
    """A folder with one safetensors file of these tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    header, data = {}, b""
    for tensor, (dtype, shape, raw) in entries.items():
        size = byte_count(dtype, math.prod(shape))
        stored = b"\x5a" * size if raw is None else raw
        assert len(stored) == size
        header[tensor] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + size]}
        data += stored
    (folder / f"{name}.safetensors").write_bytes(safetensors_bytes(header, data))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def rows_of(
    folder: Path, files: str = "*.safetensors"
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The row of the checkpoint, the rows of its tensors by name, and those of its layers, with full statistics."""
    opened = open_weights(folder, sorted(folder.glob(files)), folder.name)
    measured = measure_weights(opened, threads=2, near_zero=None, on_bytes=lambda count: None)
    checkpoint, tensors, layers = weight_rows(opened, measured, near_zero=None, fingerprint="f")
    return checkpoint, {row["name"]: row for row in tensors}, layers


def gptq(name: str, outputs: int, inputs: int, bits: int = 4) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.qweight", ("I32", (inputs * bits // 32, outputs), None)
    yield f"{name}.qzeros", ("I32", (1, outputs * bits // 32), None)
    yield f"{name}.scales", ("F16", (1, outputs), None)
    yield f"{name}.g_idx", ("I32", (inputs,), bytes(4 * inputs))


def awq(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.qweight", ("I32", (inputs, outputs // 8), None)
    yield f"{name}.qzeros", ("I32", (2, outputs // 8), None)
    yield f"{name}.scales", ("F16", (2, outputs), None)


def pack_quantized(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight_packed", ("I32", (outputs, inputs // 8), None)
    yield f"{name}.weight_scale", ("BF16", (outputs, 1), None)
    yield f"{name}.weight_shape", ("I64", (2,), outputs.to_bytes(8, "little") + inputs.to_bytes(8, "little"))


def nvfp4(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight_packed", ("U8", (outputs, inputs // 2), None)
    yield f"{name}.weight_scale", ("F8_E4M3", (outputs, inputs // 16), None)
    yield f"{name}.weight_global_scale", ("F32", (1,), None)


def bnb_4bit(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [outputs, inputs]}).encode()
    yield f"{name}.weight", ("U8", (outputs * inputs // 2, 1), None)
    yield f"{name}.weight.absmax", ("U8", (outputs * inputs // 64,), None)
    yield f"{name}.weight.quant_map", ("F32", (16,), None)
    yield f"{name}.weight.quant_state.bitsandbytes__nf4", ("U8", (len(state),), state)


def mlx(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("U32", (outputs, inputs // 8), None)
    yield f"{name}.scales", ("F16", (outputs, inputs // 16), None)
    yield f"{name}.biases", ("F16", (outputs, inputs // 16), None)


def hqq(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    rows = outputs * inputs // 16
    yield f"{name}.W_q", ("U8", (rows // 2, 16), None)
    yield f"{name}.scale", ("F16", (rows, 1), None)
    yield f"{name}.zero", ("F16", (rows, 1), None)
    yield f"{name}.shape", ("I64", (2,), outputs.to_bytes(8, "little") + inputs.to_bytes(8, "little"))
    for key, value in (("nbits", 4), ("axis", 1), ("group_size", 16)):
        yield f"{name}.{key}", ("I32", (), value.to_bytes(4, "little"))
    yield f"{name}.packing", ("U8", (7,), b"4bit_u8")


PACKINGS: dict[str, tuple[Callable[[str, int, int], Iterator[tuple[str, Entry]]], dict[str, Any]]] = {
    "gptq": (gptq, {}),
    "awq": (awq, {}),
    "pack-quantized": (pack_quantized, {}),
    "nvfp4": (nvfp4, {}),
    "bitsandbytes": (bnb_4bit, {}),
    "hqq": (hqq, {}),
    "mlx": (mlx, {"quantization": {"bits": 4, "group_size": 16}}),
}


def plain(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Entry]:
    return {name: ("BF16", shape, None) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return rows_of(write(tmp_path_factory.mktemp("dense"), plain(SHAPES)))


@pytest.mark.parametrize("packing", list(PACKINGS))
def test_a_packed_model_has_the_layers_of_the_plain_one(tmp_path, dense, packing):
    pack, declared = PACKINGS[packing]
    entries: dict[str, Entry] = {}
    for name, shape in SHAPES.items():
        entries |= dict(pack(name.removesuffix(".weight"), *shape)) if name in LINEAR else plain({name: shape})
    checkpoint, tensors, layers = rows_of(write(tmp_path / "m", entries, {**CONFIG, **declared}))
    plain_checkpoint, _plain_tensors, plain_layers = dense
    left_out = ("checkpoint_id", "zeros", "attention_zeros", "mlp_zeros", "is_zero_layer", "logical_bytes")
    assert [{k: v for k, v in row.items() if k not in left_out} for row in layers] == [
        {k: v for k, v in row.items() if k not in left_out} for row in plain_layers
    ]
    is_read = packing != "bitsandbytes"  # the absmax of which is of no known form here
    assert [row["zeros"] is not None for row in layers] == [is_read] * 2
    for word in ("params", "params_stored", "prunable_params", "layer_params", "embedding_params", "family"):
        assert checkpoint[word] == plain_checkpoint[word]
    counts = [checkpoint[word] for word in ("zeros", "prunable_zeros", "nonzero_params")]
    assert [count is not None for count in counts] == [is_read] * 3
    said = "14 weights are codes of" if is_read else "14 weights are packed by"
    assert next(n["text"] for n in checkpoint["notes"] if n["code"] == "quantised").startswith(said)
    assert not [n for n in checkpoint["notes"] if n["code"] in ("unplaced", "duplicate", "declared_size")]
    of_query = {row["part"]: row for row in tensors.values() if row["name"].startswith("model.layers.1.self_attn.q_proj.")}
    packed = next(row for row in of_query.values() if row["is_parameter"])
    assert packed["params"] == 48 * 64
    assert packed["weight_shape"] == [48, 64]
    assert packed["canonical_name"] == "text.1.attention.q_proj.weight"
    assert all(packed[word] is None for word in ("min", "mean", "std", "l2_norm"))
    assert [packed[word] is not None for word in ("zeros", "zero_rows", "zero_cols")] == [is_read] * 3
    assert len(packed["content_hash"]) == 32
    others = [row for row in of_query.values() if row is not packed]
    assert {(row["module"], row["role"], row["params"], row["is_parameter"]) for row in others} == {
        ("quant_aux", "q_proj", 0, False)
    }
    assert len({row["canonical_name"] for row in others}) == len(others) == len(of_query) - 1


def test_bits_and_logical_counts_follow_the_shapes(tmp_path):
    entries = dict(gptq("a.q", 64, 96, bits=3)) | dict(gptq("b.q", 64, 64, bits=8)) | dict(pack_quantized("c.q", 64, 64))
    _, tensors, _ = rows_of(write(tmp_path / "m", entries, None))
    shapes = {name: (row["weight_shape"], row["params"]) for name, row in tensors.items() if row["is_parameter"]}
    assert shapes == {
        "a.q.qweight": ([64, 96], 6144),
        "b.q.qweight": ([64, 64], 4096),
        "c.q.weight_packed": ([64, 64], 4096),
    }


@pytest.mark.parametrize("place", ["top", "text_config"])
def test_a_group_of_the_config_gives_the_bits_where_no_shape_is_stored(tmp_path, place):
    groups = {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4}},
        "group_1": {"targets": ["re:.*embed_tokens$"], "weights": {"num_bits": 2}},
    }
    quantization = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}
    config = quantization if place == "top" else {"text_config": quantization}
    entries: dict[str, Entry] = {
        **dict(pack_quantized("model.layers.0.self_attn.q_proj", 64, 64)),
        "model.embed_tokens.weight_packed": ("I32", (96, 4), None),
        "model.embed_tokens.weight_scale": ("F16", (96, 1), None),
    }
    checkpoint, tensors, _ = rows_of(write(tmp_path / "m", entries, config))
    assert tensors["model.embed_tokens.weight_packed"]["params"] == 6144
    assert tensors["model.layers.0.self_attn.q_proj.weight_packed"]["params"] == 4096
    assert checkpoint["params"] == 10240


def test_eight_bit_codes_have_zeros_and_no_other_values(tmp_path):
    codes = bytes([0, 1, 255, 0] * 64)
    entries: dict[str, Entry] = {
        "a.weight": ("I8", (16, 16), codes),
        "a.weight_scale": ("F32", (16, 1), None),
        "b.weight": ("I8", (16, 16), codes),
        "b.SCB": ("F32", (16,), None),
        "c.weight": ("I8", (16, 16), codes),
        "c.weight_scale": ("F32", (16, 1), None),
        "c.weight_zero_point": ("I8", (16, 1), b"\1" * 16),
        "d.weight": ("F8_E4M3", (16, 16), codes),
        "d.weight_scale_inv": ("F32", (1, 1), None),
    }
    _, tensors, _ = rows_of(write(tmp_path / "m", entries, None))
    assert [tensors[f"{name}.weight"]["zeros"] for name in "abcd"] == [128, 128, 64, 128]
    assert [tensors[f"{name}.weight"]["mean"] for name in "abcd"] == [None] * 4
    assert tensors["d.weight"]["nans"] == 64  # 255 is NaN in E4M3
    assert [tensors[f"{name}.weight"]["params"] for name in "abcd"] == [256] * 4
    assert sum(row["params"] for row in tensors.values()) == 1024


def test_experts_in_mxfp4_have_the_shape_of_plain_ones(tmp_path):
    name = "model.layers.0.mlp.experts.gate_up_proj"
    entries: dict[str, Entry] = {
        f"{name}_blocks": ("U8", (4, 64, 3, 16), (b"\x80\x5a" * 8) * (4 * 64 * 3)),
        f"{name}_scales": ("U8", (4, 64, 3), None),
        f"{name}_bias": ("BF16", (4, 64), None),
    }
    _, tensors, _ = rows_of(write(tmp_path / "m", entries, None))
    assert tensors[f"{name}_blocks"]["weight_shape"] == [4, 96, 64]
    assert tensors[f"{name}_blocks"]["params"] == 4 * 96 * 64
    assert tensors[f"{name}_blocks"]["zeros"] == 4 * 96 * 64 // 2
    assert tensors[f"{name}_scales"]["module"] == "quant_aux"


def test_scales_of_a_cache_are_not_parameters(tmp_path, dense):
    entries: dict[str, Entry] = {**plain(SHAPES), "model.layers.0.self_attn.k_scale": ("F32", (1,), None)}
    checkpoint, tensors, _ = rows_of(write(tmp_path / "m", entries))
    row = tensors["model.layers.0.self_attn.k_scale"]
    assert (row["module"], row["layer_index"], row["is_parameter"]) == ("quant_aux", 0, False)
    assert checkpoint["params"] == dense[0]["params"]


def test_packed_words_without_scales_are_plain_tensors(tmp_path):
    entries: dict[str, Entry] = {
        "a.scales": ("F16", (4, 4), None),
        "a.weight": ("BF16", (4, 4), None),
        "b.shape": ("I64", (2,), None),
    }
    _, tensors, _ = rows_of(write(tmp_path / "m", entries, None))
    assert [tensors[name]["module"] for name in entries] == ["other"] * 3
    assert tensors["a.scales"]["params"] == 16


def eight(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little", signed=True) for value in values)


@pytest.mark.parametrize(
    ("entries", "config", "message"),
    [
        ({"a.qweight": ("I32", (8, 64), None)}, None, "qweight without qzeros and scales"),
        (dict(gptq("a", 64, 64)) | {"a.qzeros": ("I32", (1, 7), None)}, None, "are of no GPTQ or AWQ weight"),
        (dict(gptq("a", 64, 64)) | {"a.g_idx": ("I32", (65,), None)}, None, "g_idx has 65 inputs, qweight 64"),
        (dict(pack_quantized("a", 64, 64)) | {"a.weight_shape": ("I64", (2,), eight(64, 640))}, None, "does not fit"),
        (dict(pack_quantized("a", 64, 64)) | {"a.weight_shape": ("I64", (2,), eight(-1, 64))}, None, "does not fit"),
        (dict(pack_quantized("a", 64, 64)) | {"a.weight_shape": ("F32", (2,), None)}, None, "integers were expected"),
        (dict(pack_quantized("a", 64, 64)) | {"a.weight_shape": ("I64", (9000,), None)}, None, "limit exceeded"),
        ({"a.weight_packed": ("I32", (4, 4), None)}, None, "no group of the config says its bits"),
        ({"a.weight_packed": ("I32", (4, 4), None), "a.meta": ("I16", (4,), None)}, None, "marlin-24"),
        (dict(bnb_4bit("a", 64, 64)) | {"a.weight": ("U8", (100, 1), None)}, None, "the weight has 100 bytes"),
        (dict(mlx("a", 64, 64)), None, "no config that says its bits or group size"),
        (dict(mlx("a", 64, 64)), {"quantization": {"bits": 8, "group_size": 16}}, "are not 8 bits in groups of 16"),
    ],
)
def test_contradicting_tensors_are_no_weight_of_a_known_size(tmp_path, entries, config, message):
    """The reason is in a note, and the rest of the model is read."""
    folder = write(tmp_path / "m", {**entries, "norm.weight": ("BF16", (64,), None)}, config)
    checkpoint, tensors, _ = rows_of(folder)
    assert (checkpoint["params"], checkpoint["zeros"], tensors["norm.weight"]["params"]) == (None, None, 64)
    assert {row["params"] for name, row in tensors.items() if name.startswith("a.")} == {None}
    (text,) = (note["text"] for note in checkpoint["notes"] if note["code"] == "unread")
    assert re.search(message, text)


def test_a_pattern_that_could_backtrack_exponentially_matches_nothing(tmp_path):
    groups = {"g": {"targets": ["re:(a+)+$"], "weights": {"num_bits": 4}}}
    entries: dict[str, Entry] = {"a" * 40 + "b.weight_packed": ("I32", (4, 4), None)}
    folder = write(tmp_path / "m", entries, {"quantization_config": {"config_groups": groups}})
    checkpoint, _, _ = rows_of(folder)
    (text,) = (note["text"] for note in checkpoint["notes"] if note["code"] == "unread")
    assert "no group of the config says its bits" in text


@pytest.mark.parametrize("spelling", ["lora_{}.weight", "lora_{}.default.weight"])
def test_an_adapter_is_a_model_of_its_own_that_names_its_base(tmp_path, spelling):
    entries: dict[str, Entry] = {}
    for layer in (0, 1):
        module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        entries[f"{module}.{spelling.format('A')}"] = ("F32", (8, 64), None)
        entries[f"{module}.{spelling.format('B')}"] = ("F32", (64, 8), None)
    folder = write(tmp_path / "adapter", entries, None, "adapter_model")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base"}))
    checkpoint, tensors, layers = rows_of(folder)
    assert checkpoint["declared_base"] == "org/base"
    assert (checkpoint["params"], checkpoint["prunable_params"], checkpoint["num_layers"]) == (2048, 0, 2)
    assert {(row["module"], row["role"], row["part"], row["layer_index"]) for row in tensors.values()} == {
        ("adapter", "q_proj", part, layer) for part in ("lora_A", "lora_B") for layer in (0, 1)
    }
    assert tensors[next(iter(tensors))]["canonical_name"] == "text.0.adapter.q_proj.lora_A"
    assert [(row["params"], row["num_heads"], row["is_zero_layer"]) for row in layers] == [(1024, None, None)] * 2
