"""Results of llama.cpp's llama-bench (tools/llama-bench) as JSON, JSON Lines or CSV: a list of tests, or a test a line.

`avg_ts`, tokens a second, of each test becomes a row: the prefill rate if the test only has a prompt (`n_prompt`), the decode
rate if it only generates (`n_gen`), else the rate of both. Its settings are the `subset`, without those that are the tool's
defaults. The hardware is the CPU where no layer is on a GPU. The deviation over repetitions is no standard error. What it
prints as markdown and SQL is in llama_bench_text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import is_text, left_out_line, text_or_none
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.scores import whole_number
from layerhouse.ingest.results.settings import setting_text
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
    "backends": "backend",
    "split_mode": "sm",
    "main_gpu": "main_gpu",
    "n_cpu_moe": "n_cpu_moe",
    "no_kv_offload": "nkvo",
    "devices": "dev",
    "tensor_split": "ts",
    "tensor_buft_overrides": "ot",
    "use_mmap": "mmap",
    "use_direct_io": "dio",
    "load_mode": "load_mode",
    "lazy_mode": "lazy_mode",
    "embeddings": "embd",
    "no_op_offload": "nopo",
    "no_host": "noh",
    "repack": "repack",
    "cpu_mask": "cpu_mask",
    "cpu_strict": "cpu_strict",
    "poll": "poll",
    "fit_target": "fit_target",
    "fit_min_ctx": "fit_min_ctx",
}
"""Settings that change the rate, and their names in the table that the tool prints."""
USUAL = {
    **dict.fromkeys(("depth", "main_gpu", "n_cpu_moe", "nkvo", "embd", "nopo", "noh", "cpu_strict"), "0"),
    "sm": "layer",
    "dev": "auto",
    "ts": "0.00",
    "ot": "none",
    "mmap": "1",
    "cpu_mask": "0x0",
    "poll": "50",
}
"""The tool's defaults. They are left out, as the tool's table leaves them out, and as older versions do not state them."""
NUMBERS = frozenset(
    {
        *("avg_ts", "avg_ns", "n_prompt", "n_gen", "n_depth", "n_batch", "n_ubatch", "n_threads", "n_gpu_layers", "main_gpu"),
        *("n_cpu_moe", "poll", "fit_target", "fit_min_ctx"),
    }
)
BACKENDS = ("cuda", "opencl", "vulkan", "kompute", "metal", "sycl", "rpc", "gpu_blas", "blas")
"""Columns of versions before there was `backends`: whether the program was built with it."""
TRUE = (True, 1, "1", "true")


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
    models = [test.get(key) for key in ("model_filename", "model_type")]
    run_at, notes = read_run_at(test.get("test_time"), path)
    settings = {name: test.get(key) for key, name in SETTINGS.items()}
    settings["backend"] = settings["backend"] or "+".join(name for name in BACKENDS if test.get(name) in TRUE)
    columns: Row = {
        "subset": bench_subset(prompt, generated, settings),
        "hardware": _hardware(test),
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
    """The lengths and settings of a test as text, without the tool's defaults. Flags are true in JSON, and 1 elsewhere."""
    texts = {name: setting_text(value) for name, value in settings.items()}
    texts = {name: {"true": "1", "false": "0"}.get(text, text) for name, text in texts.items() if text is not None}
    stated = {name: text for name, text in texts.items() if text != USUAL.get(name)}
    return ",".join(f"{name}={text}" for name, text in {"prompt": prompt, "generated": generated, **stated}.items())


def _hardware(test: Row) -> str | None:
    """The GPU, or the CPU where no layer is on a GPU."""
    chips = [test.get("cpu_info")] if test.get("n_gpu_layers") == 0 else [test.get("gpu_info"), test.get("cpu_info")]
    return next((chip for chip in chips if is_text(chip)), None)


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
    """The cells of a test with numbers as numbers; names, commits, flags and times stay text."""
    return {name: cell_number(cell) if name in NUMBERS else cell for name, cell in cells.items()}
