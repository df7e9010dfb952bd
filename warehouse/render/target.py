"""Where an answer goes: a format chosen by name or by the output's suffix, a file written whole or not at all."""

from __future__ import annotations

import io
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.errors import UsageError
from layerhouse.warehouse.render import (
    FORMATS,
    format_of,
    resolve_format,
    write_table,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout


def choose_format(format_name: str | None, output: Path | None) -> str:
    """The named format, else that of the output's suffix, else text. Raises UsageError for a suffix that says nothing."""
    if format_name is not None:
        return resolve_format(format_name)
    if output is None:
        return "text"
    found = format_of(output)
    if found is None:
        suffixes = ", ".join(suffix for known in FORMATS.values() for suffix in known.suffixes)
        raise UsageError(f"{output}: the suffix names no format ({suffixes}); name one with --format")
    return found


def write_table_file(table: pa.Table, format_name: str, output: Path, layout: Layout | None = None) -> None:
    """Write a table to a file. Raises UsageError where the file cannot be written."""
    buffer = io.BytesIO()
    write_table(table, format_name, buffer, layout)
    write_file(output, buffer.getvalue())


def write_file(output: Path, data: bytes) -> None:
    """Replace a file by these bytes at once. Raises UsageError where it cannot be written."""
    if output.exists() and not output.is_file():
        try:
            output.write_bytes(data)
        except OSError as error:
            raise UsageError(f"{output}: cannot be written: {error.strerror or error}") from None
        return
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(output)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{output}: cannot be written: {error.strerror or error}") from None
