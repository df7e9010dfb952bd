"""Results as a plain table with a header of our own, long or wide, as CSV, TSV or a JSON list of objects.

Long, a number a line: `model, task, metric, value`, and any of `stderr, n_samples, filter, subset, dataset, split, seq_len,
stride, unit, batch_size, suite`. Wide, a model a line: `model` and a column for each measure, `TASK/METRIC`, or
`perplexity:DATASET` or `perplexity:DATASET@SEQ_LEN` for perplexities, which are per token. Both may have `n_shot, language,
chat_template, limit, hardware, harness, run_at`, and how the model was loaded: `revision, adapter, dtype, quantization,
load_in_4bit, load_in_8bit, subfolder, gguf_file, backend`. Every number becomes a row. Our names may be in any case; other
columns are named and not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, measure, measure_task
from layerhouse.ingest.results.run_times import compact_time_in_name, parse_time, read_run_at
from layerhouse.ingest.results.runs import run_columns
from layerhouse.ingest.results.scores import INT32_MAX, INT64_MAX, finite, is_number
from layerhouse.ingest.results.table_lines import (
    NO_VALUE,
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
RUN_NAMES = (
    *("revision", "adapter", "dtype", "quantization", "load_in_4bit", "load_in_8bit", "subfolder", "gguf_file", "backend"),
)
"""Columns that say how the model was loaded."""
SHARED_TEXTS = ("language", "chat_template", "hardware", "harness")
TEXTS = ("filter", "subset", "dataset", "split", "unit", "suite")
SHARED_COUNTS = {"n_shot": INT32_MAX}
COUNTS = {"n_samples": INT64_MAX, "seq_len": INT32_MAX, "stride": INT32_MAX, "batch_size": INT32_MAX}
SHARED = {"model", "run_at", "limit", *RUN_NAMES, *SHARED_TEXTS, *SHARED_COUNTS}
"""Columns that both forms may have."""
LONG = REQUIRED | SHARED | {*TEXTS, *COUNTS, "stderr"}
TASK_COLUMN = re.compile(r"([^/]+)/([^/]+)")
PERPLEXITY_COLUMN = re.compile(r"perplexity:([^@]+)(?:@([0-9]{1,9}))?")


class CellError(ValueError):
    """A cell of a line that cannot be read, so that the line is left out."""


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
    return "model" in map(_our_name, header) and any(_is_measure(name) for name in header)


def _is_read_wide(name: str) -> bool:
    return _our_name(name) in SHARED or _is_measure(name)


def _is_measure(name: str) -> bool:
    return (TASK_COLUMN.fullmatch(name) or PERPLEXITY_COLUMN.fullmatch(name)) is not None


def _shared_columns(cells: Row) -> Row:
    """The columns of a line that every number of it has. Raises CellError for a count or cap that is none."""
    columns: Row = {
        "declared_model": str(cells["model"]).strip(),
        **_texts(cells, SHARED_TEXTS),
        **_counts(cells, SHARED_COUNTS),
    }
    stated = {name: cells[name] for name in RUN_NAMES if not _is_blank(cells.get(name))}
    if stated:
        columns |= run_columns(stated)
    if moment := parse_time(cells.get("run_at")):
        columns["run_at"] = moment
    limit = cell_number(cells.get("limit"))
    if limit is not None:
        columns["sample_limit"] = finite(limit)
        if columns["sample_limit"] is None:
            raise CellError(f"limit must be a number, not {cells['limit']!r:.40}")
    return columns


def _texts(cells: Row, names: Iterable[str]) -> Row:
    return {name: str(cells[name]).strip() for name in names if is_text(cells.get(name))}


def _counts(cells: Row, limits: Mapping[str, int]) -> Row:
    columns: Row = {}
    for name, most in limits.items():
        number = cell_number(cells.get(name))
        if number is None:
            continue
        is_whole = is_number(number) and 0 <= number <= most and number == int(number)
        if not is_whole:
            raise CellError(f"{name} must be a whole number, not {cells[name]!r:.40}")
        columns[name] = int(number)
    return columns


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in NO_VALUE)


def _stated_names(task_name: str, metric_name: str) -> Row:
    """The task, and the names of the table that are others than ours."""
    task, metric = canonical_task(task_name, metric_name)
    stated = {"stated_task": task_name if task != task_name else None}
    return {"task": task, **stated, "stated_metric": metric_name if metric != metric_name else None}


def _long(where: str, cells: Row) -> Item:
    task_name, metric_name = cells.get("task"), cells.get("metric")
    if not is_text(cells.get("model")) or not is_text(task_name) or not is_text(metric_name):
        return left_out_line(where, "model, task and metric must be text")
    task_name, metric_name = task_name.strip(), metric_name.strip()
    try:
        columns = _shared_columns(cells) | _texts(cells, TEXTS) | _counts(cells, COUNTS)
    except CellError as error:
        return left_out_line(where, str(error))
    columns.setdefault("suite", suite_of_shots(columns.get("n_shot")))
    columns |= _stated_names(task_name, metric_name) | {"stderr": finite(cell_number(cells.get("stderr")))}
    metric, value = canonical_task(task_name, metric_name)[1], cell_number(cells.get("value"))
    if metric == "perplexity":
        dataset = columns.get("dataset", columns["task"])
        columns |= {"suite": "perplexity", "unit": columns.get("unit", "per_token"), "dataset": dataset}
        return measure(where, metric, value, higher_is_better=False, **columns)
    unit = columns.pop("unit", None)
    row = measure_task(where, metric, value, **columns)
    return {**row, "unit": unit} if unit and isinstance(row, dict) else row


def _wide(where: str, cells: Row) -> Iterator[Item]:
    if not is_text(cells.get("model")):
        yield left_out_line(where, "model must be text")
        return
    try:
        shared = _shared_columns(cells)
    except CellError as error:
        yield left_out_line(where, str(error))
        return
    for name, value in cells.items():
        number = cell_number(value) if isinstance(name, str) else None
        if number is None or _our_name(name) in SHARED:
            continue
        if perplexity := PERPLEXITY_COLUMN.fullmatch(name):
            dataset, seq_len = perplexity[1], perplexity[2]
            columns: Row = shared | {"suite": "perplexity", "task": dataset, "dataset": dataset}
            columns |= {"seq_len": int(seq_len) if seq_len else None, "unit": "per_token", "higher_is_better": False}
            yield measure(f"{where}.{name}", "perplexity", number, **columns)
        elif parts := TASK_COLUMN.fullmatch(name):
            columns = shared | _stated_names(parts[1], parts[2]) | {"suite": suite_of_shots(shared.get("n_shot"))}
            yield measure_task(f"{where}.{name}", canonical_task(parts[1], parts[2])[1], number, **columns)
