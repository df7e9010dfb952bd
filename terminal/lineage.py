"""The tree of models on the terminal, and what settling it anew reports."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.terminal.messages import print_lines, talk
from layerhouse.terminal.progress import ingest_display, report_line

if TYPE_CHECKING:
    from layerhouse.warehouse.answers.handle import Warehouse


def show_trees(wh: Warehouse, models: Sequence[str]) -> None:
    """Draw the trees of the models that match, or all of them."""
    from layerhouse.warehouse.answers.lineage_tree import ASKED, lineage_trees

    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    print_lines(lineage_trees(wh.connection_for(ASKED), models, is_unicode=encoding.startswith("utf")))


def settle_lineage(warehouse: Path) -> None:
    """Find out anew what every model of a warehouse was made from, and report what was found."""
    from layerhouse.ingest_call import settle_warehouse

    with ingest_display(quiet=False) as (on_event, _):
        report = settle_warehouse(warehouse, on_event=on_event)
    talk(report_line(report, warehouse, dry_run=False))
