"""JSON: one object per row with keys in column order, as an array or as newline-delimited objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from layerhouse.warehouse.render.values import iter_rows, json_text, refuse_repeated_names

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout


def write_array(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write an array with one object per line. Raises UsageError if two columns have the same name."""
    separator = b"[\n"
    for line in _objects(table):
        stream.write(separator + line)
        separator = b",\n"
    stream.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def write_lines(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write one object per line. Raises UsageError if two columns have the same name."""
    for line in _objects(table):
        stream.write(line + b"\n")


def _objects(table: pa.Table) -> Iterator[bytes]:
    names: list[str] = table.column_names
    refuse_repeated_names(names, "JSON")
    keys = [f"{json_text(name)}: " for name in names]
    for row in iter_rows(table):
        members = ", ".join(key + json_text(value) for key, value in zip(keys, row, strict=True))
        yield f"{{{members}}}".encode()
