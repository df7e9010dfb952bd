"""Take the result files of models: their rows, and which model they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.declarations.declare import Declaration, declare
from layerhouse.ingest.folder_files import EVALUATION
from layerhouse.ingest.model_files import FoundModel, path_text
from layerhouse.ingest.result_files import ResultFiles
from layerhouse.ingest.results.model_lookup import Match, Models, name_alone
from layerhouse.ingest.results.native import HARNESS as NATIVE
from layerhouse.ingest.results.parsed import measure_id, run_id
from layerhouse.ingest.results.remarks import remarks
from layerhouse.version import RESULT_RULES_VERSION
from layerhouse.vocabulary import EventKind, LinkRule

Row = dict[str, Any]


@dataclass(frozen=True)
class _NewResults:
    """The rows that a file has of one model, and their link, or None where it stays as it is; `is_linked` is false where no
    model was found for them."""

    result_id: str
    rows: Sequence[Row]
    link: Row | None
    is_linked: bool


class ResultTaker:
    """Takes result files; `models` are those that results can be linked to."""

    def __init__(self, context: IngestContext, result_files: ResultFiles, models: Models) -> None:
        self._context, self._known = context, context.known
        self._result_files, self._models = result_files, models

    def take(self, model: FoundModel, path: Path, declared: Mapping[str, Any]) -> bool | None:
        """True if the file's results were taken, None if the warehouse has them, False if they could not be read.

        `declared` is what the name of `model` declares, in whose folder the file lies.
        """
        display_path = model.display_path(path)
        with self._context.taking(display_path, model.home):
            return self._take(model, path, display_path, declared)
        return False

    def _take(self, model: FoundModel, path: Path, display_path: str, declared: Mapping[str, Any]) -> bool | None:
        file_id, parsed = self._result_files.take(path, display_path)
        if parsed is None:
            return None
        by_model: dict[str | None, list[Row]] = {}
        for row in parsed.rows:
            by_model.setdefault(row["declared_model"], []).append(row)
        names_several = len(by_model) > 1
        new: list[_NewResults] = []
        is_any_new = False
        for name, rows in by_model.items():
            match = self._find_model(model, path, rows[0], names_several=names_several)
            result_id = _part_id(file_id, name) if names_several else file_id
            model_id = self._new_owner(model, path, result_id, rows[0]["declared_model"], match)
            if model_id is not None:
                is_any_new = True
                link = self._link(model, path, model_id, declared, match)
                new.append(_NewResults(result_id, rows, link, is_linked=match.model_id is not None))
            elif result_id in self._known.stale_results:
                is_any_new = True
                new.append(_NewResults(result_id, rows, None, is_linked=True))
        if not is_any_new:
            return None
        if not self._context.options.dry_run:
            self._add(new, path_text(path))
        for line in (*parsed.left_out, *remarks(parsed.rows)):
            self._context.report_event(EventKind.PASSED, display_path, line)
        return True

    def _new_owner(self, model: FoundModel, path: Path, result_id: str, named: str | None, match: Match) -> str | None:
        """The model that rows of a file are to be linked to; None if the warehouse has that link."""
        known = self._known
        linked = known.models_by_result.get(result_id)
        if linked is not None and result_id not in known.unlinked_results:
            return None
        self._report_candidates(model, path, named, match)
        model_id = match.model_id or (name_alone(named) if named else model.model_id)
        return None if linked == model_id and match.model_id is None else model_id

    @staticmethod
    def _link(model: FoundModel, path: Path, model_id: str, declared: Mapping[str, Any], match: Match) -> Row:
        return {
            **(declared if model_id == model.model_id else name_declarations(declare(model_id))),
            "model_id": model_id,
            "rule": match.rule,
            "source_uri": path_text(path),
            "model_uri": model.source_uri if match.rule == LinkRule.FOLDER else None,
            "linked_at": datetime.now(UTC),
        }

    def _add(self, new: Sequence[_NewResults], source_uri: str) -> None:
        """Add the new rows of one file, together, each linked to the model that it belongs to."""
        known = self._known
        results: list[Row] = []
        for part in new:
            for row in [] if part.result_id in known.results else part.rows:
                row |= {"result_id": part.result_id, "source_uri": source_uri, "rules_version": RESULT_RULES_VERSION}
                row |= {"measure_id": measure_id(row), "run_id": run_id(row)}
                results.append(row)
        links = [part.link | {"result_id": part.result_id} for part in new if part.link is not None]
        self._context.batch.add({"results": results, "links": links})
        for part in new:
            known.results.add(part.result_id)
            known.stale_results.discard(part.result_id)
            if part.link is None:
                continue
            known.models_by_result[part.result_id] = part.link["model_id"]
            known.unlinked_results.discard(part.result_id)
            if not part.is_linked:
                known.unlinked_results.add(part.result_id)

    def _find_model(self, model: FoundModel, path: Path, row: Row, *, names_several: bool) -> Match:
        """The model that results belong to: that of the folder if they lie in its `evaluation/`, are of our own form, or lie
        beside weights or analyses; else the one that the file names. Where a file names several models, each has its rows.
        """
        is_own = row["harness"] == NATIVE or EVALUATION in path.relative_to(model.folder).parts
        is_of_folder = is_own or model.weight_files or model.analysis_files
        if is_of_folder and not (names_several and row["declared_model"]):
            return Match(model.model_id, LinkRule.FOLDER)
        return self._models.find(row["declared_model"], path)

    def _report_candidates(self, model: FoundModel, path: Path, named: str | None, match: Match) -> None:
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


def _part_id(file_id: str, declared_model: str | None) -> str:
    """The id of one model's rows in a file of several."""
    return hashlib.sha256(f"{file_id}\0{declared_model}".encode()).hexdigest()
