"""Logs of Inspect (inspect_ai/log/_log.py) as JSON: `eval` with the task and the model, `results` with the metrics of scores.

Every metric of every scorer becomes a row; the scorer is the filter, and the reducer over epochs the subset. `stderr` is the
error of the scorer's `accuracy` or `mean`, whichever it has alone. Of `eval` only the task, the model and a few settings are
read, as it may hold keys. The `.eval` form, a zip, is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, measure_task, object_at, text_or_none, unusable
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import finite, is_number, whole_number
from layerhouse.ingest.results.tasks import ZERO_SHOT, canonical_task

HARNESS = "inspect"
ERROR, OF_ERROR = "stderr", ("accuracy", "mean")


def recognises(document: Any, path: Path) -> bool:
    """`eval` with a task and a model, beside the status of the run."""
    spec = object_at(document, "eval") if isinstance(document, dict) else {}
    return "task" in spec and "model" in spec and is_text(document.get("status"))


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every metric of every score."""
    spec: Row = document["eval"]
    limit = object_at(spec, "config").get("limit")
    results = object_at(document, "results")
    run_at, notes = read_run_at(spec.get("created"), path)
    if document["status"] != "success":
        notes = [*notes, note("status", f"the run ended with the status {document['status'][:40]}")]
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "harness_version": text_or_none(object_at(spec, "packages").get("inspect_ai")),
        "declared_model": text_or_none(spec.get("model")),
        "dataset": text_or_none(object_at(spec, "dataset").get("name")),
        "sample_limit": finite(limit) if is_number(limit) else None,
        "n_samples": whole_number(results.get("completed_samples")),
        "suite": ZERO_SHOT,
        "run_at": run_at,
        "is_group": False,
    }
    return parsed_results(_items(text_or_none(spec.get("task")), results.get("scores")), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _items(task: str | None, scores: Any) -> Iterator[Item]:
    if task is None or not isinstance(scores, list):
        yield left_out_line("results.scores" if task else "eval.task", "it is not there: the run has no score")
        return
    for position, score in enumerate(scores):
        where = f"results.scores[{position}]"
        metrics = score.get("metrics") if isinstance(score, dict) else None
        if not isinstance(metrics, dict):
            yield unusable(where, score, "an object with metrics")
            continue
        yield from _score(where, task, score, metrics)


def _score(where: str, task: str, score: Row, metrics: Row) -> Iterator[Item]:
    values = {name: metric.get("value") if isinstance(metric, dict) else metric for name, metric in metrics.items()}
    means = [name for name in OF_ERROR if name in values]
    owner = means[0] if len(means) == 1 and ERROR in values else None
    for name, value in values.items():
        if name == ERROR and owner:
            continue
        canonical, metric = canonical_task(task, name)
        scorer, reducer = text_or_none(score.get("name")), text_or_none(score.get("reducer"))
        stderr = finite(values[ERROR]) if name == owner else None
        yield measure_task(f"{where}.{name}", metric, value, task=canonical, stderr=stderr, filter=scorer, subset=reducer)
