"""Speed and memory files: vLLM's benchmarks, llama.cpp's llama-bench, optimum-benchmark's reports (llm-perf), GenAI-Perf's.

A rate is named by what it counts, since "tokens a second" is any of them: output tokens over the whole time, input and output
tokens over the whole time, tokens while decoding, tokens of the prompt. Forms: vllm benchmarks/{serve,latency,throughput}.py;
llama.cpp tools/llama-bench; optimum_benchmark benchmark/report.py; genai_perf export_data/json_exporter.py and aiperf, its
successor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.results.parsed import (
    EMPTY_ROW,
    INT64_MAX,
    Item,
    ParsedResults,
    ResultFormat,
    Row,
    is_text,
    left_out_line,
    measure,
    note,
    read_run_at,
)

OUTPUT, TOTAL, DECODE, PREFILL = (
    "output_tokens_per_sec",
    "total_tokens_per_sec",
    "decode_tokens_per_sec",
    "prefill_tokens_per_sec",
)
UNNAMED = "tokens_per_sec"
SERVE_RATES = {
    "output_throughput": (OUTPUT, "tok/s"),
    "total_token_throughput": (TOTAL, "tok/s"),
    "request_throughput": ("requests_per_sec", "req/s"),
    "request_goodput": ("good_requests_per_sec", "req/s"),
}
SERVE_TIME = re.compile(r"(?:mean|median|std|p\d{1,2}(?:\.\d+)?)_(?:ttft|tpot|itl|e2el)_ms")
SERVE_SETTINGS = ("request_rate", "max_concurrency", "burstiness", "num_prompts")
SERVE_COUNTS = ("duration", "completed", "failed", "total_input_tokens", "total_output_tokens")
GENAI_RATES = {
    "output_token_throughput": (OUTPUT, "tok/s"),
    "total_token_throughput": (TOTAL, "tok/s"),
    "request_throughput": ("requests_per_sec", "req/s"),
    "output_token_throughput_per_request": ("output_tokens_per_sec_per_request", "tok/s"),
    "output_token_throughput_per_user": ("output_tokens_per_sec_per_user", "tok/s"),
}
GENAI_TIMES = {"time_to_first_token": "ttft", "inter_token_latency": "itl", "request_latency": "e2el"}
GENAI_STATISTICS = {"avg": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
MILLISECONDS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3}
CONCURRENCY_IN_NAME = re.compile(r"concurrency_?(\d{1,9})(?!\d)")
TARGETS = ("load_model", "load", "first_generate", "generate", "prefill", "decode", "per_token", "forward")
MEMORY_KEYS = ("max_ram", "max_global_vram", "max_process_vram", "max_reserved", "max_allocated")
LATENCY_KEYS = ("mean", "p50", "p90", "p95", "p99")


def _common(harness: str, path: Path, moment: datetime | None = None) -> Row:
    run_at, notes = (moment, []) if moment else read_run_at(None, path)
    return {
        **EMPTY_ROW,
        "harness": harness,
        "run_at": run_at,
        "notes": notes,
        "is_group": False,
        "suite": "speed",
        "task": "speed",
    }


def _parsed(common: Row, items: Iterable[Item]) -> ParsedResults:
    found = [*items]
    rows = [{**common, **item, "notes": [*item.get("notes", ()), *common["notes"]]} for item in found if isinstance(item, dict)]
    return ParsedResults(tuple(rows), tuple(item for item in found if isinstance(item, str)))


def _rate(where: str, metric: str, value: Any, *, is_timeless: bool, unit: str = "tok/s", **columns: Any) -> Item:
    """A rate; one over a time of zero is missing, with a note."""
    row = measure(where, metric, value, unit=unit, higher_is_better=True, **columns)
    if isinstance(row, dict) and (is_timeless or (row["value"] is not None and row["value"] <= 0)):
        said = "the time it was measured over is zero" if is_timeless else f"the file says {row['value']:g}"
        row |= {"value": None, "value_integer": None, "status": "missing", "notes": [note("zero_time", said)]}
    return row


# vLLM


def _recognises_vllm(document: Any, path: Path) -> bool:
    """One run, or a list of them: `--append-result` writes a line a run."""
    if isinstance(document, list):
        return bool(document) and all(isinstance(run, dict) and _recognises_vllm(run, path) for run in document)
    if not isinstance(document, dict):
        return False
    is_serve = "request_throughput" in document and "duration" in document
    is_latency = "avg_latency" in document and "percentiles" in document
    return is_serve or is_latency or ("elapsed_time" in document and "tokens_per_second" in document)


def _parse_vllm(document: Row | list[Row], path: Path) -> ParsedResults:
    if isinstance(document, list):
        runs = [_parse_vllm(run, path) for run in document]
        return ParsedResults(
            tuple(row for run in runs for row in run.rows),
            tuple(f"[{place}].{line}" for place, run in enumerate(runs) for line in run.left_out),
        )
    moment = None
    if isinstance(document.get("date"), str) and re.fullmatch(r"\d{8}-\d{6}", document["date"]):
        moment = datetime.strptime(document["date"], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    model, hardware = document.get("model_id"), document.get("hardware") or document.get("gpu")
    common = _common("vllm", path, moment) | {
        "declared_model": model if is_text(model) else None,
        "hardware": hardware if is_text(hardware) else None,
    }
    if "avg_latency" in document:
        return _parsed(common, _vllm_latency(document))
    return _parsed(common, _vllm_serve(document) if "duration" in document else _vllm_throughput(document))


def _vllm_serve(document: Row) -> Iterator[Item]:
    setting = [
        f"{name}={document[key]}"
        for key, name in (("request_rate", "rate"), ("max_concurrency", "concurrency"))
        if document.get(key) is not None
    ]
    columns: Row = {"subset": ",".join(setting) or None, "n_samples": _count(document.get("completed"))}
    is_timeless = document.get("duration") == 0
    for key, value in document.items():
        if key in SERVE_RATES:
            metric, unit = SERVE_RATES[key]
            if value is not None:
                yield _rate(key, metric, value, is_timeless=is_timeless, unit=unit, **columns)
        elif SERVE_TIME.fullmatch(key):
            yield measure(key, key, value, unit="ms", higher_is_better=False, **columns)
        elif _is_number(value) and key not in (*SERVE_SETTINGS, *SERVE_COUNTS):
            yield left_out_line(key, "not known")


def _vllm_throughput(document: Row) -> Iterator[Item]:
    """Which tokens the rate counts is seen from the totals beside it."""
    elapsed, rate = document.get("elapsed_time"), document["tokens_per_second"]
    columns: Row = {"n_samples": _count(document.get("num_requests")), "batch_size": _count(document.get("batch_size"))}
    is_timeless = elapsed == 0
    metric, notes = UNNAMED, [note("rate", "the file does not say which tokens are counted")]
    for key, kind in (("total_output_tokens", OUTPUT), ("total_num_tokens", TOTAL)):
        total = document.get(key)
        numbers = [number for number in (total, elapsed, rate) if isinstance(number, int | float) and number > 0]
        is_near = len(numbers) == 3 and abs(numbers[0] / numbers[1] - numbers[2]) <= 0.01 * numbers[2]
        if is_near or (len(numbers) < 3 and total is not None):
            metric, notes = kind, []
            break
    row = _rate("tokens_per_second", metric, rate, is_timeless=is_timeless, **columns)
    yield {**row, "notes": [*row.get("notes", ()), *notes]} if isinstance(row, dict) else row
    if "requests_per_second" in document:
        value = document["requests_per_second"]
        yield _rate("requests_per_second", "requests_per_sec", value, is_timeless=is_timeless, unit="req/s", **columns)
    if "latency_ms" in document:
        yield measure("latency_ms", "latency_ms", document["latency_ms"], unit="ms", higher_is_better=False, **columns)


def _vllm_latency(document: Row) -> Iterator[Item]:
    yield measure("avg_latency", "latency_s_per_batch", document["avg_latency"], unit="s/batch", higher_is_better=False)
    percentiles = document["percentiles"]
    for percentile, value in percentiles.items() if isinstance(percentiles, dict) else ():
        metric = f"p{percentile}_latency_s_per_batch"
        yield measure(f"percentiles.{percentile}", metric, value, unit="s/batch", higher_is_better=False)


# GenAI-Perf


def _recognises_genai(document: Any, path: Path) -> bool:
    return isinstance(document, dict) and any(
        isinstance(found := document.get(key), dict) and "avg" in found
        for key in ("request_throughput", "output_token_throughput")
    )


def _parse_genai(document: Row, path: Path) -> ParsedResults:
    config = _object(document, "input_config")
    loads = [config, _object(config, "loadgen"), _object(_object(config, "perf_analyzer"), "stimulus")]
    setting: Row = {}
    for key, name in (("request_rate", "rate"), ("concurrency", "concurrency")):
        stated = next((load[key] for load in loads if isinstance(load.get(key), int | float)), None)
        if stated is not None:
            setting[name] = f"{stated:g}"
    if not setting and (named := CONCURRENCY_IN_NAME.search(f"{path.parent.name}/{path.name}")):
        setting["concurrency"] = named[1]
    run_at, notes = read_run_at(document.get("start_time"), path)
    common = _common("genai_perf", path) | {
        "declared_model": _genai_model(config),
        "subset": ",".join(f"{name}={value}" for name, value in setting.items()) or None,
        "run_at": run_at,
        "notes": notes,
    }
    return _parsed(common, _genai_measures(document))


def _genai_model(config: Row) -> str | None:
    items = _object(config, "models").get("items")
    first = items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
    lists = [config.get("model_names"), _object(config, "endpoint").get("model_names"), [first.get("name")]]
    names = [names[0] for names in lists if isinstance(names, list) and names]
    return next((name for name in names if is_text(name)), None)


def _genai_measures(document: Row) -> Iterator[Item]:
    """Means of rates; mean and percentiles of times, in milliseconds."""
    for key, (metric, unit) in GENAI_RATES.items():
        if isinstance(found := document.get(key), dict) and found.get("avg") is not None:
            yield _rate(f"{key}.avg", metric, found["avg"], is_timeless=False, unit=unit)
    for key, name in GENAI_TIMES.items():
        found = _object(document, key)
        factor = MILLISECONDS.get(str(found.get("unit")))
        for statistic, prefix in GENAI_STATISTICS.items():
            value = found.get(statistic)
            if value is None:
                continue
            if factor is None or not _is_number(value):
                yield left_out_line(f"{key}.{statistic}", "no number with a unit of time")
                continue
            yield measure(f"{key}.{statistic}", f"{prefix}_{name}_ms", value * factor, unit="ms", higher_is_better=False)
    known = (*GENAI_RATES, *GENAI_TIMES)
    others = [key for key, found in document.items() if key not in known and isinstance(found, dict) and "avg" in found]
    if others:
        yield left_out_line(", ".join(others), "lengths, counts and other measures are passed over")


# llama.cpp


def _recognises_llama_bench(document: Any, path: Path) -> bool:
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and {"avg_ts", "n_prompt", "n_gen"} <= first.keys()


def _parse_llama_bench(document: list[Any], path: Path) -> ParsedResults:
    items: list[Item] = []
    for place, run in enumerate(document):
        if not isinstance(run, dict) or "avg_ts" not in run:
            items.append(left_out_line(f"[{place}]", "no run with a rate"))
            continue
        prompt, generated = _count(run.get("n_prompt")) or 0, _count(run.get("n_gen")) or 0
        metric = TOTAL if prompt and generated else PREFILL if prompt else DECODE
        chips = [run.get(key) for key in ("gpu_info", "cpu_info")]
        files = [run.get(key) for key in ("model_filename", "model_type")]
        run_at, notes = read_run_at(run.get("test_time"), path)
        columns: Row = {
            "subset": f"prompt={prompt},generated={generated}",
            "hardware": next((chip for chip in chips if is_text(chip)), None),
            "declared_model": next((name for name in files if is_text(name)), None),
            "harness_version": run.get("build_commit") if is_text(run.get("build_commit")) else None,
        }
        row = _rate(f"[{place}].avg_ts", metric, run["avg_ts"], is_timeless=run.get("avg_ns") == 0, **columns)
        items.append({**row, "run_at": run_at, "notes": [*row.get("notes", ()), *notes]} if isinstance(row, dict) else row)
    return _parsed(_common("llama_bench", path) | {"notes": []}, items)


# optimum-benchmark


def _recognises_optimum(document: Any, path: Path) -> bool:
    report = document.get("report", document) if isinstance(document, dict) else None
    return isinstance(report, dict) and any(
        isinstance(found := report.get(target), dict) and {"latency", "memory", "throughput"} & found.keys()
        for target in TARGETS
    )


def _parse_optimum(document: Row, path: Path) -> ParsedResults:
    report = document.get("report", document)
    config = _object(document, "config") or _beside(path)
    shapes = _object(_object(config, "scenario"), "input_shapes")
    model, gpus = _object(config, "backend").get("model"), _object(config, "environment").get("gpu")
    common = _common("optimum_benchmark", path) | {
        "declared_model": model if is_text(model) else None,
        "batch_size": _count(shapes.get("batch_size")),
        "hardware": gpus[0] if isinstance(gpus, list) and gpus and is_text(gpus[0]) else None,
    }
    return _parsed(common, (item for target in TARGETS for item in _target(target, report.get(target))))


def _target(target: str, found: Any) -> Iterator[Item]:
    if not isinstance(found, dict):
        return
    parts = {key: found[key] for key in ("throughput", "latency", "memory") if isinstance(found.get(key), dict)}
    if "throughput" in parts:
        unit = parts["throughput"].get("unit")
        yield _rate(
            f"{target}.throughput", f"{target}_throughput", parts["throughput"].get("value"), is_timeless=False, unit=unit
        )
    for key in LATENCY_KEYS:
        if parts.get("latency", {}).get(key) is not None:
            unit = parts["latency"].get("unit")
            where = f"{target}.latency.{key}"
            yield measure(where, f"{target}_latency_{key}", parts["latency"][key], unit=unit, higher_is_better=False)
    for key in MEMORY_KEYS:
        if parts.get("memory", {}).get(key) is not None:
            columns: Row = {"suite": "memory", "task": "memory", "unit": parts["memory"].get("unit"), "higher_is_better": False}
            yield measure(f"{target}.memory.{key}", f"{target}_{key}", parts["memory"][key], **columns)
    others = [key for key, part in found.items() if key not in parts and isinstance(part, dict)]
    if others:
        yield left_out_line(", ".join(f"{target}.{key}" for key in others), "passed over")


def _beside(path: Path) -> Row:
    """The config that the tool leaves beside its report."""
    try:
        document = read_json(path.parent / "benchmark_config.json", "benchmark_config.json")[1]
    except InputError:
        return {}
    return document if isinstance(document, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _object(holder: Row, key: str) -> Row:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INT64_MAX else None


VLLM: ResultFormat = ResultFormat("vllm", _recognises_vllm, _parse_vllm)
GENAI_PERF: ResultFormat = ResultFormat("genai_perf", _recognises_genai, _parse_genai)
LLAMA_BENCH: ResultFormat = ResultFormat("llama_bench", _recognises_llama_bench, _parse_llama_bench)
OPTIMUM: ResultFormat = ResultFormat("optimum_benchmark", _recognises_optimum, _parse_optimum)
