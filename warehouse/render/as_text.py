"""A table for the terminal: aligned columns, no truncated cell, columns without any value listed below the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from rich.cells import cell_len

from layerhouse.escapes import visible
from layerhouse.warehouse.render.cells import Cell, render_cells
from layerhouse.warehouse.render.kinds import Column

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout

_GAP = "  "


@dataclass(frozen=True)
class _Block:
    """One rendered column: its heading and cells, all padded to one width, counted in terminal cells."""

    heading: str
    cells: tuple[str, ...]
    width: int


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write a text table.

    A column that is null in every row is only listed below the table; if all columns are null, the first one stays. A table
    wider than the width of the layout is split into parts, one below the other, that each repeat the first column.
    """
    stream.write("".join(f"{line.rstrip(' ')}\n" for line in _lines(table, layout)).encode())


def _lines(table: pa.Table, layout: Layout) -> Iterator[str]:
    rendered = render_cells(table, layout)
    columns, rows = rendered.columns, rendered.rows
    unknown = [rows != () and all(row[index].is_null for row in rows) for index in range(len(columns))]
    if unknown and all(unknown):
        unknown[0] = False
    blocks = [_block(column, [row[index] for row in rows]) for index, column in enumerate(columns) if not unknown[index]]
    if layout.caption is not None:
        yield from map(visible, layout.caption.split("\n"))
    if layout.notes:
        yield visible("; ".join(layout.notes))
    for number, part in enumerate(_split_to_width(blocks, layout.width)):
        if number:
            yield ""
        yield _GAP.join(block.heading for block in part)
        yield _GAP.join("-" * block.width for block in part)
        for cells in zip(*(block.cells for block in part), strict=True):
            yield _GAP.join(cells)
    if not rows:
        yield "(no rows)"
    if any(unknown):
        names = [_title(column) for column, is_unknown in zip(columns, unknown, strict=True) if is_unknown]
        yield f"not known for any row: {', '.join(names)}"


def _title(column: Column) -> str:
    return visible(column.heading.removesuffix(" %"))


def _block(column: Column, column_cells: Sequence[Cell]) -> _Block:
    heading = visible(column.heading)
    cells = [cell_text(cell) for cell in column_cells]
    lengths = [cell_len(text) for text in (heading, *cells)]
    width = max(lengths)
    padded = [
        " " * (width - length) + text if column.is_number else text + " " * (width - length)
        for text, length in zip((heading, *cells), lengths, strict=True)
    ]
    return _Block(padded[0], tuple(padded[1:]), width)


def cell_text(cell: Cell) -> str:
    """The text of a cell, in quotes where it would look like an empty cell or a null."""
    if not cell.is_null and cell.text in ("", "-"):
        return f'"{cell.text}"'
    return visible(cell.text)


def _split_to_width(blocks: Sequence[_Block], width: int | None) -> Iterator[list[_Block]]:
    """Split the columns greedily into parts that fit the width. A part has at least the first column and one more."""
    if width is None or len(blocks) < 2:
        if blocks:
            yield list(blocks)
        return
    first, *rest = blocks
    part, used = [first], first.width
    for block in rest:
        if len(part) > 1 and used + len(_GAP) + block.width > width:
            yield part
            part, used = [first], first.width
        part.append(block)
        used += len(_GAP) + block.width
    yield part
