"""An in-memory DuckDB session over the files of a warehouse: there is no database file, so none to lock or update."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Protocol

import duckdb

from layerhouse.errors import UsageError, WarehouseError
from layerhouse.escapes import visible
from layerhouse.warehouse.answers.kept.files import Kept, find_kept, pin
from layerhouse.warehouse.answers.kept.states import answers_of
from layerhouse.warehouse.answers.reach import lock, memory_limit, new_connection, require_plausible_sizes
from layerhouse.warehouse.answers.sql_text import quote_literal, spelled_literal, sql_files
from layerhouse.warehouse.answers.view_texts import MACROS, mentioned, reading_kept, view_statements
from layerhouse.warehouse.storage.commits import Snapshot, list_commits
from layerhouse.warehouse.storage.own_files import KEPT
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.store import open_store

OLDEST_DUCKDB = "1.2.0"
"""The oldest version of DuckDB that opens an exported database and runs the script of `init_script`."""
REFUSE_OLDER = f"""-- Needs DuckDB {OLDEST_DUCKDB} or later.
SELECT error('this script needs DuckDB {OLDEST_DUCKDB} or later, and this is ' || version())
WHERE TRY_CAST(string_split(regexp_extract(version(), '[0-9]+[.][0-9]+'), '.') AS INTEGER[]) < [1, 2];
"""
"""The head of the script of `init_script`."""
HELD = (
    *("name_changes", "sightings", "result_links", "checkpoint_facts", "current_checkpoints"),
    *("pair_layers", "pair_summary", "layer_summary", "models"),
    *("model_runs", "measure_keys", "run_values", "model_measures"),
)
"""Views that several others use, or that take long to plan: DuckDB plans a view when it is made, and wherever it is used."""
COMPUTED_IN_EXPORTS = ("checkpoint_facts", "current_checkpoints", "pair_layers", "pair_summary", "measure_keys", "run_values")
"""Views that are tables in an exported database, as older versions of DuckDB plan them for minutes."""
MOST_HELD = 100_000
"""Checkpoints and result files up to which a session computes the views of HELD once: that takes less time than planning them
wherever they are used, and the rows fit into memory."""


class Shown(Protocol):
    """Rows that a session shows in place of those of the warehouse."""

    @property
    def tables(self) -> Sequence[str]:
        """The stored tables of which other rows are shown: kept answers that follow from them are not used."""

    @property
    def files(self) -> Mapping[str, Sequence[str]]:
        """By table, the files that are read, where these are not all."""

    @property
    def held(self) -> Sequence[str]:
        """Views besides HELD whose rows are computed once."""

    def add_to(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Put rows into temporary tables of a session."""

    def replaced(self, statements: Mapping[str, str]) -> dict[str, str]:
        """The statements that make views, some of them others."""


