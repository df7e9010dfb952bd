"""What a table and a column are, and what every stored table has in common."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Words = type[StrEnum]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    `type` is the DuckDB spelling, `unit` what a number counts; `required` columns are never null. `words` is the enum whose
    members a text column holds; `text` names them in backquotes, all of them unless it ends with `...`.
    """

    name: str
    type: str
    text: str
    unit: str | None = None
    required: bool = False
    words: Words | None = None

    @property
    def is_array(self) -> bool:
        """Whether it holds lists of one length, which Parquet does not know."""
        return self.type[-2:-1].isdigit()


@dataclass(frozen=True)
class Table:
    """One stored table: a folder of Parquet files of the same schema.

    `fact_key` names the columns that identify one measured fact. Where two commits hold the same fact, readers take the rows of
    one commit only: the first one (two processes measured one checkpoint at once), or the newest if `is_newest_shown` (a later
    ingest may find out more, and then writes all rows of the fact again). An empty key keeps every row.
    """

    name: str
    text: str
    fact_key: tuple[str, ...]
    columns: tuple[Column, ...]
    is_newest_shown: bool = False

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


NOTES = "STRUCT(code VARCHAR, text VARCHAR)[]"
TAGS = "MAP(VARCHAR, VARCHAR)"

COMMIT_COLUMNS = (
    Column("commit_id", "VARCHAR", "The commit that wrote this row; ids sort by time.", required=True),
    Column("ingested_at", "TIMESTAMPTZ", "When that commit was made, UTC.", required=True),
)
