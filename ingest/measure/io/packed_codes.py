"""The codes, zero points and groups of packed weights, read for any rows of a weight (out, in).

What a code is worth is up to the callers: io.unpacked, which asks whether it is zero, and io.decoded. Row numbers ascend and
are an array of int64.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.decode import floats_of

Array = npt.NDArray[Any]


class Source(Protocol):
    """One stored tensor of a packed weight."""

    ref: TensorRef

    def elements(self, first: int, last: int) -> Array: ...

    def rows(self, numbers: Array, columns: int) -> Array: ...


def ref_parameter(ref: TensorRef, name: str) -> Any:
    """A parameter of the packed form."""
    assert ref.assembly is not None
    return ref.assembly.parameters[name]


def integer(ref: TensorRef, name: str) -> int:
    """A parameter of the packed form that is an integer."""
    return int(ref_parameter(ref, name))


def row_count(ref: TensorRef) -> int:
    """The rows of the whole weight."""
    assert ref.assembly is not None
    return ref.assembly.shape[0]


def whole(source: Source) -> Array:
    """All elements of a stored tensor."""
    return source.elements(0, source.ref.elements)


def floats(stored: Array, dtype: str) -> Array:
    """Values of stored numbers, given as unsigned integers of their size, as float32."""
    with np.errstate(over="ignore"):
        return floats_of(dtype, stored.view(np.uint8).reshape(-1)).reshape(stored.shape).astype(np.float32, copy=False)


def rounded(values: Array, dtype: str) -> Array:
    """float32 values rounded to the nearest of another type, ties to even."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float32)
    if dtype != "BF16":
        return values
    bits = values.view(np.uint32)
    nearest: Array = (bits + (0x7FFF + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)
    return nearest.view(np.float32)


def pairs(source: Source, rows: Array, columns: int) -> Array:
    """Two codes of 4 bits a byte along the inputs, the first in the low bits."""
    packed = source.rows(rows, columns // 2)
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(rows), columns)


def row_pairs(source: Source, rows: Array, columns: int) -> Array:
    """Two rows a byte, 2r in the low bits and 2r + 1."""
    return _of_packed_rows(source, rows, columns, 4, (0, 4))


def slices(source: Source, rows: Array, columns: int, bits: int) -> Array:
    """Rows of a weight whose slice j of rows is in bits j * `bits` of the stored bytes."""
    stored, mask = source.ref.elements // columns, (1 << bits) - 1
    number, within = np.divmod(rows, stored)
    parts = [(source.rows(within[number == j], columns) >> (bits * int(j))) & mask for j in np.unique(number)]
    return np.concatenate(parts).astype(np.uint8, copy=False)


def high_slices(source: Source, rows: Array, columns: int, bits: int) -> Array:
    """Rows of a matrix whose slices of rows are in the bits of a byte, or in 30 bits of a word, the first in the highest."""
    stored, mask = source.ref.elements // columns, (1 << bits) - 1
    top = 30 if source.ref.dtype == "I32" else 8
    codes = np.empty((len(rows), columns), np.uint8)
    for number in np.unique(rows // stored).tolist():
        own = rows // stored == number
        codes[own] = (source.rows(rows[own] % stored, columns) >> (top - bits * (number + 1))) & mask
    return codes


def hqq_values(ref: TensorRef, sources: list[Any], rows: Array) -> tuple[Array, Array]:
    """Rows of HQQ's matrix as codes and as values: (code - zero) * scale in the scales' own type.

    Sources are codes, scales and zero points, one of both for each row (axis 1) or column (axis 0) of the matrix.
    """
    width, is_by_row = integer(ref, "matrix_columns"), integer(ref, "axis") == 1
    codes = high_slices(sources[0], rows, width, integer(ref, "bits"))
    dtype, shape = sources[1].ref.dtype, (-1, 1) if is_by_row else (1, -1)
    scales, zeros = (
        floats(part.rows(rows, 1) if is_by_row else part.elements(0, width), dtype).reshape(shape) for part in sources[1:]
    )
    with np.errstate(all="ignore"):
        differences = rounded(codes.astype(np.float32) - zeros, dtype)
        return codes, rounded(differences * scales, dtype)


def in_words(words: Array, bits: int) -> Array:
    """Codes of 32-bit words (n, words), the lowest bits first, none across words: (n, words * (32 // bits))."""
    shifts = (np.arange(32 // bits) * bits).astype(np.uint32)
    codes: Array = (words[:, :, np.newaxis] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(len(words), -1)


def little_end(words: Array, bits: int, count: int) -> Array:
    """The first `count` codes of rows of 32-bit words, the lowest bits first; a code may cross words."""
    if 32 % bits == 0:
        return in_words(words, bits)[:, :count]
    positions = np.arange(count) * bits
    number, shifts = positions // 32, (positions % 32).astype(np.uint64)
    wide = np.concatenate([words, np.zeros_like(words[:, :1])], axis=1).astype(np.uint64)
    both = wide[:, number] | wide[:, number + 1] << np.uint64(32)
    codes: Array = (both >> shifts) & np.uint64((1 << bits) - 1)
    return codes.astype(np.uint8)


def word_codes(source: Source, rows: Array, columns: int, bits: int) -> Array:
    """Codes in 32-bit words along the inputs (out, in * bits / 32); a code may cross words."""
    return little_end(source.rows(rows, columns * bits // 32), bits, columns)


def integer_codes(ref: TensorRef, source: Source, rows: Array, columns: int) -> Array:
    """compressed-tensors pack-quantized: 32 // bits codes a word along the inputs, none across words."""
    bits = integer(ref, "bits")
    return in_words(source.rows(rows, -(-columns // (32 // bits))), bits)[:, :columns]


def integer_points(ref: TensorRef, source: Source, rows: Array) -> Array:
    """compressed-tensors' zero points of rows (n, groups), packed along the outputs."""
    bits = integer(ref, "bits")
    per_word = 32 // bits
    groups = source.ref.elements // -(-row_count(ref) // per_word)
    return _of_packed_rows(source, rows, groups, bits, tuple(bits * place for place in range(per_word)))


def gptq_points(ref: TensorRef, source: Source, rows: Array) -> Array:
    """GPTQ's zero points of rows (n, groups), in words along the outputs (turned to (words, groups)).

    A point may cross words. To a stored one `added` is added: 1, but for version 2 of the format.
    """
    bits = integer(ref, "bits")
    groups = source.ref.elements // (row_count(ref) * bits // 32)
    first, last = rows * bits // 32, (rows * bits + bits - 1) // 32
    numbers = np.unique(np.concatenate([first, last]))
    words = source.rows(numbers, groups).astype(np.uint64)
    low, high = (words[np.searchsorted(numbers, places)] for places in (first, last))
    shifts = (rows * bits % 32).astype(np.uint64)[:, np.newaxis]
    stored = (low | high << np.uint64(32)) >> shifts
    points: Array = (stored + np.uint64(integer(ref, "added"))) & np.uint64((1 << bits) - 1)
    return points.astype(np.uint8)


AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""The nibble that each of a word's eight outputs is in, the lowest being 0 (awq/modules/linear/gemm.py, from_linear)."""


def awq_codes(ref: TensorRef, source: Source, rows: Array, columns: int) -> Array:
    """AWQ GEMM and Quark: eight outputs a word, turned to (out / 8, in)."""
    return _of_packed_rows(source, rows, columns, 4, _awq_shifts(ref))


def awq_points(ref: TensorRef, source: Source, rows: Array) -> Array:
    """AWQ's zero points of rows (n, groups), turned to (out / 8, groups)."""
    return _of_packed_rows(source, rows, source.ref.elements // (row_count(ref) // 8), 4, _awq_shifts(ref))


def _awq_shifts(ref: TensorRef) -> tuple[int, ...]:
    return tuple(4 * place for place in (AWQ_ORDER if ref_parameter(ref, "is_reordered") else range(8)))


def gemv_points(ref: TensorRef, source: Source, rows: Array) -> Array:
    """AWQ GEMV: the zero points of a row in words of its own, one nibble a group."""
    width = source.ref.elements // row_count(ref)
    return little_end(source.rows(rows, width), 4, 8 * width)


def gemv_fast_codes(source: Source, rows: Array, columns: int) -> Array:
    """AWQ GEMV_FAST: words of 16 bits have four rows, and columns are mixed within 64."""
    stored, places = np.unique(rows // 4, return_inverse=True)
    packed = source.rows(stored, columns).reshape(-1, columns // 64, 64)
    codes = np.empty((len(stored), columns // 64, 4 * 64), np.uint8)
    for row in range(4):
        codes[:, :, _FAST_ORDER[:, row]] = (packed >> (4 * row)) & 15
    by_row: Array = codes.reshape(-1, columns // 64, 4, 64).transpose(0, 2, 1, 3)[places, rows % 4]
    return by_row.reshape(len(rows), columns)


def gemv_fast_points(ref: TensorRef, sources: list[Any], rows: Array) -> Array:
    """AWQ GEMV_FAST's zero points (n, padded groups) of its scales and zeros."""
    scales, zeros = (row_floats(ref, source, rows) for source in sources)
    with np.errstate(all="ignore"):
        points: Array = np.nan_to_num(np.round(-zeros / scales))
    return points


def row_floats(ref: TensorRef, source: Source, rows: Array) -> Array:
    """Numbers of rows (n, groups) of (out, groups), or the one of the whole weight, as float32."""
    if source.ref.elements == 1:
        return np.full((len(rows), 1), floats(whole(source), source.ref.dtype).reshape(()))
    return floats(source.rows(rows, source.ref.elements // row_count(ref)), source.ref.dtype)


def _fast_order() -> Array:
    """Where the four nibbles of 64 words go in 4 rows of 64 columns (awq/modules/linear/gemv_fast.py, pack_intweight)."""
    index = np.arange(4 * 64).reshape(4, 2, 4, 4, 2).transpose(0, 1, 3, 2, 4)
    index = index.reshape(4, 2, 4, 4, 2).transpose(0, 1, 2, 4, 3).reshape(1, 4, 1, 64).transpose(0, 2, 1, 3)
    return index.reshape(64, 4)


_FAST_ORDER = _fast_order()


def bitsandbytes_codes(source: Source, rows: Array, columns: int) -> Array:
    """bitsandbytes: two codes a byte, the first in the high bits, all rows after each other."""
    if columns % 2 == 0:
        packed = source.rows(rows, columns // 2)
        return np.stack([packed >> 4, packed & 15], axis=2).reshape(len(rows), columns)
    codes = np.empty((len(rows), columns), np.uint8)
    for at, first in enumerate((rows * columns).tolist()):
        packed = source.elements(first // 2, -(-(first + columns) // 2))
        codes[at] = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[first % 2 :][:columns]
    return codes


def bitsandbytes_absmax(ref: TensorRef, sources: list[Any], rows: Array, columns: int) -> Array:
    """The largest magnitude of the block of each element; sources: absmax[, nested_quant_map, nested_absmax]."""
    blocks, width = blocks_of(rows, columns, integer(ref, "blocksize"))
    stored = values_of_blocks(sources[0], blocks, width)
    if len(sources) == 1:
        return np.repeat(floats(stored, sources[0].ref.dtype), width, axis=1)
    outer = blocks // integer(ref, "nested_blocksize")
    low, high = int(outer[0, 0]), int(outer[-1, -1]) + 1
    book, nested = floats(whole(sources[1]), "F32"), floats(sources[2].elements(low, high), "F32")
    with np.errstate(all="ignore"):
        values = book[stored] * nested[outer - low] + np.float32(ref_parameter(ref, "nested_offset"))
    return np.repeat(values, width, axis=1)


def blocks_of(rows: Array, columns: int, size: int) -> tuple[Array, int]:
    """The blocks of `size` elements, counted in C order, that rows of a matrix are made of: (n, m), and elements of each.

    Where a row is no whole number of blocks, it is one of each element.
    """
    if columns % size == 0:
        return rows[:, np.newaxis] * (columns // size) + np.arange(columns // size), size
    return (rows[:, np.newaxis] * columns + np.arange(columns)) // size, 1


def values_of_blocks(source: Source, blocks: Array, width: int) -> Array:
    """What is stored of every block that `blocks_of` gave, one number a block."""
    if width > 1:
        return source.rows(blocks[:, 0] // blocks.shape[1], blocks.shape[1])
    low = int(blocks[0, 0])
    stored: Array = source.elements(low, int(blocks[-1, -1]) + 1)[blocks - low]
    return stored


def affine_values(ref: TensorRef, sources: list[Any], codes: Array, rows: Array) -> Array:
    """MLX: code * scale + bias, both (out, groups), each step rounded to the scales' own type."""
    dtype, groups = sources[0].ref.dtype, sources[0].ref.elements // row_count(ref)
    scales, biases = (np.repeat(row_floats(ref, source, rows), codes.shape[1] // groups, axis=1) for source in sources)
    with np.errstate(over="ignore", invalid="ignore"):
        return rounded(rounded(codes.astype(np.float32) * scales, dtype) + biases, dtype)


def shifted_values(ref: TensorRef, sources: list[Any], codes: Array, rows: Array) -> Array:
    """quanto: code * scale - shift, one of each for equally many elements in C order, rounded to the scales' own type."""
    dtype, columns = sources[0].ref.dtype, codes.shape[1]
    blocks, width = blocks_of(rows, columns, row_count(ref) * columns // sources[0].ref.elements)
    scales, shifts = (np.repeat(floats(values_of_blocks(source, blocks, width), dtype), width, axis=1) for source in sources)
    with np.errstate(over="ignore", invalid="ignore"):
        return rounded(rounded(codes.astype(np.float32) * scales, dtype) - shifts, dtype)


def blocks_of_ggml(ref: TensorRef, source: Source, rows: Array, columns: int) -> Array:
    """Blocks of ggml along the last dimension, as bytes (n, bytes of a block)."""
    block_bytes = integer(ref, "block_bytes")
    return source.rows(rows, columns // integer(ref, "block") * block_bytes).reshape(-1, block_bytes)


def input_groups(ref: TensorRef, sources: list[Any], columns: int, groups: int) -> Array:
    """The group of every input: as a source says, or in order, also where all of a source is -1, which means that.

    `group_size`, a parameter, is the number of inputs of a group, 0 if it is not known. Raises InputError for a group that
    there is not.
    """
    if sources and sources[0].ref.elements >= columns:
        given: Array = sources[0].elements(0, columns).astype(np.int32)
        if (given >= 0).all() and (given < groups).all():
            return given
        if (given != -1).any() or not integer(ref, "group_size"):
            source = sources[0].ref
            raise InputError(str(source.path), f"tensor {source.name!r}: names a group that is not one of {groups}")
    return np.minimum(np.arange(columns) // integer(ref, "group_size"), groups - 1)


def _of_packed_rows(source: Source, rows: Array, columns: int, bits: int, shifts: tuple[int, ...]) -> Array:
    """Codes of rows of which several share a stored row: row r is in stored row r // n, shifted by `shifts[r % n]`."""
    stored, places = np.unique(rows // len(shifts), return_inverse=True)
    return _fields(source.rows(stored, columns)[places], rows % len(shifts), bits, shifts)


def _fields(words: Array, places: Array, bits: int, shifts: tuple[int, ...]) -> Array:
    """The field of each row of words (n, columns) that its place says; the words are overwritten."""
    words >>= np.array(shifts, words.dtype)[places][:, np.newaxis]
    words &= words.dtype.type((1 << bits) - 1)
    return words.astype(np.uint8, copy=False)
