"""What this process has read of files, by their identity, so that an unchanged file is not read again."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Generic, TypeVar

Value = TypeVar("Value")
RACY_NS = 100_000_000
"""A file that changed less than this before it was read may change again and keep its time, as file systems count coarsely."""


class FileMemory(Generic[Value]):
    """Values by path, device, inode, size and time of change. At most `limit` are held; then all are forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: dict[tuple[str, int, int, int, int], Value] = {}

    def recall(self, path: Path, status: os.stat_result) -> Value | None:
        """What was remembered of a file, if it is still the same; else None."""
        return self._values.get(_identity(path, status))

    def remember(self, path: Path, status: os.stat_result, value: Value) -> None:
        """Remember a value for as long as the file, whose status was taken before it was read, stays the same."""
        if time.time_ns() - status.st_mtime_ns < RACY_NS:
            return
        if len(self._values) >= self._limit:
            self._values.clear()
        self._values[_identity(path, status)] = value


def _identity(path: Path, status: os.stat_result) -> tuple[str, int, int, int, int]:
    return str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
