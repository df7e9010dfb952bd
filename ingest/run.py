"""Take what roots hold into a warehouse: plan what is new, read it, commit in batches.

A commit is made after 2 s or 256 items, at the end, and on the way out of an interrupt: what was finished stays. A base is
taken first, so that every other model is compared with it as soon as it is measured.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError, NotFoundError, UsageError
from layerhouse.ingest.batch import Batch
from layerhouse.ingest.checkpoint_rows import HEADERS
from layerhouse.ingest.compare_with_base import Comparer, Side
from layerhouse.ingest.declarations.declare import declare
from layerhouse.ingest.declarations.method_patterns import compile_method_pattern, declare_by
from layerhouse.ingest.discover import (
    EVALUATION,
    NO_RESULT,
    Discovery,
    FoundModel,
    discover,
    path_text,
)
from layerhouse.ingest.fingerprints import fingerprint_of
from layerhouse.ingest.header_process import LEAST_MODELS, HeadersAhead, Request
from layerhouse.ingest.read_ahead import ReadAhead
from layerhouse.ingest.results.documents import read_document
from layerhouse.ingest.results.model_lookup import (
    Match,
    Models,
    name_alone,
)
from layerhouse.ingest.results.native import HARNESS as NATIVE
from layerhouse.ingest.results.parsed import measure_id
from layerhouse.ingest.results.registry import recognise
from layerhouse.ingest.study.analyses import (
    AnalysisRows,
    Base,
    Parsed,
    combine,
    read_file,
)
from layerhouse.ingest.study.file_names import ORIGINAL_NAME
from layerhouse.ingest.study.structures import Structure
from layerhouse.ingest.take_weights import (
    VALUES,
    Reading,
    ReadWeights,
    WeightsTaker,
)
from layerhouse.vocabulary import LinkRule
from layerhouse.warehouse.storage.inventory import Known, Sighting

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
    """How to ingest. `excludes` are globs; `name` names the one model found; a dry run writes nothing.

    `base` is the model that the others are compared with: a path, which is taken too, or the name of a model in the warehouse.
    `method_patterns` say before our own rules what names declare.
    """

    excludes: tuple[str, ...] = ()
    name: str | None = None
    dry_run: bool = False
    base: str | None = None
    reading: Reading = field(default_factory=Reading)
    method_patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far an ingest is: models, and bytes of weights."""

    models: int
    total_models: int
    bytes: int
    total_bytes: int


Say = Callable[[str, str, str], None]

SLICED_METHOD = "SliceGPT"


