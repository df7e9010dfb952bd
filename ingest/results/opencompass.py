"""Results of OpenCompass: the summary table that its default summarizer writes (summarizers/default.py).

CSV with `dataset, version, metric, mode` and a column for each model; every number becomes a row. Shares are percent, 0 to
100, and become fractions with a note; other metrics keep their value without a unit. `-` is no value. Naive and weighted
averages are groups. `version` is a hash of the dataset's prompt: with `mode`, it is the `subset`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, measure
from layerhouse.ingest.results.run_times import compact_time_in_name, read_run_at
from layerhouse.ingest.results.scores import is_number
from layerhouse.ingest.results.settings import setting_text, settings_text
from layerhouse.ingest.results.table_lines import NO_VALUE, cell_number, check_table, read_header, read_lines, too_many_cells
from layerhouse.ingest.results.tasks import ZERO_SHOT, canonical_task

HARNESS = "opencompass"
COLUMNS = ["dataset", "version", "metric", "mode"]
AVERAGES = ("naive_average", "weighted_average")
SHARE = re.compile(r"accuracy|acc|exact_match|em|f1|(?:\w+_)?pass@\d{1,4}|naive_average|weighted_average", re.IGNORECASE)
"""Metrics that are percentages. Others, as `score`, may be a judge's, of any scale, so they are left as they are."""


def recognises(document: Any, path: Path) -> bool:
    """A table that starts with OpenCompass's four columns."""
    header = read_header(document)
    return header is not None and header[: len(COLUMNS)] == COLUMNS


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every dataset and model."""
    header = read_header(document)
    assert header is not None
    models = header[len(COLUMNS) :]
    check_table(document, path)
    run_at, notes = read_run_at(compact_time_in_name(path), path)
    common = {**EMPTY_ROW, "harness": HARNESS, "run_at": run_at, "is_group": False, "suite": ZERO_SHOT}
    return parsed_results(_items(document, header, models), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _items(document: Any, header: list[str], models: list[str]) -> Iterator[Item]:
    for line in read_lines(document, header):
        if isinstance(line, str):
            yield line
            continue
        yield from _dataset(line.where, line.cells, models)
        yield from too_many_cells(line)


def _dataset(where: str, cells: Row, models: list[str]) -> Iterator[Item]:
    """One dataset: a number for each model."""
    dataset, metric, mode = cells.get("dataset"), cells.get("metric"), cells.get("mode")
    if not is_text(dataset) or not is_text(metric) or metric == "-":
        if any(str(cells.get(model, "-")).strip() not in NO_VALUE for model in models):
            yield left_out_line(where, "dataset and metric must be text")
        return
    stated_task, stated_metric = dataset.strip(), metric.strip()
    task, metric = canonical_task(stated_task, stated_metric)
    mode, version = (text.strip() if is_text(text) and text != "-" else None for text in (mode, cells.get("version")))
    for model in models:
        number = cell_number(cells.get(model))
        if number is None:
            continue
        is_percent = SHARE.fullmatch(metric) is not None and is_number(number) and 0 <= number <= 100
        columns: Row = {
            "task": task,
            "declared_model": model,
            "stated_task": stated_task if task != stated_task else None,
            "stated_metric": stated_metric if metric != stated_metric else None,
            "subset": settings_text({"version": version}, setting_text(mode)),
            "unit": "fraction" if is_percent else None,
            "higher_is_better": True if is_percent else None,
            "is_group": metric in AVERAGES,
            "notes": [note("scale", "percent in the file")] if is_percent else [],
        }
        yield measure(f"{where}.{model}", metric, number / 100 if is_percent else number, **columns)
