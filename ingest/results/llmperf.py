"""Summaries of LLMPerf (token_benchmark_ray.py): `*_summary.json`, one run of a load generator.

Times are seconds in the file and become milliseconds: `results_ttft_s_mean`, `results_inter_token_latency_s_quantiles_p99` and
the like. `results_mean_output_throughput_token_per_s` is the rate of output tokens over the whole run, and
`results_num_completed_requests_per_min` that of requests a minute. The load is the `subset`; requests that failed are a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import left_out_line, measure, text_or_none
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import as_float, is_number, whole_number
from layerhouse.ingest.results.settings import settings_text
from layerhouse.ingest.results.speed import (
    OUTPUT_RATE,
    failed_notes,
    loaded_run,
    rate,
    speed_columns,
    stated_settings,
    unknown_numbers,
)

HARNESS = "llmperf"
RATE_KEY = "results_mean_output_throughput_token_per_s"
PER_MINUTE = "results_num_completed_requests_per_min"
TIME = re.compile(r"results_(ttft|inter_token_latency|end_to_end_latency)_s_(?:quantiles_)?(p\d{1,2}|mean|min|max|stddev)")
TIMES = {"ttft": "ttft", "inter_token_latency": "itl", "end_to_end_latency": "e2el"}
STATISTICS = {"p50": "median", "stddev": "std"}
SETTINGS = {
    "num_concurrent_requests": "concurrency",
    "mean_input_tokens": "input",
    "stddev_input_tokens": "input_std",
    "mean_output_tokens": "output",
    "stddev_output_tokens": "output_std",
}
LATEST_TIME = 1e11
"""Seconds since 1970; larger numbers are no times."""


def recognises(document: Any, path: Path) -> bool:
    """The rate of output tokens and a time, under LLMPerf's names."""
    return isinstance(document, dict) and RATE_KEY in document and "results_inter_token_latency_s_mean" in document


def parse(document: Any, path: Path) -> ParsedResults:
    """The rates and times of the run."""
    completed, failed = (document.get(key) for key in ("results_num_completed_requests", "results_number_errors"))
    moment = document.get("timestamp")
    run_at, notes = read_run_at(None, path)
    if is_number(moment) and 0 < moment < LATEST_TIME:
        run_at, notes = datetime.fromtimestamp(moment, UTC), []
    common = speed_columns(HARNESS) | {
        "declared_model": text_or_none(document.get("model")),
        **loaded_run(document),
        "run_at": run_at,
    }
    notes = [*failed_notes(failed, completed, None), *notes]
    return parsed_results(_items(document), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _items(document: Row) -> Iterator[Item]:
    stated = {name: document[key] for key, name in SETTINGS.items() if is_number(document.get(key))}
    others_stated = {name: text for name, text in stated_settings(document).items() if name not in stated}
    columns: Row = {
        "subset": settings_text(stated | others_stated),
        "n_samples": whole_number(document.get("results_num_completed_requests")),
    }
    others = []
    for key, value in document.items():
        if key == RATE_KEY:
            yield rate(key, OUTPUT_RATE, value, **columns)
        elif key == PER_MINUTE:
            yield rate(key, "requests_per_min", value, unit="req/min", **columns)
        elif time := TIME.fullmatch(key):
            metric = f"{STATISTICS.get(time[2], time[2])}_{TIMES[time[1]]}_ms"
            milliseconds = as_float(value) * 1000 if is_number(value) else value
            yield measure(key, metric, milliseconds, unit="ms", higher_is_better=False, **columns)
        elif key.startswith("results_"):
            others.append(key)
    if others:
        yield left_out_line(", ".join(others), "counts and other measures are passed over")
    settings = {key: value for key, value in document.items() if not key.startswith("results_")}
    yield from unknown_numbers(settings, (*SETTINGS, "timestamp"))
