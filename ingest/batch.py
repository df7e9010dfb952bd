"""Rows that wait for the next commit, which comes after 2 s or 256 items."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.ingest.column_rows import ColumnRows
from layerhouse.warehouse.storage.store import write_commit

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
        self.columns: dict[str, list[ColumnRows]] = {}
        self.tables: dict[str, list[pa.Table]] = {}
        self.items = 0
        self.started = 0.0
        self._sealed: dict[tuple[str, str], int] = {}

    def add(self, rows: Mapping[str, Iterable[Row]], tables: Mapping[str, pa.Table] | None = None) -> None:
        """One item: all its rows by table; of tables with very many rows as Arrow tables."""
        if not self.items:
            self.started = time.monotonic()
        for table, table_rows in rows.items():
            if isinstance(table_rows, ColumnRows):
                self.columns.setdefault(table, []).append(table_rows)
            else:
                self.rows.setdefault(table, []).extend(table_rows)
        for name, table in (tables or {}).items():
            self.tables.setdefault(name, []).append(table)
        self.items += 1

    def holds(self, *tables: str) -> bool:
        """Whether rows of one of these tables are not committed yet."""
        return any(found for (_, table), found in self._parts() if table in tables)

    def waiting(self, table: str) -> Iterator[Row]:
        """The rows of a table that are not committed yet, Arrow tables apart."""
        return chain(self.rows.get(table, ()), *self.columns.get(table, ()))

    def seal(self) -> None:
        """Say that what was added so far is whole: a model with its results."""
        self._sealed = {name: len(found) for name, found in self._parts()}

    def drop_unfinished(self) -> None:
        """Forget what was added since `seal` and is not committed: of what broke off, nothing is to be committed."""
        for name, found in self._parts():
            del found[self._sealed.get(name, 0) :]

    def flush_if_due(self) -> None:
        if self.items >= FLUSH_ITEMS or (self.items and time.monotonic() - self.started >= FLUSH_SECONDS):
            self.flush()

    def flush(self) -> None:
        rows: dict[str, Sequence[Row] | Mapping[str, list[Any]] | pa.Table] = {
            table: table_rows for table, table_rows in self.rows.items() if table_rows
        }
        rows |= {table: _joined([*parts, *_by_column(rows.get(table))]) for table, parts in self.columns.items() if parts}
        if self.tables:
            import pyarrow as pa

            rows |= {name: pa.concat_tables(parts) for name, parts in self.tables.items() if parts}
        if rows:
            write_commit(self.store_root, rows, "ingest")
        self.rows, self.columns, self.tables, self.items, self._sealed = {}, {}, {}, 0, {}

    def _parts(self) -> Iterator[tuple[tuple[str, str], list[Any]]]:
        """Whatever waits, by its table and how it is held."""
        for kind, held in (("rows", self.rows), ("columns", self.columns), ("tables", self.tables)):
            for table, found in held.items():
                yield (kind, table), found


def _by_column(rows: Any) -> Iterator[ColumnRows]:
    """Rows beside such as are held by column."""
    if rows:
        yield ColumnRows({name: [row.get(name) for row in rows] for name in set().union(*rows)})


def _joined(parts: Sequence[ColumnRows]) -> dict[str, list[Any]]:
    """The columns of all, one after the other; a column that a part has not is null there."""
    names = dict.fromkeys(name for part in parts for name in part.columns)
    return {name: [*chain.from_iterable(part.columns.get(name) or [None] * len(part) for part in parts)] for name in names}
