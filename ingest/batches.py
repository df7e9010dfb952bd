"""Rows that wait for the next commit, which comes after 2 s or 256 items."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from layerhouse.warehouse.store import write_commit

FLUSH_SECONDS = 2.0
FLUSH_ITEMS = 256

Row = dict[str, Any]


class Batch:
    """Collects finished items; what was added together is committed together."""

    def __init__(self, store_root: Path) -> None:
        self.store_root = store_root
        self.rows: dict[str, list[Row]] = {}
        self.items = 0
        self.started = 0.0

    def add(self, rows: Mapping[str, Iterable[Row]]) -> None:
        """One item: all its rows by table."""
        if not self.items:
            self.started = time.monotonic()
        for table, table_rows in rows.items():
            self.rows.setdefault(table, []).extend(table_rows)
        self.items += 1

    def flush_if_due(self) -> None:
        if self.items >= FLUSH_ITEMS or (self.items and time.monotonic() - self.started >= FLUSH_SECONDS):
            self.flush()

    def flush(self) -> None:
        rows = {table: table_rows for table, table_rows in self.rows.items() if table_rows}
        if rows:
            write_commit(self.store_root, rows, "ingest")
        self.rows, self.items = {}, 0
