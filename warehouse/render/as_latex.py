"""A LaTeX tabular with the rules of booktabs, to be read into a paper with \\\\input.

Written here and not by a table library: the cells are those of the other formats, bold ones included, and every character of a
name has to come out as itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO

from layerhouse.warehouse.render.cells import Cell, present
from layerhouse.warehouse.render.terminal import visible

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
    "[": "{[}",  # after a row's end it would be the row's extra space
    "*": "{*}",
    "±": r"$\pm$",
    "\u00a0": "~",
    **{char: f"\\{char}" for char in "&%$#_"},
}
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))
_DASHES = re.compile(r"-(?=-)")
_NUMBER = re.compile(r"-(?=[\d.i])")


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write the tabular, in a table environment if there is a caption; groups of rows are parted by a rule."""
    shown = present(table, layout)
    alignment = "".join("r" if column.is_number else "l" for column in shown.columns)
    lines = [r"% \usepackage{booktabs}, and \usepackage[T1]{fontenc} unless the engine is XeTeX or LuaTeX"]
    if layout.caption is not None:
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(' '.join(layout.caption.split()))}}}"]
    lines += [rf"\begin{{tabular}}{{{alignment or 'l'}}}", r"\toprule"]
    lines += [_row([_stacked(column.heading, column.is_number) for column in shown.columns]), r"\midrule"]
    for number, row in enumerate(shown.rows):
        if number in shown.breaks:
            lines.append(r"\midrule")
        cells = zip(row, shown.columns, strict=True)
        lines.append(_row([_cell(cell, is_number=column.is_number) for cell, column in cells]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if layout.caption is not None:
        lines.append(r"\end{table}")
    stream.write("".join(f"{line}\n" for line in lines).encode())


def latex_text(text: str) -> str:
    """Text as LaTeX that sets it, on one line; control characters are visible escapes."""
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], _DASHES.sub("-\u2060", visible(text))).replace("\u2060", "{}")


def _row(cells: list[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _cell(cell: Cell, *, is_number: bool) -> str:
    if cell.is_null:
        return "--"
    text = _stacked(cell.text, is_number)
    if is_number:
        text = _NUMBER.sub(lambda _: "$-$", text, count=1) if text.startswith("-") else text
    return rf"\textbf{{{text}}}" if cell.is_best else text


def _stacked(text: str, is_number: bool) -> str:
    """Text of several lines as a stack of them."""
    lines = [latex_text(line) for line in text.split("\n")]
    side, stack = "r" if is_number else "l", r" \\ ".join(lines)
    return stack if len(lines) == 1 else rf"\shortstack[{side}]{{{stack}}}"
