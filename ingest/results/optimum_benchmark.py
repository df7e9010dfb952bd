"""Results of Hugging Face's optimum-benchmark (benchmark/report.py), such as those of the LLM-Perf leaderboard.

`benchmark_report.json` has an object for each phase (`prefill`, `decode`, `load_model` and others), with `throughput`,
`latency` and `memory`; `benchmark.json` has it under `report`, with its `config`. Each throughput, the mean and percentiles
of each latency, and each peak of memory become a row, in the unit that the file names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.results.documents import read_json_beside
from layerhouse.ingest.results.parsed import Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import left_out_line, measure, object_at, text_or_none
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import INT32_MAX, whole_number
from layerhouse.ingest.results.speed import rate, speed_columns

HARNESS = "optimum_benchmark"
CONFIG_NAME = "benchmark_config.json"
PHASES = ("load_model", "load", "first_generate", "generate", "prefill", "decode", "per_token", "forward")
PARTS = ("throughput", "latency", "memory")
LATENCY_KEYS = ("mean", "p50", "p90", "p95", "p99")
MEMORY_KEYS = ("max_ram", "max_global_vram", "max_process_vram", "max_reserved", "max_allocated")


def recognises(document: Any, path: Path) -> bool:
    """A phase with a throughput, a latency or a memory."""
    report = _report(document) if isinstance(document, dict) else None
    return isinstance(report, dict) and any(not object_at(report, phase).keys().isdisjoint(PARTS) for phase in PHASES)


def parse(document: Any, path: Path) -> ParsedResults:
    """The throughput, latencies and peaks of memory of every phase."""
    report = _report(document)
    config = object_at(document, "config") or _config_beside(path)
    shapes = object_at(object_at(config, "scenario"), "input_shapes")
    gpus = object_at(config, "environment").get("gpu")
    run_at, notes = read_run_at(None, path)
    common = speed_columns(HARNESS) | {
        "declared_model": text_or_none(object_at(config, "backend").get("model")),
        "batch_size": whole_number(shapes.get("batch_size"), INT32_MAX),
        "hardware": text_or_none(gpus[0]) if isinstance(gpus, list) and gpus else None,
        "run_at": run_at,
    }
    items = (item for phase in PHASES for item in _phase(phase, object_at(report, phase)))
    return parsed_results(items, common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _report(document: Row) -> Any:
    return document.get("report", document)


def _phase(phase: str, report: Row) -> Iterator[Item]:
    throughput, latency, memory = (object_at(report, part) for part in PARTS)
    if isinstance(report.get("throughput"), dict):
        unit = text_or_none(throughput.get("unit"))
        yield rate(f"{phase}.throughput", f"{phase}_throughput", throughput.get("value"), unit=unit)
    for key in LATENCY_KEYS:
        if latency.get(key) is not None:
            columns: Row = {"unit": text_or_none(latency.get("unit")), "higher_is_better": False}
            yield measure(f"{phase}.latency.{key}", f"{phase}_latency_{key}", latency[key], **columns)
    for key in MEMORY_KEYS:
        if memory.get(key) is not None:
            columns = {"suite": "memory", "task": "memory", "unit": text_or_none(memory.get("unit")), "higher_is_better": False}
            yield measure(f"{phase}.memory.{key}", f"{phase}_{key}", memory[key], **columns)
    others = [key for key, part in report.items() if key not in PARTS and isinstance(part, dict)]
    if others:
        yield left_out_line(", ".join(f"{phase}.{key}" for key in others), "passed over")


def _config_beside(path: Path) -> Row:
    """The config that the tool writes beside its report; an empty one if there is none."""
    try:
        document = read_json_beside(path.parent / CONFIG_NAME)
    except InputError:
        return {}
    return document if isinstance(document, dict) else {}
