"""Limits on what a file may claim and what reading it may cost. One factor scales them all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from layerhouse.errors import InputError, UsageError

MAX_REMEMBERED_TENSORS = 5_000
"""Tensors of the largest checkpoint whose names are kept in an LRU cache, which bounds the memory of these caches."""

MAX_TENSOR_NAME = 2048
"""Characters of a tensor's name. Those of models have below 200; patterns are tried on each."""

_factors = [1.0]


@contextmanager
def scaled_limits(factor: float) -> Iterator[None]:
    """Multiply all limits by a factor until the block ends, in every thread of this process. Raises UsageError."""
    if not (0 < factor < math.inf):
        raise UsageError(f"limit factor {factor}: a positive number")
    _factors.append(factor)
    try:
        yield
    finally:
        _factors.pop()


def current_limit_factor() -> float:
    """The factor that limits are multiplied by at present."""
    return _factors[-1]


def allowed(limit: int) -> int:
    """A limit multiplied by the present factor."""
    return int(limit * current_limit_factor())


def exceeded(what: str, limit: int) -> str:
    """The message that something is over a limit; `limit` is already scaled."""
    return f"limit exceeded: {what}, over {limit}; --limit-factor raises it"


def check_limit(display_path: str, what: str, count: int, limit: int) -> None:
    """Raise InputError if `count` is over a limit, which is scaled here. `what` names the things counted."""
    if count > allowed(limit):
        raise InputError(display_path, exceeded(f"{count} {what}", allowed(limit)))
