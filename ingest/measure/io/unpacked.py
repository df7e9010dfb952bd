"""Packed weights as one code an element, zero just where the weight is zero, so that zeros are counted as in plain weights.

A code is what the file stores plus one, or zero where scale and zero point make the weight zero. FP4 values become 8-bit
floats, which have two zeros as well. So equal codes beside equal scales are equal weights. Forms and zero tests follow the
libraries that write them; each function names its own.

Every function makes the rows `low` to before `high` of a weight (out, in), from sources in the order of its Assembly. What is
stored is read by io.packed_codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io import packed_codes as packed
from layerhouse.ingest.measure.io.gguf_blocks import BLOCKS
from layerhouse.ingest.measure.io.packed_codes import Source

Array = npt.NDArray[Any]


def fp4_pairs(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """E2M1, two values a byte, the first in the low bits: weight (out, in / 2)[, F8_E4M3 scales (out, groups)].

    A scale of zero makes zeros. E8M0 scales have no zero and are no source.
    """
    rows = np.arange(low, high)
    codes = packed.pairs(sources[0], rows, columns)
    codes = _floats_of_8_bits(codes)
    if len(sources) > 1:
        size = packed.integer(ref, "group_size")
        scales = sources[1].rows(rows, sources[1].ref.elements // packed.row_count(ref))
        codes[np.repeat(scales & 0x7F == 0, size, axis=1)[:, :columns]] &= 0x80
    return codes


def word_pairs(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """MLX mxfp4 and nvfp4: E2M1 in 32-bit words (out, in / 8), which are the pairs of fp4_pairs."""
    return _floats_of_8_bits(packed.word_codes(sources[0], np.arange(low, high), columns, 4))


def word_floats(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """MLX mxfp8: 8-bit floats in 32-bit words (out, in / 4)."""
    return packed.word_codes(sources[0], np.arange(low, high), columns, 8)


def bitnet(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """transformers' pack_weights: row j * out / 4 + r is in bits 2j of byte row r; code 1 is zero."""
    codes = packed.slices(sources[0], np.arange(low, high), columns, 2)
    return _nonzero(codes, codes == 1)