class Session:
    """A DuckDB session over a warehouse that makes views on demand, as making all of them takes longer than most answers.

    Making a view reads no data, except for HELD: the views read the files that a session variable lists, and that lists files
    without rows while they are made. `as_of` hides all rows that were committed later. Kept answers (see kept.states) are used
    unless `computes_all`. Raises WarehouseError.

    The session can reach the files of the warehouse and those below `folders` alone, and takes `memory` bytes at most. With
    `is_open` it can do whatever DuckDB can, for SQL of the user's own.
    """

    threads: int | None = None
    """Threads that DuckDB uses; None for one on each core."""
    always_made: Sequence[str] = (*TABLES, MACROS)
    """What is made for any SQL, whether or not it names it."""

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
        self._shown: Shown | None = None
        self._as_of, self._is_open, self._memory, self._folders = as_of, is_open, memory or memory_limit(), folders
        require_plausible_sizes(snapshot)
        self._empty_files = {name: [path] for name, path in self.snapshot.empty_files().items()}
        self._files = self.snapshot.files_to_read()
        self._statements = view_statements(self.snapshot)
        self._held: list[str] = []
        self._is_small = self.snapshot.rows("checkpoints") + self.snapshot.rows("links") <= MOST_HELD
        self._kept = {} if as_of is not None or computes_all else kept_answers(self.snapshot, self._statements)
        self._unmade = self._reading_kept()

    def show(self, shown: Shown) -> Session:
        """Show other rows than those of the warehouse, and than those that were shown before."""
        self._drop_held()
        answers = answers_of(self.snapshot, self._statements)
        self._kept = {view: kept for view, kept in self._kept.items() if not answers[view].state.files.keys() & {*shown.tables}}
        self._unmade = shown.replaced(self._reading_kept())
        self._shown = shown
        if "connection" in vars(self):
            self._show_rows(self.connection)
        return self

    def _reading_kept(self) -> dict[str, str]:
        """The statements that make views, of which those that are kept read the rows that are there."""
        return reading_answers(self._statements, self._kept)

    def read_kept(self, kept: Kept) -> None:
        """Read a view's rows, from now on, from the answer that was written."""
        self._drop_held(kept.view)
        self._kept[kept.view] = kept
        self._unmade[kept.view] = kept.statement

    @cached_property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The DuckDB connection, made when it is first needed."""
        connection = new_connection(memory=None if self._is_open else self._memory)
        with self._own_sql():
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_progress_bar = false")
            if self.threads is not None:
                connection.execute(f"SET threads = {self.threads}")
            if self._as_of is not None:
                connection.execute("SET VARIABLE as_of = CAST(? AS TIMESTAMPTZ)", [self._as_of.isoformat()])
            connection.execute("SET VARIABLE rowless_files = ?", [self._empty_files])
            self._show_rows(connection)
            if not self._is_open:
                lock(connection, [self.snapshot.root, *self._folders])
        return connection

    def _show_rows(self, connection: duckdb.DuckDBPyConnection) -> None:
        files = self._files
        if self._shown is not None:
            files = files | {name: [*some] or self._empty_files[name] for name, some in self._shown.files.items()}
            self._shown.add_to(connection)
        connection.execute("SET VARIABLE stored_files = ?", [files])
        connection.execute("SET VARIABLE files = getvariable('stored_files')")

    def close(self) -> None:
        """Close the connection, if it was made."""
        if "connection" in vars(self):
            self.connection.close()

    def make(self, sql: str | None = None) -> duckdb.DuckDBPyConnection:
        """Make the views that some SQL needs, or all views if no SQL is given, and return the connection.

        For SQL the views of HELD are made as temporary tables, unless their rows are kept or the warehouse is very large. They
        become views when all views are asked for.
        """
        self._compute_what_is_gone()
        if sql is None:
            self._drop_held()
        holds = sql is not None and self._is_small
        held = {*HELD} - self._kept.keys() | {*(self._shown.held if self._shown else ())} if holds else set()
        for is_held, names in groupby(self._needed_by(sql), held.__contains__):
            self._make([name for name in names if not (is_held and self._hold(name))])
        return self.connection

    @property
    def gone(self) -> list[str]:
        """The views whose rows were kept when the session began, and were replaced and deleted since."""
        return [view for view, kept in self._kept.items() if not all(path.exists() for path in kept.paths)]

    def _compute_what_is_gone(self) -> None:
        gone = self.gone
        for view in gone:
            del self._kept[view]
            self._unmade[view] = self._statements[view]
        if gone:
            self._make(self._needed_by(" ".join(gone)))

    def _drop_held(self, *names: str) -> None:
        """Drop the tables in place of some views, or of all of them."""
        for name in [name for name in self._held if name in names or not names]:
            self.connection.execute(f"DROP TABLE temp.{name}")
            self._held.remove(name)

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
            self.connection.execute("SET VARIABLE files = getvariable('rowless_files')")
            try:
                self.connection.execute("\n".join(self._unmade[name] for name in names))
            finally:
                self.connection.execute("SET VARIABLE files = getvariable('stored_files')")
        for name in names:
            del self._unmade[name]

    def _needed_by(self, sql: str | None) -> list[str]:
        """The views still to be made that some SQL needs, even through others, in order, and those that are always made."""
        if sql is None:
            return [*self._unmade]
        needed, texts = {name for name in self.always_made if name in self._unmade}, [sql]
        while texts:
            words = mentioned(texts.pop(), self._unmade) - needed - {*self._held}
            texts += [self._unmade[word] for word in words - self._kept.keys()]
            needed |= words
        return [name for name in self._statements if name in needed]

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


def kept_answers(snapshot: Snapshot, statements: Mapping[str, str]) -> dict[str, Kept]:
    """The answers that are there for the snapshot, by view. `statements` are what makes the views."""
    found = {view: find_kept(answer) for view, answer in answers_of(snapshot, statements).items()}
    return {view: kept for view, kept in found.items() if kept is not None}


def reading_answers(statements: Mapping[str, str], kept: Mapping[str, Kept]) -> dict[str, str]:
    """Statements that make views, of which those that are kept read the rows that are there, and the others these views."""
    return {view: kept[view].statement if view in kept else reading_kept(text, kept) for view, text in statements.items()}


def init_script(root: Path, *, as_of: datetime | None = None, verify: bool = False) -> str:
    """SQL that gives any DuckDB session the tables and views of `connect`. The kept answers that it names are pinned.

    The views are made while `files` lists files without rows, as DuckDB opens the files of a view wherever it is used.
    """
    snapshot = read_snapshot(root, verify=verify)
    empty = {name: [path] for name, path in snapshot.empty_files().items()}
    statements = view_statements(snapshot)
    if as_of is None and not verify:
        statements = reading_answers(statements, _pinned_answers(snapshot, statements))
    lines = [f"-- layerhouse warehouse {visible(str(snapshot.root))}", REFUSE_OLDER, "SET TimeZone = 'UTC';", _listing(empty)]
    lines.extend(statements.values())
    lines.append(_listing({name: snapshot.files(name) for name in TABLES}))
    if as_of is not None:
        lines.append(f"SET VARIABLE as_of = CAST({quote_literal(as_of.isoformat())} AS TIMESTAMPTZ);")
    return "\n".join(lines) + "\n"


def _listing(files: Mapping[str, Sequence[str]]) -> str:
    """The SQL that sets the variable `files`."""
    lists = []
    for name in TABLES:
        paths = ",\n        ".join(spelled_literal(path) for path in files.get(name, ()))
        lists.append(f"    {name}: [\n        {paths}\n    ]")
    return "SET VARIABLE files = {{\n{}\n}};".format(",\n".join(lists))


def _pinned_answers(snapshot: Snapshot, statements: Mapping[str, str]) -> dict[str, Kept]:
    """The kept answers, which stay from now on; none where that cannot be written down."""
    answers = kept_answers(snapshot, statements)
    try:
        if answers:
            pin(snapshot.root / KEPT, [path for kept in answers.values() for path in kept.paths])
    except OSError:
        return {}
    return answers


def export_database(root: Path, target: Path, *, as_of: datetime | None = None, verify: bool = False) -> None:
    """Write a self-contained DuckDB database: the rows of the tables, and the views. Raises UsageError for an existing file."""
    if target.exists():
        raise UsageError(f"{target}: exists already; name a new file or remove it first")
    try:
        # DuckDB writes files beside a database too, so they are in a folder of their own.
        with tempfile.TemporaryDirectory(prefix=f".{target.name[:100]}.", dir=target.absolute().parent) as folder:
            database = Path(folder) / "exported.duckdb"
            connection, _ = connect(root, as_of=as_of, asked="", verify=verify, folders=[Path(folder)])
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


def parse_as_of(text: str) -> datetime:
    """A time such as `2026-01-31` (its end, UTC) or `2026-01-31T12:00` (UTC unless it names a zone). Raises UsageError."""
    try:
        moment = datetime.fromisoformat(text)
        if len(text) <= 10:
            moment = moment.replace(hour=23, minute=59, second=59, microsecond=999999)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"--as-of {text!r}: not a time; write 2026-01-31 or 2026-01-31T12:00:00") from None
