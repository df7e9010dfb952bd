"""A complete HTML document with one table; needs nothing from anywhere else."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, BinaryIO

from layerhouse.warehouse.render.cells import Cell, Presented, present
from layerhouse.warehouse.render.terminal import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout

STYLE = """\
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #111; background: #fff; }
table { border-collapse: collapse; }
caption { text-align: left; padding-bottom: .5em; }
th, td { padding: .2em .7em; text-align: left; vertical-align: top; white-space: pre-wrap; }
thead th { border-top: 2px solid; border-bottom: 1px solid; }
tbody { border-bottom: 1px solid #999; }
tbody:last-child { border-bottom: 2px solid #111; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
"""


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write a document: the caption is its title, each group of rows a body of the table."""
    title = "Table" if layout.caption is None else layout.caption
    lines = table_lines(present(table, layout), layout.caption)
    stream.write(document(title, layout.language, STYLE, "".join(f"{line}\n" for line in lines)).encode())


def document(title: str, language: str, style: str, body: str) -> str:
    """A self-contained page around a body that is HTML already."""
    return (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{html_text(title, line_break=" ")}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def table_lines(shown: Presented, caption: str | None = None) -> list[str]:
    """The lines of the `<table>` element; a table without columns is a paragraph, since HTML has none such."""
    if not shown.columns:
        return [] if caption is None else [f"<p>{html_text(caption)}</p>"]
    kinds = [' class="n"' if column.is_number else "" for column in shown.columns]
    lines = ["<table>"]
    if caption is not None:
        lines.append(f"<caption>{html_text(caption)}</caption>")
    headings = (html_text(column.heading) for column in shown.columns)
    cells = "".join(f'<th scope="col"{kind}>{text}</th>' for text, kind in zip(headings, kinds, strict=True))
    lines += [f"<thead><tr>{cells}</tr></thead>", "<tbody>"]
    for number, row in enumerate(shown.rows):
        if number in shown.breaks:
            lines += ["</tbody>", "<tbody>"]
        lines.append(f"<tr>{''.join(f'<td{kind}>{_cell(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>")
    return [*lines, "</tbody>", "</table>"]


def html_text(text: str, line_break: str = "<br>") -> str:
    """Text as HTML that shows it; a newline is a break, other control characters are visible escapes."""
    return line_break.join(escape(visible(line)) for line in text.split("\n"))


def _cell(cell: Cell) -> str:
    text = html_text(cell.text)
    return f"<strong>{text}</strong>" if cell.is_best else text
