"""A GitHub-flavoured Markdown table whose rendered cells are the raw text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO

from layerhouse.warehouse.render.cells import Cell, present
from layerhouse.warehouse.render.terminal import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout

# An underscore between letters or digits never marks emphasis, and names are full of them.
_SPECIAL = re.compile(r"[\\`*~|$\[\]]|(?<![^\W_])_|_(?![^\W_])")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_EDGE_SPACE = re.compile(r"\A\s+|\s+\Z")
_BLOCK_START = re.compile(r"\A[#+=\-0-9]")


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write a Markdown table, a caption as the paragraph before it; no rows leave the heading alone."""
    shown = present(table, layout)
    if layout.caption is not None:
        stream.write(f"{_BLOCK_START.sub(_entities, _escape(layout.caption))}\n\n".encode())
    stream.write(_line([_escape(column.heading) for column in shown.columns]))
    stream.write(_line(["---:" if column.is_number else ":---" for column in shown.columns]))
    for row in shown.rows:
        stream.write(_line([_cell(cell) for cell in row]))


def _line(cells: list[str]) -> bytes:
    return f"| {' | '.join(cells)} |\n".encode()


def _cell(cell: Cell) -> str:
    text = _escape(cell.text)
    return f"**{text}**" if cell.is_best else text


def _escape(text: str) -> str:
    """Markdown that renders as the text; a newline is `<br>`, other control characters are visible escapes."""
    lines = [_SPECIAL.sub(r"\\\g<0>", visible(line)).translate(_HTML) for line in text.split("\n")]
    return _EDGE_SPACE.sub(_entities, "<br>".join(lines))


def _entities(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(char)};" for char in match[0])
