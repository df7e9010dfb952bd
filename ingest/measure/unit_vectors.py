"""The vectors of a matrix along one axis, hashed and sketched in one pass over its bytes: what units are made of.

A unit of a layer (head, neuron, expert) is some rows or columns of some matrices, each a vector over the residual stream. The
hash is of a vector's elements in order, so a matrix and its transposed copy (Conv1D) have the same vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.decode import floats_of
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.signatures import signs

Array = npt.NDArray[Any]

DIMENSIONS = 16
"""Numbers in a sketch: with three matrices per neuron, 4096 different neurons stay below 0.75 similarity (docs/matching.md)."""

PIECE_BYTES = 1 << 23
"""Bytes of a matrix that are held at once; columns are gathered in as many bytes again."""

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Vectors:
    """The vectors of a matrix, in order: XXH3-128 digests (n, 16) of their bytes, sums of squares (n,), and projections
    (n, DIMENSIONS) by random signs, which keep cosines in expectation."""

    digests: Array
    squares: Array
    sketches: Array


def read_vectors(reader: TensorReader, ref: TensorRef, axis: int) -> Vectors:
    """The vectors that `axis` of a matrix counts; a tensor of one dimension has vectors of one element.

    Memory: a few times PIECE_BYTES and the numbers of each vector, whatever the size of the matrix. Raises InputError.
    """
    if len(ref.shape) == 1:
        stride = 1 if ref.strides is None else ref.strides[0]
        ref, axis = replace(ref, shape=(ref.shape[0], 1), strides=(stride, 1)), 0
    count, length = ref.shape[axis], ref.shape[1 - axis]
    vectors = Vectors(np.zeros((count, DIGEST_BYTES), np.uint8), np.zeros(count), np.zeros((count, DIMENSIONS)))
    hashers = [xxhash.xxh3_128() for _ in range(count)] if axis else []
    for first, raw in _row_pieces(reader, ref):
        values = floats_of(ref.dtype, raw.reshape(-1)).reshape(len(raw), -1)
        with np.errstate(over="ignore", invalid="ignore"):
            if axis:
                columns = np.ascontiguousarray(raw.view(f"u{DTYPES[ref.dtype].bits // 8}").T).view(np.uint8)
                for hasher, column in zip(hashers, columns, strict=True):
                    hasher.update(column.data)
                vectors.sketches[:] += values.T @ _signs(length)[first : first + len(raw)].astype(values.dtype)
                vectors.squares[:] += np.einsum("ij,ij->j", values, values, dtype=np.float64)
            else:
                rows = slice(first, first + len(raw))
                vectors.digests[rows] = _digests([xxhash.xxh3_128_digest(row) for row in raw])
                vectors.sketches[rows] = values @ _signs(length).astype(values.dtype)
                vectors.squares[rows] = np.einsum("ij,ij->i", values, values, dtype=np.float64)
    if axis:
        vectors.digests[:] = _digests([hasher.digest() for hasher in hashers])
    return vectors


def _row_pieces(reader: TensorReader, ref: TensorRef) -> Iterator[tuple[int, Array]]:
    """The number of the first row and the bytes of some rows, shape (rows, bytes of a row)."""
    rows, columns = ref.shape
    size = DTYPES[ref.dtype].bits // 8
    step = max(1, PIECE_BYTES // max(columns * size, 1))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        elements = reader.elements(ref, first * columns, last * columns)
        yield first, elements.view(np.uint8).reshape(last - first, columns * size)


def _digests(digests: list[bytes]) -> Array:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


@lru_cache(maxsize=4)
def _signs(length: int) -> Array:
    return signs(0, length)[:, :DIMENSIONS].astype(np.float32)
