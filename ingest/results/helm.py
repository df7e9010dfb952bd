"""Results of Stanford's HELM: `stats.json`, a list of statistics; `run_spec.json` beside it says of which run.

Each statistic (benchmark/metrics/statistic.py) on the test split without perturbation becomes a row: its mean over the trials.
Its standard deviation is over trials, so it is no standard error. Counts of tokens and requests, and costs, are no scores:
they are counted and left out.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.results.documents import read_json_beside
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, measure_task, object_at, text_or_none
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import INT32_MAX, finite, whole_number
from layerhouse.ingest.results.tasks import canonical_task, suite_of_shots

HARNESS = "helm"
BOOKKEEPING = re.compile(
    r"num_.*|finish_reason_.*|training_(co2|energy)_cost|batch_size|inference_.*|prompt_truncated|max_prob"
)


def recognises(document: Any, path: Path) -> bool:
    """A list of statistics in a file called stats.json."""
    first = document[0] if isinstance(document, list) and document else None
    return path.name == "stats.json" and isinstance(first, dict) and isinstance(first.get("name"), dict) and "count" in first


def parse(document: Any, path: Path) -> ParsedResults:
    """The means on the test split without perturbation; what else there is, counted by the reason why it is left out."""
    items: list[Item] = []
    skipped: Counter[str] = Counter()
    for position, statistic in enumerate(document):
        name = statistic.get("name") if isinstance(statistic, dict) else None
        if not isinstance(name, dict) or not is_text(name.get("name")):
            items.append(left_out_line(f"[{position}]", "no statistic with a name"))
        elif reason := _why_skipped(name):
            skipped[reason] += 1
        else:
            items.append(_row(position, name["name"], statistic))
    items += [left_out_line("stats", f"{count} of {reason}, passed over") for reason, count in skipped.items()]
    return parsed_results(items, _run_columns(path))


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _run_columns(path: Path) -> Row:
    """The columns that all rows share. The run's name is `scenario:key=value,...`, as in `mmlu:subject=law,model=gpt2`."""
    spec = _run_spec(path.parent / "run_spec.json")
    adapter = object_at(spec, "adapter_spec")
    run_name = text_or_none(spec.get("name")) or path.parent.name
    scenario, _, argument_text = run_name.partition(":")
    arguments = dict(part.partition("=")[::2] for part in argument_text.split(","))
    subject = arguments.get("subject")
    task, _ = canonical_task(f"{scenario}_{subject}" if subject else scenario, "")
    shots, limit = whole_number(adapter.get("max_train_instances"), INT32_MAX), adapter.get("max_eval_instances")
    run_at, _ = read_run_at(None, path)
    return {
        **EMPTY_ROW,
        "harness": HARNESS,
        "declared_model": text_or_none(adapter.get("model") or arguments.get("model")),
        "sample_limit": finite(limit) if isinstance(limit, int) else None,
        "suite": suite_of_shots(shots),
        "n_shot": shots,
        "task": task,
        "split": "test",
        "run_at": run_at,
        "is_group": False,
    }


def _run_spec(path: Path) -> Row:
    try:
        document = read_json_beside(path)
    except InputError:
        return {}
    return document if isinstance(document, dict) else {}


def _why_skipped(name: Row) -> str | None:
    """Why a statistic of this name is no row; None if it is one."""
    if BOOKKEEPING.fullmatch(name["name"]):
        return "counts and costs"
    if name.get("split") not in (None, "test"):
        return "other splits"
    return "perturbed inputs" if name.get("perturbation") else None


def _row(position: int, metric: str, statistic: Row) -> Item:
    """A statistic over no trials has no mean: its value is missing."""
    row = measure_task(f"[{position}].mean", metric, statistic.get("mean") if statistic.get("count") else None)
    if isinstance(row, dict) and "exact_match" in metric:
        row |= {"unit": "fraction", "higher_is_better": True}
    return row
