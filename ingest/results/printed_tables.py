"""Tables in markdown that tools print among other text: their headers and lines, found in linear time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_TABLES = 10_000
MAX_TABLE_LINE = 10_000
"""Characters of a line of a table; a longer one ends it."""
ROW = re.compile(r"[ \t>#]*\|(.*)\|[ \t]*\Z")
RULE = re.compile(r"[-: ]*")


@dataclass(frozen=True)
class PrintedTable:
    """A table: where its header stands in the text, the cells of the header and of each line, and the place of the line."""

    start: int
    header: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]


def find_tables(text: str, header: re.Pattern[str]) -> Iterator[PrintedTable]:
    """The tables under the lines that a pattern of whole lines matches."""
    counted, number = 0, 1
    match = header.search(text)
    for _ in range(MAX_TABLES):
        if match is None:
            return
        number += text.count("\n", counted, match.start())
        counted = match.start()
        lines, end = _lines(text, match.end(), number, header)
        yield PrintedTable(match.start(), _cells(match[0].rstrip("\r")) or (), tuple(lines))
        match = header.search(text, end)


def _lines(text: str, at: int, number: int, header: re.Pattern[str]) -> tuple[list[tuple[str, tuple[str, ...]]], int]:
    """The lines of a table from the end of its header on, without the rule, and the end of the last. Another header ends it."""
    lines = []
    while (start := text.find("\n", at) + 1) > 0:
        number += 1
        end = text.find("\n", start, start + MAX_TABLE_LINE)
        if end < 0:
            end = len(text)
        cells = _cells(text[start:end].rstrip("\r")) if end - start <= MAX_TABLE_LINE else None
        if cells is None or header.match(text, start):
            break
        if not all(RULE.fullmatch(cell) for cell in cells):
            lines.append((f"line {number}", cells))
        at = end
    return lines, at


def _cells(line: str) -> tuple[str, ...] | None:
    match = ROW.match(line)
    return tuple(cell.strip() for cell in match[1].split("|")) if match else None
