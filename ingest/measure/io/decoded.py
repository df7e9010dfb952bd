"""Packed and scaled weights as the values that they stand for, float32, for any rows of a weight (out, in).

The formulas are those of the libraries that write or read the forms; each function names its own. Products are those of
float32: libraries that compute in 16 bits differ in the last of these. A form whose values are not known, such as one of
codebooks or rotations, has no function here.

Every function makes some rows, whose numbers ascend, from the parts of the weight by name; see `decoded_ref` of the layouts.
Words that stand for NaN or infinity make these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import decoded
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io import packed_codes as packed
from layerhouse.ingest.measure.io.gguf_blocks import BLOCK_VALUES

Array = npt.NDArray[Any]
Parts = Mapping[str, Any]

F4_VALUES = decoded("F4").astype(np.float32)
F8_VALUES = decoded("F8_E4M3").astype(np.float32)


def decode_rows(ref: TensorRef, sources: list[Any], rows: Array, columns: int) -> Array:
    """Some rows of a decoded weight, float32 (n, columns).

    `column_scales`, where a weight has them, are what its inputs are multiplied by (ModelOpt's pre_quant_scale): with them it
    does what the weight did before it was smoothed.
    """
    assert ref.assembly is not None
    parts = dict(zip(packed.ref_parameter(ref, "parts"), sources, strict=True))
    with np.errstate(all="ignore"):
        values = DECODERS[ref.assembly.kind](ref, parts, rows, columns)
        if "column_scales" in parts:
            values = values * _all(parts["column_scales"])
    return np.ascontiguousarray(values, np.float32)


def scaled_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """(code - point) * scale * `times`, codes of a byte; scales and points of each `block` of (rows, columns).

    compressed-tensors (quantization/lifecycle/forward.py, _dequantize), DeepSeek (inference/kernel.py, weight_dequant),
    ModelOpt (export/quant_utils.py), quanto (tensor/qbytes.py), torchao (quant_primitives.py, _dequantize_affine), ComfyUI
    (ops.py, scaled_fp8_ops), bitsandbytes (functional.py, int8_vectorwise_dequant: code * SCB / 127).
    """
    codes = parts["codes"]
    values = packed.floats(codes.rows(rows, columns), codes.ref.dtype)
    if "points" in parts:
        values = values - _of_block(ref, parts["points"], rows, columns)
    values = values * _of_block(ref, parts["scales"], rows, columns)
    times = packed.ref_parameter(ref, "times")
    return values if times == 1 else values * np.float32(times)


def fp4_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """E2M1 in pairs times the scale of a group.

    ModelOpt (qtensor/nvfp4_tensor.py, mxfp4_tensor.py), Quark, DeepSeek; compressed-tensors (compressors/nvfp4/base.py), which
    divides by its global scale.
    """
    return F4_VALUES[packed.pairs(parts["codes"], rows, columns)] * _of_group(ref, parts, rows, columns)


def word_fp4_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """MLX mxfp4 and nvfp4 (mlx/backend/cpu/quantized.cpp): E2M1 in 32-bit words times the scale of a group."""
    return F4_VALUES[packed.word_codes(parts["codes"], rows, columns, 4)] * _of_group(ref, parts, rows, columns)


def word_fp8_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """MLX mxfp8: E4M3 in 32-bit words times the scale of a group."""
    return F8_VALUES[packed.word_codes(parts["codes"], rows, columns, 8)] * _of_group(ref, parts, rows, columns)


def bitnet_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """transformers (integrations/bitnet.py): code - 1, in BitLinear over the weight's scale, in AutoBitLinear times it."""
    codes = packed.slices(parts["codes"], rows, columns, 2).astype(np.float32) - 1
    scale = _all(parts["scales"])
    return codes / scale if packed.ref_parameter(ref, "is_divided") else codes * scale


def row_pairs_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """ModelOpt INT4 (qtensor/int4_tensor.py): two's complement of 4 bits times the scale of a group."""
    return _signed(packed.row_pairs(parts["codes"], rows, columns)) * _of_group(ref, parts, rows, columns)


def integer_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """compressed-tensors pack-quantized: (code - 2 ** (bits - 1)) * scale, or (code - point) * scale."""
    codes = packed.integer_codes(ref, parts["codes"], rows, columns).astype(np.float32)
    scales = packed.row_floats(ref, parts["scales"], rows)
    groups = packed.input_groups(ref, _order(parts), columns, scales.shape[1])
    if "points" not in parts:
        return (codes - (1 << (packed.integer(ref, "bits") - 1))) * scales[:, groups]
    points = packed.integer_points(ref, parts["points"], rows).astype(np.float32)
    return (codes - points[:, groups]) * scales[:, groups]


def gptq_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """GPTQ (auto_gptq/nn_modules/qlinear/qlinear_cuda.py): (code - point) * scale of the input's group."""
    codes = packed.word_codes(parts["codes"], rows, columns, packed.integer(ref, "bits")).astype(np.float32)
    points = packed.gptq_points(ref, parts["points"], rows).astype(np.float32)
    scales = packed.row_floats(ref, parts["scales"], rows)
    groups = packed.input_groups(ref, _order(parts), columns, points.shape[1])
    return (codes - points[:, groups]) * scales[:, groups]


def awq_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """AWQ GEMM (awq/utils/packing_utils.py, dequantize_gemm) and Quark: (code - point) * scale.

    Without zero points codes are in two's complement.
    """
    codes = packed.awq_codes(ref, parts["codes"], rows, columns)
    scales = packed.row_floats(ref, parts["scales"], rows)
    groups = packed.input_groups(ref, [], columns, scales.shape[1])
    if "points" not in parts:
        return _signed(codes) * scales[:, groups]
    points, is_signed = packed.awq_points(ref, parts["points"], rows), packed.ref_parameter(ref, "is_signed")
    values, shifts = (_signed(part) if is_signed else part.astype(np.float32) for part in (codes, points))
    return (values - shifts[:, groups]) * scales[:, groups]


def gemv_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """AWQ GEMV (awq/modules/linear/gemv.py): (code - point) * scale, scales (out, padded groups)."""
    codes = packed.word_codes(parts["codes"], rows, columns, 4).astype(np.float32)
    points = packed.gemv_points(ref, parts["points"], rows).astype(np.float32)
    scales = packed.row_floats(ref, parts["scales"], rows)
    groups = np.arange(columns) // packed.integer(ref, "group_size")
    return (codes - points[:, groups]) * scales[:, groups]


def gemv_fast_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """AWQ GEMV_FAST (awq/modules/linear/gemv_fast.py): code * scale + zero, zeros being -point * scale.

    A code that is its point is exactly zero, whatever the product was rounded to.
    """
    codes = packed.gemv_fast_codes(parts["codes"], rows, columns)
    points = packed.gemv_fast_points(ref, [parts["scales"], parts["zeros"]], rows)
    scales, zeros = (packed.row_floats(ref, parts[name], rows) for name in ("scales", "zeros"))
    groups = np.arange(columns) // packed.integer(ref, "group_size")
    values = codes.astype(np.float32) * scales[:, groups] + zeros[:, groups]
    return np.where((codes == points[:, groups]) & np.isfinite(values), np.float32(0), values)


def affine_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """MLX (mlx/ops.cpp, affine_dequantize): code * scale + bias, in the scales' own type."""
    codes = packed.word_codes(parts["codes"], rows, columns, packed.integer(ref, "bits"))
    return packed.affine_values(ref, [parts["scales"], parts["biases"]], codes, rows)


def shifted_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """quanto (optimum/quanto/tensor/qbits.py, QBitsDequantizer): code * scale - shift, in the scales' own type."""
    codes = packed.slices(parts["codes"], rows, columns, packed.integer(ref, "bits"))
    return packed.shifted_values(ref, [parts["scales"], parts["shifts"]], codes, rows)


def hqq_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """HQQ (hqq/core/quantize.py, dequantize): whole rows of its matrix are one row of the weight (axis 1), or several rows of
    the weight are one row of it (axis 0).
    """
    width = packed.integer(ref, "matrix_columns")
    sources = [parts["codes"], parts["scales"], parts["zeros"]]
    if columns % width == 0:
        times = columns // width
        numbers = (rows[:, np.newaxis] * times + np.arange(times)).reshape(-1)
        return packed.hqq_values(ref, sources, numbers)[1].reshape(-1, columns)
    times = width // columns
    numbers, places = np.unique(rows // times, return_inverse=True)
    _, values = packed.hqq_values(ref, sources, numbers)
    return np.asarray(values.reshape(-1, times, columns)[places, rows % times])


def bitsandbytes_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """bitsandbytes 4-bit (functional.py, dequantize_4bit): quant_map[code] * absmax of the block."""
    sources = [parts[name] for name in ("absmax", "nested_quant_map", "nested_absmax") if name in parts]
    book = np.array(packed.ref_parameter(ref, "quant_map"), np.float32)
    codes = packed.bitsandbytes_codes(parts["codes"], rows, columns)
    return book[codes] * packed.bitsandbytes_absmax(ref, sources, rows, columns)


def gguf_values(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """Blocks of ggml along the last dimension."""
    blocks = packed.blocks_of_ggml(ref, parts["codes"], rows, columns)
    return BLOCK_VALUES[packed.ref_parameter(ref, "type")](blocks).reshape(len(rows), columns)


DECODERS: dict[str, Callable[[TensorRef, Parts, Array, int], Array]] = {
    function.__name__: function
    for function in (
        scaled_values,
        fp4_values,
        word_fp4_values,
        word_fp8_values,
        bitnet_values,
        row_pairs_values,
        integer_values,
        gptq_values,
        awq_values,
        gemv_values,
        gemv_fast_values,
        affine_values,
        shifted_values,
        hqq_values,
        bitsandbytes_values,
        gguf_values,
    )
}


def _all(source: packed.Source) -> Array:
    return packed.floats(packed.whole(source), source.ref.dtype)


def _signed(codes: Array) -> Array:
    """Codes of 4 bits in two's complement."""
    return (codes ^ 8).astype(np.float32) - 8


def _order(parts: Parts) -> list[Any]:
    """The source that says the group of every input, if there is one."""
    return [parts["groups"]] if "groups" in parts else []


def _of_group(ref: TensorRef, parts: Parts, rows: Array, columns: int) -> Array:
    """The scale of each element, that of its group of inputs and of the whole weight, which may be one to divide by."""
    scales = packed.row_floats(ref, parts["scales"], rows)
    if "weight_scale" in parts:
        scales = scales * _all(parts["weight_scale"]).reshape(())
    if "weight_divisor" in parts:
        scales = scales / _all(parts["weight_divisor"]).reshape(())
    return np.repeat(scales, packed.integer(ref, "group_size"), axis=1)[:, :columns]


def _of_block(ref: TensorRef, source: packed.Source, rows: Array, columns: int) -> Array:
    """A number of each element's block, stored (blocks of rows, blocks of columns) in C order; (n, 1) where a row has one."""
    height, width = packed.ref_parameter(ref, "block")
    numbers, places = np.unique(rows // height, return_inverse=True)
    stored = packed.floats(source.rows(numbers, -(-columns // width)), source.ref.dtype)[places]
    return stored if width >= columns else np.repeat(stored, width, axis=1)[:, :columns]
