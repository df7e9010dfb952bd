"""Sketches that tell which tensor of a base a tensor came from, though heads or neurons are gone and values have moved.

The signature of a weight is the profile of its norms over the residual stream, whose width pruning of heads and neurons
leaves alone: the Euclidean norm over the other axis for each index of the residual axis. At most SLICES rows of the matrix are
read for it, evenly spaced: slices of the other axis where that is the first one, residual indices where those are. A vector
(norm weight, bias) is its own profile. A profile is centred and scaled to unit length; the cosine of two is then their
correlation. One longer than DIMENSIONS is projected by random signs of 1/8, which keeps lengths and cosines in expectation
(Johnson-Lindenstrauss; Achlioptas 2003), within a standard deviation of 1/8 at most.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES, decoded
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.statistics import row_sums

Array = npt.NDArray[Any]

DIMENSIONS = 64
"""Numbers in a signature at most."""

SLICES = 256
"""Rows of a matrix that are read at most: 0, s, 2s, ... with s = ceil(rows / 256)."""

LONGEST = 1 << 18
"""A longer profile has no signature: no residual stream is that wide, and memory would follow the tensor."""

_SIGN_ROWS = 4096
_PIECE_BYTES = 1 << 15
"""Bytes of a chunk that are turned into floats at a time, so few that the memory for them is used again."""


def signature(reader: TensorReader, ref: TensorRef, residual_axis: int | None) -> list[float] | None:
    """The signature of a tensor; None where it has none.

    None: neither a vector nor a matrix with a residual axis; packed, complex or bool; no variance; or a value is not finite.
    Reads at most 256 rows of a matrix.
    """
    dtype = DTYPES[ref.dtype]
    if dtype.kind in ("complex", "bool") or dtype.bits < 8 or ref.elements == 0:
        return None
    if len(ref.shape) == 1:
        if ref.elements > LONGEST:
            return None
        with np.errstate(invalid="ignore"):  # a signalling NaN
            return sketch(np.concatenate([floats_of(ref.dtype, chunk).astype(np.float64) for chunk in reader.chunks(ref)]))
    if len(ref.shape) != 2 or residual_axis is None or ref.shape[residual_axis] > LONGEST:
        return None
    return sketch(_norms(reader, ref, residual_axis))


def sketch(profile: Array) -> list[float] | None:
    """Centre, scale to unit length and, where longer than DIMENSIONS, project a profile; float32 values."""
    with np.errstate(over="ignore", invalid="ignore"):
        top = np.abs(profile).max()
        if not np.isfinite(top) or top == 0:
            return None
        centred = profile / top
        (total,) = row_sums(centred[np.newaxis])
        centred -= total / centred.size
        if np.abs(centred).max() <= 1e-12:  # what rounding leaves of a constant
            return None
        (square,) = row_sums(np.square(centred)[np.newaxis])
        unit = centred / math.sqrt(square)
    if unit.size > DIMENSIONS:
        from layerhouse.ingest.measure.kernels import cpu

        projected = np.zeros(DIMENSIONS)
        for low in range(0, unit.size, _SIGN_ROWS):
            cpu.project(unit[low : low + _SIGN_ROWS], _signs(low), projected)
        unit = projected / 8
    return unit.astype(np.float32).tolist()  # type: ignore[no-any-return]


def signs(first: int, count: int) -> Array:
    """Rows `first` to `first + count` of the sign matrix, shape (count, DIMENSIONS), -1.0 or 1.0.

    The sign of (index, dimension) is the top bit of output index * 64 + dimension of SplitMix64 (Steele, Lea, Flood 2014) from
    seed 0; set means -1. Modulo 2^64: z = (index * 64 + dimension + 1) * 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; z = (z ^ z >> 27) * 0x94D049BB133111EB; z = z ^ z >> 31.
    """
    cells = np.arange(first * DIMENSIONS + 1, (first + count) * DIMENSIONS + 1, dtype=np.uint64)
    z = cells * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.where(z >> np.uint64(63), -1.0, 1.0).reshape(count, DIMENSIONS)


@cache
def _signs(first: int) -> Array:
    return signs(first, _SIGN_ROWS).astype(np.int8)


def _sample(ref: TensorRef, residual_axis: int) -> tuple[TensorRef, int, int]:
    """A view of at most SLICES evenly spaced rows of a matrix; how many residual indices are in it, and how many elements in a
    row of the view belong to one of them: 1, or all where a row is one."""
    row_stride, column_stride = ref.strides or (ref.shape[1], 1)
    step = -(-ref.shape[0] // SLICES)
    rows, columns = -(-ref.shape[0] // step), ref.shape[1]
    view = replace(ref, shape=(rows, columns), strides=(row_stride * step, column_stride))
    return (view, columns, 1) if residual_axis else (view, rows, columns)


def _norms(reader: TensorReader, ref: TensorRef, residual_axis: int) -> Array:
    """Euclidean norm for every residual index of the sample, squares summed in C order."""
    from layerhouse.ingest.measure.kernels import cpu

    view, indices, run = _sample(ref, residual_axis)
    squares = np.zeros(indices)
    start = 0
    for chunk in reader.chunks(view):
        for low in range(0, chunk.size, _PIECE_BYTES):
            values = floats_of(view.dtype, chunk[low : low + _PIECE_BYTES])
            cpu.add_squares(values, start, run, squares)
            start += values.size
    return np.asarray(np.sqrt(squares))


def floats_of(code: str, chunk: Array) -> Array:
    """A chunk of bytes as float32 where that holds every value of the type, else as float64; may share the chunk's memory."""
    dtype = DTYPES[code]
    if dtype.bits == 8:
        return np.asarray(_float32_table(code)[chunk])
    if code == "BF16":
        return (chunk.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    values: Array = chunk.view(f"{dtype.kind[0]}{dtype.bits // 8}")
    if dtype.kind == "float" and dtype.bits >= 32:
        return values
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return values.astype(np.float32 if dtype.bits == 16 else np.float64)


@cache
def _float32_table(code: str) -> Array:
    return decoded(code).astype(np.float32)
