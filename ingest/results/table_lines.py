"""A result file as a table: CSV (also with semicolons), TSV or a JSON list of objects as a header and one object a line."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import check_limit
from layerhouse.ingest.results.parsed import Item, Row
from layerhouse.ingest.results.rows import MAX_NAME, left_out_line

MAX_ROWS = 1_000_000
MAX_CELLS = 4_000_000
MAX_HEADER, MAX_COLUMNS = 1 << 20, 10_000
"""Characters and cells of a header; a longer line is none."""
LINE_END = re.compile(r"\r\n?|\n")
NO_VALUE = frozenset({"", "-", "n/a", "null", "none"})
REPLACED = "\ufffd"
"""What stands for bytes that are no UTF-8."""
DELIMITERS = "\t,;"
INDEX = re.compile(r"index|unnamed: ?\d+|#", re.IGNORECASE)
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
        first = next(_text_lines(document), "").rstrip("\r\n")
        if len(first) > MAX_HEADER or _delimiters(first) > MAX_COLUMNS:
            return None
        try:
            return [cell.strip() for cell in next(csv.reader([first], delimiter=_delimiter(first)), [])]
        except csv.Error:  # a cell larger than csv.field_size_limit()
            return None
    if isinstance(document, list) and document and all(isinstance(line, dict) for line in document):
        names = dict.fromkeys(key for line in document[:MAX_ROWS] for key in line)
        return None if len(names) > MAX_COLUMNS else [*names]
    return None


def read_lines(document: Any, header: list[str]) -> Iterator[Line | str]:
    """The lines of a table, at most MAX_ROWS, and lines that say what was left out."""
    records = enumerate(document, 1) if isinstance(document, list) else _text_records(document, header)
    for count, (number, cells) in enumerate(records):
        if count == MAX_ROWS:
            yield left_out_line("lines", f"those after the first {MAX_ROWS:,} are not read")
            return
        yield Line(f"line {number}", cells) if isinstance(cells, dict) else cells


def check_table(document: Any, path: Path) -> None:
    """Raise InputError if a text has more cells than the limit, letters that are no UTF-8, or two columns of one name."""
    if not isinstance(document, str):
        return
    check_limit(str(path), "cells", _delimiters(document), MAX_CELLS)
    if (at := document.find(REPLACED)) >= 0:
        line = document.count("\n", 0, at) + 1
        raise InputError(str(path), f"line {line} is not UTF-8 text; save the table as UTF-8")
    counts = Counter(name.lower() for name in read_header(document) or [] if name)
    if twice := next((name for name, count in counts.items() if count > 1), None):
        raise InputError(str(path), f"two columns are called {twice[:MAX_NAME]!r}; give one another name")


def unread_columns(names: Iterable[str]) -> Iterator[Item]:
    """The line that names the columns that are not read, but for the numbers of lines that pandas writes."""
    unread = [name for name in names if name and not INDEX.fullmatch(name)]
    if unread:
        text = ", ".join(unread[:10]) + (f" and {len(unread) - 10} more" if len(unread) > 10 else "")
        yield left_out_line("columns that are not read", text)


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
    lines = _text_lines(document)
    delimiter = _delimiter(next(lines, ""))
    reader = csv.DictReader(lines, header, delimiter=delimiter)
    number = 1
    try:
        for number, cells in enumerate(reader, 2):
            yield number, cells
    except csv.Error as error:
        yield number + 1, left_out_line(f"line {number + 1}", f"it and those after it cannot be read: {error}")


def _text_lines(text: str) -> Iterator[str]:
    """The lines of a text with their ends, which are those of any system, as csv takes them; without a copy of the text."""
    at = len(text) - len(text.lstrip(BYTE_ORDER_MARK)) if text.startswith(BYTE_ORDER_MARK) else 0
    while at < len(text):
        end = LINE_END.search(text, at)
        stop = len(text) if end is None else end.end()
        yield text[at:stop]
        at = stop


def _delimiters(line: str) -> int:
    return max(map(line.count, DELIMITERS))


def _delimiter(line: str) -> str:
    """The one that the header has most often; a comma where it has none."""
    most = max(map(line.count, DELIMITERS))
    return next(delimiter for delimiter in ",\t;" if line.count(delimiter) == most)
