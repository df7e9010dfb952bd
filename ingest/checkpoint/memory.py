"""The last few answers to a question that checkpoints of one study ask over and over."""

from __future__ import annotations

import threading
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

MOST = 8
MAX_REMEMBERED_TENSORS = 5_000
"""Of a checkpoint whose names are remembered: what bounds the memory of answers."""


class Memory(dict[Key, Value]):
    """Answers by what was asked, the oldest first. Models are read ahead by threads."""

    _lock = threading.Lock()

    def keep(self, key: Key, value: Value) -> Value:
        """Remember an answer, forgetting the oldest of many; returns it."""
        with self._lock:
            while len(self) >= MOST:
                del self[next(iter(self))]
            self[key] = value
        return value
