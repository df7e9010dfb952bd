"""layerhouse: a columnar warehouse for pruned and compressed language-model checkpoints.

    import layerhouse as lh

    lh.ingest(["baselines", "results"], warehouse="layerhouse-data")
    wh = lh.open("layerhouse-data")
    wh.query("summary")

Importing the package loads nothing heavy; `open` and `ingest` do.
"""

from __future__ import annotations

import layerhouse.starting  # Before all others, so that Ctrl-C is no traceback.

# isort: split
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import layerhouse.ingest  # noqa: F401 - the package that `calls_as` makes callable
from layerhouse.callable_package import calls_as
from layerhouse.errors import (
    DamagedWarehouseError,
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
    from layerhouse.opened_warehouse import OpenedWarehouse

__all__ = [
    "DamagedWarehouseError",
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


def open(
    path: str | Path = "layerhouse-data",
    *,
    as_of: datetime | str | None = None,
    verify: bool = False,
    skip_damaged: bool = False,
) -> OpenedWarehouse:
    """Open a warehouse for reading. Raises UsageError, MissingWarehouseError, DamagedWarehouseError or WarehouseError.

    as_of: show it as it was at this time.
    verify: compare every file with its SHA-256 before anything is answered.
    skip_damaged: answer without the commits that are damaged, instead of raising.
    """
    from layerhouse.local_paths import local_path
    from layerhouse.opened_warehouse import OpenedWarehouse

    return OpenedWarehouse(local_path(path), as_of=as_of, verify=verify, skip_damaged=skip_damaged)


def _mappings(wanted: bool) -> AbstractContextManager[None]:
    """A context in which weight files are mapped, if that is wanted; reading headers needs no numpy, which maps need."""
    if not wanted:
        return nullcontext()
    from layerhouse.ingest.measure.io.file_window import mappings_used

    return mappings_used()


def _base_text(base: str | Path | None) -> str:
    """The base as an ingest has it: a path or name, or a rule by which bases are found. Raises UsageError."""
    from layerhouse.local_paths import local_path
    from layerhouse.vocabulary import BaseMode

    if base is None:
        return BaseMode.NONE.value
    if not isinstance(base, str | Path):
        raise UsageError(f"base {base!r}: one path or one name")
    return str(base if base in [*BaseMode] else local_path(base))


@calls_as("layerhouse.ingest")
def ingest(
    roots: Sequence[str | Path],
    *,
    warehouse: str | Path = "layerhouse-data",
    exclude: Sequence[str] = (),
    base: str | Path | None = "auto",
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
    map_files: bool = False,
    debug: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Report:
    """Take everything below the roots into a warehouse, made if there is none. Raises UsageError and WarehouseError.

    An input that cannot be taken is an event of kind `failed` in the report; the others are taken all the same.

    exclude: globs of paths to skip.
    base: what the others are compared with: a path, the name of a model in the warehouse, `auto` (each model's base, found by
        its tensors), `parent` (what it was made from, found alike), `none` or None.
    name: the name of the model, if there is only one; by default its path.
    dry_run: report what would be taken, and write nothing.
    stats: `full`; `spectral` to measure the spectra of weight matrices too; `none` to read headers only.
    compare: whose values are compared with the base's: `auto` (not compared with it yet), `values` (also those compared by rows
        alone), `rows` (none).
    near_zero: also count values of at most this magnitude.
    threads: how many measure; by default one per core.
    device: where values are counted: `cpu`, `cuda`, `cuda:N` or `auto`.
    limit_factor: multiplies the limits on what a file may claim and cost.
    units: also read heads, KV groups, neurons and experts, and match them with the base's.
    method_patterns: regular expressions for what names declare, with the groups method, ratio and removed.
    workers: models read at once; by default one per device.
    map_files: map weight files that are in the page cache; meanwhile the process has a handler of SIGBUS.
    debug: print the tracebacks of unexpected errors to stderr.
    on_event, on_progress: called for each input, and whenever models or bytes have been read.
    """
    from layerhouse.ingest.context import Options, Reading, available_cores
    from layerhouse.ingest.measure.devices import find_devices
    from layerhouse.ingest_call import ingest_into
    from layerhouse.local_paths import local_path

    reading = Reading(stats, near_zero, threads or available_cores(), find_devices(device), compare, units, workers)
    options = Options(tuple(exclude), name, dry_run, _base_text(base), reading, tuple(method_patterns), debug)
    paths = [local_path(root) for root in ([roots] if isinstance(roots, str | Path) else roots)]
    with _mappings(map_files and stats != "none"):
        return ingest_into(
            local_path(warehouse), paths, options, limit_factor=limit_factor, on_event=on_event, on_progress=on_progress
        )
