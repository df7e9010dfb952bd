"""RFC 4180 with `\\n` line ends: raw column names, raw values at full precision."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, BinaryIO

from layerhouse.warehouse.render.values import csv_text, iter_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout

_QUOTED = re.compile(r'[,"\r\n]')


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write csv. Null is an empty field and the empty string `""`, which the standard library cannot tell apart.

    A null in a table of one column is therefore an empty line.
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
    if not text or _QUOTED.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text
