"""Take models' weights: open, measure, commit; and compare each with the base, from rows alone."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.ingest.batches import Batch
from layerhouse.ingest.compare import compare_layers
from layerhouse.ingest.discover import FoundModel, discover, path_text
from layerhouse.ingest.fingerprints import fingerprint_of
from layerhouse.ingest.names import ADAPTER, QUANT_AUX
from layerhouse.ingest.relations import compare_values, open_pairs, relate_tensors
from layerhouse.ingest.spectra import SPECTRAL_COLUMNS, add_spectra
from layerhouse.ingest.tensors import PACKED
from layerhouse.ingest.weights import (
    FULL,
    HEADERS,
    SPECTRAL,
    OpenedWeights,
    measure_weights,
    open_weights,
    weight_files_of,
    weight_rows,
)
from layerhouse.warehouse.errors import InputError, UsageError
from layerhouse.warehouse.known import Known, Sighting
from layerhouse.warehouse.reading import read_greatest, read_rows

if TYPE_CHECKING:
    from layerhouse.ingest.measure import Measurement

Row = dict[str, Any]
Say = Callable[[str, str, str], None]

LEVELS = (HEADERS, FULL, SPECTRAL)
AUTO, ROWS, VALUES = "auto", "rows", "values"
COMPARING = (AUTO, ROWS, VALUES)
MEASURED_AGAIN = ("near_zeros", "near_zero_threshold", *SPECTRAL_COLUMNS)
"""What a later ingest may add to the rows of a checkpoint that was measured in full."""

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


@dataclass(frozen=True)
class Reading:
    """How weights are read: `stats` is full, spectral (full and the spectra of matrices) or none (headers alone).

    `near_zero` is the magnitude that near_zeros counts up to, `threads` how many measure, `devices` where values are counted;
    each checkpoint is counted on one of them. `compare` says where values are read side by side with the base's: auto, while a
    model is measured; rows, nowhere; values, for models that were measured before as well.
    """

    stats: str = FULL
    near_zero: float | None = None
    threads: int = 1
    devices: tuple[str, ...] = ("cpu",)
    compare: str = AUTO

    def __post_init__(self) -> None:
        if self.stats not in LEVELS:
            raise UsageError(f"stats {self.stats!r}: full, spectral, or none for headers alone")
        if self.compare not in COMPARING:
            raise UsageError(f"compare {self.compare!r}: it is one of {', '.join(COMPARING)}")
        if self.near_zero is not None and not (0 <= self.near_zero < math.inf):
            raise UsageError(f"near_zero {self.near_zero}: a finite magnitude that is not negative")
        if self.threads < 1:
            raise UsageError(f"threads {self.threads}: at least one")


@dataclass
class Side:
    """One side of a comparison: a model's checkpoint, the rows of its tensors, and its weights where they are open."""

    model_id: str
    checkpoint_id: str
    tensors: list[Row]
    opened: OpenedWeights | None = None


@dataclass(frozen=True)
class ReadWeights:
    """What was read of a model's weights: the open files, and the rows."""

    opened: OpenedWeights
    checkpoint: Row
    tensors: list[Row]
    layers: list[Row]
    level: str

    @property
    def line(self) -> str:
        """What a report says of it."""
        return _line(self.opened)


@dataclass(frozen=True)
class _Stored:
    """Numbers that the warehouse has of a checkpoint, by tensor, and the threshold that near zeros were counted with."""

    measurements: dict[str, Measurement]
    near_zero: float | None


