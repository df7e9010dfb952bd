"""A GitHub-flavoured Markdown table. A Markdown renderer shows each cell as the literal text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO

from layerhouse.escapes import visible
from layerhouse.warehouse.render.cells import Cell, render_cells

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout

# An underscore between letters or digits never marks emphasis; escaping it would only clutter the many names that have one.
_SPECIAL = re.compile(r"[\\`*~|$\[\]]|(?<![^\W_])_|_(?![^\W_])")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_EDGE_SPACE = re.compile(r"\A\s+|\s+\Z")
_BLOCK_START = re.compile(r"\A[#+=\-0-9]")


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write a Markdown table; caption and notes become paragraphs before it. Without rows only the heading is written."""
    rendered = render_cells(table, layout)
    for paragraph in (layout.caption, "; ".join(layout.notes) or None):
        if paragraph is not None:
            stream.write(f"{_BLOCK_START.sub(_character_references, _escape(paragraph))}\n\n".encode())
    stream.write(_line([_escape(column.heading) for column in rendered.columns]))
    stream.write(_line(["---:" if column.is_number else ":---" for column in rendered.columns]))
    for row in rendered.rows:
        stream.write(_line([_cell(cell) for cell in row]))


def _line(cells: list[str]) -> bytes:
    return f"| {' | '.join(cells)} |\n".encode()


def _cell(cell: Cell) -> str:
    text = _escape(cell.text)
    return f"**{text}**" if cell.is_best else text


def _escape(text: str) -> str:
    """The text escaped for Markdown; a newline becomes `<br>`, other control characters visible escapes."""
    lines = [_SPECIAL.sub(r"\\\g<0>", visible(line)).translate(_HTML) for line in text.split("\n")]
    return _EDGE_SPACE.sub(_character_references, "<br>".join(lines))


def _character_references(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(char)};" for char in match[0])
