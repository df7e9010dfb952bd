"""Results of EvalPlus (evaluate.py): `eval_results.json`, or SAMPLES_eval_results.json, with the statuses of every solution.

`pass_at_k` has `base`, over the tests of HumanEval or MBPP, and `plus`, over those of EvalPlus too; each value is a row, a
fraction. Older files have no `pass_at_k`: pass@1, the mean over problems of the share of solutions that pass, is computed then,
and says so. The data set is told by the problems' names, as HumanEval/0. The file names no model; the samples' name does
(codegen.py), as `ORG--MODEL_BACKEND_temp_TEMPERATURE`, if they were made by EvalPlus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import left_out_line, measure_task, object_at, unusable
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.runs import run_columns
from layerhouse.ingest.results.settings import settings_text
from layerhouse.ingest.results.tasks import ZERO_SHOT

HARNESS = "evalplus"
TASKS = {"HumanEval": "humaneval", "Mbpp": "mbpp"}
NAME = re.compile(
    r"(?P<model>.+)_(?P<backend>hf|vllm|openai|anthropic|google|mistral|bedrock|ollama|gptqmodel)_temp_(?P<temperature>\d+(?:\.\d+)?)"
    r"(?P<more>.*?)[._]eval_results"
)
PASSED = ("pass", "success")
KINDS = {"base": "", "plus": "_plus"}


def recognises(document: Any, path: Path) -> bool:
    """`eval` beside the hash of the problems."""
    return isinstance(document, dict) and isinstance(document.get("eval"), dict) and "hash" in document and "date" in document


def parse(document: Any, path: Path) -> ParsedResults:
    """pass@k by the tests of the data set, and by those of EvalPlus too."""
    run_at, notes = read_run_at(document.get("date"), path)
    problems = document["eval"]
    name = NAME.fullmatch(path.stem)
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        **(_named_run(name) if name else {}),
        "suite": ZERO_SHOT,
        "n_samples": len(problems),
        "run_at": run_at,
        "is_group": False,
    }
    return parsed_results(_items(document, problems), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _named_run(name: re.Match[str]) -> Row:
    """What the name of the samples says. What stands behind the temperature, as `-sanitized`, is a setting too."""
    settings = {"temperature": float(name["temperature"]), "samples": name["more"].strip("-._")}
    return {
        "declared_model": name["model"].replace("--", "/"),
        **run_columns({}, backend=name["backend"]),
        "subset": settings_text(settings),
    }


def _items(document: Row, problems: Row) -> Iterator[Item]:
    sets = {name.partition("/")[0] for name in problems}
    task = TASKS.get(sets.pop()) if len(sets) == 1 else None
    if task is None:
        yield left_out_line("eval", "problems of no data set or of several: HumanEval/0 or Mbpp/2 is expected")
        return
    stated = object_at(document, "pass_at_k")
    if not stated:
        yield from _computed(task, problems)
    for kind, values in stated.items():
        where = f"pass_at_k.{kind}"
        if kind not in KINDS or not isinstance(values, dict):
            yield unusable(where, values, "an object under base or plus")
            continue
        for metric, value in values.items():
            yield measure_task(f"{where}.{metric}", metric, value, task=task + KINDS[kind])


def _computed(task: str, problems: Row) -> Iterator[Item]:
    notes = [note("computed", "computed from the statuses of the solutions; the file has no pass_at_k")]
    for kind, suffix in KINDS.items():
        shares = [_share(problem, kind) for problem in problems.values()]
        known = [share for share in shares if share is not None]
        if known and len(known) == len(shares):
            yield measure_task(f"eval.{kind}", "pass@1", sum(known) / len(known), task=task + suffix, notes=notes)
        else:
            yield left_out_line(f"eval.{kind}", "not every problem has the statuses of its solutions")


def _share(problem: Any, kind: str) -> float | None:
    """The share of a problem's solutions that pass; with `plus`, those that pass the tests of both."""
    kinds = ("base",) if kind == "base" else ("base", "plus")
    if isinstance(problem, dict):  # the older form: lists of [status, details]
        lists = [problem.get(key) for key in kinds]
        if not all(isinstance(statuses, list) and len(statuses) == len(lists[0] or ()) for statuses in lists):
            return None
        solutions = [
            [first[0] if isinstance(first, list) and first else None for first in tests] for tests in zip(*lists, strict=True)
        ]
    elif isinstance(problem, list) and all(isinstance(solution, dict) for solution in problem):
        solutions = [[solution.get(f"{key}_status") for key in kinds] for solution in problem]
    else:
        return None
    if not solutions or any(not isinstance(status, str) for statuses in solutions for status in statuses):
        return None
    return sum(all(status in PASSED for status in statuses) for statuses in solutions) / len(solutions)
