"""CSV after RFC 4180, with `\\n` as the line end: unchanged column names, values at full precision.

A spreadsheet takes a text that begins with one of `= + - @`, a tab or a carriage return for a formula, so an apostrophe is put
before it, unless the layout is raw.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, BinaryIO

from layerhouse.warehouse.render.values import csv_text, has_text, iter_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout

_NEEDS_QUOTES = re.compile(r'[,"\r\n]')
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write CSV. Null is an empty field, the empty string is `""`; the csv module of Python cannot write this difference.

    In a table of one column, a null is an empty line.
    """
    stream.write(_line(table.column_names, [not layout.is_raw] * table.num_columns))
    guarded = [not layout.is_raw and has_text(field.type) for field in table.schema]
    for row in iter_rows(table):
        stream.write(_line(row, guarded))


def _line(values: tuple[Any, ...] | list[str], guarded: list[bool]) -> bytes:
    return (",".join(map(_field, values, guarded)) + "\n").encode()


def _field(value: Any, is_guarded: bool) -> str:
    if value is None:
        return ""
    text = csv_text(value)
    if is_guarded and text.startswith(_FORMULA_STARTS):
        text = f"'{text}"
    if not text or _NEEDS_QUOTES.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text
