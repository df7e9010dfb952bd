"""Take the result files of models: their rows, and which model they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.declarations.declare import Declaration, declare
from layerhouse.ingest.discover import EVALUATION
from layerhouse.ingest.model_files import FoundModel, path_text
from layerhouse.ingest.result_files import ResultFiles
from layerhouse.ingest.results.model_lookup import Match, Models, name_alone
from layerhouse.ingest.results.native import HARNESS as NATIVE
from layerhouse.ingest.results.parsed import measure_id
from layerhouse.vocabulary import EventKind, LinkRule

Row = dict[str, Any]


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
        try:
            file_id, parsed = self._result_files.take(path, display_path)
        except InputError as error:
            self._context.report_event(EventKind.FAILED, display_path, error.what)
            return False
        if parsed is None:
            return None
        by_model: dict[str | None, list[Row]] = {}
        for row in parsed.rows:
            by_model.setdefault(row["declared_model"], []).append(row)
        names_several = len(by_model) > 1
        outcomes = []
        for name, rows in by_model.items():
            match = self._find_model(model, path, rows[0], names_several=names_several)
            outcomes.append(
                self._add(model, path, _part_id(file_id, name) if names_several else file_id, rows, declared, match)
            )
        if not any(outcomes):
            return None
        for line in parsed.left_out:
            self._context.report_event(EventKind.PASSED, display_path, line)
        return True

    def _add(
        self,
        model: FoundModel,
        path: Path,
        result_id: str,
        rows: Sequence[Row],
        declared: Mapping[str, Any],
        match: Match,
    ) -> bool:
        """Add the rows that a file has of one model, linked to the model that they belong to; False if nothing is new."""
        known = self._known
        linked = known.models_by_result.get(result_id)
        if linked is not None and result_id not in known.unlinked_results:
            return False
        named = rows[0]["declared_model"]
        self._report_candidates(model, path, named, match)
        model_id = match.model_id or (name_alone(named) if named else model.model_id)
        if linked == model_id and match.model_id is None:
            return False
        if self._context.options.dry_run:
            return True
        link: Row = {
            **(declared if model_id == model.model_id else name_declarations(declare(model_id))),
            "result_id": result_id,
            "model_id": model_id,
            "rule": match.rule,
            "source_uri": path_text(path),
            "model_uri": model.source_uri if match.rule == LinkRule.FOLDER else None,
            "linked_at": datetime.now(UTC),
        }
        new_rows = [] if result_id in known.results else rows
        for row in new_rows:
            row |= {"result_id": result_id, "source_uri": path_text(path), "measure_id": measure_id(row)}
        self._context.batch.add({"results": new_rows, "links": [link]})
        known.results.add(result_id)
        known.models_by_result[result_id] = model_id
        known.unlinked_results.discard(result_id)
        if match.model_id is None:
            known.unlinked_results.add(result_id)
        return True

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
