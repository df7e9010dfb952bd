"""Weights packed by many tools have the shapes of the weights that they stand for; contradictions are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from layerhouse.tests.test_layouts import CONFIG, Entry, plain, rows_of, write
from layerhouse.tests.tiny_models import Width, llama_shapes

Packing = Callable[[str, int, int], Iterator[tuple[str, Entry]]]
SHAPES = llama_shapes({0: Width(), 1: Width(queries=32, keys=16, intermediate=96)})
LINEAR = [name for name in SHAPES if "_proj." in name]


def nvfp4(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("U8", (outputs, inputs // 2), None)
    yield f"{name}.weight_scale", ("F8_E4M3", (outputs, inputs // 16), None)
    yield f"{name}.weight_scale_2", ("F32", (), None)
    yield f"{name}.input_scale", ("F32", (), None)


def mxfp4(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("U8", (outputs, inputs // 2), None)
    yield f"{name}.weight_scale", ("U8", (outputs, inputs // 32), None)


def deepseek_fp4(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("I8", (outputs, inputs // 2), None)
    yield f"{name}.scale", ("F8_E8M0", (outputs, inputs // 32), None)


def fp_quant(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.qweight", ("U8", (outputs, inputs // 2), None)
    yield f"{name}.scales", ("U8", (outputs, inputs // 32), None)
    for part in ("forward", "backward"):
        yield f"{name}.{part}_hadamard_matrix", ("BF16", (32, 32), None)


def modelopt_int4(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("U8", (outputs // 2, inputs), None)
    yield f"{name}.weight_scale", ("F32", (outputs, 1), None)
    yield f"{name}.pre_quant_scale", ("BF16", (inputs,), None)


def bitnet(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("U8", (outputs // 4, inputs), None)
    yield f"{name}.weight_scale", ("BF16", (1,), None)


def quark(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("I32", (inputs, outputs // 8), None)
    yield f"{name}.weight_scale", ("BF16", (1, outputs), None)
    yield f"{name}.weight_zero_point", ("I32", (1, outputs // 8), None)


def awq_gemv(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.qweight", ("I32", (outputs, inputs // 8), None)
    yield f"{name}.qzeros", ("I32", (outputs, 1), None)
    yield f"{name}.scales", ("F16", (outputs, 8), None)


def awq_gemv_fast(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.qweight", ("I16", (outputs // 4, inputs), None)
    yield f"{name}.qzeros", ("F16", (8, outputs), None)
    yield f"{name}.scales", ("F16", (8, outputs), None)


def marlin(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.B", ("I32", (inputs // 16, 2 * outputs), None)
    yield f"{name}.s", ("F16", (2, outputs), None)
    yield f"{name}.workspace", ("I32", (16,), None)


def exl2(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.q_weight", ("I32", (inputs // 8, outputs), None)
    yield f"{name}.q_invperm", ("I32", (inputs,), None)
    yield f"{name}.q_scale", ("I32", (2, outputs // 8), None)
    yield f"{name}.q_scale_max", ("F16", (2,), None)
    yield f"{name}.q_groups", ("I16", (4,), None)


def exl3(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.trellis", ("I16", (inputs // 16, outputs // 16, 64), None)
    yield f"{name}.suh", ("F16", (inputs,), None)
    yield f"{name}.svh", ("F16", (outputs,), None)
    yield f"{name}.mcg", ("I32", (), None)


def aqlm(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.codes", ("I8", (outputs, inputs // 8, 2), None)
    yield f"{name}.codebooks", ("F16", (2, 256, 1, 8), None)
    yield f"{name}.scales", ("F16", (outputs, 1, 1, 1), None)


def quip(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.Qidxs", ("I16", (outputs, inputs // 8), None)
    yield f"{name}.SU", ("F16", (inputs,), None)
    yield f"{name}.SV", ("F16", (outputs,), None)
    yield f"{name}.Wscale", ("F32", (), None)
    yield f"{name}.codebook_id", ("I64", (), None)


def eetq(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("I8", (inputs, outputs), None)
    yield f"{name}.weight_scales", ("F16", (outputs,), None)


def higgs(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("I16", (outputs // 4, inputs), None)
    yield f"{name}.scales", ("F16", (outputs, 1), None)
    yield f"{name}.tables", ("F16", (16,), None)
    yield f"{name}.tables2", ("F16", (16, 16, 2), None)


def vptq(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.indices", ("I32", (1, 16, 96), None)
    yield f"{name}.centroids.weight", ("F16", (1, 2048), None)
    yield f"{name}.res_centroids.weight", ("F16", (1, 128), None)
    yield f"{name}.perm", ("I16", (inputs,), None)
    yield f"{name}.weight_scale", ("F16", (inputs,), None)
    yield f"{name}.weight_bias", ("F16", (inputs,), None)


def quanto_int4(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight._data._data", ("U8", (outputs // 2, inputs), None)
    yield f"{name}.weight._scale", ("BF16", (outputs, 1), None)
    yield f"{name}.weight._shift", ("BF16", (outputs, 1), None)
    yield f"{name}.input_scale", ("BF16", (), None)


def quanto_groups(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight._data._data", ("U8", (outputs * inputs // 32, 16), None)
    yield f"{name}.weight._scale", ("BF16", (outputs * inputs // 16, 1), None)
    yield f"{name}.weight._shift", ("BF16", (outputs * inputs // 16, 1), None)


def torchao_int4(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}._weight_qdata", ("I8", (outputs, inputs // 2), None)
    yield f"{name}._weight_scale", ("BF16", (outputs, inputs // 32), None)
    yield f"{name}._weight_zero_point", ("I8", (outputs, inputs // 32), None)


def method(name: str, **others: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": name, **others}}


FEATURES = {name.removesuffix(".weight"): {"out_features": SHAPES[name][0], "in_features": SHAPES[name][1]} for name in LINEAR}
PACKED: dict[str, tuple[Packing, dict[str, Any]]] = {
    "nvfp4": (nvfp4, method("modelopt")),
    "mxfp4": (mxfp4, method("quark")),
    "deepseek fp4": (deepseek_fp4, method("fp8")),
    "fp-quant": (fp_quant, method("fp_quant")),
    "modelopt int4": (modelopt_int4, method("modelopt")),
    "bitnet": (bitnet, method("bitnet")),
    "quark": (quark, method("quark")),
    "awq gemv": (awq_gemv, method("awq", version="gemv")),
    "awq gemv_fast": (awq_gemv_fast, method("awq", version="gemv_fast")),
    "marlin": (marlin, method("gptq", checkpoint_format="marlin")),
    "eetq": (eetq, method("eetq")),
    "exl2": (exl2, method("exl2")),
    "exl3": (exl3, method("exl3")),
    "aqlm": (aqlm, method("aqlm")),
    "quip#": (quip, {}),
    "higgs": (higgs, method("higgs")),
    "vptq": (vptq, method("vptq", config_for_layers=FEATURES)),
    "quanto": (quanto_int4, {}),
    "quanto in groups": (quanto_groups, {}),
    "torchao": (torchao_int4, method("torchao", quant_type={"default": {"_data": {"group_size": 32}}})),
}


WITHOUT_ZEROS = (
    "fp-quant",
    "marlin",
    "eetq",
    "exl2",
    "exl3",
    "aqlm",
    "quip#",
    "higgs",
    "vptq",
    "torchao",
    "awq gemv",
    "awq gemv_fast",
)
"""Codebooks, rotations and forms of which only the shape is read; and AWQ's for products with a vector without a group size."""


