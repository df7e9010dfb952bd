"""Named queries and SQL over a warehouse; the answers are Arrow tables."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from layerhouse.errors import (
    LISTED,
    DamagedWarehouseError,
    NotFoundError,
    QueryError,
    UsageError,
    WarehouseError,
)
from layerhouse.vocabulary import KeptBy
from layerhouse.warehouse.answers.kept.files import damaged_answers
from layerhouse.warehouse.answers.sql_text import quote_literal, sql_files
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.own_files import KEPT

if TYPE_CHECKING:
    import pyarrow as pa

MODEL_COLUMN = "model_id"
NO_MODELS = "this table has no model_id, so --model cannot filter it"
ERRORS_OF_SQL = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.SyntaxException)
"""Errors in the SQL itself, whatever the files hold."""
KEPT_BY = "kept_by"
"""The session variable that the macro kept_measure reads, and the column that says what the kept shares are counted in."""
MODEL_NAMES = "SELECT model_id FROM model_names ORDER BY model_id"
_WORD = re.compile(r"[a-z_]+")
_LISTING_WORDS = frozenset(
    {"show", "describe", "desc", "summarize", "pragma", "query", "query_table", "information_schema", "main", "memory", "temp"}
)
_LISTING_PREFIXES = ("duckdb_", "pg_", "pragma_", "sqlite_")
"""Words of SQL that may list views, or read views whose names it does not spell."""
MOST_LISTED = 100
"""Names up to which a condition lists them, so that DuckDB looks them up in the files' statistics."""


