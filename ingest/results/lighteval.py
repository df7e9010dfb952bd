"""Results of Hugging Face's lighteval, and of the Open LLM Leaderboard's first version, which wrote the same form.

Every metric of every task under `results` becomes a row. The keys of `results` (logging/info_loggers.py) are
`suite|task:subset|shots` up to 2025, then `task:subset|shots`; `all` and `...:_average|shots` are means over tasks, whose rows
are groups. Metrics are flat: `acc`, `acc_stderr`. One task has another prompt in every suite: the suite is in the `subset`,
behind the dataset's own, and so are settings of generation, for tasks that may generate text. What the file says of the run
and of datasets is in lighteval_run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.lighteval_run import (
    HARNESS,
    KEY,
    MEAN_OF_ALL,
    MEAN_SUFFIX,
    Run,
    config_of,
    read_run,
    task_columns,
)
from layerhouse.ingest.results.parsed import Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import left_out_line, measure_task, nothing_in, unusable
from layerhouse.ingest.results.scores import finite
from layerhouse.ingest.results.tasks import canonical_task


def recognises(document: Any, path: Path) -> bool:
    """`results` beside `config_general`, which no other harness writes."""
    is_lighteval = isinstance(document, dict) and isinstance(document.get("config_general"), dict)
    return is_lighteval and isinstance(document.get("results"), dict)


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every metric of every task; means over tasks as groups."""
    run = read_run(document, path)
    items = (item for key, metrics in document["results"].items() for item in _task(key, metrics, run))
    return parsed_results(items, run.common)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _task(key: str, metrics: Any, run: Run) -> Iterator[Item]:
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
    task = parts["task"] if parts else MEAN_OF_ALL
    columns = task_columns(key, parts, run)
    directions = _directions(config_of(key, run.configs))
    for metric, value in metrics.items():
        if metric.endswith("_stderr"):
            if metric.removesuffix("_stderr") not in metrics:
                yield left_out_line(f"{where}.{metric}", "the standard error of a measure that is not there")
            continue
        name, canonical_metric = canonical_task(task.removesuffix(MEAN_SUFFIX), metric)
        columns |= {
            "task": name,
            "stated_task": task if name != task else None,
            "stated_metric": metric if canonical_metric != metric else None,
            "stderr": finite(metrics.get(f"{metric}_stderr")),
        }
        row = measure_task(f"{where}.{metric}", canonical_metric, value, **columns)
        if isinstance(row, dict) and metric in directions:
            row["higher_is_better"] = directions[metric]
        yield row


def _directions(config: Row) -> dict[str, bool]:
    """higher_is_better by metric. `metric_name` is one name or a list of them, `higher_is_better` one boolean or an object of
    booleans by name."""
    directions: dict[str, bool] = {}
    metrics = config.get("metrics", config.get("metric"))
    for metric in metrics if isinstance(metrics, list) else ():
        if not isinstance(metric, dict):
            continue
        names, stated = metric.get("metric_name"), metric.get("higher_is_better")
        for name in names if isinstance(names, list) else [names]:
            if not isinstance(name, str):
                continue
            direction = stated.get(name) if isinstance(stated, dict) else stated
            if isinstance(direction, bool):
                directions[name] = direction
    return directions
