"""The layout of a view in its storage: dimensions with strides, and the boxes that a range of elements is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

Dimension = tuple[int, int]
"""Size and stride, both in elements."""


def dimensions(ref: TensorRef) -> tuple[Dimension, ...]:
    """Size and stride of every dimension of more than one element, joined where two are one run; C order is ((n, 1),)."""
    strides = ref.strides
    if strides is None:
        return ((ref.elements, 1),)
    joined: list[Dimension] = []
    for size, stride in zip(ref.shape, strides, strict=True):
        if size == 1:
            continue
        if joined and joined[-1][1] == size * stride:
            joined[-1] = (joined[-1][0] * size, stride)
        else:
            joined.append((size, stride))
    return tuple(joined) or ((1, 1),)


def bytes_in_file(ref: TensorRef) -> tuple[int, int] | None:
    """Offset and size of a tensor's bytes in its file; None if they are not one run of its storage."""
    if ref.assembly is not None or ref.sparse is not None or ref.elements == 0:
        return None
    start = ref.storage_offset * DTYPES[ref.dtype].bits // 8
    if dimensions(ref) != ((ref.elements, 1),) or not 0 <= start <= ref.storage_bytes - ref.logical_bytes:
        return None
    return ref.offset + start, ref.logical_bytes


def boxes(dims: Sequence[Dimension], start: int, stop: int) -> Iterator[tuple[int, tuple[Dimension, ...]]]:
    """The elements `start` to `stop` in C order as boxes: offset of the first element from the tensor's, and dimensions."""
    if start >= stop:
        return
    (_, stride), inner = dims[0], dims[1:]
    width = volume(inner)
    row, column = divmod(start, width)
    if column:
        end = min(stop, (row + 1) * width)
        yield from ((row * stride + offset, box) for offset, box in boxes(inner, column, end - row * width))
        start, row = end, row + 1
    rows = stop // width - row
    if rows > 0:
        yield row * stride, ((rows, stride), *inner)
        row += rows
        start = row * width
    if start < stop:
        yield from ((row * stride + offset, box) for offset, box in boxes(inner, 0, stop - start))


def volume(dims: Sequence[Dimension]) -> int:
    """The number of elements."""
    product = 1
    for size, _ in dims:
        product *= size
    return product
