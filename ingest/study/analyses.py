"""A model's analysis files -> the rows that its weights would give: a checkpoint, its layers, its base, which block is which.

What the files do not state stays null, such as the removed blocks where no `layers_to_remove.json` names them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.notes import Note
from layerhouse.ingest.declarations.declare import declare
from layerhouse.ingest.study.compared_models import base_structure, pruned_structure
from layerhouse.ingest.study.disagreements import comparison_disagreements, file_disagreements, sum_disagreements
from layerhouse.ingest.study.file_names import COMPARISON_NAMES, ORIGINAL_NAME, REMOVAL_NAME, STRUCTURE_NAMES
from layerhouse.ingest.study.known_bases import name_end
from layerhouse.ingest.study.layer_map import match_layers
from layerhouse.ingest.study.removal_list import Removal, read_removal
from layerhouse.ingest.study.same_layers import are_same, num_facts
from layerhouse.ingest.study.structure_rows import checkpoint_row, layer_rows
from layerhouse.ingest.study.structures import Comparison, Structure, read_comparison, read_structure
from layerhouse.vocabulary import CheckpointStatus

Row = dict[str, Any]
Parsed = Structure | Comparison | Removal
"""What one analysis file holds."""


@dataclass(frozen=True)
class Base:
    """The checkpoint that a model is compared with.

    `status` is partial if only a comparison describes the base. `names` are all that files call it. `is_known` says that its
    rows are in the warehouse, or among those of another model.
    """

    checkpoint_id: str
    structure: Structure
    status: str = CheckpointStatus.OK
    names: frozenset[str] = frozenset()
    is_known: bool = False


FindBase = Callable[[Structure], Base | None]
"""The base that a structure describes, as it is known from other files and models; None if it is not."""


@dataclass(frozen=True)
class AnalysisRows:
    """The rows of one model's analysis files, by table. The caller adds model_id, source, fingerprint and declarations."""

    checkpoint: Row
    layers: tuple[Row, ...]
    layer_matches: tuple[Row, ...]
    base_checkpoint: Row | None
    base_layers: tuple[Row, ...]


def read_file(path: Path, display_path: str) -> Parsed:
    """What one analysis file holds, by its name. Raises InputError, which names the file and the key."""
    document = read_json(path, display_path)[1]
    if path.name in COMPARISON_NAMES:
        return read_comparison(document, display_path)
    if path.name == REMOVAL_NAME:
        return read_removal(document, display_path)
    structure = read_structure(document, display_path)
    if path.name == ORIGINAL_NAME:
        _check_base_indices(structure, display_path)
    return structure


def described_base(parsed: Mapping[str, Parsed]) -> tuple[Structure, str] | None:
    """The base that the files of a model describe, and the status of its checkpoint; None if they describe none."""
    files = _ModelFiles.of(parsed)
    structure = files.described_base()
    if structure is None:
        return None
    return structure, files.base_status


def own_structure(parsed: Mapping[str, Parsed]) -> Structure | None:
    """The model's structure if its files describe it alone, and no base."""
    files = _ModelFiles.of(parsed)
    return next(iter(files.structures.values()), None) if files.described_base() is None else None


def combine(
    parsed: Mapping[str, Parsed], display_name: str, find_base: FindBase, named_base: Base | None = None
) -> AnalysisRows:
    """The rows of a model whose analysis files, by name, hold `parsed`; `display_name` is the model's name for messages.

    `named_base` is the base if the files describe none. Raises InputError if no file describes the model itself, or if one
    names blocks that its base cannot have.
    """
    files = _ModelFiles.of(parsed)
    pruned = files.pruned_structure(display_name)
    base = files.base(find_base) or named_base
    notes = files.disagreements(pruned)
    declared = files.declared()
    if base is not None and not base.is_known:
        _check_base_indices(base.structure, f"{display_name}: {', '.join(files.comparisons)}")
    if base is not None and files.is_base_itself(pruned, base, display_name):
        return _own_rows(pruned, base, notes, declared)
    matches: list[Row] = []
    if base is not None:
        matches, match_notes = match_layers([layer.index for layer in pruned.layers], base.structure.num_layers, files.removal)
        notes += match_notes
    checkpoint_id = pruned.structure_id if base is None else _checkpoint_id(pruned, base, declared)
    checkpoint = checkpoint_row(pruned, checkpoint_id, CheckpointStatus.OK, notes)
    checkpoint["declared"] = json.dumps(declared, sort_keys=True) if declared else None
    checkpoint["declared_base"] = files.base_name()
    ids = {"checkpoint_id": checkpoint_id, "base_checkpoint_id": base.checkpoint_id if base else None}
    base_checkpoint, base_layers = _base_rows(base, files.base_name())
    return AnalysisRows(
        checkpoint=checkpoint,
        layers=layer_rows(pruned, checkpoint_id),
        layer_matches=tuple({**ids, **match} for match in matches),
        base_checkpoint=base_checkpoint,
        base_layers=base_layers,
    )


