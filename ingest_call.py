"""What a call of `layerhouse.ingest` does around the ingest itself: open the warehouse before it, keep answers after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from layerhouse.ingest.checkpoint.limits import scaled_limits
from layerhouse.ingest.context import Reading, available_cores
from layerhouse.ingest.events import CallbackError, call
from layerhouse.ingest.model.family_files import check_own_families
from layerhouse.ingest.run import Event, Options, Progress, Report, ingest_roots, settle_stored
from layerhouse.warehouse.answers.kept.states import is_large
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.inventory import Inventory
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.store import MARKER, add_present_schema, create_store, open_store


def ingest_into(
    warehouse: Path,
    roots: Sequence[Path],
    options: Options,
    *,
    limit_factor: float,
    on_event: Callable[[Event], None],
    on_progress: Callable[[Progress], None],
) -> Report:
    """Ingest everything below the roots into a warehouse, which is made if there is none. A dry run writes nothing.

    Raises UsageError and WarehouseError.
    """
    check_own_families()
    if not options.dry_run:
        warehouse = create_store(warehouse)
    known = _known(warehouse)
    last = Progress(0, 0, 0, 0)

    def progress_noted(progress: Progress) -> None:
        nonlocal last
        last = progress
        on_progress(progress)

    with scaled_limits(limit_factor):
        report = ingest_roots(roots, warehouse, known, options, on_event=on_event, on_progress=progress_noted)
    if not options.dry_run:
        _keep(warehouse, lambda done, total: call(on_progress, replace(last, answers=done, total_answers=total)))
    return report


def settle_warehouse(warehouse: Path, *, on_event: Callable[[Event], None]) -> Report:
    """Find out anew what every model of a warehouse was made from, by its stored rows. Raises WarehouseError."""
    root = open_store(warehouse)
    add_present_schema(root)
    report = settle_stored(root, _known(root), Options(reading=Reading(threads=available_cores())), on_event)
    _keep(root, lambda done, total: None)
    return report


def _keep(warehouse: Path, on_progress: Callable[[int, int], None]) -> None:
    """Keep the answers of a large warehouse. DuckDB, which computes them, is not loaded for one that is not."""
    if is_large(list_commits(warehouse)):
        from layerhouse.warehouse.admin.keeping import keep_answers

        try:
            keep_answers(warehouse, on_progress=on_progress)
        except CallbackError as failed:
            raise failed.error from None


def _known(warehouse: Path) -> Inventory:
    """What the warehouse has already. DuckDB, which reads it, is not loaded if there is nothing."""
    if not (warehouse / MARKER).exists() or not any(list_commits(warehouse).require_whole().rows(table) for table in TABLES):
        return Inventory()
    from layerhouse.warehouse.answers.load_inventory import load_inventory

    return load_inventory(warehouse)
