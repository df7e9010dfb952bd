"""Writes the answers that a large warehouse keeps, after a commit: each whole, or from an earlier one and what came since.

Rows of a checkpoint follow from its own rows and those of its base alone. So of these views only the rows of checkpoints are
computed that a later file names, or that have another base now; the same for the results of a model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from layerhouse.warehouse.answers.kept.files import earlier_answer, is_kept, remove_old, write_answer
from layerhouse.warehouse.answers.kept.states import Answer, answers_of
from layerhouse.warehouse.answers.session import Session, read_snapshot
from layerhouse.warehouse.answers.sql_text import quote_literal
from layerhouse.warehouse.answers.view_texts import view_statements
from layerhouse.warehouse.storage.commits import Snapshot
from layerhouse.warehouse.storage.own_files import KEPT
from layerhouse.warehouse.storage.schema import TABLES

if TYPE_CHECKING:
    import pyarrow as pa

MEMORY = 512 << 20
"""Bytes of memory that computing an answer takes at most; then it uses temporary files."""
MOST_CHANGED = 0.3
"""Share of the rows up to which an answer is written from an earlier one; of more, computing all of them takes less."""
CHANGED_CHECKPOINTS = """
WITH present AS (
    SELECT
        checkpoint_id,
        base_checkpoint_id
    FROM checkpoint_facts
),
earlier AS (
    SELECT DISTINCT
        checkpoint_id,
        base_checkpoint_id
    FROM {earlier}
),
later AS (
    {later}
)
SELECT
    present.checkpoint_id AS id,
    present.base_checkpoint_id AS base_id
FROM present
LEFT JOIN earlier
    ON earlier.checkpoint_id = present.checkpoint_id
    AND earlier.base_checkpoint_id IS NOT DISTINCT FROM present.base_checkpoint_id
WHERE
    earlier.checkpoint_id IS NULL
    OR present.checkpoint_id IN (SELECT id FROM later)
    OR present.base_checkpoint_id IN (SELECT id FROM later)
"""
"""Checkpoints with another base, and those of which, or of whose base, layers or their places were written later."""
COMPARED_CHECKPOINTS = """
SELECT DISTINCT
    id,
    CAST(NULL AS VARCHAR) AS base_id
FROM (
    {later}
)
"""
"""Checkpoints of whose tensors something was written later."""
CHANGED_MODELS = """
WITH later AS (
    {later}
),
found AS (
    SELECT coalesce(name_changes.new_model_id, links.model_id) AS id
    FROM links
    LEFT JOIN name_changes
        ON name_changes.model_id = links.model_id
        AND name_changes.commit_id = links.commit_id
    WHERE links.result_id IN (SELECT id FROM later)
    UNION
    {renamed}
)
SELECT
    id,
    CAST(NULL AS VARCHAR) AS base_id
FROM found
WHERE id IS NOT NULL
"""
"""Models that some result written later, or linked later, belongs to or belonged to, and those dropped or renamed later."""


@dataclass(frozen=True)
class _Increment:
    """How a view is written from an earlier answer.

    `changed` is the SQL of what changed since, over the views `asked`: ids that the column `key` has, and those of bases; it
    reads `id_column` of the later files of `tables`. `only` has, for what the view stands on, the condition that leaves the
    rows of these ids, for which it has `{ids}` or `{ids_and_bases}`.
    """

    key: str
    changed: str
    asked: str
    id_column: str
    tables: tuple[str, ...]
    only: Mapping[str, str]


_OWN = "checkpoint_id IN ({ids})"
_OWN_OR_BASE = "checkpoint_id IN ({ids_and_bases})"
MOST_LISTED = 1_000
"""Ids up to which a condition lists them, so that DuckDB looks them up in the files' statistics."""
_BY_CHECKPOINT = ("checkpoint_id", CHANGED_CHECKPOINTS, "checkpoint_facts", "checkpoint_id", ("layers", "layer_matches"))
INCREMENTS = {
    "pair_layers": _Increment(*_BY_CHECKPOINT, {"layers": _OWN_OR_BASE, "layer_matches": _OWN, "checkpoint_facts": _OWN}),
    "pair_summary": _Increment(*_BY_CHECKPOINT, {"pair_layers": _OWN}),
    "checkpoint_changes": _Increment(
        "checkpoint_id",
        COMPARED_CHECKPOINTS,
        "",
        "checkpoint_id",
        ("tensor_matches", "layer_matches", "tensors"),
        {"tensor_matches": _OWN, "layer_matches": _OWN, "tensors": _OWN},
    ),
    "model_results": _Increment(
        "model_id",
        CHANGED_MODELS,
        "links name_changes",
        "result_id",
        ("results", "links"),
        {"model_runs": "model_id IN ({ids})"},
    ),
}


class _SparingSession(Session):
    """A session of one thread: several take more CPU time in all, and hardly less time, as most of the work is writing."""

    threads = 1


def keep_answers(root: Path) -> None:
    """Write the answers that are expensive in a large warehouse, unless they are there already.

    It is called after every commit; otherwise each session computes them. A failure costs only time, so it is passed over.
    Raises WarehouseError where the warehouse itself cannot be read.
    """
    snapshot = read_snapshot(root)
    answers = answers_of(snapshot, view_statements(snapshot))
    missing = [answer for answer in answers.values() if not is_kept(answer)]
    if not missing:
        return
    with contextlib.suppress(OSError, duckdb.Error), contextlib.closing(_SparingSession(snapshot, memory=MEMORY)) as session:
        for _, group in groupby(missing, _kind):
            together = [*group]
            is_written = _write_from_earlier(snapshot, session, together)
            for answer in together:
                if not is_written:
                    write_answer(session.make(f"SELECT * FROM {answer.view}"), answer, f"SELECT * FROM {answer.view}")
                session.read_kept(answer)
        present = [path for answer in answers.values() for path in (answer.path, answer.record)]
        remove_old(snapshot.root / KEPT, present)


