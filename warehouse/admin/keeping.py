"""Writes the answers that a large warehouse keeps, after a commit: each whole, or from an earlier one and what came since."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from layerhouse.warehouse.answers.kept.files import (
    Earlier,
    Kept,
    find_earlier,
    find_kept,
    read_whole,
    remove_old,
    write_answer,
)
from layerhouse.warehouse.answers.kept.increments import INCREMENTS, Increment, select_ids
from layerhouse.warehouse.answers.kept.states import Answer, answers_of, key_of
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
"""Share of the checkpoints or results up to which an answer is written from an earlier one; of more, computing all takes less."""
MOST_LISTED = 1_000
"""Ids up to which a condition lists them, so that DuckDB looks them up in the files' statistics."""
LEAST_DIVIDED = 256 << 10
"""Bytes of a file of rows from which on the rows that changed are written into a second file."""
MOST_REPLACED = 300
"""Keys whose rows a second file has, as every question has to leave these out of the first one."""


class _SparingSession(Session):
    """A session of one thread: several take more CPU time in all, and hardly less time, as most of the work is writing."""

    threads = 1


@dataclass(frozen=True)
class _Change:
    """An answer that is written from an earlier one, and the ids of what changed since, with related ids."""

    answer: Answer
    increment: Increment
    earlier: Kept
    ids: pa.Table


def keep_answers(root: Path) -> None:
    """Write the answers that are expensive in a large warehouse, unless they are there already.

    It is called after every commit; otherwise each session computes them. A failure costs only time, so it is passed over.
    Raises WarehouseError where the warehouse itself cannot be read.
    """
    snapshot = read_snapshot(root)
    answers = answers_of(snapshot, view_statements(snapshot))
    kept = {view: find_kept(answer) for view, answer in answers.items()}
    missing = [answer for view, answer in answers.items() if kept[view] is None]
    if not missing:
        return
    with contextlib.suppress(OSError, duckdb.Error), contextlib.closing(_SparingSession(snapshot, memory=MEMORY)) as session:
        for _, group in groupby(missing, _together):
            together = [*group]
            stands_on = {answer.view: _stands_on(answer, answers) for answer in together}
            written = _write_from_earlier(snapshot, session, together, stands_on)
            for answer in together:
                if answer.view not in written:
                    connection = session.make(f"SELECT * FROM {answer.view}")
                    write_answer(connection, answer, f"SELECT * FROM {answer.view}", stands_on=stands_on[answer.view])
                kept[answer.view] = find_kept(answer)
                if (found := kept[answer.view]) is not None:
                    session.read_kept(found)
        present = [path for found in kept.values() if found is not None for path in found.paths]
        remove_old(snapshot.root / KEPT, [*present, *(answer.record for answer in answers.values())])


def _together(answer: Answer) -> str:
    """What answers have in common that are written from earlier ones in one session."""
    return INCREMENTS[answer.view].together if answer.view in INCREMENTS else answer.view


def _stands_on(answer: Answer, answers: Mapping[str, Answer]) -> dict[str, str]:
    """The records of the answers that the next increment has to know."""
    increment = INCREMENTS.get(answer.view)
    return {view: answers[view].record.stem for view in sorted(increment.stands_on if increment else ())}


def _write_from_earlier(
    snapshot: Snapshot, session: Session, answers: Sequence[Answer], stands_on: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Write answers from earlier ones, where there are some and few rows changed since; returns their views."""
    try:
        found = [_change(snapshot, session, answer, INCREMENTS[answer.view]) for answer in answers if answer.view in INCREMENTS]
        changes = [change for change in found if change is not None]
        if not changes:
            return []
        only = {name: condition for change in changes for name, condition in change.increment.only.items()}
        ids = _united([change.ids for change in changes])
        with contextlib.closing(
            _SparingSession(snapshot, memory=MEMORY).show(_Changed(snapshot, ids, only))
        ) as few:
            connection = few.make(" ".join(change.answer.view for change in changes))
            for change in changes:
                _write_change(connection, change, {*ids["id"].to_pylist()}, stands_on[change.answer.view])
    except duckdb.Error:
        return []
    return [change.answer.view for change in changes]


def _write_change(
    connection: duckdb.DuckDBPyConnection, change: _Change, ids: set[str], stands_on: Mapping[str, str]
) -> None:
    """Write an answer: the rows of the ids that changed into a second file, or all into one that is small enough."""
    view, key, earlier = change.answer.view, key_of(change.answer.view), change.earlier
    is_same = f"{key} NOT IN (SELECT id FROM temp.changed)"
    changed = f"SELECT * FROM {view} WHERE {key} IN (SELECT id FROM temp.changed)"
    replaced = ids.union(earlier.replaced)
    if earlier.whole.bytes < LEAST_DIVIDED or len(replaced) > MOST_REPLACED:
        rows = f"SELECT * FROM ({earlier.select}) WHERE {is_same} UNION ALL {changed}"
        write_answer(connection, change.answer, rows, is_ordered=True, stands_on=stands_on)
        return
    rows = f"{earlier.select_later} WHERE {is_same} UNION ALL {changed}" if earlier.later else changed
    write_answer(connection, change.answer, rows, stands_on=stands_on, beside=(earlier.whole, replaced))


def _united(changed: Sequence[pa.Table]) -> pa.Table:
    """All pairs of an id and a related one, each once."""
    import pyarrow as pa

    return pa.concat_tables(changed).group_by(["id", "related_id"]).aggregate([])


def _change(snapshot: Snapshot, session: Session, answer: Answer, increment: Increment) -> _Change | None:
    """What changed since an earlier answer; None where there is none, or so much changed that all is computed."""
    earlier = find_earlier(answer)
    if earlier is None:
        return None
    records = {view: answer.folder / f"{stem}.json" for view, stem in earlier.kept.stands_on.items()}
    then = {answer.view: earlier.kept} | {view: kept for view, record in records.items() if (kept := read_whole(record))}
    if not increment.stands_on <= then.keys() or not all(_is_there(session, then[view]) for view in increment.unchanged):
        return None
    files = {table: [str(snapshot.root / table / name) for name in names] for table, names in earlier.later.items()}
    sql = increment.changed.format(
        earlier=then[increment.earlier].select if increment.earlier else "",
        later=select_ids(increment.id_column, [file for table in increment.tables for file in files.get(table, ())]),
        later_bases=select_ids("base_checkpoint_id", files.get("layer_matches", ())),
        renamed=select_ids("unnest([model_id, new_model_id])", files.get("removals", ())),
    )
    ids = session.make(increment.asked).sql(sql).to_arrow_table()
    most = MOST_CHANGED * max(snapshot.rows("checkpoints"), snapshot.rows("links"))
    return None if len(ids["id"].unique()) > most else _Change(answer, increment, earlier.kept, ids)


def _is_there(session: Session, then: Kept) -> bool:
    """True if a view still has every row that it had then."""
    sql = f"SELECT count(*) FROM (SELECT * FROM ({then.select}) EXCEPT ALL SELECT * FROM {then.view})"
    return session.make(then.view).sql(sql).fetchall() == [(0,)]


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
        ids, related = "SELECT id FROM temp.changed", "SELECT related_id FROM temp.changed"
        lists = {"ids": ids, "related_ids": related, "all_ids": f"{ids} UNION ALL {related}"}
        if self.ids.num_rows <= MOST_LISTED:
            ids, related = self._listed("id"), self._listed("related_id")
            lists = {"ids": ids, "related_ids": related, "all_ids": f"{ids}, {related}"}
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
        return f"{whole}\n{view}\nSELECT * FROM whole_{name} AS rows WHERE {condition};"
