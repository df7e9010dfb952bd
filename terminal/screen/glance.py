"""A table at a glance: the columns that fit the terminal, headings over several lines, notes and the rest below the table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.cells import cell_len

from layerhouse.escapes import visible
from layerhouse.terminal.screen.form import Glance
from layerhouse.terminal.screen.importance import by_importance
from layerhouse.terminal.screen.shades import bold, dim, shaded
from layerhouse.warehouse.render.as_text import cell_text
from layerhouse.warehouse.render.cells import RenderedTable, render_cells
from layerhouse.warehouse.render.kinds import Column

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.terminal.screen.device import Screen
    from layerhouse.warehouse.render.registry import Layout

GAP = "  "
MAX_HEADING_LINES = 3
LONG_TEXT = 24
"""Texts of more cells stand below the table, with a number in their place."""
MIN_PROSE = 24
"""The least width of prose beside other columns."""
MODEL_COLUMNS = ("model_id", "base_model", "base_model_id", "parent_model", "second_parent_model", "root_model", "other_model")
"""Columns of names of models, which are shown by their endings."""


@dataclass(frozen=True)
class _Block:
    """One rendered column: the lines of its heading, and its cells as plain and as coloured text."""

    name: str
    title: str
    heading: tuple[str, ...]
    cells: tuple[str, ...]
    colored: tuple[str, ...]
    width: int
    is_number: bool


def glance_text(table: pa.Table, layout: Layout, target: Screen, glance: Glance) -> str:
    """The table as text of at most the terminal's width, if the first column and one more fit.

    Columns without any value, with one value in every row, and those without room are named below the table, where long texts
    stand as well. Chosen columns that do not fit follow in parts, each with the first column.
    """
    rendered = render_cells(table, layout)
    notes = _Notes()
    blocks = [_block(rendered, index, glance, notes, target) for index in range(len(rendered.columns))]
    unknown = [block for index, block in enumerate(blocks) if index and _is_empty(rendered, index)]
    are_all_shown = layout.are_columns_chosen or glance.is_list
    constant = {} if are_all_shown else _constants(rendered, blocks, unknown)
    left = [block for block in blocks if block not in unknown and block.name not in constant]
    if glance.is_list:
        left = _narrowed(left, target.width)
    shown = left if are_all_shown else _fitting(left, target.width, glance.query)
    lines = _head_lines(layout, target.width)
    for number, part in enumerate(_parts(shown, target.width)):
        lines += ["", *_part_lines(part, target)] if number else _part_lines(part, target)
    if not rendered.rows:
        lines.append("(no rows)")
    own = {block.name for block in shown}
    tail = [line for number, text in notes.used(own) for line in _wrapped(f"[{number}] {text}", target.width, indent=4)]
    if constant:
        tail += _wrapped(f"in every row: {', '.join(constant.values())}", target.width)
    if unknown and rendered.rows:
        tail += _wrapped(f"not known for any row: {', '.join(block.title for block in unknown)}", target.width)
    if hidden := [block.title for block in left if block.name not in own]:
        tail += _wrapped(f"more with --wide: {', '.join(hidden)}", target.width)
    lines += [dim(line, target) for line in tail]
    return "".join(f"{line.rstrip(' ')}\n" for line in lines)


def card_text(table: pa.Table, layout: Layout, target: Screen, glance: Glance | None) -> str:
    """Every row as a card: a line for each column that has a value, wrapped at words."""
    rendered = render_cells(table, layout)
    titles = [visible(column.heading) for column in rendered.columns]
    lines = _head_lines(layout, target.width)
    for row in rendered.rows:
        known = [index for index, cell in enumerate(row) if not cell.is_null]
        width = max((cell_len(titles[index]) for index in known), default=0)
        lines += [""] if lines else []
        for index in known:
            text = _shown(rendered, index, cell_text(row[index]), glance)
            first, *rest = _wrapped(text, target.width - width - len(GAP), indent=0) or [""]
            first = shaded(first, row[index].value, rendered.names[index], target)
            lines.append(f"{dim(_padded(titles[index], width, is_number=False), target)}{GAP}{first}")
            lines += [" " * (width + len(GAP)) + line for line in rest]
        if unknown := [_title(rendered.columns[index]) for index in range(len(titles)) if index not in known]:
            lines += [dim(line, target) for line in _wrapped(f"not known: {', '.join(unknown)}", target.width)]
    if not rendered.rows:
        lines.append("(no rows)")
    return "".join(f"{line.rstrip(' ')}\n" for line in lines)


def fits(table: pa.Table, layout: Layout, target: Screen, glance: Glance) -> bool:
    """Whether all columns that have a value fit side by side."""
    rendered = render_cells(table, layout)
    blocks = [_block(rendered, index, glance, _Notes(), target) for index in range(len(rendered.columns))]
    widths = [block.width + len(GAP) for index, block in enumerate(blocks) if not _is_empty(rendered, index)]
    return sum(widths) - len(GAP) <= target.width


def _head_lines(layout: Layout, width: int) -> list[str]:
    """What stands above a table: its caption and what holds for all of it."""
    lines = [line for text in layout.caption.split("\n") for line in _wrapped(visible(text), width)] if layout.caption else []
    return [*lines, *(_wrapped("; ".join(map(visible, layout.notes)), width) if layout.notes else [])]


class _Notes:
    """Long texts by number, in the order in which they come first. Equal texts share a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._columns: dict[str, set[str]] = {}

    def number(self, text: str, column: str) -> str:
        """What stands in the table in place of a text."""
        number = self._numbers.setdefault(text, len(self._numbers) + 1)
        self._columns.setdefault(text, set()).add(column)
        return f"[{number}]"

    def used(self, columns: set[str]) -> Iterator[tuple[int, str]]:
        """The numbers and texts of some columns."""
        for text, number in self._numbers.items():
            if self._columns[text] & columns:
                yield number, text


