"""Packed weights as one code an element, zero just where the weight is zero, so that zeros are counted as in plain weights.

A code is what the file stores plus one, or zero where scale and zero point make the weight zero. FP4 values become 8-bit
floats, which have two zeros as well. So equal codes beside equal scales are equal weights. Forms and zero tests follow the
libraries that write them; each function names its own.

Every function makes the rows `low` to before `high` of a weight (out, in), from sources in the order of its Assembly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io.gguf_blocks import BLOCKS

Array = npt.NDArray[Any]


class Source(Protocol):
    """One stored tensor of a packed weight."""

    ref: TensorRef

    def elements(self, first: int, last: int) -> Array: ...


def fp4_pairs(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """E2M1, two values a byte, the first in the low bits: weight (out, in / 2)[, F8_E4M3 scales (out, groups)].

    A scale of zero makes zeros. E8M0 scales have no zero and are no source.
    """
    codes = _pairs(sources[0], low, high, columns)
    codes = (codes & 7) | (codes & 8) << 4
    if len(sources) > 1:
        groups = sources[1].ref.elements // _rows(ref)
        scales = _block(sources[1], low, high, groups)
        codes[np.repeat(scales & 0x7F == 0, -(-columns // groups), axis=1)[:, :columns]] &= 0x80
    return codes


def word_pairs(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """MLX mxfp4 and nvfp4: E2M1 in 32-bit words (out, in / 8), which are the pairs of fp4_pairs."""
    words = _block(sources[0], low, high, columns // 8)
    codes = _little_end(words, 4, columns)
    return (codes & 7) | (codes & 8) << 4


def word_floats(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """MLX mxfp8: 8-bit floats in 32-bit words (out, in / 4)."""
    return _little_end(_block(sources[0], low, high, columns // 4), 8, columns)


def bitnet(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """transformers' pack_weights: row j * out / 4 + r is in bits 2j of byte row r; code 1 is zero."""
    codes = _slices(sources[0], low, high, columns, 2)
    return _nonzero(codes, codes == 1)


