"""layerhouse: a columnar warehouse for pruned and compressed language-model checkpoints.

    import layerhouse as lh

    lh.ingest(["baselines", "results"], warehouse="layerhouse-data")
    wh = lh.open("layerhouse-data")
    wh.query("summary")

Importing the package loads nothing heavy; `open` and `ingest` do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import layerhouse.ingest  # noqa: F401 - loaded before the function of that name, which takes its place
from layerhouse.errors import (
    InputError,
    LayerhouseError,
    MissingWarehouseError,
    NotFoundError,
    QueryError,
    UsageError,
    WarehouseError,
)
from layerhouse.version import __version__

if TYPE_CHECKING:
    from layerhouse.ingest.run import Event, Progress, Report
    from layerhouse.warehouse.answers.handle import Warehouse

__all__ = [
    "InputError",
    "LayerhouseError",
    "MissingWarehouseError",
    "NotFoundError",
    "QueryError",
    "UsageError",
    "WarehouseError",
    "__version__",
    "ingest",
    "open",
]


def open(path: str | Path = "layerhouse-data", *, as_of: datetime | str | None = None) -> Warehouse:
    """Open a warehouse for reading. Raises MissingWarehouseError or WarehouseError."""
    from layerhouse.warehouse.answers.handle import Warehouse

    return Warehouse(path, as_of=as_of)


def ingest(
    roots: Sequence[str | Path],
    *,
    warehouse: str | Path = "layerhouse-data",
    exclude: Sequence[str] = (),
    base: str | Path | None = None,
    name: str | None = None,
    dry_run: bool = False,
    stats: str = "full",
    compare: str = "auto",
    near_zero: float | None = None,
    threads: int | None = None,
    device: str = "cpu",
    limit_factor: float = 1.0,
    units: bool = False,
    method_patterns: Sequence[str] = (),
    workers: int | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Report:
    """Take everything found below the roots into a warehouse, which is made where there is none.

    `exclude` are globs on paths as they are shown; `base` is the model that the others are compared with, a path or the name of
    a model in the warehouse; `name` names the one model found; a dry run writes nothing. `stats` is full, spectral
    to measure the spectra of weight matrices too, or none to read the headers of weights alone; `compare` is auto, rows or
    values: whether values are read beside the base's of models that are measured now, of none, or of all; `near_zero` a
    magnitude up to which values are counted as near zero; `threads` how many measure (None: one a core); `device` where values
    are counted: cpu, cuda, cuda:N or auto; `limit_factor` multiplies the limits on what a file may claim and cost. With `units`
    heads, KV groups, neurons and experts are read too, and matched with the base's. `method_patterns` are regular expressions
    that say what names declare, by groups method, ratio and removed; `workers` how many models are read at once (None: one a
    device; headers alone of many models are read by a second process too, unless `workers` or `threads` is 1). The report's
    events of kind `failed` are the inputs that could not be taken. Raises UsageError and WarehouseError.
    """
    from layerhouse.ingest.checkpoint.limits import scaled_limits
    from layerhouse.ingest.measure.devices import find_devices
    from layerhouse.ingest.model.family_files import check_own_families
    from layerhouse.ingest.run import Options, ingest_roots
    from layerhouse.ingest.take_weights import Reading, available_cores
    from layerhouse.warehouse.answers.answer_cache import is_large
    from layerhouse.warehouse.storage.inventory import Known
    from layerhouse.warehouse.storage.schema import TABLES
    from layerhouse.warehouse.storage.store import MARKER, create_store, list_commits

    reading = Reading(stats, near_zero, threads or available_cores(), find_devices(device), compare, units, workers)
    check_own_families()
    path = Path(warehouse)
    if not dry_run:
        path = create_store(path)
    known = Known()
    if (path / MARKER).exists() and any(list_commits(path).rows(table) for table in TABLES):
        from layerhouse.warehouse.answers.query import load_known

        known = load_known(path)
    with scaled_limits(limit_factor):
        report = ingest_roots(
            [Path(root) for root in ([roots] if isinstance(roots, (str, Path)) else roots)],
            path,
            known,
            Options(
                tuple(exclude),
                name,
                dry_run,
                None if base is None else str(base),
                reading,
                tuple(method_patterns),
            ),
            on_event=on_event,
            on_progress=on_progress,
        )
    if not dry_run and is_large(list_commits(path)):
        from layerhouse.warehouse.answers.session import keep_answers

        keep_answers(path)
    return report
