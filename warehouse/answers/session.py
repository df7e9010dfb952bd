"""An in-memory DuckDB session over the files of a warehouse: no database file, no lock, nothing to keep in step."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import duckdb

from layerhouse.errors import UsageError, WarehouseError
from layerhouse.warehouse.answers.answer_cache import (
    are_kept,
    is_large,
    kept_files,
    kept_statements,
    write_kept,
)
from layerhouse.warehouse.answers.sql_text import quote_literal, sql_files
from layerhouse.warehouse.storage.commits import Snapshot, list_commits
from layerhouse.warehouse.storage.schema import TABLES, Table
from layerhouse.warehouse.storage.store import open_store

MACROS = "macros"
NAME = re.compile(r"[a-z_]+")
COMMENT = re.compile(r"--.*")
HELD = ("name_changes", "sightings", "result_links", "checkpoint_facts", "current_checkpoints", "layer_summary", "models")
"""Views that others stand on several times over, or that take long to plan: a view is planned when made and when asked."""
MOST_HELD = 100_000
"""Checkpoints and result files up to which a session computes HELD once for a question: that takes less time than planning such
a view again wherever it is used, and the rows fit into memory."""


class Session:
    """A DuckDB session over a warehouse, whose views are made as they are asked for: to make them all takes longer than most
    answers.

    Views are made over files without rows and see the committed ones afterwards: the lists of files are a session variable, so
    making the views reads no data but for HELD. `as_of` hides every row that was committed later. Answers that were kept
    (kept.py) are taken from there unless `computes_all`. Raises WarehouseError.
    """

    def __init__(self, root: Path, *, as_of: datetime | None = None, computes_all: bool = False) -> None:
        self._root = root
        self.snapshot = list_commits(open_store(root))
        self._empty_files = {name: [path] for name, path in self.snapshot.empty_files().items()}
        self._waiting = view_statements(self.snapshot)
        self._held: list[str] = []
        self._is_small = self.snapshot.rows("checkpoints") + self.snapshot.rows("links") <= MOST_HELD
        if as_of is None and not computes_all and are_kept(files := answer_files(self.snapshot)):
            self._waiting |= kept_statements(files)
        self.connection = duckdb.connect(config={"temp_directory": tempfile.gettempdir()})
        with self._own_sql():
            self.connection.execute("SET TimeZone = 'UTC'")
            self.connection.execute("SET enable_progress_bar = false")
            if as_of is not None:
                self.connection.execute("SET VARIABLE as_of = CAST(? AS TIMESTAMPTZ)", [as_of.isoformat()])

    def make(self, sql: str | None = None) -> duckdb.DuckDBPyConnection:
        """Make every view that some SQL names, and those that they stand on; all of them without. Returns the connection.

        Of what is made for some SQL, HELD are temporary tables of their rows in a small warehouse, until all is asked for.
        """
        while sql is None and self._held:
            self.connection.execute(f"DROP TABLE temp.{self._held.pop()}")
        holds = sql is not None and self._is_small
        for is_held, names in groupby(self._named_in(sql), lambda name: holds and name in HELD):
            self._make([name for name in names if not (is_held and self._hold(name))])
        return self.connection

    def _hold(self, name: str) -> bool:
        """Whether a view's rows could be had in its place; the answer that needs a file which cannot be read says so."""
        text = self._waiting[name].replace(f"CREATE OR REPLACE VIEW {name} AS", f"CREATE TEMP TABLE {name} AS")
        with suppress(duckdb.Error):
            self.connection.execute(text)
            self._held.append(name)
        return name in self._held

    def _make(self, names: list[str]) -> None:
        if not names:
            return
        with self._own_sql():
            self._show_files(self._empty_files)
            try:
                self.connection.execute("\n".join(self._waiting[name] for name in names))
            finally:
                self._show_files({name: self.snapshot.files(name) for name in TABLES})
        for name in names:
            del self._waiting[name]

    def _show_files(self, files: dict[str, list[str]]) -> None:
        self.connection.execute("SET VARIABLE files = ?", [files])

    def _named_in(self, sql: str | None) -> list[str]:
        """Those of the statements that wait, in their order. Tables and macros are made at once."""
        if sql is None:
            return [*self._waiting]
        named, texts = {name for name in (*TABLES, MACROS) if name in self._waiting}, [sql]
        while texts:
            words = set(NAME.findall(texts.pop())) & self._waiting.keys() - named - {*self._held}
            texts += [COMMENT.sub("", self._waiting[word]) for word in words]
            named |= words
        return [name for name in self._waiting if name in named]

    @contextmanager
    def _own_sql(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise WarehouseError(f"{self._root}: {str(error).splitlines()[0]}") from None


def connect(
    root: Path, *, as_of: datetime | None = None, computes_all: bool = False, asked: str | None = None
) -> tuple[duckdb.DuckDBPyConnection, Snapshot]:
    """Open a warehouse for reading, with every view or those that the SQL `asked` names; see Session. Raises WarehouseError."""
    session = Session(root, as_of=as_of, computes_all=computes_all)
    return session.make(asked), session.snapshot


def keep_answers(root: Path) -> None:
    """Write down the answers that a large warehouse is asked for most (kept.py), where they are not there yet.

    Whoever commits results, links or other names calls it; without it every session computes them. Raises WarehouseError.
    """
    if not are_kept(answer_files(list_commits(open_store(root)))):
        connection, snapshot = connect(root, asked="model_measures")
        with connection:
            connection.execute("SET memory_limit = '512MB'")
            write_kept(connection, answer_files(snapshot))


def answer_files(snapshot: Snapshot) -> dict[str, Path]:
    """Where each kept answer of this state is, or would be; none in a warehouse that is not large."""
    return kept_files(snapshot, "\n".join(view_statements(snapshot).values())) if is_large(snapshot) else {}


def init_script(root: Path, *, as_of: datetime | None = None) -> str:
    """SQL text after which any DuckDB session sees what `connect` shows."""
    snapshot = list_commits(open_store(root))
    snapshot.empty_files()
    lines = [f"-- layerhouse warehouse {' '.join(str(snapshot.root).split())}", "SET TimeZone = 'UTC';"]
    lists = []
    for name in TABLES:
        paths = ",\n        ".join(quote_literal(path) for path in snapshot.files(name))
        lists.append(f"    {name}: [\n        {paths}\n    ]")
    lines.append("SET VARIABLE files = {{\n{}\n}};".format(",\n".join(lists)))
    if as_of is not None:
        lines.append(f"SET VARIABLE as_of = CAST({quote_literal(as_of.isoformat())} AS TIMESTAMPTZ);")
    lines.extend(view_statements(snapshot).values())
    return "\n".join(lines) + "\n"


def export_database(root: Path, target: Path, *, as_of: datetime | None = None) -> None:
    """Write a self-contained DuckDB database: the tables' rows and the views over them. Refuses an existing file."""
    if target.exists():
        raise UsageError(f"{target}: exists already; name a new file or remove it first")
    connection, _ = connect(root, as_of=as_of)
    temporary = target.with_name(f".{target.name}.tmp")
    with connection:
        try:
            temporary.unlink(missing_ok=True)
            connection.execute(f"ATTACH {quote_literal(str(temporary))} AS exported")
            for name in TABLES:
                connection.execute(f"CREATE TABLE exported.{name} AS SELECT * FROM {name}")
            connection.execute("DETACH exported")
        except (duckdb.Error, OSError) as error:
            raise UsageError(f"{target}: cannot be written: {str(error).splitlines()[0]}") from None
    with duckdb.connect(temporary) as exported:
        for statements in sql_files("warehouse.views").values():
            exported.execute(statements)
    temporary.replace(target)


def view_statements(snapshot: Snapshot) -> dict[str, str]:
    """The statement that makes each view by the view's name, and that of the macros, in order: stored tables first, then the
    view files in name order, each named after its one view."""
    tables = {table.name: _table_view(table, snapshot.absent_columns(table.name)) for table in TABLES.values()}
    return tables | {stem.partition("_")[2]: text for stem, text in sql_files("warehouse.views").items()}


def parse_as_of(text: str) -> datetime:
    """A time such as `2026-01-31` (its end, UTC) or `2026-01-31T12:00` (UTC unless it names a zone). Raises UsageError."""
    try:
        moment = datetime.fromisoformat(text)
        if len(text) <= 10:
            moment = moment.replace(hour=23, minute=59, second=59, microsecond=999999)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"--as-of {text!r}: not a time; write 2026-01-31 or 2026-01-31T12:00:00") from None


