"""Compare models with one base: their layers, tensors and units, from stored rows, and values where only values tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import InputError
from layerhouse.ingest.batch import Batch
from layerhouse.ingest.checkpoint_rows import (
    HEADERS,
    OpenedWeights,
    open_weights,
    weight_files_of,
)
from layerhouse.ingest.discover import discover
from layerhouse.ingest.fingerprints import fingerprint_of
from layerhouse.ingest.model.placeholders import are_placeholders, is_block_weight
from layerhouse.ingest.take_weights import (
    AUTO,
    ROWS,
    VALUES,
    Reading,
    Row,
    Say,
    stored_rows,
)
from layerhouse.vocabulary import Module
from layerhouse.warehouse.storage.inventory import Known
from layerhouse.warehouse.storage.reading import stream_rows

if TYPE_CHECKING:
    import pyarrow as pa

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
)
UNIT_COLUMNS = ("stack", "layer_index", "kind", "unit_index", "part_hashes", "signature")


@dataclass
class Side:
    """One side of a comparison: a model's checkpoint, the rows of its tensors, its units, and its open weights.

    `has_values` is false for a base that is known by its config alone.
    """

    model_id: str
    checkpoint_id: str
    tensors: Sequence[Row]
    opened: OpenedWeights | None = None
    units: pa.Table | None = None
    has_values: bool = True

    @property
    def is_adapter(self) -> bool:
        return bool(self.tensors) and all(row["module"] in (Module.ADAPTER, Module.QUANT_AUX) for row in self.tensors)

    @property
    def is_hollow(self) -> bool:
        """Whether every weight of the blocks is a placeholder."""
        blocks = (row for row in self.tensors if is_block_weight(row["layer_index"], row["module"], row["part"]))
        return are_placeholders(row["shape"] for row in blocks)


class Comparer:
    """Compares what it is asked to with one base. A pair that the warehouse has is not compared again, unless the checkpoint
    was compared with another base since, or values are asked for that it lacks."""

    def __init__(
        self,
        store_root: Path,
        known: Known,
        batch: Batch,
        reading: Reading,
        say: Say,
        on_bytes: Callable[[int], None],
        on_expected: Callable[[int], None],
    ) -> None:
        """`on_bytes` hears of bytes that were read, `on_expected` of bytes to read that no plan knew of."""
        self.store_root, self.known, self.batch, self.reading, self.say = store_root, known, batch, reading, say
        self.on_bytes, self.on_expected = on_bytes, on_expected
        self.base: Side | None = None
        self.refused: set[str] = set()
        self._layer_maps: dict[str, list[tuple[str, int, int]]] = {}

    def set_base(self, model_id: str, fresh: Side | None = None, *, is_among_models: bool) -> None:
        """Compare with this model from now on; its rows come from `fresh` or from the warehouse.

        It is compared with itself, so that its own rows stand beside the others'; but a base that was only named keeps the
        base that it has.
        """
        seen = self.known.sightings.get((model_id, "weights"))
        if seen is None:
            return
        base_id = seen.checkpoint_id
        side = fresh or Side(model_id, base_id, stored_rows(self.batch, self.store_root, base_id, COMPARED_COLUMNS))
        if side.units is None and base_id in self.known.with_units:
            self.batch.flush()
            side.units = dict(stream_rows(self.store_root, "units", [base_id], UNIT_COLUMNS)).get(base_id)
        if side.units is None and self.reading.units:
            self.say("passed", model_id, "no units of the base are in the warehouse to match with; take it with --units")
        self.base = side
        if is_among_models or base_id not in self.known.comparisons:
            self._compare(side, side)

    def compare(self, side: Side) -> None:
        """Compare a model that was read just now with the base."""
        if self.base is None:
            return
        self._compare(side, self.base)
        if side.units is not None and side.checkpoint_id in self._layer_maps:
            self._compare_units(side.model_id, side.checkpoint_id, side.units)

    def compare_stored(self, model_ids: Sequence[str]) -> None:
        """Compare models that the warehouse has with the base, from their rows there, as far as that is due."""
        if self.base is None:
            return
        waiting: dict[str, str] = {}
        for model_id in model_ids:
            seen = self.known.sightings.get((model_id, "weights"))
            if seen is not None and model_id != self.base.model_id and self._is_any_due(seen.checkpoint_id):
                waiting.setdefault(seen.checkpoint_id, model_id)
        if waiting and self.batch.holds("tensors", "units"):
            self.batch.flush()
        for checkpoint_id, rows in stream_rows(self.store_root, "tensors", waiting, COMPARED_COLUMNS):
            self._compare(Side(waiting[checkpoint_id], checkpoint_id, rows.to_pylist()), self.base)
            self.batch.flush_if_due()
        mapped = {checkpoint_id for checkpoint_id in waiting if checkpoint_id in self._layer_maps}
        for checkpoint_id, units in stream_rows(self.store_root, "units", mapped, UNIT_COLUMNS):
            self._compare_units(waiting[checkpoint_id], checkpoint_id, units)
            self.batch.flush_if_due()

    def _is_any_due(self, checkpoint_id: str) -> bool:
        assert self.base is not None
        if checkpoint_id in self.refused:
            return False
        pair = checkpoint_id, self.base.checkpoint_id
        return self._is_due(*pair) or self._are_tensors_due(*pair) or self._are_units_due(*pair)

    def _is_due(self, checkpoint_id: str, base_id: str) -> bool:
        """Whether the last comparison of a checkpoint was with another base, if there was any."""
        return self.known.comparisons.get(checkpoint_id) != base_id

    def _are_tensors_due(self, checkpoint_id: str, base_id: str) -> bool:
        """Whether the tensors of a pair were never related, or values are asked for that would explain more."""
        pair = checkpoint_id, base_id
        is_wanted = self.reading.compare == VALUES and pair in self.known.unexplained
        return checkpoint_id != base_id and (pair not in self.known.related or is_wanted)

    def _are_units_due(self, checkpoint_id: str, base_id: str) -> bool:
        """Whether the units of a checkpoint and of the base are there and not matched yet."""
        is_open = checkpoint_id != base_id and (checkpoint_id, base_id) not in self.known.unit_comparisons
        return is_open and {checkpoint_id, base_id} <= self.known.with_units

    def _compare(self, side: Side, base: Side) -> None:
        from layerhouse.ingest.compare.match_layers import compare_layers
        from layerhouse.ingest.compare.match_tensors import relate_tensors

        pair = side.checkpoint_id, base.checkpoint_id
        is_due, are_tensors_due, are_units_due = self._is_due(*pair), self._are_tensors_due(*pair), self._are_units_due(*pair)
        if not (is_due or are_tensors_due or are_units_due) or side.checkpoint_id in self.refused:
            return
        if side.is_adapter or side.is_hollow:
            self.refused.add(side.checkpoint_id)
            reason = "an adapter adds to a base, and" if side.is_adapter else "placeholder shapes: an incomplete export"
            self.say("passed", side.model_id, f"{reason} is not compared with {base.model_id}")
            return
        matches, notes = compare_layers(side.tensors, base.tensors)
        rows: dict[str, list[Row]] = {}
        if any(note["code"] == "fit" for note in notes):
            self.refused.add(side.checkpoint_id)
        else:
            if is_due:
                rows["layer_matches"] = matches
                self.known.comparisons[side.checkpoint_id] = base.checkpoint_id
            if are_tensors_due:
                rows["tensor_matches"] = relate_tensors(side.tensors, base.tensors, matches)
                notes += self._explain(side, base, rows["tensor_matches"])
                self.known.related.add(pair)
                self.known.unexplained.discard(pair)
        ids = {"checkpoint_id": pair[0], "base_checkpoint_id": pair[1]}
        if rows:
            self.batch.add({table: [{**ids, **row} for row in table_rows] for table, table_rows in rows.items()})
        for note in notes if is_due or are_tensors_due else ():
            self.say("passed", side.model_id, f"compared with {base.model_id}: {note['text']}")
        if are_units_due and side.checkpoint_id not in self.refused:
            self._layer_maps[side.checkpoint_id] = [
                (match["stack"], match["layer_index"], match["base_layer_index"])
                for match in matches
                if match["layer_index"] is not None and match["base_layer_index"] is not None
            ]

    def _explain(self, side: Side, base: Side, related: list[Row]) -> list[dict[str, str]]:
        """Read both sides of the tensors that rows alone do not explain; a note where that cannot be done."""
        from layerhouse.ingest.compare.match_tensors import compare_values, open_pairs

        untold = [row for row in related if row["relation"] is None and row["name"] and row["base_name"]]
        mode = self.reading.compare
        is_measured = side.opened is not None and self.reading.stats != HEADERS
        if not untold or not base.has_values or mode == ROWS or (mode == AUTO and not is_measured):
            return []
        opened, base_opened = (self._open(one) for one in (side, base))
        if opened is None or base_opened is None:
            absent = side if opened is None else base
            what = f"the files of {absent.model_id} are not there as they were measured"
            return [{"code": "relation", "text": f"how {len(untold)} tensors of one shape differ is not known: {what}"}]
        try:
            refs, base_refs = (
                {placed.ref.name: placed.ref for placed in one.placement.placed} for one in (opened, base_opened)
            )
            self.on_expected(sum(refs[row["name"]].logical_bytes for row in open_pairs(untold, refs, base_refs)))
            compare_values(untold, refs, base_refs, threads=self.reading.threads, on_bytes=self.on_bytes)
        except InputError as error:
            return [{"code": "relation", "text": f"how values differ is not known: {error.where}: {error.what}"}]
        return []

    def _open(self, side: Side) -> OpenedWeights | None:
        """The weights of one side, opened now if they are as they were when they were measured."""
        if side.opened is not None:
            return side.opened
        folder = self.known.folders_by_model.get(side.model_id)
        seen = self.known.sightings.get((side.model_id, "weights"))
        models = discover([Path(folder)]).models if folder is not None and Path(folder).exists() else []
        model = models[0] if len(models) == 1 else None
        if seen is None or model is None or fingerprint_of(weight_files_of(model.weight_files)) != seen.fingerprint:
            return None
        try:
            side.opened = open_weights(model.folder, model.weight_files, side.model_id)
        except InputError:
            return None
        return side.opened

    def _compare_units(self, model_id: str, checkpoint_id: str, units: pa.Table) -> None:
        """Match the units of layers that are blocks of the base, and say what is not exact."""
        from layerhouse.ingest.compare.match_units import match_units

        base = self.base
        assert base is not None and base.units is not None
        matches, lines = match_units(units, base.units, self._layer_maps.pop(checkpoint_id))
        self.known.unit_comparisons.add((checkpoint_id, base.checkpoint_id))
        if matches is not None:
            ids: dict[str, Any] = {"checkpoint_id": checkpoint_id, "base_checkpoint_id": base.checkpoint_id}
            for name, value in ids.items():
                matches = matches.append_column(name, [[value] * len(matches)])
            self.batch.add({}, {"unit_matches": matches})
        for line in lines:
            self.say("passed", model_id, f"compared with {base.model_id}: {line}")
