"""Results as a plain table with a header of our own, long or wide, as CSV, TSV or a JSON list of objects.

Long, a number a line: `model, task, metric, value`, and any of `stderr, n_shot, n_samples, filter, subset, dataset, split,
seq_len, stride, unit, batch_size, hardware, revision, run_at, suite`. Wide, a model a line: `model` and a column for each
measure, `TASK/METRIC`, or `perplexity:DATASET` or `perplexity:DATASET@SEQ_LEN` for perplexities, which are per token. Every
number becomes a row. Our names may be in any case; other columns are named and not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, measure, measure_task
from layerhouse.ingest.results.run_times import compact_time_in_name, parse_time, read_run_at
from layerhouse.ingest.results.scores import INT32_MAX, INT64_MAX, finite, is_number
from layerhouse.ingest.results.table_lines import (
    cell_number,
    check_table,
    read_header,
    read_lines,
    too_many_cells,
    unread_columns,
)
from layerhouse.ingest.results.tasks import ZERO_SHOT, canonical_task, suite_of_shots

HARNESS = "table"
REQUIRED = {"model", "task", "metric", "value"}
TEXTS = ("filter", "subset", "dataset", "split", "unit", "hardware", "revision", "suite")
COUNTS = {"n_shot": INT32_MAX, "n_samples": INT64_MAX, "seq_len": INT32_MAX, "stride": INT32_MAX, "batch_size": INT32_MAX}
LONG = REQUIRED | {*TEXTS, *COUNTS, "stderr", "run_at"}
TASK_COLUMN = re.compile(r"([^/]+)/([^/]+)")
PERPLEXITY_COLUMN = re.compile(r"perplexity:([^@]+)(?:@([0-9]{1,9}))?")


def recognises(document: Any, path: Path) -> bool:
    """A table whose header is one of the two."""
    header = read_header(document)
    return header is not None and (_is_long(header) or _is_wide(header))


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every number; lines that cannot be one are named by their number."""
    header = read_header(document)
    assert header is not None
    check_table(document, path)
    run_at, notes = read_run_at(compact_time_in_name(path), path)
    common = {**EMPTY_ROW, "harness": HARNESS, "run_at": run_at, "is_group": False, "suite": ZERO_SHOT}
    return parsed_results(_items(document, header), common, notes)


FORMAT: ResultFormat = ResultFormat("tables", recognises, parse)


def _items(document: Any, header: list[str]) -> Iterator[Item]:
    is_long = _is_long(header)
    yield from unread_columns(name for name in header if not (_our_name(name) in LONG if is_long else _is_read_wide(name)))
    for line in read_lines(document, header):
        if isinstance(line, str):
            yield line
            continue
        cells = {_our_name(name): cell for name, cell in line.cells.items() if name is not None}
        yield from [_long(line.where, cells)] if is_long else _wide(line.where, cells)
        yield from too_many_cells(line)


def _our_name(name: str) -> str:
    """A column's name; one of ours in small letters."""
    small = name.strip().lower()
    return small if small in LONG else name


def _is_long(header: list[str]) -> bool:
    return set(map(_our_name, header)) >= REQUIRED


def _is_wide(header: list[str]) -> bool:
    return "model" in map(_our_name, header) and any(_is_read_wide(name) for name in header if _our_name(name) != "model")


def _is_read_wide(name: str) -> bool:
    is_measure = TASK_COLUMN.fullmatch(name) or PERPLEXITY_COLUMN.fullmatch(name)
    return _our_name(name) == "model" or is_measure is not None


def _long(where: str, cells: Row) -> Item:
    model, task_name, metric_name = (cells.get(name) for name in ("model", "task", "metric"))
    if not is_text(model) or not is_text(task_name) or not is_text(metric_name):
        return left_out_line(where, "model, task and metric must be text")
    columns: Row = {name: str(cells[name]).strip() for name in TEXTS if is_text(cells.get(name))}
    for name, most in COUNTS.items():
        number = cell_number(cells.get(name))
        if number is None:
            continue
        is_whole = is_number(number) and 0 <= number <= most and number == int(number)
        if not is_whole:
            return left_out_line(where, f"{name} must be a whole number, not {cells[name]!r:.40}")
        columns[name] = int(number)
    columns.setdefault("suite", suite_of_shots(columns.get("n_shot")))
    task, metric = canonical_task(task_name.strip(), metric_name.strip())
    columns |= {"declared_model": model.strip(), "stderr": finite(cell_number(cells.get("stderr")))}
    if moment := parse_time(cells.get("run_at")):
        columns["run_at"] = moment
    value = cell_number(cells.get("value"))
    if metric == "perplexity":
        columns |= {"suite": "perplexity", "unit": columns.get("unit", "per_token"), "dataset": columns.get("dataset", task)}
        return measure(where, metric, value, task=task, higher_is_better=False, **columns)
    unit = columns.pop("unit", None)
    row = measure_task(where, metric, value, task=task, **columns)
    return {**row, "unit": unit} if unit and isinstance(row, dict) else row


def _wide(where: str, cells: Row) -> Iterator[Item]:
    model = cells.get("model")
    if not is_text(model):
        yield left_out_line(where, "model must be text")
        return
    for name, value in cells.items():
        number = cell_number(value) if isinstance(name, str) else None
        if name == "model" or number is None:
            continue
        if perplexity := PERPLEXITY_COLUMN.fullmatch(name):
            dataset, seq_len = perplexity[1], perplexity[2]
            columns: Row = {"suite": "perplexity", "task": dataset, "dataset": dataset, "declared_model": model.strip()}
            columns |= {"seq_len": int(seq_len) if seq_len else None, "unit": "per_token", "higher_is_better": False}
            yield measure(f"{where}.{name}", "perplexity", number, **columns)
        elif parts := TASK_COLUMN.fullmatch(name):
            task, metric = canonical_task(parts[1], parts[2])
            yield measure_task(f"{where}.{name}", metric, number, task=task, declared_model=model.strip())
