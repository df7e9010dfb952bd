"""The options of an ingest, and what its steps share."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from layerhouse.errors import UsageError
from layerhouse.ingest.batch import Batch
from layerhouse.ingest.events import ProgressCounter, ReportEvent
from layerhouse.vocabulary import CompareMode, StatsLevel
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

    `base` is the model that the others are compared with: a path, which is ingested too, or the name of a model in the
    warehouse. `method_patterns` are tried before the built-in rules for what a model's name declares.
    """

    excludes: tuple[str, ...] = ()
    name: str | None = None
    dry_run: bool = False
    base: str | None = None
    reading: Reading = field(default_factory=Reading)
    method_patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class IngestContext:
    """What the steps of one ingest share. Each step adds to `known` what it takes, so that nothing is written twice."""

    store_root: Path
    known: Inventory
    batch: Batch
    options: Options
    report_event: ReportEvent
    progress: ProgressCounter

    @property
    def reading(self) -> Reading:
        return self.options.reading


def available_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
