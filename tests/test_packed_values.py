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


Case = tuple[Parts, dict[str, Any], Callable[[int, int], bool], Callable[[int, int], Any]]
"""Stored tensors, config, and of each element whether it is zero and its value, a float32."""
F4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def fp4_of(code: int) -> np.float32:
    """E2M1."""
    return -F4[code & 7] if code & 8 else F4[code]


def signed(code: int) -> int:
    """Two's complement of 4 bits."""
    return (code ^ 8) - 8


def halves(chance: np.random.Generator, *shape: int, dtype: str = "F16") -> tuple[np.ndarray, np.ndarray]:
    """Positive 16-bit floats, as they are stored and as float32."""
    stored = half((chance.integers(64, 128, shape) / 512).astype(np.float32), dtype)
    return stored, torch.tensor(stored.view(np.int16)).view(DTYPES[dtype]).float().numpy()


DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}


def gptq(
    chance: np.random.Generator, bits: int, *, is_second: bool = False, is_ordered: bool = True, group_size: int = IN // 4
) -> Case:
    groups = -(-IN // group_size)
    weight = words(chance, IN * bits // 32, OUT) if bits == 3 else near(chance, bits, IN * bits // 32, OUT)
    points = words(chance, groups, OUT * bits // 32) if bits == 3 else near(chance, bits, groups, OUT * bits // 32)
    if bits == 8:
        weight[0] = 0xFFFFFFFF
    order = np.arange(IN) // group_size if is_ordered else chance.permutation(IN) % groups
    stored, scales = halves(chance, groups, OUT)
    parts = {"qweight": ("I32", weight), "qzeros": ("I32", points), "scales": ("F16", stored)}
    if not is_ordered:
        parts["g_idx"] = ("I32", order.astype(np.uint32))
    added = 0 if is_second else 1

    def codes(row: int, column: int) -> tuple[int, int]:
        point = (little(points[order[column]], bits, row) + added) % (1 << bits)
        return little(weight[:, row], bits, column), point

    def value(row: int, column: int) -> Any:
        code, point = codes(row, column)
        return np.float32(code - point) * scales[order[column], row]

    declared = {"quant_method": "gptq", "checkpoint_format": "gptq_v2" if is_second else "gptq", "group_size": group_size}
    return parts, declared, lambda row, column: len({*codes(row, column)}) == 1, value


AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


def awq(chance: np.random.Generator, *, quark: str = "", order: tuple[int, ...] = AWQ_ORDER, has_points: bool = True) -> Case:
    weight, points = near(chance, 4, IN, OUT // 8), near(chance, 4, 2, OUT // 8)
    stored, scales = halves(chance, 2, OUT)
    names = ("weight", "weight_zero_point", "weight_scale") if quark else ("qweight", "qzeros", "scales")
    parts = dict(zip(names, (("I32", weight), ("I32", points), ("F16", stored)), strict=True))
    if not has_points:
        parts.pop(names[1])
        weight[:, 0] = 0
    pack = "reorder" if order == AWQ_ORDER else "order"
    quark_config = {
        "global_quant_config": {"weight": {"dtype": quark}},
        "export": {"pack_method": pack},
        "quant_method": "quark",
    }

    def codes(row: int, column: int) -> tuple[int, int]:
        shift = 4 * order[row % 8]
        point = int(points[column // (IN // 2), row // 8]) >> shift & 15 if has_points else 0
        return int(weight[column, row // 8]) >> shift & 15, point

    def value(row: int, column: int) -> Any:
        code, point = (signed(code) if quark == "int4" else code for code in codes(row, column))
        return np.float32(code - point) * scales[column // (IN // 2), row]

    config = quark_config if quark else {"quant_method": "awq"}
    return parts, config, lambda row, column: len({*codes(row, column)}) == 1, value


def awq_gemv(chance: np.random.Generator) -> Case:
    weight, points = near(chance, 4, OUT, IN // 8), near(chance, 4, OUT, 1)
    stored, scales = halves(chance, OUT, 8)
    parts = {"qweight": ("I32", weight), "qzeros": ("I32", points), "scales": ("F16", stored)}
    declared = {"quant_method": "awq", "version": "gemv", "group_size": 32}

    def difference(row: int, column: int) -> int:
        return little(weight[row], 4, column) - little(points[row], 4, column // 32)

    def value(row: int, column: int) -> Any:
        return np.float32(difference(row, column)) * scales[row, column // 32]

    return parts, declared, lambda row, column: difference(row, column) == 0, value


def awq_gemv_fast(chance: np.random.Generator) -> Case:
    """Packed as pack_intweight of awq/modules/linear/gemv_fast.py does."""
    codes, points = chance.integers(6, 10, (OUT, IN)), chance.integers(6, 10, (2, OUT))
    packed = codes.reshape(OUT, IN // 32, 32).reshape(OUT, IN // 32, 4, 4, 2).transpose(0, 1, 3, 2, 4)
    packed = packed.reshape(OUT, IN // 32, 4, 4, 2).transpose(0, 1, 2, 4, 3).reshape(OUT, IN)
    packed = packed.reshape(OUT // 4, 4, IN // 64, 64).transpose(0, 2, 1, 3).reshape(OUT // 4, IN // 64, 64, 4)
    weight = packed[..., 0] | packed[..., 1] << 4 | packed[..., 2] << 8 | packed[..., 3] << 12
    scales = np.exp2(chance.integers(-6, -3, (8, OUT))).astype(np.float32)
    zeros = np.zeros((8, OUT), np.float32)
    zeros[:2] = -points * scales[:2]
    parts = {
        "qweight": ("I16", weight.reshape(OUT // 4, IN).astype(np.uint16)),
        "scales": ("F16", half(scales, "F16")),
        "qzeros": ("F16", half(zeros, "F16")),
    }
    declared = {"quant_method": "awq", "version": "gemv_fast", "group_size": IN // 2}

    def value(row: int, column: int) -> Any:
        group = column // (IN // 2)
        return np.float32(codes[row, column]) * scales[group, row] + zeros[group, row]

    return parts, declared, lambda row, column: codes[row, column] == points[column // (IN // 2), row], value


def integers(chance: np.random.Generator, *, has_points: bool, bits: int = 4, is_ordered: bool = True) -> Case:
    per_word = 32 // bits
    weight = near(chance, bits, OUT, IN // per_word)
    if bits == 8:
        weight[0] = 0xFFFFFFFF
    shape = np.array([OUT, IN], np.uint64)
    stored, scales = halves(chance, OUT, 2, dtype="BF16")
    parts = {"weight_packed": ("I32", weight), "weight_scale": ("BF16", stored), "weight_shape": ("I64", shape)}
    points = near(chance, bits, OUT // per_word, 2)
    order = np.arange(IN) // (IN // 2) if is_ordered else chance.permutation(IN) % 2
    if has_points:
        parts["weight_zero_point"] = ("I32", points)
    if not is_ordered:
        parts["weight_g_idx"] = ("I32", order.astype(np.uint32))

    def difference(row: int, column: int) -> int:
        point = (
            little(points[row // per_word, order[column]][np.newaxis], bits, row % per_word) if has_points else 1 << (bits - 1)
        )
        return little(weight[row], bits, column) - point

    declared = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": bits, "group_size": IN // 2}}}}
    value = lambda row, column: np.float32(difference(row, column)) * scales[row, order[column]]  # noqa: E731
    return parts, declared, lambda row, column: difference(row, column) == 0, value


def fp4(chance: np.random.Generator, form: str) -> Case:
    """NVFP4 and MXFP4, as ModelOpt, compressed-tensors and DeepSeek store them."""
    weight, group = chance.integers(0, 256, (OUT, IN // 2), dtype=np.uint8), 16 if "nvfp4" in form else 32
    is_packed = form.startswith("ct ")
    whole = np.array([0.375 if is_packed else 0.0625], np.float32)
    if group == 16:
        scale = chance.integers(0, 64, (OUT, IN // group), dtype=np.uint8)
        scales = torch.tensor(scale).view(torch.float8_e4m3fn).float().numpy()
        scales = scales / whole if is_packed else scales * whole
    else:
        scale = chance.integers(120, 130, (OUT, IN // group), dtype=np.uint8)
        scales = np.exp2(scale.astype(np.float32) - 127)
    dtypes = {"deepseek fp4": ("I8", "F8_E8M0")}.get(form, ("U8", "F8_E4M3" if group == 16 else "U8"))
    names = {"ct": ("weight_packed", "weight_scale"), "deepseek": ("weight", "scale")}
    name, scale_name = names.get(form.partition(" ")[0], ("weight", "weight_scale"))
    parts = {name: (dtypes[0], weight), scale_name: (dtypes[1], scale)}
    if group == 16:
        parts["weight_global_scale" if is_packed else "weight_scale_2"] = ("F32", whole.view(np.uint32))

    def value(row: int, column: int) -> Any:
        return fp4_of(int(weight[row, column // 2]) >> (4 * (column % 2)) & 15) * scales[row, column // group]

    return parts, {}, lambda row, column: value(row, column) == 0, value


def bitnet(chance: np.random.Generator, linear: str) -> Case:
    weight = chance.integers(0, 256, (OUT // 4, IN), dtype=np.uint8)
    stored, scale = halves(chance, 1, dtype="BF16")
    parts = {"weight": ("U8", weight), "weight_scale": ("BF16", stored)}

    def ternary(row: int, column: int) -> int:
        return (int(weight[row % (OUT // 4), column]) >> 2 * (row // (OUT // 4)) & 3) - 1

    def value(row: int, column: int) -> Any:
        code = np.float32(ternary(row, column))
        return code / scale[0] if linear == "bitlinear" else code * scale[0]

    declared = {"quant_method": "bitnet", "linear_class": linear}
    return parts, declared, lambda row, column: ternary(row, column) == 0, value


def modelopt(chance: np.random.Generator) -> Case:
    weight = chance.integers(0, 256, (OUT // 2, IN), dtype=np.uint8)
    scales = (chance.integers(1, 9, (OUT, 2)) / 32).astype(np.float32)
    stored, smooth = halves(chance, IN, dtype="BF16")
    parts = {"weight": ("U8", weight), "weight_scale": ("F32", scales.view(np.uint32)), "pre_quant_scale": ("BF16", stored)}

    def code(row: int, column: int) -> int:
        return signed(int(weight[row // 2, column]) >> 4 * (row % 2) & 15)

    def value(row: int, column: int) -> Any:
        return np.float32(code(row, column)) * scales[row, column // (IN // 2)] * smooth[column]

    return parts, {}, lambda row, column: code(row, column) == 0, value


def mlx(chance: np.random.Generator, bits: int, dtype: str) -> Case:
    weight = words(chance, OUT, IN * bits // 32)
    if bits == 8:
        weight[0] = 0xFFFFFFFF
    scales = (chance.integers(1, 5, (OUT, 2)) / 128).astype(np.float32)
    biases = -scales * chance.integers(0, 1 << bits, (OUT, 2))
    parts = {"weight": ("U32", weight), "scales": (dtype, half(scales, dtype)), "biases": (dtype, half(biases, dtype))}
    scale, bias = torch.tensor(scales).to(DTYPES[dtype]), torch.tensor(biases.astype(np.float32)).to(DTYPES[dtype])

    def value(row: int, column: int) -> Any:
        group = column // (IN // 2)
        code = torch.tensor(little(weight[row], bits, column)).to(DTYPES[dtype])
        return (code * scale[row, group] + bias[row, group]).float().numpy()

    config = {"quantization": {"bits": bits, "group_size": IN // 2}}
    return parts, config, lambda row, column: bool(value(row, column) == 0), value


def mlx_floats(chance: np.random.Generator, mode: str) -> Case:
    bits, group = 8 if mode == "mxfp8" else 4, 16 if mode == "nvfp4" else 32
    weight = words(chance, OUT, IN * bits // 32) & np.uint32(0x77777777 if bits == 8 else 0xFFFFFFFF)
    weight[:, 1] = 0
    stored = chance.integers(40, 60, (OUT, IN // group), dtype=np.uint8) + np.uint8(0 if mode == "nvfp4" else 80)
    scales = torch.tensor(stored).view(torch.float8_e4m3fn if mode == "nvfp4" else torch.float8_e8m0fnu).float().numpy()
    parts = {"weight": ("U32", weight), "scales": ("U8", stored)}

    def value(row: int, column: int) -> Any:
        code = little(weight[row], bits, column)
        number = fp4_of(code) if bits == 4 else torch.tensor(code, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
        return number * scales[row, column // group]

    config = {"quantization": {"bits": bits, "group_size": group, "mode": mode}}
    return parts, config, lambda row, column: bool(value(row, column) == 0), value


def nf4(chance: np.random.Generator, *, is_nested: bool = False, blocksize: int = 64) -> Case:
    weight = chance.integers(0, 256, (OUT * IN // 2, 1), dtype=np.uint8)
    book = np.linspace(-1, 1, 16).astype(np.float32)
    book[7] = 0
    blocks = -(-OUT * IN // blocksize)
    absmax = chance.integers(0, 4, blocks).astype(np.float32)
    state = {"quant_type": "nf4", "blocksize": blocksize, "shape": [OUT, IN]}
    parts = {"weight": ("U8", weight), "weight.quant_map": ("F32", book.view(np.uint32))}
    if is_nested:
        nested_book = chance.random(256).astype(np.float32)
        nested = chance.random(-(-blocks // 5)).astype(np.float32)
        codes = chance.integers(0, 256, blocks, dtype=np.uint8)
        absmax = nested_book[codes] * nested[np.arange(blocks) // 5] + np.float32(0.25)
        state |= {"nested_blocksize": 5, "nested_offset": 0.25}
        parts["weight.absmax"] = ("U8", codes)
        parts["weight.nested_absmax"] = ("F32", nested.view(np.uint32))
        parts["weight.nested_quant_map"] = ("F32", nested_book.view(np.uint32))
    else:
        parts["weight.absmax"] = ("F32", absmax.view(np.uint32))
    parts["weight.quant_state.bitsandbytes__nf4"] = ("U8", np.frombuffer(json.dumps(state).encode(), np.uint8))

    def value(row: int, column: int) -> Any:
        number = row * IN + column
        code = int(weight[number // 2, 0]) >> 4 * (1 - number % 2) & 15
        return book[code] * absmax[number // blocksize]

    return parts, {}, lambda row, column: bool(value(row, column) == 0), value


QDATA = ("_weight_qdata", "_weight_scale", "_weight_zero_point")


def pointed(chance: np.random.Generator, names: tuple[str, str, str] = QDATA) -> Case:
    weight = chance.integers(0, 4, (OUT, IN), dtype=np.uint8)
    points = chance.integers(0, 4, (OUT, 4), dtype=np.uint8)
    stored, scales = halves(chance, OUT, 4, dtype="BF16")
    weight[:, 2], points[:, 1] = 250, 251
    parts = {names[0]: ("I8", weight), names[1]: ("BF16", stored), names[2]: ("I8", points)}
    declared = {"quant_type": {"default": {"_data": {"group_size": IN // 4}}}}

    def difference(row: int, column: int) -> int:
        return int(weight[row, column].view(np.int8)) - int(points[row, column // (IN // 4)].view(np.int8))

    def value(row: int, column: int) -> Any:
        return np.float32(difference(row, column)) * scales[row, column // (IN // 4)]

    return parts, declared, lambda row, column: difference(row, column) == 0, value


def shifted(chance: np.random.Generator, bits: int) -> Case:
    """quanto: a group of inputs is a row of what is stored."""
    group, slices = IN // 2, 8 // bits
    weight = chance.integers(0, 256, (OUT * 2 // slices, group), dtype=np.uint8)
    stored, scales = halves(chance, OUT * 2, 1, dtype="BF16")
    shifts = scales * chance.integers(0, 1 << bits, scales.shape)
    parts = {
        "weight._data._data": ("U8", weight),
        "weight._scale": ("BF16", stored),
        "weight._shift": ("BF16", half(shifts.astype(np.float32), "BF16")),
    }
    scale, shift = (torch.tensor(values.astype(np.float32)).bfloat16() for values in (scales, shifts))

    def value(row: int, column: int) -> Any:
        line, place = divmod(row * IN + column, group)
        code = int(weight[line % len(weight), place]) >> bits * (line // len(weight)) & ((1 << bits) - 1)
        return (torch.tensor(code).bfloat16() * scale[line, 0] - shift[line, 0]).float().numpy()

    declared = {"quanto_qmap": {MODULE: {"weights": f"qint{bits}"}}, "hidden_size": IN}
    return parts, declared, lambda row, column: bool(value(row, column) == 0), value


BLOCK = (24, 40)
"""Rows and columns of tiles that do not divide the weight."""
SCALED: dict[str, tuple[str, str, tuple[int, ...], tuple[int, int]]] = {
    "fp8 of one scale": ("F8_E4M3", "weight_scale", (1,), (OUT, IN)),
    "fp8 of rows": ("F8_E4M3", "weight_scale", (OUT, 1), (1, IN)),
    "fp8 of row vector": ("F8_E5M2", "weight_scale", (OUT,), (1, IN)),
    "fp8 of groups": ("F8_E4M3", "weight_scale", (OUT, 4), (1, IN // 4)),
    "fp8 of tiles": ("F8_E4M3", "weight_scale_inv", (2, 2), BLOCK),
    "fp8 of even tiles": ("F8_E4M3", "weight_scale", (4, 1, 2, 1), (OUT // 4, IN // 2)),
    "comfyui": ("F8_E4M3", "scale_weight", (), (OUT, IN)),
    "int8 of rows": ("I8", "weight_scale", (OUT, 1), (1, IN)),
    "int8 smoothed": ("I8", "weight_scale", (OUT,), (1, IN)),
    "bitsandbytes int8": ("I8", "SCB", (OUT,), (1, IN)),
    "quanto int8": ("I8", "weight._scale", (OUT, 1), (1, IN)),
    "torchao fp8": ("F8_E4M3", "_weight_scale", (OUT, 1), (1, IN)),
}


def scaled(chance: np.random.Generator, name: str) -> Case:
    dtype, suffix, shape, block = SCALED[name]
    weight = chance.integers(0, 256, (OUT, IN), dtype=np.uint8)
    weight[weight & 0x7C == 0x7C] = 0
    kinds = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I8": torch.int8}
    codes = torch.tensor(weight).view(kinds[dtype]).float().numpy()
    scales = (chance.integers(1, 9, shape) / np.float32(32)).astype(np.float32)
    stored = {"weight._scale": "weight._data", "_weight_scale": "_weight_qdata"}.get(suffix, "weight")
    parts = {stored: (dtype, weight), suffix: ("F32", scales.view(np.uint32))}
    smooth = np.ones(IN, np.float32)
    if name == "int8 smoothed":
        smooth_stored, smooth = halves(chance, IN, dtype="BF16")
        parts["pre_quant_scale"] = ("BF16", smooth_stored)
    if suffix == "SCB":
        parts["weight_format"] = ("U8", np.zeros((), np.uint8))
    tiles = scales.reshape(-(-OUT // block[0]), -(-IN // block[1]))

    def value(row: int, column: int) -> Any:
        product = codes[row, column] * tiles[row // block[0], column // block[1]]
        return (product * np.float32(1 / 127) if suffix == "SCB" else product) * smooth[column]

    return parts, {"weight_block_size": [*BLOCK]}, lambda row, column: codes[row, column] == 0, value


CASES: dict[str, Callable[[np.random.Generator], Case]] = {
    "gptq 2": lambda chance: gptq(chance, 2),
    "gptq 3": lambda chance: gptq(chance, 3),
    "gptq 4": lambda chance: gptq(chance, 4),
    "gptq 8": lambda chance: gptq(chance, 8),
    "gptq v2": lambda chance: gptq(chance, 4, is_second=True),
    "gptq act order": lambda chance: gptq(chance, 4, is_ordered=False),
    "gptq of a last group that is shorter": lambda chance: gptq(chance, 4, group_size=24),
    "awq": awq,
    "awq gemv": awq_gemv,
    "awq gemv fast": awq_gemv_fast,
    "quark int4": lambda chance: awq(chance, quark="int4"),
    "quark uint4": lambda chance: awq(chance, quark="uint4", order=tuple(range(8))),
    "quark int4 without points": lambda chance: awq(chance, quark="int4", has_points=False),
    "pack-quantized": lambda chance: integers(chance, has_points=False),
    "pack-quantized asymmetric": lambda chance: integers(chance, has_points=True),
    "pack-quantized 8 act order": lambda chance: integers(chance, has_points=False, bits=8, is_ordered=False),
    "pack-quantized 8": lambda chance: integers(chance, has_points=True, bits=8),
    "pack-quantized act order": lambda chance: integers(chance, has_points=True, is_ordered=False),
    **{
        name: lambda chance, name=name: fp4(chance, name) for name in ("nvfp4", "mxfp4", "ct nvfp4", "ct mxfp4", "deepseek fp4")
    },
    "bitnet": lambda chance: bitnet(chance, "bitlinear"),
    "bitnet auto": lambda chance: bitnet(chance, "autobitlinear"),
    "modelopt int4": modelopt,
    "mlx 3": lambda chance: mlx(chance, 3, "F16"),
    "mlx 4": lambda chance: mlx(chance, 4, "BF16"),
    "mlx 8": lambda chance: mlx(chance, 8, "F16"),
    **{f"mlx {mode}": lambda chance, mode=mode: mlx_floats(chance, mode) for mode in ("mxfp4", "mxfp8", "nvfp4")},
    "nf4": nf4,
    "nf4 of blocks across rows": lambda chance: nf4(chance, blocksize=48),
    "nf4 nested": lambda chance: nf4(chance, is_nested=True),
    "torchao": pointed,
    "int8 asymmetric": lambda chance: pointed(chance, ("weight", "weight_scale", "weight_zero_point")),
    "quanto 4": lambda chance: shifted(chance, 4),
    "quanto 2": lambda chance: shifted(chance, 2),
    **{name: lambda chance, name=name: scaled(chance, name) for name in SCALED},
}
MODULE = "model.layers.0.mlp.up_proj"


def write_case(folder: Path, case: Case) -> Path:
    """A model of one weight."""
    parts, declared, *_ = case
    entries: dict[str, Entry] = {
        f"{MODULE}.{suffix}": (dtype, (() if values.shape == (1,) and dtype == "F32" else values.shape), values.tobytes())
        for suffix, (dtype, values) in parts.items()
    }
    config = declared if "quantization" in declared else {"quantization_config": declared}
    return write(folder, entries, {"model_type": "llama", **config})


@pytest.mark.parametrize("name", CASES)
def test_zeros_are_those_of_every_element(tmp_path, chance, name):
    case = CASES[name](chance)
    is_zero = case[2]
    checkpoint, tensors, _ = rows_of(write_case(tmp_path, case))
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


IN_NO_ORDER_OF_THE_LIBRARY = {"eetq-int8"}
"""Written by hand with codes in the order of a plain weight, which the library does not write; they are not read."""
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
        is_read = folder.name not in IN_NO_ORDER_OF_THE_LIBRARY
        assert zeros[name] == (expected["zeros_of_weights"] if is_read else None), name


def test_an_input_of_a_group_that_is_not_there_is_refused(tmp_path, chance):
    parts, declared, *_ = gptq(chance, 4, is_ordered=False)
    parts["g_idx"][1][3] = 4
    entries: dict[str, Entry] = {
        f"a.{suffix}": (dtype, values.shape, values.tobytes()) for suffix, (dtype, values) in parts.items()
    }
    with pytest.raises(InputError, match="names a group that is not one of 4"):
        rows_of(write(tmp_path, entries, {"quantization_config": declared}))


def test_zeros_of_rounding_make_no_masked_model(tmp_path, chance):
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
    assert row == (OUT * IN, float((packed == 0).sum() * 2) / (OUT * IN), None)


@pytest.mark.parametrize("storage", ["BF16", "F16", "F32"])
def test_bytes_that_are_kept_as_floats_are_read_as_bytes(tmp_path, storage):
    """bitsandbytes with bnb_4bit_quant_storage, as models that FSDP trains are."""
    parts, *_ = CASES["nf4"](np.random.default_rng(7))
    size = 4 if storage == "F32" else 2
    rows = {}
    for name, kept in (("U8", ("U8", (OUT * IN // 2, 1))), (storage, (storage, (OUT * IN // 2 // size, 1)))):
        entries: dict[str, Entry] = {
            f"model.layers.0.mlp.up_proj.{suffix}": (*(kept if suffix == "weight" else (dtype, values.shape)), values.tobytes())
            for suffix, (dtype, values) in parts.items()
        }
        config = {"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes"}}
        _, tensors, _ = rows_of(write(tmp_path / name, entries, config))
        rows[name] = tensors["model.layers.0.mlp.up_proj.weight"]
    same = ("params", "zeros", "zero_rows", "zero_cols", "signature", "sketch", "weight_shape", "content_hash")
    assert {key: rows[storage][key] for key in same} == {key: rows["U8"][key] for key in same}
    assert rows[storage]["zeros"] > 0
