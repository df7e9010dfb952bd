"""The row of one number, or the line that says why there is none; the helpers that every format uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.results.parsed import Item, Row
from layerhouse.ingest.results.scores import score
from layerhouse.ingest.results.tasks import unit_and_direction

MAX_NAME = 2000
"""Characters of the name of a model, task or measure."""
MAX_KEY = 100
"""Characters of a key in a line."""
NO_FRACTION = "outside of 0 to 1, so not a fraction; it may be percent"
"""The doubt of a share."""
MAX_SPLIT = 10_000
"""Characters of a text that are looked at to make a line of 200."""


def measure(where: str, metric: str, value: Any, **columns: Any) -> Item:
    """The row of one number with further columns, or the line that says why the value at the key `where` is no number."""
    number = score(value)
    if number is None:
        return unusable(where, value, "a number")
    task = columns.get("task") or ""
    return too_long(where) if len(metric) + len(task) > MAX_NAME else {"metric": metric, **columns, **number}


def measure_task(where: str, metric: str, value: Any, *, notes: Sequence[Note] = (), **columns: Any) -> Item:
    """`measure` with the unit and direction of a task's metric.

    A share outside of 0 to 1 keeps its value, without a unit and with a note.
    """
    return fill_task(columns, where, metric, value, notes)


def fill_task(columns: Row, where: str, metric: str, value: Any, notes: Sequence[Note] = ()) -> Item:
    """`measure_task` with the further columns as a dict, which is copied."""
    unit, direction = unit_and_direction(metric)
    number = score(value)
    if number is None:
        return unusable(where, value, "a number")
    if len(metric) + len(columns.get("task") or "") > MAX_NAME:
        return too_long(where)
    doubt = None
    if unit == "fraction" and number["value"] is not None and not 0 <= number["value"] <= 1:
        unit, doubt = None, NO_FRACTION
        notes = [note("scale", doubt), *notes]
    judged = {"metric": metric, "unit": unit, "higher_is_better": direction, "doubt": doubt, "notes": [*notes]}
    return {**columns, **judged, **number}


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that is not blank, and not too long for a name."""
    return isinstance(value, str) and len(value) <= MAX_NAME and value.strip() != ""


def text_or_none(value: Any) -> str | None:
    """A value if it is text that is not blank."""
    return value if is_text(value) else None


def object_at(holder: Mapping[str, Any], key: str) -> Row:
    """The object under a key; an empty one if there is none."""
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def unusable(where: str, value: Any, wanted: str) -> str:
    """The line for a value of the wrong kind. Text under a key `error` is the message of a run that failed."""
    if where.endswith(".error") and isinstance(value, str):
        return left_out_line(where, f"the run failed: {value}")
    return left_out_line(where, f"must be {wanted}, not {describe_value(value)}")


def too_long(where: str) -> str:
    """The line for a number whose task and metric are too long for names."""
    return left_out_line(where, f"the names of task and metric have over {MAX_NAME} characters")


def nothing_in(where: str) -> str:
    """The line for an empty object where results should be."""
    return left_out_line(where, "it holds nothing")


def describe_value(value: Any) -> str:
    """A JSON value in a few words for a message."""
    kinds = {dict: "an object", list: "a list", type(None): "null"}
    return kinds.get(type(value)) or f"{value!r:.80}"


def left_out_line(key: str, reason: str) -> str:
    """One line, at most 200 characters: which key of a file was left out, and why."""
    return shortened(f"{key if len(key) <= MAX_KEY else key[: MAX_KEY - 1] + '…'}: {reason}")


def shortened(text: str) -> str:
    """A text as one line of at most 200 characters."""
    line = " ".join(text[:MAX_SPLIT].split())
    return line if len(line) <= 200 else line[:199] + "…"
