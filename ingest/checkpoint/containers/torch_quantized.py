"""References to tensors of torch files whose values are codes, or are not there at all.

A quantised tensor (ATen/quantized/Quantizer.h) stands for (code - zero point) * scale, with one of both for the tensor or for
every index of an axis. A tensor on the device `meta` has a shape and no values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layerhouse.ingest.checkpoint.pickle.parts import NamedTensor
from layerhouse.ingest.checkpoint.pickle.values import QuantizedStub, ShapeStub
from layerhouse.ingest.checkpoint.tensor_ref import CODES, NO_VALUES, PLAIN, Assembly, Layout, TensorRef

SCALE_TYPES = ("F64", "F32")
POINT_TYPES = ("I64", "I32", "F32")
MAX_FLOAT32 = 3.4028234663852886e38


def unread_reference(named: NamedTensor, tensor: ShapeStub, dtype: str, path: Path, offset: int) -> TensorRef:
    """A tensor without bytes. Its `offset`, below zero, is its place: tensors of one shape are not the same."""
    layout = Layout(named.name, "weight", tensor.form, tensor.shape, NO_VALUES)
    if named.served is not None:
        layout = replace(layout, weight_name=named.served, part=named.name.rpartition(".")[2], is_aux=True)
    return TensorRef(named.name, dtype, tensor.shape, path, offset, 0, is_buffer=named.is_buffer, layout=layout)


def served_reference(ref: TensorRef, weight: str) -> TensorRef:
    """A tensor that says how a weight is quantised, and is no parameter."""
    return replace(ref, layout=Layout(weight, ref.name.rpartition(".")[2], "scale", ref.shape, PLAIN, is_aux=True))


def quantized_reference(codes: TensorRef, tensor: QuantizedStub, parts: Sequence[TensorRef]) -> TensorRef:
    """A quantised tensor by its stored codes. `parts` are scales and zero points of an axis.

    Zeros are counted where these have forms that are read. Elsewhere the tensor is not read at all: equal codes would pass for
    equal weights.
    """
    shape = tensor.codes.shape
    layout = Layout(codes.name, "weight", f"torch.{tensor.scheme}", codes.shape, NO_VALUES, bits=tensor.bits)
    is_read = tensor.bits >= 8 and shape and codes.elements and _is_known(tensor, shape, parts)
    if is_read:
        numbers = {} if parts else {"scale": tensor.scale, "zero_point": tensor.zero_point}
        unpacked = Assembly("torch_affine", (codes, *parts), shape, "F32", {"axis": tensor.axis, **numbers})
        layout = replace(layout, values=CODES, unpacked=unpacked)
    return replace(codes, shape=shape, layout=layout)


def _is_known(tensor: QuantizedStub, shape: tuple[int, ...], parts: Sequence[TensorRef]) -> bool:
    """Whether scale and zero point are numbers, or one of each for every row, or for every column of a matrix."""
    if not parts:
        scale = tensor.scale
        is_number = isinstance(scale, float) and math.isfinite(scale) and abs(scale) <= MAX_FLOAT32
        return is_number and isinstance(tensor.zero_point, int) and abs(tensor.zero_point) < 2**31
    axis = tensor.axis
    if axis != 0 and not (axis == 1 and len(shape) == 2):
        return False
    scales, points = parts
    return all(part.shape == (shape[axis],) for part in parts) and scales.dtype in SCALE_TYPES and points.dtype in POINT_TYPES
