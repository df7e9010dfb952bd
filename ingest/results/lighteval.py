"""Results of lighteval, and of the Open LLM Leaderboard's first version, which wrote the same form.

Keys of `results` (huggingface/lighteval, logging/info_loggers.py): `suite|task:subset|shots` to 2025, then `task:subset|shots`;
`all` and `...:_average|shots` are means over tasks. Metrics are flat: `m`, `m_stderr`. Nothing of the model's configuration but
its name is looked at: it may hold keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.lm_eval import FILE_TIME
from layerhouse.ingest.results.parsed import (
    EMPTY_ROW,
    INT32_MAX,
    Item,
    ParsedResults,
    ResultFormat,
    Row,
    is_text,
    left_out_line,
    measure_task,
    read_run_at,
    stderr_of,
    unusable,
)
from layerhouse.ingest.results.task_names import canonical_task, suite_of_shots

HARNESS = "lighteval"
KEY = re.compile(r"(?:(?P<suite>[^|]+)\|)?(?P<task>[^|]+)\|(?P<shots>\d{1,9})(?:\|\d+)?")


def recognises(document: Any, path: Path) -> bool:
    """`results` beside `config_general`, which no other harness has."""
    is_ours = isinstance(document, dict) and isinstance(document.get("config_general"), dict)
    return is_ours and isinstance(document.get("results"), dict)


def parse(document: Any, path: Path) -> ParsedResults:
    """Every number of every task as a row; means over tasks as groups."""
    general: Row = document["config_general"]
    config = general.get("model_config")
    names = (general.get("model_name"), config.get("model_name") if isinstance(config, dict) else None)
    sha, limit = general.get("model_sha"), general.get("max_samples")
    named = FILE_TIME.search(path.stem)
    day, _, time = (named[1] if named else "").partition("T")
    run_at, notes = read_run_at(f"{day}T{time.replace('-', ':')}" if named else None, path)
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "declared_model": next((name for name in names if is_text(name)), None),
        "revision": sha if is_text(sha) else None,
        "sample_limit": float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else None,
        "run_at": run_at,
        "notes": notes,
    }
    directions = _directions(document.get("config_tasks"))
    items = [item for key, found in document["results"].items() for item in _task(key, found, directions)]
    rows = [{**common, **item} for item in items if isinstance(item, dict)]
    return ParsedResults(tuple(rows), tuple(item for item in items if isinstance(item, str)))


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _task(key: str, found: Any, directions: dict[str, dict[str, bool]]) -> Iterator[Item]:
    where = f"results.{key}"
    if not isinstance(found, dict):
        yield unusable(where, found, "an object")
        return
    parts = KEY.fullmatch(key)
    if parts is None and key != "all":
        yield left_out_line(where, "not of the form suite|task|shots")
        return
    shots = int(parts["shots"]) if parts and int(parts["shots"]) <= INT32_MAX else None
    task = parts["task"] if parts else "all"
    columns: Row = {"suite": suite_of_shots(shots), "n_shot": shots, "is_group": key == "all" or task.endswith(":_average")}
    own = directions.get(key) or directions.get(key.partition("|")[2]) or {}
    for metric, value in found.items():
        if metric.endswith("_stderr") and metric.removesuffix("_stderr") in found:
            continue
        name, own_metric = canonical_task(task.removesuffix(":_average"), metric)
        stderr = stderr_of(found.get(f"{metric}_stderr"))
        row = measure_task(f"{where}.{metric}", own_metric, value, task=name, stderr=stderr, **columns)
        if isinstance(row, dict) and metric in own:
            row["higher_is_better"] = own[metric]
        yield row


def _directions(tasks: Any) -> dict[str, dict[str, bool]]:
    """higher_is_better by task and metric; metric_name may be one name or a list, higher_is_better one word or an object."""
    answer: dict[str, dict[str, bool]] = {}
    for task, config in tasks.items() if isinstance(tasks, dict) else ():
        metrics = config.get("metrics", config.get("metric")) if isinstance(config, dict) else None
        for metric in metrics if isinstance(metrics, list) else ():
            if not isinstance(metric, dict):
                continue
            names, says = metric.get("metric_name"), metric.get("higher_is_better")
            for name in names if isinstance(names, list) else [names]:
                direction = says.get(name) if isinstance(says, dict) else says
                if isinstance(name, str) and isinstance(direction, bool):
                    answer.setdefault(task, {})[name] = direction
    return answer
