"""Results of OpenAI's simple-evals (simple_evals.py): EVAL_MODEL.json, an object of means and deviations over the questions.

The task and the model are in the name of the file alone. Every mean becomes a row: `score`, which is a fraction, and others, as
`chars`, the characters of an answer. `NAME:std` is a deviation over questions, so no standard error; it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import left_out_line, measure_task
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.tasks import ZERO_SHOT

HARNESS = "simple_evals"
NAME = re.compile(r"(simpleqa|mmlu|math|gpqa|mgsm|drop|humaneval)_(.+?)(_DEBUG)?")
DEVIATION = ":std"


def recognises(document: Any, path: Path) -> bool:
    """The name of one of the evaluations, and a score with its deviation, or only numbers beside it."""
    is_named = NAME.fullmatch(path.stem) is not None
    if not is_named or not isinstance(document, dict) or "score" not in document:
        return False
    return all(not isinstance(value, dict | list) for value in document.values())


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every mean."""
    name = NAME.fullmatch(path.stem)
    assert name is not None
    run_at, notes = read_run_at(None, path)
    if name[3]:
        notes = [*notes, note("limit", "a run for debugging, over a few questions")]
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "declared_model": name[2],
        "task": f"{name[1]}_debug" if name[3] else name[1],
        "suite": ZERO_SHOT,
        "run_at": run_at,
        "is_group": False,
    }
    return parsed_results(_items(document), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _items(document: Row) -> Iterator[Item]:
    for key, value in document.items():
        if key.endswith(DEVIATION):
            yield left_out_line(key, "a deviation over questions is no standard error")
            continue
        row = measure_task(key, key, value)
        if isinstance(row, dict) and key == "score" and row["value"] is not None and 0 <= row["value"] <= 1:
            row |= {"unit": "fraction", "higher_is_better": True}
        yield row
