"""Parquet: the table unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from layerhouse.warehouse.render.values import refuse_repeated_names

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.registry import Layout


def write(table: pa.Table, stream: BinaryIO, layout: Layout) -> None:
    """Write Parquet compressed with zstd; types are unchanged. Raises UsageError if two columns have the same name."""
    import pyarrow.parquet as pq

    refuse_repeated_names(table.column_names, "what reads Parquet")
    pq.write_table(table, stream, compression="zstd")
