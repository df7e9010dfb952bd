"""What the formats of speed benchmarks share: the names of rates, the columns of their rows, a rate over a time of zero.

A rate is named by what it counts, as "tokens a second" may mean any of these: output tokens over the whole time, input and
output tokens over the whole time, tokens while decoding, tokens of the prompt.
"""

from __future__ import annotations

from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, Row
from layerhouse.ingest.results.rows import measure
from layerhouse.vocabulary import ResultStatus

OUTPUT_RATE = "output_tokens_per_sec"
TOTAL_RATE = "total_tokens_per_sec"
DECODE_RATE = "decode_tokens_per_sec"
PREFILL_RATE = "prefill_tokens_per_sec"
REQUEST_RATE = "requests_per_sec"
UNSPECIFIED_RATE = "tokens_per_sec"


def speed_columns(harness: str) -> Row:
    """The columns that all rows of a speed benchmark share."""
    return {**EMPTY_ROW, "harness": harness, "suite": "speed", "task": "speed", "is_group": False}


def rate(where: str, metric: str, value: Any, *, is_timeless: bool = False, unit: Any = "tok/s", **columns: Any) -> Item:
    """A rate. One that was measured over no time, as the file says or as the rate itself is not positive, is missing, with a
    note."""
    row = measure(where, metric, value, unit=unit, higher_is_better=True, **columns)
    if isinstance(row, dict) and (is_timeless or (row["value"] is not None and row["value"] <= 0)):
        text = "the time it was measured over is zero" if is_timeless else f"the file says {row['value']:g}"
        row |= {"value": None, "value_integer": None, "status": ResultStatus.MISSING, "notes": [note("zero_time", text)]}
    return row
