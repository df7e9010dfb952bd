"""Arrow tables to bytes: one rendering of values for all output formats."""

from __future__ import annotations

from layerhouse.warehouse.render import formats as formats
from layerhouse.warehouse.render.registry import (
    FORMATS,
    Format,
    Layout,
    format_of,
    register,
    resolve_format,
    write_table,
)

__all__ = ["FORMATS", "Format", "Layout", "format_of", "register", "resolve_format", "write_table"]
