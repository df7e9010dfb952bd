"""Results of llama.cpp's llama-bench (tools/llama-bench) as JSON, JSON Lines or CSV: a list of tests, or a test a line.

`avg_ts`, tokens a second, of each test becomes a row: the prefill rate if the test only has a prompt (`n_prompt`), the decode
rate if it only generates (`n_gen`), else the rate of both. Its settings are the `subset`. The deviation over repetitions is no
standard error. What it prints as markdown and SQL is in llama_bench_text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, text_or_none
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import as_float, is_number, whole_number
from layerhouse.ingest.results.speed import DECODE_RATE, PREFILL_RATE, TOTAL_RATE, rate, speed_columns
from layerhouse.ingest.results.table_lines import cell_number, check_table, read_header, read_lines, too_many_cells

HARNESS = "llama_bench"
NEEDED = frozenset({"avg_ts", "n_prompt", "n_gen"})
SETTINGS = {
    "n_depth": "depth",
    "n_batch": "batch",
    "n_ubatch": "ubatch",
    "n_threads": "threads",
    "n_gpu_layers": "ngl",
    "type_k": "type_k",
    "type_v": "type_v",
    "flash_attn": "fa",
}
"""Settings that change the rate, and their names in the table that the tool prints."""


def recognises(document: Any, path: Path) -> bool:
    """A list of objects with `avg_ts`, `n_prompt` and `n_gen`, or a CSV with these columns."""
    if isinstance(document, str):
        return set(read_header(document) or ()) >= NEEDED
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and first.keys() >= NEEDED


def parse(document: Any, path: Path) -> ParsedResults:
    """The rate of every test."""
    check_table(document, path)
    return parsed_results(_csv(document, path) if isinstance(document, str) else _tests(document, path), speed_columns(HARNESS))


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def bench_item(where: str, test: Row, path: Path) -> Item:
    """The rate of one test."""
    prompt, generated = whole_number(test.get("n_prompt")), whole_number(test.get("n_gen"))
    if prompt is None or generated is None:
        return left_out_line(where, "n_prompt and n_gen must be whole numbers")
    chips = [test.get(key) for key in ("gpu_info", "cpu_info")]
    models = [test.get(key) for key in ("model_filename", "model_type")]
    run_at, notes = read_run_at(test.get("test_time"), path)
    columns: Row = {
        "subset": bench_subset(prompt, generated, {name: test.get(key) for key, name in SETTINGS.items()}),
        "hardware": next((chip for chip in chips if is_text(chip)), None),
        "declared_model": next((name for name in models if is_text(name)), None),
        "harness_version": text_or_none(test.get("build_commit")),
        "run_at": run_at,
    }
    row = rate(where, bench_metric(prompt, generated), test.get("avg_ts"), is_timeless=test.get("avg_ns") == 0, **columns)
    return {**row, "notes": [*row.get("notes", ()), *notes]} if isinstance(row, dict) else row


def bench_metric(prompt: int, generated: int) -> str:
    """What the rate of a test counts."""
    return TOTAL_RATE if prompt and generated else PREFILL_RATE if prompt else DECODE_RATE


def bench_subset(prompt: int, generated: int, settings: Row) -> str:
    """The lengths and settings of a test as text. A depth of 0 is left out, as the tool leaves it out."""
    stated = {name: _setting(value) for name, value in settings.items() if value not in (None, "")}
    if stated.get("depth") == "0":
        del stated["depth"]
    return ",".join(f"{name}={value}" for name, value in {"prompt": prompt, "generated": generated, **stated}.items())


def _setting(value: Any) -> str:
    """A setting as text. `flash_attn` is true in JSON, and 1 in CSV and SQL."""
    if isinstance(value, bool) or not is_number(value):
        return str(int(value) if isinstance(value, bool) else value)[:100]
    return f"{as_float(value):g}"


def _tests(document: list[Any], path: Path) -> Iterator[Item]:
    for position, test in enumerate(document):
        if not isinstance(test, dict) or "avg_ts" not in test:
            yield left_out_line(f"[{position}]", "no run with a rate")
        else:
            yield bench_item(f"[{position}].avg_ts", test, path)


def _csv(document: str, path: Path) -> Iterator[Item]:
    for line in read_lines(document, read_header(document) or []):
        if isinstance(line, str):
            yield line
            continue
        cells = {name: cell for name, cell in line.cells.items() if name is not None}
        yield bench_item(line.where, cells_as_test(cells), path)
        yield from too_many_cells(line)


def cells_as_test(cells: Row) -> Row:
    """The cells of a test with numbers as numbers; names, commits and times stay text."""
    numbers = {"avg_ts", "avg_ns", "n_prompt", "n_gen", *SETTINGS} - {"type_k", "type_v"}
    return {name: cell_number(cell) if name in numbers else cell for name, cell in cells.items()}
