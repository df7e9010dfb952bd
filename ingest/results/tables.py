"""Results as tables: a plain one with a header of ours, long or wide, and OpenCompass's summary.

Long, a line a number: `model, task, metric, value` and any of `stderr, n_shot, n_samples, filter, subset, dataset, split,
seq_len, stride, unit, batch_size, hardware, revision, run_at, suite`. Wide, a line a model: `model` and a column `TASK/METRIC`
for each measure, `perplexity:DATASET` or `perplexity:DATASET@SEQ_LEN` for perplexities. As CSV, TSV or a JSON list of objects.
OpenCompass (summarizers/default.py): `dataset, version, metric, mode` and a column a model, of 0 to 100, `-` for none.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import (
    EMPTY_ROW,
    INT32_MAX,
    INT64_MAX,
    Item,
    ParsedResults,
    ResultFormat,
    Row,
    is_text,
    left_out_line,
    measure,
    measure_task,
    note,
    read_run_at,
    stderr_of,
)
from layerhouse.ingest.results.task_names import canonical_task, suite_of_shots

REQUIRED = {"model", "task", "metric", "value"}
TEXTS = ("filter", "subset", "dataset", "split", "unit", "hardware", "revision", "suite")
COUNTS = {"n_shot": INT32_MAX, "n_samples": INT64_MAX, "seq_len": INT32_MAX, "stride": INT32_MAX, "batch_size": INT32_MAX}
LONG = REQUIRED | {*TEXTS, *COUNTS, "stderr", "run_at"}
TASK_COLUMN = re.compile(r"([^/]+)/([^/]+)")
PERPLEXITY_COLUMN = re.compile(r"perplexity:([^@]+)(?:@([0-9]{1,9}))?")
OPENCOMPASS = ("dataset", "version", "metric", "mode")
MAX_ROWS = 1_000_000
NO_VALUE = frozenset({"", "-", "n/a", "null", "none"})


def recognises(document: Any, path: Path) -> bool:
    """A header that is one of the three, or a JSON list of objects with the keys of one of ours."""
    header = _header(document)
    return header is not None and (_is_long(header) or _is_wide(header) or header[:4] == [*OPENCOMPASS])


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every number; lines that cannot be one are said by their number."""
    header = _header(document)
    assert header is not None
    run_at, notes = read_run_at(_time_of_name(path), path)
    is_compass = header[:4] == [*OPENCOMPASS]
    harness = "opencompass" if is_compass else "table"
    common = {**EMPTY_ROW, "harness": harness, "run_at": run_at, "is_group": False, "suite": "zeroshot"}
    items: list[Item] = []
    for number, line in enumerate(_lines(document, header), 2 if isinstance(document, str) else 1):
        where = f"line {number}"
        if is_compass:
            items += _compass(where, line, header[4:])
        else:
            items += [_long(where, line)] if _is_long(header) else _wide(where, line)
        if None in line:
            items.append(left_out_line(where, "more cells than the header names"))
    if (len(document) if isinstance(document, list) else document.count("\n")) > MAX_ROWS + 1:
        items.append(left_out_line("lines", f"those after the first {MAX_ROWS:,} are not read"))
    rows = [{**common, **item, "notes": [*item.get("notes", ()), *notes]} for item in items if isinstance(item, dict)]
    return ParsedResults(tuple(rows), tuple(item for item in items if isinstance(item, str)))


FORMAT: ResultFormat = ResultFormat("tables", recognises, parse)


def _header(document: Any) -> list[str] | None:
    if isinstance(document, str):
        first = document.lstrip("\ufeff").partition("\n")[0]
        return [cell.strip() for cell in next(csv.reader([first.rstrip("\r")], delimiter=_delimiter(first)), [])]
    if isinstance(document, list) and document and all(isinstance(line, dict) for line in document):
        return [*dict.fromkeys(key for line in document[:MAX_ROWS] for key in line)]
    return None


def _delimiter(line: str) -> str:
    return "\t" if line.count("\t") > line.count(",") else ","


def _lines(document: Any, header: list[str]) -> Iterator[Row]:
    if isinstance(document, list):
        yield from document[:MAX_ROWS]
        return
    text = document.lstrip("\ufeff")
    reader = csv.DictReader(io.StringIO(text), delimiter=_delimiter(text.partition("\n")[0]))
    reader.fieldnames = header
    next(reader, None)
    for number, line in enumerate(reader):
        if number == MAX_ROWS:
            return
        yield line


def _is_long(header: list[str]) -> bool:
    return set(header) >= REQUIRED and set(header) <= LONG


