"""Take models' weights: open, measure, and put what is new into the batch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import UsageError
from layerhouse.ingest.batch import Batch
from layerhouse.ingest.checkpoint.tensor_ref import PACKED
from layerhouse.ingest.checkpoint_rows import (
    FULL,
    HEADERS,
    SPECTRAL,
    OpenedWeights,
    measure_weights,
    open_weights,
    weight_files_of,
    weight_rows,
)
from layerhouse.ingest.discover import FoundModel, path_text
from layerhouse.ingest.fingerprints import fingerprint_of
from layerhouse.ingest.spectra import SPECTRAL_COLUMNS, add_spectra
from layerhouse.warehouse.storage.inventory import Known, Sighting
from layerhouse.warehouse.storage.reading import read_greatest, read_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.ingest.measure.measurement import Measurement

Row = dict[str, Any]
Say = Callable[[str, str, str], None]

LEVELS = (HEADERS, FULL, SPECTRAL)
AUTO, ROWS, VALUES = "auto", "rows", "values"
COMPARING = (AUTO, ROWS, VALUES)
MEASURED_AGAIN = ("near_zeros", "near_zero_threshold", *SPECTRAL_COLUMNS)
"""What a later ingest may add to the rows of a checkpoint that was measured in full."""


@dataclass(frozen=True)
class Reading:
    """How weights are read: `stats` is full, spectral (full and the spectra of matrices) or none (headers alone).

    `near_zero` is the magnitude that near_zeros counts up to, `threads` how many measure, `devices` where values are counted;
    each checkpoint is counted on one of them. `compare` says where values are read side by side with the base's: auto, while a
    model is measured; rows, nowhere; values, for models that were measured before as well. With `units` heads, KV groups,
    neurons and experts are read too. `workers` is how many models are read at once, ahead of their turn (None: one a device).
    """

    stats: str = FULL
    near_zero: float | None = None
    threads: int = 1
    devices: tuple[str, ...] = ("cpu",)
    compare: str = AUTO
    units: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.stats not in LEVELS:
            raise UsageError(f"stats {self.stats!r}: full, spectral, or none for headers alone")
        if self.compare not in COMPARING:
            raise UsageError(f"compare {self.compare!r}: it is one of {', '.join(COMPARING)}")
        if self.near_zero is not None and not (0 <= self.near_zero < math.inf):
            raise UsageError(f"near_zero {self.near_zero}: a finite magnitude that is not negative")
        if self.units and self.stats == HEADERS:
            raise UsageError(f"units are read from values, and stats is {self.stats!r}: leave out one of them")
        for name, count in (("threads", self.threads), ("workers", self.workers)):
            if count is not None and count < 1:
                raise UsageError(f"{name} {count}: at least one")


@dataclass(frozen=True)
class ReadWeights:
    """What was read of a model's weights: the open files (none of what another process read), a line on them, and the rows. No
    checkpoint where all but its units was known.
    """

    opened: OpenedWeights | None
    files_line: str
    checkpoint_id: str
    level: str
    checkpoint: Row | None = None
    tensors: Sequence[Row] = ()
    layers: tuple[Row, ...] = ()
    units: pa.Table | None = None
    remarks: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """What a report says of it; empty where nothing came of it."""
        units = "" if self.units is None else f", {len(self.units):,} units"
        return "" if self.checkpoint is None and self.units is None else self.files_line + units


@dataclass(frozen=True)
class _Stored:
    """Numbers that the warehouse has of a checkpoint, by tensor, and the threshold that near zeros were counted with."""

    measurements: dict[str, Measurement]
    near_zero: float | None


class WeightsTaker:
    """Takes weights that are new, or measured further than before."""

    def __init__(
        self,
        store_root: Path,
        known: Known,
        batch: Batch,
        reading: Reading,
        say: Say,
        on_bytes: Callable[[int], None],
    ) -> None:
        """`on_bytes` hears of bytes that were read."""
        self.store_root, self.known, self.batch, self.reading, self.say = store_root, known, batch, reading, say
        self.on_bytes = on_bytes

    def new_fingerprint(self, model: FoundModel) -> str | None:
        """The fingerprint of a model's weight files; None if the warehouse has them as they are, measured as far as asked."""
        fingerprint = fingerprint_of(weight_files_of(model.weight_files))
        seen = self._seen(model, fingerprint)
        is_enough = seen is not None and self._is_measured(seen) and not self._lacks_units(seen.checkpoint_id)
        return None if is_enough else fingerprint

    def read(self, model: FoundModel, fingerprint: str, *, device: str, threads: int) -> ReadWeights:
        """Read a model's weights, as far as the warehouse does not have their numbers; safe to call from several threads.

        Raises InputError of one line.
        """
        reading = self.reading
        if reading.stats == HEADERS:
            return read_headers(model.folder, model.weight_files, model.model_id, fingerprint)
        opened = open_weights(model.folder, model.weight_files, model.model_id)
        seen = self._seen(model, fingerprint)
        if seen is not None and self._is_measured(seen):
            units, notes = _read_units(opened, seen.checkpoint_id, threads)
            remarks = [note["text"] for note in notes]
            if units is None:
                remarks = [f"no units: {'; '.join(remarks) or 'no family file names its tensors'}"]
            line = weights_line(opened)
            return ReadWeights(opened, line, seen.checkpoint_id, reading.stats, units=units, remarks=tuple(remarks))
        stored = None if seen is None or _level(seen) < LEVELS.index(FULL) else self._stored(seen, opened)
        has_spectra = stored is not None and seen is not None and _level(seen) >= LEVELS.index(SPECTRAL)
        threshold = stored.near_zero if stored is not None and reading.near_zero is None else reading.near_zero
        if stored is not None and seen is not None and stored.near_zero == threshold:
            measured, counted_on = stored.measurements, seen.device
        else:
            measured = measure_weights(opened, threads=threads, near_zero=threshold, device=device, on_bytes=self.on_bytes)
            counted_on = counting_device(opened, device)
        notes = []
        if stored is not None and has_spectra:
            measured = {name: replace(one, **_spectrum(stored.measurements[name])) for name, one in measured.items()}
        elif reading.stats == SPECTRAL:
            measured, notes = add_spectra(opened, measured, device, self.on_bytes)
        level = SPECTRAL if has_spectra else reading.stats
        checkpoint, tensors, layers = weight_rows(opened, measured, near_zero=threshold, fingerprint=fingerprint)
        checkpoint |= {"stats_level": level, "device": counted_on}
        checkpoint_id: str = checkpoint["checkpoint_id"]
        units = None
        if self._lacks_units(checkpoint_id):
            units, unit_notes = _read_units(opened, checkpoint_id, threads)
            notes += unit_notes
        checkpoint["notes"] += notes
        return ReadWeights(opened, weights_line(opened), checkpoint_id, level, checkpoint, tensors, tuple(layers), units)

    def add(
        self, model: FoundModel, found: ReadWeights, declared: Mapping[str, Any], fingerprint: str, analysis_params: int | None
    ) -> None:
        """Put what was read of a model into the batch, as far as the warehouse does not have it."""
        for remark in found.remarks:
            self.say("passed", model.model_id, remark)
        checkpoint_id = found.checkpoint_id
        tables = {}
        if found.units is not None and checkpoint_id not in self.known.with_units:
            self.known.with_units.add(checkpoint_id)
            tables = {"units": found.units}
        if found.checkpoint is None:
            if tables:
                self.batch.add({}, tables)
            return
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
        is_new = checkpoint_id not in self.known.checkpoints
        tensors = found.tensors if is_new else self._measured_again(checkpoint_id, found.tensors)
        rows = {"checkpoints": [checkpoint], "tensors": tensors, "layers": found.layers if is_new else []}
        self.batch.add(rows, tables)
        self.known.checkpoints.add(checkpoint_id)
        sighting = Sighting(fingerprint, found.level, checkpoint_id, checkpoint["params"], checkpoint["device"])
        self.known.sightings[model.model_id, "weights"] = sighting

    @staticmethod
    def describe(model: FoundModel) -> str:
        """The line of a model whose headers alone are read, for a dry run. Raises InputError."""
        return weights_line(open_weights(model.folder, model.weight_files, model.model_id))

    def _seen(self, model: FoundModel, fingerprint: str) -> Sighting | None:
        """The model's sighting with just these files."""
        seen = self.known.sightings.get((model.model_id, "weights"))
        return seen if seen is not None and seen.fingerprint == fingerprint else None

    def _is_measured(self, seen: Sighting) -> bool:
        """Whether a checkpoint was measured as far as is asked, apart from its units."""
        if _level(seen) < LEVELS.index(self.reading.stats):
            return False
        near_zero = self.reading.near_zero
        is_wanted = near_zero is not None and self.reading.stats != HEADERS
        return not is_wanted or self._thresholds.get(seen.checkpoint_id) == near_zero

    def _lacks_units(self, checkpoint_id: str) -> bool:
        return self.reading.units and checkpoint_id not in self.known.with_units

    @cached_property
    def _thresholds(self) -> dict[str, float]:
        """The thresholds that near zeros were counted with, by checkpoint, as the run found them."""
        return read_greatest(self.store_root, "tensors", "near_zero_threshold")

    def _stored(self, seen: Sighting, opened: OpenedWeights) -> _Stored | None:
        """The numbers of a checkpoint's tensors in the warehouse; None unless all are there."""
        from layerhouse.ingest.measure.measurement import Measurement

        columns = [field.name for field in fields(Measurement)]
        rows = read_rows(self.store_root, "tensors", [seen.checkpoint_id], ("name", "near_zero_threshold", *columns))
        by_name = {row["name"]: row for row in rows.get(seen.checkpoint_id, [])}
        if any(placed.ref.name not in by_name for placed in opened.placement.placed):
            return None
        found = {placed.ref.name: by_name[placed.ref.name] for placed in opened.placement.placed}
        threshold = next((row["near_zero_threshold"] for row in found.values()), None)
        return _Stored({name: Measurement(**{key: row[key] for key in columns}) for name, row in found.items()}, threshold)

    def _measured_again(self, checkpoint_id: str, tensors: Sequence[Row]) -> list[Row]:
        """Rows of a checkpoint that the warehouse has, with what both know; none where that is no more than it has."""
        if self.reading.stats != SPECTRAL and self.reading.near_zero is None:
            return []
        stored = {
            row["name"]: row for row in stored_rows(self.batch, self.store_root, checkpoint_id, ("name", *MEASURED_AGAIN))
        }
        rows = []
        for row in tensors:
            old = stored.get(row["name"], {})
            kept = {key: old.get(key) for key in SPECTRAL_COLUMNS if row.get(key) is None}
            if row.get("near_zero_threshold") is None:
                kept |= {key: old.get(key) for key in ("near_zeros", "near_zero_threshold")}
            rows.append({**row, **kept})
        is_more = any(row.get(key) != stored.get(row["name"], {}).get(key) for row in rows for key in MEASURED_AGAIN)
        return rows if is_more else []


