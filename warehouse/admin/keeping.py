"""Writes the answers that a large warehouse keeps, after a commit: each whole, or from an earlier one and what came since."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from layerhouse.warehouse.admin.changed_rows import ChangedRows
from layerhouse.warehouse.answers.kept.files import (
    Kept,
    find_earlier,
    find_kept,
    read_whole,
    remove_old,
    write_answer,
)
from layerhouse.warehouse.answers.kept.increments import INCREMENTS, Increment, select_ids
from layerhouse.warehouse.answers.kept.places import Places
from layerhouse.warehouse.answers.kept.states import Answer, answers_of, key_of
from layerhouse.warehouse.answers.session import Session, read_snapshot
from layerhouse.warehouse.answers.view_texts import MACROS, view_statements
from layerhouse.warehouse.storage.commits import Snapshot
from layerhouse.warehouse.storage.own_files import KEPT
from layerhouse.warehouse.storage.schema import TABLES

if TYPE_CHECKING:
    import pyarrow as pa

MEMORY = 512 << 20
"""Bytes of memory that computing an answer takes at most; then it uses temporary files."""
MOST_CHANGED = 0.3
"""Share of the checkpoints or results up to which an answer is written from an earlier one; of more, all is computed faster."""
LEAST_DIVIDED = 256 << 10
"""Bytes of a file of rows from which on the rows that changed are written into a second file."""
MOST_REPLACED = 300
MOST_LETTERS = 1 << 16
"""Keys whose rows a second file has at most, and their characters, as every question leaves these out of the first file."""


class _SparingSession(Session):
    """A session of one thread: several take more CPU time in all, and hardly less time, as most of the work is writing."""

    threads = 1
    always_made = (MACROS,)

    def _compute_what_is_gone(self) -> None:
        """Nothing is computed in its place: a session that shows some rows would compute it from these alone."""
        if gone := self.gone:
            raise OSError(f"{KEPT}: deleted meanwhile: {', '.join(gone)}")


@dataclass(frozen=True)
class _Change:
    """An answer that is written from an earlier one, and the ids of what changed since, with related ids."""

    answer: Answer
    increment: Increment
    earlier: Kept
    ids: pa.Table


def keep_answers(root: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Write the answers that are expensive in a large warehouse, unless they are there already.

    It is called after every commit; otherwise each session computes them. A failure costs only time, so it is passed over.
    `on_progress` is called with how many are written and with all that are missing. Raises WarehouseError where the warehouse
    itself cannot be read.
    """
    snapshot = read_snapshot(root)
    answers = answers_of(snapshot, view_statements(snapshot))
    kept = {view: found for view, answer in answers.items() if (found := find_kept(answer)) is not None}
    missing = [answer for view, answer in answers.items() if view not in kept]
    if not missing:
        return
    with contextlib.suppress(OSError, duckdb.Error), contextlib.closing(_Keeper(snapshot, answers, kept)) as keeper:
        written = 0
        for _, group in groupby(missing, _together):
            on_progress(written, len(missing))
            written += keeper.write([*group])
        on_progress(written, len(missing))
        keeper.remove_old()
        keeper.places.note()


def _together(answer: Answer) -> str:
    """What answers have in common that are written from earlier ones in one session."""
    return INCREMENTS[answer.view].together if answer.view in INCREMENTS else answer.view