def _block(rendered: RenderedTable, index: int, glance: Glance, notes: _Notes, target: Screen) -> _Block:
    column, name = rendered.columns[index], rendered.names[index]
    texts = [_shown(rendered, index, cell_text(row[index]), glance) for row in rendered.rows]
    if (
        column.kind.name == "text"
        and index
        and not glance.is_list
        and any(cell_len(text) > LONG_TEXT and " " in text for text in texts)
    ):
        pairs = zip(texts, rendered.rows, strict=True)
        texts = ["-" if row[index].is_null else notes.number(text, name) for text, row in pairs]
    heading = _heading_lines(visible(column.heading), max(map(cell_len, texts), default=0))
    width = max(map(cell_len, (*heading, *texts)))
    padded = [_padded(text, width, column.is_number) for text in texts]
    colored = [shaded(text, row[index].value, name, target) for text, row in zip(padded, rendered.rows, strict=True)]
    colored = [bold(text, target) if row[index].is_best else text for text, row in zip(colored, rendered.rows, strict=True)]
    return _Block(name, _title(column), heading, tuple(padded), tuple(colored), width, column.is_number)


def _shown(rendered: RenderedTable, index: int, text: str, glance: Glance | None) -> str:
    """The text of a cell, of a model's name its ending."""
    if glance is None or glance.short_names is None or rendered.names[index] not in MODEL_COLUMNS:
        return text
    return visible(glance.short_names.get(text, text))


