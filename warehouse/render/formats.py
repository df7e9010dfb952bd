"""Registers the built-in output formats, one module and one entry each."""

from __future__ import annotations

from layerhouse.warehouse.render import (
    as_csv,
    as_html,
    as_json,
    as_latex,
    as_markdown,
    as_parquet,
    as_text,
    as_xlsx,
)
from layerhouse.warehouse.render.registry import Format, register

register(Format("text", (".txt",), is_binary=False, write=as_text.write, is_for_reading=True))
register(Format("csv", (".csv",), is_binary=False, write=as_csv.write))
register(Format("json", (".json",), is_binary=False, write=as_json.write_array))
register(Format("ndjson", (".ndjson", ".jsonl"), is_binary=False, write=as_json.write_lines))
register(Format("markdown", (".md",), is_binary=False, write=as_markdown.write, is_for_reading=True))
register(Format("parquet", (".parquet",), is_binary=True, write=as_parquet.write))
register(Format("xlsx", (".xlsx",), is_binary=True, write=as_xlsx.write))
register(Format("html", (".html", ".htm"), is_binary=False, write=as_html.write, is_for_reading=True))
register(Format("latex", (".tex",), is_binary=False, write=as_latex.write, is_for_reading=True))
