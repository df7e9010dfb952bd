"""Take the weights of models: open and measure them, and add to the batch what the warehouse does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.checkpoint.tensor_ref import NO_VALUES, PACKED
from layerhouse.ingest.checkpoint_rows import (
    OpenedWeights,
    measure_weights,
    open_weights,
    values_kind,
    weight_files_of,
    weight_rows,
)
from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.events import count_text, size_text
from layerhouse.ingest.model_files import FoundModel, Identities, fingerprint_of, read_whole
from layerhouse.ingest.model_files import fingerprint as fingerprint_of_identities
from layerhouse.ingest.spectra import SPECTRAL_COLUMNS, add_spectra
from layerhouse.vocabulary import EventKind, SourceKind, StatsLevel
from layerhouse.warehouse.storage.inventory import Sighting
from layerhouse.warehouse.storage.reading import read_greatest, read_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.ingest.batch import BatchRows
    from layerhouse.ingest.measure.measurement import Measurement

Row = dict[str, Any]

LEVELS = tuple(StatsLevel)
"""In rising order."""
MEASURED_AGAIN = ("near_zeros", "near_zero_threshold", *SPECTRAL_COLUMNS)
"""Columns that a later ingest may fill in the rows of a checkpoint that was measured in full."""


@dataclass(frozen=True)
class ReadWeights:
    """What was read of a model's weights: the open files, a text on them, the rows; no `checkpoint` where units alone were.

    `fingerprint` and `identities` are those of the files that were read.
    """

    opened: OpenedWeights
    fingerprint: str
    files_text: str
    checkpoint_id: str
    level: str
    checkpoint: Row | None = None
    tensors: Sequence[Row] = ()
    layers: Sequence[Row] = ()
    units: pa.Table | None = None
    remarks: tuple[str, ...] = ()
    identities: Identities = field(default_factory=dict)

    @property
    def taken_text(self) -> str:
        """What a report says was taken; empty where nothing was."""
        units = "" if self.units is None else f", {len(self.units):,} units"
        return "" if self.checkpoint is None and self.units is None else self.files_text + units


@dataclass(frozen=True)
class _Measured:
    """The numbers of a checkpoint's tensors by name, and how they were measured."""

    measurements: dict[str, Measurement]
    near_zero: float | None
    device: str | None
    level: str
    notes: tuple[Note, ...] = ()


