"""How the values of two tensors of one shape differ, read side by side in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES, decoded
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.kernels import cpu

Array = npt.NDArray[Any]

STEP = 1 << 17
"""Elements that are compared at a time."""

SINGLE = ("BF16", "F16", "F32", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL")
"""Types each of whose values is a float32."""


@dataclass(frozen=True)
class Difference:
    """Counts of elements, and how far the tensors are apart.

    `changed`: the values differ (NaN equals NaN, zeros of both signs are equal). Of those that differ from the base's value
    rounded to the child's type: `zeroed` are zero now, `filled` were zero, `other` the rest. relative_difference is the norm of
    the difference over the norm of the base, cosine that of both as vectors, over elements that are finite in both; None where
    a norm is zero or not finite.
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
    kind: type = np.float32 if ref.dtype in SINGLE and base.dtype in SINGLE else np.float64
    with TensorReader() as reader, TensorReader() as base_reader:
        for values, others in zip(_values(reader, ref, kind), _values(base_reader, base, kind), strict=True):
            rounded = others if ref.dtype == base.dtype else round_to(ref.dtype, others)
            cpu.count_differences(values, others, rounded, counts, sums)
    apart, own, of_base, product = sums.tolist()
    is_measured = of_base > 0 and math.isfinite(apart) and math.isfinite(of_base)
    norm = math.sqrt(own) * math.sqrt(of_base)
    changed, zeroed, filled, other = counts.tolist()
    return Difference(
        changed=changed,
        zeroed=zeroed,
        filled=filled,
        other=other,
        relative_difference=math.sqrt(apart) / math.sqrt(of_base) if is_measured else None,
        cosine=max(-1.0, min(1.0, product / norm)) if norm > 0 and math.isfinite(product / norm) else None,
    )


def round_to(code: str, values: Array) -> Array:
    """Floating values rounded to a type, ties to even, as a cast does; unchanged for types that no cast of weights goes to."""
    if code == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(values.dtype)
    if code == "F32":
        with np.errstate(over="ignore"):
            return values.astype(np.float32).astype(values.dtype)
    if code != "BF16":
        return values
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(values), rounded.view(np.float32), values).astype(values.dtype)


def _values(reader: TensorReader, ref: TensorRef, kind: type) -> Iterator[Array]:
    """The tensor's values in C order as floats of one kind, STEP at a time."""
    size = DTYPES[ref.dtype].bits // 8
    for low in range(0, ref.logical_bytes, STEP * size):
        pieces = [
            _decode(ref.dtype, chunk, kind) for chunk in reader.chunks(ref, low, min(low + STEP * size, ref.logical_bytes))
        ]
        yield pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _decode(code: str, chunk: Array, kind: type) -> Array:
    dtype = DTYPES[code]
    if dtype.bits == 8:
        return np.asarray(decoded(code)[chunk].astype(kind))
    if code == "BF16":
        words = chunk.view(np.uint16).astype(np.uint32)
        words <<= np.uint32(16)
        return words.view(np.float32).astype(kind, copy=False)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return chunk.view(f"{dtype.kind[0]}{dtype.bits // 8}").astype(kind)
