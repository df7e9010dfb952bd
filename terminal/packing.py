"""What `layerhouse pack` says it did, and where it is advised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.terminal.messages import talk

if TYPE_CHECKING:
    from layerhouse.warehouse.admin.pack import PackReport


def pack_lines(report: PackReport, warehouse: Path) -> Iterator[str]:
    """What was made one, and what was deleted, or would be."""
    from layerhouse.ingest.events import count_text, size_text

    before = f"{report.rows:,} row{'' if report.rows == 1 else 's'}, {size_text(report.size)}"
    if not report.commits:
        yield "nothing to pack: there is one commit at most"
    elif report.is_dry_run:
        yield f"would make one of {report.commits:,} commits: {before} (dry run)"
    else:
        yield f"made one of {report.commits:,} commits: {before} before, {size_text(report.packed_size)} now"
        if report.pruning is None:
            command = f"layerhouse pack --prune 7d --warehouse {warehouse}"
            yield f"the old files stay for open sessions; delete those of a week ago with: {command}"
    if report.pruning is not None:
        files = f"{count_text(report.pruning.files, 'file')}, {size_text(report.pruning.size)}"
        if not report.pruning.files:
            yield "nothing to prune: no commit was replaced so long ago"
        else:
            yield f"would delete {files} (dry run)" if report.is_dry_run else f"deleted {files}"


def advise_packing(warehouse: Path) -> None:
    """Say where a warehouse has so many commits that packing helps."""
    from layerhouse.warehouse.storage.commits import count_commits
    from layerhouse.warehouse.storage.packs import MANY_COMMITS

    if (count := count_commits(warehouse)) >= MANY_COMMITS:
        talk(f"{count:,} commits: layerhouse pack --warehouse {warehouse} makes one of them")