class WeightsTaker:
    """Takes weights that are new, and compares what it is asked to with one base."""

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
        self.fresh: Side | None = None

    def new_fingerprint(self, model: FoundModel) -> str | None:
        """The fingerprint of a model's weight files; None if the warehouse has them as they are, measured as far as asked."""
        fingerprint = fingerprint_of(weight_files_of(model.weight_files))
        seen = self._seen(model, fingerprint)
        if seen is None or _level(seen) < LEVELS.index(self.reading.stats):
            return fingerprint
        near_zero = self.reading.near_zero
        is_wanted = near_zero is not None and self.reading.stats != HEADERS
        return fingerprint if is_wanted and self._thresholds.get(seen.checkpoint_id) != near_zero else None

    def read(self, model: FoundModel, fingerprint: str, *, device: str, threads: int) -> ReadWeights:
        """Read a model's weights, as far as the warehouse does not have their numbers; safe to call from several threads.

        Raises InputError of one line.
        """
        opened = open_weights(model.folder, model.weight_files, model.model_id)
        reading = self.reading
        if reading.stats == HEADERS:
            checkpoint, tensors, layers = weight_rows(opened, None, near_zero=None, fingerprint=fingerprint)
            return ReadWeights(opened, checkpoint, tensors, layers, HEADERS)
        seen = self._seen(model, fingerprint)
        stored = None if seen is None or _level(seen) < LEVELS.index(FULL) else self._stored(seen, opened)
        has_spectra = stored is not None and seen is not None and _level(seen) >= LEVELS.index(SPECTRAL)
        threshold = stored.near_zero if stored is not None and reading.near_zero is None else reading.near_zero
        if stored is not None and seen is not None and stored.near_zero == threshold:
            measured, counted_on = stored.measurements, seen.device
        else:
            measured = measure_weights(opened, threads=threads, near_zero=threshold, device=device, on_bytes=self.on_bytes)
            counted_on = counting_device(opened, device)
        notes: list[Row] = []
        if stored is not None and has_spectra:
            measured = {name: replace(one, **_spectrum(stored.measurements[name])) for name, one in measured.items()}
        elif reading.stats == SPECTRAL:
            measured, notes = add_spectra(opened, measured, device, self.on_bytes)
        level = SPECTRAL if has_spectra else reading.stats
        checkpoint, tensors, layers = weight_rows(opened, measured, near_zero=threshold, fingerprint=fingerprint)
        checkpoint["notes"] += notes
        checkpoint |= {"stats_level": level, "device": counted_on}
        return ReadWeights(opened, checkpoint, tensors, layers, level)

    def add(
        self, model: FoundModel, found: ReadWeights, declared: Mapping[str, Any], fingerprint: str, analysis_params: int | None
    ) -> None:
        """Put what was read of a model into the batch, as far as the warehouse does not have it."""
        checkpoint = found.checkpoint
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
        tensors = found.tensors if is_new else self._measured_again(checkpoint_id, found.tensors)
        self.batch.add({"checkpoints": [checkpoint], "tensors": tensors, "layers": found.layers if is_new else []})
        self.known.checkpoints.add(checkpoint_id)
        params: int = checkpoint["params"]
        sighting = Sighting(fingerprint, found.level, checkpoint_id, params, checkpoint["device"])
        self.known.sightings[model.model_id, "weights"] = sighting
        self.fresh = Side(model.model_id, checkpoint_id, found.tensors, found.opened)

    def _seen(self, model: FoundModel, fingerprint: str) -> Sighting | None:
        """The model's sighting with just these files."""
        seen = self.known.sightings.get((model.model_id, "weights"))
        return seen if seen is not None and seen.fingerprint == fingerprint else None

    @cached_property
    def _thresholds(self) -> dict[str, float]:
        """The thresholds that near zeros were counted with, by checkpoint, as the run found them."""
        return read_greatest(self.store_root, "tensors", "near_zero_threshold")

    def _stored(self, seen: Sighting, opened: OpenedWeights) -> _Stored | None:
        """The numbers of a checkpoint's tensors in the warehouse; None unless all are there."""
        from layerhouse.ingest.measure import Measurement

        columns = [field.name for field in fields(Measurement)]
        rows = read_rows(self.store_root, "tensors", [seen.checkpoint_id], ("name", "near_zero_threshold", *columns))
        by_name = {row["name"]: row for row in rows.get(seen.checkpoint_id, [])}
        if any(placed.ref.name not in by_name for placed in opened.placement.placed):
            return None
        found = {placed.ref.name: by_name[placed.ref.name] for placed in opened.placement.placed}
        threshold = next((row["near_zero_threshold"] for row in found.values()), None)
        return _Stored({name: Measurement(**{key: row[key] for key in columns}) for name, row in found.items()}, threshold)

    def _measured_again(self, checkpoint_id: str, tensors: list[Row]) -> list[Row]:
        """Rows of a checkpoint that the warehouse has, with what both know; none where that is no more than it has."""
        if self.reading.stats != SPECTRAL and self.reading.near_zero is None:
            return []
        stored = {row["name"]: row for row in self._tensors(checkpoint_id, ("name", *MEASURED_AGAIN))}
        rows = []
        for row in tensors:
            old = stored.get(row["name"], {})
            kept = {key: old.get(key) for key in SPECTRAL_COLUMNS if row.get(key) is None}
            if row.get("near_zero_threshold") is None:
                kept |= {key: old.get(key) for key in ("near_zeros", "near_zero_threshold")}
            rows.append({**row, **kept})
        is_more = any(row.get(key) != stored.get(row["name"], {}).get(key) for row in rows for key in MEASURED_AGAIN)
        return rows if is_more else []

    @staticmethod
    def describe(model: FoundModel) -> str:
        """The line of a model whose headers alone are read, for a dry run. Raises InputError."""
        return _line(open_weights(model.folder, model.weight_files, model.model_id))

    def set_base(self, model_id: str) -> None:
        """Compare with this model from now on; its rows come from this run or from the warehouse."""
        self.base = self._side(model_id)
        if self.base is not None:
            self._compare(self.base, self.base)

    def compare(self, model_id: str) -> None:
        """Match a model's layers and tensors to the base's, unless the warehouse has that comparison."""
        seen = self.known.sightings.get((model_id, "weights"))
        if self.base is None or seen is None:
            return
        pair = seen.checkpoint_id, self.base.checkpoint_id
        is_wanted = self.reading.compare == VALUES and pair in self.known.unexplained
        if pair not in self.known.comparisons or is_wanted:
            side = self._side(model_id)
            assert side is not None
            self._compare(side, self.base)

    def _compare(self, side: Side, base: Side) -> None:
        pair = side.checkpoint_id, base.checkpoint_id
        if pair in self.known.comparisons and pair not in self.known.unexplained:
            return
        if side.tensors and all(row["module"] in (ADAPTER, QUANT_AUX) for row in side.tensors):
            self.say("passed", side.model_id, f"an adapter adds to a base, and is not compared with {base.model_id}")
            return
        matches, notes = compare_layers(side.tensors, base.tensors)
        rows: dict[str, list[Row]] = {"layer_matches": matches}
        if side is not base:
            rows["tensor_matches"] = relate_tensors(side.tensors, base.tensors, matches)
            notes += self._explain(side, base, rows["tensor_matches"])
        ids = {"checkpoint_id": pair[0], "base_checkpoint_id": pair[1]}
        self.batch.add({table: [{**ids, **row} for row in table_rows] for table, table_rows in rows.items()})
        self.known.comparisons.add(pair)
        self.known.unexplained.discard(pair)
        for note in notes:
            self.say("passed", side.model_id, f"compared with {base.model_id}: {note['text']}")

    def _explain(self, side: Side, base: Side, related: list[Row]) -> list[dict[str, str]]:
        """Read both sides of the tensors that rows alone do not explain; a note where that cannot be done."""
        untold = [row for row in related if row["relation"] is None and row["name"] and row["base_name"]]
        mode = self.reading.compare
        if not untold or mode == ROWS or (mode == AUTO and side.opened is None):
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

    def _side(self, model_id: str) -> Side | None:
        seen = self.known.sightings.get((model_id, "weights"))
        if seen is None:
            return None
        for side in (self.fresh, self.base):
            if side is not None and (side.model_id, side.checkpoint_id) == (model_id, seen.checkpoint_id):
                return side
        return Side(model_id, seen.checkpoint_id, self._tensors(seen.checkpoint_id))

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

    def _tensors(self, checkpoint_id: str, columns: Sequence[str] = COMPARED_COLUMNS) -> list[Row]:
        """The rows of a checkpoint: as they wait for a commit, or as the warehouse has them."""
        waiting = [row for row in self.batch.rows.get("tensors", ()) if row["checkpoint_id"] == checkpoint_id]
        if waiting:
            return waiting
        return read_rows(self.store_root, "tensors", [checkpoint_id], columns).get(checkpoint_id, [])


def _line(opened: OpenedWeights) -> str:
    files, tensors = len(opened.weight_set.files), len(opened.contents.tensors)
    size = size_text(sum(path.stat().st_size for path in opened.weight_set.files))
    return f"weights ({files} file{'' if files == 1 else 's'}, {size}, {tensors} tensor{'' if tensors == 1 else 's'})"


def _level(seen: Sighting) -> int:
    return LEVELS.index(seen.stats_level) if seen.stats_level in LEVELS else -1


def _spectrum(measured: Measurement) -> dict[str, Any]:
    return {column: getattr(measured, column) for column in SPECTRAL_COLUMNS}


def counting_device(opened: OpenedWeights, device: str) -> str:
    """Where a checkpoint's values are counted: the CPU if the device takes none of its tensors."""
    from layerhouse.ingest.histogram import fits_device

    is_used = any(
        fits_device(placed.ref.dtype, placed.ref.as_stored.elements)
        for placed in opened.measured
        if placed.ref.layout is None or placed.ref.layout.values != PACKED
    )
    return device if is_used else "cpu"


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
