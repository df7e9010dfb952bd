"""Result files: a registry of formats, one module a format, and the reading of one number that they share.

A new format is a module with a `FORMAT` and its name in the call of `register` at the end of this file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from layerhouse.warehouse.storage.schema import COMMIT_COLUMNS, MEASURE_COLUMNS, RESULTS

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
INT32_MAX = 2**31 - 1
SHARES = ("exact_match", "f1", "avg_zeroshot_acc")
COST_UNITS = {"word_perplexity": "per_word", "byte_perplexity": "per_byte", "bits_per_byte": "bits/byte"}

Row = dict[str, Any]
"""Columns of the results table, or a note with its code and text."""
Item = Row | str
"""What a parser makes of one key: a row, or a line that says why there is none."""
ADDED_BY_CALLER = ("result_id", "measure_id", "source_uri", *(column.name for column in COMMIT_COLUMNS))
EMPTY_ROW: Row = {name: None for name in RESULTS.column_names if name not in ADDED_BY_CALLER}
"""Every column that a parser may fill, null."""
WORDS_OF_STATUS = {"nan": "nan", "inf": "inf", "infinity": "inf"}


@dataclass(frozen=True)
class ParsedResults:
    """What a result file gave.

    `rows` are dicts of columns of the results table; the caller adds result_id, source_uri and the commit's columns.
    `left_out` has a line for every key of the file that no row took: `metrics.foo: not known`.
    """

    rows: tuple[Row, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class ResultFormat:
    """One way in which a program writes results.

    `recognises` looks at a whole document and its path and never raises. `parse` takes a document that was recognised;
    it raises InputError, naming the key, only where the shape is wrong.
    """

    name: str
    recognises: Callable[[Any, Path], bool]
    parse: Callable[[Any, Path], ParsedResults]


def measure_id(row: Row) -> str:
    """Hash of what a row measured, 32 hex digits: over the columns that make a measure and that the row has."""
    return _measure_id(*map(row.get, MEASURE_COLUMNS))


@lru_cache(maxsize=1 << 14, typed=True)
def _measure_id(*values: Any) -> str:
    """Files of one study have the same measures over and over."""
    named = [f"{name}={value!r}" for name, value in zip(MEASURE_COLUMNS, values, strict=True) if value is not None]
    return hashlib.sha256("\n".join(named).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def score(value: Any) -> Row | None:
    """The columns value, value_integer and status of one JSON value; None if it is no score.

    Integers keep their exact value in value_integer if it fits 64 bits. Not-a-number and infinity, as tokens or as text
    in any case, are a status with a null value; so is null: missing. Booleans, other text, lists and objects are none.
    """
    if type(value) is float and -math.inf < value < math.inf:
        return _columns(value, None, "ok")
    if value is None:
        return _columns(None, None, "missing")
    if isinstance(value, str):
        status = WORDS_OF_STATUS.get(value.strip().lower().removeprefix("-").removeprefix("+"))
        return _columns(None, None, status) if status else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = _float(value)
    if not math.isfinite(number):
        return _columns(None, None, "nan" if math.isnan(number) else "inf")
    is_exact = isinstance(value, int) and INT64_MIN <= value <= INT64_MAX
    return _columns(number, int(value) if is_exact else None, "ok")


def stderr_of(value: Any) -> float | None:
    """A standard error; None where the file has none ("N/A", [], null) or it is not finite. Never 0 for those."""
    if type(value) is float and -math.inf < value < math.inf:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = _float(value)
    return number if math.isfinite(number) else None


@lru_cache(maxsize=4096)
def unit_and_direction(metric: str) -> tuple[str | None, bool | None]:
    """Unit and higher_is_better of a task's measure, by lm-eval's names; None where a name does not tell."""
    if metric.startswith("acc") or metric in SHARES:
        return "fraction", True
    is_cost = metric in COST_UNITS or "perplexity" in metric or "ppl" in metric.split("_")
    return COST_UNITS.get(metric), False if is_cost else None


def measure(where: str, metric: str, value: Any, **columns: Any) -> Item:
    """The row of one number with further columns, or the line that says why `where` is none."""
    number = score(value)
    return unusable(where, value, "a number") if number is None else {"metric": metric, **columns, **number}


def measure_task(where: str, metric: str, value: Any, *, notes: Sequence[Row] = (), **columns: Any) -> Item:
    """`measure` with the unit and direction of a task's measure.

    A share outside of 0 to 1 keeps its value, without a unit and with a note.
    """
    return fill_task(columns, where, metric, value, notes)


def fill_task(columns: Row, where: str, metric: str, value: Any, notes: Sequence[Row] = ()) -> Item:
    """`measure_task` with the further columns as they are."""
    unit, direction = unit_and_direction(metric)
    number = score(value)
    if number is None:
        return unusable(where, value, "a number")
    if unit == "fraction" and number["value"] is not None and not 0 <= number["value"] <= 1:
        unit, notes = None, [note("scale", "outside of 0 to 1, so not a fraction; it may be percent"), *notes]
    return {**columns, "metric": metric, "unit": unit, "higher_is_better": direction, "notes": [*notes], **number}


def read_run_at(timestamp: Any, path: Path) -> tuple[datetime | None, list[Row]]:
    """The time of an ISO 8601 text, UTC where it names no zone; else the file's modification time, with a note."""
    said = f"timestamp {kind(timestamp)} is no time" if is_text(timestamp) else "the file has no timestamp that is text"
    if isinstance(timestamp, str):
        try:
            moment = datetime.fromisoformat(timestamp.strip())
            return (moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)), []
        except (ValueError, OverflowError):
            pass
    try:
        modified = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=path.stat().st_mtime_ns // 1000)
    except (OSError, OverflowError):
        return None, [note("run_at", said)]
    return modified, [note("run_at", f"{said}: run_at is the file's modification time")]


def note(code: str, text: str) -> Row:
    """One entry of the column notes."""
    return {"code": code, "text": text}


def unusable(where: str, value: Any, wanted: str) -> str:
    """The line for a value of the wrong kind; an `error` of the writer is passed on."""
    if where.endswith(".error") and isinstance(value, str):
        return left_out_line(where, f"the run failed: {value}")
    return left_out_line(where, f"must be {wanted}, not {kind(value)}")


def kind(value: Any) -> str:
    """A JSON value in a few words for a message."""
    names = {dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value)) or f"{value!r:.80}"


def is_text(value: Any) -> bool:
    """Whether a value is text that says something."""
    return isinstance(value, str) and value.strip() != ""


def left_out_line(key: str, reason: str) -> str:
    """One line, at most 200 characters, that says which key of a file was not taken and why."""
    line = " ".join(f"{key}: {reason}".split())
    return line if len(line) <= 200 else line[:199] + "…"


def _columns(value: float | None, value_integer: int | None, status: str) -> Row:
    return {"value": value, "value_integer": value_integer, "status": status}


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
