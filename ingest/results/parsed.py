"""What a result format is and what it makes of a file: rows of the results table, and lines on what was left out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.limits import check_limit
from layerhouse.ingest.checkpoint.notes import Note
from layerhouse.warehouse.storage.schema import COMMIT_COLUMNS, MEASURE_COLUMNS, RESULTS

Row = dict[str, Any]
"""Columns of the results table, or an object of a result file."""
Item = Row | str
"""What a format makes of one key of a file: a row, or a line that says why there is none."""
ADDED_BY_CALLER = (
    "result_id",
    "measure_id",
    "run_id",
    "source_uri",
    "rules_version",
    *(column.name for column in COMMIT_COLUMNS),
)
EMPTY_ROW: Row = {name: None for name in RESULTS.column_names if name not in ADDED_BY_CALLER}
"""Every column that a format may fill, null."""


OF_HARDWARE = ("speed", "memory")
"""Suites whose measures depend on the hardware."""
HARDWARE_AT = MEASURE_COLUMNS.index("hardware")
MAX_ROWS = 250_000
"""Numbers of one file, each of which takes about 1 KiB of memory."""
MAX_LEFT_OUT = 1000
IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]{1,300}@")
"""User and password of an address, `https://USER:PASSWORD@HOST/`."""
CHECK_EVERY = 10_000
"""Rows between two checks of the limit, so that a file far over it costs no more memory than one at it."""


@dataclass(frozen=True)
class ParsedResults:
    """What one result file holds. Raises InputError for more rows than the limit.

    `rows` have columns of the results table; the caller adds result_id, measure_id, run_id, source_uri, rules_version and the
    commit's columns.
    `left_out` has a line for every key of the file that no row took, such as `metrics.foo: not known`; over MAX_LEFT_OUT of
    them are counted in the last line. Of addresses, the user and the password are dropped.
    """

    rows: tuple[Row, ...]
    left_out: tuple[str, ...]

    def __post_init__(self) -> None:
        check_rows(len(self.rows))
        for row in self.rows:
            if isinstance(row, dict) and isinstance(name := row.get("declared_model"), str):
                row["declared_model"] = without_password(name)
        lines = tuple(without_password(line) if isinstance(line, str) else line for line in self.left_out)
        object.__setattr__(self, "left_out", lines)
        if len(self.left_out) > MAX_LEFT_OUT:
            rest = len(self.left_out) - MAX_LEFT_OUT
            kept = (*self.left_out[:MAX_LEFT_OUT], f"and {rest} more places: left out as well")
            object.__setattr__(self, "left_out", kept)


def without_password(text: str) -> str:
    """A text whose addresses have no user and password."""
    return IN_ADDRESS.sub("", text) if "://" in text else text


def check_rows(count: int) -> None:
    """Raise InputError if a file has more numbers than the limit. The caller says which file."""
    check_limit("result file", "numbers in one file", count, MAX_ROWS)


@dataclass(frozen=True)
class ResultFormat:
    """One way in which a program writes results.

    `recognises(document, path)` looks at a whole document and its path; it never raises. `parse(document, path)` takes a
    document that was recognised; it raises InputError, which names the key, only if the document has the wrong shape.
    A document is a JSON value, a list of the values of a JSON Lines file, or the text of any other file.
    """

    name: str
    recognises: Callable[[Any, Path], bool]
    parse: Callable[[Any, Path], ParsedResults]


def parsed_results(items: Iterable[Item], common: Row, run_notes: Sequence[Note] = ()) -> ParsedResults:
    """Items sorted into rows and lines. Rows get the columns that all rows of the file share, and the run's notes after
    their own."""
    rows: list[Row] = []
    left_out: list[str] = []
    for item in items:
        if isinstance(item, str):
            left_out.append(item if len(left_out) < MAX_LEFT_OUT else "")  # the others are only counted
        else:
            rows.append({**common, **item, "notes": [*item.get("notes", ()), *run_notes]})
            if len(rows) % CHECK_EVERY == 0:
                check_rows(len(rows))
    return ParsedResults(tuple(rows), tuple(left_out))


def measure_id(row: Row) -> str:
    """Hash of what a row measured, 32 hex digits: over those columns of MEASURE_COLUMNS that are not null in the row. Scores do
    not depend on the hardware, so it counts for speed and memory alone.
    """
    values = [*map(row.get, MEASURE_COLUMNS)]
    if row.get("suite") not in OF_HARDWARE:
        values[HARDWARE_AT] = None
    return _measure_id(*values)


def run_id(row: Row) -> str:
    """Hash of how the model of a row was loaded, 32 hex digits: of its variant, and of what it was loaded as."""
    return _run_id(row.get("variant"), row.get("loaded_as"))


@lru_cache(maxsize=1 << 10)
def _run_id(variant: str | None, loaded_as: str | None) -> str:
    return hashlib.sha256(repr((variant, loaded_as)).encode("utf-8", "backslashreplace")).hexdigest()[:32]


@lru_cache(maxsize=1 << 14, typed=True)
def _measure_id(*values: Any) -> str:
    """Cached, as the files of one study repeat the same measures."""
    named = [f"{name}={value!r}" for name, value in zip(MEASURE_COLUMNS, values, strict=True) if value is not None]
    return hashlib.sha256("\n".join(named).encode("utf-8", "backslashreplace")).hexdigest()[:32]
