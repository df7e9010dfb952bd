"""The study's own result form: evaluation_results.json and ppl_*.json with model_path, timestamp and metrics.

The form is that of the published Llama-3-8B-Instruct pruning study. A section yields rows and lines that say what
was left out, so that every key of a file ends in one or the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.results.parsed import (
    EMPTY_ROW,
    INT32_MAX,
    INT64_MAX,
    Item,
    ParsedResults,
    ResultFormat,
    Row,
    is_text,
    kind,
    left_out_line,
    measure,
    measure_task,
    note,
    read_run_at,
    score,
    stderr_of,
    unusable,
)

HARNESS = "native"
SECTIONS = ("model_info", "zeroshot", "efficiency", "avg_zeroshot_acc")
HARDWARE_KEYS = ("hardware", "gpu", "gpu_name", "device")
MODEL_KEYS = ("model_path", "model_name")
TEXT_KEYS = (*MODEL_KEYS, *HARDWARE_KEYS)
TOP_LEVEL_KEYS = ("timestamp", "metrics", *TEXT_KEYS)
DATASET_WITH_SUBSET = re.compile(r"(\S.*?)\s*\((.+)\)")
TRAILING_NUMBERS = re.compile(r"(?:_[0-9]+)+\Z")
BATCH = re.compile(r"batch_size_([0-9]+)")

INFO_UNITS = {"num_layers": "layers", "model_size_mb": "MiB", "model_size_gb": "GiB"}
INFO_SUFFIX_UNITS = {"_params": "parameters", "_params_M": "parameters_M", "_params_B": "parameters_B"}
EFFICIENCY_MEASURES: dict[str, tuple[str, bool | None]] = {
    "throughput_tokens_per_sec": ("tok/s", True),
    "latency_ms_per_token": ("ms/token", False),
    "total_time_sec": ("s", None),
    "total_tokens": ("tokens", None),
    "model_memory_mb": ("MiB", False),
    "inference_peak_mb": ("MiB", False),
}
NEVER_ZERO = ("throughput_tokens_per_sec", "latency_ms_per_token", "total_time_sec")
NO_MEASURES = ("alias", "name", "sample_count")
TASK_COUNTS = {
    "n_samples": ("n_samples", INT64_MAX),
    "sample_len": ("n_samples", INT64_MAX),
    "n_shot": ("n_shot", INT32_MAX),
    "num_fewshot": ("n_shot", INT32_MAX),
}


@dataclass(frozen=True)
class Context:
    """Window of a perplexity, in tokens; None where nothing says."""

    seq_len: int | None = None
    stride: int | None = None


def recognises(document: Any, path: Path) -> bool:
    """A `metrics` object with a section that only this form has."""
    metrics = document.get("metrics") if isinstance(document, dict) else None
    return isinstance(metrics, dict) and any(key in SECTIONS or _is_perplexity(key) for key in metrics)


def parse(document: Any, path: Path) -> ParsedResults:
    """Every number of the file as a row; InputError if the document or its `metrics` is not an object.

    run_at is the file's timestamp, taken as UTC where it names no zone, else the file's modification time with a note.
    """
    if not isinstance(document, dict):
        raise InputError(str(path), f"the document must be an object, not {kind(document)}")
    metrics = document.get("metrics")
    if not isinstance(metrics, dict):
        raise InputError(str(path), f"metrics must be an object, not {kind(metrics)}")
    run_at, run_notes = read_run_at(document.get("timestamp"), path)
    hardware, items = _hardware(document, metrics.get("efficiency"))
    named = [document[key] for key in MODEL_KEYS if is_text(document.get(key))]
    items += [unusable(key, document[key], "text") for key in TEXT_KEYS if not is_text(document.get(key, key))]
    items += [left_out_line(key, "not known") for key in document if key not in TOP_LEVEL_KEYS]
    for key, value in metrics.items():
        items += _section(key, value, metrics, path, hardware)
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "declared_model": named[0] if named else None,
        "run_at": run_at,
        "is_group": False,
    }
    rows = [{**common, **item, "notes": [*item.get("notes", ()), *run_notes]} for item in items if isinstance(item, dict)]
    return ParsedResults(tuple(rows), tuple(item for item in items if isinstance(item, str)))


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _section(key: str, value: Any, metrics: Row, path: Path, hardware: str | None) -> Iterator[Item]:
    where = f"metrics.{key}"
    if _is_perplexity(key):
        yield from _perplexity(key, value, metrics, path)
    elif key == "avg_zeroshot_acc":
        yield measure_task(where, key, value, suite="zeroshot", task="zeroshot", is_group=True)
    elif key not in SECTIONS:
        yield left_out_line(where, "not known")
    elif not isinstance(value, dict):
        yield unusable(where, value, "an object")
    elif key == "model_info":
        yield from _model_info(where, value)
    elif key == "zeroshot":
        for task, result in value.items():
            yield from _task(f"{where}.{task}", task, result)
    else:
        yield from _efficiency(where, value, hardware)


def _model_info(where: str, info: Row) -> Iterator[Item]:
    """Counts and sizes. module_params.match only says whether its other numbers add up, so it is no row."""
    common = {"suite": "model_info", "task": "model_info"}
    for key, value in info.items():
        if key != "module_params" or not isinstance(value, dict):
            suffix_unit = next((unit for suffix, unit in INFO_SUFFIX_UNITS.items() if key.endswith(suffix)), None)
            yield measure(f"{where}.{key}", key, value, **common, unit=INFO_UNITS.get(key, suffix_unit))
            continue
        for module, count in value.items():
            if module != "match" or not isinstance(count, bool):
                yield measure(f"{where}.{key}.{module}", module, count, **common, subset=key, unit="parameters")


def _perplexity(key: str, value: Any, metrics: Row, path: Path) -> Iterator[Item]:
    where = f"metrics.{key}"
    own = _context_of(key)
    if own is None:
        yield left_out_line(where, f"context length and stride must be from 1 to {INT32_MAX} tokens")
    elif value is None:
        yield unusable(where, value, "an object or a number")
    else:
        for name, number in value.items() if isinstance(value, dict) else [(None, value)]:
            context, notes = (own, []) if own.seq_len else _context_from_elsewhere(key, name, number, metrics, path)
            if name is None:
                notes.append(note("dataset", f"{key} names no dataset"))
            with_subset = DATASET_WITH_SUBSET.fullmatch(name or "")
            dataset, subset = with_subset.groups() if with_subset else (name, None)
            place = where if name is None else f"{where}.{name}"
            common: Row = {"suite": "perplexity", "task": dataset, "dataset": dataset, "subset": subset, "notes": notes}
            common |= {"seq_len": context.seq_len, "stride": context.stride}
            yield measure(place, "perplexity", number, **common, unit="per_token", higher_is_better=False)


def _context_of(name: str) -> Context | None:
    """What one or two trailing numbers of a key or file stem say (`ppl_2048_512`); None if they cannot be a context."""
    found = TRAILING_NUMBERS.search(name)
    numbers = found[0].split("_")[1:] if found else []
    if len(numbers) > 2:
        return Context()
    if not all(len(text) <= 10 and 1 <= int(text) <= INT32_MAX for text in numbers):
        return None
    return Context(*(int(text) for text in numbers))


def _context_from_elsewhere(key: str, dataset: str | None, number: Any, metrics: Row, path: Path) -> tuple[Context, list[Row]]:
    """The context of a key that says none, and notes on it.

    Plain `ppl` has the context that the file's name says, unless another key has that context and a different value;
    else that of the keys with the same value for the same dataset, if they agree, since the writer repeats one there.
    """
    unknown = [note("context", f"the file does not say the context length of {key}")]
    if key != "ppl":
        return Context(), unknown
    named: dict[str, Context] = {}
    scores: dict[str, tuple[str, float | None]] = {}
    for other in filter(_is_perplexity, metrics):
        context, other_score = _context_of(other), score(_value_for(metrics[other], dataset))
        if context and context.seq_len and other_score and other_score["status"] != "missing":
            named[other], scores[other] = context, (other_score["status"], other_score["value"])
    value = score(number)
    equal = [other for other in named if value and (value["status"], value["value"]) == scores[other]]
    from_file = _context_of(path.stem) if path.stem.startswith("ppl") else None
    if from_file and from_file.seq_len:
        rival = next((other for other, context in named.items() if context == from_file and other not in equal), None)
        if rival is None:
            return from_file, []
        return Context(), [note("context", f"the file's name gives ppl the context of {rival}, but the values differ")]
    if value and value["status"] == "ok" and len({named[other] for other in equal}) == 1:
        return named[equal[0]], [note("context", f"{key} says no context length; its value is that of {equal[0]}")]
    return Context(), unknown


def _task(where: str, task: str, result: Any) -> Iterator[Item]:
    """A task: numbers under lm-eval's names in `full_results` or beside it, and the writer's choice as `accuracy`."""
    if not isinstance(result, dict):
        yield measure_task(where, "accuracy", result, suite="zeroshot", task=task)
        return
    full = result.get("full_results", {})
    if not isinstance(full, dict):
        yield unusable(f"{where}.full_results", full, "an object")
        full = {}
    found = {key: (f"{where}.{key}", value) for key, value in result.items() if key != "full_results"}
    for key, value in full.items():
        if key in found:
            yield left_out_line(found[key][0], "full_results holds it as well")
        found[key] = (f"{where}.full_results.{key}", value)
    columns = _task_columns(task, found)
    for key, (place, value) in found.items():
        metric, comma, answer_filter = key.partition(",")
        if metric.endswith("_stderr"):
            if metric.removesuffix("_stderr") + comma + answer_filter not in found:
                yield left_out_line(place, "the standard error of a measure that is not there")
            elif score(value) is None and value not in ("N/A", []):
                yield unusable(place, value, "a number")
        elif key in TASK_COUNTS or key in NO_MEASURES:
            yield left_out_line(place, "not a measure")
        else:
            _, stderr = found.get(f"{metric}_stderr{comma}{answer_filter}", ("", None))
            columns |= {"filter": answer_filter or None, "stderr": stderr_of(stderr)}
            yield measure_task(place, metric, value, **columns)


def _task_columns(task: str, found: dict[str, tuple[str, Any]]) -> Row:
    """What the keys of a task that are no measures say of its rows; the keys that said it are taken out."""
    columns: Row = {"suite": "zeroshot", "task": task, "notes": []}
    _, alias = found.get("alias", ("", None))
    if isinstance(alias, str):
        columns["notes"] = [note("alias", f"the file calls the task {alias.strip()}")] if alias.strip() != task else []
        del found["alias"]
    for key, (column, limit) in TASK_COUNTS.items():
        _, count = found.get(key, ("", None))
        if column not in columns and isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= limit:
            columns[column] = count
            del found[key]
    return columns


def _efficiency(where: str, section: Row, hardware: str | None) -> Iterator[Item]:
    for key, value in section.items():
        if key in HARDWARE_KEYS:
            if not is_text(value):
                yield unusable(f"{where}.{key}", value, "text")
            continue
        if key not in ("speed", "memory") or not isinstance(value, dict):
            yield _efficiency_number(f"{where}.{key}", key, value, suite="efficiency", hardware=hardware)
            continue
        for name, inner in value.items():
            place, batch = f"{where}.{key}.{name}", BATCH.fullmatch(name)
            if key != "speed" or batch is None or not isinstance(inner, dict):
                yield _efficiency_number(place, name, inner, suite=key, hardware=hardware)
            elif len(batch[1]) > 10 or not 1 <= int(batch[1]) <= INT32_MAX:
                yield left_out_line(place, f"a batch size must be from 1 to {INT32_MAX}")
            else:
                for metric, number in inner.items():
                    columns: Row = {"suite": key, "hardware": hardware, "batch_size": int(batch[1])}
                    yield _efficiency_number(f"{place}.{metric}", metric, number, **columns)


def _efficiency_number(where: str, metric: str, value: Any, *, suite: str, **columns: Any) -> Item:
    """One number of speed or memory. A time or rate of zero or less was not measured: missing, with a note."""
    unit, direction = EFFICIENCY_MEASURES.get(metric, (None, None))
    row = measure(where, metric, value, suite=suite, task=suite, unit=unit, higher_is_better=direction, **columns)
    if isinstance(row, str) or metric not in NEVER_ZERO or row["value"] is None or row["value"] > 0:
        return row
    notes = [note("zero_time", f"the file says {row['value']:g}, which no run can take")]
    return {**row, "value": None, "value_integer": None, "status": "missing", "notes": notes}


def _hardware(document: Row, efficiency: Any) -> tuple[str | None, list[Item]]:
    """The hardware that the file names, efficiency's own word first, and lines for other words."""
    inner = efficiency if isinstance(efficiency, dict) else {}
    found = [(f"metrics.efficiency.{key}", inner[key]) for key in HARDWARE_KEYS if is_text(inner.get(key))]
    found += [(key, document[key]) for key in HARDWARE_KEYS if is_text(document.get(key))]
    where, hardware = found[0] if found else ("", None)
    return hardware, [left_out_line(key, f"{where} is taken") for key, text in found[1:] if text != hardware]


def _is_perplexity(key: str) -> bool:
    return key == "ppl" or key.startswith("ppl_")


def _value_for(section: Any, dataset: str | None) -> Any:
    """A section's value for a dataset, or the section itself where it is one number without a dataset."""
    if isinstance(section, dict):
        return None if dataset is None else section.get(dataset)
    return section if dataset is None else None