@contextmanager
def own_sql(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """A context manager for SQL of layerhouse itself: if it fails, a file cannot be read.

    Raises WarehouseError, of which DamagedWarehouseError, which names the files, where some are not as they were committed.
    """
    try:
        yield
    except (duckdb.Error, QueryError) as error:
        _raise_damage(connection)
        raise WarehouseError(f"the warehouse cannot be read: {str(error).splitlines()[0]}") from None


def run_sql(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """Run SQL and return the answer of its last statement.

    Raises QueryError with DuckDB's message, or DamagedWarehouseError if it failed because files are damaged. A sum of BIGINT is
    HUGEINT in DuckDB; it is returned as int64 if it fits, so that counts stay exact integers.
    """
    try:
        relation = connection.sql(sql)
        if relation is None:
            raise QueryError("the SQL gives no rows; end it with a SELECT")
        return _with_exact_integers(relation.to_arrow_table())
    except duckdb.Error as error:
        if not isinstance(error, ERRORS_OF_SQL):
            _raise_damage(connection)
        raise QueryError(str(error)) from None


def _raise_damage(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise DamagedWarehouseError if files of the session's warehouse are not as they were written; reads all of them."""
    with suppress(duckdb.Error):
        row = connection.execute("SELECT getvariable('files')").fetchone()
        paths = [path for files in (row[0] or {}).values() for path in files] if row else []
        if not paths:
            return
        root = Path(paths[0]).parent.parent
        list_commits(root, verify=True).require_whole()
        if faults := [f"{KEPT}/{path.name}: {what}" for path, what in damaged_answers(root / KEPT)]:
            raise DamagedWarehouseError(str(root), faults)


def query_names() -> tuple[str, ...]:
    return tuple(sql_files("queries"))


def query_text(name: str) -> str:
    """The SQL of a query file; raises NotFoundError."""
    if name not in query_names():
        raise NotFoundError("query", name, query_names())
    return sql_files("queries")[name]


def asked_by(sql: str, models: Sequence[str] = ()) -> str:
    """All SQL that answering some SQL takes, including what looks up `models`: what a session has to make views for."""
    return f"{sql}\n{MODEL_NAMES}" if models else sql


def asked_by_user(sql: str) -> str | None:
    """What a session has to make views for so that it can run SQL of a user; None for all of them.

    Any word may be the name of a view, in letters of either case. SQL that lists views, names the schema of one, has names that
    are made up while it runs, or does anything but read, takes all.
    """
    words = {*_WORD.findall(sql.lower())}
    is_open_ended = (
        not _only_reads(sql)
        or any(word in _LISTING_WORDS or word.startswith(_LISTING_PREFIXES) for word in words)
        or "u&" in sql.lower()
    )
    return None if is_open_ended else " ".join(sorted(words))


def _only_reads(sql: str) -> bool:
    """Whether SQL is nothing but SELECTs, and COPYs of them into files."""
    try:
        kinds = {statement.type for statement in duckdb.extract_statements(sql)}
    except duckdb.Error:
        return True  # it will not run
    return kinds <= {duckdb.StatementType.SELECT, duckdb.StatementType.COPY}


def query_list() -> pa.Table:
    """Every query and its description."""
    import pyarrow as pa

    texts = [" ".join(_head_comment(sql)) for sql in sql_files("queries").values()]
    return pa.table({"name": pa.array(query_names(), pa.string()), "description": pa.array(texts, pa.string())})


def _head_comment(sql: str) -> Iterator[str]:
    for line in sql.splitlines():
        if not line.startswith("--"):
            return
        yield line.removeprefix("--").strip()


def run_query(
    connection: duckdb.DuckDBPyConnection, name: str, models: Sequence[str] = (), *, by: str | None = None
) -> pa.Table:
    """Run a query by name. `models` are names or globs of the models to keep; `by` is what kept shares are counted in.

    Raises NotFoundError for an unknown query, or a glob that no model of the warehouse matches; UsageError for a measure that
    is not of KeptBy, or with a query that shows no kept shares.
    """
    sql = query_text(name)
    if by is not None and "kept_measure(" not in sql:
        measured = [other for other in query_names() if "kept_measure(" in query_text(other)]
        raise UsageError(f"--by is for queries that show what is kept: {', '.join(measured)}")
    with counted_by(connection, by):
        return run_of_models(connection, sql, models)


def run_of_models(connection: duckdb.DuckDBPyConnection, sql: str, models: Sequence[str] = ()) -> pa.Table:
    """The answer of layerhouse's own SQL: all rows, or those of the models that are named or match a glob.

    The condition is part of the SQL, so that no other rows are computed. Raises NotFoundError for a name or glob that no model
    has, and UsageError for an ending of several names or a table without models.
    """
    if not models:
        with own_sql(connection):
            return run_sql(connection, sql)
    names = chosen_models(connection, models)
    with own_sql(connection):
        if MODEL_COLUMN not in connection.sql(sql).columns:
            raise UsageError(NO_MODELS)
        return run_sql(connection, sql if names is None else _of_models(sql, names))


def chosen_models(connection: duckdb.DuckDBPyConnection, globs: Sequence[str]) -> list[str] | None:
    """The models that are named or match a glob (see matching_models), in order; None for all of them."""
    listed = ", ".join(map(quote_literal, globs))
    with own_sql(connection):
        rows = connection.execute(f"SELECT model_id FROM model_names WHERE model_id IN ({listed})").fetchall()
    if len(rows) == len({*globs}):
        return sorted(name for (name,) in rows)
    names = model_names(connection)
    kept = set().union(*(matching_models(names, glob) for glob in globs))
    return None if len(kept) == len(names) else sorted(kept)


def _of_models(sql: str, names: Sequence[str]) -> str:
    """A SELECT with the condition that a row is of one of some models; its order stays."""
    select = f"SELECT * FROM (\n{sql.strip().removesuffix(';')}\n)"
    listed = ", ".join(map(quote_literal, names))
    if len(names) > MOST_LISTED:
        return f"{select} WHERE {MODEL_COLUMN} IN (SELECT unnest([{listed}]))"
    return f"{select} WHERE {MODEL_COLUMN} {f'= {listed}' if len(names) == 1 else f'IN ({listed})'}"


@contextmanager
def counted_by(connection: duckdb.DuckDBPyConnection, measure: str | None) -> Iterator[None]:
    """A context manager in which queries count kept shares in a measure; None leaves it to their rule. Raises UsageError."""
    if measure is None:
        yield
        return
    if measure not in [*KeptBy]:
        raise UsageError(f"--by {measure}: choose one of {', '.join(KeptBy)}")
    connection.execute(f"SET VARIABLE {KEPT_BY} = ?", [measure])
    try:
        yield
    finally:
        connection.execute(f"RESET VARIABLE {KEPT_BY}")


def matching_models(names: Collection[str], text: str) -> set[str]:
    """The model of this name, else those that match a glob, else the one whose name ends in `/` and the text.

    Raises NotFoundError if there is none, and UsageError if several names have that ending.
    """
    if text in names:
        return {text}
    return {name for name in names if fnmatch.fnmatchcase(name, text)} or {the_model(names, text)}


def the_model(names: Collection[str], text: str, kind: str = "model") -> str:
    """The model of this name, else the one whose name ends in `/` and the text; a glob names no single model.

    Raises NotFoundError if there is none, of this kind in the message, and UsageError if several names have that ending.
    """
    if text in names:
        return text
    found = sorted(name for name in names if text and name.endswith(f"/{text}"))
    if not found:
        raise NotFoundError(kind, text, tuple(names))
    if len(found) > 1:
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise UsageError(f"{len(found)} models have names that end in {text!r}: {', '.join(found[:LISTED])}{more}; name one")
    return found[0]


def keep_models(table: pa.Table, names: Collection[str], globs: Sequence[str]) -> pa.Table:
    """The rows whose model is named in `globs` or matches one; `names` are all models. See matching_models."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if MODEL_COLUMN not in table.column_names:
        raise UsageError(NO_MODELS)
    kept = set().union(*(matching_models(names, glob) for glob in globs))
    return table.filter(pc.is_in(table[MODEL_COLUMN], pa.array(sorted(kept), pa.string())))


STUDY_ROWS = (
    "SELECT * FROM models ORDER BY model_id",
    "SELECT * FROM layer_pruning ORDER BY model_id, base_layer_index NULLS LAST, layer_index NULLS LAST",
)
STUDY_SQL = "\n".join((*STUDY_ROWS, MODEL_NAMES))
"""All SQL of study_rows."""


def study_rows(
    connection: duckdb.DuckDBPyConnection, models: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the views models and layer_pruning, as the summary in the study's form needs them."""
    models_rows, layer_rows = (run_of_models(connection, sql, models).to_pylist() for sql in STUDY_ROWS)
    return models_rows, layer_rows


def model_names(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    with own_sql(connection):
        return tuple(row[0] for row in connection.execute(MODEL_NAMES).fetchall())


def _with_exact_integers(table: pa.Table) -> pa.Table:
    """The table with HUGEINT columns (decimals of 38 digits, none after the point) as int64, if every value fits."""
    import pyarrow as pa

    for position, column in enumerate(table.schema):
        if column.type == pa.decimal128(38, 0):
            try:
                table = table.set_column(position, column.name, table.column(position).cast(pa.int64()))
            except pa.ArrowInvalid:
                continue
    return table
