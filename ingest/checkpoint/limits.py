"""Limits on what a file may claim and cost; one factor raises or lowers them all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from layerhouse.errors import InputError, UsageError

_factors = [1.0]


@contextmanager
def scaled_limits(factor: float) -> Iterator[None]:
    """Multiply the limits of this process, in all of its threads, until the block ends. Raises UsageError."""
    if not (0 < factor < math.inf):
        raise UsageError(f"limit factor {factor}: a positive number")
    _factors.append(factor)
    try:
        yield
    finally:
        _factors.pop()


def factor_now() -> float:
    """What limits are multiplied by."""
    return _factors[-1]


def allowed(limit: int) -> int:
    """A limit as it holds now."""
    return int(limit * factor_now())


def exceeded(what: str, limit: int) -> str:
    """What a message says of a limit, as it holds now, that something is over."""
    return f"limit exceeded: {what}, over {limit}; --limit-factor raises it"


def check_limit(shown: str, what: str, count: int, limit: int) -> None:
    """Raise InputError if a count is over a limit as it holds now; `what` is counted."""
    if count > allowed(limit):
        raise InputError(shown, exceeded(f"{count} {what}", allowed(limit)))