def entries_of(pack: Packing) -> dict[str, Entry]:
    """A tiny Llama whose linear weights are packed."""
    entries: dict[str, Entry] = {}
    for name, shape in SHAPES.items():
        entries |= dict(pack(name.removesuffix(".weight"), *shape)) if name in LINEAR else plain({name: shape})
    return entries


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return rows_of(write(tmp_path_factory.mktemp("dense"), plain(SHAPES)))


def assert_as_dense(rows: Any, dense: Any) -> None:
    """Assert that parameters, heads and widths are those of the plain model, and zeros unknown."""
    checkpoint, tensors, layers = rows
    left_out = ("checkpoint_id", "zeros", "attention_zeros", "mlp_zeros", "is_zero_layer", "logical_bytes")
    assert [{k: v for k, v in row.items() if k not in left_out} for row in layers] == [
        {k: v for k, v in row.items() if k not in left_out} for row in dense[2]
    ]
    in_layers = sum(row["logical_bytes"] for row in tensors.values() if row["layer_index"] is not None)
    outside = sum(row["logical_bytes"] for row in tensors.values() if row["layer_index"] is None)
    assert sum(row["logical_bytes"] for row in layers) == in_layers == checkpoint["logical_bytes"] - outside
    for word in ("params", "params_stored", "prunable_params", "layer_params", "embedding_params", "family"):
        assert checkpoint[word] == dense[0][word]
    assert not [note for note in checkpoint["notes"] if note["code"] in ("unplaced", "duplicate", "declared_size")]
    parameters = {row["canonical_name"]: row for row in tensors.values() if row["is_parameter"]}
    assert parameters.keys() == {row["canonical_name"] for row in dense[1].values()}


