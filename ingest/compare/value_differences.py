"""How the values of two tensors of one shape differ, read side by side in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.decode import floats_of
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.kernels import cpu

Array = npt.NDArray[Any]

STEP = 1 << 17
"""Elements that are compared at a time."""

SINGLE = ("BF16", "F16", "F32", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL")
"""Dtypes of which float32 represents every value."""


@dataclass(frozen=True)
class Difference:
    """Counts of elements, and the distance between the tensors.

    `changed`: the values differ (NaN equals NaN, zeros of both signs are equal). Of the elements that differ from the base's
    value rounded to the checkpoint's dtype: `zeroed` became zero, `filled` were zero, `other` are the rest. relative_difference
    is the norm of the difference over the norm of the base, cosine that of both as vectors, over elements that are finite in
    both; None if a norm is zero or not finite.
    """

    changed: int
    zeroed: int
    filled: int
    other: int
    relative_difference: float | None
    cosine: float | None


def difference(ref: TensorRef, base: TensorRef) -> Difference:
    """Compare a tensor with its base's, element by element. Raises InputError naming the one that cannot be read."""
    counts, sums = np.zeros(4, np.int64), np.zeros(4)
    dtype: type = np.float32 if ref.dtype in SINGLE and base.dtype in SINGLE else np.float64
    with TensorReader() as reader, TensorReader() as base_reader:
        for values, base_values in zip(_values(reader, ref, dtype), _values(base_reader, base, dtype), strict=True):
            rounded = base_values if ref.dtype == base.dtype else round_to(ref.dtype, base_values)
            cpu.count_differences(values, base_values, rounded, counts, sums)
    square_difference, square, base_square, product = sums.tolist()
    is_measured = base_square > 0 and math.isfinite(square_difference) and math.isfinite(base_square)
    norms = math.sqrt(square) * math.sqrt(base_square)
    changed, zeroed, filled, other = counts.tolist()
    return Difference(
        changed=changed,
        zeroed=zeroed,
        filled=filled,
        other=other,
        relative_difference=math.sqrt(square_difference) / math.sqrt(base_square) if is_measured else None,
        cosine=max(-1.0, min(1.0, product / norms)) if norms > 0 and math.isfinite(product / norms) else None,
    )


def round_to(code: str, values: Array) -> Array:
    """Floating-point values as a cast to a dtype rounds them, ties to even; unchanged unless it is F16, F32 or BF16."""
    if code in ("F16", "F32"):
        with np.errstate(over="ignore"):
            return values.astype(np.float16 if code == "F16" else np.float32).astype(values.dtype)
    if code != "BF16":
        return values
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(values), rounded.view(np.float32), values).astype(values.dtype)


def _values(reader: TensorReader, ref: TensorRef, dtype: type) -> Iterator[Array]:
    """The tensor's values in C order, STEP at a time, in an array that the next step overwrites."""
    size = DTYPES[ref.dtype].bits // 8
    buffer: Array = np.empty(min(STEP, ref.elements), dtype)
    for low in range(0, ref.logical_bytes, STEP * size):
        filled = 0
        for chunk in reader.chunks(ref, low, min(low + STEP * size, ref.logical_bytes)):
            with np.errstate(invalid="ignore"):  # signalling NaNs
                piece = floats_of(ref.dtype, chunk)
                buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        yield buffer[:filled]
