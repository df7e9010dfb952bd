"""Compare models with one base: layers, tensors and units by stored rows, and values where rows do not tell enough."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.checkpoint_rows import OpenedWeights, open_weights, weight_files_of
from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.discover import discover
from layerhouse.ingest.model.placeholders import are_placeholders, is_block_weight
from layerhouse.ingest.model_files import Identities, check_unchanged, fingerprint, identities_of, path_text
from layerhouse.ingest.take_weights import ReadWeights, stored_tensors
from layerhouse.version import RULES_VERSION
from layerhouse.vocabulary import CompareMode, EventKind, Module, SourceKind, StatsLevel, Unrelated
from layerhouse.warehouse.storage.reading import stream_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.ingest.compare.match_tensors import RelatedTensor

Row = dict[str, Any]

COMPARED_COLUMNS = (
    "name",
    "canonical_name",
    "stack",
    "module",
    "role",
    "part",
    "layer_index",
    "expert_index",
    "dtype",
    "shape",
    "weight_shape",
    "is_parameter",
    "content_hash",
    "signature",
    "params",
    "logical_bytes",
    "stored_bytes",
    "nm_pattern",
)
UNIT_COLUMNS = ("stack", "layer_index", "kind", "unit_index", "part_hashes", "signature")


@dataclass
class ComparedCheckpoint:
    """A checkpoint to compare: the rows of its tensors, its units, and its weights where they are open.

    `notes` are those on the checkpoint, if it was read just now. `identities` are those of the files that were measured.
    `has_values` is false for a base that is known by its config alone.
    """

    model_id: str
    checkpoint_id: str
    tensors: Sequence[Row]
    opened: OpenedWeights | None = None
    units: pa.Table | None = None
    has_values: bool = True
    notes: Sequence[Note] = ()
    identities: Identities = field(default_factory=dict)

    def check_unchanged(self, cause: Exception | None = None) -> None:
        """Raise ChangedError unless the files are those that were measured."""
        check_unchanged(self.identities, self.identities, path_text, cause)

    @property
    def is_adapter(self) -> bool:
        return bool(self.tensors) and all(row["module"] in (Module.ADAPTER, Module.QUANT_AUX) for row in self.tensors)

    @property
    def is_hollow(self) -> bool:
        """Whether every weight of the blocks is a placeholder."""
        blocks = (row for row in self.tensors if is_block_weight(row["layer_index"], row["module"], row["part"]))
        return are_placeholders(row["shape"] for row in blocks)


class Comparer:
    """Compares checkpoints with one base. A pair that the warehouse has is compared again only if the checkpoint was compared
    with another base since, or if values are asked for that the warehouse lacks.
    """

    def __init__(self, context: IngestContext) -> None:
        self._context, self._known, self._reading = context, context.known, context.reading
        self.base: ComparedCheckpoint | None = None
        self._refused: set[str] = set()
        self._layer_maps: dict[str, list[tuple[str, int, int]]] = {}
        """By checkpoint, the (stack, layer, layer of the base) of layers whose units are to be matched."""

    def set_base(self, model_id: str, fresh: ReadWeights | None = None, *, is_among_models: bool) -> None:
        """Compare with this model from now on; its rows come from `fresh` or from the warehouse.

        The base is compared with itself, so that its own rows stand beside the others'. A base that is not among the models of
        this ingest keeps the base that it has.
        """
        with self._context.taking(model_id):
            self._set_base(model_id, fresh, is_among_models=is_among_models)

    def _set_base(self, model_id: str, fresh: ReadWeights | None, *, is_among_models: bool) -> None:
        sighting = self._known.sightings.get((model_id, SourceKind.WEIGHTS))
        if sighting is None:
            self._pass_over(model_id, "its weights are not in the warehouse, so no model is compared with it")
            return
        base_id = sighting.checkpoint_id
        if fresh is not None:
            base = _read_checkpoint(model_id, fresh)
        else:
            base = ComparedCheckpoint(model_id, base_id, stored_tensors(self._context, base_id, COMPARED_COLUMNS))
        if base.units is None and base_id in self._known.checkpoints_with_units:
            self._context.batch.flush()
            base.units = dict(stream_rows(self._context.store_root, "units", [base_id], UNIT_COLUMNS)).get(base_id)
        if base.units is None and self._reading.units:
            self._pass_over(model_id, "no units of the base are in the warehouse to match with; take it with --units")
        self.base = base
        if is_among_models or base_id not in self._known.comparisons:
            self._compare(base, base)

    def compare(self, model_id: str, weights: ReadWeights) -> None:
        """Compare a model whose weights were read just now with the base."""
        if self.base is None:
            return
        checkpoint, base = _read_checkpoint(model_id, weights), self.base

        def compare() -> None:
            self._compare(checkpoint, base)
            if checkpoint.units is not None and checkpoint.checkpoint_id in self._layer_maps:
                self._compare_units(model_id, checkpoint.checkpoint_id, checkpoint.units)

        self._try(model_id, checkpoint.checkpoint_id, compare)

    def _try(self, model_id: str, checkpoint_id: str, compare: Callable[[], None]) -> None:
        """Compare a checkpoint. If that fails it is reported, nothing of it is stored, and it is not tried again."""
        is_done = False
        with self._context.taking(model_id):
            compare()
            is_done = True
        if not is_done:
            self._refused.add(checkpoint_id)

    def compare_stored(self, model_ids: Sequence[str]) -> None:
        """Compare models with the base by their rows in the warehouse, as far as that is due."""
        if self.base is None:
            return
        names: dict[str, str] = {}
        for model_id in model_ids:
            sighting = self._known.sightings.get((model_id, SourceKind.WEIGHTS))
            if sighting is not None and model_id != self.base.model_id and self._is_any_due(sighting.checkpoint_id):
                names.setdefault(sighting.checkpoint_id, model_id)
        batch, store_root = self._context.batch, self._context.store_root
        if names and batch.holds("tensors", "units"):
            batch.flush()
        for checkpoint_id, rows in stream_rows(store_root, "tensors", names, COMPARED_COLUMNS):
            self._try(
                names[checkpoint_id], checkpoint_id, partial(self._compare_rows, names[checkpoint_id], checkpoint_id, rows)
            )
            batch.seal()
            batch.flush_if_due()
        mapped = {checkpoint_id for checkpoint_id in names if checkpoint_id in self._layer_maps}
        for checkpoint_id, units in stream_rows(store_root, "units", mapped, UNIT_COLUMNS):
            self._try(
                names[checkpoint_id], checkpoint_id, partial(self._compare_units, names[checkpoint_id], checkpoint_id, units)
            )
            batch.seal()
            batch.flush_if_due()

    def _compare_rows(self, model_id: str, checkpoint_id: str, rows: pa.Table) -> None:
        assert self.base is not None
        self._compare(ComparedCheckpoint(model_id, checkpoint_id, rows.to_pylist()), self.base)

    def _pass_over(self, model_id: str, what: str) -> None:
        self._context.report_event(EventKind.PASSED, model_id, what)

    def _is_any_due(self, checkpoint_id: str) -> bool:
        assert self.base is not None
        if checkpoint_id in self._refused:
            return False
        pair = checkpoint_id, self.base.checkpoint_id
        return self._are_layers_due(*pair) or self._are_tensors_due(*pair) or self._are_units_due(*pair)

    def _are_layers_due(self, checkpoint_id: str, base_id: str) -> bool:
        """Whether the checkpoint was last compared with another base, or never."""
        return self._known.comparisons.get(checkpoint_id) != base_id

    def _are_tensors_due(self, checkpoint_id: str, base_id: str, *, is_open: bool = False) -> bool:
        """Whether the tensors of a pair were never related, or values are asked for that would explain more.

        Those that were related by earlier rules are due if the checkpoint `is_open`.
        """
        pair = checkpoint_id, base_id
        is_explained_more = self._reading.compare == CompareMode.VALUES and pair in self._known.unexplained
        is_due = pair not in self._known.related or (is_open and pair in self._known.stale_related)
        return checkpoint_id != base_id and (is_due or is_explained_more)

    def _are_units_due(self, checkpoint_id: str, base_id: str) -> bool:
        """Whether the warehouse has the units of both checkpoints, and no matches of them."""
        is_unmatched = checkpoint_id != base_id and (checkpoint_id, base_id) not in self._known.unit_pairs
        return is_unmatched and {checkpoint_id, base_id} <= self._known.checkpoints_with_units

    def _compare(self, checkpoint: ComparedCheckpoint, base: ComparedCheckpoint) -> None:
        """Match the layers and relate the tensors of a pair, as far as that is due; keep the layer map if units are due."""
        from layerhouse.ingest.compare.match_layers import compare_layers

        pair = checkpoint.checkpoint_id, base.checkpoint_id
        are_layers_due = self._are_layers_due(*pair)
        are_tensors_due = self._are_tensors_due(*pair, is_open=checkpoint.opened is not None)
        are_units_due = self._are_units_due(*pair)
        if not (are_layers_due or are_tensors_due or are_units_due) or self._is_refused(checkpoint, base):
            return
        matches, notes = compare_layers(checkpoint.tensors, base.tensors)
        rows: dict[str, list[Row]] = {}
        if any(fit["code"] == "fit" for fit in notes):
            self._refused.add(checkpoint.checkpoint_id)
        else:
            if are_layers_due:
                rows["layer_matches"] = matches
            if are_tensors_due:
                related, tensor_notes = self._relate_tensors(checkpoint, base, matches)
                if not self._would_lose_values(pair, related):
                    rows["tensor_matches"] = related
                    notes += tensor_notes
        ids = {"checkpoint_id": pair[0], "base_checkpoint_id": pair[1]}
        if rows:
            self._context.batch.add({table: [{**ids, **row} for row in table_rows] for table, table_rows in rows.items()})
            self._remember(pair, rows)
        for remark in notes if are_layers_due or are_tensors_due else ():
            self._pass_over(checkpoint.model_id, f"compared with {base.model_id}: {remark['text']}")
        if are_units_due and checkpoint.checkpoint_id not in self._refused:
            self._layer_maps[checkpoint.checkpoint_id] = [
                (match["stack"], match["layer_index"], match["base_layer_index"])
                for match in matches
                if match["layer_index"] is not None and match["base_layer_index"] is not None
            ]

    def _is_refused(self, checkpoint: ComparedCheckpoint, base: ComparedCheckpoint) -> bool:
        """Whether a checkpoint cannot be compared with any base, or with this one, which is reported once."""
        if checkpoint.checkpoint_id in self._refused:
            return True
        for side in (checkpoint, base):
            if (packing := self._unread_text(side)) is not None:
                whose = "" if side is checkpoint else f"{base.model_id} is "
                what = "no base for others" if checkpoint is base else f"not comparable with {base.model_id}"
                self._refused.add(checkpoint.checkpoint_id)
                self._pass_over(checkpoint.model_id, f"{what}: {whose}{packing}")
                return True
        if not (checkpoint.is_adapter or checkpoint.is_hollow):
            return False
        self._refused.add(checkpoint.checkpoint_id)
        reason = "an adapter adds to a base, and" if checkpoint.is_adapter else "placeholder shapes: an incomplete export"
        self._pass_over(checkpoint.model_id, f"{reason} is not compared with {base.model_id}")
        return True

    def _unread_text(self, checkpoint: ComparedCheckpoint) -> str | None:
        """How weights of a checkpoint are packed that were not read; None if all were."""
        sighting = self._known.sightings.get((checkpoint.model_id, SourceKind.WEIGHTS))
        if sighting is None or sighting.params is not None:
            return None
        texts = (entry["text"].partition(":")[0] for entry in checkpoint.notes if entry["code"] == "unread")
        return next(texts, "packed in a form that is not read")

    def _relate_tensors(
        self, checkpoint: ComparedCheckpoint, base: ComparedCheckpoint, matches: Sequence[Row]
    ) -> tuple[list[Row], list[Note]]:
        from layerhouse.ingest.compare.match_tensors import relate_tensors, settle_packed

        related = relate_tensors(checkpoint.tensors, base.tensors, matches)
        notes = self._explain(checkpoint, base, related)
        settle_packed(related)
        return [{**entry.as_row(), "rules_version": RULES_VERSION} for entry in related], notes

    def _would_lose_values(self, pair: tuple[str, str], rows: Iterable[Row]) -> bool:
        """Whether a pair that was compared by earlier rules, with its values, is now compared without some of them."""
        is_known = pair in self._known.stale_related and pair not in self._known.unexplained
        return is_known and any(row["reason"] == Unrelated.UNREAD_VALUES for row in rows)

    def _remember(self, pair: tuple[str, str], rows: Collection[str]) -> None:
        """Know from now on that the tables in `rows` have rows of a pair."""
        if "layer_matches" in rows:
            self._known.comparisons[pair[0]] = pair[1]
        if "tensor_matches" in rows:
            self._known.related.add(pair)
            self._known.unexplained.discard(pair)
            self._known.stale_related.discard(pair)

    def _explain(self, checkpoint: ComparedCheckpoint, base: ComparedCheckpoint, related: list[RelatedTensor]) -> list[Note]:
        """Read the values of tensors that rows alone do not explain, on both sides; a note where that cannot be done."""
        from layerhouse.ingest.compare.match_tensors import compare_values, open_pairs

        unexplained = [entry for entry in related if entry.has_open_values]
        if not base.has_values:
            for entry in unexplained:
                entry.set_reason(Unrelated.CONFIG_BASE)
        mode = self._reading.compare
        is_wanted = mode == CompareMode.VALUES or (mode == CompareMode.AUTO and self._reading.stats != StatsLevel.NONE)
        if not unexplained or not base.has_values or not is_wanted:
            return []
        opened, base_opened = self._open(checkpoint), self._open(base)
        if opened is None or base_opened is None:
            absent = checkpoint if opened is None else base
            reason = f"the files of {absent.model_id} are not there as they were measured; with them: --compare values"
            count = sum(entry.relation is None for entry in unexplained)
            return [note("relation", f"how {count} tensors differ from the base's is not known: {reason}")]
        refs, base_refs = (
            {placed.ref.name: placed.ref for placed in weights.placement.placed} for weights in (opened, base_opened)
        )
        num_bytes = sum(pair.ref.logical_bytes for pair in open_pairs(unexplained, refs, base_refs))
        progress = self._context.progress
        progress.expect(num_bytes=num_bytes)
        failure: InputError | None = None
        try:
            compare_values(unexplained, refs, base_refs, threads=self._reading.threads, on_bytes=progress.count_bytes)
        except InputError as error:
            failure = error
        for side in (checkpoint, base):
            side.check_unchanged(failure)
        if failure is None:
            return []
        return [note("relation", f"how values differ is not known: {failure.where}: {failure.what}")]

    def _open(self, checkpoint: ComparedCheckpoint) -> OpenedWeights | None:
        """The open weights of a checkpoint; they are opened now if the files are those that were measured."""
        if checkpoint.opened is not None:
            return checkpoint.opened
        folder = self._known.folders_by_model.get(checkpoint.model_id)
        sighting = self._known.sightings.get((checkpoint.model_id, SourceKind.WEIGHTS))
        models = discover([Path(folder)]).models if folder is not None and Path(folder).exists() else []
        model = models[0] if len(models) == 1 else None
        if sighting is None or model is None:
            return None
        identities = identities_of(weight_files_of(model.weight_files))
        if fingerprint(identities) != sighting.fingerprint:
            return None
        try:
            checkpoint.opened = open_weights(model.folder, model.weight_files, model.shown)
        except InputError:
            return None
        checkpoint.identities = identities
        return checkpoint.opened

    def _compare_units(self, model_id: str, checkpoint_id: str, units: pa.Table) -> None:
        """Match the units of layers that were matched, and report what is not exact."""
        from layerhouse.ingest.compare.match_units import match_units

        base = self.base
        assert base is not None and base.units is not None
        matches, remarks = match_units(units, base.units, self._layer_maps.pop(checkpoint_id))
        self._known.unit_pairs.add((checkpoint_id, base.checkpoint_id))
        if matches is not None:
            ids: dict[str, Any] = {"checkpoint_id": checkpoint_id, "base_checkpoint_id": base.checkpoint_id}
            for column, value in ids.items():
                matches = matches.append_column(column, [[value] * len(matches)])
            self._context.batch.add({"unit_matches": matches})
        for remark in remarks:
            self._pass_over(model_id, f"compared with {base.model_id}: {remark}")


def _read_checkpoint(model_id: str, weights: ReadWeights) -> ComparedCheckpoint:
    return ComparedCheckpoint(
        model_id,
        weights.checkpoint_id,
        weights.tensors,
        weights.opened,
        weights.units,
        notes=() if weights.checkpoint is None else weights.checkpoint["notes"],
        identities=weights.identities,
    )
