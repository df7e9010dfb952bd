"""Results of Hugging Face's lighteval, and of the Open LLM Leaderboard's first version, which wrote the same form.

Every metric of every task under `results` becomes a row. The keys of `results` (logging/info_loggers.py) are
`suite|task:subset|shots` up to 2025, then `task:subset|shots`; `all` and `...:_average|shots` are means over tasks, whose rows
are groups. Metrics are flat: `acc`, `acc_stderr`. Of the model's configuration only its name is read, as it may hold keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, measure_task, nothing_in, object_at, text_or_none, unusable
from layerhouse.ingest.results.run_times import read_run_at, time_in_name
from layerhouse.ingest.results.scores import INT32_MAX, finite
from layerhouse.ingest.results.tasks import canonical_task, suite_of_shots

HARNESS = "lighteval"
KEY = re.compile(r"(?:(?P<suite>[^|]+)\|)?(?P<task>[^|]+)\|(?P<shots>\d{1,9})(?:\|\d+)?")
MEAN_OF_ALL, MEAN_SUFFIX = "all", ":_average"


def recognises(document: Any, path: Path) -> bool:
    """`results` beside `config_general`, which no other harness writes."""
    is_lighteval = isinstance(document, dict) and isinstance(document.get("config_general"), dict)
    return is_lighteval and isinstance(document.get("results"), dict)


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every metric of every task; means over tasks as groups."""
    general: Row = document["config_general"]
    names = (general.get("model_name"), object_at(general, "model_config").get("model_name"))
    run_at, _ = read_run_at(time_in_name(path), path)
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "declared_model": next((name for name in names if is_text(name)), None),
        "revision": text_or_none(general.get("model_sha")),
        "sample_limit": finite(general.get("max_samples")),
        "run_at": run_at,
    }
    directions = _directions(object_at(document, "config_tasks"))
    items = (item for key, metrics in document["results"].items() for item in _task(key, metrics, directions))
    return parsed_results(items, common)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _task(key: str, metrics: Any, directions: dict[str, dict[str, bool]]) -> Iterator[Item]:
    where = f"results.{key}"
    if not isinstance(metrics, dict):
        yield unusable(where, metrics, "an object")
        return
    if not metrics:
        yield nothing_in(where)
    parts = KEY.fullmatch(key)
    if parts is None and key != MEAN_OF_ALL:
        yield left_out_line(where, "not of the form suite|task|shots")
        return
    shots = int(parts["shots"]) if parts and int(parts["shots"]) <= INT32_MAX else None
    task = parts["task"] if parts else MEAN_OF_ALL
    is_group = key == MEAN_OF_ALL or task.endswith(MEAN_SUFFIX)
    columns: Row = {"suite": suite_of_shots(shots), "n_shot": shots, "is_group": is_group}
    task_directions = directions.get(key) or directions.get(key.partition("|")[2]) or {}
    for metric, value in metrics.items():
        if metric.endswith("_stderr") and metric.removesuffix("_stderr") in metrics:
            continue
        name, canonical_metric = canonical_task(task.removesuffix(MEAN_SUFFIX), metric)
        stderr = finite(metrics.get(f"{metric}_stderr"))
        row = measure_task(f"{where}.{metric}", canonical_metric, value, task=name, stderr=stderr, **columns)
        if isinstance(row, dict) and metric in task_directions:
            row["higher_is_better"] = task_directions[metric]
        yield row


def _directions(task_configs: Row) -> dict[str, dict[str, bool]]:
    """higher_is_better by task and metric. `metric_name` is one name or a list of them, `higher_is_better` one boolean or an
    object of booleans by name."""
    directions: dict[str, dict[str, bool]] = {}
    for task, config in task_configs.items():
        metrics = config.get("metrics", config.get("metric")) if isinstance(config, dict) else None
        for metric in metrics if isinstance(metrics, list) else ():
            if not isinstance(metric, dict):
                continue
            names, stated = metric.get("metric_name"), metric.get("higher_is_better")
            for name in names if isinstance(names, list) else [names]:
                if not isinstance(name, str):
                    continue
                direction = stated.get(name) if isinstance(stated, dict) else stated
                if isinstance(direction, bool):
                    directions.setdefault(task, {})[name] = direction
    return directions
