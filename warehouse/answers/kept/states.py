"""Which views a large warehouse keeps the rows of, and the name of each such answer: a digest of just what it follows from.

That is the SQL of the view and of all that it stands on, and the stored files with rows that these read. An answer of the right
name is therefore valid, so nothing is ever invalidated, and a commit leaves alone what does not follow from its tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from layerhouse.warehouse.answers.view_texts import MACROS, mentioned, without_comments
from layerhouse.warehouse.storage.commits import Snapshot
from layerhouse.warehouse.storage.own_files import KEPT
from layerhouse.warehouse.storage.schema import TABLES

LEAST_CHECKPOINTS = 500
LEAST_RESULTS = 100_000
"""Warehouses with fewer rows of checkpoints and results answer fast enough without."""
KEPT_VIEWS = {
    "checkpoint_facts": "checkpoint_id",
    "current_checkpoints": "model_id",
    "result_links": "model_id, result_id",
    "model_names": "model_id",
    "checkpoint_changes": "checkpoint_id, base_checkpoint_id",
    "pair_layers": "checkpoint_id, stack, base_layer_index, layer_index",
    "pair_summary": "checkpoint_id",
    "measure_keys": "measure_id, is_group",
    "model_runs": "model_id, result_id, run_key",
    "model_results": "model_id, measure_id, result_id",
    "run_values": "model_id, variant, kind, measure",
    "measure_scales": "measure_key",
    "common_hardware": "hardware",
    "model_measures": "model_id, variant",
    "models": "model_id",
}
"""The views whose rows are kept, each with its order, of which the first column is its key. A view may be computed from those
before it; those that are written together stand together."""


@dataclass(frozen=True)
class State:
    """What an answer follows from: a digest of the SQL, and the names of the files with rows by table, oldest first."""

    sql: str
    files: Mapping[str, Sequence[str]]

    @cached_property
    def digest(self) -> str:
        """32 hex digits over all of it."""
        names = [f"{table}/{name}" for table, files in sorted(self.files.items()) for name in files]
        return hashlib.sha256("\n".join([self.sql, *names]).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Answer:
    """The place of a view's rows, whether or not they are there, and what they follow from."""

    view: str
    folder: Path
    state: State

    @property
    def record(self) -> Path:
        """The JSON file that says where the rows are, written last."""
        return self.folder / f"{self.view}-{self.state.digest}.json"


def order_of(view: str) -> str:
    """The columns by which the rows of an answer are sorted."""
    return KEPT_VIEWS[view]


def key_of(view: str) -> str:
    """The column that says which checkpoint, model or measure a row is of."""
    return KEPT_VIEWS[view].partition(",")[0]


def is_large(snapshot: Snapshot) -> bool:
    """True if a warehouse has so many rows that its answers are kept."""
    return snapshot.rows("checkpoints") >= LEAST_CHECKPOINTS or snapshot.rows("results") >= LEAST_RESULTS


def answers_of(snapshot: Snapshot, statements: Mapping[str, str]) -> dict[str, Answer]:
    """The place of each kept view's rows; none for a warehouse that is not large. `statements` are what makes the views."""
    if not is_large(snapshot):
        return {}
    below = {name: mentioned(text, statements) - {name, MACROS} for name, text in statements.items() if name != MACROS}
    # What is now the name of a row follows from the tombstones and the row itself, whatever else was written under its name.
    followed = below | {"name_changes": {"removals"}}
    files: dict[str, list[str]] = {}
    for commit in snapshot.commits:
        for file in commit.files:
            if file.rows:
                files.setdefault(file.table, []).append(file.path.rpartition("/")[2])
    digests = {name: hashlib.sha256(without_comments(text).encode()).hexdigest() for name, text in statements.items()}
    answers = {}
    for view in KEPT_VIEWS:
        sql = "\n".join(f"{name} {digests[name]}" for name in sorted({*_stood_on(view, below), view, MACROS}))
        tables = {name: tuple(files.get(name, ())) for name in _stood_on(view, followed) if name in TABLES}
        answers[view] = Answer(view, snapshot.root / KEPT, State(hashlib.sha256(sql.encode()).hexdigest()[:32], tables))
    return answers


def _stood_on(view: str, below: Mapping[str, set[str]]) -> set[str]:
    """All views and tables that a view reads, even through others."""
    found: set[str] = set()
    waiting = [view]
    while waiting:
        more = below[waiting.pop()] - found
        found |= more
        waiting += more
    return found
