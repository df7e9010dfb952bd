"""The zeros of packed weights are those that their libraries give, one element at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.gguf import BLOCK_TYPES, READ_TYPES
from layerhouse.ingest.measure.io.gguf_blocks import BLOCKS
from layerhouse.tests.test_layouts import Entry, rows_of, write

OUT, IN = 32, 64
FORMATS = Path(__file__).parents[2] / "shared/data/formats"
Parts = dict[str, tuple[str, np.ndarray]]
"""Stored tensors by suffix: dtype, and the array of them as unsigned integers."""


@pytest.fixture
def chance() -> np.random.Generator:
    return np.random.default_rng(7)


def little(words: np.ndarray, bits: int, number: int) -> int:
    """Code `number` of a run of 32-bit words, the lowest bits first."""
    place, shift = divmod(bits * number, 32)
    run = int(words[place]) | (int(words[place + 1]) << 32 if place + 1 < len(words) else 0)
    return (run >> shift) & ((1 << bits) - 1)


def words(chance: np.random.Generator, *shape: int) -> np.ndarray:
    return chance.integers(0, 1 << 32, shape, dtype=np.uint32)


def near(chance: np.random.Generator, bits: int, *shape: int) -> np.ndarray:
    """32-bit words whose codes are 7 to 9 of 4 bits, or their like, so that many equal their zero points."""
    middle, count = 1 << (bits - 1), 32 // bits
    codes = chance.integers(max(0, middle - 1), middle + 1, (*shape, count), dtype=np.uint64)
    return (codes << (np.arange(count, dtype=np.uint64) * bits)).sum(axis=-1).astype(np.uint32)


def half(values: np.ndarray, dtype: str) -> np.ndarray:
    """16-bit floats as unsigned integers."""
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    return torch.tensor(values).bfloat16().view(torch.int16).numpy().view(np.uint16)


Case = tuple[Parts, dict[str, Any], Callable[[int, int], bool]]


def gptq(chance: np.random.Generator, bits: int, *, is_second: bool = False, is_ordered: bool = True) -> Case:
    groups = 4
    weight = words(chance, IN * bits // 32, OUT) if bits == 3 else near(chance, bits, IN * bits // 32, OUT)
    points = words(chance, groups, OUT * bits // 32) if bits == 3 else near(chance, bits, groups, OUT * bits // 32)
    order = np.arange(IN) // (IN // groups) if is_ordered else chance.permutation(IN) % groups
    parts = {
        "qweight": ("I32", weight),
        "qzeros": ("I32", points),
        "scales": ("F16", np.full((groups, OUT), 0x3C00, np.uint16)),
    }
    if not is_ordered:
        parts["g_idx"] = ("I32", order.astype(np.uint32))
    added = 0 if is_second else 1

    def is_zero(row: int, column: int) -> bool:
        point = (little(points[order[column]], bits, row) + added) % (1 << bits)
        return little(weight[:, row], bits, column) == point

    return parts, {"quant_method": "gptq", "checkpoint_format": "gptq_v2" if is_second else "gptq"}, is_zero


def awq(chance: np.random.Generator) -> Case:
    weight, points = near(chance, 4, IN, OUT // 8), near(chance, 4, 2, OUT // 8)
    parts = {"qweight": ("I32", weight), "qzeros": ("I32", points), "scales": ("F16", np.ones((2, OUT), np.uint16))}
    order = (0, 4, 1, 5, 2, 6, 3, 7)

    def is_zero(row: int, column: int) -> bool:
        shift = 4 * order[row % 8]
        point = points[column // (IN // 2), row // 8]
        return (int(weight[column, row // 8]) >> shift) & 15 == (int(point) >> shift) & 15

    return parts, {"quant_method": "awq"}, is_zero


def awq_gemv(chance: np.random.Generator) -> Case:
    weight, points = near(chance, 4, OUT, IN // 8), near(chance, 4, OUT, 1)
    parts = {"qweight": ("I32", weight), "qzeros": ("I32", points), "scales": ("F16", np.ones((OUT, 8), np.uint16))}
    declared = {"quant_method": "awq", "version": "gemv", "group_size": 32}
    return parts, declared, lambda row, column: little(weight[row], 4, column) == little(points[row], 4, column // 32)


def integers(chance: np.random.Generator, *, has_points: bool) -> Case:
    weight = near(chance, 4, OUT, IN // 8)
    shape = np.array([OUT, IN], np.uint64)
    parts = {
        "weight_packed": ("I32", weight),
        "weight_scale": ("BF16", np.ones((OUT, 2), np.uint16)),
        "weight_shape": ("I64", shape),
    }
    points = near(chance, 4, OUT // 8, 2)
    if has_points:
        parts["weight_zero_point"] = ("I32", points)

    def is_zero(row: int, column: int) -> bool:
        point = little(points[row // 8, column // (IN // 2)][np.newaxis], 4, row % 8) if has_points else 8
        return little(weight[row], 4, column) == point

    return parts, {}, is_zero


def fp4(chance: np.random.Generator) -> Case:
    weight, scale = (
        chance.integers(0, 256, (OUT, IN // 2), dtype=np.uint8),
        chance.integers(0, 4, (OUT, IN // 16), dtype=np.uint8),
    )
    parts = {"weight": ("U8", weight), "weight_scale": ("F8_E4M3", scale), "weight_scale_2": ("F32", np.ones(1, np.uint32))}

    def is_zero(row: int, column: int) -> bool:
        nibble = int(weight[row, column // 2]) >> (4 * (column % 2)) & 15
        return nibble & 7 == 0 or scale[row, column // 16] == 0

    return parts, {}, is_zero


def bitnet(chance: np.random.Generator) -> Case:
    weight = chance.integers(0, 256, (OUT // 4, IN), dtype=np.uint8)
    parts = {"weight": ("U8", weight), "weight_scale": ("BF16", np.ones(1, np.uint16))}
    rows = OUT // 4
    return (
        parts,
        {"quant_method": "bitnet"},
        lambda row, column: int(weight[row % rows, column]) >> 2 * (row // rows) & 3 == 1,
    )


def modelopt(chance: np.random.Generator) -> Case:
    weight = chance.integers(0, 256, (OUT // 2, IN), dtype=np.uint8)
    parts = {"weight": ("U8", weight), "weight_scale": ("F32", np.ones((OUT, 1), np.uint32))}
    return parts, {}, lambda row, column: int(weight[row // 2, column]) >> 4 * (row % 2) & 15 == 0


def mlx(chance: np.random.Generator, bits: int, dtype: str) -> Case:
    weight = words(chance, OUT, IN * bits // 32)
    scales = (chance.integers(1, 5, (OUT, 2)) / 128).astype(np.float32)
    biases = -scales * chance.integers(0, 1 << bits, (OUT, 2))
    parts = {"weight": ("U32", weight), "scales": (dtype, half(scales, dtype)), "biases": (dtype, half(biases, dtype))}
    kind = {"F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    scale, bias = torch.tensor(scales).to(kind), torch.tensor(biases.astype(np.float32)).to(kind)

    def is_zero(row: int, column: int) -> bool:
        group = column // (IN // 2)
        value = torch.tensor(little(weight[row], bits, column)).to(kind) * scale[row, group] + bias[row, group]
        return bool(value == 0)

    return parts, {"quantization": {"bits": bits, "group_size": IN // 2}}, is_zero


def nf4(chance: np.random.Generator) -> Case:
    weight = chance.integers(0, 256, (OUT * IN // 2, 1), dtype=np.uint8)
    book = np.linspace(-1, 1, 16).astype(np.float32)
    book[7] = 0
    absmax = chance.integers(0, 4, OUT * IN // 64).astype(np.float32)
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "shape": [OUT, IN]}).encode()
    parts = {
        "weight": ("U8", weight),
        "weight.absmax": ("F32", absmax.view(np.uint32)),
        "weight.quant_map": ("F32", book.view(np.uint32)),
        "weight.quant_state.bitsandbytes__nf4": ("U8", np.frombuffer(state, np.uint8)),
    }

    def is_zero(row: int, column: int) -> bool:
        number = row * IN + column
        code = int(weight[number // 2, 0]) >> 4 * (1 - number % 2) & 15
        return bool(book[code] == 0 or absmax[number // 64] == 0)

    return parts, {}, is_zero


def pointed(chance: np.random.Generator) -> Case:
    weight = chance.integers(0, 4, (OUT, IN), dtype=np.uint8)
    points = chance.integers(0, 4, (OUT, 4), dtype=np.uint8)
    parts = {
        "_weight_qdata": ("I8", weight),
        "_weight_scale": ("BF16", np.ones((OUT, 4), np.uint16)),
        "_weight_zero_point": ("I8", points),
    }
    declared = {"quant_type": {"default": {"_data": {"group_size": IN // 4}}}}
    return parts, declared, lambda row, column: weight[row, column] == points[row, column // (IN // 4)]


CASES: dict[str, Callable[[np.random.Generator], Case]] = {
    "gptq 2": lambda chance: gptq(chance, 2),
    "gptq 3": lambda chance: gptq(chance, 3),
    "gptq 4": lambda chance: gptq(chance, 4),
    "gptq 8": lambda chance: gptq(chance, 8),
    "gptq v2": lambda chance: gptq(chance, 4, is_second=True),
    "gptq act order": lambda chance: gptq(chance, 4, is_ordered=False),
    "awq": awq,
    "awq gemv": awq_gemv,
    "pack-quantized": lambda chance: integers(chance, has_points=False),
    "pack-quantized asymmetric": lambda chance: integers(chance, has_points=True),
    "nvfp4": fp4,
    "bitnet": bitnet,
    "modelopt int4": modelopt,
    "mlx 3": lambda chance: mlx(chance, 3, "F16"),
    "mlx 4": lambda chance: mlx(chance, 4, "BF16"),
    "mlx 8": lambda chance: mlx(chance, 8, "F16"),
    "nf4": nf4,
    "torchao": pointed,
}


@pytest.mark.parametrize("name", CASES)
def test_zeros_are_those_of_every_element(tmp_path, chance, name):
    parts, declared, is_zero = CASES[name](chance)
    module = "model.layers.0.mlp.up_proj"
    entries: dict[str, Entry] = {
        f"{module}.{suffix}": (dtype, (() if values.shape == (1,) and dtype == "F32" else values.shape), values.tobytes())
        for suffix, (dtype, values) in parts.items()
    }
    config = declared if "quantization" in declared else {"quantization_config": declared}
    checkpoint, tensors, _ = rows_of(write(tmp_path, entries, {"model_type": "llama", **config}))
    expected = np.array([[is_zero(row, column) for column in range(IN)] for row in range(OUT)])
    (row,) = (row for row in tensors.values() if row["is_parameter"])
    assert 0 < row["zeros"] == expected.sum() < OUT * IN
    assert (row["zero_rows"], row["zero_cols"]) == (expected.all(axis=1).sum(), expected.all(axis=0).sum())
    assert (row["weight_shape"] or row["shape"], row["params"]) == ([OUT, IN], OUT * IN)
    assert (row["mean"], row["l2_norm"]) == (None, None)
    assert any("codes of" in note["text"] for note in checkpoint["notes"])


def test_rows_columns_and_patterns_of_packed_zeros_are_found(tmp_path):
    """FP4 that is 2:4 along the inputs, but for a row and a column of zeros."""
    nibbles = np.tile(np.array([3, 0, 8, 5], np.uint8), (OUT, IN // 4))
    nibbles[5] = 0
    nibbles[:, 7] = 8
    packed = (nibbles[:, ::2] | nibbles[:, 1::2] << 4).astype(np.uint8)
    entries: dict[str, Entry] = {
        "model.layers.0.mlp.up_proj.weight": ("U8", packed.shape, packed.tobytes()),
        "model.layers.0.mlp.up_proj.weight_scale": ("U8", (OUT, IN // 32), b"\x7f" * (OUT * IN // 32)),
    }
    _, tensors, _ = rows_of(write(tmp_path, entries))
    row = tensors["model.layers.0.mlp.up_proj.weight"]
    assert (row["zeros"], row["zero_rows"], row["nm_pattern"]) == (int((nibbles & 7 == 0).sum()), 1, "2:4")
    assert row["zero_cols"] == IN // 2 + 1


def test_equal_weights_of_other_words_have_another_hash(tmp_path):
    """Plus and minus zero of FP4 are zeros both, and stay two codes."""
    hashes = []
    for number, byte in enumerate((b"\x03", b"\x83")):
        entries: dict[str, Entry] = {
            "a.weight": ("U8", (4, 16), byte * 64),
            "a.weight_scale": ("U8", (4, 1), b"\x7f" * 4),
        }
        _, tensors, _ = rows_of(write(tmp_path / str(number), entries))
        assert tensors["a.weight"]["zeros"] == 64
        hashes.append(tensors["a.weight"]["content_hash"])
    assert hashes[0] != hashes[1]


def test_the_types_whose_zeros_are_counted_are_those_that_are_read():
    assert READ_TYPES == BLOCKS.keys() <= {name for name, *_ in BLOCK_TYPES.values()}


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_zeros_of_ggml_blocks_are_those_of_its_own_library(chance, name):
    gguf = pytest.importorskip("gguf", reason="the gguf package, ggml's own reference in Python, is not installed")
    number = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[number]
    blocks = chance.integers(0, 256, (2000, size), dtype=np.uint8)
    blocks[:500] = chance.integers(0, 4, (500, size), dtype=np.uint8)
    blocks[500:600] = 0
    with np.errstate(all="ignore"):
        codes = BLOCKS[name](blocks)
        values = gguf.quants.dequantize(blocks.reshape(-1), number).reshape(-1, elements)
    is_zero = codes & 0x7F == 0 if name == "MXFP4" else codes == 0
    known = np.isfinite(values)
    assert 0 < (values == 0).sum() < values.size
    assert (is_zero == (values == 0))[known].all()


def _expected(folder: Path) -> Mapping[str, Any]:
    return json.loads((folder / "expected.json").read_text())


NOT_READ = {
    "megatron-tp2",
    "trtllm-tp2",
}


@pytest.mark.skipif(not FORMATS.is_dir(), reason=f"no checkpoints in {FORMATS}, which is not part of the project")
def test_checkpoints_of_many_tools_have_the_counts_that_their_tools_give(tmp_path):
    folders = [folder for folder in sorted(FORMATS.iterdir()) if folder.name not in NOT_READ]
    report = lh.ingest(folders, warehouse=tmp_path / "w")
    assert report.count("failed") == 0
    with lh.open(tmp_path / "w") as wh:
        models = {row["model_id"]: row for row in wh.models().to_dicts()}
        layers = {(row["model_id"], row["layer_index"]): row for row in wh.layers().to_dicts()}
        zeros = dict(wh.sql("SELECT model_id, zeros FROM current_checkpoints").rows())
    for folder in folders:
        (name,), expected = [model for model in models if folder.name in model.split("/")], _expected(folder)
        layer = layers[name, 0]
        keys = ("hidden_size", "num_heads", "num_kv_heads", "head_dim", "intermediate_size")
        assert {key: layer[key] for key in keys} == {key: expected[key] for key in keys}, name
        assert models[name]["params"] == expected["params"], name
        assert sum(model == name for model, _ in layers) == expected["num_layers"], name
        assert zeros[name] == expected["zeros_of_weights"], name


def test_an_input_of_a_group_that_is_not_there_is_refused(tmp_path, chance):
    parts, declared, _ = gptq(chance, 4, is_ordered=False)
    parts["g_idx"][1][3] = 4
    entries: dict[str, Entry] = {
        f"a.{suffix}": (dtype, values.shape, values.tobytes()) for suffix, (dtype, values) in parts.items()
    }
    with pytest.raises(InputError, match="names a group that is not one of 4"):
        rows_of(write(tmp_path, entries, {"quantization_config": declared}))


def test_zeros_of_rounding_make_no_masked_model_and_codes_no_signatures(tmp_path, chance):
    """Half of the codes of a quantised copy are zero: whether a pruner or the rounding made them so is not known."""
    plain = {"model.layers.0.mlp.up_proj.weight": ("BF16", (OUT, IN), None)}
    write(tmp_path / "zoo/base", plain, {"model_type": "llama"})
    packed = chance.integers(0, 2, (OUT, IN // 2), dtype=np.uint8) * 0x33
    entries: dict[str, Entry] = {
        "model.layers.0.mlp.up_proj.weight": ("U8", packed.shape, packed.tobytes()),
        "model.layers.0.mlp.up_proj.weight_scale": ("U8", (OUT, IN // 32), b"\x7f" * (OUT * IN // 32)),
    }
    write(tmp_path / "zoo/packed", entries, {"model_type": "llama"})
    lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w", base=tmp_path / "zoo/base")
    with lh.open(tmp_path / "w") as wh:
        row = wh.sql("SELECT params, sparsity, strategy FROM models WHERE model_id = 'zoo/packed'").row(0)
        signatures = wh.sql("SELECT count(signature) FROM tensors WHERE zeros > 0")
    assert row == (OUT * IN, float((packed == 0).sum() * 2) / (OUT * IN), None)
    assert signatures.item() == 0
