"""The spectra of a checkpoint's weights: which tensors have one, and notes on those that have none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.checkpoint.tensor_ref import PLAIN
from layerhouse.ingest.checkpoint_rows import OpenedWeights, values_kind
from layerhouse.ingest.model.placement import Placed

if TYPE_CHECKING:
    from layerhouse.ingest.measure.measurement import Measurement

SPECTRAL_COLUMNS = ("spectral_norm", "stable_rank", "effective_rank", "alpha")


def has_spectrum(placed: Placed) -> bool:
    """Whether the spectrum of a tensor is measured: it is a weight of two dimensions, stored as its own values."""
    return placed.is_parameter and len(placed.ref.shape) == 2 and values_kind(placed) == PLAIN


def add_spectra(
    opened: OpenedWeights, measurements: Mapping[str, Measurement], device: str, on_bytes: Callable[[int], None]
) -> tuple[dict[str, Measurement], list[Note]]:
    """The measurements with spectra, and a note for each reason why some have no spectrum or lack a number.

    Raises InputError naming the tensor where bytes cannot be read, and UsageError where the device refuses.
    """
    from layerhouse.ingest.measure.spectrum import measure_spectra

    tensors = [placed for placed in opened.measured if has_spectrum(placed)]
    names_by_reason: dict[str, list[str]] = defaultdict(list)
    by_place: dict[tuple[Any, ...], dict[str, Any]] = {}
    try:
        spectra = measure_spectra((placed.ref.as_stored for placed in tensors), device, on_bytes)
        for placed, spectrum in zip(tensors, spectra, strict=True):
            numbers = asdict(spectrum)
            if (reason := numbers.pop("reason")) is not None:
                names_by_reason[reason].append(placed.ref.name)
            by_place[placed.ref.place] = numbers
    except InputError as error:
        raise InputError(f"{opened.display_path}: {tensors[len(by_place)].ref.name}", error.what) from error
    measured = {
        placed.ref.name: replace(measurements[placed.ref.name], **by_place.get(placed.ref.place, {}))
        for placed in opened.placement.placed
    }
    return measured, [note("spectral", f"{_names_text(names)}: {reason}") for reason, names in names_by_reason.items()]


def _names_text(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} weights such as {names[0]}"
