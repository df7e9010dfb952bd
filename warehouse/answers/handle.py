"""The warehouse in Python: every answer is a polars frame."""

from __future__ import annotations

from copy import copy
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.warehouse.answers.pair_rows import PairRows
from layerhouse.warehouse.answers.query import (
    MODEL_NAMES,
    asked_by,
    asked_by_user,
    model_names,
    own_sql,
    query_text,
    run_of_models,
    run_query,
    run_sql,
    the_model,
)
from layerhouse.warehouse.answers.reach import require_reading
from layerhouse.warehouse.answers.session import Session, parse_as_of, read_snapshot
from layerhouse.warehouse.storage.schema import TABLES, arrow_schema

if TYPE_CHECKING:
    import duckdb
    import polars as pl
    import pyarrow as pa

    from layerhouse.warehouse.answers.figures.kinds import FigureKeywords
    from layerhouse.warehouse.render.plots.plot import Plot
    from layerhouse.warehouse.storage.commits import Damage


FIRST_MODELS = """
SELECT
    model_id,
    method,
    base_model,
    params,
    reduction_ratio,
    prunable_sparsity,
    num_layers,
    strategy
FROM models
ORDER BY model_id
LIMIT 10
"""
COUNTS = """
SELECT
    (SELECT count(*) FROM models) AS num_models,
    (SELECT count(*) FROM current_checkpoints) AS num_structures,
    (SELECT count(*) FROM model_results) AS num_results
"""


