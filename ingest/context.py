"""The options of an ingest, and what its steps share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.batch import ID_COLUMNS, Batch, Piece
from layerhouse.ingest.checkpoint.guard import Guard
from layerhouse.ingest.checkpoint.regular_file import confined_to
from layerhouse.ingest.events import ProgressCounter, ReportEvent
from layerhouse.vocabulary import BaseMode, CompareMode, EventKind, StatsLevel
from layerhouse.warehouse.storage.inventory import Inventory


@dataclass(frozen=True)
class Reading:
    """How weights are read: `stats` is a StatsLevel, `compare` a CompareMode.

    `near_zero` is the magnitude up to which near_zeros counts; `threads` is the number of threads that measure. `devices` count
    the values, each checkpoint on one of them. With `units`, heads, KV groups, neurons and experts are read too. `workers` is
    the number of models that are read ahead of their turn at once (None: one for each device).
    """

    stats: str = StatsLevel.FULL
    near_zero: float | None = None
    threads: int = 1
    devices: tuple[str, ...] = ("cpu",)
    compare: str = CompareMode.AUTO
    units: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.stats not in [*StatsLevel]:
            raise UsageError(f"stats {self.stats!r}: full, spectral, or none for headers alone")
        if self.compare not in [*CompareMode]:
            raise UsageError(f"compare {self.compare!r}: it is one of {', '.join(CompareMode)}")
        if self.near_zero is not None and not (0 <= self.near_zero < math.inf):
            raise UsageError(f"near_zero {self.near_zero}: a finite magnitude that is not negative")
        if self.units and self.stats == StatsLevel.NONE:
            raise UsageError("units are read from values, and stats is 'none': leave out one of them")
        for name, count in (("threads", self.threads), ("workers", self.workers)):
            if count is not None and count < 1:
                raise UsageError(f"{name} {count}: at least one")


@dataclass(frozen=True)
class Options:
    """How to ingest. `excludes` are globs; `name` renames the one model found; a dry run writes nothing.

    `base` is the model that the others are compared with: a path, which is ingested too, the name of a model in the warehouse,
    or a BaseMode; None compares nothing, and leaves later ingests free to. `method_patterns` are tried before the built-in
    rules for what a model's name declares. `debug` prints the tracebacks of unexpected errors to stderr.
    """

    excludes: tuple[str, ...] = ()
    name: str | None = None
    dry_run: bool = False
    base: str | None = None
    reading: Reading = field(default_factory=Reading)
    method_patterns: tuple[str, ...] = ()
    debug: bool = False

    @property
    def base_mode(self) -> BaseMode | None:
        """What is compared if no base is named; None if one is, or if nothing is said."""
        return BaseMode(self.base) if self.base is not None and self.base in [*BaseMode] else None


class IngestContext:
    """What the steps of one ingest share. Each step adds to `known` what it takes, so that nothing is written twice."""

    def __init__(
        self, store_root: Path, known: Inventory, options: Options, report_event: ReportEvent, progress: ProgressCounter
    ) -> None:
        self.store_root, self.known, self.options = store_root, known, options
        self.report_event, self.progress = report_event, progress
        self.guard = Guard(options.debug)
        self.batch = Batch(store_root, self._refuse, self._forget)

    @property
    def reading(self) -> Reading:
        return self.options.reading

    @contextmanager
    def taking(self, where: str, folder: Path | None = None) -> Iterator[None]:
        """Take one input within the block. If anything goes wrong, it has a FAILED event and nothing of it is in the batch.

        No link that leads out of `folder` is followed.
        """
        mark = self.batch.mark()

        def fail(error: InputError) -> None:
            self.batch.drop_since(mark)
            self.fail(error)

        with self.batch.owned_by(where), self.guard.reading(where, fail), confined_to(folder):
            yield

    def fail(self, error: InputError) -> None:
        """Report an input that cannot be taken."""
        self.report_event(EventKind.FAILED, error.where, error.what)

    def _refuse(self, where: str, error: Exception) -> None:
        failure = self.guard.input_error(where, error)
        self.report_event(EventKind.FAILED, where, f"its rows cannot be stored, and none of them is: {failure.what}")

    def _forget(self, pieces: Sequence[Piece]) -> None:
        """Forget what would have been known from pieces that are dropped, so that others with the same contents are taken."""
        for piece in pieces:
            self.known.forget(piece.table, {name: piece.ids(name) for name in (*ID_COLUMNS, "model_id")})


def available_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
