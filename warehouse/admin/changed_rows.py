"""Of what kept views stand on, the rows of the checkpoints or models that changed, for a session that computes these alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from layerhouse.warehouse.answers.kept.increments import Some, Whose
from layerhouse.warehouse.answers.kept.places import Places
from layerhouse.warehouse.answers.sql_text import quote_literal
from layerhouse.warehouse.answers.view_texts import view_statements
from layerhouse.warehouse.storage.commits import Snapshot
from layerhouse.warehouse.storage.schema import TABLES

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MOST_LISTED = 1_000
"""Ids up to which a condition lists them, and files without them are not opened; more are in most files."""


@dataclass(frozen=True)
class ChangedRows:
    """Shows a session the rows of some ids alone; see Session.show. `pairs` has each `id` with each `related_id`, or null.

    `only` says which rows of stored tables and views these are.
    """

    snapshot: Snapshot
    places: Places
    pairs: pa.Table
    only: Mapping[str, Some]

    @cached_property
    def ids(self) -> dict[Whose, list[str]]:
        """The ids themselves, those that are related to them, and both."""
        own, related = (self.pairs[column].unique().drop_null().to_pylist() for column in ("id", "related_id"))
        return {Whose.OWN: own, Whose.RELATED: related, Whose.BOTH: [*own, *related]}

    @property
    def tables(self) -> Sequence[str]:
        """None, as what is kept of all rows holds for these."""
        return ()

    @property
    def files(self) -> Mapping[str, Sequence[str]]:
        """The files that may have such rows."""
        some = {name: some for name, some in self.only.items() if name in TABLES and self._is_listed(some)}
        found = {table: self.places.files(table, self.ids[some.whose]) for table, some in some.items()}
        return {table: files for table, files in found.items() if files is not None}

    @property
    def held(self) -> Sequence[str]:
        """What shows the rows of the ids alone: it is read once."""
        return [*self.only]

    def add_to(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Put the ids into a temporary table."""
        connection.register("changed_ids", self.pairs)
        connection.execute("CREATE OR REPLACE TEMP TABLE changed AS SELECT * FROM changed_ids")
        connection.unregister("changed_ids")

    def replaced(self, statements: Mapping[str, str]) -> dict[str, str]:
        """The statements that make views, of which those in `only` show the rows of the ids."""
        conditions = {name: self._condition(some) for name, some in self.only.items()}
        changed = {
            name: _view(name, statements[name], condition) for name, condition in conditions.items() if name not in TABLES
        }
        stored = view_statements(self.snapshot, conditions)
        return {name: changed.get(name, stored[name] if name in TABLES else text) for name, text in statements.items()}

    def _is_listed(self, some: Some) -> bool:
        return len(self.ids[some.whose]) <= MOST_LISTED

    def _condition(self, some: Some) -> str:
        listed = ", ".join(map(quote_literal, self.ids[some.whose])) or "NULL"
        columns = {Whose.OWN: ["id"], Whose.RELATED: ["related_id"], Whose.BOTH: ["id", "related_id"]}[some.whose]
        selected = " UNION ALL ".join(f"SELECT {column} FROM temp.changed WHERE {column} IS NOT NULL" for column in columns)
        ids = listed if self._is_listed(some) else selected
        return "({})".format(" OR ".join(f"rows.{column} IN ({ids})" for column in some.columns))


def _view(name: str, text: str, condition: str) -> str:
    view = f"CREATE OR REPLACE VIEW {name} AS"
    whole = text.replace(view, f"CREATE OR REPLACE VIEW whole_{name} AS")
    return f"{whole}\n{view}\nSELECT * FROM whole_{name} AS rows WHERE {condition};"
