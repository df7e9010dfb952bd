"""Rows that wait for the next commit, which is due after 2 s or 256 items."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from layerhouse.ingest.column_rows import ColumnRows
from layerhouse.warehouse.storage.rows import rows_to_arrow
from layerhouse.warehouse.storage.store import write_commit

if TYPE_CHECKING:
    import pyarrow as pa

    BatchRows: TypeAlias = Sequence[dict[str, Any]] | pa.RecordBatch | pa.Table

FLUSH_SECONDS = 2.0
FLUSH_ITEMS = 256
SMALL_PIECE_ROWS = 4096
"""Pieces with fewer rows on average are copied into one, which is written faster; a copy of larger ones costs memory."""

Row = dict[str, Any]


class Batch:
    """Collects the rows of finished items in Arrow form; what was added together is committed together."""

    def __init__(self, store_root: Path) -> None:
        self.store_root = store_root
        self.items = 0
        self._started = 0.0
        self._pieces: dict[str, list[pa.RecordBatch]] = {}
        self._sealed: dict[str, int] = {}

    def add(self, rows: Mapping[str, BatchRows]) -> None:
        """Add the rows of one item, by table. Raises ValueError for what a column cannot hold; then nothing is added."""
        pieces = {table: record_batches(table, table_rows) for table, table_rows in rows.items() if len(table_rows)}
        if not self.items:
            self._started = time.monotonic()
        for table, table_pieces in pieces.items():
            self._pieces.setdefault(table, []).extend(table_pieces)
        self.items += 1

    def holds(self, *tables: str) -> bool:
        """Whether rows of one of these tables are not committed yet."""
        return any(self._pieces.get(table) for table in tables)

    def waiting(self, table: str, checkpoint_id: str) -> list[Row]:
        """The rows of a checkpoint that are not committed yet."""
        import pyarrow.compute as pc

        return [
            row
            for piece in self._pieces.get(table, ())
            for row in piece.filter(pc.equal(piece.column("checkpoint_id"), checkpoint_id)).to_pylist()
        ]

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
        """Commit what waits, if anything does."""
        tables = {table: _joined(pieces) for table, pieces in self._pieces.items() if pieces}
        if tables:
            write_commit(self.store_root, tables, "ingest")
        self._pieces, self.items, self._sealed = {}, 0, {}


def record_batches(table: str, rows: BatchRows) -> list[pa.RecordBatch]:
    """Rows in Arrow form, with the types of the schema: dictionaries, ColumnRows, or rows that are in Arrow form already."""
    import pyarrow as pa

    if isinstance(rows, pa.RecordBatch):
        return [rows]
    if isinstance(rows, pa.Table):
        batches: list[pa.RecordBatch] = rows.to_batches()
        return batches
    return [rows_to_arrow(table, rows.columns if isinstance(rows, ColumnRows) else rows)]


def _joined(pieces: Sequence[pa.RecordBatch]) -> pa.Table:
    """One table of all pieces; a column that a piece lacks is null there."""
    import pyarrow as pa

    by_columns: dict[tuple[str, ...], list[pa.RecordBatch]] = defaultdict(list)
    for piece in pieces:
        by_columns[tuple(piece.schema.names)].append(piece)
    tables = [pa.Table.from_batches(same) for same in by_columns.values()]
    table = pa.concat_tables(tables, promote_options="default")
    return table.combine_chunks() if table.num_rows < SMALL_PIECE_ROWS * len(pieces) else table
