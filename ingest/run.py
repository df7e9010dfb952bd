"""Take what roots hold into a warehouse: plan what is new, read it, commit in batches.

A commit is made after 2 s or 256 items, at the end, and on the way out of an interrupt: what was finished stays.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerhouse.ingest.analyses import ORIGINAL_NAME, AnalysisRows, Base, Parsed, combine, read_file
from layerhouse.ingest.declarations import declare
from layerhouse.ingest.discover import Discovery, FoundModel, discover, path_text
from layerhouse.ingest.json_files import read_json
from layerhouse.ingest.results import measure_id, recognise
from layerhouse.ingest.structures import Structure
from layerhouse.warehouse.errors import InputError
from layerhouse.warehouse.known import Known, Sighting
from layerhouse.warehouse.store import write_commit

FLUSH_SECONDS = 2.0
FLUSH_ITEMS = 256

Row = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """One thing that happened to one input. `kind`: taken, planned (dry run), unchanged, passed or failed."""

    kind: str
    where: str
    what: str


@dataclass
class Report:
    """What an ingest did, input by input."""

    events: list[Event] = field(default_factory=list)

    def count(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.events)


@dataclass(frozen=True)
class Options:
    """How to ingest. `excludes` are globs; `name` names the one model found; a dry run writes nothing."""

    excludes: tuple[str, ...] = ()
    name: str | None = None
    dry_run: bool = False


Say = Callable[[str, str, str], None]


def ingest_roots(
    roots: Sequence[Path],
    store_root: Path,
    known: Known,
    options: Options,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Ingest everything below the roots into the warehouse at `store_root`, which a dry run does not touch.

    An input that cannot be taken is an event of kind `failed`; the rest goes on. Raises UsageError for options that cannot
    hold and WarehouseError where rows cannot be written. On KeyboardInterrupt what is finished is committed before it goes on.
    """
    report = Report()

    def say(kind: str, where: str, what: str) -> None:
        event = Event(kind, where, what)
        report.events.append(event)
        on_event(event)

    discovery = discover(roots, excludes=options.excludes, name=options.name)
    for remark in discovery.remarks:
        say("failed" if remark.is_failure else "passed", remark.where, remark.what)
    batch = _Batch(store_root)
    run = _Run(known, batch, options, say)
    plans = run.plan(_settle_names(discovery, known, options, say))
    try:
        for done, plan in enumerate(plans):
            on_progress(done, len(plans))
            run.take(plan)
            batch.flush_if_due()
        on_progress(len(plans), len(plans))
    finally:
        batch.flush()
    return report


def _settle_names(discovery: Discovery, known: Known, options: Options, say: Say) -> list[FoundModel]:
    """A folder that the warehouse knows keeps its name there; a name that another folder has is an error."""
    settled = []
    for model in discovery.models:
        folder = path_text(model.folder)
        name = known.models_by_folder.get(folder, model.model_id)
        other = known.folders_by_model.get(name)
        if options.name is not None and name != options.name:
            say("failed", folder, f"in the warehouse as {name}; rename it with: layerhouse rename {name} {options.name}")
        elif other is not None and other != folder and os.path.lexists(other):
            say(
                "failed",
                folder,
                f"its name {name} is that of {other} in the warehouse; give it another with --name NAME",
            )
        else:
            settled.append(replace(model, model_id=name))
    return settled


class _Batch:
    """Rows that wait for the next commit."""

    def __init__(self, store_root: Path) -> None:
        self.store_root = store_root
        self.rows: dict[str, list[Row]] = {}
        self.items = 0
        self.started = 0.0

    def add(self, rows: dict[str, Iterable[Row]]) -> None:
        if not self.items:
            self.started = time.monotonic()
        for table, table_rows in rows.items():
            self.rows.setdefault(table, []).extend(table_rows)
        self.items += 1

    def flush_if_due(self) -> None:
        if self.items >= FLUSH_ITEMS or (self.items and time.monotonic() - self.started >= FLUSH_SECONDS):
            self.flush()

    def flush(self) -> None:
        rows = {table: table_rows for table, table_rows in self.rows.items() if table_rows}
        if rows:
            write_commit(self.store_root, rows, "ingest")
        self.rows, self.items = {}, 0


