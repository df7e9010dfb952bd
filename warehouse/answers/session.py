"""An in-memory DuckDB session over the files of a warehouse: there is no database file, so none to lock or update."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path

import duckdb

from layerhouse.errors import UsageError, WarehouseError
from layerhouse.escapes import visible
from layerhouse.warehouse.answers.answer_cache import (
    are_kept,
    is_large,
    kept_files,
    kept_statements,
    write_kept,
)
from layerhouse.warehouse.answers.pair_rows import PairRows
from layerhouse.warehouse.answers.reach import lock, memory_limit, new_connection, require_plausible_sizes
from layerhouse.warehouse.answers.sql_text import quote_literal, spelled_literal, sql_files
from layerhouse.warehouse.storage.commits import Snapshot, list_commits
from layerhouse.warehouse.storage.schema import TABLES, Table
from layerhouse.warehouse.storage.store import open_store

MACROS = "macros"
OLDEST_DUCKDB = "1.2.0"
"""The oldest version of DuckDB that opens an exported database and runs the script of `init_script`."""
REFUSE_OLDER = f"""-- Needs DuckDB {OLDEST_DUCKDB} or later.
SELECT error('this script needs DuckDB {OLDEST_DUCKDB} or later, and this is ' || version())
WHERE TRY_CAST(string_split(regexp_extract(version(), '[0-9]+[.][0-9]+'), '.') AS INTEGER[]) < [1, 2];
"""
"""The head of the script of `init_script`."""
NAME = re.compile(r"[a-z_]+")
COMMENT = re.compile(r"--.*")
HELD = (
    *("name_changes", "sightings", "result_links", "checkpoint_facts", "current_checkpoints", "layer_summary", "models"),
    *("model_runs", "measure_keys", "run_measures", "model_measures"),
)
"""Views that several others use, or that take long to plan: DuckDB plans a view when it is made, and wherever it is used."""
COMPUTED_IN_EXPORTS = ("measure_keys", "run_measures")
"""Views that are tables in an exported database, as older versions of DuckDB plan them for minutes."""
MOST_HELD = 100_000
"""Checkpoints and result files up to which a session computes the views of HELD once: that takes less time than planning them
wherever they are used, and the rows fit into memory."""


class Session:
    """A DuckDB session over a warehouse that makes views on demand, as making all of them takes longer than most answers.

    Making a view reads no data, except for HELD: the views read the files that a session variable lists, and that lists files
    without rows while they are made. `as_of` hides all rows that were committed later. Cached answers (see answer_cache) are
    used unless `computes_all`. Raises WarehouseError.

    The session can reach the files of the warehouse and those below `folders` alone, and takes `memory` bytes at most. With
    `is_open` it can do whatever DuckDB can, for SQL of the user's own.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        as_of: datetime | None = None,
        computes_all: bool = False,
        is_open: bool = False,
        memory: int | None = None,
        folders: Sequence[Path] = (),
    ) -> None:
        self.snapshot = snapshot
        self._pair: PairRows | None = None
        self._as_of, self._is_open, self._memory, self._folders = as_of, is_open, memory or memory_limit(), folders
        require_plausible_sizes(snapshot)
        self._empty_files = {name: [path] for name, path in self.snapshot.empty_files().items()}
        self._unmade = view_statements(self.snapshot)
        self._held: list[str] = []
        self._is_small = self.snapshot.rows("checkpoints") + self.snapshot.rows("links") <= MOST_HELD
        if as_of is None and not computes_all and are_kept(files := answer_files(self.snapshot)):
            self._unmade |= kept_statements(files)

    def show_pair(self, pair: PairRows) -> Session:
        """Show the comparison of a pair in place of all that the warehouse has; called before anything is asked."""
        self._pair, self._unmade = pair, pair.replaced(self._unmade)
        return self

    @cached_property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The DuckDB connection, made when it is first needed."""
        connection = new_connection(memory=None if self._is_open else self._memory)
        with self._own_sql():
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_progress_bar = false")
            if self._as_of is not None:
                connection.execute("SET VARIABLE as_of = CAST(? AS TIMESTAMPTZ)", [self._as_of.isoformat()])
            if self._pair is not None:
                self._pair.add_to(connection)
            if not self._is_open:
                lock(connection, [self.snapshot.root, *self._folders])
        return connection

    def close(self) -> None:
        """Close the connection, if it was made."""
        if "connection" in vars(self):
            self.connection.close()

    def make(self, sql: str | None = None) -> duckdb.DuckDBPyConnection:
        """Make the views that some SQL needs, or all views if no SQL is given, and return the connection.

        For SQL the views of HELD are made as temporary tables, unless the warehouse is very large. They become views when all
        views are asked for.
        """
        while sql is None and self._held:
            self.connection.execute(f"DROP TABLE temp.{self._held.pop()}")
        holds = sql is not None and self._is_small
        for is_held, names in groupby(self._needed_by(sql), lambda name: holds and name in HELD):
            self._make([name for name in names if not (is_held and self._hold(name))])
        return self.connection

    def _hold(self, name: str) -> bool:
        """True if the view could be replaced by a table of its rows. Otherwise the answer reports the file that is damaged."""
        text = self._unmade[name].replace(f"CREATE OR REPLACE VIEW {name} AS", f"CREATE TEMP TABLE {name} AS")
        with suppress(duckdb.Error):
            self.connection.execute(text)
            self._held.append(name)
        return name in self._held

    def _make(self, names: list[str]) -> None:
        if not names:
            return
        with self._own_sql():
            self._list_files(self._empty_files)
            try:
                self.connection.execute("\n".join(self._unmade[name] for name in names))
            finally:
                self._list_files({name: self.snapshot.files(name) for name in TABLES})
        for name in names:
            del self._unmade[name]

    def _list_files(self, files: dict[str, list[str]]) -> None:
        self.connection.execute("SET VARIABLE files = ?", [files])

    def _needed_by(self, sql: str | None) -> list[str]:
        """The views still to be made that some SQL needs, even through others, in order; always stored tables and macros."""
        if sql is None:
            return [*self._unmade]
        needed, texts = {name for name in (*TABLES, MACROS) if name in self._unmade}, [sql]
        while texts:
            words = set(NAME.findall(texts.pop())) & self._unmade.keys() - needed - {*self._held}
            texts += [COMMENT.sub("", self._unmade[word]) for word in words]
            needed |= words
        return [name for name in self._unmade if name in needed]

    @contextmanager
    def _own_sql(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            list_commits(self.snapshot.root, verify=True).require_whole()
            raise WarehouseError(f"{self.snapshot.root}: {str(error).splitlines()[0]}") from None


def read_snapshot(root: Path, *, verify: bool = False, skip_damaged: bool = False) -> Snapshot:
    """The commits of a warehouse. With `verify` every data file is read and compared with its SHA-256.

    Raises WarehouseError, of which DamagedWarehouseError unless `skip_damaged` leaves out the commits that are damaged.
    """
    snapshot = list_commits(open_store(root), verify=verify)
    return snapshot if skip_damaged else snapshot.require_whole()


def connect(
    root: Path,
    *,
    as_of: datetime | None = None,
    computes_all: bool = False,
    asked: str | None = None,
    verify: bool = False,
    memory: int | None = None,
    folders: Sequence[Path] = (),
) -> tuple[duckdb.DuckDBPyConnection, Snapshot]:
    """Open a warehouse for reading, with all views or those that the SQL `asked` needs; see Session. Raises WarehouseError."""
    snapshot = read_snapshot(root, verify=verify)
    session = Session(snapshot, as_of=as_of, computes_all=computes_all or verify, memory=memory, folders=folders)
    return session.make(asked), session.snapshot


def keep_answers(root: Path) -> None:
    """Cache the answers that are expensive in a large warehouse (see answer_cache), unless they are cached already.

    It is called after every commit of results, links or removals; otherwise each session computes them. Raises WarehouseError.
    """
    if not are_kept(answer_files(read_snapshot(root))):
        connection, snapshot = connect(root, asked="model_measures", memory=512 << 20)
        with connection:
            write_kept(connection, answer_files(snapshot))


def answer_files(snapshot: Snapshot) -> dict[str, Path]:
    """The path of each cached answer by view, whether or not it exists; empty for a warehouse that is not large."""
    return kept_files(snapshot, "\n".join(view_statements(snapshot).values())) if is_large(snapshot) else {}


def init_script(root: Path, *, as_of: datetime | None = None, verify: bool = False) -> str:
    """SQL that gives any DuckDB session the tables and views of `connect`."""
    snapshot = read_snapshot(root, verify=verify)
    snapshot.empty_files()
    lines = [f"-- layerhouse warehouse {visible(str(snapshot.root))}", REFUSE_OLDER, "SET TimeZone = 'UTC';"]
    lists = []
    for name in TABLES:
        paths = ",\n        ".join(spelled_literal(path) for path in snapshot.files(name))
        lists.append(f"    {name}: [\n        {paths}\n    ]")
    lines.append("SET VARIABLE files = {{\n{}\n}};".format(",\n".join(lists)))
    if as_of is not None:
        lines.append(f"SET VARIABLE as_of = CAST({quote_literal(as_of.isoformat())} AS TIMESTAMPTZ);")
    lines.extend(view_statements(snapshot).values())
    return "\n".join(lines) + "\n"


def export_database(root: Path, target: Path, *, as_of: datetime | None = None, verify: bool = False) -> None:
    """Write a self-contained DuckDB database: the rows of the tables, and the views. Raises UsageError for an existing file."""
    if target.exists():
        raise UsageError(f"{target}: exists already; name a new file or remove it first")
    try:
        # DuckDB writes files beside a database too, so they are in a folder of their own.
        with tempfile.TemporaryDirectory(prefix=f".{target.name[:100]}.", dir=target.absolute().parent) as folder:
            database = Path(folder) / "exported.duckdb"
            connection, _ = connect(root, as_of=as_of, verify=verify, folders=[Path(folder)])
            with connection:
                connection.execute(f"ATTACH {quote_literal(str(database))} AS exported (STORAGE_VERSION 'v{OLDEST_DUCKDB}')")
                for name in TABLES:
                    connection.execute(f"CREATE TABLE exported.{name} AS SELECT * FROM {name}")
                connection.execute("DETACH exported")
            with duckdb.connect(database) as exported:
                for stem, statements in sql_files("warehouse.views").items():
                    name = stem.partition("_")[2]
                    is_computed = name in COMPUTED_IN_EXPORTS
                    view = f"CREATE OR REPLACE VIEW {name} AS"
                    exported.execute(statements.replace(view, f"CREATE TABLE {name} AS") if is_computed else statements)
            database.replace(target)
    except (duckdb.Error, OSError) as error:
        raise UsageError(f"{target}: cannot be written: {str(error).splitlines()[0]}") from None


def view_statements(snapshot: Snapshot) -> dict[str, str]:
    """The SQL that makes each view, by name and in order: stored tables, then macros and views in the order of their files."""
    is_by_name = not snapshot.are_columns_equal()
    tables = {
        table.name: _table_view(table, snapshot.absent_columns(table.name), is_by_name=is_by_name) for table in TABLES.values()
    }
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


def _table_view(table: Table, absent_columns: frozenset[str], *, is_by_name: bool) -> str:
    """A stored table as a view: the rows that were committed until `as_of`. A column that no file has yet is null; a table
    that no file has yet is empty.

    Of a fact that several commits hold, only the rows of the first commit, or of the newest if the table says so. Columns are
    matched `is_by_name` only where files differ in them, as DuckDB then opens every file for every view that reads the table.
    """
    if len(absent_columns) == len(table.columns):
        nulls = ",\n".join(f"    CAST(NULL AS {column.type}) AS {column.name}" for column in table.columns)
        return f"CREATE OR REPLACE VIEW {table.name} AS\nSELECT\n{nulls}\nWHERE FALSE;"
    by_name = "union_by_name = true, " if is_by_name else ""
    scan = f"read_parquet(getvariable('files').{table.name}, {by_name}hive_partitioning = false)"
    until = "ingested_at <= coalesce(getvariable('as_of'), CAST('infinity' AS TIMESTAMPTZ))"
    columns = ",\n".join(
        f"    CAST({'NULL' if column.name in absent_columns else f'rows.{column.name}'} AS {column.type}) AS {column.name}"
        if column.name in absent_columns or column.is_array
        else f"    rows.{column.name}"
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