def ingest_roots(
    roots: Sequence[Path],
    store_root: Path,
    known: Known,
    options: Options,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
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
    batch = Batch(store_root)
    models = _settle_names(discovery, known, options, say)
    num_models = len(models)
    config_base = None if options.base is None or not _is_config(Path(options.base)) else Path(options.base)
    models, base_name = (models, None) if config_base else _base_first(models, known, options, say)
    is_among_models = len(models) == num_models
    base_name = None if options.dry_run else base_name
    run = _Run(store_root, known, batch, options, say, on_progress)
    plans = run.plan(models)
    try:
        if config_base is not None and not options.dry_run:
            run.take_config_base(config_base)
        if base_name is not None and base_name not in {plan.model.model_id for plan in plans}:
            run.comparer.set_base(base_name, is_among_models=False)
        batch.seal()
        try:
            for plan in run.reading_ahead(plans):
                side = run.take(plan)
                if plan.model.model_id == base_name:
                    run.comparer.set_base(base_name, side, is_among_models=is_among_models)
                elif side is not None:
                    run.comparer.compare(side)
                batch.flush_if_due()
        except BaseException:
            batch.drop_unfinished()
            raise
        run.comparer.compare_stored([plan.model.model_id for plan in plans])
    finally:
        batch.flush()
    return report


def _is_config(path: Path) -> bool:
    return path.suffix.lower() == ".json" and path.is_file()


def _base_first(models: list[FoundModel], known: Known, options: Options, say: Say) -> tuple[list[FoundModel], str | None]:
    """The models with the base at their head, and the base's name. Raises UsageError if the base is no one model."""
    if options.base is None:
        return models, None
    if (options.base, "weights") in known.sightings and not Path(options.base).exists():
        return models, options.base
    if not Path(options.base).exists():
        names = tuple(sorted(model_id for model_id, kind in known.sightings if kind == "weights"))
        raise NotFoundError("base, neither a path nor a model with weights,", options.base, names)
    found = discover([Path(options.base)])
    with_weights = [model for model in found.models if model.weight_files]
    if len(with_weights) != 1:
        for remark in found.remarks:
            say("failed" if remark.is_failure else "passed", remark.where, remark.what)
        raise UsageError(f"--base {options.base}: the base is one model with weights; found {len(with_weights)}")
    base = with_weights[0]
    present = next((model for model in models if model.folder == base.folder), None)
    if present is None:
        settled = _settle_names(Discovery(models=[base]), known, replace(options, name=None), say)
        if not settled:
            return models, None
        present = settled[0]
    return [present, *(model for model in models if model is not present)], present.model_id


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


@dataclass(frozen=True)
class _Plan:
    """One model to take. The fingerprints are those of its analysis and weight files, None where they have nothing new."""

    model: FoundModel
    fingerprint: str | None
    weights_fingerprint: str | None
    weight_bytes: int
    declared: Row


def _request(plan: _Plan) -> Request:
    assert plan.weights_fingerprint is not None
    model = plan.model
    return str(model.folder), [*map(str, model.weight_files)], model.model_id, plan.weights_fingerprint


class _Run:
    """Takes models one after the other; `known` grows with what was taken, so nothing is written twice in a run."""

    def __init__(
        self,
        store_root: Path,
        known: Known,
        batch: Batch,
        options: Options,
        say: Say,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.known, self.batch, self.dry_run, self.say = known, batch, options.dry_run, say
        self.reading = options.reading
        self.patterns = [compile_method_pattern(text) for text in options.method_patterns]
        self.weights = WeightsTaker(store_root, known, batch, self.reading, say, self._count_bytes)
        self.comparer = Comparer(store_root, known, batch, self.reading, say, self._count_bytes, self._expect_bytes)
        self.models = Models(())
        self.ahead: ReadAhead[_Plan, ReadWeights] | HeadersAhead[_Plan] | None = None
        self._lock = threading.Lock()
        self.on_progress, self.progress = on_progress, Progress(0, 0, 0, 0)
        self.originals: dict[Path, Structure | None] = {}
        self.bases: dict[tuple[str | None, int], dict[str, Base]] = {
            key: {base.checkpoint_id: Base(base.checkpoint_id, base.num_layers, None) for base in bases}
            for key, bases in known.bases.items()
        }
        self.written_bases = {checkpoint_id for bases in self.bases.values() for checkpoint_id in bases}

    def plan(self, models: Sequence[FoundModel]) -> list[_Plan]:
        """What is new of each model. The bases that `original_model_analysis.json` files describe are gathered beforehand, so
        that a model which has only a comparison finds its base in whatever order they come."""
        present = [
            (model_id, folder) for model_id, folder in self.known.folders_by_model.items() if self._has_structure(model_id)
        ]
        own = [(model.model_id, path_text(model.folder)) for model in models if model.weight_files or model.analysis_files]
        self.models = Models([*present, *own])
        plans = [self._plan_one(model) for model in models]
        self._show(total_models=len(plans), total_bytes=sum(plan.weight_bytes for plan in plans))
        return plans

    def _has_structure(self, model_id: str) -> bool:
        return any((model_id, kind) in self.known.sightings for kind in ("weights", "analysis"))

    def _count_bytes(self, count: int) -> None:
        with self._lock:
            self.progress = replace(self.progress, bytes=self.progress.bytes + count)
            self.on_progress(self.progress)

    def _expect_bytes(self, count: int) -> None:
        self._show(total_bytes=self.progress.total_bytes + count)

    def _show(self, **changes: int) -> None:
        with self._lock:
            self.progress = replace(self.progress, **changes)
            self.on_progress(self.progress)

    def _plan_one(self, model: FoundModel) -> _Plan:
        declaration = declare_by(self.patterns, model.model_id) or declare(model.model_id)
        if model.sliced_name is not None:
            named = declare(model.sliced_name)
            ratio = named.ratio if declaration.ratio is None else declaration.ratio
            declaration = replace(declaration, method=declaration.method or SLICED_METHOD, ratio=ratio)
        tags = dict(declaration.tags) | ({"revision": model.revision} if model.revision else {})
        declared = {
            "method": declaration.method,
            "declared_ratio": declaration.ratio,
            "declared_removed_layers": declaration.removed_layers,
            "tags": tags,
        }
        weights = self.weights.new_fingerprint(model) if model.weight_files else None
        weight_bytes = total_size(model.weight_files) if weights is not None else 0
        fingerprint = fingerprint_of(model.analysis_files) if model.analysis_files else None
        sighting = self.known.sightings.get((model.model_id, "analysis"))
        if sighting is not None and sighting.fingerprint == fingerprint:
            fingerprint = None
        if fingerprint is not None:
            self._gather_base(model)
        return _Plan(model, fingerprint, weights, weight_bytes, declared)

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

    def take_config_base(self, path: Path) -> None:
        """Compare with the model that a config describes from now on. Raises UsageError where it describes none."""
        from layerhouse.ingest.config_base import config_base_rows

        shown = path_text(path)
        try:
            checkpoint, tensors, layers = config_base_rows(path, shown)
        except InputError as error:
            raise UsageError(f"--base {error.where}: {error.what}") from None
        checkpoint_id: str = checkpoint["checkpoint_id"]
        if checkpoint_id not in self.known.checkpoints:
            self.batch.add({"checkpoints": [checkpoint | {"source_uri": shown}], "tensors": tensors, "layers": layers})
            self.known.checkpoints.add(checkpoint_id)
        self.comparer.base = Side(shown, checkpoint_id, tensors, has_values=False)

    def take(self, plan: _Plan) -> Side | None:
        """Take one model; says one line for all that was taken of it, and one for each thing that could not be.

        What was measured of its weights, to be compared; None where nothing was.
        """
        model = plan.model
        has_files = bool(model.analysis_files or model.weight_files)
        taken, is_unchanged = [], plan.fingerprint is None and plan.weights_fingerprint is None and has_files
        if plan.fingerprint is not None and self._take_analysis(plan, plan.fingerprint):
            taken.append(_count(len(model.analysis_files), "analysis file"))
        found = None
        if plan.weights_fingerprint is not None and self.dry_run:
            taken += self._describe(model)
        elif plan.weights_fingerprint is not None:
            found = self._take_weights(plan, plan.weights_fingerprint)
            taken += [found.line] if found is not None and found.line else []
        outcomes = [self._take_result(plan, path) for path in model.result_files]
        if outcomes.count(True):
            taken.append(_count(outcomes.count(True), "result file"))
        self.batch.seal()
        if taken:
            self.say("planned" if self.dry_run else "taken", model.model_id, ", ".join(taken))
        elif is_unchanged or (None in outcomes and plan.fingerprint is None and plan.weights_fingerprint is None):
            self.say("unchanged", model.model_id, "nothing new")
        self._show(models=self.progress.models + 1)
        if found is None or found.checkpoint is None:
            return None
        return Side(model.model_id, found.checkpoint_id, found.tensors, found.opened, found.units)

    def _describe(self, model: FoundModel) -> list[str]:
        try:
            return [self.weights.describe(model)]
        except InputError as error:
            self.say("failed", error.where, error.what)
            return []

    def reading_ahead(self, plans: Sequence[_Plan]) -> Iterator[_Plan]:
        """The plans in order, while the weights of later ones are read."""
        reading = self.reading
        wanted = [] if self.dry_run else [plan for plan in plans if plan.weights_fingerprint is not None]
        is_headers_alone = reading.stats == HEADERS and reading.compare != VALUES  # which has the files open
        if is_headers_alone and len(wanted) >= LEAST_MODELS and reading.workers != 1 and reading.threads > 1:
            self.ahead = HeadersAhead([(plan, _request(plan)) for plan in wanted], self._read_headers)
        else:
            self.ahead = ReadAhead(
                [(plan, plan.weight_bytes) for plan in wanted],
                self._read_weights,
                workers=reading.workers or len(reading.devices),
                threads=reading.threads,
                devices=reading.devices,
            )
        with self.ahead:
            yield from plans

    def _read_headers(self, plan: _Plan) -> ReadWeights:
        return self._read_weights(plan, self.reading.devices[0], self.reading.threads)

    def _read_weights(self, plan: _Plan, device: str, threads: int) -> ReadWeights:
        assert plan.weights_fingerprint is not None
        return self.weights.read(plan.model, plan.weights_fingerprint, device=device, threads=threads)

    def _take_weights(self, plan: _Plan, fingerprint: str) -> ReadWeights | None:
        model = plan.model
        analysis = self.known.sightings.get((model.model_id, "analysis"))
        try:
            assert self.ahead is not None
            found = self.ahead.take(plan)
            self.weights.add(model, found, plan.declared, fingerprint, None if analysis is None else analysis.params)
            return found
        except InputError as error:
            self.say("failed", error.where, error.what)
            return None

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
        self.known.sightings[model.model_id, "analysis"] = Sighting(
            fingerprint, "none", rows.checkpoint["checkpoint_id"], rows.checkpoint["params"]
        )
        return True

    def _new_layers(self, rows: AnalysisRows) -> list[Row]:
        return [row for row in (*rows.layers, *rows.base_layers) if row["checkpoint_id"] not in self.known.checkpoints]

    def _new_matches(self, rows: AnalysisRows) -> list[Row]:
        pairs = {(row["checkpoint_id"], row["base_checkpoint_id"]) for row in rows.layer_matches}
        new = {pair for pair in pairs if self.known.comparisons.get(pair[0]) != pair[1]}
        self.known.comparisons |= dict(new)
        return [row for row in rows.layer_matches if (row["checkpoint_id"], row["base_checkpoint_id"]) in new]

    def _take_result(self, plan: _Plan, path: Path) -> bool | None:
        """True if the file's results were taken, None if the warehouse has them already, False if they could not be."""
        model = plan.model
        shown, source_uri = _shown(model, path), path_text(path)
        try:
            data, document = read_document(path, shown)
            file_id = hashlib.sha256(source_uri.encode() + b"\0" + data).hexdigest()
            if self.known.models_by_result.get(file_id) is not None and file_id not in self.known.standing_alone:
                return None
            result_format = recognise(document, path)
            if result_format is None:
                raise InputError(shown, NO_RESULT)
            parsed = result_format.parse(document, path)
            if not parsed.rows:
                raise InputError(shown, f"no result in it: {'; '.join(parsed.left_out) or 'it is empty'}")
        except InputError as error:
            self.say("failed", shown, error.what)
            return False
        by_model: dict[str | None, list[Row]] = {}
        for row in parsed.rows:
            by_model.setdefault(row["declared_model"], []).append(row)
        outcomes = [
            self._link_result(plan, path, file_id if len(by_model) == 1 else _part_id(file_id, declared), declared, rows)
            for declared, rows in by_model.items()
        ]
        if not any(outcomes):
            return None
        for left_out in parsed.left_out:
            self.say("passed", shown, left_out)
        return True

    def _link_result(self, plan: _Plan, path: Path, result_id: str, declared: str | None, rows: Sequence[Row]) -> bool:
        """Take the rows of one model in a file, and say which model they belong to; False if nothing of it is new."""
        known, model, shown = self.known, plan.model, _shown(plan.model, path)
        linked = known.models_by_result.get(result_id)
        if linked is not None and result_id not in known.standing_alone:
            return False
        is_own = rows[0]["harness"] == NATIVE or EVALUATION in path.relative_to(model.folder).parts
        match = Match(model.model_id, LinkRule.FOLDER)
        if not (is_own or ((model.weight_files or model.analysis_files) and len({row["declared_model"] for row in rows}) == 1)):
            match = self.models.find(declared, path)
        if match.model_id is None and match.candidates:
            choice = ", ".join(match.candidates)
            self.say("passed", shown, f"names {declared!r}, which {choice} could be; link it with: layerhouse link FILE MODEL")
        model_id = match.model_id or (name_alone(declared) if declared else model.model_id)
        if linked == model_id and match.model_id is None:
            return False
        if self.dry_run:
            return True
        link: Row = {
            **(plan.declared if model_id == model.model_id else _declarations(model_id)),
            "result_id": result_id,
            "model_id": model_id,
            "rule": match.rule,
            "source_uri": path_text(path),
            "model_uri": path_text(model.folder) if match.rule == LinkRule.FOLDER else None,
            "linked_at": datetime.now(UTC),
        }
        added = {"result_id": result_id, "source_uri": path_text(path)}
        new_rows = rows if result_id not in known.results else []
        for row in new_rows:
            row.update(added)
            row["measure_id"] = measure_id(row)
        self.batch.add({"results": new_rows, "links": [link]})
        known.results.add(result_id)
        known.models_by_result[result_id] = model_id
        known.standing_alone.discard(result_id)
        if match.model_id is None:
            known.standing_alone.add(result_id)
        return True


def _part_id(file_id: str, declared: str | None) -> str:
    """The id of one model's rows in a file of several."""
    return hashlib.sha256(f"{file_id}\0{declared}".encode()).hexdigest()


def _declarations(model_id: str) -> Row:
    declaration = declare(model_id)
    return {
        "method": declaration.method,
        "declared_ratio": declaration.ratio,
        "declared_removed_layers": declaration.removed_layers,
        "tags": declaration.tags,
    }


def _shown(model: FoundModel, path: Path) -> str:
    """A model's file as the user knows it: below the model's name."""
    return f"{model.model_id}/{path_text(path.relative_to(model.folder))}"


def total_size(paths: Sequence[Path]) -> int:
    """Bytes of the files that are there."""
    return sum(path.stat().st_size for path in paths if path.is_file())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
