"""Results of vLLM's benchmarks: `vllm bench serve`, `latency` and `throughput` (vllm/benchmarks/*.py), and their older scripts.

A file holds one run; with `--append-result` it holds a run a line. `serve` has `request_throughput` (requests a second),
`output_throughput` and `total_token_throughput` (tokens a second), and times as `mean_ttft_ms` or `p99_itl_ms` (milliseconds).
`throughput` has `elapsed_time` (seconds) and `tokens_per_second`. `latency` has `avg_latency` and `percentiles` (seconds a
batch). Each of these becomes a row; settings and totals do not. The settings of the load and of the engine, as `--metadata`
adds them, are the `subset`; the lengths are those of the totals where none are stated. Failed requests are a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.results.parsed import Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import measure, object_at, shortened, text_or_none
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import INT32_MAX, as_float, is_number, whole_number
from layerhouse.ingest.results.settings import setting_text
from layerhouse.ingest.results.speed import (
    OUTPUT_RATE,
    REQUEST_RATE,
    TOTAL_RATE,
    UNSPECIFIED_RATE,
    add_mean_lengths,
    failed_notes,
    loaded_run,
    rate,
    speed_columns,
    stated_settings,
    subset_of,
    unknown_numbers,
    with_notes,
)

HARNESS = "vllm"
RATES = {
    "output_throughput": (OUTPUT_RATE, "tok/s"),
    "total_token_throughput": (TOTAL_RATE, "tok/s"),
    "request_throughput": (REQUEST_RATE, "req/s"),
    "request_goodput": ("good_requests_per_sec", "req/s"),
}
TIME = re.compile(r"(?:mean|median|std|p\d{1,2}(?:\.\d+)?)_(?:ttft|tpot|itl|e2el)_ms")
TOTALS = ("duration", "completed", "failed", "total_input_tokens", "total_output_tokens")
"""Numbers of `serve` that are no measures."""
THROUGHPUT_KEYS = ("elapsed_time", "num_requests", "batch_size", "tokens_per_second", "requests_per_second", "latency_ms")
TOTAL_KEYS = {"total_output_tokens": OUTPUT_RATE, "total_num_tokens": TOTAL_RATE}
RATE_TOLERANCE = 0.01


def recognises(document: Any, path: Path) -> bool:
    """The keys of one of the three benchmarks, or a list of such runs."""
    if isinstance(document, list):
        return bool(document) and all(isinstance(run, dict) and recognises(run, path) for run in document)
    if not isinstance(document, dict):
        return False
    is_serve = "request_throughput" in document and "duration" in document
    is_latency = "avg_latency" in document and "percentiles" in document
    return is_serve or is_latency or ("elapsed_time" in document and "tokens_per_second" in document)


def parse(document: Any, path: Path) -> ParsedResults:
    """The rates and times of every run."""
    if isinstance(document, list):
        runs = [parse(run, path) for run in document]
        return ParsedResults(
            tuple(row for run in runs for row in run.rows),
            tuple(shortened(f"[{position}].{line}") for position, run in enumerate(runs) for line in run.left_out),
        )
    moment = _moment(document.get("date"))
    model = text_or_none(document.get("model_id") or document.get("model"))
    tokenizer = document.get("tokenizer_id") if document.get("tokenizer_id") != model else None
    run_at, notes = (moment, []) if moment else read_run_at(None, path)
    common = speed_columns(HARNESS) | {
        "declared_model": model,
        **loaded_run(document, resolved={"label": document.get("label"), "tokenizer": tokenizer}),
        "harness_version": text_or_none(document.get("vllm_version")),
        "hardware": text_or_none(document.get("hardware") or document.get("gpu")),
        "run_at": run_at,
    }
    parse_run = _latency if "avg_latency" in document else _serve if "duration" in document else _throughput
    return parsed_results(parse_run(document), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _moment(date: Any) -> datetime | None:
    """`date` as vLLM writes it, 20260131-120000, taken as UTC."""
    if not isinstance(date, str) or not re.fullmatch(r"\d{8}-\d{6}", date):
        return None
    try:
        return datetime.strptime(date, "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _serve(document: Row) -> Iterator[Item]:
    completed = document.get("completed")
    settings = stated_settings(document)
    add_mean_lengths(settings, completed, input=document.get("total_input_tokens"), output=document.get("total_output_tokens"))
    notes = failed_notes(document.get("failed"), completed, document.get("num_prompts"))
    columns: Row = {"subset": subset_of(settings), "n_samples": whole_number(completed)}
    is_timeless = document.get("duration") == 0
    for key, value in document.items():
        if key in RATES:
            metric, unit = RATES[key]
            if value is not None:
                yield with_notes(rate(key, metric, value, is_timeless=is_timeless, unit=unit, **columns), notes)
        elif TIME.fullmatch(key):
            yield with_notes(measure(key, key, value, unit="ms", higher_is_better=False, **columns), notes)
    others = {key: value for key, value in document.items() if key not in RATES and not TIME.fullmatch(key)}
    yield from unknown_numbers(others, TOTALS)


def _throughput(document: Row) -> Iterator[Item]:
    settings = stated_settings(document)
    requests = document.get("num_requests")
    output, total = (whole_number(document.get(key)) for key in TOTAL_KEYS)
    if (count := setting_text(whole_number(requests))) is not None:
        settings.setdefault("prompts", count)
    if total is None or output is None:
        add_mean_lengths(settings, requests, tokens=total, output=output)
    else:
        add_mean_lengths(settings, requests, input=total - output, output=output)
    columns: Row = {
        "subset": subset_of(settings),
        "n_samples": whole_number(requests),
        "batch_size": whole_number(document.get("batch_size"), INT32_MAX),
    }
    is_timeless = document.get("elapsed_time") == 0
    metric, notes = _counted_tokens(document)
    row = rate("tokens_per_second", metric, document["tokens_per_second"], is_timeless=is_timeless, **columns)
    yield with_notes(row, notes)
    if "requests_per_second" in document:
        value = document["requests_per_second"]
        yield rate("requests_per_second", REQUEST_RATE, value, is_timeless=is_timeless, unit="req/s", **columns)
    if "latency_ms" in document:
        yield measure("latency_ms", "latency_ms", document["latency_ms"], unit="ms", higher_is_better=False, **columns)
    yield from unknown_numbers(document, (*THROUGHPUT_KEYS, *TOTAL_KEYS))


def _counted_tokens(document: Row) -> tuple[str, list[Note]]:
    """The name of the rate `tokens_per_second`, and notes. A total counts the same tokens if total / time is the rate; where
    a number is missing for that, the total that the file has decides."""
    for key, metric in TOTAL_KEYS.items():
        total = document.get(key)
        stated = (total, document.get("elapsed_time"), document["tokens_per_second"])
        numbers = [as_float(number) for number in stated if is_number(number) and number > 0]
        is_near = len(numbers) == 3 and abs(numbers[0] / numbers[1] - numbers[2]) <= RATE_TOLERANCE * numbers[2]
        if is_near or (len(numbers) < 3 and total is not None):
            return metric, []
    return UNSPECIFIED_RATE, [note("rate", "the file does not say which tokens are counted")]


def _latency(document: Row) -> Iterator[Item]:
    columns: Row = {
        "subset": subset_of(stated_settings(document)),
        "batch_size": whole_number(document.get("batch_size"), INT32_MAX),
        "unit": "s/batch",
        "higher_is_better": False,
    }
    yield measure("avg_latency", "latency_s_per_batch", document["avg_latency"], **columns)
    for percentile, value in object_at(document, "percentiles").items():
        yield measure(f"percentiles.{percentile}", f"p{percentile}_latency_s_per_batch", value, **columns)
    yield from unknown_numbers(document, ("avg_latency", "batch_size"))
