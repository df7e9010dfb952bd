"""Whether a file that is no result of a known form looks like one, so that it is named instead of passed over in silence."""

from __future__ import annotations

import re
from typing import Any

from layerhouse.ingest.results.rows import shortened
from layerhouse.ingest.results.table_lines import read_header
from layerhouse.ingest.results.tables import REQUIRED

MEASURE = re.compile(
    r"\b(accuracy|acc_norm|perplexity|ppl|exact_match|f1|bleu|rouge\w?|pass@\d{1,4}|kld|tok(?:en)?s?/s(?:ec)?)\b"
    r"[\"' \t]{0,8}[:=|][|\"' \t]{0,20}[+-]?\d",
    re.IGNORECASE,
)
NAMES = frozenset(
    {
        *("task", "dataset", "benchmark", "metric", "score", "accuracy", "acc", "acc_norm", "perplexity", "ppl", "f1", "bleu"),
        *("exact_match", "em", "value", "throughput", "tokens_per_sec"),
    }
)
"""Columns of tables of results, in small letters."""
ADVICE = "a table with model, task, metric and value is one"


def resembles_results(document: Any) -> str | None:
    """Why a document that no format recognises looks like results, and what to do; None if it does not."""
    header = read_header(document)
    if header and (names := {name.strip().lower() for name in header}) and "model" in names and names & NAMES:
        missing = ", ".join(sorted(REQUIRED - names))
        return shortened(f"looks like a table of results, but has no column {missing}; {ADVICE}")
    if isinstance(document, str) and (match := MEASURE.search(document)):
        line = document.count("\n", 0, match.start()) + 1
        return shortened(f"line {line} looks like a result ({match[0]}), but in no known form; {ADVICE}")
    return None
