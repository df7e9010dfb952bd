"""Results of EleutherAI's lm-evaluation-harness, 0.2 to 0.4, and the bare files that SliceGPT writes with it.

Every metric of every task under `results` becomes a row. To 0.3 the keys of a task are `acc` and `acc_stderr`, and one
`config.num_fewshot` holds for all tasks (evaluator.py). From 0.4.0 they are `acc,FILTER` and `acc_stderr,FILTER`, whose value
is a number, "N/A", [] or null; beside `results` stand `n-shot`, `n-samples`, `groups`, `group_subtasks`, `higher_is_better`
and `configs` (loggers/evaluation_tracker.py). SliceGPT's
`full_results_0_shot.json` is the object under `results` alone, and so is what mlx_lm writes, as `eval_MODEL_VERSION_TASK`, with
each slash of the model as an underscore, and the shots, if it was given them, in two digits behind the version.
Accuracies are fractions; perplexities are per word, per byte or as the task defines them. Settings of generation that were
given to the run (`gen_kwargs`) are part of the measure of tasks that generate text. Scores of RULER are by length of the
context, the row's `seq_len`; -1 is a length that was not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.lm_eval_run import (
    HARNESS,
    LENGTH,
    NO_MEASURES,
    NOT_RUN,
    Run,
    at_length,
    leaf_tasks,
    read_run,
    task_columns,
)
from layerhouse.ingest.results.parsed import Item, ParsedResults, ResultFormat, Row, check_rows
from layerhouse.ingest.results.rows import fill_task, left_out_line, nothing_in, object_at, unusable
from layerhouse.ingest.results.scores import finite, score, whole_number
from layerhouse.ingest.results.tasks import canonical_task

BARE_NAME = re.compile(r"full_results_(\d{1,4})_shot")
FILTERED = re.compile(r"([\w@/.+-]+),([\w.-]+)")
MLX_NAME = re.compile(r"eval_(.+)_(\d+\.\d+(?:\.[^_.]+)*)(?:_(\d\d))?_[^.]+")


def recognises(document: Any, path: Path) -> bool:
    """`results` with `versions`, `configs` or `n-shot` beside it, or with a metric and its filter, and no `config_general`; the
    object under `results` alone, by its metrics, or by the name of SliceGPT's file."""
    if not isinstance(document, dict) or "config_general" in document:
        return False
    if BARE_NAME.fullmatch(path.stem):
        return bool(document) and all(isinstance(value, dict) for value in document.values())
    is_lm_eval = any(isinstance(document.get(key), dict) for key in ("versions", "configs", "n-shot"))
    if "results" not in document:
        return _has_filters(document, with_error=True)
    results = document["results"]
    return isinstance(results, dict) and (is_lm_eval or _has_filters(results, with_error=False))