def _kind(answer: Answer) -> str:
    """What answers have in common that are written together: the key of their increments, else each its own view."""
    return INCREMENTS[answer.view].key if answer.view in INCREMENTS else answer.view


def _write_from_earlier(snapshot: Snapshot, session: Session, answers: Sequence[Answer]) -> bool:
    """Write answers of one key from earlier ones, if there are some, and few rows changed since."""
    increments = [INCREMENTS[answer.view] for answer in answers if answer.view in INCREMENTS]
    earlier = [found for answer in answers[: len(increments)] if (found := earlier_answer(answer)) is not None]
    if not increments or len(earlier) < len(answers):
        return False
    wholes = [f"read_parquet({quote_literal(str(path))}, hive_partitioning = false)" for path, _ in earlier]
    only = {name: condition for increment in increments for name, condition in increment.only.items()}
    try:
        by_view = [
            _changed(snapshot, session, increment, whole, later)
            for increment, whole, (_, later) in zip(increments, wholes, earlier, strict=True)
        ]
        changed = [ids for ids in by_view if ids is not None]
        if len(changed) < len(answers):
            return False
        with contextlib.closing(
            _SparingSession(snapshot, memory=MEMORY).show(_Changed(snapshot, _united(changed), only))
        ) as few:
            connection = few.make(" ".join(answer.view for answer in answers))
            for answer, increment, whole in zip(answers, increments, wholes, strict=True):
                kept = f"SELECT * FROM {whole} WHERE {increment.key} NOT IN (SELECT id FROM temp.changed)"
                write_answer(connection, answer, f"{kept} UNION ALL SELECT * FROM {answer.view}", is_ordered=True)
    except duckdb.Error:
        return False
    return True


def _united(changed: Sequence[pa.Table]) -> pa.Table:
    """All ids, with their bases where one of the tables has them."""
    import pyarrow as pa

    bases: dict[str, str | None] = {}
    for ids in changed:
        for row in ids.to_pylist():
            bases[row["id"]] = row["base_id"] or bases.get(row["id"])
    return pa.table({"id": pa.array([*bases], pa.string()), "base_id": pa.array([*bases.values()], pa.string())})


def _changed(
    snapshot: Snapshot, session: Session, increment: _Increment, whole: str, later: Mapping[str, Sequence[str]]
) -> pa.Table | None:
    """The ids of what changed, and of their bases; None where so much did that all is computed."""
    files = {table: [str(snapshot.root / table / name) for name in names] for table, names in later.items()}
    sql = increment.changed.format(
        earlier=whole,
        later=_select_ids(increment.id_column, [file for table in increment.tables for file in files.get(table, ())]),
        renamed=_select_ids("unnest([model_id, new_model_id])", files.get("removals", ())),
    )
    connection = session.make(increment.asked)
    changed = connection.sql(sql).to_arrow_table()
    ((count,),) = connection.execute(f"SELECT count(DISTINCT {increment.key}) FROM {whole}").fetchall()
    return None if changed.num_rows > MOST_CHANGED * count else changed


def _select_ids(column: str, files: Sequence[str]) -> str:
    """A SELECT of the ids that some files have in a column."""
    paths = ", ".join(map(quote_literal, files))
    source = f"FROM read_parquet([{paths}], hive_partitioning = false)" if files else "WHERE FALSE"
    return f"SELECT {column if files else 'CAST(NULL AS VARCHAR)'} AS id {source}"


@dataclass(frozen=True)
class _Changed:
    """Shows a session, of what a view stands on, the rows of some ids alone. See Session.show."""

    snapshot: Snapshot
    ids: pa.Table
    only: Mapping[str, str]

    @property
    def tables(self) -> Sequence[str]:
        """None, as what is kept of all rows holds for these."""
        return ()

    @property
    def held(self) -> Sequence[str]:
        """What shows the rows of the ids alone: it is read once."""
        return [*self.only]

    def add_to(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Put the ids into a temporary table."""
        connection.register("changed_ids", self.ids)
        connection.execute("CREATE TEMP TABLE changed AS SELECT * FROM changed_ids")
        connection.unregister("changed_ids")

    def replaced(self, statements: Mapping[str, str]) -> dict[str, str]:
        """The statements that make views, of which those in `only` show the rows of the ids."""
        lists = {"ids": self._listed("id"), "ids_and_bases": f"{self._listed('id')}, {self._listed('base_id')}"}
        if self.ids.num_rows > MOST_LISTED:
            ids = "SELECT id FROM temp.changed"
            lists = {"ids": ids, "ids_and_bases": f"{ids} UNION ALL SELECT base_id FROM temp.changed"}
        only = {name: condition.format(**lists) for name, condition in self.only.items()}
        of_tables = view_statements(self.snapshot, only)
        return {
            name: text if name not in only else of_tables[name] if name in TABLES else self._view(name, text, only[name])
            for name, text in statements.items()
        }

    def _listed(self, column: str) -> str:
        values = self.ids[column].unique().drop_null().to_pylist()
        return ", ".join(map(quote_literal, values)) or "NULL"

    def _view(self, name: str, text: str, condition: str) -> str:
        view = f"CREATE OR REPLACE VIEW {name} AS"
        whole = text.replace(view, f"CREATE OR REPLACE VIEW whole_{name} AS")
        return f"{whole}\n{view}\nSELECT * FROM whole_{name} WHERE {condition};"
