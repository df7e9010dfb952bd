"""The registry of result formats. The first format that recognises a document parses it.

A built-in format is a module here with a `FORMAT`, and its name in FORMATS. Another package adds one by an entry point of the
group `layerhouse.result_formats` that names a ResultFormat. What its functions need is in results.parsed (ResultFormat,
ParsedResults, parsed_results), results.rows (measure, measure_task) and layerhouse.errors (InputError). Such formats are asked
about files that may be results by their name (documents.may_be_result) and that no built-in format recognises.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.results import (
    alpaca_eval,
    bigcode,
    evalplus,
    genai_perf,
    helm,
    inspect_log,
    lighteval,
    llama_bench,
    llmperf,
    lm_eval,
    logs,
    longbench,
    native,
    opencompass,
    optimum_benchmark,
    sglang,
    simple_evals,
    tables,
    vllm,
)
from layerhouse.ingest.results.documents import CutLines, CutText, over_limit
from layerhouse.ingest.results.parsed import ParsedResults, ResultFormat
from layerhouse.ingest.results.row_check import complete_results
from layerhouse.plugins import call_plugin, load_plugins

GROUP = "layerhouse.result_formats"


def register(*formats: ResultFormat) -> tuple[ResultFormat, ...]:
    """The formats in the order in which they are asked. Raises ValueError if two have one name."""
    names = [result_format.name for result_format in formats]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two result formats are called {name!r}")
    return formats


FORMATS: tuple[ResultFormat, ...] = register(
    native.FORMAT,
    lm_eval.FORMAT,
    lighteval.FORMAT,
    helm.FORMAT,
    evalplus.FORMAT,
    bigcode.FORMAT,
    inspect_log.FORMAT,
    simple_evals.FORMAT,
    longbench.FORMAT,
    llmperf.FORMAT,
    sglang.FORMAT,
    vllm.FORMAT,
    genai_perf.FORMAT,
    llama_bench.FORMAT,
    optimum_benchmark.FORMAT,
    logs.FORMAT,
    opencompass.FORMAT,
    alpaca_eval.FORMAT,
    tables.FORMAT,
)


def recognise(document: Any, path: Path) -> ResultFormat | None:
    """The first format that recognises the document, those of other packages last; None if none does.

    The format of a document over the limit refuses to parse it: such a file is named, and never read in part.
    Raises UsageError if another package adds a format that cannot be used, InputError if it fails on this document.
    """
    for result_format in FORMATS:
        if result_format.recognises(document, path):
            is_cut = isinstance(document, CutText | CutLines)
            return replace(result_format, parse=_refuse_cut) if is_cut else result_format
    if isinstance(document, CutText | CutLines):
        return None
    for result_format in load_plugins(GROUP, ResultFormat, FORMATS):
        if call_plugin(str(path), _label(result_format), result_format.recognises, document, path):
            return replace(result_format, parse=partial(_parse_by_plugin, result_format))
    return None


def _refuse_cut(document: Any, path: Path) -> ParsedResults:
    raise InputError(str(path), over_limit())


def _parse_by_plugin(result_format: ResultFormat, document: Any, path: Path) -> ParsedResults:
    results = call_plugin(str(path), _label(result_format), result_format.parse, document, path)
    try:
        return complete_results(results)
    except ValueError as error:
        raise InputError(str(path), f"{_label(result_format)} of another package {error}") from None


def _label(result_format: ResultFormat) -> str:
    return f"result format {result_format.name!r}"