@pytest.mark.parametrize("packing", PACKED)
def test_a_packed_model_has_the_shapes_of_the_plain_one(tmp_path, dense, packing):
    pack, declared = PACKED[packing]
    folder = write(tmp_path / "m", entries_of(pack), {**CONFIG, **declared})
    if packing.startswith("quanto"):
        qmap = {name.removesuffix(".weight"): {"weights": "qint4", "activations": "none"} for name in LINEAR}
        (folder / "quanto_qmap.json").write_text(json.dumps(qmap))
    rows = rows_of(folder)
    assert_as_dense(rows, dense)
    if packing in WITHOUT_ZEROS:
        assert (rows[0]["zeros"], rows[0]["nonzero_params"]) == (None, None)
        assert [row["zeros"] for row in rows[2]] == [None, None]
    else:
        assert rows[0]["zeros"] + rows[0]["nonzero_params"] == rows[0]["params"]
        assert sum(row["zeros"] for row in rows[2]) <= rows[0]["zeros"]


def quanto_int8(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight._data", ("I8", (outputs, inputs), (b"\0" + b"\1" * (inputs - 1)) * outputs)
    yield f"{name}.weight._scale", ("BF16", (outputs, 1), None)


def torchao_float8(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}._weight_qdata", ("F8_E4M3", (outputs, inputs), (b"\x80" + b"\x38" * (inputs - 1)) * outputs)
    yield f"{name}._weight_scale", ("F32", (outputs, 1), None)


def comfy(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("F8_E4M3", (outputs, inputs), (b"\0" + b"\x38" * (inputs - 1)) * outputs)
    yield f"{name}.scale_weight", ("F32", (), None)
    yield f"{name}.scale_input", ("F32", (), None)


def smoothed_int8(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", ("I8", (outputs, inputs), (b"\0" + b"\1" * (inputs - 1)) * outputs)
    yield f"{name}.weight_scale", ("F32", (outputs,), None)
    yield f"{name}.pre_quant_scale", ("BF16", (inputs,), None)


FORMS_OF_BYTES: dict[str, tuple[Packing, dict[str, Any]]] = {
    "quanto int8": (quanto_int8, {}),
    "torchao float8": (torchao_float8, method("torchao")),
    "comfy": (comfy, {}),
    "smoothed int8": (smoothed_int8, {}),
}
"""Forms of one byte a weight, with zeros."""


@pytest.mark.parametrize("pack", [pack for pack, _ in FORMS_OF_BYTES.values()])
def test_codes_of_8_bits_have_their_zeros(tmp_path, dense, pack):
    rows = rows_of(write(tmp_path / "m", entries_of(pack)))
    assert_as_dense(rows, dense)
    parameters = {row["canonical_name"]: row for row in rows[1].values() if row["is_parameter"]}
    for name in LINEAR:
        layer, role = name.split(".")[2], name.split(".")[-2]
        row = next(row for key, row in parameters.items() if key.startswith(f"text.{layer}.") and f".{role}." in key)
        assert (row["zeros"], row["zero_cols"]) == (SHAPES[name][0], 1)


def test_the_quantisation_of_another_file_is_read_as_if_in_the_config(tmp_path, dense):
    block = {"quant_method": "bitnet"}
    for number, (name, document) in enumerate(
        (("quantize_config.json", block), ("quant_config.json", block), ("hf_quant_config.json", {"quantization": block}))
    ):
        folder = write(tmp_path / str(number), entries_of(bitnet))
        (folder / name).write_text(json.dumps(document))
        assert_as_dense(rows_of(folder), dense)


def test_a_description_in_the_file_says_how_values_are_packed(tmp_path, dense):
    described = json.dumps({"_type": "Int4Tensor", "_data": {"block_size": [1, 32]}})
    folder = write(tmp_path / "m", entries_of(torchao_int4))
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size]) | {"__metadata__": dict.fromkeys(LINEAR, described)}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    assert_as_dense(rows_of(folder), dense)


REFUSED: dict[str, tuple[Packing, dict[str, Any], dict[str, Entry | None], str]] = {
    "bitnet with many scales": (bitnet, method("bitnet"), {"weight_scale": ("BF16", (64,), None)}, "BitNet"),
    "eetq": (eetq, {}, {"weight_scales": ("F16", (63,), None)}, "do not fit each other"),
    "exl2 without its order": (exl2, {}, {"q_invperm": None}, "the number of its inputs is not known"),
    "exl3": (exl3, {}, {"suh": ("F16", (48,), None)}, "does not fit trellis"),
    "aqlm": (aqlm, {}, {"codebooks": ("F16", (3, 256, 1, 8), None)}, "are of no AQLM weight"),
    "quip# without signs": (quip, {}, {"SU": None}, "the weight's shape is not known"),
    "vptq without features": (vptq, {}, {}, "the config does not say in and out features"),
    "quanto without its map": (quanto_int4, {}, {}, "no quanto_qmap.json says the bits"),
    "torchao without a group": (torchao_int4, {}, {}, "neither the file nor the config says how many inputs"),
    "quark": (quark, {}, {"weight_scale": ("BF16", (1, 63), None)}, "do not fit each other"),
    "marlin": (marlin, {}, {"s": ("F16", (2, 63), None)}, "are of no Marlin weight"),
    "awq gemv": (awq_gemv, method("awq", version="gemv"), {"scales": ("F16", (7, 8), None)}, "of no AWQ weight"),
    "higgs": (higgs, {}, {"scales": ("F16", (63, 1), None)}, "do not fit each other"),
    "scales of 4 bits": (nvfp4, {}, {"weight_scale": ("F8_E4M3", (64, 3), None)}, "not two values a byte"),
    "fp-quant": (fp_quant, {}, {"scales": ("U8", (64, 3), None)}, "do not fit each other"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_itself_or_is_not_known_has_no_size(tmp_path, name):
    pack, declared, changes, message = REFUSED[name]
    module = "model.layers.0.self_attn.q_proj"
    entries = entries_of(pack)
    for suffix, entry in changes.items():
        del entries[f"{module}.{suffix}"]
        if entry is not None:
            entries[f"{module}.{suffix}"] = entry
    checkpoint, tensors, layers = rows_of(write(tmp_path / "m", entries, {**CONFIG, **declared}))
    assert (checkpoint["params"], checkpoint["zeros"], checkpoint["prunable_params"]) == (None, None, None)
    assert (layers[0]["params"], layers[0]["attention_params"], layers[0]["num_heads"]) == (None, None, None)
    assert {row["params"] for tensor, row in tensors.items() if tensor.startswith(f"{module}.")} == {None}
    (text,) = (note["text"] for note in checkpoint["notes"] if note["code"] == "unread")
    assert message in text