class WeightsTaker:
    """Takes weights that are new, or that are to be measured further than before."""

    def __init__(self, context: IngestContext) -> None:
        self._context, self._known, self._reading = context, context.known, context.reading

    def is_new(self, model: FoundModel) -> bool:
        """Whether the warehouse lacks a model's weights as they are now, has not measured them as far as asked, or has rows of
        earlier rules. Those with values are taken again by reading values, so not if headers alone are asked for.
        """
        sighting = self._unchanged_sighting(model, fingerprint_of(weight_files_of(model.weight_files)))
        if sighting is None or not self._is_measured(sighting) or self._lacks_units(sighting.checkpoint_id):
            return True
        return sighting.is_stale and (self._reading.stats != StatsLevel.NONE or sighting.stats_level == StatsLevel.NONE)

    def read(self, model: FoundModel, *, device: str, threads: int) -> ReadWeights:
        """Read of a model's weights what the warehouse does not have. Thread-safe. Raises InputError of one line."""
        with read_whole(partial(weight_files_of, model.weight_files), model.display_path) as identities:
            weights = self._read(model, fingerprint_of_identities(identities), device, threads)
        return replace(weights, identities=identities)

    def _read(self, model: FoundModel, fingerprint: str, device: str, threads: int) -> ReadWeights:
        if self._reading.stats == StatsLevel.NONE:
            return _read_headers(model, fingerprint)
        opened = open_weights(model.folder, model.weight_files, model.shown)
        sighting = self._unchanged_sighting(model, fingerprint)
        if sighting is not None and self._is_measured(sighting) and not sighting.is_stale:
            return self._read_units_alone(opened, sighting.checkpoint_id, fingerprint, threads)
        if sighting is not None and sighting.is_stale:
            measured = self._measure_again(opened, sighting, device, threads)
        else:
            measured = self._measure(opened, sighting, device, threads)
        checkpoint, tensors, layers = weight_rows(
            opened, measured.measurements, near_zero=measured.near_zero, fingerprint=fingerprint
        )
        checkpoint_id: str = checkpoint["checkpoint_id"]
        units, unit_notes = None, list[Note]()
        had_units = sighting is not None and sighting.checkpoint_id in self._known.checkpoints_with_units
        if self._lacks_units(checkpoint_id) or (had_units and checkpoint_id not in self._known.checkpoints_with_units):
            units, unit_notes = _read_units(opened, checkpoint_id, threads)
        checkpoint |= {"stats_level": measured.level, "device": measured.device}
        checkpoint["notes"] += [*measured.notes, *unit_notes]
        text = weights_text(opened)
        return ReadWeights(opened, fingerprint, text, checkpoint_id, measured.level, checkpoint, tensors, tuple(layers), units)

    def add(self, model: FoundModel, weights: ReadWeights, declared: Mapping[str, Any], analysis_params: int | None) -> None:
        """Add to the batch what was read of a model, as far as the warehouse does not have it."""
        for remark in weights.remarks:
            self._context.report_event(EventKind.PASSED, model.model_id, remark)
        rows: dict[str, BatchRows] = {}
        if weights.units is not None and weights.checkpoint_id not in self._known.checkpoints_with_units:
            rows["units"] = weights.units
        if weights.checkpoint is not None:
            checkpoint = weights.checkpoint
            if analysis_params is not None and checkpoint["params"] not in (None, analysis_params):
                text = (
                    f"the analysis files say {analysis_params} parameters, the weights {checkpoint['params']}, which is taken"
                )
                checkpoint["notes"].append(note("disagreement", text))
            sighted = {"model_id": model.model_id, "source_uri": model.source_uri, "fingerprint": weights.fingerprint}
            rows |= {"checkpoints": [{**checkpoint, **declared, **sighted}], **self._content_rows(weights)}
        if rows:
            self._context.batch.add(rows)
        if "units" in rows:
            self._known.checkpoints_with_units.add(weights.checkpoint_id)
        if weights.checkpoint is not None:
            self._remember(model, weights, weights.checkpoint)

    @staticmethod
    def describe(model: FoundModel) -> str:
        """What a dry run reports of a model, by its headers alone. Raises InputError."""
        return weights_text(open_weights(model.folder, model.weight_files, model.shown))

    def _content_rows(self, weights: ReadWeights) -> dict[str, BatchRows]:
        """The rows that every model with this checkpoint shares; all of them again if earlier rules made them."""
        if weights.checkpoint_id not in self._known.checkpoints or weights.checkpoint_id in self._known.stale_checkpoints:
            return {"tensors": weights.tensors, "layers": weights.layers}
        return {"tensors": self._measured_again(weights)}

    def _remember(self, model: FoundModel, weights: ReadWeights, checkpoint: Row) -> None:
        self._known.checkpoints.add(weights.checkpoint_id)
        self._known.folders_by_model[model.model_id] = model.source_uri
        self._known.stale_checkpoints.discard(weights.checkpoint_id)
        self._known.sightings[model.model_id, SourceKind.WEIGHTS] = Sighting(
            weights.fingerprint, weights.level, weights.checkpoint_id, checkpoint["params"], checkpoint["device"]
        )

    def _unchanged_sighting(self, model: FoundModel, fingerprint: str) -> Sighting | None:
        """The warehouse's sighting of the model, if it is of just these files."""
        sighting = self._known.sightings.get((model.model_id, SourceKind.WEIGHTS))
        return sighting if sighting is not None and sighting.fingerprint == fingerprint else None

    def _is_measured(self, sighting: Sighting) -> bool:
        """Whether a checkpoint was measured as far as is asked, apart from its units."""
        if _level_index(sighting) < LEVELS.index(StatsLevel(self._reading.stats)):
            return False
        near_zero = self._reading.near_zero
        is_counted = near_zero is not None and self._reading.stats != StatsLevel.NONE
        return not is_counted or self._thresholds.get(sighting.checkpoint_id) == near_zero

    def _lacks_units(self, checkpoint_id: str) -> bool:
        return self._reading.units and checkpoint_id not in self._known.checkpoints_with_units

    @cached_property
    def _thresholds(self) -> dict[str, float]:
        """The near-zero threshold of each checkpoint, as it was when this was first asked for."""
        return read_greatest(self._context.store_root, "tensors", "near_zero_threshold")

    def _measure_again(self, opened: OpenedWeights, sighting: Sighting, device: str, threads: int) -> _Measured:
        """The numbers of a checkpoint by today's rules, as far as it was measured by earlier ones, or further if asked."""
        near_zero, on_bytes = self._reading.near_zero, self._context.progress.count_bytes
        if near_zero is None:
            near_zero = self._thresholds.get(sighting.checkpoint_id)
        level = max(LEVELS.index(StatsLevel(self._reading.stats)), _level_index(sighting))
        measurements = measure_weights(opened, threads=threads, near_zero=near_zero, device=device, on_bytes=on_bytes)
        notes: list[Note] = []
        if LEVELS[level] == StatsLevel.SPECTRAL:
            measurements, notes = add_spectra(opened, measurements, device, on_bytes)
        return _Measured(measurements, near_zero, counting_device(opened, device), LEVELS[level], tuple(notes))

    def _measure(self, opened: OpenedWeights, sighting: Sighting | None, device: str, threads: int) -> _Measured:
        """The numbers of all tensors; values are not read again for numbers that the warehouse has."""
        stored = None if sighting is None else self._stored(sighting, opened)
        near_zero, on_bytes = self._reading.near_zero, self._context.progress.count_bytes
        if stored is not None and near_zero is None:
            near_zero = stored.near_zero
        if stored is not None and stored.near_zero == near_zero:
            measurements, counted_on = stored.measurements, stored.device
        else:
            measurements = measure_weights(opened, threads=threads, near_zero=near_zero, device=device, on_bytes=on_bytes)
            counted_on = counting_device(opened, device)
        if stored is not None and stored.level == StatsLevel.SPECTRAL:
            spectra = {name: _spectrum(measurement) for name, measurement in stored.measurements.items()}
            measurements = {name: replace(measurement, **spectra[name]) for name, measurement in measurements.items()}
            return _Measured(measurements, near_zero, counted_on, StatsLevel.SPECTRAL)
        notes: list[Note] = []
        if self._reading.stats == StatsLevel.SPECTRAL:
            measurements, notes = add_spectra(opened, measurements, device, on_bytes)
        return _Measured(measurements, near_zero, counted_on, self._reading.stats, tuple(notes))

    def _stored(self, sighting: Sighting, opened: OpenedWeights) -> _Measured | None:
        """What the warehouse has of a checkpoint that was measured; None unless it has a row for each tensor."""
        from layerhouse.ingest.measure.measurement import Measurement

        if _level_index(sighting) < LEVELS.index(StatsLevel.FULL):
            return None
        columns = [column.name for column in fields(Measurement)]
        rows = read_rows(
            self._context.store_root, "tensors", [sighting.checkpoint_id], ("name", "near_zero_threshold", *columns)
        )
        by_name = {row["name"]: row for row in rows.get(sighting.checkpoint_id, [])}
        names = [placed.ref.name for placed in opened.placement.placed]
        if any(name not in by_name for name in names):
            return None
        threshold = next((by_name[name]["near_zero_threshold"] for name in names), None)
        measurements = {name: Measurement(**{column: by_name[name][column] for column in columns}) for name in names}
        return _Measured(measurements, threshold, sighting.device, sighting.stats_level or StatsLevel.NONE)

    def _measured_again(self, weights: ReadWeights) -> list[Row]:
        """The rows of a checkpoint that the warehouse has, with the numbers of both; none where that adds nothing."""
        if self._reading.stats != StatsLevel.SPECTRAL and self._reading.near_zero is None:
            return []
        stored = {row["name"]: row for row in stored_tensors(self._context, weights.checkpoint_id, ("name", *MEASURED_AGAIN))}
        rows = []
        for row in weights.tensors:
            old = stored.get(row["name"], {})
            kept = {column: old.get(column) for column in SPECTRAL_COLUMNS if row.get(column) is None}
            if row.get("near_zero_threshold") is None:
                kept |= {column: old.get(column) for column in ("near_zeros", "near_zero_threshold")}
            rows.append({**row, **kept})
        is_more = any(row.get(column) != stored.get(row["name"], {}).get(column) for row in rows for column in MEASURED_AGAIN)
        return rows if is_more else []

    def _read_units_alone(self, opened: OpenedWeights, checkpoint_id: str, fingerprint: str, threads: int) -> ReadWeights:
        """Read the units of a checkpoint whose other numbers the warehouse has."""
        units, notes = _read_units(opened, checkpoint_id, threads)
        remarks = [unknown["text"] for unknown in notes]
        if units is None:
            remarks = [f"no units: {'; '.join(remarks) or 'no family file names its tensors'}"]
        text, level = weights_text(opened), self._reading.stats
        return ReadWeights(opened, fingerprint, text, checkpoint_id, level, units=units, remarks=tuple(remarks))


