"""Results of llama.cpp's llama-bench (tools/llama-bench) as JSON or JSON Lines: a list of tests, or a test a line.

`avg_ts`, tokens a second, of each test becomes a row: the prefill rate if the test only has a prompt (`n_prompt`), the decode
rate if it only generates (`n_gen`), else the rate of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, text_or_none
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import whole_number
from layerhouse.ingest.results.speed import DECODE_RATE, PREFILL_RATE, TOTAL_RATE, rate, speed_columns

HARNESS = "llama_bench"


def recognises(document: Any, path: Path) -> bool:
    """A list of objects with `avg_ts`, `n_prompt` and `n_gen`."""
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and {"avg_ts", "n_prompt", "n_gen"} <= first.keys()


def parse(document: Any, path: Path) -> ParsedResults:
    """The rate of every test."""
    return parsed_results(_tests(document, path), speed_columns(HARNESS))


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _tests(document: list[Any], path: Path) -> Iterator[Item]:
    for position, test in enumerate(document):
        if not isinstance(test, dict) or "avg_ts" not in test:
            yield left_out_line(f"[{position}]", "no run with a rate")
            continue
        prompt, generated = whole_number(test.get("n_prompt")) or 0, whole_number(test.get("n_gen")) or 0
        metric = TOTAL_RATE if prompt and generated else PREFILL_RATE if prompt else DECODE_RATE
        chips = [test.get(key) for key in ("gpu_info", "cpu_info")]
        models = [test.get(key) for key in ("model_filename", "model_type")]
        run_at, notes = read_run_at(test.get("test_time"), path)
        columns: Row = {
            "subset": f"prompt={prompt},generated={generated}",
            "hardware": next((chip for chip in chips if is_text(chip)), None),
            "declared_model": next((name for name in models if is_text(name)), None),
            "harness_version": text_or_none(test.get("build_commit")),
            "run_at": run_at,
        }
        row = rate(f"[{position}].avg_ts", metric, test["avg_ts"], is_timeless=test.get("avg_ns") == 0, **columns)
        yield {**row, "notes": [*row.get("notes", ()), *notes]} if isinstance(row, dict) else row
