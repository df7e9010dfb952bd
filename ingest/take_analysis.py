"""Take the analysis files of models: checkpoints and layers as older scripts counted them, and the bases that they name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.file_door import Identity, identity_of
from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.model_files import FoundModel, Identities, path_text, read_whole
from layerhouse.ingest.model_files import fingerprint as fingerprint_of_identities
from layerhouse.ingest.study.analyses import AnalysisRows, Base, Parsed, combine, read_file
from layerhouse.ingest.study.file_names import ORIGINAL_NAME
from layerhouse.ingest.study.structures import Structure
from layerhouse.vocabulary import SourceKind, StatsLevel
from layerhouse.warehouse.storage.inventory import Sighting

Row = dict[str, Any]


class AnalysisTaker:
    """Takes analysis files. The bases that they describe are gathered before the first model is taken, so that a model with a
    comparison alone finds its base in whatever order the models come.
    """

    def __init__(self, context: IngestContext) -> None:
        self._context, self._known = context, context.known
        self._originals: dict[Path, tuple[Identity | None, Structure | None]] = {}
        """What the analyses of bases hold that were read already, and the identities of the files that were read."""
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
        identity = identity_of(path)
        try:
            structure = read_file(path, path_text(path))
        except InputError:
            return
        assert isinstance(structure, Structure)
        base = Base(structure.structure_id, structure.num_layers, structure)
        bases = self._bases.setdefault((structure.name, structure.params), {})
        self._originals[path] = identity, bases.setdefault(base.checkpoint_id, base).structure

    def take(self, model: FoundModel, declared: Mapping[str, Any]) -> bool:
        """Add to the batch what a model's analysis files say. False where a file is broken, which is reported."""
        with read_whole(lambda: model.analysis_files, model.display_path) as identities:
            rows, errors = self._read(model, identities)
        for broken in errors:
            self._context.fail(broken)
        if rows is None or self._context.options.dry_run:
            return rows is not None
        fingerprint = fingerprint_of_identities(identities)
        sighted = {"source_uri": model.source_uri, "fingerprint": fingerprint}
        checkpoints = [{**rows.checkpoint, **declared, **sighted, "model_id": model.model_id}]
        if rows.base_checkpoint is not None and rows.base_checkpoint["checkpoint_id"] not in self._written_bases:
            checkpoints.append({**rows.base_checkpoint, "source_uri": model.source_uri})
        matches = self._new_matches(rows)
        self._context.batch.add({"checkpoints": checkpoints, "layers": self._new_layers(rows), "layer_matches": matches})
        self._written_bases.update(row["checkpoint_id"] for row in checkpoints[1:])
        self._known.comparisons |= {row["checkpoint_id"]: row["base_checkpoint_id"] for row in matches}
        self._known.checkpoints.update(row["checkpoint_id"] for row in checkpoints)
        self._known.sightings[model.model_id, SourceKind.ANALYSIS] = Sighting(
            fingerprint, StatsLevel.NONE, rows.checkpoint["checkpoint_id"], rows.checkpoint["params"]
        )
        return True

    def _read(self, model: FoundModel, identities: Identities) -> tuple[AnalysisRows | None, list[InputError]]:
        """The rows that a model's files give together, None where one is broken; and the errors of all that are."""
        parsed: dict[str, Parsed] = {}
        errors: list[InputError] = []
        for path in model.analysis_files:
            identity, original = self._originals.get(path, (None, None))
            try:
                is_read = original is not None and identity == identities[path]
                parsed[path.name] = original if original and is_read else read_file(path, model.display_path(path))
            except InputError as error:
                errors.append(error)
        if not errors:
            try:
                return combine(parsed, model.shown, self._find_base), []
            except InputError as error:
                errors.append(error)
        return None, errors

    def _find_base(self, name: str | None, params: int) -> Base | None:
        """The one base of that name and size; None where there is none, or several that differ."""
        bases = self._bases.get((name, params), {}) if name is not None else {}
        return next(iter(bases.values())) if len(bases) == 1 else None

    def _new_layers(self, rows: AnalysisRows) -> list[Row]:
        return [row for row in (*rows.layers, *rows.base_layers) if row["checkpoint_id"] not in self._known.checkpoints]

    def _new_matches(self, rows: AnalysisRows) -> list[Row]:
        pairs = {(row["checkpoint_id"], row["base_checkpoint_id"]) for row in rows.layer_matches}
        new = {pair for pair in pairs if self._known.comparisons.get(pair[0]) != pair[1]}
        return [row for row in rows.layer_matches if (row["checkpoint_id"], row["base_checkpoint_id"]) in new]