def row_pairs(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """ModelOpt's pack_int4_in_uint8: a byte has rows 2r (low) and 2r + 1, in two's complement; code 0 is zero."""
    packed = _block(sources[0], low // 2, -(-high // 2), columns)
    both = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1, columns)
    codes = both[low % 2 : low % 2 + high - low]
    return _nonzero(codes, codes == 0)


def word_integers(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """compressed-tensors pack-quantized: 32 // bits codes a word along the inputs, none across words.

    Zero is 2 ** (bits - 1), or the zero point (out / per word, groups), packed along the outputs; inputs belong to groups in
    order, or as a third source says.
    """
    bits = _parameter(ref, "bits")
    per_word = 32 // bits
    codes = _in_words(_block(sources[0], low, high, -(-columns // per_word)), bits)[:, :columns]
    if len(sources) == 1:
        return _nonzero(codes, codes == 1 << (bits - 1))
    rows = -(-_rows(ref) // per_word)
    groups = sources[1].ref.elements // rows
    first, last = low // per_word, -(-high // per_word)
    points = _in_words(_block(sources[1], first, last, groups).T, bits).T[low - first * per_word :][: high - low]
    return _nonzero(codes, codes == points[:, _groups(sources[2:], columns, groups)])


def gptq(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """GPTQ: codes in words along the inputs (qweight, turned to (out, words)), zero points in words along the outputs.

    To a stored zero point `added` is added: 1, but for version 2 of the format. g_idx, if there, gives the group of an input.
    """
    bits, rows = _parameter(ref, "bits"), _rows(ref)
    codes = _little_end(_block(sources[0], low, high, columns * bits // 32), bits, columns)
    groups = sources[1].ref.elements // (rows * bits // 32)
    stored = _little_end(sources[1].elements(0, sources[1].ref.elements).reshape(groups, -1), bits, rows)[:, low:high]
    points = (stored + _parameter(ref, "added")) & ((1 << bits) - 1)
    return _nonzero(codes, codes == points.T[:, _groups(sources[2:], columns, groups)])


AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""The nibble that each of a word's eight outputs is in, the lowest being 0 (awq/modules/linear/gemm.py, from_linear)."""


def awq(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """AWQ GEMM and Quark: eight outputs a word (turned to (out / 8, in)), zero points alike (groups, out / 8)."""
    order = AWQ_ORDER if ref_parameter(ref, "is_reordered") else tuple(range(8))
    first, last = low // 8, -(-high // 8)
    codes = _outputs_of_words(_block(sources[0], first, last, columns), order)[low - 8 * first :][: high - low]
    if len(sources) == 1:
        return _nonzero(codes, codes == 0)
    groups = sources[1].ref.elements // (_rows(ref) // 8)
    points = sources[1].elements(0, sources[1].ref.elements).reshape(groups, -1)[:, first:last]
    zeros = _outputs_of_words(points.T, order)[low - 8 * first :][: high - low]
    return _nonzero(codes, codes == zeros[:, _groups([], columns, groups)])


def awq_gemv(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """AWQ GEMV: eight inputs a word (out, in / 8); the zero points of a row are in words, one nibble a group."""
    codes = _little_end(_block(sources[0], low, high, columns // 8), 4, columns)
    width = sources[1].ref.elements // _rows(ref)
    points = _little_end(_block(sources[1], low, high, width), 4, 8 * width)
    return _nonzero(codes, codes == points[:, np.arange(columns) // _parameter(ref, "group_size")])


def awq_gemv_fast(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """AWQ GEMV_FAST: words of 16 bits have four rows, and columns are mixed within 64; zero points are floats, times -scale."""
    first, last = low // 4, -(-high // 4)
    words = _block(sources[0], first, last, columns).reshape(-1, columns // 64, 64)
    codes = np.empty((last - first, columns // 64, 4 * 64), np.uint8)
    for row in range(4):
        codes[:, :, _FAST_ORDER[:, row]] = (words >> (4 * row)) & 15
    rows = codes.reshape(-1, columns // 64, 4, 64).transpose(0, 2, 1, 3).reshape(-1, columns)[low - 4 * first :][: high - low]
    scales, zeros = (
        _floats(source.elements(0, source.ref.elements), source.ref.dtype).reshape(-1, _rows(ref))[:, low:high]
        for source in sources[1:]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        points = np.nan_to_num(np.round(-zeros / scales))
    return _nonzero(rows, rows == points.T[:, np.arange(columns) // _parameter(ref, "group_size")])


def _fast_order() -> Array:
    """Where the four nibbles of 64 words go in 4 rows of 64 columns (awq/modules/linear/gemv_fast.py, pack_intweight)."""
    index = np.arange(4 * 64).reshape(4, 2, 4, 4, 2).transpose(0, 1, 3, 2, 4)
    index = index.reshape(4, 2, 4, 4, 2).transpose(0, 1, 2, 4, 3).reshape(1, 4, 1, 64).transpose(0, 2, 1, 3)
    return index.reshape(64, 4)


_FAST_ORDER = _fast_order()


def affine(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """MLX: codes of any width in 32-bit words along the inputs; zero where code * scale + bias is, in the scales' own type."""
    bits = _parameter(ref, "bits")
    codes = _little_end(_block(sources[0], low, high, columns * bits // 32), bits, columns)
    groups = sources[1].ref.elements // _rows(ref)
    dtype = sources[1].ref.dtype
    scales, biases = (
        np.repeat(_floats(_block(source, low, high, groups), dtype), columns // groups, axis=1) for source in sources[1:]
    )
    is_zero = _rounded(_rounded(codes.astype(np.float32) * scales, dtype) + biases, dtype) == 0
    return _nonzero(codes, is_zero, is_wide=bits == 8)


def shifted(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """quanto: slices of rows as in bitnet; zero where code * scale - shift is, in the scales' own type."""
    bits = _parameter(ref, "bits")
    codes = _slices(sources[0], low, high, columns, bits)
    size = _rows(ref) * columns // sources[1].ref.elements
    first, last = low * columns // size, -(-high * columns // size)
    dtype = sources[1].ref.dtype
    scales, shifts = (
        np.repeat(_floats(source.elements(first, last), dtype), size)[low * columns - first * size :][: codes.size]
        for source in sources[1:]
    )
    products = _rounded(codes.reshape(-1).astype(np.float32) * scales, dtype)
    return _nonzero(codes, (_rounded(products - shifts, dtype) == 0).reshape(codes.shape))


def pointed(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """torchao and compressed-tensors: a byte an element, zero where it equals the zero point of its group (out, groups)."""
    codes = _block(sources[0], low, high, columns)
    groups = sources[1].ref.elements // _rows(ref)
    points = np.repeat(_block(sources[1], low, high, groups), columns // groups, axis=1)
    return (codes.astype(np.uint8) - points.astype(np.uint8)).astype(np.uint8)


def hqq(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """HQQ: the weight's values in C order are the rows of a matrix, whose first slice of rows is in the high bits.

    Zero where (code - zero) * scale is, in the scales' own type; there is one of both for each row (axis 1) or column (axis 0).
    """
    bits, width = _parameter(ref, "bits"), _parameter(ref, "matrix_columns")
    first, last = low * columns // width, -(-high * columns // width)
    codes = _high_slices(sources[0], first, last, width, bits)
    dtype, is_by_row = sources[1].ref.dtype, _parameter(ref, "axis") == 1
    scales, zeros = (
        _floats(part.elements(first, last) if is_by_row else part.elements(0, width), dtype).reshape(
            (-1, 1) if is_by_row else (1, -1)
        )
        for part in sources[1:]
    )
    with np.errstate(all="ignore"):
        differences = _rounded(codes.astype(np.float32) - zeros, dtype)
        is_zero = _rounded(differences * scales, dtype) == 0
    own = _nonzero(codes, is_zero, is_wide=bits == 8).reshape(-1)[low * columns - first * width :]
    return own[: (high - low) * columns].reshape(high - low, columns)


def torch_affine(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """torch's quantised tensors: the values (code - zero point) * scale.

    Both are numbers, or tensors with one for each row (axis 0) or column (axis 1).
    """
    source, axis = sources[0], ref_parameter(ref, "axis")
    signed = np.uint8 if source.ref.dtype == "U8" else np.int8 if source.ref.dtype == "I8" else np.int32
    codes = _block(source, low, high, columns).view(signed)
    if len(sources) == 1:
        return (codes.astype(np.int64) - _parameter(ref, "zero_point")).astype(np.float32) * np.float32(
            ref_parameter(ref, "scale")
        )
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
    first, last = low * columns, high * columns
    packed = sources[0].elements(first // 2, -(-last // 2))
    codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[first % 2 :][: last - first]
    size = _parameter(ref, "blocksize")
    blocks = slice(first // size, -(-last // size))
    absmax = sources[1].elements(blocks.start, blocks.stop)
    if len(sources) > 2:
        book, nested = (_floats(source.elements(0, source.ref.elements), "F32") for source in sources[2:])
        numbers = np.arange(blocks.start, blocks.stop) // _parameter(ref, "nested_blocksize")
        values = book[absmax] * nested[numbers] + np.float32(ref_parameter(ref, "nested_offset"))
    else:
        values = _floats(absmax, sources[1].ref.dtype)
    is_zero = np.repeat(values == 0, size)[first - blocks.start * size :][: codes.size]
    is_zero |= np.isin(codes, ref_parameter(ref, "zero_codes"))
    return _nonzero(codes, is_zero).reshape(high - low, columns)


def gguf(ref: TensorRef, sources: list[Any], low: int, high: int, columns: int) -> Array:
    """Blocks of ggml along the last dimension."""
    per_block, block_bytes = _parameter(ref, "block"), _parameter(ref, "block_bytes")
    blocks = _block(sources[0], low * (columns // per_block), high * (columns // per_block), block_bytes)
    return BLOCKS[ref_parameter(ref, "type")](blocks).reshape(high - low, columns)


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


def ref_parameter(ref: TensorRef, name: str) -> Any:
    """A parameter of the packed form."""
    assert ref.assembly is not None
    return ref.assembly.parameters[name]


def _parameter(ref: TensorRef, name: str) -> int:
    return int(ref_parameter(ref, name))


def _rows(ref: TensorRef) -> int:
    assert ref.assembly is not None
    return ref.assembly.shape[0]


def _block(source: Source, low: int, high: int, columns: int) -> Array:
    """Rows of a stored tensor."""
    return source.elements(low * columns, high * columns).reshape(high - low, columns)


def _pairs(source: Source, low: int, high: int, columns: int) -> Array:
    packed = source.elements(low * columns // 2, high * columns // 2)
    return np.stack([packed & 15, packed >> 4], axis=1).reshape(high - low, columns)


def _slices(source: Source, low: int, high: int, columns: int, bits: int) -> Array:
    """Rows of a weight whose slice j of rows is in bits j * `bits` of the stored bytes."""
    stored, mask = source.ref.elements // columns, (1 << bits) - 1
    parts = []
    for number in range(low // stored, -(-high // stored)):
        first, last = max(low - number * stored, 0), min(high - number * stored, stored)
        parts.append((_block(source, first, last, columns) >> (bits * number)) & mask)
    return np.concatenate(parts)


def _high_slices(source: Source, low: int, high: int, columns: int, bits: int) -> Array:
    """Rows of a matrix whose slices of rows are in the bits of a byte, or in 30 bits of a word, the first in the highest."""
    stored, mask = source.ref.elements // columns, (1 << bits) - 1
    top = 30 if source.ref.dtype == "I32" else 8
    parts = []
    for number in range(low // stored, -(-high // stored)):
        first, last = max(low - number * stored, 0), min(high - number * stored, stored)
        parts.append((_block(source, first, last, columns) >> (top - bits * (number + 1))) & mask)
    return np.concatenate(parts).astype(np.uint8)


def _in_words(words: Array, bits: int) -> Array:
    """Codes of 32-bit words (n, words), the lowest bits first, none across words: (n, words * (32 // bits))."""
    shifts = (np.arange(32 // bits) * bits).astype(np.uint32)
    codes: Array = (words[:, :, np.newaxis] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(len(words), -1)


def _little_end(words: Array, bits: int, count: int) -> Array:
    """The first `count` codes of rows of 32-bit words, the lowest bits first; a code may cross words."""
    if 32 % bits == 0:
        return _in_words(words, bits)[:, :count]
    positions = np.arange(count) * bits
    number, shifts = positions // 32, (positions % 32).astype(np.uint64)
    wide = np.concatenate([words, np.zeros_like(words[:, :1])], axis=1).astype(np.uint64)
    both = wide[:, number] | wide[:, number + 1] << np.uint64(32)
    codes: Array = (both >> shifts) & np.uint64((1 << bits) - 1)
    return codes.astype(np.uint8)


def _outputs_of_words(words: Array, order: tuple[int, ...]) -> Array:
    """Rows of words (n, columns) that hold eight outputs each, as rows of outputs (8 n, columns)."""
    shifts = np.array([4 * place for place in order], np.uint32)[np.newaxis, :, np.newaxis]
    codes: Array = (words[:, np.newaxis, :] >> shifts) & np.uint32(15)
    return codes.astype(np.uint8).reshape(-1, words.shape[1])


def _groups(sources: list[Any], columns: int, groups: int) -> Array:
    """The group of every input: as a source says, or in order, also where all of a source is -1, which means that.

    Raises InputError for a group that there is not.
    """
    if sources and sources[0].ref.elements >= columns:
        given: Array = sources[0].elements(0, columns).astype(np.int32)
        if (given >= 0).all() and (given < groups).all():
            return given
        if (given != -1).any():
            ref = sources[0].ref
            raise InputError(str(ref.path), f"tensor {ref.name!r}: names a group that is not one of {groups}")
    return np.minimum(np.arange(columns) // max(1, columns // groups), groups - 1)


def _floats(stored: Array, dtype: str) -> Array:
    """float32 of stored 16- or 32-bit floats, given as unsigned integers."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.view(np.float16 if dtype == "F16" else np.float32).astype(np.float32)


def _rounded(values: Array, dtype: str) -> Array:
    """float32 values rounded to the nearest of another type, ties to even."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float32)
    if dtype != "BF16":
        return values
    bits = values.view(np.uint32)
    rounded: Array = (bits + (0x7FFF + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def _nonzero(codes: Array, is_zero: Array, *, is_wide: bool = False) -> Array:
    return np.where(is_zero, 0, codes.astype(np.uint16 if is_wide else np.uint8) + 1).astype(np.uint16 if is_wide else np.uint8)