class _Keeper:
    """Writes answers one after the other, beside those that are `kept`; later ones are computed from those that are written."""

    def __init__(self, snapshot: Snapshot, answers: Mapping[str, Answer], kept: Mapping[str, Kept]) -> None:
        self.places = Places(snapshot, {name for increment in INCREMENTS.values() for name in increment.only if name in TABLES})
        self._snapshot, self._answers, self._kept = snapshot, answers, {**kept}
        self._session, self._few = (_SparingSession(snapshot, memory=MEMORY) for _ in range(2))
        self._changed: dict[str, pa.Table] = {}

    def close(self) -> None:
        """Close the sessions."""
        self._session.close()
        self._few.close()

    def write(self, answers: Sequence[Answer]) -> int:
        """Write answers that are written together; returns their number. Raises OSError and DuckDB's errors."""
        written = self._write_from_earlier(answers)
        for answer in answers:
            if answer.view not in written:
                connection = self._session.make(f"SELECT * FROM {answer.view}")
                write_answer(connection, answer, f"SELECT * FROM {answer.view}", stands_on=self._stands_on(answer))
            if (kept := find_kept(answer)) is not None:
                self._kept[answer.view] = kept
                self._session.read_kept(kept)
                self._few.read_kept(kept)
        return len(answers)

    def remove_old(self) -> None:
        """Delete answers of commits long past."""
        present = [path for kept in self._kept.values() for path in kept.paths]
        remove_old(self._snapshot.root / KEPT, [*present, *(answer.record for answer in self._answers.values())])

    def _stands_on(self, answer: Answer) -> dict[str, str]:
        """The records of the other answers that the next increment has to know."""
        increment = INCREMENTS.get(answer.view)
        others = increment.stands_on - {answer.view} if increment else ()
        return {view: self._answers[view].record.stem for view in sorted(others)}

    def _write_from_earlier(self, answers: Sequence[Answer]) -> list[str]:
        """Write answers from earlier ones, where there are some and few rows changed since; returns their views."""
        try:
            changes = [change for answer in answers if (change := self._change(answer)) is not None]
            if not changes:
                return []
            only = {name: some for change in changes for name, some in change.increment.only.items()}
            rows = ChangedRows(self._snapshot, self.places, _united([change.ids for change in changes]), only)
            connection = self._few.show(rows).make(" ".join(change.answer.view for change in changes))
            for change in changes:
                self._write_change(connection, change)
        except duckdb.Error:
            return []
        return [change.answer.view for change in changes]

    def _write_change(self, connection: duckdb.DuckDBPyConnection, change: _Change) -> None:
        """Write an answer: the rows of the ids that changed into a second file, or all into one that is small enough.

        Of other answers of the session more ids may have changed, of which some rows that this one needs are not shown.
        """
        answer, earlier, stands_on = change.answer, change.earlier, self._stands_on(change.answer)
        connection.register("own_ids", change.ids)
        own = f"{key_of(answer.view)} IN (SELECT id FROM own_ids)"
        changed = f"SELECT * FROM {answer.view} WHERE {own}"
        replaced = {*change.ids["id"].to_pylist(), *earlier.replaced}
        is_many = len(replaced) > MOST_REPLACED or sum(map(len, replaced)) > MOST_LETTERS
        if earlier.whole.bytes < LEAST_DIVIDED or is_many:
            rows = f"SELECT * FROM ({earlier.select}) WHERE NOT {own} UNION ALL {changed}"
            write_answer(connection, answer, rows, is_ordered=True, stands_on=stands_on)
        else:
            rows = f"{earlier.select_later} WHERE NOT {own} UNION ALL {changed}" if earlier.later else changed
            write_answer(connection, answer, rows, stands_on=stands_on, beside=(earlier.whole, replaced))
        connection.unregister("own_ids")

    def _change(self, answer: Answer) -> _Change | None:
        """What changed since an earlier answer; None where there is none, or so much changed that all is computed."""
        increment = INCREMENTS.get(answer.view)
        if increment is None or not increment.stands_on - {answer.view} <= self._kept.keys():
            return None
        earlier = find_earlier(answer)
        if earlier is None:
            return None
        records = {view: answer.folder / f"{stem}.json" for view, stem in earlier.kept.stands_on.items()}
        then = {answer.view: earlier.kept} | {view: kept for view, record in records.items() if (kept := read_whole(record))}
        if not increment.stands_on <= then.keys() or not all(self._is_there(then[view]) for view in increment.unchanged):
            return None
        files = {table: [f"{self._snapshot.root}/{table}/{name}" for name in names] for table, names in earlier.later.items()}
        sql = increment.changed.format(
            earlier=then[increment.earlier].select if increment.earlier else "",
            later=select_ids(increment.id_column, [file for table in increment.tables for file in files.get(table, ())]),
            later_bases=select_ids("base_checkpoint_id", files.get("layer_matches", ())),
            renamed=select_ids("unnest([model_id, new_model_id])", files.get("removals", ())),
        )
        if sql not in self._changed:
            self._changed[sql] = self._session.make(increment.asked).sql(sql).to_arrow_table()
        ids = self._changed[sql]
        most = MOST_CHANGED * max(self._snapshot.rows("checkpoints"), self._snapshot.rows("links"))
        return None if len(ids["id"].unique()) > most else _Change(answer, increment, earlier.kept, ids)

    def _is_there(self, then: Kept) -> bool:
        """True if a view still has every row that it had then."""
        sql = f"SELECT count(*) FROM (SELECT * FROM ({then.select}) EXCEPT ALL SELECT * FROM {then.view})"
        return self._session.make(then.view).sql(sql).fetchall() == [(0,)]


def _united(changed: Sequence[pa.Table]) -> pa.Table:
    """All pairs of an id and a related one, each once."""
    import pyarrow as pa

    return pa.concat_tables(changed).group_by(["id", "related_id"]).aggregate([])