@dataclass(frozen=True)
class _ModelFiles:
    """The analysis files of one model by kind; of structures and comparisons the first counts."""

    structures: dict[str, Structure]
    comparisons: dict[str, Comparison]
    original: Structure | None
    removal: Removal | None

    @staticmethod
    def of(parsed: Mapping[str, Parsed]) -> _ModelFiles:
        original, removal = parsed.get(ORIGINAL_NAME), parsed.get(REMOVAL_NAME)
        assert original is None or isinstance(original, Structure)
        assert removal is None or isinstance(removal, Removal)
        return _ModelFiles(
            {name: item for name in STRUCTURE_NAMES if isinstance(item := parsed.get(name), Structure)},
            {name: item for name in COMPARISON_NAMES if isinstance(item := parsed.get(name), Comparison)},
            original,
            removal,
        )

    @property
    def comparison(self) -> Comparison | None:
        return next(iter(self.comparisons.values()), None)

    def pruned_structure(self, display_name: str) -> Structure:
        """The model itself: its own analysis, else the pruned side of the comparison."""
        if self.structures:
            return next(iter(self.structures.values()))
        if self.comparison is not None:
            return pruned_structure(self.comparison)
        names = [ORIGINAL_NAME] * (self.original is not None) + [REMOVAL_NAME] * (self.removal is not None)
        raise InputError(display_name, f"no structure of the model itself in {', '.join(sorted(names))}")

    def base(self, find_base: FindBase) -> Base | None:
        """The base that the files describe, by what its layers are; None if they describe none."""
        structure = self.described_base()
        if structure is None:
            return None
        names = frozenset({structure.name} if structure.name else ())
        return find_base(structure) or Base(structure.structure_id, structure, self.base_status, names)

    @property
    def base_status(self) -> str:
        """Whether the base is described as a whole."""
        return CheckpointStatus.OK if self.original is not None else CheckpointStatus.PARTIAL

    def described_base(self) -> Structure | None:
        """The base as the files describe it: by its own analysis, else as the comparison lists it."""
        if self.original is not None or self.comparison is None:
            return self.original
        return base_structure(self.comparison, self.removal.original_num_layers if self.removal else None)

    def is_base_itself(self, pruned: Structure, base: Base, display_name: str) -> bool:
        """Whether the model is the base, compared with itself: it has the layers of the base, and a name of it.

        Layers alone do not tell, as a model with values set to zero has all layers of its base; nor does a name below a folder
        that names a method.
        """
        if (self.removal is not None and self.removal.layers) or not are_same(pruned, base.structure):
            return False
        if any(declare(folder).method is not None for folder in display_name.split("/")):
            return False
        names = {name_end(name) for name in (*base.names, self.base_name()) if name}
        return bool(names & {name_end(name) for name in (pruned.name, display_name) if name})

    def base_name(self) -> str | None:
        """The name that the files give to the base."""
        compared_name = self.comparison.original.name if self.comparison else None
        return compared_name or (self.original.name if self.original else None)

    def declared(self) -> Row:
        """Names and removed blocks as the files state them."""
        declared: Row = {}
        if self.comparison is not None:
            declared |= {"original_name": self.comparison.original.name, "pruned_name": self.comparison.pruned.name}
        if self.removal is not None:
            declared["layers_to_remove"] = list(self.removal.layers)
            declared["original_num_layers"] = self.removal.original_num_layers
        return declared

    def disagreements(self, pruned: Structure) -> list[Note]:
        notes = [*file_disagreements(self.structures), *file_disagreements(self.comparisons)]
        if self.comparison is not None:
            notes += comparison_disagreements(pruned, self.comparison, self.original)
        return notes + sum_disagreements(pruned)


def _check_base_indices(base: Structure, display_path: str) -> None:
    """Raise InputError if the blocks of a base are not numbered from 0, as layers of other models are matched to their
    numbers."""
    if base.num_layers is not None and base.layers and base.layers[-1].index >= base.num_layers:
        place = f"layer_idx {base.layers[-1].index} of a base of {base.num_layers} layers"
        raise InputError(display_path, f"layers: {place} (0 is the first)")


def _base_rows(base: Base | None, name: str | None) -> tuple[Row | None, tuple[Row, ...]]:
    """The base's own rows; of a known base none but one for a further name."""
    if base is None or (base.is_known and (name is None or name in base.names)):
        return None, ()
    structure = replace(base.structure, name=name) if base.is_known else base.structure
    layers = () if base.is_known else layer_rows(base.structure, base.checkpoint_id)
    return checkpoint_row(structure, base.checkpoint_id, base.status, []), layers


def _own_rows(pruned: Structure, base: Base, notes: list[Note], declared: Row) -> AnalysisRows:
    """The rows of a model that is a base, compared with itself: its checkpoint is that of the base, which others have."""
    fullest = max(base.structure, pruned, key=num_facts)
    checkpoint = checkpoint_row(replace(fullest, name=pruned.name), base.checkpoint_id, CheckpointStatus.OK, notes)
    checkpoint["declared"] = json.dumps(declared, sort_keys=True) if declared else None
    layers = () if base.is_known else layer_rows(fullest, base.checkpoint_id)
    return AnalysisRows(checkpoint, layers, (), None, ())


def _checkpoint_id(pruned: Structure, base: Base, declared: Mapping[str, Any]) -> str:
    text = json.dumps([pruned.structure_id, base.checkpoint_id, declared], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
