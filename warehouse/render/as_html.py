"""A self-contained HTML document with one table."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, BinaryIO

from layerhouse.escapes import visible
from layerhouse.warehouse.render.cells import Cell, RenderedTable, render_cells

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout

_STYLE = """\
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
    """Write a document. The caption is also its title, notes are further lines of it; each group of rows is a `<tbody>`."""
    title = "Table" if layout.caption is None else layout.caption
    lines = [*([] if layout.caption is None else [layout.caption]), *layout.notes]
    body = "".join(f"{line}\n" for line in _table_lines(render_cells(table, layout), "\n".join(lines) if lines else None))
    stream.write(_document(title, layout.language, body).encode())


def table_element(table: pa.Table, layout: Layout) -> str:
    """The `<table>` element alone, for a page of someone else."""
    return "\n".join(_table_lines(render_cells(table, layout), layout.caption))


def _document(title: str, language: str, body: str) -> str:
    """The page around a body that is already HTML."""
    return (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{_html_text(title, line_break=" ")}</title>\n'
        f"<style>\n{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _table_lines(rendered: RenderedTable, caption: str | None) -> list[str]:
    """The lines of the `<table>` element. Without columns it is only a paragraph with the caption: HTML has no empty table."""
    if not rendered.columns:
        return [] if caption is None else [f"<p>{_html_text(caption)}</p>"]
    classes = [' class="n"' if column.is_number else "" for column in rendered.columns]
    lines = ["<table>"]
    if caption is not None:
        lines.append(f"<caption>{_html_text(caption)}</caption>")
    headings = (_html_text(column.heading) for column in rendered.columns)
    cells = "".join(f'<th scope="col"{css_class}>{text}</th>' for text, css_class in zip(headings, classes, strict=True))
    lines += [f"<thead><tr>{cells}</tr></thead>", "<tbody>"]
    for number, row in enumerate(rendered.rows):
        if number in rendered.group_starts:
            lines += ["</tbody>", "<tbody>"]
        lines.append(
            f"<tr>{''.join(f'<td{css_class}>{_cell(cell)}</td>' for cell, css_class in zip(row, classes, strict=True))}</tr>"
        )
    return [*lines, "</tbody>", "</table>"]


def _html_text(text: str, line_break: str = "<br>") -> str:
    """The text with HTML characters escaped; a newline becomes a line break, other control characters visible escapes."""
    return line_break.join(escape(visible(line)) for line in text.split("\n"))


def _cell(cell: Cell) -> str:
    text = _html_text(cell.text)
    return f"<strong>{text}</strong>" if cell.is_best else text
