"""The spectra of a checkpoint's weights: which tensors have one, and what is said of those that have not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.tensor_ref import PLAIN
from layerhouse.ingest.model.placement import Placed

if TYPE_CHECKING:
    from layerhouse.ingest.checkpoint_rows import OpenedWeights
    from layerhouse.ingest.measure.measurement import Measurement

SPECTRAL_COLUMNS = ("spectral_norm", "stable_rank", "effective_rank", "alpha")


def has_spectrum(placed: Placed) -> bool:
    """Whether spectra are measured of a tensor: a weight of two dimensions whose stored values are its own."""
    layout = placed.ref.layout
    return placed.is_parameter and len(placed.ref.shape) == 2 and (layout is None or layout.values == PLAIN)


def add_spectra(
    opened: OpenedWeights, measurements: Mapping[str, Measurement], device: str, on_bytes: Callable[[int], None]
) -> tuple[dict[str, Measurement], list[dict[str, str]]]:
    """The measurements with spectra, and a note for each reason for which some have none or not all numbers.

    Raises InputError naming the model where bytes cannot be read, and UsageError where the device refuses.
    """
    from layerhouse.ingest.measure.spectrum import measure_spectra

    tensors = [placed for placed in opened.measured if has_spectrum(placed)]
    reasons: dict[str, list[str]] = defaultdict(list)
    by_place: dict[tuple[Any, ...], dict[str, Any]] = {}
    try:
        found = measure_spectra((placed.ref.as_stored for placed in tensors), device, on_bytes)
        for placed, spectrum in zip(tensors, found, strict=True):
            numbers = asdict(spectrum)
            if (reason := numbers.pop("reason")) is not None:
                reasons[reason].append(placed.ref.name)
            by_place[placed.ref.place] = numbers
    except InputError as error:
        raise InputError(f"{opened.shown}: {tensors[len(by_place)].ref.name}", error.what) from error
    measured = {
        placed.ref.name: replace(measurements[placed.ref.name], **by_place.get(placed.ref.place, {}))
        for placed in opened.placement.placed
    }
    return measured, [{"code": "spectral", "text": _line(reason, names)} for reason, names in reasons.items()]


def _line(reason: str, names: list[str]) -> str:
    shown = names[0] if len(names) == 1 else f"{len(names)} weights such as {names[0]}"
    return f"{shown}: {reason}"
