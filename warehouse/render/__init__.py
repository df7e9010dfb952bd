"""Write Arrow tables in an output format. All formats share one conversion of values to text."""

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
