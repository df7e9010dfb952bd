"""Results of bigcode-evaluation-harness (main.py): an object of metrics for each task, and `config` with the run's arguments.

Every metric becomes a row; pass@k are fractions. The temperature, the number of solutions a problem and what else of sampling
is not the tool's default (arguments.py), on which pass@k depends, are the `subset`. Of `config` only these and how the model
was loaded and prompted are read, as it may hold keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import measure_task, nothing_in, object_at, text_or_none, unusable
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.runs import run_columns, short_hash
from layerhouse.ingest.results.scores import finite
from layerhouse.ingest.results.settings import settings_text
from layerhouse.ingest.results.tasks import ZERO_SHOT

HARNESS = "bigcode"
RUN_KEYS = ("model", "peft_model", "revision", "precision", "load_in_8bit", "load_in_4bit", "modeltype")
"""Arguments of the tool on how the model is loaded."""
PROMPT_KEYS = {"prefix": "prefix", "instruction_tokens": "instruction"}
SETTINGS = {
    "temperature": "temperature",
    "n_samples": "solutions",
    "top_p": "top_p",
    "top_k": "top_k",
    "do_sample": "sampled",
    "max_length_generation": "max_length",
    "prompt": "prompt",
    "limit_start": "limit_start",
}
USUAL = {"top_p": 0.95, "top_k": 0, "do_sample": True, "max_length_generation": 512, "prompt": "prompt", "limit_start": 0}


def recognises(document: Any, path: Path) -> bool:
    """`config` with a model, and a task with a pass@k; or with the harness's own arguments."""
    config = object_at(document, "config") if isinstance(document, dict) else {}
    if "model" not in config or "results" in document:
        return False
    tasks = [value for key, value in document.items() if key != "config" and isinstance(value, dict)]
    has_pass = any(key.startswith("pass@") for metrics in tasks for key in metrics)
    return bool(tasks) and (has_pass or "metric_output_path" in config)


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every metric of every task."""
    config: Row = document["config"]
    run_at, notes = read_run_at(None, path)
    settings = {name: config.get(key) for key, name in SETTINGS.items() if config.get(key) != USUAL.get(key)}
    prompts = [f"{name} {short_hash(config[key])}" for key, name in PROMPT_KEYS.items() if config.get(key)]
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "declared_model": text_or_none(config.get("model")),
        **run_columns({key: config[key] for key in RUN_KEYS if key in config}),
        "sample_limit": finite(config.get("limit")),
        "chat_template": ", ".join(prompts) or None,
        "subset": settings_text(settings),
        "suite": ZERO_SHOT,
        "run_at": run_at,
        "is_group": False,
    }
    return parsed_results(_items(document), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _items(document: Row) -> Iterator[Item]:
    for task, metrics in document.items():
        if task == "config":
            continue
        if not isinstance(metrics, dict):
            yield unusable(task, metrics, "an object")
            continue
        if not metrics:
            yield nothing_in(task)
        for metric, value in metrics.items():
            yield measure_task(f"{task}.{metric}", metric, value, task=task)