def row_pairs(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """ModelOpt's pack_int4_in_uint8: a byte has rows 2r (low) and 2r + 1, in two's complement; code 0 is zero."""
    codes = packed.row_pairs(sources[0], np.arange(low, high), columns)
    return _nonzero(codes, codes == 0)


def word_integers(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """compressed-tensors pack-quantized: 32 // bits codes a word along the inputs, none across words.

    Zero is 2 ** (bits - 1), or the zero point (out / per word, groups), packed along the outputs; inputs belong to groups in
    order, or as a third source says.
    """
    rows, bits = np.arange(low, high), packed.integer(ref, "bits")
    codes = packed.integer_codes(ref, sources[0], rows, columns)
    if len(sources) == 1:
        return _nonzero(codes, codes == 1 << (bits - 1), is_wide=bits == 8)
    points = packed.integer_points(ref, sources[1], rows)
    groups = packed.input_groups(ref, sources[2:], columns, points.shape[1])
    return _nonzero(codes, codes == points[:, groups], is_wide=bits == 8)


def gptq(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """GPTQ: codes in words along the inputs (qweight, turned to (out, words)), zero points in words along the outputs.

    g_idx, if there, gives the group of an input.
    """
    rows, bits = np.arange(low, high), packed.integer(ref, "bits")
    codes = packed.word_codes(sources[0], rows, columns, bits)
    points = packed.gptq_points(ref, sources[1], rows)
    groups = packed.input_groups(ref, sources[2:], columns, points.shape[1])
    return _nonzero(codes, codes == points[:, groups], is_wide=bits == 8)


def awq(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """AWQ GEMM and Quark: eight outputs a word (turned to (out / 8, in)), zero points alike (groups, out / 8)."""
    rows = np.arange(low, high)
    codes = packed.awq_codes(ref, sources[0], rows, columns)
    if len(sources) == 1:
        return _nonzero(codes, codes == 0)
    points = packed.awq_points(ref, sources[1], rows)
    return _nonzero(codes, codes == points[:, packed.input_groups(ref, [], columns, points.shape[1])])


def awq_gemv(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """AWQ GEMV: eight inputs a word (out, in / 8); the zero points of a row are in words, one nibble a group."""
    rows = np.arange(low, high)
    codes = packed.word_codes(sources[0], rows, columns, 4)
    points = packed.gemv_points(ref, sources[1], rows)
    return _nonzero(codes, codes == points[:, np.arange(columns) // packed.integer(ref, "group_size")])


def awq_gemv_fast(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """AWQ GEMV_FAST: words of 16 bits have four rows, and columns are mixed within 64; zero points are floats, times -scale."""
    rows = np.arange(low, high)
    codes = packed.gemv_fast_codes(sources[0], rows, columns)
    points = packed.gemv_fast_points(ref, sources[1:], rows)
    return _nonzero(codes, codes == points[:, np.arange(columns) // packed.integer(ref, "group_size")])


def affine(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """MLX: codes of any width in 32-bit words along the inputs; zero where code * scale + bias is, in the scales' own type."""
    rows, bits = np.arange(low, high), packed.integer(ref, "bits")
    codes = packed.word_codes(sources[0], rows, columns, bits)
    return _nonzero(codes, packed.affine_values(ref, sources[1:], codes, rows) == 0, is_wide=bits == 8)


def shifted(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """quanto: slices of rows as in bitnet; zero where code * scale - shift is, in the scales' own type."""
    rows, bits = np.arange(low, high), packed.integer(ref, "bits")
    codes = packed.slices(sources[0], rows, columns, bits)
    return _nonzero(codes, packed.shifted_values(ref, sources[1:], codes, rows) == 0, is_wide=bits == 8)


def pointed(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """torchao and compressed-tensors: a byte an element, zero where it equals the zero point of its group (out, groups)."""
    rows = np.arange(low, high)
    codes = sources[0].rows(rows, columns)
    groups = sources[1].ref.elements // packed.row_count(ref)
    points = np.repeat(sources[1].rows(rows, groups), columns // groups, axis=1)
    return np.asarray(codes.astype(np.uint8) - points.astype(np.uint8))


def hqq(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """HQQ: the weight's values in C order are the rows of a matrix, whose first slice of rows is in the high bits.

    Zero where (code - zero) * scale is, in the scales' own type; there is one of both for each row (axis 1) or column (axis 0).
    """
    bits, width = packed.integer(ref, "bits"), packed.integer(ref, "matrix_columns")
    first, last = low * columns // width, -(-high * columns // width)
    codes, values = packed.hqq_values(ref, sources, np.arange(first, last))
    own = _nonzero(codes, values == 0, is_wide=bits == 8).reshape(-1)[low * columns - first * width :]
    return own[: (high - low) * columns].reshape(high - low, columns)


def torch_affine(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """torch's quantised tensors: the values (code - zero point) * scale.

    Both are numbers, or tensors with one for each row (axis 0) or column (axis 1).
    """
    source, axis = sources[0], packed.ref_parameter(ref, "axis")
    signed = np.uint8 if source.ref.dtype == "U8" else np.int8 if source.ref.dtype == "I8" else np.int32
    codes = source.elements(low * columns, high * columns).reshape(-1, columns).view(signed)
    if len(sources) == 1:
        differences = (codes.astype(np.int64) - packed.integer(ref, "zero_point")).astype(np.float32)
        return np.asarray(differences * np.float32(packed.ref_parameter(ref, "scale")))
    first, last = (low, high) if axis == 0 else (0, columns)
    scales, points = (_numbers(part, first, last).reshape((-1, 1) if axis == 0 else (1, -1)) for part in sources[1:])
    with np.errstate(all="ignore"):
        differences = (codes.astype(points.dtype) - points).astype(np.float32)
        values: Array = differences * scales.astype(np.float32)
    return values


def _numbers(source: Source, first: int, last: int) -> Array:
    """Elements of a tensor of 32- or 64-bit floats or integers; these as int64."""
    stored, dtype = source.elements(first, last), source.ref.dtype
    if dtype[0] == "F":
        return stored.view(np.float32 if dtype == "F32" else np.float64)
    return stored.view(np.int32 if dtype == "I32" else np.int64).astype(np.int64)


def bitsandbytes(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """bitsandbytes 4-bit: two codes a byte, the first in the high bits; some codes are zero, and blocks of absmax zero."""
    rows = np.arange(low, high)
    codes = packed.bitsandbytes_codes(sources[0], rows, columns)
    is_zero = packed.bitsandbytes_absmax(ref, sources[1:], rows, columns) == 0
    is_zero |= np.array([value == 0 for value in packed.ref_parameter(ref, "quant_map")])[codes]
    return _nonzero(codes, is_zero)


def gguf(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """Blocks of ggml along the last dimension."""
    blocks = packed.blocks_of_ggml(ref, sources[0], np.arange(low, high), columns)
    return BLOCKS[packed.ref_parameter(ref, "type")](blocks).reshape(high - low, columns)


UNPACKERS: dict[str, Callable[[TensorRef, list[Any], int, int, int], Array]] = {
    function.__name__: function
    for function in (
        fp4_pairs,
        word_pairs,
        word_floats,
        bitnet,
        row_pairs,
        word_integers,
        gptq,
        awq,
        awq_gemv,
        awq_gemv_fast,
        affine,
        shifted,
        pointed,
        hqq,
        torch_affine,
        bitsandbytes,
        gguf,
    )
}


def _floats_of_8_bits(codes: Array) -> Array:
    """Codes of E2M1 with the sign where an 8-bit float has it."""
    return (codes & 7) | (codes & 8) << 4


def _nonzero(codes: Array, is_zero: Array, *, is_wide: bool = False) -> Array:
    """Codes plus one, and zero where the value is; `is_wide`: in 16 bits, as those of 8 bits and one more need."""
    dtype = np.uint16 if is_wide else np.uint8
    return np.where(is_zero, 0, codes.astype(dtype) + 1).astype(dtype)
