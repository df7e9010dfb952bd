"""Errors of a device as one line for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from layerhouse.errors import UsageError


@contextmanager
def device_errors(device: str, action: str) -> Iterator[None]:
    """Turn an error of torch (no memory, a lost driver) into a UsageError of one line that advises to `action` on the CPU."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"device {device!r}: {reason}; {action} on the CPU with --device cpu") from error
