"""The formats that layerhouse ships: a module and an entry each."""

from __future__ import annotations

from layerhouse.warehouse.export import as_csv, as_json, as_markdown, as_parquet, as_text
from layerhouse.warehouse.export.registry import Format, register

register(Format("text", (".txt",), is_binary=False, write=as_text.write))
register(Format("csv", (".csv",), is_binary=False, write=as_csv.write))
register(Format("json", (".json",), is_binary=False, write=as_json.write_array))
register(Format("ndjson", (".ndjson", ".jsonl"), is_binary=False, write=as_json.write_lines))
register(Format("markdown", (".md",), is_binary=False, write=as_markdown.write))
register(Format("parquet", (".parquet",), is_binary=True, write=as_parquet.write))
