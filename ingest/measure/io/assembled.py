"""Tensors that the file keeps in several others, as the dense bytes that they stand for: masked weights, and sparse bitmasks.

What comes out is what a plain copy of the weight would hold, so that statistics, hashes and comparisons need to know nothing of
it. A few rows are assembled at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import (
    BITMASK,
    MASKED,
    Assembly,
    TensorRef,
)
from layerhouse.ingest.measure.io.tensor_reader import TensorReader

Array = npt.NDArray[Any]

MAX_DENSE_BYTES = 1 << 26
"""A view that does not run along the rows is taken from the whole dense tensor, which may have no more bytes."""


def assembled_chunks(ref: TensorRef, start: int, stop: int, chunk_bytes: int) -> Iterator[Array]:
    """The dense bytes `start` to `stop` of an assembled tensor or of a view of one, as uint8 arrays of one chunk, the last
    shorter, each overwritten by the next. Raises InputError where its parts do not fit each other."""
    buffer = np.empty(min(chunk_bytes, max(stop - start, 0)), np.uint8)
    filled = 0
    for piece in _pieces(ref, start, stop, chunk_bytes):
        taken = 0
        while taken < piece.size:
            count = min(piece.size - taken, buffer.size - filled)
            buffer[filled : filled + count] = piece[taken : taken + count]
            taken, filled = taken + count, filled + count
            if filled == buffer.size:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def _pieces(ref: TensorRef, start: int, stop: int, chunk_bytes: int) -> Iterator[Array]:
    assembly = ref.assembly
    assert assembly is not None
    if ref.strides is None:
        yield from _dense(ref, assembly, start, stop, chunk_bytes)
        return
    size = DTYPES[ref.dtype].bits // 8
    if len(ref.shape) == 2 and ref.strides[1] == 1:
        width = ref.shape[1] * size
        for row in range(start // width, -(-stop // width)):
            first = (ref.storage_offset + row * ref.strides[0]) * size
            low, high = max(start - row * width, 0), min(stop - row * width, width)
            yield from _dense(ref, assembly, first + low, first + high, chunk_bytes)
        return
    whole = math.prod(assembly.shape) * size
    if whole > MAX_DENSE_BYTES:
        raise InputError(str(ref.path), f"limit exceeded: tensor {ref.name!r} of {whole} dense bytes is kept across its rows")
    flat = np.concatenate([chunk.copy() for chunk in _dense(ref, assembly, 0, whole, chunk_bytes)]).view(f"u{size}")
    view = np.lib.stride_tricks.as_strided(flat[ref.storage_offset :], ref.shape, [stride * size for stride in ref.strides])
    yield np.ascontiguousarray(view).reshape(-1).view(np.uint8)[start:stop]


def _dense(ref: TensorRef, assembly: Assembly, start: int, stop: int, chunk_bytes: int) -> Iterator[Array]:
    """The bytes in C order, whole rows assembled at a time and cut to what was asked for."""
    if start >= stop:
        return
    rows, columns = assembly.shape[0], math.prod(assembly.shape[1:])
    width = columns * DTYPES[ref.dtype].bits // 8
    step = max(1, chunk_bytes // width)
    with ExitStack() as stack:
        sources = [_Source(source, stack.enter_context(TensorReader(chunk_bytes))) for source in assembly.sources]
        for low in range(start // width, min(rows, -(-stop // width)), step):
            high = min(low + step, -(-stop // width))
            dense = ASSEMBLERS[assembly.kind](ref, sources, low, high, columns).reshape(-1).view(np.uint8)
            begin = low * width
            yield dense[max(start - begin, 0) : min(stop - begin, dense.size)]


class _Source:
    """One part of an assembly, its elements read by their numbers."""

    def __init__(self, ref: TensorRef, reader: TensorReader) -> None:
        self.ref, self.reader = ref, reader

    def elements(self, first: int, last: int) -> Array:
        """Elements `first` to before `last` as unsigned integers of their size."""
        size = DTYPES[self.ref.dtype].bits // 8
        chunks = [chunk.copy() for chunk in self.reader.chunks(self.ref, first * size, last * size)]
        raw = np.concatenate(chunks) if chunks else np.empty(0, np.uint8)
        return raw.view(f"u{size}")


def _masked(ref: TensorRef, sources: list[_Source], low: int, high: int, columns: int) -> Array:
    """`weight_orig * weight_mask`, as torch.nn.utils.prune computes it: zeros keep their sign, infinity times 0 is NaN."""
    values, mask = (source.elements(low * columns, high * columns) for source in sources)
    kept = _is_kept(ref, sources[1].ref.dtype, mask)
    dtype = DTYPES[ref.dtype]
    if dtype.kind != "float":
        return np.asarray(values * kept)
    sign = values.dtype.type(1 << (dtype.bits - 1))
    exponent = values.dtype.type(((1 << dtype.exponent) - 1) << dtype.mantissa)
    quiet = values.dtype.type(1 << (dtype.mantissa - 1))
    zeroed = np.where(values & exponent == exponent, values | quiet, values & sign)
    return np.asarray(np.where(kept, values, zeroed))


def _is_kept(ref: TensorRef, code: str, mask: Array) -> Array:
    """Where a mask is one. A mask of other values than zero and one is no mask."""
    dtype = DTYPES[code]
    one = (dtype.bias << dtype.mantissa) if dtype.kind == "float" else 1
    kept: Array = mask == one
    sign = mask.dtype.type(1 << (dtype.bits - 1)) if dtype.kind == "float" else mask.dtype.type(0)
    if not np.all(kept | ((mask & ~sign) == 0)):
        raise InputError(str(ref.path), f"tensor {ref.name!r}: its mask has values other than 0 and 1")
    return kept


def _bitmask(ref: TensorRef, sources: list[_Source], low: int, high: int, columns: int) -> Array:
    """compressed-tensors' sparse-bitmask and sparse-24-bitmask: the values that bits of 1 stand for, in order, zeros elsewhere.

    Bit i of byte b of a row is column 8 * b + i. Without row offsets each row has as many values as any other.
    """
    values, bits = sources[0], sources[1]
    row_bytes = -(-columns // 8)
    packed = bits.elements(low * row_bytes, high * row_bytes).reshape(high - low, row_bytes)
    present = np.unpackbits(packed, axis=1, count=columns, bitorder="little").astype(bool)
    stored = values.ref.elements
    rows = bits.ref.elements // row_bytes
    if len(sources) > 2:
        offsets = sources[2].elements(low, min(high + 1, rows)).astype(np.uint64).tolist()
        starts = offsets if high < rows else [*offsets, stored]
    else:
        starts = [row * (stored // rows) for row in range(low, high + 1)]
    counts = present.sum(axis=1)
    if starts[-1] > stored or [after - before for before, after in pairwise(starts)] != counts.tolist():
        raise InputError(str(ref.path), f"tensor {ref.name!r}: its bitmask of rows {low} to {high - 1} does not fit its values")
    dense = np.zeros((high - low, columns), f"u{DTYPES[ref.dtype].bits // 8}")
    dense[present] = values.elements(starts[0], starts[-1])
    return dense


ASSEMBLERS: dict[str, Callable[[TensorRef, list[_Source], int, int, int], Array]] = {MASKED: _masked, BITMASK: _bitmask}