def _is_wide(header: list[str]) -> bool:
    others = [name for name in header if name != "model"]
    is_measure = [TASK_COLUMN.fullmatch(name) or PERPLEXITY_COLUMN.fullmatch(name) for name in others]
    return "model" in header and bool(others) and all(is_measure)


def _long(where: str, line: Row) -> Item:
    if not is_text(line.get("model")) or not is_text(line.get("task")) or not is_text(line.get("metric")):
        return left_out_line(where, "model, task and metric must be text")
    columns: Row = {name: str(line[name]).strip() for name in TEXTS if is_text(line.get(name))}
    for name, most in COUNTS.items():
        number = _number(line.get(name))
        if number is None:
            continue
        if not isinstance(number, int | float) or number != int(number) or not 0 <= number <= most:
            return left_out_line(where, f"{name} must be a whole number, not {line[name]!r:.40}")
        columns[name] = int(number)
    columns.setdefault("suite", suite_of_shots(columns.get("n_shot")))
    task, metric = canonical_task(line["task"].strip(), line["metric"].strip())
    columns |= {"declared_model": line["model"].strip(), "stderr": stderr_of(_number(line.get("stderr")))}
    if is_text(line.get("run_at")):
        columns["run_at"] = read_run_at(line["run_at"], Path())[0]
    value = _number(line.get("value"))
    if metric == "perplexity":
        columns |= {"suite": "perplexity", "unit": columns.get("unit", "per_token"), "dataset": columns.get("dataset", task)}
        return measure(where, metric, value, task=task, higher_is_better=False, **columns)
    unit = columns.pop("unit", None)
    row = measure_task(where, metric, value, task=task, **columns)
    return {**row, "unit": unit} if unit and isinstance(row, dict) else row


def _wide(where: str, line: Row) -> Iterator[Item]:
    model = line.get("model")
    if not is_text(model):
        yield left_out_line(where, "model must be text")
        return
    for name, value in line.items():
        number = _number(value) if isinstance(name, str) else None
        if name == "model" or number is None:
            continue
        if perplexity := PERPLEXITY_COLUMN.fullmatch(name):
            dataset, seq_len = perplexity[1], perplexity[2]
            columns: Row = {"suite": "perplexity", "task": dataset, "dataset": dataset, "declared_model": str(model).strip()}
            columns |= {"seq_len": int(seq_len) if seq_len else None, "unit": "per_token", "higher_is_better": False}
            yield measure(f"{where}.{name}", "perplexity", number, **columns)
        elif parts := TASK_COLUMN.fullmatch(name):
            task, metric = canonical_task(parts[1], parts[2])
            yield measure_task(f"{where}.{name}", metric, number, task=task, declared_model=str(model).strip())


def _compass(where: str, line: Row, models: list[str]) -> Iterator[Item]:
    """One dataset of OpenCompass: a number a model, percent, as fractions where the metric is a share."""
    dataset, metric = line.get("dataset"), line.get("metric")
    if not is_text(dataset) or not is_text(metric) or metric == "-":
        if any(str(line.get(model, "-")).strip() not in NO_VALUE for model in models):
            yield left_out_line(where, "dataset and metric must be text")
        return
    for model in models:
        number = _number(line.get(model))
        if number is None:
            continue
        is_share = str(metric).strip().lower() in ("accuracy", "acc", "exact_match", "score", "pass@1", "naive_average")
        is_percent = is_share and isinstance(number, int | float) and 0 <= number <= 100
        value = number / 100 if is_percent else number
        said = [note("scale", "percent in the file")] if is_percent else []
        row = measure(
            f"{where}.{model}", str(metric).strip(), value, task=str(dataset).strip(), declared_model=model, notes=said
        )
        if isinstance(row, dict):
            mode = line.get("mode")
            row |= {
                "subset": str(mode).strip() if is_text(mode) and mode != "-" else None,
                "unit": "fraction" if is_percent else None,
                "higher_is_better": True if is_percent else None,
                "is_group": str(metric).strip() == "naive_average",
            }
        yield row


def _number(value: Any) -> Any:
    """A number as itself or as text; None where nothing is said; other text as it is, so that its line says so."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in NO_VALUE:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else number if math.isfinite(number) else text


def _time_of_name(path: Path) -> str | None:
    """The time that OpenCompass puts into its file's name: summary_20240131_120000.csv."""
    found = re.search(r"_(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d)$", path.stem)
    return f"{found[1]}-{found[2]}-{found[3]}T{found[4]}:{found[5]}:{found[6]}" if found else None
