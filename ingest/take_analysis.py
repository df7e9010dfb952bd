"""Take the analysis files of models: checkpoints and layers as older scripts counted them, and the bases that they name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.file_door import Identity, identity_of
from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.model_files import FoundModel, Identities, path_text, read_whole
from layerhouse.ingest.model_files import fingerprint as fingerprint_of_identities
from layerhouse.ingest.study.analyses import (
    AnalysisRows,
    Base,
    Parsed,
    combine,
    described_base,
    own_structure,
    read_file,
)
from layerhouse.ingest.study.file_names import COMPARISON_NAMES, ORIGINAL_NAME, REMOVAL_NAME, STRUCTURE_NAMES
from layerhouse.ingest.study.known_bases import KnownBase, KnownBases, name_end
from layerhouse.ingest.study.layer_map import match_layers
from layerhouse.ingest.study.removal_list import Removal
from layerhouse.ingest.study.structures import Layer, Structure
from layerhouse.vocabulary import EventKind, SourceKind, Stack, StatsLevel
from layerhouse.warehouse.storage.inventory import Sighting, StoredBase
from layerhouse.warehouse.storage.reading import read_rows

Row = dict[str, Any]
MOST_READ_AHEAD = 2000
"""Files of which the content is kept from when bases were gathered until their models are taken."""
LAYER_COLUMNS = (
    "stack",
    "layer_index",
    "params",
    "attention_params",
    "mlp_params",
    "norm_params",
    "role_params",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
)


class StudyBases:
    """The bases of analyses: those of the warehouse, and those that are met."""

    def __init__(self, context: IngestContext) -> None:
        self._context, self._known = context, context.known
        self._models: dict[str, tuple[str, int]] = {}
        """The checkpoints, and their parameters, of models that analyses of this ingest describe alone."""
        self._bases = KnownBases(self._load_layers)
        used = {*self._known.comparisons.values()}
        for stored in self._known.bases:
            self._bases.add(_known_base(stored, is_base=stored.checkpoint_id in used))

    def add_described(self, structure: Structure, status: str) -> None:
        """Add a base that the files of another model describe."""
        names = frozenset({structure.name} if structure.name else ())
        self._bases.add(KnownBase(structure.structure_id, structure, status, names))

    def add_model(self, model_id: str, structure: Structure) -> None:
        """Add a model that its files describe without a base, as it may be the base of others."""
        names, models = frozenset({structure.name} if structure.name else ()), frozenset({model_id})
        self._bases.add(KnownBase(structure.structure_id, structure, names=names, models=models, is_described=False))
        self._models[model_id] = structure.structure_id, structure.params

    def find(self, structure: Structure) -> KnownBase | None:
        """The known base that a structure describes."""
        return self._bases.find(structure)

    def model_base(self, model_id: str) -> KnownBase | None:
        """A model as the base of others: its weights, or what its analysis describes; None if it has a base itself."""
        weights = self._known.sightings.get((model_id, SourceKind.WEIGHTS))
        analysis = self._known.sightings.get((model_id, SourceKind.ANALYSIS))
        place = self._models.get(model_id)
        if weights is not None and weights.params is not None:
            place = weights.checkpoint_id, weights.params
            if self._bases.by_id(*place) is None:
                self._add_weights(model_id, *place)
        elif analysis is not None and analysis.params is not None:
            place = analysis.checkpoint_id, analysis.params
        return None if place is None else self._bases.by_id(*place)

    def _add_weights(self, model_id: str, checkpoint_id: str, params: int) -> None:
        """Add a model whose weights are in the warehouse, or were read just now."""
        structure = Structure(model_id, params, None, tuple(self._load_layers([checkpoint_id]).get(checkpoint_id, ())), None)
        structure = replace(structure, num_layers=len(structure.layers))
        names = models = frozenset({model_id})
        self._bases.add(KnownBase(checkpoint_id, structure, names=names, models=models, is_stored=True, is_described=False))

    def mark_written(self, row: Row, model_id: str | None = None) -> None:
        """Know from now on that the row of a base is written, which may be that of a model."""
        name = row["declared_name"]
        self._bases.add(
            KnownBase(
                row["checkpoint_id"],
                Structure(name, row["params"], row["layer_params"], (), row["num_layers"]),
                names=frozenset({name} if name else ()),
                models=frozenset({model_id} if model_id else ()),
                is_stored=True,
                is_listed=False,
                is_described=model_id is None,
            )
        )

    def settle(self) -> None:
        """Compare analyses with the base that their base has turned out to be: one whose files came later, or tell more.

        A described base that has no rows of its own models left stays in the warehouse, and is no base of any model.
        """
        children: dict[str, list[str]] = {}
        for checkpoint_id, base_id in self._known.comparisons.items():
            children.setdefault(base_id, []).append(checkpoint_id)
        self._add_new_weights()
        for base in [*self._bases.described()]:
            found = self._bases.find(base.structure) if base.checkpoint_id in children else None
            if found is not None and found.checkpoint_id != base.checkpoint_id and found.is_stored:
                self._compare_again(children[base.checkpoint_id], found)

    def compare_with(self, base_name: str, model_ids: Sequence[str]) -> None:
        """Compare models whose analyses are in the warehouse, and that have no base and are none, with one that was named."""
        base = self.model_base(base_name)
        bases = {*self._known.comparisons.values()}
        due = []
        for model_id in model_ids:
            sighting = self._known.sightings.get((model_id, SourceKind.ANALYSIS))
            if base is None or sighting is None or (model_id, SourceKind.WEIGHTS) in self._known.sightings:
                continue
            checkpoint_id = sighting.checkpoint_id
            is_alone = checkpoint_id not in self._known.comparisons and checkpoint_id not in bases
            if is_alone and checkpoint_id != base.checkpoint_id and self._fits(model_id, checkpoint_id, base):
                due.append(checkpoint_id)
        if base is not None and due:
            self._compare_again([*dict.fromkeys(due)], base)

    def _fits(self, model_id: str, checkpoint_id: str, base: KnownBase) -> bool:
        """Whether a model may be one of a base, by its number of layers; if not, that is reported."""
        count = len(self._load_layers([checkpoint_id]).get(checkpoint_id, ()))
        if reason := misfit_text(count, base):
            self._context.report_event(EventKind.PASSED, model_id, reason)
        return not reason

    def _add_new_weights(self) -> None:
        """Add models whose weights were taken in this ingest, and that may be a base of analyses."""
        for (model_id, kind), sighting in self._known.sightings.items():
            base_id = self._known.comparisons.get(sighting.checkpoint_id, sighting.checkpoint_id)
            if kind != SourceKind.WEIGHTS or sighting.params is None or base_id != sighting.checkpoint_id:
                continue
            if self._bases.has_described(sighting.params) and not self._bases.by_id(sighting.checkpoint_id, sighting.params):
                self._add_weights(model_id, sighting.checkpoint_id, sighting.params)

    def _compare_again(self, checkpoint_ids: Sequence[str], base: KnownBase) -> None:
        """Match the layers of checkpoints with those of a base, in a later commit than that of their comparison before."""
        self._context.batch.flush()
        layers = self._load_layers(checkpoint_ids)
        rows: list[Row] = []
        for checkpoint_id in checkpoint_ids:
            removed, count = self._known.removals.get(checkpoint_id, (None, None))
            removal = None if removed is None else Removal(tuple(removed), count)
            indices = [layer.index for layer in layers.get(checkpoint_id, ())]
            matches, _ = match_layers(indices, base.structure.num_layers, removal)
            ids = {"checkpoint_id": checkpoint_id, "base_checkpoint_id": base.checkpoint_id}
            rows += [{**ids, **match} for match in matches]
            self._known.comparisons[checkpoint_id] = base.checkpoint_id
        self._context.batch.add({"layer_matches": rows})

    def _load_layers(self, checkpoint_ids: Collection[str]) -> dict[str, list[Layer]]:
        batch = self._context.batch
        if batch.holds("layers"):
            batch.flush()
        rows = read_rows(self._context.store_root, "layers", checkpoint_ids, LAYER_COLUMNS)
        return {checkpoint_id: _main_layers(layers) for checkpoint_id, layers in rows.items()}


def misfit_text(num_layers: int, base: KnownBase) -> str:
    """Why a model with so many layers cannot be one of a base; empty if it can."""
    base_layers = base.structure.num_layers
    if base_layers is None or num_layers <= base_layers:
        return ""
    name = next(iter(sorted(base.models or base.names)), "its base")
    return f"not compared with {name}: base does not fit: {num_layers} vs {base_layers} layers"


def _known_base(stored: StoredBase, *, is_base: bool) -> KnownBase:
    """A base of the warehouse, the layers of which are not read yet. Of weights, embedding and head are left out: analyses
    count tied ones in another way."""
    is_analysis = stored.source_kind == SourceKind.ANALYSIS
    structure = Structure(
        stored.name or stored.model_id,
        stored.params,
        stored.layer_params,
        (),
        stored.num_layers,
        stored.embedding_params if is_analysis else None,
        stored.lm_head_params if is_analysis else None,
    )
    return KnownBase(
        stored.checkpoint_id,
        structure,
        stored.status,
        frozenset(name for name in (stored.name, stored.model_id) if name),
        frozenset({stored.model_id} if stored.model_id else ()),
        is_base=is_base,
        is_stored=True,
        is_listed=False,
        is_described=stored.model_id is None,
    )


def _main_layers(rows: Sequence[Row]) -> list[Layer]:
    """The layers of the stack that stands for a model, as analyses describe them."""
    stacks = [str(stack) for stack in Stack]
    main = min((row["stack"] for row in rows), key=stacks.index, default=None)
    layers = [
        Layer(
            index=row["layer_index"],
            role_params=dict(row["role_params"] or {}),
            **{name: row[name] for name in LAYER_COLUMNS if name not in ("stack", "layer_index", "role_params")},
        )
        for row in rows
        if row["stack"] == main
    ]
    return sorted(layers, key=lambda layer: layer.index)


class AnalysisTaker:
    """Takes analysis files. The bases that they describe are gathered before the first model is taken, so that every model
    finds its base by its layers in whatever order the models come.
    """

    def __init__(self, context: IngestContext) -> None:
        self._context, self._known = context, context.known
        self.bases = StudyBases(context)
        self.named_base: str | None = None
        """The model that analyses which describe no base are compared with."""
        self._read_files: dict[Path, tuple[Identity | None, Parsed]] = {}
        """Files that were read already, and their identities then."""

    def gather_base(self, model: FoundModel) -> None:
        """Remember the base that a model's files describe, or the model if it may be one; a file that cannot be read is
        reported when it is taken."""
        parsed: dict[str, Parsed] = {}
        for path in model.analysis_files:
            identity = identity_of(path)
            try:
                parsed[path.name] = read_file(path, path_text(path))
            except InputError:
                continue
            if len(self._read_files) < MOST_READ_AHEAD or path.name == ORIGINAL_NAME:
                self._read_files[path] = identity, parsed[path.name]
        base = described_base(parsed)
        if base is not None:
            self.bases.add_described(*base)
        elif not model.weight_files and (structure := own_structure(parsed)) is not None:
            self.bases.add_model(model.model_id, structure)

    def take(self, model: FoundModel, declared: Mapping[str, Any]) -> int:
        """Add to the batch what a model's analysis files say. The number of files that were taken, none where what is whole
        says nothing of the model; each broken file is reported."""
        with read_whole(lambda: model.analysis_files, model.display_path) as identities:
            parsed, errors = self._read(model, identities)
            rows = self._combine(model, parsed, errors)
        for broken in errors:
            self._context.fail(broken)
        if rows is None or self._context.options.dry_run:
            return 0 if rows is None else len(parsed)
        fingerprint = fingerprint_of_identities(identities)
        sighted = {"source_uri": model.source_uri, "fingerprint": fingerprint}
        checkpoints = [{**rows.checkpoint, **declared, **sighted, "model_id": model.model_id}]
        if rows.base_checkpoint is not None:
            checkpoints.append({**rows.base_checkpoint, "source_uri": model.source_uri})
        matches = self._new_matches(rows)
        self._context.batch.add({"checkpoints": checkpoints, "layers": self._new_layers(rows), "layer_matches": matches})
        if rows.base_checkpoint is not None:
            self.bases.mark_written(rows.base_checkpoint)
        elif not rows.layer_matches:
            self.bases.mark_written(rows.checkpoint, model.model_id)
        self._known.comparisons |= {row["checkpoint_id"]: row["base_checkpoint_id"] for row in matches}
        self._known.checkpoints.update(row["checkpoint_id"] for row in checkpoints)
        removal = parsed.get(REMOVAL_NAME)
        if isinstance(removal, Removal):
            self._known.removals[rows.checkpoint["checkpoint_id"]] = [*removal.layers], removal.original_num_layers
        self._known.sightings[model.model_id, SourceKind.ANALYSIS] = Sighting(
            fingerprint, StatsLevel.NONE, rows.checkpoint["checkpoint_id"], rows.checkpoint["params"]
        )
        return len(parsed)

    def _read(self, model: FoundModel, identities: Identities) -> tuple[dict[str, Parsed], list[InputError]]:
        """What a model's files hold, by name, and the errors of those that are broken."""
        parsed: dict[str, Parsed] = {}
        errors: list[InputError] = []
        for path in model.analysis_files:
            identity, content = self._read_files.pop(path, (None, None))
            try:
                is_read = content is not None and identity == identities[path]
                parsed[path.name] = content if content and is_read else read_file(path, model.display_path(path))
            except InputError as error:
                errors.append(error)
        return parsed, errors

    def _combine(self, model: FoundModel, parsed: Mapping[str, Parsed], errors: list[InputError]) -> AnalysisRows | None:
        """The rows that the whole files of a model give together; None where they say nothing of the model itself.

        What broken files would have said is a note, and so is the reason why the others do not suffice.
        """
        if errors and not any(name in parsed for name in (*STRUCTURE_NAMES, *COMPARISON_NAMES)):
            return None
        known = self._named_base(model)
        own = own_structure(parsed)
        if known is not None and own is not None and (reason := misfit_text(len(own.layers), known)):
            self._context.report_event(EventKind.PASSED, model.model_id, reason)
            known = None
        named = None if known is None else self._as_base(known)
        try:
            rows = combine(parsed, model.shown, self._find_base, named)
        except InputError as error:
            errors.append(error)
            return None
        base_id = self._base_id(rows)
        if named is not None and base_id not in (None, named.checkpoint_id):
            what = f"its files describe a base that is not {self.named_base}: it is compared with that"
            self._context.report_event(EventKind.PASSED, model.model_id, what)
        broken = [name_end(error.where) for error in errors]
        notes = [*rows.checkpoint["notes"], *(note("unreadable", f"{name} could not be read") for name in broken)]
        return replace(rows, checkpoint=rows.checkpoint | {"notes": notes})

    def _named_base(self, model: FoundModel) -> KnownBase | None:
        """The base that the user named, unless it is the model itself."""
        if self.named_base is None or model.model_id == self.named_base:
            return None
        return self.bases.model_base(self.named_base)

    def _base_id(self, rows: AnalysisRows) -> str | None:
        """The base that a model is compared with; its own checkpoint if it is a base itself."""
        if rows.layer_matches:
            return str(rows.layer_matches[0]["base_checkpoint_id"])
        return str(rows.checkpoint["checkpoint_id"]) if rows.base_checkpoint is not None else None

    def _find_base(self, structure: Structure) -> Base | None:
        known = self.bases.find(structure)
        return None if known is None else self._as_base(known)

    def _as_base(self, known: KnownBase) -> Base:
        return Base(known.checkpoint_id, known.structure, known.status, known.names, is_known=known.is_stored)

    def _new_layers(self, rows: AnalysisRows) -> list[Row]:
        return [row for row in (*rows.layers, *rows.base_layers) if row["checkpoint_id"] not in self._known.checkpoints]

    def _new_matches(self, rows: AnalysisRows) -> list[Row]:
        pairs = {(row["checkpoint_id"], row["base_checkpoint_id"]) for row in rows.layer_matches}
        new = {pair for pair in pairs if self._known.comparisons.get(pair[0]) != pair[1]}
        return [row for row in rows.layer_matches if (row["checkpoint_id"], row["base_checkpoint_id"]) in new]