def _table_view(table: Table, absent_columns: frozenset[str]) -> str:
    """A stored table as a view: what was committed by `as_of`; of a fact that several commits hold, the rows of the
    first, or of the newest where the table says so.

    A column that no file has yet is null.
    """
    scan = f"read_parquet(getvariable('files').{table.name}, union_by_name = true, hive_partitioning = false)"
    until = "ingested_at <= coalesce(getvariable('as_of'), CAST('infinity' AS TIMESTAMPTZ))"
    columns = ",\n".join(
        f"    CAST(NULL AS {column.type}) AS {column.name}" if column.name in absent_columns else f"    rows.{column.name}"
        for column in table.columns
    )
    statement = f"CREATE OR REPLACE VIEW {table.name} AS\nSELECT\n{columns}\nFROM {scan} AS rows\n"
    if table.fact_key:
        keys, chosen = ", ".join(table.fact_key), "max" if table.is_newest_shown else "min"
        join = " AND ".join(f"chosen.{column} = rows.{column}" for column in (*table.fact_key, "commit_id"))
        statement += (
            f"SEMI JOIN (\n    SELECT {keys}, {chosen}(commit_id) AS commit_id\n    FROM {scan}\n    WHERE {until}\n"
            f"    GROUP BY {keys}\n) AS chosen ON {join}\n"
        )
    return f"{statement}WHERE {until.replace('ingested_at', 'rows.ingested_at')};"
