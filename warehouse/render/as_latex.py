"""A LaTeX tabular with booktabs rules, to be included in a paper with \\input.

No table library is used: the cells, bold ones included, are the same as in the other formats, and every character of a name has
to be typeset literally.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO

from layerhouse.escapes import visible
from layerhouse.warehouse.render.cells import Cell, render_cells

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': "{\\textquotedbl}",
    "[": "{[}",  # after `\\` LaTeX would read it as the optional row spacing
    "*": "{*}",
    "±": r"$\pm$",
    "\u00a0": "~",
    **{char: f"\\{char}" for char in "&%$#_"},
}
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))
_DASH_BEFORE_DASH = re.compile(r"-(?=-)")
_MINUS = re.compile(r"-(?=[\d.i])")


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write the tabular, inside a table environment if there is a caption. A rule separates groups of rows; notes are its first
    lines, over all columns."""
    rendered = render_cells(table, layout)
    alignment = "".join("r" if column.is_number else "l" for column in rendered.columns)
    lines = [r"% \usepackage{booktabs}, and \usepackage[T1]{fontenc} unless the engine is XeTeX or LuaTeX"]
    if layout.caption is not None:
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{_latex_text(' '.join(layout.caption.split()))}}}"]
    lines += [rf"\begin{{tabular}}{{{alignment or 'l'}}}"]
    lines += [
        _row([rf"\multicolumn{{{len(alignment) or 1}}}{{l}}{{\footnotesize {_latex_text(note)}}}"]) for note in layout.notes
    ]
    lines.append(r"\toprule")
    lines += [_row([_stack_lines(column.heading, column.is_number) for column in rendered.columns]), r"\midrule"]
    for number, row in enumerate(rendered.rows):
        if number in rendered.group_starts:
            lines.append(r"\midrule")
        cells = zip(row, rendered.columns, strict=True)
        lines.append(_row([_cell(cell, is_number=column.is_number) for cell, column in cells]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if layout.caption is not None:
        lines.append(r"\end{table}")
    stream.write("".join(f"{line}\n" for line in lines).encode())


def _latex_text(text: str) -> str:
    """One line of text escaped for LaTeX. Control characters are visible escapes; `{}` keeps `--` from becoming one dash."""
    marked = _DASH_BEFORE_DASH.sub("-\u2060", visible(text))
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], marked).replace("\u2060", "{}")


def _row(cells: list[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _cell(cell: Cell, *, is_number: bool) -> str:
    if cell.is_null:
        return "--"
    text = _stack_lines(cell.text, is_number)
    if is_number:
        text = _MINUS.sub(lambda _: "$-$", text, count=1) if text.startswith("-") else text
    return rf"\textbf{{{text}}}" if cell.is_best else text


def _stack_lines(text: str, is_number: bool) -> str:
    """The escaped text; several lines become a `\\shortstack`."""
    lines = [_latex_text(line) for line in text.split("\n")]
    alignment, stack = "r" if is_number else "l", r" \\ ".join(lines)
    return stack if len(lines) == 1 else rf"\shortstack[{alignment}]{{{stack}}}"
