"""An Excel workbook with one sheet. Numbers stay numbers, ratios have a percent format, text never becomes a formula."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO

from rich.cells import cell_len

from layerhouse.errors import UsageError
from layerhouse.escapes import visible
from layerhouse.warehouse.render.cells import with_digits
from layerhouse.warehouse.render.columns import describe_field
from layerhouse.warehouse.render.kinds import Column
from layerhouse.warehouse.render.values import csv_text, human_text, iter_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from xlsxwriter.format import Format
    from xlsxwriter.worksheet import Worksheet

    from layerhouse.warehouse.render.registry import Layout

MAX_ROWS, MAX_COLUMNS, MAX_TEXT_UNITS = 1_048_575, 16_384, 32_767
"""Limits of a sheet: rows below the heading, columns, UTF-16 code units in a cell (Excel specifications and limits)."""

_MAX_WIDTH = 60
_MAX_EXACT_INTEGER = 2**53
_CREATED = datetime(2000, 1, 1)  # constant, so that equal tables give equal bytes
_OPTIONS = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write a workbook; equal tables give equal bytes. Raises UsageError for a table over the limits of a sheet.

    Null is an empty cell. NaN, infinities and integers beyond 2^53 are text, as Excel stores every number as a double.
    """
    import xlsxwriter

    if table.num_rows > MAX_ROWS or table.num_columns > MAX_COLUMNS:
        raise UsageError(f"xlsx: {table.num_rows} rows of {table.num_columns} columns are too many for a sheet; use parquet")
    buffer = io.BytesIO()
    book = xlsxwriter.Workbook(buffer, _OPTIONS)
    book.set_properties({"created": _CREATED})
    sheet = book.add_worksheet("table")
    heading_format = book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"})
    columns = [with_digits(describe_field(field, layout.language), layout.digits) for field in table.schema]
    formats = [book.add_format({"num_format": _number_format(column)}) if column.is_number else None for column in columns]
    for index, column in enumerate(columns):
        sheet.write_string(0, index, _cell_string(_heading(column), 1, column), heading_format)
    for index, width in enumerate(_write_rows(sheet, table, columns, formats)):
        sheet.set_column(index, index, min(width, _MAX_WIDTH) + 2)
    sheet.freeze_panes(1, 1 if table.num_columns > 1 else 0)
    if table.num_rows and table.num_columns:
        sheet.autofilter(0, 0, table.num_rows, table.num_columns - 1)
    book.close()
    stream.write(buffer.getvalue())


def _write_rows(sheet: Worksheet, table: pa.Table, columns: Sequence[Column], formats: Sequence[Format | None]) -> list[int]:
    """Write all rows below the heading. Returns the width of the widest line of each column, its heading included."""
    widths = [cell_len(_heading(column)) for column in columns]
    for row_index, row in enumerate(iter_rows(table), start=1):
        for index, (value, column) in enumerate(zip(row, columns, strict=True)):
            _write_cell(sheet, (row_index, index), value, column, formats[index])
            if value is not None:
                lines = visible(human_text(value, column) if column.is_number else csv_text(value)).split("\\n")
                widths[index] = max(widths[index], *map(cell_len, lines))
    return widths


def _write_cell(sheet: Worksheet, position: tuple[int, int], value: Any, column: Column, number_format: Format | None) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        sheet.write_boolean(*position, value)
    elif isinstance(value, int | float | Decimal) and _is_exact(value):
        sheet.write_number(*position, value, number_format)
    else:
        sheet.write_string(*position, _cell_string(csv_text(value), position[0] + 1, column))


def _is_exact(value: float | Decimal) -> bool:
    """True for finite floats and for numbers up to 2^53: Excel stores doubles, which hold every integer up to there."""
    if isinstance(value, float):
        return math.isfinite(value)
    return abs(value) <= _MAX_EXACT_INTEGER


def _heading(column: Column) -> str:
    return column.title if column.kind.unit == "%" and column.is_number else column.heading


def _cell_string(text: str, row: int, column: Column) -> str:
    """The text with lone surrogates as escapes. Raises UsageError if it is too long for a cell: Excel would truncate it."""
    if len(text.encode("utf-16-le", "surrogatepass")) // 2 > MAX_TEXT_UNITS:
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
