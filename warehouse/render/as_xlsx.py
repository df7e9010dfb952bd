"""An Excel workbook with one sheet: numbers are numbers, fractions have a percent format, text is never a formula."""

from __future__ import annotations

import io
import math
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO

from rich.cells import cell_len

from layerhouse.errors import UsageError
from layerhouse.warehouse.render.cells import shown_column
from layerhouse.warehouse.render.columns import describe_field
from layerhouse.warehouse.render.kinds import Column
from layerhouse.warehouse.render.terminal import visible
from layerhouse.warehouse.render.values import csv_text, human_text, iter_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from xlsxwriter.format import Format
    from xlsxwriter.worksheet import Worksheet

    from layerhouse.warehouse.render.registry import Layout

MOST_ROWS, MOST_COLUMNS, LONGEST_TEXT = 1_048_575, 16_384, 32_767
"""What a sheet can hold: rows under the heading, columns, and UTF-16 units in a cell (Excel specifications and limits)."""

_WIDEST = 60
_EXACT = 2**53
_MADE = datetime(2000, 1, 1)
_OPTIONS = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write a workbook; equal tables give equal bytes. Raises UsageError for what a sheet cannot hold.

    Null is an empty cell. NaN, infinities and integers beyond 2^53, which Excel's numbers are not, are text.
    """
    import xlsxwriter

    if table.num_rows > MOST_ROWS or table.num_columns > MOST_COLUMNS:
        raise UsageError(f"xlsx: {table.num_rows} rows of {table.num_columns} columns are too many for a sheet; use parquet")
    buffer = io.BytesIO()
    book = xlsxwriter.Workbook(buffer, _OPTIONS)
    book.set_properties({"created": _MADE})
    sheet = book.add_worksheet("table")
    heading = book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"})
    columns = [shown_column(describe_field(field, layout.language), layout.digits) for field in table.schema]
    formats = [book.add_format({"num_format": _number_format(column)}) if column.is_number else None for column in columns]
    widths = [cell_len(_heading(column)) for column in columns]
    for index, column in enumerate(columns):
        sheet.write_string(0, index, _checked(_heading(column), 1, column), heading)
    for number, row in enumerate(iter_rows(table), start=1):
        for index, (value, column) in enumerate(zip(row, columns, strict=True)):
            _write_cell(sheet, number, index, value, column, formats[index])
            if value is not None:
                lines = visible(human_text(value, column) if column.is_number else csv_text(value)).split("\\n")
                widths[index] = max(widths[index], *map(cell_len, lines))
    for index, width in enumerate(widths):
        sheet.set_column(index, index, min(width, _WIDEST) + 2)
    sheet.freeze_panes(1, 1 if table.num_columns > 1 else 0)
    if table.num_rows and table.num_columns:
        sheet.autofilter(0, 0, table.num_rows, table.num_columns - 1)
    book.close()
    stream.write(buffer.getvalue())


def _write_cell(sheet: Worksheet, row: int, index: int, value: Any, column: Column, form: Format | None) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        sheet.write_boolean(row, index, value)
    elif isinstance(value, int | float | Decimal) and _is_exact(value):
        sheet.write_number(row, index, value, form)
    else:
        sheet.write_string(row, index, _checked(csv_text(value), row + 1, column))


def _is_exact(value: float | Decimal) -> bool:
    """Whether Excel's number, a double, is this number."""
    if isinstance(value, float):
        return math.isfinite(value)
    return abs(value) <= _EXACT


def _heading(column: Column) -> str:
    return column.title if column.kind.unit == "%" and column.is_number else column.heading


def _checked(text: str, row: int, column: Column) -> str:
    """Text that fits a cell, lone surrogates as escapes. Raises UsageError for one that is too long: Excel would cut it."""
    if len(text.encode("utf-16-le", "surrogatepass")) // 2 > LONGEST_TEXT:
        raise UsageError(f"xlsx: row {row}, column {column.title!r}: text too long for a cell; use csv, json or parquet")
    return text.encode("utf-8", "backslashreplace").decode()


def _number_format(column: Column) -> str:
    kind = column.kind
    if kind.name == "count":
        return "#,##0"
    if kind.name == "index":
        return "0"
    decimals = "0" + ("." + "0" * kind.digits if kind.digits else "")
    if kind.name == "ratio":
        return decimals + "%"
    return "General" if kind.name == "number" else decimals
