"""Results of HELM: `stats.json`, a list of statistics, with `run_spec.json` beside it that says of what.

Form: stanford-crfm/helm, benchmark/metrics/statistic.py. The value is the mean over trials; its stddev is over trials and no
standard error. Of counts of tokens, requests and costs nothing is a score.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.json_files import read_json
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
)
from layerhouse.ingest.results.task_names import canonical_task, suite_of_shots

HARNESS = "helm"
BOOKKEEPING = re.compile(
    r"num_.*|finish_reason_.*|training_(co2|energy)_cost|batch_size|inference_.*|prompt_truncated|max_prob"
)


def recognises(document: Any, path: Path) -> bool:
    """A list of statistics by this name."""
    first = document[0] if isinstance(document, list) and document else None
    return path.name == "stats.json" and isinstance(first, dict) and isinstance(first.get("name"), dict) and "count" in first


def parse(document: Any, path: Path) -> ParsedResults:
    """The means on the test split without perturbation; what is no score is said to be passed over."""
    spec = _run_spec(path.parent / "run_spec.json")
    said_adapter = spec.get("adapter_spec")
    adapter: Row = said_adapter if isinstance(said_adapter, dict) else {}
    name = spec.get("name") if is_text(spec.get("name")) else path.parent.name
    scenario, _, said = str(name).partition(":")
    arguments = dict(part.partition("=")[::2] for part in said.split(","))
    subject = arguments.get("subject")
    task, _ = canonical_task(f"{scenario}_{subject}" if subject else scenario, "")
    shots, limit = adapter.get("max_train_instances"), adapter.get("max_eval_instances")
    run_at, notes = read_run_at(None, path)
    model = adapter.get("model") or arguments.get("model")
    shots = shots if isinstance(shots, int) and 0 <= shots <= INT32_MAX else None
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "declared_model": model if is_text(model) else None,
        "sample_limit": float(limit) if isinstance(limit, int) and not isinstance(limit, bool) else None,
        "suite": suite_of_shots(shots),
        "n_shot": shots,
        "task": task,
        "split": "test",
        "run_at": run_at,
        "notes": notes,
        "is_group": False,
    }
    items: list[Item] = []
    passed: dict[str, int] = {}
    for place, stat in enumerate(document):
        named = stat.get("name") if isinstance(stat, dict) else None
        if not isinstance(named, dict) or not is_text(named.get("name")):
            items.append(left_out_line(f"[{place}]", "no statistic with a name"))
            continue
        metric = named["name"]
        reason = (
            "counts and costs"
            if BOOKKEEPING.fullmatch(metric)
            else "other splits"
            if named.get("split") not in (None, "test")
            else "perturbed inputs"
            if named.get("perturbation")
            else None
        )
        if reason:
            passed[reason] = passed.get(reason, 0) + 1
            continue
        items.append(_row(place, metric, stat))
    items += [left_out_line("stats", f"{count} of {reason}, passed over") for reason, count in passed.items()]
    rows = [{**common, **item} for item in items if isinstance(item, dict)]
    return ParsedResults(tuple(rows), tuple(item for item in items if isinstance(item, str)))


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _row(place: int, metric: str, stat: Row) -> Item:
    row = measure_task(f"[{place}].mean", metric, stat.get("mean") if stat.get("count") else None)
    if isinstance(row, dict) and "exact_match" in metric:
        row |= {"unit": "fraction", "higher_is_better": True}
    return row


def _run_spec(path: Path) -> Row:
    try:
        document = read_json(path, path.name)[1]
    except InputError:
        return {}
    return document if isinstance(document, dict) else {}
