"""Take the analysis files of models: checkpoints and layers as older scripts counted them, and the bases that they name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.model_files import FoundModel, path_text
from layerhouse.ingest.study.analyses import AnalysisRows, Base, Parsed, combine, read_file
from layerhouse.ingest.study.file_names import ORIGINAL_NAME
from layerhouse.ingest.study.structures import Structure
from layerhouse.vocabulary import EventKind, SourceKind, StatsLevel
from layerhouse.warehouse.storage.inventory import Sighting

Row = dict[str, Any]


class AnalysisTaker:
    """Takes analysis files. The bases that they describe are gathered before the first model is taken, so that a model with a
    comparison alone finds its base in whatever order the models come.
    """

    def __init__(self, context: IngestContext) -> None:
        self._context, self._known = context, context.known
        self._originals: dict[Path, Structure | None] = {}
        self._bases: dict[tuple[str | None, int], dict[str, Base]] = {
            key: {base.checkpoint_id: Base(base.checkpoint_id, base.num_layers, None) for base in bases}
            for key, bases in self._known.bases.items()
        }
        self._written_bases = {checkpoint_id for bases in self._bases.values() for checkpoint_id in bases}

    def gather_base(self, model: FoundModel) -> None:
        """Remember the base that a model's files describe; a file that cannot be read is reported when it is taken."""
        path = next((path for path in model.analysis_files if path.name == ORIGINAL_NAME), None)
        if path is None:
            return
        try:
            structure = read_file(path, path_text(path))
        except InputError:
            return
        assert isinstance(structure, Structure)
        base = Base(structure.structure_id, structure.num_layers, structure)
        bases = self._bases.setdefault((structure.name, structure.params), {})
        self._originals[path] = bases.setdefault(base.checkpoint_id, base).structure

    def take(self, model: FoundModel, fingerprint: str, declared: Mapping[str, Any]) -> bool:
        """Add to the batch what a model's analysis files say. False where a file is broken, which is reported."""
        rows = self._read(model)
        if rows is None or self._context.options.dry_run:
            return rows is not None
        sighted = {"source_uri": model.source_uri, "fingerprint": fingerprint}
        checkpoints = [{**rows.checkpoint, **declared, **sighted, "model_id": model.model_id}]
        if rows.base_checkpoint is not None and rows.base_checkpoint["checkpoint_id"] not in self._written_bases:
            checkpoints.append({**rows.base_checkpoint, "source_uri": model.source_uri})
            self._written_bases.add(rows.base_checkpoint["checkpoint_id"])
        self._context.batch.add(
            {"checkpoints": checkpoints, "layers": self._new_layers(rows), "layer_matches": self._new_matches(rows)}
        )
        self._known.checkpoints.update(row["checkpoint_id"] for row in checkpoints)
        self._known.sightings[model.model_id, SourceKind.ANALYSIS] = Sighting(
            fingerprint, StatsLevel.NONE, rows.checkpoint["checkpoint_id"], rows.checkpoint["params"]
        )
        return True

    def _read(self, model: FoundModel) -> AnalysisRows | None:
        """The rows that a model's files give together; None where one is broken. Every broken file is reported."""
        parsed: dict[str, Parsed] = {}
        errors: list[InputError] = []
        for path in model.analysis_files:
            try:
                parsed[path.name] = self._originals.get(path) or read_file(path, model.display_path(path))
            except InputError as error:
                errors.append(error)
        if not errors:
            try:
                return combine(parsed, model.model_id, self._find_base)
            except InputError as error:
                errors.append(error)
        for broken in errors:
            self._context.report_event(EventKind.FAILED, broken.where, broken.what)
        return None

    def _find_base(self, name: str | None, params: int) -> Base | None:
        """The one base of that name and size; None where there is none, or several that differ."""
        bases = self._bases.get((name, params), {}) if name is not None else {}
        return next(iter(bases.values())) if len(bases) == 1 else None

    def _new_layers(self, rows: AnalysisRows) -> list[Row]:
        return [row for row in (*rows.layers, *rows.base_layers) if row["checkpoint_id"] not in self._known.checkpoints]

    def _new_matches(self, rows: AnalysisRows) -> list[Row]:
        pairs = {(row["checkpoint_id"], row["base_checkpoint_id"]) for row in rows.layer_matches}
        new = {pair for pair in pairs if self._known.comparisons.get(pair[0]) != pair[1]}
        self._known.comparisons |= dict(new)
        return [row for row in rows.layer_matches if (row["checkpoint_id"], row["base_checkpoint_id"]) in new]
