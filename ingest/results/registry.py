"""The registry of result formats: one module a format, asked in order.

A new format is a module with a `FORMAT` and its name in the call of `register` at the end of this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerhouse.ingest.results import helm, lighteval, lm_eval, logs, native, speed, tables
from layerhouse.ingest.results.parsed import ResultFormat


def register(*formats: ResultFormat) -> tuple[ResultFormat, ...]:
    """The registry, in the order in which formats are asked; ValueError if two have one name."""
    names = [result_format.name for result_format in formats]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two result formats are called {name!r}")
    return formats


def recognise(document: Any, path: Path) -> ResultFormat | None:
    """The first format that takes the document for its own; None if none does."""
    return next((result_format for result_format in FORMATS if result_format.recognises(document, path)), None)


FORMATS: tuple[ResultFormat, ...] = register(
    native.FORMAT,
    lm_eval.FORMAT,
    lighteval.FORMAT,
    helm.FORMAT,
    speed.VLLM,
    speed.GENAI_PERF,
    speed.LLAMA_BENCH,
    speed.OPTIMUM,
    logs.FORMAT,
    tables.FORMAT,
)
