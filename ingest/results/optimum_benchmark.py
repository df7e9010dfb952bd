"""Results of Hugging Face's optimum-benchmark (benchmark/report.py), such as those of the LLM-Perf leaderboard.

`benchmark_report.json` has an object for each phase (`prefill`, `decode`, `load_model` and others), with `throughput`,
`latency` and `memory`; `benchmark.json` has it under `report`, with its `config`. Each throughput, the mean and percentiles
of each latency, and each peak of memory become a row, in the unit that the file names. The backend, its settings and the
lengths are the `subset`.
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
from layerhouse.ingest.results.runs import run_columns
from layerhouse.ingest.results.scores import INT32_MAX, whole_number
from layerhouse.ingest.results.settings import settings_text
from layerhouse.ingest.results.speed import rate, speed_columns

HARNESS = "optimum_benchmark"
CONFIG_NAME = "benchmark_config.json"
PHASES = ("load_model", "load", "first_generate", "generate", "prefill", "decode", "per_token", "forward")
PARTS = ("throughput", "latency", "memory")
LATENCY_KEYS = ("mean", "p50", "p90", "p95", "p99")
MODEL_KEYS = ("torch_dtype", "dtype", "revision", "peft_type", "load_in_8bit", "load_in_4bit", "no_weights", "export")
ENGINE_KEYS = (
    *("attn_implementation", "torch_compile", "torch_compile_target", "cache_implementation", "device_map", "autocast_enabled"),
    *("tp_plan", "deepspeed_inference", "enforce_eager", "provider", "optimization", "auto_optimization", "serving_mode"),
)
LATENCY_SUMS = ("count", "total", "values")
"""Each latency that was measured, their number and their sum: no measures."""
MEMORY_KEYS = ("max_ram", "max_global_vram", "max_process_vram", "max_reserved", "max_allocated")


def recognises(document: Any, path: Path) -> bool:
    """A phase with a throughput, a latency or a memory."""
    report = _report(document) if isinstance(document, dict) else None
    return isinstance(report, dict) and any(not object_at(report, phase).keys().isdisjoint(PARTS) for phase in PHASES)


def parse(document: Any, path: Path) -> ParsedResults:
    """The throughput, latencies and peaks of memory of every phase."""
    report = _report(document)
    config = object_at(document, "config") or _config_beside(path)
    backend, scenario = object_at(config, "backend"), object_at(config, "scenario")
    run_at, notes = read_run_at(None, path)
    common = speed_columns(HARNESS) | {
        "declared_model": text_or_none(backend.get("model")),
        **_loaded(backend),
        "subset": _settings(config, backend, scenario),
        "batch_size": whole_number(object_at(scenario, "input_shapes").get("batch_size"), INT32_MAX),
        "hardware": _hardware(object_at(config, "environment"), backend.get("device")),
        "run_at": run_at,
    }
    items = [item for phase in PHASES for item in _phase(phase, object_at(report, phase))]
    others = [key for key, part in report.items() if key not in (*PHASES, "config") and isinstance(part, dict)]
    items += [left_out_line(", ".join(others), "no phase that is known")] if others else []
    return parsed_results(items, common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _loaded(backend: Row) -> Row:
    """How the model was loaded, of the config of a backend (backends/*/config.py)."""
    stated = {key: backend.get(key) for key in MODEL_KEYS}
    scheme = [backend.get(key) for key in ("quantization_scheme", "quantization_config") if backend.get(key)]
    return run_columns({**stated, **object_at(backend, "model_kwargs"), "quantization": scheme or None})


def _settings(config: Row, backend: Row, scenario: Row) -> str | None:
    """The engine and the lengths: everything on which the numbers depend but the model."""
    shapes, generation = (object_at(scenario, key) for key in ("input_shapes", "generate_kwargs"))
    settings: Row = {"backend": backend.get("name"), "device": backend.get("device")}
    settings |= {key: value for key in ENGINE_KEYS if (value := backend.get(key)) not in (None, False, {}, [])}
    settings |= {"input": shapes.get("sequence_length"), "output": generation.get("max_new_tokens")}
    settings |= {"output_min": generation.get("min_new_tokens"), "scenario": scenario.get("name")}
    processes = object_at(config, "launcher").get("nproc_per_node")
    return settings_text(settings | {"processes": processes if processes != 1 else None})


def _hardware(environment: Row, device: Any) -> str | None:
    """The GPU, or the CPU where the model ran on it."""
    gpus = environment.get("gpu")
    names = gpus if isinstance(gpus, list) else [gpus]
    return text_or_none(environment.get("cpu") if device == "cpu" else names[0] if names else None)


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
    read = (*LATENCY_KEYS, *LATENCY_SUMS, *MEMORY_KEYS, "unit")
    others = [key for key, part in report.items() if key not in PARTS and isinstance(part, dict)]
    others += [f"latency.{key}" for key, value in latency.items() if key not in read and value is not None]
    others += [f"memory.{key}" for key, value in memory.items() if key not in read and value is not None]
    if others:
        yield left_out_line(", ".join(f"{phase}.{key}" for key in others), "passed over")


def _config_beside(path: Path) -> Row:
    """The config that the tool writes beside its report; an empty one if there is none."""
    try:
        document = read_json_beside(path.parent / CONFIG_NAME)
    except InputError:
        return {}
    return document if isinstance(document, dict) else {}
