"""Logs of Inspect (inspect_ai/log/_log.py) as JSON: `eval` with the task and the model, `results` with the metrics of scores.

Every metric of every scorer becomes a row; the scorer is the filter. The subset is the reducer over epochs, and the settings on
which a score depends: epochs, arguments of the task, solvers, and settings of generation. `stderr` is the error of the scorer's
`accuracy` or `mean`, whichever it has alone. A model is named `API/NAME`; the API is the run's backend. Keys among the
arguments are dropped. The `.eval` form, a zip, is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, measure_task, object_at, text_or_none, unusable
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.runs import argument_text, run_columns, short_hash
from layerhouse.ingest.results.scores import finite, is_number, whole_number
from layerhouse.ingest.results.settings import setting_text, settings_text
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
    model = text_or_none(spec.get("model"))
    api, _, name = (model or "").partition("/")
    results = object_at(document, "results")
    run_at, notes = read_run_at(spec.get("created"), path)
    if document["status"] != "success":
        notes = [*notes, note("status", f"the run ended with the status {document['status'][:40]}")]
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "harness_version": text_or_none(object_at(spec, "packages").get("inspect_ai")),
        "declared_model": model,
        **run_columns(object_at(spec, "model_args"), backend=api if name else None),
        "dataset": text_or_none(object_at(spec, "dataset").get("name")),
        "sample_limit": finite(limit) if is_number(limit) else None,
        "n_samples": whole_number(results.get("completed_samples")),
        "suite": ZERO_SHOT,
        "run_at": run_at,
        "is_group": False,
    }
    settings = _settings(spec, object_at(document, "plan"))
    return parsed_results(_items(text_or_none(spec.get("task")), results.get("scores"), settings), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _settings(spec: Row, plan: Row) -> Row:
    """What a score depends on beside the task and the model. Settings of generation are the plan's, else the model's."""
    config = object_at(spec, "config")
    epochs = config.get("epochs")
    steps = plan.get("steps")
    solvers = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    names = "+".join(str(solver.get("solver")) for solver in solvers)
    parameters = [text for solver in solvers if (text := argument_text(object_at(solver, "params"))) is not None]
    return {
        "epochs": epochs if epochs != 1 else None,
        "version": spec.get("task_version") or None,
        "task_args": argument_text(object_at(spec, "task_args")),
        "solver": names or text_or_none(spec.get("solver")),
        "solver_args": short_hash(parameters) if parameters else argument_text(object_at(spec, "solver_args")),
        "generation": argument_text(object_at(spec, "model_generate_config") | object_at(plan, "config")),
    }


def _items(task: str | None, scores: Any, settings: Row) -> Iterator[Item]:
    if task is None or not isinstance(scores, list):
        yield left_out_line("results.scores" if task else "eval.task", "it is not there: the run has no score")
        return
    for position, score in enumerate(scores):
        where = f"results.scores[{position}]"
        metrics = score.get("metrics") if isinstance(score, dict) else None
        if not isinstance(metrics, dict):
            yield unusable(where, score, "an object with metrics")
            continue
        yield from _score(where, task, score, metrics, settings)


def _score(where: str, task: str, score: Row, metrics: Row, settings: Row) -> Iterator[Item]:
    values = {name: metric.get("value") if isinstance(metric, dict) else metric for name, metric in metrics.items()}
    means = [name for name in OF_ERROR if name in values]
    owner = means[0] if len(means) == 1 and ERROR in values else None
    scorer_args = {"scorer_args": argument_text(object_at(score, "params"))}
    subset = settings_text(settings | scorer_args, setting_text(text_or_none(score.get("reducer"))))
    for name, value in values.items():
        if name == ERROR and owner:
            continue
        canonical, metric = canonical_task(task, name)
        columns: Row = {
            "task": canonical,
            "stated_task": task if canonical != task else None,
            "stated_metric": name if metric != name else None,
            "stderr": finite(values[ERROR]) if name == owner else None,
            "filter": text_or_none(score.get("name")),
            "subset": subset,
        }
        yield measure_task(f"{where}.{name}", metric, value, **columns)
