"""Rows that wait for the next commit, which is due after 2 s or 256 items."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from layerhouse.errors import LayerhouseError
from layerhouse.ingest.column_rows import ColumnRows
from layerhouse.warehouse.storage.rows import arrow_table, rows_to_arrow
from layerhouse.warehouse.storage.store import write_commit

if TYPE_CHECKING:
    import pyarrow as pa

    BatchRows: TypeAlias = Sequence[dict[str, Any]] | pa.Table

FLUSH_SECONDS = 2.0
FLUSH_ITEMS = 256

Row = dict[str, Any]


ID_COLUMNS = ("checkpoint_id", "base_checkpoint_id", "result_id")
"""Columns by which rows of one input refer to those of another."""


@dataclass(frozen=True)
class Piece:
    """Rows of one table that were added together. `owner` is the input that they come from, as messages name it."""

    table: str
    owner: str
    rows: BatchRows

    def ids(self, column: str) -> set[str]:
        """The values of a column of ids, without null."""
        if isinstance(self.rows, ColumnRows):
            return {value for value in self.rows.columns.get(column, ()) if value is not None}
        if isinstance(self.rows, Sequence):
            return {row[column] for row in self.rows if row.get(column) is not None}
        if column not in self.rows.column_names:
            return set()
        return {value for value in self.rows.column(column).unique().to_pylist() if value is not None}


Refuse = Callable[[str, Exception], None]
"""A callback for an input whose rows cannot be stored: its name in messages, and why."""
Drop = Callable[[Sequence[Piece]], None]
"""A callback for pieces that are dropped."""


class Batch:
    """Collects the rows of finished items; what was added together is committed together.

    Rows become Arrow tables when they are committed, those of all items at once: Arrow arrays of a few rows cost more to make
    than the rows. If that fails, the inputs at fault are dropped and passed to `on_refused`, and the others are committed;
    without `on_refused` the error is raised.
    """

    def __init__(self, store_root: Path, on_refused: Refuse | None = None, on_dropped: Drop = lambda pieces: None) -> None:
        self.store_root = store_root
        self.items = 0
        self._on_refused, self._on_dropped = on_refused, on_dropped
        self._started = 0.0
        self._owner = ""
        self._pieces: list[Piece] = []
        self._sealed = 0
        self._flushes = 0

    def add(self, rows: Mapping[str, BatchRows]) -> None:
        """Add the rows of one item, by table."""
        if not self.items:
            self._started = time.monotonic()
        self._pieces += [Piece(table, self._owner, table_rows) for table, table_rows in rows.items() if len(table_rows)]
        self.items += 1

    @contextmanager
    def owned_by(self, owner: str) -> Iterator[None]:
        """Rows that are added within the block come from this input."""
        before, self._owner = self._owner, owner
        try:
            yield
        finally:
            self._owner = before

    def holds(self, *tables: str) -> bool:
        """Whether rows of one of these tables are not committed yet."""
        return any(piece.table in tables for piece in self._pieces)

    def waiting(self, table: str, checkpoint_id: str) -> list[Row]:
        """The rows of a checkpoint that are not committed yet."""
        pieces = (_rows_of(piece.rows, checkpoint_id) for piece in self._pieces if piece.table == table)
        return [row for rows in pieces for row in rows]

    def seal(self) -> None:
        """Mark what was added so far as whole: a model together with its results."""
        self._sealed = len(self._pieces)

    def drop_unfinished(self) -> None:
        """Drop what was added since `seal`: nothing of a model that broke off is committed."""
        self._drop_from(self._sealed)

    def mark(self) -> tuple[int, int]:
        """A point that `drop_since` goes back to."""
        return self._flushes, len(self._pieces)

    def drop_since(self, mark: tuple[int, int]) -> None:
        """Drop what was added since the mark, as far as it is not committed."""
        flushes, count = mark
        self._drop_from(count if flushes == self._flushes else 0)

    def flush_if_due(self) -> None:
        if self.items >= FLUSH_ITEMS or (self.items and time.monotonic() - self._started >= FLUSH_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Commit what waits, if anything does.

        Raises WarehouseError where the disk refuses, and without `on_refused` ValueError for what a column cannot hold; then
        nothing is committed.
        """
        try:
            self._commit(self._pieces)
        except LayerhouseError:
            raise
        except Exception:
            if self._on_refused is None:
                raise
            self._refuse_unfit(self._on_refused)
            self._commit_in_parts(self._pieces, self._on_refused)
        self._pieces, self.items, self._sealed = [], 0, 0
        self._flushes += 1

    def _commit(self, pieces: Sequence[Piece]) -> None:
        by_table: dict[str, list[BatchRows]] = {}
        for piece in pieces:
            by_table.setdefault(piece.table, []).append(piece.rows)
        if by_table:
            write_commit(self.store_root, {table: arrow_rows(table, rows) for table, rows in by_table.items()}, "ingest")

    def _commit_in_parts(self, pieces: Sequence[Piece], on_refused: Refuse) -> None:
        """Commit pieces; with too little memory for all of them those of half of the inputs at a time, and so on."""
        try:
            self._commit(pieces)
        except MemoryError as error:
            owners = [*dict.fromkeys(piece.owner for piece in pieces)]
            if len(owners) > 1:
                first = set(owners[: len(owners) // 2])
                self._commit_in_parts([piece for piece in pieces if piece.owner in first], on_refused)
                self._commit_in_parts([piece for piece in pieces if piece.owner not in first], on_refused)
                return
            self._on_dropped(pieces)
            on_refused(owners[0], error)
        done = set(map(id, pieces))
        self._pieces = [piece for piece in self._pieces if id(piece) not in done]

    def _refuse_unfit(self, on_refused: Refuse) -> None:
        """Drop the pieces of inputs whose rows cannot be stored, and of those that refer to rows of them."""
        by_owner: dict[str, list[Piece]] = {}
        for piece in self._pieces:
            by_owner.setdefault(piece.owner, []).append(piece)
        refused: dict[str, Exception] = {}
        for owner, pieces in by_owner.items():
            try:
                for piece in pieces:
                    arrow_table(piece.table, arrow_rows(piece.table, [piece.rows]), "", datetime.now(UTC))
            except Exception as error:
                refused[owner] = error
        lost = {value for owner in refused for piece in by_owner[owner] for name in ID_COLUMNS for value in piece.ids(name)}
        for owner, pieces in by_owner.items():
            if owner not in refused and any(lost & piece.ids(name) for piece in pieces for name in ID_COLUMNS):
                refused[owner] = ValueError(f"it shares contents with {next(iter(refused))}, of which no row can be stored")
        self._on_dropped([piece for piece in self._pieces if piece.owner in refused])
        self._pieces = [piece for piece in self._pieces if piece.owner not in refused]
        for owner, reason in refused.items():
            on_refused(owner, reason)

    def _drop_from(self, count: int) -> None:
        dropped = self._pieces[count:]
        del self._pieces[count:]
        if dropped:
            self._on_dropped(dropped)


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
