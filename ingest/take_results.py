"""Take the result files of models: their rows, and which model they belong to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.declarations.declare import Declaration, declare
from layerhouse.ingest.events import count_text
from layerhouse.ingest.folder_files import EVALUATION
from layerhouse.ingest.model_files import FoundModel, path_text
from layerhouse.ingest.result_files import ResultFiles
from layerhouse.ingest.results.model_lookup import Match, Models, name_alone
from layerhouse.ingest.results.nameless import NamelessFile, model_names
from layerhouse.ingest.results.native import HARNESS as NATIVE
from layerhouse.ingest.results.parsed import measure_id, run_id
from layerhouse.ingest.results.remarks import remarks
from layerhouse.version import RESULT_RULES_VERSION
from layerhouse.vocabulary import EventKind, LinkRule, SourceKind
from layerhouse.warehouse.storage.inventory import StoredResult

Row = dict[str, Any]

ADAPTER_FILE = "adapter_model"
"""What the weight file of a PEFT adapter is called, before its suffix."""


class _Names(NamedTuple):
    """What rows say of their model."""

    declared: str | None
    adapter: str | None
    revision: str | None


@dataclass(frozen=True)
class _Part:
    """The rows of a file about one model, none of them if they are stored. `owner` is the model that they are linked to."""

    result_id: str
    names: _Names
    rows: Sequence[Row]
    match: Match
    owner: str
    measures: frozenset[str] = frozenset()

    @property
    def is_nameless(self) -> bool:
        """Whether nothing says a model: neither the rows, nor where the file lies."""
        return self.match.model_id is None and not self.names.declared


@dataclass(frozen=True)
class _File:
    """A result file that was read."""

    path: Path
    file_id: str
    parts: Sequence[_Part]
    left_out: Sequence[str]


class ResultTaker:
    """Takes result files; `models` are those that results can be linked to."""

    def __init__(self, context: IngestContext, result_files: ResultFiles, models: Models) -> None:
        self._context, self._known = context, context.known
        self._result_files, self._models = result_files, models
        self._taken_files: set[str] = set()
        self._nameless: dict[str, list[StoredResult]] = {}
        for stored in self._known.waiting_results.values():
            if stored.rule == LinkRule.DECLARED and not stored.declared_model:
                self._nameless.setdefault(os.path.dirname(stored.source_uri), []).append(stored)  # noqa: PTH120 - text of a path

    def take(self, model: FoundModel, declared: Mapping[str, Any]) -> list[bool | None]:
        """For each result file of a model: True if its results were taken, None if the warehouse has them, False if they could
        not be read. `declared` is what the name of `model` declares, in whose folder the files lie.
        """
        files = [self._read(model, path) for path in model.result_files]
        files = self._with_names(model, files)
        return [self._take(model, file, declared) if isinstance(file, _File) else file for file in files]

    def take_stored(self) -> None:
        """Link results of earlier ingests to models that are there now: those for which there was none, those of an adapter
        that was none, and those that went with a dropped model. Results of files that were taken again are linked already.
        """
        found: dict[str, set[str]] = {}
        waiting = [stored for stored in self._known.waiting_results.values() if stored.source_uri not in self._taken_files]
        for stored in waiting:
            match = self._find_stored(stored)
            if match.model_id is not None and self._is_there(match.model_id):
                self._relink(stored, match, match.model_id)
                found.setdefault(match.model_id, set()).add(stored.source_uri)
            elif (
                stored.rule == LinkRule.DECLARED and stored.model_id in self._models.folders and self._is_there(stored.model_id)
            ):
                self._move_aside(stored)
        for dropped in self._known.dropped_results.values():
            for stored in dropped:
                if (owner := self._restored_owner(stored)) is not None:
                    self._relink(stored, Match(owner, stored.rule), owner)
                    found.setdefault(owner, set()).add(stored.source_uri)
        kind = EventKind.PLANNED if self._context.options.dry_run else EventKind.TAKEN
        for model_id, files in found.items():
            self._context.report_event(kind, model_id, f"{count_text(len(files), 'result file')} of earlier ingests")

    def _read(self, model: FoundModel, path: Path) -> _File | bool | None:
        """A file with its parts; None if the warehouse has it, False if it could not be read."""
        display_path = model.display_path(path)
        with self._context.taking(display_path, model.home):
            file_id, parsed = self._result_files.take(path, display_path)
            if parsed is None:
                return None
            by_names: dict[_Names, list[Row]] = {}
            for row in parsed.rows:
                by_names.setdefault(_Names(row["declared_model"], row["adapter"], row["revision"]), []).append(row)
            several = len({names.declared for names in by_names}) > 1
            parts = []
            for names, rows in by_names.items():
                result_id = file_id if len(by_names) == 1 else _part_id(file_id, names)
                match = self._find_model(model, path, names, rows[0]["harness"], names_several=several)
                owner = match.model_id or self._models.free_name(
                    name_alone(names.declared) if names.declared else model.model_id
                )
                part = _Part(result_id, names, [] if result_id in self._known.results else rows, match, owner)
                parts.append(replace(part, measures=frozenset(map(measure_id, rows))) if part.is_nameless else part)
            return _File(path, file_id, parts, (*parsed.left_out, *remarks(parsed.rows)))
        return False

    def _find_model(self, model: FoundModel, path: Path, names: _Names, harness: str, *, names_several: bool) -> Match:
        """The model that rows belong to: that which a user linked; the adapter that they name; that of the folder if they lie
        in its `evaluation/`, are of our own form, or lie beside weights or analyses; else the one that the file names. Where a
        file names several models, each has its rows.
        """
        by_hand = self._known.results_by_hand.get((path_text(path), *names))
        if by_hand is not None:
            return Match(by_hand, LinkRule.BY_HAND)
        is_adapter = any(file.name.startswith(ADAPTER_FILE) for file in model.weight_files)
        is_own = harness == NATIVE or EVALUATION in path.relative_to(model.folder).parts
        is_of_folder = is_own or model.weight_files or model.analysis_files or self._is_home(model)
        if is_of_folder and not (names_several and names.declared):
            match = Match(model.model_id, LinkRule.FOLDER, is_adapter=bool(names.adapter and is_adapter))
        else:
            match = self._models.find(names.declared, path, names.revision)
        return match if match.is_adapter else self._with_adapter(model, path, names, match)

    def _is_home(self, model: FoundModel) -> bool:
        """Whether a folder is that of a model with a structure in the warehouse, which is not looked at this time."""
        return self._models.by_folder.get(model.source_uri) == model.model_id

    def _with_adapter(self, model: FoundModel, path: Path, names: _Names, base: Match) -> Match:
        """The adapter that rows name, if it is a model; else the model under it."""
        by_adapter = self._find_adapter(names.adapter, base)
        if by_adapter.model_id is None and by_adapter.candidates:
            candidates = ", ".join(by_adapter.candidates)
            what = f"names the adapter {names.adapter!r}, which {candidates} could be; link it with: layerhouse link FILE MODEL"
            self._context.report_event(EventKind.PASSED, model.display_path(path), what)
        return base if by_adapter.model_id is None else by_adapter

    def _find_adapter(self, adapter: str | None, base: Match) -> Match:
        """The model of an adapter by its name or path. A path inside of the folder of the model under it is none."""
        match = self._models.find(adapter, Path()) if adapter else Match(None)
        is_base = match.model_id is not None and match.model_id == base.model_id
        return Match(None) if is_base else replace(match, is_adapter=True)

    def _with_names(self, model: FoundModel, files: Sequence[_File | bool | None]) -> list[_File | bool | None]:
        """The files, those without a name of a model with one: together with those of the folder that are stored, they are of
        one model or of several. Stored ones are linked to another name where they have that of the folder and should not.
        """
        parts = [(file, part) for file in files if isinstance(file, _File) for part in file.parts if part.is_nameless]
        if not parts:
            return [*files]
        given = {path_text(path) for path in model.result_files}
        stored = [result for result in self._nameless.get(model.source_uri, ()) if result.source_uri not in given]
        known = [self._known.waiting_results.get(part.result_id) for _, part in parts]
        nameless = [_nameless_file(file.path, part.measures, result) for (file, part), result in zip(parts, known, strict=True)]
        nameless += [_nameless_file(Path(result.source_uri), result.measures, result) for result in stored]
        given_names = model_names(nameless, model.model_id)
        names = [self._free_file_name(model, file, name) for file, name in zip(nameless, given_names, strict=True)]
        owners = {part.result_id: name for (_, part), name in zip(parts, names, strict=False)}
        for result, name in zip(stored, names[len(parts) :], strict=True):
            if name != result.model_id:
                self._relink(result, Match(None), name)
        new = [name for file, name in zip(nameless, names, strict=True) if name not in (file.model_id, model.model_id)]
        if new:
            what = (
                f"{count_text(len(new), 'file')} without the name of a model, where others of the folder measured the same: "
                f"each is a model of its own, such as {new[0]}; name its model with: layerhouse link FILE MODEL"
            )
            self._context.report_event(EventKind.PASSED, model.shown, what)
        return [_with_owners(file, owners) if isinstance(file, _File) else file for file in files]

    def _free_file_name(self, model: FoundModel, file: NamelessFile, name: str) -> str:
        """The name of a file's model; the whole name of the file in it, where a model with a structure has the short one."""
        if name in self._models.folders and name != model.model_id:
            name = f"{model.model_id}/{file.path.name}"
        return self._models.free_name(name)

    def _take(self, model: FoundModel, file: _File, declared: Mapping[str, Any]) -> bool | None:
        display_path = model.display_path(file.path)
        with self._context.taking(display_path, model.home):
            new = [part for part in file.parts if self._is_new(part) or part.result_id in self._known.stale_results]
            for part in new:
                self._report_candidates(model, file.path, part)
            if not new:
                return None
            if not self._context.options.dry_run:
                self._add(model, file, new, declared)
            for line in file.left_out:
                self._context.report_event(EventKind.PASSED, display_path, line)
            return True
        return False

    def _is_new(self, part: _Part) -> bool:
        """Whether rows are to be linked: the warehouse does not have them, or under another name. A name that a user gave to
        results without a model is kept.
        """
        if part.result_id not in self._known.models_by_result:
            return True
        stored = self._known.waiting_results.get(part.result_id)
        if stored is None:
            return False
        if part.match.model_id is not None:
            return stored.rule == LinkRule.DECLARED or part.match.is_adapter
        is_renamed = stored.model_id != stored.written_name and stored.model_id not in self._models.folders
        return stored.rule == LinkRule.DECLARED and part.owner != stored.model_id and not is_renamed

    def _add(self, model: FoundModel, file: _File, new: Sequence[_Part], declared: Mapping[str, Any]) -> None:
        """Add the new rows of one file, together, each linked to the model that it belongs to."""
        known, source_uri = self._known, path_text(file.path)
        results: list[Row] = []
        links: list[Row] = []
        linked = [part for part in new if self._is_new(part)]
        for part in new:
            for row in part.rows:
                row |= {"result_id": part.result_id, "source_uri": source_uri, "rules_version": RESULT_RULES_VERSION}
                row |= {"measure_id": measure_id(row), "run_id": run_id(row)}
                results.append(row)
        for part in linked:
            is_of_folder = part.match.rule == LinkRule.FOLDER or (part.is_nameless and part.owner == model.model_id)
            columns = declared if part.owner == model.model_id else name_declarations(declare(part.owner))
            link = _link(part.result_id, file.file_id, part.match, part.owner, source_uri)
            links.append({**columns, **link, "model_uri": model.source_uri if is_of_folder else None})
        self._context.batch.add({"results": results, "links": links})
        self._taken_files.add(source_uri)
        for part in new:
            known.results.add(part.result_id)
            known.stale_results.discard(part.result_id)
        for part in linked:
            self._note_link(part.result_id, part.owner, is_linked=part.match.model_id is not None)

    def _relink(self, stored: StoredResult, match: Match, owner: str) -> None:
        """Link stored rows to another model."""
        columns = stored.link or {
            **name_declarations(declare(owner)),
            "model_uri": self._models.folders[owner] if match.rule == LinkRule.FOLDER else None,
        }
        link = _link(stored.result_id, stored.file_id, match, owner, stored.source_uri)
        if not self._context.options.dry_run:
            with self._context.batch.owned_by(stored.source_uri):
                self._context.batch.add({"links": [{**link, **columns}]})
        self._note_link(stored.result_id, owner, is_linked=match.model_id is not None)

    def _note_link(self, result_id: str, owner: str, *, is_linked: bool) -> None:
        known = self._known
        known.models_by_result[result_id] = owner
        known.waiting_results.pop(result_id, None)
        (known.unlinked_results.discard if is_linked else known.unlinked_results.add)(result_id)

    def _find_stored(self, stored: StoredResult) -> Match:
        """The model of stored rows, by the rules for new ones; None where it is the one that they have."""
        path = Path(stored.source_uri)
        match = Match(stored.model_id)
        if stored.rule == LinkRule.DECLARED:
            home = self._models.by_folder.get(str(path.parent)) if not stored.declared_model else None
            match = Match(home, LinkRule.FOLDER) if home else self._models.find(stored.declared_model, path, stored.revision)
        by_adapter = self._find_adapter(stored.adapter, match)
        if by_adapter.model_id is not None:
            return by_adapter
        return match if stored.rule == LinkRule.DECLARED else Match(None)

    def _restored_owner(self, stored: StoredResult) -> str | None:
        """The model that gets back results which went with it when it was dropped: the one in its folder, or the one of its
        name where the folder is gone, if the results lay in it, or name it, or were linked to it by hand.
        """
        if stored.result_id in self._known.models_by_result or stored.source_uri in self._taken_files:
            return None
        folders = self._known.dropped_folders.get(stored.model_id, ())
        names = {self._models.by_folder.get(folder) for folder in folders}
        if stored.model_id in self._models.folders and not any(os.path.lexists(folder) for folder in folders):
            names.add(stored.model_id)
        owners = {name for name in names if name is not None and self._is_there(name)}
        if stored.rule in (LinkRule.BY_HAND, LinkRule.FOLDER):
            return min(owners) if len(owners) == 1 else None
        match = self._models.find(stored.declared_model, Path(stored.source_uri), stored.revision)
        by_adapter = self._find_adapter(stored.adapter, match)
        owner = by_adapter.model_id or match.model_id
        return owner if owner in owners else None

    def _is_there(self, model_id: str) -> bool:
        """Whether a model has been taken, now or earlier; a dry run takes none."""
        kinds = (SourceKind.WEIGHTS, SourceKind.ANALYSIS)
        return self._context.options.dry_run or any((model_id, kind) in self._known.sightings for kind in kinds)

    def _move_aside(self, stored: StoredResult) -> None:
        """Give results without a model another name than that of a model which came later."""
        owner = self._models.free_name(stored.model_id)
        what = f"nothing says that these results are of the model {stored.model_id} which is there now: they are {owner}"
        self._context.report_event(EventKind.PASSED, stored.source_uri, what)
        self._relink(stored, Match(None), owner)

    def _report_candidates(self, model: FoundModel, path: Path, part: _Part) -> None:
        match, named = part.match, part.names.declared
        if match.model_id is None and match.candidates:
            what = f"names {named!r}, which {', '.join(match.candidates)} could be; link it with: layerhouse link FILE MODEL"
            self._context.report_event(EventKind.PASSED, model.display_path(path), what)


