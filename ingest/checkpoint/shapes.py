"""Arithmetic on the shapes and strides that a file claims, neither of which is trusted."""

from __future__ import annotations

import math

MAX_DIMENSIONS = 64
MAX_ELEMENTS = 2**63 - 1


def count_elements(shape: tuple[int, ...]) -> int | None:
    """Elements of a shape of integers >= 0; None for over 64 dimensions or 2^63 - 1 elements, or a
    longer extent, which bounds the product."""
    if len(shape) > MAX_DIMENSIONS:
        return None
    if any(extent > MAX_ELEMENTS for extent in shape):  # beside an extent of 0 the product would not tell
        return None
    elements = 1
    for extent in shape:
        elements *= extent
        if elements > MAX_ELEMENTS:
            return None
    return elements


def normalized_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides in a form in which equal layouts compare equal; None if the elements lie in C order.

    The stride of a dimension of size 1 has no effect and is replaced by the one of C order.
    """
    kept: list[int] = []
    following = 1
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        kept.append(following if extent == 1 else stride)
        following = kept[-1] * extent
    kept.reverse()
    c_order = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return None if 0 in shape or kept == c_order else tuple(kept)


def span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements of the storage a view spans, from its first to its last; 0 for a tensor without elements."""
    if 0 in shape:
        return 0
    return 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