def stored_tensors(context: IngestContext, checkpoint_id: str, columns: tuple[str, ...]) -> list[Row]:
    """Rows of a checkpoint's tensors: those that wait for a commit, or else those in the warehouse."""
    waiting = context.batch.waiting("tensors", checkpoint_id)
    return waiting or read_rows(context.store_root, "tensors", [checkpoint_id], columns).get(checkpoint_id, [])


def weights_text(opened: OpenedWeights) -> str:
    """The number of files, the size and the number of tensors of weights, for a report."""
    files, tensors = len(opened.weight_set.files), len(opened.contents.tensors)
    size = size_text(sum(path.stat().st_size for path in opened.weight_set.files))
    return f"weights ({count_text(files, 'file')}, {size}, {count_text(tensors, 'tensor')})"


def counting_device(opened: OpenedWeights, device: str) -> str:
    """The device that counts a checkpoint's values: the CPU if the device can count none of its tensors."""
    from layerhouse.ingest.measure.counter import fits_device

    is_used = any(
        fits_device(placed.ref.dtype, placed.ref.as_stored.elements)
        for placed in opened.measured
        if values_kind(placed) not in (PACKED, NO_VALUES)
    )
    return device if is_used else "cpu"


def _read_headers(model: FoundModel, fingerprint: str) -> ReadWeights:
    opened = open_weights(model.folder, model.weight_files, model.shown)
    checkpoint, tensors, layers = weight_rows(opened, None, near_zero=None, fingerprint=fingerprint)
    text, checkpoint_id = weights_text(opened), checkpoint["checkpoint_id"]
    return ReadWeights(opened, fingerprint, text, checkpoint_id, StatsLevel.NONE, checkpoint, tensors, tuple(layers))


def _read_units(opened: OpenedWeights, checkpoint_id: str, threads: int) -> tuple[pa.Table | None, list[Note]]:
    from layerhouse.ingest.units import read_units

    return read_units(opened, checkpoint_id, threads=threads)


def _level_index(sighting: Sighting) -> int:
    return LEVELS.index(StatsLevel(sighting.stats_level)) if sighting.stats_level in LEVELS else -1


def _spectrum(measurement: Measurement) -> dict[str, Any]:
    return {column: getattr(measurement, column) for column in SPECTRAL_COLUMNS}
