"""Rows that wait for the next commit, which is due after 2 s or 256 items."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from layerhouse.ingest.column_rows import ColumnRows
from layerhouse.warehouse.storage.rows import rows_to_arrow
from layerhouse.warehouse.storage.store import write_commit

if TYPE_CHECKING:
    import pyarrow as pa

    BatchRows: TypeAlias = Sequence[dict[str, Any]] | pa.Table

FLUSH_SECONDS = 2.0
FLUSH_ITEMS = 256

Row = dict[str, Any]


class Batch:
    """Collects the rows of finished items; what was added together is committed together.

    Rows become Arrow tables when they are committed, those of all items at once: Arrow arrays of a few rows cost more to make
    than the rows.
    """

    def __init__(self, store_root: Path) -> None:
        self.store_root = store_root
        self.items = 0
        self._started = 0.0
        self._pieces: dict[str, list[BatchRows]] = {}
        self._sealed: dict[str, int] = {}

    def add(self, rows: Mapping[str, BatchRows]) -> None:
        """Add the rows of one item, by table."""
        if not self.items:
            self._started = time.monotonic()
        for table, table_rows in rows.items():
            if len(table_rows):
                self._pieces.setdefault(table, []).append(table_rows)
        self.items += 1

    def holds(self, *tables: str) -> bool:
        """Whether rows of one of these tables are not committed yet."""
        return any(self._pieces.get(table) for table in tables)

    def waiting(self, table: str, checkpoint_id: str) -> list[Row]:
        """The rows of a checkpoint that are not committed yet."""
        pieces = (_rows_of(piece, checkpoint_id) for piece in self._pieces.get(table, ()))
        return [row for rows in pieces for row in rows]

    def seal(self) -> None:
        """Mark what was added so far as whole: a model together with its results."""
        self._sealed = {table: len(pieces) for table, pieces in self._pieces.items()}

    def drop_unfinished(self) -> None:
        """Drop what was added since `seal`: nothing of a model that broke off is committed."""
        for table, pieces in self._pieces.items():
            del pieces[self._sealed.get(table, 0) :]

    def flush_if_due(self) -> None:
        if self.items >= FLUSH_ITEMS or (self.items and time.monotonic() - self._started >= FLUSH_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Commit what waits, if anything does. Raises ValueError for what a column cannot hold; then nothing is committed."""
        tables = {table: arrow_rows(table, pieces) for table, pieces in self._pieces.items() if pieces}
        if tables:
            write_commit(self.store_root, tables, "ingest")
        self._pieces, self.items, self._sealed = {}, 0, {}


def arrow_rows(table: str, pieces: Sequence[BatchRows]) -> pa.Table:
    """The rows of all pieces as one table with the types of the schema; a column that a piece lacks is null there."""
    import pyarrow as pa

    by_column: list[ColumnRows] = []
    by_row: list[Row] = []
    tables: list[pa.Table] = []
    for piece in pieces:
        if isinstance(piece, pa.Table):
            tables.append(piece)
        elif isinstance(piece, ColumnRows):
            by_column.append(piece)
        else:
            by_row.extend(piece)
    if by_column:
        tables.append(pa.Table.from_batches([rows_to_arrow(table, joined_columns(by_column))]))
    if by_row:
        tables.append(pa.Table.from_batches([rows_to_arrow(table, by_row)]))
    return pa.concat_tables(tables, promote_options="default")


def joined_columns(pieces: Sequence[ColumnRows]) -> dict[str, list[Any]]:
    """The columns of all pieces, one after the other; null where a piece lacks the column."""
    names = dict.fromkeys(name for piece in pieces for name in piece.columns)
    return {
        name: list(chain.from_iterable(piece.columns.get(name) or repeat(None, len(piece)) for piece in pieces))
        for name in names
    }


def _rows_of(piece: BatchRows, checkpoint_id: str) -> list[Row]:
    if isinstance(piece, Sequence):
        return [row for row in piece if row["checkpoint_id"] == checkpoint_id]
    import pyarrow.compute as pc

    rows: list[Row] = piece.filter(pc.equal(piece.column("checkpoint_id"), checkpoint_id)).to_pylist()
    return rows