def _narrowed(blocks: Sequence[_Block], width: int) -> list[_Block]:
    """The columns of a list so that they fit side by side: those of prose share what the others leave, in several lines."""
    prose = [block for block in blocks if block.width > MIN_PROSE and not block.is_number]
    room = width - sum(block.width for block in blocks if block not in prose) - len(GAP) * (len(blocks) - 1)
    for block in sorted(prose, key=lambda block: block.width):
        share = max(room // len(prose), MIN_PROSE)
        if block.width > share:
            break
        prose.remove(block)
        room -= block.width
    shares = {block.name: max(room // len(prose), MIN_PROSE) for block in prose}
    return [_wrapped_block(block, shares[block.name]) if block.name in shares else block for block in blocks]


def _wrapped_block(block: _Block, width: int) -> _Block:
    cells = [_wrapped(text.strip(), width, indent=0) for text in block.cells]
    heading = [line.strip() for line in block.heading]
    longest = max(cell_len(line) for lines in (heading, *cells) for line in lines)
    texts = tuple("\n".join(_padded(line, longest, is_number=False) for line in lines or [""]) for lines in cells)
    return replace(block, heading=tuple(heading), cells=texts, colored=texts, width=longest)


def _title(column: Column) -> str:
    return visible(column.heading.removesuffix(" %"))


def _heading_lines(heading: str, width: int) -> tuple[str, ...]:
    """A heading on as few lines as its column's cells leave room for; words stay whole, and a unit stays by its word."""
    words = heading.replace(" %", "\u00a0%").split(" ")
    least = max(width, *map(cell_len, words))
    while True:
        lines: list[str] = []
        for word in words:
            if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= least:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
        if len(lines) <= MAX_HEADING_LINES:
            return tuple(line.replace("\u00a0", " ") for line in lines)
        least += 1


def _is_empty(rendered: RenderedTable, index: int) -> bool:
    return bool(rendered.rows) and all(row[index].is_null for row in rendered.rows)


def _constants(rendered: RenderedTable, blocks: Sequence[_Block], unknown: Sequence[_Block]) -> dict[str, str]:
    """Columns that have one value in all of several rows: what is said of each, by name. The first column is none of them."""
    found = {}
    for index, block in enumerate(blocks):
        is_candidate = index > 0 and len(rendered.rows) > 1 and block not in unknown
        first = rendered.rows[0][index] if is_candidate else None
        if first is None or first.is_null:
            continue
        if all((row[index].text, row[index].value) == (first.text, first.value) for row in rendered.rows):
            unit = f" {rendered.columns[index].value_kind.unit}".rstrip()
            found[block.name] = f"{visible(rendered.columns[index].title)} {block.cells[0].strip()}{unit}"
    return found


def _fitting(blocks: Sequence[_Block], width: int, query: str | None) -> list[_Block]:
    """The columns that fit side by side, taken by their importance and shown in the order of the table."""
    by_name = {block.name: block for block in blocks}
    chosen = {block.name for block in blocks[:1]}
    used = blocks[0].width if blocks else 0
    for name in by_importance(query, [*by_name]):
        needed = len(GAP) + by_name[name].width
        if name not in chosen and (used + needed <= width or len(chosen) < 2):
            chosen.add(name)
            used += needed
    return [block for block in blocks if block.name in chosen]


def _parts(blocks: Sequence[_Block], width: int) -> Iterator[list[_Block]]:
    """The columns in parts that fit the width. A part has at least the first column and one more."""
    part: list[_Block] = []
    for block in blocks:
        if len(part) > 1 and sum(one.width + len(GAP) for one in part) + block.width > width:
            yield part
            part = [blocks[0]]
        part.append(block)
    if part:
        yield part


def _part_lines(blocks: Sequence[_Block], target: Screen) -> Iterator[str]:
    height = max(len(block.heading) for block in blocks)
    for line in range(height):
        row = [
            block.heading[line - height + len(block.heading)] if height - line <= len(block.heading) else "" for block in blocks
        ]
        yield bold(
            GAP.join(_padded(text, block.width, block.is_number) for text, block in zip(row, blocks, strict=True)), target
        )
    yield dim(GAP.join("-" * block.width for block in blocks), target)
    for cells in zip(*(block.colored for block in blocks), strict=True):
        lines = [cell.split("\n") for cell in cells]
        for line in range(max(map(len, lines))):
            own = zip(lines, blocks, strict=True)
            yield GAP.join(cell[line] if line < len(cell) else " " * block.width for cell, block in own)


def _padded(text: str, width: int, is_number: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if is_number else text + space


def _wrapped(text: str, width: int, indent: int = 2) -> list[str]:
    """A text in lines of at most this many cells, broken between words alone."""
    return textwrap.wrap(
        text,
        max(width - sum(cell_len(letter) > 1 for letter in text[:width]), 10),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