@dataclass(frozen=True)
class _Plan:
    """One model to take. `fingerprint` is that of its analysis files, None where there is nothing new in them."""

    model: FoundModel
    fingerprint: str | None
    declared: Row


class _Run:
    """Takes models one after the other; `known` grows with what was taken, so nothing is written twice in a run."""

    def __init__(self, known: Known, batch: _Batch, options: Options, say: Say) -> None:
        self.known, self.batch, self.dry_run, self.say = known, batch, options.dry_run, say
        self.originals: dict[Path, Structure | None] = {}
        self.bases: dict[tuple[str | None, int], dict[str, Base]] = {
            key: {base.checkpoint_id: Base(base.checkpoint_id, base.num_layers, None) for base in bases}
            for key, bases in known.bases.items()
        }
        self.written_bases = {checkpoint_id for bases in self.bases.values() for checkpoint_id in bases}

    def plan(self, models: Sequence[FoundModel]) -> list[_Plan]:
        """What is new of each model. The bases that `original_model_analysis.json` files describe are gathered beforehand, so
        that a model which has only a comparison finds its base in whatever order they come."""
        return [self._plan_one(model) for model in models]

    def _plan_one(self, model: FoundModel) -> _Plan:
        declaration = declare(model.model_id)
        tags = dict(declaration.tags) | ({"revision": model.revision} if model.revision else {})
        declared = {
            "method": declaration.method,
            "declared_ratio": declaration.ratio,
            "declared_removed_layers": declaration.removed_layers,
            "tags": tags,
        }
        if not model.analysis_files:
            return _Plan(model, None, declared)
        fingerprint = _fingerprint(model.analysis_files)
        sighting = self.known.sightings.get((model.model_id, "analysis"))
        if sighting is not None and sighting.fingerprint == fingerprint:
            return _Plan(model, None, declared)
        self._gather_base(model)
        return _Plan(model, fingerprint, declared)

    def _gather_base(self, model: FoundModel) -> None:
        for path in model.analysis_files:
            if path.name == ORIGINAL_NAME:
                try:
                    structure = read_file(path, path_text(path))
                except InputError:
                    return
                assert isinstance(structure, Structure)
                base = Base(structure.structure_id, structure.num_layers, structure)
                bases = self.bases.setdefault((structure.name, structure.params), {})
                self.originals[path] = bases.setdefault(base.checkpoint_id, base).structure

    def find_base(self, name: str | None, params: int) -> Base | None:
        """The one base of that name and size; None where there is none, or several that differ."""
        found = self.bases.get((name, params), {}) if name is not None else {}
        return next(iter(found.values())) if len(found) == 1 else None

    def take(self, plan: _Plan) -> None:
        """Take one model; says one line for all that was taken of it, and one for each thing that could not be."""
        model = plan.model
        taken, is_unchanged = [], plan.fingerprint is None and bool(model.analysis_files)
        if plan.fingerprint is not None and self._take_analysis(plan, plan.fingerprint):
            taken.append(_count(len(model.analysis_files), "analysis file"))
        outcomes = [self._take_result(plan, path) for path in model.result_files]
        if outcomes.count(True):
            taken.append(_count(outcomes.count(True), "result file"))
        if model.weight_files and (model.analysis_files or model.result_files):
            self.say("passed", model.model_id, f"{_weight_names(model)}: weights are not read, the files beside them are")
        elif model.weight_files:
            self.say(
                "failed",
                model.model_id,
                f"{_weight_names(model)}: weights without analysis or results; weights are not read",
            )
        if taken:
            self.say("planned" if self.dry_run else "taken", model.model_id, ", ".join(taken))
        elif is_unchanged or None in outcomes:
            self.say("unchanged", model.model_id, "nothing new")

    def _take_analysis(self, plan: _Plan, fingerprint: str) -> bool:
        model = plan.model
        parsed: dict[str, Parsed] = {}
        is_broken = False
        for path in model.analysis_files:
            try:
                parsed[path.name] = self.originals.get(path) or read_file(path, _shown(model, path))
            except InputError as error:
                self.say("failed", error.where, error.what)
                is_broken = True
        if is_broken:
            return False
        try:
            rows = combine(parsed, model.model_id, self.find_base)
        except InputError as error:
            self.say("failed", error.where, error.what)
            return False
        if self.dry_run:
            return True
        sighted = {"source_uri": path_text(model.folder), "fingerprint": fingerprint}
        checkpoints = [{**rows.checkpoint, **plan.declared, **sighted, "model_id": model.model_id}]
        if rows.base_checkpoint is not None and rows.base_checkpoint["checkpoint_id"] not in self.written_bases:
            checkpoints.append({**rows.base_checkpoint, "source_uri": path_text(model.folder)})
            self.written_bases.add(rows.base_checkpoint["checkpoint_id"])
        self.batch.add({"checkpoints": checkpoints, "layers": self._new_layers(rows), "layer_matches": self._new_matches(rows)})
        self.known.checkpoints.update(row["checkpoint_id"] for row in checkpoints)
        self.known.sightings[model.model_id, "analysis"] = Sighting(fingerprint, "none")
        return True

    def _new_layers(self, rows: AnalysisRows) -> list[Row]:
        return [row for row in (*rows.layers, *rows.base_layers) if row["checkpoint_id"] not in self.known.checkpoints]

    def _new_matches(self, rows: AnalysisRows) -> list[Row]:
        pairs = {(row["checkpoint_id"], row["base_checkpoint_id"]) for row in rows.layer_matches}
        new = pairs - self.known.comparisons
        self.known.comparisons |= new
        return [row for row in rows.layer_matches if (row["checkpoint_id"], row["base_checkpoint_id"]) in new]

    def _take_result(self, plan: _Plan, path: Path) -> bool | None:
        """True if the file's results were taken, None if the warehouse has them already, False if they could not be."""
        model = plan.model
        shown, source_uri = _shown(model, path), path_text(path)
        try:
            data, document = read_json(path, shown)
            result_id = hashlib.sha256(source_uri.encode() + b"\0" + data).hexdigest()
            if self.known.models_by_result.get(result_id) is not None:
                return None
            result_format = recognise(document, path)
            if result_format is None:
                raise InputError(shown, "changed while it was read: no result of a known form any more")
            parsed = result_format.parse(document, path)
            if not parsed.rows:
                raise InputError(shown, f"no result in it: {'; '.join(parsed.left_out) or 'it is empty'}")
        except InputError as error:
            self.say("failed", shown, error.what)
            return False
        for left_out in parsed.left_out:
            self.say("passed", shown, left_out)
        if self.dry_run:
            return True
        link = {
            **plan.declared,
            "result_id": result_id,
            "model_id": model.model_id,
            "rule": "folder",
            "source_uri": source_uri,
            "model_uri": path_text(model.folder),
            "linked_at": datetime.now(UTC),
        }
        is_new = result_id not in self.known.results
        added = {"result_id": result_id, "source_uri": source_uri}
        rows = [{**row, **added, "measure_id": measure_id(row)} for row in parsed.rows] if is_new else []
        self.batch.add({"results": rows, "links": [link]})
        self.known.results.add(result_id)
        self.known.models_by_result[result_id] = model.model_id
        return True


def _shown(model: FoundModel, path: Path) -> str:
    """A model's file as the user knows it: below the model's name."""
    return f"{model.model_id}/{path_text(path.relative_to(model.folder))}"


def _fingerprint(paths: Sequence[Path]) -> str:
    """Hash of path, size and mtime of files; a file that is gone counts as such."""
    lines = []
    for path in sorted(paths):
        try:
            status = path.stat()
            lines.append(f"{path_text(path)}\0{status.st_size}\0{status.st_mtime_ns}")
        except OSError:
            lines.append(f"{path_text(path)}\0gone")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _weight_names(model: FoundModel) -> str:
    names = [path_text(path.name) for path in model.weight_files]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
