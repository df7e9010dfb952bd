"""What an ingest reports: an event for each thing that happened to an input, and how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from layerhouse.vocabulary import EventKind

Given = TypeVar("Given")
ReportEvent = Callable[[EventKind, str, str], None]
"""A callback for an event: its kind, where, and what."""


@dataclass(frozen=True)
class Event:
    """One thing that happened to one input."""

    kind: EventKind
    where: str
    what: str


@dataclass
class Report:
    """The events of an ingest, in order."""

    events: list[Event] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """The number of events of one kind."""
        return sum(event.kind == kind for event in self.events)


@dataclass(frozen=True)
class Progress:
    """How far an ingest is: models, and bytes of weights; afterwards, the answers that a large warehouse keeps."""

    models: int
    total_models: int
    bytes: int
    total_bytes: int
    answers: int = 0
    total_answers: int = 0


class ProgressCounter:
    """Counts progress and passes every change to a callback. Thread-safe."""

    def __init__(self, on_progress: Callable[[Progress], None] = lambda progress: None) -> None:
        self._on_progress, self._progress = on_progress, Progress(0, 0, 0, 0)
        self._lock = threading.Lock()

    def expect(self, *, models: int = 0, num_bytes: int = 0) -> None:
        """Add to the totals."""
        self._add(total_models=models, total_bytes=num_bytes)

    def count_bytes(self, num_bytes: int) -> None:
        """Count bytes of weights that were read."""
        self._add(bytes=num_bytes)

    def count_model(self) -> None:
        """Count a model that was taken, or could not be."""
        self._add(models=1)

    def _add(self, **counts: int) -> None:
        with self._lock:
            now = self._progress
            self._progress = replace(now, **{name: getattr(now, name) + count for name, count in counts.items()})
            self._on_progress(self._progress)


class CallbackError(BaseException):
    """An error of a callback of the caller. It is no fault of an input, so it ends the ingest and is raised there as it was."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def call(callback: Callable[[Given], None], value: Given) -> None:
    """Call a callback of the caller. Raises CallbackError for whatever it raises."""
    try:
        callback(value)
    except Exception as error:
        raise CallbackError(error) from error


def size_text(size: int) -> str:
    """A number of bytes for people: `1.5 GiB`."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{size} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def count_text(number: int, noun: str) -> str:
    """A number with its noun: `1 file`, `2 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