def _has_filters(results: Row, *, with_error: bool) -> bool:
    """Whether every value is the object of a task, and one has a metric with a filter, as `acc,none`, and its error."""
    if not all(isinstance(metrics, dict) for metrics in results.values()):
        return False
    return any(
        (match := FILTERED.fullmatch(key)) and (not with_error or f"{match[1]}_stderr,{match[2]}" in metrics)
        for metrics in results.values()
        for key in metrics
    )


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every metric of every task. A group without a score gets one computed from its tasks."""
    if BARE_NAME.fullmatch(path.stem) or "results" not in document:
        document = {"results": document, **_named_run(path)}
    run = read_run(document, path)
    results: dict[str, Any] = document["results"]
    groups = {name for name, members in run.members.items() if members}
    group_results = object_at(document, "groups")
    groups |= group_results.keys()
    results = results | {name: value for name, value in group_results.items() if name not in results}
    rows: list[Row] = []
    left_out: list[str] = []
    for task, metrics in results.items():
        items = [*_task(task, metrics, run, is_group=task in groups)]
        if isinstance(metrics, dict) and task in groups and not any(isinstance(item, dict) for item in items):
            items += _computed_group(task, results, run)
        rows += [item for item in items if isinstance(item, dict)]
        check_rows(len(rows))
        left_out += [item for item in items if isinstance(item, str)]
    return ParsedResults(tuple(rows), tuple(left_out))


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _named_run(path: Path) -> Row:
    """What the name of a file says of its run, where the file holds the results alone."""
    if bare_name := BARE_NAME.fullmatch(path.stem):
        return {"config": {"num_fewshot": int(bare_name[1])}}
    name = MLX_NAME.fullmatch(path.name)
    if name is None:
        return {}
    shots = {"num_fewshot": int(name[3])} if name[3] else {}
    return {"model_name": name[1], "lm_eval_version": name[2], "config": {"model": "mlx_lm", **shots}}


def _task(task: str, metrics: Any, run: Run, *, is_group: bool) -> Iterator[Item]:
    where = f"results.{task}"
    if not isinstance(metrics, dict):
        yield unusable(where, metrics, "an object")
        return
    if not metrics and not is_group:
        yield nothing_in(where)
    columns = run.common | task_columns(task, run, is_group=is_group)
    directions = object_at(run.directions, task)
    for key, value in metrics.items():
        metric, comma, answer_filter = key.partition(",")
        if key in NO_MEASURES:
            continue
        if metric.endswith("_stderr"):
            if f"{metric.removesuffix('_stderr')}{comma}{answer_filter}" not in metrics:
                yield left_out_line(f"{where}.{key}", "the standard error of a measure that is not there")
            continue
        if is_group and isinstance(value, str) and not value.strip():
            continue
        columns["task"], canonical_metric = canonical_task(task, metric)
        columns["stderr"] = finite(metrics.get(f"{metric}_stderr{comma}{answer_filter}"))
        columns["filter"] = None if answer_filter in ("", "none") else answer_filter
        columns["stated_task"] = task if columns["task"] != task else None
        columns["stated_metric"] = metric if canonical_metric != metric else None
        row = fill_task(columns, f"{where}.{key}", canonical_metric, value, run.common["notes"])
        if isinstance(row, dict) and comma:
            row = at_length(row, metric)
        direction = directions.get(metric)
        if isinstance(row, dict) and isinstance(direction, bool):
            row["higher_is_better"] = direction
        yield row


def _computed_group(group: str, results: Mapping[str, Any], run: Run) -> Iterator[Item]:
    """For each metric the mean over the group's tasks, weighted by their numbers of samples.

    A metric that a task lacks, or that has a task without its number of samples, is left out.
    """
    leaves = leaf_tasks(group, run)
    leaf_metrics = [object_at(results, leaf) for leaf in leaves]
    if not leaves or not all(leaf_metrics):
        yield left_out_line(f"results.{group}", "a group without a score, some of whose members are not there")
        return
    sizes = [whole_number(object_at(run.samples, leaf).get("effective")) for leaf in leaves]
    known_sizes = [size for size in sizes if size is not None]
    for key in [key for key in leaf_metrics[0] if key not in NO_MEASURES and "_stderr" not in key]:
        run.spend(len(leaves))
        scores = [score(metrics.get(key)) for metrics in leaf_metrics]
        is_by_length = LENGTH.fullmatch(key.partition(",")[0]) is not None
        values = [number["value"] for number in scores if number and number["value"] is not None]
        values = [value for value in values if not is_by_length or value != NOT_RUN]
        if len(values) < len(leaves) or len(known_sizes) < len(leaves) or not sum(known_sizes):
            yield left_out_line(f"results.{group}.{key}", "no score, and not every member has one and its size")
            continue
        mean = sum(value * size for value, size in zip(values, known_sizes, strict=True)) / sum(known_sizes)
        metric, _, answer_filter = key.partition(",")
        task, canonical_metric = canonical_task(group, metric)
        text = f"computed: the mean of {len(leaves)} members weighted by their documents; the file has no score of the group"
        columns = run.common | task_columns(group, run, is_group=True) | {"task": task, "n_samples": sum(known_sizes)}
        columns["filter"] = None if answer_filter in ("", "none") else answer_filter
        columns["stated_task"] = group if task != group else None
        columns["stated_metric"] = metric if canonical_metric != metric else None
        notes = [note("computed", text), *run.common["notes"]]
        row = fill_task(columns, f"results.{group}.{key}", canonical_metric, mean, notes)
        yield at_length(row, metric) if isinstance(row, dict) else row