def name_declarations(declaration: Declaration) -> Row:
    """The columns for what a model's name declares."""
    return {
        "method": declaration.method,
        "declared_ratio": declaration.ratio,
        "declared_removed_layers": declaration.removed_layers,
        "tags": declaration.tags,
    }


def _link(result_id: str, file_id: str | None, match: Match, owner: str, source_uri: str) -> Row:
    return {
        "result_id": result_id,
        "file_id": file_id,
        "model_id": owner,
        "rule": match.rule,
        "is_adapter": match.is_adapter,
        "source_uri": source_uri,
        "linked_at": datetime.now(UTC),
    }


def _nameless_file(path: Path, measures: frozenset[str], stored: StoredResult | None) -> NamelessFile:
    if stored is None:
        return NamelessFile(path, measures)
    return NamelessFile(path, measures, stored.model_id, is_name_kept=stored.model_id != stored.written_name)


def _with_owners(file: _File, owners: Mapping[str, str]) -> _File:
    return replace(file, parts=[replace(part, owner=owners.get(part.result_id, part.owner)) for part in file.parts])


def _part_id(file_id: str, names: _Names) -> str:
    """The id of one model's rows in a file of several."""
    further: Iterable[str | None] = () if names[1:] == (None, None) else names[1:]
    return hashlib.sha256("\0".join([file_id, str(names.declared), *map(str, further)]).encode()).hexdigest()
