"""Results of NVIDIA's GenAI-Perf (export_data/json_exporter.py) and of AIPerf, its successor: one run of a load generator.

A measure is an object under its name, with `unit`, `avg`, `p50`, `p99` and the like. Rates (`output_token_throughput`,
`request_throughput` and others, a second) become a row of their `avg`. Times (`time_to_first_token`, `inter_token_latency`,
`request_latency`) become a row for each statistic, converted to milliseconds. Of `input_config` only the model and the load
(request rate, concurrency, lengths, the kind of server) are read, as it may hold keys. The lengths are those that were measured
where none are stated. Requests that failed are a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, measure, object_at
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import INT32_MAX, as_float, is_number
from layerhouse.ingest.results.settings import setting_text
from layerhouse.ingest.results.speed import (
    OUTPUT_RATE,
    REQUEST_RATE,
    TOTAL_RATE,
    failed_notes,
    rate,
    rounded_length,
    speed_columns,
    subset_of,
)

HARNESS = "genai_perf"
RATES = {
    "output_token_throughput": (OUTPUT_RATE, "tok/s"),
    "total_token_throughput": (TOTAL_RATE, "tok/s"),
    "request_throughput": (REQUEST_RATE, "req/s"),
    "output_token_throughput_per_request": ("output_tokens_per_sec_per_request", "tok/s"),
    "output_token_throughput_per_user": ("output_tokens_per_sec_per_user", "tok/s"),
}
TIMES = {"time_to_first_token": "ttft", "inter_token_latency": "itl", "request_latency": "e2el"}
STATISTICS = {"avg": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
MILLISECONDS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3}
"""Milliseconds in a unit of time."""
LOADS: dict[str, tuple[str, ...]] = {
    "rate": ("request_rate", "loadgen.request_rate", "perf_analyzer.stimulus.request_rate"),
    "concurrency": ("concurrency", "loadgen.concurrency", "perf_analyzer.stimulus.concurrency"),
    "requests": ("request_count", "loadgen.request_count", "perf_analyzer.request_count"),
    "input": ("synthetic_input_tokens_mean", "input.synthetic_tokens.mean", "input.prompt.input_tokens.mean"),
    "input_std": ("synthetic_input_tokens_stddev", "input.synthetic_tokens.stddev", "input.prompt.input_tokens.stddev"),
    "output": ("output_tokens_mean", "input.output_tokens.mean", "input.prompt.output_tokens.mean"),
    "output_std": ("output_tokens_stddev", "input.output_tokens.stddev", "input.prompt.output_tokens.stddev"),
    "prefixes": ("num_prefix_prompts", "input.prefix_prompt.num", "input.prompt.prefix_prompt.pool_size"),
    "dataset": ("input_file", "input.file", "input_dataset"),
    "endpoint": ("endpoint_type", "endpoint.type"),
    "service": ("service_kind", "endpoint.service_kind"),
    "backend": ("backend", "endpoint.backend"),
    "streaming": ("streaming", "endpoint.streaming"),
}
"""Settings, and where versions of the tools have them in `input_config`."""
UNSET = ("", "-1", "0", "[]", "{}")
"""Texts of values that are not given."""
LENGTHS = {"input": "input_sequence_length", "output": "output_sequence_length"}
CONCURRENCY_IN_NAME = re.compile(r"concurrency_?(\d{1,9})(?!\d)")


def recognises(document: Any, path: Path) -> bool:
    """A throughput that is an object with `avg`."""
    return isinstance(document, dict) and any(
        "avg" in object_at(document, key) for key in ("request_throughput", "output_token_throughput")
    )


def parse(document: Any, path: Path) -> ParsedResults:
    """Means of rates; means and percentiles of times, in milliseconds."""
    config = object_at(document, "input_config")
    run_at, notes = read_run_at(document.get("start_time"), path)
    common = speed_columns(HARNESS) | {"declared_model": _model(config), "subset": _load(document, path), "run_at": run_at}
    failed, completed = (object_at(document, key).get("avg") for key in ("error_request_count", "request_count"))
    notes = [*failed_notes(_whole(failed), _whole(completed), None), *notes]
    return parsed_results(_measures(document), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _load(document: Row, path: Path) -> str | None:
    """The settings in the config; the concurrency in the name of the file or its folder where there is no load, and the mean
    lengths that were measured where there are none."""
    config = object_at(document, "input_config")
    loads: Row = {}
    for name, places in LOADS.items():
        texts = [setting_text(_at(config, place)) for place in places]
        stated = next((text for text in texts if text is not None and text not in UNSET), None)
        if stated is not None:
            loads[name] = stated
    if not loads.keys() & {"rate", "concurrency"} and (match := CONCURRENCY_IN_NAME.search(f"{path.parent.name}/{path.name}")):
        loads["concurrency"] = match[1]
    for name, key in LENGTHS.items():
        mean = object_at(document, key).get("avg")
        if name not in loads and is_number(mean) and 0 < mean < INT32_MAX:
            loads[name] = rounded_length(mean)
    return subset_of(loads)


def _whole(number: Any) -> int | None:
    """A count that the tool writes as a float, or None."""
    return int(number) if is_number(number) and 0 <= number < INT32_MAX else None


def _at(config: Row, place: str) -> Any:
    """The value at a path of keys; None where there is none, and where it is an object or a list."""
    *folders, last = place.split(".")
    for folder in folders:
        config = object_at(config, folder)
    value = config.get(last)
    return None if isinstance(value, dict | list) else value


def _model(config: Row) -> str | None:
    """The first model of the config: `model_names` here or under `endpoint`, or AIPerf's `models.items`."""
    items = object_at(config, "models").get("items")
    first = items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
    lists = [config.get("model_names"), object_at(config, "endpoint").get("model_names"), [first.get("name")]]
    names = [names[0] for names in lists if isinstance(names, list) and names]
    return next((name for name in names if is_text(name)), None)


def _measures(document: Row) -> Iterator[Item]:
    for key, (metric, unit) in RATES.items():
        value = object_at(document, key).get("avg")
        if value is not None:
            yield rate(f"{key}.avg", metric, value, unit=unit)
    for key, name in TIMES.items():
        time = object_at(document, key)
        factor = MILLISECONDS.get(str(time.get("unit")))
        for statistic, prefix in STATISTICS.items():
            where, value = f"{key}.{statistic}", time.get(statistic)
            if value is None:
                continue
            if factor is None or not is_number(value):
                yield left_out_line(where, "no number with a unit of time")
            else:
                milliseconds = as_float(value) * factor
                yield measure(where, f"{prefix}_{name}_ms", milliseconds, unit="ms", higher_is_better=False)
    known = {key: {"avg"} for key in RATES} | {key: {*STATISTICS} for key in TIMES}
    unread = {
        name
        for key, read in known.items()
        for name, value in object_at(document, key).items()
        if name not in (*read, "unit") and value is not None
    }
    if unread:
        yield left_out_line(", ".join(sorted(unread)), "statistics of rates and times that are passed over")
    others = [key for key in document if key not in RATES and key not in TIMES and "avg" in object_at(document, key)]
    if others:
        yield left_out_line(", ".join(others), "lengths, counts and other measures are passed over")
