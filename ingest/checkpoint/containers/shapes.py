"""Arithmetic on the shapes and strides that a file claims, without trust in either."""

from __future__ import annotations

import math

MAX_DIMENSIONS = 64
MAX_ELEMENTS = 2**63 - 1


def count_elements(shape: tuple[int, ...]) -> int | None:
    """Elements of a shape of whole numbers; None beyond 64 dimensions or 2^63 - 1 elements, so that no product grows large."""
    if len(shape) > MAX_DIMENSIONS:
        return None
    elements = 1
    for extent in shape:
        elements *= extent
        if elements > MAX_ELEMENTS:
            return None
    return elements


def kept_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides, or None if the elements lie in C order. The stride of a dimension of size 1 never moves anything: it is
    replaced by the one that C order would give, so that equal places have equal strides."""
    kept: list[int] = []
    following = 1
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        kept.append(following if extent == 1 else stride)
        following = kept[-1] * extent
    kept.reverse()
    c_order = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return None if 0 in shape or kept == c_order else tuple(kept)


def reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first one to the last one that the strides reach, both counted; 0 for a tensor of no elements."""
    if 0 in shape:
        return 0
    return 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