def read_headers(folder: Path, files: Sequence[Path], model_id: str, fingerprint: str) -> ReadWeights:
    """What the headers of a model's weights say. Raises InputError of one line."""
    opened = open_weights(folder, files, model_id)
    checkpoint, tensors, layers = weight_rows(opened, None, near_zero=None, fingerprint=fingerprint)
    checkpoint_id: str = checkpoint["checkpoint_id"]
    return ReadWeights(opened, weights_line(opened), checkpoint_id, HEADERS, checkpoint, tensors, tuple(layers))


def stored_rows(batch: Batch, store_root: Path, checkpoint_id: str, columns: tuple[str, ...]) -> list[Row]:
    """The tensors of a checkpoint: as they wait for a commit, or as the warehouse has them."""
    waiting = [row for row in batch.waiting("tensors") if row["checkpoint_id"] == checkpoint_id]
    return waiting or read_rows(store_root, "tensors", [checkpoint_id], columns).get(checkpoint_id, [])


def weights_line(opened: OpenedWeights) -> str:
    """Files, size and tensors of weights, for a report."""
    files, tensors = len(opened.weight_set.files), len(opened.contents.tensors)
    size = size_text(sum(path.stat().st_size for path in opened.weight_set.files))
    return f"weights ({files} file{'' if files == 1 else 's'}, {size}, {tensors} tensor{'' if tensors == 1 else 's'})"


def _read_units(opened: OpenedWeights, checkpoint_id: str, threads: int) -> tuple[pa.Table | None, list[Row]]:
    from layerhouse.ingest.units import read_units

    return read_units(opened, checkpoint_id, threads=threads)


def _level(seen: Sighting) -> int:
    return LEVELS.index(seen.stats_level) if seen.stats_level in LEVELS else -1


def _spectrum(measured: Measurement) -> dict[str, Any]:
    return {column: getattr(measured, column) for column in SPECTRAL_COLUMNS}


def counting_device(opened: OpenedWeights, device: str) -> str:
    """Where a checkpoint's values are counted: the CPU if the device takes none of its tensors."""
    from layerhouse.ingest.measure.counter import fits_device

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
