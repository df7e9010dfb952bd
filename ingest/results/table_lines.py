"""A result file as a table: CSV, TSV or a JSON list of objects as a header and one object a line."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from layerhouse.ingest.results.parsed import Item, Row
from layerhouse.ingest.results.rows import left_out_line

MAX_ROWS = 1_000_000
NO_VALUE = frozenset({"", "-", "n/a", "null", "none"})
BYTE_ORDER_MARK = "\ufeff"
REST = None
"""The key under which `csv.DictReader` puts the cells that the header does not name."""


@dataclass(frozen=True)
class Line:
    """One line of a table; `where` is its place for messages, `line 2` for the first after a header."""

    where: str
    cells: Row


def read_header(document: Any) -> list[str] | None:
    """The names of the columns; None if the document is no table."""
    if isinstance(document, str):
        first = document.lstrip(BYTE_ORDER_MARK).partition("\n")[0]
        try:
            return [cell.strip() for cell in next(csv.reader([first.rstrip("\r")], delimiter=_delimiter(first)), [])]
        except csv.Error:  # a cell larger than csv.field_size_limit()
            return None
    if isinstance(document, list) and document and all(isinstance(line, dict) for line in document):
        return [*dict.fromkeys(key for line in document[:MAX_ROWS] for key in line)]
    return None


def read_lines(document: Any, header: list[str]) -> Iterator[Line | str]:
    """The lines of a table, at most MAX_ROWS, and lines that say what was left out."""
    records = enumerate(document, 1) if isinstance(document, list) else _text_records(document, header)
    for count, (number, cells) in enumerate(records):
        if count == MAX_ROWS:
            yield left_out_line("lines", f"those after the first {MAX_ROWS:,} are not read")
            return
        yield Line(f"line {number}", cells) if isinstance(cells, dict) else cells


def cell_number(value: Any) -> Any:
    """A cell as a number; None if it is empty or stands for no value; other text as it is, so that its line can show it."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in NO_VALUE:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else number if math.isfinite(number) else text


def too_many_cells(line: Line) -> list[Item]:
    """The line that says so, if a line has more cells than the header has names."""
    return [left_out_line(line.where, "more cells than the header names")] if REST in line.cells else []


def _text_records(document: str, header: list[str]) -> Iterator[tuple[int, Row | str]]:
    """Numbered records of a text, the header being the first; one that csv refuses ends them with a line that says so."""
    text = document.lstrip(BYTE_ORDER_MARK)
    reader = csv.DictReader(io.StringIO(text), delimiter=_delimiter(text.partition("\n")[0]))
    reader.fieldnames = header
    number = 1
    try:
        next(reader, None)  # the header
        for number, cells in enumerate(reader, 2):
            yield number, cells
    except csv.Error as error:
        yield number + 1, left_out_line(f"line {number + 1}", f"it and those after it cannot be read: {error}")


def _delimiter(line: str) -> str:
    return "\t" if line.count("\t") > line.count(",") else ","
