"""Results of Stanford's HELM: `stats.json`, a list of statistics; `run_spec.json` beside it says of which run.

Each statistic (benchmark/metrics/statistic.py) becomes a row: its mean over the trials, for its split, `test` or `valid`. One
of perturbed inputs (augmentations/perturbation_description.py) is a row of its own, with the perturbation in its `subset`. A
run is named `SCENARIO:NAME=VALUE,...`: every argument but those of the model is part of the measure. The standard deviation of
a statistic is over trials, so it is no standard error. Counts of tokens and requests, and costs, are no scores: they are
counted and left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.results.documents import read_json_beside
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, measure_task, object_at, text_or_none
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.runs import run_columns, split_arguments
from layerhouse.ingest.results.scores import INT32_MAX, finite, whole_number
from layerhouse.ingest.results.settings import settings_text
from layerhouse.ingest.results.tasks import canonical_task, suite_of_shots

HARNESS = "helm"
BOOKKEEPING = re.compile(
    r"num_.*|finish_reason_.*|training_(co2|energy)_cost|batch_size|inference_.*|prompt_truncated|max_prob"
)
IN_COLUMNS = ("model", "model_deployment", "subject", "dataset", "max_train_instances", "max_eval_instances")
"""Arguments of a run's name that have columns of their own."""
ADAPTER_SETTINGS = ("method", "num_outputs", "num_train_trials", "temperature", "max_tokens")
"""Settings of `adapter_spec` that a run's name may state or not."""
USUAL_SETTINGS = {"num_train_trials": 1}


def recognises(document: Any, path: Path) -> bool:
    """A list of statistics in a file called stats.json."""
    first = document[0] if isinstance(document, list) and document else None
    return path.name == "stats.json" and isinstance(first, dict) and isinstance(first.get("name"), dict) and "count" in first


def parse(document: Any, path: Path) -> ParsedResults:
    """The means of every split, as they are and over perturbed inputs; what is no score is counted and left out."""
    common, settings = _read_run(path)
    items: list[Item] = []
    skipped = 0
    for position, statistic in enumerate(document):
        name = statistic.get("name") if isinstance(statistic, dict) else None
        if not isinstance(name, dict) or not is_text(name.get("name")):
            items.append(left_out_line(f"[{position}]", "no statistic with a name"))
        elif BOOKKEEPING.fullmatch(name["name"]):
            skipped += 1
        else:
            items.append(_row(position, name, statistic, settings))
    if skipped:
        items.append(left_out_line("stats", f"{skipped} of counts and costs, passed over"))
    return parsed_results(items, common)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _read_run(path: Path) -> tuple[Row, Row]:
    """The columns that all rows share, and the settings of the run that are part of each measure."""
    spec = _run_spec(path.parent / "run_spec.json")
    adapter = object_at(spec, "adapter_spec")
    run_name = text_or_none(spec.get("name")) or path.parent.name
    scenario, _, argument_text = run_name.partition(":")
    arguments = split_arguments(argument_text)
    subject = arguments.get("subject")
    stated_task = f"{scenario}:subject={subject}" if subject else scenario
    task, _ = canonical_task(f"{scenario}_{subject}" if subject else scenario, "")
    shots = _count(adapter.get("max_train_instances"), arguments.get("max_train_instances"))
    limit = _count(adapter.get("max_eval_instances"), arguments.get("max_eval_instances"))
    run_at, _ = read_run_at(None, path)
    settings: Row = {name: text for name, text in arguments.items() if name not in IN_COLUMNS}
    for name in ADAPTER_SETTINGS:
        if adapter.get(name) not in (None, USUAL_SETTINGS.get(name)):
            settings[name] = adapter[name]
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        **_model_columns(adapter, arguments),
        "sample_limit": finite(limit),
        "suite": suite_of_shots(shots),
        "n_shot": shots,
        "task": task,
        "stated_task": stated_task if task != stated_task else None,
        "dataset": arguments.get("dataset"),
        "run_at": run_at,
        "is_group": False,
    }
    return common, settings


def _model_columns(adapter: Row, arguments: Mapping[str, str]) -> Row:
    """The model and how it was deployed: `huggingface/NAME` of a model `ORG/NAME` is transformers; a deployment under another
    name may be of other weights."""
    model = text_or_none(adapter.get("model") or arguments.get("model"))
    deployment = text_or_none(adapter.get("model_deployment") or arguments.get("model_deployment"))
    provider, _, name = (deployment or "").partition("/")
    if model and name == model.partition("/")[2]:
        run = run_columns({}, backend=provider)
    else:
        run = run_columns({"model_deployment": deployment if deployment != model else None})
    return {"declared_model": model, **run}


def _count(stated: Any, text: str | None) -> int | None:
    """A count that `adapter_spec` states, else the run's name."""
    number = int(text) if text and re.fullmatch(r"[0-9]{1,9}", text) else None
    return whole_number(stated if stated is not None else number, INT32_MAX)


def _run_spec(path: Path) -> Row:
    try:
        document = read_json_beside(path)
    except InputError:
        return {}
    return document if isinstance(document, dict) else {}


def _row(position: int, name: Row, statistic: Row, settings: Row) -> Item:
    """A statistic over no trials has no mean: its value is missing."""
    perturbation = object_at(name, "perturbation")
    of_name = {"sub_split": name.get("sub_split"), "perturbation": perturbation.get("name")}
    of_name |= {f"perturbation.{key}": value for key, value in perturbation.items() if key != "name" and value is not False}
    mean = statistic.get("mean") if statistic.get("count") else None
    columns: Row = {"split": text_or_none(name.get("split")), "subset": settings_text(settings | of_name)}
    row = measure_task(f"[{position}].mean", name["name"], mean, **columns)
    if isinstance(row, dict) and "exact_match" in name["name"]:
        row |= {"unit": "fraction", "higher_is_better": True}
    return row
