"""CSV after RFC 4180, with `\\n` as the line end: unchanged column names, values at full precision."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, BinaryIO

from layerhouse.warehouse.render.values import csv_text, iter_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout

_NEEDS_QUOTES = re.compile(r'[,"\r\n]')


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write CSV. Null is an empty field, the empty string is `""`; the csv module of Python cannot write this difference.

    In a table of one column, a null is an empty line.
    """
    stream.write(_line(table.column_names))
    for row in iter_rows(table):
        stream.write(_line(row))


def _line(values: tuple[Any, ...] | list[str]) -> bytes:
    return (",".join(map(_field, values)) + "\n").encode()


def _field(value: Any) -> str:
    if value is None:
        return ""
    text = csv_text(value)
    if not text or _NEEDS_QUOTES.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text
