"""Results of SGLang's load generator, `python -m sglang.bench_serving` (bench_serving.py): a run a line of JSON Lines.

Rates are a second: `request_throughput`, and tokens as `input_throughput`, `output_throughput`, `total_throughput`. Times are
in milliseconds, as `mean_ttft_ms` or `p99_itl_ms`; `e2e_latency` is the time of a whole request. The settings of the load and
of the server, and the backend, which may be another server, are the `subset`. Later versions add `server_info`, the arguments
of the server, which may hold keys: the model, how it was loaded and the settings are read of it. Older files name no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import left_out_line, measure, object_at, text_or_none
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import is_number, whole_number
from layerhouse.ingest.results.speed import (
    MODEL_ARGUMENTS,
    OUTPUT_RATE,
    REQUEST_RATE,
    SETTINGS,
    TOTAL_RATE,
    add_mean_lengths,
    failed_notes,
    loaded_run,
    rate,
    speed_columns,
    stated_settings,
    subset_of,
    with_notes,
)

HARNESS = "sglang"
RATES = {
    "request_throughput": (REQUEST_RATE, "req/s"),
    "input_throughput": ("input_tokens_per_sec", "tok/s"),
    "output_throughput": (OUTPUT_RATE, "tok/s"),
    "total_throughput": (TOTAL_RATE, "tok/s"),
}
TIME = re.compile(r"(mean|median|std|p\d{1,2}(?:\.\d+)?)_(ttft|tpot|itl|e2e_latency)_ms")
NO_MEASURES = frozenset({"duration", "completed", "failed", "concurrency", *SETTINGS, *MODEL_ARGUMENTS})
"""Totals, settings and other numbers that are no measure of speed."""


def recognises(document: Any, path: Path) -> bool:
    """Runs with a duration and the time of a whole request under SGLang's name."""
    runs = document if isinstance(document, list) else [document]
    return bool(runs) and all(isinstance(run, dict) and "duration" in run and "mean_e2e_latency_ms" in run for run in runs)


def parse(document: Any, path: Path) -> ParsedResults:
    """The rates and times of every run."""
    runs = document if isinstance(document, list) else [document]
    run_at, notes = read_run_at(None, path)
    items = (item for position, run in enumerate(runs) for item in _run(f"[{position}]", run))
    return parsed_results(items, speed_columns(HARNESS) | {"run_at": run_at}, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _run(where: str, run: Row) -> Iterator[Item]:
    server = object_at(run, "server_info")
    settings = stated_settings(run, server)
    if not str(run.get("dataset_name", "random")).startswith("random"):
        settings = {name: text for name, text in settings.items() if name not in ("input", "output", "range")}
    totals = {name: run.get(f"total_{name}_tokens") for name in ("input", "output")}
    add_mean_lengths(settings, run.get("completed"), **totals)
    notes = failed_notes(run.get("failed"), run.get("completed"), run.get("num_prompts"))
    columns: Row = {
        "subset": subset_of(settings),
        "n_samples": whole_number(run.get("completed")),
        "declared_model": text_or_none(server.get("model_path") or run.get("model_id")),
        "harness_version": text_or_none(server.get("version")),
        **loaded_run(run, server, resolved={"tag": run.get("tag")}),
    }
    for item in _numbers(where, run, columns):
        yield with_notes(item, notes)


def _numbers(where: str, run: Row, columns: Row) -> Iterator[Item]:
    for key, value in run.items():
        place = f"{where}.{key}"
        if key in RATES:
            metric, unit = RATES[key]
            yield rate(place, metric, value, is_timeless=run["duration"] == 0, unit=unit, **columns)
        elif time := TIME.fullmatch(key):
            metric = f"{time[1]}_{'e2el' if time[2] == 'e2e_latency' else time[2]}_ms"
            yield measure(place, metric, value, unit="ms", higher_is_better=False, **columns)
        elif key == "accept_length" and value is not None:
            yield measure(place, key, value, unit="tokens", higher_is_better=True, **columns)
        elif is_number(value) and key not in NO_MEASURES and not key.startswith("total_"):
            yield left_out_line(place, "not known")
