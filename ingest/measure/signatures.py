"""Signatures: sketches that tell which tensor of a base a tensor came from, after pruning of heads or neurons and fine-tuning.

The signature of a weight is the profile of its norms over the residual stream, whose width pruning of heads and neurons leaves
alone: for each index of the residual axis, the Euclidean norm over the other axis. At most SLICES evenly spaced rows of the
matrix are read: slices of the other axis if that is the first one, else residual indices. A vector (norm weight, bias) is its
own profile.

A profile is centred and scaled to unit length, so the cosine of two is their correlation. One longer than DIMENSIONS is
projected by random signs of 1/8. That keeps lengths and cosines in expectation (Johnson-Lindenstrauss; Achlioptas 2003), with a
standard deviation of at most 1/8.

Beside it stands the sketch of the values themselves, of the same rows: element i of them, in C order, is added to lane i % 64
with a sign, that of bit i % 64 of output i // 64 of SplitMix64. The squared distance of two sketches is on average that of the
values, also where the profiles are alike (AMS sketch; Alon, Matias, Szegedy 1996).
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.decode import floats_of
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.kernels import cpu
from layerhouse.ingest.measure.statistics import row_sums

Array = npt.NDArray[Any]

DIMENSIONS = 64
"""Numbers in a signature at most."""
SIGN_LANES = 64
"""Numbers in a sketch."""

SLICES = 256
"""Rows of a matrix that are read at most: 0, s, 2s, ... with s = ceil(rows / 256)."""

LONGEST = 1 << 18
"""A longer profile has no signature: no residual stream is that wide, and memory would grow with the tensor."""

_SIGN_ROWS = 4096
_PIECE_BYTES = 1 << 15
"""Bytes of a chunk that are converted to floats at a time: few, so that the allocator reuses their memory."""


@dataclass(frozen=True)
class Profile:
    """The signature and the sketch of a tensor, each None where there is none. A sketch is kept in 4 bytes a number, as a
    checkpoint can have many tensors.
    """

    signature: list[float] | None = None
    sketch: array[float] | None = None


NO_PROFILE = Profile()


def read_profile(reader: TensorReader, ref: TensorRef, residual_axis: int | None) -> Profile:
    """The signature of a tensor, and its sketch, 64 numbers.

    Neither: it is neither a vector nor a matrix with a residual axis; packed, complex or bool; or a value is not finite. No
    signature: no variance. Reads at most 256 rows of a matrix.
    """
    dtype = DTYPES[ref.dtype]
    if dtype.kind in ("complex", "bool") or dtype.bits < 8 or ref.elements == 0:
        return NO_PROFILE
    lanes = np.zeros(SIGN_LANES)
    if len(ref.shape) == 1:
        if ref.elements > LONGEST:
            return NO_PROFILE
        with np.errstate(invalid="ignore"):  # a signalling NaN
            chunks = [floats_of(ref.dtype, chunk).astype(np.float64) for chunk in reader.chunks(ref)]
        profile = np.concatenate(chunks)
        cpu.add_signed(profile, 0, lanes)
    elif len(ref.shape) == 2 and residual_axis is not None and ref.shape[residual_axis] <= LONGEST:
        profile = _norms(reader, ref, residual_axis, lanes)
    else:
        return NO_PROFILE
    with np.errstate(over="ignore"):
        sketch = lanes.astype(np.float32)
    return Profile(project(profile), array("f", sketch.tobytes()) if np.isfinite(sketch).all() else None)


def project(profile: Array) -> list[float] | None:
    """Centre a profile, scale it to unit length and, if it is longer than DIMENSIONS, project it; float32 values."""
    with np.errstate(over="ignore", invalid="ignore"):
        top = np.abs(profile).max()
        if not np.isfinite(top) or top == 0:
            return None
        centred = profile / top
        (total,) = row_sums(centred[np.newaxis])
        centred -= total / centred.size
        if np.abs(centred).max() <= 1e-12:  # a constant, up to rounding
            return None
        (square,) = row_sums(np.square(centred)[np.newaxis])
        unit = centred / math.sqrt(square)
    if unit.size > DIMENSIONS:
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
    """A view of at most SLICES evenly spaced rows; the residual indices in it; and the run of elements that belong to one
    index.

    The run is 1 if an index is a column, and a row's length if it is a row.
    """
    row_stride, column_stride = ref.strides or (ref.shape[1], 1)
    step = -(-ref.shape[0] // SLICES)
    rows, columns = -(-ref.shape[0] // step), ref.shape[1]
    view = replace(ref, shape=(rows, columns), strides=(row_stride * step, column_stride))
    return (view, columns, 1) if residual_axis else (view, rows, columns)


def _norms(reader: TensorReader, ref: TensorRef, residual_axis: int, lanes: Array) -> Array:
    """The Euclidean norm of each residual index of the sample, squares summed in C order; adds its values to `lanes`."""
    view, indices, run = _sample(ref, residual_axis)
    squares = np.zeros(indices)
    start = 0
    for chunk in reader.chunks(view):
        for low in range(0, chunk.size, _PIECE_BYTES):
            values = floats_of(view.dtype, chunk[low : low + _PIECE_BYTES])
            cpu.add_squares(values, start, run, squares)
            cpu.add_signed(values, start, lanes)
            start += values.size
    return np.asarray(np.sqrt(squares))