class Warehouse:
    """A warehouse opened for reading, with the commits that it had then; `refresh()` adds later ones. A context manager.

    `as_of` shows it as it was at a time: a datetime, or text such as `2026-01-31`, which is the end of that day in UTC.
    `verify` reads every file and compares it with its SHA-256 first. Files that are damaged raise DamagedWarehouseError; with
    `skip_damaged` the answers are without their commits, and `damages` names them.
    """

    def __init__(
        self,
        path: str | Path = "layerhouse-data",
        *,
        as_of: datetime | str | None = None,
        verify: bool = False,
        skip_damaged: bool = False,
    ) -> None:
        self.path = Path(path).absolute()
        self._verify, self._skip_damaged = verify, skip_damaged
        self.as_of = parse_as_of(as_of) if isinstance(as_of, str) else as_of
        if self.as_of is not None and self.as_of.tzinfo is None:
            raise UsageError("as_of: a datetime without a zone; give it one, such as tzinfo=UTC")
        self.refresh()

    def at(self, moment: datetime | str) -> Self:
        """The same warehouse as it was at a time, opened in the same way."""
        return type(self)(self.path, as_of=moment, verify=self._verify, skip_damaged=self._skip_damaged)

    def with_pair(self, pair: PairRows) -> Self:
        """The same warehouse with one comparison, that of a pair, in place of all that are stored. Nothing is written."""
        shown = copy(self)
        shown._session = Session(self._snapshot, as_of=self.as_of, computes_all=self._verify).show(pair)
        shown._open_session = None
        return shown

    def refresh(self) -> None:
        """List the commits again."""
        self._snapshot = read_snapshot(self.path, verify=self._verify, skip_damaged=self._skip_damaged)
        self._session = Session(self._snapshot, as_of=self.as_of, computes_all=self._verify)
        self._open_session: Session | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows of it: where it is, how much it holds, and the first models."""
        from layerhouse.warehouse.render.overview import overview_html

        connection = self.connection_for(f"{FIRST_MODELS}\n{COUNTS}")
        with own_sql(connection):
            models = run_sql(connection, FIRST_MODELS)
            (counts,) = run_sql(connection, COUNTS).to_pylist()
        as_of = None if self.as_of is None else self.as_of.isoformat()
        return overview_html(str(self.path), as_of, [*counts.values()], models)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()
        if self._open_session is not None:
            self._open_session.close()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB session for SQL of your own, with every table and view. It can read and write files and attach databases."""
        return self._session_for_sql().make()

    def connection_for(self, sql: str | None = None) -> duckdb.DuckDBPyConnection:
        """The DuckDB session that gives all answers, with the views that some SQL needs, or all views.

        It reaches the files of the warehouse and no others.
        """
        return self._session.make(sql)

    @property
    def damages(self) -> tuple[Damage, ...]:
        """Why commits are left out, with `skip_damaged`: files that are damaged. Empty in a healthy warehouse."""
        return self._snapshot.damages

    def find_model(self, name: str, kind: str = "model") -> str:
        """The full name of a model, by its name or by an ending of it that no other name has, such as its last part.

        Raises NotFoundError, with this kind in the message, and UsageError for an ending of several names.
        """
        return the_model(model_names(self.connection_for(MODEL_NAMES)), name, kind)

    def models(self) -> pl.DataFrame:
        """One row a model: what it is now, compared with its base."""
        return self._of_model("SELECT * FROM models ORDER BY model_id", None)

    def layers(self, model: str | None = None) -> pl.DataFrame:
        """One row for every layer of a model (or of all) and every removed block of its base."""
        order = "model_id, stack, coalesce(base_layer_index, layer_index) NULLS LAST, layer_index NULLS LAST"
        return self._of_model(f"SELECT * FROM layer_pruning ORDER BY {order}", model)

    def tensors(self, model: str | None = None) -> pl.DataFrame:
        """One row a tensor of a model (or of all)."""
        return self._of_model(
            "SELECT model_id, tensors.* FROM tensors JOIN current_checkpoints USING (checkpoint_id) ORDER BY model_id, name",
            model,
        )

    def results(self, model: str | None = None) -> pl.DataFrame:
        """One row a measured value of a model (or of all): the newest run of each measure."""
        return self._of_model(
            "SELECT * FROM model_results ORDER BY model_id, harness, suite, task, subset, metric, measure_id",
            model,
        )

    def query(self, name: str, *, models: list[str] | tuple[str, ...] = (), by: str | None = None) -> pl.DataFrame:
        """A named query, such as `summary`; `models` are globs of the models to keep. Raises NotFoundError.

        `by` is what kept shares are counted in: params, nonzero, bytes or macs; without it the query chooses. Raises UsageError
        for another one, or a query without such shares.
        """
        connection = self.connection_for(asked_by(query_text(name), models))
        return _frame(run_query(connection, name, models, by=by))

    def plot(self, kind: str, *models: str, **options: Unpack[FigureKeywords]) -> Plot:
        """A figure, such as `wh.plot("heat")` or `wh.plot("layers", "HGSP_2000", measure="reduction")`.

        Kinds are layers, heat, roles, tradeoff, tasks, units, speed and spectra; `models` are names or globs. Options are
        those of `layerhouse plot`: measure, x, y, by, where, tasks, label, width, dark, language. Raises NotFoundError and
        UsageError.
        """
        from layerhouse.warehouse.answers.figures.kinds import figure_options, make_plot

        return make_plot(self, kind, models, figure_options(options))

    def since(self, earlier: datetime | str, *, models: list[str] | tuple[str, ...] = ()) -> pl.DataFrame:
        """One row a model: what it was at an earlier time, what it is now, and how it changed."""
        from layerhouse.warehouse.answers.dates import MODELS, summary_since

        with self.at(earlier) as before:
            return _frame(summary_since(before.connection_for(MODELS), self.connection_for(MODELS), models))

    def differences(self, other: Warehouse, *, models: list[str] | tuple[str, ...] = ()) -> pl.DataFrame:
        """One row for each difference of another warehouse from this one: models, structures, layers and scores."""
        return _frame(self.differences_table(other, models))

    def differences_table(self, other: Warehouse, models: list[str] | tuple[str, ...] = ()) -> pa.Table:
        """The same as an Arrow table."""
        from layerhouse.warehouse.answers.differences import asked_of_each, differences

        asked = asked_of_each()
        return differences(self.connection_for(asked), other.connection_for(asked), models)

    def sql(self, sql: str, *, safe: bool = False) -> pl.DataFrame:
        """The answer of SQL over all tables and views. Raises QueryError, and UsageError if two columns share a name.

        The SQL can do all that DuckDB can: read and write files, attach databases. With `safe`, anything but a SELECT over the
        tables and views is a QueryError, and nothing of it is run.
        """
        return _frame(self.run(sql, safe=safe))

    def run(self, sql: str, *, safe: bool = False) -> pa.Table:
        """The answer of `sql` as an Arrow table, in which two columns may share a name."""
        if safe:
            require_reading(sql)
            return run_sql(self.connection_for(asked_by_user(sql)), sql)
        return run_sql(self._session_for_sql().make(asked_by_user(sql)), sql)

    def _session_for_sql(self) -> Session:
        if self._open_session is None:
            self._open_session = Session(self._snapshot, as_of=self.as_of, computes_all=self._verify, is_open=True)
        return self._open_session

    def scan(self, table: str) -> pl.LazyFrame:
        """A stored table as a polars LazyFrame over its Parquet files, with the same rows as in SQL. Raises NotFoundError."""
        import polars as pl

        if table not in TABLES:
            raise NotFoundError("table", table, tuple(TABLES))
        empty = _frame(arrow_schema(table).empty_table())
        rows = pl.scan_parquet(
            self._snapshot.files(table),
            schema=empty.schema,
            glob=False,
            hive_partitioning=False,
            missing_columns="insert",
            extra_columns="ignore",
        )
        if self.as_of is not None:
            rows = rows.filter(pl.col("ingested_at") <= self.as_of)
        keys = [*TABLES[table].fact_key]
        if keys:
            commits = pl.col("commit_id")
            chosen = rows.group_by(keys).agg(commits.max() if TABLES[table].is_newest_shown else commits.min())
            rows = rows.join(chosen, on=[*keys, "commit_id"], how="semi")
        return rows

    def report(
        self, output: str | Path, *, models: list[str] | tuple[str, ...] = (), title: str | None = None, language: str = "en"
    ) -> None:
        """Write a report of the models that match a glob (or all) as one HTML file, which needs no network and no other file.

        `title` is its heading, by default the name of the warehouse's folder; `language` is that of the headings, `en` or `zh`.
        Raises UsageError if the name does not end in .html, the file cannot be written, or the warehouse has no models, and
        NotFoundError for a glob that no model matches.
        """
        from layerhouse.warehouse.answers.report import asked_of_report, report_content
        from layerhouse.warehouse.render.report.page import report_page, require_page_name
        from layerhouse.warehouse.render.target import write_file

        target = Path(output)
        require_page_name(target)
        content = report_content(self.connection_for(asked_of_report()), models)
        write_file(target, report_page(content, title or f"Models of {self.path.name}", language).encode())

    def _of_model(self, sql: str, model: str | None) -> pl.DataFrame:
        models = () if model is None else (model,)
        return _frame(run_of_models(self.connection_for(asked_by(sql, models)), sql, models))


def _frame(table: pa.Table) -> pl.DataFrame:
    import polars as pl

    from layerhouse.warehouse.render.values import refuse_repeated_names

    refuse_repeated_names(table.column_names, "a polars frame")
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
