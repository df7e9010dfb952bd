"""When a result was measured: by its file's own word, by the file's name, else by the file's modification time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.results.rows import describe_value, is_text

HARNESS_TIME = re.compile(r"_(\d{4}-\d\d-\d\d)T(\d\d)-(\d\d)-(\d\d(?:\.\d{1,6})?)$")
COMPACT_TIME = re.compile(r"_(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d)$")


def read_run_at(timestamp: Any, path: Path) -> tuple[datetime | None, list[Note]]:
    """The time of an ISO 8601 text, UTC if it names no zone; else the file's modification time, with a note."""
    moment = parse_time(timestamp)
    if moment is not None:
        return moment, []
    problem = (
        f"timestamp {describe_value(timestamp)} is no time" if is_text(timestamp) else "the file has no timestamp that is text"
    )
    try:
        modified = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=path.stat().st_mtime_ns // 1000)
    except (OSError, OverflowError):
        return None, [note("run_at", problem)]
    return modified, [note("run_at", f"{problem}: run_at is the file's modification time")]


def parse_time(timestamp: Any) -> datetime | None:
    """The time of an ISO 8601 text, UTC if it names no zone; None for anything else."""
    if not isinstance(timestamp, str):
        return None
    try:
        moment = datetime.fromisoformat(timestamp.strip())
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def time_in_name(path: Path) -> str | None:
    """The time that lm-eval and lighteval end a file's name with, `_2025-01-31T12-00-00.123`, as ISO 8601 text."""
    match = HARNESS_TIME.search(path.stem)
    return f"{match[1]}T{match[2]}:{match[3]}:{match[4]}" if match else None


def compact_time_in_name(path: Path) -> str | None:
    """The time that OpenCompass ends a file's name with, `_20240131_120000`, as ISO 8601 text."""
    match = COMPACT_TIME.search(path.stem)
    return f"{match[1]}-{match[2]}-{match[3]}T{match[4]}:{match[5]}:{match[6]}" if match else None
