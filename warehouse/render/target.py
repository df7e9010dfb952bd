"""Chooses the format of an output by name or by file suffix, and writes output files atomically."""

from __future__ import annotations

import io
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.errors import UsageError
from layerhouse.warehouse.render import FORMATS, format_of, resolve_format, write_table

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout


SUFFIX_OF_A_FORMAT = re.compile(r"[.][a-z]+")
"""A suffix that can only mean a format, such as `.pdf`; in `summary.v2` the end is part of the name."""


def choose_format(format_name: str | None, output: Path | None) -> str:
    """The named format, else the format of the output's suffix, else text.

    Raises UsageError for an unknown suffix, or one of another format than the named one.
    """
    suffix_format = None if output is None else format_of(output)
    if format_name is not None:
        name = resolve_format(format_name)
        if suffix_format not in (None, name):
            raise UsageError(f"--format {name} and the suffix of {output} contradict each other; leave out one of them")
        return name
    if output is None:
        return "text"
    if suffix_format is None:
        raise UsageError(f"{output}: the suffix names no format ({_suffixes()}); name one with --format")
    return suffix_format


def is_prefix(output: Path) -> bool:
    """True if the output is the prefix of several files and not a file, whose suffix names a format.

    Raises UsageError for the suffix of a format that is not known, such as `.xls`.
    """
    if format_of(output) is not None:
        return False
    if SUFFIX_OF_A_FORMAT.fullmatch(output.suffix.lower()):
        raise UsageError(
            f"{output}: the suffix names no format ({_suffixes()}); name one with --format, or give a prefix without a suffix"
        )
    return True


def _suffixes() -> str:
    return ", ".join(suffix for known in FORMATS.values() for suffix in known.suffixes)


def write_table_file(table: pa.Table, format_name: str, output: Path, layout: Layout | None = None) -> None:
    """Write a table to a file. Raises UsageError if the file cannot be written."""
    buffer = io.BytesIO()
    write_table(table, format_name, buffer, layout)
    write_file(output, buffer.getvalue())


def write_file(output: Path, data: bytes) -> None:
    """Write a file, replacing an existing one atomically. Raises UsageError if it cannot be written."""
    try:
        if output.exists() and not output.is_file():
            output.write_bytes(data)  # a device or a pipe, such as /dev/stdout, cannot be replaced
        else:
            _replace_file(output, data)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror or error}") from None


def _replace_file(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
