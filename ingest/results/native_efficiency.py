"""Speed and memory of the study's own form, and the hardware that they were measured on.

`efficiency` has `speed`, with numbers by `batch_size_N`, `memory`, and the name of the hardware. Lengths and other settings of
the load, where a script adds them, are the `subset` of the numbers beside and below them. Units: see MEASURES.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.parsed import Item, Row
from layerhouse.ingest.results.rows import is_text, left_out_line, measure, unusable
from layerhouse.ingest.results.scores import INT32_MAX
from layerhouse.ingest.results.settings import settings_text
from layerhouse.vocabulary import ResultStatus

HARDWARE_KEYS = ("hardware", "gpu", "gpu_name", "device")
BATCH = re.compile(r"batch_size_([0-9]+)")
MEASURES: dict[str, tuple[str, bool | None]] = {
    "throughput_tokens_per_sec": ("tok/s", True),
    "latency_ms_per_token": ("ms/token", False),
    "total_time_sec": ("s", None),
    "total_tokens": ("tokens", None),
    "model_memory_mb": ("MiB", False),
    "inference_peak_mb": ("MiB", False),
}
"""Unit and higher_is_better of a metric."""
SETTINGS = {
    **dict.fromkeys(("input_len", "input_length", "prompt_len", "prompt_length"), "input"),
    **dict.fromkeys(("output_len", "output_length", "gen_length", "max_new_tokens"), "output"),
    **{name: name for name in ("seq_len", "dtype", "backend", "attn_implementation", "kv_cache_dtype", "torch_compile")},
}
"""Keys of settings, and their names in a subset."""
NEVER_ZERO = ("throughput_tokens_per_sec", "latency_ms_per_token", "total_time_sec")


def read_hardware(document: Row, efficiency: Any) -> tuple[str | None, list[Item]]:
    """The hardware that the file names, first in `efficiency`, then at the top level; and a line for each other name."""
    section = efficiency if isinstance(efficiency, dict) else {}
    names = [(f"metrics.efficiency.{key}", section[key]) for key in HARDWARE_KEYS if is_text(section.get(key))]
    names += [(key, document[key]) for key in HARDWARE_KEYS if is_text(document.get(key))]
    where, hardware = names[0] if names else ("", None)
    return hardware, [left_out_line(key, f"{where} is taken") for key, name in names[1:] if name != hardware]


def efficiency_items(where: str, section: Row, hardware: str | None) -> Iterator[Item]:
    """The numbers of `efficiency`, of its sections, and of the batch sizes in `speed`."""
    settings = _settings(section)
    for key, value in section.items():
        if key in HARDWARE_KEYS:
            if not is_text(value):
                yield unusable(f"{where}.{key}", value, "text")
        elif key in ("speed", "memory") and isinstance(value, dict):
            yield from _part(f"{where}.{key}", key, value, settings, hardware)
        elif key not in SETTINGS:
            columns: Row = {"suite": "efficiency", "hardware": hardware, "subset": settings_text(settings)}
            yield _number(f"{where}.{key}", key, value, **columns)


def _part(where: str, suite: str, part: Row, outer: Row, hardware: str | None) -> Iterator[Item]:
    """The numbers of `speed` or `memory`."""
    settings = outer | _settings(part)
    columns: Row = {"suite": suite, "hardware": hardware, "subset": settings_text(settings)}
    for name, inner in part.items():
        inner_path, batch = f"{where}.{name}", BATCH.fullmatch(name)
        if suite != "speed" or batch is None or not isinstance(inner, dict):
            if name not in SETTINGS:
                yield _number(inner_path, name, inner, **columns)
        elif len(batch[1]) > 10 or not 1 <= int(batch[1]) <= INT32_MAX:
            yield left_out_line(inner_path, f"a batch size must be from 1 to {INT32_MAX}")
        else:
            of_batch = columns | {"subset": settings_text(settings | _settings(inner)), "batch_size": int(batch[1])}
            for metric, number in inner.items():
                if metric not in SETTINGS:
                    yield _number(f"{inner_path}.{metric}", metric, number, **of_batch)


def _settings(section: Row) -> Row:
    return {name: section[key] for key, name in SETTINGS.items() if section.get(key) is not None}


def _number(where: str, metric: str, value: Any, *, suite: str, **columns: Any) -> Item:
    """One number of speed or memory. A time or rate of zero or less was not measured: missing, with a note."""
    unit, direction = MEASURES.get(metric, (None, None))
    row = measure(where, metric, value, suite=suite, task=suite, unit=unit, higher_is_better=direction, **columns)
    if isinstance(row, str) or metric not in NEVER_ZERO or row["value"] is None or row["value"] > 0:
        return row
    notes = [note("zero_time", f"the file says {row['value']:g}, which no run can take")]
    return {**row, "value": None, "value_integer": None, "status": ResultStatus.MISSING, "notes": notes}
