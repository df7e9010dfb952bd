"""A pair of checkpoints that answers are to show, in place of the comparisons that the warehouse has: nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from layerhouse.warehouse.answers.sql_text import quote_literal
from layerhouse.warehouse.storage.rows import arrow_table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MATCH_TABLES = ("layer_matches", "tensor_matches", "unit_matches")


@dataclass(frozen=True)
class PairRows:
    """A checkpoint and the one that it is compared with; the rows of MATCH_TABLES that were made for them, without their ids.

    Without rows, those are shown that the warehouse has of the pair.
    """

    checkpoint_id: str
    base_checkpoint_id: str
    rows: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> Mapping[str, Sequence[str]]:
        """All files are read."""
        return {}

    @property
    def tables(self) -> Sequence[str]:
        """The tables of which only the pair's rows are shown."""
        return MATCH_TABLES

    @property
    def held(self) -> Sequence[str]:
        """None, as these tables have few rows."""
        return ()

    def add_to(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Put the rows into temporary tables of a session."""
        for table in MATCH_TABLES if self.rows else ():
            connection.register(f"given_{table}", self._arrow_table(table, self.rows.get(table)))
            connection.execute(f"CREATE TEMP TABLE pair_{table} AS SELECT * FROM given_{table}")
            connection.unregister(f"given_{table}")

    def replaced(self, statements: Mapping[str, str]) -> dict[str, str]:
        """The statements that make views, of which those of MATCH_TABLES show the pair alone."""
        return {name: self._view(name, text) if name in MATCH_TABLES else text for name, text in statements.items()}

    def _view(self, table: str, stored: str) -> str:
        view = f"CREATE OR REPLACE VIEW {table} AS"
        if self.rows:
            return f"{view}\nSELECT * FROM temp.pair_{table};"
        ids = (quote_literal(self.checkpoint_id), quote_literal(self.base_checkpoint_id))
        renamed = stored.replace(view, f"CREATE OR REPLACE VIEW stored_{table} AS")
        where = f"checkpoint_id = {ids[0]} AND base_checkpoint_id = {ids[1]}"
        return f"{renamed}\n{view}\nSELECT * FROM stored_{table} WHERE {where};"

    def _arrow_table(self, table: str, rows: Any) -> pa.Table:
        """The rows of a table with the ids of the pair, in the form of the stored ones."""
        ids = {"checkpoint_id": self.checkpoint_id, "base_checkpoint_id": self.base_checkpoint_id}
        if rows is None or isinstance(rows, Sequence):
            return arrow_table(table, [{**ids, **row} for row in rows or ()], "", datetime.now(UTC))
        for name, value in ids.items():
            rows = rows.append_column(name, [[value] * len(rows)])
        return arrow_table(table, rows, "", datetime.now(UTC))
