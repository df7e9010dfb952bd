"""Results in the study's own form: evaluation_results.json and ppl_*.json, with model_path, timestamp and metrics.

The form is that of the published Llama-3-8B-Instruct pruning study. The sections of `metrics` are `model_info` (counts and
sizes), `ppl` and `ppl_*` (perplexities), `zeroshot` (tasks under lm-eval's names, with 0 examples unless they say another
number), `avg_zeroshot_acc` and `efficiency` (speed, memory, and a `model_info` of its own). Every number becomes a row; every
other key becomes a line that says why it was left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.native_efficiency import HARDWARE_KEYS, efficiency_items, read_hardware
from layerhouse.ingest.results.native_perplexity import is_perplexity, perplexity_items
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import (
    describe_value,
    is_text,
    left_out_line,
    measure,
    measure_task,
    nothing_in,
    text_or_none,
    unusable,
)
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.runs import run_columns
from layerhouse.ingest.results.scores import INT32_MAX, INT64_MAX, finite, score, whole_number

HARNESS = "native"
INFO = "model_info"
SECTIONS = (INFO, "zeroshot", "efficiency", "avg_zeroshot_acc")
MODEL_KEYS = ("model_path", "model_name")
TEXT_KEYS = (*MODEL_KEYS, *HARDWARE_KEYS, "chat_template", "language")
RUN_KEYS = ("revision", "dtype", "torch_dtype", "quantization", "load_in_8bit", "load_in_4bit", "adapter", "peft", "backend")
"""Keys that say how the model was loaded, where a script adds them."""
TOP_LEVEL_KEYS = ("timestamp", "metrics", *TEXT_KEYS, *RUN_KEYS)
INFO_UNITS = {"num_layers": "layers", "model_size_mb": "MiB", "model_size_gb": "GiB"}
INFO_SUFFIX_UNITS = {"_params": "parameters", "_params_M": "parameters_M", "_params_B": "parameters_B"}
NO_MEASURES = ("alias", "name", "sample_count")
TASK_COUNTS = {
    "n_samples": ("n_samples", INT64_MAX),
    "sample_len": ("n_samples", INT64_MAX),
    "n_shot": ("n_shot", INT32_MAX),
    "num_fewshot": ("n_shot", INT32_MAX),
}

Placed = dict[str, tuple[str, Any]]
"""Values of a task by their key, each with the path of the key in the file."""


def recognises(document: Any, path: Path) -> bool:
    """A `metrics` object with a section that only this form has."""
    metrics = document.get("metrics") if isinstance(document, dict) else None
    return isinstance(metrics, dict) and any(key in SECTIONS or is_perplexity(key) for key in metrics)


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every number. Raises InputError if the document or its `metrics` is not an object.

    run_at is the file's timestamp, UTC if it names no zone, else the file's modification time with a note.
    """
    if not isinstance(document, dict):
        raise InputError(str(path), f"the document must be an object, not {describe_value(document)}")
    metrics = document.get("metrics")
    if not isinstance(metrics, dict):
        raise InputError(str(path), f"metrics must be an object, not {describe_value(metrics)}")
    run_at, run_notes = read_run_at(document.get("timestamp"), path)
    hardware, items = read_hardware(document, metrics.get("efficiency"))
    models = [document[key] for key in MODEL_KEYS if is_text(document.get(key))]
    items += [unusable(key, document[key], "text") for key in TEXT_KEYS if not is_text(document.get(key, key))]
    items += [left_out_line(key, "not known") for key in document if key not in TOP_LEVEL_KEYS]
    stated = {key: document[key] for key in RUN_KEYS if document.get(key) is not None}
    for key, value in metrics.items():
        items += _section(key, value, metrics, path, hardware)
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "declared_model": models[0] if models else None,
        **(run_columns(stated) if stated else {}),
        "chat_template": text_or_none(document.get("chat_template")),
        "language": text_or_none(document.get("language")),
        "run_at": run_at,
        "is_group": False,
    }
    return parsed_results(items, common, run_notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _section(key: str, value: Any, metrics: Row, path: Path, hardware: str | None) -> Iterator[Item]:
    where = f"metrics.{key}"
    if is_perplexity(key):
        yield from perplexity_items(key, value, metrics, path)
    elif key == "avg_zeroshot_acc":
        yield measure_task(where, key, value, suite="zeroshot", task="zeroshot", is_group=True, n_shot=0)
    elif key not in SECTIONS:
        yield left_out_line(where, "not known")
    elif not isinstance(value, dict):
        yield unusable(where, value, "an object")
    elif key == INFO:
        yield from _model_info(where, value)
    elif key == "zeroshot":
        for task, result in value.items():
            yield from _task(f"{where}.{task}", task, result)
    else:
        info = value.get(INFO)
        if isinstance(info, dict):
            value = {name: part for name, part in value.items() if name != INFO}
            yield from _model_info_elsewhere(f"{where}.{INFO}", info, metrics.get(INFO))
        yield from efficiency_items(where, value, hardware)


def _model_info_elsewhere(where: str, info: Row, known: Any) -> Iterator[Item]:
    """Counts and sizes under `efficiency`, but for those that the section of that name has."""
    known = known if isinstance(known, dict) else {}
    yield from (left_out_line(f"{where}.{key}", "metrics.model_info is taken") for key in info if key in known)
    yield from _model_info(where, {key: value for key, value in info.items() if key not in known})


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


def _task(where: str, task: str, result: Any) -> Iterator[Item]:
    """The metrics of a task: under lm-eval's names in `full_results` or beside it, and `accuracy`, which is the one of them
    that the study reports."""
    if not isinstance(result, dict):
        yield measure_task(where, "accuracy", result, suite="zeroshot", task=task, n_shot=0)
        return
    if not result:
        yield nothing_in(where)
    full_results = result.get("full_results", {})
    if not isinstance(full_results, dict):
        yield unusable(f"{where}.full_results", full_results, "an object")
        full_results = {}
    values: Placed = {key: (f"{where}.{key}", value) for key, value in result.items() if key != "full_results"}
    for key, value in full_results.items():
        if key in values:
            yield left_out_line(values[key][0], "full_results holds it as well")
        values[key] = (f"{where}.full_results.{key}", value)
    columns = _take_task_columns(task, values)
    for key, (value_path, value) in values.items():
        metric, comma, answer_filter = key.partition(",")
        if metric.endswith("_stderr"):
            if metric.removesuffix("_stderr") + comma + answer_filter not in values:
                yield left_out_line(value_path, "the standard error of a measure that is not there")
            elif score(value) is None and value not in ("N/A", []):
                yield unusable(value_path, value, "a number")
        elif key in TASK_COUNTS or key in NO_MEASURES:
            yield left_out_line(value_path, "not a measure")
        else:
            _, stderr = values.get(f"{metric}_stderr{comma}{answer_filter}", ("", None))
            columns |= {"filter": answer_filter or None, "stderr": finite(stderr)}
            yield measure_task(value_path, metric, value, **columns)


def _take_task_columns(task: str, values: Placed) -> Row:
    """The columns that keys of a task state for all of its rows; these keys are removed from `values`. Without a number of
    shots, the section's name says 0."""
    columns: Row = {"suite": "zeroshot", "task": task, "notes": []}
    _, alias = values.get("alias", ("", None))
    if isinstance(alias, str):
        columns["notes"] = [note("alias", f"the file calls the task {alias.strip()}")] if alias.strip() != task else []
        del values["alias"]
    for key, (column, limit) in TASK_COUNTS.items():
        _, value = values.get(key, ("", None))
        count = whole_number(value, limit)
        if column not in columns and count is not None:
            columns[column] = count
            del values[key]
    columns.setdefault("n_shot", 0)
    return columns
