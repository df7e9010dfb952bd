"""Take models' weights: open, measure, commit; and compare each with the base, from rows alone."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.ingest.batches import Batch
from layerhouse.ingest.discover import FoundModel, path_text
from layerhouse.ingest.fingerprints import fingerprint_of
from layerhouse.ingest.weights import FULL, HEADERS, OpenedWeights, measure_weights, open_weights, weight_files_of, weight_rows
from layerhouse.warehouse.errors import UsageError
from layerhouse.warehouse.known import Known, Sighting
from layerhouse.warehouse.reading import read_rows, stream_rows

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
Say = Callable[[str, str, str], None]

LEVELS = (HEADERS, FULL)
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


@dataclass(frozen=True)
class Reading:
    """How weights are read: `stats` is full or none (headers alone); `near_zero` the magnitude that near_zeros counts up to;
    with `units` heads, KV groups, neurons and experts are read too."""

    stats: str = FULL
    near_zero: float | None = None
    threads: int = 1
    units: bool = False

    def __post_init__(self) -> None:
        if self.stats not in LEVELS:
            raise UsageError(f"stats {self.stats!r}: full, or none for headers alone")
        if self.near_zero is not None and not (0 <= self.near_zero < math.inf):
            raise UsageError(f"near_zero {self.near_zero}: a finite magnitude that is not negative")
        if self.units and self.stats != FULL:
            raise UsageError(f"units are read from values, and stats is {self.stats!r}: leave out one of them")
        if self.threads < 1:
            raise UsageError(f"threads {self.threads}: at least one")


class WeightsTaker:
    """Takes weights that are new, and compares what it is asked to with one base."""

    def __init__(
        self, store_root: Path, known: Known, batch: Batch, reading: Reading, say: Say, on_bytes: Callable[[int], None]
    ) -> None:
        self.store_root, self.known, self.batch, self.reading, self.say = store_root, known, batch, reading, say
        self.on_bytes = on_bytes
        self.base: tuple[str, str, list[Row]] | None = None
        self.fresh: dict[str, list[Row]] = {}
        self.refused: set[str] = set()
        self.fresh_units: dict[str, pa.Table] = {}
        self.base_units: pa.Table | None = None
        self.layer_maps: dict[str, list[tuple[str, int, int]]] = {}

    def new_fingerprint(self, model: FoundModel) -> str | None:
        """The fingerprint of a model's weight files; None if the warehouse has them as they are, measured as far as asked."""
        fingerprint = fingerprint_of(weight_files_of(model.weight_files))
        seen = self.known.sightings.get((model.model_id, "weights"))
        if seen is not None and seen.fingerprint == fingerprint:
            return None if self._is_measured(seen) and not self._lacks_units(seen.checkpoint_id) else fingerprint
        return fingerprint

    def _is_measured(self, seen: Sighting) -> bool:
        """Whether a checkpoint was measured as far as is asked."""
        level = LEVELS.index(seen.stats_level) if seen.stats_level in LEVELS else -1
        return level >= LEVELS.index(self.reading.stats)

    def _lacks_units(self, checkpoint_id: str) -> bool:
        return self.reading.units and checkpoint_id not in self.known.with_units

    def take(self, model: FoundModel, declared: Mapping[str, Any], fingerprint: str, analysis_params: int | None) -> str:
        """Read a model's weights into the batch; a line that says what was read. Raises InputError, with nothing added."""
        opened = open_weights(model.folder, model.weight_files, model.model_id)
        reading = self.reading
        seen = self.known.sightings.get((model.model_id, "weights"))
        if seen is not None and seen.fingerprint == fingerprint and self._is_measured(seen):
            return self._take_units_alone(opened, seen.checkpoint_id)
        measurements = None
        if reading.stats == FULL:
            measurements = measure_weights(opened, threads=reading.threads, near_zero=reading.near_zero, on_bytes=self.on_bytes)
        checkpoint, tensors, layers = weight_rows(opened, measurements, near_zero=reading.near_zero, fingerprint=fingerprint)
        if analysis_params is not None and analysis_params != checkpoint["params"]:
            text = f"the analysis files say {analysis_params} parameters, the weights {checkpoint['params']}, which is taken"
            checkpoint["notes"].append({"code": "disagreement", "text": text})
        checkpoint |= {
            **declared,
            "model_id": model.model_id,
            "source_uri": path_text(model.folder),
            "fingerprint": fingerprint,
        }
        checkpoint_id: str = checkpoint["checkpoint_id"]
        is_new = checkpoint_id not in self.known.checkpoints
        units = None
        if self._lacks_units(checkpoint_id):
            units, unit_notes = _read_units(opened, checkpoint_id)
            checkpoint["notes"] += unit_notes
        rows = {"checkpoints": [checkpoint], "tensors": tensors if is_new else [], "layers": layers if is_new else []}
        self.batch.add(rows, {} if units is None else {"units": units})
        self._remember_units(checkpoint_id, units)
        self.known.checkpoints.add(checkpoint_id)
        params: int = checkpoint["params"]
        self.known.sightings[model.model_id, "weights"] = Sighting(fingerprint, reading.stats, checkpoint_id, params)
        self.fresh = {checkpoint_id: tensors}
        return _line(opened) + _unit_count(units)

    def _take_units_alone(self, opened: OpenedWeights, checkpoint_id: str) -> str:
        """Add the units of a checkpoint whose other rows the warehouse has. An empty line where it has none."""
        units, notes = _read_units(opened, checkpoint_id)
        if units is None:
            reason = "; ".join(note["text"] for note in notes) or "no family file names its tensors"
            self.say("passed", opened.shown, f"no units: {reason}")
            return ""
        self.batch.add({}, {"units": units})
        self._remember_units(checkpoint_id, units)
        return _line(opened) + _unit_count(units)

    def _remember_units(self, checkpoint_id: str, units: pa.Table | None) -> None:
        self.fresh_units = {} if units is None else {checkpoint_id: units}
        if units is not None:
            self.known.with_units.add(checkpoint_id)

    @staticmethod
    def describe(model: FoundModel) -> str:
        """The line of a model whose headers alone are read, for a dry run. Raises InputError."""
        return _line(open_weights(model.folder, model.weight_files, model.model_id))

    def set_base(self, model_id: str) -> None:
        """Compare with this model from now on; its rows come from this run or from the warehouse."""
        seen = self.known.sightings.get((model_id, "weights"))
        if seen is None:
            return
        rows = self._tensors(seen.checkpoint_id)
        self.base = (model_id, seen.checkpoint_id, rows)
        self.base_units = self._units(seen.checkpoint_id)
        if self.base_units is None and self.reading.units:
            self.say("passed", model_id, "no units of the base are in the warehouse to match with; take it with --units")
        self._compare(model_id, seen.checkpoint_id, rows)

    def compare(self, model_id: str) -> None:
        """Compare a model with the base, if its tensors were measured just now."""
        seen = self.known.sightings.get((model_id, "weights"))
        if self.base is not None and seen is not None and seen.checkpoint_id in self.fresh:
            self._compare(model_id, seen.checkpoint_id, None)

    def compare_stored(self, model_ids: Sequence[str]) -> None:
        """Compare models that the warehouse has with the base, from their rows there: those that are not compared with it yet,
        or were compared with another one since."""
        if self.base is None:
            return
        waiting: dict[str, str] = {}
        for model_id in model_ids:
            seen = self.known.sightings.get((model_id, "weights"))
            if seen is not None and (self._is_due(seen.checkpoint_id) or self._are_units_due(seen.checkpoint_id)):
                waiting.setdefault(seen.checkpoint_id, model_id)
        if waiting and (self.batch.rows.get("tensors") or self.batch.tables):
            self.batch.flush()
        for checkpoint_id, rows in stream_rows(self.store_root, "tensors", waiting, COMPARED_COLUMNS):
            self._compare(waiting[checkpoint_id], checkpoint_id, rows.to_pylist())
            self.batch.flush_if_due()
        mapped = {checkpoint_id for checkpoint_id in waiting if checkpoint_id in self.layer_maps}
        for checkpoint_id, units in stream_rows(self.store_root, "units", mapped, UNIT_COLUMNS):
            self._compare_units(waiting[checkpoint_id], checkpoint_id, units)
            self.batch.flush_if_due()

    def _is_due(self, checkpoint_id: str) -> bool:
        """Whether a checkpoint is to be compared with the base, as its last comparison was with another one, if any."""
        assert self.base is not None
        return checkpoint_id not in self.refused and self.known.comparisons.get(checkpoint_id) != self.base[1]

    def _compare(self, model_id: str, checkpoint_id: str, rows: Sequence[Row] | None) -> None:
        assert self.base is not None
        base_name, base_id, base_rows = self.base
        is_due, are_units_due = self._is_due(checkpoint_id), self._are_units_due(checkpoint_id)
        if not is_due and not are_units_due:
            return
        from layerhouse.ingest.compare import compare_layers

        matches, notes = compare_layers(self._tensors(checkpoint_id) if rows is None else rows, base_rows)
        if any(note["code"] == "fit" for note in notes):
            self.refused.add(checkpoint_id)
        elif is_due:
            ids = {"checkpoint_id": checkpoint_id, "base_checkpoint_id": base_id}
            self.batch.add({"layer_matches": [{**ids, **match} for match in matches]})
            self.known.comparisons[checkpoint_id] = base_id
        for note in notes if is_due else ():
            self.say("passed", model_id, f"compared with {base_name}: {note['text']}")
        if are_units_due and checkpoint_id not in self.refused:
            self.layer_maps[checkpoint_id] = [
                (match["stack"], match["layer_index"], match["base_layer_index"])
                for match in matches
                if match["layer_index"] is not None and match["base_layer_index"] is not None
            ]
            if checkpoint_id in self.fresh_units:
                self._compare_units(model_id, checkpoint_id, self.fresh_units[checkpoint_id])

    def _are_units_due(self, checkpoint_id: str) -> bool:
        """Whether the units of a checkpoint and of the base are there and not matched yet."""
        assert self.base is not None
        base_id = self.base[1]
        is_open = checkpoint_id != base_id and (checkpoint_id, base_id) not in self.known.unit_comparisons
        return is_open and {checkpoint_id, base_id} <= self.known.with_units and checkpoint_id not in self.refused

    def _compare_units(self, model_id: str, checkpoint_id: str, units: pa.Table) -> None:
        """Match the units of layers that are blocks of the base, and say what is not exact."""
        assert self.base is not None and self.base_units is not None
        base_name, base_id, _ = self.base
        from layerhouse.ingest.unit_matches import match_units

        matches, lines = match_units(units, self.base_units, self.layer_maps.pop(checkpoint_id))
        self.known.unit_comparisons.add((checkpoint_id, base_id))
        if matches is not None:
            ids = {"checkpoint_id": checkpoint_id, "base_checkpoint_id": base_id}
            for name, value in ids.items():
                matches = matches.append_column(name, [[value] * len(matches)])
            self.batch.add({}, {"unit_matches": matches})
        for line in lines:
            self.say("passed", model_id, f"compared with {base_name}: {line}")

    def _units(self, checkpoint_id: str) -> pa.Table | None:
        """The stored units of a checkpoint, or those of this run; None where there are none."""
        if checkpoint_id not in self.known.with_units:
            return None
        if checkpoint_id in self.fresh_units:
            return self.fresh_units[checkpoint_id]
        self.batch.flush()
        return dict(stream_rows(self.store_root, "units", [checkpoint_id], UNIT_COLUMNS)).get(checkpoint_id)

    def _tensors(self, checkpoint_id: str) -> list[Row]:
        if checkpoint_id in self.fresh:
            return self.fresh[checkpoint_id]
        waiting = [row for row in self.batch.rows.get("tensors", ()) if row["checkpoint_id"] == checkpoint_id]
        if waiting:
            return waiting
        return read_rows(self.store_root, "tensors", [checkpoint_id], COMPARED_COLUMNS).get(checkpoint_id, [])


def _read_units(opened: OpenedWeights, checkpoint_id: str) -> tuple[pa.Table | None, list[Row]]:
    from layerhouse.ingest.units import read_units

    return read_units(opened, checkpoint_id)


def _unit_count(units: pa.Table | None) -> str:
    return "" if units is None else f", {len(units):,} units"


def _line(opened: OpenedWeights) -> str:
    files, tensors = len(opened.weight_set.files), len(opened.contents.tensors)
    size = size_text(sum(path.stat().st_size for path in opened.weight_set.files))
    return f"weights ({files} file{'' if files == 1 else 's'}, {size}, {tensors} tensor{'' if tensors == 1 else 's'})"


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def size_text(size: int) -> str:
    """Bytes for reading: `1.5 GiB`."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{size} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
