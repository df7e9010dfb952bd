"""Rows that wait for the next commit, which comes after 2 s or 256 items."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.warehouse.store import write_commit

if TYPE_CHECKING:
    import pyarrow as pa

FLUSH_SECONDS = 2.0
FLUSH_ITEMS = 256

Row = dict[str, Any]


class Batch:
    """Collects finished items; what was added together is committed together."""

    def __init__(self, store_root: Path) -> None:
        self.store_root = store_root
        self.rows: dict[str, list[Row]] = {}
        self.tables: dict[str, list[pa.Table]] = {}
        self.items = 0
        self.started = 0.0
        self._sealed: dict[str, int] = {}

    def add(self, rows: Mapping[str, Iterable[Row]], tables: Mapping[str, pa.Table] | None = None) -> None:
        """One item: all its rows by table; of tables with very many rows as Arrow tables."""
        if not self.items:
            self.started = time.monotonic()
        for table, table_rows in rows.items():
            self.rows.setdefault(table, []).extend(table_rows)
        for name, table in (tables or {}).items():
            self.tables.setdefault(name, []).append(table)
        self.items += 1

    def seal(self) -> None:
        """Say that what was added so far is whole: a model with its results."""
        self._sealed = {name: len(found) for name, found in (*self.rows.items(), *self._named_tables())}

    def drop_unfinished(self) -> None:
        """Forget what was added since `seal` and is not committed: of what broke off, nothing is to be committed."""
        for name, found in (*self.rows.items(), *self._named_tables()):
            del found[self._sealed.get(name, 0) :]

    def flush_if_due(self) -> None:
        if self.items >= FLUSH_ITEMS or (self.items and time.monotonic() - self.started >= FLUSH_SECONDS):
            self.flush()

    def flush(self) -> None:
        rows: dict[str, list[Row] | pa.Table] = {table: table_rows for table, table_rows in self.rows.items() if table_rows}
        if self.tables:
            import pyarrow as pa

            rows |= {name: pa.concat_tables(parts) for name, parts in self.tables.items() if parts}
        if rows:
            write_commit(self.store_root, rows, "ingest")
        self.rows, self.tables, self.items, self._sealed = {}, {}, 0, {}

    def _named_tables(self) -> list[tuple[str, list[pa.Table]]]:
        """The Arrow tables under names that no list of rows has."""
        return [(f"{name} as tables", parts) for name, parts in self.tables.items()]
